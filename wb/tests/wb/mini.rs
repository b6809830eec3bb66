//! A copy of the miniature workbook, and the real command in it.

use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::{env, fs, io};

use tempfile::TempDir;

/// A workbook with two exercises, in a directory of its own.
pub(crate) struct Mini {
    home: TempDir,
}

impl Mini {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let wb = Path::new(env!("CARGO_MANIFEST_DIR"));
        copy(&wb.join("tests/mini"), home.path()).unwrap();
        // The machinery is the workbook's own.
        for file in ["mount.rs", "sources.rs", "lib.rs", "grade.rs", "loom.rs"]
        {
            let real = wb.join("../attempts").join(file);
            fs::copy(real, home.path().join("attempts").join(file)).unwrap();
        }
        Self { home }
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.home.path().join(file)
    }

    pub(crate) fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path(file)).unwrap()
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).unwrap();
    }

    /// Replaces what occurs once.
    pub(crate) fn change(&self, file: &str, find: &str, replace: &str) {
        let text = self.read(file);
        assert_eq!(text.matches(find).count(), 1, "{find:?} in {file}");
        self.write(file, &text.replace(find, replace));
    }

    pub(crate) fn attempt(&self, body: &str) {
        self.write(
            "attempts/week01/backoff.rs",
            &format!("pub fn delay(n: u32) -> u64 {{\n    {body}\n}}\n"),
        );
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wb"));
        command
            .args(arguments)
            .current_dir(self.home.path())
            .env("CARGO_TARGET_DIR", self.path("target"))
            .env_remove("WB_SUBJECT")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub(crate) fn wb(&self, arguments: &[&str]) -> Said {
        Said::new(self.command(arguments).output().unwrap())
    }

    /// Every program of this machine but `program`.
    pub(crate) fn path_without(&self, program: &str) -> PathBuf {
        let bin = self.path("bin");
        fs::create_dir(&bin).unwrap();
        let path = env::var_os("PATH").unwrap();
        for folder in env::split_paths(&path) {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_name() != OsStr::new(program) {
                    // The first of a name is the one that is found.
                    let _ = symlink(entry.path(), bin.join(entry.file_name()));
                }
            }
        }
        bin
    }
}

/// What the command said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn new(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "\n{}\n{}", self.out, self.err);
        self
    }

    /// All of `texts`, in this order.
    #[track_caller]
    pub(crate) fn shows(self, texts: &[&str]) -> Self {
        let all = format!("{}\n{}", self.out, self.err);
        let mut rest = &*all;
        for text in texts {
            let Some((_, after)) = rest.split_once(text) else {
                panic!("{text:?} is not in, or not in order in:\n{all}");
            };
            rest = after;
        }
        self
    }

    #[track_caller]
    pub(crate) fn hides(self, text: &str) -> Self {
        let all = format!("{}\n{}", self.out, self.err);
        assert!(!all.contains(text), "{text:?} is in:\n{all}");
        self
    }

    /// One line that says what is wrong, and what to do.
    #[track_caller]
    pub(crate) fn in_one_line(self) -> Self {
        assert_eq!(self.out, "");
        assert_eq!(self.err.lines().count(), 1, "{}", self.err);
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
