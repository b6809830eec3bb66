//! Builds the graders over many subjects at a time.
//!
//! `attempts/weekNN` is one package: cargo would build one subject after the
//! other, mostly on one core. Here each subject is a library of its own, in a
//! workspace below `target/wb`, and the graders of several subjects are one test
//! binary. One cargo builds all of them on all cores, in the workbook's target
//! directory, where the crates of the registry are complete. A subject can be
//! graded while the next exercise is compiled.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use toml::{Table, Value};
use workbook::{Exercise, Workbook};

use super::manifests::{
    EMPTY, GRADE, GRADERS, MODELS, SUBJECT, all_dependencies, entry,
    graders_manifest, make_paths_absolute, read_toml, set_profiles,
    subject_manifest, table,
};
use super::nested::{self, Module, module_name};
use super::sources::Sources;
use crate::error::Error;
use crate::grading::compile::{
    self, Compiled, Event, Graders, build_error, cargo,
};
use crate::grading::grade::content_hash;
use crate::grading::process::Group;
use crate::grading::properties::cores;

/// The folder of the workspace, in that of scratch files.
const HOME: &str = "subjects";

/// The largest number of subjects in a package: the compiler needs memory for all
/// of them.
const SUBJECTS_PER_PACKAGE: usize = 8;

/// The package with the dependencies of all members of the workbook. It is not
/// built. But cargo selects the features of the dependencies for all packages of
/// a workspace together. So they are those of `cargo test --workspace`, and the
/// dependencies are not compiled again for each week.
const ALL_DEPENDENCIES: &str = "all-dependencies";

/// The deadline of `cargo metadata`.
const METADATA: Duration = Duration::from_secs(60);

/// The workspace of the subjects.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    book: &'a Workbook,
    home: PathBuf,
    target: PathBuf,
    /// Where complete binaries are kept: on the file system of `target`.
    binaries: PathBuf,
    /// The workbook's own manifest, without its members.
    manifest: Table,
    /// The dependencies and build dependencies of all members of the workbook.
    dependencies: Table,
}

/// A subject whose build has ended.
pub(super) struct Built {
    pub(super) compiled: Compiled,
    /// Shared by the subjects of a package. The last one removes the files.
    _binaries: Option<Arc<Binaries>>,
}

/// The test binaries of a package so far. Removed on drop.
#[derive(Debug, Default)]
struct Binaries {
    tests: Option<PathBuf>,
    models: Option<PathBuf>,
}

/// The subjects of one package of graders, and the state of its build.
#[derive(Debug, Default)]
struct Package {
    /// The positions of the subjects.
    subjects: Vec<usize>,
    binaries: Binaries,
    errors: Vec<String>,
    is_done: bool,
}

/// What a build has left over.
#[derive(Debug, Default)]
struct Rest {
    /// The subjects that compile, or may do so, in packages that do not.
    subjects: Vec<usize>,
    /// The number of subjects that do not compile.
    broken: usize,
    /// The errors of the packages.
    errors: Vec<String>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(book: &'a Workbook) -> Result<Self, Error> {
        let mut manifest = read_toml(&book.root.join("Cargo.toml"))?;
        let dependencies = all_dependencies(book, &manifest)?;
        if let Some(workspace) = table(&mut manifest, "workspace") {
            workspace.remove("default-members");
            make_paths_absolute(workspace, &book.root);
        }
        let home = book.scratch().join(HOME);
        let target = target_directory(book)?;
        let binaries = target.join("wb-subjects");
        remove_folder(&binaries)?;
        Ok(Self { book, home, target, binaries, manifest, dependencies })
    }

    /// Builds the graders of `exercise` over each of `subjects`. Calls `ready`
    /// with the position of a subject as soon as its build has ended.
    pub(super) fn build(
        &self,
        exercise: &Exercise,
        subjects: &[PathBuf],
        mut ready: impl FnMut(usize, Built),
    ) -> Result<(), Error> {
        let mut left: Vec<_> = (0..subjects.len()).collect();
        let mut clash: Option<String> = None;
        while !left.is_empty() {
            let most = if clash.is_some() { 1 } else { SUBJECTS_PER_PACKAGE };
            let packages = split(&left, cores(), most);
            let rest =
                self.build_packages(exercise, subjects, packages, &mut ready)?;
            left = rest.subjects;
            if rest.broken == 0 && clash.is_some() {
                let (id, errors) = (exercise.id(), clash.unwrap_or_default());
                return Err(Error::new(format!(
                    "the graders of {id} compile for each subject, and not as \
                     modules of one crate:\n{errors}"
                )));
            }
            // The grader does not compile for one subject, which prevents the
            // others in its package.
            if rest.broken == 0 && !left.is_empty() {
                clash = Some(rest.errors.concat());
            }
        }
        Ok(())
    }

    /// Builds `packages`, and calls `ready` with each subject whose outcome is
    /// known.
    fn build_packages(
        &self,
        exercise: &Exercise,
        subjects: &[PathBuf],
        mut packages: Vec<Package>,
        ready: &mut impl FnMut(usize, Built),
    ) -> Result<Rest, Error> {
        self.write(exercise, subjects, &packages)?;
        let has_models = exercise.models().is_some();
        let mut of_subjects = BTreeMap::<usize, Vec<String>>::new();
        let mut elsewhere = Vec::new();
        let mut kept = Ok(());
        let tests = exercise.package();
        let models = compile::models_target(&tests);
        let mut command = self.command();
        command.arg("--test").arg(&tests);
        command.args(has_models.then(|| format!("--test={models}")));
        let (_, stderr) =
            compile::run_cargo(&mut command, |event| match event {
                Event::Error { package, rendered, .. } => {
                    let subject = position(&package, SUBJECT);
                    let package = position(&package, GRADERS);
                    let package = package.and_then(|n| packages.get_mut(n));
                    let errors = match (subject, package) {
                        (Some(n), _) => of_subjects.entry(n).or_default(),
                        (None, Some(package)) => &mut package.errors,
                        (None, None) => &mut elsewhere,
                    };
                    errors.push(rendered);
                }
                Event::Artifact { package, target, executable, .. } => {
                    let package = position(&package, GRADERS);
                    let package = package.and_then(|n| packages.get_mut(n));
                    let (Some(package), Some(file)) = (package, executable)
                    else {
                        return;
                    };
                    let binaries = &mut package.binaries;
                    let kind = match target == models {
                        true => &mut binaries.models,
                        false => &mut binaries.tests,
                    };
                    let first = package.subjects.first().copied();
                    let first = first.unwrap_or_default();
                    match self.keep(exercise, first, &target, &file) {
                        Ok(file) => *kind = Some(file),
                        Err(error) => kept = Err(error),
                    }
                    package.report(has_models, ready);
                }
            })?;
        kept?;
        let mut rest = Rest::default();
        for package in packages.iter().filter(|package| !package.is_done) {
            let subjects_of = package.subjects.iter().copied();
            let (broken, others): (Vec<_>, Vec<_>) =
                subjects_of.partition(|n| of_subjects.contains_key(n));
            if broken.is_empty() && package.errors.is_empty() {
                let week = &exercise.week;
                return Err(build_error(&elsewhere, &stderr, week));
            }
            let mut report = |n: usize, errors: &[String]| {
                let rendered = compile::rendered(self.book, exercise, errors);
                let file = &subjects[n];
                let rendered =
                    self::with_originals(self.book, exercise, file, &rendered);
                let compiled = Compiled::Not { rendered };
                ready(n, Built { compiled, _binaries: None });
                rest.broken += 1;
            };
            for n in &broken {
                report(*n, &of_subjects[n]);
            }
            match *others {
                [n] if broken.is_empty() => report(n, &package.errors),
                _ => {
                    rest.subjects.extend(others);
                    rest.errors.extend(package.errors.iter().cloned());
                }
            }
        }
        Ok(rest)
    }

    /// Writes the libraries of `subjects` and the packages of their graders, and
    /// the workspace around them.
    fn write(
        &self,
        exercise: &Exercise,
        subjects: &[PathBuf],
        packages: &[Package],
    ) -> Result<(), Error> {
        let attempts = self.book.root.join("attempts").join(&exercise.week);
        let mut manifest = read_toml(&attempts.join("Cargo.toml"))?;
        make_paths_absolute(&mut manifest, &attempts);
        remove_folder(&self.home)?;
        let mut names = Vec::new();
        for (n, package) in packages.iter().enumerate() {
            let name = format!("{GRADERS}{n}");
            self.write_graders(exercise, subjects, package, &name, &manifest)?;
            names.push(name);
            for n in &package.subjects {
                names.push(format!("{SUBJECT}{n}"));
            }
        }
        self.write_all_dependencies()?;
        let mut root = self.manifest.clone();
        let members = names.iter().map(String::as_str);
        let members = members.chain([ALL_DEPENDENCIES]);
        let members = members.map(Value::from).collect();
        if let Some(workspace) = table(&mut root, "workspace") {
            workspace.insert("members".to_owned(), Value::Array(members));
        }
        set_profiles(&mut root, &names);
        self.write_file(Path::new("Cargo.toml"), &root.to_string())?;
        let lock = self.book.root.join("Cargo.lock");
        if lock.exists() {
            let to = self.home.join("Cargo.lock");
            fs::copy(&lock, &to)
                .map_err(|error| Error::file("copy", &lock, &error))?;
        }
        Ok(())
    }

    /// Writes the package `name` with the graders of some subjects, and the
    /// libraries of these subjects. `attempt` is the manifest of the attempts.
    fn write_graders(
        &self,
        exercise: &Exercise,
        subjects: &[PathBuf],
        package: &Package,
        name: &str,
        attempt: &Table,
    ) -> Result<(), Error> {
        let week = self.book.root.join(&exercise.week);
        let folder = Path::new(name);
        // A subject is graded, not linted.
        let mut grade = "#![allow(warnings)]\n".to_owned();
        let mut models = grade.clone();
        for n in &package.subjects {
            let file = &subjects[*n];
            let subject = [(exercise.name.clone(), file.clone())];
            let sources = Sources::of(&week, &subject, None)
                .map_err(|error| Error::file("read", &week, &error))?;
            self.write_subject(*n, file, &sources.subject, attempt)?;
            let is_first = package.subjects.first() == Some(n);
            let module = Module {
                position: *n,
                week: &week,
                name: &exercise.week,
                copies: self.home.join(folder).join(module_name(*n)),
                has_allocator: is_first,
            };
            let copied = |result: io::Result<String>| {
                let from = |error| Error::file("copy", &module.copies, &error);
                result.map_err(from)
            };
            grade += &copied(module.grade(&sources))?;
            if exercise.models().is_some() {
                if is_first {
                    models += &sources.loom_names;
                    models += &sources.model_checkers;
                }
                models += &copied(module.models(&sources, file))?;
            }
        }
        let manifest =
            graders_manifest(attempt, name, exercise, &package.subjects);
        for (file, text) in [
            ("Cargo.toml", &*manifest.to_string()),
            (EMPTY, ""),
            (GRADE, &grade),
            (MODELS, &models),
        ] {
            self.write_file(&folder.join(file), text)?;
        }
        Ok(())
    }

    /// Writes the package of the subject at position `n`, which is in `file`.
    /// `root` is the text of its library, without attributes.
    fn write_subject(
        &self,
        n: usize,
        file: &Path,
        root: &str,
        attempt: &Table,
    ) -> Result<(), Error> {
        let text = fs::read(file)
            .map_err(|error| Error::file("read", file, &error))?;
        // cargo compares modification times. A library whose path contains the
        // hash of its content is not taken for that of another subject.
        let hash = content_hash(&[root.as_bytes(), &text].concat());
        let library = format!("lib-{hash}.rs");
        let name = format!("{SUBJECT}{n}");
        let manifest = subject_manifest(attempt, &name, &library);
        let folder = Path::new(&name);
        let root = format!("#![allow(warnings)]\n{root}");
        self.write_file(&folder.join(&library), &root)?;
        self.write_file(&folder.join("Cargo.toml"), &manifest.to_string())
    }

    fn write_all_dependencies(&self) -> Result<(), Error> {
        let folder = Path::new(ALL_DEPENDENCIES);
        let mut manifest = self.dependencies.clone();
        let package = entry(&mut manifest, "package");
        package.insert("name".to_owned(), ALL_DEPENDENCIES.into());
        package.insert("edition".to_owned(), "2024".into());
        self.write_file(&folder.join("Cargo.toml"), &manifest.to_string())?;
        self.write_file(&folder.join("src/lib.rs"), "")?;
        // Without a build script, cargo ignores the build dependencies.
        self.write_file(&folder.join("build.rs"), "fn main() {}")
    }

    fn write_file(&self, file: &Path, text: &str) -> Result<(), Error> {
        let file = self.home.join(file);
        let folder = file.parent().expect("it is below a folder");
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&file, text))
            .map_err(|error| Error::file("write", &file, &error))
    }

    fn command(&self) -> Command {
        let mut command = compile::cargo_in_background(self.book);
        command.args(["build", "--keep-going", "--workspace"]);
        command.arg("--manifest-path").arg(self.home.join("Cargo.toml"));
        command.arg("--target-dir").arg(&self.target);
        // No subject is built twice, so incremental files are of no use.
        command.env("CARGO_INCREMENTAL", "0");
        command
    }

    /// Moves a binary to a place where the next build does not overwrite it.
    /// `first` is the first subject of its package.
    fn keep(
        &self,
        exercise: &Exercise,
        first: usize,
        target: &str,
        file: &Path,
    ) -> Result<PathBuf, Error> {
        let folder = self.binaries.join(exercise.id());
        let to = folder.join(format!("{target}{first}"));
        fs::create_dir_all(&folder)
            .and_then(|()| fs::rename(file, &to))
            .map_err(|error| Error::file("move", file, &error))?;
        Ok(to)
    }
}

impl Package {
    /// Calls `ready` with each subject if all binaries are complete.
    fn report(
        &mut self,
        has_models: bool,
        ready: &mut impl FnMut(usize, Built),
    ) {
        let Binaries { tests: Some(tests), models } = &self.binaries else {
            return;
        };
        if has_models && models.is_none() {
            return;
        }
        let (tests, models) = (tests.clone(), models.clone());
        let binaries = Arc::new(mem::take(&mut self.binaries));
        for n in &self.subjects {
            let graders = Graders {
                tests: tests.clone(),
                models: models.clone(),
                module: Some(module_name(*n)),
                program: None,
            };
            let compiled = Compiled::Ready(graders);
            let _binaries = Some(Arc::clone(&binaries));
            ready(*n, Built { compiled, _binaries });
        }
        self.is_done = true;
    }
}

impl Drop for Binaries {
    fn drop(&mut self) {
        for file in [&self.tests, &self.models].into_iter().flatten() {
            // The next run removes a file that cannot be removed now.
            let _ = fs::remove_file(file);
        }
    }
}

/// Returns `subjects` in one package for each core, or in more packages so that
/// none has more than `most` subjects.
fn split(subjects: &[usize], cores: usize, most: usize) -> Vec<Package> {
    let all = subjects.len();
    let count = cores.max(all.div_ceil(most)).min(all);
    let package = |first: usize| {
        let subjects = subjects[first..].iter().copied().step_by(count);
        Package { subjects: subjects.collect(), ..Package::default() }
    };
    (0..count).map(package).collect()
}

/// Returns `text` with the paths of the week and of `subject`, in place of those
/// of the copies, which the next build removes.
pub(super) fn with_originals(
    book: &Workbook,
    exercise: &Exercise,
    subject: &Path,
    text: &str,
) -> String {
    let copies = book.scratch().join(HOME).join(GRADERS);
    let copies = book.short(&copies).to_string();
    let subject = book.short(subject).to_string();
    nested::with_originals(text, &copies, &exercise.week, &subject)
}

/// Removes `folder` and everything in it. It need not exist.
fn remove_folder(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::file("remove", folder, &error))
        }
        _ => Ok(()),
    }
}

/// Returns 7 for `path+file:///…/subject7#0.0.0` and the prefix `subject`.
fn position(package_id: &str, prefix: &str) -> Option<usize> {
    let (path, _) = package_id.split_once('#')?;
    let (_, name) = path.rsplit_once('/')?;
    name.strip_prefix(prefix)?.parse().ok()
}

/// Returns the target directory of the workbook, which the user can configure.
fn target_directory(book: &Workbook) -> Result<PathBuf, Error> {
    let mut metadata = cargo(book);
    metadata.args(["metadata", "--no-deps", "--format-version", "1"]);
    let output = Group::piped(&mut metadata)?.output(METADATA);
    let json: serde_json::Value =
        serde_json::from_str(&output.stdout).unwrap_or_default();
    json["target_directory"].as_str().map(PathBuf::from).ok_or_else(|| {
        Error::new(format!("`cargo metadata` fails:\n{}", output.stderr))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_id_contains_the_position_of_its_subject() {
        let id = "path+file:///a%20b/target/wb/subjects/subject17#0.0.0";
        assert_eq!(position(id, SUBJECT), Some(17));
        assert_eq!(position(id, GRADERS), None);
        assert_eq!(position("path+file:///a/week03#0.0.0", SUBJECT), None);
        let id = "registry+https://x/y#subject1@0.0.0";
        assert_eq!(position(id, SUBJECT), None);
    }

    #[test]
    fn subjects_are_split_into_a_package_for_each_core() {
        let positions = |subjects: &[usize], cores, most| {
            let packages = split(subjects, cores, most).into_iter();
            packages.map(|package| package.subjects).collect::<Vec<_>>()
        };
        let all = [0, 1, 2, 5, 7];
        assert_eq!(positions(&all, 2, 8), [vec![0, 2, 7], vec![1, 5]]);
        assert_eq!(positions(&all, 1, 3), [vec![0, 2, 7], vec![1, 5]]);
        assert_eq!(positions(&all, 1, 8), [all.to_vec()]);
        let alone = [vec![0], vec![1], vec![2], vec![5], vec![7]];
        assert_eq!(positions(&all, 64, 8), alone);
        assert_eq!(positions(&all, 2, 1), alone);
    }
}
