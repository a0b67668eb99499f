//! The process itself, as Linux tells it, under the names that all exporters use.

use prometheus::{Gauge, IntGauge};

use super::Maker;

/// Unit of the times in `/proc/self/stat`; Linux has shown user space 100 a second for decades.
const TICKS_A_SECOND: f64 = 100.0;

const PAGE_BYTES: u64 = 4096;

pub(super) struct Process {
    resident: IntGauge,
    open_files: IntGauge,
    most_files: IntGauge,
    threads: IntGauge,
    cpu: Gauge,
}

impl Process {
    pub(super) fn new(make: &Maker) -> Process {
        Process {
            resident: make.gauge("process_resident_memory_bytes", "Resident memory"),
            open_files: make.gauge("process_open_fds", "Open file descriptors, sockets included"),
            most_files: make.gauge("process_max_fds", "File descriptors that may be open"),
            threads: make.gauge("process_threads", "Threads"),
            cpu: make.enter(Gauge::new("process_cpu_seconds_total", "User and system CPU time")),
        }
    }

    /// Reads all of it anew; what the system does not tell stays as it was.
    pub(super) fn look(&self) {
        if let Some(bytes) = resident_bytes() {
            self.resident.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            // One of them is the folder itself.
            self.open_files.set(i64::try_from(files.count()).unwrap_or(i64::MAX).saturating_sub(1));
        }
        if let Some(most) = most_files() {
            self.most_files.set(most);
        }
        if let Some((cpu_s, threads)) = std::fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(stat) {
            self.cpu.set(cpu_s);
            self.threads.set(threads);
        }
    }
}

/// Resident memory of this process in bytes, where the system tells it.
pub fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(PAGE_BYTES))
}

fn most_files() -> Option<i64> {
    let text = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

/// CPU seconds and threads of a line of `/proc/PID/stat`.
fn stat(line: &str) -> Option<(f64, i64)> {
    // The name in parentheses may hold anything.
    let fields: Vec<&str> = line.get(line.rfind(')')? + 2..)?.split(' ').collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<i64>().ok());
    Some(((number(11)? + number(12)?) as f64 / TICKS_A_SECOND, number(17)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_known() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
        assert!(most_files().is_some_and(|most| most > 0));
        let line = "7 (a (b) c) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 5 6 7";
        assert_eq!(stat(line), Some((3.0, 9)));
    }
}
