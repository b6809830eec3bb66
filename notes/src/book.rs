//! Renders the pages into a folder of HTML.

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

/// The heading of the section that lists the foils.
const FOILS_HEADING: &str = "What the foils teach";

/// A file that every rendered book has, and hardly any other folder. It marks a
/// folder that `render` may replace.
const BOOK_FILE: &str = "toc.html";

/// Renders the notes of the workbook at `root` into the folder `to`. Replaces the
/// book that `to` contains.
///
/// # Errors
///
/// When a page or a toml is wrong: the error names it. When `to` contains files
/// but no book. In both cases the files in `to` are unchanged.
pub fn render(root: &Path, to: &Path) -> Result<()> {
    let notes = root.join("notes");
    let to = std::path::absolute(to)?;
    let is_empty =
        fs::read_dir(&to).map_or(true, |mut dir| dir.next().is_none());
    if !is_empty && !to.join(BOOK_FILE).exists() {
        bail!("{} is not empty, and contains no book", to.display());
    }
    let mut config = Config::from_disk(notes.join("book.toml"))?;
    config.build.build_dir = to;
    let mut book = MDBook::load_with_config(notes, config)?;
    let workbook = Workbook::read(root.to_owned())?;
    book.with_preprocessor(Exercises { workbook });
    book.build()
}

/// Adds the question, the foils and the exercise tables to the pages.
struct Exercises {
    workbook: Workbook,
}

impl Preprocessor for Exercises {
    fn name(&self) -> &'static str {
        "exercises"
    }

    /// Runs after mdBook's own preprocessors, which include the listings.
    fn run(&self, _: &PreprocessorContext, mut book: Book) -> Result<Book> {
        let mut outcome = Ok(());
        book.for_each_mut(|item| {
            if let BookItem::Chapter(chapter) = item
                && outcome.is_ok()
            {
                outcome = self.extend(chapter);
            }
        });
        outcome.map(|()| book)
    }
}

impl Exercises {
    /// Adds to one page the parts that its exercise provides.
    fn extend(&self, chapter: &mut Chapter) -> Result<()> {
        let Some(page) = chapter.source_path.clone() else { return Ok(()) };
        let text = &mut chapter.content;
        // mdBook only logs an include that fails, and leaves its text.
        if let Some((_, rest)) = text.split_once("{{#") {
            let link = rest.split("}}").next().unwrap_or_default();
            bail!("{}: cannot expand {{{{#{link}}}}}", page.display());
        }
        let (Some(week), Some(name)) = (page.parent(), page.file_stem()) else {
            return Ok(());
        };
        let (week, name) = (week.to_string_lossy(), name.to_string_lossy());
        // A week without exercises adds nothing to its pages.
        let Ok(week) = self.workbook.week(&week) else { return Ok(()) };
        if name == "index" {
            let at = introduction(text).end;
            insert(text, at, &exercise::table(week));
            return Ok(());
        }
        let mut exercises = week.exercises.iter();
        let Some(exercise) = exercises.find(|exercise| exercise.name == name)
        else {
            return Ok(());
        };
        // Insert from the end of the page to its start: an insertion moves the
        // text after it.
        let foils = foils::sections(exercise)?;
        insert(text, end_of(text, FOILS_HEADING), &foils);
        let file = format!("{}/src/{name}.rs", week.name);
        collapse(text, &listing(&self.workbook.root, &file)?, &file);
        let at = introduction(text).start;
        insert(text, at, &exercise::question(exercise));
        Ok(())
    }
}

/// Returns the code block of a page that includes the whole `file`.
fn listing(root: &Path, file: &str) -> Result<String> {
    let text = fs::read_to_string(root.join(file))
        .with_context(|| format!("cannot read {file}"))?;
    Ok(format!("```rust,ignore\n{}\n```", text.trim_end()))
}

/// Puts the listing of the answer into a collapsible section, so that it is
/// hidden from a reader who wants to solve the exercise first.
fn collapse(text: &mut String, listing: &str, file: &str) {
    let section = format!(
        "<details class=\"answer\">\n\
         <summary>The answer: <code>{file}</code></summary>\n\n\
         {listing}\n\n</details>"
    );
    // The summary names the file. So remove the line with the file's name, which
    // the page has for readers of the markdown.
    *text = text.replacen(&format!("`{file}`:\n\n{listing}"), listing, 1);
    *text = text.replacen(listing, &section, 1);
}

/// Inserts `paragraph` at the byte offset `at`, with empty lines around it.
fn insert(text: &mut String, at: usize, paragraph: &str) {
    text.insert_str(at, &format!("\n\n{paragraph}\n\n"));
}

/// Returns the range between the title and the next heading.
fn introduction(text: &str) -> Range<usize> {
    let headings = headings(text);
    let start = match headings.first() {
        Some(first) if first.level == HeadingLevel::H1 => first.range.end,
        _ => 0,
    };
    let next = headings.iter().find(|next| next.range.start >= start);
    start..next.map_or(text.len(), |next| next.range.start)
}

/// Returns the offset at which the section `title` ends, or the end of the page
/// if it has no such section.
fn end_of(text: &str, title: &str) -> usize {
    let headings = headings(text);
    let mut rest = headings.iter().skip_while(|heading| heading.text != title);
    let Some(section) = rest.next() else { return text.len() };
    rest.find(|next| next.level <= section.level)
        .map_or(text.len(), |next| next.range.start)
}

struct Heading {
    level: HeadingLevel,
    text: String,
    range: Range<usize>,
}

/// Returns the headings of a page. A `#` in a code block is not a heading.
fn headings(page: &str) -> Vec<Heading> {
    let mut headings: Vec<Heading> = Vec::new();
    let mut in_heading = false;
    for (event, range) in Parser::new(page).into_offset_iter() {
        match event {
            Event::Start(Tag::Heading { level, .. }) => {
                in_heading = true;
                headings.push(Heading { level, text: String::new(), range });
            }
            Event::End(TagEnd::Heading(_)) => in_heading = false,
            Event::Text(text) | Event::Code(text) if in_heading => {
                let last = headings.last_mut().expect("a heading has started");
                last.text += &text;
            }
            _ => {}
        }
    }
    headings
}
