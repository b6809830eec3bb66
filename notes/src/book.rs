//! From the pages to a folder of HTML.

use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail};
use mdbook_driver::MDBook;
use mdbook_driver::book::{Book, BookItem, Chapter};
use mdbook_driver::config::Config;
use mdbook_preprocessor::{Preprocessor, PreprocessorContext};
use pulldown_cmark::{Event, HeadingLevel, Parser, Tag, TagEnd};
use workbook::Workbook;

use crate::{exercise, foils};

/// Where a page tells of its foils.
const FOILS: &str = "What the foils teach";

/// Any rendered book has it, and hardly anything else.
const MARK: &str = "toc.html";

/// Renders the notes of the workbook at `root` into the folder `to`, in place of
/// the book that it holds.
///
/// # Errors
///
/// Says which page or toml is wrong. What `to` holds stays then, and it stays as
/// well where it is no book.
pub fn render(root: &Path, to: &Path) -> Result<()> {
    let notes = root.join("notes");
    let to = std::path::absolute(to)?;
    let is_empty =
        fs::read_dir(&to).map_or(true, |mut dir| dir.next().is_none());
    if !is_empty && !to.join(MARK).exists() {
        bail!("{} holds something, and no book", to.display());
    }
    let mut config = Config::from_disk(notes.join("book.toml"))?;
    config.build.build_dir = to;
    let mut book = MDBook::load_with_config(notes, config)?;
    let workbook = Workbook::read(root.to_owned())?;
    book.with_preprocessor(Exercises { workbook });
    book.build()
}

/// Adds to the pages what their exercises say.
struct Exercises {
    workbook: Workbook,
}

impl Preprocessor for Exercises {
    fn name(&self) -> &'static str {
        "exercises"
    }

    /// Runs after mdBook's own, so that listings are included by now.
    fn run(&self, _: &PreprocessorContext, mut book: Book) -> Result<Book> {
        let mut outcome = Ok(());
        book.for_each_mut(|item| {
            if let BookItem::Chapter(chapter) = item
                && outcome.is_ok()
            {
                outcome = self.complete(chapter);
            }
        });
        outcome.map(|()| book)
    }
}

impl Exercises {
    fn complete(&self, chapter: &mut Chapter) -> Result<()> {
        let Some(page) = chapter.source_path.clone() else { return Ok(()) };
        let text = &mut chapter.content;
        // mdBook leaves it as it is, and says so in a log.
        if let Some((_, rest)) = text.split_once("{{#") {
            let link = rest.split("}}").next().unwrap_or_default();
            bail!("{}: cannot expand {{{{#{link}}}}}", page.display());
        }
        let (Some(week), Some(name)) = (page.parent(), page.file_stem()) else {
            return Ok(());
        };
        let (week, name) = (week.to_string_lossy(), name.to_string_lossy());
        // Pages of a week without exercises are shown as they are.
        let Ok(week) = self.workbook.week(&week) else { return Ok(()) };
        if name == "index" {
            let at = introduction(text).end;
            insert(text, at, &exercise::table(week));
            return Ok(());
        }
        let mut exercises = week.exercises.iter();
        let Some(exercise) = exercises.find(|it| it.name == name) else {
            return Ok(());
        };
        // From the end, as an insertion moves what follows it.
        let folds = foils::folds(exercise)?;
        insert(text, end_of(text, FOILS), &folds);
        let file = format!("{}/src/{name}.rs", week.name);
        fold(text, &listing(&self.workbook.root, &file)?, &file);
        let at = introduction(text).start;
        insert(text, at, &exercise::block(exercise));
        Ok(())
    }
}

/// What a listing of the whole `file` looks like on a page.
fn listing(root: &Path, file: &str) -> Result<String> {
    let text = fs::read_to_string(root.join(file))
        .with_context(|| format!("cannot read {file}"))?;
    Ok(format!("```rust,ignore\n{}\n```", text.trim_end()))
}

/// Closes the answer, for whoever still wants to find it.
fn fold(text: &mut String, listing: &str, file: &str) {
    let folded = format!(
        "<details class=\"answer\">\n\
         <summary>The answer: <code>{file}</code></summary>\n\n\
         {listing}\n\n</details>"
    );
    // Who reads the page as it stands has the file's name above an include.
    *text = text.replacen(&format!("`{file}`:\n\n{listing}"), listing, 1);
    *text = text.replacen(listing, &folded, 1);
}

/// As a paragraph of its own.
fn insert(text: &mut String, at: usize, paragraph: &str) {
    text.insert_str(at, &format!("\n\n{paragraph}\n\n"));
}

/// What stands between the title and the first section.
fn introduction(text: &str) -> Range<usize> {
    let headings = headings(text);
    let start = match headings.first() {
        Some(first) if first.level == HeadingLevel::H1 => first.place.end,
        _ => 0,
    };
    let next = headings.iter().find(|next| next.place.start >= start);
    start..next.map_or(text.len(), |next| next.place.start)
}

/// Where the section `title` ends, or else the page.
fn end_of(text: &str, title: &str) -> usize {
    let headings = headings(text);
    let mut rest = headings.iter().skip_while(|heading| heading.text != title);
    let Some(section) = rest.next() else { return text.len() };
    rest.find(|next| next.level <= section.level)
        .map_or(text.len(), |next| next.place.start)
}

struct Heading {
    level: HeadingLevel,
    text: String,
    place: Range<usize>,
}

/// The headings of a page: a `#` in a listing is none.
fn headings(page: &str) -> Vec<Heading> {
    let mut headings: Vec<Heading> = Vec::new();
    let mut is_inside = false;
    for (event, place) in Parser::new(page).into_offset_iter() {
        match event {
            Event::Start(Tag::Heading { level, .. }) => {
                is_inside = true;
                headings.push(Heading { level, text: String::new(), place });
            }
            Event::End(TagEnd::Heading(_)) => is_inside = false,
            Event::Text(text) | Event::Code(text) if is_inside => {
                let last = headings.last_mut().expect("one has started");
                last.text += &text;
            }
            _ => {}
        }
    }
    headings
}
