//! A grade as text: rung by rung, and the next step.

use std::fmt::Write;

use workbook::Exercise;

use crate::grading::grade::{Grade, Outcome, Rung};
use crate::grading::properties::Property;
use crate::grading::run::Verdict;
use crate::reader::current;
use crate::terminal::style;

/// How many lines of a message the report shows. The interactive screen shows as
/// many as fit.
const MESSAGE_LINES: usize = 60;

/// How many lines of the attempt's output the interactive screen shows.
const SCREEN_OUTPUT_LINES: usize = 10;

/// How many lines of the attempt's output the report shows.
const REPORT_OUTPUT_LINES: usize = 200;

/// Returns the whole report. Failures have messages only up to the first failing
/// rung: those of later rungs often follow from it.
pub(crate) fn report(grade: &Grade, exercise: &Exercise) -> String {
    format!("{}\n{}", findings(grade, exercise), next(grade, exercise))
}

/// Returns the report without the next step.
pub(crate) fn findings(grade: &Grade, exercise: &Exercise) -> String {
    let mut text = format!("{}\n", heading(grade, exercise));
    if let Some(compiler) = &grade.compiler {
        let _ = write!(text, "\n{}\n", compiler.trim_end());
        return text;
    }
    let mut shows_messages = true;
    let mut last_message = None;
    let mut hidden = 0;
    for rung in &grade.rungs {
        let _ = writeln!(text, "\n  {}", style::bold(&rung.name));
        for property in &rung.properties {
            text += &line(property);
            if property.verdict == Verdict::NotRun {
                for why in style::wrap(&property.message, 15).lines() {
                    let _ = writeln!(text, "{}", style::dim(why));
                }
            } else if !shows_messages || !property.verdict.fails() {
                hidden += usize::from(property.verdict == Verdict::Broken);
            } else if last_message == Some(&property.message) {
                text +=
                    &style::dim(&format!("{:15}same message as above\n", ""));
            } else {
                text += &details(property, MESSAGE_LINES, REPORT_OUTPUT_LINES);
                last_message = Some(&property.message);
            }
        }
        shows_messages &= rung.passes();
    }
    if hidden > 0 {
        let (rung, _) = grade.rung();
        let name = &grade.rungs[rung - 1].name;
        let _ = writeln!(
            text,
            "\nFix `{name}` first: the reasons for the other failures are shown \
             then."
        );
    }
    text += &skipped(grade);
    if let Some(foil) = &grade.like_foil {
        let known = format!(
            "A known mistake fails the same checks: “{}”. Your mistake may be \
             a different one.",
            foil.name
        );
        text.push('\n');
        text += &style::wrap(&known, 0);
        text += &style::wrap(&foil.lesson, 2);
        text += &style::wrap(
            &format!("Why people make this mistake: {}", foil.tempts),
            2,
        );
    }
    text
}

/// Returns the report in at most `rows` lines: the rungs, the first failing
/// property, and its message.
pub(crate) fn one_screen(
    grade: &Grade,
    exercise: &Exercise,
    next: Option<&Exercise>,
    rows: usize,
) -> Vec<String> {
    let mut lines = vec![heading(grade, exercise), String::new()];
    if let Some(compiler) = &grade.compiler {
        lines.extend(compiler.trim_end().lines().map(str::to_owned));
        return fit(lines, rows);
    }
    lines.extend(
        style::wrap(&rung_summary(grade), 0).lines().map(str::to_owned),
    );
    lines.push(String::new());
    let (rung, _) = grade.rung();
    let rung = &grade.rungs[rung - 1];
    let is_failing = |property: &&Property| property.verdict.fails();
    let Some(first) = rung.properties.iter().find(is_failing) else {
        lines.extend(next_keys(grade, exercise, next));
        return fit(lines, rows);
    };
    lines.push(line(first).trim_end().to_owned());
    let foil = grade.like_foil.as_ref().map_or_else(Vec::new, |foil| {
        let text = format!(
            "A known mistake fails the same checks: “{}”. {} Your mistake may \
             be a different one.",
            foil.name,
            foil.lesson.trim()
        );
        let text = style::wrap(&text, 0);
        std::iter::once("").chain(text.lines()).map(str::to_owned).collect()
    });
    let next = format!("Next: edit {}, and save it.", attempt(exercise));
    // The message is shortened to make room for the foil. The other properties
    // are shown if any room is left.
    let kept = lines.len() + foil.len() + 2;
    let room = rows.saturating_sub(kept).max(3);
    let details = details(first, usize::MAX, SCREEN_OUTPUT_LINES);
    let details: Vec<_> = details.lines().map(str::to_owned).collect();
    lines.extend(shortened(&details, room));
    lines.extend(foil);
    lines.extend([String::new(), next]);
    let others: Vec<_> = rung
        .properties
        .iter()
        .filter(|other| !std::ptr::eq(*other, first))
        .flat_map(|other| {
            let text = line(other);
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    if !others.is_empty() {
        lines.push(String::new());
        lines.push(format!("Also in rung `{}`:", rung.name));
        lines.extend(others);
    }
    fit(lines, rows)
}

/// Returns the number of properties that hold, for each rung.
fn rung_summary(grade: &Grade) -> String {
    let rung = |rung: &Rung| {
        let count = |filter: &dyn Fn(Verdict) -> bool| {
            rung.properties.iter().filter(|it| filter(it.verdict)).count()
        };
        let held = count(&|verdict| verdict == Verdict::Holds);
        let all = count(&|verdict| verdict != Verdict::NotRun);
        let text = match all {
            0 => format!("{} not run", rung.name),
            _ => format!("{} {held} of {all}", rung.name),
        };
        match all {
            0 => style::dim(&text),
            _ if held == all => style::success(&text),
            _ => style::failure(&text),
        }
    };
    let rungs: Vec<_> = grade.rungs.iter().map(rung).collect();
    format!("Rungs: {}", rungs.join(" · "))
}

/// Returns the keys to continue with after an attempt has passed.
fn next_keys(
    grade: &Grade,
    exercise: &Exercise,
    next: Option<&Exercise>,
) -> Vec<String> {
    let mut text = skipped(grade).trim_start().to_owned();
    if !text.is_empty() {
        text.push('\n');
    }
    text += "c compares your file with the answer and its variants.\n";
    text += &match next {
        Some(next) => format!(
            "n opens the next exercise, {}: {} ({} minutes).\n",
            next.id(),
            next.spec.title,
            next.spec.minutes
        ),
        None => format!("{}.\n", current::all_pass()),
    };
    let notes = exercise.notes();
    let shown = notes.strip_prefix(exercise.root()).unwrap_or(&notes);
    let shown = style::link(&notes, &shown.display().to_string());
    let _ = writeln!(text, "o serves the notes: {shown}");
    text.lines().map(str::to_owned).collect()
}

/// Shortens a message to at most `room` lines. Cuts out the middle of its parts,
/// of the longest ones first. Each heading stays with the lines below it.
fn shortened(lines: &[String], room: usize) -> Vec<String> {
    if lines.len() <= room {
        return lines.to_vec();
    }
    let parts: Vec<_> =
        lines.chunk_by(|a, b| !is_heading(a) && !is_heading(b)).collect();
    let fits = |most: &usize| {
        parts.iter().map(|part| part.len().min(*most)).sum::<usize>() <= room
    };
    if let Some(most) = (1..=room).rev().find(fits) {
        let shorter = |part: &[String]| without_middle(part, most);
        return parts.into_iter().flat_map(shorter).collect();
    }
    let headings = lines.iter().filter(|line| is_heading(line)).cloned();
    let mut short: Vec<_> = headings.take(room - 1).collect();
    short.push(left_out(lines.len() - short.len()));
    short
}

/// Returns whether `line` is a heading, such as `expected:`, or a side of
/// `assert_eq!`.
fn is_heading(line: &str) -> bool {
    let line = console::strip_ansi_codes(line);
    let line = line.trim();
    let sides = ["seen:", "expected:", "must not be:"];
    line.ends_with(':') || sides.iter().any(|side| line.starts_with(side))
}

/// Cuts out the middle if there are more than `room` lines. One line tells how
/// many are left out.
fn without_middle(lines: &[String], room: usize) -> Vec<String> {
    if lines.len() <= room {
        return lines.to_vec();
    }
    let end = (room - 1) / 2;
    let start = room - 1 - end;
    let mut short = lines[..start].to_vec();
    short.push(left_out(lines.len() - start - end));
    short.extend_from_slice(&lines[lines.len() - end..]);
    short
}

fn left_out(lines: usize) -> String {
    style::dim(&format!("{:15}… {lines} lines …", ""))
}

/// Cuts `lines` at `rows`. The last line tells which key shows the rest.
fn fit(mut lines: Vec<String>, rows: usize) -> Vec<String> {
    if lines.len() > rows {
        let left_out = lines.len() - rows + 1;
        lines.truncate(rows.saturating_sub(1));
        lines
            .push(style::dim(&format!("… {left_out} more lines: a shows all")));
    }
    lines
}

fn heading(grade: &Grade, exercise: &Exercise) -> String {
    let name = format!("{}: {}", exercise.id(), exercise.spec.title);
    let seconds = style::dim(&format!("({:.1} s)", grade.seconds));
    format!("{}  {} {seconds}", style::bold(&name), outcome(grade))
}

/// Returns the outcome in a few words.
pub(crate) fn outcome(grade: &Grade) -> String {
    let (rung, of) = grade.rung();
    match grade.outcome {
        Outcome::Passes => {
            let servers = missing_servers(grade).join(", ");
            let without = if servers.is_empty() { "" } else { ", without " };
            style::success(&format!("passes{without}{servers}"))
        }
        Outcome::Wrong => {
            style::failure(&format!("fails at rung {rung} of {of}"))
        }
        Outcome::Hangs => {
            style::failure(&format!("HANGS at rung {rung} of {of}"))
        }
        Outcome::DoesNotCompile => style::failure("does not compile"),
    }
}

fn line(property: &Property) -> String {
    let (word, paint): (_, fn(&str) -> String) = match property.verdict {
        Verdict::Holds => ("holds", style::success),
        Verdict::Broken => ("BROKEN", style::failure),
        Verdict::Hangs => ("HANGS", style::failure),
        Verdict::NotYetWritten => ("todo", style::pending),
        Verdict::NotRun | Verdict::NotReached => ("not run", style::dim),
    };
    let sentence = style::wrap(&property.sentence, 13);
    format!("    {}{}", style::pad(&paint(word), 9), &sentence[13..])
}

/// Returns at most `message_lines` of the message, where it happened, and the last
/// `output_lines` of the output.
fn details(
    property: &Property,
    message_lines: usize,
    output_lines: usize,
) -> String {
    let mut text = String::new();
    let message = property.message.replacen("not yet implemented: ", "", 1);
    let message = style::wrap(&message, 15);
    let lines: Vec<_> = message.lines().map(str::to_owned).collect();
    for line in shortened(&lines, message_lines) {
        let _ = writeln!(text, "{line}");
    }
    if let Some(at) = &property.at {
        let _ = writeln!(text, "{:15}{}", "", style::dim(at));
    }
    let lines: Vec<_> = property.printed.lines().collect();
    if !lines.is_empty() {
        let _ = writeln!(text, "{:15}{}", "", style::dim("printed:"));
        let from = lines.len().saturating_sub(output_lines);
        if from > 0 {
            let _ = writeln!(text, "{:17}… {from} earlier lines …", "");
        }
        for line in &lines[from..] {
            text += &style::wrap(line, 17);
        }
    }
    text
}

/// Returns which tests were not run, and why.
fn skipped(grade: &Grade) -> String {
    let mut text = String::new();
    let verdicts = grade.properties().map(|property| property.verdict);
    match verdicts.filter(|it| *it == Verdict::NotReached).count() {
        0 => {}
        n => {
            let _ = writeln!(
                text,
                "\n{n} tests were not run, because others hang."
            );
        }
    }
    for server in missing_servers(grade) {
        let program = lab::servers::Program::named(server);
        let package = program.map_or(server, |program| program.debian);
        text.push('\n');
        text += &style::wrap(
            &format!(
                "Some tests need {server} (`apt-get install {package}`). They \
                 were not run; you can pass without them."
            ),
            0,
        );
    }
    text
}

fn missing_servers(grade: &Grade) -> Vec<&str> {
    let mut servers: Vec<_> = grade
        .properties()
        .filter(|property| property.verdict == Verdict::NotRun)
        .filter_map(|property| property.needs.as_deref())
        .collect();
    servers.sort_unstable();
    servers.dedup();
    servers
}

fn next(grade: &Grade, exercise: &Exercise) -> String {
    let name = &exercise.name;
    match grade.outcome {
        Outcome::Passes => format!(
            "Next: `cargo wb compare {name}` compares your file with the \
             answer.\nThen: `cargo wb` shows the next exercise.\n"
        ),
        Outcome::Wrong | Outcome::Hangs | Outcome::DoesNotCompile => {
            format!(
                "Next: edit {}, then `cargo wb check {name}`.\nStuck? \
                 `cargo wb hint {name}`\n",
                attempt(exercise)
            )
        }
    }
}

/// Returns a link to the file of the attempt.
pub(crate) fn attempt(exercise: &Exercise) -> String {
    let file = exercise.attempt();
    let shown = file.strip_prefix(exercise.root()).unwrap_or(&file);
    style::link(&file, &shown.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::shortened;

    fn short(text: &str, room: usize) -> String {
        let lines: Vec<_> = text.split(' ').map(str::to_owned).collect();
        let short = shortened(&lines, room);
        assert!(short.len() <= room, "{short:?}");
        short.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_message_that_fits_is_not_shortened() {
        assert_eq!(short("a expected: 1 seen: 2", 5), "a expected: 1 seen: 2");
    }

    #[test]
    fn a_long_message_loses_its_middle() {
        assert_eq!(short("a b c d e f g", 4), "a b … 4 lines … g");
    }

    #[test]
    fn a_heading_keeps_the_lines_below_it() {
        let long = "1 2 3 4 5 6 7 8 9";
        assert_eq!(
            short(&format!("a expected: {long} seen: b c {long}"), 10),
            "a expected: 1 … 7 lines … 9 seen: b … 9 lines … 9"
        );
        assert_eq!(
            short(&format!("{long} seen: {long} expected: {long}"), 5),
            "… 9 lines … seen: … 9 lines … expected: … 9 lines …"
        );
    }

    #[test]
    fn headings_are_cut_last() {
        assert_eq!(
            short("a seen: expected: at", 3),
            "seen: expected: … 2 lines …"
        );
        assert_eq!(short("a: b: c: d: e: f:", 3), "a: b: … 4 lines …");
    }
}
