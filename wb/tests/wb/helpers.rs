//! What stands beside the exercises: the examples, the notes, and what this
//! machine has.

use std::io::{BufRead, BufReader};

use rustix::process::{Pid, Signal, kill_process};

use crate::mini::{Mini, Said};
use crate::tty::{Tty, is_alive, is_gone};

#[test]
fn demo_lists_the_examples_and_runs_one() {
    let mini = Mini::new();
    mini.wb(&["demo"]).ends_with(0).shows(&[
        "week01  backoff  Prints the waits, or draws them.",
        "`cargo wb demo backoff`",
    ]);
    mini.wb(&["demo", "backoff"]).ends_with(0).shows(&["10 ms", "1000 ms"]);
    mini.wb(&["demo", "week01/backoff", "--", "--figure"])
        .ends_with(0)
        .shows(&["<svg><text>40</text></svg>"]);
    mini.wb(&["demo", "bakcoff"])
        .ends_with(2)
        .in_one_line()
        .shows(&["no example `bakcoff`", "did you mean `backoff`?"]);
    mini.wb(&["demo", "something"])
        .ends_with(2)
        .in_one_line()
        .shows(&["`cargo wb demo` lists them"]);
}

#[test]
fn an_example_ends_as_it_likes_and_has_the_terminal_to_itself() {
    let mini = Mini::new();
    mini.change(
        "week01/examples/backoff.rs",
        "(0..8).for_each(|n| println!(\"{} ms\", delay(n)));",
        "let mut line = String::new();
        println!(\"yours?\");
        std::io::stdin().read_line(&mut line).unwrap();
        println!(\"{} or {}\", line.trim(), delay(1));
        std::process::exit(7);",
    );
    let tty = Tty::start(&mini.command(&["demo", "backoff"]));
    tty.shows(&["yours?"]);
    tty.types("30\n");
    tty.shows(&["30 or 20"]);
    assert_eq!(tty.ends().0.code(), Some(7));
}

#[test]
fn the_doctor_says_what_is_here_and_what_is_not() {
    let mini = Mini::new();
    mini.wb(&["doctor"]).ends_with(0).shows(&[
        "Rust",
        "cargo 1.",
        "cc",
        "make",
        "postgres",
        "redis-server",
        "clippy",
        "All that is needed is here.",
    ]);

    let bin = mini.path_without("make");
    std::fs::remove_file(bin.join("dnf")).ok();
    let doctor = || {
        let mut command = mini.command(&["doctor"]);
        Said::new(command.env("PATH", &bin).output().unwrap()).ends_with(1)
    };
    for manager in ["apt-get", "brew"] {
        std::fs::remove_file(bin.join(manager)).ok();
    }
    // Whatever the machine: all three ways.
    doctor().shows(&[
        "make          missing  `apt-get install make`",
        "`dnf install make` or `xcode-select --install`",
        "First of all",
    ]);
    std::fs::write(bin.join("dnf"), "").unwrap();
    doctor()
        .shows(&["missing  `dnf install make`\n", "First of all"])
        .hides("apt-get install make");

    std::fs::remove_file(bin.join("redis-server")).ok();
    doctor().shows(&["redis-server  missing", "dnf install redis"]);
}

#[test]
fn the_doctor_wants_a_rust_that_is_new_enough() {
    let mini = Mini::new();
    let manifest = mini.read("Cargo.toml");
    let wanted = "\n[workspace.package]\nrust-version = \"9.9\"\n";
    mini.write("Cargo.toml", &format!("{manifest}{wanted}"));
    mini.wb(&["doctor"]).ends_with(1).shows(&[
        "Rust          too old  `rustup update stable`: 9.9 is needed",
        "First of all:\n  `rustup update stable`",
    ]);
}

#[test]
fn the_notes_are_served_until_one_ends_them() {
    let mini = Mini::new();
    let mut wb = mini.start(&["notes", "--port", "4000"]);
    let mut line = String::new();
    let mut out = BufReader::new(wb.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "The notes: http://127.0.0.1:4000/  (Ctrl-C ends it)\n");
    let server = mini.read("notes/pid");
    assert!(is_alive(&server));
    kill_process(Pid::from_child(&wb), Signal::INT).unwrap();
    assert_eq!(wb.wait().unwrap().code(), Some(130));
    assert!(is_gone(&server), "process {server} is left");
}

#[test]
fn notes_that_are_not_served_say_why() {
    let mini = Mini::new();
    mini.change(
        "notes/src/main.rs",
        "println!(",
        "eprintln!(\"notes: port 4000 is taken\"); std::process::exit(2); \
         #[expect(unreachable_code)] println!(",
    );
    mini.wb(&["notes", "--port", "4000"])
        .ends_with(2)
        .in_one_line()
        .shows(&["the notes are not served", "port 4000 is taken"]);
}
