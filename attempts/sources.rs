//! The three crate roots under which subjects are graded, as text.
//!
//! A grader is one set of tests. Its subject is the answer, a variant (another
//! right answer), the stub, a foil (a known-wrong answer) or the reader's
//! attempt. Subjects take the place of the answers of the same name, and only
//! their graders are compiled.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// The text of each crate root, without its `//!` and `#!` lines.
pub(crate) struct Sources {
    /// The library, which graders know under the name of the week.
    pub(crate) subject: String,
    /// The test binary with the graders.
    pub(crate) grade: String,
    /// The test binary with the models, which is compiled against loom and
    /// shuttle.
    pub(crate) loom: String,
}

impl Sources {
    /// Returns the sources for `subjects`, which are names of exercises and
    /// files, of the week whose folder is `week`.
    pub(crate) fn of(
        week: &Path,
        subjects: &[(String, PathBuf)],
    ) -> io::Result<Self> {
        let mut subject = "pub use answers::*;\n".to_owned();
        let (mut grade, mut models) = (String::new(), String::new());
        let mut loom = String::new();
        let common = test(week, "grade", "common");
        if common.exists() {
            grade += &module("mod common", &common);
        }
        let parts = model_checked(&week.join("src"))?;
        if !parts.is_empty() {
            subject += &parts;
            loom += &model_checked(&week.join("tests/loom"))?;
        }
        let explore = test(week, "loom", "common");
        if explore.exists() {
            loom += &module("mod common", &explore);
        }
        for (exercise, file) in subjects {
            let visible = format!("pub mod {exercise}");
            let hidden = format!("mod {exercise}");
            subject += &module(&visible, file);
            grade += &module(&hidden, &test(week, "grade", exercise));
            let model = test(week, "loom/models", exercise);
            if model.exists() {
                loom += &module(&visible, file);
                models += &module(&hidden, &model);
            }
        }
        // The subject may use other modules of the week, too.
        let name = week.file_name().expect("a week has a folder");
        loom += &format!("use {}::*;\n", name.display());
        loom += &format!("mod models {{\n{models}}}\n");
        Ok(Self { subject, grade, loom })
    }
}

fn test(week: &Path, kind: &str, exercise: &str) -> PathBuf {
    week.join("tests").join(kind).join(exercise).with_extension("rs")
}

fn module(item: &str, file: &Path) -> String {
    format!("#[path = {file:?}]\n{item};\n")
}

/// Returns the module `model_checked` below `folder`, or nothing where the week
/// has none.
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
        // By its text: an editor follows no path out of the package.
        let text = fs::read_to_string(file)?;
        modules += &format!("pub(crate) mod {} {{\n{text}}}\n", name.display());
    }
    Ok(format!("mod model_checked {{\n{modules}}}\n"))
}
