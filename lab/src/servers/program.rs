//! Which programs tests need, and where they are.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// A server that a test may need: `#[ignore = "needs postgres"]`.
#[derive(Debug, PartialEq, Eq)]
pub struct Program {
    /// The executable, and what stands after "needs".
    pub name: &'static str,
    /// Debian's package.
    pub debian: &'static str,
    /// Fedora's package.
    pub fedora: &'static str,
    /// Homebrew's formula.
    pub homebrew: &'static str,
}

/// All that any test needs.
pub static PROGRAMS: &[Program] = &[POSTGRES, REDIS];

pub(super) const POSTGRES: Program = Program {
    name: "postgres",
    debian: "postgresql",
    fedora: "postgresql-server",
    homebrew: "postgresql",
};

pub(super) const REDIS: Program = Program {
    name: "redis-server",
    debian: "redis-server",
    fedora: "redis",
    homebrew: "redis",
};

/// Where packages put Postgres, a directory for each version.
const POSTGRES_HOMES: [(&str, &str); 4] = [
    ("/usr/lib/postgresql", ""),
    ("/usr", "pgsql-"),
    ("/opt/homebrew/opt", "postgresql@"),
    ("/usr/local/opt", "postgresql@"),
];

impl Program {
    /// The program that stands after "needs", if tests know it.
    pub fn named(name: &str) -> Option<&'static Program> {
        PROGRAMS.iter().find(|program| program.name == name)
    }

    /// The executable, if it is installed.
    pub fn find(&self) -> Option<PathBuf> {
        let path = env::var_os("PATH").unwrap_or_default();
        let mut dirs: Vec<PathBuf> = env::split_paths(&path).collect();
        if *self == POSTGRES {
            dirs.extend(postgres_dirs());
        }
        dirs.iter().find_map(|dir| {
            let file = dir.join(self.name);
            if *self != POSTGRES {
                return is_executable(&file).then_some(file);
            }
            // A link to it may stand alone, but a server needs its neighbours.
            let file = fs::canonicalize(file).ok()?;
            let initdb = file.with_file_name("initdb");
            (is_executable(&file) && is_executable(&initdb)).then_some(file)
        })
    }
}

/// Debian keeps it off the `PATH`. The newest version first.
fn postgres_dirs() -> Vec<PathBuf> {
    let mut versions = Vec::new();
    for (home, prefix) in POSTGRES_HOMES {
        for entry in fs::read_dir(home).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let version = name.to_str().and_then(|name| {
                let major = name.strip_prefix(prefix)?.split('.').next()?;
                major.parse::<u32>().ok()
            });
            versions.extend(version.map(|it| (it, entry.path().join("bin"))));
        }
    }
    versions.sort();
    versions.into_iter().rev().map(|(_, dir)| dir).collect()
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| {
        meta.is_file() && meta.permissions().mode() & 0o111 != 0
    })
}
