//! `doctor`: what this machine has of what the workbook uses.

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use lab::servers::PROGRAMS;

use crate::compile::cargo;
use crate::process::Group;
use crate::term;
use crate::trouble::Trouble;
use crate::workbook::Workbook;

/// A program that only says its version.
const DEADLINE: Duration = Duration::from_secs(20);

/// Programs that everything needs, what they are for, and how one gets them.
const TOOLS: [(&str, &str, Packages); 2] = [
    (
        "cc",
        "a C compiler, for SQLite",
        Packages {
            debian: "gcc libc6-dev",
            fedora: "gcc",
            homebrew: Err("xcode-select --install"),
        },
    ),
    (
        "make",
        "for what is built from C",
        Packages {
            debian: "make",
            fedora: "make",
            homebrew: Err("xcode-select --install"),
        },
    ),
];

/// What to install.
#[derive(Debug, Clone, Copy)]
struct Packages {
    debian: &'static str,
    fedora: &'static str,
    /// Or what to type instead.
    homebrew: Result<&'static str, &'static str>,
}

/// Exit code 1 where something is missing that everything needs.
pub(crate) fn doctor(book: &Workbook) -> Result<u8, Trouble> {
    let mut text = format!("{}\n", term::bold("Needed for everything"));
    let mut missing = Vec::new();
    let wanted = wanted_rust(book);
    match version(cargo(book).arg("--version")) {
        Some(found) if is_at_least(&found, &wanted) => {
            row(&mut text, "Rust", &found, &format!("{wanted} or newer"));
        }
        Some(found) => {
            let mend = "rustup update stable".to_owned();
            lacks(&mut text, "Rust", &format!("{found} is too old"), &mend);
            missing.push(mend);
        }
        None => {
            let mend = "https://rustup.rs".to_owned();
            lacks(&mut text, "Rust", "cargo does not start", &mend);
            missing.push(mend);
        }
    }
    for (program, purpose, packages) in TOOLS {
        match version(Command::new(program).arg("--version")) {
            Some(found) => row(&mut text, program, &found, purpose),
            None => {
                let mend = packages.mend();
                lacks(&mut text, program, &format!("no {program}"), &mend);
                missing.push(mend);
            }
        }
    }

    let _ = writeln!(
        text,
        "\n{}",
        term::bold(
            "For tests that ask for a real server, and wait without one"
        )
    );
    for program in PROGRAMS {
        if let Some(file) = program.find() {
            row(&mut text, program.name, &file.display().to_string(), "");
        } else {
            let packages = Packages {
                debian: program.debian,
                fedora: program.fedora,
                homebrew: Ok(program.homebrew),
            };
            lacks(&mut text, program.name, "not here", &packages.mend());
        }
    }

    let _ = writeln!(text, "\n{}", term::bold("For `cargo wb verify` alone"));
    for tool in ["clippy", "fmt"] {
        match version(cargo(book).args([tool, "--version"])) {
            Some(found) => row(&mut text, tool, &found, ""),
            None => lacks(
                &mut text,
                tool,
                "not here",
                &format!(
                    "rustup component add {}",
                    match tool {
                        "fmt" => "rustfmt",
                        other => other,
                    }
                ),
            ),
        }
    }

    text.push('\n');
    let all_is_well = missing.is_empty();
    text += &if all_is_well {
        format!("{}\n", term::good("All that is needed is here."))
    } else {
        format!("First of all: `{}`\n", missing.join("`, `"))
    };
    term::print(&text);
    Ok(u8::from(!all_is_well))
}

fn row(text: &mut String, name: &str, found: &str, purpose: &str) {
    let mark = term::good("ok");
    let line = format!("  {name:13} {mark}       {found}");
    let purpose = if purpose.is_empty() {
        String::new()
    } else {
        format!("  ({purpose})")
    };
    let _ = writeln!(text, "{line}{}", term::dim(&purpose));
}

fn lacks(text: &mut String, name: &str, what: &str, mend: &str) {
    let mark = term::open("missing");
    let _ = writeln!(text, "  {name:13} {mark}  {what}: `{mend}`");
}

impl Packages {
    /// For the package manager that is here, or for all three.
    fn mend(&self) -> String {
        let brew = match self.homebrew {
            Ok(formula) => format!("brew install {formula}"),
            Err(other) => other.to_owned(),
        };
        let known = [
            ("apt-get", format!("apt-get install {}", self.debian)),
            ("dnf", format!("dnf install {}", self.fedora)),
            ("brew", brew),
        ];
        let here = known.iter().find(|(manager, _)| is_on_path(manager));
        match here {
            Some((_, mend)) => mend.clone(),
            None => known.map(|(_, mend)| mend).join("`, or `"),
        }
    }
}

fn is_on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// The first line of what it says, if it starts at all.
fn version(command: &mut Command) -> Option<String> {
    let output = Group::piped(command).ok()?.output(DEADLINE);
    let says = output.status?.success().then_some(output.stdout)?;
    Some(says.lines().next()?.trim().to_owned())
}

/// What the workspace asks for: `1.95`.
fn wanted_rust(book: &Workbook) -> String {
    let file: PathBuf = book.root.join("Cargo.toml");
    let text = fs::read_to_string(file).unwrap_or_default();
    let table: toml::Table = toml::from_str(&text).unwrap_or_default();
    let version = table
        .get("workspace")
        .and_then(|it| it.get("package")?.get("rust-version")?.as_str());
    version.unwrap_or("1.0").to_owned()
}

/// `cargo 1.95.0 (f2d3ce0bd 2026-03-21)` is at least `1.95`.
fn is_at_least(says: &str, wanted: &str) -> bool {
    let numbers = |version: &str| -> Vec<u32> {
        let digits = version.split(['.', '-']);
        digits.map_while(|number| number.parse().ok()).collect()
    };
    let version = says.split(' ').nth(1).unwrap_or_default();
    numbers(version) >= numbers(wanted)
}

#[cfg(test)]
mod tests {
    use super::is_at_least;

    #[test]
    fn versions_are_compared_by_number() {
        let says = "cargo 1.95.0 (f2d3ce0bd 2026-03-21)";
        assert!(is_at_least(says, "1.95"));
        assert!(is_at_least(says, "1.9"));
        assert!(!is_at_least(says, "1.96"));
        assert!(!is_at_least(says, "2.0"));
        assert!(is_at_least("cargo 1.100.0-nightly (x)", "1.95"));
        assert!(!is_at_least("cargo", "1.95"));
    }
}
