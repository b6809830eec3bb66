//! Week 8: caches by the byte, ids, and money that is never lost.
//!
//! | Exercise | Topic | Question |
//! |----------|-------|----------|
//! | [`slab_classes`] | Slab classes: memcached's memory | memcached stores values of any size for months without fragmenting. Into which chunk does an item go, and how many bytes are wasted? |
//! | [`slab_lru`] | Segmented LRU: slab eviction | How does memcached evict so that a scan of cold keys does not push out the hot set? |
//! | [`percentiles`] | Percentiles: coordinated omission | The benchmark says that p99 is 2 ms, and users wait a second. How does a load generator measure what users feel? |
//! | [`memory_per_key`] | Redis memory: bytes per key | How many bytes does a key cost in Redis, and how is that measured? |
//! | [`levels`] | Cache levels: process, Redis | A price is changed, and one of twelve processes sells at the old price for an hour. How do the levels of a cache agree? |
//! | [`lease`] | Stale refill: cache leases | A slow reader stores the old value after the delete: how is that prevented? |
//! | [`segment`] | ID segments: a double buffer | How does a process hand out ten million unique ids a second, and what happens while the database is away? |
//! | [`snowflake`] | Snowflake ids: leased worker ids | Two pods start with the same worker id, or the clock steps back 3 ms: how does no id repeat? |
//! | [`outbox`] | Transactional outbox | How does a service debit an account and send a message, if a crash is possible between the two? |
//! | [`inbox`] | Inbox: an idempotent consumer | A queue delivers a message again. How is its transfer credited exactly once, and when may its row be deleted? |
//! | [`poller`] | Polling publisher | Three pollers share an outbox. How is a cancellation not published before its order, and no late row skipped? |
//! | [`pgoutput`] | pgoutput: decode logical replication | PostgreSQL streams each committed change as bytes. How are they decoded, and what is surprising about them? |
//! | [`tailer`] | Transaction log tailing | A process publishes the outbox from the database's log. When may it confirm a position, so that no message is lost and the disk does not fill up? |
//! | [`half_message`] | Half messages: check back | A broker stores a message before it is visible, and the producer dies before the confirmation. What becomes of the message? |
//! | [`tcc`] | TCC: try, confirm, cancel | Money is frozen for a transfer, and the other service says no, or says nothing. How is it freed exactly once? |
//! | [`callback`] | Payment notifications: webhooks | A notification of a payment is lost, repeated, late or forged. How does each player get the item exactly once? |
//!
//! [`money`] has what the exercises on transfers share: accounts, local
//! transactions, and all runs with crashes. [`replication`] has the types of
//! `pgoutput`, and [`arena`] the memory of `slab_lru`.

#![forbid(unsafe_code)]

pub mod arena;
pub mod callback;
pub mod half_message;
pub mod inbox;
pub mod lease;
pub mod levels;
pub mod memory_per_key;
pub mod money;
pub mod outbox;
pub mod percentiles;
pub mod pgoutput;
pub mod poller;
pub mod replication;
pub mod segment;
pub mod slab_classes;
pub mod slab_lru;
pub mod snowflake;
pub mod tailer;
pub mod tcc;

mod model_checked;
