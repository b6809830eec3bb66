//! The paths of one exercise, and the text of its foils.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::spec::{self, Edit, Foil, Spec};

/// One exercise.
#[derive(Debug)]
pub struct Exercise {
    /// `week02`.
    pub week: String,
    /// `no_rows`, which is also the name of its files.
    pub name: String,
    /// The fields of its toml.
    pub spec: Spec,
    root: PathBuf,
}

impl Exercise {
    pub(crate) fn read(
        root: &Path,
        week: &str,
        name: &str,
    ) -> Result<Self, Error> {
        let toml = Path::new(week).join("exercises").join(name);
        let spec = spec::read(root, &toml.with_extension("toml"))?;
        let (week, name) = (week.to_owned(), name.to_owned());
        Ok(Self { week, name, spec, root: root.to_owned() })
    }

    /// Returns `week02/no_rows`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.week, self.name)
    }

    /// Returns the package under which it is graded: `attempt02`.
    pub fn package(&self) -> String {
        self.week.replacen("week", "attempt", 1)
    }

    /// Returns the root of the workbook.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the reader's own file.
    pub fn attempt(&self) -> PathBuf {
        self.root.join("attempts").join(&self.week).join(self.rs())
    }

    /// Returns the answer.
    pub fn answer(&self) -> PathBuf {
        self.in_week("src").join(self.rs())
    }

    /// Returns the stub.
    pub fn stub(&self) -> PathBuf {
        self.in_week("stubs").join(self.rs())
    }

    /// Returns the grader.
    pub fn grader(&self) -> PathBuf {
        self.in_week("tests/grade").join(self.rs())
    }

    /// Returns the name of the module with the rung that judges programs, such
    /// as `layers_contract`.
    pub fn program_module(&self) -> Option<String> {
        let rung = self.spec.program_rung.as_ref()?;
        Some(format!("{}_{rung}", self.name))
    }

    /// Returns the loom and shuttle models, if it has any.
    pub fn models(&self) -> Option<PathBuf> {
        let models = self.in_week("tests/loom/models").join(self.rs());
        models.exists().then_some(models)
    }

    /// Returns the variants, sorted by name.
    pub fn variants(&self) -> Vec<PathBuf> {
        let Ok(entries) =
            fs::read_dir(self.in_week("variants").join(&self.name))
        else {
            return Vec::new();
        };
        let mut variants: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|file| file.extension() == Some(OsStr::new("rs")))
            .collect();
        variants.sort_unstable();
        variants
    }

    /// Returns the path of a foil that is a whole file.
    pub fn foil_file(&self, foil: &str) -> PathBuf {
        self.in_week("foils").join(&self.name).join(foil).with_extension("rs")
    }

    /// Returns the text of the foil `name`: its file, or the answer with its
    /// edits.
    ///
    /// # Errors
    ///
    /// When the foil has neither, when a file cannot be read, and when the text
    /// of an edit is not in the answer exactly once.
    pub fn foil_text(&self, name: &str, foil: &Foil) -> Result<String, Error> {
        let read = |file: PathBuf| {
            fs::read_to_string(&file)
                .map_err(|source| Error::Read { file, source })
        };
        if foil.edits.is_empty() {
            let file = self.foil_file(name);
            if !file.exists() {
                let short = file.strip_prefix(&self.root).unwrap_or(&file);
                return Err(Error::FoilWithoutText { file: short.to_owned() });
            }
            return read(file);
        }
        let mut text = read(self.answer())?;
        for Edit { find, replace } in &foil.edits {
            let times = text.matches(find.as_str()).count();
            if times != 1 {
                return Err(Error::FoilEdit { find: find.clone(), times });
            }
            text = text.replacen(find, replace, 1);
        }
        Ok(text)
    }

    /// Returns the example that shows it: `NAME.rs`, or `NAME/main.rs` if the
    /// example has several files, or `NAME/src/main.rs` if it is a package.
    pub fn example(&self) -> PathBuf {
        let folder = self.in_week("examples").join(&self.spec.example);
        let mains = ["main.rs", "src/main.rs"].map(|main| folder.join(main));
        let main = mains.into_iter().find(|main| main.exists());
        main.unwrap_or_else(|| folder.with_extension("rs"))
    }

    /// Returns its page of notes.
    pub fn notes(&self) -> PathBuf {
        let pages = self.root.join("notes/pages").join(&self.week);
        pages.join(&self.name).with_extension("md")
    }

    /// Returns `folder` of its week.
    pub fn in_week(&self, folder: &str) -> PathBuf {
        self.root.join(&self.week).join(folder)
    }

    fn rs(&self) -> PathBuf {
        Path::new(&self.name).with_extension("rs")
    }
}
