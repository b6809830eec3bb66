//! A workbook of one week and one exercise, in a temporary folder.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

pub(crate) fn workbook() -> TempDir {
    let root = TempDir::new().unwrap();
    for (file, text) in FILES {
        write(root.path(), file, text);
    }
    root
}

pub(crate) fn write(root: &Path, file: &str, text: &str) {
    let file = root.join(file);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

/// Replaces what stands in `file` exactly once.
pub(crate) fn replace(root: &Path, file: &str, old: &str, new: &str) {
    let text = fs::read_to_string(root.join(file)).unwrap();
    assert_eq!(text.matches(old).count(), 1, "{file} has {old:?}");
    write(root, file, &text.replace(old, new));
}

const FILES: [(&str, &str); 9] = [
    ("notes/book.toml", include_str!("../../book.toml")),
    ("notes/theme/book.css", include_str!("../../theme/book.css")),
    (
        "notes/pages/SUMMARY.md",
        "# Summary\n\n- [Week 1](week01/index.md)\n  - [Pause](week01/pause.md)\n",
    ),
    (
        "notes/pages/week01/index.md",
        "# Week 1\n\nIt opens.\n\n```text\n# no section\n```\n\n\
         ## The way\n\nIt goes on.\n",
    ),
    (
        "notes/pages/week01/pause.md",
        "# Pause\n\nThe incident.\n\n## The code\n\n```rust,ignore\n\
         {{#include ../../../week01/src/pause.rs}}\n```\n\n\
         ## What the foils teach\n\nThey teach.\n\n\
         ## Where to read more\n\nThere.\n",
    ),
    (
        "week01/exercises/week.toml",
        "title = \"Waits\"\nexercises = [\"pause\"]\n",
    ),
    (
        "week01/exercises/pause.toml",
        r#"title = "Pause"
question.en = "How long does `pause` wait?"
question.zh = "要等多久？"
minutes = 45
path = "course"
starred = true
example = "clock"
rungs = ["short"]
hints = ["a", "b", "c"]

[foils.waits_twice]
lesson = "It waits for `2 * n`."
tempts = "Twice is safe."
caught_by = ["short::a_pause_s_length_is_its_own"]
[[foils.waits_twice.edits]]
find = "    n\n"
replace = "    2 * m\n"
[[foils.waits_twice.edits]]
find = "pause(n: u64)"
replace = "pause(m: u64)"

[foils.another_shape]
lesson = "It waits for nothing."
tempts = "It is fast."
caught_by = ["short::a_pause_waits"]
"#,
    ),
    (
        "week01/src/pause.rs",
        "//! Waits.\n//!\n//! ```\n//! # for a while\n//! ```\n\n\
         /// How long.\npub fn pause(n: u64) -> u64 {\n    n\n}\n",
    ),
    (
        "week01/foils/pause/another_shape.rs",
        "/// How long.\npub fn pause(_: u64) -> u64 {\n    0\n}\n",
    ),
];
