//! The comment service over a slow database, with and without protection.

use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use http::{Request, StatusCode};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use week04::composition::Application;
use week04::settings;
use week05::criticality::{self, Criticality, Shedder};
use week05::deadline::{Deadline, Latency};
use week05::layer::{Layer, Outcome};
use week05::policies::DeadlineCheck;

/// The database serves so many queries at a time.
const CONNECTIONS: u32 = 4;

/// The time of a query.
const QUERY: Duration = Duration::from_millis(40);

/// Requests per second that the database can serve.
pub(crate) const CAPACITY: f64 = 100.0;

/// The header with the class of a request.
pub(crate) const CRITICALITY: &str = "x-criticality";

/// A service that runs.
pub(crate) struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
    _dir: TempDir,
}

impl Running {
    /// Starts the service on a free port, with an empty database.
    pub(crate) async fn start(is_protected: bool) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let url = format!("sqlite://{}/overload.db", dir.path().display());
        let text = format!(r#"{{"data": {{"url": "{url}"}}}}"#);
        let options = settings::load(&text, [])?.options()?;
        let application = Application::open_with(options, |http| {
            let http = over_slow_database(http);
            if is_protected { protected(http) } else { http }
        });
        let application = application.await.map_err(|failed| {
            anyhow::anyhow!("the service does not start: {}", failed.error)
        })?;
        let (address, _) = application.addresses()?;
        let stop = CancellationToken::new();
        let running = application.run(stop.clone());
        let task = tokio::spawn(async move {
            running.await.map_err(anyhow::Error::from_boxed)
        });
        Ok(Self { address, stop, task, _dir: dir })
    }

    /// Returns the address of the HTTP listener.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops the service gracefully.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.task.await?
    }
}

/// Adds the time of a slow database to each request.
fn over_slow_database(router: Router) -> Router {
    let connections = Arc::new(Semaphore::new(CONNECTIONS as usize));
    router.layer(from_fn_with_state(connections, query))
}

async fn query(
    State(connections): State<Arc<Semaphore>>,
    request: Request<Body>,
    next: Next,
) -> Response {
    // A client that disconnects leaves the queue of the pool.
    let connection = connections.acquire_owned().await.expect("it is open");
    // But a database completes a query that it has begun.
    let query = tokio::spawn(async move {
        sleep(QUERY).await;
        drop(connection);
    });
    query.await.expect("a pause does not panic");
    next.run(request).await
}

/// Puts the policies of this week around the service.
fn protected(router: Router) -> Router {
    let deadlines = Layer {
        policy: Arc::new(DeadlineCheck {
            latency: Latency::new(Duration::from_secs(2)),
        }),
        key: |request: &Request<Body>| {
            let header = request.headers().get("grpc-timeout");
            let text = header.and_then(|value| value.to_str().ok());
            let deadline =
                text.map(|text| Deadline::from_header(text, Instant::now()));
            deadline.and_then(Result::ok).unwrap_or(Deadline::NEVER)
        },
        judge,
        refuse: |_| Ok(refusal()),
    };
    let shedding = Layer {
        policy: Shedder::new(criticality::Config {
            // Each of those that wait needs 10 ms on average.
            max_in_flight: NonZero::new(16).expect("it is not zero"),
            degrade_at: [101; 4],
            refuse_at: [50, 65, 80, 101],
        }),
        key: |request: &Request<Body>| {
            let header = request.headers().get(CRITICALITY);
            let text = header.and_then(|value| value.to_str().ok());
            // The processor is not what is scarce here: only requests in
            // flight count.
            (Criticality::inherited(text), f64::NAN)
        },
        judge,
        refuse: |_| Ok(refusal()),
    };
    router.layer(deadlines).layer(shedding)
}

type Answer = Result<Response, std::convert::Infallible>;

fn judge(answer: &Answer) -> Outcome {
    match answer {
        Ok(answer) if answer.status().is_server_error() => Outcome::Failure,
        _ => Outcome::Success,
    }
}

fn refusal() -> Response {
    StatusCode::SERVICE_UNAVAILABLE.into_response()
}
