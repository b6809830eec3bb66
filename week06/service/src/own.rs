//! Authors read their own comments at once, although the job has not yet written
//! them to the database.
//!
//! *Idea.* An acknowledged comment is remembered for some time: in Redis, so
//! that every process knows it, and in the memory of this process, in case Redis
//! is lost. Pages for its author are **merged** with it. A comment that the page
//! has already is not added again.
//!
//! *Cost.* A read with an author asks Redis once more, at the same time as it
//! reads the page. If the job is behind for longer than the time to live, authors
//! miss their comments until they are written. A comment that the job has to
//! refuse is shown to its author until then.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::comment::Comment;
use crate::page::{Cursor, Page};
use crate::redis_client::RedisClient;

/// The latest comments of authors.
#[derive(Debug)]
pub struct Own {
    config: Config,
    redis: Option<RedisClient>,
    recent: Mutex<Recent>,
}

/// The settings of [`Own`].
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The time for which a comment is remembered: longer than the job needs.
    pub ttl: Duration,
    /// The number of comments that this process remembers at most.
    pub capacity: usize,
    /// The number of comments of an author that Redis remembers at most.
    pub per_author: usize,
}

#[derive(Debug, Default)]
struct Recent {
    authors: HashMap<u64, VecDeque<(Instant, Comment)>>,
    /// The author of each comment, in order of time.
    order: VecDeque<u64>,
}

impl Own {
    /// Creates a memory without comments.
    #[must_use]
    pub fn new(redis: Option<RedisClient>, config: Config) -> Self {
        Self { config, redis, recent: Mutex::default() }
    }

    /// Remembers an acknowledged comment.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, this process remembers it, and Redis perhaps.
    pub async fn remember(&self, comment: &Comment) {
        self.lock().push(comment.clone(), self.config);
        let Some(redis) = &self.redis else { return };
        let ttl = i64::try_from(self.config.ttl.as_millis());
        let ttl = ttl.unwrap_or(i64::MAX);
        let last = self.config.per_author.min(isize::MAX as usize) as isize;
        let key = key(comment.author);
        let stored = redis.call(async |mut link| {
            redis::pipe()
                .atomic()
                .zadd(&key, comment.to_bytes(), comment.created_ms)
                .zremrangebyrank(&key, 0, -last - 1)
                .pexpire(&key, ttl)
                .exec_async(&mut link.connection)
                .await
        });
        // An error means that other processes do not know the comment.
        let _ = stored.await;
    }

    /// Returns the remembered comments of an author about a subject.
    pub async fn recent(&self, author: u64, subject: u64) -> Vec<Comment> {
        let mut comments = self.lock().of(author, self.config.ttl);
        if let Some(redis) = &self.redis {
            let key = key(author);
            let stored = redis.call(async |mut link| {
                redis::cmd("ZRANGE")
                    .arg(&key)
                    .arg(0)
                    .arg(-1)
                    .query_async::<Vec<Vec<u8>>>(&mut link.connection)
                    .await
            });
            let stored = stored.await.unwrap_or_default();
            // Bytes that are no comment are ignored, and expire.
            let stored = stored.iter().map(|c| Comment::from_bytes(c));
            comments.extend(stored.filter_map(Result::ok));
        }
        comments.retain(|c| c.subject == subject && c.author == author);
        comments
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().expect("no code panics with the lock held")
    }
}

impl Recent {
    fn push(&mut self, comment: Comment, config: Config) {
        let now = Instant::now();
        let author = comment.author;
        self.order.push_back(author);
        self.authors.entry(author).or_default().push_back((now, comment));
        while let Some(author) = self.order.front().copied() {
            let comments = self.authors.get_mut(&author);
            let comments = comments.expect("each comment is in both");
            let (since, _) = comments.front().expect("each is in both");
            let has_expired = now.duration_since(*since) >= config.ttl;
            if !has_expired && self.order.len() <= config.capacity {
                return;
            }
            self.order.pop_front();
            comments.pop_front();
            if comments.is_empty() {
                self.authors.remove(&author);
            }
        }
    }

    fn of(&self, author: u64, ttl: Duration) -> Vec<Comment> {
        let own = self.authors.get(&author).into_iter().flatten();
        let own = own.filter(|(since, _)| since.elapsed() < ttl);
        own.map(|(_, comment)| comment.clone()).collect()
    }
}

/// Returns a page with the comments `own` in it. A comment that is in both is
/// taken from the page.
#[must_use]
pub fn merge(
    page: Page,
    mut own: Vec<Comment>,
    before: Option<Cursor>,
    limit: usize,
) -> Page {
    own.retain(|comment| {
        before.is_none_or(|before| Cursor::of(comment) < before)
            && page.iter().all(|other| other.id != comment.id)
    });
    if own.is_empty() {
        return page;
    }
    // Of two with one id, the older one is the first that was accepted.
    own.sort_by_key(|comment| (comment.id, comment.created_ms));
    own.dedup_by_key(|comment| comment.id);
    own.extend_from_slice(&page);
    own.sort_by_key(|comment| std::cmp::Reverse(Cursor::of(comment)));
    own.truncate(limit);
    own.into()
}

fn key(author: u64) -> String {
    format!("comments:own:{{{author}}}")
}
