//! Checks one exercise: its files exist, and each subject gets the expected grade.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use lab::servers::Program;
use workbook::spec::Foil;
use workbook::{Exercise, Workbook};

use crate::error::Error;
use crate::grading::grade::{Grade, Outcome};
use crate::grading::run::Verdict;
use crate::terminal::report;
use crate::terminal::style;

/// The least number of foils: fewer would prove little about a grader.
const FOILS: usize = 3;

/// A row of the table.
#[derive(Debug, Default)]
pub(super) struct Row {
    id: String,
    tests: usize,
    not_run: usize,
    /// How many variants get the expected grade, and how many there are.
    variants: (usize, usize),
    /// How many foils get the expected grade, and how many there are.
    foils: (usize, usize),
    answer: bool,
    stub: bool,
    /// From the start of the build to the last grade.
    seconds: f64,
}

/// The kind of a subject, which determines the expected grade.
#[derive(Debug)]
enum Kind<'a> {
    Answer,
    Stub,
    Variant,
    Foil(&'a Foil),
}

/// A file to grade.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    kind: Kind<'a>,
    /// The name in messages, such as `variant loop_over_tries`.
    pub(super) title: String,
    pub(super) file: PathBuf,
}

/// The state of the verification of one exercise.
#[derive(Debug)]
pub(super) struct Check<'a> {
    pub(super) exercise: &'a Exercise,
    pub(super) subjects: Vec<Subject<'a>>,
    start: Option<Instant>,
    row: Row,
}

impl<'a> Check<'a> {
    /// Writes the foils, and returns the faults that need no build.
    pub(super) fn new(
        book: &Workbook,
        exercise: &'a Exercise,
    ) -> (Self, Vec<String>) {
        let mut faults = files(book, exercise);
        let mut subjects = vec![
            Subject {
                kind: Kind::Answer,
                title: "answer".to_owned(),
                file: exercise.answer(),
            },
            Subject {
                kind: Kind::Stub,
                title: "stub".to_owned(),
                file: exercise.stub(),
            },
        ];
        for file in exercise.variants() {
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            let title = format!("variant {name}");
            subjects.push(Subject { kind: Kind::Variant, title, file });
        }
        let variants = subjects.len() - 2;
        for (name, foil) in &exercise.spec.foils {
            let (kind, title) = (Kind::Foil(foil), format!("foil {name}"));
            match write_foil(book, exercise, name, foil) {
                Ok(file) => subjects.push(Subject { kind, title, file }),
                Err(error) => faults.push(format!("{title}: {error}")),
            }
        }
        // A missing file is a fault already. The others are graded.
        subjects.retain(|subject| subject.file.exists());
        let row = Row {
            id: exercise.id(),
            variants: (0, variants),
            foils: (0, exercise.spec.foils.len()),
            ..Row::default()
        };
        let check = Self { exercise, subjects, start: None, row };
        (check, faults)
    }

    /// Called when the build of the subjects begins.
    pub(super) fn start(&mut self, now: Instant) {
        self.start = Some(now);
    }

    /// Takes the grade of the subject at `position`, and returns the faults.
    pub(super) fn take(
        &mut self,
        position: usize,
        grade: &Grade,
    ) -> Vec<String> {
        let subject = &self.subjects[position];
        let title = &subject.title;
        let mut faults = Vec::new();
        let fault = match subject.kind {
            Kind::Answer => {
                self.row.tests = grade.properties().count();
                let is_skipped = |verdict| verdict == Verdict::NotRun;
                let verdicts = grade.properties().map(|it| it.verdict);
                self.row.not_run =
                    verdicts.filter(|it| is_skipped(*it)).count();
                faults.extend(unknown_servers(grade));
                let fault = not_passing(grade, self.exercise);
                self.row.answer = fault.is_none();
                fault
            }
            Kind::Stub => {
                let fault = not_failing(grade);
                self.row.stub = fault.is_none();
                fault
            }
            Kind::Variant => {
                let fault = not_passing(grade, self.exercise);
                self.row.variants.0 += usize::from(fault.is_none());
                fault
            }
            Kind::Foil(foil) => {
                let fault = not_caught(grade, foil, self.exercise);
                self.row.foils.0 += usize::from(fault.is_none());
                fault
            }
        };
        faults.extend(fault.map(|fault| format!("{title}: {fault}")));
        let since = self.start.map(|start| start.elapsed());
        self.row.seconds = since.unwrap_or_default().as_secs_f64();
        faults
    }

    pub(super) fn row(self) -> Row {
        self.row
    }
}

/// Returns the fault of a subject that should pass and does not.
fn not_passing(grade: &Grade, exercise: &Exercise) -> Option<String> {
    if grade.outcome == Outcome::Passes {
        return None;
    }
    Some(format!("does not pass\n{}", report::report(grade, exercise)))
}

/// Returns the fault of a subject that should fail every test and does not.
fn not_failing(grade: &Grade) -> Option<String> {
    if let Some(compiler) = &grade.compiler {
        return Some(format!("does not compile\n{compiler}"));
    }
    if grade.outcome == Outcome::Hangs {
        return Some("hangs".to_owned());
    }
    let passing: Vec<_> = grade
        .properties()
        .filter(|property| property.verdict == Verdict::Holds)
        .map(|property| &*property.name)
        .collect();
    let passing = passing.join(", ");
    (!passing.is_empty())
        .then(|| format!("passes tests without any work: {passing}"))
}

/// Returns the fault of a foil that fails other tests than those that it names.
fn not_caught<'a>(
    grade: &'a Grade,
    foil: &'a Foil,
    exercise: &Exercise,
) -> Option<String> {
    if let Some(compiler) = &grade.compiler {
        return Some(format!("does not compile\n{compiler}"));
    }
    if grade.outcome == Outcome::Hangs {
        let report = report::report(grade, exercise);
        return Some(format!("hangs\n{report}"));
    }
    let failing = grade.failing();
    let tests: BTreeSet<_> = grade.properties().map(|it| &*it.name).collect();
    let not_run: BTreeSet<_> = grade
        .properties()
        .filter(|it| it.verdict == Verdict::NotRun)
        .map(|it| &*it.name)
        .collect();
    let names = |tests: &'a [String]| -> BTreeSet<&'a str> {
        tests.iter().map(String::as_str).collect()
    };
    let always = names(&foil.caught_by);
    let sometimes = names(&foil.sometimes_caught_by);
    let any = &always | &sometimes;
    let mut why = String::new();
    for (what, tests) in [
        ("fails, but is not named", &failing - &any),
        ("is named, but passes", &(&always - &failing) - &not_run),
        ("is named, but does not exist", &sometimes - &tests),
        ("is named twice", &always & &sometimes),
    ] {
        if !tests.is_empty() {
            let tests = Vec::from_iter(tests).join("\n    ");
            let _ = write!(why, "\n  {what}:\n    {tests}");
        }
    }
    (!why.is_empty())
        .then(|| format!("does not fail the tests in caught_by{why}"))
}

fn unknown_servers(grade: &Grade) -> impl Iterator<Item = String> {
    let needs = grade.properties().filter_map(|it| it.needs.as_deref());
    let unknown = needs.filter(|need| Program::named(need).is_none());
    unknown.map(|need| {
        format!("a test needs `{need}`, which is not in `lab::servers`")
    })
}

/// Returns what is missing or malformed, without a build.
fn files(book: &Workbook, exercise: &Exercise) -> Vec<String> {
    let spec = &exercise.spec;
    let mut faults = Vec::new();
    let mut needed = vec![
        exercise.answer(),
        exercise.stub(),
        exercise.grader(),
        exercise.example(),
        exercise.notes(),
    ];
    needed.extend(exercise.program_module().map(|name| {
        exercise.in_week("tests/grade").join(name).with_extension("rs")
    }));
    for file in needed.iter().filter(|file| !file.exists()) {
        faults.push(format!("the file {} does not exist", book.short(file)));
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
        faults
            .push("no variant: the exercise needs another right answer".into());
    }
    if spec.foils.len() < FOILS {
        let foils = spec.foils.len();
        faults.push(format!("{foils} foils, but {FOILS} are required"));
    }
    let texts = [&spec.title, &spec.question.en, &spec.question.zh];
    let foils = spec.foils.values();
    let texts = texts.into_iter().chain(&spec.hints);
    let texts =
        texts.chain(foils.flat_map(|foil| [&foil.lesson, &foil.tempts]));
    if texts.into_iter().any(|text| text.trim().is_empty()) {
        faults.push("a text in the toml is empty".into());
    }
    if style::columns(&spec.title) > 36 {
        faults.push("the title has more than 36 columns".into());
    }
    let mut seen = BTreeMap::new();
    for (name, foil) in &spec.foils {
        let mut tests = foil.caught_by.clone();
        tests.sort_unstable();
        if let Some(other) = seen.insert(tests, name) {
            faults.push(format!("foil {name} fails the same tests as {other}"));
        }
    }
    faults
}

/// Writes the file of a foil that has edits. Returns the file of the foil.
fn write_foil(
    book: &Workbook,
    exercise: &Exercise,
    name: &str,
    foil: &Foil,
) -> Result<PathBuf, Error> {
    let text = exercise.foil_text(name, foil)?;
    if foil.edits.is_empty() {
        return Ok(exercise.foil_file(name));
    }
    let folder = book.scratch().join("foils").join(exercise.id());
    let file = folder.join(name).with_extension("rs");
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&file, text))
        .map_err(|error| Error::file("write", &file, &error))?;
    Ok(file)
}

/// Returns the table of all exercises.
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
