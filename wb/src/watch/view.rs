//! What the reader sees of the desk.

use super::desk::{Desk, Kind, Notes, Page, Verdict};
use super::job::Job;
use super::page;
use super::saves::Text;
use crate::commands::{hint, map, start};
use crate::error::Error;
use crate::grading::grade::{Grade, Outcome};
use crate::reader::progress::{Progress, State};
use crate::terminal::report;
use crate::terminal::style;

impl Desk<'_> {
    /// The screen, of this size.
    pub(super) fn screen(
        &self,
        (columns, rows): (usize, usize),
    ) -> Result<Vec<String>, Error> {
        let progress = Progress::read(self.book)?;
        let room = rows.saturating_sub(page::FOOT);
        let mut lines = match &self.page {
            Page::Map(chosen) => page::around(
                map::lines(self.book, &progress, Some(chosen)),
                room,
            ),
            Page::Long { text, top, .. } => page::part(text, *top, room),
            Page::Keys { top, .. } => page::part(&page::all_keys(), *top, room),
            Page::Verdict => self.verdict_page(room)?,
        };
        lines.truncate(room);
        lines.resize(room, String::new());
        lines.push(page::rule(columns));
        lines.push(self.says(columns));
        lines.push(self.keys(&progress, columns)?);
        // Of a screen of two lines, the last two: what goes on, and the keys.
        Ok(lines.split_off(lines.len().saturating_sub(rows)))
    }

    fn verdict_page(&self, room: usize) -> Result<Vec<String>, Error> {
        let exercise = self.exercise;
        if self.seen == Text::Missing {
            return Ok(page::missing(self.book, exercise));
        }
        let lines = match &self.verdict {
            None => page::lines(&start::question(self.book, exercise)),
            Some(Verdict::Of(grade)) => {
                let next = self.next()?;
                report::screen(grade, exercise, next, room)
            }
            Some(Verdict::None(why)) => page::no_verdict(exercise, why),
        };
        Ok(match (&self.check, &self.verdict) {
            (None, _) => lines,
            // It would say that it passes.
            (Some(_), Some(Verdict::Of(Grade { outcome, .. })))
                if *outcome == Outcome::Passes =>
            {
                page::outdated(exercise, Vec::new())
            }
            (Some(_), _) => page::outdated(exercise, lines),
        })
    }

    /// One line: what was done, what is going on.
    fn says(&self, columns: usize) -> String {
        let mut parts = Vec::new();
        if !self.remark.is_empty() {
            parts.push(style::open(&self.remark));
        }
        let jobs = [self.check.as_ref(), self.ahead.as_ref().map(|it| &it.0)];
        parts.extend(jobs.into_iter().flatten().map(Job::says));
        match &self.notes {
            Notes::Unasked => {}
            Notes::Wanted => parts.push("the notes come next".to_owned()),
            Notes::Building(job) => parts.push(job.says()),
            Notes::At(_, address) => {
                let page = self.page.chosen().unwrap_or(self.exercise).id();
                parts.push(format!("notes: {address}{page}.html"));
            }
        }
        parts.extend(self.saves.polls());
        if !matches!(self.page, Page::Verdict)
            && let Some(Verdict::Of(grade)) = &self.verdict
            && self.check.is_none()
        {
            let name = &self.exercise.name;
            parts.push(format!("{name}: {}", report::outcome(grade)));
        }
        parts.retain(|part| !part.is_empty());
        page::status(&parts, columns)
    }

    fn keys(
        &self,
        progress: &Progress,
        columns: usize,
    ) -> Result<String, Error> {
        let is_missing = self.seen == Text::Missing;
        let passes = progress.state(self.exercise) == State::Passing;
        let next;
        let keys: &[&str] = match &self.page {
            Page::Map(chosen) => {
                next = format!("enter {}", chosen.name);
                &["↑ ↓ choose", &next, "o notes", "? keys", "q quit"]
            }
            Page::Long { kind: Kind::Hints, .. }
                if hint::is_one_left(progress, self.exercise) =>
            {
                &["h one more", "enter back", "↑ ↓ scroll", "q quit"]
            }
            Page::Verdict | Page::Long { kind: Kind::Question, .. }
                if is_missing =>
            {
                &["s start", "l list", "o notes", "? keys", "q quit"]
            }
            Page::Long { kind: Kind::Question, .. } => &[
                "enter verdict",
                "h hint",
                "l list",
                "o notes",
                "? keys",
                "q quit",
            ],
            Page::Long { kind: Kind::Report, .. } => {
                &["enter back", "↑ ↓ scroll", "h hint", "q quit"]
            }
            Page::Long { .. } | Page::Keys { .. } => {
                &["enter back", "↑ ↓ scroll", "q quit"]
            }
            Page::Verdict if passes => match self.next()? {
                Some(exercise) => {
                    next = format!("n {}", exercise.name);
                    &[
                        &next,
                        "c compare",
                        "a all",
                        "l list",
                        "o notes",
                        "? keys",
                        "q quit",
                    ]
                }
                None => &[
                    "c compare",
                    "a all",
                    "l list",
                    "o notes",
                    "? keys",
                    "q quit",
                ],
            },
            Page::Verdict => {
                &["h hint", "a all", "l list", "o notes", "? keys", "q quit"]
            }
        };
        Ok(page::keys(keys, columns))
    }

    /// What stays in the terminal when the screen is gone.
    pub(super) fn last_words(&self) -> Result<String, Error> {
        let id = self.exercise.id();
        let state = match (&self.verdict, &self.check) {
            (Some(Verdict::Of(grade)), None) => report::outcome(grade),
            _ => map::state(&Progress::read(self.book)?, self.exercise),
        };
        Ok(format!("{id}: {state}. `cargo wb` goes on from here.\n"))
    }
}
