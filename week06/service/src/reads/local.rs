//! The local cache of the read path: the newest pages of hot subjects.

use std::num::NonZero;
use std::sync::RwLock;
use std::time::{Duration, Instant};

use week05::window;
use week06::hot::{self, HotKeys};
use week06::local_cache::{self, LocalCache};

use super::ReadError;
use crate::page::Page;

/// The settings of the local cache.
#[derive(Debug, Clone, Copy)]
pub struct Local {
    /// A subject with so many reads in a second is hot.
    pub hot_at: NonZero<u64>,
    /// The time for which a page is fresh. For the same time again, it is
    /// returned while it is renewed.
    pub ttl: Duration,
}

/// The newest page of hot subjects.
pub(super) struct LocalPages {
    config: Local,
    /// Replaced by an empty one when messages may have been missed.
    cache: RwLock<LocalCache<u64, Page, ReadError>>,
}

impl LocalPages {
    pub(super) fn new(config: Local) -> Self {
        Self { config, cache: RwLock::new(config.cache()) }
    }

    pub(super) fn cache(&self) -> LocalCache<u64, Page, ReadError> {
        self.cache.read().expect("no code panics with the lock held").clone()
    }

    pub(super) fn clear(&self) {
        let empty = self.config.cache();
        let mut cache =
            self.cache.write().expect("no code panics with the lock held");
        let old = std::mem::replace(&mut *cache, empty);
        drop(cache);
        drop(old);
    }
}

impl Local {
    fn cache(&self) -> LocalCache<u64, Page, ReadError> {
        let number = |n| NonZero::new(n).expect("it is not zero");
        let hot = hot::Config {
            capacity: number(1000),
            window: window::Config {
                bucket: Duration::from_millis(100),
                buckets: number(10),
            },
            hot_at: self.hot_at,
            cool_below: self
                .hot_at
                .div_ceil(NonZero::<u64>::MIN.saturating_add(1)),
        };
        let config = local_cache::Config {
            capacity: number(1000),
            ttl: self.ttl,
            jitter: 0.2,
            negative_ttl: self.ttl / 2,
            stale_for: self.ttl,
        };
        LocalCache::new(config, HotKeys::new(hot, Instant::now()))
    }
}
