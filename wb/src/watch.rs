//! `watch [NAME]`, and `cargo wb` without a command: the interactive screen,
//! which grades the attempt each time it is saved.
//!
//! The verdict on the screen always belongs to the saved file. A save during
//! compilation is graded by the check that is running. A save while tests run
//! stops them, and starts a new check.
//!
//! | Module | |
//! |--------|-|
//! | [`screen`] | The state of the screen, and what each event changes. |
//! | [`view`] | The lines that the screen shows. |
//! | [`page`] | Parts of a page: scrolling, key line, status line. |
//! | [`file`](mod@file) | Detects changes of the attempt's file. |
//! | [`job`] | Background processes: checks, builds, the notes' server. |

use std::io::{self, IsTerminal};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Instant;

use crossterm::event::{self, KeyEvent, KeyEventKind};

use self::job::JobEvent;
use self::screen::{Page, Screen};
use workbook::Workbook;

use crate::error::Error;
use crate::reader::current;
use crate::reader::language::Language;
use crate::reader::progress::Progress;
use crate::terminal::fullscreen;
use crate::terminal::style;

mod file;
mod job;
mod page;
mod screen;
mod view;

/// An event that the screen handles.
#[derive(Debug)]
enum Event {
    Key(KeyEvent),
    Resized,
    /// The file of the attempt, or an entry of its folder, may have changed.
    FileChanged,
    /// The job with this id has printed a line, or has ended.
    Job(u64, JobEvent),
    /// The terminal is closed.
    TerminalClosed,
}

/// The page that the screen opens with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartPage {
    Map,
    Verdict,
}

/// Returns whether input and output are a terminal that can show the screen.
pub(crate) fn is_possible() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    io::stdin().is_terminal() && io::stdout().is_terminal() && !is_dumb
}

/// Runs the interactive screen until the reader quits.
pub(crate) fn watch(
    book: &Workbook,
    name: Option<&str>,
    start: StartPage,
) -> Result<(), Error> {
    if !is_possible() {
        return Err(Error::new("`cargo wb watch` needs a terminal")
            .fix("`cargo wb check` grades once"));
    }
    let exercise = match start {
        StartPage::Map => current::unfinished(book, &Progress::read(book)?),
        StartPage::Verdict => None,
    };
    let exercise = match exercise {
        Some(unfinished) => unfinished,
        None => current::named_or_current(book, name)?,
    };
    let terminal_error = |error: io::Error| {
        Error::new(format!("cannot use the terminal: {error}"))
    };
    let guard = fullscreen::enter().map_err(terminal_error)?;
    let (sender, events) = mpsc::channel();
    read_keys(sender.clone());
    let page = match start {
        StartPage::Map => Page::Map(exercise),
        StartPage::Verdict => Page::Verdict,
    };
    let language = Language::from_environment();
    let mut screen = Screen::new(book, exercise, page, language, sender);
    screen.check_file()?;

    while !screen.should_quit() {
        let lines = screen.render(fullscreen::size())?;
        fullscreen::draw(&lines).map_err(terminal_error)?;
        let timeout =
            screen.next_file_check().saturating_duration_since(Instant::now());
        match events.recv_timeout(timeout) {
            Ok(event) => screen.handle_event(event)?,
            Err(RecvTimeoutError::Timeout) => screen.check_file()?,
            Err(RecvTimeoutError::Disconnected) => break,
        }
        // Handle all waiting events before the screen is drawn again.
        while let Ok(event) = events.try_recv() {
            screen.handle_event(event)?;
        }
    }
    drop(guard);
    style::print(&screen.exit_message()?);
    Ok(())
}

/// Sends each key and each change of the terminal's size to `events`.
fn read_keys(events: Sender<Event>) {
    thread::spawn(move || {
        loop {
            let event = match event::read() {
                Ok(event::Event::Key(key)) => {
                    if key.kind == KeyEventKind::Release {
                        continue;
                    }
                    Event::Key(key)
                }
                Ok(event::Event::Resize(..)) => Event::Resized,
                Ok(_) => continue,
                Err(_) => Event::TerminalClosed,
            };
            let is_last = matches!(event, Event::TerminalClosed);
            if events.send(event).is_err() || is_last {
                break;
            }
        }
    });
}
