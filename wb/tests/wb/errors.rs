//! Errors and signals: each error is one clear line, and no work is lost.

use std::io::{BufRead, BufReader};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::process::{Pid, Signal, kill_process};

use crate::terminal::is_alive;
use crate::test_workbook::{CommandOutput, TestWorkbook};

#[test]
fn an_unknown_name_gets_a_suggestion() {
    let book = TestWorkbook::new();
    book.run(&["start", "bakcoff"])
        .exits_with(2)
        .in_one_error_line()
        .shows(&["no exercise `bakcoff`", "did you mean `backoff`?"]);
    book.run(&["check", "something_else"])
        .exits_with(2)
        .in_one_error_line()
        .shows(&["`cargo wb list` shows all"]);
    book.run(&["verify", "week09"])
        .exits_with(2)
        .in_one_error_line()
        .shows(&["no week `week09`", "week01"]);
}

#[test]
fn a_missing_attempt_is_reported_with_the_start_command() {
    let book = TestWorkbook::new();
    book.run(&["start", "backoff"]).exits_with(0);
    fs::remove_file(book.path("attempts/week01/backoff.rs")).unwrap();
    book.run(&["check"])
        .exits_with(2)
        .in_one_error_line()
        .shows(&["there is no", "`cargo wb start backoff`"]);
    book.run(&["reset", "backoff"])
        .exits_with(2)
        .in_one_error_line()
        .shows(&["`cargo wb start backoff`"]);
}

#[test]
fn a_folder_outside_a_workbook_is_reported() {
    let elsewhere = tempfile::tempdir().unwrap();
    let book = TestWorkbook::new();
    let output =
        book.command(&[]).current_dir(elsewhere.path()).output().unwrap();
    CommandOutput::new(output)
        .exits_with(2)
        .in_one_error_line()
        .shows(&["no workbook", "`cd`"]);

    let inside = book.path("week01/src");
    let output = book.command(&[]).current_dir(inside).output().unwrap();
    CommandOutput::new(output).exits_with(0);
}

#[test]
fn a_toml_error_is_reported_with_its_line() {
    let book = TestWorkbook::new();
    let toml = "week01/exercises/pause.toml";
    book.replace(toml, "minutes = 10", "minuets = 10");
    book.run(&[]).exits_with(2).in_one_error_line().shows(&[
        "week01/exercises/pause.toml:4: unknown field `minuets`",
        "expected",
        "`minutes`",
    ]);
    book.replace(toml, "minuets = 10", "minutes = \"ten\"");
    book.run(&[])
        .exits_with(2)
        .in_one_error_line()
        .shows(&["pause.toml:4:", "expected u32"]);
    book.replace(toml, "minutes = \"ten\"\n", "");
    book.run(&[])
        .exits_with(2)
        .in_one_error_line()
        .shows(&["missing field `minutes`"]);
    book.replace(toml, "title = ", "title ");
    book.run(&[]).exits_with(2).in_one_error_line().shows(&["pause.toml:1:"]);
}

#[test]
fn a_build_error_of_the_workbook_is_not_blamed_on_the_attempt() {
    let book = TestWorkbook::new();
    book.write_attempt("10");
    book.replace("week01/src/pause.rs", "failures > 0", "failures");
    book.run(&["check", "backoff"]).exits_with(2).shows(&[
        "the workbook itself does not build",
        "week01/src/pause.rs",
        "`cargo test -p week01`",
    ]);
}

#[test]
fn a_closed_stdout_is_not_an_error() {
    let book = TestWorkbook::new();
    book.write_attempt("10");
    for (arguments, code) in [(vec!["hint", "backoff"], 0), (vec!["check"], 1)]
    {
        let mut command = book.command(&arguments);
        // The reading end of this pipe is closed.
        let (_, closed) = std::io::pipe().unwrap();
        let status = command.stdout(closed).status().unwrap();
        assert_eq!(status.code(), Some(code), "exit code of {arguments:?}");
    }
    book.run(&["hint", "backoff"]).shows(&["Hint 2 of 3"]);
}

#[test]
fn a_failed_write_is_reported_with_its_file() {
    let book = TestWorkbook::new();
    // The folder of the attempts is a file: even root cannot write below it.
    fs::remove_dir_all(book.path("attempts/week01")).unwrap();
    fs::write(book.path("attempts/week01"), "").unwrap();
    book.run(&["start", "backoff"])
        .exits_with(2)
        .in_one_error_line()
        .shows(&["cannot write", "attempts/week01/backoff.rs"]);
}

#[test]
fn a_second_check_waits_and_names_the_process_of_the_first() {
    let book = TestWorkbook::new();
    book.run(&["start", "pause"]).exits_with(0);
    book.write_attempt(BLOCKING_BODY);
    let mut first = book.spawn(&["check", "backoff"]);
    wait_for_file(&book, "attempts/week01/pid");

    let mut second = book.spawn(&["check", "pause"]);
    let mut line = String::new();
    BufReader::new(second.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let id = first.id();
    assert!(line.contains(&format!("process {id}")), "seen: {line}");
    assert!(line.contains(&format!("`kill {id}`")), "seen: {line}");
    // A command that grades nothing does not wait.
    book.run(&["hint", "backoff"]).exits_with(0);

    send_signal(first.id(), Signal::TERM);
    first.wait().unwrap();
    assert_eq!(
        second.wait().unwrap().code(),
        Some(1),
        "exit code of the second check, which grades the stub"
    );
}

#[test]
fn a_signal_stops_the_running_test() {
    for (signal, code) in
        [(Signal::INT, 130), (Signal::QUIT, 131), (Signal::TERM, 143)]
    {
        let book = TestWorkbook::new();
        book.write_attempt(BLOCKING_BODY);
        let check = book.spawn(&["check", "backoff"]);
        let test = wait_for_file(&book, "attempts/week01/pid");
        send_signal(check.id(), signal);
        CommandOutput::new(check.wait_with_output().unwrap()).exits_with(code);
        let deadline = Instant::now() + Duration::from_secs(5);
        while is_alive(&test) {
            assert!(
                Instant::now() < deadline,
                "process {test} still runs after the signal"
            );
            thread::yield_now();
        }
    }
}

#[test]
fn a_graded_test_does_not_inherit_ignored_signals() {
    let book = TestWorkbook::new();
    let wb = book.command(&["check", "backoff"]);
    for (signal, number) in [("HUP", 1), ("INT", 2), ("QUIT", 3)] {
        book.write_attempt(&format!(
            r#"use std::process::{{Command, id}};
    let kill = format!("kill -{signal} {{}}", id());
    Command::new("sh").args(["-c", &kill]).status().unwrap();
    loop {{ std::hint::black_box(n); std::thread::park() }}"#
        ));
        // A shell ignores signals like this for `nohup`, or for `&` in a script.
        let mut script = Command::new("sh");
        script
            .args(["-c", r#"trap '' HUP INT QUIT; exec "$0" "$@""#])
            .arg(wb.get_program())
            .args(wb.get_args())
            .current_dir(wb.get_current_dir().unwrap())
            .envs(wb.get_envs().filter_map(|(name, new)| Some((name, new?))))
            .env_remove("WB_SUBJECT");
        CommandOutput::new(script.output().unwrap())
            .exits_with(1)
            .shows(&[&format!("killed by signal {number}")]);
    }
}

/// The body of an attempt that writes its process id to a file and blocks.
const BLOCKING_BODY: &str = r#"
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/pid");
    let new = format!("{file}.{}", std::process::id());
    std::fs::write(&new, std::process::id().to_string()).unwrap();
    std::fs::rename(new, file).unwrap();
    loop { std::hint::black_box(n); std::thread::park() }"#;

/// Waits until `file` exists, and returns its text.
fn wait_for_file(book: &TestWorkbook, file: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !book.path(file).exists() {
        assert!(
            Instant::now() < deadline,
            "{file} does not exist after the deadline"
        );
        thread::yield_now();
    }
    book.read(file)
}

fn send_signal(id: u32, signal: Signal) {
    let id = Pid::from_raw(id.cast_signed()).unwrap();
    kill_process(id, signal).unwrap();
}
