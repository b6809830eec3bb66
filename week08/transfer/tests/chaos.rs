//! Real processes move money while they are killed.

use std::fs;
use std::io::{BufRead, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lab::servers::Postgres;
use tempfile::TempDir;

const TRANSFERS: &str = "20";
const KILLS: &str = "5";

/// Runs three seeds, one after the other.
fn no_cent_is_lost(pattern: &str) {
    for seed in ["1", "2", "3"] {
        let output = Command::new(env!("CARGO_BIN_EXE_transfer"))
            .args(["--pattern", pattern, "--chaos", seed])
            .args(["--transfers", TRANSFERS, "--crashes", KILLS])
            .output()
            .expect("the program starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        let is_right = output.status.success()
            && text.contains(&format!("\n{KILLS} kills"))
            && text.contains("0 cents lost");
        assert!(
            is_right,
            "expected {KILLS} kills and no lost cent with seed {seed}, got \
             {}:\n{text}{errors}",
            output.status
        );
    }
}

#[test]
#[ignore = "needs postgres"]
fn no_cent_is_lost_with_an_outbox_while_processes_are_killed() {
    no_cent_is_lost("outbox");
}

#[test]
#[ignore = "needs postgres"]
fn no_cent_is_lost_with_log_tailing_while_processes_are_killed() {
    no_cent_is_lost("tail");
}

#[test]
#[ignore = "needs postgres"]
fn no_cent_is_lost_with_half_messages_while_processes_are_killed() {
    no_cent_is_lost("half");
}

#[test]
#[ignore = "needs postgres"]
fn no_cent_is_lost_with_tcc_while_processes_are_killed() {
    no_cent_is_lost("tcc");
}

/// How a run on the server of a user ends early.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// Ctrl-C, while the databases are created.
    InterruptAtStart,
    /// Ctrl-C, while money moves.
    Interrupt,
    Terminate,
    /// The reader of its output ends, as `head` does.
    Close,
    /// The server refuses to create a slot.
    Error,
}

/// Runs the program until `end`, and expects that nothing is left on the server
/// and in the temporary directory.
fn a_run_leaves_nothing(end: End, code: i32, message: &str) {
    let level = if end == End::Error { "replica" } else { "logical" };
    let server = Postgres::start_with(&[&format!("wal_level={level}")]);
    let server = server.expect("it starts");
    let left = "SELECT datname FROM pg_database WHERE datname LIKE 'transfer%'
        UNION ALL SELECT slot_name FROM pg_replication_slots";
    let left = || server.psql(left).expect("the server answers");
    let files = TempDir::new().expect("it is created");
    let mut program = Command::new(env!("CARGO_BIN_EXE_transfer"))
        .args(["--pattern", "tail", "--transfers", "900", "--crashes", "0"])
        .args(["--postgres", &server.url()])
        .env("TMPDIR", files.path())
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A terminal signals the whole group.
        .process_group(0)
        .spawn()
        .expect("the program starts");
    let output = program.stdout.take().expect("it is piped");
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    let signal = |name: &str| {
        let group = format!("-{}", program.id());
        let kill = Command::new("kill").args([name, "--", &group]).status();
        assert!(kill.expect("kill is installed").success(), "the group exists");
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    if end == End::InterruptAtStart {
        while left().is_empty() {
            assert!(Instant::now() < deadline, "no database is created");
        }
        signal("-INT");
    } else if end != End::Error {
        assert!(
            lines.any(|line| line.starts_with("tailer")),
            "a message is received"
        );
        assert_eq!(left().lines().count(), 3, "two databases and a slot");
    }
    match end {
        End::Interrupt => signal("-INT"),
        End::Terminate => signal("-TERM"),
        End::InterruptAtStart | End::Close | End::Error => {}
    }
    if end == End::Close {
        drop(lines);
    } else {
        lines.for_each(drop);
    }
    let mut errors = String::new();
    let stderr = program.stderr.take().expect("it is piped");
    BufReader::new(stderr).read_to_string(&mut errors).expect("it is text");
    let status = program.wait().expect("it has ended");
    assert_eq!(status.code(), Some(code), "exit code after {end:?}: {errors}");
    assert!(errors.contains(message), "expected {message:?}, got: {errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    assert_eq!(left(), "", "databases and slots after {end:?}: {errors}");
    let files: Vec<_> =
        fs::read_dir(files.path()).expect("it exists").collect();
    assert!(files.is_empty(), "left after {end:?}: {files:?}");
}

#[test]
#[ignore = "needs postgres"]
fn ctrl_c_leaves_no_database_and_no_slot() {
    a_run_leaves_nothing(End::Interrupt, 130, "stopped by signal 2");
}

#[test]
#[ignore = "needs postgres"]
fn ctrl_c_while_databases_are_created_leaves_none() {
    a_run_leaves_nothing(End::InterruptAtStart, 130, "stopped by signal 2");
}

#[test]
#[ignore = "needs postgres"]
fn sigterm_leaves_no_database_and_no_slot() {
    a_run_leaves_nothing(End::Terminate, 143, "stopped by signal 15");
}

#[test]
#[ignore = "needs postgres"]
fn a_closed_output_leaves_no_database_and_no_slot() {
    a_run_leaves_nothing(End::Close, 1, "");
}

#[test]
#[ignore = "needs postgres"]
fn a_failed_start_leaves_no_database() {
    a_run_leaves_nothing(End::Error, 1, "wal_level");
}

#[test]
#[ignore = "needs postgres"]
fn a_tailer_connects_again_after_the_server_has_ended_its_connection() {
    let server = Postgres::start_with(&["wal_level=logical"]);
    let server = server.expect("it starts");
    let mut program = Command::new(env!("CARGO_BIN_EXE_transfer"))
        .args(["--pattern", "tail", "--transfers", "60", "--crashes", "0"])
        .args(["--postgres", &server.url()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let output = program.stdout.take().expect("it is piped");
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    let is_at_work = lines.any(|line| line.starts_with("tailer"));
    assert!(is_at_work, "a message is received");
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_replication";
    assert_eq!(server.psql(end).expect("it is ended").trim(), "t");
    let text = lines.collect::<Vec<_>>().join("\n");
    let mut errors = String::new();
    let stderr = program.stderr.take().expect("it is piped");
    BufReader::new(stderr).read_to_string(&mut errors).expect("it is text");
    let status = program.wait().expect("it has ended");
    assert!(status.success(), "{status}:\n{text}\n{errors}");
    assert!(errors.contains("connects again"), "expected a note: {errors}");
    assert!(text.contains(": 0 cents lost"), "{text}");
}

/// The processes of a program that is killed must not go on.
#[test]
#[cfg(target_os = "linux")]
#[ignore = "needs postgres"]
fn processes_end_when_their_parent_is_killed() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_transfer"))
        .args(["--pattern", "outbox", "--transfers", "900", "--crashes", "0"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let output = program.stdout.take().expect("it is piped");
    let lines = BufReader::new(output).lines().map_while(Result::ok);
    let mut accepted = lines.filter(|line| line.starts_with("payment"));
    assert!(accepted.next().is_some(), "a transfer is debited");
    let children = children(program.id());
    assert!(children.len() >= 4, "Kafka and three processes: {children:?}");
    program.kill().expect("it is killed");
    program.wait().expect("it has ended");
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Some(child) = children.iter().find(|child| is_running(**child)) {
        assert!(Instant::now() < deadline, "process {child} still runs");
        thread::yield_now();
    }
}

/// Returns the processes that run the program as children of a process.
#[cfg(target_os = "linux")]
fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    let names =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let ids = names.filter_map(|name| name.parse().ok());
    let is_child = |id: &u32| {
        let stat = stat(*id).unwrap_or_default();
        stat.first().is_some_and(|name| name == "transfer")
            && stat.get(2).is_some_and(|text| *text == parent.to_string())
    };
    ids.filter(is_child).collect()
}

/// A process that no other has waited for has ended, too.
#[cfg(target_os = "linux")]
fn is_running(id: u32) -> bool {
    let stat = stat(id).unwrap_or_default();
    stat.first().is_some_and(|name| name == "transfer")
        && stat.get(1).is_some_and(|state| state != "Z")
}

/// Returns the name of a process, its state, and the id of its parent.
#[cfg(target_os = "linux")]
fn stat(id: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let rest = rest.split_whitespace().take(2).map(str::to_owned);
    Some([name.to_owned()].into_iter().chain(rest).collect())
}
