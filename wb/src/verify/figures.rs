//! Finds stale figures.
//!
//! The example `overload` of week 5, run with `--figure queue`, prints the file
//! `notes/pages/figures/week05/overload-queue.svg`. The examples of this crate
//! print the files in `figures/wb`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use workbook::{Week, Workbook};

use crate::error::Error;
use crate::grading::compile::cargo;
use crate::grading::process::{Group, Output};
use crate::grading::properties::cores;

/// The deadline of one figure. It includes the build of the example.
const DEADLINE: Duration = Duration::from_secs(600);

/// Returns a fault for each figure that differs from what its example draws.
/// Draws as many figures at a time as there are cores.
pub(super) fn stale(
    book: &Workbook,
    weeks: &[&Week],
) -> Result<Vec<String>, Error> {
    let packages = weeks.iter().map(|week| &*week.name).chain(["wb"]);
    let figures: Vec<_> = packages
        .flat_map(|package| {
            let folder = book.root.join("notes/pages/figures").join(package);
            svgs(&folder).into_iter().map(move |figure| (package, figure))
        })
        .collect();
    let next = AtomicUsize::new(0);
    let check_all = || {
        let mut faults = Vec::new();
        while let Some((package, figure)) =
            figures.get(next.fetch_add(1, Relaxed))
        {
            faults.extend(check(book, package, figure)?);
        }
        Ok(faults)
    };
    let found: Vec<Result<Vec<String>, Error>> = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..cores()).map(|_| scope.spawn(check_all)).collect();
        let threads = threads.into_iter();
        threads.map(|it| it.join().expect("a check does not panic")).collect()
    });
    let found: Result<Vec<_>, _> = found.into_iter().collect();
    let mut faults = found?.concat();
    faults.sort_unstable();
    Ok(faults)
}

/// Returns the fault of one figure.
fn check(
    book: &Workbook,
    package: &str,
    figure: &Path,
) -> Result<Option<String>, Error> {
    let shown = book.short(figure).to_string();
    let stem = figure.file_stem().unwrap_or_default().to_string_lossy();
    let Some((example, name)) = stem.split_once('-') else {
        return Ok(Some(format!(
            "{shown}: the name is not EXAMPLE-FIGURE.svg"
        )));
    };
    let drawn = draw(&mut cargo(book), package, example, name)?;
    if !drawn.status.is_some_and(|status| status.success()) {
        let why = drawn.stderr;
        return Ok(Some(format!(
            "{shown}: the example {example} fails\n{why}"
        )));
    }
    let kept = fs::read_to_string(figure).ok();
    Ok((kept.as_ref() != Some(&drawn.stdout)).then(|| {
        format!(
            "{shown} is stale; draw it again: `cargo run -p {package} --example \
             {example} -- --figure {name} > {shown}`"
        )
    }))
}

fn draw(
    cargo: &mut Command,
    package: &str,
    example: &str,
    figure: &str,
) -> Result<Output, Error> {
    cargo
        .args(["run", "--quiet", "--package", package, "--example", example])
        .args(["--", "--figure", figure]);
    Ok(Group::piped(cargo)?.output(DEADLINE))
}

fn svgs(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut svgs: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension() == Some(OsStr::new("svg")))
        .collect();
    svgs.sort_unstable();
    svgs
}
