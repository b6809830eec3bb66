//! What does each policy do to a service under overload? Draws it from a
//! simulation.
//!
//! ```console
//! $ cargo run --release -p week05 --example charts
//! $ cargo run --release -p week05 --example charts -- --figure goodput
//! ```
//!
//! Without arguments, it prints the numbers as a table. With `--figure` and a
//! name, it prints an SVG file: see `notes/pages/figures/week05`.

mod draw;
mod fairness;
mod overload;
mod spare;
mod storm;

use std::error::Error;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => print!("{}", overload::table()),
        ["--figure", "goodput"] => print!("{}", overload::goodput()),
        ["--figure", "latency"] => print!("{}", overload::latency()),
        ["--figure", "refusals"] => print!("{}", overload::refusals()),
        ["--figure", "storm"] => print!("{}", storm::storm()),
        ["--figure", "recovery"] => print!("{}", storm::recovery()),
        ["--figure", "gutter"] => print!("{}", spare::gutter()),
        ["--figure", "fairness"] => print!("{}", fairness::fairness()),
        _ => return Err("usage: charts [--figure NAME]".into()),
    }
    Ok(())
}
