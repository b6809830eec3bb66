//! How much processor time do the client and the server use?

use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use rustix::time::{ClockId, clock_gettime};

/// Returns the processor time of this process.
pub(crate) fn of_this_process() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Returns the processor time of all child processes that have ended, in steps
/// of 10 ms. Returns `None` if the operating system is not Linux.
pub(crate) fn of_children() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let ticks = children_ticks(&stat)?;
    // Linux counts 100 ticks a second here, whatever its timer does.
    Some(Duration::from_millis(10) * ticks)
}

/// Returns the processor time of the server, in user mode and in the kernel.
pub(crate) fn of_server(
    control: &mut redis::Connection,
) -> anyhow::Result<Duration> {
    let info: String = redis::cmd("INFO").arg("cpu").query(control)?;
    let time = |name| -> anyhow::Result<Duration> {
        let value = info_field(&info, name);
        let value = value.with_context(|| format!("INFO has no {name}"))?;
        Ok(Duration::try_from_secs_f64(value.parse()?)?)
    };
    Ok(time("used_cpu_user")? + time("used_cpu_sys")?)
}

/// Returns a field of the answer to `INFO`.
pub(crate) fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = info.lines().filter_map(|line| line.split_once(':'));
    fields.find_map(|(key, value)| (key == name).then_some(value.trim_end()))
}

/// Returns the fields `cutime` and `cstime`.
fn children_ticks(stat: &str) -> Option<u32> {
    // The name of the program may contain blanks and parentheses.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(13);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_children_are_found_after_any_program_name() {
        let stat = "12 (a) 7 (b) S 1 2 3 4 5 6 7 8 9 10 11 12 130 4 20 0 1";
        assert_eq!(children_ticks(stat), Some(134));
        assert_eq!(children_ticks("12 (a) S 1"), None);
        assert_eq!(children_ticks(""), None);
    }

    #[test]
    fn a_field_of_info_is_found_by_its_whole_name() {
        let info = "# CPU\r\nused_cpu_sys_children:1\r\nused_cpu_sys:2.5\r\n";
        assert_eq!(info_field(info, "used_cpu_sys"), Some("2.5"));
        assert_eq!(info_field(info, "used_cpu"), None);
    }

    #[test]
    fn the_time_of_this_process_grows_while_it_computes() {
        let before = of_this_process();
        // Ends when the clock advances: each call takes time itself.
        while of_this_process() == before {}
    }
}
