//! Measures the memory of keys on an empty server.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lab::servers::Redis;
use redis::{Client, Connection, cmd, pipe};
use tempfile::TempDir;
use week08::memory_per_key::{Info, Measurement, Server};

/// The server that is measured.
pub(crate) enum Source {
    /// The installed `redis-server`, started for each measurement.
    Redis,
    /// This program, started for each measurement.
    Program(PathBuf),
    /// A running server.
    Url(String),
}

/// The keys that are written to the server.
#[derive(Clone, Copy)]
pub(crate) enum Keys {
    /// Strings.
    Strings { key_len: usize, value_len: usize },
    /// Hashes of 100 values each.
    Hashes { key_len: usize, value_len: usize },
}

/// A running server. Dropped, it ends, unless it is somebody else's.
enum Running {
    Redis(Redis),
    Program { child: Child, dir: TempDir },
    Url(String),
}

/// The number of commands that are sent at once.
const BATCH: u64 = 200;

/// The longest wait for a server that starts, and for other clients to leave.
const PATIENCE: Duration = Duration::from_secs(5);

/// Two periods of the server's timer (`hz` is 10): it may enlarge the table.
const TIMER: Duration = Duration::from_millis(200);

/// Writes `number` values, and measures their memory.
pub(crate) fn measure(
    source: &Source,
    number: u64,
    keys: Keys,
) -> Result<(Server, Measurement), Box<dyn Error>> {
    let running = Running::start(source)?;
    let client = Client::open(running.url())?;
    wait_for(|| client.get_connection().is_ok())?;
    let count = |expected: u64| -> Result<u64, Box<dyn Error>> {
        let seen: u64 = cmd("DBSIZE").query(&mut client.get_connection()?)?;
        if seen != expected {
            return Err(format!("expected {expected} keys, got {seen}").into());
        }
        Ok(seen)
    };
    count(0)?;
    // The first call of each command allocates its statistics.
    keys.write(&mut client.get_connection()?, 1, &running)?;
    keys.delete(&mut client.get_connection()?, 1)?;
    count(0)?;
    cmd("MEMORY").arg("PURGE").query::<()>(&mut client.get_connection()?)?;
    info(&client)?;
    let before = info(&client)?;
    keys.write(&mut client.get_connection()?, number, &running)?;
    // Counted by the server: if keys repeat, there are fewer than writes.
    let stored = count(keys.keys(number))?;
    pause(TIMER);
    let after = info(&client)?;
    if let Running::Url(_) = running {
        keys.delete(&mut client.get_connection()?, number)?;
    }
    let (before, after) = (before.used_memory, after);
    let measured =
        Measurement { before, after: after.used_memory, keys: stored };
    Ok((after.server, measured))
}

impl Keys {
    /// Returns how many keys have `number` values.
    fn keys(self, number: u64) -> u64 {
        match self {
            Self::Strings { .. } => number,
            Self::Hashes { .. } => number.div_ceil(100),
        }
    }

    fn name(self, key: u64) -> String {
        let (Self::Strings { key_len, .. } | Self::Hashes { key_len, .. }) =
            self;
        format!("mpk:{key:0len$}", len = key_len - 4)
    }

    fn write(
        self,
        connection: &mut Connection,
        number: u64,
        running: &Running,
    ) -> Result<(), Box<dyn Error>> {
        // Of many commands at once, Valkey parses some ahead. Their arguments
        // leave holes of other sizes in the heap of glibc.
        let batch = match running {
            Running::Program { .. } => 1,
            Running::Redis(_) | Running::Url(_) => BATCH,
        };
        for first in (0..number).step_by(batch as usize) {
            let mut pipe = pipe();
            for value in first..number.min(first + batch) {
                match self {
                    Self::Strings { value_len, .. } => pipe
                        .cmd("SET")
                        .arg(self.name(value))
                        .arg("v".repeat(value_len))
                        .ignore(),
                    Self::Hashes { value_len, .. } => pipe
                        .cmd("HSET")
                        .arg(self.name(value / 100))
                        .arg(format!("{:02}", value % 100))
                        .arg("v".repeat(value_len))
                        .ignore(),
                };
                // A lookup moves a slot of the old table, so that a rehash ends.
                pipe.cmd("EXISTS").arg("mpk:none").ignore();
            }
            pipe.query::<()>(connection)?;
        }
        for _ in (0..number).step_by(BATCH as usize) {
            let mut pipe = pipe();
            for _ in 0..BATCH {
                pipe.cmd("EXISTS").arg("mpk:none").ignore();
            }
            pipe.query::<()>(connection)?;
        }
        Ok(())
    }

    fn delete(
        self,
        connection: &mut Connection,
        number: u64,
    ) -> Result<(), Box<dyn Error>> {
        for key in 0..self.keys(number) {
            cmd("DEL").arg(self.name(key)).query::<()>(connection)?;
        }
        Ok(())
    }
}

impl Running {
    fn start(source: &Source) -> Result<Self, Box<dyn Error>> {
        Ok(match source {
            Source::Redis => Self::Redis(Redis::start()?),
            Source::Url(url) => Self::Url(url.clone()),
            Source::Program(path) => {
                let dir = TempDir::new()?;
                let child = Command::new(path)
                    .args(["--port", "0", "--save", "", "--unixsocket"])
                    .arg(dir.path().join("socket"))
                    .current_dir(&dir)
                    .stdout(Stdio::null())
                    .spawn()?;
                Self::Program { child, dir }
            }
        })
    }

    fn url(&self) -> String {
        match self {
            Self::Redis(redis) => redis.url(),
            Self::Url(url) => url.clone(),
            Self::Program { dir, .. } => {
                format!("redis+unix://{}", dir.path().join("socket").display())
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Self::Program { child, .. } = self {
            // It has nothing to save.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Reads INFO on a new connection, when there is no other: the buffers of a
/// connection count as used memory.
fn info(client: &Client) -> Result<Info, Box<dyn Error>> {
    let mut text = String::new();
    let is_alone = || {
        let Ok(mut connection) = client.get_connection() else { return false };
        text = cmd("INFO").query(&mut connection).unwrap_or_default();
        text.contains("\nconnected_clients:1\r")
    };
    wait_for(is_alone)?;
    Ok(Info::parse(&text)?)
}

fn wait_for(mut condition: impl FnMut() -> bool) -> io::Result<()> {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > PATIENCE {
            let text = "the server does not start, or it has other clients";
            return Err(io::Error::other(text));
        }
        pause(Duration::from_millis(5));
    }
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "it waits for another process")]
fn pause(duration: Duration) {
    thread::sleep(duration);
}
