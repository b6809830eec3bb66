//! `watch [NAME]`: grades the attempt each time it is saved.
//!
//! The verdict on the screen is of what the file holds. A save while the
//! compiler runs is picked up by the same check; a save while tests run ends
//! them, and begins again.

use std::io::{self, IsTerminal};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Instant;

use crossterm::event::{self, KeyEvent, KeyEventKind};

use self::desk::{Desk, Page};
use self::job::News;
use workbook::Workbook;

use crate::error::Error;
use crate::reader::current;
use crate::reader::progress::Progress;
use crate::terminal::screen;
use crate::terminal::style;

mod desk;
mod job;
mod page;
mod saves;
mod view;

/// What happens while one watches.
#[derive(Debug)]
enum Event {
    Key(KeyEvent),
    Resized,
    /// Something was done to the file, or next to it.
    Touched,
    /// A job tells something.
    Job(u64, News),
    /// The terminal is gone.
    Gone,
}

/// Where watching begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    TheMap,
    TheVerdict,
}

/// Whether there is somebody who looks, and a screen to draw on.
pub(crate) fn is_possible() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    io::stdin().is_terminal() && io::stdout().is_terminal() && !is_dumb
}

pub(crate) fn watch(
    book: &Workbook,
    name: Option<&str>,
    from: From,
) -> Result<(), Error> {
    if !is_possible() {
        return Err(Error::new("this is no terminal to watch in")
            .fix("`cargo wb check` grades once"));
    }
    let exercise = match from {
        From::TheMap => current::open(book, &Progress::read(book)?),
        From::TheVerdict => None,
    };
    let exercise = match exercise {
        Some(open) => open,
        None => current::chosen(book, name)?,
    };
    let no_terminal = |error: io::Error| {
        Error::new(format!("cannot use the terminal: {error}"))
    };
    let screen = screen::take().map_err(no_terminal)?;
    let (sender, events) = mpsc::channel();
    read_keys(sender.clone());
    let page = match from {
        From::TheMap => Page::Map(exercise),
        From::TheVerdict => Page::Verdict,
    };
    let mut desk = Desk::new(book, exercise, page, sender);
    desk.look()?;

    while !desk.is_done() {
        screen::draw(&desk.screen(screen::size())?).map_err(no_terminal)?;
        let patience = desk.look_at().saturating_duration_since(Instant::now());
        match events.recv_timeout(patience) {
            Ok(event) => desk.on(event)?,
            Err(RecvTimeoutError::Timeout) => desk.look()?,
            Err(RecvTimeoutError::Disconnected) => break,
        }
        // What has come meanwhile needs no screen of its own.
        while let Ok(event) = events.try_recv() {
            desk.on(event)?;
        }
    }
    drop(screen);
    style::print(&desk.last_words()?);
    Ok(())
}

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
                Err(_) => Event::Gone,
            };
            let is_gone = matches!(event, Event::Gone);
            if events.send(event).is_err() || is_gone {
                break;
            }
        }
    });
}
