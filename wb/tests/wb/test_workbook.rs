//! A temporary copy of a small workbook, and the command that runs in it.

use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::{env, fs, io};

use tempfile::TempDir;

/// The body of the answer without its limit, like the foil `no_limit`.
pub(crate) const NO_LIMIT: &str = "
    let doubled = 10_u64.saturating_mul(1_u64.checked_shl(n).unwrap_or(0));
    doubled";

/// A workbook with one week and two exercises, in a temporary folder.
pub(crate) struct TestWorkbook {
    root: TempDir,
}

impl TestWorkbook {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let wb = Path::new(env!("CARGO_MANIFEST_DIR"));
        copy(&wb.join("tests/fixture"), root.path()).unwrap();
        // The crate roots and the build script are those of the real workbook.
        for file in ["mount.rs", "sources.rs", "lib.rs", "grade.rs", "loom.rs"]
        {
            let real = wb.join("../attempts").join(file);
            fs::copy(real, root.path().join("attempts").join(file)).unwrap();
        }
        Self { root }
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.root.path().join(file)
    }

    pub(crate) fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path(file)).unwrap()
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).unwrap();
    }

    /// Replaces a text that the file has exactly once.
    pub(crate) fn replace(&self, file: &str, find: &str, replace: &str) {
        let text = self.read(file);
        assert_eq!(text.matches(find).count(), 1, "times {find:?} in {file}");
        self.write(file, &text.replace(find, replace));
    }

    /// Writes an attempt at `backoff` whose function has this body.
    pub(crate) fn write_attempt(&self, body: &str) {
        self.write(
            "attempts/week01/backoff.rs",
            &format!("pub fn delay(n: u32) -> u64 {{\n    {body}\n}}\n"),
        );
    }

    /// Returns `cargo wb` with these arguments, in an English locale.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wb"));
        command
            .args(arguments)
            .current_dir(self.root.path())
            .env("CARGO_TARGET_DIR", self.path("target"))
            .env_remove("WB_SUBJECT")
            .env_remove("LC_ALL")
            .env_remove("LC_MESSAGES")
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null());
        command
    }

    /// Starts the command, and does not wait for it.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs the command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> CommandOutput {
        CommandOutput::new(self.command(arguments).output().unwrap())
    }

    /// Creates a folder with links to all programs in `PATH` except `program`.
    pub(crate) fn path_without(&self, program: &str) -> PathBuf {
        let bin = self.path("bin");
        fs::create_dir(&bin).unwrap();
        let path = env::var_os("PATH").unwrap();
        for folder in env::split_paths(&path) {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_name() != OsStr::new(program) {
                    // It fails if an earlier folder has the same name, as the
                    // search in `PATH` would find that one.
                    let _ = symlink(entry.path(), bin.join(entry.file_name()));
                }
            }
        }
        bin
    }
}

/// The output and the exit code of the command.
#[derive(Debug)]
pub(crate) struct CommandOutput {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl CommandOutput {
    pub(crate) fn new(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn exits_with(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "exit code, after this output:\n{}\n{}",
            self.stdout, self.stderr
        );
        self
    }

    /// Checks that the output contains all of `texts`, in this order.
    #[track_caller]
    pub(crate) fn shows(self, texts: &[&str]) -> Self {
        let all = format!("{}\n{}", self.stdout, self.stderr);
        let mut rest = &*all;
        for text in texts {
            let Some((_, after)) = rest.split_once(text) else {
                panic!(
                    "expected {text:?}, in the order of {texts:?}, in:\n{all}"
                );
            };
            rest = after;
        }
        self
    }

    /// Checks that the output does not contain `text`.
    #[track_caller]
    pub(crate) fn omits(self, text: &str) -> Self {
        let all = format!("{}\n{}", self.stdout, self.stderr);
        assert!(!all.contains(text), "expected no {text:?} in:\n{all}");
        self
    }

    /// Checks that the output is one line on stderr.
    #[track_caller]
    pub(crate) fn in_one_error_line(self) -> Self {
        assert_eq!(self.stdout, "", "stdout");
        let lines = self.stderr.lines().count();
        assert_eq!(lines, 1, "lines on stderr:\n{}", self.stderr);
        self
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
