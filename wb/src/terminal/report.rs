//! A grade as a reader sees it: rung by rung, and what to do next.

use std::fmt::Write;

use workbook::Exercise;

use crate::grading::grade::{Grade, Outcome, Rung};
use crate::grading::properties::Property;
use crate::grading::run::Verdict;
use crate::terminal::style;

/// How many lines of a message the report shows. One screen shows as many as
/// there is room for.
const MESSAGE: usize = 60;

/// How many lines of what the attempt printed: on one screen, and in the report.
const PRINTED: (usize, usize) = (10, 200);

/// The whole report. Messages stop at the first rung that is not climbed: what
/// is above it rests on it.
pub(crate) fn report(grade: &Grade, exercise: &Exercise) -> String {
    format!("{}\n{}", findings(grade, exercise), next(grade, exercise))
}

/// The report, without what to do next.
pub(crate) fn findings(grade: &Grade, exercise: &Exercise) -> String {
    let mut text = format!("{}\n", heading(grade, exercise));
    if let Some(compiler) = &grade.compiler {
        let _ = write!(text, "\n{}\n", compiler.trim_end());
        return text;
    }
    let mut is_next = true;
    let mut said = None;
    let mut later = 0;
    for rung in &grade.rungs {
        let _ = writeln!(text, "\n  {}", style::bold(&rung.name));
        for property in &rung.properties {
            text += &line(property);
            if property.verdict == Verdict::NotRun {
                for why in style::wrap(&property.message, 15).lines() {
                    let _ = writeln!(text, "{}", style::dim(why));
                }
            } else if !is_next || !property.verdict.fails() {
                later += usize::from(property.verdict == Verdict::Broken);
            } else if said == Some(&property.message) {
                text += &style::dim(&format!("{:15}as above\n", ""));
            } else {
                text += &details(property, MESSAGE, PRINTED.1);
                said = Some(&property.message);
            }
        }
        is_next &= rung.is_climbed();
    }
    if later > 0 {
        let (rung, _) = grade.rung();
        let name = &grade.rungs[rung - 1].name;
        let _ = writeln!(
            text,
            "\nWhy the others are broken is shown once `{name}` holds."
        );
    }
    text += &not_run(grade);
    if let Some(foil) = &grade.like_foil {
        let _ = writeln!(
            text,
            "\nThis fails like a known mistake, “{}”. It may be another one:",
            foil.name
        );
        text += &style::wrap(&foil.lesson, 2);
        text += &style::wrap(&format!("What tempts: {}", foil.tempts), 2);
    }
    text
}

/// The same on one screen of `rows` lines: how far it came, the first property
/// that does not hold, and why.
pub(crate) fn screen(
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
    lines.extend(style::wrap(&climbed(grade), 0).lines().map(str::to_owned));
    lines.push(String::new());
    let (rung, _) = grade.rung();
    let rung = &grade.rungs[rung - 1];
    let is_stuck = |property: &&Property| property.verdict.fails();
    let Some(first) = rung.properties.iter().find(is_stuck) else {
        lines.extend(passes(grade, exercise, next));
        return fit(lines, rows);
    };
    lines.push(line(first).trim_end().to_owned());
    let foil = grade.like_foil.as_ref().map_or_else(Vec::new, |foil| {
        let text = format!(
            "It fails like a known mistake, “{}”. It may be another one. {}",
            foil.name, foil.lesson
        );
        let text = style::wrap(&text, 0);
        std::iter::once("").chain(text.lines()).map(str::to_owned).collect()
    });
    let next = format!("Next: edit {}, and save it.", attempt(exercise));
    // The message gives way to the foil, and the others to the message.
    let kept = lines.len() + foil.len() + 2;
    let room = rows.saturating_sub(kept).max(3);
    let details = details(first, usize::MAX, PRINTED.0);
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
        lines.push(format!("Also in `{}`:", rung.name));
        lines.extend(others);
    }
    fit(lines, rows)
}

/// The rungs, each with how many of its properties hold.
fn climbed(grade: &Grade) -> String {
    let rung = |rung: &Rung| {
        let count = |is: &dyn Fn(Verdict) -> bool| {
            rung.properties.iter().filter(|it| is(it.verdict)).count()
        };
        let held = count(&|verdict| verdict == Verdict::Holds);
        let all = count(&|verdict| verdict != Verdict::NotRun);
        let text = match all {
            0 => format!("{} not run", rung.name),
            _ => format!("{} {held} of {all}", rung.name),
        };
        match all {
            0 => style::dim(&text),
            _ if held == all => style::good(&text),
            _ => style::bad(&text),
        }
    };
    grade.rungs.iter().map(rung).collect::<Vec<_>>().join(" · ")
}

fn passes(
    grade: &Grade,
    exercise: &Exercise,
    next: Option<&Exercise>,
) -> Vec<String> {
    let mut text = not_run(grade).trim_start().to_owned();
    if !text.is_empty() {
        text.push('\n');
    }
    text += "c compares yours with the answer, and with other right ones.\n";
    text += &match next {
        Some(next) => format!(
            "n goes on: {}: {} ({} minutes).\n",
            next.id(),
            next.spec.title,
            next.spec.minutes
        ),
        None => "That was the last one on this path. `cargo wb path all` may \
                 have more.\n"
            .to_owned(),
    };
    let notes = exercise.notes();
    let shown = notes.strip_prefix(exercise.root()).unwrap_or(&notes);
    let shown = style::link(&notes, &shown.display().to_string());
    let _ = writeln!(text, "o opens the notes: {shown}");
    text.lines().map(str::to_owned).collect()
}

/// At most `room` lines. What an assertion shows stays below its heading, and
/// each part gives way in its middle, the longest first.
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

/// `expected:`, or what `assert_eq!` says of both sides.
fn is_heading(line: &str) -> bool {
    let line = console::strip_ansi_codes(line);
    let line = line.trim();
    line.ends_with(':')
        || line.starts_with("left:")
        || line.starts_with("right:")
}

/// At most `room` lines, of which one says how many there are more.
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

/// What there is no room for is one key away.
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

/// In a word or two.
pub(crate) fn outcome(grade: &Grade) -> String {
    let (rung, of) = grade.rung();
    match grade.outcome {
        Outcome::Passes => {
            let servers = missing_servers(grade).join(", ");
            let without = if servers.is_empty() { "" } else { ", without " };
            style::good(&format!("passes{without}{servers}"))
        }
        Outcome::Wrong => style::bad(&format!("rung {rung} of {of}")),
        Outcome::Hangs => style::bad(&format!("HANGS, rung {rung} of {of}")),
        Outcome::DoesNotCompile => style::bad("does not compile"),
    }
}

fn line(property: &Property) -> String {
    let (word, paint): (_, fn(&str) -> String) = match property.verdict {
        Verdict::Holds => ("holds", style::good),
        Verdict::Broken => ("BROKEN", style::bad),
        Verdict::Hangs => ("HANGS", style::bad),
        Verdict::NotYetWritten => ("todo", style::open),
        Verdict::NotRun | Verdict::NotReached => ("not run", style::dim),
    };
    let sentence = style::wrap(&property.sentence, 13);
    format!("    {}{}", style::pad(&paint(word), 9), &sentence[13..])
}

/// At most so many lines of the message, and of what was printed.
fn details(property: &Property, message: usize, printed: usize) -> String {
    let mut text = String::new();
    let said = property.message.replacen("not yet implemented: ", "", 1);
    let said = style::wrap(&said, 15);
    let lines: Vec<_> = said.lines().map(str::to_owned).collect();
    for line in shortened(&lines, message) {
        let _ = writeln!(text, "{line}");
    }
    if let Some(at) = &property.at {
        let _ = writeln!(text, "{:15}{}", "", style::dim(at));
    }
    let lines: Vec<_> = property.printed.lines().collect();
    if !lines.is_empty() {
        let _ = writeln!(text, "{:15}{}", "", style::dim("it printed:"));
        let from = lines.len().saturating_sub(printed);
        if from > 0 {
            let _ = writeln!(text, "{:17}… {from} lines before these …", "");
        }
        for line in &lines[from..] {
            text += &style::wrap(line, 17);
        }
    }
    text
}

/// What is missing here, and that it stands in nobody's way.
fn not_run(grade: &Grade) -> String {
    let mut text = String::new();
    let verdicts = grade.properties().map(|property| property.verdict);
    match verdicts.filter(|it| *it == Verdict::NotReached).count() {
        0 => {}
        n => {
            let _ = writeln!(text, "\n{n} were not run, since two hung.");
        }
    }
    for server in missing_servers(grade) {
        let program = lab::servers::Program::named(server);
        let package = program.map_or(server, |program| program.debian);
        text.push('\n');
        text += &style::wrap(
            &format!(
                "Not run, and not needed to pass: what needs {server} \
                 (`apt-get install {package}`)."
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
            "Next: `cargo wb compare {name}` shows the answer beside yours.\n\
             Then: `cargo wb` shows what comes next.\n"
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

/// The reader's file, to click on.
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
    fn what_fits_is_not_shortened() {
        assert_eq!(short("a expected: 1 seen: 2", 5), "a expected: 1 seen: 2");
    }

    #[test]
    fn a_message_gives_way_in_its_middle() {
        assert_eq!(short("a b c d e f g", 4), "a b … 4 lines … g");
    }

    #[test]
    fn a_heading_stays_with_what_stands_below_it() {
        let long = "1 2 3 4 5 6 7 8 9";
        assert_eq!(
            short(&format!("a expected: {long} seen: b c {long}"), 10),
            "a expected: 1 … 7 lines … 9 seen: b … 9 lines … 9"
        );
        assert_eq!(
            short(&format!("{long} left: {long} right: {long}"), 5),
            "… 9 lines … left: … 9 lines … right: … 9 lines …"
        );
    }

    #[test]
    fn all_plain_lines_give_way_before_a_heading_does() {
        assert_eq!(short("a left: right: at", 3), "left: right: … 2 lines …");
        assert_eq!(short("a: b: c: d: e: f:", 3), "a: b: … 4 lines …");
    }
}
