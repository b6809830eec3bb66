//! The tree of the workbook: its weeks, its exercises, and the files of each.
//!
//! `wb` grades what stands here, and the book prints it.
//!
//! | Module | |
//! |--------|-|
//! | [`spec`] | The fields of `weekNN/exercises/*.toml`. |
//! | [`exercise`] | The paths of one exercise, and the text of its foils. |
//! | [`error`] | Why the tree or a toml cannot be read. |

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Display, Path, PathBuf};

pub use error::Error;
pub use exercise::Exercise;
pub use names::nearest;

pub mod error;
pub mod exercise;
mod names;
pub mod spec;

/// A clone of the workbook, as it is on disk.
#[derive(Debug)]
pub struct Workbook {
    /// The root of the clone.
    pub root: PathBuf,
    /// The weeks that have exercises, in order.
    pub weeks: Vec<Week>,
}

/// A week with exercises.
#[derive(Debug)]
pub struct Week {
    /// `week02`, which is also the name of its package.
    pub name: String,
    /// The title of the week.
    pub title: String,
    /// The exercises, in reading order.
    pub exercises: Vec<Exercise>,
}

impl Workbook {
    /// Reads the workbook that `dir` lies in: the nearest folder above it that
    /// has `attempts/mount.rs`.
    ///
    /// # Errors
    ///
    /// When no such folder exists, and as [`read`](Self::read).
    pub fn around(dir: &Path) -> Result<Self, Error> {
        let root = dir
            .ancestors()
            .find(|dir| dir.join("attempts/mount.rs").exists())
            .ok_or_else(|| Error::NoWorkbook { dir: dir.to_owned() })?;
        Self::read(root.to_owned())
    }

    /// Reads the workbook at `root`.
    ///
    /// # Errors
    ///
    /// When a folder or a toml cannot be read, or a toml has wrong fields.
    pub fn read(root: PathBuf) -> Result<Self, Error> {
        let entries = fs::read_dir(&root)
            .map_err(|source| Error::Read { file: root.clone(), source })?;
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with("week"))
            .filter(|name| root.join(name).join("exercises/week.toml").exists())
            .collect();
        names.sort_unstable();
        let weeks = names.into_iter().map(|name| Week::read(&root, name));
        Ok(Self { weeks: weeks.collect::<Result<_, _>>()?, root })
    }

    /// Returns all exercises, in reading order.
    pub fn exercises(&self) -> impl Iterator<Item = &Exercise> {
        self.weeks.iter().flat_map(|week| &week.exercises)
    }

    /// Returns the exercise that `name` means: `gcra`, or `week05/gcra` where two
    /// weeks share a name, or the file of the attempt.
    ///
    /// # Errors
    ///
    /// When no exercise or more than one has this name.
    pub fn exercise(&self, name: &str) -> Result<&Exercise, Error> {
        let name = name.trim_start_matches("./").trim_end_matches(".rs");
        let name = name.strip_prefix("attempts/").unwrap_or(name);
        let found: Vec<_> = self
            .exercises()
            .filter(|exercise| exercise.name == name || exercise.id() == name)
            .collect();
        match found[..] {
            [exercise] => Ok(exercise),
            [] => Err(self.unknown_exercise(name)),
            [first, ..] => Err(Error::AmbiguousExercise {
                name: name.to_owned(),
                first: first.id(),
            }),
        }
    }

    fn unknown_exercise(&self, name: &str) -> Error {
        let names = self.exercises().map(|exercise| &*exercise.name);
        let nearest = nearest(names, &name.to_lowercase()).map(str::to_owned);
        Error::UnknownExercise { name: name.to_owned(), nearest }
    }

    /// Returns the week `name`, such as `week05`.
    ///
    /// # Errors
    ///
    /// When no week has this name.
    pub fn week(&self, name: &str) -> Result<&Week, Error> {
        let found = self.weeks.iter().find(|week| week.name == name);
        found.ok_or_else(|| Error::UnknownWeek {
            name: name.to_owned(),
            weeks: self.weeks.iter().map(|week| week.name.clone()).collect(),
        })
    }

    /// Returns the folder for files that can be made again. It is not cargo's
    /// target directory, which several clones may share.
    pub fn scratch(&self) -> PathBuf {
        self.root.join("target/wb")
    }

    /// Returns `file` relative to the root, as a reader types it.
    pub fn short<'a>(&self, file: &'a Path) -> Display<'a> {
        file.strip_prefix(&self.root).unwrap_or(file).display()
    }
}

impl Week {
    fn read(root: &Path, name: String) -> Result<Self, Error> {
        let tomls = Path::new(&name).join("exercises");
        let week: spec::Week = spec::read(root, &tomls.join("week.toml"))?;
        let read = |exercise: &String| Exercise::read(root, &name, exercise);
        let exercises =
            week.exercises.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self { name, title: week.title, exercises })
    }
}
