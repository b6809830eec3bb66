//! The service: starts all parts from a configuration, and stops them in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::KafkaError;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use week03::drain::{Server, Stopped};

use crate::http::{self, Api};
use crate::index::Index;
use crate::invalidation::{self, Bus};
use crate::job::{Report, Runner, StopFailed};
use crate::own::Own;
use crate::reads::{Reads, Source};
use crate::redis_client::RedisClient;
use crate::store::Store;
use crate::writes::{Direct, Ids, Refresh, Writes, WritesPending};

mod settings;

/// The settings of a [`Service`].
#[derive(Debug, Clone)]
pub struct Config {
    /// The address of the API. Port 0 is any free port.
    pub address: SocketAddr,
    /// `sqlite:…` or `postgres://…`
    pub database: String,
    /// `redis://…` or `redis+unix:///…`
    pub redis: Option<String>,
    /// The bootstrap servers of Kafka: `host:port`, separated by commas. The
    /// topics [`TOPIC`] and [`DEAD_LETTERS`] exist.
    pub kafka: Option<String>,
    /// The parts that are used. Redis and Kafka also need an address.
    pub parts: Parts,
    /// Connects the services of one process.
    pub bus: Bus,
    /// No two processes have the same number. It is below 1024.
    pub node: u16,
}

/// The parts of the service. Each can be switched off, to show what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// Newest pages of hot subjects in the memory of the process. It merges the
    /// reads of one subject by itself.
    pub local_cache: bool,
    /// Newest comments of all subjects in Redis.
    pub redis: bool,
    /// Equal queries are one query.
    pub singleflight: bool,
    /// Comments are written to Kafka, and a job writes them to the database.
    pub kafka: bool,
}

/// A running service.
#[derive(Debug)]
pub struct Service {
    address: SocketAddr,
    api: Arc<Api>,
    index: Option<Index>,
    store: Store,
    job: Option<Runner>,
    stop: CancellationToken,
    server: JoinHandle<Stopped>,
    /// Receive invalidations.
    _listeners: Vec<AbortOnDropHandle<()>>,
}

/// The service has not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database does not answer.
    #[error("failed to connect to the database")]
    Database(#[source] sqlx::Error),
    /// The URL of Redis is not valid. A Redis that does not answer is no error.
    #[error("the URL of redis is not valid")]
    Redis(#[source] redis::RedisError),
    /// librdkafka refuses a setting. A broker that does not answer is no error.
    #[error("a setting of kafka is not valid")]
    Kafka(#[source] KafkaError),
    /// The address cannot be used.
    #[error("failed to open {address}")]
    Bind {
        /// The address of the configuration.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// The service has stopped, but not gracefully. No accepted comment is lost: it
/// is in Kafka or in the database.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// Some writes have not ended. Their clients got no acknowledgment.
    #[error(transparent)]
    Writes(#[from] WritesPending),
    /// The job was ended. It has not committed what it has read.
    #[error(transparent)]
    Job(#[from] StopFailed),
    /// The database has not answered a query, whose connection stays open.
    #[error("a connection to the database is still in use")]
    Database,
}

/// The topic of the comments.
pub const TOPIC: &str = "comments";

/// The topic of records that cannot be written.
pub const DEAD_LETTERS: &str = "comments-dead";

/// The consumer group of the job.
const GROUP: &str = "comments";

impl Parts {
    /// All parts.
    pub const ALL: Self = Self {
        local_cache: true,
        redis: true,
        singleflight: true,
        kafka: true,
    };

    /// Only the database.
    pub const NONE: Self = Self {
        local_cache: false,
        redis: false,
        singleflight: false,
        kafka: false,
    };
}

impl Service {
    /// Starts a service.
    ///
    /// # Errors
    ///
    /// Returns a [`StartError`] if a part that is needed cannot be started.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime, or if the node is not below 1024.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_with(config, |store| Arc::new(store)).await
    }

    /// Starts a service that reads from the source that `wrap` returns for its
    /// database, such as a slower one, or one that counts.
    ///
    /// # Errors
    ///
    /// Returns a [`StartError`] if a part that is needed cannot be started.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime, or if the node is not below 1024.
    pub async fn start_with(
        config: Config,
        wrap: impl FnOnce(Store) -> Arc<dyn Source>,
    ) -> Result<Self, StartError> {
        let Config { address, database, redis, kafka, parts, bus, node } =
            config;
        let ids = Ids::new(node);
        let store =
            Store::connect(&database).await.map_err(StartError::Database)?;

        let url = redis.filter(|_| parts.redis);
        let connect = |url: &String| {
            RedisClient::new(&settings::redis(url)).map_err(StartError::Redis)
        };
        let redis = url.as_ref().map(connect).transpose()?;
        let index = redis
            .as_ref()
            .map(|redis| Index::new(redis.clone(), settings::index()));
        let reads = settings::reads(parts);
        let reads = Reads::new(wrap(store.clone()), index.clone(), &reads);

        let mut listeners = vec![{
            let reads = reads.clone();
            tokio::spawn(bus.listen(move |change| reads.forget(change)))
        }];
        if let Some(url) = &url {
            let client = redis::Client::open(url.as_str());
            let client = client.map_err(StartError::Redis)?;
            let reads = reads.clone();
            let forget = move |change| reads.forget(change);
            listeners.push(tokio::spawn(invalidation::listen(client, forget)));
        }
        let listeners = listeners.into_iter().map(AbortOnDropHandle::new);
        let listeners = listeners.collect();

        let refresh = Refresh::new(index.clone(), reads.clone(), bus);
        let kafka = kafka.filter(|_| parts.kafka);
        let (writes, job) = match kafka {
            Some(brokers) => {
                let (producer, job) =
                    settings::start_kafka(&brokers, &store, refresh)
                        .map_err(StartError::Kafka)?;
                (Writes::Kafka(producer), Some(job))
            }
            None => (Writes::Direct(Direct::new(store.clone(), refresh)), None),
        };
        let own = Own::new(redis, settings::own());
        let api = Api { reads, own, writes, ids };
        let api = Arc::new(api);

        let stop = CancellationToken::new();
        let bind = |source| StartError::Bind { address, source };
        let router = http::router(Arc::clone(&api));
        let server =
            Server::bind(address, router, DRAIN).await.map_err(bind)?;
        // A client that disconnects ends its query.
        let server = server.half_close(false);
        let address = server.local_addr().map_err(bind)?;
        let server = tokio::spawn(server.serve(stop.clone()));
        Ok(Self {
            address,
            api,
            index,
            store,
            job,
            stop,
            server,
            _listeners: listeners,
        })
    }

    /// Returns the address of the API.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the parts behind the API, for calls without HTTP.
    #[must_use]
    pub fn api(&self) -> &Arc<Api> {
        &self.api
    }

    /// Returns the page index, unless Redis is switched off.
    #[must_use]
    pub fn index(&self) -> Option<&Index> {
        self.index.as_ref()
    }

    /// Returns the database.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns what the job has done, unless Kafka is switched off.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        self.job.as_ref().map(Runner::report)
    }

    /// Stops the service: first the API, then the producer, when all requests
    /// have their answer, then the job, which writes what it has read, and the
    /// database last.
    ///
    /// # Errors
    ///
    /// Returns a [`StopError`] if a part did not stop in time. The others are
    /// stopped all the same.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, all parts end at once.
    pub async fn stop(mut self) -> Result<(), StopError> {
        self.stop.cancel();
        // A panic of the server has ended it, too.
        let _ = (&mut self.server).await;
        let writes = self.api.writes.stop(LIMIT).await;
        let job = match self.job.take() {
            Some(job) => job.stop(LIMIT).await.map(drop),
            None => Ok(()),
        };
        // The query of a reader that was dropped keeps its connection until the
        // database answers.
        let closed = timeout(LIMIT, self.store.close()).await;
        writes?;
        job?;
        closed.map_err(|_elapsed| StopError::Database)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Without `stop`, connections are aborted.
        self.server.abort();
    }
}

/// The time in which requests can complete when the service stops.
const DRAIN: Duration = Duration::from_secs(10);

/// The time for each other part to stop.
const LIMIT: Duration = Duration::from_secs(10);
