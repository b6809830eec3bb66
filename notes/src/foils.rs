//! The foils of an exercise, as diffs of its answer.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use similar::TextDiff;

use crate::exercise::{Edit, Exercise, Foil, html};

/// Lines around a difference.
const CONTEXT: usize = 2;

/// All foils, each in a fold of its own, as markdown.
pub(crate) fn folds(
    root: &Path,
    week: &str,
    name: &str,
    exercise: &Exercise,
) -> Result<String> {
    let answer = Path::new(week).join("src").join(name).with_extension("rs");
    let answer = fs::read_to_string(root.join(&answer))
        .with_context(|| format!("cannot read {}", answer.display()))?;
    let mut folds =
        "Each foil is the answer with one change. Open it to see the diff:"
            .to_owned();
    for (key, foil) in &exercise.foils {
        let file = format!("{week}/foils/{name}/{key}.rs");
        let text =
            text(&answer, &root.join(file), foil).with_context(|| {
                format!("{week}/exercises/{name}.toml: foil {key}")
            })?;
        folds += "\n\n";
        folds += &fold(key, foil, &diff(&answer, &text));
    }
    Ok(folds)
}

/// What stands in the foil's file, or would.
fn text(answer: &str, file: &Path, foil: &Foil) -> Result<String> {
    if foil.edits.is_empty() {
        return fs::read_to_string(file)
            .context("neither edits nor a file of its own");
    }
    let mut text = answer.to_owned();
    for Edit { find, replace } in &foil.edits {
        let times = text.matches(find.as_str()).count();
        if times != 1 {
            bail!("{find:?} occurs {times} times, not once");
        }
        text = text.replacen(find, replace, 1);
    }
    Ok(text)
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
