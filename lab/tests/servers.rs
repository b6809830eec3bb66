//! Tests of `lab::servers`.

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

use lab::servers::{
    self, Memcached, PROGRAMS, Postgres, Program, Redis, StartError,
};

#[test]
fn the_error_for_a_missing_program_names_its_packages() {
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
fn named_returns_the_program_with_this_name() {
    for program in PROGRAMS {
        assert_eq!(Program::named(program.name), Some(program));
    }
    assert_eq!(Program::named("no-such-server"), None);
}

#[test]
#[ignore = "needs redis-server"]
fn two_redis_servers_share_no_data() {
    let (first, second) = (Redis::start().unwrap(), Redis::start().unwrap());

    assert_eq!(redis(&first.socket(), "SET key one"), "+OK");
    assert_eq!(redis(&second.socket(), "EXISTS key"), ":0");
    assert_eq!(redis(&first.socket(), "STRLEN key"), ":3");
    let url = format!("redis+unix://{}", first.socket().display());
    assert_eq!(first.url(), url);
}

#[test]
#[ignore = "needs memcached"]
fn two_memcached_servers_share_no_data() {
    let start = || Memcached::start(&["-m", "4", "-vv"]).unwrap();
    let (first, second) = (start(), start());

    let set = "set key 0 0 3\r\none";
    assert_eq!(redis(&first.socket(), set), "STORED");
    assert_eq!(redis(&second.socket(), "get key"), "END");
    assert_eq!(redis(&first.socket(), "get key"), "VALUE key 0 3");
    assert_contains(&first.log().unwrap(), "slab class   1: chunk size");
    let socket = first.socket();
    drop(first);
    assert_cleaned_up(&socket);
}

#[test]
#[ignore = "needs postgres"]
fn two_postgres_servers_share_no_data() {
    let (first, second) =
        (Postgres::start().unwrap(), Postgres::start().unwrap());

    postgres(&first.socket(), "CREATE TABLE marks (mark TEXT)");
    let count = "SELECT 'tables: ' || count(*) FROM pg_tables \
                 WHERE tablename = 'marks'";
    let response = postgres(&first.socket(), count);
    assert_contains(&response, "tables: 1");
    let response = postgres(&second.socket(), count);
    assert_contains(&response, "tables: 0");
    let url = first.url();
    assert!(
        url.starts_with("postgres://postgres@%2F"),
        "expected the user `postgres` and a socket directory, got {url}"
    );
}

#[test]
#[ignore = "needs postgres"]
fn postgres_has_its_settings_and_psql_returns_rows_or_the_error() {
    let server = Postgres::start_with(&["wal_level=logical"]).unwrap();
    let rows = server.psql("SHOW wal_level; SELECT 1, NULL, 'a b'").unwrap();
    assert_eq!(rows, "logical\n1||a b\n");
    let error = server.psql("SELECT 1; SELECT nothing").unwrap_err();
    assert!(error.to_string().contains("\"nothing\""), "{error}");
}

#[test]
#[ignore = "needs redis-server"]
fn redis_leaves_no_process_or_directory_after_a_drop_or_a_panic() {
    let server = Redis::start().unwrap();
    let socket = server.socket();
    drop(server);
    assert_cleaned_up(&socket);

    let mut socket = PathBuf::new();
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let server = Redis::start().unwrap();
        socket = server.socket();
        panic!("on purpose");
    }));
    assert!(panic.is_err());
    assert_cleaned_up(&socket);
}

#[test]
#[ignore = "needs postgres"]
fn postgres_leaves_no_process_or_directory_after_a_drop_or_a_panic() {
    let server = Postgres::start().unwrap();
    let socket = server.socket();
    // A connected client does not delay the drop.
    let _client = connect(&socket);
    drop(server);
    assert_cleaned_up(&socket);

    let mut socket = PathBuf::new();
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let server = Postgres::start().unwrap();
        socket = server.socket();
        panic!("on purpose");
    }));
    assert!(panic.is_err());
    assert_cleaned_up(&socket);
}

#[test]
#[ignore = "needs redis-server"]
fn redis_leaves_no_process_or_directory_when_the_test_is_killed() {
    assert_cleaned_up_when_killed(
        "redis_leaves_no_process_or_directory_when_the_test_is_killed",
        || {
            let server = Redis::start().unwrap();
            (server.socket(), server)
        },
    );
}

#[test]
#[ignore = "needs postgres"]
fn postgres_leaves_no_process_or_directory_when_the_test_is_killed() {
    assert_cleaned_up_when_killed(
        "postgres_leaves_no_process_or_directory_when_the_test_is_killed",
        || {
            let server = Postgres::start().unwrap();
            (server.socket(), server)
        },
    );
}

/// Runs `test` again in a child process, which starts a server, prints the path
/// of its socket, and waits until it is killed. Then checks that the server is
/// cleaned up.
fn assert_cleaned_up_when_killed<S>(
    test: &str,
    start: impl FnOnce() -> (PathBuf, S),
) {
    if is_rerun() {
        let (socket, _server) = start();
        println!("\nsocket={}", socket.display());
        // Blocks: the parent writes nothing to the pipe.
        _ = std::io::stdin().read(&mut [0]);
        return;
    }

    let mut child = rerun(test)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let socket = stdout
        .lines()
        .find_map(|line| Some(line.unwrap().strip_prefix("socket=")?.into()));
    let socket: PathBuf = socket.expect("the child should print `socket=`");
    UnixStream::connect(&socket).expect("the server should be running");

    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the server is cleaned up", || leftover(&socket).is_none());
}

#[test]
#[ignore = "needs postgres"]
fn postgres_is_cleaned_up_when_the_test_is_killed_during_startup() {
    const TEST: &str =
        "postgres_is_cleaned_up_when_the_test_is_killed_during_startup";
    if is_rerun() {
        _ = Postgres::start();
        return;
    }
    let temp = TempDir::new("startup");
    // The first start runs `initdb`, the second one `tar`.
    for _ in 0..2 {
        let before = temp.files();
        // Ignore signals as a script does that runs `cargo test &`.
        let mut child = Command::new("sh")
            .args(["-c", r#"trap "" INT QUIT; exec "$@""#, "sh"])
            .arg(env::current_exe().unwrap())
            .args(["--include-ignored", "--exact", TEST])
            .env(RERUN, "yes")
            .env("TMPDIR", &temp.dir)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the server creates a file", || temp.files() != before);
        child.kill().unwrap();
        child.wait().unwrap();
        wait_until("the server is cleaned up", || temp.files() == before);
        assert_success(rerun(PREPARE).env("TMPDIR", &temp.dir));
    }
}

const PREPARE: &str = "prepare_creates_the_postgres_archive_only_once";

#[test]
#[ignore = "needs postgres"]
fn prepare_creates_the_postgres_archive_only_once() {
    if is_rerun() {
        servers::prepare(Program::named("postgres").unwrap()).unwrap();
        return;
    }
    let temp = TempDir::new("prepare");
    let prepare = || {
        assert_success(rerun(PREPARE).env("TMPDIR", &temp.dir));
        let files = temp.files();
        assert_eq!(files.len(), 1, "expected only the archive, got {files:?}");
        (fs::metadata(&files[0]).unwrap().modified().unwrap(), files)
    };
    assert_eq!(prepare(), prepare());
}

#[test]
fn the_error_for_a_server_that_exits_at_once_contains_its_log() {
    const TEST: &str =
        "the_error_for_a_server_that_exits_at_once_contains_its_log";
    if is_rerun() {
        let error = Redis::start().unwrap_err().to_string();
        assert_contains(&error, "ended with exit status: 7");
        assert_contains(&error, "the disk is full");
        return;
    }
    let temp = TempDir::new("exits");
    let server = temp.dir.join("redis-server");
    fs::write(&server, "#!/bin/sh\necho the disk is full; exit 7\n").unwrap();
    fs::set_permissions(&server, Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", temp.dir.display(), env::var("PATH").unwrap());
    assert_success(rerun(TEST).env("PATH", path));
}

#[test]
#[ignore = "needs redis-server"]
fn the_error_names_a_directory_that_cannot_be_created() {
    const TEST: &str = "the_error_names_a_directory_that_cannot_be_created";
    if is_rerun() {
        let error = Redis::start().unwrap_err().to_string();
        assert_contains(&error, "no-such-dir/wb-");
        return;
    }
    assert_success(rerun(TEST).env("TMPDIR", "/no-such-dir"));
}

/// Set in a process that [`rerun`] starts.
const RERUN: &str = "LAB_TEST_RERUN";

/// Returns a command that runs `test` in a new process. In that process,
/// [`is_rerun`] returns `true`.
fn rerun(test: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--include-ignored", "--nocapture", "--exact", test])
        .env(RERUN, "yes");
    command
}

fn is_rerun() -> bool {
    env::var_os(RERUN).is_some()
}

#[track_caller]
fn assert_success(command: &mut Command) {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    let status = output.status;
    assert!(status.success(), "expected success, got {status}:\n{error}");
}

#[track_caller]
fn assert_contains(text: &str, part: &str) {
    assert!(text.contains(part), "expected {part:?} in {text:?}");
}

/// A directory that every user can write to. It is removed on drop.
struct TempDir {
    dir: PathBuf,
}

impl TempDir {
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

impl Drop for TempDir {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.dir);
    }
}

#[track_caller]
fn wait_until(condition: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "expected within 30 s: {condition}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

#[track_caller]
fn assert_cleaned_up(socket: &Path) {
    assert_eq!(leftover(socket), None, "a path or command line");
}

/// Returns the directory of `socket` if it exists, or the command line of a
/// process that contains its path.
fn leftover(socket: &Path) -> Option<String> {
    let dir = socket.parent().unwrap().to_str().unwrap();
    if Path::new(dir).exists() {
        return Some(dir.to_owned());
    }
    command_lines().into_iter().find(|line| line.contains(dir))
}

/// Returns the command lines of all processes. (Without `-ww`, `ps` cuts them.)
fn command_lines() -> Vec<String> {
    let Ok(processes) = fs::read_dir("/proc") else {
        let output = Command::new("ps").args(["-ww", "-eo", "args"]).output();
        let lines = String::from_utf8(output.unwrap().stdout).unwrap();
        return lines.lines().map(str::to_owned).collect();
    };
    let lines = processes.filter_map(|process| {
        // Skip entries that are not processes, and processes that have ended.
        let line = fs::read(process.unwrap().path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.collect()
}

/// Sends one command, and returns the first line of the response.
fn redis(socket: &Path, command: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "{command}\r\n").unwrap();
    BufReader::new(stream).lines().next().unwrap().unwrap()
}

/// Sends one statement, and returns the whole response of Postgres, unparsed.
fn postgres(socket: &Path, statement: &str) -> String {
    let mut stream = connect(socket);
    let length = statement.len() as u32 + 5;
    stream.write_all(b"Q").unwrap();
    stream.write_all(&length.to_be_bytes()).unwrap();
    stream.write_all(statement.as_bytes()).unwrap();
    stream.write_all(b"\0X\0\0\0\x04").unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).unwrap();
    String::from_utf8_lossy(&response).into_owned()
}

/// Connects to Postgres, and sends the startup message.
fn connect(socket: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    let startup = b"\0\0\0\x29\0\x03\0\0user\0postgres\0database\0postgres\0\0";
    stream.write_all(startup).unwrap();
    stream
}
