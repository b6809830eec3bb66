//! The properties of an exercise: the tests of its grader and models, each run
//! in a process of its own.

use std::collections::BTreeSet;
use std::fs;
use std::num::NonZero;
use std::path::Path;
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

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Property {
    /// `rows::an_empty_list_is_no_error`.
    pub(crate) name: String,
    /// `an empty list is no error`.
    pub(crate) sentence: String,
    pub(crate) verdict: Verdict,
    pub(crate) message: String,
    /// Where it broke: `file:line`.
    pub(crate) at: Option<String>,
    /// The server it needs.
    pub(crate) needs: Option<String>,
    /// What the attempt itself printed.
    pub(crate) printed: String,
    pub(crate) seconds: f64,
}

/// How many tests may hang. The tests after them are not run: each would take
/// another deadline.
const HANGS: usize = 2;

/// One test of an exercise. It is the same for every subject.
#[derive(Debug)]
pub(crate) struct Listed {
    /// Whether the test is a model, which is in a binary of its own.
    is_model: bool,
    /// As the exercise's toml names it.
    name: String,
    test: Test,
}

/// Runs all properties, as many at a time as there are cores.
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

/// Returns the tests of `exercise` in the order of the source, and prepares the
/// servers that they need.
pub(crate) fn list(
    book: &Workbook,
    exercise: &Exercise,
    graders: &Graders,
) -> Result<Vec<Listed>, Error> {
    let source = fs::read_to_string(exercise.grader()).unwrap_or_default();
    let prefix = format!("{}::", exercise.name);
    let mut tests = list_binary(&graders.tests, false, &prefix, &source)?;
    if let (Some(binary), Some(models)) = (&graders.models, exercise.models()) {
        let source = fs::read_to_string(models).unwrap_or_default();
        let prefix = format!("models::{}::", exercise.name);
        tests.extend(list_binary(binary, true, &prefix, &source)?);
    }
    if tests.is_empty() {
        return Err(Error::new(format!(
            "{} has no tests",
            book.short(&exercise.grader())
        )));
    }
    prepare_servers(&tests);
    Ok(tests)
}

/// Runs `tests` with `workers` at a time, and returns the properties in the same
/// order.
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
            let run = if hangs.load(Ordering::Relaxed) < HANGS {
                run::run(binary, test, deadline, graders.program.as_deref())
            } else {
                Ok(Run::without(Verdict::NotReached))
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

/// Makes what the servers need to start at all, which may take longer than the
/// deadline of a test. Where it fails, the tests will report the same.
fn prepare_servers(tests: &[Listed]) {
    let needs = tests.iter().filter_map(|listed| listed.test.needs.as_deref());
    let needs: BTreeSet<_> = needs.filter(|server| run::has(server)).collect();
    for program in needs.into_iter().filter_map(Program::named) {
        if let Err(error) = servers::prepare(program) {
            eprintln!("cannot prepare {}: {error}", program.name);
        }
    }
}

/// Returns the tests of `binary` whose names begin with `prefix`.
fn list_binary(
    binary: &Path,
    is_model: bool,
    prefix: &str,
    source: &str,
) -> Result<Vec<Listed>, Error> {
    let rung = if is_model { "models::" } else { "" };
    let mut found: Vec<_> = run::list(binary)?
        .into_iter()
        .filter_map(|test| {
            let name = format!("{rung}{}", test.name.strip_prefix(prefix)?);
            let (module, title) =
                test.name.rsplit_once("::").unwrap_or(("", &test.name));
            let module = module.rsplit("::").next().unwrap_or_default();
            // Two rungs may have a test of the same name.
            let from = source.find(&format!("mod {module} {{")).unwrap_or(0);
            let at = source[from..].find(&format!("fn {title}("));
            Some((at, Listed { is_model, name, test }))
        })
        .collect();
    // A test that a macro makes has no line of its own, and comes first.
    found.sort_by_key(|(at, _)| *at);
    Ok(found.into_iter().map(|(_, listed)| listed).collect())
}

fn sentence(name: &str) -> String {
    let name = name.rsplit("::").next().unwrap_or(name).replace('_', " ");
    // A function's name has no apostrophe.
    name.replace(" s ", "'s ")
}
