//! Turns each Rust code block of each page into a doc test.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("pages");
    println!("cargo::rerun-if-changed={}", pages.display());
    let mut files = Vec::new();
    collect(&pages, &mut files)?;
    files.sort_unstable();

    let mut modules = String::new();
    for file in files {
        let page = file.strip_prefix(&pages).expect("a page is inside `pages`");
        let name = page.with_extension("").display().to_string();
        let name = name.replace(['/', '-'], "_").to_lowercase();
        modules +=
            &format!("#[doc = include_str!({file:?})]\nmod {name} {{}}\n");
    }
    let out = env::var("OUT_DIR")
        .expect("cargo sets this variable for build scripts");
    fs::write(Path::new(&out).join("pages.rs"), modules)
}

fn collect(folder: &Path, pages: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, pages)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    Ok(())
}
