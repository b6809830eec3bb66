//! Finds stale figures.
//!
//! The example `overload` of week 5, run with `--figure queue`, prints the file
//! `notes/pages/figures/week05/overload-queue.svg`. The examples of this crate
//! print the files in `figures/wb`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use workbook::{Week, Workbook};

use crate::error::Error;
use crate::grading::compile::cargo;
use crate::grading::process::{Group, Output};

/// The deadline of one figure. It includes the build of the example.
const DEADLINE: Duration = Duration::from_secs(600);

/// Returns a fault for each figure that differs from what its example draws.
pub(super) fn stale(
    book: &Workbook,
    weeks: &[&Week],
) -> Result<Vec<String>, Error> {
    let mut faults = Vec::new();
    let packages = weeks.iter().map(|week| &*week.name).chain(["wb"]);
    for package in packages {
        let folder = book.root.join("notes/pages/figures").join(package);
        for figure in svgs(&folder) {
            let shown = book.short(&figure).to_string();
            let stem = figure.file_stem().unwrap_or_default().to_string_lossy();
            let Some((example, name)) = stem.split_once('-') else {
                faults.push(format!(
                    "{shown}: the name is not EXAMPLE-FIGURE.svg"
                ));
                continue;
            };
            let command = &mut cargo(book);
            let drawn = draw(command, package, example, name)?;
            if !drawn.status.is_some_and(|status| status.success()) {
                faults.push(format!(
                    "{shown}: the example {example} fails\n{}",
                    drawn.stderr
                ));
                continue;
            }
            let kept = fs::read_to_string(&figure).ok();
            if kept.as_ref() != Some(&drawn.stdout) {
                faults.push(format!(
                    "{shown} is stale; draw it again: `cargo run -p {package} --example \
                     {example} -- --figure {name} > {shown}`"
                ));
            }
        }
    }
    Ok(faults)
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
