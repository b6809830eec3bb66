//! Week 6: survive a celebrity: merge reads, find hot keys, cache, shave writes.
//!
//! | Exercise | Topic | Question |
//! |----------|-------|----------|
//! | [`singleflight`] | Single flight: merge equal reads | A thousand requests miss the cache for one key. How does the database get one query? |
//! | [`hot`] | Hot keys: a sketch with decay | Which keys are hot now, among ten million, in fixed memory? |
//! | [`hot_partition`] | Hot partition: sub-keys, counters | How is one hot subject spread over partitions, and still in order? |

#![forbid(unsafe_code)]

pub mod hot;
pub mod hot_partition;
pub mod singleflight;

mod model_checked;
