//! The graders of week 6: each test checks one rule of an exercise.

mod hot;
mod hot_partition;
mod local_cache;
mod shave;
mod singleflight;
mod tiers;
