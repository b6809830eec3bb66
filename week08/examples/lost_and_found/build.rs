//! Writes a module for each foil that the search over all runs catches: the
//! answer with the mistake, and the processes that the grader makes of it.

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use workbook::spec::Foil;
use workbook::{Exercise, Workbook};

/// The exercises whose graders search all runs, and the files in which they make
/// processes of the subject.
const EXERCISES: [(&str, &str); 5] = [
    ("outbox", "pipeline.rs"),
    ("inbox", "pipeline.rs"),
    ("half_message", "half_message/cluster.rs"),
    ("tcc", "tcc/cluster.rs"),
    ("callback", "callback/world.rs"),
];

/// Foils that show when an operator deletes rows, or sends a message again.
const OPERATED: [&str; 4] = [
    "uses_the_text_as_key",
    "cleans_without_a_horizon",
    "lets_the_horizon_fall",
    "deletes_rows_at_the_horizon",
];

fn main() -> Result<(), Box<dyn Error>> {
    let package = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let book = Workbook::around(&package)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let (mut modules, mut foils) = (String::new(), String::new());
    for (name, cluster) in EXERCISES {
        let exercise = book.exercise(&format!("week08/{name}"))?;
        let cluster = exercise.in_week("tests/grade").join(cluster);
        let toml = exercise.in_week("exercises").join(name);
        for file in [&cluster, &exercise.answer(), &toml.with_extension("toml")]
        {
            println!("cargo::rerun-if-changed={}", file.display());
        }
        // The processes use the foil in place of the answer.
        let text = fs::read_to_string(cluster)?;
        let text = text.replace(&format!("week08::{name}"), "super::subject");
        let text = text.replace("subject;", &format!("subject as {name};"));
        let text = text
            .replace("subject::{self,", &format!("subject::{{self as {name},"));
        let cluster = out.join(name).with_extension("cluster.rs");
        fs::write(&cluster, text)?;
        let system = package.join("src/systems").join(name);
        let system = system.with_extension("rs");
        let rest = format!(
            "#[path = {cluster:?}]\npub(crate) mod cluster;\n#[path = {system:?}]\n\
             pub(crate) mod system;\npub use system::system;\n\
             // The grader of callback declares it beside its processes.\n\
             const PAID_S: u64 = 1_000;\n}}\n"
        );
        write!(modules, "pub mod {name} {{\npub mod answer {{\n")?;
        write!(modules, "pub(crate) use week08::{name} as subject;\n{rest}")?;
        for (foil, spec) in &exercise.spec.foils {
            let is_found = spec.caught_by.iter().any(|test| searches(test));
            if !is_found && !OPERATED.contains(&foil.as_str()) {
                continue;
            }
            let file = foil_file(&out, exercise, foil, spec)?;
            write!(modules, "pub mod {foil} {{\n#[path = {file:?}]\n")?;
            write!(modules, "pub(crate) mod subject;\n{rest}")?;
            let Foil { lesson, .. } = spec;
            writeln!(
                foils,
                "Foil {{ exercise: {name:?}, name: {foil:?}, lesson: \
                 {lesson:?}, search: |setup| \
                 search(machines::{name}::{foil}::system(setup)) }},"
            )?;
        }
        modules += "}\n";
    }
    let foils = format!(
        "/// The foils, in the order of the exercises.\n\
         pub static FOILS: &[Foil] = &[\n{foils}];\n"
    );
    fs::write(out.join("machines.rs"), modules)?;
    fs::write(out.join("foils.rs"), foils)?;
    Ok(())
}

/// Returns whether a test of a grader searches all runs of the processes.
fn searches(test: &str) -> bool {
    test.starts_with("crashes::") || test.contains("despite_crashes")
}

fn foil_file(
    out: &Path,
    exercise: &Exercise,
    name: &str,
    foil: &Foil,
) -> Result<PathBuf, Box<dyn Error>> {
    let file = out.join(format!("{}.{name}.rs", exercise.name));
    fs::write(&file, exercise.foil_text(name, foil)?)?;
    Ok(file)
}
