//! A storage for the use case, and generated calls.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use tokio::task::yield_now;
use week04::layers::biz::{LikeRepository, Likes};
use week04_biz::{CommentId, Error, SubjectId, UserId};

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

/// Calls `like` on a fake. Returns its result and the calls of the fake.
pub(super) async fn like<F>(
    (on, id, user): &Call,
    answer: F,
) -> (Result<i64, Error>, Vec<Call>)
where
    F: Fn() -> Added + Send + Sync + 'static,
{
    let calls = Arc::default();
    let likes = Likes::new(Fake { calls: Arc::clone(&calls), answer });
    let liked = likes.like(on, CommentId(*id), user).await;
    let calls = std::mem::take(&mut *calls.lock().unwrap());
    (liked, calls)
}

/// Generates calls with any comment and any text as the user's id.
pub(super) fn call() -> impl Strategy<Value = Call> {
    let on = "[a-z0-9][a-z0-9-]{0,62}".prop_map(|id| subject(&id));
    (on, any::<i64>(), prop_oneof!["\\PC{1,66}", "[ -~]{0,64}", "(?s).{1,9}"])
}

/// Generates 200 values, always the same.
pub(super) fn generated<S: Strategy>(strategy: S) -> Vec<S::Value> {
    let mut runner = TestRunner::deterministic();
    let mut next = || strategy.new_tree(&mut runner).map(|tree| tree.current());
    (0..200).map(|_| next().expect("a value")).collect()
}
