//! The terminal as a whole screen: taken, drawn on, and given back as it was,
//! whatever ends this command.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::style::{Attribute, Print, SetAttribute};
use crossterm::terminal::{
    self, BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate,
    EnterAlternateScreen, LeaveAlternateScreen,
};
use crossterm::{execute, queue};

/// Whether it is taken. Held while something is written to it: what gives it
/// back has the last word.
static TAKEN: Mutex<bool> = Mutex::new(false);

/// Given back on drop.
#[derive(Debug)]
pub(crate) struct Taken(());

/// From now on keys are read one by one, and the screen is ours.
pub(crate) fn take() -> io::Result<Taken> {
    let mut taken = lock();
    terminal::enable_raw_mode()?;
    *taken = true;
    execute!(io::stdout(), EnterAlternateScreen, Hide)?;
    Ok(Taken(()))
}

/// Gives it back, from any thread. A second time does nothing.
pub(crate) fn give_back() {
    let mut taken = lock();
    if *taken {
        *taken = false;
        // A terminal that is gone needs nothing back.
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
        let _ = terminal::disable_raw_mode();
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        give_back();
    }
}

/// Columns and rows.
pub(crate) fn size() -> (usize, usize) {
    let (columns, rows) = terminal::size().unwrap_or((80, 24));
    (usize::from(columns.max(1)), usize::from(rows.max(1)))
}

/// Puts `lines` on the screen, as many and as much of each as fit, at once.
pub(crate) fn draw(lines: &[String]) -> io::Result<()> {
    let taken = lock();
    if !*taken {
        return Ok(());
    }
    let (columns, rows) = size();
    let mut frame = Vec::new();
    queue!(frame, BeginSynchronizedUpdate, Hide)?;
    for (row, line) in (0..).zip(lines.iter().take(rows)) {
        let line = console::truncate_str(line, columns, "…");
        queue!(
            frame,
            MoveTo(0, row),
            Print(line),
            SetAttribute(Attribute::Reset),
            Clear(ClearType::UntilNewLine)
        )?;
    }
    if lines.len() < rows {
        let below = u16::try_from(lines.len()).unwrap_or(u16::MAX);
        queue!(frame, MoveTo(0, below), Clear(ClearType::FromCursorDown))?;
    }
    queue!(frame, EndSynchronizedUpdate)?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(&frame)?;
    stdout.flush()
}

fn lock() -> MutexGuard<'static, bool> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "../../tests/wb/tty.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod tty;

#[cfg(test)]
mod tests {
    use std::env;
    use std::process::Command;

    use super::{take, tty};
    use crate::grading::process::{Group, end_all_on_signals};

    /// Runs itself once more, in a terminal.
    #[test]
    fn a_panic_gives_the_terminal_back_and_leaves_nothing() {
        const GATE: &str = "WB_TEST_PANICS";
        if env::var_os(GATE).is_some() {
            end_all_on_signals().unwrap();
            let _taken = take().unwrap();
            let sleep = Group::piped(Command::new("sleep").arg("600"));
            std::thread::spawn(|| panic!("sleeps: {:?}", sleep.unwrap().pid()));
            loop {
                std::thread::park();
            }
        }
        let test = "terminal::screen::tests::\
                    a_panic_gives_the_terminal_back_and_leaves_nothing";
        let mut again = Command::new(env::current_exe().unwrap());
        again.args(["--exact", test, "--nocapture"]).env(GATE, "1");
        let tty = tty::Tty::start(&again);
        let (status, text) = tty.ends();
        assert_eq!(status.code(), Some(101));
        let (_, id) = text.split_once("sleeps: ").expect("the panic is shown");
        let id = id.split_whitespace().next().unwrap();
        assert!(tty::is_gone(id), "process {id} is left");
    }
}
