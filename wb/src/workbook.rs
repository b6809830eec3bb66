//! The tree: weeks, exercises, and where each file of one stands.

use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::spec::{self, Spec, WeekSpec};
use crate::trouble::Trouble;

#[derive(Debug)]
pub(crate) struct Workbook {
    pub(crate) root: PathBuf,
    pub(crate) weeks: Vec<Week>,
}

#[derive(Debug)]
pub(crate) struct Week {
    /// `week02`, also the name of its package.
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) exercises: Vec<Exercise>,
}

#[derive(Debug)]
pub(crate) struct Exercise {
    pub(crate) week: String,
    pub(crate) name: String,
    pub(crate) spec: Spec,
    root: PathBuf,
}

impl Workbook {
    /// The workbook around the current directory.
    pub(crate) fn open() -> Result<Self, Trouble> {
        let here = env::current_dir().map_err(|error| {
            Trouble::new(format!("the current directory is gone: {error}"))
        })?;
        let root = here
            .ancestors()
            .find(|dir| dir.join("attempts/mount.rs").exists())
            .ok_or_else(|| {
                Trouble::new(format!("no workbook around {}", here.display()))
                    .mend("`cd` into your clone of it")
            })?;
        Self::at(root.to_owned())
    }

    fn at(root: PathBuf) -> Result<Self, Trouble> {
        let entries = fs::read_dir(&root)
            .map_err(|error| Trouble::file("read", &root, &error))?;
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with("week"))
            .filter(|name| root.join(name).join("exercises/week.toml").exists())
            .collect();
        names.sort_unstable();
        let weeks = names.into_iter().map(|name| Week::read(&root, name));
        Ok(Self { weeks: weeks.collect::<Result<_, _>>()?, root })
    }

    pub(crate) fn exercises(&self) -> impl Iterator<Item = &Exercise> {
        self.weeks.iter().flat_map(|week| &week.exercises)
    }

    /// By `name`, or by `week/name` where two weeks share a name, or by the file
    /// of the attempt.
    pub(crate) fn exercise(&self, name: &str) -> Result<&Exercise, Trouble> {
        let name = name.trim_start_matches("./").trim_end_matches(".rs");
        let name = name.strip_prefix("attempts/").unwrap_or(name);
        let found: Vec<_> = self
            .exercises()
            .filter(|exercise| exercise.name == name || exercise.id() == name)
            .collect();
        match found[..] {
            [exercise] => Ok(exercise),
            [] => Err(self.unknown(name)),
            [first, ..] => {
                Err(Trouble::new(format!("{name} is in more weeks than one"))
                    .mend(format!("say `{}`", first.id())))
            }
        }
    }

    fn unknown(&self, name: &str) -> Trouble {
        let trouble = Trouble::new(format!("no exercise `{name}`"));
        let names = self.exercises().map(|exercise| &*exercise.name);
        match nearest(names, &name.to_lowercase()) {
            Some(near) => trouble.mend(format!("did you mean `{near}`?")),
            None => trouble.mend("`cargo wb list` shows them"),
        }
    }

    pub(crate) fn week(&self, name: &str) -> Result<&Week, Trouble> {
        self.weeks.iter().find(|week| week.name == name).ok_or_else(|| {
            let weeks: Vec<_> =
                self.weeks.iter().map(|week| &*week.name).collect();
            Trouble::new(format!("no week `{name}`"))
                .mend(format!("there is {}", weeks.join(", ")))
        })
    }

    /// Where this command keeps what can be made again: not where cargo may be
    /// told to build, which other clones may share.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.root.join("target/wb")
    }

    /// `file` as a reader types it.
    pub(crate) fn short<'a>(&self, file: &'a Path) -> std::path::Display<'a> {
        file.strip_prefix(&self.root).unwrap_or(file).display()
    }
}

impl Week {
    fn read(root: &Path, name: String) -> Result<Self, Trouble> {
        let tomls = root.join(&name).join("exercises");
        let week: WeekSpec = spec::read(root, &tomls.join("week.toml"))?;
        let exercise = |exercise: &String| {
            Ok(Exercise {
                week: name.clone(),
                spec: spec::read(
                    root,
                    &tomls.join(exercise).with_extension("toml"),
                )?,
                name: exercise.clone(),
                root: root.to_owned(),
            })
        };
        let exercises =
            week.exercises.iter().map(exercise).collect::<Result<_, _>>()?;
        Ok(Self { name, title: week.title, exercises })
    }
}

impl Exercise {
    /// `week02/no_rows`.
    pub(crate) fn id(&self) -> String {
        format!("{}/{}", self.week, self.name)
    }

    /// The package under which it is graded: `attempt02`.
    pub(crate) fn package(&self) -> String {
        self.week.replacen("week", "attempt", 1)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn attempt(&self) -> PathBuf {
        self.root.join("attempts").join(&self.week).join(self.rs())
    }

    pub(crate) fn answer(&self) -> PathBuf {
        self.in_week("src").join(self.rs())
    }

    pub(crate) fn stub(&self) -> PathBuf {
        self.in_week("stubs").join(self.rs())
    }

    pub(crate) fn grader(&self) -> PathBuf {
        self.in_week("tests/grade").join(self.rs())
    }

    /// Its loom models, if it has any.
    pub(crate) fn models(&self) -> Option<PathBuf> {
        let models = self.in_week("tests/loom/models").join(self.rs());
        models.exists().then_some(models)
    }

    pub(crate) fn variants(&self) -> Vec<PathBuf> {
        let Ok(entries) =
            fs::read_dir(self.in_week("variants").join(&self.name))
        else {
            return Vec::new();
        };
        let mut variants: Vec<_> =
            entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        variants.sort_unstable();
        variants
    }

    /// Where a foil stands that is a file of its own.
    pub(crate) fn foil_file(&self, foil: &str) -> PathBuf {
        self.in_week("foils").join(&self.name).join(foil).with_extension("rs")
    }

    pub(crate) fn example(&self) -> PathBuf {
        self.in_week("examples").join(&self.spec.example).with_extension("rs")
    }

    pub(crate) fn notes(&self) -> PathBuf {
        let pages = self.root.join("notes/pages").join(&self.week);
        pages.join(&self.name).with_extension("md")
    }

    pub(crate) fn in_week(&self, folder: &str) -> PathBuf {
        self.root.join(&self.week).join(folder)
    }

    fn rs(&self) -> PathBuf {
        Path::new(&self.name).with_extension("rs")
    }
}

/// The one of `names` that is most like `name`, if it is like it at all.
pub(crate) fn nearest<'a>(
    names: impl Iterator<Item = &'a str>,
    name: &str,
) -> Option<&'a str> {
    let (far, near) = names.map(|near| (distance(near, name), near)).min()?;
    (far <= name.len().max(3) / 2).then_some(near)
}

/// Levenshtein's: how many letters to add, drop or change.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.bytes().enumerate() {
            let change = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn distance_counts_letters_added_dropped_and_changed() {
        assert_eq!(distance("no_rows", "no_rows"), 0);
        assert_eq!(distance("no_rows", "norows"), 1);
        assert_eq!(distance("no_rows", "no_rowss"), 1);
        assert_eq!(distance("context", "kontext"), 1);
        assert_eq!(distance("", "swap"), 4);
    }
}
