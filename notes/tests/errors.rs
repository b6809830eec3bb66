//! What an exercise says stands where it belongs on its page, and what is wrong
//! is one clear line.

use std::fs;
use std::path::Path;

use notes::book;
use scraper::{ElementRef, Html, Selector};
use tempfile::TempDir;

mod mini;
use mini::{replace, workbook, write};

const PAGE: &str = "notes/pages/week01/pause.md";
const TOML: &str = "week01/exercises/pause.toml";

#[test]
fn the_question_stands_between_the_title_and_the_incident() {
    let page = rendered(workbook().path(), "week01/pause.html");
    let content = all(&page, "main > *");
    assert_eq!(content[0], "Pause");
    assert_eq!(
        content[1],
        "How long does pause wait? 要等多久？ 45 minutes, on the path course, \
         starred. To solve it: cargo wb start pause. To see it: \
         cargo wb demo clock"
    );
    assert_eq!(content[2], "The incident.");
    assert_eq!(all(&page, "[lang=zh]"), ["要等多久？"]);
}

#[test]
fn the_foils_end_their_section_in_the_order_of_the_toml() {
    let root = workbook();
    let page = rendered(root.path(), "week01/pause.html");
    let folds = all(&page, "#what-the-foils-teach ~ .foil > summary");
    assert_eq!(
        folds,
        [
            "waits twice: It waits for 2 * n.",
            "another shape: It waits for nothing."
        ]
    );
    assert_eq!(all(&page, "#where-to-read-more ~ .foil").len(), 0);

    // Without such a section they end the page.
    replace(root.path(), PAGE, "## What the foils teach", "## Mistakes");
    let page = rendered(root.path(), "week01/pause.html");
    assert_eq!(all(&page, "#where-to-read-more ~ .foil").len(), 2);
}

#[test]
fn a_fold_tells_what_tempts_who_catches_it_and_the_diff() {
    let page = rendered(workbook().path(), "week01/pause.html");
    assert_eq!(
        all(&page, ".foil")[0],
        "waits twice: It waits for 2 * n. Why people write it. Twice is safe. \
         Caught by: short: a pause's length is its own @@ -6,5 +6,5 @@ \
         /// How long. -pub fn pause(n: u64) -> u64 { - n +pub fn pause(m: u64) \
         -> u64 { + 2 * m }"
    );
    // The diff of a foil that is a file, with fences in it.
    let diff = all(&page, ".foil code.language-diff").pop().unwrap();
    assert!(diff.contains("-//! ```") && diff.ends_with("{ + 0 }"), "{diff}");
}

#[test]
fn a_week_lists_its_exercises_before_its_first_section() {
    let page = rendered(workbook().path(), "week01/index.html");
    let content = all(&page, "main > *");
    let row = "ExerciseMinutesPath Pause45course, starred";
    assert_eq!(content[3..5], [row, "The way"], "{content:?}");
    let link = page.select(&css("td a")).next().unwrap();
    assert_eq!(link.attr("href"), Some("pause.html"));
}

#[test]
fn a_page_without_an_exercise_stays_as_it_is() {
    let root = workbook();
    fs::remove_file(root.path().join(TOML)).unwrap();
    let week = "week01/exercises/week.toml";
    fs::remove_file(root.path().join(week)).unwrap();
    let page = rendered(root.path(), "week01/pause.html");
    assert_eq!(all(&page, ".exercise, .foil").len(), 0);
    let page = rendered(root.path(), "week01/index.html");
    assert_eq!(all(&page, "table").len(), 0);
}

#[test]
fn a_find_that_does_not_occur_once_names_the_toml_and_the_foil() {
    let root = workbook();
    let find = |find: &str| format!("find = {find:?}");
    let mut old = "    n\n";
    for (new, times) in [("u64", 2), ("of no line", 0)] {
        replace(root.path(), TOML, &find(old), &find(new));
        assert_eq!(
            trouble(root.path()).unwrap(),
            format!(
                "{TOML}: foil waits_twice: {new:?} occurs {times} times in the answer, \
                 not once"
            )
        );
        old = new;
    }
}

#[test]
fn a_foil_without_a_change_is_said() {
    let root = workbook();
    let file = "week01/foils/pause/another_shape.rs";
    fs::remove_file(root.path().join(file)).unwrap();
    let error = trouble(root.path()).unwrap();
    let said = format!(
        "{TOML}: foil another_shape: the foil has neither edits nor a file"
    );
    assert!(error.starts_with(&said), "{error}");
}

#[test]
fn a_broken_toml_is_named_with_its_line() {
    let root = workbook();
    let good = fs::read_to_string(root.path().join(TOML)).unwrap();
    for (old, new, line) in [
        ("minutes = 45", "minutes = soon", 4),
        ("path = \"course\"", "path = \"short\"", 5),
        ("\ntempts = \"It is fast.\"", "", 22),
    ] {
        replace(root.path(), TOML, old, new);
        let error = trouble(root.path()).unwrap();
        assert!(error.starts_with(&format!("{TOML}:{line}: ")), "{error}");
        assert!(!error.contains('\n'), "{error}");
        write(root.path(), TOML, &good);
    }
}

#[test]
fn what_cannot_be_included_is_named_with_its_page() {
    let root = workbook();
    replace(root.path(), PAGE, "src/pause.rs", "src/paws.rs");
    assert_eq!(
        trouble(root.path()).unwrap(),
        "week01/pause.md: cannot expand \
         {{#include ../../../week01/src/paws.rs}}"
    );
}

#[test]
fn a_page_of_the_summary_that_is_missing_is_not_made_up() {
    let root = workbook();
    fs::remove_file(root.path().join(PAGE)).unwrap();
    let error = trouble(root.path()).unwrap();
    assert!(error.contains("week01/pause.md"), "{error}");
    assert!(!root.path().join(PAGE).exists());
}

#[test]
fn a_book_takes_the_place_of_an_older_one_and_of_nothing_else() {
    let root = workbook();
    let to = TempDir::new().unwrap();
    let old = to.path().join("week00/old.html");
    write(to.path(), "week00/old.html", "");
    let error = book::render(root.path(), to.path()).unwrap_err().to_string();
    assert!(error.ends_with("holds something, and no book"), "{error}");
    assert!(old.exists());

    fs::remove_dir_all(to.path()).unwrap();
    book::render(root.path(), to.path()).unwrap();
    write(to.path(), "week00/old.html", "");
    // A failure leaves the older book as it is.
    replace(root.path(), PAGE, "src/pause.rs", "src/paws.rs");
    book::render(root.path(), to.path()).unwrap_err();
    assert!(old.exists() && to.path().join("week01/pause.html").exists());

    replace(root.path(), PAGE, "src/paws.rs", "src/pause.rs");
    book::render(root.path(), to.path()).unwrap();
    assert!(!old.exists());
}

fn rendered(root: &Path, page: &str) -> Html {
    let to = TempDir::new().unwrap();
    book::render(root, to.path()).unwrap();
    Html::parse_document(&fs::read_to_string(to.path().join(page)).unwrap())
}

/// As the command prints it.
fn trouble(root: &Path) -> Option<String> {
    let to = TempDir::new().unwrap();
    let error = book::render(root, to.path()).err()?;
    Some(format!("{error:#}"))
}

fn all(page: &Html, selector: &str) -> Vec<String> {
    page.select(&css(selector)).map(text).collect()
}

/// With single spaces, since only words count here.
fn text(element: ElementRef) -> String {
    let text: String = element.text().collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn css(selector: &str) -> Selector {
    Selector::parse(selector).unwrap()
}
