//! Tests of the rendered book: links, listings, exercises, foils, figures, search
//! and sidebar.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};

use notes::book;
use pulldown_cmark::{Event, Parser, Tag};
use scraper::{ElementRef, Html, Selector};
use tempfile::TempDir;
use tracing_subscriber::fmt::MakeWriter;

/// Rendered once for all tests.
static BOOK: LazyLock<Rendered> = LazyLock::new(Rendered::new);

struct Rendered {
    folder: TempDir,
    /// The pages by their paths in the book: `week02/no_rows.html`.
    pages: BTreeMap<String, Page>,
    /// The warnings of mdBook.
    warnings: String,
}

struct Page {
    html: String,
    ids: BTreeSet<String>,
    links: Vec<Link>,
}

#[derive(Debug)]
struct Link {
    element: String,
    target: String,
}

#[test]
fn every_local_link_points_to_an_existing_file_and_anchor() {
    let mut links = 0;
    for (path, page) in &BOOK.pages {
        let local = page.links.iter().filter(|link| !is_external(&link.target));
        for Link { target, .. } in local {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file =
                if file.is_empty() { path } else { &resolve(path, file) };
            assert!(
                BOOK.folder.path().join(file).is_file(),
                "{path} links to {target}: {file} does not exist"
            );
            if !anchor.is_empty() {
                assert!(
                    BOOK.pages[file].ids.contains(anchor),
                    "{path} links to {target}: {file} has no such anchor"
                );
            }
            links += 1;
        }
    }
    assert!(links > 100, "expected more than 100 links, found {links}");
}

#[test]
fn the_book_loads_no_resource_from_another_host() {
    for (path, page) in &BOOK.pages {
        for Link { element, target } in &page.links {
            assert!(
                element == "a" || !is_external(target),
                "{path} loads {target} into a <{element}>"
            );
        }
    }
    let styles = files(BOOK.folder.path());
    let styles = styles.iter().filter(|file| has_extension(file, "css"));
    let mut urls = 0;
    for style in styles {
        let text = fs::read_to_string(style).unwrap();
        let shown = style.display();
        assert!(!text.contains("@import"), "{shown} imports a style");
        for url in text.split("url(").skip(1) {
            let url = url.trim_start_matches(['"', '\'']);
            let url = url.split([')', '"', '\'']).next().unwrap();
            let file = style.with_file_name(url);
            let is_local = url.starts_with("data:") || file.is_file();
            assert!(is_local, "{shown} loads {url}, which is not in the book");
            urls += 1;
        }
    }
    assert!(urls > 0, "expected a `url(…)` in a style, found none");
}

#[test]
fn every_included_listing_is_shown_on_its_page() {
    let mut listings = 0;
    for source in sources() {
        let text = fs::read_to_string(pages().join(&source)).unwrap();
        let html = html_path(&source);
        assert!(
            !BOOK.pages[&html].html.contains("{{#"),
            "{html} shows `{{{{#`"
        );
        let page = parsed(&html);
        let code: Vec<_> =
            select(&page, "pre code").iter().map(text_of).collect();
        for include in text.split("{{#include ").skip(1) {
            let target = include.split("}}").next().unwrap().trim();
            let (file, part) = target.split_once(':').unwrap_or((target, ""));
            let file = pages().join(&source).with_file_name("").join(file);
            let listing = fs::read_to_string(&file).unwrap();
            let is_shown = |part: &str| {
                code.iter().any(|code| code.contains(part.trim_end()))
            };
            let is_included = match part {
                "" => is_shown(&listing),
                _ => listing
                    .lines()
                    .any(|line| line.len() > 20 && is_shown(line)),
            };
            assert!(is_included, "{html} does not show {target}");
            listings += 1;
        }
    }
    assert!(listings > 0, "expected pages with listings, found none");
}

#[test]
fn every_exercise_page_shows_its_question_answer_and_foils() {
    let mut exercises = 0;
    for (week, name, toml) in tomls() {
        let path = format!("{week}/{name}.html");
        let page = parsed(&path);
        let block = select(&page, "h1 + .exercise p");
        let block: Vec<_> = block.iter().map(text_of).collect();
        for (n, language) in ["en", "zh"].into_iter().enumerate() {
            let question = toml["question"][language].as_str().unwrap();
            let question = question.replace('`', "");
            assert_eq!(block[n], question, "{path}: question.{language}");
        }
        for part in [
            format!("{} minutes", toml["minutes"]),
            format!("on the path {}", toml["path"].as_str().unwrap()),
            format!("cargo wb start {name}"),
            format!("cargo wb demo {}", toml["example"].as_str().unwrap()),
        ] {
            assert!(block[2].contains(&part), "{path} does not show {part:?}");
        }

        let answers = select(&page, "#the-code ~ details.answer pre code");
        assert_eq!(answers.len(), 1, "{path}: collapsed answers");
        let captions = select(&page, "#the-code + p");
        let is_caption = |p: &_| text_of(p).contains("/src/");
        assert!(
            !captions.iter().any(is_caption),
            "{path} names the file of the answer twice"
        );
        let answer = workbook().join(&week).join("src").join(&name);
        let answer = fs::read_to_string(answer.with_extension("rs")).unwrap();
        let shown = text_of(&answers[0]);
        assert_eq!(shown.trim_end(), answer.trim_end(), "answer on {path}");

        let foils = toml["foils"].as_table().unwrap();
        let sections = select(&page, "#what-the-foils-teach ~ details.foil");
        let names = select(&page, "details.foil > summary > strong");
        let names: Vec<_> = names
            .iter()
            .map(|name| text_of(name).replace(':', "").replace(' ', "_"))
            .collect();
        let keys: Vec<_> = foils.keys().cloned().collect();
        assert_eq!(names, keys, "foils on {path} (left), in the toml (right)");
        let count = sections.len();
        assert_eq!(count, keys.len(), "{path}: foils below their heading");
        for ((key, foil), section) in foils.iter().zip(sections) {
            let at = format!("{path}, foil {key}");
            let diff = section.select(&css("pre > code.language-diff")).next();
            let diff = diff.map(|diff| text_of(&diff)).unwrap_or_default();
            let is_change = |line: &str| line.starts_with(['+', '-']);
            assert!(
                diff.lines().any(is_change),
                "{at}: the diff has no change"
            );
            let text = text_of(&section);
            for part in ["lesson", "tempts"] {
                let part = foil[part].as_str().unwrap().replace('`', "");
                assert!(
                    text.contains(&part),
                    "{at}: expected {part:?} in {text:?}"
                );
            }
            let tests = |key| foil.get(key).and_then(|it| it.as_array());
            let tests = ["caught_by", "sometimes_caught_by"].map(tests);
            let tests: usize = tests.into_iter().flatten().map(Vec::len).sum();
            let listed = section.select(&css("li")).count();
            assert_eq!(listed, tests, "{at}: listed tests");
        }
        exercises += 1;
    }
    assert!(exercises > 0, "expected exercises, found none");
}

#[test]
fn every_week_page_lists_its_exercises() {
    let mut weeks = 0;
    for folder in week_folders() {
        let toml = workbook().join(&folder).join("exercises/week.toml");
        let Ok(toml) = fs::read_to_string(toml) else { continue };
        let toml: toml::Table = toml::from_str(&toml).unwrap();
        let names = toml["exercises"].as_array().unwrap();
        let path = format!("{folder}/index.html");
        let page = parsed(&path);
        let links: Vec<_> = select(&page, "main td:first-child > a")
            .iter()
            .map(|link| link.attr("href").unwrap().to_owned())
            .collect();
        let expected: Vec<_> = names
            .iter()
            .map(|name| format!("{}.html", name.as_str().unwrap()))
            .collect();
        assert!(
            links.windows(expected.len()).any(|links| links == expected),
            "{path}: expected {expected:?} as in week.toml, found {links:?}"
        );
        weeks += 1;
    }
    assert!(weeks > 0, "expected weeks with exercises, found none");
}

#[test]
fn every_figure_is_shown_on_a_page() {
    let mut shown = BTreeSet::new();
    for source in sources() {
        let path = html_path(&source);
        let page = parsed(&path);
        let images = select(&page, "main img");
        let targets = images.iter().map(|image| image.attr("src").unwrap());
        shown.extend(targets.map(|target| resolve(&path, target)));
    }
    for figure in files(&pages().join("figures")) {
        let figure = figure.strip_prefix(pages()).unwrap().display();
        let figure = figure.to_string();
        assert!(shown.contains(&figure), "no page shows {figure}");
    }
}

#[test]
fn rust_listings_have_no_run_button() {
    let mut listings = 0;
    for path in BOOK.pages.keys() {
        let page = parsed(path);
        let run = select(&page, ".playground, .play-button, .editable");
        assert!(run.is_empty(), "{path} has a listing with a run button");
        listings += select(&page, "pre > code.language-rust").len();
    }
    assert!(listings > 0, "expected Rust listings, found none");
}

#[test]
fn the_search_index_contains_every_page() {
    let sections = search_index();
    let indexed: BTreeSet<_> =
        sections.iter().map(|section| &section.path).collect();
    for source in sources() {
        let path = html_path(&source);
        assert!(indexed.contains(&path), "the search index has no {path}");
    }
}

#[test]
fn the_search_finds_pages_by_the_terms_of_the_field() {
    let sections = search_index();
    let missing: Vec<_> = [
        ("graceful shutdown", "week03/drain.html"),
        ("hot reload", "week03/reload.html"),
        ("hazard pointer", "week03/swap.html"),
        ("error group", "week03/group.html"),
    ]
    .into_iter()
    .filter(|(term, path)| {
        !sections
            .iter()
            .any(|section| section.path == *path && section.text.contains(term))
    })
    .map(|(term, path)| format!("{term:?} on {path}"))
    .collect();
    let missing = missing.join("\n");
    assert!(missing.is_empty(), "terms that the search misses:\n{missing}");
}

#[test]
fn the_sidebar_links_to_every_page() {
    let sidebar = script("toc-");
    let without_scripts: BTreeSet<_> =
        BOOK.pages["toc.html"].links.iter().map(|link| &link.target).collect();
    for source in sources() {
        let path = html_path(&source);
        let link = format!("href=\"{path}\"");
        assert!(sidebar.contains(&link), "the sidebar has no link to {path}");
        assert!(
            without_scripts.contains(&path),
            "toc.html has no link to {path}"
        );
    }
}

#[test]
fn mdbook_logs_no_warning() {
    assert_eq!(BOOK.warnings, "", "warnings of mdBook");
}

impl Rendered {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_writer(log.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            book::render(&workbook(), folder.path()).unwrap();
        });
        let html = files(folder.path());
        let html = html.into_iter().filter(|file| has_extension(file, "html"));
        let pages = html.map(|file| {
            let path = file.strip_prefix(folder.path()).unwrap();
            (path.display().to_string(), Page::read(&file))
        });
        let warnings = String::from_utf8(log.0.lock().unwrap().clone());
        Self { pages: pages.collect(), warnings: warnings.unwrap(), folder }
    }
}

impl Page {
    fn read(file: &Path) -> Self {
        let html = fs::read_to_string(file).unwrap();
        let parsed = Html::parse_document(&html);
        let ids = select(&parsed, "[id]").into_iter();
        let ids = ids.map(|id| id.attr("id").unwrap().to_owned()).collect();
        let mut links = Vec::new();
        for attribute in ["href", "src", "srcset", "data"] {
            for element in select(&parsed, &format!("[{attribute}]")) {
                // 404.html is served at any path, so it has a <base>.
                if element.value().name() == "base" {
                    continue;
                }
                links.push(Link {
                    element: element.value().name().to_owned(),
                    target: element.attr(attribute).unwrap().to_owned(),
                });
            }
        }
        Self { ids, links, html }
    }
}

fn parsed(page: &str) -> Html {
    let Some(page) = BOOK.pages.get(page) else {
        panic!("the book has no {page}")
    };
    Html::parse_document(&page.html)
}

fn select<'a>(page: &'a Html, selector: &str) -> Vec<ElementRef<'a>> {
    page.select(&css(selector)).collect()
}

fn css(selector: &str) -> Selector {
    Selector::parse(selector).unwrap()
}

fn text_of(element: &ElementRef) -> String {
    element.text().collect()
}

fn is_external(target: &str) -> bool {
    let scheme = target.split(['/', '?', '#']).next().unwrap();
    target.starts_with("//") || scheme.contains(':')
}

/// Resolves `target`, a link of `page`, to a path in the book.
fn resolve(page: &str, target: &str) -> String {
    let mut parts: Vec<_> = page.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            ".." => assert!(parts.pop().is_some(), "{page} links to {target}"),
            "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A section of a page, as the search index has it.
struct Section {
    /// The path of the page in the book.
    path: String,
    /// The searchable text: headings and body, in lower case. Each sequence of
    /// white space is one space.
    text: String,
}

/// Returns all sections in the search index.
fn search_index() -> Vec<Section> {
    let index = script("searchindex");
    let (_, json) = index.split_once("JSON.parse('").unwrap();
    let (json, _) = json.rsplit_once("')").unwrap();
    let json = json.replace("\\'", "'").replace("\\\\", "\\");
    let index: serde_json::Value = serde_json::from_str(&json).unwrap();
    let docs = &index["index"]["documentStore"]["docs"];
    let urls = index["doc_urls"].as_array().unwrap();
    let sections = urls.iter().enumerate().map(|(id, url)| {
        let (url, doc) = (url.as_str().unwrap(), &docs[id.to_string()]);
        let fields = ["title", "breadcrumbs", "body"];
        let text = fields.map(|field| doc[field].as_str().unwrap());
        let text = text.join(" ").to_lowercase();
        Section {
            path: url.split('#').next().unwrap().to_owned(),
            text: text.split_whitespace().collect::<Vec<_>>().join(" "),
        }
    });
    sections.collect()
}

/// Returns the text of the only script whose name begins with `start`.
fn script(start: &str) -> String {
    let mut scripts = files(BOOK.folder.path());
    scripts.retain(|file| {
        let name = file.file_name().unwrap().to_string_lossy();
        name.starts_with(start) && name.ends_with(".js")
    });
    assert_eq!(scripts.len(), 1, "expected one script, found {scripts:?}");
    fs::read_to_string(&scripts[0]).unwrap()
}

/// Returns the pages that the summary lists, such as `week02/no_rows.md`.
fn sources() -> Vec<String> {
    let summary = fs::read_to_string(pages().join("SUMMARY.md")).unwrap();
    let sources: Vec<_> = Parser::new(&summary)
        .filter_map(|event| match event {
            Event::Start(Tag::Link { dest_url, .. }) => Some(dest_url.into()),
            _ => None,
        })
        .collect();
    assert!(!sources.is_empty(), "expected pages in the summary, found none");
    sources
}

/// Returns the path in the book of the page `source`.
fn html_path(source: &str) -> String {
    source.replace(".md", ".html")
}

/// Returns the week, the name and the toml of each exercise.
fn tomls() -> Vec<(String, String, toml::Table)> {
    let mut tomls = Vec::new();
    for week in week_folders() {
        for file in files(&workbook().join(&week).join("exercises")) {
            let name = file.file_stem().unwrap().to_string_lossy();
            if name != "week" {
                let text = fs::read_to_string(&file).unwrap();
                let toml = toml::from_str(&text).unwrap();
                tomls.push((week.clone(), name.into_owned(), toml));
            }
        }
    }
    tomls
}

fn week_folders() -> Vec<String> {
    let entries = fs::read_dir(workbook()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> =
        names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| {
        name.starts_with("week") && workbook().join(name).is_dir()
    });
    names.sort_unstable();
    names
}

fn workbook() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn pages() -> PathBuf {
    workbook().join("notes/pages")
}

/// Returns all files in `folder` and below it. If `folder` does not exist,
/// returns none.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort_unstable();
    files
}

fn has_extension(file: &Path, extension: &str) -> bool {
    file.extension().is_some_and(|other| other == extension)
}

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
