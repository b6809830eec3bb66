//! The composition root: the one place where constructors are called.
//!
//! It is called once at startup, and knows every layer. No other code knows
//! more than the layer below it.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use axum::Router;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use week03::drain;
use week03::plan::{Limits, Plan, Ready};
use week04_api::comments::v1::comment_service_server::CommentServiceServer;
use week04_api::{DESCRIPTORS, FILE_DESCRIPTOR_SET};
use week04_biz::{Comments, Timestamp};

use crate::data::{self, Database, SqlRepository};
use crate::layers::biz::Likes;
use crate::layers::data::SqlLikes;
use crate::options::{DataOptions, Options, ShutdownOptions};
use crate::server::health::Health;
use crate::server::metrics::Metrics;
use crate::server::{grpc, http, middleware, transcode};
use crate::service::Service;
use crate::wire::{BoxError, BuildError, Cleanups, build};

/// The service, with open ports. It serves when it [runs](Self::run).
#[derive(Debug)]
pub struct Application {
    http: drain::Server,
    grpc: grpc::Server,
    health: Health,
    options: Options,
    cleanups: Cleanups,
}

type CommentService = Service<SqlRepository, SqlLikes>;

const COMPILED: &str = "the build script has compiled these files";

/// The longest time that one clean-up may take.
const CLEANUP_LIMIT: Duration = Duration::from_secs(5);

impl Application {
    /// Opens the database and both ports.
    ///
    /// # Errors
    ///
    /// Returns the error of the constructor that failed, after what had been
    /// opened is closed again.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, what has been opened is closed in the
    /// background.
    pub async fn open(options: Options) -> Result<Self, BuildError<BoxError>> {
        Self::open_with(options, |http| http).await
    }

    /// As [`open`](Self::open), and puts layers around the HTTP router: limits,
    /// load shedding and the like.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    ///
    /// # Cancel safety
    ///
    /// As [`open`](Self::open).
    pub async fn open_with(
        options: Options,
        layers: impl FnOnce(Router) -> Router,
    ) -> Result<Self, BuildError<BoxError>> {
        let compose = async |cleanups: &Cleanups| {
            let database = cleanups
                .provide("database", open_database(&options.data), close)
                .await?;
            let health = Health::new();
            // tonic begins with SERVING for the whole server.
            health.set::<CommentServiceServer<CommentService>>(false).await;
            let metrics = Metrics::new();
            let methods = transcode::methods(&DESCRIPTORS);
            let contract = http::router(
                middleware::add_to_service(
                    // The limit of the body has been applied to its JSON form.
                    comments(database.clone(), usize::MAX),
                    metrics.clone(),
                    methods.clone(),
                    options.http.timeout,
                ),
                health.clone(),
                metrics.clone(),
                transcode::Limits {
                    max_body_bytes: options.http.max_body_bytes,
                    timeout: options.http.timeout,
                },
            );
            let comments = comments(database, options.grpc.max_body_bytes);
            let routes = middleware::add(
                services(comments, &health),
                metrics,
                methods,
                options.grpc.timeout,
            );
            // The listeners stop within the budget, and leave some of it.
            let ShutdownOptions { lame_duck, budget } = options.shutdown;
            let drain = budget.saturating_sub(lame_duck).mul_f64(0.8);
            let address = options.http.address;
            let contract = layers(contract);
            let http = drain::Server::bind(address, contract, drain).await?;
            // A client that disconnects ends its query.
            let http = http.half_close(false);
            let address = options.grpc.address;
            let grpc = grpc::Server::bind(address, routes, drain).await?;
            Ok::<_, BoxError>((http, grpc, health))
        };
        let ((http, grpc, health), cleanups) =
            build(CLEANUP_LIMIT, compose).await?;
        Ok(Self { http, grpc, health, options, cleanups })
    }

    /// Returns the addresses of the HTTP and of the gRPC listener.
    ///
    /// # Errors
    ///
    /// Returns an error if the system cannot return an address.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.http.local_addr()?, self.grpc.local_addr()?))
    }

    /// Serves until `stop` is cancelled, and shuts down in the order of week 3:
    /// the health becomes `NOT_SERVING`, the lame-duck period passes, the
    /// listeners drain, and the database is closed.
    ///
    /// # Errors
    ///
    /// Returns a report of all steps if one has failed.
    pub async fn run(self, stop: CancellationToken) -> Result<(), BoxError> {
        let Self { http, grpc, health, options, cleanups } = self;
        let mut plan = Plan::new(Limits {
            call: CLEANUP_LIMIT,
            lame_duck: options.shutdown.lame_duck,
            budget: options.shutdown.budget,
        });
        let (serving, watched) = (health.clone(), health.clone());
        // One part, because both drain at the same time.
        plan.part("listeners", async move |ready: Ready, stop| {
            ready.set(); // both ports have been open since `open`
            let end_watches = async {
                stop.cancelled().await;
                watched
                    .end_watches::<CommentServiceServer<CommentService>>()
                    .await;
            };
            let (grpc, http, ()) = tokio::join!(
                grpc.serve(stop.clone()),
                http.serve(stop.clone()),
                end_watches,
            );
            drained(&[grpc, http])
        });
        plan.registry(
            async move {
                serving.set::<CommentServiceServer<CommentService>>(true).await;
                Ok(())
            },
            async move {
                health.set::<CommentServiceServer<CommentService>>(false).await;
                Ok(())
            },
        );
        let report = week03::app::run(plan, stop).await.result();
        let failures = cleanups.close().await;
        report?;
        match failures.into_iter().next() {
            Some(failure) => Err(failure.to_string().into()),
            None => Ok(()),
        }
    }
}

async fn open_database(options: &DataOptions) -> Result<Database, BoxError> {
    let limits = data::Limits {
        max_connections: options.max_connections.get(),
        acquire_timeout: options.acquire_timeout,
    };
    let password = options.password.as_ref().map(|secret| secret.expose());
    let database = Database::open(&options.url, password, limits).await;
    database.map_err(|error| format!("the database: {error}").into())
}

async fn close(database: Database) -> Result<(), BoxError> {
    database.close().await;
    Ok(())
}

/// Builds the layers upon the database, from inside to outside.
fn comments(
    database: Database,
    max_message_bytes: usize,
) -> CommentServiceServer<CommentService> {
    let comments = Comments::new(SqlRepository::new(database.clone()), now);
    let likes = Likes::new(SqlLikes::new(database));
    CommentServiceServer::new(Service::new(comments, likes))
        .max_decoding_message_size(max_message_bytes)
}

/// Returns all gRPC services.
fn services(
    comments: CommentServiceServer<CommentService>,
    health: &Health,
) -> Router {
    Routes::new(comments)
        .add_service(health.grpc_service())
        .add_service(reflection().build_v1().expect(COMPILED))
        // Many clients still use the version before.
        .add_service(reflection().build_v1alpha().expect(COMPILED))
        .into_axum_router()
}

/// Returns what tells generic clients the contract.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(
            tonic_health::pb::FILE_DESCRIPTOR_SET,
        )
}

fn drained(stopped: &[drain::Stopped]) -> Result<(), BoxError> {
    match stopped.iter().map(|listener| listener.aborted).sum() {
        0 => Ok(()),
        aborted => Err(format!("{aborted} connections were aborted").into()),
    }
}

/// Returns the current time.
fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("the clock of this machine is after 1970");
    let micros = i64::try_from(since.as_micros());
    Timestamp { micros: micros.expect("the year is before 290,000") }
}
