//! Child processes, each in a process group of its own. A group is stopped as a
//! whole: at its deadline, when it is dropped, and when this command ends.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{
    Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio,
};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{mem, panic, thread};

use rustix::io::retry_on_intr;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::Error;
use crate::terminal::fullscreen;

/// All running groups. The lock is held while a process is spawned, so that
/// [`stop_all`] misses none.
static GROUPS: Mutex<BTreeMap<i32, StopSignal>> = Mutex::new(BTreeMap::new());

/// How many bytes of an output are kept from its start, and how many from its
/// end, where the result of the test is. The bytes in between are dropped.
const OUTPUT_LIMIT: usize = 512 * 1024;

/// How long to wait for the end of the output after its process has ended. It
/// takes longer only if a process in another group has inherited the pipe.
const OUTPUT_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a group may take to end after SIGTERM. SIGKILL follows.
const TERM_TIMEOUT: Duration = Duration::from_secs(2);

/// A child process, and all processes that it starts in its process group. They
/// are stopped on drop.
#[derive(Debug)]
pub(crate) struct Group {
    child: Child,
    pid: Pid,
    stop_signal: StopSignal,
}

/// The signal that stops a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StopSignal {
    Kill,
    /// SIGTERM, for another `cargo wb`, which then stops its own groups. SIGKILL
    /// would leave those running.
    Term,
}

/// The output and the exit status of a process.
#[derive(Debug)]
pub(crate) struct Output {
    /// `None` if the process still ran at the deadline.
    pub(crate) status: Option<ExitStatus>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Group {
    /// Spawns `command` with its output in pipes.
    pub(crate) fn piped(command: &mut Command) -> Result<Self, Error> {
        Self::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
    }

    /// Spawns `command`, which is another `cargo wb`, with its output in pipes.
    pub(crate) fn piped_wb(command: &mut Command) -> Result<Self, Error> {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::start(command, StopSignal::Term)
    }

    /// Spawns `command` without input.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self, Error> {
        Self::start(command, StopSignal::Kill)
    }

    fn start(
        command: &mut Command,
        stop_signal: StopSignal,
    ) -> Result<Self, Error> {
        let mut groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
        let child =
            command.stdin(Stdio::null()).process_group(0).spawn().map_err(
                |error| {
                    let program = command.get_program().to_string_lossy();
                    Error::new(format!("cannot start `{program}`: {error}"))
                },
            )?;
        let pid = Pid::from_child(&child);
        groups.insert(pid.as_raw_pid(), stop_signal);
        Ok(Self { child, pid, stop_signal })
    }

    #[cfg(test)]
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    pub(crate) fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("stdout is piped, and taken once")
    }

    pub(crate) fn stderr(&mut self) -> ChildStderr {
        self.child.stderr.take().expect("stderr is piped, and taken once")
    }

    /// Waits until the child ends. Then stops the rest of its group.
    pub(crate) fn wait(mut self) -> io::Result<ExitStatus> {
        ends_within(self.pid, None);
        self.stop();
        self.child.wait()
    }

    /// Collects the output of the child until it ends, or until `deadline`,
    /// when the group is stopped.
    pub(crate) fn output(mut self, deadline: Duration) -> Output {
        let stdout = collect(self.stdout());
        let stderr = collect(self.stderr());
        let has_ended = ends_within(self.pid, Some(deadline));
        self.stop();
        let status = self.child.wait().ok().filter(|_| has_ended);
        let collected = |text: mpsc::Receiver<String>| {
            text.recv_timeout(OUTPUT_TIMEOUT).unwrap_or_default()
        };
        Output { status, stdout: collected(stdout), stderr: collected(stderr) }
    }

    fn stop(&self) {
        if self.stop_signal == StopSignal::Term {
            let _ = rustix::process::kill_process(self.pid, Signal::TERM);
            ends_within(self.pid, Some(TERM_TIMEOUT));
        }
        // It fails if no process of the group is left.
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.stop();
            let _ = self.child.wait();
        }
        let mut groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
        groups.remove(&self.pid.as_raw_pid());
    }
}

/// Waits until the child `pid` ends, at most for `timeout`. Returns whether it
/// has ended.
///
/// Does not reap the child: until it is reaped, no other process can get its id
/// and be killed by mistake.
fn ends_within(pid: Pid, timeout: Option<Duration>) -> bool {
    let wait = move || {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        // It fails only if `pid` is not a child of this process.
        let _ = retry_on_intr(|| waitid(WaitId::Pid(pid), options));
    };
    let Some(timeout) = timeout else {
        wait();
        return true;
    };
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        wait();
        // The receiver is dropped after the timeout.
        let _ = sender.send(());
    });
    receiver.recv_timeout(timeout) != Err(RecvTimeoutError::Timeout)
}

/// Reads `pipe` to its end, in a thread: a full pipe would block the child.
fn collect(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let (mut start, mut end) = (Vec::new(), VecDeque::<u8>::new());
        let mut buffer = [0; 8192];
        while let Ok(n @ 1..) = pipe.read(&mut buffer) {
            let room = OUTPUT_LIMIT - start.len();
            let (first, rest) = buffer[..n].split_at(n.min(room));
            start.extend_from_slice(first);
            end.extend(rest);
            end.drain(..end.len().saturating_sub(OUTPUT_LIMIT));
        }
        start.extend(end);
        let _ = sender.send(String::from_utf8_lossy(&start).into_owned());
    });
    receiver
}

/// Stops all running groups. No new group can start afterwards.
pub(crate) fn stop_all() {
    let groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
    let (by_term, by_kill): (Vec<_>, Vec<_>) =
        groups.iter().partition(|(_, signal)| **signal == StopSignal::Term);
    let pids = |groups: Vec<(&i32, _)>| -> Vec<Pid> {
        groups.iter().filter_map(|(pid, _)| Pid::from_raw(**pid)).collect()
    };
    let kill = |pid| {
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    };
    pids(by_kill).into_iter().for_each(kill);
    let by_term = pids(by_term);
    for &pid in &by_term {
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
    let deadline = Instant::now() + TERM_TIMEOUT;
    for pid in by_term {
        let remaining = deadline.saturating_duration_since(Instant::now());
        ends_within(pid, Some(remaining));
        kill(pid);
    }
    // The lock is never released: this process is about to end.
    mem::forget(groups);
}

/// From now on, SIGHUP, SIGINT (Ctrl-C), SIGQUIT, SIGTERM and a panic of any
/// thread stop all groups, restore the terminal and end this command.
///
/// Children start with the default action of these signals, even if this command
/// was started with some of them ignored, as by `nohup` or by `&` in a script.
/// Otherwise a graded program would ignore them, too. The cost: SIGHUP ends this
/// command also under `nohup`.
pub(crate) fn stop_all_on_signals() -> Result<(), Error> {
    let signals = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];
    let mut signals = Signals::new(signals).map_err(|error| {
        Error::new(format!("cannot handle signals: {error}"))
    })?;
    thread::spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        fullscreen::restore();
        stop_all();
        // A progress bar may have hidden the cursor.
        let _ = console::Term::stderr().show_cursor();
        std::process::exit(128 + signal);
    });
    let default_hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        fullscreen::restore();
        default_hook(info);
        stop_all();
        std::process::exit(101);
    }));
    Ok(())
}
