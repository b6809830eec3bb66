//! Checks of the results of `add`, and dropped calls.

use std::error::Error as _;
use std::future::poll_fn;
use std::iter;
use std::pin::pin;
use std::task::Poll;

use week04_biz::StorageError;

use super::fixture::Added;

/// Checks the kind of an error, and that it keeps the driver's error.
#[track_caller]
pub(super) fn assert_failure(added: Added, may_retry: bool, case: &str) {
    let error = added.expect_err(case);
    let is_unavailable = matches!(error, StorageError::Unavailable(_));
    assert_eq!(is_unavailable, may_retry, "Unavailable? {case}: {error:?}");
    let mut chain = iter::successors(error.source(), |&error| error.source());
    let is_kept = chain.any(|error| error.is::<sqlx::Error>());
    assert!(is_kept, "no sqlx::Error in the source chain, {case}: {error:?}");
}

/// Checks the number of likes after `case`, or `None`.
#[track_caller]
pub(super) fn assert_likes(added: &Added, likes: Option<i64>, case: &str) {
    let is_right = matches!(added, Ok(added) if *added == likes);
    assert!(is_right, "expected {likes:?} likes, {case}, got {added:?}");
}

/// Returns the numbers of likes, smallest first.
#[track_caller]
pub(super) fn sorted(liked: Vec<Added>) -> Vec<i64> {
    let number = |liked: Result<_, _>| {
        let likes: Option<i64> = liked.expect("expected no error");
        likes.expect("expected a number of likes, got None")
    };
    let mut numbers: Vec<_> = liked.into_iter().map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// Drops `future` when it has been pending for `polls` times: at once, or when
/// it has been woken again. Returns its result if it was complete before.
pub(super) async fn result_within<F: Future>(
    polls: usize,
    is_woken: bool,
    future: F,
) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut pending = 0;
    poll_fn(|context| {
        if pending == polls {
            return Poll::Ready(None);
        }
        if let Poll::Ready(result) = future.as_mut().poll(context) {
            return Poll::Ready(Some(result));
        }
        pending += 1;
        if pending == polls && !is_woken {
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await
}
