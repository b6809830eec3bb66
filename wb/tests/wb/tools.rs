//! `demo`, `notes` and `doctor`.

use std::io::{BufRead, BufReader};

use rustix::process::{Pid, Signal, kill_process};

use crate::terminal::{Terminal, exits_soon, is_alive};
use crate::test_workbook::{CommandOutput, TestWorkbook};

#[test]
fn demo_lists_examples_and_runs_one() {
    let book = TestWorkbook::new();
    book.run(&["demo"]).exits_with(0).shows(&[
        "week01  backoff  Prints the waits, or draws them.",
        "`cargo wb demo backoff`",
    ]);
    book.run(&["demo", "backoff"]).exits_with(0).shows(&["10 ms", "1000 ms"]);
    book.run(&["demo", "week01/backoff", "--", "--figure"])
        .exits_with(0)
        .shows(&["<svg><text>40</text></svg>"]);
    book.run(&["demo", "bakcoff"])
        .exits_with(2)
        .in_one_error_line()
        .shows(&["no example `bakcoff`", "did you mean `backoff`?"]);
    book.run(&["demo", "something"])
        .exits_with(2)
        .in_one_error_line()
        .shows(&["`cargo wb demo` lists all examples"]);
}

#[test]
fn an_example_of_several_files_is_a_folder() {
    let book = TestWorkbook::new();
    std::fs::create_dir(book.path("week01/examples/parts")).unwrap();
    book.write(
        "week01/examples/parts/main.rs",
        "//! Has two files.\nmod other;\nfn main() { other::run() }\n",
    );
    let other = "pub fn run() { println!(\"of the other file\") }\n";
    book.write("week01/examples/parts/other.rs", other);
    let listed = "week01  parts    Has two files.";
    book.run(&["demo"]).exits_with(0).shows(&[listed]);
    book.run(&["demo", "parts"]).exits_with(0).shows(&["of the other file"]);
}

#[test]
fn an_example_gets_the_terminal_and_sets_the_exit_code() {
    let book = TestWorkbook::new();
    book.replace(
        "week01/examples/backoff.rs",
        "(0..8).for_each(|n| println!(\"{} ms\", delay(n)));",
        "let mut line = String::new();
        println!(\"your limit?\");
        std::io::stdin().read_line(&mut line).unwrap();
        println!(\"{} or {}\", line.trim(), delay(1));
        std::process::exit(7);",
    );
    let terminal = Terminal::start(&book.command(&["demo", "backoff"]));
    terminal.shows(&["your limit?"]);
    terminal.type_keys("30\n");
    terminal.shows(&["30 or 20"]);
    assert_eq!(terminal.wait_for_exit().0.code(), Some(7));
}

#[test]
fn doctor_lists_installed_and_missing_programs() {
    let book = TestWorkbook::new();
    book.run(&["doctor"]).exits_with(0).shows(&[
        "Rust",
        "cargo 1.",
        "cc",
        "make",
        "postgres",
        "redis-server",
        "clippy",
        "Everything that is needed is installed.",
    ]);

    let bin = book.path_without("make");
    std::fs::remove_file(bin.join("dnf")).ok();
    let doctor = || {
        let mut command = book.command(&["doctor"]);
        CommandOutput::new(command.env("PATH", &bin).output().unwrap())
            .exits_with(1)
    };
    for manager in ["apt-get", "brew"] {
        std::fs::remove_file(bin.join(manager)).ok();
    }
    // Without a package manager, all three commands are shown.
    doctor().shows(&[
        "make          missing  `apt-get install make`",
        "`dnf install make` or `xcode-select --install`",
        "Fix this first",
    ]);
    std::fs::write(bin.join("dnf"), "").unwrap();
    doctor()
        .shows(&["missing  `dnf install make`\n", "Fix this first"])
        .omits("apt-get install make");

    std::fs::remove_file(bin.join("redis-server")).ok();
    doctor().shows(&["redis-server  missing", "dnf install redis"]);
}

#[test]
fn doctor_reports_an_old_rust() {
    let book = TestWorkbook::new();
    let manifest = book.read("Cargo.toml");
    let wanted = "\n[workspace.package]\nrust-version = \"9.9\"\n";
    book.write("Cargo.toml", &format!("{manifest}{wanted}"));
    book.run(&["doctor"]).exits_with(1).shows(&[
        "Rust          too old  `rustup update stable`: 9.9 is needed, found cargo",
        "Fix this first:\n  `rustup update stable`",
    ]);
}

#[test]
fn notes_are_served_until_sigint() {
    let book = TestWorkbook::new();
    let mut wb = book.spawn(&["notes", "--port", "4000"]);
    let mut line = String::new();
    let mut out = BufReader::new(wb.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "The notes: http://127.0.0.1:4000/  (Ctrl-C to stop)\n");
    let server = book.read("notes/pid");
    assert!(is_alive(&server), "the notes' server does not run");
    kill_process(Pid::from_child(&wb), Signal::INT).unwrap();
    assert_eq!(wb.wait().unwrap().code(), Some(130));
    assert!(exits_soon(&server), "the notes' server {server} still runs");
}

#[test]
fn an_error_of_the_notes_server_is_reported() {
    let book = TestWorkbook::new();
    book.replace(
        "notes/src/main.rs",
        "println!(",
        "eprintln!(\"notes: port 4000 is taken\"); std::process::exit(2); \
         #[expect(unreachable_code)] println!(",
    );
    book.run(&["notes", "--port", "4000"])
        .exits_with(2)
        .in_one_error_line()
        .shows(&["the notes' server has ended", "port 4000 is taken"]);
}
