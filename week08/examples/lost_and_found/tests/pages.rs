//! The pages show what the example prints.

use std::path::Path;
use std::sync::LazyLock;
use std::{fs, iter};

use lost_and_found::{FOILS, Foil, Found, matrix, summary};

/// The run of each foil.
static FOUND: LazyLock<Vec<Found>> = LazyLock::new(|| {
    let find = |foil: &Foil| {
        let Foil { exercise, name, .. } = foil;
        let missing = || panic!("no run shows {name} of {exercise}");
        foil.find().unwrap_or_else(missing)
    };
    FOILS.iter().map(find).collect()
});

#[test]
fn a_page_has_the_crash_matrix() {
    expect("crashes", &matrix::markdown());
}

#[test]
fn a_page_has_the_number_of_mistakes_that_are_found() {
    let summary = summary(&FOUND).expect("each damage is known");
    expect("crashes", &format!("```text\n{summary}\n```"));
}

#[test]
fn the_runs_on_the_pages_are_those_of_the_example() {
    for exercise in ["outbox", "inbox", "half_message", "tcc"] {
        let all = FOILS.iter().zip(FOUND.iter());
        let of_exercise = all.filter(|(foil, _)| foil.exercise == exercise);
        let runs: Vec<_> = of_exercise
            .map(|(_, found)| found.counterexample.to_string())
            .collect();
        let page = page(exercise);
        let traces = fences(&page).filter(|text| text.contains("\n   1. "));
        for trace in traces {
            assert!(
                runs.iter().any(|run| run == trace),
                "{exercise}.md has a run that the example does not show:\n{trace}"
            );
        }
    }
}

fn expect(name: &str, text: &str) {
    let is_fresh = page(name).contains(text);
    assert!(is_fresh, "{name}.md is stale. It should have:\n\n{text}");
}

fn page(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let page = root.join("notes/pages/week08").join(name);
    fs::read_to_string(page.with_extension("md")).expect("the page exists")
}

/// Returns the blocks of text of a page.
fn fences(page: &str) -> impl Iterator<Item = &str> {
    let mut rest = page;
    iter::from_fn(move || {
        let (_, block) = rest.split_once("```text\n")?;
        let (text, after) = block.split_once("```")?;
        rest = after;
        Some(text)
    })
}
