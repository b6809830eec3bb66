//! What lies before the reader, and what each event changes.

use std::collections::BTreeSet;
use std::mem;
use std::sync::mpsc::Sender;
use std::time::Instant;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use workbook::{Exercise, Workbook};

use super::Event;
use super::job::{Job, News};
use super::page;
use super::saves::{Saves, Text};
use crate::commands::{compare, hint, map, start};
use crate::error::Error;
use crate::grading::grade::Grade;
use crate::reader::current;
use crate::reader::progress::{Progress, State};
use crate::terminal::report;
use crate::terminal::screen;

#[derive(Debug)]
pub(super) struct Desk<'a> {
    pub(super) book: &'a Workbook,
    pub(super) exercise: &'a Exercise,
    pub(super) page: Page<'a>,
    /// What a key has done, until the next one.
    pub(super) remark: String,
    pub(super) saves: Saves,
    /// What the file held when it was last looked at.
    pub(super) seen: Text,
    /// Of what the file holds, unless a check is under way.
    pub(super) verdict: Option<Verdict>,
    pub(super) check: Option<Job>,
    /// Compiles a week before it is needed.
    pub(super) ahead: Option<(Job, String)>,
    /// The packages that need no building ahead any more.
    built: BTreeSet<String>,
    pub(super) notes: Notes,
    jobs: u64,
    events: Sender<Event>,
    is_done: bool,
}

#[derive(Debug)]
pub(super) enum Verdict {
    Of(Grade),
    /// Why there is none.
    None(String),
}

/// What the screen shows.
#[derive(Debug)]
pub(super) enum Page<'a> {
    Verdict,
    /// With this exercise chosen.
    Map(&'a Exercise),
    /// More than a screen, from this line on.
    Long {
        text: String,
        top: usize,
        kind: Kind,
    },
    /// What there is to press, from this line on.
    Keys {
        top: usize,
        /// Where it was asked for: to go back to.
        over: Box<Self>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Question,
    Hints,
    Report,
    Compare,
}

/// The book, as its pages are asked for.
#[derive(Debug)]
pub(super) enum Notes {
    Unasked,
    /// Put off: a check needs the compiler.
    Wanted,
    Building(Job),
    At(Job, String),
}

impl<'a> Page<'a> {
    /// On the map, the exercise that is chosen there.
    pub(super) fn chosen(&self) -> Option<&'a Exercise> {
        match self {
            Page::Map(chosen) => Some(chosen),
            Page::Keys { over, .. } => over.chosen(),
            Page::Verdict | Page::Long { .. } => None,
        }
    }
}

impl<'a> Desk<'a> {
    pub(super) fn new(
        book: &'a Workbook,
        exercise: &'a Exercise,
        page: Page<'a>,
        events: Sender<Event>,
    ) -> Self {
        Self {
            book,
            exercise,
            page,
            remark: String::new(),
            saves: Saves::of(exercise.attempt(), &events),
            seen: Text::Missing,
            verdict: None,
            check: None,
            ahead: None,
            built: BTreeSet::new(),
            notes: Notes::Unasked,
            jobs: 0,
            events,
            is_done: false,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// When to [`look`](Self::look), if nothing happens before.
    pub(super) fn look_at(&self) -> Instant {
        self.saves.look_at()
    }

    pub(super) fn on(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Key(key) => self.key(key)?,
            // It is drawn again in any case.
            Event::Resized => {}
            Event::Touched => self.saves.touch(Instant::now()),
            Event::Job(id, news) => self.hear(id, news)?,
            Event::Gone => self.is_done = true,
        }
        Ok(())
    }

    /// Looks at the file, and grades what is new in it.
    pub(super) fn look(&mut self) -> Result<(), Error> {
        let text = self.saves.look(&self.seen, Instant::now());
        if text != self.seen {
            let is_first = self.seen == Text::Missing && self.verdict.is_none();
            self.seen = text;
            if !is_first {
                self.page = Page::Verdict;
                self.remark.clear();
            }
            self.grade()?;
        }
        self.build_ahead()
    }

    /// Begins a check of what the file holds, or leaves that to the one that is
    /// compiling it.
    fn grade(&mut self) -> Result<(), Error> {
        if self.seen == Text::Missing {
            self.check = None;
            self.verdict = None;
            return Ok(());
        }
        if self.check.as_ref().is_some_and(|check| !check.is_grading()) {
            return Ok(());
        }
        self.check = None;
        self.make_way();
        let id = self.exercise.id();
        self.check = Some(self.job(&["check", "--watched", &id])?);
        Ok(())
    }

    fn job(&mut self, arguments: &[&str]) -> Result<Job, Error> {
        self.jobs += 1;
        Job::start(self.book, arguments, self.jobs, &self.events)
    }

    /// Two builds would wait for each other: a check goes first.
    fn make_way(&mut self) {
        if let Some((_, package)) = &self.ahead
            && *package != self.exercise.package()
        {
            self.ahead = None;
        }
        if let Notes::Building(_) = self.notes {
            self.notes = Notes::Wanted;
        }
    }

    /// Compiles what this exercise or the next one needs, and the notes, as
    /// soon as nothing else does.
    fn build_ahead(&mut self) -> Result<(), Error> {
        let is_busy = self.check.is_some()
            || self.ahead.is_some()
            || matches!(self.notes, Notes::Building(_));
        if is_busy {
            return Ok(());
        }
        if let Notes::Wanted = self.notes {
            self.notes = Notes::Building(self.job(&["notes", "--watched"])?);
            return Ok(());
        }
        let next = self.next()?;
        let needed = std::iter::once(self.exercise).chain(next);
        let is_missing =
            |exercise: &&Exercise| !self.built.contains(&exercise.package());
        if let Some(exercise) = needed.into_iter().find(is_missing) {
            let job = self.job(&["prepare", &exercise.id()])?;
            self.ahead = Some((job, exercise.package()));
        }
        Ok(())
    }

    /// What comes after this exercise.
    pub(super) fn next(&self) -> Result<Option<&'a Exercise>, Error> {
        let progress = Progress::read(self.book)?;
        Ok(current::after(self.book, &progress, self.exercise))
    }

    fn hear(&mut self, id: u64, news: News) -> Result<(), Error> {
        // One that was ended may still have said something.
        let Some(job) = self.under_way(id) else { return Ok(()) };
        match news {
            News::Says(line) => job.hear(line),
            News::Out(line) => {
                job.out += &line;
                job.out.push('\n');
                self.notes_are_there();
            }
            News::Ended => self.ended(id)?,
        }
        Ok(())
    }

    fn under_way(&mut self, id: u64) -> Option<&mut Job> {
        let notes = match &mut self.notes {
            Notes::Building(job) | Notes::At(job, _) => Some(job),
            Notes::Unasked | Notes::Wanted => None,
        };
        let ahead = self.ahead.as_mut().map(|(job, _)| job);
        let jobs = [self.check.as_mut(), ahead, notes];
        jobs.into_iter().flatten().find(|job| job.id == id)
    }

    fn ended(&mut self, id: u64) -> Result<(), Error> {
        if let Some(check) = self.check.take_if(|check| check.id == id) {
            self.judge(check)?;
        } else if let Some((job, package)) =
            self.ahead.take_if(|(job, _)| job.id == id)
        {
            self.built.insert(package);
            let remark = job.remark();
            if job.code() != Some(0) {
                self.remark = remark;
            }
        } else if let Notes::Building(job) | Notes::At(job, _) = &self.notes {
            self.remark = job.remark();
            self.notes = Notes::Unasked;
        }
        self.build_ahead()
    }

    /// Reads what a check found. Of a text that is no longer there it is no
    /// verdict.
    fn judge(&mut self, check: Job) -> Result<(), Error> {
        let grade = serde_json::from_str::<Grade>(&check.out);
        let trouble = check.trouble.clone();
        let says = check.remark();
        let code = check.code();
        let now = self.saves.look(&self.seen, Instant::now());
        if now != self.seen {
            self.seen = now;
            self.page = Page::Verdict;
            return self.grade();
        }
        self.verdict = Some(match (grade, code) {
            (Ok(grade), _) if Text::Hash(grade.text.clone()) != self.seen => {
                return self.grade();
            }
            (Ok(grade), _) => {
                self.built.insert(self.exercise.package());
                Verdict::Of(grade)
            }
            (Err(_), code) => Verdict::None(trouble.unwrap_or_else(|| {
                let code = code.map_or("a signal".into(), |n| n.to_string());
                format!("the check ended with {code}: {says}")
            })),
        });
        Ok(())
    }

    fn notes_are_there(&mut self) {
        let Notes::Building(job) = &self.notes else { return };
        let Some(at) = job.out.find("http://") else { return };
        let address = job.out[at..].split_whitespace().next();
        let address = address.unwrap_or_default().to_owned();
        if let Notes::Building(job) =
            mem::replace(&mut self.notes, Notes::Unasked)
        {
            self.notes = Notes::At(job, address);
        }
    }

    fn key(&mut self, key: KeyEvent) -> Result<(), Error> {
        self.remark.clear();
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c' | 'd') => self.is_done = true,
                KeyCode::Char('z') => return suspend(),
                _ => {}
            }
            return Ok(());
        }
        if let Page::Keys { over, .. } = &mut self.page
            && matches!(
                key.code,
                KeyCode::Enter
                    | KeyCode::Esc
                    | KeyCode::Backspace
                    | KeyCode::Char('?')
            )
        {
            self.page = mem::replace(over, Page::Verdict);
            return Ok(());
        }
        // On the map, also below the keys, a key is for the exercise that is
        // chosen there.
        if let Some(chosen) = self.page.chosen() {
            match key.code {
                KeyCode::Enter => self.go_to(chosen)?,
                KeyCode::Esc | KeyCode::Backspace => {
                    self.page = Page::Verdict;
                }
                KeyCode::Char('o' | 'q' | '?') => {
                    self.key_anywhere(key.code)?
                }
                other => self.move_on_page(other)?,
            }
            return Ok(());
        }
        self.key_anywhere(key.code)
    }

    fn key_anywhere(&mut self, key: KeyCode) -> Result<(), Error> {
        match key {
            KeyCode::Char('q') => self.is_done = true,
            KeyCode::Char('?') => {
                let over = mem::replace(&mut self.page, Page::Verdict);
                self.page = Page::Keys { top: 0, over: Box::new(over) };
            }
            KeyCode::Char('a') => self.show_report(),
            KeyCode::Char('c') => self.show_comparison()?,
            // Not by chance, before one has begun.
            KeyCode::Char('h') if self.seen == Text::Missing => {}
            KeyCode::Char('h') => {
                let is_open =
                    matches!(self.page, Page::Long { kind: Kind::Hints, .. });
                let show = if is_open { hint::one_more } else { hint::seen };
                self.turn_to(show(self.book, self.exercise)?, Kind::Hints);
            }
            KeyCode::Char('l') => self.page = Page::Map(self.exercise),
            KeyCode::Char('n') => self.go_on()?,
            KeyCode::Char('o') => {
                if let Notes::Unasked = self.notes {
                    self.notes = Notes::Wanted;
                }
                self.build_ahead()?;
            }
            KeyCode::Char('r') => {
                self.page = Page::Verdict;
                self.check = None;
                self.grade()?;
            }
            KeyCode::Char('s') => {
                let is_new = start::hand_out(self.exercise)?;
                self.show_question()?;
                self.look()?;
                let does =
                    if is_new { "edit and save it" } else { "yours, kept" };
                let attempt = self.exercise.attempt();
                let attempt = self.book.short(&attempt);
                self.remark = format!("{attempt}: {does}");
            }
            KeyCode::Enter | KeyCode::Esc | KeyCode::Backspace => {
                self.page = Page::Verdict;
            }
            other => self.move_on_page(other)?,
        }
        Ok(())
    }

    fn turn_to(&mut self, text: String, kind: Kind) {
        // A new hint stands at the end.
        let top = if kind == Kind::Hints { usize::MAX } else { 0 };
        self.page = Page::Long { text, top, kind };
    }

    fn show_report(&mut self) {
        if let Some(Verdict::Of(grade)) = &self.verdict {
            let text = report::findings(grade, self.exercise);
            self.turn_to(text, Kind::Report);
        }
    }

    fn show_comparison(&mut self) -> Result<(), Error> {
        let state = Progress::read(self.book)?.state(self.exercise);
        if state == State::Passing {
            self.turn_to(compare::text(self.exercise)?, Kind::Compare);
        } else {
            self.remark = format!(
                "{0} does not pass yet; `cargo wb compare {0} --spoil` spoils it",
                self.exercise.name
            );
        }
        Ok(())
    }

    fn show_question(&mut self) -> Result<(), Error> {
        Progress::update(self.book, |p| p.set_current(self.exercise))?;
        let text = start::question(self.book, self.exercise);
        self.turn_to(text, Kind::Question);
        Ok(())
    }

    /// To the next exercise, once this one passes.
    fn go_on(&mut self) -> Result<(), Error> {
        let state = Progress::read(self.book)?.state(self.exercise);
        if state != State::Passing {
            self.remark = format!(
                "{} does not pass yet; l lists the others",
                self.exercise.name
            );
            return Ok(());
        }
        match self.next()? {
            Some(next) => {
                start::hand_out(next)?;
                self.go_to(next)
            }
            None => {
                self.remark = current::all_done().to_string();
                Ok(())
            }
        }
    }

    fn go_to(&mut self, exercise: &'a Exercise) -> Result<(), Error> {
        if exercise.id() != self.exercise.id() {
            self.exercise = exercise;
            self.check = None;
            self.verdict = None;
            self.seen = Text::Missing;
            self.saves = Saves::of(exercise.attempt(), &self.events);
        }
        let state = Progress::read(self.book)?.state(exercise);
        if let State::Untouched | State::Started = state {
            self.show_question()?;
        } else {
            Progress::update(self.book, |p| p.set_current(exercise))?;
            self.page = Page::Verdict;
        }
        self.look()
    }

    fn move_on_page(&mut self, key: KeyCode) -> Result<(), Error> {
        let (_, rows) = screen::size();
        match &mut self.page {
            Page::Verdict => {}
            Page::Map(exercise) => {
                let progress = Progress::read(self.book)?;
                let listed = map::listed(self.book, &progress);
                let here = listed.iter().position(|e| e.id() == exercise.id());
                let last = listed.len().saturating_sub(1);
                let there = page::moved(here.unwrap_or(0), last, key, rows);
                if let Some(there) = listed.get(there) {
                    *exercise = there;
                }
            }
            Page::Keys { top, .. } => {
                *top = page::scrolled(&page::all_keys(), *top, key, rows);
            }
            Page::Long { text, top, .. } => {
                *top = page::scrolled(text, *top, key, rows);
            }
        }
        Ok(())
    }
}

/// Ctrl-Z: the shell's turn, until it brings this command back.
fn suspend() -> Result<(), Error> {
    screen::give_back();
    let stopped = signal_hook::low_level::emulate_default_handler(
        signal_hook::consts::SIGTSTP,
    );
    let taken = stopped.and_then(|()| screen::take());
    // The one that is held gives it back.
    mem::forget(taken.map_err(|error| {
        Error::new(format!("cannot use the terminal: {error}"))
    })?);
    Ok(())
}
