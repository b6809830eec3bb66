//! The read path: local cache, page index, single flight, database.
//!
//! *Question.* One subject gets nine of ten reads. Which part answers them, and
//! what does the database get if a part fails?
//!
//! *Idea.* Each part answers what it can, and passes on the rest. The **local
//! cache** has the newest page of subjects that are hot in this process. The
//! **index** in Redis has the newest comments of all subjects that are read, for
//! all processes. **Single flight** merges equal queries of this process. A
//! **bulkhead** limits the queries that run at the same time, and the queue of
//! the others: without Redis, the database still serves what it can.
//!
//! *Guarantee.* Each part can be switched off, or can fail, and the answers are
//! the same. At most `max_queries` run at once.
//!
//! *Cost.* An answer can be as old as the parts allow: after a write, the
//! message that changes them needs a moment. If it is lost, the local cache is
//! at most twice its time to live behind.

use std::error::Error;
use std::num::NonZero;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use week05::bulkhead::{self, Bulkhead};
use week06::singleflight::{Failed, Group};

use crate::comment::Comment;
use crate::index::{Index, Lease, Lookup};
use crate::invalidation::Change;
use crate::page::{Cursor, Page};
use crate::store::Store;
use local::LocalPages;

pub use local::Local;

mod local;

/// The largest number of comments of a page.
pub const MAX_LIMIT: usize = 50;

/// The database of a read path.
pub trait Source: Send + Sync + 'static {
    /// Returns the newest comments of a subject before a cursor, newest first.
    fn page(
        &self,
        subject: u64,
        before: Option<Cursor>,
        limit: usize,
    ) -> Answer<'_>;
}

/// The future of [`Source::page`].
pub type Answer<'a> = Pin<
    Box<dyn Future<Output = Result<Vec<Comment>, SourceError>> + Send + 'a>,
>;

/// The error of a [`Source`], for every caller of a merged read.
pub type SourceError = Arc<dyn Error + Send + Sync>;

/// The settings of [`Reads`].
#[derive(Debug, Clone)]
pub struct Config {
    /// `None` switches the local cache off.
    pub local_cache: Option<Local>,
    /// Whether equal queries are merged.
    pub singleflight: bool,
    /// The number of queries that run at the same time.
    pub max_queries: NonZero<u32>,
    /// The number of queries that wait.
    pub max_waiting: usize,
}

/// A read path. A clone is the same.
#[derive(Debug, Clone)]
pub struct Reads {
    shared: Arc<Shared>,
}

/// There is no page. Every caller of a merged read gets the same error.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// Too many queries wait for the database. A later read can succeed.
    #[error("too many queries wait for the database")]
    Overloaded,
    /// The database has answered with an error, or not at all.
    #[error("the database has not answered")]
    Database(#[source] SourceError),
    /// The read has panicked, or the runtime shuts down.
    #[error("the read was not completed: {0}")]
    Aborted(String),
}

/// The number of reads that each part has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls of [`Reads::page`].
    pub reads: u64,
    /// Reads that the local cache has passed on, and its own refreshes.
    pub local_loads: u64,
    /// Pages from the index.
    pub index_hits: u64,
    /// Queries of the database.
    pub queries: u64,
}

struct Shared {
    source: Arc<dyn Source>,
    index: Option<Index>,
    local: Option<LocalPages>,
    /// `None` if queries are not merged. Replaced when everything has changed.
    flights: Option<RwLock<Group<Query, Page, ReadError>>>,
    bulkhead: Arc<Bulkhead>,
    max_queries: NonZero<u32>,
    counters: Counters,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Query {
    subject: u64,
    before: Option<Cursor>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Counters {
    reads: AtomicU64,
    local_loads: AtomicU64,
    index_hits: AtomicU64,
    queries: AtomicU64,
}

impl Reads {
    /// Creates a read path. Without an index, Redis is switched off.
    #[must_use]
    pub fn new(
        source: Arc<dyn Source>,
        index: Option<Index>,
        config: &Config,
    ) -> Self {
        let bulkhead = bulkhead::Config {
            permits: config.max_queries,
            max_waiting: config.max_waiting,
        };
        let shared = Shared {
            source,
            index,
            local: config.local_cache.map(LocalPages::new),
            flights: config.singleflight.then(RwLock::default),
            bulkhead: Arc::new(Bulkhead::new(bulkhead)),
            max_queries: config.max_queries,
            counters: Counters::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns the newest comments of a subject before a cursor. A page that is
    /// shorter than `limit` is the last one. More than [`MAX_LIMIT`] comments
    /// are never returned.
    ///
    /// # Errors
    ///
    /// Returns a [`ReadError`] if the database has no answer, and no cache.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels its query, unless another read waits for it,
    /// or a refresh of the local cache.
    pub async fn page(
        &self,
        subject: u64,
        before: Option<Cursor>,
        limit: usize,
    ) -> Result<Page, ReadError> {
        let limit = limit.min(MAX_LIMIT);
        self.shared.counters.reads.fetch_add(1, Relaxed);
        let Some(local) = &self.shared.local else {
            return self.shared_page(subject, before, limit).await;
        };
        if before.is_some() {
            return self.shared_page(subject, before, limit).await;
        }
        let reads = self.clone();
        let load = move || async move {
            reads.shared.counters.local_loads.fetch_add(1, Relaxed);
            let page = reads.shared_page(subject, None, MAX_LIMIT).await?;
            Ok((!page.is_empty()).then_some(page))
        };
        let cache = local.cache();
        let page =
            cache.get(&subject, Instant::now(), fastrand::f64(), load).await?;
        let none = || Page::from(Vec::new());
        Ok(page.map_or_else(none, |page| page.older_than(None, limit)))
    }

    /// Forgets what this process has stored about a change, and joins no query
    /// of a newest page that has begun before it.
    pub fn forget(&self, change: Change) {
        match change {
            Change::Subject(subject) => {
                // The queries first: a load of the local cache that begins in
                // between must not join an old one, and keep its page.
                if let Some(flights) = self.shared.flights() {
                    let size = self.shared.index.as_ref().map(Index::size);
                    for limit in size.into_iter().chain([MAX_LIMIT]) {
                        flights.forget(&Query { subject, before: None, limit });
                    }
                }
                if let Some(local) = &self.shared.local {
                    local.cache().invalidate(&subject);
                }
            }
            Change::Everything => {
                if let Some(flights) = &self.shared.flights {
                    let mut flights =
                        flights.write().unwrap_or_else(PoisonError::into_inner);
                    *flights = Group::default();
                }
                if let Some(local) = &self.shared.local {
                    local.clear();
                }
            }
        }
    }

    /// Returns the number of reads that each part has seen.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let Counters { reads, local_loads, index_hits, queries } =
            &self.shared.counters;
        Counts {
            reads: reads.load(Relaxed),
            local_loads: local_loads.load(Relaxed),
            index_hits: index_hits.load(Relaxed),
            queries: queries.load(Relaxed),
        }
    }

    /// Returns the number of queries that run or wait.
    #[must_use]
    pub fn queries(&self) -> usize {
        let Shared { bulkhead, max_queries, .. } = &*self.shared;
        let running = max_queries.get() - bulkhead.available();
        running as usize + bulkhead.waiting()
    }

    /// Returns a page from the index, or from the database.
    async fn shared_page(
        &self,
        subject: u64,
        before: Option<Cursor>,
        limit: usize,
    ) -> Result<Page, ReadError> {
        let Some(index) = &self.shared.index else {
            return self.database(subject, before, limit).await;
        };
        match index.page(subject, before, limit).await {
            Lookup::Hit(page) => {
                self.shared.counters.index_hits.fetch_add(1, Relaxed);
                Ok(page)
            }
            Lookup::Bypass => self.database(subject, before, limit).await,
            Lookup::Miss(lease) => {
                let size = index.size();
                let newest = Query { subject, before: None, limit: size };
                let newest = self.merged(newest, Some(lease)).await?;
                let page = newest.older_than(before, limit);
                // The rest of the page is older than the index.
                if page.len() < limit && newest.len() >= size {
                    return self.database(subject, before, limit).await;
                }
                Ok(page)
            }
        }
    }

    /// Returns a page from the database, and stores nothing.
    async fn database(
        &self,
        subject: u64,
        before: Option<Cursor>,
        limit: usize,
    ) -> Result<Page, ReadError> {
        // Reads of the newest page are one query, whatever their limits are.
        let size = if before.is_none() { MAX_LIMIT } else { limit };
        let query = Query { subject, before, limit: size };
        let page = self.merged(query, None).await?;
        Ok(page.older_than(None, limit))
    }

    /// Queries the database, or joins an equal query. With a lease, fills the
    /// index.
    async fn merged(
        &self,
        query: Query,
        lease: Option<Lease>,
    ) -> Result<Page, ReadError> {
        let Some(flights) = self.shared.flights() else {
            return self.shared.query(query, lease).await;
        };
        let shared = Arc::clone(&self.shared);
        let run = move || async move { shared.query(query, lease).await };
        Ok(flights.run(query, run).await?)
    }
}

impl Shared {
    fn flights(&self) -> Option<Group<Query, Page, ReadError>> {
        let flights = self.flights.as_ref()?.read();
        Some(flights.unwrap_or_else(PoisonError::into_inner).clone())
    }

    async fn query(
        &self,
        query: Query,
        mut lease: Option<Lease>,
    ) -> Result<Page, ReadError> {
        let Query { subject, before, limit } = query;
        let one = NonZero::<u32>::MIN;
        let permit = match self.bulkhead.try_acquire(one) {
            Ok(permit) => permit,
            Err(_) => {
                let permit = self.bulkhead.acquire(one).await;
                let permit = permit.map_err(|_| ReadError::Overloaded)?;
                // Meanwhile, another reader may have filled the index. And if
                // there was a write, the lease has ended: with a queue that is
                // longer than the time between writes, none would ever fill it.
                if let (Some(index), Some(_)) = (&self.index, &lease) {
                    match index.page(subject, before, limit).await {
                        Lookup::Hit(page) => {
                            self.counters.index_hits.fetch_add(1, Relaxed);
                            return Ok(page);
                        }
                        Lookup::Miss(renewed) => lease = Some(renewed),
                        Lookup::Bypass => lease = None,
                    }
                }
                permit
            }
        };
        self.counters.queries.fetch_add(1, Relaxed);
        let comments = self.source.page(subject, before, limit).await;
        let comments = comments.map_err(ReadError::Database)?;
        drop(permit);
        if let (Some(index), Some(lease)) = (&self.index, &lease) {
            index.fill(subject, lease, &comments).await;
        }
        Ok(comments.into())
    }
}

impl Source for Store {
    fn page(
        &self,
        subject: u64,
        before: Option<Cursor>,
        limit: usize,
    ) -> Answer<'_> {
        let before = before.map(|Cursor { created_ms, id }| (created_ms, id));
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        Box::pin(async move {
            let page = Store::page(self, subject, before, limit).await;
            page.map_err(|error| Arc::new(error) as SourceError)
        })
    }
}

impl From<Failed<ReadError>> for ReadError {
    fn from(failed: Failed<Self>) -> Self {
        match failed {
            Failed::Error(error) => error,
            Failed::Panicked(message) => Self::Aborted(message),
            Failed::Cancelled => Self::Aborted("the runtime ends".to_owned()),
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reads").finish_non_exhaustive()
    }
}
