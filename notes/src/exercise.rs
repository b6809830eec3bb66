//! What `weekNN/exercises/*.toml` says, as far as the book tells it, and how it
//! looks on a page.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use indexmap::IndexMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// `exercises/week.toml`.
#[derive(Debug, Deserialize)]
pub(crate) struct Week {
    pub(crate) exercises: Vec<String>,
}

/// `exercises/NAME.toml`.
#[derive(Debug, Deserialize)]
pub(crate) struct Exercise {
    title: String,
    question: Question,
    minutes: u32,
    path: Route,
    #[serde(default)]
    starred: bool,
    example: String,
    /// In the order of the toml, which is that of the page.
    #[serde(default)]
    pub(crate) foils: IndexMap<String, Foil>,
}

#[derive(Debug, Deserialize)]
struct Question {
    en: String,
    zh: String,
}

/// A way through the workbook.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Route {
    Homework,
    Course,
    All,
}

/// The answer with one mistake in it.
#[derive(Debug, Deserialize)]
pub(crate) struct Foil {
    pub(crate) lesson: String,
    pub(crate) tempts: String,
    pub(crate) caught_by: Vec<String>,
    /// Where there are none, the foil is a file of its own.
    #[serde(default)]
    pub(crate) edits: Vec<Edit>,
}

/// What the answer has once, and what a foil has in its place.
#[derive(Debug, Deserialize)]
pub(crate) struct Edit {
    pub(crate) find: String,
    pub(crate) replace: String,
}

impl Exercise {
    /// The question, and what to type: below the title of the page.
    pub(crate) fn block(&self, name: &str) -> String {
        let Self { question, minutes, example, .. } = self;
        format!(
            "<div class=\"exercise\">\n\
             <p>{}</p>\n\
             <p lang=\"zh\">{}</p>\n\
             <p>{minutes} minutes, on the path <em>{}</em>. \
             To solve it: <code>cargo wb start {name}</code>. To see it: \
             <code>cargo wb demo {example}</code></p>\n\
             </div>",
            html(&question.en),
            html(&question.zh),
            self.route(),
        )
    }

    fn route(&self) -> String {
        let path = match self.path {
            Route::Homework => "homework",
            Route::Course => "course",
            Route::All => "all",
        };
        let star = if self.starred { ", starred" } else { "" };
        format!("{path}{star}")
    }
}

/// A week's exercises as a table, for the page that opens the week.
pub(crate) fn table(root: &Path, week: &str) -> Result<String> {
    let tomls = Path::new(week).join("exercises");
    let Week { exercises } = read(root, &tomls.join("week.toml"))?;
    let mut table = "| Exercise | Minutes | Path |\n|---|--:|---|".to_owned();
    for name in exercises {
        let toml = tomls.join(&name).with_extension("toml");
        let exercise: Exercise = read(root, &toml)?;
        let Exercise { title, minutes, .. } = &exercise;
        let route = exercise.route();
        table += &format!("\n| [{title}]({name}.md) | {minutes} | {route} |");
    }
    Ok(table)
}

/// Reads the toml `file` below `root`, or says which line is wrong.
pub(crate) fn read<T: DeserializeOwned>(root: &Path, file: &Path) -> Result<T> {
    let shown = file.display();
    let text = fs::read_to_string(root.join(file))
        .with_context(|| format!("cannot read {shown}"))?;
    toml::from_str(&text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + text[..start].matches('\n').count();
        anyhow!("{shown}:{line}: {}", error.message())
    })
}

/// One paragraph of markdown, such as a toml holds, without its `<p>`.
pub(crate) fn html(markdown: &str) -> String {
    let mut html = String::new();
    let parser = pulldown_cmark::Parser::new(markdown);
    pulldown_cmark::html::push_html(&mut html, parser);
    let html = html.trim();
    let inner = html.strip_prefix("<p>").and_then(|p| p.strip_suffix("</p>"));
    inner.unwrap_or(html).to_owned()
}
