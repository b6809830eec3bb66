//! The build script of every attempt crate: mounts what is to be graded.
//!
//! A grader is one set of tests. Its subject is the answer, a variant (another
//! right answer), the stub, a foil (a known-wrong answer) or the reader's
//! attempt. Under grading are the files `attempts/<week>/<exercise>.rs`, or,
//! where `WB_SUBJECT` says `<exercise>=<file>`, that one alone; where it is set
//! and empty, nothing. They take the place of the answers, and only their
//! graders are compiled.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let home = PathBuf::from(var("CARGO_MANIFEST_DIR"));
    let name = home.file_name().expect("a package has a folder");
    let week = home.join("../..").join(name).canonicalize()?;
    println!("cargo::rerun-if-changed={}", home.display());
    println!("cargo::rerun-if-changed={}", week.display());
    println!("cargo::rerun-if-env-changed=WB_SUBJECT");
    // A text that is older than the last one is another one too.
    println!("cargo::rerun-if-env-changed=WB_SUBJECT_HASH");

    let mut subject = "pub use answers::*;\n".to_owned();
    let (mut grade, mut models) = (String::new(), String::new());
    let mut loom = String::new();
    let common = grader(&week, "grade", "common");
    if common.exists() {
        grade += &module("mod common", &common);
    }
    let parts = model_checked(&week.join("src"))?;
    if !parts.is_empty() {
        subject += &parts;
        loom += &model_checked(&week.join("tests/loom"))?;
    }
    let explore = grader(&week, "loom", "common");
    if explore.exists() {
        loom += &module("mod common", &explore);
    }
    for (exercise, file) in subjects(&home, &week)? {
        let visible = format!("pub mod {exercise}");
        subject += &module(&visible, &file);
        grade += &module(
            &format!("mod {exercise}"),
            &grader(&week, "grade", &exercise),
        );
        let model = grader(&week, "loom/models", &exercise);
        if model.exists() {
            loom += &module(&visible, &file);
            models += &module(&format!("mod {exercise}"), &model);
        }
    }
    // And what is given, such as what a configuration is read from.
    loom += &format!("use {name}::*;\n", name = name.display());
    loom += &format!("mod models {{\n{models}}}\n");

    let out = PathBuf::from(var("OUT_DIR"));
    fs::write(out.join("subject.rs"), subject)?;
    fs::write(out.join("grade.rs"), grade)?;
    fs::write(out.join("loom.rs"), loom)
}

/// The exercises under grading, and the file of each.
fn subjects(home: &Path, week: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    if let Ok(chosen) = env::var("WB_SUBJECT") {
        if chosen.is_empty() {
            return Ok(Vec::new());
        }
        let (exercise, file) =
            chosen.split_once('=').expect("WB_SUBJECT is <exercise>=<file>");
        let file = PathBuf::from(file);
        assert!(
            week.join("stubs").join(exercise).with_extension("rs").exists(),
            "no exercise {exercise}"
        );
        assert!(
            file.is_absolute() && file.exists(),
            "no file {}",
            file.display()
        );
        return Ok(vec![(exercise.to_owned(), file)]);
    }
    let mut subjects = Vec::new();
    for stub in fs::read_dir(week.join("stubs"))? {
        let stub = stub?.path();
        let attempt = home.join(stub.file_name().expect("an entry has a name"));
        if attempt.exists() {
            let exercise = stub.file_stem().expect("an entry has a name");
            subjects.push((exercise.to_string_lossy().into_owned(), attempt));
        }
    }
    Ok(subjects)
}

fn grader(week: &Path, kind: &str, exercise: &str) -> PathBuf {
    week.join("tests").join(kind).join(exercise).with_extension("rs")
}

fn module(item: &str, file: &Path) -> String {
    format!("#[path = {file:?}]\n{item};\n")
}

/// The module `model_checked` below `folder`, with its parts by their text; empty
/// where the week has none.
fn model_checked(folder: &Path) -> io::Result<String> {
    let parts = folder.join("model_checked");
    if !parts.exists() {
        return Ok(String::new());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(parts)? {
        files.push(entry?.path());
    }
    files.sort_unstable();
    let mut modules = String::new();
    for file in &files {
        let name = file.file_stem().expect("an entry has a name");
        modules += &inline(&name.to_string_lossy(), file)?;
    }
    Ok(format!("mod model_checked {{\n{modules}}}\n"))
}

/// A module by its text: an editor follows no path out of the package.
fn inline(name: &str, file: &Path) -> io::Result<String> {
    Ok(format!("pub(crate) mod {name} {{\n{}}}\n", fs::read_to_string(file)?))
}

fn var(name: &str) -> String {
    env::var(name).expect("cargo sets it for every build script")
}
