//! The lines that the interactive screen shows.

use super::file::Content;
use super::job::Job;
use super::page;
use super::screen::{CheckResult, Notes, Page, Screen, TextKind};
use crate::commands::{hint, map, start};
use crate::error::Error;
use crate::grading::grade::{Grade, Outcome};
use crate::reader::progress::{Progress, State};
use crate::terminal::report;
use crate::terminal::style;

impl Screen<'_> {
    /// Returns the lines of a screen of this size.
    pub(super) fn render(
        &self,
        (columns, rows): (usize, usize),
    ) -> Result<Vec<String>, Error> {
        let progress = Progress::read(self.book)?;
        let page_rows = rows.saturating_sub(page::FOOTER_ROWS);
        let mut lines = match &self.page {
            Page::Map(selected) => page::around_selected(
                map::lines(self.book, &progress, Some(selected)),
                page_rows,
            ),
            Page::Text { text, top, .. } => {
                page::visible_lines(text, *top, page_rows)
            }
            Page::Keys { top, .. } => {
                page::visible_lines(&page::key_help(), *top, page_rows)
            }
            Page::Verdict => self.verdict_page(page_rows)?,
        };
        lines.truncate(page_rows);
        lines.resize(page_rows, String::new());
        lines.push(page::separator(columns));
        lines.push(self.status_line(columns));
        lines.push(self.key_line(&progress, columns)?);
        // A screen of one or two rows shows the end of the footer.
        Ok(lines.split_off(lines.len().saturating_sub(rows)))
    }

    fn verdict_page(&self, rows: usize) -> Result<Vec<String>, Error> {
        let exercise = self.exercise;
        if self.content == Content::Missing {
            return Ok(page::no_attempt(self.book, exercise));
        }
        let lines = match &self.result {
            None => {
                let question =
                    start::question(self.book, exercise, self.language);
                page::lines(&question)
            }
            Some(CheckResult::Graded(grade)) => {
                let next = self.next_exercise()?;
                report::one_screen(grade, exercise, next, rows)
            }
            Some(CheckResult::Failed(error)) => {
                page::check_error(exercise, error)
            }
        };
        Ok(match (&self.check, &self.result) {
            (None, _) => lines,
            // The outdated page must not tell that the new text passes.
            (Some(_), Some(CheckResult::Graded(Grade { outcome, .. })))
                if *outcome == Outcome::Passes =>
            {
                page::outdated(exercise, Vec::new())
            }
            (Some(_), _) => page::outdated(exercise, lines),
        })
    }

    /// Returns one line: the result of the last key, the running jobs, the
    /// address of the notes.
    fn status_line(&self, columns: usize) -> String {
        let mut parts = Vec::new();
        if !self.message.is_empty() {
            parts.push(style::pending(&self.message));
        }
        let prebuild = self.prebuild.as_ref().map(|(job, _)| job);
        let jobs = [self.check.as_ref(), prebuild];
        parts.extend(jobs.into_iter().flatten().map(Job::status));
        match &self.notes {
            Notes::Stopped => {}
            Notes::Queued => {
                parts.push("the notes are built next".to_owned());
            }
            Notes::Building(job) => parts.push(job.status()),
            Notes::Serving(_, address) => {
                let page = self.page.selected().unwrap_or(self.exercise).id();
                parts.push(format!("notes: {address}{page}.html"));
            }
        }
        parts.extend(self.file.polling_notice());
        if !matches!(self.page, Page::Verdict)
            && let Some(CheckResult::Graded(grade)) = &self.result
            && self.check.is_none()
        {
            let name = &self.exercise.name;
            parts.push(format!("{name}: {}", report::outcome(grade)));
        }
        parts.retain(|part| !part.is_empty());
        page::status_line(&parts, columns)
    }

    /// Returns the keys of this page.
    fn key_line(
        &self,
        progress: &Progress,
        columns: usize,
    ) -> Result<String, Error> {
        let is_missing = self.content == Content::Missing;
        let passes = progress.state(self.exercise) == State::Passing;
        let translate = ("t", self.language.other().name());
        let list = ("l", "list");
        let notes = ("o", "notes");
        let help = ("?", "keys");
        let quit = ("q", "quit");
        let back = ("enter", "back");
        let scroll = ("↑ ↓", "scroll");
        let hint = ("h", "hint");
        let (open, next);
        let keys = match &self.page {
            Page::Map(selected) => {
                open = format!("open {}", selected.name);
                let open = ("enter", &*open);
                vec![("↑ ↓", "select"), open, notes, help, quit]
            }
            Page::Text { kind: TextKind::Hints, .. }
                if hint::is_one_left(progress, self.exercise) =>
            {
                vec![("h", "next hint"), back, scroll, quit]
            }
            Page::Text { kind: TextKind::Question, .. } if is_missing => {
                vec![("s", "start"), translate, list, notes, help, quit]
            }
            Page::Verdict if is_missing => {
                vec![("s", "start"), list, notes, help, quit]
            }
            Page::Text { kind: TextKind::Question, .. } => {
                let verdict = ("enter", "verdict");
                vec![verdict, translate, hint, list, notes, help, quit]
            }
            Page::Text { kind: TextKind::Report, .. } => {
                vec![back, scroll, hint, quit]
            }
            Page::Text { .. } | Page::Keys { .. } => vec![back, scroll, quit],
            Page::Verdict => {
                let mut keys = Vec::new();
                if passes {
                    if let Some(exercise) = self.next_exercise()? {
                        next = format!("next: {}", exercise.name);
                        keys.push(("n", &*next));
                    }
                    keys.push(("c", "compare"));
                } else {
                    keys.push(hint);
                }
                let question = ("t", "question");
                keys.extend([("a", "all"), question, list, notes, help, quit]);
                keys
            }
        };
        Ok(page::key_line(&keys, columns))
    }

    /// Returns the line that stays in the terminal after the screen is closed.
    pub(super) fn exit_message(&self) -> Result<String, Error> {
        let id = self.exercise.id();
        let state = match (&self.result, &self.check) {
            (Some(CheckResult::Graded(grade)), None) => report::outcome(grade),
            _ => map::state(&Progress::read(self.book)?, self.exercise),
        };
        Ok(format!("{id}: {state}. `cargo wb` continues here.\n"))
    }
}
