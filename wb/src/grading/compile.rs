//! Builds the grader with one subject: the answer, a variant, the stub, a foil
//! or an attempt.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use workbook::{Exercise, Workbook};

use crate::error::Error;
use crate::grading::process::Group;
use crate::terminal::status::Status;
use crate::terminal::style;

/// Shown if an attempt compiles with the real types, and not with those of a
/// model checker.
const OF_MODELS: &str = "Your file compiles. For the rung `models`, it is compiled \
                         again: `crate::model_checked` has the types of a model \
                         checker then. They lack what the errors name, or your \
                         file mixes them with types of std or tokio.\n\n";

/// The outcome of a build of the graders.
#[derive(Debug)]
pub(crate) enum Compiled {
    Ready(Graders),
    /// The subject does not compile, with these errors of rustc.
    Not {
        rendered: String,
    },
}

/// The test binaries.
#[derive(Debug, Default)]
pub(crate) struct Graders {
    pub(crate) tests: PathBuf,
    pub(crate) models: Option<PathBuf>,
    /// The module with the tests, such as `s3`, if the binaries have those of
    /// several subjects.
    pub(crate) module: Option<String>,
    /// A shell command that starts the program to grade, instead of the subject.
    pub(crate) program: Option<String>,
}

/// A message of a cargo command with `--message-format json`.
#[derive(Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
enum Line {
    CompilerMessage {
        package_id: String,
        target: Target,
        message: Message,
    },
    CompilerArtifact {
        package_id: String,
        manifest_path: PathBuf,
        target: Target,
        profile: Profile,
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

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Returns a command that runs cargo at the root of the workbook.
pub(crate) fn cargo(book: &Workbook) -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(&book.root);
    command
}

/// Returns a command that runs cargo with a low priority, because tests with a
/// deadline run at the same time.
pub(crate) fn cargo_in_background(book: &Workbook) -> Command {
    let cargo = cargo(book);
    let mut command = Command::new("nice");
    command.arg(cargo.get_program()).current_dir(&book.root);
    command
}

/// Returns the name of the test target of the models: `attempt02_models`. The other
/// tests of the graders have the name of the package, `attempt02`.
pub(crate) fn models_target(package: &str) -> String {
    format!("{package}_models")
}

/// Builds the graders of `exercise` with `subject`, and shows the progress on
/// `status`. With `is_program`, these include the tests that judge only programs.
///
/// `hash` is the hash of the subject's text. cargo compares only modification
/// times: it would miss a file that was replaced by an older one.
pub(crate) fn graders(
    book: &Workbook,
    exercise: &Exercise,
    subject: &Path,
    hash: &str,
    is_program: bool,
    status: &Status,
) -> Result<Compiled, Error> {
    let tests = exercise.package();
    let models = models_target(&tests);
    let mut command = cargo(book);
    // With `--package` instead of `--workspace`, the dependencies would have fewer
    // features, and cargo would compile many of them again after `cargo test`.
    command
        .args(["test", "--no-run", "--workspace", "--test", &tests])
        .args(exercise.models().map(|_| format!("--test={models}")))
        .env("WB_SUBJECT", format!("{}={}", exercise.name, subject.display()))
        .env("WB_SUBJECT_HASH", hash)
        .env_remove("WB_PROGRAM_MODULE");
    if let Some(module) = exercise.program_module().filter(|_| is_program) {
        command.env("WB_PROGRAM_MODULE", module);
    }
    status.show(&format!("compiling {}", exercise.id()));
    // The first two crates are the attempt and its grader. More of them mean
    // that the week is built.
    let build = build(&mut command, &tests, |done, name| {
        let week = &exercise.week;
        if done > 2 {
            status.show(&format!("building {week} (crate {done}: {name})"));
        }
    })?;

    if build.is_done {
        let tests = build.executable(&tests).unwrap_or_default();
        let models = build.executable(&models);
        let graders = Graders { tests, models, module: None, program: None };
        return Ok(Compiled::Ready(graders));
    }
    if !build.of_package.is_empty() {
        let mut rendered = rendered(book, exercise, &build.of_package);
        if build.is_of_models {
            rendered.insert_str(0, &style::wrap(OF_MODELS, 0));
        }
        return Ok(Compiled::Not { rendered });
    }
    Err(build.error(&exercise.week))
}

/// Returns the errors of a subject in the form that a reader sees.
pub(crate) fn rendered(
    book: &Workbook,
    exercise: &Exercise,
    errors: &[String],
) -> String {
    // Paths are shown relative to the root.
    let root = format!("{}/", book.root.display());
    let mut rendered = errors.concat().replace(&root, "");
    if errors.iter().all(|error| is_in_grader(error)) {
        let name = &exercise.name;
        let why = format!(
            "The grader uses an item that your file does not have: keep the \
             names and signatures of the stub. `cargo wb reset {name}` \
             restores the stub, and keeps a copy of your file.\n\n"
        );
        rendered.insert_str(0, &style::wrap(&why, 0));
    }
    rendered
}

/// The outcome of a build.
#[derive(Debug, Default)]
pub(crate) struct Build {
    pub(crate) is_done: bool,
    /// The errors that rustc reports in the package itself.
    of_package: Vec<String>,
    /// Whether all errors are those of the models.
    is_of_models: bool,
    /// The errors that rustc reports in its dependencies.
    elsewhere: Vec<String>,
    /// The lines that cargo prints itself, such as network errors.
    cargo: Vec<String>,
    executables: Vec<(String, PathBuf)>,
}

/// A message of cargo about a package.
#[derive(Debug)]
pub(crate) enum Event {
    /// rustc reports an error.
    Error { package: String, target: String, rendered: String },
    /// A library, a test binary or a build script is complete.
    Artifact {
        package: String,
        manifest: PathBuf,
        target: String,
        /// Whether it has the main function of a test binary.
        is_test: bool,
        executable: Option<PathBuf>,
        /// Whether it was complete before this build.
        fresh: bool,
    },
}

/// Runs `command`, a cargo command that builds, and calls `handle` with each
/// message as soon as cargo prints it. Returns whether the build succeeded, and
/// the lines that cargo printed to stderr.
pub(crate) fn run_cargo(
    command: &mut Command,
    mut handle: impl FnMut(Event),
) -> Result<(bool, Vec<String>), Error> {
    let format = if console::colors_enabled() {
        "json-diagnostic-rendered-ansi"
    } else {
        "json"
    };
    let mut group = Group::piped(command.args(["--message-format", format]))?;
    let stdout = BufReader::new(group.stdout());
    let stderr = BufReader::new(group.stderr());
    let stderr = std::thread::spawn(move || {
        stderr.lines().map_while(Result::ok).collect::<Vec<_>>()
    });
    for line in stdout.lines().map_while(Result::ok) {
        match serde_json::from_str(&line).unwrap_or(Line::Other) {
            Line::CompilerMessage { package_id, target, message } => {
                let rendered = message.rendered.unwrap_or_default();
                if message.level == "error" && !is_summary(&rendered) {
                    let (package, target) = (package_id, target.name);
                    handle(Event::Error { package, target, rendered });
                }
            }
            Line::CompilerArtifact {
                package_id: package,
                manifest_path: manifest,
                target: Target { name: target },
                profile: Profile { test: is_test },
                executable,
                fresh,
            } => handle(Event::Artifact {
                package,
                manifest,
                target,
                is_test,
                executable,
                fresh,
            }),
            Line::Other => {}
        }
    }
    let status = group.wait().map_err(|error| {
        Error::new(format!("cannot wait for cargo: {error}"))
    })?;
    Ok((status.success(), stderr.join().unwrap_or_default()))
}

/// Runs a cargo `command` that builds `package`. Calls `built` with the number of
/// crates that are complete and the name of the last one.
pub(crate) fn build(
    command: &mut Command,
    package: &str,
    mut built: impl FnMut(usize, &str),
) -> Result<Build, Error> {
    let id_part = format!("#{package}@");
    let models = models_target(package);
    let mut build = Build { is_of_models: true, ..Build::default() };
    let mut done = 0;
    (build.is_done, build.cargo) = run_cargo(command, |event| match event {
        Event::Error { package, target, rendered } => {
            let is_of_package = package.contains(&id_part);
            build.is_of_models &= target == models;
            let errors = if is_of_package {
                &mut build.of_package
            } else {
                &mut build.elsewhere
            };
            // The grader and the models compile the same file.
            if !errors.contains(&rendered) {
                errors.push(rendered);
            }
        }
        Event::Artifact { target, executable, fresh, .. } => {
            if !fresh {
                done += 1;
                built(done, &target);
            }
            build.executables.extend(executable.map(|file| (target, file)));
        }
    })?;
    Ok(build)
}

/// Returns whether an error is in a file of the graders, such as
/// `--> week02/tests/grade/no_rows.rs:4:5`.
fn is_in_grader(error: &str) -> bool {
    let text = console::strip_ansi_codes(error);
    let at = text.lines().find_map(|line| line.trim().strip_prefix("--> "));
    at.is_some_and(|at| at.contains("/tests/"))
}

/// Returns whether `text` is `error: aborting due to 2 previous errors`.
fn is_summary(text: &str) -> bool {
    console::strip_ansi_codes(text).starts_with("error: aborting due to")
}

impl Build {
    pub(crate) fn executable(&self, name: &str) -> Option<PathBuf> {
        let is_named = |(target, _): &&(String, PathBuf)| target == name;
        Some(self.executables.iter().find(is_named)?.1.clone())
    }

    /// Returns the error of a build that failed outside the reader's own code.
    /// The reader can build `package` to see the same error.
    pub(crate) fn error(&self, package: &str) -> Error {
        let rustc = [&*self.of_package, &*self.elsewhere].concat();
        build_error(&rustc, &self.cargo, package)
    }
}

/// Returns the error of a build that failed outside the reader's own code, from
/// the errors of `rustc`, or else from the output of `cargo`.
pub(crate) fn build_error(
    rustc: &[String],
    cargo: &[String],
    package: &str,
) -> Error {
    let text = if rustc.is_empty() { cargo } else { rustc }.join("\n");
    let no_compiler = ["failed to find tool", "linker `cc` not found"];
    if no_compiler.iter().any(|sign| text.contains(sign)) {
        return Error::new("no C compiler").fix(
            "`apt-get install build-essential` (Fedora: gcc make; macOS: \
             `xcode-select --install`)",
        );
    }
    let no_network = ["download", "registry", "network", "index"];
    if rustc.is_empty() && no_network.iter().any(|sign| text.contains(sign)) {
        return Error::new(format!("cargo cannot download crates:\n{text}"))
            .fix("connect to a network, and run `cargo fetch` once");
    }
    Error::new(format!(
        "the workbook itself does not build, and your attempt is not the \
         cause:\n{text}"
    ))
    .fix(format!("`cargo test -p {package}` shows the same errors"))
}
