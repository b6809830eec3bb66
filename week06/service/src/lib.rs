//! The comment service that survives a celebrity.
//!
//! In reading order:
//!
//! | Module | Content |
//! |--------|---------|
//! | [`comment`] | A comment, its bytes, and its limits. |
//! | [`store`] | The database: batches that are idempotent by id, and pages. |
//! | [`broker`] | The default Kafka, a process that needs no installation. |
//! | [`producer`] | Acknowledges a comment when Kafka has it. |
//! | [`backlog`] | Back-pressure: how many comments wait for the job. |
//! | [`job`] | Writes comments from Kafka to the database. |
//! | [`page`] | A page of comments, and the position at which it ends. |
//! | [`redis_client`] | The connection to Redis, with a timeout and a breaker. |
//! | [`index`] | The page index in Redis: the newest comments of each subject. |
//! | [`reads`] | The read path: local cache, index, single flight, database. |
//! | [`invalidation`] | Tells every process which subjects have changed. |
//! | [`own`] | Authors read their own comments at once. |
//! | [`writes`] | The write path: through Kafka, or directly to the database. |
//! | [`http`] | The API. |
//! | [`service`] | Starts all parts, and stops them in order. |

#![deny(unsafe_code)]

pub mod backlog;
pub mod broker;
pub mod comment;
pub mod http;
pub mod index;
pub mod invalidation;
pub mod job;
pub mod own;
pub mod page;
pub mod producer;
pub mod reads;
pub mod redis_client;
pub mod service;
pub mod store;
pub mod writes;
