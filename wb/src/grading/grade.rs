//! Grades one subject: compiles it, runs all tests, and sorts them into rungs.

use std::collections::BTreeSet;
use std::fs;
use std::hash::Hasher;
use std::io;
use std::path::Path;
use std::time::{Instant, SystemTime};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use workbook::spec::Foil;
use workbook::{Exercise, Workbook};

use crate::error::Error;
use crate::grading::compile::{self, Compiled};
use crate::grading::properties::{self, Property};
use crate::grading::run::Verdict;
use crate::terminal::status::Status;

/// The grade of one subject.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Grade {
    /// `week02/no_rows`.
    pub(crate) exercise: String,
    /// The hash of the text that was graded.
    pub(crate) text: String,
    pub(crate) outcome: Outcome,
    pub(crate) rungs: Vec<Rung>,
    /// The errors of rustc, if the subject does not compile.
    pub(crate) compiler: Option<String>,
    /// The foil that fails nearly the same tests.
    pub(crate) like_foil: Option<LikeFoil>,
    pub(crate) seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Passes,
    Wrong,
    Hangs,
    DoesNotCompile,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Rung {
    pub(crate) name: String,
    pub(crate) properties: Vec<Property>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LikeFoil {
    pub(crate) name: String,
    pub(crate) lesson: String,
    pub(crate) tempts: String,
    /// Whether it fails exactly the tests that the subject fails.
    pub(crate) is_exact: bool,
}

impl LikeFoil {
    /// Returns which checks the foil fails, for a report.
    pub(crate) fn checks(&self) -> &'static str {
        if self.is_exact {
            "the same checks"
        } else {
            "most of the same checks"
        }
    }
}

impl Grade {
    /// Returns the grade of a subject that does not compile.
    pub(crate) fn of_errors(
        exercise: &Exercise,
        text: String,
        errors: String,
    ) -> Self {
        Self {
            exercise: exercise.id(),
            text,
            outcome: Outcome::DoesNotCompile,
            rungs: Vec::new(),
            compiler: Some(errors),
            like_foil: None,
            seconds: 0.0,
        }
    }

    /// Returns the grade of a subject, or of a program, with these properties.
    pub(crate) fn of_properties(
        exercise: &Exercise,
        text: String,
        is_program: bool,
        properties: Vec<Property>,
    ) -> Result<Self, Error> {
        let mut grade = Self {
            exercise: exercise.id(),
            text,
            outcome: Outcome::Passes,
            rungs: sort_into_rungs(exercise, is_program, properties)?,
            compiler: None,
            like_foil: None,
            seconds: 0.0,
        };
        grade.outcome = outcome(&grade);
        grade.like_foil = like_foil(&grade, exercise);
        Ok(grade)
    }

    pub(crate) fn properties(&self) -> impl Iterator<Item = &Property> {
        self.rungs.iter().flat_map(|rung| &rung.properties)
    }

    /// Returns the names of the failing properties.
    pub(crate) fn failing(&self) -> BTreeSet<&str> {
        self.properties()
            .filter(|property| property.verdict.fails())
            .map(|property| &*property.name)
            .collect()
    }

    /// Returns the first rung with a failing property, counted from 1, or else
    /// the last rung; and the number of rungs.
    pub(crate) fn rung(&self) -> (usize, usize) {
        let of = self.rungs.len();
        let failing = self.rungs.iter().position(|rung| !rung.passes());
        (failing.map_or(of, |rung| rung + 1), of)
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self.outcome {
            Outcome::Passes => 0,
            Outcome::Wrong => 1,
            Outcome::Hangs => 3,
            Outcome::DoesNotCompile => 4,
        }
    }
}

impl Rung {
    pub(crate) fn passes(&self) -> bool {
        !self.properties.iter().any(|property| property.verdict.fails())
    }
}

/// Grades `subject` as an attempt at `exercise`. If the file changes while it is
/// compiled, the new text is compiled and graded.
pub(crate) fn grade(
    book: &Workbook,
    exercise: &Exercise,
    subject: &Path,
    status: &Status,
) -> Result<Grade, Error> {
    grade_with(book, exercise, subject, None, status)
}

/// Grades a program, which the shell command `program` starts, with the tests of
/// `exercise`.
pub(crate) fn grade_program(
    book: &Workbook,
    exercise: &Exercise,
    program: &str,
    status: &Status,
) -> Result<Grade, Error> {
    // The tests do not compile without a subject.
    let subject = exercise.answer();
    grade_with(book, exercise, &subject, Some(program), status)
}

fn grade_with(
    book: &Workbook,
    exercise: &Exercise,
    subject: &Path,
    program: Option<&str>,
    status: &Status,
) -> Result<Grade, Error> {
    let start = Instant::now();
    let read = || {
        Text::read(subject)
            .map_err(|error| Error::file("read", subject, &error))
    };
    let mut text = read()?;
    let compiled = loop {
        let hash = content_hash(&text.bytes);
        let compiled =
            compile::graders(book, exercise, subject, &hash, status)?;
        let now = read()?;
        if now == text {
            break compiled;
        }
        text = now;
    };
    let hash = content_hash(&text.bytes);
    let mut grade = match compiled {
        Compiled::Not { rendered } => {
            Grade::of_errors(exercise, hash, rendered)
        }
        Compiled::Ready(mut graders) => {
            graders.program = program.map(str::to_owned);
            status.show(&format!("grading {}", exercise.id()));
            let properties = properties::run_all(book, exercise, &graders)?;
            let is_program = program.is_some();
            Grade::of_properties(exercise, hash, is_program, properties)?
        }
    };
    grade.seconds = start.elapsed().as_secs_f64();
    Ok(grade)
}

/// The content of a file, and when it was written. The time matters if the file
/// was changed and changed back: the compiler may have read the other text.
#[derive(PartialEq, Eq)]
struct Text {
    bytes: Vec<u8>,
    modified: Option<SystemTime>,
}

impl Text {
    fn read(file: &Path) -> io::Result<Self> {
        let modified = fs::metadata(file)?.modified().ok();
        Ok(Self { bytes: fs::read(file)?, modified })
    }
}

/// Returns the FNV hash of `text` in hex. It is the same on every machine and in
/// every release.
pub(crate) fn content_hash(text: &[u8]) -> String {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(text);
    format!("{:016x}", hasher.finish())
}

fn outcome(grade: &Grade) -> Outcome {
    let verdicts = || grade.properties().map(|property| property.verdict);
    if verdicts().any(|verdict| verdict == Verdict::Hangs) {
        Outcome::Hangs
    } else if verdicts().any(Verdict::fails) {
        Outcome::Wrong
    } else {
        Outcome::Passes
    }
}

/// Sorts the properties into the rungs of the exercise's toml.
fn sort_into_rungs(
    exercise: &Exercise,
    is_program: bool,
    properties: Vec<Property>,
) -> Result<Vec<Rung>, Error> {
    let empty =
        |name: &String| Rung { name: name.clone(), properties: Vec::new() };
    let rungs = exercise.spec.rungs_of(is_program);
    let mut rungs: Vec<_> = rungs.iter().map(empty).collect();
    for property in properties {
        let name = property.name.split("::").next().unwrap_or_default();
        let Some(rung) = rungs.iter_mut().find(|rung| rung.name == name) else {
            return Err(Error::new(format!(
                "{}: the test {} belongs to no rung",
                exercise.id(),
                property.name
            ))
            .fix("add its module to `rungs` in the exercise's toml"));
        };
        rung.properties.push(property);
    }
    match rungs.iter().find(|rung| rung.properties.is_empty()) {
        None => Ok(rungs),
        Some(rung) => Err(Error::new(format!(
            "{}: the rung `{}` has no test",
            exercise.id(),
            rung.name
        ))),
    }
}

/// Returns the foil that fails nearly the same tests, if one does.
fn like_foil(grade: &Grade, exercise: &Exercise) -> Option<LikeFoil> {
    let is_unfinished =
        |property: &Property| property.verdict == Verdict::NotYetWritten;
    // After a hang, tests are not run: what fails shows too little.
    let hangs = grade.outcome == Outcome::Hangs;
    if hangs || grade.properties().any(is_unfinished) {
        return None;
    }
    let is_run = |property: &&Property| {
        !matches!(property.verdict, Verdict::NotRun | Verdict::NotReached)
    };
    let run = grade.properties().filter(is_run).map(|it| &*it.name).collect();
    let failing = grade.failing();
    let (name, foil) = nearest(&exercise.spec.foils, &run, &failing)?;
    let is_of_foil = |test: &&str| foil.caught_by.iter().any(|it| it == test);
    let is_exact = run.iter().all(|it| failing.contains(it) == is_of_foil(it));
    Some(LikeFoil {
        is_exact,
        name: name.replace('_', " "),
        lesson: foil.lesson.clone(),
        tempts: foil.tempts.clone(),
    })
}

/// Returns the foil that fails exactly the tests `failing`; or else the foil whose
/// tests have the highest Jaccard index with `failing`, if it is at least two
/// thirds and no other foil has the same. Only tests in `run` count.
fn nearest<'a>(
    foils: &'a IndexMap<String, Foil>,
    run: &BTreeSet<&str>,
    failing: &BTreeSet<&str>,
) -> Option<(&'a String, &'a Foil)> {
    // If all tests fail, they do not show which mistake it is.
    if failing.is_empty() || failing == run {
        return None;
    }
    let index = |foil: &Foil| {
        let tests = foil.caught_by.iter().map(String::as_str);
        let tests: BTreeSet<_> = tests.filter(|it| run.contains(it)).collect();
        (&tests & failing).len() as f64 / (&tests | failing).len() as f64
    };
    let most = foils.values().map(index).fold(0.0, f64::max);
    let mut nearest = foils.iter().filter(|(_, foil)| index(foil) == most);
    let first = nearest.next();
    let is_only_one = nearest.next().is_none();
    first.filter(|_| most == 1.0 || most >= 2.0 / 3.0 && is_only_one)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the name of the nearest foil. Each foil is `NAME: TESTS`.
    fn nearest_name(
        foils: &[&str],
        run: &str,
        failing: &str,
    ) -> Option<String> {
        let foil = |foil: &&str| {
            let (name, tests) = foil.split_once(": ").unwrap();
            let foil = Foil {
                lesson: String::new(),
                tempts: String::new(),
                caught_by: tests.split(' ').map(str::to_owned).collect(),
                edits: Vec::new(),
            };
            (name.to_owned(), foil)
        };
        let foils = foils.iter().map(foil).collect();
        let (run, failing) = (run.split(' '), failing.split(' '));
        nearest(&foils, &run.collect(), &failing.collect())
            .map(|(name, _)| name.clone())
    }

    #[test]
    fn the_nearest_foil_shares_at_least_two_thirds_of_the_tests() {
        let foils = ["late: a b c", "lost: d e", "torn: a b c d"];
        assert_eq!(
            nearest_name(&foils, "a b c d e f", "a b c").unwrap(),
            "late"
        );
        // Exactly two thirds.
        assert_eq!(
            nearest_name(&foils, "a b c d e f", "d e f").unwrap(),
            "lost"
        );
        assert_eq!(nearest_name(&foils, "a b c d e f", "e f"), None);
        assert_eq!(nearest_name(&foils, "a b c d e f", "f"), None);
    }

    #[test]
    fn two_equally_near_foils_are_ambiguous() {
        let foils = ["late: a b c", "lost: a b d"];
        assert_eq!(nearest_name(&foils, "a b c d e", "a b"), None);
        assert_eq!(nearest_name(&foils, "a b c d e", "a b c").unwrap(), "late");
    }

    #[test]
    fn tests_that_are_not_run_do_not_count() {
        let foils = ["late: a b c d", "lost: e"];
        assert_eq!(nearest_name(&foils, "a e f", "a").unwrap(), "late");
    }

    #[test]
    fn a_subject_that_fails_every_test_has_no_nearest_foil() {
        assert_eq!(nearest_name(&["late: a b c"], "a b c", "a b c"), None);
        assert_eq!(nearest_name(&["late: a b c"], "a b", "a b"), None);
    }
}
