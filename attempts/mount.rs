//! The build script of every attempt crate: mounts the files to be graded.
//!
//! These are `attempts/<week>/<exercise>.rs`, or, where `WB_SUBJECT` says
//! `<exercise>=<file>`, that file alone; where it is set and empty, none.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use crate::sources::Sources;

mod sources;

fn main() -> io::Result<()> {
    let home = PathBuf::from(var("CARGO_MANIFEST_DIR"));
    let name = home.file_name().expect("a package has a folder");
    let week = home.join("../..").join(name).canonicalize()?;
    println!("cargo::rerun-if-changed={}", home.display());
    println!("cargo::rerun-if-changed={}", week.display());
    println!("cargo::rerun-if-env-changed=WB_SUBJECT");
    // cargo compares times, and a file may be replaced by an older one.
    println!("cargo::rerun-if-env-changed=WB_SUBJECT_HASH");

    let Sources { subject, grade, loom } =
        Sources::of(&week, &subjects(&home, &week)?)?;
    let out = PathBuf::from(var("OUT_DIR"));
    fs::write(out.join("subject.rs"), subject)?;
    fs::write(out.join("grade.rs"), grade)?;
    fs::write(out.join("loom.rs"), loom)
}

/// Returns the exercises under grading, and the file of each.
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

fn var(name: &str) -> String {
    env::var(name).expect("cargo sets it for every build script")
}
