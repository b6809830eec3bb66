use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use super::guarded::{Guarded, unused_dir};
use super::program::REDIS;
use super::{ANSWER, DEADLINE, StartError};

/// A Redis of one's own, empty, that writes nothing to disk.
#[derive(Debug)]
pub struct Redis {
    server: Guarded,
}

const SOCKET: &str = "redis.sock";

impl Redis {
    /// Starts a server, and returns when it answers.
    pub fn start() -> Result<Self, StartError> {
        let file = REDIS.find().ok_or(StartError::Missing(&REDIS))?;
        let dir = unused_dir();
        let mut command = vec![file.into_os_string()];
        let args = ["--port", "0", "--save", "", "--appendonly", "no"];
        command.extend(args.map(Into::into));
        command.push("--unixsocket".into());
        command.push(dir.join(SOCKET).into());

        // It keeps nothing, so nothing is lost.
        let mut server = Guarded::spawn(dir, None, "KILL", command)?;
        server.wait_until(REDIS.name, DEADLINE, answers)?;
        Ok(Self { server })
    }

    /// `redis+unix:///…`, as the crate `redis` reads it.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// The socket on which it listens.
    pub fn socket(&self) -> PathBuf {
        self.server.dir().join(SOCKET)
    }
}

fn answers(dir: &Path, _ended: Option<ExitStatus>) -> bool {
    let ping = || {
        let mut stream = UnixStream::connect(dir.join(SOCKET))?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer)?;
        std::io::Result::Ok(&answer == b"+PONG")
    };
    ping().unwrap_or(false)
}
