//! Draws the interactive screen of `cargo wb` as SVG.
//!
//! ```console
//! $ cargo run -p wb --example picture -- --figure verdict
//! ```
//!
//! The real command grades a wrong attempt in a copy of this workbook, in a
//! pseudo-terminal, and the picture is its screen. The grading time is left out,
//! since it differs each time.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

use vt100::{Cell, Color, Screen};

#[path = "../tests/wb/terminal.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod terminal;

/// An exercise that needs no server. The replacement turns its answer into a wrong
/// attempt.
const EXERCISE: &str = "context";
const FIND: &str = "#[error(\"cannot publish on article {article}\")]";
const REPLACE: &str =
    "#[error(\"cannot publish on article {article}: {source}\")]";

/// The size of a character, the margin and the title bar, in pixels.
const COLUMN: f64 = 8.4;
const ROW: f64 = 19.0;
const MARGIN: f64 = 16.0;
const BAR: f64 = 28.0;

const TITLE: &str = "cargo wb";
const BACKGROUND: &str = "#1d2129";
const FOREGROUND: &str = "#d5dae3";

fn main() -> io::Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if arguments != ["--figure", "verdict"] {
        eprintln!("usage: --figure verdict");
        std::process::exit(2);
    }
    let root = tempfile::tempdir()?;
    let real = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    copy(&real, root.path())?;
    let answer = root.path().join("week02/src").join(EXERCISE);
    let answer = fs::read_to_string(answer.with_extension("rs"))?;
    assert_eq!(
        answer.matches(FIND).count(),
        1,
        "occurrences of FIND in the answer"
    );
    let attempt = root.path().join("attempts/week02").join(EXERCISE);
    let wrong = answer.replace(FIND, REPLACE);
    fs::write(attempt.with_extension("rs"), wrong)?;

    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status =
        Command::new(cargo).args(["build", "--quiet", "-p", "wb"]).status()?;
    assert!(status.success(), "cargo build: {status}");
    let mut command = Command::new(binary());
    command
        .args(["watch", EXERCISE])
        .current_dir(root.path())
        // The dependencies of the attempt are built there already.
        .env("CARGO_TARGET_DIR", target())
        .env_remove("NO_COLOR")
        .env_remove("WB_SUBJECT");
    let terminal = terminal::Terminal::start(&command);
    terminal.wait_until("a verdict", |screen| {
        let text = screen.contents();
        text.contains("BROKEN") && !text.contains("building")
    });
    print!("{}", svg(&terminal.screen()));
    Ok(())
}

/// Copies the workbook, without build results and without the reader's progress.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_skipped = name == "target"
            || name == ".git"
            || name == "progress.txt"
            || from.ends_with("attempts")
                && name.to_string_lossy().ends_with(".rs.new");
        if is_skipped {
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

/// Returns `target/debug/wb`. This program is `target/debug/examples/picture`.
fn binary() -> PathBuf {
    let program = env::current_exe().expect("the system knows the path");
    let debug = program.parent().and_then(Path::parent);
    debug.expect("the program is in target/debug/examples").join("wb")
}

fn target() -> PathBuf {
    let binary = binary();
    let target = binary.parent().and_then(Path::parent);
    target.expect("the binary is in target/debug").to_owned()
}

fn svg(screen: &Screen) -> String {
    let (rows, columns) = screen.size();
    let (rows, columns) = (rows.get(), columns.get());
    let width = f64::from(columns) * COLUMN + 2.0 * MARGIN;
    let height = f64::from(rows) * ROW + 2.0 * MARGIN + BAR;
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0}" height="{height:.0}" viewBox="0 0 {width:.0} {height:.0}" role="img">
<title>{TITLE} in a terminal</title>
<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>
<g fill="none" stroke="{FOREGROUND}" stroke-opacity=".4"><circle cx="18" cy="16" r="5"/><circle cx="36" cy="16" r="5"/><circle cx="54" cy="16" r="5"/></g>
<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="14" fill="{FOREGROUND}" xml:space="preserve">
<text x="50%" y="21" text-anchor="middle" fill-opacity=".6">{TITLE}</text>
"#
    );
    for row in 0..rows {
        draw(screen, row, columns, &mut svg);
    }
    svg.push_str("</g>\n</svg>\n");
    svg
}

/// Draws a row: one text element for each run of cells with the same style. Leaves
/// out the grading time.
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
            Some((_, length, style, run)) if *style == self::style(cell) => {
                *length += columns;
                run.push_str(text);
            }
            _ => runs.push((column, columns, style(cell), text.to_owned())),
        }
    }
    let y = MARGIN + BAR + f64::from(row) * ROW + 14.0;
    for (column, _, style, text) in runs {
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
            r#"<text x="{x:.1}" y="{y:.1}" textLength="{length:.1}"{style}>{}</text>"#,
            escaped(shown)
        );
    }
}

/// Returns the SVG attributes of a cell.
fn style(cell: &Cell) -> String {
    let mut style = String::new();
    if let Color::Idx(n) = cell.fgcolor() {
        let _ = write!(style, r#" fill="{}""#, PALETTE[usize::from(n % 8)]);
    }
    if cell.bold() {
        style.push_str(r#" font-weight="bold""#);
    }
    if cell.dim() {
        style.push_str(r#" fill-opacity=".6""#);
    }
    style
}

/// The eight standard colours of a terminal.
const PALETTE: [&str; 8] = [
    "#5c6370", "#f07178", "#9ccc65", "#ffcb6b", "#82aaff", "#c792ea",
    "#7fdbca", FOREGROUND,
];

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
