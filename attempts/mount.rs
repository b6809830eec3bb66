//! The build script of every attempt crate. It writes the crate roots that
//! include the subjects, which are the files to be graded.
//!
//! | `WB_SUBJECT` | Subjects |
//! |--------------|----------|
//! | not set | every attempt: `attempts/<week>/<exercise>.rs` |
//! | `<exercise>=<file>` | only that file |
//! | empty | none |
//!
//! `WB_PROGRAM_MODULE` is the module of the tests that judge programs. They are
//! not compiled if it is not set.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use crate::sources::Sources;

mod sources;

fn main() -> io::Result<()> {
    let package = PathBuf::from(var("CARGO_MANIFEST_DIR"));
    let name = package.file_name().expect("the folder of a package has a name");
    let week = package.join("../..").join(name).canonicalize()?;
    println!("cargo::rerun-if-changed={}", package.display());
    println!("cargo::rerun-if-changed={}", week.display());
    println!("cargo::rerun-if-env-changed=WB_SUBJECT");
    // cargo compares only modification times, and misses an older file that
    // replaces a newer one. The hash changes then.
    println!("cargo::rerun-if-env-changed=WB_SUBJECT_HASH");
    println!("cargo::rerun-if-env-changed=WB_PROGRAM_MODULE");

    let subjects = subjects(&package, &week)?;
    let program_module = env::var("WB_PROGRAM_MODULE").ok();
    let Sources { subject, grade, loom, model_checkers, loom_names } =
        Sources::of(&week, &subjects, program_module.as_deref())?;
    println!("cargo::rustc-check-cfg=cfg(std_under_shuttle)");
    if loom_names.contains("std_under_shuttle") {
        println!("cargo::rustc-cfg=std_under_shuttle");
    }
    let out = PathBuf::from(var("OUT_DIR"));
    fs::write(out.join("subject.rs"), subject)?;
    fs::write(out.join("grade.rs"), grade)?;
    fs::write(out.join("loom.rs"), model_checkers + &loom)
}

/// Returns the name of each exercise to be graded, with its subject.
fn subjects(package: &Path, week: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    if let Ok(setting) = env::var("WB_SUBJECT") {
        if setting.is_empty() {
            return Ok(Vec::new());
        }
        let (exercise, file) =
            setting.split_once('=').expect("WB_SUBJECT is <exercise>=<file>");
        let file = PathBuf::from(file);
        assert!(
            week.join("stubs").join(exercise).with_extension("rs").exists(),
            "WB_SUBJECT: there is no exercise `{exercise}`"
        );
        assert!(
            file.is_absolute() && file.exists(),
            "WB_SUBJECT: expected the absolute path of a file, got {}",
            file.display()
        );
        return Ok(vec![(exercise.to_owned(), file)]);
    }
    let mut subjects = Vec::new();
    for stub in fs::read_dir(week.join("stubs"))? {
        let stub = stub?.path();
        let attempt =
            package.join(stub.file_name().expect("a stub has a name"));
        if attempt.exists() {
            let exercise = stub.file_stem().expect("a stub has a name");
            subjects.push((exercise.to_string_lossy().into_owned(), attempt));
        }
    }
    Ok(subjects)
}

fn var(name: &str) -> String {
    env::var(name).expect("cargo sets this variable for build scripts")
}
