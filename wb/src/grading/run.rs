//! Runs tests one by one, each in a process of its own, and reads what became
//! of it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::servers::Program;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::grading::process::{Group, Output};

/// How long a test binary may take to name its tests.
const LISTING: Duration = Duration::from_secs(30);

/// What a test prints where it cannot look at somebody's program; behind a
/// colon, it may say why.
const NOT_ASKED: &str = "not asked of a program";

/// One test of a binary.
#[derive(Debug)]
pub(crate) struct Test {
    /// As its binary knows it.
    pub(crate) name: String,
    /// The server it needs, where it says `#[ignore = "needs …"]`.
    pub(crate) needs: Option<String>,
}

/// What became of a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Holds,
    Broken,
    Hangs,
    /// It met a `todo!`.
    NotYetWritten,
    /// It needs a server that this machine lacks, or cannot look at a program.
    NotRun,
    /// Too many before it hang.
    NotReached,
}

impl Verdict {
    pub(crate) fn fails(self) -> bool {
        !matches!(self, Self::Holds | Self::NotRun | Self::NotReached)
    }
}

#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) verdict: Verdict,
    /// The assertion's, or the question of the `todo!`, or why it was not run.
    pub(crate) message: String,
    /// Where it panicked: `file:line`.
    pub(crate) at: Option<String>,
    /// What else was written: the reader's own `dbg!` and `println!`.
    pub(crate) printed: String,
    pub(crate) took: Duration,
}

impl Run {
    /// Of a test that was not started.
    pub(crate) fn without(verdict: Verdict) -> Self {
        Self {
            verdict,
            message: String::new(),
            at: None,
            printed: String::new(),
            took: Duration::ZERO,
        }
    }
}

/// The tests of `binary`.
pub(crate) fn list(binary: &Path) -> Result<Vec<Test>, Error> {
    let all = names(binary, &[])?;
    let ignored = names(binary, &["--ignored"])?;
    let reasons = reasons(binary, &ignored)?;
    let test = |name: String| {
        let needs = ignored.contains(&name).then(|| {
            let reason = reasons.iter().find(|(test, _)| *test == name);
            reason.map_or_else(String::new, |(_, reason)| {
                reason.trim_start_matches("needs ").to_owned()
            })
        });
        Test { name, needs }
    };
    Ok(all.into_iter().map(test).collect())
}

fn names(binary: &Path, more: &[&str]) -> Result<BTreeSet<String>, Error> {
    let mut command = Command::new(binary);
    command.args(["--list", "--format", "terse"]).args(more);
    let output = Group::piped(&mut command)?.output(LISTING);
    let tests = output.stdout.lines();
    Ok(tests
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect())
}

/// Why tests are ignored: the list does not say, but a run does.
fn reasons(
    binary: &Path,
    ignored: &BTreeSet<String>,
) -> Result<Vec<(String, String)>, Error> {
    if ignored.is_empty() {
        return Ok(Vec::new());
    }
    let mut command = Command::new(binary);
    command.arg("--exact").args(ignored);
    let output = Group::piped(&mut command)?.output(LISTING);
    let reason = |line: &str| {
        let (test, reason) =
            line.strip_prefix("test ")?.split_once(" ... ignored, ")?;
        Some((test.to_owned(), reason.to_owned()))
    };
    Ok(output.stdout.lines().filter_map(reason).collect())
}

/// Whether this machine has `server`, as an ignored test names it.
pub(crate) fn has(server: &str) -> bool {
    Program::named(server).is_some_and(|program| program.find().is_some())
}

pub(crate) fn run(
    binary: &Path,
    test: &Test,
    deadline: Duration,
    program: Option<&str>,
) -> Result<Run, Error> {
    if test.needs.as_deref().is_some_and(|server| !has(server)) {
        return Ok(Run::without(Verdict::NotRun));
    }
    let mut command = Command::new(binary);
    command
        .args(["--exact", &test.name, "--include-ignored", "--nocapture"])
        // A message is enough: a backtrace buries it.
        .env("RUST_BACKTRACE", "0");
    if let Some(program) = program {
        command.env("WB_PROGRAM", program);
    }
    let start = Instant::now();
    let output = Group::piped(&mut command)?.output(deadline);
    if program.is_some()
        && let Some(why) = why_not_asked(&output.stdout)
    {
        let message = why.to_owned();
        return Ok(Run { message, ..Run::without(Verdict::NotRun) });
    }
    Ok(judge(&test.name, &output, deadline, start.elapsed()))
}

/// Why the test was not asked of a program, if it was not.
fn why_not_asked(stdout: &str) -> Option<&str> {
    let (_, after) = stdout.split_once(NOT_ASKED)?;
    let line = after.lines().next().unwrap_or_default();
    Some(line.strip_prefix(':').unwrap_or_default().trim())
}

fn judge(
    test: &str,
    output: &Output,
    deadline: Duration,
    took: Duration,
) -> Run {
    let panic = cause(&output.stderr);
    let verdict = match output.status {
        None => Verdict::Hangs,
        // The count too: what calls `exit(0)` has not passed.
        Some(status)
            if status.success()
                && output.stdout.contains("test result: ok. 1 passed") =>
        {
            Verdict::Holds
        }
        Some(_) if panic.as_ref().is_some_and(Panic::is_todo) => {
            Verdict::NotYetWritten
        }
        Some(_) => Verdict::Broken,
    };
    let (message, at) = match (verdict, panic) {
        (Verdict::Holds, _) => (String::new(), None),
        (Verdict::Hangs, None) => {
            (format!("no end after {} s", deadline.as_secs()), None)
        }
        (Verdict::Hangs, Some(panic)) => {
            let seconds = deadline.as_secs();
            let message = panic.message;
            let why = format!("no end after {seconds} s, but first: {message}");
            (why, Some(panic.at))
        }
        (_, Some(panic)) => (panic.message, Some(panic.at)),
        (_, None) => (how_it_ended(output), None),
    };
    Run { verdict, message, at, printed: printed(test, output), took }
}

struct Panic {
    message: String,
    at: String,
}

impl Panic {
    fn is_todo(&self) -> bool {
        self.message.starts_with("not yet implemented")
    }

    /// A grader's own, to see what becomes of it. A payload that is no text
    /// shows as `Box<dyn Any>`.
    fn is_on_purpose(&self) -> bool {
        self.message.starts_with("on purpose")
            // What was written since may stand below it.
            || self.message.lines().next() == Some("Box<dyn Any>")
    }
}

/// The first panic of any thread is the cause of those after it, unless it is
/// there on purpose.
fn cause(stderr: &str) -> Option<Panic> {
    let mut panics = panics(stderr);
    let cause = panics.iter().position(|panic| !panic.is_on_purpose());
    (!panics.is_empty()).then(|| panics.swap_remove(cause.unwrap_or(0)))
}

/// In the order in which they happened.
fn panics(stderr: &str) -> Vec<Panic> {
    let mut lines = stderr.lines().peekable();
    let mut panics = Vec::new();
    while let Some(at) = lines.find_map(panic_location) {
        let mut message = Vec::new();
        while let Some(line) = lines.next_if(|line| {
            !line.starts_with("note: run with `RUST_BACKTRACE")
                && panic_location(line).is_none()
        }) {
            message.push(line);
        }
        let message = message.join("\n").trim().to_owned();
        panics.push(Panic { message, at: at.to_owned() });
    }
    panics
}

/// `thread 'name' (123) panicked at src/lib.rs:4:5:` gives `src/lib.rs:4`.
fn panic_location(line: &str) -> Option<&str> {
    let line = line.strip_prefix("thread '")?;
    let (_, at) = line.split_once(" panicked at ")?;
    let at = at.strip_suffix(':')?;
    Some(at.rsplit_once(':').map_or(at, |(at, _column)| at))
}

fn how_it_ended(output: &Output) -> String {
    use std::os::unix::process::ExitStatusExt;
    let Some(status) = output.status else { return String::new() };
    if let Some(signal) = status.signal() {
        let overflow = output.stderr.contains("has overflowed its stack");
        let why = if overflow { ": the stack overflowed" } else { "" };
        return format!("the process was killed by signal {signal}{why}");
    }
    if status.success() {
        return "the process ended before the test did".to_owned();
    }
    let error = output.stderr.lines().find(|line| line.starts_with("Error: "));
    error.map_or_else(
        || format!("the process ended with {status}"),
        str::to_owned,
    )
}

/// What is left of the output without the harness's own lines.
fn printed(test: &str, output: &Output) -> String {
    let is_own = |line: &&str| {
        let is_harness = ["", "ok", "FAILED", "failures:", "running 1 test"]
            .contains(line)
            || line.starts_with("test result: ")
            || line.trim_start() == test;
        !is_harness
    };
    // The first line that the test prints stands behind its name.
    let announced = format!("test {test} ... ");
    let stdout = output.stdout.lines();
    let stdout =
        stdout.map(|line| line.strip_prefix(&*announced).unwrap_or(line));
    let stderr =
        output.stderr.lines().take_while(|line| panic_location(line).is_none());
    let lines: Vec<_> = stdout.filter(is_own).chain(stderr).collect();
    lines.join("\n").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_test_prints_is_told_from_what_the_harness_does() {
        let output = Output {
            status: None,
            stdout: "\nrunning 1 test\ntest a::b ... Row {\n    id: 1,\n}\n\
                     FAILED\n\nfailures:\n\nfailures:\n    a::b\n\n\
                     test result: FAILED. 0 passed\n\n"
                .to_owned(),
            stderr: "odd\nthread 'a::b' panicked at a.rs:1:1:\nlost\n"
                .to_owned(),
        };
        assert_eq!(printed("a::b", &output), "Row {\n    id: 1,\n}\nodd");
    }

    #[test]
    fn why_a_test_was_not_asked_of_a_program_is_read() {
        let said = |why: &str| {
            format!("running 1 test\ntest a::b ... {NOT_ASKED}{why}\nok\n")
        };
        let read = |why: &str| why_not_asked(&said(why)).map(str::to_owned);
        assert_eq!(read(": it ends by itself").unwrap(), "it ends by itself");
        assert_eq!(read("").unwrap(), "");
        assert_eq!(why_not_asked("test a::b ... ok\n"), None);
    }

    const PANICS: &str = "\
dbg output
thread 'rows::a_row' (77) panicked at week02/tests/grade/x.rs:12:9:
assertion failed: seen
  left: 1
 right: 2
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace

thread 'main' (76) panicked at src/thread.rs:9:1:
joined
";

    #[test]
    fn the_first_panic_is_the_cause() {
        let panic = cause(PANICS).unwrap();
        assert_eq!(panic.at, "week02/tests/grade/x.rs:12");
        assert_eq!(
            panic.message,
            "assertion failed: seen\n  left: 1\n right: 2"
        );
        assert!(!panic.is_todo());
    }

    #[test]
    fn what_panics_on_purpose_hides_no_cause() {
        let any = "\
thread 'a task' (78) panicked at week03/tests/grade/x.rs:7:9:
Box<dyn Any>
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace

";
        let word = "\
thread 'a task' (79) panicked at week03/tests/grade/x.rs:8:9:
on purpose: the second of two

";
        let panic = cause(&format!("{any}{word}{PANICS}{word}")).unwrap();
        assert_eq!(panic.at, "week02/tests/grade/x.rs:12");
        // Where there is nothing else, it is better than nothing.
        let panic = cause(&format!("{word}{any}")).unwrap();
        assert_eq!(panic.message, "on purpose: the second of two");
        let panic = cause(&format!("{any}{word}")).unwrap();
        assert_eq!(panic.message, "Box<dyn Any>");
    }

    #[test]
    fn a_todo_is_told_from_other_panics() {
        let stderr = "thread 'x' panicked at a.rs:1:1:\n\
                      not yet implemented: what is left?\n";
        let panic = cause(stderr).unwrap();
        assert!(panic.is_todo());
        assert_eq!(panic.message, "not yet implemented: what is left?");
    }

    #[test]
    fn what_did_not_panic_has_no_panic() {
        assert!(cause("thread 'x' has overflowed its stack\n").is_none());
    }
}
