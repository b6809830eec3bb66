//! The source text of the three crate roots that grade subjects.
//!
//! A grader is the set of tests of one exercise. Its subject is the file that it
//! tests: the answer, a variant (another right answer), the stub, a foil (a
//! known-wrong answer) or the reader's attempt. A subject replaces the answer of
//! its exercise. Only the graders of the subjects are compiled.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The text of each crate root, without its `//!` and `#!` lines, which are in
/// `lib.rs`, `grade.rs` and `loom.rs`.
pub(crate) struct Sources {
    /// The library. Its name is the name of the week.
    pub(crate) subject: String,
    /// The test binary with the graders. Its module `sources` has a constant
    /// with the text of each subject.
    pub(crate) grade: String,
    /// The test binary with the models, compiled with the types of loom and
    /// shuttle. `model_checkers` precedes it.
    pub(crate) loom: String,
    /// The types of loom and shuttle, and the code that models share.
    pub(crate) model_checkers: String,
    /// The first lines of that binary's crate root. `cargo wb verify` writes
    /// them. Attempts have them in `loom_and_tokio.rs`, since rustc rejects them
    /// in a file that is included.
    pub(crate) loom_names: String,
}

/// Lets `tokio` and `tokio_util` mean types of shuttle.
const SHUTTLE_NAMES: &str = "extern crate self as tokio;
extern crate self as tokio_util;
extern crate tokio as real_tokio;
";

/// Lets `std` mean types of shuttle. They panic outside of a shuttle model, so a
/// binary with a loom model omits this line. (If it has shuttle models, too, a
/// lock of std may block them: `cargo wb` runs each test in its own process.)
const SHUTTLE_STD: &str = "extern crate std_under_shuttle as std;\n";

impl Sources {
    /// Creates the sources for `subjects`, each the name of an exercise and a
    /// file. `week` is the folder of the week. `program_module` is the module of
    /// the tests that judge programs, if they are to be compiled.
    pub(crate) fn of(
        week: &Path,
        subjects: &[(String, PathBuf)],
        program_module: Option<&str>,
    ) -> io::Result<Self> {
        let mut subject = "pub use answers::*;\n".to_owned();
        let (mut grade, mut models) = (String::new(), String::new());
        let (mut loom, mut texts) = (String::new(), String::new());
        let mut model_checkers = String::new();
        let common = test(week, "grade", "common");
        if common.exists() {
            grade += &module("mod common", &common);
        }
        let real_types = model_checked(&week.join("src"))?;
        if !real_types.is_empty() {
            subject += &real_types;
            model_checkers += &model_checked(&week.join("tests/loom"))?;
        }
        let common = test(week, "loom", "common");
        if common.exists() {
            model_checkers += &module("mod common", &common);
        }
        let mut loom_names = String::new();
        let tokio = test(week, "loom", "tokio_under_shuttle");
        if tokio.exists() {
            loom_names += SHUTTLE_NAMES;
            if !have_loom_model(week, subjects)? {
                loom_names += SHUTTLE_STD;
            }
            model_checkers += &module("mod tokio_under_shuttle", &tokio);
            model_checkers += "pub(crate) use tokio_under_shuttle::*;\n";
        }
        for (exercise, file) in subjects {
            let public = format!("pub mod {exercise}");
            let private = format!("mod {exercise}");
            subject += &module(&public, file);
            grade += &module(&private, &test(week, "grade", exercise));
            texts += &format!(
                "pub(crate) const {}: &str = include_str!({file:?});\n",
                exercise.to_uppercase()
            );
            let model = test(week, "loom/models", exercise);
            if model.exists() {
                loom += &module(&public, file);
                models += &module(&private, &model);
            }
        }
        if let Some(name) = program_module {
            let file = test(week, "grade", name);
            grade += &module(&format!("mod {name}"), &file);
        }
        // Only some graders read the text of their subject.
        grade += &format!("#[allow(dead_code)]\nmod sources {{\n{texts}}}\n");
        // A subject may use other answers. Those with models are compiled with
        // the types of loom and shuttle, too.
        for answer in used_answers(week, subjects)? {
            let file = week.join("src").join(&answer).with_extension("rs");
            loom += &module(&format!("pub mod {answer}"), &file);
        }
        // A subject may use other modules of the week.
        let name = week.file_name().expect("the folder of a week has a name");
        loom += &format!("use {}::*;\n", name.display());
        loom += &format!("mod models {{\n{models}}}\n");
        Ok(Self { subject, grade, loom, model_checkers, loom_names })
    }
}

/// Returns whether loom runs a model of one of `subjects`.
fn have_loom_model(
    week: &Path,
    subjects: &[(String, PathBuf)],
) -> io::Result<bool> {
    for (exercise, _) in subjects {
        let model = test(week, "loom/models", exercise);
        if model.exists() && fs::read_to_string(model)?.contains("loom::") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the answers with models that the text of a subject with models uses,
/// as in `crate::singleflight`, and that are no subjects.
fn used_answers(
    week: &Path,
    subjects: &[(String, PathBuf)],
) -> io::Result<Vec<String>> {
    let models = week.join("tests/loom/models");
    let mut texts = String::new();
    for (exercise, file) in subjects {
        if test(week, "loom/models", exercise).exists() {
            texts += &fs::read_to_string(file)?;
        }
    }
    let mut used = Vec::new();
    if models.exists() {
        for model in fs::read_dir(models)? {
            let model = model?.path();
            let name = model.file_stem().expect("a file has a name");
            let name = name.to_string_lossy().into_owned();
            let is_subject = subjects.iter().any(|(s, _)| *s == name);
            if texts.contains(&format!("crate::{name}")) && !is_subject {
                used.push(name);
            }
        }
    }
    used.sort_unstable();
    Ok(used)
}

/// Returns the path of a test file.
fn test(week: &Path, kind: &str, exercise: &str) -> PathBuf {
    week.join("tests").join(kind).join(exercise).with_extension("rs")
}

/// Returns a module declaration with the path of its file.
fn module(item: &str, file: &Path) -> String {
    format!("#[path = {file:?}]\n{item};\n")
}

/// Returns the module `model_checked` in `folder`, or an empty text if the week
/// has no such module.
fn model_checked(folder: &Path) -> io::Result<String> {
    let dir = folder.join("model_checked");
    if !dir.exists() {
        return Ok(String::new());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        files.push(entry?.path());
    }
    files.retain(|file| file.extension() == Some(OsStr::new("rs")));
    files.sort_unstable();
    let mut modules = String::new();
    for file in &files {
        let name = file.file_stem().expect("a file has a name");
        // Include the text, not a `#[path]`: editors do not follow a path that
        // leads out of the package.
        let text = fs::read_to_string(file)?;
        modules += &format!("pub(crate) mod {} {{\n{text}}}\n", name.display());
    }
    Ok(format!("mod model_checked {{\n{modules}}}\n"))
}
