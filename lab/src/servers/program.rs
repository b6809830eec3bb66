//! The server programs that tests need, and the search for them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// A server program that a test may need, as in
/// `#[ignore = "needs postgres"]`.
#[derive(Debug, PartialEq, Eq)]
pub struct Program {
    /// The name of the executable, and of the program in `needs …`.
    pub name: &'static str,
    /// The package of Debian.
    pub debian: &'static str,
    /// The package of Fedora.
    pub fedora: &'static str,
    /// The formula of Homebrew.
    pub homebrew: &'static str,
}

/// Every program that a test may need.
pub static PROGRAMS: &[Program] = &[MEMCACHED, POSTGRES, REDIS];

pub(super) const MEMCACHED: Program = Program {
    name: "memcached",
    debian: "memcached",
    fedora: "memcached",
    homebrew: "memcached",
};

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

/// The directories in which packages install Postgres, each with the prefix of
/// the subdirectories for its versions.
const POSTGRES_HOMES: [(&str, &str); 4] = [
    ("/usr/lib/postgresql", ""),
    ("/usr", "pgsql-"),
    ("/opt/homebrew/opt", "postgresql@"),
    ("/usr/local/opt", "postgresql@"),
];

impl Program {
    /// Returns the program with this name, or `None` if it is not in
    /// [`PROGRAMS`].
    pub fn named(name: &str) -> Option<&'static Program> {
        PROGRAMS.iter().find(|program| program.name == name)
    }

    /// Returns the path of the executable, or `None` if it is not installed.
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
            // The directory may contain only a link to `postgres`. The server
            // needs the other programs beside the real file.
            let file = fs::canonicalize(file).ok()?;
            let initdb = file.with_file_name("initdb");
            (is_executable(&file) && is_executable(&initdb)).then_some(file)
        })
    }
}

/// Returns the directories of Postgres in `POSTGRES_HOMES`, the newest version
/// first. Debian, for example, does not add its directories to the `PATH`.
fn postgres_dirs() -> Vec<PathBuf> {
    let mut versions = Vec::new();
    for (home, prefix) in POSTGRES_HOMES {
        for entry in fs::read_dir(home).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let version = name.to_str().and_then(|name| {
                let major = name.strip_prefix(prefix)?.split('.').next()?;
                major.parse::<u32>().ok()
            });
            versions
                .extend(version.map(|major| (major, entry.path().join("bin"))));
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
