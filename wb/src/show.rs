//! A grade as a reader sees it: rung by rung, and what to do next.

use std::fmt::Write;

use crate::grade::{Grade, Outcome, Property};
use crate::run::Verdict;
use crate::term;
use crate::workbook::Exercise;

/// How many lines of a message: from its start, and up to its end, where an
/// assertion shows what it expected.
const MESSAGE: (usize, usize) = (8, 5);

/// How many lines of what the attempt printed.
const PRINTED: usize = 10;

/// The whole report. Messages stop at the first rung that is not climbed: what
/// is above it rests on it.
pub(crate) fn report(grade: &Grade, exercise: &Exercise) -> String {
    let mut text = format!("{}\n", heading(grade, exercise));
    if let Some(compiler) = &grade.compiler {
        let _ = write!(text, "\n{}\n\n", compiler.trim_end());
        text += &term::wrap(
            &format!(
                "It does not compile yet. `cargo wb hint {}` if the task is \
                 not clear.",
                exercise.name
            ),
            0,
        );
        return text;
    }
    let mut is_next = true;
    let mut said = None;
    let mut later = 0;
    for rung in &grade.rungs {
        let _ = writeln!(text, "\n  {}", term::bold(&rung.name));
        for property in &rung.properties {
            text += &line(property);
            if !is_next || !property.verdict.fails() {
                later += usize::from(property.verdict == Verdict::Broken);
            } else if said == Some(&property.message) {
                text += &term::dim(&format!("{:15}as above\n", ""));
            } else {
                text += &details(property);
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
            "\nThis fails like the foil “{}”. It may be something else:",
            foil.name
        );
        text += &term::wrap(&foil.lesson, 2);
        text += &term::wrap(&format!("What tempts: {}", foil.tempts), 2);
    }
    text.push('\n');
    text += &next(grade, exercise);
    text
}

fn heading(grade: &Grade, exercise: &Exercise) -> String {
    let (rung, of) = grade.rung();
    let outcome = match grade.outcome {
        Outcome::Passes => {
            let servers = missing_servers(grade).join(", ");
            let without = if servers.is_empty() { "" } else { ", without " };
            term::good(&format!("passes{without}{servers}"))
        }
        Outcome::Wrong => term::bad(&format!("rung {rung} of {of}")),
        Outcome::Hangs => term::bad(&format!("HANGS, rung {rung} of {of}")),
        Outcome::DoesNotCompile => term::bad("does not compile"),
    };
    let name = format!("{}: {}", exercise.id(), exercise.spec.title);
    let seconds = term::dim(&format!("({:.1} s)", grade.seconds));
    format!("{}  {outcome} {seconds}", term::bold(&name))
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

fn details(property: &Property) -> String {
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
        let from = printed.len().saturating_sub(PRINTED);
        for line in &printed[from..] {
            text += &term::wrap(line, 17);
        }
    }
    text
}

/// What is missing here, and that it stands in nobody's way.
fn not_run(grade: &Grade) -> String {
    let mut text = String::new();
    if grade.properties().any(|p| p.verdict == Verdict::NotReached) {
        text.push_str("\nWhat comes after two that hang is not run.\n");
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
