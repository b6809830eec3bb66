//! Whether the service accepts requests: one answer for gRPC and HTTP.

use tokio::sync::watch;
use tonic::server::NamedService;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

/// Says whether the service accepts requests. Call [`set`](Self::set) before the
/// ports are open.
#[derive(Debug, Clone)]
pub struct Health {
    serving: watch::Sender<bool>,
    grpc: HealthReporter,
}

impl Health {
    /// Creates the health of a service that has not started.
    #[must_use]
    pub fn new() -> Self {
        let (serving, _) = watch::channel(false);
        Self { serving, grpc: HealthReporter::new() }
    }

    /// Changes the answer for the whole server and for the service `S`.
    pub async fn set<S: NamedService>(&self, serving: bool) {
        use tonic_health::ServingStatus::{NotServing, Serving};
        let status = if serving { Serving } else { NotServing };
        self.serving.send_replace(serving);
        self.grpc.set_service_status("", status).await;
        self.grpc.set_service_status(S::NAME, status).await;
    }

    /// Ends the streams of all clients that watch the health, after they have
    /// got the last answer. Otherwise they would delay a shutdown.
    pub async fn end_watches<S: NamedService>(&self) {
        let mut grpc = self.grpc.clone();
        grpc.clear_service_status("").await;
        grpc.clear_service_status(S::NAME).await;
    }

    /// Returns the current answer.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        *self.serving.borrow()
    }

    /// Returns the service of `grpc.health.v1`.
    #[must_use]
    pub fn grpc_service(&self) -> HealthServer<HealthService> {
        let service = HealthService::from_health_reporter(self.grpc.clone());
        HealthServer::new(service)
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}
