//! Reads the CPU time that was used, for [`CpuMeter`].
//!
//! In a container, the files of cgroup v2 say what the container has used, and
//! how many cores it may use: `/proc/stat` says the same of the whole machine,
//! and a container with two of its 64 cores would never look busy.
//!
//! A task calls [`read`] a few times a second, gives the result to a
//! [`CpuMeter`], and stores the average where requests find it. If `read` fails,
//! it stores NaN.
//!
//! [`CpuMeter`]: crate::criticality::CpuMeter

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

/// CPU time that was used, and by how many cores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CpuTime {
    /// The time of all cores together, since some fixed point.
    pub used: Duration,
    /// The number of cores that may be used. It may be a fraction.
    pub cores: f64,
}

/// Reads the files below `root`, which is `/` except in tests: those of cgroup
/// v2, or else `/proc/stat`. The machine has `cores`.
///
/// # Errors
///
/// Returns an error if no file can be read, or if its content is unknown.
pub fn read(root: &Path, cores: usize) -> io::Result<CpuTime> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let cgroup = root.join("sys/fs/cgroup");
    let Ok(stat) = fs::read_to_string(cgroup.join("cpu.stat")) else {
        let stat = fs::read_to_string(root.join("proc/stat"))?;
        return of_machine(&stat, cores).ok_or_else(malformed);
    };
    // The root group has no such file: it has no limit.
    let max = fs::read_to_string(cgroup.join("cpu.max")).unwrap_or_default();
    of_cgroup(&stat, &max, cores).ok_or_else(malformed)
}

/// Parses `cpu.stat` and `cpu.max` of cgroup v2.
fn of_cgroup(stat: &str, max: &str, cores: usize) -> Option<CpuTime> {
    let micros =
        stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
    let used = Duration::from_micros(micros.trim().parse().ok()?);
    let mut numbers = max.split_whitespace().map(str::parse::<f64>);
    let limit = match (numbers.next(), numbers.next()) {
        (Some(Ok(quota)), Some(Ok(period))) if period > 0.0 => quota / period,
        _ => f64::INFINITY, // "max 100000"
    };
    Some(CpuTime { used, cores: limit.min(cores as f64) })
}

/// Parses the first line of `/proc/stat`: `cpu`, and the time that all cores
/// have spent in each mode, in hundredths of a second.
fn of_machine(stat: &str, cores: usize) -> Option<CpuTime> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let times: Option<Vec<u64>> =
        line.split_whitespace().map(|time| time.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; guest time is part
    // of user time.
    let [user, nice, system, _, _, irq, softirq, ..] = times?[..] else {
        return None;
    };
    let hundredths = user + nice + system + irq + softirq;
    let used = Duration::from_millis(hundredths * 10);
    Some(CpuTime { used, cores: cores as f64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "usage_usec 1500000\nuser_usec 9\nsystem_usec 6\n";

    #[test]
    fn a_cgroup_with_a_limit_has_fewer_cores_than_the_machine() {
        let used = Duration::from_millis(1500);
        for (max, cores) in [
            ("200000 100000\n", 2.0),
            ("50000 100000\n", 0.5),
            ("max 100000\n", 64.0),
            ("12800000 100000\n", 64.0),
            ("", 64.0),
            ("100 0\n", 64.0),
        ] {
            let expected = Some(CpuTime { used, cores });
            assert_eq!(of_cgroup(STAT, max, 64), expected, "{max:?}");
        }
    }

    #[test]
    fn a_text_of_another_form_has_no_cpu_time() {
        for stat in ["", "usage_usec\n", "usage_usec x\n", "user_usec 5\n"] {
            assert_eq!(of_cgroup(stat, "max 100000", 2), None, "{stat:?}");
        }
        for stat in ["", "cpu 1 2 3\n", "cpu 1 2 3 4 5 6 x\n", "cpu0 1 2\n"] {
            assert_eq!(of_machine(stat, 2), None, "{stat:?}");
        }
    }

    #[test]
    fn idle_and_stolen_time_of_a_machine_is_not_used() {
        let stat = "cpu  100 10 20 9000 900 3 4 77 50 0\ncpu0 1 1 1 1 1 1 1\n";
        let used = Duration::from_millis(1370);
        assert_eq!(of_machine(stat, 8), Some(CpuTime { used, cores: 8.0 }));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_cpu_time_of_this_machine_grows_with_work() {
        let root = Path::new("/");
        let before = read(root, 1).expect("Linux has one of the files");
        let begin = std::time::Instant::now();
        while begin.elapsed() < Duration::from_secs(5) {
            if read(root, 1).expect("it was there").used > before.used {
                return;
            }
        }
        panic!("five seconds of work used no CPU time: {before:?}");
    }

    #[test]
    fn without_files_reading_fails() {
        let error = read(Path::new("/nonexistent"), 1).expect_err("no file");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
