//! Builds the graders over many subjects at a time.
//!
//! `attempts/weekNN` is one package: cargo would build one subject after the
//! other, mostly on one core. Here each subject is a package of its own, in a
//! workspace below `target/wb`. One cargo builds all of them on all cores, in the
//! workbook's target directory, where the crates of the registry are complete. A
//! subject can be graded while the next ones are compiled.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use toml::{Table, Value};
use workbook::{Exercise, Workbook};

use self::sources::Sources;
use crate::error::Error;
use crate::grading::compile::{
    self, Compiled, Event, Graders, build_error, cargo,
};
use crate::grading::grade::content_hash;
use crate::grading::process::Group;

#[path = "../../../attempts/sources.rs"]
mod sources;

/// The prefix of the packages: `subject0`, `subject1` and so on. Every exercise
/// uses the same names, so that its files in the target directory replace those
/// of the previous exercise.
const PACKAGE: &str = "subject";

/// The package with the dependencies of all members of the workbook. It is not
/// built. But cargo selects the features of the dependencies for all packages of
/// a workspace together. So they are those of `cargo test --workspace`, and the
/// dependencies are not compiled again for each week.
const ALL_DEPENDENCIES: &str = "all-dependencies";

/// The files of a package: the grader, and its models.
const GRADE: &str = "grade.rs";
const MODELS: &str = "models.rs";

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

/// The binaries and errors of one subject so far.
#[derive(Debug, Default)]
struct Build {
    tests: Option<PathBuf>,
    models: Option<PathBuf>,
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
        let home = book.scratch().join("subjects");
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
        mut ready: impl FnMut(usize, Compiled),
    ) -> Result<(), Error> {
        self.write(exercise, subjects)?;
        let has_models = exercise.models().is_some();
        let mut builds: Vec<_> =
            subjects.iter().map(|_| Build::default()).collect();
        let mut elsewhere = Vec::new();
        let mut kept = Ok(());
        let tests = exercise.package();
        let models = compile::models_target(&tests);
        let mut command = self.command();
        command.arg("--test").arg(&tests);
        command.args(has_models.then(|| format!("--test={models}")));
        let (_, stderr) = compile::run_cargo(&mut command, |event| {
            match event {
                Event::Error { package, rendered, .. } => {
                    let errors = match position(&package) {
                        Some(n) => &mut builds[n].errors,
                        None => &mut elsewhere,
                    };
                    // The grader and the models compile the same file.
                    if !errors.contains(&rendered) {
                        errors.push(rendered);
                    }
                }
                Event::Artifact { package, target, executable, .. } => {
                    let (Some(n), Some(file)) =
                        (position(&package), executable)
                    else {
                        return;
                    };
                    match self.keep(exercise, n, &target, &file) {
                        Ok(file) if target == models => {
                            builds[n].models = Some(file);
                        }
                        Ok(file) => builds[n].tests = Some(file),
                        Err(error) => kept = Err(error),
                    }
                    if let Some(graders) = builds[n].graders(has_models) {
                        ready(n, Compiled::Ready(graders));
                    }
                }
            }
        })?;
        kept?;
        for (n, build) in builds.iter().enumerate() {
            if !build.errors.is_empty() {
                let rendered =
                    compile::rendered(self.book, exercise, &build.errors);
                ready(n, Compiled::Not { rendered });
            } else if build.graders(has_models).is_none() {
                return Err(build_error(&elsewhere, &stderr, &exercise.week));
            }
        }
        Ok(())
    }

    /// Removes the binaries of a subject that has been graded.
    pub(super) fn remove(graders: &Graders) {
        for file in [Some(&graders.tests), graders.models.as_ref()] {
            // The next run removes a file that cannot be removed now.
            let _ = file.map(fs::remove_file);
        }
    }

    /// Writes one package for each of `subjects`, and the workspace around them.
    fn write(
        &self,
        exercise: &Exercise,
        subjects: &[PathBuf],
    ) -> Result<(), Error> {
        let week = self.book.root.join(&exercise.week);
        let attempts = self.book.root.join("attempts").join(&exercise.week);
        let mut package = read_toml(&attempts.join("Cargo.toml"))?;
        make_paths_absolute(&mut package, &attempts);
        let names: Vec<_> =
            (0..subjects.len()).map(|n| format!("{PACKAGE}{n}")).collect();

        let mut root = self.manifest.clone();
        let members = names.iter().map(String::as_str);
        let members = members.chain([ALL_DEPENDENCIES]);
        let members = members.map(Value::from).collect();
        if let Some(workspace) = table(&mut root, "workspace") {
            workspace.insert("members".to_owned(), Value::Array(members));
        }
        set_profiles(&mut root, &names);
        remove_folder(&self.home)?;
        self.write_file(Path::new("Cargo.toml"), &root.to_string())?;
        let lock = self.book.root.join("Cargo.lock");
        if lock.exists() {
            let to = self.home.join("Cargo.lock");
            fs::copy(&lock, &to)
                .map_err(|error| Error::file("copy", &lock, &error))?;
        }

        self.write_all_dependencies()?;
        for (name, file) in names.iter().zip(subjects) {
            let subject = [(exercise.name.clone(), file.clone())];
            let sources = Sources::of(&week, &subject, None)
                .map_err(|error| Error::file("read", &week, &error))?;
            let text = fs::read(file)
                .map_err(|error| Error::file("read", file, &error))?;
            // cargo compares modification times. A library whose path contains
            // the hash of its content is not taken for that of another subject.
            let hash =
                content_hash(&[sources.subject.as_bytes(), &text].concat());
            let library = format!("lib-{hash}.rs");
            let tests = exercise.package();
            let manifest = member(&package, name, &library, &tests);
            // A subject is graded, not linted.
            let root = |text: &str| format!("#![allow(warnings)]\n{text}");
            for (file, text) in [
                ("Cargo.toml", manifest.to_string()),
                (&library, root(&sources.subject)),
                (GRADE, root(&sources.grade)),
                (MODELS, root(&(sources.loom_names + &sources.loom))),
            ] {
                self.write_file(&Path::new(name).join(file), &text)?;
            }
        }
        Ok(())
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
    fn keep(
        &self,
        exercise: &Exercise,
        n: usize,
        target: &str,
        file: &Path,
    ) -> Result<PathBuf, Error> {
        let folder = self.binaries.join(exercise.id());
        let to = folder.join(format!("{target}{n}"));
        fs::create_dir_all(&folder)
            .and_then(|()| fs::rename(file, &to))
            .map_err(|error| Error::file("move", file, &error))?;
        Ok(to)
    }
}

impl Build {
    /// Returns the binaries if all of them are complete.
    fn graders(&self, has_models: bool) -> Option<Graders> {
        let tests = self.tests.clone()?;
        if has_models && self.models.is_none() {
            return None;
        }
        Some(Graders { tests, models: self.models.clone(), program: None })
    }
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

/// Returns 7 for `path+file:///…/subject7#0.0.0`.
fn position(package_id: &str) -> Option<usize> {
    let (path, _) = package_id.split_once('#')?;
    let (_, name) = path.rsplit_once('/')?;
    name.strip_prefix(PACKAGE)?.parse().ok()
}

/// Returns the manifest of one subject, made from that of the week's attempts.
/// `tests` is the test target of the grader. The other one is that of the models.
fn member(attempts: &Table, name: &str, library: &str, tests: &str) -> Table {
    let mut manifest = attempts.clone();
    if let Some(package) = table(&mut manifest, "package") {
        package.insert("name".to_owned(), name.into());
        package.insert("build".to_owned(), false.into());
    }
    if let Some(lib) = table(&mut manifest, "lib") {
        lib.insert("path".to_owned(), library.into());
    }
    let targets = manifest.get_mut("test").and_then(Value::as_array_mut);
    for test in targets.into_iter().flatten().filter_map(Value::as_table_mut) {
        let is_grade = test.get("name").and_then(Value::as_str) == Some(tests);
        let path = if is_grade { GRADE } else { MODELS };
        test.insert("path".to_owned(), path.into());
    }
    manifest
}

/// Returns the dependencies and the build dependencies of all members, each with
/// all features that any member enables.
fn all_dependencies(book: &Workbook, manifest: &Table) -> Result<Table, Error> {
    let members = manifest.get("workspace").and_then(|it| it.get("members"));
    let members = members.and_then(Value::as_array).into_iter().flatten();
    let mut all = Table::new();
    for member in members.filter_map(Value::as_str) {
        let folder = book.root.join(member);
        let mut manifest = read_toml(&folder.join("Cargo.toml"))?;
        make_paths_absolute(&mut manifest, &folder);
        for (kind, of_all) in [
            ("dependencies", "dependencies"),
            ("dev-dependencies", "dependencies"),
            ("build-dependencies", "build-dependencies"),
        ] {
            for (name, dependency) in
                table(&mut manifest, kind).into_iter().flatten()
            {
                add_dependency(entry(&mut all, of_all), name, dependency);
            }
        }
    }
    Ok(all)
}

/// Adds a dependency to `all`, or its features to the one that is already there.
fn add_dependency(all: &mut Table, name: &str, dependency: &Value) {
    let mut dependency = match dependency {
        Value::Table(table) => table.clone(),
        version => Table::from_iter([("version".to_owned(), version.clone())]),
    };
    dependency.remove("optional");
    // Members may give different packages the same name.
    let name = match dependency.remove("package") {
        Some(Value::String(package)) if dependency.contains_key("path") => {
            package
        }
        Some(package) => {
            dependency.insert("package".to_owned(), package);
            name.to_owned()
        }
        None => name.to_owned(),
    };
    let known = entry(all, &name);
    let features = |table: &Table| -> BTreeSet<String> {
        let features = table.get("features").and_then(Value::as_array);
        let features = features.into_iter().flatten();
        features.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut both = features(known);
    both.extend(features(&dependency));
    known.extend(dependency);
    if known.contains_key("workspace") {
        known.remove("path");
    }
    let both: Vec<_> = both.into_iter().map(Value::from).collect();
    known.insert("features".to_owned(), both.into());
}

/// Disables debug information, which a panic message does not need. It would be
/// half of each binary, most of it from the dependencies. One codegen unit takes
/// less time than several, and other subjects keep the other cores busy.
fn set_profiles(manifest: &mut Table, packages: &[String]) {
    let profile = entry(entry(manifest, "profile"), "dev");
    let overrides = entry(profile, "package");
    for package in packages {
        let package = entry(overrides, package);
        package.insert("debug".to_owned(), false.into());
        package.insert("strip".to_owned(), "debuginfo".into());
        package.insert("codegen-units".to_owned(), 1.into());
    }
}

/// Makes each `path = "…"` of a dependency, which is relative to `folder`,
/// absolute.
fn make_paths_absolute(manifest: &mut Table, folder: &Path) {
    for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let Some(dependencies) = table(manifest, kind) else { continue };
        for dependency in
            dependencies.iter_mut().filter_map(|(_, dependency)| {
                dependency.as_table_mut()?.get_mut("path")
            })
        {
            let path = dependency.as_str().unwrap_or_default();
            let path = folder.join(path).to_string_lossy().into_owned();
            *dependency = path.into();
        }
    }
}

fn table<'a>(table: &'a mut Table, key: &str) -> Option<&'a mut Table> {
    table.get_mut(key)?.as_table_mut()
}

/// Returns the table `key`. Inserts it if it does not exist.
fn entry<'a>(table: &'a mut Table, key: &str) -> &'a mut Table {
    let entry = table.entry(key).or_insert_with(|| Table::new().into());
    entry.as_table_mut().expect("cargo has read it as a table")
}

fn read_toml(file: &Path) -> Result<Table, Error> {
    let text = fs::read_to_string(file)
        .map_err(|error| Error::file("read", file, &error))?;
    toml::from_str(&text)
        .map_err(|error| Error::new(format!("{}: {error}", file.display())))
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
        assert_eq!(position(id), Some(17));
        assert_eq!(position("path+file:///a/week03#0.0.0"), None);
        assert_eq!(position("registry+https://x/y#subject1@0.0.0"), None);
    }

    #[test]
    fn a_dependency_of_two_members_has_the_features_of_both() {
        let dependencies: Table = toml::from_str(
            "a = { workspace = true, features = [\"y\"] }\n\
             b = \"1\"\n\
             c = { package = \"d\", path = \"/d\" }\n",
        )
        .unwrap();
        let other: Table =
            toml::from_str("a = { path = \"/a\", features = [\"x\"] }")
                .unwrap();
        let mut all = Table::new();
        for (name, dependency) in dependencies.iter().chain(&other) {
            add_dependency(&mut all, name, dependency);
        }
        let expected: Table = toml::from_str(
            "a = { workspace = true, features = [\"x\", \"y\"] }\n\
             b = { version = \"1\", features = [] }\n\
             d = { path = \"/d\", features = [] }\n",
        )
        .unwrap();
        assert_eq!(all, expected);
    }

    #[test]
    fn relative_paths_of_dependencies_become_absolute() {
        let mut manifest: Table = toml::from_str(
            "[dependencies]\na = { path = \"../a\" }\nb = \"1\"\n",
        )
        .unwrap();
        make_paths_absolute(&mut manifest, Path::new("/x/y"));
        let dependencies = &manifest["dependencies"];
        assert_eq!(dependencies["a"]["path"].as_str(), Some("/x/y/../a"));
        assert_eq!(dependencies["b"].as_str(), Some("1"));
    }
}
