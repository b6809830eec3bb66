//! Measures the time from SIGTERM to the exit of a process with idle
//! connections: one with this week's server, and one with `axum::serve` and its
//! graceful shutdown.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{env, iter};

use axum::Router;
use axum::routing::get;
use lab::ratio::Ratio;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit,
};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use week03::drain::Server;
use week03::signals::{self, BoxError, Part};

/// If this variable is set, this process is the server that it names.
const SERVER: &str = "BENCH_STOP_SERVER";

const CONNECTIONS: [usize; 3] = [0, 100, 1000];

/// The number of processes of each kind.
const ROUNDS: usize = 101;

fn main() -> ExitCode {
    raise_file_limit();
    match env::var(SERVER) {
        Ok(server) => serve(&server),
        Err(_) => {
            compare();
            ExitCode::SUCCESS
        }
    }
}

/// Raises the limit of open files: a thousand connections need a thousand files
/// in each process.
fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    setrlimit(Resource::Nofile, raised).expect("the maximum is allowed");
}

fn compare() {
    println!(
        "time from SIGTERM to the exit, median of {ROUNDS} processes each:"
    );
    for connections in CONNECTIONS {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push((stop("ours", connections), stop("axum", connections)));
        }
        let ratios: Vec<_> = rounds
            .iter()
            .map(|(ours, axum)| ours.as_secs_f64() / axum.as_secs_f64())
            .collect();
        let (ours, axum): (Vec<_>, Vec<_>) = rounds.into_iter().unzip();
        println!(
            "{connections:5} idle connections: this server {:.2} ms, \
             axum::serve {:.2} ms, ratio {}",
            median(ours),
            median(axum),
            Ratio::of(&ratios)
        );
    }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

/// Starts a server, opens idle connections, on each of which one request has
/// been answered, and returns the time from SIGTERM to the exit of the process.
fn stop(server: &str, connections: usize) -> Duration {
    let (mut child, address) = start(server).expect("the server starts");
    let clients: Vec<_> = iter::repeat_with(|| idle_connection(address))
        .take(connections)
        .collect::<io::Result<_>>()
        .expect("the server responds");
    let start = Instant::now();
    let process = Pid::from_child(&child);
    kill_process(process, Signal::TERM).expect("the process runs");
    let status = child.wait().expect("a child process");
    let took = start.elapsed();
    assert!(
        status.success(),
        "expected exit code 0 of the server `{server}`; seen: {status}"
    );
    for mut client in clients {
        let closed = client.read(&mut [0]).expect("closed without a reset");
        assert_eq!(closed, 0, "bytes read from a closed idle connection");
    }
    took
}

fn start(server: &str) -> io::Result<(Child, SocketAddr)> {
    let mut child = Command::new(env::current_exe()?)
        .env(SERVER, server)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let stdout = child.stdout.take().expect("stdout is piped");
    BufReader::new(stdout).read_line(&mut line)?;
    let address = line.trim().parse().map_err(io::Error::other)?;
    Ok((child, address))
}

fn idle_connection(address: SocketAddr) -> io::Result<TcpStream> {
    let mut client = TcpStream::connect(address)?;
    client.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
    let mut response = Vec::new();
    while !response.ends_with(b"idle") {
        let mut part = [0; 256];
        let read = client.read(&mut part)?;
        response.extend(&part[..read]);
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(client)
}

#[tokio::main]
async fn serve(server: &str) -> ExitCode {
    let router = Router::new().route("/", get(async || "idle"));
    match server {
        "ours" => {
            let start = async |stop| ours(router, stop).await;
            signals::run(start, || {}).await.into()
        }
        _ => axum(router).await.map_or(ExitCode::FAILURE, ExitCode::from),
    }
}

async fn ours(
    router: Router,
    stop: CancellationToken,
) -> Result<Vec<Part>, BoxError> {
    let any_port = (Ipv4Addr::LOCALHOST, 0).into();
    let server =
        Server::bind(any_port, router, Duration::from_secs(20)).await?;
    println!("{}", server.local_addr()?);
    Ok(vec![Box::pin(async move {
        server.serve(stop).await;
        Ok(())
    })])
}

async fn axum(router: Router) -> io::Result<u8> {
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    axum::serve(listener, router)
        .with_graceful_shutdown(async move {
            terminate.recv().await;
        })
        .await?;
    Ok(0)
}
