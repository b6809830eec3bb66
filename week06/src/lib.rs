//! Week 6: survive a celebrity: merge reads, find hot keys, cache, shave writes.
//!
//! | Exercise | Topic | Question |
//! |----------|-------|----------|
//! | [`singleflight`] | Single flight: merge equal reads | A thousand requests miss the cache for one key. How does the database get one query? |
//! | [`hot`] | Hot keys: a sketch with decay | Which keys are hot now, among ten million, in fixed memory? |
//! | [`local_cache`] | Local cache: stale while revalidate | Which values are kept in the process, for how long, and what do readers get meanwhile? |
//! | [`tiers`] | Origin shield: two tiers of merging | Ten thousand readers want one key on ten nodes. How does the origin get one query? |
//! | [`shave`] | Peak shaving: Kafka to the database | A job writes a Kafka topic to the database. Which offset does it commit, and when? |
//! | [`hot_partition`] | Hot partition: sub-keys, counters | How is one hot subject spread over partitions, and still in order? |

#![forbid(unsafe_code)]

pub mod hot;
pub mod hot_partition;
pub mod local_cache;
pub mod shave;
pub mod singleflight;
pub mod tiers;

mod model_checked;
