//! Bad input, and bad luck: one clear line, and nothing is lost.

use std::io::{BufRead, BufReader};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::process::{Pid, Signal, kill_process};

use crate::mini::{Mini, Said};
use crate::tty::is_alive;

#[test]
fn an_unknown_exercise_is_told_its_nearest() {
    let mini = Mini::new();
    mini.wb(&["start", "bakcoff"])
        .ends_with(2)
        .in_one_line()
        .shows(&["no exercise `bakcoff`", "did you mean `backoff`?"]);
    mini.wb(&["check", "something_else"])
        .ends_with(2)
        .in_one_line()
        .shows(&["`cargo wb list` shows all"]);
    mini.wb(&["verify", "week09"])
        .ends_with(2)
        .in_one_line()
        .shows(&["no week `week09`", "week01"]);
}

#[test]
fn an_attempt_that_vanished_is_started_again() {
    let mini = Mini::new();
    mini.wb(&["start", "backoff"]).ends_with(0);
    fs::remove_file(mini.path("attempts/week01/backoff.rs")).unwrap();
    mini.wb(&["check"])
        .ends_with(2)
        .in_one_line()
        .shows(&["there is no", "`cargo wb start backoff`"]);
    mini.wb(&["reset", "backoff"])
        .ends_with(2)
        .in_one_line()
        .shows(&["`cargo wb start backoff`"]);
}

#[test]
fn outside_a_workbook_it_says_where_to_go() {
    let elsewhere = tempfile::tempdir().unwrap();
    let mini = Mini::new();
    let output =
        mini.command(&[]).current_dir(elsewhere.path()).output().unwrap();
    Said::new(output)
        .ends_with(2)
        .in_one_line()
        .shows(&["no workbook", "`cd`"]);

    let inside = mini.path("week01/src");
    let output = mini.command(&[]).current_dir(inside).output().unwrap();
    Said::new(output).ends_with(0);
}

#[test]
fn a_mistake_in_a_toml_is_named_by_its_line() {
    let mini = Mini::new();
    let toml = "week01/exercises/pause.toml";
    mini.change(toml, "minutes = 10", "minuets = 10");
    mini.wb(&[]).ends_with(2).in_one_line().shows(&[
        "week01/exercises/pause.toml:4: unknown field `minuets`",
        "expected",
        "`minutes`",
    ]);
    mini.change(toml, "minuets = 10", "minutes = \"ten\"");
    mini.wb(&[])
        .ends_with(2)
        .in_one_line()
        .shows(&["pause.toml:4:", "expected u32"]);
    mini.change(toml, "minutes = \"ten\"\n", "");
    mini.wb(&[]).ends_with(2).in_one_line().shows(&["missing field `minutes`"]);
    mini.change(toml, "title = ", "title ");
    mini.wb(&[]).ends_with(2).in_one_line().shows(&["pause.toml:1:"]);
}

#[test]
fn the_workbooks_own_mistakes_are_not_the_attempts() {
    let mini = Mini::new();
    mini.attempt("10");
    mini.change("week01/src/pause.rs", "failures > 0", "failures");
    mini.wb(&["check", "backoff"]).ends_with(2).shows(&[
        "the workbook itself does not build",
        "week01/src/pause.rs",
        "`cargo test -p week01`",
    ]);
}

#[test]
fn a_reader_who_has_seen_enough_is_no_trouble() {
    let mini = Mini::new();
    mini.attempt("10");
    for (arguments, code) in [(vec!["hint", "backoff"], 0), (vec!["check"], 1)]
    {
        let mut command = mini.command(&arguments);
        // Nobody reads from this pipe.
        let (_, closed) = std::io::pipe().unwrap();
        let status = command.stdout(closed).status().unwrap();
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
    mini.wb(&["hint", "backoff"]).shows(&["Hint 2 of 3"]);
}

#[test]
fn a_tree_that_cannot_be_written_is_said_to_be_so() {
    let mini = Mini::new();
    // Where the stub should go is a file, which also stops the superuser.
    fs::remove_dir_all(mini.path("attempts/week01")).unwrap();
    fs::write(mini.path("attempts/week01"), "").unwrap();
    mini.wb(&["start", "backoff"])
        .ends_with(2)
        .in_one_line()
        .shows(&["cannot write", "attempts/week01/backoff.rs"]);
}

#[test]
fn of_two_at_once_one_waits_and_says_so() {
    let mini = Mini::new();
    mini.wb(&["start", "pause"]).ends_with(0);
    mini.attempt(WAITS);
    let mut first = mini.start(&["check", "backoff"]);
    appears(&mini, "attempts/week01/pid");

    let mut second = mini.start(&["check", "pause"]);
    let mut line = String::new();
    BufReader::new(second.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let id = first.id();
    assert!(line.contains(&format!("process {id}")), "{line}");
    assert!(line.contains(&format!("`kill {id}`")), "{line}");
    // What needs no grading does not wait.
    mini.wb(&["hint", "backoff"]).ends_with(0);

    interrupt(first.id(), Signal::TERM);
    first.wait().unwrap();
    assert_eq!(second.wait().unwrap().code(), Some(1), "the stub is graded");
}

#[test]
fn ctrl_c_leaves_no_process() {
    for (signal, code) in
        [(Signal::INT, 130), (Signal::QUIT, 131), (Signal::TERM, 143)]
    {
        let mini = Mini::new();
        mini.attempt(WAITS);
        let check = mini.start(&["check", "backoff"]);
        let test = appears(&mini, "attempts/week01/pid");
        interrupt(check.id(), signal);
        Said::new(check.wait_with_output().unwrap()).ends_with(code);
        let deadline = Instant::now() + Duration::from_secs(5);
        while is_alive(&test) {
            assert!(Instant::now() < deadline, "process {test} is left");
            thread::yield_now();
        }
    }
}

#[test]
fn what_is_graded_does_not_inherit_ignored_signals() {
    let mini = Mini::new();
    let wb = mini.command(&["check", "backoff"]);
    for (signal, number) in [("HUP", 1), ("INT", 2), ("QUIT", 3)] {
        mini.attempt(&format!(
            r#"use std::process::{{Command, id}};
    let kill = format!("kill -{signal} {{}}", id());
    Command::new("sh").args(["-c", &kill]).status().unwrap();
    loop {{ std::hint::black_box(n); std::thread::park() }}"#
        ));
        // As under `nohup`, or behind a `&` in a script.
        let mut script = Command::new("sh");
        script
            .args(["-c", r#"trap '' HUP INT QUIT; exec "$0" "$@""#])
            .arg(wb.get_program())
            .args(wb.get_args())
            .current_dir(wb.get_current_dir().unwrap())
            .envs(wb.get_envs().filter_map(|(name, new)| Some((name, new?))))
            .env_remove("WB_SUBJECT");
        Said::new(script.output().unwrap())
            .ends_with(1)
            .shows(&[&format!("killed by signal {number}")]);
    }
}

/// Says which process it runs in, and waits.
const WAITS: &str = r#"
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/pid");
    let new = format!("{file}.{}", std::process::id());
    std::fs::write(&new, std::process::id().to_string()).unwrap();
    std::fs::rename(new, file).unwrap();
    loop { std::hint::black_box(n); std::thread::park() }"#;

fn appears(mini: &Mini, file: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !mini.path(file).exists() {
        assert!(Instant::now() < deadline, "{file} does not appear");
        thread::yield_now();
    }
    mini.read(file)
}

fn interrupt(id: u32, signal: Signal) {
    let id = Pid::from_raw(id.cast_signed()).unwrap();
    kill_process(id, signal).unwrap();
}
