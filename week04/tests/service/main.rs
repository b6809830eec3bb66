//! Tests of the comment service: its data layer, both protocols, and its
//! lifecycle.

mod common;

mod api;
mod data;
mod lifecycle;
