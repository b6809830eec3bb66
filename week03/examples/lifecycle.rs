//! A process with two servers shuts down: without a lame-duck period, with one, after a crash.
//!
//! ```console
//! $ cargo run -p week03 --example lifecycle
//! ```
//!
//! The example starts itself as a child process, with the argument `serve`. The
//! registry and the client run in the parent.

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

/// The time between two requests of the client.
const REQUEST_INTERVAL: Duration = Duration::from_millis(10);

/// The number of requests between two lookups of the address.
const REQUESTS_PER_LOOKUP: u32 = 20;

/// Longer than the client uses an address before it looks it up again.
const LAME_DUCK: Duration = Duration::from_millis(500);

// Several threads: one of them blocks in `wait` until the child exits, and the
// child still sends requests to the registry.
#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [_serve, registry, lame_duck] = &arguments[..] {
        let lame_duck = Duration::from_millis(lame_duck.parse()?);
        return Ok(serve(registry.parse()?, lame_duck).await.into());
    }
    let interval = REQUEST_INTERVAL.as_millis();
    let lame_duck = LAME_DUCK.as_millis();
    println!(
        "A process has two servers: a store, and an API that sends requests to \
         the store.\nA client sends a request to the API every {interval} ms. \
         After every {REQUESTS_PER_LOOKUP} requests it looks up\nthe API's \
         address in a registry. SIGTERM comes right after a lookup."
    );
    let question = "The process deregisters, and closes its port at once. How \
                    many requests fail?";
    let guess = guess::ask(&format!("\n1. {question}"))?;
    scenario(Duration::ZERO, Some(Signal::TERM), guess.as_deref()).await?;
    println!("The client uses the old address until its next lookup.");

    let question = format!(
        "The process deregisters, and serves for another {lame_duck} ms. How \
         many requests fail?"
    );
    let guess = guess::ask(&format!("\n2. {question}"))?;
    scenario(LAME_DUCK, Some(Signal::TERM), guess.as_deref()).await?;
    println!("Requests to the old address are still served.");

    let question = "No signal comes. The API crashes, and the store does not. \
                    How many requests fail?";
    let guess = guess::ask(&format!("\n3. {question}"))?;
    scenario(LAME_DUCK, None, guess.as_deref()).await?;
    println!(
        "Requests to the crashed API fail until the next lookup. The process \
         is deregistered,\nand its store stops gracefully."
    );
    Ok(ExitCode::SUCCESS)
}

/// Starts the process and a client. Sends the signal to the process, or lets
/// its API crash. Prints how many requests failed.
async fn scenario(
    lame_duck: Duration,
    signal: Option<Signal>,
    guess: Option<&str>,
) -> Result<()> {
    let entry = watch::Sender::new(None);
    let (registered, deregistered) = (entry.clone(), entry.clone());
    let register =
        async move |Path(api)| _ = registered.send_replace(Some(api));
    let deregister = async move || _ = deregistered.send_replace(None);
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
    let api = api.expect("`wait_for` returned an address");
    let looked_up = Arc::new(Notify::new());
    let client = tokio::spawn(client(entries, Arc::clone(&looked_up)));
    // The first lookup precedes all requests. Wait for the second one, too.
    looked_up.notified().await;
    looked_up.notified().await;
    match signal {
        Some(signal) => kill_process(Pid::from_child(&process.0), signal)?,
        // The API crashes before it answers: the error is expected.
        None => drop(send(api, "/crash").await),
    }
    let failed = client.await?;
    let status = process.0.wait()?;
    let guess = guess::remark(guess, failed);
    println!("{failed} requests failed, {status}.{guess}");
    Ok(())
}

/// A child process. It is killed on drop.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // The process has already exited, unless the example failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Looks up the address in the registry and sends requests to it, until no
/// address is registered. Returns how many requests failed.
async fn client(
    registry: watch::Receiver<Option<SocketAddr>>,
    looked_up: Arc<Notify>,
) -> u32 {
    let mut failed = 0;
    let mut requests = interval(REQUEST_INTERVAL);
    loop {
        let Some(api) = *registry.borrow() else {
            return failed;
        };
        looked_up.notify_one();
        for _ in 0..REQUESTS_PER_LOOKUP {
            requests.tick().await;
            failed += u32::from(send(api, "/").await.is_err());
        }
    }
}

/// Sends a GET request. Returns an error unless the status is 200.
async fn send(address: SocketAddr, path: &str) -> io::Result<()> {
    let mut server = TcpStream::connect(address).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n"
    );
    server.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    server.read_to_string(&mut response).await?;
    match response.starts_with("HTTP/1.1 200 ") {
        true => Ok(()),
        false => Err(io::Error::other("the status is not 200")),
    }
}

async fn bind(router: Router) -> io::Result<Server> {
    let address = (Ipv4Addr::LOCALHOST, 0).into();
    Server::bind(address, router, Duration::from_secs(5)).await
}

/// Runs the child process until a signal or a crash ends it. Returns its exit
/// code.
async fn serve(registry: SocketAddr, lame_duck: Duration) -> u8 {
    let start = async move |stop| {
        let plan = plan(registry, lame_duck).await?;
        let application: signals::Part = Box::pin(async move {
            println!("{}", run(plan, stop).await.result()?);
            Ok(())
        });
        Ok(vec![application])
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
    let query_store = async move || match send(store_address, "/").await {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::BAD_GATEWAY,
    };
    let router = Router::new()
        .route("/", get(query_store))
        .route("/crash", get(async move || crash.cancel()));
    let api = bind(router).await?;
    let api_address = api.local_addr()?;
    plan.part("api", async move |ready: Ready, stop| {
        ready.set();
        tokio::select! {
            _stopped = api.serve(stop) => Ok(()),
            () = crashed.cancelled() => Err("the API has crashed".into()),
        }
    });

    let register = async move {
        Ok(send(registry, &format!("/register/{api_address}")).await?)
    };
    let deregister = async move { Ok(send(registry, "/deregister").await?) };
    plan.registry(register, deregister);
    Ok(plan)
}
