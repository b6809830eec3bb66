//! This command once more, at work in the background: it checks, builds ahead,
//! or serves the notes. It can be ended at any moment.

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

/// Ended on drop.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: u64,
    /// What it said last of what it does, and when it began with that.
    step: String,
    since: Instant,
    /// What stopped it.
    pub(super) trouble: Option<String>,
    /// What it wrote to stdout.
    pub(super) out: String,
    group: Group,
}

/// What a job tells.
#[derive(Debug)]
pub(super) enum News {
    Says(String),
    Out(String),
    /// It has closed its output: it ends.
    Ended,
}

impl Job {
    /// Starts `cargo wb` with these arguments.
    pub(super) fn start(
        book: &Workbook,
        arguments: &[&str],
        id: u64,
        events: &Sender<Event>,
    ) -> Result<Self, Error> {
        let own = env::current_exe().map_err(|error| {
            Error::new(format!("cannot find this program: {error}"))
        })?;
        let mut command = Command::new(own);
        command.args(arguments).current_dir(&book.root);
        if console::colors_enabled() {
            command.env("CLICOLOR_FORCE", "1");
        }
        let mut group = Group::of_our_own(&mut command)?;
        let (out, err) = (group.stdout(), group.stderr());
        let steps = lines(err, id, News::Says, events.clone());
        let events = events.clone();
        thread::spawn(move || {
            let _ = lines(out, id, News::Out, events.clone()).join();
            let _ = steps.join();
            let _ = events.send(Event::Job(id, News::Ended));
        });
        Ok(Self {
            id,
            step: String::new(),
            since: Instant::now(),
            trouble: None,
            out: String::new(),
            group,
        })
    }

    /// A line of stderr: a step, or the trouble at the end.
    pub(super) fn hear(&mut self, line: String) {
        match &mut self.trouble {
            Some(trouble) => {
                trouble.push('\n');
                *trouble += &line;
            }
            None => match line.strip_prefix("cargo wb: ") {
                Some(trouble) => self.trouble = Some(trouble.to_owned()),
                None => {
                    self.step = line;
                    self.since = Instant::now();
                }
            },
        }
    }

    /// Whether it has its tests by now, and needs no compiler any more.
    pub(super) fn is_grading(&self) -> bool {
        self.step.starts_with("grading")
    }

    /// What it does, and for how long where one wonders.
    pub(super) fn says(&self) -> String {
        match self.since.elapsed().as_secs() {
            0 | 1 => self.step.clone(),
            seconds => format!("{} {seconds} s", self.step),
        }
    }

    /// What stopped it, in a line.
    pub(super) fn remark(&self) -> String {
        let trouble = self.trouble.as_ref().unwrap_or(&self.step);
        trouble.lines().next().unwrap_or_default().to_owned()
    }

    /// Once it has ended: its exit code.
    pub(super) fn code(self) -> Option<i32> {
        self.group.wait().ok()?.code()
    }
}

/// Sends each line. Nobody listens any more when the command ends.
fn lines(
    from: impl Read + Send + 'static,
    id: u64,
    news: fn(String) -> News,
    events: Sender<Event>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if events.send(Event::Job(id, news(line))).is_err() {
                break;
            }
        }
    })
}
