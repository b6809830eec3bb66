//! A storage for the use case, and generated calls.

use std::io;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use tokio::task::yield_now;
use week04::layers::biz::{LikeRepository, Likes};
use week04_biz::{
    Cause, CommentId, Error, Invalid, StorageError, SubjectId, UserId,
};

use super::fixture::{Added, subject};

/// The arguments of `like`.
pub(super) type Call = (SubjectId, i64, String);

/// A storage that records its calls.
struct Fake<F> {
    calls: Arc<Mutex<Vec<Call>>>,
    answer: F,
}

impl<F> LikeRepository for Fake<F>
where
    F: Fn() -> Added + Send + Sync + 'static,
{
    async fn add(
        &self,
        subject: &SubjectId,
        comment: CommentId,
        user: &UserId,
    ) -> Added {
        let call = (subject.clone(), comment.0, user.as_str().to_owned());
        self.calls.lock().unwrap().push(call);
        yield_now().await;
        (self.answer)()
    }
}

/// Calls `like` on a fake, and then the same again. Returns each result with
/// the calls of the fake until then.
pub(super) async fn like_twice<F>(
    (on, id, user): &Call,
    answer: F,
) -> [(Result<i64, Error>, Vec<Call>); 2]
where
    F: Fn() -> Added + Send + Sync + 'static,
{
    let calls = Arc::default();
    let likes = Likes::new(Fake { calls: Arc::clone(&calls), answer });
    let like = async || {
        let liked = likes.like(on, CommentId(*id), user).await;
        let calls = std::mem::take(&mut *calls.lock().unwrap());
        (liked, calls)
    };
    [like().await, like().await]
}

/// Generates calls with any comment and any text as the user's id.
pub(super) fn call() -> impl Strategy<Value = Call> {
    let on = "[a-z0-9][a-z0-9-]{0,62}".prop_map(|id| subject(&id));
    let user = prop_oneof!["\\PC{1,66}", "[ -~]{0,64}", "(?s).{1,9}"];
    (on, number(), user)
}

/// Generates numbers, and often one where a rule could change.
pub(super) fn number() -> impl Strategy<Value = i64> {
    let edges = prop::sample::select(vec![i64::MIN, -1, 0, 1, i64::MAX]);
    prop_oneof![any::<i64>(), edges]
}

/// Makes the same cause each time.
pub(super) type MakeCause = Arc<dyn Fn() -> Cause + Send + Sync>;

/// Returns causes of many types, some of which sound as if a retry would help.
pub(super) fn causes() -> Vec<MakeCause> {
    let mut causes: Vec<MakeCause> = vec![
        Arc::new(|| sqlx::Error::RowNotFound.into()),
        Arc::new(|| sqlx::Error::PoolTimedOut.into()),
        Arc::new(|| sqlx::Error::WorkerCrashed.into()),
        Arc::new(|| {
            StorageError::Unavailable("the storage failed".into()).into()
        }),
        Arc::new(|| StorageError::Failed("no connection".into()).into()),
        Arc::new(|| Error::NotFound { kind: "comment", id: "7".into() }.into()),
        Arc::new(|| Error::Unavailable("try again".into()).into()),
        Arc::new(|| Error::Internal("the storage failed".into()).into()),
        Arc::new(|| Invalid { field: "user", problem: "empty" }.into()),
    ];
    for text in ["", "there is no comment 7", "timed out", "database is locked"]
    {
        causes.push(Arc::new(move || text.into()));
    }
    for kind in [
        io::ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied,
        io::ErrorKind::ConnectionRefused,
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::ConnectionAborted,
        io::ErrorKind::BrokenPipe,
        io::ErrorKind::WouldBlock,
        io::ErrorKind::TimedOut,
        io::ErrorKind::Interrupted,
        io::ErrorKind::UnexpectedEof,
        io::ErrorKind::Other,
    ] {
        causes.push(Arc::new(move || io::Error::from(kind).into()));
        causes.push(Arc::new(move || sqlx::Error::Io(kind.into()).into()));
    }
    causes
}

/// Generates 200 values, always the same.
pub(super) fn generated<S: Strategy>(strategy: S) -> Vec<S::Value> {
    let mut runner = TestRunner::deterministic();
    let mut next = || strategy.new_tree(&mut runner).map(|tree| tree.current());
    (0..200).map(|_| next().expect("a value")).collect()
}
