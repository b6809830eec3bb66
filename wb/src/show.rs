//! A grade as a reader sees it: rung by rung, and what to do next.

use std::fmt::Write;

use crate::grade::{Grade, Outcome, Property};
use crate::run::Verdict;
use crate::term;
use crate::workbook::Exercise;

/// How many lines of one message, and of what the attempt printed.
const MESSAGE: usize = 14;
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
    for rung in &grade.rungs {
        let _ = writeln!(text, "\n  {}", term::bold(&rung.name));
        for property in &rung.properties {
            text += &line(property);
            if is_next
                && property.verdict.fails()
                && said != Some(&property.message)
            {
                text += &details(property);
                said = Some(&property.message);
            }
        }
        is_next &= rung.is_climbed();
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
        Outcome::Passes => term::good("passes"),
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
        Verdict::NotRun => ("not run", term::dim),
    };
    let sentence = term::wrap(&property.sentence, 13);
    format!("    {}{}", term::pad(&paint(word), 9), &sentence[13..])
}

fn details(property: &Property) -> String {
    let mut text = String::new();
    let message = property.message.replacen("not yet implemented: ", "", 1);
    let lines: Vec<_> = message.lines().collect();
    for line in lines.iter().take(MESSAGE) {
        text += &term::wrap(line, 15);
    }
    if lines.len() > MESSAGE {
        let more = lines.len() - MESSAGE;
        let _ = writeln!(text, "{:15}… and {more} lines more", "");
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
    let not_run: Vec<_> = grade
        .properties()
        .filter(|property| property.verdict == Verdict::NotRun)
        .collect();
    if grade.outcome == Outcome::Hangs && !not_run.is_empty() {
        return "\nWhat comes after two that hang is not run.\n".to_owned();
    }
    let needs = not_run.iter().filter_map(|property| property.needs.as_deref());
    let mut servers: Vec<_> = needs.collect();
    servers.sort_unstable();
    servers.dedup();
    let mut text = String::new();
    for server in servers {
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

fn next(grade: &Grade, exercise: &Exercise) -> String {
    let name = &exercise.name;
    match grade.outcome {
        Outcome::Passes => format!(
            "Next: `cargo wb compare {name}` shows the answer beside yours.\n\
             Then: `cargo wb` shows what comes next.\n"
        ),
        Outcome::Wrong | Outcome::Hangs | Outcome::DoesNotCompile => {
            format!(
                "Next: edit {}, then `cargo wb check`.\nStuck? `cargo wb \
                 hint {name}`\n",
                term::link(
                    &exercise.attempt(),
                    &format!("attempts/{}.rs", exercise.id())
                )
            )
        }
    }
}
