//! How are the results printed? As a table, and as CSV.

use std::fmt::Write as _;
use std::time::Duration;

use crate::measure::{MAX, Measured, P50, P99, PERCENTILES, ratio};

pub(crate) const HEADER: &str = concat!(
    "                            requests  spread  CPU µs each    p50    p99",
    "    max\n",
    "    bytes  P tool                 /s       %  client server         ",
    "milliseconds"
);

pub(crate) const CSV_HEADER: &str = "tool,command,value_bytes,pipeline,runs,\
    requests_per_s,requests_per_s_min,requests_per_s_max,client_cpu_us,\
    server_cpu_us,p50_us,p95_us,p99_us,max_us,timed_out\n";

/// Returns the lines of a kind of command: one for each tool, and their ratio.
pub(crate) fn lines(measured: &[Measured]) -> String {
    let mut text = String::new();
    for (index, one) in measured.iter().enumerate() {
        let kind = one.kind;
        let [median, min, max] = one.throughput();
        let percent = |value| 100.0 * (value / median - 1.0);
        let spread = format!("{:+.0} {:+.0}", percent(min), percent(max));
        let label = match index {
            0 => format!(
                "{} {:5} {:2}",
                kind.command.name(),
                kind.value_len,
                kind.depth
            ),
            _ => " ".repeat(12),
        };
        let client = or_dash(one.client_micros(), |us| format!("{us:.2}"));
        let _ = write!(
            text,
            "{label} {:15} {median:7.0} {spread:>8} {client:>6} {:6.2}",
            one.tool,
            one.server_micros()
        );
        for column in [P50, P99, MAX] {
            let latency = or_dash(one.latency(column).median, ms);
            let _ = write!(text, " {latency:>6}");
        }
        if one.timed_out() > 0 {
            let _ = write!(text, "  {} timed out", one.timed_out());
        }
        text.push('\n');
    }
    if let [ours, theirs] = measured {
        let [median, min, max] = ratio(ours, theirs);
        let spread = format!("{min:.2} {max:.2}");
        let client = or_dash(client_ratio(ours, theirs), |r| format!("{r:.2}"));
        let server = ours.server_micros() / theirs.server_micros();
        let _ = writeln!(
            text,
            "{:12} {:15} {median:7.2} {spread:>9} {client:>5} {server:6.2}",
            "", "ratio"
        );
    }
    text
}

/// Returns a row of a CSV file for each tool.
pub(crate) fn csv(measured: &[Measured]) -> String {
    let mut text = String::new();
    for one in measured {
        let kind = one.kind;
        let [median, min, max] = one.throughput();
        let client = one.client_micros().map(|us| format!("{us:.3}"));
        let _ = write!(
            text,
            "{},{},{},{},{},{median:.0},{min:.0},{max:.0},{},{:.3}",
            one.tool,
            kind.command.name(),
            kind.value_len,
            kind.depth,
            one.runs.len(),
            client.unwrap_or_default(),
            one.server_micros()
        );
        for (column, _) in PERCENTILES.iter().enumerate() {
            let median = one.latency(column).median;
            let micros = median.map(|latency| latency.as_micros().to_string());
            let _ = write!(text, ",{}", micros.unwrap_or_default());
        }
        let _ = writeln!(text, ",{}", one.timed_out());
    }
    text
}

/// Returns the client's processor time per operation as a ratio.
pub(crate) fn client_ratio(first: &Measured, second: &Measured) -> Option<f64> {
    Some(first.client_micros()? / second.client_micros()?)
}

fn or_dash<T>(value: Option<T>, format: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), format)
}

fn ms(latency: Duration) -> String {
    format!("{:.2}", latency.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Kind;
    use crate::measure::Run;
    use crate::resp::Command;

    fn measured(tool: &'static str, throughput: [f64; 3]) -> Measured {
        let run = |throughput| Run {
            throughput,
            latencies: [100, 200, 300, 4000]
                .map(|us| Some(Duration::from_micros(us))),
            operations: 1000,
            timed_out: 0,
            client: Some(Duration::from_millis(2)),
            server: Duration::from_millis(4),
        };
        let kind = Kind { command: Command::Get, value_len: 10, depth: 16 };
        Measured { kind, tool, runs: throughput.map(run).to_vec() }
    }

    #[test]
    fn a_line_shows_the_run_in_the_middle_and_the_spread() {
        let one = measured("a", [90.0, 120.0, 100.0]);
        assert_eq!(
            lines(&[one]),
            "GET    10 16 a                   100  -10 +20   2.00   4.00   0.10 \
             \x20 0.30   4.00\n"
        );
    }

    #[test]
    fn the_ratio_is_that_of_pairs_of_runs() {
        let ours = measured("a", [90.0, 120.0, 100.0]);
        let mut theirs = measured("b", [45.0, 120.0, 200.0]);
        theirs.runs[0].client = None;
        let both = [ours, theirs];
        let words = || {
            let lines = lines(&both);
            let last = lines.lines().last().expect("three lines");
            last.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(words(), ["ratio", "1.00", "0.50", "2.00", "-", "1.00"]);
    }

    #[test]
    fn a_missing_percentile_is_a_dash_in_the_table_and_empty_in_the_csv() {
        let mut one = measured("a", [90.0, 120.0, 100.0]);
        for run in &mut one.runs {
            run.latencies[3] = None;
            run.timed_out = 2;
        }
        let one = [one];
        assert!(lines(&one).ends_with("  0.30      -  6 timed out\n"));
        assert_eq!(
            csv(&one),
            "a,GET,10,16,3,100,90,120,2.000,4.000,100,200,300,,6\n"
        );
        let columns = |text: &str| text.trim_end().split(',').count();
        assert_eq!(columns(&csv(&one)), columns(CSV_HEADER));
    }
}
