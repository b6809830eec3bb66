//! What does redis-benchmark measure with the same settings?

use std::io::ErrorKind;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::Command as Program;

use crate::client::Kind;
use crate::keys::Keys;
use crate::measure::{Latencies, Settings};
use crate::resp::Command;
use crate::server::Server;

const PROGRAM: &str = "redis-benchmark";

/// What redis-benchmark prints about a run.
#[derive(Debug, PartialEq)]
pub(crate) struct Result {
    pub(crate) throughput: f64,
    pub(crate) latencies: Latencies,
}

/// Returns whether redis-benchmark is installed.
pub(crate) fn is_installed() -> bool {
    let mut program = std::process::Command::new(PROGRAM);
    let program = program.arg("--version").stdout(Stdio::null()).status();
    !program.is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// Lets redis-benchmark send `operations` commands.
///
/// Its tests GET and SET use the key `key:__rand_int__`. So it is given the
/// commands, with keys of this run.
///
/// # Cancel safety
///
/// Dropping the future kills the program.
pub(crate) async fn run(
    server: &Server,
    keys: &Keys,
    kind: Kind,
    settings: &Settings,
    operations: u64,
) -> anyhow::Result<Result> {
    let mut program = Program::new(PROGRAM);
    program.args(server.options());
    for (option, value) in [
        ("-c", settings.connections.to_string()),
        ("-n", operations.to_string()),
        ("-P", kind.depth.to_string()),
        ("-r", keys.count().to_string()),
    ] {
        program.arg(option).arg(value);
    }
    program.args(["--csv", kind.command.name()]);
    program.arg(format!("{}__rand_int__", keys.prefix()));
    if kind.command == Command::Set {
        program.arg("x".repeat(kind.value_len));
    }
    program.stdin(Stdio::null()).kill_on_drop(true);
    let limit = settings.length() * 10 + Duration::from_secs(10);
    let output = tokio::time::timeout(limit, program.output()).await;
    let output = output.with_context(|| format!("{PROGRAM} is too slow"))??;
    let text = String::from_utf8_lossy(&output.stdout);
    match parse(&text) {
        Some(result) if output.status.success() => Ok(result),
        _ => bail!(
            "{PROGRAM} ended with {}: {text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

/// Parses the last line. It has a title, the throughput, and in milliseconds
/// the mean, the minimum, p50, p95, p99 and the maximum.
fn parse(csv: &str) -> Option<Result> {
    let line = csv.lines().rfind(|line| line.starts_with('"'))?;
    // From the right, because the title contains the command.
    let mut fields = line.rsplit(',').take(7).map(|field| {
        let number = field.strip_prefix('"')?.strip_suffix('"')?;
        number.parse::<f64>().ok()
    });
    let mut latencies = Latencies::default();
    for latency in latencies.iter_mut().rev() {
        let seconds = fields.next()?? / 1000.0;
        *latency = Some(Duration::try_from_secs_f64(seconds).ok()?);
    }
    let throughput = fields.nth(2)??;
    Some(Result { throughput, latencies })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_found_after_any_title() {
        let csv = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\
                   \"p50_latency_ms\",\"p95_latency_ms\",\"p99_latency_ms\",\
                   \"max_latency_ms\"\n\
                   \"SET a,b 7\",\"25000.50\",\"0.111\",\"0.222\",\"0.333\",\
                   \"0.444\",\"0.555\",\"6.660\"\n";
        let latencies = [333, 444, 555, 6660].map(Duration::from_micros);
        let latencies = latencies.map(Some);
        let expected = Result { throughput: 25000.5, latencies };
        assert_eq!(parse(csv), Some(expected));
    }

    #[test]
    fn text_without_numbers_is_refused() {
        for text in [
            "",
            "\"test\",\"rps\"\n",
            "\"a\",\"b\",\"c\",\"d\",\"e\",\
             \"f\",\"g\",\"h\"\n",
            "Could not connect\n",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
