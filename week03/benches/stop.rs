//! How long a process takes from SIGTERM to its exit, while clients keep idle
//! connections: ours, and one by `axum::serve` with its graceful shutdown.

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

/// Which of the servers this process is to be, if any.
const SERVER: &str = "BENCH_STOP_SERVER";

const CONNECTIONS: [usize; 3] = [0, 100, 1000];

/// Processes of each kind that are stopped, one after the other.
const ROUNDS: usize = 21;

fn main() -> ExitCode {
    more_files();
    match env::var(SERVER) {
        Ok(server) => serve(&server),
        Err(_) => {
            compare();
            ExitCode::SUCCESS
        }
    }
}

/// A thousand connections take a thousand files, on each side.
fn more_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let all = Rlimit { current: maximum, maximum };
    setrlimit(Resource::Nofile, all).expect("up to the maximum");
}

fn compare() {
    println!("from SIGTERM to the exit, {ROUNDS} processes each:");
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
            "{connections:5} idle connections: {:.2} ms, axum::serve {:.2} ms, \
             ratio {}",
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

/// Starts a server, opens connections that have had one answer each, and
/// returns how long it then takes to stop.
fn stop(server: &str, connections: usize) -> Duration {
    let (mut child, address) = start(server).expect("the server starts");
    let clients: Vec<_> = iter::repeat_with(|| idle(address))
        .take(connections)
        .collect::<io::Result<_>>()
        .expect("the server answers");
    let start = Instant::now();
    let process = Pid::from_child(&child);
    kill_process(process, Signal::TERM).expect("it runs");
    let status = child.wait().expect("it is our child");
    let took = start.elapsed();
    assert!(status.success(), "{server}: {status}");
    for mut client in clients {
        let closed = client.read(&mut [0]).expect("it is closed in order");
        assert_eq!(closed, 0, "an idle connection is just closed");
    }
    took
}

fn start(server: &str) -> io::Result<(Child, SocketAddr)> {
    let mut child = Command::new(env::current_exe()?)
        .env(SERVER, server)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let stdout = child.stdout.take().expect("it is piped");
    BufReader::new(stdout).read_line(&mut line)?;
    let address = line.trim().parse().map_err(io::Error::other)?;
    Ok((child, address))
}

fn idle(address: SocketAddr) -> io::Result<TcpStream> {
    let mut client = TcpStream::connect(address)?;
    client.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"idle") {
        let mut part = [0; 256];
        let read = client.read(&mut part)?;
        answer.extend(&part[..read]);
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
    let any = (Ipv4Addr::LOCALHOST, 0).into();
    let server = Server::bind(any, router, Duration::from_secs(20)).await?;
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
