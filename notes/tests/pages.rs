//! Tests of the markdown pages: links, includes, code blocks and titles.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag};
use workbook::Workbook;

/// The languages of code blocks. Only `rust` is compiled and run.
const LANGUAGES: [&str; 10] = [
    "console",
    "go",
    "proto",
    "json",
    "rust",
    "rust,ignore",
    "rust,no_run",
    "sql",
    "text",
    "toml",
];

#[test]
fn the_summary_lists_every_page_and_no_other_file() {
    let listed: BTreeSet<_> =
        links("SUMMARY.md").into_iter().map(|(_, file)| file).collect();
    let mut existing: BTreeSet<_> =
        all_pages().into_iter().map(canonical).collect();
    existing.remove(&canonical(pages().join("SUMMARY.md")));
    assert_eq!(listed, existing, "listed pages (left), existing pages (right)");
}

#[test]
fn every_link_points_to_an_existing_file() {
    for page in all_pages() {
        for (target, file) in links(&page) {
            let page = page.display();
            assert!(
                file.exists(),
                "{page} links to {target}, which does not exist"
            );
        }
    }
}

#[test]
fn every_include_names_an_existing_file_and_anchor() {
    let mut includes = 0;
    for page in all_pages() {
        let text = fs::read_to_string(&page).unwrap();
        for rest in text.split("{{#include ").skip(1) {
            let (target, _) =
                rest.split_once("}}").expect("an include should end with `}}`");
            let (file, anchor) = match target.trim().split_once(':') {
                Some((file, anchor)) => (file, Some(anchor)),
                None => (target.trim(), None),
            };
            let file = page.parent().unwrap().join(file);
            let page = page.display();
            assert!(
                file.exists(),
                "{page} includes {target}: the file does not exist"
            );
            let text = fs::read_to_string(file).unwrap();
            let has_anchor = |anchor| {
                let lines = [" ANCHOR: ", " ANCHOR_END: "];
                lines
                    .iter()
                    .all(|line| text.contains(&format!("{line}{anchor}\n")))
            };
            assert!(
                anchor.is_none_or(has_anchor),
                "{page} includes {target}: the file has no such anchor"
            );
            includes += 1;
        }
    }
    assert!(includes > 0, "expected pages with includes, found none");
}

#[test]
fn every_code_block_names_its_language() {
    for page in all_pages() {
        let text = fs::read_to_string(&page).unwrap();
        for event in Parser::new(&text) {
            let Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) =
                event
            else {
                continue;
            };
            let page = page.display();
            assert!(
                LANGUAGES.contains(&&*language),
                "{page} has a code block with the language `{language}`: \
                 expected one of {LANGUAGES:?}"
            );
        }
    }
}

#[test]
fn no_page_contains_an_html_comment() {
    for page in all_pages() {
        let text = fs::read_to_string(&page).unwrap();
        let page = page.display();
        assert!(!text.contains("<!--"), "{page} contains an HTML comment");
    }
}

#[test]
fn page_headings_and_the_summary_contain_the_titles_of_exercises() {
    let workbook = Workbook::around(&pages()).unwrap();
    let summary = summary();
    let mut exercises = 0;
    let mut missing = Vec::new();
    for exercise in workbook.exercises() {
        let id = exercise.id();
        let title = &exercise.spec.title;
        // A page may have another subtitle.
        let term = title.split(':').next().unwrap();
        let page = exercise.notes();
        let heading = heading(&page);
        if !heading.contains(term) {
            let page = workbook.short(&page);
            missing.push(format!(
                "{page}: expected {term:?} in the heading, found {heading:?}"
            ));
        }
        let link = summary.get(&canonical(page));
        if !link.is_some_and(|link| link.contains(term)) {
            missing.push(format!(
                "SUMMARY.md: expected {term:?} in the link to {id}, \
                 found {link:?}"
            ));
        }
        exercises += 1;
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert!(exercises > 0, "expected exercises, found none");
}

/// Returns the folder of the pages.
fn pages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("pages")
}

/// Returns the paths of all markdown files.
fn all_pages() -> Vec<PathBuf> {
    let mut folders = vec![pages()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "md") {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "expected pages, found none");
    found
}

/// Returns the links of `page` to files of the workbook, each with its file.
fn links(page: impl AsRef<Path>) -> Vec<(String, PathBuf)> {
    let page = pages().join(page);
    let text = fs::read_to_string(&page).unwrap();
    let target = |event| match event {
        Event::Start(
            Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. },
        ) => Some(dest_url.into_string()),
        _ => None,
    };
    Parser::new_ext(&text, Options::all())
        .filter_map(target)
        .filter(|target| !target.contains("://") && !target.starts_with('#'))
        .map(|target| {
            let file = target.split('#').next().unwrap();
            let file = canonical(page.parent().unwrap().join(file));
            (target, file)
        })
        .collect()
}

/// Returns the canonical form of `path`, or `path` itself if no file has it.
fn canonical(path: PathBuf) -> PathBuf {
    path.canonicalize().unwrap_or(path)
}

/// Returns the heading of `page`, which is its first line.
fn heading(page: &Path) -> String {
    let text = fs::read_to_string(page).unwrap();
    let heading = text.lines().next().and_then(|line| line.strip_prefix("# "));
    let page = page.display();
    heading.unwrap_or_else(|| panic!("{page} has no heading")).to_owned()
}

/// Returns the text of each link in the summary, by the page that it points to.
fn summary() -> BTreeMap<PathBuf, String> {
    let text = fs::read_to_string(pages().join("SUMMARY.md")).unwrap();
    let link = |line: &str| {
        let (_, link) = line.split_once('[')?;
        let (text, page) = link.strip_suffix(')')?.split_once("](")?;
        Some((canonical(pages().join(page)), text.to_owned()))
    };
    text.lines().filter_map(link).collect()
}
