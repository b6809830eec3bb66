//! Draws what `cargo wb` looks like in a terminal, as SVG.
//!
//! ```console
//! $ cargo run -p wb --example picture -- --figure verdict
//! ```
//!
//! The picture is the screen that the real command shows of a real wrong
//! attempt, in a copy of this workbook. Only the seconds are left out: they are
//! other ones each time.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

use vt100::{Cell, Color, Screen};

#[path = "../tests/wb/tty.rs"]
#[expect(dead_code, reason = "tests need the rest")]
mod tty;

/// An exercise that needs no server, and a mistake that people make.
const EXERCISE: &str = "context";
const FIND: &str = "#[error(\"cannot publish on article {article}\")]";
const REPLACE: &str =
    "#[error(\"cannot publish on article {article}: {source}\")]";

/// In pixels.
const COLUMN: f64 = 8.4;
const ROW: f64 = 19.0;
const MARGIN: f64 = 16.0;
const BAR: f64 = 28.0;

const TITLE: &str = "cargo wb";
const PAPER: &str = "#1d2129";
const INK: &str = "#d5dae3";

fn main() -> io::Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if arguments != ["--figure", "verdict"] {
        eprintln!("usage: --figure verdict");
        std::process::exit(2);
    }
    let home = tempfile::tempdir()?;
    let real = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    copy(&real, home.path())?;
    let answer = home.path().join("week02/src").join(EXERCISE);
    let answer = fs::read_to_string(answer.with_extension("rs"))?;
    assert_eq!(answer.matches(FIND).count(), 1, "the mistake fits no more");
    let attempt = home.path().join("attempts/week02").join(EXERCISE);
    let wrong = answer.replace(FIND, REPLACE);
    fs::write(attempt.with_extension("rs"), wrong)?;

    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built =
        Command::new(cargo).args(["build", "--quiet", "-p", "wb"]).status()?;
    assert!(built.success(), "the command does not build");
    let mut command = Command::new(binary());
    command
        .args(["watch", EXERCISE])
        .current_dir(home.path())
        // What the attempt is built on is built already.
        .env("CARGO_TARGET_DIR", target())
        .env_remove("NO_COLOR")
        .env_remove("WB_SUBJECT");
    let tty = tty::Tty::start(&command);
    tty.shows_when("a verdict", |screen| {
        let text = screen.contents();
        text.contains("BROKEN") && !text.contains("building")
    });
    print!("{}", svg(&tty.screen()));
    Ok(())
}

/// The workbook, without what was built and what a reader has done.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_left = name == "target"
            || name == ".git"
            || name == "progress.txt"
            || from.ends_with("attempts")
                && name.to_string_lossy().ends_with(".rs.new");
        if is_left {
            continue;
        }
        let to = to.join(&name);
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// `target/debug/examples/picture` stands below `target/debug/wb`.
fn binary() -> PathBuf {
    let own = env::current_exe().expect("this program is somewhere");
    let debug = own.parent().and_then(Path::parent);
    debug.expect("examples have a folder").join("wb")
}

fn target() -> PathBuf {
    let binary = binary();
    let target = binary.parent().and_then(Path::parent);
    target.expect("a profile has a folder").to_owned()
}

fn svg(screen: &Screen) -> String {
    let (rows, columns) = screen.size();
    let (rows, columns) = (rows.get(), columns.get());
    let width = f64::from(columns) * COLUMN + 2.0 * MARGIN;
    let height = f64::from(rows) * ROW + 2.0 * MARGIN + BAR;
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0}" height="{height:.0}" viewBox="0 0 {width:.0} {height:.0}" role="img">
<title>{TITLE} in a terminal</title>
<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>
<g fill="none" stroke="{INK}" stroke-opacity=".4"><circle cx="18" cy="16" r="5"/><circle cx="36" cy="16" r="5"/><circle cx="54" cy="16" r="5"/></g>
<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="14" fill="{INK}" xml:space="preserve">
<text x="50%" y="21" text-anchor="middle" fill-opacity=".6">{TITLE}</text>
"#
    );
    for row in 0..rows {
        draw(screen, row, columns, &mut svg);
    }
    svg.push_str("</g>\n</svg>\n");
    svg
}

/// A row, as runs of one look. The seconds are left out.
fn draw(screen: &Screen, row: u16, columns: u16, svg: &mut String) {
    let cells = (0..columns).filter_map(|column| {
        let cell = screen.cell(row, column)?;
        (!cell.is_wide_continuation()).then_some((column, cell))
    });
    let mut runs: Vec<(u16, u16, String, String)> = Vec::new();
    for (column, cell) in cells {
        let text = if cell.has_contents() { cell.contents() } else { " " };
        let columns = 1 + u16::from(cell.is_wide());
        match runs.last_mut() {
            Some((_, length, look, run)) if *look == self::look(cell) => {
                *length += columns;
                run.push_str(text);
            }
            _ => runs.push((column, columns, look(cell), text.to_owned())),
        }
    }
    let y = MARGIN + BAR + f64::from(row) * ROW + 14.0;
    for (column, _, look, text) in runs {
        let is_time = text.starts_with('(') && text.trim_end().ends_with(" s)");
        let shown = text.trim_end();
        if shown.is_empty() || is_time {
            continue;
        }
        let indent = shown.len() - shown.trim_start().len();
        let shown = shown.trim_start();
        let at = f64::from(column) + indent as f64;
        let x = MARGIN + at * COLUMN;
        let length = console::measure_text_width(shown) as f64 * COLUMN;
        let _ = writeln!(
            svg,
            r#"<text x="{x:.1}" y="{y:.1}" textLength="{length:.1}"{look}>{}</text>"#,
            escaped(shown)
        );
    }
}

fn look(cell: &Cell) -> String {
    let mut look = String::new();
    if let Color::Idx(n) = cell.fgcolor() {
        let _ = write!(look, r#" fill="{}""#, PALETTE[usize::from(n % 8)]);
    }
    if cell.bold() {
        look.push_str(r#" font-weight="bold""#);
    }
    if cell.dim() {
        look.push_str(r#" fill-opacity=".6""#);
    }
    look
}

/// The eight colours of a terminal.
const PALETTE: [&str; 8] = [
    "#5c6370", "#f07178", "#9ccc65", "#ffcb6b", "#82aaff", "#c792ea",
    "#7fdbca", INK,
];

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
