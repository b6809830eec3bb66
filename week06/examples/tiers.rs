//! Ten thousand readers want one key, on ten nodes. How many queries does the
//! origin get, with and without a parent tier?
//!
//! ```console
//! $ cargo run --release -p week06 --example tiers
//! ```
//!
//! The first part runs over HTTP on loopback: an origin, two parents, ten edges
//! and the readers, all in one process. The second part simulates a million
//! readers on a hundred edges, in virtual time.

use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use lab::guess;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use week06::tiers::{Answer, Config, Failed, Node, Upstream, rank};

const READERS: usize = 10_000;

const EDGES: usize = 10;

/// Requests of readers at a time. Each one needs two open files, and some systems
/// allow 256.
const CONNECTIONS: usize = 40;

/// How long a reader waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the origin takes to answer.
const QUERY: Duration = Duration::from_millis(50);

const KEY: &str = "celebrity";

const PARENTS: [&str; 2] = ["parent-1", "parent-2"];

type Client = legacy::Client<HttpConnector, Empty<Bytes>>;

/// An upstream that is asked over HTTP.
#[derive(Clone)]
struct Remote {
    client: Client,
    address: SocketAddr,
}

/// A node behind HTTP.
#[derive(Clone)]
struct Server {
    node: Node<Remote>,
    queries: Arc<AtomicU64>,
}

/// What happens in a run of the first part.
#[derive(Debug, Clone, Copy)]
struct Plan {
    name: &'static str,
    has_parents: bool,
    keep: Duration,
    /// The readers come within this time.
    duration: Duration,
    /// Whether the parent of the key is killed in the middle.
    is_killed: bool,
}

/// What a run has counted.
struct Report {
    failed: usize,
    parents: [u64; 2],
    origin: u64,
}

const AT_ONCE: Plan = Plan {
    name: "edges only",
    has_parents: false,
    keep: Duration::from_secs(10),
    duration: Duration::ZERO,
    is_killed: false,
};

const PLANS: [Plan; 4] = [
    AT_ONCE,
    Plan { name: "two tiers", has_parents: true, ..AT_ONCE },
    Plan {
        name: "over 2 s",
        has_parents: true,
        keep: Duration::from_millis(200),
        duration: Duration::from_secs(2),
        is_killed: false,
    },
    Plan {
        name: "parent killed",
        has_parents: true,
        keep: Duration::from_millis(200),
        duration: Duration::from_secs(2),
        is_killed: true,
    },
];

fn main() -> Result<(), Box<dyn Error>> {
    println!(
        "{READERS} readers want one key from {EDGES} edges, over HTTP. There are \
         two parents, and an\norigin that needs {QUERY:?}. In the first two runs \
         all readers come at once, and a result\nis kept for 10 s. In the others \
         they come within 2 s, and it is kept for 200 ms. In the\nlast one, the \
         parent that all edges ask is killed after a second."
    );
    let guess = guess::ask("\nHow many readers get no value in the last run?")?;
    println!("\nrun            failed  parent-1  parent-2  origin");
    let mut failed = 0;
    for plan in PLANS {
        let report = over_http(plan)?;
        let [first, second] = report.parents;
        println!(
            "{:13} {:7} {first:9} {second:9} {:7}",
            plan.name, report.failed, report.origin
        );
        failed = report.failed;
    }
    println!(
        "\nWith the parent killed, {failed} readers get no value.{}",
        guess::remark(guess.as_deref(), failed)
    );

    println!(
        "\nNow a million readers come to a hundred edges, within 10 s of virtual \
         time."
    );
    let guess = guess::ask(
        "\nThe edges merge equal reads and keep each result for a second. There \
         is no parent.\nHow many queries does the origin get?",
    )?;
    println!("\nnodes          kept for  queries at the origin");
    println!("{:13} {:>9} {:22}", "none", "-", 1_000_000);
    let second = Duration::from_secs(1);
    let mut edges_only = 0;
    for (name, has_parent, keep) in [
        ("edges only", false, Duration::ZERO),
        ("edges only", false, second),
        ("both tiers", true, Duration::ZERO),
        ("both tiers", true, second),
    ] {
        let queries = simulate(has_parent, keep)?;
        let kept_for = format!("{keep:?}");
        println!("{name:13} {kept_for:>9} {queries:22}");
        if !has_parent {
            edges_only = queries;
        }
    }
    println!(
        "\nWith edges only, which keep a result for a second, it gets \
         {edges_only} queries.{}",
        guess::remark(guess.as_deref(), edges_only)
    );
    Ok(())
}

/// Runs readers against servers on loopback.
fn over_http(plan: Plan) -> Result<Report, Box<dyn Error>> {
    let runtime = Runtime::new()?;
    let client = client();
    let queries = [(); 3].map(|()| Arc::new(AtomicU64::new(0)));
    let origin = Router::new()
        .route("/{key}", get(query))
        .with_state(Arc::clone(&queries[2]));
    let address = serve(runtime.handle(), origin)?;
    let origin = Remote { client: client.clone(), address };
    let config = Config {
        keep: plan.keep,
        attempt_timeout: Duration::from_millis(1_500),
        deadline: Duration::from_secs(1),
        retry_after: Duration::from_secs(5),
    };

    // Each parent has a runtime of its own, which can be killed.
    let (mut runtimes, mut parents) = (Vec::new(), Vec::new());
    for (name, queries) in PARENTS.iter().zip(&queries) {
        let mut builder = Builder::new_multi_thread();
        let own = builder.worker_threads(1).enable_all().build()?;
        // And a client, whose connections are tasks of this runtime.
        let origin = Remote { client: self::client(), address: origin.address };
        let node = Node::new(config, Vec::new(), origin);
        let server = Server { node, queries: Arc::clone(queries) };
        let address = serve(own.handle(), server.router())?;
        let remote = Remote { client: client.clone(), address };
        parents.push(((*name).to_owned(), remote));
        runtimes.push(own);
    }

    let config = Config { deadline: Duration::from_secs(4), ..config };
    let parents = if plan.has_parents { parents } else { Vec::new() };
    let mut edges = Vec::new();
    for _ in 0..EDGES {
        let node = Node::new(config, parents.clone(), origin.clone());
        let server = Server { node, queries: Arc::default() };
        let address = serve(runtime.handle(), server.router())?;
        edges.push(Remote { client: client.clone(), address });
    }
    let victim = runtimes.remove(rank(KEY, PARENTS)[0]);
    let failed = runtime.block_on(read(plan, &edges, victim));
    let [first, second, origin] = queries.map(|queries| queries.load(Relaxed));
    for runtime in runtimes {
        runtime.shutdown_background();
    }
    runtime.shutdown_background();
    Ok(Report { failed, parents: [first, second], origin })
}

fn client() -> Client {
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    builder.pool_max_idle_per_host(CONNECTIONS / EDGES).build_http()
}

/// Sends all reads, and returns the number of those without a value.
async fn read(plan: Plan, edges: &[Remote], parent: Runtime) -> usize {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let mut readers = JoinSet::new();
    let start = Instant::now();
    for i in 0..READERS {
        let edge = edges[i % edges.len()].clone();
        let connections = Arc::clone(&connections);
        let due = start + plan.duration * i as u32 / READERS as u32;
        readers.spawn(async move {
            sleep_until(due).await;
            let permit = connections.acquire().await;
            let _permit = permit.expect("it is never closed");
            let value = timeout(PATIENCE, edge.get(KEY)).await;
            matches!(value, Ok(Ok(Some(_))))
        });
    }
    let parent = if plan.is_killed {
        sleep_until(start + plan.duration / 2).await;
        parent.shutdown_background();
        None
    } else {
        Some(parent)
    };
    let results = readers.join_all().await;
    if let Some(parent) = parent {
        parent.shutdown_background();
    }
    results.iter().filter(|has_value| !**has_value).count()
}

/// Serves `router` on a free port of loopback.
fn serve(runtime: &Handle, router: Router) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        axum::serve(listener, router).await
    });
    Ok(address)
}

/// Answers a query at the origin.
async fn query(
    State(queries): State<Arc<AtomicU64>>,
    Path(key): Path<String>,
) -> Result<String, StatusCode> {
    queries.fetch_add(1, Relaxed);
    sleep(QUERY).await;
    match key.as_str() {
        KEY => Ok("12,345 comments".to_owned()),
        _ => Err(StatusCode::NOT_FOUND),
    }
}

impl Server {
    fn router(self) -> Router {
        Router::new().route("/{key}", get(Self::answer)).with_state(self)
    }

    async fn answer(
        State(server): State<Self>,
        Path(key): Path<String>,
    ) -> Response {
        server.queries.fetch_add(1, Relaxed);
        match server.node.get(&key).await {
            Ok(Some(value)) => value.into_response(),
            Ok(None) => StatusCode::NOT_FOUND.into_response(),
            Err(Failed::Origin(text)) => {
                (StatusCode::BAD_GATEWAY, text).into_response()
            }
            Err(Failed::Panicked(text)) => {
                (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
            }
            Err(Failed::NoAnswer) => {
                StatusCode::GATEWAY_TIMEOUT.into_response()
            }
            Err(Failed::Unavailable) => {
                StatusCode::SERVICE_UNAVAILABLE.into_response()
            }
        }
    }
}

impl Upstream for Remote {
    type Value = Bytes;
    type Error = String;

    async fn get(&self, key: &str) -> Answer<Self> {
        let uri = format!("http://{}/{key}", self.address);
        let uri: Uri =
            uri.parse().expect("the keys of this example need no escapes");
        // No connection, or it has ended before the response: a dead node.
        let response = self.client.get(uri).await;
        let response = response.map_err(|_| Failed::Unavailable)?;
        let status = response.status();
        let body = response.into_body().collect().await;
        let body = body.map_err(|_| Failed::Unavailable)?.to_bytes();
        let text = || String::from_utf8_lossy(&body).into_owned();
        match status {
            StatusCode::OK => Ok(Some(body)),
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::SERVICE_UNAVAILABLE => Err(Failed::Unavailable),
            StatusCode::GATEWAY_TIMEOUT => Err(Failed::NoAnswer),
            StatusCode::BAD_GATEWAY => Err(Failed::Origin(text())),
            _ => Err(Failed::Panicked(text())),
        }
    }
}

/// An origin that counts its queries, in virtual time.
#[derive(Clone)]
struct Database(Arc<AtomicU64>);

impl Upstream for Database {
    type Value = u64;
    type Error = String;

    async fn get(&self, _key: &str) -> Answer<Self> {
        let number = self.0.fetch_add(1, Relaxed);
        sleep(QUERY).await;
        Ok(Some(number))
    }
}

/// Returns the number of queries that the origin gets from the readers of a
/// hundred edges.
fn simulate(has_parent: bool, keep: Duration) -> std::io::Result<u64> {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build()?;
    runtime.block_on(async {
        let database = Database(Arc::default());
        let config = Config {
            keep,
            attempt_timeout: Duration::from_secs(2),
            deadline: Duration::from_secs(1),
            retry_after: Duration::from_secs(5),
        };
        let direct = Node::new(config, Vec::new(), database.clone());
        let parents = if has_parent {
            vec![(PARENTS[0].to_owned(), direct)]
        } else {
            Vec::new()
        };
        let config = Config { deadline: Duration::from_secs(4), ..config };
        let edges = (0..100).map(|_| {
            // Its own path to the origin, which merges only its own reads.
            let direct = Config { keep: Duration::ZERO, ..config };
            let direct = Node::new(direct, Vec::new(), database.clone());
            Node::new(config, parents.clone(), direct)
        });
        let edges: Vec<_> = edges.collect();
        let mut readers = JoinSet::new();
        for _ in 0..10_000 {
            // One reader for each edge in each millisecond.
            for edge in &edges {
                let edge = edge.clone();
                readers.spawn(async move { edge.get(KEY).await });
            }
            sleep(Duration::from_millis(1)).await;
            while readers.try_join_next().is_some() {}
        }
        readers.join_all().await;
        Ok(database.0.load(Relaxed))
    })
}
