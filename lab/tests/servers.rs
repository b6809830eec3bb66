//! What `lab::servers` promises.

#![cfg(unix)]

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, id};
use std::time::{Duration, Instant};
use std::{env, thread};

use lab::servers::{self, PROGRAMS, Postgres, Program, Redis, StartError};

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
    if is_again() {
        let (socket, _server) = start();
        println!("\nsocket={}", socket.display());
        // The parent's end of the pipe is never written to.
        _ = std::io::stdin().read(&mut [0]);
        return;
    }

    let mut child = again(test)
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
    wait_until("all is gone", || what_is_left(&socket).is_none());
}

#[test]
#[ignore = "needs postgres"]
fn nothing_is_left_of_postgres_when_the_test_is_killed_early() {
    const TEST: &str =
        "nothing_is_left_of_postgres_when_the_test_is_killed_early";
    if is_again() {
        _ = Postgres::start();
        return;
    }
    let temp = Temp::new("early");
    // First `initdb` runs, and then `tar`.
    for _ in 0..2 {
        let before = temp.files();
        // As in a script that runs `cargo test &`.
        let mut child = Command::new("sh")
            .args(["-c", r#"trap "" INT QUIT; exec "$@""#, "sh"])
            .arg(env::current_exe().unwrap())
            .args(["--include-ignored", "--exact", TEST])
            .env(AGAIN, "yes")
            .env("TMPDIR", &temp.dir)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("something is there", || temp.files() != before);
        child.kill().unwrap();
        child.wait().unwrap();
        wait_until("all is gone", || temp.files() == before);
        succeeds(again(PREPARE).env("TMPDIR", &temp.dir));
    }
}

const PREPARE: &str = "what_is_prepared_is_kept_and_not_made_again";

#[test]
#[ignore = "needs postgres"]
fn what_is_prepared_is_kept_and_not_made_again() {
    if is_again() {
        servers::prepare(Program::named("postgres").unwrap()).unwrap();
        return;
    }
    let temp = Temp::new("prepare");
    let prepare = || {
        succeeds(again(PREPARE).env("TMPDIR", &temp.dir));
        let files = temp.files();
        assert_eq!(files.len(), 1, "{files:?}");
        (fs::metadata(&files[0]).unwrap().modified().unwrap(), files)
    };
    assert_eq!(prepare(), prepare());
}

#[test]
fn a_server_that_ends_at_once_says_why() {
    if is_again() {
        let error = Redis::start().unwrap_err().to_string();
        assert!(error.contains("ended with exit status: 7"), "{error}");
        assert!(error.contains("out of luck"), "{error}");
        return;
    }
    let temp = Temp::new("ends");
    let server = temp.dir.join("redis-server");
    fs::write(&server, "#!/bin/sh\necho out of luck; exit 7\n").unwrap();
    fs::set_permissions(&server, Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", temp.dir.display(), env::var("PATH").unwrap());
    let mut again = again("a_server_that_ends_at_once_says_why");
    succeeds(again.env("PATH", path));
}

#[test]
#[ignore = "needs redis-server"]
fn a_directory_that_cannot_be_made_is_named() {
    if is_again() {
        let error = Redis::start().unwrap_err().to_string();
        assert!(error.contains("no-such-dir/wb-"), "{error}");
        return;
    }
    let mut again = again("a_directory_that_cannot_be_made_is_named");
    succeeds(again.env("TMPDIR", "/no-such-dir"));
}

/// Set in a process that [`again`] has started.
const AGAIN: &str = "LAB_RUNS_A_TEST_AGAIN";

/// Runs `test` in a process of its own, which knows by [`is_again`].
fn again(test: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--include-ignored", "--nocapture", "--exact", test])
        .env(AGAIN, "yes");
    command
}

fn is_again() -> bool {
    env::var_os(AGAIN).is_some()
}

#[track_caller]
fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
}

/// A directory for temporary files, also of other users, gone when dropped.
struct Temp {
    dir: PathBuf,
}

impl Temp {
    fn new(name: &str) -> Self {
        let dir = env::temp_dir().join(format!("lab-{name}-{}", id()));
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o1777)).unwrap();
        Self { dir }
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.dir).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.dir);
    }
}

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        thread::park_timeout(Duration::from_millis(2));
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
    command_lines().into_iter().find(|line| line.contains(dir))
}

/// Of all processes, and whole: `ps` cuts them unless told otherwise.
fn command_lines() -> Vec<String> {
    let Ok(processes) = fs::read_dir("/proc") else {
        let output = Command::new("ps").args(["-ww", "-eo", "args"]).output();
        let lines = String::from_utf8(output.unwrap().stdout).unwrap();
        return lines.lines().map(str::to_owned).collect();
    };
    let lines = processes.filter_map(|process| {
        // Not all there are processes, and some end meanwhile.
        let line = fs::read(process.unwrap().path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.collect()
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
