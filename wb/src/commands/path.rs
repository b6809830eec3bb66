//! `path [homework|course|all]`: which exercises are on the map.

use std::fmt::Write;

use clap::ValueEnum;

use crate::progress::Progress;
use crate::spec::Route;
use crate::term;
use crate::trouble::Trouble;
use crate::workbook::Workbook;

pub(crate) fn path(
    book: &Workbook,
    route: Option<Route>,
) -> Result<(), Trouble> {
    if let Some(route) = route {
        Progress::update(book, |progress| progress.set_route(route))?;
    }
    let chosen = Progress::read(book)?.route();
    let mut text = String::new();
    for route in Route::value_variants() {
        let on_it =
            || book.exercises().filter(|exercise| exercise.spec.path <= *route);
        let minutes: u32 = on_it().map(|exercise| exercise.spec.minutes).sum();
        let about = route.to_possible_value();
        let about = about
            .as_ref()
            .and_then(|value| value.get_help())
            .map_or_else(String::new, ToString::to_string);
        let _ = writeln!(
            text,
            "{} {:9} {:3} exercises, {:4.1} hours  {about}",
            if *route == chosen { ">" } else { " " },
            route.name(),
            on_it().count(),
            f64::from(minutes) / 60.0,
        );
    }
    term::print(&text);
    Ok(())
}
