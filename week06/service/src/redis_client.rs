//! The connection to Redis. A slow or lost Redis costs a caller at most the
//! timeout, and after a few failures mostly nothing: a breaker refuses calls.
//!
//! A task keeps the connection and reconnects. So no caller waits for a
//! connection: without one, a call fails at once.
//!
//! Each call gets the **run** of the server, a name that Redis chooses at each
//! start. After a restart from an old snapshot, or a failover to a replica that
//! has missed writes, the run is another one. A cache whose keys contain the run
//! never reads entries of an earlier run, and needs no cleaning: they expire.

use std::num::NonZero;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Client, RedisError, RedisResult};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use week05::sre_breaker::{self, Breaker};
use week05::window;

/// The settings of a [`RedisClient`].
#[derive(Debug, Clone)]
pub struct Config {
    /// `redis://host:port`, or `redis+unix:///path`.
    pub url: String,
    /// The longest time of a call.
    pub timeout: Duration,
}

/// A shared connection. A clone is the same connection.
#[derive(Debug, Clone)]
pub struct RedisClient {
    shared: Arc<Shared>,
    /// Ends with the last clone.
    _keeper: Arc<AbortOnDropHandle<()>>,
}

/// The call has no result. It may have been executed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Redis is not connected, did not answer in time, or the breaker has
    /// refused the call.
    #[error("redis is not available")]
    Unavailable,
    /// Redis has answered with an error, or with a value of another type.
    #[error("redis has refused the call")]
    Refused(#[source] RedisError),
}

#[derive(Debug)]
struct Shared {
    link: RwLock<Option<Link>>,
    breaker: Breaker,
    timeout: Duration,
    /// Notified if a call has failed, so that the connection is tested.
    suspect: Notify,
}

/// A connection, and the run of the server that it leads to.
#[derive(Debug, Clone)]
pub struct Link {
    /// Calls of all clones share it.
    pub connection: MultiplexedConnection,
    /// The run of the server.
    pub run: Arc<str>,
}

/// The time for a connection, and for a test of it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause between two attempts to connect grows up to this.
const MAX_PAUSE: Duration = Duration::from_millis(500);

impl RedisClient {
    /// Creates a client, which connects in the background.
    ///
    /// # Errors
    ///
    /// Returns an error if the URL is not valid.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn new(config: &Config) -> RedisResult<Self> {
        let client = Client::open(config.url.as_str())?;
        let breaker = sre_breaker::Config {
            k: 1.5,
            min_requests: 10,
            window: window::Config {
                bucket: Duration::from_millis(200),
                buckets: NonZero::new(10).expect("it is not zero"),
            },
            probe_interval: Duration::from_millis(100),
            slow_call: config.timeout,
        };
        let shared = Arc::new(Shared {
            link: RwLock::default(),
            breaker: Breaker::new(breaker, Instant::now()),
            timeout: config.timeout,
            suspect: Notify::new(),
        });
        let keeper = tokio::spawn(keep(client, Arc::clone(&shared)));
        let keeper = Arc::new(AbortOnDropHandle::new(keeper));
        Ok(Self { shared, _keeper: keeper })
    }

    /// Returns whether there is a connection.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.shared.link().is_some()
    }

    /// Waits until there is a connection.
    pub async fn connected(&self) {
        while !self.is_connected() {
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Makes a call.
    ///
    /// # Errors
    ///
    /// Returns [`CallError`] if there is no result.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the call may still be executed.
    pub async fn call<T>(
        &self,
        call: impl AsyncFnOnce(Link) -> RedisResult<T>,
    ) -> Result<T, CallError> {
        let Some(link) = self.shared.link() else {
            return Err(CallError::Unavailable);
        };
        let rand = fastrand::f64();
        let allowed = self.shared.breaker.allow(Instant::now(), rand);
        let permit = allowed.map_err(|_| CallError::Unavailable)?;
        let result = timeout(self.shared.timeout, call(link)).await;
        match result {
            Ok(Ok(value)) => {
                permit.success(Instant::now());
                Ok(value)
            }
            Ok(Err(error)) if !is_io(&error) => {
                permit.success(Instant::now());
                Err(CallError::Refused(error))
            }
            Ok(Err(_)) | Err(_) => {
                permit.failure(Instant::now());
                self.shared.suspect.notify_one();
                Err(CallError::Unavailable)
            }
        }
    }
}

impl Shared {
    fn link(&self) -> Option<Link> {
        self.link.read().expect("no code panics with the lock held").clone()
    }

    fn set_link(&self, link: Option<Link>) {
        let mut current =
            self.link.write().expect("no code panics with the lock held");
        *current = link;
    }
}

/// Connects, tests the connection when a call has failed, and reconnects.
async fn keep(client: Client, shared: Arc<Shared>) {
    let first_pause = Duration::from_millis(10);
    let mut pause = first_pause;
    loop {
        if let Ok(Ok(link)) = timeout(CONNECT_TIMEOUT, connect(&client)).await {
            shared.set_link(Some(link.clone()));
            pause = first_pause;
            while {
                shared.suspect.notified().await;
                is_alive(&link).await
            } {}
            shared.set_link(None);
        }
        // The jitter keeps a thousand processes from connecting at once.
        sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

async fn connect(client: &Client) -> RedisResult<Link> {
    let mut connection = client.get_multiplexed_async_connection().await?;
    let run = run(&mut connection).await?;
    Ok(Link { connection, run: run.into() })
}

/// Returns whether the server answers. A connection is always one to the same
/// run.
async fn is_alive(link: &Link) -> bool {
    let mut connection = link.connection.clone();
    let run = timeout(CONNECT_TIMEOUT, run(&mut connection)).await;
    run.is_ok_and(|run| run.is_ok())
}

async fn run(connection: &mut MultiplexedConnection) -> RedisResult<String> {
    let info: redis::InfoDict =
        redis::cmd("INFO").arg("server").query_async(connection).await?;
    info.get("run_id").ok_or_else(|| {
        RedisError::from((redis::ErrorKind::UnexpectedReturnType, "no run_id"))
    })
}

fn is_io(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
}
