//! A process of two servers leaves a registry: with a lame duck, without one, and by a crash.
//!
//! ```console
//! $ cargo run -p week03 --example lifecycle
//! ```
//!
//! The process is this program once more, with `serve`. The registry and the
//! client are here.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;
use std::{env, io};

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::get;
use lab::guess;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;
use week03::app::run;
use week03::drain::Server;
use week03::plan::{Limits, Plan, Ready};
use week03::signals;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The client sends a request this often,
const PAUSE: Duration = Duration::from_millis(10);

/// and looks for the address after so many.
const REQUESTS: u32 = 20;

/// Longer than the client goes by what it has read.
const LAME_DUCK: Duration = Duration::from_millis(500);

// More than one thread: one of them waits for a process, which has questions.
#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [_serve, registry, lame_duck] = &arguments[..] {
        let lame_duck = Duration::from_millis(lame_duck.parse()?);
        return Ok(serve(registry.parse()?, lame_duck).await.into());
    }
    let (pause, duck) = (PAUSE.as_millis(), LAME_DUCK.as_millis());
    println!(
        "A process is a store, and a server that asks it. A client sends a \
         request each {pause} ms.\nAfter each {REQUESTS} it looks up the address \
         in a registry. Right after that, SIGTERM comes."
    );
    let question = "The process deregisters, and closes its port at once. How \
                    many requests fail?";
    let guess = guess::ask(&format!("\n1. {question}"))?;
    story(Duration::ZERO, Some(Signal::TERM), guess.as_deref()).await?;
    println!("The client goes by what it has read, until it reads again.");

    let question = format!("It deregisters, and serves on for {duck} ms.");
    let guess = guess::ask(&format!("\n2. {question} And now?"))?;
    story(LAME_DUCK, Some(Signal::TERM), guess.as_deref()).await?;
    println!("Who still comes is still served.");

    let question =
        "No signal comes: its server crashes, and the store does not.";
    let guess = guess::ask(&format!("\n3. {question} And now?"))?;
    story(LAME_DUCK, None, guess.as_deref()).await?;
    println!(
        "A crash loses them. But it is deregistered, and the store ends well."
    );
    Ok(ExitCode::SUCCESS)
}

/// Starts the process and a client, and sends it the signal or lets it crash.
async fn story(
    lame_duck: Duration,
    signal: Option<Signal>,
    guess: Option<&str>,
) -> Result<()> {
    let entry = watch::Sender::new(None);
    let (joins, leaves) = (entry.clone(), entry.clone());
    let register = async move |Path(api)| _ = joins.send_replace(Some(api));
    let deregister = async move || _ = leaves.send_replace(None);
    let router = Router::new()
        .route("/register/{api}", get(register))
        .route("/deregister", get(deregister));
    let registry = bind(router).await?;
    let address = registry.local_addr()?.to_string();
    tokio::spawn(registry.serve(CancellationToken::new()));

    let lame_duck = lame_duck.as_millis().to_string();
    let mut process = Process(
        Command::new(env::current_exe()?)
            .args(["serve", &address, &lame_duck])
            .spawn()?,
    );
    let mut entries = entry.subscribe();
    let api = *entries.wait_for(Option::is_some).await?;
    let api = api.expect("it has just been looked at");
    let has_read = Arc::new(Notify::new());
    let client = tokio::spawn(client(entries, Arc::clone(&has_read)));
    // Once at the beginning, and once more.
    has_read.notified().await;
    has_read.notified().await;
    match signal {
        Some(signal) => kill_process(Pid::from_child(&process.0), signal)?,
        // It has no time to answer.
        None => drop(ask(api, "/crash").await),
    }
    let failed = client.await?;
    let status = process.0.wait()?;
    let guess = guess::remark(guess, failed);
    println!("{failed} requests failed, {status}.{guess}");
    Ok(())
}

/// Killed on drop.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended, unless something failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Goes by what it has read in the registry, until nobody is there. Returns how
/// many requests failed.
async fn client(
    registry: watch::Receiver<Option<SocketAddr>>,
    has_read: Arc<Notify>,
) -> u32 {
    let mut failed = 0;
    let mut pause = interval(PAUSE);
    loop {
        let Some(api) = *registry.borrow() else {
            return failed;
        };
        has_read.notify_one();
        for _ in 0..REQUESTS {
            pause.tick().await;
            failed += u32::from(ask(api, "/").await.is_err());
        }
    }
}

/// Whether it is answered with 200.
async fn ask(address: SocketAddr, path: &str) -> io::Result<()> {
    let mut server = TcpStream::connect(address).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n"
    );
    server.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    server.read_to_string(&mut answer).await?;
    match answer.starts_with("HTTP/1.1 200 ") {
        true => Ok(()),
        false => Err(io::Error::other("it is not well")),
    }
}

async fn bind(router: Router) -> io::Result<Server> {
    let address = (Ipv4Addr::LOCALHOST, 0).into();
    Server::bind(address, router, Duration::from_secs(5)).await
}

/// The process: an application that signals drive, and its exit code.
async fn serve(registry: SocketAddr, lame_duck: Duration) -> u8 {
    let start = async move |stop| {
        let plan = plan(registry, lame_duck).await?;
        let life: signals::Part = Box::pin(async move {
            println!("{}", run(plan, stop).await.result()?);
            Ok(())
        });
        Ok(vec![life])
    };
    signals::run(start, || {}).await
}

async fn plan(registry: SocketAddr, lame_duck: Duration) -> Result<Plan> {
    let (call, budget) = (Duration::from_secs(1), Duration::from_secs(10));
    let mut plan = Plan::new(Limits { call, lame_duck, budget });

    let store = bind(Router::new().route("/", get(async || "a row"))).await?;
    let store_address = store.local_addr()?;
    plan.part("store", async move |ready: Ready, stop| {
        ready.set();
        store.serve(stop).await;
        Ok(())
    });

    let crashed = CancellationToken::new();
    let crash = crashed.clone();
    let asks_the_store = async move || match ask(store_address, "/").await {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::BAD_GATEWAY,
    };
    let router = Router::new()
        .route("/", get(asks_the_store))
        .route("/crash", get(async move || crash.cancel()));
    let api = bind(router).await?;
    let api_address = api.local_addr()?;
    plan.part("api", async move |ready: Ready, stop| {
        ready.set();
        tokio::select! {
            _stopped = api.serve(stop) => Ok(()),
            () = crashed.cancelled() => Err("it has crashed".into()),
        }
    });

    let register = async move {
        Ok(ask(registry, &format!("/register/{api_address}")).await?)
    };
    let deregister = async move { Ok(ask(registry, "/deregister").await?) };
    plan.registry(register, deregister);
    Ok(plan)
}
