//! `doctor`: what this machine has of what the workbook uses.

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

/// For a program that only says its version.
const DEADLINE: Duration = Duration::from_secs(20);

/// Comes with macOS's command line tools alone.
const XCODE: &str = "xcode-select --install";

/// One thing that is here, or what is wrong with it.
struct Finding {
    name: &'static str,
    is: Result<String, Lack>,
}

struct Lack {
    /// In two words.
    is: &'static str,
    /// What to do.
    mend: String,
}

/// Exit code 1 where something is missing that everything needs.
pub(crate) fn doctor(book: &Workbook) -> Result<u8, Error> {
    let needed = [
        rust(book),
        tool("cc", ["apt-get install gcc libc6-dev", "dnf install gcc", XCODE]),
        tool("make", ["apt-get install make", "dnf install make", XCODE]),
    ];
    let servers: Vec<_> = PROGRAMS.iter().map(server).collect();
    let component = |name, mend: &str| Finding {
        name,
        is: version(cargo(book).args([name, "--version"]))
            .ok_or_else(|| missing(mend)),
    };
    let checks = [
        component("fmt", "`rustup component add rustfmt`"),
        component("clippy", "`rustup component add clippy`"),
    ];

    let mut text = String::new();
    group("Needed for everything", &needed, &mut text);
    group("For the tests that ask for a server", &servers, &mut text);
    group("For `cargo wb verify` alone", &checks, &mut text);
    let mends: Vec<_> =
        needed.iter().filter_map(|it| it.is.as_ref().err()).collect();
    let all_is_well = mends.is_empty();
    if all_is_well {
        let _ =
            writeln!(text, "{}", style::good("All that is needed is here."));
    } else {
        text.push_str("First of all:\n");
        mends.iter().for_each(|lack| text += &format!("  {}\n", lack.mend));
    }
    style::print(&text);
    Ok(u8::from(!all_is_well))
}

fn group(title: &str, findings: &[Finding], text: &mut String) {
    let _ = writeln!(text, "{}", style::bold(title));
    for Finding { name, is } in findings {
        let (mark, is) = match is {
            Ok(found) => (style::good("ok"), found),
            Err(lack) => (style::open(lack.is), &lack.mend),
        };
        let _ = writeln!(text, "  {name:13} {} {is}", style::pad(&mark, 8));
    }
    text.push('\n');
}

/// Cargo, if it is not older than what the workspace asks for.
fn rust(book: &Workbook) -> Finding {
    let wanted = wanted_rust(book);
    let is = match version(cargo(book).arg("--version")) {
        Some(found) if is_at_least(&found, &wanted) => Ok(found),
        Some(found) => Err(Lack {
            is: "too old",
            mend: format!(
                "`rustup update stable`: {wanted} is needed, this is {found}"
            ),
        }),
        None => Err(missing("https://rustup.rs")),
    };
    Finding { name: "Rust", is }
}

fn tool(name: &'static str, mends: [&str; 3]) -> Finding {
    let found = version(Command::new(name).arg("--version"));
    Finding { name, is: found.ok_or_else(|| missing(mend(mends))) }
}

fn server(program: &Program) -> Finding {
    let found = program.find().map(|file| file.display().to_string());
    let mends = [
        format!("apt-get install {}", program.debian),
        format!("dnf install {}", program.fedora),
        format!("brew install {}", program.homebrew),
    ];
    let mends = mends.each_ref().map(String::as_str);
    let is = found.ok_or_else(|| missing(mend(mends)));
    Finding { name: program.name, is }
}

fn missing(mend: impl Into<String>) -> Lack {
    Lack { is: "missing", mend: mend.into() }
}

/// The one for the package manager that is here, or all three.
fn mend([debian, fedora, homebrew]: [&str; 3]) -> String {
    let ways = [("apt-get", debian), ("dnf", fedora), ("brew", homebrew)];
    match ways.iter().find(|(manager, _)| is_on_path(manager)) {
        Some((_, way)) => format!("`{way}`"),
        None => format!("`{debian}`, `{fedora}` or `{homebrew}`"),
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

/// `1.95`
fn wanted_rust(book: &Workbook) -> String {
    let text = fs::read_to_string(book.root.join("Cargo.toml"));
    let table: toml::Table =
        toml::from_str(&text.unwrap_or_default()).unwrap_or_default();
    let version = table
        .get("workspace")
        .and_then(|it| it.get("package")?.get("rust-version")?.as_str());
    version.unwrap_or("1").to_owned()
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
