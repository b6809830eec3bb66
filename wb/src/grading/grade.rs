//! Grades one subject: compiles it, runs all tests, and sorts them into rungs.

use std::collections::{BTreeSet, HashSet};
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
    /// The foil that is probably the mistake.
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
    /// `source` is the source text of a subject that may be like a foil.
    pub(crate) fn of_properties(
        exercise: &Exercise,
        text: String,
        is_program: bool,
        source: Option<&str>,
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
        grade.like_foil =
            source.and_then(|source| like_foil(&grade, exercise, source));
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
    let is_program = program.is_some();
    let compiled = loop {
        let hash = content_hash(&text.bytes);
        let compiled = compile::graders(
            book, exercise, subject, &hash, is_program, status,
        )?;
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
            let source = str::from_utf8(&text.bytes).ok();
            // The source text of a program is not known.
            let source = source.filter(|_| !is_program);
            Grade::of_properties(
                exercise, hash, is_program, source, properties,
            )?
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

/// Returns the foil that is the mistake of the subject, as far as the failing
/// tests and the text of the subject tell.
fn like_foil(
    grade: &Grade,
    exercise: &Exercise,
    subject: &str,
) -> Option<LikeFoil> {
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
    let (name, foil) = with_tests(&exercise.spec.foils, &run, &failing)?;
    let answer = fs::read_to_string(exercise.answer()).ok()?;
    let text = exercise.foil_text(name, foil).ok()?;
    is_like(subject, &text, &answer, failing.len()).then(|| LikeFoil {
        name: name.replace('_', " "),
        lesson: foil.lesson.clone(),
        tempts: foil.tempts.clone(),
    })
}

/// Returns the foil that may fail exactly the tests `failing`. Only tests in `run`
/// count.
fn with_tests<'a>(
    foils: &'a IndexMap<String, Foil>,
    run: &BTreeSet<&str>,
    failing: &BTreeSet<&str>,
) -> Option<(&'a String, &'a Foil)> {
    // If all tests fail, they do not show which mistake it is.
    if failing.is_empty() || failing == run {
        return None;
    }
    foils.iter().find(|(_, foil)| {
        let named = |tests: &'a [String]| -> BTreeSet<&str> {
            let tests = tests.iter().map(String::as_str);
            tests.filter(|it| run.contains(it)).collect()
        };
        let always = named(&foil.caught_by);
        let sometimes = named(&foil.sometimes_caught_by);
        always.is_subset(failing)
            && failing
                .iter()
                .all(|it| always.contains(it) || sometimes.contains(it))
    })
}

/// Returns whether the text of the subject agrees with a foil that fails the same
/// tests: it has all that the foil adds to the answer, or nothing that the foil
/// removes. If only one test fails, both are required, because many different
/// mistakes fail the same test.
fn is_like(subject: &str, foil: &str, answer: &str, failing: usize) -> bool {
    let [subject, foil, answer] = [subject, foil, answer].map(fragments);
    let mut added = foil.difference(&answer);
    let mut removed = answer.difference(&foil).peekable();
    let removes_any = removed.peek().is_some();
    let has_added = added.all(|it| subject.contains(it));
    let lacks_removed = !removed.any(|it| subject.contains(it));
    if failing == 1 {
        has_added && lacks_removed
    } else {
        has_added || removes_any && lacks_removed
    }
}

/// Returns all sequences of four tokens, without comments.
fn fragments(source: &str) -> HashSet<Vec<&str>> {
    let code = source.lines().map(|line| line.split("//").next().unwrap_or(""));
    let tokens: Vec<_> = code.flat_map(tokens).collect();
    tokens.windows(4).map(<[_]>::to_vec).collect()
}

/// Returns the words and the punctuation characters of a line.
fn tokens(line: &str) -> impl Iterator<Item = &str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = line;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let first = rest.chars().next()?;
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (token, after) = rest.split_at(end.max(if is_word(first) {
            1
        } else {
            first.len_utf8()
        }));
        rest = after;
        Some(token)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the name of the foil with these tests. Each foil is `NAME: TESTS`,
    /// and a test that it fails sometimes has a question mark.
    fn name_with_tests(
        foils: &[&str],
        run: &str,
        failing: &str,
    ) -> Option<String> {
        let foil = |foil: &&str| {
            let (name, tests) = foil.split_once(": ").unwrap();
            let (sometimes, always): (Vec<_>, Vec<_>) =
                tests.split(' ').partition(|test| test.ends_with('?'));
            let sometimes = sometimes.iter().map(|it| it.replace('?', ""));
            let foil = Foil {
                lesson: String::new(),
                tempts: String::new(),
                caught_by: always.into_iter().map(str::to_owned).collect(),
                sometimes_caught_by: sometimes.collect(),
                edits: Vec::new(),
            };
            (name.to_owned(), foil)
        };
        let foils = foils.iter().map(foil).collect();
        let (run, failing) = (run.split(' '), failing.split(' '));
        with_tests(&foils, &run.collect(), &failing.collect())
            .map(|(name, _)| name.clone())
    }

    #[test]
    fn a_foil_that_fails_more_or_fewer_tests_is_another_mistake() {
        let foils = ["late: a b c", "lost: d e"];
        let named = |failing| name_with_tests(&foils, "a b c d e f", failing);
        assert_eq!(named("a b c").unwrap(), "late");
        assert_eq!(named("d e").unwrap(), "lost");
        assert_eq!(named("d"), None);
        assert_eq!(named("d e f"), None);
    }

    #[test]
    fn a_test_that_a_foil_fails_sometimes_may_pass_or_fail() {
        let named =
            |failing| name_with_tests(&["races: a b?"], "a b c", failing);
        assert_eq!(named("a").unwrap(), "races");
        assert_eq!(named("a b").unwrap(), "races");
        assert_eq!(named("b"), None);
        assert_eq!(named("a c"), None);
    }

    #[test]
    fn tests_that_are_not_run_do_not_count() {
        let foils = ["late: a b", "lost: e"];
        assert_eq!(name_with_tests(&foils, "a e f", "a").unwrap(), "late");
    }

    #[test]
    fn a_subject_that_fails_every_test_is_like_no_foil() {
        assert_eq!(name_with_tests(&["late: a b c"], "a b c", "a b c"), None);
        assert_eq!(name_with_tests(&["late: a b c"], "a b", "a b"), None);
    }

    #[test]
    fn a_text_is_like_a_foil_that_makes_the_same_change() {
        let answer = "fn f() { a(); let n = b(1).min(9); n }";
        let foil = "fn f() { a(); let n = b(1); n }";
        let is_like =
            |subject, failing| is_like(subject, foil, answer, failing);
        // The same change in other code.
        let same = "fn g() {}\nfn f() { let n = b(1); // .min(9)\n n }";
        assert!(is_like(same, 1) && is_like(same, 2));
        // Only what the foil removes is missing.
        let missing = "fn f() { a(); c() }";
        assert!(!is_like(missing, 1) && is_like(missing, 2));
        // The mistake is elsewhere.
        let other = "fn f() { let n = b(1).min(9); n + 1 }";
        assert!(!is_like(other, 1) && !is_like(other, 2));
    }

    #[test]
    fn tokens_are_words_and_punctuation() {
        let all: Vec<_> = tokens(" a_1+=b(\u{e9}); →").collect();
        assert_eq!(all, ["a_1", "+", "=", "b", "(", "\u{e9}", ")", ";", "→"]);
    }
}
