//! `doctor`: checks that this machine has the programs that the workbook uses.

use std::env;
use std::fmt::Write;
use std::fs;
use std::process::Command;
use std::time::Duration;

use lab::servers::{PROGRAMS, Program};
use workbook::Workbook;

use crate::error::Error;
use crate::grading::compile::cargo;
use crate::grading::process::Group;
use crate::terminal::style;

/// The deadline for a program to print its version.
const DEADLINE: Duration = Duration::from_secs(20);

/// The command that installs cc and make on macOS.
const XCODE: &str = "xcode-select --install";

/// A program, and its version or path.
struct Check {
    name: &'static str,
    result: Result<String, Problem>,
}

struct Problem {
    /// `missing` or `too old`.
    summary: &'static str,
    /// The command that fixes it.
    fix: String,
}

/// Returns exit code 1 if a program is missing that every command needs.
pub(crate) fn doctor(book: &Workbook) -> Result<u8, Error> {
    let needed = [
        rust(book),
        tool("cc", ["apt-get install gcc libc6-dev", "dnf install gcc", XCODE]),
        tool("make", ["apt-get install make", "dnf install make", XCODE]),
    ];
    let servers: Vec<_> = PROGRAMS.iter().map(server).collect();
    let component = |name, fix: &str| Check {
        name,
        result: version(cargo(book).args([name, "--version"]))
            .ok_or_else(|| missing(fix)),
    };
    let components = [
        component("fmt", "`rustup component add rustfmt`"),
        component("clippy", "`rustup component add clippy`"),
    ];

    let mut text = String::new();
    group("Needed for everything", &needed, &mut text);
    group("For tests that need a server", &servers, &mut text);
    group("Only for `cargo wb verify`", &components, &mut text);
    let problems: Vec<_> =
        needed.iter().filter_map(|it| it.result.as_ref().err()).collect();
    let is_ready = problems.is_empty();
    if is_ready {
        let _ = writeln!(
            text,
            "{}",
            style::success("Everything that is needed is installed.")
        );
    } else {
        text.push_str("Fix this first:\n");
        for problem in problems {
            let _ = writeln!(text, "  {}", problem.fix);
        }
    }
    style::print(&text);
    Ok(u8::from(!is_ready))
}

fn group(title: &str, checks: &[Check], text: &mut String) {
    let _ = writeln!(text, "{}", style::bold(title));
    for Check { name, result } in checks {
        let (mark, detail) = match result {
            Ok(found) => (style::success("ok"), found),
            Err(problem) => (style::pending(problem.summary), &problem.fix),
        };
        let _ = writeln!(text, "  {name:13} {} {detail}", style::pad(&mark, 8));
    }
    text.push('\n');
}

/// Checks that cargo is not older than the `rust-version` of the workspace.
fn rust(book: &Workbook) -> Check {
    let wanted = wanted_rust(book);
    let result = match version(cargo(book).arg("--version")) {
        Some(found) if is_at_least(&found, &wanted) => Ok(found),
        Some(found) => Err(Problem {
            summary: "too old",
            fix: format!(
                "`rustup update stable`: {wanted} is needed, found {found}"
            ),
        }),
        None => Err(missing("https://rustup.rs")),
    };
    Check { name: "Rust", result }
}

fn tool(name: &'static str, installs: [&str; 3]) -> Check {
    let found = version(Command::new(name).arg("--version"));
    Check { name, result: found.ok_or_else(|| missing(install(installs))) }
}

fn server(program: &Program) -> Check {
    let found = program.find().map(|file| file.display().to_string());
    let installs = [
        format!("apt-get install {}", program.debian),
        format!("dnf install {}", program.fedora),
        format!("brew install {}", program.homebrew),
    ];
    let installs = installs.each_ref().map(String::as_str);
    let result = found.ok_or_else(|| missing(install(installs)));
    Check { name: program.name, result }
}

fn missing(fix: impl Into<String>) -> Problem {
    Problem { summary: "missing", fix: fix.into() }
}

/// Returns the command for the package manager of this machine, or else all three
/// commands.
fn install([debian, fedora, homebrew]: [&str; 3]) -> String {
    let commands = [("apt-get", debian), ("dnf", fedora), ("brew", homebrew)];
    match commands.iter().find(|(manager, _)| is_on_path(manager)) {
        Some((_, command)) => format!("`{command}`"),
        None => format!("`{debian}`, `{fedora}` or `{homebrew}`"),
    }
}

fn is_on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Returns the first line that `command` prints, if it succeeds.
fn version(command: &mut Command) -> Option<String> {
    let output = Group::piped(command).ok()?.output(DEADLINE);
    let text = output.status?.success().then_some(output.stdout)?;
    Some(text.lines().next()?.trim().to_owned())
}

/// Returns the `rust-version` of the workspace, such as `1.95`.
fn wanted_rust(book: &Workbook) -> String {
    let text = fs::read_to_string(book.root.join("Cargo.toml"));
    let table: toml::Table =
        toml::from_str(&text.unwrap_or_default()).unwrap_or_default();
    let version = table
        .get("workspace")
        .and_then(|it| it.get("package")?.get("rust-version")?.as_str());
    version.unwrap_or("1").to_owned()
}

/// Returns whether a version, such as `cargo 1.95.0 (f2d3ce0bd 2026-03-21)`, is at
/// least `wanted`, such as `1.95`.
fn is_at_least(cargo: &str, wanted: &str) -> bool {
    let numbers = |version: &str| -> Vec<u32> {
        let digits = version.split(['.', '-']);
        digits.map_while(|number| number.parse().ok()).collect()
    };
    let version = cargo.split(' ').nth(1).unwrap_or_default();
    numbers(version) >= numbers(wanted)
}

#[cfg(test)]
mod tests {
    use super::is_at_least;

    #[test]
    fn versions_are_compared_by_number() {
        let cargo = "cargo 1.95.0 (f2d3ce0bd 2026-03-21)";
        assert!(is_at_least(cargo, "1.95"));
        assert!(is_at_least(cargo, "1.9"));
        assert!(!is_at_least(cargo, "1.96"));
        assert!(!is_at_least(cargo, "2.0"));
        assert!(is_at_least("cargo 1.100.0-nightly (x)", "1.95"));
        assert!(!is_at_least("cargo", "1.95"));
    }
}
