use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use super::program::REDIS;
use super::watched_process::{WatchedProcess, unused_dir};
use super::{RESPONSE_TIMEOUT, START_TIMEOUT, StartError};

/// An empty Redis server for one test. It writes nothing to disk.
#[derive(Debug)]
pub struct Redis {
    server: WatchedProcess,
}

const SOCKET: &str = "redis.sock";

impl Redis {
    /// Starts a server, and returns when it is ready.
    pub fn start() -> Result<Self, StartError> {
        Self::start_with(&[])
    }

    /// Starts a server with these options, such as `--maxmemory 100mb`, each of
    /// which is two elements.
    pub fn start_with(options: &[&str]) -> Result<Self, StartError> {
        let file = REDIS.find().ok_or(StartError::Missing(&REDIS))?;
        let dir = unused_dir();
        let mut command = vec![file.into_os_string()];
        let args = ["--port", "0", "--save", "", "--appendonly", "no"];
        command.extend(args.map(Into::into));
        command.push("--unixsocket".into());
        command.push(dir.join(SOCKET).into());
        command.extend(options.iter().map(Into::into));

        // `KILL` is safe: the server has nothing to save.
        let mut server = WatchedProcess::spawn(dir, None, "KILL", command)?;
        server.wait_until(REDIS.name, START_TIMEOUT, is_ready)?;
        Ok(Self { server })
    }

    /// Returns the URL for the crate `redis`: `redis+unix:///…`.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// Returns the path of the socket that the server listens on.
    pub fn socket(&self) -> PathBuf {
        self.server.dir().join(SOCKET)
    }
}

/// Returns whether the server responds to `PING`.
fn is_ready(dir: &Path, _ended: Option<ExitStatus>) -> bool {
    let ping = || {
        let mut stream = UnixStream::connect(dir.join(SOCKET))?;
        stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
        stream.write_all(b"PING\r\n")?;
        let mut response = [0; 5];
        stream.read_exact(&mut response)?;
        std::io::Result::Ok(&response == b"+PONG")
    };
    ping().unwrap_or(false)
}
