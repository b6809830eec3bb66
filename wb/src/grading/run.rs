//! Runs one test in a process of its own, and returns its verdict.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::servers::Program;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::grading::process::{Group, Output};

/// The deadline for a test binary to list its tests.
const LIST_DEADLINE: Duration = Duration::from_secs(30);

/// A test prints this if it cannot test an external program. A colon and the
/// reason may follow.
const NOT_ASKED_MARKER: &str = "not asked of a program";

/// One test of a binary.
#[derive(Debug)]
pub(crate) struct Test {
    /// The name in its binary, without the module of the subject.
    pub(crate) name: String,
    /// The server in `#[ignore = "needs SERVER"]`.
    pub(crate) needs: Option<String>,
}

/// The verdict on a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Holds,
    Broken,
    Hangs,
    /// The test reached a `todo!`.
    NotYetWritten,
    /// The test needs a server that is not installed, or cannot test an external
    /// program.
    NotRun,
    /// The test was not started, because too many others hang.
    NotReached,
}

impl Verdict {
    pub(crate) fn fails(self) -> bool {
        !matches!(self, Self::Holds | Self::NotRun | Self::NotReached)
    }
}

/// The result of one test.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) verdict: Verdict,
    /// The message of the panic, or the reason why the test was not run.
    pub(crate) message: String,
    /// Where the test panicked: `file:line`.
    pub(crate) at: Option<String>,
    /// The other output: `dbg!` and `println!` of the attempt.
    pub(crate) printed: String,
    pub(crate) took: Duration,
}

impl Run {
    /// Returns the result of a test that was not started.
    pub(crate) fn not_started(verdict: Verdict) -> Self {
        Self {
            verdict,
            message: String::new(),
            at: None,
            printed: String::new(),
            took: Duration::ZERO,
        }
    }
}

/// Returns the tests of `binary`, or those in `module`.
pub(crate) fn list(
    binary: &Path,
    module: Option<&str>,
) -> Result<Vec<Test>, Error> {
    let start = in_module(module, "");
    let names = |extra| {
        let mut names = names(binary, extra)?;
        names.retain(|name| name.starts_with(&start));
        Ok::<_, Error>(names)
    };
    let all = names(&[])?;
    let ignored = names(&["--ignored"])?;
    let reasons = reasons(binary, &ignored)?;
    let test = |name: String| {
        let needs = ignored.contains(&name).then(|| {
            let reason = reasons.iter().find(|(test, _)| *test == name);
            reason.map_or_else(String::new, |(_, reason)| {
                reason.trim_start_matches("needs ").to_owned()
            })
        });
        Test { name: name[start.len()..].to_owned(), needs }
    };
    Ok(all.into_iter().map(test).collect())
}

/// Returns `s3::a::b` for the module `s3` and the test `a::b`.
fn in_module(module: Option<&str>, test: &str) -> String {
    module.map_or_else(|| test.to_owned(), |name| format!("{name}::{test}"))
}

/// Returns the names that `binary` lists, with `extra` arguments.
pub(crate) fn names(
    binary: &Path,
    extra: &[&str],
) -> Result<BTreeSet<String>, Error> {
    let mut command = Command::new(binary);
    command.args(["--list", "--format", "terse"]).args(extra);
    let output = Group::piped(&mut command)?.output(LIST_DEADLINE);
    if !output.status.is_some_and(|status| status.success()) {
        let (binary, stderr) = (binary.display(), output.stderr);
        return Err(Error::new(format!("{binary} lists no tests: {stderr}")));
    }
    let tests = output.stdout.lines();
    Ok(tests
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect())
}

/// Returns the reasons why tests are ignored. The list does not contain them: the
/// tests have to be run.
fn reasons(
    binary: &Path,
    ignored: &BTreeSet<String>,
) -> Result<Vec<(String, String)>, Error> {
    if ignored.is_empty() {
        return Ok(Vec::new());
    }
    let mut command = Command::new(binary);
    command.arg("--exact").args(ignored);
    let output = Group::piped(&mut command)?.output(LIST_DEADLINE);
    let reason = |line: &str| {
        let (test, reason) =
            line.strip_prefix("test ")?.split_once(" ... ignored, ")?;
        Some((test.to_owned(), reason.to_owned()))
    };
    Ok(output.stdout.lines().filter_map(reason).collect())
}

/// Returns whether this machine has `server`, the name in an ignored test.
pub(crate) fn is_installed(server: &str) -> bool {
    Program::named(server).is_some_and(|program| program.find().is_some())
}

/// Runs `test`, in `module` of `binary`, until it ends or until `deadline`.
/// `program` is the shell command of an external program to test.
pub(crate) fn run(
    binary: &Path,
    module: Option<&str>,
    test: &Test,
    deadline: Duration,
    program: Option<&str>,
) -> Result<Run, Error> {
    if test.needs.as_deref().is_some_and(|server| !is_installed(server)) {
        return Ok(Run::not_started(Verdict::NotRun));
    }
    let name = in_module(module, &test.name);
    let mut command = Command::new(binary);
    command
        .args(["--exact", &name, "--include-ignored", "--nocapture"])
        // A backtrace would hide the message.
        .env("RUST_BACKTRACE", "0");
    if let Some(program) = program {
        command.env("WB_PROGRAM", program);
    }
    let start = Instant::now();
    let output = Group::piped(&mut command)?.output(deadline);
    if program.is_some()
        && let Some(why) = not_asked_reason(&output.stdout)
    {
        let message = why.to_owned();
        return Ok(Run { message, ..Run::not_started(Verdict::NotRun) });
    }
    Ok(evaluate(&name, &output, deadline, start.elapsed()))
}

/// Returns the reason why a test cannot test an external program, if it printed
/// one.
fn not_asked_reason(stdout: &str) -> Option<&str> {
    let (_, after) = stdout.split_once(NOT_ASKED_MARKER)?;
    let line = after.lines().next().unwrap_or_default();
    Some(line.strip_prefix(':').unwrap_or_default().trim())
}

/// Returns the result of a test that has ended, or was stopped at its deadline.
fn evaluate(
    test: &str,
    output: &Output,
    deadline: Duration,
    took: Duration,
) -> Run {
    let panic = cause(&output.stderr);
    let verdict = match output.status {
        None => Verdict::Hangs,
        // Exit code 0 is not enough: the attempt may have called `exit(0)`.
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
            let message = format!(
                "no end after {seconds} s; before that, a panic: {message}"
            );
            (message, Some(panic.at))
        }
        (_, Some(panic)) => (explained(&panic), Some(panic.at)),
        (_, None) => (exit_reason(output), None),
    };
    Run { verdict, message, at, printed: printed(test, output), took }
}

struct Panic {
    thread: String,
    message: String,
    at: String,
}

impl Panic {
    fn is_todo(&self) -> bool {
        self.message.starts_with("not yet implemented")
    }

    /// Returns whether the grader panicked on purpose, to test the attempt. A
    /// payload that is not a string is printed as `Box<dyn Any>`.
    fn is_on_purpose(&self) -> bool {
        self.message.starts_with("on purpose")
            // Later output may follow in the same message.
            || self.message.lines().next() == Some("Box<dyn Any>")
    }

    /// Returns whether proptest has found an input that fails, and has tried
    /// smaller ones.
    fn is_of_proptest(&self) -> bool {
        self.message
            .starts_with("called `Result::unwrap()` on an `Err` value: Fail(")
    }
}

/// Returns the panic that explains the failure: the first one of any thread that
/// is not on purpose, or else the first one. In a property test, it is that of
/// the smallest input, which proptest has tried last.
fn cause(stderr: &str) -> Option<Panic> {
    let mut panics = panics(stderr);
    let is_of_attempt = |panic: &Panic| !panic.is_on_purpose();
    let mut cause = panics.iter().position(is_of_attempt).unwrap_or(0);
    if let [cases @ .., last] = &*panics
        && last.is_of_proptest()
        && let Some(first) = cases.get(cause)
    {
        let is_alone = cases.iter().all(|panic| panic.thread == last.thread);
        // If other threads panic, too, this is the first panic of its case.
        let smallest = cases.iter().rposition(|panic| {
            is_of_attempt(panic) && (is_alone || panic.at == first.at)
        });
        cause = smallest.unwrap_or(cause);
    }
    (!panics.is_empty()).then(|| panics.swap_remove(cause))
}

/// Returns all panics, in order.
fn panics(stderr: &str) -> Vec<Panic> {
    let mut lines = stderr.lines().peekable();
    let mut panics = Vec::new();
    while let Some((thread, at)) = lines.find_map(panicked) {
        let mut message = Vec::new();
        while let Some(line) = lines.next_if(|line| {
            !line.starts_with("note: run with `RUST_BACKTRACE")
                && panicked(line).is_none()
        }) {
            message.push(line);
        }
        let message = message.join("\n").trim().to_owned();
        let (thread, at) = (thread.to_owned(), at.to_owned());
        panics.push(Panic { thread, message, at });
    }
    panics
}

/// Returns `name' (123)` and `src/lib.rs:4` of the line
/// `thread 'name' (123) panicked at src/lib.rs:4:5:`.
fn panicked(line: &str) -> Option<(&str, &str)> {
    let line = line.strip_prefix("thread '")?;
    let (thread, at) = line.split_once(" panicked at ")?;
    let at = at.strip_suffix(':')?;
    Some((thread, at.rsplit_once(':').map_or(at, |(at, _column)| at)))
}

/// Returns the message of a panic, for a reader who has not read the grader.
fn explained(panic: &Panic) -> String {
    let Panic { message, at, .. } = panic;
    if at.contains("/tests/") {
        return with_named_sides(message);
    }
    if at.contains("/loom-") && message.starts_with("Causality violation") {
        return format!(
            "{message}\n\nNothing orders two accesses to the same value. loom sees \
             only the order that its own types make: take `Arc`, locks and \
             atomics from `crate::model_checked`, not from std. If they are from \
             there, a memory ordering is too weak."
        );
    }
    message.clone()
}

/// Names the sides of a failed `assert_eq!` or `assert_ne!`, unless the grader's
/// message does. The left side of a grader's assertion is what the attempt did.
fn with_named_sides(message: &str) -> String {
    if message.contains("(left)") {
        return message.to_owned();
    }
    let after = |start| message.strip_prefix(start);
    let equal = after("assertion `left == right` failed");
    let unequal = after("assertion `left != right` failed");
    let Some(rest) = equal.or(unequal) else { return message.to_owned() };
    let sides = rest.split_once("\n  left: ");
    let sides = sides.and_then(|(why, sides)| {
        let (left, right) = sides.split_once("\n right: ")?;
        Some((why.strip_prefix(": ").unwrap_or(why), left, right))
    });
    let Some((why, left, right)) = sides else { return message.to_owned() };
    let expected = if equal.is_some() { "expected" } else { "must not be" };
    let width = expected.len();
    format!("{why}\n{:>width$}: {left}\n{expected}: {right}", "seen")
        .trim_start_matches('\n')
        .to_owned()
}

/// Returns why the process of a test ended, if it did not panic.
fn exit_reason(output: &Output) -> String {
    use std::os::unix::process::ExitStatusExt;
    let Some(status) = output.status else { return String::new() };
    if let Some(signal) = status.signal() {
        let overflow = output.stderr.contains("has overflowed its stack");
        let why = if overflow { ": the stack overflowed" } else { "" };
        return format!("the process was killed by signal {signal}{why}");
    }
    if status.success() {
        return "the process exited before the test ended".to_owned();
    }
    let error = output.stderr.lines().find(|line| line.starts_with("Error: "));
    error.map_or_else(
        || format!("the process ended with {status}"),
        str::to_owned,
    )
}

/// Returns the output without the lines of the test harness and the panics.
fn printed(test: &str, output: &Output) -> String {
    let is_of_attempt = |line: &&str| {
        let is_harness = ["", "ok", "FAILED", "failures:", "running 1 test"]
            .contains(line)
            || line.starts_with("test result: ")
            || line.trim_start() == test;
        !is_harness
    };
    // The first line that the test prints follows its name.
    let name = format!("test {test} ... ");
    let stdout = output.stdout.lines();
    let stdout = stdout.map(|line| line.strip_prefix(&*name).unwrap_or(line));
    let stderr =
        output.stderr.lines().take_while(|line| panicked(line).is_none());
    let lines: Vec<_> = stdout.filter(is_of_attempt).chain(stderr).collect();
    lines.join("\n").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_the_harness_is_not_output_of_the_attempt() {
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
    fn the_reason_why_a_program_is_not_tested_is_parsed() {
        let output = |reason: &str| {
            format!(
                "running 1 test\ntest a::b ... {NOT_ASKED_MARKER}{reason}\nok\n"
            )
        };
        let parse =
            |reason: &str| not_asked_reason(&output(reason)).map(str::to_owned);
        assert_eq!(parse(": it ends by itself").unwrap(), "it ends by itself");
        assert_eq!(parse("").unwrap(), "");
        assert_eq!(not_asked_reason("test a::b ... ok\n"), None);
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
    fn a_failed_assertion_names_what_was_seen_and_expected() {
        let message = "assertion `left == right` failed: try 3\n  left: 4\n \
                       right: 5";
        let named = with_named_sides(message);
        assert_eq!(named, "try 3\n    seen: 4\nexpected: 5");
        let message = "assertion `left != right` failed\n  left: 4\n right: 4";
        let named = with_named_sides(message);
        assert_eq!(named, "       seen: 4\nmust not be: 4");
        for message in ["assertion failed: a", "assertion `left == right`", ""]
        {
            assert_eq!(with_named_sides(message), message);
        }
    }

    #[test]
    fn a_race_under_loom_is_explained() {
        let at =
            "/home/a/.cargo/registry/src/b/loom-0.7.2/src/rt/location.rs:1";
        let message =
            "Causality violation: Concurrent read and write accesses.";
        let (message, at) = (message.to_owned(), at.to_owned());
        let panic = Panic { thread: String::new(), message, at };
        assert!(explained(&panic).contains("crate::model_checked"));
    }

    #[test]
    fn an_assertion_of_the_attempt_keeps_its_message() {
        let message = "assertion `left == right` failed\n  left: 4\n right: 5";
        let at = "attempts/week01/backoff.rs:3".to_owned();
        let message = message.to_owned();
        let panic = Panic { thread: String::new(), message, at };
        assert_eq!(explained(&panic), panic.message);
    }

    #[test]
    fn a_panic_on_purpose_is_not_the_cause() {
        let any = "\
thread 'a task' (78) panicked at week03/tests/grade/x.rs:7:9:
Box<dyn Any>
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace

";
        let on_purpose = "\
thread 'a task' (79) panicked at week03/tests/grade/x.rs:8:9:
on purpose: the second of two

";
        let panic =
            cause(&format!("{any}{on_purpose}{PANICS}{on_purpose}")).unwrap();
        assert_eq!(panic.at, "week02/tests/grade/x.rs:12");
        // Without another panic, the first one on purpose is shown.
        let panic = cause(&format!("{on_purpose}{any}")).unwrap();
        assert_eq!(panic.message, "on purpose: the second of two");
        let panic = cause(&format!("{any}{on_purpose}")).unwrap();
        assert_eq!(panic.message, "Box<dyn Any>");
    }

    #[test]
    fn the_panic_for_the_smallest_input_is_the_cause() {
        let panic = |thread: &str, line: u8, message: &str| {
            format!(
                "thread '{thread}' panicked at week01/tests/x.rs:{line}:9:\n\
                 {message}\n\n"
            )
        };
        let end = panic(
            "main",
            9,
            "called `Result::unwrap()` on an `Err` value: Fail(a, b)",
        );
        let message = |cases: &[String]| {
            let cause = cause(&(cases.concat() + &end)).unwrap();
            cause.message
        };
        let case = |line, message| panic("main", line, message);
        let cases = [case(1, "large"), case(2, "small"), case(3, "on purpose")];
        assert_eq!(message(&cases), "small");
        // In each case, the main thread panics after another thread.
        let [large, small] = ["large", "small"].map(|it| panic("t", 1, it));
        let cases = [large, case(2, "joined"), small, case(2, "joined")];
        assert_eq!(message(&cases), "small");
        assert!(message(&[]).ends_with("Fail(a, b)"));
    }

    #[test]
    fn a_todo_is_recognised_by_its_message() {
        let stderr = "thread 'x' panicked at a.rs:1:1:\n\
                      not yet implemented: what is left?\n";
        let panic = cause(stderr).unwrap();
        assert!(panic.is_todo());
        assert_eq!(panic.message, "not yet implemented: what is left?");
    }

    #[test]
    fn stderr_without_a_panic_has_no_cause() {
        assert!(cause("thread 'x' has overflowed its stack\n").is_none());
    }
}
