//! The reader's progress, in the text file `attempts/progress.txt`.
//!
//! Each line is one fact, `<subject> <fact> <value>`, and the lines are sorted.
//! Two such files are merged by joining their lines. Of two hint counts the
//! larger one is used, and an attempt passes if either file has it as passed.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use workbook::spec::Route;
use workbook::{Exercise, Workbook};

use crate::error::Error;
use crate::grading::grade::content_hash;
use crate::grading::lock;

/// The content of the file.
#[derive(Debug)]
pub(crate) struct Progress {
    file: PathBuf,
    facts: BTreeSet<String>,
}

/// The state of an exercise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It has no attempt.
    Untouched,
    /// It never passed, and has not been graded since its last change.
    Started,
    Failing {
        rung: usize,
        of: usize,
    },
    Passing,
    /// It passed before, and has not been graded since its last change.
    Changed,
}

impl Progress {
    /// Reads the file, applies `change` and writes the file, under a lock.
    pub(crate) fn update(
        book: &Workbook,
        change: impl FnOnce(&mut Self),
    ) -> Result<(), Error> {
        let _lock = lock::acquire(book, "progress")?;
        let mut progress = Self::read(book)?;
        change(&mut progress);
        progress.write()
    }

    pub(crate) fn read(book: &Workbook) -> Result<Self, Error> {
        let file = book.root.join("attempts/progress.txt");
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                String::new()
            }
            Err(error) => return Err(Error::file("read", &file, &error)),
        };
        let facts = text.lines().map(str::trim).filter(|line| !line.is_empty());
        Ok(Self { facts: facts.map(str::to_owned).collect(), file })
    }

    pub(crate) fn state(&self, exercise: &Exercise) -> State {
        let Ok(attempt) = fs::read(exercise.attempt()) else {
            return State::Untouched;
        };
        let id = exercise.id();
        let hash = content_hash(&attempt);
        if self.facts.contains(&format!("{id} passed {hash}")) {
            return State::Passing;
        }
        for value in self.values(&id, "failed") {
            let Some((of_hash, rungs)) = value.split_once(' ') else {
                continue;
            };
            let Some((rung, of)) = rungs.split_once('/') else { continue };
            if let (true, Ok(rung), Ok(of)) =
                (of_hash == hash, rung.parse(), of.parse())
            {
                return State::Failing { rung, of };
            }
        }
        if self.has_passed(exercise) {
            return State::Changed;
        }
        State::Started
    }

    /// Returns whether the exercise has ever passed, also with another text.
    pub(crate) fn has_passed(&self, exercise: &Exercise) -> bool {
        self.values(&exercise.id(), "passed").next().is_some()
    }

    pub(crate) fn current<'a>(
        &self,
        book: &'a Workbook,
    ) -> Option<&'a Exercise> {
        book.exercise(self.values("workbook", "current").next()?).ok()
    }

    pub(crate) fn route(&self) -> Route {
        let name = self.values("workbook", "path").next();
        name.and_then(|name| name.parse().ok()).unwrap_or(Route::Course)
    }

    pub(crate) fn hints(&self, exercise: &Exercise) -> usize {
        let id = exercise.id();
        let counts = self.values(&id, "hints");
        counts.filter_map(|count| count.parse().ok()).max().unwrap_or(0)
    }

    pub(crate) fn set_current(&mut self, exercise: &Exercise) {
        self.set("workbook", "current", &exercise.id());
    }

    pub(crate) fn set_route(&mut self, route: Route) {
        self.set("workbook", "path", route.name());
    }

    pub(crate) fn set_hints(&mut self, exercise: &Exercise, hints: usize) {
        self.set(&exercise.id(), "hints", &hints.to_string());
    }

    /// Records that the text with the hash `text` passed.
    pub(crate) fn set_passed(&mut self, exercise: &Exercise, text: &str) {
        self.remove(&exercise.id(), "failed");
        self.set(&exercise.id(), "passed", text);
    }

    /// Records that the text with the hash `text` failed at `rung`.
    pub(crate) fn set_failed(
        &mut self,
        exercise: &Exercise,
        text: &str,
        (rung, of): (usize, usize),
    ) {
        let value = format!("{text} {rung}/{of}");
        self.set(&exercise.id(), "failed", &value);
    }

    /// Writes a new file and renames it: the old one is never half overwritten.
    fn write(&self) -> Result<(), Error> {
        let mut text = String::new();
        for fact in &self.facts {
            text += fact;
            text.push('\n');
        }
        let new = self.file.with_extension("txt.new");
        fs::File::create(&new)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&new, &self.file))
            .map_err(|error| Error::file("write", &self.file, &error))
    }

    fn values(&self, subject: &str, fact: &str) -> impl Iterator<Item = &str> {
        let key = format!("{subject} {fact} ");
        self.facts.iter().filter_map(move |line| line.strip_prefix(&*key))
    }

    fn set(&mut self, subject: &str, fact: &str, value: &str) {
        self.remove(subject, fact);
        self.facts.insert(format!("{subject} {fact} {value}"));
    }

    fn remove(&mut self, subject: &str, fact: &str) {
        let key = format!("{subject} {fact} ");
        self.facts.retain(|line| !line.starts_with(&key));
    }
}
