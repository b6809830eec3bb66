//! A slow request meets SIGTERM: drained, cut off at a deadline, and cut off by a second signal.
//!
//! ```console
//! $ cargo run -p week03 --example http_shutdown
//! ```
//!
//! The server is a process of its own: this program once more, with `serve`.

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

/// How long the slow request takes.
const SLOW: Duration = Duration::from_millis(1500);

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    if arguments.next().as_deref() == Some("serve") {
        let drain = arguments.next().ok_or("no drain")?.parse()?;
        return serve(Duration::from_millis(drain));
    }
    let slow = SLOW.as_millis();
    println!(
        "A request takes {slow} ms. SIGTERM comes as soon as it has begun."
    );

    let question =
        "The drain is 5000 ms. After how many ms does the process end?";
    let guess = guess::ask(&format!("\n1. {question}"))?;
    stop(Duration::from_secs(5), &[Signal::TERM], guess.as_deref())?;

    let guess = guess::ask("\n2. The drain is 500 ms. And now?")?;
    stop(Duration::from_millis(500), &[Signal::TERM], guess.as_deref())?;

    let guess = guess::ask("\n3. 5000 ms again, and SIGTERM comes twice.")?;
    let twice = [Signal::TERM, Signal::TERM];
    stop(Duration::from_secs(5), &twice, guess.as_deref())
}

/// Starts a server, asks it for something slow, and sends it `signals`.
fn stop(
    drain: Duration,
    signals: &[Signal],
    guess: Option<&str>,
) -> Result<()> {
    let mut server = Running::start(drain)?;
    let mut client = TcpStream::connect(&*server.address)?;
    client.write_all(b"GET /slow HTTP/1.1\r\nHost: here\r\n\r\n")?;
    server.says("begun")?;

    let start = Instant::now();
    for &signal in signals {
        kill_process(Pid::from_child(&server.child), signal)?;
        server.says("told")?;
        println!("   {:>5} ms  it has SIGTERM", start.elapsed().as_millis());
    }
    let late = TcpStream::connect(&*server.address);
    let late =
        late.map_or_else(|error| error.to_string(), |_| "open".to_owned());
    println!("   {:>5} ms  its port: {late}", start.elapsed().as_millis());

    let client = thread::spawn(move || {
        let mut answer = String::new();
        // It fails where the connection is reset.
        let _ = client.read_to_string(&mut answer);
        let answer = answer.lines().next().unwrap_or("nothing").to_owned();
        (answer, start.elapsed().as_millis())
    });
    let status = server.child.wait()?;
    let ended = start.elapsed().as_millis();
    let (answer, after) = client.join().expect("it does not panic");
    println!("   {after:>5} ms  the request has got: {answer}");
    let mut last = String::new();
    server.lines.read_to_string(&mut last)?;
    if !last.is_empty() {
        println!("             the server's last line: {}", last.trim());
    }
    let guess = guess::remark(guess, ended);
    println!(
        "   {ended:>5} ms  the process has ended: {}.{guess}",
        code(status)
    );
    Ok(())
}

fn code(status: ExitStatus) -> String {
    match status.code() {
        Some(143) => "exit code 143, which is 128 + SIGTERM".to_owned(),
        Some(code) => format!("exit code {code}"),
        None => status.to_string(),
    }
}

/// The server's process. Killed on drop.
struct Running {
    child: Child,
    lines: BufReader<process::ChildStdout>,
    address: String,
}

impl Running {
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

    /// Waits for this line.
    fn says(&mut self, word: &str) -> Result<()> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        if line.trim() != word {
            return Err(format!("it says {line:?}, not {word:?}").into());
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended, unless something failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(line: &str) {
    println!("{line}");
    // Whoever reads it may be gone.
    let _ = stdout().flush();
}

#[tokio::main(flavor = "current_thread")]
async fn serve(drain: Duration) -> Result<()> {
    // Before anything else: from here on, SIGTERM no longer kills.
    let mut terminate = signal(SignalKind::terminate())?;
    let slow = async || {
        say("begun");
        sleep(SLOW).await;
        "done\n"
    };
    let router = Router::new().route("/slow", get(slow));
    let address = (Ipv4Addr::LOCALHOST, 0).into();
    let server = Server::bind(address, router, drain).await?;
    say(&server.local_addr()?.to_string());

    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        terminate.recv().await;
        told.cancel();
        // So that the port is closed when it is said.
        tokio::task::yield_now().await;
        say("told");
        terminate.recv().await;
        say("told");
        process::exit(128 + SignalKind::terminate().as_raw_value());
    });
    let stopped = server.serve(stop).await;
    say(&format!("connections aborted: {}", stopped.aborted));
    Ok(())
}
