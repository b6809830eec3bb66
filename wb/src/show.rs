//! A grade as a reader sees it: rung by rung, and what to do next.

use std::fmt::Write;

use crate::grade::{Grade, Outcome, Property, Rung};
use crate::run::Verdict;
use crate::term;
use crate::workbook::Exercise;

/// How many lines of a message: from its start, and up to its end, where an
/// assertion shows what it expected.
const MESSAGE: (usize, usize) = (8, 5);

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
        let _ = writeln!(text, "\n  {}", term::bold(&rung.name));
        for property in &rung.properties {
            text += &line(property);
            if property.verdict == Verdict::NotRun {
                for why in term::wrap(&property.message, 15).lines() {
                    let _ = writeln!(text, "{}", term::dim(why));
                }
            } else if !is_next || !property.verdict.fails() {
                later += usize::from(property.verdict == Verdict::Broken);
            } else if said == Some(&property.message) {
                text += &term::dim(&format!("{:15}as above\n", ""));
            } else {
                text += &details(property, PRINTED.1);
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
        text += &term::wrap(&foil.lesson, 2);
        text += &term::wrap(&format!("What tempts: {}", foil.tempts), 2);
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
    lines.extend(term::wrap(&climbed(grade), 0).lines().map(str::to_owned));
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
        let text = term::wrap(&text, 0);
        std::iter::once("").chain(text.lines()).map(str::to_owned).collect()
    });
    let next = format!("Next: edit {}, and save it.", attempt(exercise));
    // The message gives way to the foil, and the others to the message.
    let kept = lines.len() + foil.len() + 2;
    let room = rows.saturating_sub(kept).max(3);
    let details = details(first, PRINTED.0);
    let details = details.lines().map(str::to_owned).collect();
    lines.extend(shortened(details, room));
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
            0 => term::dim(&text),
            _ if held == all => term::good(&text),
            _ => term::bad(&text),
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
    let shown = term::link(&notes, &shown.display().to_string());
    let _ = writeln!(text, "o opens the notes: {shown}");
    text.lines().map(str::to_owned).collect()
}

/// At most `room` lines, without what lies in the middle.
fn shortened(lines: Vec<String>, room: usize) -> Vec<String> {
    if lines.len() <= room {
        return lines;
    }
    let end = (room - 1) / 2;
    let start = room - 1 - end;
    let left_out = lines.len() - start - end;
    let mut short = lines[..start].to_vec();
    short.push(term::dim(&format!("{:15}… {left_out} lines …", "")));
    short.extend_from_slice(&lines[lines.len() - end..]);
    short
}

/// What there is no room for is one key away.
fn fit(mut lines: Vec<String>, rows: usize) -> Vec<String> {
    if lines.len() > rows {
        let left_out = lines.len() - rows + 1;
        lines.truncate(rows.saturating_sub(1));
        lines.push(term::dim(&format!("… {left_out} more lines: a shows all")));
    }
    lines
}

fn heading(grade: &Grade, exercise: &Exercise) -> String {
    let name = format!("{}: {}", exercise.id(), exercise.spec.title);
    let seconds = term::dim(&format!("({:.1} s)", grade.seconds));
    format!("{}  {} {seconds}", term::bold(&name), outcome(grade))
}

/// In a word or two.
pub(crate) fn outcome(grade: &Grade) -> String {
    let (rung, of) = grade.rung();
    match grade.outcome {
        Outcome::Passes => {
            let servers = missing_servers(grade).join(", ");
            let without = if servers.is_empty() { "" } else { ", without " };
            term::good(&format!("passes{without}{servers}"))
        }
        Outcome::Wrong => term::bad(&format!("rung {rung} of {of}")),
        Outcome::Hangs => term::bad(&format!("HANGS, rung {rung} of {of}")),
        Outcome::DoesNotCompile => term::bad("does not compile"),
    }
}

fn line(property: &Property) -> String {
    let (word, paint): (_, fn(&str) -> String) = match property.verdict {
        Verdict::Holds => ("holds", term::good),
        Verdict::Broken => ("BROKEN", term::bad),
        Verdict::Hangs => ("HANGS", term::bad),
        Verdict::NotYetWritten => ("todo", term::open),
        Verdict::NotRun | Verdict::NotReached => ("not run", term::dim),
    };
    let sentence = term::wrap(&property.sentence, 13);
    format!("    {}{}", term::pad(&paint(word), 9), &sentence[13..])
}

fn details(property: &Property, most: usize) -> String {
    let mut text = String::new();
    let message = property.message.replacen("not yet implemented: ", "", 1);
    let lines: Vec<_> = message.lines().collect();
    let (first, last) = MESSAGE;
    if lines.len() <= first + last + 1 {
        lines.iter().for_each(|line| text += &term::wrap(line, 15));
    } else {
        let (start, rest) = lines.split_at(first);
        let (middle, end) = rest.split_at(rest.len() - last);
        start.iter().for_each(|line| text += &term::wrap(line, 15));
        let _ = writeln!(text, "{:15}… {} lines …", "", middle.len());
        end.iter().for_each(|line| text += &term::wrap(line, 15));
    }
    if let Some(at) = &property.at {
        let _ = writeln!(text, "{:15}{}", "", term::dim(at));
    }
    let printed: Vec<_> = property.printed.lines().collect();
    if !printed.is_empty() {
        let _ = writeln!(text, "{:15}{}", "", term::dim("it printed:"));
        let from = printed.len().saturating_sub(most);
        if from > 0 {
            let _ = writeln!(text, "{:17}… {from} lines before these …", "");
        }
        for line in &printed[from..] {
            text += &term::wrap(line, 17);
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
        text += &term::wrap(
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
    term::link(&file, &shown.display().to_string())
}
