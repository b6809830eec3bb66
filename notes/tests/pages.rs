//! What the pages point at is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag};

/// The languages of fences. `rust` alone is compiled and run.
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
fn every_page_is_in_the_summary_and_nothing_else_is() {
    let listed: BTreeSet<_> =
        links("SUMMARY.md").into_iter().map(|(_, file)| file).collect();
    let mut there: BTreeSet<_> = all_pages().into_iter().map(tidy).collect();
    there.remove(&tidy(pages().join("SUMMARY.md")));
    assert_eq!(listed, there, "listed (left), there (right)");
}

#[test]
fn every_link_leads_somewhere() {
    for page in all_pages() {
        for (target, file) in links(&page) {
            let page = page.display();
            assert!(file.exists(), "{page} links {target}: no such file");
        }
    }
}

#[test]
fn every_include_is_there() {
    let mut includes = 0;
    for page in all_pages() {
        let text = fs::read_to_string(&page).unwrap();
        for rest in text.split("{{#include ").skip(1) {
            let (target, _) = rest.split_once("}}").expect("an include ends");
            let (file, anchor) = match target.trim().split_once(':') {
                Some((file, anchor)) => (file, Some(anchor)),
                None => (target.trim(), None),
            };
            let file = page.parent().unwrap().join(file);
            let page = page.display();
            assert!(file.exists(), "{page} includes {target}: no such file");
            let text = fs::read_to_string(file).unwrap();
            let is_there = |anchor| {
                let lines = [" ANCHOR: ", " ANCHOR_END: "];
                lines
                    .iter()
                    .all(|line| text.contains(&format!("{line}{anchor}\n")))
            };
            assert!(
                anchor.is_none_or(is_there),
                "{page} includes {target}: no such part"
            );
            includes += 1;
        }
    }
    assert!(includes > 0, "no page includes any code");
}

#[test]
fn every_fence_names_its_language() {
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
                "{page} has a fence of `{language}`"
            );
        }
    }
}

#[test]
fn no_page_waits_for_a_measurement() {
    for page in all_pages() {
        let text = fs::read_to_string(&page).unwrap();
        assert!(!text.contains("<!--"), "{} has a gap", page.display());
    }
}

fn pages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("pages")
}

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
    assert!(!found.is_empty(), "there are no pages");
    found
}

/// The links of `page` to files of this tree, and the files.
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
            let file = tidy(page.parent().unwrap().join(file));
            (target, file)
        })
        .collect()
}

/// Without `..`, also where nothing is.
fn tidy(path: PathBuf) -> PathBuf {
    path.canonicalize().unwrap_or(path)
}
