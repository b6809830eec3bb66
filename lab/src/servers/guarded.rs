//! A process in a directory of its own, both gone when their owner is.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio, id};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use super::{StartError, failed_to};

/// A user other than ours.
#[derive(Debug, Clone, Copy)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// A private directory for one process.
#[derive(Debug)]
pub(super) struct Home {
    dir: PathBuf,
    user: Option<User>,
}

/// A running process, its directory, and the shell that outlives both.
#[derive(Debug)]
pub(super) struct Guarded {
    /// Its `stdin` is the pipe that only we can write to.
    process: Child,
    home: Home,
}

/// The shell becomes the process, but first leaves a guard behind, so that
/// there is no moment without one. The guard reads until our end of the pipe is
/// closed. The process and its children hold `alive` open: when nobody does,
/// all of them have ended. The guard's own output ends last of all: it exits
/// by itself, because `rm` would close it while still running.
const GUARD: &str = r#"
dir=$1 signal=$2
shift 2
mkfifo alive || exit
exec 3<&0
(
    exec 4<alive
    while read -r _; do :; done <&3
    kill -s "$signal" $$
    kill -s CONT $$
    cat <&4
    cd / && rm -rf "$dir"
    exit
) &
exec "$@" 3<&- 4>alive </dev/null >&2
"#;

impl Home {
    /// A new directory that nobody else can read, with a name short enough for
    /// the path of a socket.
    pub(super) fn new() -> Result<Self, StartError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        loop {
            let n = COUNT.fetch_add(1, Relaxed);
            let dir = env::temp_dir().join(format!("wb-{}-{n}", id()));
            match DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => return Ok(Self { dir, user: None }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(failed_to("make a directory")(error));
                }
            }
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The user to whom the directory belongs.
    pub(super) fn uid(&self) -> Result<u32, StartError> {
        let meta = fs::metadata(&self.dir);
        Ok(meta.map_err(failed_to("read a directory"))?.uid())
    }

    /// Gives the directory, and the process to come, to somebody else.
    pub(super) fn give_to(mut self, user: User) -> Result<Self, StartError> {
        chown(&self.dir, Some(user.uid), Some(user.gid))
            .map_err(failed_to("give a directory away"))?;
        self.user = Some(user);
        Ok(self)
    }

    /// Starts `command`, which `signal` will end.
    pub(super) fn spawn<A: AsRef<OsStr>>(
        self,
        signal: &str,
        command: impl IntoIterator<Item = A>,
    ) -> Result<Guarded, StartError> {
        let log = File::create(self.dir.join("log"))
            .map_err(failed_to("make a log file"))?;
        let mut shell = Command::new("sh");
        shell
            .args(["-c", GUARD, "guard"])
            .arg(&self.dir)
            .arg(signal)
            .args(command)
            .current_dir(&self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C is for the test: its end is what the guard waits for.
            .process_group(0);
        if let Some(User { uid, gid }) = self.user {
            shell.uid(uid).gid(gid);
        }
        let process = shell.spawn().map_err(failed_to("start a shell"))?;
        Ok(Guarded { process, home: self })
    }
}

impl Drop for Home {
    /// For one that was never used. A guard has removed the others.
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.dir);
    }
}

impl Guarded {
    pub(super) fn dir(&self) -> &Path {
        self.home.dir()
    }

    /// Waits until `ready`, which is told of a process that has ended. If it is
    /// never ready, says what became of it.
    pub(super) fn wait_until(
        &mut self,
        program: &'static str,
        within: Duration,
        mut ready: impl FnMut(&Path, Option<ExitStatus>) -> bool,
    ) -> Result<(), StartError> {
        let deadline = Instant::now() + within;
        let outcome = loop {
            let ended = self.process.try_wait();
            let ended = ended.map_err(failed_to("wait for a process"))?;
            if ready(self.dir(), ended) {
                return Ok(());
            }
            if let Some(status) = ended {
                break format!("ended with {status}");
            }
            if Instant::now() > deadline {
                break format!("was not ready within {within:?}");
            }
            thread::park_timeout(Duration::from_millis(2));
        };
        Err(StartError::Failed { program, outcome, log: self.log() })
    }

    fn log(&self) -> String {
        let log = fs::read(self.dir().join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Guarded {
    /// Returns when process and directory are gone.
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        _ = self.process.wait();
        if let Some(mut guard) = self.process.stdout.take() {
            _ = guard.read_to_end(&mut Vec::new());
        }
    }
}
