//! What `weekNN/exercises/*.toml` says.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use clap::ValueEnum;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::trouble::Trouble;

/// `exercises/week.toml`: the week, and its exercises in reading order.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WeekSpec {
    pub(crate) title: String,
    pub(crate) exercises: Vec<String>,
}

/// `exercises/NAME.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    pub(crate) title: String,
    pub(crate) question: Question,
    pub(crate) minutes: u32,
    pub(crate) path: Route,
    /// What only a researcher would enjoy.
    #[serde(default)]
    pub(crate) starred: bool,
    /// One of the week's examples.
    pub(crate) example: String,
    /// The grader's modules, in the order in which they are climbed.
    pub(crate) rungs: Vec<String>,
    pub(crate) hints: [String; 3],
    /// How long one test may take before it is said to hang.
    #[serde(default = "ten_seconds")]
    pub(crate) deadline_s: u64,
    /// Whether the grader can look at any program, by `WB_PROGRAM`.
    #[serde(default)]
    pub(crate) takes_program: bool,
    #[serde(default)]
    pub(crate) foils: BTreeMap<String, Foil>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    pub(crate) en: String,
    pub(crate) zh: String,
}

/// The answer with one mistake in it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Foil {
    pub(crate) lesson: String,
    pub(crate) tempts: String,
    /// Exactly the tests that it breaks: `rung::test`.
    pub(crate) caught_by: Vec<String>,
    /// What is otherwise in the answer. Where there is nothing, the foil is a file
    /// of its own: `foils/EXERCISE/NAME.rs`.
    #[serde(default)]
    pub(crate) edits: Vec<Edit>,
}

/// A text that the answer has once, with the edits before it, and what a foil has
/// in its place.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Edit {
    pub(crate) find: String,
    pub(crate) replace: String,
}

/// A way through the workbook. Each holds the one before it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Route {
    /// The short way: the original homework
    Homework,
    /// What the original course covers
    Course,
    /// Everything
    All,
}

impl Route {
    /// As one types it.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value().expect("none is skipped");
        value.get_name().to_owned()
    }
}

fn ten_seconds() -> u64 {
    10
}

/// Reads one toml, or says which line is wrong and what was expected there.
pub(crate) fn read<T: DeserializeOwned>(
    root: &Path,
    file: &Path,
) -> Result<T, Trouble> {
    let text = fs::read_to_string(file)
        .map_err(|error| Trouble::file("read", file, &error))?;
    toml::from_str(&text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = text[..start].lines().count().max(1)
            + usize::from(text[..start].ends_with('\n'));
        let file = file.strip_prefix(root).unwrap_or(file);
        Trouble::new(format!(
            "{}:{line}: {}",
            file.display(),
            error.message().replace('\n', " ")
        ))
        .mend("CONTRIBUTING.md lists the fields")
    })
}
