//! The CPU time of a program and of all processes that it has started, also
//! indirectly. On a busy machine, it varies less than the throughput.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

/// The unit of `/proc/*/stat` on Linux.
const TICK: Duration = Duration::from_millis(10);

/// Returns the CPU time so far, or none if there is no `/proc`. A process that
/// has ended counts if its parent has waited for it.
pub(crate) fn used(program: u32) -> Option<Duration> {
    let entries = fs::read_dir("/proc").ok()?;
    let ids = entries.filter_map(|entry| {
        entry.ok()?.file_name().into_string().ok()?.parse().ok()
    });
    let all: HashMap<u32, (u32, u32)> =
        ids.filter_map(|id| Some((id, stat(id)?))).collect();
    let is_ours = |mut id: u32| {
        while let Some((parent, _)) = all.get(&id) {
            if id == program {
                return true;
            }
            id = *parent;
        }
        false
    };
    let ours = all.iter().filter(|(id, _)| is_ours(**id));
    Some(TICK * ours.map(|(_, (_, ticks))| ticks).sum::<u32>())
}

/// Returns the parent of a process, and its ticks.
fn stat(id: u32) -> Option<(u32, u32)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The fields after the name, which may have spaces.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter();
    let ticks = ticks.map(|text| text.parse::<u32>().unwrap_or(0)).sum();
    Some((fields.get(1)?.parse().ok()?, ticks))
}
