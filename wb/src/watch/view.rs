//! What the reader sees of the desk.

use super::desk::{Desk, Kind, Notes, Page, Verdict};
use super::page;
use super::saves::Text;
use crate::commands::{map, start};
use crate::grade::{Grade, Outcome};
use crate::progress::{Progress, State};
use crate::trouble::Trouble;
use crate::{show, term};

impl Desk<'_> {
    /// The screen, of this size.
    pub(super) fn screen(
        &self,
        (columns, rows): (usize, usize),
    ) -> Result<Vec<String>, Trouble> {
        let progress = Progress::read(self.book)?;
        let room = rows.saturating_sub(page::FOOT);
        let mut lines = match &self.page {
            Page::Map(chosen) => page::around(
                map::lines(self.book, &progress, Some(chosen)),
                room,
            ),
            Page::Long { text, top, .. } => page::part(text, *top, room),
            Page::Verdict => self.verdict_page(room)?,
        };
        lines.truncate(room);
        lines.resize(room, String::new());
        lines.push(page::rule(columns));
        lines.push(self.says(columns));
        lines.push(self.keys(&progress)?);
        // Of a screen of two lines, the last two: what goes on, and the keys.
        Ok(lines.split_off(lines.len().saturating_sub(rows)))
    }

    fn verdict_page(&self, room: usize) -> Result<Vec<String>, Trouble> {
        let exercise = self.exercise;
        if self.seen == Text::Missing {
            return Ok(page::missing(self.book, exercise));
        }
        let lines = match &self.verdict {
            None => page::lines(&start::question(self.book, exercise)),
            Some(Verdict::Of(grade)) => {
                let next = self.next()?;
                show::screen(grade, exercise, next, room)
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
        if !self.remark.is_empty() {
            return term::open(&self.remark);
        }
        let mut parts = Vec::new();
        if let Some(check) = &self.check {
            parts.push(check.says.clone());
        }
        if let Some((ahead, _)) = &self.ahead {
            parts.push(ahead.says.clone());
        }
        match &self.notes {
            Notes::Unasked => {}
            Notes::Wanted => parts.push("the notes come next".to_owned()),
            Notes::Building(job) => parts.push(job.says.clone()),
            Notes::At(_, address) => {
                let page = self.exercise.id();
                parts.push(format!("notes: {address}{page}.html"));
            }
        }
        parts.extend(self.saves.polls());
        if let (Page::Long { .. } | Page::Map(_), Some(Verdict::Of(grade))) =
            (&self.page, &self.verdict)
            && self.check.is_none()
        {
            parts.push(show::outcome(grade));
        }
        parts.retain(|part| !part.is_empty());
        page::status(&parts, columns)
    }

    fn keys(&self, progress: &Progress) -> Result<String, Trouble> {
        let passes = progress.state(self.exercise) == State::Passing;
        Ok(match &self.page {
            Page::Map(chosen) => {
                let go = format!("enter {}", chosen.name);
                page::keys(&["↑ ↓ choose", &go, "o notes", "q quit"])
            }
            Page::Long { kind: Kind::Hints, .. } => page::keys(&[
                "↑ ↓ scroll",
                "h one more",
                "enter back",
                "q quit",
            ]),
            Page::Verdict | Page::Long { kind: Kind::Question, .. }
                if self.seen == Text::Missing =>
            {
                page::keys(&["s start", "l list", "o notes", "q quit"])
            }
            Page::Long { kind: Kind::Question, .. } => page::keys(&[
                "enter verdict",
                "h hint",
                "l list",
                "o notes",
                "q quit",
            ]),
            Page::Long { .. } => {
                page::keys(&["↑ ↓ scroll", "enter back", "q quit"])
            }
            Page::Verdict if passes => {
                let next = self.next()?.map(|next| format!("n {}", next.name));
                let mut keys: Vec<_> = next.as_deref().into_iter().collect();
                keys.extend(["c compare", "a all", "l list"]);
                keys.extend(["o notes", "q quit"]);
                page::keys(&keys)
            }
            Page::Verdict => page::keys(&[
                "h hint", "a all", "l list", "o notes", "n next", "q quit",
            ]),
        })
    }

    /// What stays in the terminal when the screen is gone.
    pub(super) fn last_words(&self) -> Result<String, Trouble> {
        let id = self.exercise.id();
        let state = match (&self.verdict, &self.check) {
            (Some(Verdict::Of(grade)), None) => show::outcome(grade),
            _ => map::paint(Progress::read(self.book)?.state(self.exercise)),
        };
        Ok(format!("{id}: {state}. `cargo wb` goes on from here.\n"))
    }
}
