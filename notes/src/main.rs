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
    /// Render the book as HTML
    Render {
        /// The output folder. A book in it is replaced [default: target/book]
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
    /// Render the book, and serve it on this machine until Ctrl-C
    Serve {
        /// The port [default: 3000, or a free port if 3000 is taken]
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
    let root =
        notes.parent().context("the folder `notes` has no parent folder")?;
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

/// Prints one line, the address, when the server accepts connections. Then
/// serves the book.
#[tokio::main(flavor = "current_thread")]
async fn serve(root: &Path, port: Option<u16>) -> Result<()> {
    let server = Server::start(root, port).await?;
    let mut stdout = io::stdout();
    writeln!(stdout, "{}", server.address()?)?;
    stdout.flush()?;
    server.run().await
}
