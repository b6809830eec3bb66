//! The state of the interactive screen, and what each event changes.

use std::collections::BTreeSet;
use std::mem;
use std::sync::mpsc::Sender;
use std::time::Instant;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use workbook::{Exercise, Workbook};

use super::Event;
use super::file::{Content, WatchedFile};
use super::job::{Job, JobEvent};
use super::page;
use crate::commands::{compare, hint, map, start};
use crate::error::Error;
use crate::grading::grade::Grade;
use crate::reader::current;
use crate::reader::language::Language;
use crate::reader::progress::{Progress, State};
use crate::terminal::fullscreen;
use crate::terminal::report;

/// The state of the interactive screen.
#[derive(Debug)]
pub(super) struct Screen<'a> {
    pub(super) book: &'a Workbook,
    pub(super) exercise: &'a Exercise,
    pub(super) page: Page<'a>,
    /// The language of the question.
    pub(super) language: Language,
    /// The result of the last key, until the next key.
    pub(super) message: String,
    pub(super) file: WatchedFile,
    /// The content of the file when it was last read.
    pub(super) content: Content,
    /// The result for `content`, or for the content before it if a check runs.
    pub(super) result: Option<CheckResult>,
    pub(super) check: Option<Job>,
    /// A job that compiles a week before a check needs it, and its package.
    pub(super) prebuild: Option<(Job, String)>,
    /// The packages that need no such job any more.
    built: BTreeSet<String>,
    pub(super) notes: Notes,
    /// The id of the last job.
    last_job: u64,
    events: Sender<Event>,
    should_quit: bool,
}

/// The result of a check.
#[derive(Debug)]
pub(super) enum CheckResult {
    Graded(Grade),
    /// The check failed to grade the attempt, with this error.
    Failed(String),
}

/// The page that the screen shows.
#[derive(Debug)]
pub(super) enum Page<'a> {
    Verdict,
    /// The list of exercises, with this one selected.
    Map(&'a Exercise),
    /// A text that scrolls.
    Text {
        text: String,
        /// The first visible line.
        top: usize,
        kind: TextKind,
    },
    /// The list of keys.
    Keys {
        /// The first visible line.
        top: usize,
        /// The page to return to.
        previous: Box<Self>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextKind {
    Question,
    Hints,
    Report,
    Compare,
}

/// The server of the notes.
#[derive(Debug)]
pub(super) enum Notes {
    Stopped,
    /// It is built once no check needs the compiler.
    Queued,
    Building(Job),
    /// It serves the notes at this address.
    Serving(Job, String),
}

impl<'a> Page<'a> {
    /// Returns the selected exercise, if the page is the map, or the keys over
    /// the map.
    pub(super) fn selected(&self) -> Option<&'a Exercise> {
        match self {
            Page::Map(selected) => Some(selected),
            Page::Keys { previous, .. } => previous.selected(),
            Page::Verdict | Page::Text { .. } => None,
        }
    }
}

impl<'a> Screen<'a> {
    pub(super) fn new(
        book: &'a Workbook,
        exercise: &'a Exercise,
        page: Page<'a>,
        language: Language,
        events: Sender<Event>,
    ) -> Self {
        Self {
            book,
            exercise,
            page,
            language,
            message: String::new(),
            file: WatchedFile::new(exercise.attempt(), &events),
            content: Content::Missing,
            result: None,
            check: None,
            prebuild: None,
            built: BTreeSet::new(),
            notes: Notes::Stopped,
            last_job: 0,
            events,
            should_quit: false,
        }
    }

    pub(super) fn should_quit(&self) -> bool {
        self.should_quit
    }

    /// Returns when to call [`check_file`](Self::check_file), unless an event
    /// arrives before.
    pub(super) fn next_file_check(&self) -> Instant {
        self.file.next_read()
    }

    pub(super) fn handle_event(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Key(key) => self.handle_key(key)?,
            // The screen is drawn after every event.
            Event::Resized => {}
            Event::FileChanged => self.file.handle_change(Instant::now()),
            Event::Job(id, event) => self.handle_job_event(id, event)?,
            Event::TerminalClosed => self.should_quit = true,
        }
        Ok(())
    }

    /// Reads the file, and starts a check if its content has changed.
    pub(super) fn check_file(&mut self) -> Result<(), Error> {
        let content = self.file.read(&self.content, Instant::now());
        if content != self.content {
            let is_first =
                self.content == Content::Missing && self.result.is_none();
            self.content = content;
            if !is_first {
                self.page = Page::Verdict;
                self.message.clear();
            }
            self.start_check()?;
        }
        self.start_builds()
    }

    /// Starts a check of the file. A check that is still compiling continues
    /// instead, since it grades the content that the file has afterwards.
    fn start_check(&mut self) -> Result<(), Error> {
        if self.content == Content::Missing {
            self.check = None;
            self.result = None;
            return Ok(());
        }
        if self.check.as_ref().is_some_and(|check| !check.is_grading()) {
            return Ok(());
        }
        self.check = None;
        self.stop_builds();
        let id = self.exercise.id();
        self.check = Some(self.start_job(&["check", "--watched", &id])?);
        Ok(())
    }

    fn start_job(&mut self, arguments: &[&str]) -> Result<Job, Error> {
        self.last_job += 1;
        Job::start(self.book, arguments, self.last_job, &self.events)
    }

    /// Stops the builds that would delay a check: cargo runs one build at a
    /// time. A build of the check's own package continues.
    fn stop_builds(&mut self) {
        if let Some((_, package)) = &self.prebuild
            && *package != self.exercise.package()
        {
            self.prebuild = None;
        }
        if let Notes::Building(_) = self.notes {
            self.notes = Notes::Queued;
        }
    }

    /// If no job uses the compiler, builds the notes if they are queued, or
    /// else the packages of this exercise and the next one.
    fn start_builds(&mut self) -> Result<(), Error> {
        let is_busy = self.check.is_some()
            || self.prebuild.is_some()
            || matches!(self.notes, Notes::Building(_));
        if is_busy {
            return Ok(());
        }
        if let Notes::Queued = self.notes {
            let job = self.start_job(&["notes", "--watched"])?;
            self.notes = Notes::Building(job);
            return Ok(());
        }
        let next = self.next_exercise()?;
        let needed = std::iter::once(self.exercise).chain(next);
        let is_missing =
            |exercise: &&Exercise| !self.built.contains(&exercise.package());
        if let Some(exercise) = needed.into_iter().find(is_missing) {
            let job = self.start_job(&["prepare", &exercise.id()])?;
            self.prebuild = Some((job, exercise.package()));
        }
        Ok(())
    }

    pub(super) fn next_exercise(&self) -> Result<Option<&'a Exercise>, Error> {
        let progress = Progress::read(self.book)?;
        Ok(current::next_after(self.book, &progress, self.exercise))
    }

    fn handle_job_event(
        &mut self,
        id: u64,
        event: JobEvent,
    ) -> Result<(), Error> {
        // Events of a job that was stopped may still arrive.
        let Some(job) = self.job_mut(id) else { return Ok(()) };
        match event {
            JobEvent::Stderr(line) => job.handle_stderr(line),
            JobEvent::Stdout(line) => {
                job.stdout += &line;
                job.stdout.push('\n');
                self.find_notes_address();
            }
            JobEvent::Exited => self.handle_job_exit(id)?,
        }
        Ok(())
    }

    fn job_mut(&mut self, id: u64) -> Option<&mut Job> {
        let notes = match &mut self.notes {
            Notes::Building(job) | Notes::Serving(job, _) => Some(job),
            Notes::Stopped | Notes::Queued => None,
        };
        let prebuild = self.prebuild.as_mut().map(|(job, _)| job);
        let jobs = [self.check.as_mut(), prebuild, notes];
        jobs.into_iter().flatten().find(|job| job.id == id)
    }

    fn handle_job_exit(&mut self, id: u64) -> Result<(), Error> {
        if let Some(check) = self.check.take_if(|check| check.id == id) {
            self.handle_check_exit(check)?;
        } else if let Some((job, package)) =
            self.prebuild.take_if(|(job, _)| job.id == id)
        {
            self.built.insert(package);
            let summary = job.summary();
            if job.exit_code() != Some(0) {
                self.message = summary;
            }
        } else if let Notes::Building(job) | Notes::Serving(job, _) =
            &self.notes
        {
            self.message = job.summary();
            self.notes = Notes::Stopped;
        }
        self.start_builds()
    }

    /// Takes the result of a check. If the file has changed since, starts
    /// another check instead.
    fn handle_check_exit(&mut self, check: Job) -> Result<(), Error> {
        let grade = serde_json::from_str::<Grade>(&check.stdout);
        let error = check.error.clone();
        let summary = check.summary();
        let code = check.exit_code();
        let content = self.file.read(&self.content, Instant::now());
        if content != self.content {
            self.content = content;
            self.page = Page::Verdict;
            return self.start_check();
        }
        self.result = Some(match (grade, code) {
            (Ok(grade), _)
                if Content::Hash(grade.text.clone()) != self.content =>
            {
                return self.start_check();
            }
            (Ok(grade), _) => {
                self.built.insert(self.exercise.package());
                CheckResult::Graded(grade)
            }
            (Err(_), code) => CheckResult::Failed(error.unwrap_or_else(|| {
                let code = match code {
                    Some(code) => format!("exit code {code}"),
                    None => "a signal".to_owned(),
                };
                format!("the check ended with {code}: {summary}")
            })),
        });
        Ok(())
    }

    /// Looks for the address in the output of the notes' server.
    fn find_notes_address(&mut self) {
        let Notes::Building(job) = &self.notes else { return };
        let Some(at) = job.stdout.find("http://") else { return };
        let address = job.stdout[at..].split_whitespace().next();
        let address = address.unwrap_or_default().to_owned();
        if let Notes::Building(job) =
            mem::replace(&mut self.notes, Notes::Stopped)
        {
            self.notes = Notes::Serving(job, address);
        }
    }

    fn handle_key(&mut self, key: KeyEvent) -> Result<(), Error> {
        self.message.clear();
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c' | 'd') => self.should_quit = true,
                KeyCode::Char('z') => return suspend(),
                _ => {}
            }
            return Ok(());
        }
        if let Page::Keys { previous, .. } = &mut self.page
            && matches!(
                key.code,
                KeyCode::Enter
                    | KeyCode::Esc
                    | KeyCode::Backspace
                    | KeyCode::Char('?')
            )
        {
            self.page = mem::replace(previous, Page::Verdict);
            return Ok(());
        }
        // On the map, and on the keys over the map, no key acts on the current
        // exercise: the reader would expect it to act on the selected one.
        if let Some(selected) = self.page.selected() {
            match key.code {
                KeyCode::Enter => self.open(selected)?,
                KeyCode::Esc | KeyCode::Backspace => {
                    self.page = Page::Verdict;
                }
                KeyCode::Char('o' | 'q' | '?') => {
                    self.handle_command_key(key.code)?
                }
                other => self.move_on_page(other)?,
            }
            return Ok(());
        }
        self.handle_command_key(key.code)
    }

    fn handle_command_key(&mut self, key: KeyCode) -> Result<(), Error> {
        match key {
            KeyCode::Char('q') => self.should_quit = true,
            KeyCode::Char('?') => {
                let previous = mem::replace(&mut self.page, Page::Verdict);
                self.page = Page::Keys { top: 0, previous: Box::new(previous) };
            }
            KeyCode::Char('a') => self.show_report(),
            KeyCode::Char('c') => self.show_comparison()?,
            // Before the exercise is started, `h` typed by mistake must not
            // reveal a hint.
            KeyCode::Char('h') if self.content == Content::Missing => {}
            KeyCode::Char('h') => {
                let shows_hints = matches!(
                    self.page,
                    Page::Text { kind: TextKind::Hints, .. }
                );
                let hints =
                    if shows_hints { hint::one_more } else { hint::seen };
                let text = hints(self.book, self.exercise)?;
                self.show_text(text, TextKind::Hints);
            }
            KeyCode::Char('l') => self.page = Page::Map(self.exercise),
            KeyCode::Char('n') => self.open_next()?,
            KeyCode::Char('o') => {
                if let Notes::Stopped = self.notes {
                    self.notes = Notes::Queued;
                }
                self.start_builds()?;
            }
            KeyCode::Char('r') => {
                self.page = Page::Verdict;
                self.check = None;
                self.start_check()?;
            }
            KeyCode::Char('s') => {
                let is_new = start::copy_stub(self.exercise)?;
                self.start_exercise()?;
                self.check_file()?;
                let attempt = self.exercise.attempt();
                let attempt = self.book.short(&attempt);
                self.message = if is_new {
                    format!("{attempt}: edit and save it")
                } else {
                    format!("{attempt} exists, and is kept")
                };
            }
            KeyCode::Char('t') => {
                if self.shows_question() {
                    self.language = self.language.other();
                }
                self.show_question();
            }
            KeyCode::Enter | KeyCode::Esc | KeyCode::Backspace => {
                self.page = Page::Verdict;
            }
            other => self.move_on_page(other)?,
        }
        Ok(())
    }

    fn show_text(&mut self, text: String, kind: TextKind) {
        // The newest hint is the last one.
        let top = if kind == TextKind::Hints { usize::MAX } else { 0 };
        self.page = Page::Text { text, top, kind };
    }

    fn show_report(&mut self) {
        if let Some(CheckResult::Graded(grade)) = &self.result {
            let text = report::findings(grade, self.exercise);
            self.show_text(text, TextKind::Report);
        }
    }

    fn show_comparison(&mut self) -> Result<(), Error> {
        let state = Progress::read(self.book)?.state(self.exercise);
        if state == State::Passing {
            let text = compare::text(self.exercise)?;
            self.show_text(text, TextKind::Compare);
        } else {
            self.message = format!(
                "{0} does not pass yet; the answer: `cargo wb compare {0} \
                 --spoil`",
                self.exercise.name
            );
        }
        Ok(())
    }

    /// Whether the page contains the question.
    fn shows_question(&self) -> bool {
        match &self.page {
            Page::Text { kind, .. } => *kind == TextKind::Question,
            Page::Verdict => {
                self.result.is_none() && self.content != Content::Missing
            }
            Page::Map(_) | Page::Keys { .. } => false,
        }
    }

    fn show_question(&mut self) {
        let text = start::question(self.book, self.exercise, self.language);
        self.show_text(text, TextKind::Question);
    }

    /// Makes the exercise the current one, and shows its question.
    fn start_exercise(&mut self) -> Result<(), Error> {
        Progress::update(self.book, |p| p.set_current(self.exercise))?;
        self.show_question();
        Ok(())
    }

    /// Opens the next exercise, if this one passes.
    fn open_next(&mut self) -> Result<(), Error> {
        let state = Progress::read(self.book)?.state(self.exercise);
        if state != State::Passing {
            self.message = format!(
                "{} does not pass yet; l lists the other exercises",
                self.exercise.name
            );
            return Ok(());
        }
        match self.next_exercise()? {
            Some(next) => {
                start::copy_stub(next)?;
                self.open(next)
            }
            None => {
                self.message = current::all_pass().to_string();
                Ok(())
            }
        }
    }

    /// Makes `exercise` the current one. Shows its question if it was never
    /// checked, and its verdict otherwise.
    fn open(&mut self, exercise: &'a Exercise) -> Result<(), Error> {
        if exercise.id() != self.exercise.id() {
            self.exercise = exercise;
            self.check = None;
            self.result = None;
            self.content = Content::Missing;
            self.file = WatchedFile::new(exercise.attempt(), &self.events);
        }
        let state = Progress::read(self.book)?.state(exercise);
        if let State::Untouched | State::Started = state {
            self.start_exercise()?;
        } else {
            Progress::update(self.book, |p| p.set_current(exercise))?;
            self.page = Page::Verdict;
        }
        self.check_file()
    }

    /// Scrolls the page, or moves the selection on the map.
    fn move_on_page(&mut self, key: KeyCode) -> Result<(), Error> {
        let (_, rows) = fullscreen::size();
        match &mut self.page {
            Page::Verdict => {}
            Page::Map(selected) => {
                let progress = Progress::read(self.book)?;
                let listed = map::listed(self.book, &progress);
                let old = listed.iter().position(|e| e.id() == selected.id());
                let last = listed.len().saturating_sub(1);
                let new = page::move_by_key(old.unwrap_or(0), last, key, rows);
                if let Some(exercise) = listed.get(new) {
                    *selected = exercise;
                }
            }
            Page::Keys { top, .. } => {
                *top = page::scroll(&page::key_help(), *top, key, rows);
            }
            Page::Text { text, top, .. } => {
                *top = page::scroll(text, *top, key, rows);
            }
        }
        Ok(())
    }
}

/// Handles Ctrl-Z: restores the terminal, stops this process, and enters
/// full-screen mode again when the shell resumes it.
fn suspend() -> Result<(), Error> {
    fullscreen::restore();
    let resumed = signal_hook::low_level::emulate_default_handler(
        signal_hook::consts::SIGTSTP,
    );
    let guard = resumed.and_then(|()| fullscreen::enter());
    // `watch` still has the guard that restores the terminal at the end.
    mem::forget(guard.map_err(|error| {
        Error::new(format!("cannot use the terminal: {error}"))
    })?);
    Ok(())
}
