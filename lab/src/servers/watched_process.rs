//! A child process and its directory. Both are removed when the owner drops the
//! process, and when the owner dies.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio, id};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use super::{StartError, io_error};

/// The user and the group that run a process.
#[derive(Debug, Clone, Copy)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// A running process, its directory, and the watchdog that removes both.
#[derive(Debug)]
pub(super) struct WatchedProcess {
    /// Its `stdin` is the only write end of the watchdog's pipe.
    child: Child,
    dir: PathBuf,
}

/// Creates the directory, starts the watchdog in the background, and replaces
/// the shell with the process.
///
/// The test's process creates nothing but this shell. So it may be killed at any
/// moment, and the watchdog still cleans up.
///
/// The watchdog reads from its pipe until the write end is closed, and then
/// sends the signals. The process and its children have `alive` open for
/// writing: `cat` returns when all of them have ended. The watchdog's standard
/// output is closed last, because the owner waits for that. So the watchdog ends
/// with `exit`. If `rm` were its last command, the shell would replace itself
/// with `rm`, which closes its standard output before it ends.
const WATCHDOG: &str = r#"
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

/// Returns the directory that servers keep their files in: `TMPDIR` if it is set,
/// else a file system in memory if there is a large one, else the usual one.
///
/// A Postgres data directory has some 400 files. ext4 takes longer to create and
/// delete them than Postgres takes to start.
pub(super) fn temp_dir() -> PathBuf {
    let in_memory = || {
        let mounts = fs::read_to_string("/proc/mounts").ok()?;
        let is_large = mounts.lines().any(is_large_shm);
        is_large.then(|| PathBuf::from("/dev/shm"))
    };
    match env::var_os("TMPDIR") {
        Some(_) => env::temp_dir(),
        None => in_memory().unwrap_or_else(env::temp_dir),
    }
}

/// Whether a line of `/proc/mounts` is that of a writable `/dev/shm` of at least
/// 1 GiB. In a container it often has 64 MiB: two or three servers fill it.
fn is_large_shm(mount: &str) -> bool {
    let mut fields = mount.split(' ');
    let (_, point, kind) = (fields.next(), fields.next(), fields.next());
    let mut options = fields.next().unwrap_or_default().split(',');
    let is_writable = options.clone().any(|option| option == "rw");
    let size = options.find_map(|option| option.strip_prefix("size="));
    let kib = size.and_then(|size| size.strip_suffix('k')?.parse::<u64>().ok());
    (point, kind) == (Some("/dev/shm"), Some("tmpfs"))
        && is_writable
        // Without the option it is half of the memory.
        && kib.is_none_or(|kib| kib >= 1 << 20)
}

/// Returns a path for a new directory. It is short enough for the path of a
/// socket in that directory.
pub(super) fn unused_dir() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = COUNT.fetch_add(1, Relaxed);
        let dir = temp_dir().join(format!("wb-{}-{n}", id()));
        // If another process creates it after this check, `mkdir` fails.
        if fs::symlink_metadata(&dir).is_err() {
            return dir;
        }
    }
}

impl WatchedProcess {
    /// Starts `command` in the new directory `dir`, which no other user can
    /// read. `signals` are sent in this order to stop the process.
    pub(super) fn spawn<A: AsRef<OsStr>>(
        dir: PathBuf,
        user: Option<User>,
        signals: &str,
        command: impl IntoIterator<Item = A>,
    ) -> Result<Self, StartError> {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(&dir)
            .arg(signals)
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C must reach only the test. The watchdog waits for the end
            // of the test.
            .process_group(0);
        if let Some(User { uid, gid }) = user {
            shell.uid(uid).gid(gid);
        }
        let child = shell.spawn().map_err(io_error("start a shell"))?;
        Ok(Self { child, dir })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Waits until `ready` returns `true`. `ready` gets the directory and, if
    /// the process has ended, its exit status.
    ///
    /// Returns an error with the log if the process ends, or `limit` has passed,
    /// and `ready` still returns `false`.
    pub(super) fn wait_until(
        &mut self,
        program: &'static str,
        limit: Duration,
        mut ready: impl FnMut(&Path, Option<ExitStatus>) -> bool,
    ) -> Result<(), StartError> {
        let deadline = Instant::now() + limit;
        let outcome = loop {
            let ended = self.child.try_wait();
            let ended = ended.map_err(io_error("wait for a process"))?;
            if ready(&self.dir, ended) {
                return Ok(());
            }
            if let Some(status) = ended {
                break format!("ended with {status}");
            }
            if Instant::now() > deadline {
                break format!("was not ready within {limit:?}");
            }
            thread::park_timeout(Duration::from_millis(2));
        };
        Err(StartError::Failed { program, outcome, log: self.log() })
    }

    /// Returns the last lines of the log.
    fn log(&mut self) -> String {
        let log = fs::read(self.dir.join("log")).unwrap_or_else(|_| {
            // The shell failed before it created the log. Its standard error
            // has the reason.
            let mut message = Vec::new();
            if let Some(mut stderr) = self.child.stderr.take() {
                _ = stderr.read_to_end(&mut message);
            }
            message
        });
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for WatchedProcess {
    /// Returns when the process has ended and the directory is removed.
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        _ = self.child.wait();
        if let Some(mut watchdog) = self.child.stdout.take() {
            _ = watchdog.read_to_end(&mut Vec::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_large_shm;

    #[test]
    fn a_small_or_read_only_shm_is_not_used() {
        let shm = |options| format!("tmpfs /dev/shm tmpfs {options} 0 0");
        assert!(is_large_shm(&shm("rw,nosuid,nodev")));
        assert!(is_large_shm(&shm("rw,relatime,size=1048576k")));
        assert!(!is_large_shm(&shm("rw,nosuid,size=65536k")));
        assert!(!is_large_shm(&shm("ro,nosuid,nodev")));
        assert!(!is_large_shm("tmpfs /run tmpfs rw,nosuid,nodev 0 0"));
        assert!(!is_large_shm("/dev/vda /dev/shm ext4 rw 0 0"));
    }
}
