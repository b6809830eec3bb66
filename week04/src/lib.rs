//! Week 4: a layered service, over gRPC and HTTP from one contract.
//!
//! | Exercise | Topic | Question |
//! |----------|-------|----------|
//! | [`layers`] | Layered architecture: ports | Which layer knows the rules, which one SQL, and how is a rule tested without a database? |
//! | [`wire`] | Dependency injection with clean-up | The third constructor of a service fails. How are the first two closed? |
//! | [`settings`] | Typed configuration from a schema | How does a configuration file become the options of a constructor? |
//! | [`status`] | Error model: code, reason, details | What does a service send when a request fails, so that clients of both protocols can act on it? |
//! | [`field_mask`] | Field mask: partial updates | Which fields does a partial update change? |
//! | [`frames`] | Wire format: protobuf, gRPC, HTTP/2 | Which fields, messages and streams do the bytes of a call contain? |
//! | [`compat`] | Compatibility of a contract change | May this change of a contract be released, or does it break clients? |
//!
//! The other modules are given. These are the layers of the service, from
//! outside to inside; the business layer is the package `week04-biz`:
//!
//! | Module | Content |
//! |--------|---------|
//! | [`composition`] | Calls every constructor, once. |
//! | [`server`] | Listeners, JSON, middleware, health, metrics. |
//! | [`service`] | Messages of the contract from and to values of the domain. |
//! | [`data`] | SQL and transactions. |
//!
//! And these support an exercise:
//!
//! | Module | Content |
//! |--------|---------|
//! | [`contract`] | The types of [`compat`], and the parts of a contract that it compares. |
//! | [`failure`] | The error type of [`status`], and its `google.rpc.Status`. |
//! | [`field_path`] | The paths and the parts of messages, for [`field_mask`]. |
//! | [`google_rpc`] | Names, HTTP statuses, details, size and JSON form of `google.rpc.Status`, for [`status`]. |
//! | [`options`] | The options of each component, for [`settings`]. |
//! | [`problem`] | The errors of [`settings`]. |
//! | [`schema`] | The schema of [`settings`]. |
//! | [`wire_format`] | The types of [`frames`]: what the bytes of a call contain. |

#![forbid(unsafe_code)]

pub mod compat;
pub mod field_mask;
pub mod frames;
pub mod layers;
pub mod settings;
pub mod status;
pub mod wire;

pub mod composition;
pub mod data;
pub mod server;
pub mod service;

pub mod contract;
pub mod failure;
pub mod field_path;
pub mod google_rpc;
pub mod options;
pub mod problem;
pub mod schema;
pub mod wire_format;
