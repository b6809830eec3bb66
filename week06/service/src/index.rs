//! The page index: the newest comments of each subject, in Redis.
//!
//! *Question.* Many processes share a cache in front of the database. How does a
//! hot page stay there while it is written, and how is an old page never stored
//! over a newer one?
//!
//! *Idea.* A sorted set per subject has the ids of its newest comments, ordered
//! by time, and a hash has the bodies. A page is read with one round trip. A
//! write does not delete the page, which would send all readers of a celebrity
//! to the database with each comment. It **adds** the comment, if there is a
//! page. A miss gets a **lease**, and each write deletes it. Filling the page
//! with a lease that is gone stores nothing: the reader may have read the
//! database before the write. (Both are in Facebook's paper about memcache.)
//!
//! *Guarantee.* If [`refresh`](Index::refresh) is called after each commit, a
//! page is never older than the last call that has ended, at any time after it.
//! If that call has failed, this process does not read the page until it is
//! deleted, and tries to delete it until Redis is back. Other processes may read
//! the old page until then. Pages of an earlier run of Redis, for instance from
//! a snapshot, are never read.
//!
//! *Cost.* A process that dies with a failed refresh leaves an old page until
//! its time to live ends. Each subject has two keys, and a third for some
//! seconds after a miss. Pages deeper than the index are read from the database.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::{RedisResult, Script, ScriptInvocation, Value};
use tokio_util::task::AbortOnDropHandle;

use self::missed::Missed;
use crate::comment::Comment;
use crate::page::{Cursor, Page};
use crate::redis_client::{CallError, Link, RedisClient};

mod missed;

/// The channel on which the subjects of changed pages are published.
pub const CHANNEL: &str = "comments:changed";

/// The settings of an [`Index`].
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The number of comments of a subject that are stored at most.
    pub size: usize,
    /// The time for which a page is stored. Each page gets 90 to 110 % of it, so
    /// that pages that were stored together do not expire together.
    pub ttl: Duration,
    /// The time for which a subject without comments is stored.
    pub empty_ttl: Duration,
    /// The time that a reader has to fill a page.
    pub lease_ttl: Duration,
}

/// The newest comments of each subject. A clone is the same index.
#[derive(Debug, Clone)]
pub struct Index {
    shared: Arc<Shared>,
    /// Deletes what was missed. Ends with the last clone.
    _repair: Arc<AbortOnDropHandle<()>>,
}

/// The result of a lookup.
#[derive(Debug)]
pub enum Lookup {
    /// The page is complete, also if it has fewer comments than asked for.
    Hit(Page),
    /// The subject is not in the index. Read the newest comments from the
    /// database, and [`fill`](Index::fill) the index.
    Miss(Lease),
    /// Read the page from the database, and store nothing.
    Bypass,
}

/// The right to fill the page of a subject. It ends with the next write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease(String);

#[derive(Debug)]
struct Shared {
    redis: RedisClient,
    config: Config,
    missed: Missed,
}

static READ: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("index/read.lua")));
static FILL: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("index/fill.lua")));
static ADD: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("index/add.lua")));
static REMOVE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("index/remove.lua")));

impl Index {
    /// Creates an index.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    #[must_use]
    pub fn new(redis: RedisClient, config: Config) -> Self {
        // A reader with a lease can store an old page for as long as the lease
        // is valid, and then it is stored for as long as a page can be.
        let longest = config.ttl.max(config.empty_ttl).mul_f64(1.1);
        let missed = Missed::new(longest + config.lease_ttl);
        let shared = Arc::new(Shared { redis, config, missed });
        let repair = tokio::spawn(repair(Arc::clone(&shared)));
        let repair = Arc::new(AbortOnDropHandle::new(repair));
        Self { shared, _repair: repair }
    }

    /// Returns the number of comments of a subject that are stored at most.
    #[must_use]
    pub fn size(&self) -> usize {
        self.shared.config.size
    }

    /// Looks up the newest comments of a subject before a cursor.
    ///
    /// # Cancel safety
    ///
    /// A dropped lookup leaves at most a lease, which expires.
    pub async fn page(
        &self,
        subject: u64,
        before: Option<Cursor>,
        limit: usize,
    ) -> Lookup {
        let Shared { redis, config, missed } = &*self.shared;
        if missed.contains(subject) {
            return Lookup::Bypass;
        }
        let token = format!("{:016x}", fastrand::u64(..));
        let reply = redis.call(async |link| {
            let mut read = invocation(&READ, subject, &link);
            read.arg(limit).arg(&token).arg(millis(config.lease_ttl));
            if let Some(Cursor { created_ms, id }) = before {
                read.arg(created_ms).arg(member(id));
            }
            run::<Vec<Value>>(&read, link).await
        });
        match reply.await {
            Ok(reply) => match decode(reply, subject) {
                Some(lookup) => lookup,
                None => self.discard(subject).await,
            },
            Err(CallError::Refused(_)) => self.discard(subject).await,
            Err(CallError::Unavailable) => Lookup::Bypass,
        }
    }

    /// Stores the newest comments of a subject after a miss. They must have been
    /// read after the miss, and there are more if there are
    /// [`size`](Self::size) of them. Returns whether they were stored: with
    /// `false`, there was a write, another reader was faster, or Redis is not
    /// available.
    pub async fn fill(
        &self,
        subject: u64,
        lease: &Lease,
        newest: &[Comment],
    ) -> bool {
        let Shared { redis, config, missed } = &*self.shared;
        if missed.contains(subject) {
            return false;
        }
        let is_complete = newest.len() < config.size;
        let ttl = if newest.is_empty() { config.empty_ttl } else { config.ttl };
        let ttl = ttl.mul_f64(0.9 + 0.2 * fastrand::f64());
        let stored = redis.call(async |link| {
            let mut fill = invocation(&FILL, subject, &link);
            fill.arg(&lease.0).arg(millis(ttl)).arg(u8::from(is_complete));
            add_comments(&mut fill, newest);
            run::<bool>(&fill, link).await
        });
        stored.await.unwrap_or(false)
    }

    /// Adds comments of a subject that are now in the database, and tells all
    /// processes. Call this after each commit.
    ///
    /// `all_new` says that none of them was in the database before. If one was,
    /// its time there may be another one than here, and so the page is deleted.
    ///
    /// Never fails: if Redis is not available, the page is deleted later.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, call it again.
    pub async fn refresh(
        &self,
        subject: u64,
        comments: &[&Comment],
        all_new: bool,
    ) {
        let Shared { redis, config, missed } = &*self.shared;
        // A page that is deleted later must not be read until then.
        let added = if missed.contains(subject) || !all_new {
            self.shared.remove(subject).await
        } else {
            let added = redis.call(async |link| {
                let mut add = invocation(&ADD, subject, &link);
                add.arg(config.size).arg(CHANNEL).arg(subject);
                add_comments(&mut add, comments.iter().copied());
                run::<()>(&add, link).await
            });
            added.await
        };
        if added.is_err() {
            missed.insert(subject);
        }
    }

    /// Returns the number of subjects whose refresh has failed and whose pages
    /// are not yet deleted.
    #[must_use]
    pub fn missed(&self) -> usize {
        self.shared.missed.len()
    }

    /// Deletes a page that does not decode, or that Redis refuses to read.
    ///
    /// It tells no process: nobody can have read the page. If it did, then each
    /// read of a Redis that is full would empty all local caches.
    async fn discard(&self, subject: u64) -> Lookup {
        let discarded = self.shared.redis.call(async |link| {
            let remove = invocation(&REMOVE, subject, &link);
            run::<()>(&remove, link).await
        });
        // If this fails, the next reader tries again.
        let _ = discarded.await;
        Lookup::Bypass
    }
}

impl Shared {
    /// Deletes a page that may be old, and tells all processes.
    async fn remove(&self, subject: u64) -> Result<(), CallError> {
        let removed = self.redis.call(async |link| {
            let mut remove = invocation(&REMOVE, subject, &link);
            remove.arg(CHANNEL).arg(subject);
            run::<()>(&remove, link).await
        });
        removed.await
    }
}

/// Deletes the pages of missed subjects when Redis is available.
async fn repair(shared: Arc<Shared>) {
    loop {
        for (subject, number) in shared.missed.next().await {
            if shared.remove(subject).await.is_err() {
                break;
            }
            shared.missed.remove(subject, number);
        }
    }
}

fn invocation<'a>(
    script: &'a Script,
    subject: u64,
    link: &Link,
) -> ScriptInvocation<'a> {
    let key = |name| format!("comments:{{{subject}}}:{}:{name}", link.run);
    let mut invocation = script.prepare_invoke();
    invocation.key(key("bodies")).key(key("ids")).key(key("lease"));
    invocation
}

async fn run<T: redis::FromRedisValue>(
    invocation: &ScriptInvocation<'_>,
    mut link: Link,
) -> RedisResult<T> {
    invocation.invoke_async(&mut link.connection).await
}

fn add_comments<'a>(
    invocation: &mut ScriptInvocation<'_>,
    comments: impl IntoIterator<Item = &'a Comment>,
) {
    for comment in comments {
        let body = comment.to_bytes();
        invocation.arg(member(comment.id)).arg(comment.created_ms).arg(body);
    }
}

/// Returns an id as text. The order of texts is the order of ids.
fn member(id: u64) -> String {
    format!("{id:020}")
}

/// Returns `None` if the reply has another form.
fn decode(reply: Vec<Value>, subject: u64) -> Option<Lookup> {
    let mut reply = reply.into_iter().map(|value| match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    });
    match reply.next()??.as_slice() {
        b"hit" => {
            let comments = reply.map(|body| {
                let comment = Comment::from_bytes(&body?).ok()?;
                (comment.subject == subject).then_some(comment)
            });
            let comments: Option<Vec<Comment>> = comments.collect();
            Some(Lookup::Hit(comments?.into()))
        }
        b"miss" => {
            let token = String::from_utf8(reply.next()??).ok()?;
            Some(Lookup::Miss(Lease(token)))
        }
        b"deep" => Some(Lookup::Bypass),
        _ => None,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use lab::servers::Redis;
    use redis::AsyncCommands as _;

    use super::*;
    use crate::redis_client;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    #[ignore = "needs redis-server"]
    async fn a_refresh_after_a_failed_one_deletes_the_page() {
        let server = Redis::start().expect("it starts");
        let (url, timeout) = (server.url(), SECOND);
        let config = redis_client::Config { url, timeout };
        let redis = RedisClient::new(&config).expect("the URL is valid");
        redis.connected().await;
        let config = Config {
            size: 5,
            ttl: 100 * SECOND,
            empty_ttl: 10 * SECOND,
            lease_ttl: 5 * SECOND,
        };
        let index = Index::new(redis, config);
        let comment = |id| Comment {
            id,
            subject: 7,
            author: 1,
            text: "hi".to_owned(),
            created_ms: id,
        };
        let Lookup::Miss(lease) = index.page(7, None, 3).await else {
            panic!("expected a miss");
        };
        assert!(index.fill(7, &lease, &[comment(1)]).await);
        // The refresh with comment 2 fails: the page lacks it.
        index.shared.missed.insert(7);
        index.refresh(7, &[&comment(3)], true).await;
        let client = redis::Client::open(server.url()).expect("it is valid");
        let mut connection =
            client.get_multiplexed_async_connection().await.expect("it works");
        let keys: Vec<String> = connection.keys("*").await.expect("it works");
        assert_eq!(keys, [""; 0], "a page with comments 1 and 3");
    }
}
