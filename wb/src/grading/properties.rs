//! The properties of an exercise: the tests of its grader and models, each run
//! in a process of its own.

use std::collections::BTreeSet;
use std::fs;
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use lab::servers::{self, Program};
use serde::{Deserialize, Serialize};
use workbook::{Exercise, Workbook};

use crate::error::Error;
use crate::grading::compile::Graders;
use crate::grading::run::{self, Run, Test, Verdict};

/// The outcome of one test.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Property {
    /// `rows::an_empty_list_is_not_an_error`.
    pub(crate) name: String,
    /// `an empty list is not an error`.
    pub(crate) sentence: String,
    pub(crate) verdict: Verdict,
    pub(crate) message: String,
    /// Where the test panicked: `file:line`.
    pub(crate) at: Option<String>,
    /// The server that the test needs.
    pub(crate) needs: Option<String>,
    /// The output of the attempt.
    pub(crate) printed: String,
    pub(crate) seconds: f64,
}

/// After this many tests that hang, no further test is started: each one could
/// take another deadline.
const MAX_HANGS: usize = 2;

/// One test of an exercise. The list is the same for every subject.
#[derive(Debug)]
pub(crate) struct Listed {
    /// Whether the test is a model, which is in a binary of its own.
    is_model: bool,
    /// The name in the exercise's toml: `rung::test`.
    name: String,
    test: Test,
}

/// Runs the tests of a subject or of a program, as many at a time as there are
/// cores.
pub(crate) fn run_all(
    book: &Workbook,
    exercise: &Exercise,
    graders: &Graders,
) -> Result<Vec<Property>, Error> {
    let tests = list(book, exercise, graders)?;
    let deadline = Duration::from_secs(exercise.spec.deadline_s);
    run_listed(book, graders, &tests, cores(), deadline)
}

pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Returns the tests of `exercise` that run for a subject, or for the program of
/// `graders`, in source order. Prepares the servers that they need.
pub(crate) fn list(
    book: &Workbook,
    exercise: &Exercise,
    graders: &Graders,
) -> Result<Vec<Listed>, Error> {
    let is_program = graders.program.is_some();
    let program_rung = exercise.spec.program_rung.as_ref();
    let (module, rung) = match program_rung.filter(|_| is_program) {
        Some(rung) => {
            (format!("{}_{rung}", exercise.name), format!("{rung}::"))
        }
        None => (exercise.name.clone(), String::new()),
    };
    let grader = exercise.in_week("tests/grade").join(&module);
    let grader = grader.with_extension("rs");
    let source = fs::read_to_string(&grader).unwrap_or_default();
    let prefix = format!("{module}::");
    let module = graders.module.as_deref();
    let listed = run::list(&graders.tests, module)?;
    let mut tests = sorted(listed, false, &prefix, &rung, &source);
    let binary = graders.models.as_ref().filter(|_| rung.is_empty());
    if let (Some(binary), Some(models)) = (binary, exercise.models()) {
        let source = fs::read_to_string(models).unwrap_or_default();
        let prefix = format!("models::{}::", exercise.name);
        let rung = "models::";
        let listed = run::list(binary, module)?;
        tests.extend(sorted(listed, true, &prefix, rung, &source));
    }
    if tests.is_empty() {
        let grader = book.short(&grader);
        return Err(Error::new(format!("{grader} has no tests")));
    }
    prepare_servers(&tests);
    Ok(tests)
}

/// Runs `tests`, `workers` of them at a time. Returns the properties in the order
/// of `tests`.
pub(crate) fn run_listed(
    book: &Workbook,
    graders: &Graders,
    tests: &[Listed],
    workers: usize,
    deadline: Duration,
) -> Result<Vec<Property>, Error> {
    let next = AtomicUsize::new(0);
    let hangs = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let work = || {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some(Listed { is_model, test, .. }) = tests.get(n) else {
                break;
            };
            let binary = match &graders.models {
                Some(models) if *is_model => models,
                _ => &graders.tests,
            };
            let run = if hangs.load(Ordering::Relaxed) < MAX_HANGS {
                let module = graders.module.as_deref();
                let program = graders.program.as_deref();
                run::run(binary, module, test, deadline, program)
            } else {
                Ok(Run::not_started(Verdict::NotReached))
            };
            if run.as_ref().is_ok_and(|run| run.verdict == Verdict::Hangs) {
                hangs.fetch_add(1, Ordering::Relaxed);
            }
            done.lock().expect("no thread panics with it").push((n, run));
        }
    };
    thread::scope(|scope| {
        (0..workers).for_each(|_| drop(scope.spawn(work)));
    });

    let root = format!("{}/", book.root.display());
    let mut runs = done.into_inner().expect("no thread panics with it");
    runs.sort_unstable_by_key(|(n, _)| *n);
    let property = |(n, run): (usize, Result<Run, Error>)| {
        let Listed { name, test, .. } = &tests[n];
        run.map(|run| Property {
            sentence: sentence(name),
            name: name.clone(),
            verdict: run.verdict,
            message: run.message.replace(&root, ""),
            at: run.at.map(|at| at.replace(&root, "")),
            needs: test.needs.clone(),
            printed: run.printed,
            seconds: run.took.as_secs_f64(),
        })
    };
    runs.into_iter().map(property).collect()
}

/// Prepares the servers of `tests`, which may take longer than the deadline of a
/// test. If it fails, the tests fail with the same error.
fn prepare_servers(tests: &[Listed]) {
    let needs = tests.iter().filter_map(|listed| listed.test.needs.as_deref());
    let needs: BTreeSet<_> =
        needs.filter(|server| run::is_installed(server)).collect();
    for program in needs.into_iter().filter_map(Program::named) {
        if let Err(error) = servers::prepare(program) {
            eprintln!("cannot prepare {}: {error}", program.name);
        }
    }
}

/// Returns those of `tests` whose names begin with `prefix`, in the order of
/// `source`. `rung` replaces the prefix.
fn sorted(
    tests: Vec<Test>,
    is_model: bool,
    prefix: &str,
    rung: &str,
    source: &str,
) -> Vec<Listed> {
    let mut found: Vec<_> = tests
        .into_iter()
        .filter_map(|test| {
            let name = format!("{rung}{}", test.name.strip_prefix(prefix)?);
            let (module, title) =
                test.name.rsplit_once("::").unwrap_or(("", &test.name));
            let module = module.rsplit("::").next().unwrap_or_default();
            // Two rungs may have tests of the same name.
            let from = source.find(&format!("mod {module} {{")).unwrap_or(0);
            let at = source[from..].find(&format!("fn {title}("));
            Some((at, Listed { is_model, name, test }))
        })
        .collect();
    // A test that a macro generates is not found in the source, and comes first.
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, listed)| listed).collect()
}

/// Turns `rows::a_task_s_error` into `a task's error`.
fn sentence(name: &str) -> String {
    let name = name.rsplit("::").next().unwrap_or(name).replace('_', " ");
    name.replace(" s ", "'s ")
}
