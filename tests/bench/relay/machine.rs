//! What the machine spends: CPU and memory of a process tree, and how fast its disk syncs.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Unit of the times in `/proc/PID/stat`; Linux has shown user space 100 a second for decades.
const TICK_MS: f64 = 10.0;

const PAGE_BYTES: u64 = 4096;

/// How long the disk is probed.
const PROBE: Duration = Duration::from_millis(500);

/// Of a process and all below it.
#[derive(Clone, Copy, Default)]
pub struct Usage {
    pub cpu_ms: f64,
    /// Pages shared between processes count once for each.
    pub resident_bytes: u64,
}

/// One line of `/proc/PID/stat`.
struct Stat {
    parent: u32,
    own_ms: f64,
    /// Of children that have ended.
    reaped_ms: f64,
    resident_pages: u64,
}

/// What the trees under `roots` have used until now.
pub fn usage(roots: &[u32]) -> Result<Usage> {
    let mut stats = HashMap::new();
    for entry in fs::read_dir("/proc").context("no /proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end while we look.
        if let Some(stat) = fs::read_to_string(format!("/proc/{pid}/stat")).ok().as_deref().and_then(stat) {
            stats.insert(pid, stat);
        }
    }
    let mut usage = Usage::default();
    let mut left = roots.to_vec();
    while let Some(pid) = left.pop() {
        left.extend(stats.iter().filter(|(_, stat)| stat.parent == pid).map(|(pid, _)| *pid));
        if let Some(stat) = stats.get(&pid) {
            // Ticks miss what runs shorter than one; the scheduler counts nanoseconds.
            usage.cpu_ms += scheduled_ms(pid).max(stat.own_ms) + stat.reaped_ms;
            usage.resident_bytes += stat.resident_pages * PAGE_BYTES;
        }
    }
    Ok(usage)
}

fn stat(line: &str) -> Option<Stat> {
    // The name in parentheses may hold anything.
    let fields: Vec<&str> = line.get(line.rfind(')')? + 2..)?.split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        own_ms: (ticks(11)? + ticks(12)?) * TICK_MS,
        reaped_ms: (ticks(13)? + ticks(14)?) * TICK_MS,
        resident_pages: fields.get(21)?.parse().ok()?,
    })
}

fn scheduled_ms(pid: u32) -> f64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0.0 };
    let nanoseconds = tasks.flatten().filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e6
}

/// The most memory that a process had at once until now (`VmHWM`).
pub fn peak_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().context("VmHWM is not a number")?;
    Ok(kilobytes * 1024)
}

/// Syncs a second of 10 KB written over and over.
pub fn fsyncs_per_second(folder: &Path) -> Result<f64> {
    let taken = syncs(folder, PROBE)?;
    Ok(taken.len() as f64 / PROBE.as_secs_f64())
}

/// How long a sync of the same takes, where nobody else has work: the floor under every relay's latency.
pub fn sync_times(folder: &Path, time: Duration) -> Result<SyncTimes> {
    Ok(SyncTimes::of(syncs(folder, time)?))
}

/// From the time that each of so many a second is due until two files are synced, by a program that does nothing else:
/// what a relay that stores a body and its envelope takes at least at that pace.
pub fn paced_syncs(folder: &Path, per_second: f64, time: Duration) -> Result<SyncTimes> {
    let paths = ["paced-body", "paced-envelope"].map(|name| folder.join(name));
    let files = paths.each_ref().map(|path| File::create(path).context("cannot write the probe"));
    let block = vec![b'x'; 10 * 1024];
    let (start, mut taken) = (Instant::now(), Vec::new());
    let [body, envelope] = files;
    let (mut body, mut envelope) = (body?, envelope?);
    loop {
        let due = start + Duration::from_secs_f64(taken.len() as f64 / per_second);
        if due.duration_since(start) >= time {
            break;
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        for file in [&mut body, &mut envelope] {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&block)?;
            file.sync_data()?;
        }
        taken.push(due.elapsed());
    }
    paths.iter().try_for_each(fs::remove_file)?;
    Ok(SyncTimes::of(taken))
}

/// In milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct SyncTimes {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub most_ms: f64,
}

impl SyncTimes {
    fn of(mut taken: Vec<Duration>) -> SyncTimes {
        taken.sort_unstable();
        let at = |share: f64| taken.get(((taken.len() as f64 * share) as usize).min(taken.len().saturating_sub(1)));
        let ms = |share: f64| at(share).copied().unwrap_or_default().as_secs_f64() * 1000.0;
        SyncTimes { p50_ms: ms(0.5), p99_ms: ms(0.99), p999_ms: ms(0.999), most_ms: ms(1.0) }
    }
}

fn syncs(folder: &Path, time: Duration) -> Result<Vec<Duration>> {
    let path = folder.join("fsync-probe");
    let mut file = File::create(&path).context("cannot write the probe")?;
    let block = vec![b'x'; 10 * 1024];
    let (start, mut taken) = (Instant::now(), Vec::new());
    while start.elapsed() < time {
        let begun = Instant::now();
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&block)?;
        file.sync_data()?;
        taken.push(begun.elapsed());
    }
    fs::remove_file(path)?;
    Ok(taken)
}

/// The 1-minute load average.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

/// Whether we are root: some programs then want to be told whom to become.
pub fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.starts_with("Uid:\t0\t"))
}
