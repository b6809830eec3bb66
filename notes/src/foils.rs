//! The foils of an exercise, as diffs of its answer.

use std::fs;

use anyhow::{Context, Result};
use similar::TextDiff;
use workbook::Exercise;
use workbook::spec::Foil;

use crate::exercise::html;

/// The number of unchanged lines around each change of a diff.
const CONTEXT: usize = 2;

/// Returns the foils as markdown, each in a collapsible section.
pub(crate) fn sections(exercise: &Exercise) -> Result<String> {
    let file = exercise.answer();
    let answer = fs::read_to_string(&file)
        .with_context(|| format!("cannot read {}", file.display()))?;
    let mut sections =
        "Each foil is the answer with one mistake. Open a foil to see its diff:"
            .to_owned();
    for (name, foil) in &exercise.spec.foils {
        let text = exercise.foil_text(name, foil).with_context(|| {
            let Exercise { week, name: exercise, .. } = exercise;
            format!("{week}/exercises/{exercise}.toml: foil {name}")
        })?;
        sections += "\n\n";
        sections += &section(name, foil, &diff(&answer, &text));
    }
    Ok(sections)
}

/// Returns the unified diff from the answer to the foil.
fn diff(answer: &str, foil: &str) -> String {
    TextDiff::from_lines(answer, foil)
        .unified_diff()
        .context_radius(CONTEXT)
        .missing_newline_hint(false)
        .to_string()
}

/// Returns one foil as a collapsible section.
fn section(key: &str, foil: &Foil, diff: &str) -> String {
    let Foil { lesson, tempts, caught_by, sometimes_caught_by, .. } = foil;
    let name = key.replace('_', " ");
    let lesson = html(lesson);
    let always = caught_by.iter().map(|test| (test, ""));
    let sometimes = sometimes_caught_by.iter();
    let sometimes = sometimes.map(|test| (test, " (on some runs)"));
    let tests: String = always
        .chain(sometimes)
        .map(|(test, when)| format!("\n- {}{when}", sentence(test)))
        .collect();
    // Four backticks, because the examples in an answer use three.
    format!(
        "<details class=\"foil\">\n\
         <summary><strong>{name}:</strong> {lesson}</summary>\n\n\
         *Why people write it.* {tempts}\n\n\
         *Caught by:*\n{tests}\n\n\
         ````diff\n{diff}````\n\n\
         </details>"
    )
}

/// Returns the name of a test as text: `rows::a_driver_s_error_is_kept` becomes
/// "rows: a driver's error is kept".
fn sentence(test: &str) -> String {
    test.replace("::", ": ").replace("_s_", "'s ").replace('_', " ")
}
