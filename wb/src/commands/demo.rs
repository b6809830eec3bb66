//! `demo [NAME]`: lists the examples, or runs one.

use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use workbook::Workbook;

use crate::error::Error;
use crate::grading::compile;
use crate::terminal::style;

/// An example of a week.
struct Example {
    week: String,
    name: String,
    file: PathBuf,
    /// The `Cargo.toml` of an example that is a package.
    manifest: Option<PathBuf>,
}

/// Lists the examples, or runs the one with this name in place of this process.
pub(crate) fn demo(
    book: &Workbook,
    name: Option<&str>,
    arguments: &[String],
) -> Result<(), Error> {
    let examples = examples(book);
    let Some(name) = name else {
        style::print(&list(&examples)?);
        return Ok(());
    };
    Err(run(book, find(&examples, name)?, arguments))
}

fn examples(book: &Workbook) -> Vec<Example> {
    let mut examples = Vec::new();
    for week in &book.weeks {
        let folder = book.root.join(&week.name).join("examples");
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        paths.sort_unstable();
        examples.extend(paths.into_iter().filter_map(|path| {
            let name = path.file_stem()?.to_string_lossy().into_owned();
            let is_rust = path.extension() == Some(OsStr::new("rs"));
            // An example of several files is a folder with a `main.rs`.
            let mains = match is_rust {
                true => vec![path.clone()],
                false => vec![path.join("main.rs"), path.join("src/main.rs")],
            };
            let file = mains.into_iter().find(|main| main.exists())?;
            let manifest = path.join("Cargo.toml");
            Some(Example {
                week: week.name.clone(),
                name,
                file,
                manifest: manifest.exists().then_some(manifest),
            })
        }));
    }
    examples
}

fn list(examples: &[Example]) -> Result<String, Error> {
    let width = examples.iter().map(|example| example.name.len()).max();
    let width = width.unwrap_or(0);
    let mut text = String::new();
    for example in examples {
        let name = format!("{}  {:width$}  ", example.week, example.name);
        let indent = name.len();
        let about = style::wrap(&example.about()?, indent);
        let _ = write!(text, "{}{}", style::bold(&name), &about[indent..]);
    }
    if let Some(first) = examples.first() {
        let _ = writeln!(
            text,
            "\n`cargo wb demo {}` runs one. Arguments after `--` are passed to it.",
            first.name
        );
    }
    Ok(text)
}

impl Example {
    /// Returns the first paragraph of its documentation.
    fn about(&self) -> Result<String, Error> {
        let text = fs::read_to_string(&self.file)
            .map_err(|error| Error::file("read", &self.file, &error))?;
        let doc = text.lines().map_while(|line| line.strip_prefix("//!"));
        let first: Vec<_> =
            doc.map(str::trim).take_while(|line| !line.is_empty()).collect();
        Ok(first.join(" "))
    }
}

fn find<'a>(examples: &'a [Example], name: &str) -> Result<&'a Example, Error> {
    let is_named = |example: &&Example| {
        example.name == name
            || name.split_once('/') == Some((&example.week, &example.name))
    };
    let found: Vec<_> = examples.iter().filter(is_named).collect();
    match found[..] {
        [example] => Ok(example),
        [first, _, ..] => Err(Error::new(format!(
            "more than one week has an example `{name}`"
        ))
        .fix(format!("type `{}/{}`", first.week, first.name))),
        [] => {
            let names = examples.iter().map(|example| &*example.name);
            let error = Error::new(format!("no example `{name}`"));
            Err(match workbook::nearest(names, name) {
                Some(near) => error.fix(format!("did you mean `{near}`?")),
                None => error.fix("`cargo wb demo` lists all examples"),
            })
        }
    }
}

/// Replaces this process with the example, so that it gets all keys and Ctrl-C.
/// Returns only if it cannot start.
fn run(book: &Workbook, example: &Example, arguments: &[String]) -> Error {
    let mut command = compile::cargo(book);
    command.arg("run");
    match &example.manifest {
        Some(manifest) => command.arg("--manifest-path").arg(manifest),
        None => {
            let (week, name) = (&example.week, &example.name);
            command.args(["--package", week, "--example", name])
        }
    };
    command.arg("--").args(arguments);
    Error::new(format!("cannot start cargo: {}", command.exec()))
}
