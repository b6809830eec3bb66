//! Makes the graders of several subjects modules of one crate.
//!
//! Most of a build does not depend on the subject: reading the dependencies,
//! compiling generic code of std, tokio and proptest, linking. One crate does this
//! once. The grader of subject 3 is the module `s3`, with copies of its source
//! files: `crate::common` becomes `crate::s3::common`, and `week05::gcra` becomes
//! `crate::s3::week05::gcra`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::sources::Sources;

/// A crate can have one allocator. It counts for each thread, so the graders of
/// all subjects can share it.
const ALLOCATOR: &str = "#[global_allocator]";

/// The copy of the subject, in the folder of the copies.
const SUBJECT: &str = "src/subject.rs";

/// The module of a subject.
pub(super) struct Module<'a> {
    /// The position of the subject.
    pub(super) position: usize,
    /// The folder of the week.
    pub(super) week: &'a Path,
    /// The name of the week, which is that of the library.
    pub(super) name: &'a str,
    /// The folder for the copies.
    pub(super) copies: PathBuf,
    /// Whether to keep `#[global_allocator]`. Only the first module of a crate
    /// may have it.
    pub(super) has_allocator: bool,
}

/// Returns the name of the module of the subject at `position`.
pub(super) fn module_name(position: usize) -> String {
    format!("s{position}")
}

/// Returns the name under which a crate of graders knows the library of the
/// subject at `position`.
pub(super) fn library_name(position: usize) -> String {
    format!("lib{position}")
}

impl Module<'_> {
    /// Returns the module with the grader, for the root of the test binary.
    pub(super) fn grade(&self, sources: &Sources) -> io::Result<String> {
        Ok(self.module("", &self.with_copies(&sources.grade)?))
    }

    /// Returns the module with the subject, in the file `subject`, and its models.
    /// The types of the model checkers are in the crate root. `use super::*` gives
    /// the module their names.
    pub(super) fn models(
        &self,
        sources: &Sources,
        subject: &Path,
    ) -> io::Result<String> {
        let copy = self.copies.join(SUBJECT);
        self.copy_to(subject, &copy)?;
        let text = sources.loom.replace(&attribute(subject), &attribute(&copy));
        Ok(self.module("pub(crate) use super::*;\n", &self.with_copies(&text)?))
    }

    fn module(&self, imports: &str, text: &str) -> String {
        let module = module_name(self.position);
        let library = library_name(self.position);
        let name = self.name;
        let text = self.nested(text);
        format!(
            "mod {module} {{\npub(crate) use ::{library} as {name};\n\
             {imports}{text}}}\n"
        )
    }

    /// Copies the modules of the week that `text` declares, and returns a text
    /// that declares the copies.
    fn with_copies(&self, text: &str) -> io::Result<String> {
        let mut text = text.to_owned();
        for file in paths(&text.clone()) {
            if let Ok(name) = file.strip_prefix(self.week) {
                let copy = self.copies.join(name);
                self.copy_to(&file, &copy)?;
                text = text.replace(&attribute(&file), &attribute(&copy));
            }
        }
        Ok(text)
    }

    /// Copies a file and its modules.
    fn copy_to(&self, file: &Path, copy: &Path) -> io::Result<()> {
        if file.is_dir() {
            return self.copy_folder(file, copy);
        }
        if copy.exists() {
            return Ok(());
        }
        let folder = copy.parent().expect("a file is in a folder");
        fs::create_dir_all(folder)?;
        if file.extension().is_none_or(|extension| extension != "rs") {
            return fs::copy(file, copy).map(drop);
        }
        let text = fs::read_to_string(file)?;
        fs::write(copy, self.nested(&text))?;
        for path in paths(&text) {
            let module = file.with_file_name("").join(&path);
            self.copy_to(&module, &folder.join(&path))?;
        }
        // A test may include other files of the folder with its name.
        let folder = file.with_extension("");
        if folder.is_dir() {
            self.copy_folder(&folder, &copy.with_extension(""))?;
        }
        Ok(())
    }

    fn copy_folder(&self, folder: &Path, copy: &Path) -> io::Result<()> {
        for file in fs::read_dir(folder)? {
            let file = file?;
            self.copy_to(&file.path(), &copy.join(file.file_name()))?;
        }
        Ok(())
    }

    /// Returns `text` with the paths that it has in the module.
    fn nested(&self, text: &str) -> String {
        let root = format!("crate::{}::", module_name(self.position));
        let week = format!("{}::", self.name);
        let text = with_start(text, "crate::", &root);
        let text = with_start(&text, &week, &format!("{root}{week}"));
        if self.has_allocator { text } else { text.replace(ALLOCATOR, "") }
    }
}

/// Returns `text` in which each path that begins with `start` begins with `other`.
fn with_start(text: &str, start: &str, other: &str) -> String {
    let mut parts = text.split(start);
    let mut new = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let in_path = |c: char| c.is_alphanumeric() || "_$:".contains(c);
        new += if new.ends_with(in_path) { start } else { other };
        new += part;
    }
    new
}

/// Returns `text` with `week/tests/x.rs` in place of `{copies}0/s3/tests/x.rs`, and
/// with `subject` in place of its copy.
pub(super) fn with_originals(
    text: &str,
    copies: &str,
    week: &str,
    subject: &str,
) -> String {
    let is_digit = |c: char| c.is_ascii_digit();
    let mut parts = text.split(copies);
    let mut new = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let path = part.trim_start_matches(is_digit).strip_prefix("/s");
        let path = path.map(|path| path.trim_start_matches(is_digit));
        let Some(path) = path.and_then(|path| path.strip_prefix('/')) else {
            new = new + copies + part;
            continue;
        };
        match path.strip_prefix(SUBJECT) {
            Some(after) => new = new + subject + after,
            None => new = new + week + "/" + path,
        }
    }
    new
}

/// Returns the files of the attributes `path` in `text`.
fn paths(text: &str) -> Vec<PathBuf> {
    let attributes = text.lines().filter_map(|line| {
        line.trim().strip_prefix("#[path = \"")?.strip_suffix("\"]")
    });
    attributes.map(PathBuf::from).collect()
}

/// Returns the attribute with the path of a module.
fn attribute(file: &Path) -> String {
    format!("#[path = {file:?}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(copies: &Path) -> Module<'_> {
        Module {
            position: 3,
            week: Path::new("/book/week05"),
            name: "week05",
            copies: copies.to_owned(),
            has_allocator: false,
        }
    }

    #[test]
    fn paths_lead_into_the_module() {
        let module = module(Path::new(""));
        assert_eq!(
            module.nested(
                "#[global_allocator]\nuse crate::common;\nuse week05::gcra;\n\
                 f(week05::gcra::g(), $crate::h!(), bench_week05::x);"
            ),
            "\nuse crate::s3::common;\nuse crate::s3::week05::gcra;\n\
             f(crate::s3::week05::gcra::g(), $crate::h!(), bench_week05::x);"
        );
    }

    #[test]
    fn only_the_starts_of_paths_are_replaced() {
        let module = module(Path::new(""));
        for (text, nested) in [
            ("pub(in crate::a)", "pub(in crate::s3::a)"),
            ("<crate::A>::b()", "<crate::s3::A>::b()"),
            ("$crate::a!()", "$crate::a!()"),
            ("bench_week05::x", "bench_week05::x"),
            ("::week05::x", "::week05::x"),
        ] {
            assert_eq!(module.nested(text), nested);
        }
    }

    #[test]
    fn the_first_module_keeps_the_allocator() {
        let module = Module { has_allocator: true, ..module(Path::new("")) };
        assert_eq!(module.nested(ALLOCATOR), ALLOCATOR);
    }

    #[test]
    fn messages_name_the_original_files() {
        let shown = |text| with_originals(text, "x/graders", "week05", "a.rs");
        assert_eq!(
            shown("at x/graders0/s13/tests/grade/gcra.rs:7:1 of x/graders1/"),
            "at week05/tests/grade/gcra.rs:7:1 of x/graders1/"
        );
        assert_eq!(shown("--> x/graders12/s0/src/subject.rs:4"), "--> a.rs:4");
    }

    #[test]
    fn a_copy_includes_the_modules_and_files_of_the_original() {
        let folder = tempfile::tempdir().unwrap();
        let (week, copies) =
            (folder.path().join("week"), folder.path().join("copies"));
        fs::create_dir_all(week.join("a/b")).unwrap();
        fs::write(week.join("a.rs"), "#[path = \"b.rs\"]\nmod b;").unwrap();
        fs::write(week.join("b.rs"), "use crate::x;").unwrap();
        fs::write(week.join("a/b/data.txt"), "crate::x").unwrap();
        let module = Module { week: &week, ..module(&copies) };
        let text = format!("{}\nmod a;", attribute(&week.join("a.rs")));
        let text = module.with_copies(&text).unwrap();
        let copy = copies.join("a.rs");
        assert_eq!(text, format!("{}\nmod a;", attribute(&copy)));
        let read = |file: &str| fs::read_to_string(copies.join(file)).unwrap();
        assert_eq!(read("b.rs"), "use crate::s3::x;");
        assert_eq!(read("a/b/data.txt"), "crate::x");
    }
}
