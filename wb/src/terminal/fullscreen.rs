//! Full-screen mode: raw mode, the alternate screen, no cursor. The terminal is
//! restored however this command ends.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::style::{Attribute, Print, SetAttribute};
use crossterm::terminal::{
    self, BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate,
    EnterAlternateScreen, LeaveAlternateScreen,
};
use crossterm::{execute, queue};

/// Whether full-screen mode is active. The lock is held during each write to the
/// terminal, so that nothing is drawn after [`restore`].
static IS_ACTIVE: Mutex<bool> = Mutex::new(false);

/// Restores the terminal on drop.
#[derive(Debug)]
pub(crate) struct Guard(());

/// Enters full-screen mode.
pub(crate) fn enter() -> io::Result<Guard> {
    let mut is_active = lock();
    terminal::enable_raw_mode()?;
    *is_active = true;
    execute!(io::stdout(), EnterAlternateScreen, Hide)?;
    Ok(Guard(()))
}

/// Leaves full-screen mode, if it is active. Any thread may call it.
pub(crate) fn restore() {
    let mut is_active = lock();
    if *is_active {
        *is_active = false;
        // It fails if the terminal is closed: nothing has to be restored.
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
        let _ = terminal::disable_raw_mode();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        restore();
    }
}

/// Returns the number of columns and rows.
pub(crate) fn size() -> (usize, usize) {
    let (columns, rows) = terminal::size().unwrap_or((80, 24));
    (usize::from(columns.max(1)), usize::from(rows.max(1)))
}

/// Draws `lines` in one step, cut at the size of the screen. Does nothing if
/// full-screen mode is not active.
pub(crate) fn draw(lines: &[String]) -> io::Result<()> {
    let is_active = lock();
    if !*is_active {
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
    IS_ACTIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "../../tests/wb/terminal.rs"]
#[expect(dead_code, reason = "the integration tests use the rest")]
mod test_terminal;

#[cfg(test)]
mod tests {
    use std::env;
    use std::process::Command;

    use super::enter;
    use super::test_terminal::{Terminal, exits_soon};
    use crate::grading::process::{Group, stop_all_on_signals};

    /// Runs this test once more, in a terminal, where it panics.
    #[test]
    fn a_panic_restores_the_terminal_and_stops_child_processes() {
        const PANICS: &str = "WB_TEST_PANICS";
        if env::var_os(PANICS).is_some() {
            stop_all_on_signals().unwrap();
            let _guard = enter().unwrap();
            let sleep = Group::piped(Command::new("sleep").arg("600"));
            std::thread::spawn(|| panic!("sleeps: {:?}", sleep.unwrap().pid()));
            loop {
                std::thread::park();
            }
        }
        let test = "terminal::fullscreen::tests::\
                    a_panic_restores_the_terminal_and_stops_child_processes";
        let mut again = Command::new(env::current_exe().unwrap());
        again.args(["--exact", test, "--nocapture"]).env(PANICS, "1");
        let terminal = Terminal::start(&again);
        let (status, text) = terminal.wait_for_exit();
        assert_eq!(status.code(), Some(101), "exit code after a panic");
        let (_, id) = text.split_once("sleeps: ").expect("the panic is shown");
        let id = id.split_whitespace().next().unwrap();
        assert!(exits_soon(id), "process {id} still runs after the panic");
    }
}
