use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::{fs, io};

use super::program::MEMCACHED;
use super::watched_process::{WatchedProcess, unused_dir};
use super::{RESPONSE_TIMEOUT, START_TIMEOUT, StartError};

/// An empty memcached server for one test.
#[derive(Debug)]
pub struct Memcached {
    server: WatchedProcess,
}

const SOCKET: &str = "memcached.sock";

impl Memcached {
    /// Starts a server with these arguments, and returns when it is ready.
    pub fn start(args: &[&str]) -> Result<Self, StartError> {
        let file = MEMCACHED.find().ok_or(StartError::Missing(&MEMCACHED))?;
        let dir = unused_dir();
        let mut command = vec![file.into_os_string()];
        // As root, it does not start without a user.
        command.extend(["-u", "root", "-s"].map(Into::into));
        command.push(dir.join(SOCKET).into());
        command.extend(args.iter().map(Into::into));

        // `KILL` is safe: the server has nothing to save.
        let mut server = WatchedProcess::spawn(dir, None, "KILL", command)?;
        server.wait_until(MEMCACHED.name, START_TIMEOUT, is_ready)?;
        Ok(Self { server })
    }

    /// Returns the path of the socket that the server listens on.
    pub fn socket(&self) -> PathBuf {
        self.server.dir().join(SOCKET)
    }

    /// Returns what the server has printed. With the argument `-vv`, this begins
    /// with its table of slab classes.
    pub fn log(&self) -> io::Result<String> {
        fs::read_to_string(self.server.dir().join("log"))
    }
}

/// Returns whether the server responds to `version`.
fn is_ready(dir: &Path, _ended: Option<ExitStatus>) -> bool {
    let version = || {
        let mut stream = UnixStream::connect(dir.join(SOCKET))?;
        stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
        stream.write_all(b"version\r\n")?;
        let mut response = [0; 8];
        stream.read_exact(&mut response)?;
        io::Result::Ok(&response == b"VERSION ")
    };
    version().unwrap_or(false)
}
