//! The foils of an exercise, as diffs of its answer.

use std::fs;

use anyhow::{Context, Result};
use similar::TextDiff;
use workbook::Exercise;
use workbook::spec::Foil;

use crate::exercise::html;

/// Lines around a difference.
const CONTEXT: usize = 2;

/// Returns all foils as markdown, each in a `<details>` of its own.
pub(crate) fn folds(exercise: &Exercise) -> Result<String> {
    let file = exercise.answer();
    let answer = fs::read_to_string(&file)
        .with_context(|| format!("cannot read {}", file.display()))?;
    let mut folds =
        "Each foil is the answer with one change. Open it to see the diff:"
            .to_owned();
    for (name, foil) in &exercise.spec.foils {
        let text = exercise.foil_text(name, foil).with_context(|| {
            let Exercise { week, name: exercise, .. } = exercise;
            format!("{week}/exercises/{exercise}.toml: foil {name}")
        })?;
        folds += "\n\n";
        folds += &fold(name, foil, &diff(&answer, &text));
    }
    Ok(folds)
}

fn diff(answer: &str, foil: &str) -> String {
    TextDiff::from_lines(answer, foil)
        .unified_diff()
        .context_radius(CONTEXT)
        .missing_newline_hint(false)
        .to_string()
}

fn fold(key: &str, foil: &Foil, diff: &str) -> String {
    let Foil { lesson, tempts, caught_by, .. } = foil;
    let name = key.replace('_', " ");
    let lesson = html(lesson);
    let tests: String = caught_by
        .iter()
        .map(|test| format!("\n- {}", sentence(test)))
        .collect();
    // Four backticks: an answer's own examples have three.
    format!(
        "<details class=\"foil\">\n\
         <summary><strong>{name}:</strong> {lesson}</summary>\n\n\
         *Why people write it.* {tempts}\n\n\
         *Caught by:*\n{tests}\n\n\
         ````diff\n{diff}````\n\n\
         </details>"
    )
}

/// `rows::a_driver_s_error_stays` as "rows: a driver's error stays".
fn sentence(test: &str) -> String {
    test.replace("::", ": ").replace("_s_", "'s ").replace('_', " ")
}
