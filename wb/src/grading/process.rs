//! Child processes that end when they should: each in a process group of its
//! own, which is ended as a whole, at its deadline and when this command is.

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
use crate::terminal::screen;

/// The groups under way. Held while a process is spawned, so that none is
/// missed by [`end_all`].
static GROUPS: Mutex<BTreeMap<i32, Ending>> = Mutex::new(BTreeMap::new());

/// How many bytes of a child's output are kept from its start, and how many up
/// to its end, where the verdict is. What lies between is read and dropped.
const KEPT: usize = 512 * 1024;

/// How long output may come after the process that wrote it has ended: only
/// what it left behind in other groups can still hold the pipe.
const AFTERGLOW: Duration = Duration::from_millis(500);

/// How long a group that was asked to end may take to end its own groups.
const PATIENCE: Duration = Duration::from_secs(2);

/// A child and all that it starts in its process group. Ended on drop.
#[derive(Debug)]
pub(crate) struct Group {
    child: Child,
    pid: Pid,
    ending: Ending,
}

/// How a group is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Killed,
    /// It is this command once more, with groups of its own, which it ends when
    /// it is asked to. Killed, it would leave them.
    Asked,
}

/// What a process did that was not cut short.
#[derive(Debug)]
pub(crate) struct Output {
    /// `None` at the deadline.
    pub(crate) status: Option<ExitStatus>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Group {
    /// Starts `command` with its output in pipes.
    pub(crate) fn piped(command: &mut Command) -> Result<Self, Error> {
        Self::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
    }

    /// Starts this command once more, with its output in pipes.
    pub(crate) fn of_our_own(command: &mut Command) -> Result<Self, Error> {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::start(command, Ending::Asked)
    }

    /// Starts `command`, without input.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self, Error> {
        Self::start(command, Ending::Killed)
    }

    fn start(command: &mut Command, ending: Ending) -> Result<Self, Error> {
        let mut groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
        let child =
            command.stdin(Stdio::null()).process_group(0).spawn().map_err(
                |error| {
                    let program = command.get_program().to_string_lossy();
                    Error::new(format!("cannot start `{program}`: {error}"))
                },
            )?;
        let pid = Pid::from_child(&child);
        groups.insert(pid.as_raw_pid(), ending);
        Ok(Self { child, pid, ending })
    }

    #[cfg(test)]
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    pub(crate) fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("it is piped, and taken once")
    }

    pub(crate) fn stderr(&mut self) -> ChildStderr {
        self.child.stderr.take().expect("it is piped, and taken once")
    }

    /// Waits for the child, and ends what it leaves behind in its group.
    pub(crate) fn wait(mut self) -> io::Result<ExitStatus> {
        ends(self.pid, None);
        self.end();
        self.child.wait()
    }

    /// Reads what the child writes, and ends it at the deadline.
    pub(crate) fn output(mut self, deadline: Duration) -> Output {
        let stdout = collect(self.stdout());
        let stderr = collect(self.stderr());
        let ended = ends(self.pid, Some(deadline));
        self.end();
        let status = self.child.wait().ok().filter(|_| ended);
        let collected = |text: mpsc::Receiver<String>| {
            text.recv_timeout(AFTERGLOW).unwrap_or_default()
        };
        Output { status, stdout: collected(stdout), stderr: collected(stderr) }
    }

    fn end(&self) {
        if self.ending == Ending::Asked {
            let _ = rustix::process::kill_process(self.pid, Signal::TERM);
            ends(self.pid, Some(PATIENCE));
        }
        // It fails when the group is empty already.
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.end();
            let _ = self.child.wait();
        }
        let mut groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
        groups.remove(&self.pid.as_raw_pid());
    }
}

/// Whether a child ends in time. Leaves it to be waited for: as long as it is,
/// no other process can get its id, and none is killed instead.
fn ends(pid: Pid, deadline: Option<Duration>) -> bool {
    let wait = move || {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        // It fails only for what is no child of ours.
        let _ = retry_on_intr(|| waitid(WaitId::Pid(pid), options));
    };
    let Some(deadline) = deadline else {
        wait();
        return true;
    };
    let (ended, is_ended) = mpsc::channel();
    thread::spawn(move || {
        wait();
        // The receiver is gone when the deadline came first.
        let _ = ended.send(());
    });
    is_ended.recv_timeout(deadline) != Err(RecvTimeoutError::Timeout)
}

/// Reads to the end in a thread of its own: a full pipe would stop the writer.
fn collect(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (done, text) = mpsc::channel();
    thread::spawn(move || {
        let (mut start, mut end) = (Vec::new(), VecDeque::<u8>::new());
        let mut buffer = [0; 8192];
        while let Ok(n @ 1..) = pipe.read(&mut buffer) {
            let (first, rest) = buffer[..n].split_at(n.min(KEPT - start.len()));
            start.extend_from_slice(first);
            end.extend(rest);
            end.drain(..end.len().saturating_sub(KEPT));
        }
        start.extend(end);
        let _ = done.send(String::from_utf8_lossy(&start).into_owned());
    });
    text
}

/// Ends every group that is under way. None can start any more.
pub(crate) fn end_all() {
    let groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
    let (asked, killed): (Vec<_>, Vec<_>) =
        groups.iter().partition(|(_, ending)| **ending == Ending::Asked);
    let pids = |groups: Vec<(&i32, _)>| -> Vec<Pid> {
        groups.iter().filter_map(|(pid, _)| Pid::from_raw(**pid)).collect()
    };
    let kill = |pid| {
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    };
    pids(killed).into_iter().for_each(kill);
    let asked = pids(asked);
    for &pid in &asked {
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
    let deadline = Instant::now() + PATIENCE;
    for pid in asked {
        let left = deadline.saturating_duration_since(Instant::now());
        ends(pid, Some(left));
        kill(pid);
    }
    // Held for ever: this process is about to end.
    mem::forget(groups);
}

/// From now on Ctrl-C, and whatever else ends this command, ends its groups and
/// gives the terminal back. So does a panic, of any thread.
///
/// What is started from now on begins with the default of these signals, also
/// where this command was started with some of them ignored, as a shell's `&`
/// does in a script: else what is graded would ignore them, too. The price: they
/// end this command also under `nohup`.
pub(crate) fn end_all_on_signals() -> Result<(), Error> {
    let ends = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];
    let mut signals = Signals::new(ends).map_err(|error| {
        Error::new(format!("cannot listen for signals: {error}"))
    })?;
    thread::spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        screen::give_back();
        end_all();
        // A progress bar may have hidden it.
        let _ = console::Term::stderr().show_cursor();
        std::process::exit(128 + signal);
    });
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        screen::give_back();
        report(info);
        end_all();
        std::process::exit(101);
    }));
    Ok(())
}
