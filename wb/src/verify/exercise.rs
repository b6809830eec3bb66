//! One exercise: all its files are there, and each subject fares as it should.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::ProgressBar;
use lab::servers::Program;
use workbook::spec::Foil;
use workbook::{Exercise, Workbook};

use super::Findings;
use crate::error::Error;
use crate::grading::grade::{self, Grade, Outcome};
use crate::grading::run::Verdict;
use crate::terminal::report;
use crate::terminal::status::Status;
use crate::terminal::style;

/// Fewer foils prove little about a grader.
const FOILS: usize = 3;

/// A line of the table.
#[derive(Debug)]
pub(super) struct Row {
    id: String,
    tests: usize,
    not_run: usize,
    /// How many fare as they should, of how many.
    variants: (usize, usize),
    foils: (usize, usize),
    answer: bool,
    stub: bool,
    seconds: f64,
}

/// How many subjects an exercise has.
pub(super) fn subjects(exercise: &Exercise) -> usize {
    2 + exercise.variants().len() + exercise.spec.foils.len()
}

pub(super) fn verify(
    book: &Workbook,
    exercise: &Exercise,
    bar: &ProgressBar,
    found: &mut Findings,
) -> Result<(), Error> {
    let start = Instant::now();
    for fault in files(book, exercise) {
        found.fault(bar, format!("{}: {fault}", exercise.id()));
    }
    let mut check = Check { book, exercise, bar, found: &mut *found };
    let answer = check.passes("answer", &exercise.answer())?;
    let stub = check.stub()?;
    let variants = exercise.variants();
    let mut good_variants = 0;
    for variant in &variants {
        let name = variant.file_stem().unwrap_or_default().to_string_lossy();
        let passes = check.passes(&format!("variant {name}"), variant)?;
        good_variants += usize::from(passes.is_some());
    }
    let mut good_foils = 0;
    for (name, foil) in &exercise.spec.foils {
        good_foils += usize::from(check.foil(name, foil)?);
    }
    let properties = || answer.iter().flat_map(Grade::properties);
    for need in properties().filter_map(|p| p.needs.as_deref()) {
        if Program::named(need).is_none() {
            let id = exercise.id();
            let fault = format!(
                "{id}: a test needs `{need}`, which `lab::servers` does not know"
            );
            found.fault(bar, fault);
        }
    }
    let row = Row {
        id: exercise.id(),
        tests: properties().count(),
        not_run: properties().filter(|p| p.verdict == Verdict::NotRun).count(),
        variants: (good_variants, variants.len()),
        foils: (good_foils, exercise.spec.foils.len()),
        answer: answer.is_some(),
        stub,
        seconds: start.elapsed().as_secs_f64(),
    };
    found.table.push(row);
    Ok(())
}

/// What is missing or malformed, without compiling anything.
fn files(book: &Workbook, exercise: &Exercise) -> Vec<String> {
    let spec = &exercise.spec;
    let mut faults = Vec::new();
    let needed = [
        exercise.answer(),
        exercise.stub(),
        exercise.grader(),
        exercise.example(),
        exercise.notes(),
    ];
    for file in needed.iter().filter(|file| !file.exists()) {
        faults.push(format!("there is no {}", book.short(file)));
    }
    let summary = book.root.join("notes/pages/SUMMARY.md");
    let page = format!("({}/{}.md)", exercise.week, exercise.name);
    if !fs::read_to_string(summary).is_ok_and(|text| text.contains(&page)) {
        faults.push(format!("notes/pages/SUMMARY.md has no link {page}"));
    }
    let contents = exercise.in_week("src/lib.rs");
    let line = format!("[`{}`]", exercise.name);
    if !fs::read_to_string(&contents).is_ok_and(|text| text.contains(&line)) {
        faults.push(format!("{} has no {line}", book.short(&contents)));
    }
    let page = format!("(notes/pages/{}/{}.md)", exercise.week, exercise.name);
    let readme = fs::read_to_string(book.root.join("README.md"));
    if !readme.is_ok_and(|text| text.contains(&page)) {
        faults.push(format!("README.md has no link {page}"));
    }
    if exercise.variants().is_empty() {
        faults.push("no variant: what else must the grader accept?".into());
    }
    if spec.foils.len() < FOILS {
        let foils = spec.foils.len();
        faults.push(format!("{foils} foils, and {FOILS} is the least"));
    }
    let texts = [&spec.title, &spec.question.en, &spec.question.zh];
    let foils = spec.foils.values();
    let texts = texts.into_iter().chain(&spec.hints);
    let texts =
        texts.chain(foils.flat_map(|foil| [&foil.lesson, &foil.tempts]));
    if texts.into_iter().any(|text| text.trim().is_empty()) {
        faults.push("the toml has an empty text".into());
    }
    if style::columns(&spec.title) > 36 {
        faults.push("the title has more than 36 columns".into());
    }
    let mut seen = BTreeMap::new();
    for (name, foil) in &spec.foils {
        let mut tests = foil.caught_by.clone();
        tests.sort_unstable();
        if let Some(other) = seen.insert(tests, name) {
            faults
                .push(format!("foil {name} breaks the same tests as {other}"));
        }
    }
    faults
}

struct Check<'a> {
    book: &'a Workbook,
    exercise: &'a Exercise,
    bar: &'a ProgressBar,
    found: &'a mut Findings,
}

impl Check<'_> {
    /// The grade of a subject that should pass, if it does.
    fn passes(
        &mut self,
        what: &str,
        subject: &Path,
    ) -> Result<Option<Grade>, Error> {
        let grade = self.grade(what, subject)?;
        if grade.outcome == Outcome::Passes {
            return Ok(Some(grade));
        }
        let report = report::report(&grade, self.exercise);
        self.fault(what, &format!("does not pass\n{report}"));
        Ok(None)
    }

    /// Whether the stub compiles and fails in every test.
    fn stub(&mut self) -> Result<bool, Error> {
        let grade = self.grade("stub", &self.exercise.stub())?;
        if let Some(compiler) = &grade.compiler {
            self.fault("stub", &format!("does not compile\n{compiler}"));
            return Ok(false);
        }
        if grade.outcome == Outcome::Hangs {
            self.fault("stub", "hangs");
            return Ok(false);
        }
        let kept: Vec<_> = grade
            .properties()
            .filter(|p| p.verdict == Verdict::Holds)
            .map(|p| &*p.name)
            .collect();
        if !kept.is_empty() {
            let kept = kept.join(", ");
            self.fault("stub", &format!("passes without any work: {kept}"));
        }
        Ok(kept.is_empty())
    }

    /// Whether the foil breaks exactly the tests that it names.
    fn foil(&mut self, name: &str, foil: &Foil) -> Result<bool, Error> {
        let what = format!("foil {name}");
        let subject = match write_foil(self.book, self.exercise, name, foil) {
            Ok(subject) => subject,
            Err(error) => {
                self.bar.inc(1);
                self.fault(&what, &error.to_string());
                return Ok(false);
            }
        };
        let grade = self.grade(&what, &subject)?;
        if let Some(compiler) = &grade.compiler {
            self.fault(&what, &format!("does not compile\n{compiler}"));
            return Ok(false);
        }
        if grade.outcome == Outcome::Hangs {
            let report = report::report(&grade, self.exercise);
            self.fault(&what, &format!("hangs\n{report}"));
            return Ok(false);
        }
        let failing = grade.failing();
        let is_run = |test: &&str| {
            !grade.properties().any(|property| {
                property.name == **test && property.verdict == Verdict::NotRun
            })
        };
        let named = foil.caught_by.iter().map(String::as_str);
        let named = named.filter(is_run).collect();
        if failing == named {
            return Ok(true);
        }
        let list = |tests: Vec<&&str>| -> String {
            tests.iter().map(|test| format!("\n    {test}")).collect()
        };
        let mut why = String::new();
        let more: Vec<_> = failing.difference(&named).collect();
        if !more.is_empty() {
            let _ = write!(why, "\n  breaks as well:{}", list(more));
        }
        let fewer: Vec<_> = named.difference(&failing).collect();
        if !fewer.is_empty() {
            let _ = write!(why, "\n  does not break:{}", list(fewer));
        }
        self.fault(&what, &format!("is not caught as it says{why}"));
        Ok(false)
    }

    fn grade(&mut self, what: &str, subject: &Path) -> Result<Grade, Error> {
        self.bar.set_message(format!("{} {what}", self.exercise.id()));
        // A bar of its own: the compiler's messages would hide this one's.
        let grade =
            grade::grade(self.book, self.exercise, subject, &Status::Silent)?;
        self.bar.inc(1);
        Ok(grade)
    }

    fn fault(&mut self, what: &str, why: &str) {
        let fault = format!("{} {what}: {why}", self.exercise.id());
        self.found.fault(self.bar, fault);
    }
}

/// Writes the foil where it can be graded, and returns its file.
fn write_foil(
    book: &Workbook,
    exercise: &Exercise,
    name: &str,
    foil: &Foil,
) -> Result<PathBuf, Error> {
    if foil.edits.is_empty() {
        exercise.foil_text(name, foil)?;
        return Ok(exercise.foil_file(name));
    }
    let text = exercise.foil_text(name, foil)?;
    let folder = book.scratch().join("foils").join(exercise.id());
    let file = folder.join(name).with_extension("rs");
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&file, text))
        .map_err(|error| Error::file("write", &file, &error))?;
    Ok(file)
}

pub(super) fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.id.len()).max().unwrap_or(0);
    let mut text = format!(
        "\n{:width$}  tests  answer  variants  stub   foils    time\n",
        "exercise"
    );
    let mark = |is_good| if is_good { "passes" } else { "FAILS" };
    let part = |(good, all): (usize, usize)| format!("{good} of {all}");
    for row in rows {
        let stub = if row.stub { "fails" } else { "PASSES" };
        let _ = write!(
            text,
            "{:width$}  {:5}  {:6}  {:8}  {stub:6} {:7}  {:4.1} s",
            row.id,
            row.tests,
            mark(row.answer),
            part(row.variants),
            part(row.foils),
            row.seconds,
        );
        if row.not_run > 0 {
            let _ = write!(text, "  ({} not run)", row.not_run);
        }
        text.push('\n');
    }
    text
}
