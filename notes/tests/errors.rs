//! Tests of rendering errors, and of the folders that `render` may replace.

use std::fs;
use std::path::Path;

use notes::book;
use tempfile::TempDir;

mod fixture;
use fixture::{replace, workbook, write};

const PAGE: &str = "notes/pages/week01/pause.md";
const TOML: &str = "week01/exercises/pause.toml";

#[test]
fn the_error_for_an_edit_without_a_unique_match_names_the_foil() {
    let root = workbook();
    let find = |find: &str| format!("find = {find:?}");
    let mut old = "    n\n";
    for (new, times) in [("u64", 2), ("no such text", 0)] {
        replace(root.path(), TOML, &find(old), &find(new));
        assert_eq!(
            render_error(root.path()).unwrap(),
            format!(
                "{TOML}: foil waits_twice: {new:?} occurs {times} times in the answer, \
                 not once"
            )
        );
        old = new;
    }
}

#[test]
fn a_foil_without_edits_and_without_a_file_is_an_error() {
    let root = workbook();
    let file = "week01/foils/pause/returns_zero.rs";
    fs::remove_file(root.path().join(file)).unwrap();
    let error = render_error(root.path()).unwrap();
    let expected = format!(
        "{TOML}: foil returns_zero: the foil has neither edits nor a file"
    );
    assert_starts_with(&error, &expected);
}

#[test]
fn the_error_for_an_invalid_toml_is_one_line_with_file_and_line_number() {
    let root = workbook();
    let good = fs::read_to_string(root.path().join(TOML)).unwrap();
    for (old, new, line) in [
        ("minutes = 45", "minutes = many", 4),
        ("path = \"course\"", "path = \"short\"", 5),
        ("\ntempts = \"It is fast.\"", "", 22),
    ] {
        replace(root.path(), TOML, old, new);
        let error = render_error(root.path()).unwrap();
        assert_starts_with(&error, &format!("{TOML}:{line}: "));
        assert!(!error.contains('\n'), "expected one line, got {error:?}");
        write(root.path(), TOML, &good);
    }
}

#[test]
fn the_error_for_a_failed_include_names_its_page() {
    let root = workbook();
    replace(root.path(), PAGE, "src/pause.rs", "src/no_such_file.rs");
    assert_eq!(
        render_error(root.path()).unwrap(),
        "week01/pause.md: cannot expand \
         {{#include ../../../week01/src/no_such_file.rs}}"
    );
}

#[test]
fn a_missing_page_of_the_summary_is_an_error_and_is_not_created() {
    let root = workbook();
    fs::remove_file(root.path().join(PAGE)).unwrap();
    let error = render_error(root.path()).unwrap();
    let page = "week01/pause.md";
    assert!(error.contains(page), "expected {page} in {error:?}");
    assert!(!root.path().join(PAGE).exists());
}

#[test]
fn render_replaces_an_old_book_and_no_other_folder() {
    let root = workbook();
    let to = TempDir::new().unwrap();
    let old = to.path().join("week00/old.html");
    write(to.path(), "week00/old.html", "");
    let error = book::render(root.path(), to.path()).unwrap_err().to_string();
    let reason = "is not empty, and contains no book";
    assert!(error.ends_with(reason), "expected {reason:?} in {error:?}");
    assert!(old.exists());

    fs::remove_dir_all(to.path()).unwrap();
    book::render(root.path(), to.path()).unwrap();
    write(to.path(), "week00/old.html", "");
    // An error leaves the old book unchanged.
    replace(root.path(), PAGE, "src/pause.rs", "src/no_such_file.rs");
    book::render(root.path(), to.path()).unwrap_err();
    assert!(old.exists() && to.path().join("week01/pause.html").exists());

    replace(root.path(), PAGE, "src/no_such_file.rs", "src/pause.rs");
    book::render(root.path(), to.path()).unwrap();
    assert!(!old.exists());
}

/// Renders the workbook at `root`, and returns the error as the program prints
/// it.
fn render_error(root: &Path) -> Option<String> {
    let to = TempDir::new().unwrap();
    let error = book::render(root, to.path()).err()?;
    Some(format!("{error:#}"))
}

#[track_caller]
fn assert_starts_with(text: &str, start: &str) {
    assert!(text.starts_with(start), "expected {start:?} to begin {text:?}");
}
