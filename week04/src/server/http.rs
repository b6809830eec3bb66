//! The HTTP router: the contract as JSON, and what operators need.

use axum::Router;
use axum::response::IntoResponse as _;
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use week04_api::DESCRIPTORS;

use super::health::Health;
use super::metrics::Metrics;
use super::transcode::{Grpc, Limits};
use super::{openapi, transcode};

/// Returns the router. `grpc` answers the gRPC requests into which requests
/// with JSON are turned.
pub fn router(
    grpc: impl Grpc,
    health: Health,
    metrics: Metrics,
    limits: Limits,
) -> Router {
    let healthz = async move || match health.is_serving() {
        true => (StatusCode::OK, "SERVING\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "NOT_SERVING\n"),
    };
    let counted = metrics.clone();
    let metrics = async move || {
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        ([(CONTENT_TYPE, kind)], metrics.to_text()).into_response()
    };
    let document = openapi::document(&DESCRIPTORS).to_string();
    let openapi = async move || {
        ([(CONTENT_TYPE, "application/json")], document).into_response()
    };
    transcode::router(&DESCRIPTORS, grpc, counted, limits)
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi))
}
