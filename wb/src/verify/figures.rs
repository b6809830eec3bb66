//! Finds stale figures.
//!
//! The example `overload` of week 5, run with `--figure queue`, prints the file
//! `notes/pages/figures/week05/overload-queue.svg`. The examples of this crate
//! print the files in `figures/wb`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use workbook::{Week, Workbook};

use crate::error::Error;
use crate::grading::compile::{self, Event, cargo};
use crate::grading::process::Group;
use crate::grading::properties::cores;

/// The deadline of one figure. Some examples build programs.
const DEADLINE: Duration = Duration::from_secs(600);

/// The executables of the examples, by package and name.
type Examples = BTreeMap<(String, String), PathBuf>;

/// Returns a fault for each figure that differs from what its example draws.
/// Draws as many figures at a time as there are cores.
///
/// `packages` selects the packages that cargo builds the examples of: if they are
/// those of the tests, all dependencies are complete already.
pub(super) fn stale(
    book: &Workbook,
    weeks: &[&Week],
    packages: &[String],
) -> Result<Vec<String>, Error> {
    let examples = build(book, packages)?;
    let all = packages.iter().any(|it| it == "--workspace");
    let folders = weeks.iter().map(|week| &*week.name);
    let figures: Vec<_> = folders
        .chain(all.then_some("wb"))
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
            faults.extend(check(book, &examples, package, figure)?);
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

/// Builds the examples of `packages` with the profile of the tests: `cargo test`
/// has built most of them. An example that does not compile is left out.
fn build(book: &Workbook, packages: &[String]) -> Result<Examples, Error> {
    let mut examples = Examples::new();
    let mut command = cargo(book);
    command.args(["build", "--profile=test", "--keep-going", "--examples"]);
    command.args(packages);
    compile::run_cargo(&mut command, |event| {
        if let Event::Artifact {
            package, target, executable: Some(file), ..
        } = event
        {
            examples.insert((package_name(&package).to_owned(), target), file);
        }
    })?;
    Ok(examples)
}

/// Returns the `week05` of `path+file:///…/week05#0.0.0`.
fn package_name(id: &str) -> &str {
    let folder = id.split_once('#').map_or(id, |(path, _)| path);
    folder.rsplit_once('/').map_or(folder, |(_, name)| name)
}

/// Returns the fault of one figure.
fn check(
    book: &Workbook,
    examples: &Examples,
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
    let key = (package.to_owned(), example.to_owned());
    let Some(file) = examples.get(&key) else {
        return Ok(Some(format!(
            "{shown}: `cargo build -p {package} --example {example}` fails"
        )));
    };
    let mut command = Command::new(file);
    command.args(["--figure", name]).current_dir(&book.root);
    let drawn = Group::piped(&mut command)?.output(DEADLINE);
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

fn svgs(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut svgs: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension() == Some(OsStr::new("svg")))
        .collect();
    svgs.sort_unstable();
    svgs
}
