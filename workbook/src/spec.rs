//! The fields of `weekNN/exercises/*.toml`.

use std::fmt;
use std::fs;
use std::path::Path;
use std::slice;
use std::str::FromStr;

use indexmap::IndexMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// `exercises/week.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Week {
    /// The title of the week.
    pub title: String,
    /// The names of the exercises, in reading order.
    pub exercises: Vec<String>,
}

/// `exercises/NAME.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The title, with the term that the field uses.
    pub title: String,
    /// The production question that the exercise answers.
    pub question: Question,
    /// How long a reader takes.
    pub minutes: u32,
    /// The shortest path that includes the exercise.
    pub path: Route,
    /// Whether only a researcher would enjoy it.
    #[serde(default)]
    pub starred: bool,
    /// The name of one of the week's examples.
    pub example: String,
    /// The grader's modules, easiest first.
    pub rungs: Vec<String>,
    /// Three hints, from a nudge to nearly the code.
    pub hints: [String; 3],
    /// The deadline of one test, in seconds.
    #[serde(default = "ten_seconds")]
    pub deadline_s: u64,
    /// Whether the grader can judge any program, by `WB_PROGRAM`.
    #[serde(default)]
    pub takes_program: bool,
    /// The rung whose tests judge programs only: they run by `cargo wb grade`,
    /// and no other tests run then. It is not in `rungs`, and a module of its
    /// own: `tests/grade/EXERCISE_RUNG.rs`.
    pub program_rung: Option<String>,
    /// The foils by name, in the order of the toml.
    #[serde(default)]
    pub foils: IndexMap<String, Foil>,
}

impl Spec {
    /// Returns whether the grader can judge any program.
    pub fn grades_programs(&self) -> bool {
        self.takes_program || self.program_rung.is_some()
    }

    /// Returns the rungs that run for a program, or else for a subject.
    pub fn rungs_of(&self, is_program: bool) -> &[String] {
        match &self.program_rung {
            Some(rung) if is_program => slice::from_ref(rung),
            _ => &self.rungs,
        }
    }
}

/// A question in both languages.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// In English.
    pub en: String,
    /// In Chinese.
    pub zh: String,
}

/// A known-wrong answer: the answer with one mistake.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Foil {
    /// The damage that the mistake does.
    pub lesson: String,
    /// Why people make the mistake.
    pub tempts: String,
    /// The tests that the foil breaks on each run: `rung::test`.
    pub caught_by: Vec<String>,
    /// The tests that the foil breaks on some runs only, because they run on
    /// several threads.
    #[serde(default)]
    pub sometimes_caught_by: Vec<String>,
    /// The changes to the answer. Where there are none, the foil is a file:
    /// `foils/EXERCISE/NAME.rs`.
    #[serde(default)]
    pub edits: Vec<Edit>,
}

/// One change that turns the answer into a foil.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// A text that the answer, with the edits before this one, has once.
    pub find: String,
    /// The text of the foil in its place.
    pub replace: String,
}

/// A path through the workbook. Each one includes the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Route {
    /// The original homework.
    Homework,
    /// What the original course covers.
    Course,
    /// Everything.
    All,
}

impl Route {
    /// Every route, the shortest first.
    pub const ALL: [Self; 3] = [Self::Homework, Self::Course, Self::All];

    /// Returns the name that the tomls and the command line use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Homework => "homework",
            Self::Course => "course",
            Self::All => "all",
        }
    }

    /// Returns one line that describes the route.
    pub fn about(self) -> &'static str {
        match self {
            Self::Homework => "The short way: the original homework",
            Self::Course => "What the original course covers",
            Self::All => "Everything",
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No route has this name.
#[derive(Debug, thiserror::Error)]
#[error("no path has this name")]
pub struct UnknownRoute;

impl FromStr for Route {
    type Err = UnknownRoute;

    fn from_str(name: &str) -> Result<Self, UnknownRoute> {
        let route = Self::ALL.into_iter().find(|route| route.name() == name);
        route.ok_or(UnknownRoute)
    }
}

fn ten_seconds() -> u64 {
    10
}

/// Reads the toml `file`, a path relative to `root`.
///
/// # Errors
///
/// When the file cannot be read; when its fields are wrong, with the line and
/// what was expected there.
pub(crate) fn read<T: DeserializeOwned>(
    root: &Path,
    file: &Path,
) -> Result<T, Error> {
    let path = root.join(file);
    let text = fs::read_to_string(&path)
        .map_err(|source| Error::Read { file: path, source })?;
    toml::from_str(&text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        Error::Toml {
            file: file.to_owned(),
            line: 1 + text[..start].matches('\n').count(),
            message: error.message().replace('\n', " "),
        }
    })
}
