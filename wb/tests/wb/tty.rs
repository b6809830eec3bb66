//! A terminal that a program runs in, what its screen shows, and what is left.

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

/// Far more than anything takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

const A_MOMENT: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

pub(crate) struct Tty {
    pty: Arc<Pty>,
    child: Child,
    shown: Arc<Shown>,
}

struct Shown {
    parser: Mutex<Parser>,
    has_changed: Condvar,
    /// No program is left that could write.
    is_all: AtomicBool,
}

impl Tty {
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
        let shown = Arc::new(Shown {
            parser: Mutex::new(Parser::new(rows(24), rows(80), 0)),
            has_changed: Condvar::new(),
            is_all: AtomicBool::new(false),
        });
        let (from, to) = (Arc::downgrade(&pty), Arc::clone(&shown));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Not for ever: a terminal that is read from cannot be closed.
            while let Some(from) = from.upgrade() {
                let mut fds = [PollFd::new(&*from, PollFlags::IN)];
                if poll(&mut fds, Some(&A_MOMENT)).unwrap_or(0) == 0 {
                    continue;
                }
                // It fails when the last program in the terminal has ended.
                let Ok(n @ 1..) = (&*from).read(&mut buffer) else { break };
                // A test that has failed looks no more.
                let Ok(mut parser) = to.parser.lock() else { break };
                parser.process(&buffer[..n]);
                drop(parser);
                to.has_changed.notify_all();
            }
            let parser = to.parser.lock();
            to.is_all.store(true, Ordering::Release);
            to.has_changed.notify_all();
            drop(parser);
        });
        Self { pty, child, shown }
    }

    pub(crate) fn id(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// As on a keyboard.
    pub(crate) fn types(&self, keys: &str) {
        (&*self.pty).write_all(keys.as_bytes()).unwrap();
    }

    pub(crate) fn resize(&self, height: u16, width: u16) {
        let mut parser = self.shown.parser.lock().unwrap();
        parser.screen_mut().set_size(rows(height), rows(width));
        self.pty.resize(Size::new(height, width)).unwrap();
    }

    /// Waits until all of `texts` are on the screen, in this order.
    #[track_caller]
    pub(crate) fn shows(&self, texts: &[&str]) {
        self.shows_when(texts, |screen| {
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

    /// Waits until `is_so`.
    #[track_caller]
    pub(crate) fn shows_when(
        &self,
        what: impl std::fmt::Debug,
        is_so: impl Fn(&Screen) -> bool,
    ) {
        let deadline = Instant::now() + DEADLINE;
        let mut parser = self.shown.parser.lock().unwrap();
        while !is_so(parser.screen()) {
            let left = deadline.saturating_duration_since(Instant::now());
            let text = parser.screen().contents();
            assert!(!left.is_zero(), "no {what:?} in\n{text}");
            let changed = &self.shown.has_changed;
            (parser, _) = changed.wait_timeout(parser, left).unwrap();
        }
    }

    /// What is on the screen now.
    pub(crate) fn text(&self) -> String {
        self.screen().contents()
    }

    pub(crate) fn screen(&self) -> Screen {
        self.shown.parser.lock().unwrap().screen().clone()
    }

    /// Waits for the end. The terminal is as a shell wants it.
    #[track_caller]
    pub(crate) fn ends(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            let text = self.text();
            assert!(Instant::now() < deadline, "it does not end:\n{text}");
            thread::yield_now();
        };
        let shown = Arc::clone(&self.shown);
        self.shows_when("the last of it", |_| {
            shown.is_all.load(Ordering::Acquire)
        });
        let screen = self.screen();
        assert!(!screen.alternate_screen(), "{}", screen.contents());
        assert!(!screen.hide_cursor(), "{}", screen.contents());
        self.is_cooked();
        (status, self.text())
    }

    /// Lines are edited, keys are echoed, Ctrl-C is a signal.
    #[track_caller]
    pub(crate) fn is_cooked(&self) {
        let modes = tcgetattr(&*self.pty).unwrap().local_modes;
        let cooked = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        assert!(modes.contains(cooked), "{modes:?}");
    }

    /// The terminal goes, as when its window is closed: the system sends a
    /// hang-up.
    pub(crate) fn closes(mut self) -> ExitStatus {
        let (pty, _) = open().unwrap();
        self.pty = Arc::new(pty);
        self.child.wait().unwrap()
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // It ends what it has started. A shell does not.
            let _ = kill_process(self.id(), Signal::TERM);
            if !is_gone(&self.child.id().to_string()) {
                let _ = self.child.kill();
            }
            let _ = self.child.wait();
        }
    }
}

pub(crate) fn is_alive(id: &str) -> bool {
    if let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) {
        // One that nobody has waited for has ended all the same.
        return !stat.contains(") Z ");
    }
    let id = Pid::from_raw(id.parse().unwrap()).unwrap();
    test_kill_process(id).is_ok()
}

/// Whether it ends: one that was killed may take a moment.
pub(crate) fn is_gone(id: &str) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while is_alive(id) && Instant::now() < deadline {
        thread::yield_now();
    }
    !is_alive(id)
}

fn rows(n: u16) -> NonZero<u16> {
    NonZero::new(n).unwrap()
}
