//! Compiles the grader against one subject: the answer, a variant, the stub, a
//! foil or the reader's attempt.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;

use crate::process::Group;
use crate::trouble::Trouble;
use crate::workbook::{Exercise, Workbook};

#[derive(Debug)]
pub(crate) enum Compiled {
    Ready(Graders),
    /// What rustc says of the subject.
    Not {
        rendered: String,
    },
}

/// The test binaries.
#[derive(Debug, Default)]
pub(crate) struct Graders {
    pub(crate) tests: PathBuf,
    pub(crate) models: Option<PathBuf>,
}

/// A line of `cargo test --message-format json`.
#[derive(Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
enum Line {
    CompilerMessage {
        package_id: String,
        message: Message,
    },
    CompilerArtifact {
        target: Target,
        executable: Option<PathBuf>,
        fresh: bool,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Message {
    level: String,
    rendered: Option<String>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// `cargo`, as it was found.
pub(crate) fn cargo(book: &Workbook) -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(&book.root);
    command
}

/// Builds the graders of `exercise` over `subject`.
///
/// A build of more than a moment shows itself on `progress`.
pub(crate) fn graders(
    book: &Workbook,
    exercise: &Exercise,
    subject: &Path,
    progress: &ProgressBar,
) -> Result<Compiled, Trouble> {
    let format = if console::colors_enabled() {
        "json-diagnostic-rendered-ansi"
    } else {
        "json"
    };
    let mut command = cargo(book);
    command
        .args(["test", "--no-run", "--test", "grade"])
        .args(exercise.models().map(|_| "--test=loom"))
        .args(["--package", &exercise.package(), "--message-format", format])
        .env("WB_SUBJECT", format!("{}={}", exercise.name, subject.display()));
    progress.set_message(format!("compiling {}", exercise.id()));
    let mut build = Group::piped(&mut command)?;
    let stdout = BufReader::new(build.stdout());
    let stderr = build.stderr();
    // Where cargo says what is not about a crate: no network, no such package.
    let stderr = std::thread::spawn(move || {
        BufReader::new(stderr).lines().map_while(Result::ok).collect::<Vec<_>>()
    });

    let ours = format!("#{}@", exercise.package());
    let mut graders = Graders::default();
    let mut rendered = Vec::new();
    let mut elsewhere = Vec::new();
    let mut crates = 0;
    for line in stdout.lines().map_while(Result::ok) {
        match serde_json::from_str(&line).unwrap_or(Line::Other) {
            Line::CompilerMessage { package_id, message } => {
                let text = message.rendered.unwrap_or_default();
                if message.level != "error" || is_a_summary(&text) {
                    continue;
                }
                let is_ours = package_id.contains(&ours);
                let kept = if is_ours { &mut rendered } else { &mut elsewhere };
                // The grader and the models compile the same file.
                if !kept.contains(&text) {
                    kept.push(text);
                }
            }
            Line::CompilerArtifact { target, executable, fresh } => {
                if !fresh {
                    crates += 1;
                    progress.set_message(format!(
                        "building {} ({crates} done: {})",
                        exercise.week, target.name
                    ));
                }
                match (&*target.name, executable) {
                    ("grade", Some(file)) => graders.tests = file,
                    ("loom", Some(file)) => graders.models = Some(file),
                    _ => {}
                }
            }
            Line::Other => {}
        }
    }
    let status = build
        .wait()
        .map_err(|error| Trouble::new(format!("cannot wait: {error}")))?;
    let stderr = stderr.join().unwrap_or_default();

    if status.success() {
        return Ok(Compiled::Ready(graders));
    }
    if !rendered.is_empty() {
        // As a reader would type it, and short enough to read.
        let root = format!("{}/", book.root.display());
        let rendered = rendered.concat().replace(&root, "");
        return Ok(Compiled::Not { rendered });
    }
    Err(workbook_does_not_build(exercise, &elsewhere, &stderr))
}

/// "aborting due to 2 previous errors"
fn is_a_summary(text: &str) -> bool {
    console::strip_ansi_codes(text).starts_with("error: aborting due to")
}

/// `rustc` are errors in what is not graded, `cargo` is all that cargo says.
fn workbook_does_not_build(
    exercise: &Exercise,
    rustc: &[String],
    cargo: &[String],
) -> Trouble {
    let said = if rustc.is_empty() { cargo } else { rustc }.join("\n");
    let no_compiler = ["failed to find tool", "linker `cc` not found"];
    if no_compiler.iter().any(|sign| said.contains(sign)) {
        return Trouble::new("no C compiler").mend(
            "`apt-get install build-essential` (Fedora: gcc make; macOS: \
             `xcode-select --install`)",
        );
    }
    let no_network = ["download", "registry", "network", "index"];
    if rustc.is_empty() && no_network.iter().any(|sign| said.contains(sign)) {
        return Trouble::new(format!("cargo cannot fetch crates:\n{said}"))
            .mend("once with a network: `cargo fetch`");
    }
    Trouble::new(format!(
        "the workbook itself does not build; your attempt is untouched:\n{said}"
    ))
    .mend(format!("`cargo test -p {}` shows the same", exercise.week))
}

/// Shows that a build is going on: at once in a terminal, never in a pipe.
pub(crate) fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
    bar.set_style(style.expect("the template is right"));
    bar.enable_steady_tick(std::time::Duration::from_millis(100));
    bar
}
