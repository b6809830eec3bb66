//! What the reader has done, in one plain file: `attempts/progress.txt`.
//!
//! One fact a line, `<what> <fact> <value>`, sorted. Two such files merge by
//! joining their lines: of two counts the larger holds, and an attempt passes
//! if either file says so.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use workbook::spec::Route;
use workbook::{Exercise, Workbook};

use crate::error::Error;
use crate::grading::grade::content_hash;
use crate::grading::lock;

#[derive(Debug)]
pub(crate) struct Progress {
    file: PathBuf,
    facts: BTreeSet<String>,
}

/// How far an exercise has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Untouched,
    Started,
    Failing {
        rung: usize,
        of: usize,
    },
    Passing,
    /// Changed since it passed, and not graded since.
    Changed,
}

impl Progress {
    /// Changes the file, one command at a time.
    pub(crate) fn update(
        book: &Workbook,
        change: impl FnOnce(&mut Self),
    ) -> Result<(), Error> {
        let _lock = lock::wait_for(book, "progress")?;
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

    /// Whether it has ever passed, whatever became of it.
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

    /// That the text with this hash passed.
    pub(crate) fn set_passed(&mut self, exercise: &Exercise, text: &str) {
        self.forget(&exercise.id(), "failed");
        self.set(&exercise.id(), "passed", text);
    }

    /// That the text with this hash got as far as `rung`.
    pub(crate) fn set_failed(
        &mut self,
        exercise: &Exercise,
        text: &str,
        (rung, of): (usize, usize),
    ) {
        let value = format!("{text} {rung}/{of}");
        self.set(&exercise.id(), "failed", &value);
    }

    /// Written beside the file and renamed over it: never half a file.
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

    fn values(&self, what: &str, fact: &str) -> impl Iterator<Item = &str> {
        let key = format!("{what} {fact} ");
        self.facts.iter().filter_map(move |line| line.strip_prefix(&*key))
    }

    fn set(&mut self, what: &str, fact: &str, value: &str) {
        self.forget(what, fact);
        self.facts.insert(format!("{what} {fact} {value}"));
    }

    fn forget(&mut self, what: &str, fact: &str) {
        let key = format!("{what} {fact} ");
        self.facts.retain(|line| !line.starts_with(&key));
    }
}
