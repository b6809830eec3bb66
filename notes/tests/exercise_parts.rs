//! Tests of the parts that an exercise adds to its page, and to the page of its
//! week.

use std::fs;
use std::path::Path;

use notes::book;
use scraper::{ElementRef, Html, Selector};
use tempfile::TempDir;

mod fixture;
use fixture::{replace, workbook};

const PAGE: &str = "notes/pages/week01/pause.md";
const TOML: &str = "week01/exercises/pause.toml";

#[test]
fn the_question_is_between_the_title_and_the_introduction() {
    let page = render(workbook().path(), "week01/pause.html");
    let content = texts(&page, "main > *");
    assert_eq!(content[0], "Pause");
    assert_eq!(
        content[1],
        "How long does pause wait? 要等多久？ 45 minutes, on the path course, \
         starred. Start the exercise: cargo wb start pause. Run the example: \
         cargo wb demo clock"
    );
    assert_eq!(content[2], "The incident.");
    assert_eq!(texts(&page, "[lang=zh]"), ["要等多久？"]);
}

#[test]
fn foils_are_at_the_end_of_their_section_in_toml_order() {
    let root = workbook();
    let page = render(root.path(), "week01/pause.html");
    let summaries = texts(&page, "#what-the-foils-teach ~ .foil > summary");
    assert_eq!(
        summaries,
        ["waits twice: It waits for 2 * n.", "returns zero: It does not wait."]
    );
    assert_eq!(texts(&page, "#where-to-read-more ~ .foil").len(), 0);

    // Without this section, the foils are at the end of the page.
    replace(root.path(), PAGE, "## What the foils teach", "## Mistakes");
    let page = render(root.path(), "week01/pause.html");
    assert_eq!(texts(&page, "#where-to-read-more ~ .foil").len(), 2);
}

#[test]
fn a_foil_shows_its_lesson_its_tests_and_its_diff() {
    let page = render(workbook().path(), "week01/pause.html");
    assert_eq!(
        texts(&page, ".foil")[0],
        "waits twice: It waits for 2 * n. Why people write it. Twice is safe. \
         Caught by: short: a pause's length is its argument @@ -6,5 +6,5 @@ \
         /// Returns the seconds to wait. -pub fn pause(n: u64) -> u64 { - n \
         +pub fn pause(m: u64) -> u64 { + 2 * m }"
    );
    // The last foil is a file, and the answer has code blocks in its docs.
    let diff = texts(&page, ".foil code.language-diff").pop().unwrap();
    assert!(diff.contains("-//! ```"), "expected a code block in {diff:?}");
    assert!(diff.ends_with("{ + 0 }"), "expected the end of {diff:?}");
}

#[test]
fn a_week_page_lists_its_exercises_before_the_first_section() {
    let page = render(workbook().path(), "week01/index.html");
    let content = texts(&page, "main > *");
    let row = "ExerciseMinutesPath Pause45course, starred";
    let expected = [row, "The first section"];
    assert_eq!(content[3..5], expected, "in {content:?}");
    let link = page.select(&css("td a")).next().unwrap();
    assert_eq!(link.attr("href"), Some("pause.html"));
}

#[test]
fn a_page_without_an_exercise_is_unchanged() {
    let root = workbook();
    fs::remove_file(root.path().join(TOML)).unwrap();
    let week = "week01/exercises/week.toml";
    fs::remove_file(root.path().join(week)).unwrap();
    let page = render(root.path(), "week01/pause.html");
    assert_eq!(texts(&page, ".exercise, .foil").len(), 0);
    let page = render(root.path(), "week01/index.html");
    assert_eq!(texts(&page, "table").len(), 0);
}

/// Renders the workbook at `root`, and returns one page.
fn render(root: &Path, page: &str) -> Html {
    let to = TempDir::new().unwrap();
    book::render(root, to.path()).unwrap();
    Html::parse_document(&fs::read_to_string(to.path().join(page)).unwrap())
}

/// Returns the text of each element that `selector` matches.
fn texts(page: &Html, selector: &str) -> Vec<String> {
    page.select(&css(selector)).map(text).collect()
}

/// Returns the text of an element. Each sequence of white space is one space.
fn text(element: ElementRef) -> String {
    let text: String = element.text().collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn css(selector: &str) -> Selector {
    Selector::parse(selector).unwrap()
}
