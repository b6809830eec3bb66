//! What `lab::servers` promises.

#![cfg(unix)]

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lab::servers::{PROGRAMS, Postgres, Program, Redis, StartError};

#[test]
fn a_missing_program_is_named_with_its_package() {
    static PROGRAM: Program = Program {
        name: "no-such-server",
        debian: "no-such",
        fedora: "none-such",
        homebrew: "nonesuch",
    };
    assert_eq!(PROGRAM.find(), None);
    assert_eq!(
        StartError::Missing(&PROGRAM).to_string(),
        "no-such-server is not installed: apt-get install no-such \
         (Fedora: none-such, Homebrew: nonesuch)"
    );
}

#[test]
fn a_program_is_found_by_what_stands_after_needs() {
    for program in PROGRAMS {
        assert_eq!(Program::named(program.name), Some(program));
    }
    assert_eq!(Program::named("no-such-server"), None);
}

#[test]
#[ignore = "needs redis-server"]
fn two_redis_at_once_are_separate() {
    let (one, two) = (Redis::start().unwrap(), Redis::start().unwrap());

    assert_eq!(redis(&one.socket(), "SET key one"), "+OK");
    assert_eq!(redis(&two.socket(), "EXISTS key"), ":0");
    assert_eq!(redis(&one.socket(), "STRLEN key"), ":3");
    assert_eq!(one.url(), format!("redis+unix://{}", one.socket().display()));
}

#[test]
#[ignore = "needs postgres"]
fn two_postgres_at_once_are_separate() {
    let (one, two) = (Postgres::start().unwrap(), Postgres::start().unwrap());

    postgres(&one.socket(), "CREATE TABLE marks (mark TEXT)");
    let count = "SELECT 'tables: ' || count(*) FROM pg_tables \
                 WHERE tablename = 'marks'";
    let answer = postgres(&one.socket(), count);
    assert!(answer.contains("tables: 1"), "{answer:?}");
    let answer = postgres(&two.socket(), count);
    assert!(answer.contains("tables: 0"), "{answer:?}");
    assert!(one.url().starts_with("postgres://postgres@%2F"), "{}", one.url());
}

#[test]
#[ignore = "needs redis-server"]
fn nothing_is_left_of_redis_after_a_drop_or_a_panic() {
    let server = Redis::start().unwrap();
    let socket = server.socket();
    drop(server);
    assert_gone(&socket);

    let mut socket = PathBuf::new();
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let server = Redis::start().unwrap();
        socket = server.socket();
        panic!("on purpose");
    }));
    assert!(panic.is_err());
    assert_gone(&socket);
}

#[test]
#[ignore = "needs postgres"]
fn nothing_is_left_of_postgres_after_a_drop_or_a_panic() {
    let server = Postgres::start().unwrap();
    let socket = server.socket();
    // A client that is still there changes nothing.
    let _client = greet(&socket);
    drop(server);
    assert_gone(&socket);

    let mut socket = PathBuf::new();
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let server = Postgres::start().unwrap();
        socket = server.socket();
        panic!("on purpose");
    }));
    assert!(panic.is_err());
    assert_gone(&socket);
}

#[test]
#[ignore = "needs redis-server"]
fn nothing_is_left_of_redis_when_the_test_is_killed() {
    nothing_is_left_when_killed(
        "nothing_is_left_of_redis_when_the_test_is_killed",
        || {
            let server = Redis::start().unwrap();
            (server.socket(), server)
        },
    );
}

#[test]
#[ignore = "needs postgres"]
fn nothing_is_left_of_postgres_when_the_test_is_killed() {
    nothing_is_left_when_killed(
        "nothing_is_left_of_postgres_when_the_test_is_killed",
        || {
            let server = Postgres::start().unwrap();
            (server.socket(), server)
        },
    );
}

/// Runs `test` again in a process of its own, which starts a server, says where
/// and waits to be killed.
fn nothing_is_left_when_killed<S>(
    test: &str,
    start: impl FnOnce() -> (PathBuf, S),
) {
    const GATE: &str = "LAB_WAITS_TO_BE_KILLED";
    if env::var_os(GATE).is_some() {
        let (socket, _server) = start();
        println!("\nsocket={}", socket.display());
        // The parent's end of the pipe is never written to.
        _ = std::io::stdin().read(&mut [0]);
        return;
    }

    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--include-ignored", "--nocapture", "--exact", test])
        .env(GATE, "yes")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let socket = stdout
        .lines()
        .find_map(|line| Some(line.unwrap().strip_prefix("socket=")?.into()));
    let socket: PathBuf = socket.expect("the child names its socket");
    assert!(UnixStream::connect(&socket).is_ok(), "it answers");

    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Some(left) = what_is_left(&socket) {
        assert!(Instant::now() < deadline, "still there: {left}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

#[track_caller]
fn assert_gone(socket: &Path) {
    assert_eq!(what_is_left(socket), None);
}

/// The directory, or a process that names it on its command line.
fn what_is_left(socket: &Path) -> Option<String> {
    let dir = socket.parent().unwrap().to_str().unwrap();
    if Path::new(dir).exists() {
        return Some(dir.to_owned());
    }
    let output = Command::new("ps").args(["-eo", "args"]).output().unwrap();
    let processes = String::from_utf8(output.stdout).unwrap();
    processes.lines().find(|line| line.contains(dir)).map(str::to_owned)
}

/// One command and the first line of its answer.
fn redis(socket: &Path, command: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "{command}\r\n").unwrap();
    BufReader::new(stream).lines().next().unwrap().unwrap()
}

/// All that Postgres answers to one statement, as it comes.
fn postgres(socket: &Path, statement: &str) -> String {
    let mut stream = greet(socket);
    let length = statement.len() as u32 + 5;
    stream.write_all(b"Q").unwrap();
    stream.write_all(&length.to_be_bytes()).unwrap();
    stream.write_all(statement.as_bytes()).unwrap();
    stream.write_all(b"\0X\0\0\0\x04").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn greet(socket: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    let hello = b"\0\0\0\x29\0\x03\0\0user\0postgres\0database\0postgres\0\0";
    stream.write_all(hello).unwrap();
    stream
}
