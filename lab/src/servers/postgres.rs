use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;
use std::{env, fs};

use super::guarded::{Guarded, User, unused_dir};
use super::program::POSTGRES;
use super::{ANSWER, DEADLINE, StartError, failed_to};

/// A Postgres of one's own, with one empty database and one superuser, whom it
/// trusts: both are called `postgres`. It is fast, as it survives no crash.
#[derive(Debug)]
pub struct Postgres {
    server: Guarded,
}

/// `initdb` takes seconds, so what it makes is kept in an archive: a single file
/// is there whole, or not at all. Two of its three databases are templates that
/// no test needs, and two thirds of the files that each start would copy.
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

const START: &str = r#"
mkdir -m 700 data && tar -xf "$2" -C data && exec "$1" -D data \
    -c listen_addresses= -c unix_socket_directories="$PWD" \
    -c fsync=off -c synchronous_commit=off -c full_page_writes=off
"#;

/// `QUIT` ends it at once, and still gives its shared memory back: `KILL` would
/// not. Until it is Postgres, the process may ignore `QUIT`, as all do that a
/// script starts with `&`: hence `TERM`, which alone would wait for clients.
const IMMEDIATELY: &str = "TERM QUIT";

impl Postgres {
    /// Starts a server, and returns when it answers.
    pub fn start() -> Result<Self, StartError> {
        let file = installed()?;
        let user = user()?;
        let template = template(&file, user)?;
        let command = [
            "sh".as_ref(),
            "-c".as_ref(),
            START.as_ref(),
            "start".as_ref(),
            file.as_os_str(),
            template.as_os_str(),
        ];
        let mut server =
            Guarded::spawn(unused_dir(), Some(user), IMMEDIATELY, command)?;
        server.wait_until(POSTGRES.name, DEADLINE, answers)?;
        Ok(Self { server })
    }

    /// `postgres://…`, as the crate `sqlx` reads it.
    pub fn url(&self) -> String {
        let dir = self.socket_dir().to_string_lossy();
        let host: String = dir.bytes().map(percent_encode).collect();
        format!("postgres://postgres@{host}/postgres")
    }

    /// The directory of its socket, as libpq wants it: `psql -h`.
    pub fn socket_dir(&self) -> &Path {
        self.server.dir()
    }

    /// The socket on which it listens.
    pub fn socket(&self) -> PathBuf {
        socket(self.socket_dir())
    }
}

/// Makes the archive that servers start from, unless it is there.
pub(super) fn prepare() -> Result<(), StartError> {
    template(&installed()?, user()?).map(drop)
}

fn installed() -> Result<PathBuf, StartError> {
    POSTGRES.find().ok_or(StartError::Missing(&POSTGRES))
}

/// Who runs Postgres, which refuses to run as root.
fn user() -> Result<User, StartError> {
    let who: &[&str] = if id("-u", &[])? == 0 { &["postgres"] } else { &[] };
    Ok(User { uid: id("-u", who)?, gid: id("-g", who)? })
}

fn id(what: &str, who: &[&str]) -> Result<u32, StartError> {
    let output = Command::new("id").arg(what).args(who).output();
    let output = output.map_err(failed_to("ask for a user"))?;
    let id = String::from_utf8_lossy(&output.stdout).trim().parse();
    id.map_err(|_| {
        failed_to("find the user who runs Postgres")(ErrorKind::NotFound.into())
    })
}

/// The archive of a data directory, made by whoever comes first.
fn template(postgres: &Path, user: User) -> Result<PathBuf, StartError> {
    let version = version(postgres)?;
    let script = fnv_1a(MAKE_TEMPLATE);
    let name = format!("wb-postgres-{version}-{}-{script:08x}.tar", user.uid);
    let file = env::temp_dir().join(name);
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
    let mut making = Guarded::spawn(unused_dir(), Some(user), "TERM", command)?;
    let a_minute = Duration::from_secs(60);
    making.wait_until("initdb", a_minute, |_, ended| {
        ended.is_some_and(|status| status.success())
    })?;
    // Two may do so at once: the later one replaces a file by its like.
    fs::rename(making.dir().join("template.tar"), &file)
        .map_err(failed_to("keep what initdb made"))?;
    Ok(file)
}

fn version(postgres: &Path) -> Result<String, StartError> {
    let output = Command::new(postgres).arg("--version").output();
    let output = output.map_err(failed_to("ask for the version"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)
    let version = text.split_whitespace().nth(2).unwrap_or("unknown");
    Ok(version.replace('/', "_"))
}

/// Tells scripts apart. Unlike that of `std`, it never changes.
fn fnv_1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

fn socket(dir: &Path) -> PathBuf {
    dir.join(".s.PGSQL.5432")
}

/// Connects and takes leave in one breath, and reads what is left to say. A
/// server that is still starting answers with an error.
fn answers(dir: &Path, _ended: Option<ExitStatus>) -> bool {
    const VERSION_3: u32 = 3 << 16;
    const HELLO: &[u8] = b"user\0postgres\0database\0postgres\0\0";
    const BYE: [u8; 5] = [b'X', 0, 0, 0, 4];
    const AUTHENTICATION: u8 = b'R';

    let greet = || {
        let mut stream = UnixStream::connect(socket(dir))?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(&(8 + HELLO.len() as u32).to_be_bytes())?;
        stream.write_all(&VERSION_3.to_be_bytes())?;
        stream.write_all(HELLO)?;
        stream.write_all(&BYE)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        std::io::Result::Ok(answer.first() == Some(&AUTHENTICATION))
    };
    greet().unwrap_or(false)
}

fn percent_encode(byte: u8) -> String {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    }
}
