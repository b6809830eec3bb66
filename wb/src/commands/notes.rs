//! `notes`: builds the book of notes, and serves it on this machine.

use std::io::{BufRead, BufReader, Read};
use std::process::Command;

use workbook::Workbook;

use crate::error::Error;
use crate::grading::compile;
use crate::grading::process::Group;
use crate::terminal::status::Status;
use crate::terminal::style;

/// The name of the package and of its binary.
const NOTES: &str = "notes";

/// Serves the notes until this command ends. If `is_watched`, prints each step as a
/// line on stderr.
pub(crate) fn notes(
    book: &Workbook,
    port: Option<u16>,
    is_watched: bool,
) -> Result<(), Error> {
    let status = if is_watched { Status::Lines } else { Status::spinner() };
    status.show("building the notes");
    let mut command = compile::cargo(book);
    command.args(["build", "--package", NOTES, "--bin", NOTES]);
    let build = compile::build(&mut command, NOTES, |done, name| {
        status.show(&format!("building the notes (crate {done}: {name})"));
    })?;
    let binary = build.executable(NOTES).filter(|_| build.is_done);
    let Some(binary) = binary else { return Err(build.error(NOTES)) };

    status.show("rendering the notes");
    let mut command = Command::new(binary);
    command.arg("serve").current_dir(&book.root);
    if let Some(port) = port {
        command.args(["--port", &port.to_string()]);
    }
    let mut server = Group::piped(&mut command)?;
    let mut errors = server.stderr();
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        // The text up to an error is used.
        let _ = errors.read_to_string(&mut text);
        text
    });
    let mut lines = BufReader::new(server.stdout()).lines();
    if let Some(Ok(address)) = lines.next() {
        drop(status);
        let end = if is_watched { "" } else { "  (Ctrl-C to stop)" };
        style::print(&format!("The notes: {address}{end}\n"));
        lines.map_while(Result::ok).for_each(drop);
    }
    let _ = server.wait();
    let errors = errors.join().unwrap_or_default();
    let message = format!("the notes' server has ended: {}", errors.trim());
    Err(Error::new(message))
}
