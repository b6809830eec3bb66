//! `path [homework|course|all]`: shows or chooses which exercises are listed.

use std::fmt::Write;

use workbook::Workbook;
use workbook::spec::Route;

use crate::error::Error;
use crate::reader::progress::Progress;
use crate::terminal::style;

pub(crate) fn path(book: &Workbook, route: Option<Route>) -> Result<(), Error> {
    if let Some(route) = route {
        Progress::update(book, |progress| progress.set_route(route))?;
    }
    let chosen = Progress::read(book)?.route();
    let mut text = String::new();
    for route in Route::ALL {
        let on_path =
            || book.exercises().filter(|exercise| exercise.spec.path <= route);
        let minutes: u32 =
            on_path().map(|exercise| exercise.spec.minutes).sum();
        let about = route.about();
        let _ = writeln!(
            text,
            "{} {:9} {:3} exercises, {:4.1} hours  {about}",
            if route == chosen { ">" } else { " " },
            route.name(),
            on_path().count(),
            f64::from(minutes) / 60.0,
        );
    }
    style::print(&text);
    Ok(())
}
