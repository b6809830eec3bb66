//! The manifests of the workspace in which subjects are built and graded.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use toml::{Table, Value};
use workbook::{Exercise, Workbook};

use super::nested::library_name;
use crate::error::Error;

/// The prefixes of the packages: `subject0`, `subject1` and so on are libraries,
/// `graders0` and so on test them. Every exercise uses the same names, so that its
/// files in the target directory replace those of the previous exercise.
pub(super) const SUBJECT: &str = "subject";
pub(super) const GRADERS: &str = "graders";

/// The files of a package of graders: its empty library, the graders, and their
/// models.
pub(super) const EMPTY: &str = "lib.rs";
pub(super) const GRADE: &str = "grade.rs";
pub(super) const MODELS: &str = "models.rs";

/// Returns the manifest of the library of one subject, made from that of the
/// week's attempts.
pub(super) fn subject_manifest(
    attempt: &Table,
    name: &str,
    library: &str,
) -> Table {
    let mut manifest = attempt.clone();
    rename(&mut manifest, name);
    manifest.remove("test");
    manifest.remove("dev-dependencies");
    entry(&mut manifest, "lib").insert("path".to_owned(), library.into());
    manifest
}

/// Returns the manifest of the graders of some subjects.
pub(super) fn graders_manifest(
    attempt: &Table,
    name: &str,
    exercise: &Exercise,
    subjects: &[usize],
) -> Table {
    let mut manifest = attempt.clone();
    rename(&mut manifest, name);
    let lib = entry(&mut manifest, "lib");
    lib.insert("name".to_owned(), name.into());
    lib.insert("path".to_owned(), EMPTY.into());
    let tests = exercise.package();
    let targets = manifest.get_mut("test").and_then(Value::as_array_mut);
    for test in targets.into_iter().flatten().filter_map(Value::as_table_mut) {
        let is_grade = test.get("name").and_then(Value::as_str) == Some(&tests);
        let path = if is_grade { GRADE } else { MODELS };
        test.insert("path".to_owned(), path.into());
    }
    let dependencies = entry(&mut manifest, "dependencies");
    for n in subjects {
        let subject = format!("{SUBJECT}{n}");
        let library = entry(dependencies, &library_name(*n));
        library.insert("path".to_owned(), format!("../{subject}").into());
        library.insert("package".to_owned(), subject.into());
    }
    manifest
}

/// Gives a package without a build script the name `name`.
fn rename(manifest: &mut Table, name: &str) {
    let package = entry(manifest, "package");
    package.insert("name".to_owned(), name.into());
    package.insert("build".to_owned(), false.into());
}

/// Returns the dependencies and the build dependencies of all members, each with
/// all features that any member enables.
pub(super) fn all_dependencies(
    book: &Workbook,
    manifest: &Table,
) -> Result<Table, Error> {
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
/// less time than several, and other packages keep the other cores busy.
pub(super) fn set_profiles(manifest: &mut Table, packages: &[String]) {
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
pub(super) fn make_paths_absolute(manifest: &mut Table, folder: &Path) {
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

pub(super) fn table<'a>(
    table: &'a mut Table,
    key: &str,
) -> Option<&'a mut Table> {
    table.get_mut(key)?.as_table_mut()
}

/// Returns the table `key`. Inserts it if it does not exist.
pub(super) fn entry<'a>(table: &'a mut Table, key: &str) -> &'a mut Table {
    let entry = table.entry(key).or_insert_with(|| Table::new().into());
    entry.as_table_mut().expect("cargo has read it as a table")
}

pub(super) fn read_toml(file: &Path) -> Result<Table, Error> {
    let text = fs::read_to_string(file)
        .map_err(|error| Error::file("read", file, &error))?;
    toml::from_str(&text)
        .map_err(|error| Error::new(format!("{}: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

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
