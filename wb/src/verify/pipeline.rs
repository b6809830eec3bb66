//! Grades the subjects of all exercises. While the tests of some subjects run,
//! the next subjects are compiled.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use workbook::{Exercise, Workbook};

use super::Findings;
use super::batch::{Batch, Built, with_originals};
use super::exercise::Check;
use crate::error::Error;
use crate::grading::compile::{Compiled, Graders};
use crate::grading::grade::Grade;
use crate::grading::properties::{self, Listed, cores};

/// The number of subjects that are graded at a time, per core, and the number of
/// tests of each that run at a time. Most tests wait for a timer or a process.
const SUBJECTS_PER_CORE: usize = 2;
const TESTS_PER_SUBJECT: usize = 2;

/// The number of complete subjects that may wait to be graded. Those of one package
/// share their binaries.
const WAITING: usize = 16;

/// The factor by which deadlines are longer than for a reader. Here, tests share
/// the machine with other tests and the compiler.
const DEADLINE_FACTOR: u32 = 3;

/// A subject whose build has ended.
struct Job {
    /// The position of the exercise, and of the subject in it.
    place: (usize, usize),
    built: Built,
}

/// An event of the build or of the grading.
enum Progress {
    /// The build of an exercise begins.
    Building(usize, Instant),
    Graded((usize, usize), Result<Grade, Error>),
    /// The build cannot go on.
    Failed(Error),
}

/// Grades every subject of `exercises`, and adds faults and rows to `found`.
pub(super) fn verify(
    book: &Workbook,
    exercises: &[&Exercise],
    found: &mut Findings,
) -> Result<(), Error> {
    let batch = Batch::new(book)?;
    let bar = ProgressBar::hidden();
    let mut checks = Vec::new();
    for exercise in exercises {
        let (check, faults) = Check::new(book, exercise);
        for fault in faults {
            found.fault(&bar, format!("{}: {fault}", exercise.id()));
        }
        checks.push(check);
    }
    let files: Vec<Vec<PathBuf>> = checks
        .iter()
        .map(|check| check.subjects.iter().map(|it| it.file.clone()).collect())
        .collect();

    let bar = progress_bar(files.iter().map(Vec::len).sum());
    let lists: Vec<_> = exercises.iter().map(|_| Mutex::default()).collect();
    let (ready, jobs) = mpsc::sync_channel(WAITING);
    let jobs = Mutex::new(jobs);
    let (report, progress) = mpsc::channel();
    let shared = Shared {
        book,
        exercises,
        files: &files,
        lists,
        jobs,
        has_failed: AtomicBool::new(false),
    };
    let outcome = thread::scope(|scope| {
        let shared = &shared;
        for _ in 0..SUBJECTS_PER_CORE * cores() {
            let report = report.clone();
            scope.spawn(move || shared.grade(&report));
        }
        let batch = &batch;
        scope.spawn(move || shared.build(batch, &ready, &report));
        let outcome = collect(&progress, &mut checks, &bar, found);
        shared.has_failed.store(outcome.is_err(), Relaxed);
        outcome
    });
    bar.finish_and_clear();
    found.table.extend(checks.into_iter().map(Check::row));
    outcome
}

/// The state that the threads share.
struct Shared<'a> {
    book: &'a Workbook,
    exercises: &'a [&'a Exercise],
    /// The files of the subjects of each exercise.
    files: &'a [Vec<PathBuf>],
    /// The tests of each exercise, listed by its first subject.
    lists: Vec<Mutex<Option<Arc<[Listed]>>>>,
    jobs: Mutex<Receiver<Job>>,
    /// Whether the verification has failed. The remaining subjects are skipped.
    has_failed: AtomicBool,
}

impl Shared<'_> {
    /// Builds one exercise after the other.
    fn build(
        &self,
        batch: &Batch<'_>,
        ready: &SyncSender<Job>,
        report: &Sender<Progress>,
    ) {
        for (e, files) in self.files.iter().enumerate() {
            if self.has_failed.load(Relaxed) {
                return;
            }
            // Both receivers outlive this thread.
            let _ = report.send(Progress::Building(e, Instant::now()));
            let built = batch.build(self.exercises[e], files, |n, built| {
                let _ = ready.send(Job { place: (e, n), built });
            });
            if let Err(error) = built {
                let _ = report.send(Progress::Failed(error));
                return;
            }
        }
    }

    /// Grades subjects until there are no more.
    fn grade(&self, report: &Sender<Progress>) {
        loop {
            let job =
                self.jobs.lock().expect("no thread panics with it").recv();
            let Ok(Job { place, built }) = job else { return };
            if self.has_failed.load(Relaxed) {
                continue;
            }
            let grade = match &built.compiled {
                Compiled::Not { rendered } => {
                    let exercise = self.exercises[place.0];
                    let rendered = rendered.clone();
                    Ok(Grade::of_errors(exercise, String::new(), rendered))
                }
                Compiled::Ready(graders) => self.run(place, graders),
            };
            // The last subject of a package removes the binaries.
            drop(built);
            let _ = report.send(Progress::Graded(place, grade));
        }
    }

    /// Returns the tests of an exercise. Other subjects of the exercise wait
    /// until the first one has listed them.
    fn tests(
        &self,
        e: usize,
        graders: &Graders,
    ) -> Result<Arc<[Listed]>, Error> {
        let mut list = self.lists[e].lock().expect("no thread panics with it");
        if let Some(tests) = &*list {
            return Ok(Arc::clone(tests));
        }
        let tests = properties::list(self.book, self.exercises[e], graders)?;
        Ok(Arc::clone(list.insert(tests.into())))
    }

    fn run(
        &self,
        (e, n): (usize, usize),
        graders: &Graders,
    ) -> Result<Grade, Error> {
        let exercise = self.exercises[e];
        let tests = self.tests(e, graders)?;
        let deadline =
            Duration::from_secs(exercise.spec.deadline_s) * DEADLINE_FACTOR;
        let mut properties = properties::run_listed(
            self.book,
            graders,
            &tests,
            TESTS_PER_SUBJECT,
            deadline,
        )?;
        let file = &self.files[e][n];
        let shown =
            |text: &str| with_originals(self.book, exercise, file, text);
        for property in &mut properties {
            property.message = shown(&property.message);
            property.at = property.at.as_deref().map(shown);
        }
        Grade::of_properties(exercise, String::new(), false, None, properties)
    }
}

/// Receives grades until all threads have ended or one has failed.
fn collect(
    progress: &Receiver<Progress>,
    checks: &mut [Check<'_>],
    bar: &ProgressBar,
    found: &mut Findings,
) -> Result<(), Error> {
    for progress in progress {
        match progress {
            Progress::Building(e, now) => {
                checks[e].start(now);
                bar.set_message(checks[e].exercise.id());
            }
            Progress::Graded((e, n), grade) => {
                let check = &mut checks[e];
                for fault in check.take(n, &grade?) {
                    let id = check.exercise.id();
                    found.fault(bar, format!("{id} {fault}"));
                }
                bar.inc(1);
            }
            Progress::Failed(error) => return Err(error),
        }
    }
    Ok(())
}

fn progress_bar(subjects: usize) -> ProgressBar {
    let bar = ProgressBar::new(subjects as u64);
    let style =
        ProgressStyle::with_template("{bar:24} {pos}/{len} {elapsed} {msg}");
    bar.set_style(style.expect("the template is right"));
    bar
}
