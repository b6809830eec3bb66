//! The properties of an exercise, each run in a process of its own.

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

/// Enough to see that it hangs. Each one more would take a deadline more.
const HANGS: usize = 2;

/// Runs them all, as many at a time as there are cores, and returns them in the
/// order of the source.
pub(crate) fn run_all(
    book: &Workbook,
    exercise: &Exercise,
    graders: &Graders,
) -> Result<Vec<Property>, Error> {
    let mut tests = Vec::new();
    let source = fs::read_to_string(exercise.grader()).unwrap_or_default();
    let prefix = format!("{}::", exercise.name);
    add_tests(&graders.tests, &prefix, "", &source, &mut tests)?;
    if let (Some(binary), Some(models)) = (&graders.models, exercise.models()) {
        let source = fs::read_to_string(models).unwrap_or_default();
        let prefix = format!("models::{}::", exercise.name);
        add_tests(binary, &prefix, "models::", &source, &mut tests)?;
    }
    if tests.is_empty() {
        return Err(Error::new(format!(
            "{} has no tests",
            book.short(&exercise.grader())
        )));
    }

    prepare_servers(&tests);
    let deadline = Duration::from_secs(exercise.spec.deadline_s);
    let next = AtomicUsize::new(0);
    let hangs = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let work = || {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some((binary, _, test)) = tests.get(n) else { break };
            let run = if hangs.load(Ordering::Relaxed) < HANGS {
                run::run(binary, test, deadline, graders.program.as_deref())
            } else {
                Ok(Run::without(Verdict::NotReached))
            };
            if run.as_ref().is_ok_and(|run| run.verdict == Verdict::Hangs) {
                hangs.fetch_add(1, Ordering::Relaxed);
            }
            done.lock().expect("nobody panics with it").push((n, run));
        }
    };
    let workers = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        (0..workers).for_each(|_| drop(scope.spawn(work)));
    });

    let root = format!("{}/", book.root.display());
    let mut runs = done.into_inner().expect("nobody panics with it");
    runs.sort_unstable_by_key(|(n, _)| *n);
    let property = |(n, run): (usize, Result<Run, Error>)| {
        let (_, name, test) = &tests[n];
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

/// Makes what servers need to start at all, which may take longer than a test
/// is given. Where it fails, the tests will say the same.
fn prepare_servers(tests: &[(&Path, String, Test)]) {
    let needs = tests.iter().filter_map(|(_, _, test)| test.needs.as_deref());
    let needs: BTreeSet<_> = needs.filter(|server| run::has(server)).collect();
    for program in needs.into_iter().filter_map(Program::named) {
        if let Err(error) = servers::prepare(program) {
            eprintln!("cannot prepare {}: {error}", program.name);
        }
    }
}

/// The tests below `prefix`, in the order in which the source has them, named
/// as the exercise's toml names them.
fn add_tests<'a>(
    binary: &'a Path,
    prefix: &str,
    rung: &str,
    source: &str,
    tests: &mut Vec<(&'a Path, String, Test)>,
) -> Result<(), Error> {
    let mut found: Vec<_> = run::list(binary)?
        .into_iter()
        .filter_map(|test| {
            let name = format!("{rung}{}", test.name.strip_prefix(prefix)?);
            let (module, title) =
                test.name.rsplit_once("::").unwrap_or(("", &test.name));
            let module = module.rsplit("::").next().unwrap_or_default();
            // Two rungs may have a test of one name.
            let from = source.find(&format!("mod {module} {{")).unwrap_or(0);
            let at = source[from..].find(&format!("fn {title}("));
            Some((at, (binary, name, test)))
        })
        .collect();
    // A test that a macro makes has no line of its own, and comes first.
    found.sort_by_key(|(at, _)| *at);
    tests.extend(found.into_iter().map(|(_, test)| test));
    Ok(())
}

fn sentence(name: &str) -> String {
    let name = name.rsplit("::").next().unwrap_or(name).replace('_', " ");
    // A function's name has no apostrophe.
    name.replace(" s ", "'s ")
}
