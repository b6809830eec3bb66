//! A pseudo-terminal in which a program runs, and its screen.

use std::io::{Read, Write};
use std::num::NonZero;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use std::{fs, thread};

use pty_process::Size;
use pty_process::blocking::{Command, Pty, open};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use rustix::termios::{LocalModes, tcgetattr};
use vt100::{Parser, Screen};

/// The deadline of every wait. It is far longer than needed on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// How often the reading thread checks whether the terminal is closed.
const POLL_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// A program in a pseudo-terminal.
pub(crate) struct Terminal {
    pty: Arc<Pty>,
    child: Child,
    output: Arc<TerminalOutput>,
}

/// The output of the program so far.
struct TerminalOutput {
    parser: Mutex<Parser>,
    has_changed: Condvar,
    /// All programs in the terminal have ended.
    is_complete: AtomicBool,
}

impl Terminal {
    /// Starts `command` in a terminal of 80 columns and 24 rows.
    pub(crate) fn start(command: &std::process::Command) -> Self {
        let (pty, pts) = open().unwrap();
        pty.resize(Size::new(24, 80)).unwrap();
        let mut inside = Command::new(command.get_program())
            .args(command.get_args())
            .env("TERM", "xterm-256color");
        for (name, value) in command.get_envs() {
            inside = match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            inside = inside.current_dir(folder);
        }
        let child = inside.spawn(pts).unwrap();
        let pty = Arc::new(pty);
        let output = Arc::new(TerminalOutput {
            parser: Mutex::new(Parser::new(nonzero(24), nonzero(80), 0)),
            has_changed: Condvar::new(),
            is_complete: AtomicBool::new(false),
        });
        let (from, to) = (Arc::downgrade(&pty), Arc::clone(&output));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A blocking read would keep the terminal open after `close`.
            while let Some(from) = from.upgrade() {
                let mut fds = [PollFd::new(&*from, PollFlags::IN)];
                if poll(&mut fds, Some(&POLL_INTERVAL)).unwrap_or(0) == 0 {
                    continue;
                }
                // The read fails when the last program in the terminal has ended.
                let Ok(n @ 1..) = (&*from).read(&mut buffer) else { break };
                // The lock is poisoned if the test has failed.
                let Ok(mut parser) = to.parser.lock() else { break };
                parser.process(&buffer[..n]);
                drop(parser);
                to.has_changed.notify_all();
            }
            let parser = to.parser.lock();
            to.is_complete.store(true, Ordering::Release);
            to.has_changed.notify_all();
            drop(parser);
        });
        Self { pty, child, output }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends `keys` as if they were typed.
    pub(crate) fn type_keys(&self, keys: &str) {
        (&*self.pty).write_all(keys.as_bytes()).unwrap();
    }

    pub(crate) fn resize(&self, height: u16, width: u16) {
        let mut parser = self.output.parser.lock().unwrap();
        parser.screen_mut().set_size(nonzero(height), nonzero(width));
        self.pty.resize(Size::new(height, width)).unwrap();
    }

    /// Waits until the screen shows all of `texts`, in this order.
    #[track_caller]
    pub(crate) fn shows(&self, texts: &[&str]) {
        self.wait_until(texts, |screen| {
            let text = screen.contents();
            let mut rest = &*text;
            texts.iter().all(|text| match rest.split_once(text) {
                Some((_, after)) => {
                    rest = after;
                    true
                }
                None => false,
            })
        });
    }

    /// Waits until `condition` is true for the screen.
    #[track_caller]
    pub(crate) fn wait_until(
        &self,
        expected: impl std::fmt::Debug,
        condition: impl Fn(&Screen) -> bool,
    ) {
        let deadline = Instant::now() + DEADLINE;
        let mut parser = self.output.parser.lock().unwrap();
        while !condition(parser.screen()) {
            let remaining = deadline.saturating_duration_since(Instant::now());
            let text = parser.screen().contents();
            assert!(
                !remaining.is_zero(),
                "expected {expected:?} on the screen, which shows:\n{text}"
            );
            let changed = &self.output.has_changed;
            (parser, _) = changed.wait_timeout(parser, remaining).unwrap();
        }
    }

    /// Returns the text that the screen shows now.
    pub(crate) fn text(&self) -> String {
        self.screen().contents()
    }

    pub(crate) fn screen(&self) -> Screen {
        self.output.parser.lock().unwrap().screen().clone()
    }

    /// Waits until the program has exited, and checks that it has restored the
    /// terminal. Returns its exit status and the text of the screen.
    #[track_caller]
    pub(crate) fn wait_for_exit(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            let text = self.text();
            assert!(
                Instant::now() < deadline,
                "the program does not exit; the screen shows:\n{text}"
            );
            thread::yield_now();
        };
        let output = Arc::clone(&self.output);
        self.wait_until("the end of the output", |_| {
            output.is_complete.load(Ordering::Acquire)
        });
        let screen = self.screen();
        let text = screen.contents();
        assert!(!screen.alternate_screen(), "alternate screen:\n{text}");
        assert!(!screen.hide_cursor(), "hidden cursor:\n{text}");
        self.assert_cooked();
        (status, self.text())
    }

    /// Checks that the terminal is in cooked mode: lines are edited, keys are
    /// echoed, Ctrl-C sends SIGINT.
    #[track_caller]
    pub(crate) fn assert_cooked(&self) {
        let modes = tcgetattr(&*self.pty).unwrap().local_modes;
        let cooked = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        assert!(modes.contains(cooked), "expected cooked mode, seen {modes:?}");
    }

    /// Closes the terminal, so that the program gets SIGHUP. Returns its exit
    /// status.
    pub(crate) fn close(mut self) -> ExitStatus {
        let (pty, _) = open().unwrap();
        self.pty = Arc::new(pty);
        self.child.wait().unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // After SIGTERM, `wb` stops its child processes. A shell ignores it.
            let _ = kill_process(self.pid(), Signal::TERM);
            if !exits_soon(&self.child.id().to_string()) {
                let _ = self.child.kill();
            }
            let _ = self.child.wait();
        }
    }
}

/// Returns whether the process runs.
pub(crate) fn is_alive(id: &str) -> bool {
    if let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) {
        // A zombie has exited.
        return !stat.contains(") Z ");
    }
    let id = Pid::from_raw(id.parse().unwrap()).unwrap();
    test_kill_process(id).is_ok()
}

/// Waits until the process has exited, for ten seconds at most. Returns whether it
/// has.
pub(crate) fn exits_soon(id: &str) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while is_alive(id) && Instant::now() < deadline {
        thread::yield_now();
    }
    !is_alive(id)
}

fn nonzero(n: u16) -> NonZero<u16> {
    NonZero::new(n).unwrap()
}
