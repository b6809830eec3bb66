//! Renders the notes as a book, or serves them.

#![forbid(unsafe_code)]

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use notes::book;
use notes::serve::Server;

/// The Backend Workbook's notes, as a book
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write the book as HTML
    Render {
        /// Into this folder, in place of the book in it [default: target/book]
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
    /// Render the book and serve it on this machine, until Ctrl-C
    Serve {
        /// [default: 3000, or any other when that is taken]
        #[arg(long)]
        port: Option<u16>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", format!("{error:#}").replace('\n', " "));
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<()> {
    let notes = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = notes.parent().context("the notes stand in no workbook")?;
    match command {
        Command::Render { to } => {
            let target = env::var_os("CARGO_TARGET_DIR");
            let target = target.map_or("target".into(), PathBuf::from);
            let to = to.unwrap_or(root.join(target).join("book"));
            book::render(root, &to)?;
            println!("{}", to.join("index.html").display());
            Ok(())
        }
        Command::Serve { port } => serve(root, port),
    }
}

/// Prints one line, the address, as soon as it can be reached.
#[tokio::main(flavor = "current_thread")]
async fn serve(root: &Path, port: Option<u16>) -> Result<()> {
    let server = Server::start(root, port).await?;
    let mut stdout = io::stdout();
    writeln!(stdout, "{}", server.address()?)?;
    stdout.flush()?;
    server.run().await
}
