//! The pages show what the example prints.

use std::path::Path;
use std::sync::LazyLock;
use std::{fs, iter};

use lost_and_found::{FOILS, Foil, Found, matrix};

static FOUND: LazyLock<Vec<(&Foil, Option<Found>)>> =
    LazyLock::new(|| FOILS.iter().map(|foil| (foil, foil.find())).collect());

#[test]
fn a_page_has_the_crash_matrix() {
    let expected = matrix::markdown();
    assert!(
        page("crashes").contains(&expected),
        "crashes.md is stale. Its tables should be:\n\n{expected}"
    );
}

#[test]
fn a_run_shows_each_mistake_and_the_damage_that_it_does() {
    for (foil, found) in FOUND.iter() {
        let Foil { exercise, name, .. } = foil;
        let Some(found) = found else {
            panic!("no run shows {name} of {exercise}");
        };
        let violation = &found.counterexample.violation;
        assert!(found.damage().is_some(), "what damage is {violation:?}?");
    }
}

#[test]
fn the_runs_on_the_pages_are_those_of_the_example() {
    for exercise in ["outbox", "inbox", "half_message", "tcc"] {
        let of_exercise = FOUND.iter().filter(|(f, _)| f.exercise == exercise);
        let runs: Vec<_> = of_exercise
            .filter_map(|(_, found)| {
                Some(found.as_ref()?.counterexample.to_string())
            })
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
