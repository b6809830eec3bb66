//! The server layer: gRPC and HTTP listeners, and what every request passes.

pub mod grpc;
pub mod health;
pub mod http;
pub mod metrics;
pub mod middleware;
pub mod openapi;
pub mod transcode;
