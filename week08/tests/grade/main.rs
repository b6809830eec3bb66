//! The graders of week 8: each test checks one rule of an exercise.

mod callback;
mod common;
mod half_message;
mod inbox;
mod lease;
mod levels;
mod memory_per_key;
mod outbox;
mod percentiles;
mod pgoutput;
mod poller;
mod segment;
mod slab_classes;
mod slab_lru;
mod snowflake;
mod tailer;
mod tcc;
