use std::ffi::OsStr;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use std::{fs, thread};

use super::program::POSTGRES;
use super::watched_process::{User, WatchedProcess, temp_dir, unused_dir};
use super::{RESPONSE_TIMEOUT, START_TIMEOUT, StartError, io_error};

/// A Postgres server for one test, with one empty database and one superuser.
///
/// Both are called `postgres`, and the superuser needs no password. The server
/// does not sync its files, which makes it fast: a crash loses the data.
#[derive(Debug)]
pub struct Postgres {
    server: WatchedProcess,
}

/// Creates the archive of a data directory.
///
/// `initdb` takes seconds, so its result is kept. An archive is one file: it
/// appears complete, by one `rename`. `initdb` creates three databases. Two of
/// them are templates that no test needs. Without them, each start copies only a
/// third of the files.
const MAKE_TEMPLATE: &str = r#"
umask 077
"$2" --no-sync -A trust -U postgres --encoding=UTF8 --locale=C \
    --wal-segsize=1 -D data || exit
"$1" --single -D data postgres <<END || exit
UPDATE pg_database SET datistemplate = false;
DROP DATABASE template0;
DROP DATABASE template1;
END
tar -cf template.tar -C data .
"#;

/// Unpacks the archive, and replaces the shell with Postgres.
const START: &str = r#"
postgres=$1
mkdir -m 700 data && tar -xf "$2" -C data && shift 2 && exec "$postgres" \
    -D data -c listen_addresses= -c unix_socket_directories="$PWD" \
    -c fsync=off -c synchronous_commit=off -c full_page_writes=off "$@"
"#;

/// The signals that stop a server at once.
///
/// `QUIT` stops Postgres without waiting for clients, and Postgres still
/// releases its shared memory. After `KILL` it would not.
///
/// Until the shell is replaced with Postgres, the process may ignore `QUIT`: a
/// script that starts a command with `&` lets the command ignore it. `TERM` ends
/// the process then. Alone, `TERM` would let Postgres wait for its clients.
const STOP_SIGNALS: &str = "TERM QUIT";

impl Postgres {
    /// Starts a server, and returns when it is ready.
    pub fn start() -> Result<Self, StartError> {
        Self::start_with(&[])
    }

    /// Starts a server with these settings, such as `wal_level=logical`.
    pub fn start_with(settings: &[&str]) -> Result<Self, StartError> {
        let file = installed()?;
        let user = user()?;
        let template = template(&file, user)?;
        let mut command = vec![
            "sh".as_ref(),
            "-c".as_ref(),
            START.as_ref(),
            "start".as_ref(),
            file.as_os_str(),
            template.as_os_str(),
        ];
        for setting in settings {
            command.extend(["-c".as_ref(), OsStr::new(setting)]);
        }
        let mut server = WatchedProcess::spawn(
            unused_dir(),
            Some(user),
            STOP_SIGNALS,
            command,
        )?;
        server.wait_until(POSTGRES.name, START_TIMEOUT, is_ready)?;
        Ok(Self { server })
    }

    /// Returns the URL for the crate `sqlx`: `postgres://…`.
    pub fn url(&self) -> String {
        let dir = self.socket_dir().to_string_lossy();
        let host: String = dir.bytes().map(percent_encode).collect();
        format!("postgres://postgres@{host}/postgres")
    }

    /// Returns the directory of the socket, which libpq takes as the host:
    /// `psql -h`.
    pub fn socket_dir(&self) -> &Path {
        self.server.dir()
    }

    /// Returns the path of the socket that the server listens on.
    pub fn socket(&self) -> PathBuf {
        socket(self.socket_dir())
    }

    /// Runs the SQL commands of `script` in `psql`, and returns what they
    /// print: a line for each row, with `|` between the columns.
    ///
    /// # Errors
    ///
    /// When `psql` cannot be started, or a command fails. The error has the
    /// message of `psql`.
    pub fn psql(&self, script: &str) -> io::Result<String> {
        let postgres = POSTGRES.find().ok_or(ErrorKind::NotFound)?;
        let mut psql = Command::new(postgres.with_file_name("psql"))
            .args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"])
            .arg(self.socket_dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = psql.stdin.take().ok_or(ErrorKind::BrokenPipe)?;
        // `psql` may print before it has read the whole script.
        let (sent, output) = thread::scope(|scope| {
            let sent = scope.spawn(move || stdin.write_all(script.as_bytes()));
            let output = psql.wait_with_output();
            (sent.join().unwrap_or(Err(ErrorKind::Other.into())), output)
        });
        let output = output?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(message.into_owned()));
        }
        sent?;
        String::from_utf8(output.stdout).map_err(io::Error::other)
    }
}

/// Creates the archive that servers start from, unless it exists.
pub(super) fn prepare() -> Result<(), StartError> {
    template(&installed()?, user()?).map(drop)
}

fn installed() -> Result<PathBuf, StartError> {
    POSTGRES.find().ok_or(StartError::Missing(&POSTGRES))
}

/// Returns the user that runs Postgres. Postgres refuses to run as root.
fn user() -> Result<User, StartError> {
    let name: &[&str] = if id("-u", &[])? == 0 { &["postgres"] } else { &[] };
    Ok(User { uid: id("-u", name)?, gid: id("-g", name)? })
}

/// Returns the output of `id` for the user `name`, or for the current user.
fn id(option: &str, name: &[&str]) -> Result<u32, StartError> {
    let output = Command::new("id").arg(option).args(name).output();
    let output = output.map_err(io_error("run the program `id`"))?;
    let id = String::from_utf8_lossy(&output.stdout).trim().parse();
    id.map_err(|_| {
        io_error("find the user that runs Postgres")(ErrorKind::NotFound.into())
    })
}

/// Returns the archive of a data directory. Creates it if it does not exist.
fn template(postgres: &Path, user: User) -> Result<PathBuf, StartError> {
    let version = version(postgres)?;
    let script = fnv_1a(MAKE_TEMPLATE);
    let name = format!("wb-postgres-{version}-{}-{script:08x}.tar", user.uid);
    let file = temp_dir().join(name);
    if let Ok(meta) = fs::symlink_metadata(&file)
        && meta.is_file()
        && meta.uid() == user.uid
        && meta.mode() & 0o077 == 0
    {
        return Ok(file);
    }

    let initdb = postgres.with_file_name("initdb");
    let command = [
        "sh".as_ref(),
        "-c".as_ref(),
        MAKE_TEMPLATE.as_ref(),
        "template".as_ref(),
        postgres.as_os_str(),
        initdb.as_os_str(),
    ];
    let mut shell =
        WatchedProcess::spawn(unused_dir(), Some(user), "TERM", command)?;
    let a_minute = Duration::from_secs(60);
    shell.wait_until("initdb", a_minute, |_, ended| {
        ended.is_some_and(|status| status.success())
    })?;
    // If two processes create the archive at the same time, the second rename
    // replaces the file with an equal one.
    fs::rename(shell.dir().join("template.tar"), &file)
        .map_err(io_error("move the archive of the data directory"))?;
    Ok(file)
}

fn version(postgres: &Path) -> Result<String, StartError> {
    let output = Command::new(postgres).arg("--version").output();
    let output = output.map_err(io_error("run `postgres --version`"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // Such as: postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)
    let version = text.split_whitespace().nth(2).unwrap_or("unknown");
    Ok(version.replace('/', "_"))
}

/// Returns a hash of `text`. Unlike the hash of `std`, it is the same in every
/// version of Rust.
fn fnv_1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

fn socket(dir: &Path) -> PathBuf {
    dir.join(".s.PGSQL.5432")
}

/// Returns whether the server accepts a connection. A server that is still
/// starting responds with an error.
///
/// Sends the startup message and `Terminate` at once, so the server closes the
/// connection after its response.
fn is_ready(dir: &Path, _ended: Option<ExitStatus>) -> bool {
    const VERSION_3: u32 = 3 << 16;
    const STARTUP: &[u8] = b"user\0postgres\0database\0postgres\0\0";
    const TERMINATE: [u8; 5] = [b'X', 0, 0, 0, 4];
    const AUTHENTICATION: u8 = b'R';

    let connect = || {
        let mut stream = UnixStream::connect(socket(dir))?;
        stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
        stream.write_all(&(8 + STARTUP.len() as u32).to_be_bytes())?;
        stream.write_all(&VERSION_3.to_be_bytes())?;
        stream.write_all(STARTUP)?;
        stream.write_all(&TERMINATE)?;
        let mut response = Vec::new();
        stream.read_to_end(&mut response)?;
        io::Result::Ok(response.first() == Some(&AUTHENTICATION))
    };
    connect().unwrap_or(false)
}

fn percent_encode(byte: u8) -> String {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    }
}
