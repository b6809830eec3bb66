//! A background process that runs another `cargo wb` command: a check, a build
//! or the notes' server.

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::process::Command;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Instant;

use workbook::Workbook;

use super::Event;
use crate::error::Error;
use crate::grading::process::Group;

/// A running background process. It is stopped on drop.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: u64,
    /// The last step that it printed to stderr, and when.
    step: String,
    step_start: Instant,
    /// The error message, if it has failed.
    pub(super) error: Option<String>,
    pub(super) stdout: String,
    group: Group,
}

/// An event of a job.
#[derive(Debug)]
pub(super) enum JobEvent {
    /// A line on stderr.
    Stderr(String),
    /// A line on stdout.
    Stdout(String),
    /// Both outputs are closed: the process is about to exit.
    Exited,
}

impl Job {
    /// Starts `cargo wb` with these arguments.
    pub(super) fn start(
        book: &Workbook,
        arguments: &[&str],
        id: u64,
        events: &Sender<Event>,
    ) -> Result<Self, Error> {
        let program = env::current_exe().map_err(|error| {
            Error::new(format!("cannot find this program: {error}"))
        })?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&book.root);
        if console::colors_enabled() {
            command.env("CLICOLOR_FORCE", "1");
        }
        let mut group = Group::piped_wb(&mut command)?;
        let (stdout, stderr) = (group.stdout(), group.stderr());
        let stderr = send_lines(stderr, id, JobEvent::Stderr, events.clone());
        let events = events.clone();
        thread::spawn(move || {
            let stdout =
                send_lines(stdout, id, JobEvent::Stdout, events.clone());
            let _ = stdout.join();
            let _ = stderr.join();
            let _ = events.send(Event::Job(id, JobEvent::Exited));
        });
        Ok(Self {
            id,
            step: String::new(),
            step_start: Instant::now(),
            error: None,
            stdout: String::new(),
            group,
        })
    }

    /// Handles a line of stderr: a step, or a part of the error message.
    pub(super) fn handle_stderr(&mut self, line: String) {
        match &mut self.error {
            Some(error) => {
                error.push('\n');
                *error += &line;
            }
            None => match line.strip_prefix("cargo wb: ") {
                Some(error) => self.error = Some(error.to_owned()),
                None => {
                    self.step = line;
                    self.step_start = Instant::now();
                }
            },
        }
    }

    /// Returns whether a check has compiled the attempt and now runs tests.
    pub(super) fn is_grading(&self) -> bool {
        self.step.starts_with("grading")
    }

    /// Returns the current step, with its duration from two seconds on.
    pub(super) fn status(&self) -> String {
        match self.step_start.elapsed().as_secs() {
            0 | 1 => self.step.clone(),
            seconds => format!("{} {seconds} s", self.step),
        }
    }

    /// Returns the first line of the error, or else the last step.
    pub(super) fn summary(&self) -> String {
        let text = self.error.as_ref().unwrap_or(&self.step);
        text.lines().next().unwrap_or_default().to_owned()
    }

    /// Waits until the process ends, and returns its exit code.
    pub(super) fn exit_code(self) -> Option<i32> {
        self.group.wait().ok()?.code()
    }
}

/// Sends each line of `from`, until the receiver is dropped.
fn send_lines(
    from: impl Read + Send + 'static,
    id: u64,
    event: fn(String) -> JobEvent,
    events: Sender<Event>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if events.send(Event::Job(id, event(line))).is_err() {
                break;
            }
        }
    })
}
