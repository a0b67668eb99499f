//! Whether the process is short of memory or disk. New mail is told to come later before it suffers; deliveries go on,
//! and free both.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::metrics::{metrics, resident_bytes};

/// How often memory and disk are looked at, and every how many looks the rates are noted.
const LOOK: Duration = Duration::from_secs(1);
const NOTE: u32 = 5;

/// Of what the machine or its control group has, the part that this process may take where nothing is configured.
const SHARE: f64 = 0.9;

/// Of the limit: where it is good again once it was too much, so that it does not change with every message.
const RELIEF: f64 = 0.95;

/// Memory and disk, as of the last look.
pub struct Pressure {
    spool: PathBuf,
    reserve_bytes: u64,
    memory_limit_bytes: AtomicU64,
    resident_bytes: AtomicU64,
    free_bytes: AtomicU64,
    is_high: AtomicBool,
    reason: Mutex<Option<String>>,
}

/// What is not known.
const UNKNOWN: u64 = u64::MAX;

impl Pressure {
    /// `spool`: a folder on the disk that is watched. `memory_limit_bytes`: `None` takes most of what the machine has.
    pub fn new(spool: &Path, reserve_bytes: u64, memory_limit_bytes: Option<u64>) -> Pressure {
        let pressure = Pressure {
            spool: spool.to_owned(),
            reserve_bytes,
            memory_limit_bytes: AtomicU64::new(UNKNOWN),
            resident_bytes: AtomicU64::new(UNKNOWN),
            free_bytes: AtomicU64::new(UNKNOWN),
            is_high: AtomicBool::new(false),
            reason: Mutex::default(),
        };
        pressure.limit_memory(memory_limit_bytes);
        pressure
    }

    /// Another limit of memory.
    pub fn limit_memory(&self, bytes: Option<u64>) {
        self.memory_limit_bytes.store(bytes.unwrap_or_else(default_limit), Ordering::Relaxed);
    }

    /// Whether new mail is to come later.
    pub fn is_high(&self) -> bool {
        self.is_high.load(Ordering::Relaxed)
    }

    /// Why, in words for the operator.
    pub fn reason(&self) -> Option<String> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn memory_limit_bytes(&self) -> u64 {
        self.memory_limit_bytes.load(Ordering::Relaxed)
    }

    pub fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes
    }

    pub fn resident_bytes(&self) -> Option<u64> {
        known(&self.resident_bytes)
    }

    pub fn free_bytes(&self) -> Option<u64> {
        known(&self.free_bytes)
    }

    /// Looks once a second until the token is cancelled, and has the rates noted.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut looks: u32 = 0;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let watched = self.clone();
            // A disk that hangs must not hold up a thread of the reactor.
            if tokio::task::spawn_blocking(move || watched.look()).await.is_err() {
                tracing::error!("looking at memory and disk panicked");
            }
            if looks.is_multiple_of(NOTE) {
                metrics().note();
            }
            looks = looks.wrapping_add(1);
        }
    }

    fn look(&self) {
        let free = rustix::fs::statvfs(&self.spool).ok().map(|space| space.f_bavail.saturating_mul(space.f_frsize));
        self.judge(resident_bytes(), free);
    }

    /// What follows from so much memory in use and so much disk free. What is not known is no reason.
    fn judge(&self, resident: Option<u64>, free: Option<u64>) {
        self.resident_bytes.store(resident.unwrap_or(UNKNOWN), Ordering::Relaxed);
        self.free_bytes.store(free.unwrap_or(UNKNOWN), Ordering::Relaxed);
        let was_high = self.is_high();
        let limit = self.memory_limit_bytes();
        let bound = if was_high { (limit as f64 * RELIEF) as u64 } else { limit };
        let reason = match (resident, free) {
            (Some(resident), _) if resident > bound => Some(format!(
                "memory is short: {} MB in use, [limits] memory_bytes is {} MB",
                resident / 1_000_000,
                limit / 1_000_000
            )),
            (_, Some(free)) if free < self.reserve_bytes => Some(format!(
                "the disk is full: {} MB left, {} MB are kept for deliveries",
                free / 1_000_000,
                self.reserve_bytes / 1_000_000
            )),
            _ => None,
        };
        match (&reason, was_high) {
            (Some(why), false) => tracing::error!(why, "new mail is told to come later"),
            (None, true) => tracing::info!("new mail is taken again"),
            (Some(_), true) | (None, false) => {}
        }
        self.is_high.store(reason.is_some(), Ordering::Relaxed);
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }
}

fn known(number: &AtomicU64) -> Option<u64> {
    Some(number.load(Ordering::Relaxed)).filter(|number| *number != UNKNOWN)
}

/// Most of the machine's memory, or of the control group's; without either being known there is no limit.
fn default_limit() -> u64 {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes.saturating_mul(1024))
    });
    let groups = limit_files(&read("/proc/self/cgroup").unwrap_or_default());
    let groups = groups.iter().filter_map(|path| read(path)?.trim().parse::<u64>().ok());
    let most = machine.into_iter().chain(groups).min();
    most.map_or(UNKNOWN - 1, |bytes| (bytes as f64 * SHARE) as u64)
}

/// Where the memory limits of a process' control groups stand, by its `/proc/PID/cgroup`: of its own and of all above it, for
/// each of them binds (cgroups(7)).
fn limit_files(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|one| one == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let above = std::path::Path::new(path).ancestors().map(|path| path.to_string_lossy());
        files.extend(above.map(|path| format!("{root}{}/{name}", path.trim_end_matches('/'))));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_control_group_above_has_its_limit() {
        let files = limit_files("0::/system.slice/posthaste.service\n");
        let paths = ["/system.slice/posthaste.service", "/system.slice", ""];
        assert_eq!(files, paths.map(|path| format!("/sys/fs/cgroup{path}/memory.max")));
        let files = limit_files("12:cpu,cpuacct:/a\n5:memory:/docker/b\n");
        let paths = ["/docker/b", "/docker", ""];
        assert_eq!(files, paths.map(|path| format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes")));
        assert!(limit_files("nonsense\n\n").is_empty());
    }

    #[test]
    fn memory_and_disk_have_their_bounds() {
        let pressure = Pressure::new(Path::new("/"), 100, Some(1_000_000_000));
        let check = |resident, free, expect: Option<&str>| {
            pressure.judge(resident, free);
            assert_eq!(pressure.is_high(), expect.is_some(), "{resident:?} {free:?}");
            let reason = pressure.reason();
            assert_eq!(reason.as_deref().and_then(|text| text.split(':').next()), expect);
        };
        check(Some(900_000_000), Some(100), None);
        check(Some(1_000_000_001), Some(100), Some("memory is short"));
        // Not good again before it is well below.
        check(Some(960_000_000), Some(100), Some("memory is short"));
        check(Some(940_000_000), Some(100), None);
        check(Some(940_000_000), Some(99), Some("the disk is full"));
        check(None, None, None);
        pressure.limit_memory(Some(1));
        check(Some(2), None, Some("memory is short"));
    }

    #[test]
    fn the_machine_is_known() {
        let pressure = Pressure::new(Path::new("/"), 0, None);
        pressure.look();
        assert!(pressure.resident_bytes().is_some_and(|bytes| bytes < pressure.memory_limit_bytes()));
        assert!(pressure.free_bytes().is_some() && !pressure.is_high());
    }
}
