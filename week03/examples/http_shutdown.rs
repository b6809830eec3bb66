//! SIGTERM during a slow request: drained, aborted at the deadline, and cut off by a second signal.
//!
//! ```console
//! $ cargo run -p week03 --example http_shutdown
//! ```
//!
//! The server is a child process: this program, started with `serve`.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write, stdout};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{env, process, thread};

use axum::Router;
use axum::routing::get;
use lab::guess;
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use week03::drain::Server;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The time that the slow request takes.
const SLOW: Duration = Duration::from_millis(1500);

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    if arguments.next().as_deref() == Some("serve") {
        let drain = arguments.next().ok_or("no drain timeout")?.parse()?;
        return serve(Duration::from_millis(drain));
    }
    let slow = SLOW.as_millis();
    println!(
        "A request takes {slow} ms. The server gets SIGTERM as soon as the \
         request has begun."
    );

    let question = "The drain timeout is 5000 ms. After how many ms does the \
                    process exit?";
    let guess = guess::ask(&format!("\n1. {question}"))?;
    stop(Duration::from_secs(5), &[Signal::TERM], guess.as_deref())?;

    let question = "The drain timeout is 500 ms. After how many ms does the \
                    process exit?";
    let guess = guess::ask(&format!("\n2. {question}"))?;
    stop(Duration::from_millis(500), &[Signal::TERM], guess.as_deref())?;

    let question = "The drain timeout is 5000 ms, and the server gets SIGTERM \
                    twice. After how many ms does the process exit?";
    let guess = guess::ask(&format!("\n3. {question}"))?;
    let twice = [Signal::TERM, Signal::TERM];
    stop(Duration::from_secs(5), &twice, guess.as_deref())
}

/// Starts a server, sends it a slow request, and then `signals`.
fn stop(
    drain: Duration,
    signals: &[Signal],
    guess: Option<&str>,
) -> Result<()> {
    let mut server = ServerProcess::start(drain)?;
    let mut client = TcpStream::connect(&*server.address)?;
    client.write_all(b"GET /slow HTTP/1.1\r\nHost: here\r\n\r\n")?;
    server.expect_line("begun")?;

    let start = Instant::now();
    for &signal in signals {
        kill_process(Pid::from_child(&server.child), signal)?;
        server.expect_line("signalled")?;
        println!(
            "   {:>5} ms  the server has received SIGTERM",
            start.elapsed().as_millis()
        );
    }
    let port = TcpStream::connect(&*server.address);
    let port =
        port.map_or_else(|error| error.to_string(), |_| "open".to_owned());
    let after = start.elapsed().as_millis();
    println!("   {after:>5} ms  a new client connects: {port}");

    let client = thread::spawn(move || {
        let mut response = String::new();
        // Fails if the connection is reset.
        let _ = client.read_to_string(&mut response);
        let first = response.lines().next().unwrap_or("nothing").to_owned();
        (first, start.elapsed().as_millis())
    });
    let status = server.child.wait()?;
    let ended = start.elapsed().as_millis();
    let (response, after) = client.join().expect("the client does not panic");
    println!("   {after:>5} ms  the response to the request: {response}");
    let mut last = String::new();
    server.lines.read_to_string(&mut last)?;
    if !last.is_empty() {
        println!("             the server's last line: {}", last.trim());
    }
    let guess = guess::remark(guess, ended);
    println!("   {ended:>5} ms  the process exits: {}.{guess}", code(status));
    Ok(())
}

fn code(status: ExitStatus) -> String {
    match status.code() {
        Some(143) => "exit code 143, which is 128 + 15 (SIGTERM)".to_owned(),
        Some(code) => format!("exit code {code}"),
        None => status.to_string(),
    }
}

/// A running server process. Killed on drop.
struct ServerProcess {
    child: Child,
    lines: BufReader<process::ChildStdout>,
    address: String,
}

impl ServerProcess {
    fn start(drain: Duration) -> Result<Self> {
        let drain = drain.as_millis().to_string();
        let mut child = Command::new(env::current_exe()?)
            .args(["serve", &drain])
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no stdout")?;
        let mut lines = BufReader::new(stdout);
        let mut address = String::new();
        lines.read_line(&mut address)?;
        Ok(Self { child, lines, address: address.trim().to_owned() })
    }

    /// Waits for the next line that the server prints, and checks it.
    fn expect_line(&mut self, expected: &str) -> Result<()> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        if line.trim() != expected {
            let error = format!("the server prints {line:?}, not {expected:?}");
            return Err(error.into());
        }
        Ok(())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // The process has already exited, unless something failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn print_line(line: &str) {
    println!("{line}");
    // Fails if the reader has exited.
    let _ = stdout().flush();
}

#[tokio::main(flavor = "current_thread")]
async fn serve(drain: Duration) -> Result<()> {
    // Before anything else: from here on, SIGTERM does not kill the process.
    let mut terminate = signal(SignalKind::terminate())?;
    let slow = async || {
        print_line("begun");
        sleep(SLOW).await;
        "done\n"
    };
    let router = Router::new().route("/slow", get(slow));
    let address = (Ipv4Addr::LOCALHOST, 0).into();
    let server = Server::bind(address, router, drain).await?;
    print_line(&server.local_addr()?.to_string());

    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        terminate.recv().await;
        token.cancel();
        // Lets `serve` close the port before the line is printed.
        tokio::task::yield_now().await;
        print_line("signalled");
        terminate.recv().await;
        print_line("signalled");
        process::exit(128 + SignalKind::terminate().as_raw_value());
    });
    let stopped = server.serve(stop).await;
    print_line(&format!("connections aborted: {}", stopped.aborted));
    Ok(())
}
