//! A process in a directory of its own, both gone when their owner is.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio, id};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use super::{StartError, failed_to};

/// Who runs a process.
#[derive(Debug, Clone, Copy)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// A running process, its directory, and the shell that outlives both.
#[derive(Debug)]
pub(super) struct Guarded {
    /// Its `stdin` is the pipe that only we can write to.
    process: Child,
    dir: PathBuf,
}

/// The shell makes the directory, leaves a guard behind and becomes the process:
/// we may be killed at any moment, as all that we make is the shell. The guard
/// reads until our end of the pipe is closed. The process and its children hold
/// `alive` open: when nobody does, all of them have ended. The guard's own output
/// ends last of all: it exits by itself, because `rm` would close it while still
/// running.
const GUARD: &str = r#"
dir=$1 signals=$2
shift 2
mkdir -m 700 "$dir" && cd "$dir" || exit
mkfifo alive || { rm -r "$dir"; exit 1; }
exec 3<&0
(
    exec 4<alive
    while read -r _; do :; done <&3
    for signal in $signals CONT; do kill -s "$signal" $$; done
    cat <&4
    cd / && rm -rf "$dir"
    exit
) 2>/dev/null &
exec "$@" 3<&- 4>alive </dev/null >log 2>&1
"#;

/// The path of a directory to come, short enough for that of a socket in it.
pub(super) fn unused_dir() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = COUNT.fetch_add(1, Relaxed);
        let dir = env::temp_dir().join(format!("wb-{}-{n}", id()));
        // One that somebody makes from now on fails the shell's `mkdir`.
        if fs::symlink_metadata(&dir).is_err() {
            return dir;
        }
    }
}

impl Guarded {
    /// Starts `command` in a new directory that nobody else can read, to be
    /// ended by `signals`, one after the other.
    pub(super) fn spawn<A: AsRef<OsStr>>(
        dir: PathBuf,
        user: Option<User>,
        signals: &str,
        command: impl IntoIterator<Item = A>,
    ) -> Result<Self, StartError> {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", GUARD, "guard"])
            .arg(&dir)
            .arg(signals)
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for the test: its end is what the guard waits for.
            .process_group(0);
        if let Some(User { uid, gid }) = user {
            shell.uid(uid).gid(gid);
        }
        let process = shell.spawn().map_err(failed_to("start a shell"))?;
        Ok(Self { process, dir })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
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
            if ready(&self.dir, ended) {
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

    fn log(&mut self) -> String {
        let log = fs::read(self.dir.join("log")).unwrap_or_else(|_| {
            // The shell came to no log, and says why.
            let mut said = Vec::new();
            if let Some(mut shell) = self.process.stderr.take() {
                _ = shell.read_to_end(&mut said);
            }
            said
        });
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
