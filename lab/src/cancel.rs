//! Drops a future at each of its awaits, as a client that disconnects does.

use std::pin::Pin;
use std::task::{Context, Poll};

/// A future that is polled a limited number of times.
#[derive(Debug)]
#[must_use = "futures do nothing unless you await them"]
pub struct AfterPolls<F> {
    future: Option<Pin<Box<F>>>,
    polls: u32,
}

/// Returns a future that polls `future` up to `polls` times, and then drops it.
/// It returns `None` if `future` was dropped before it was complete.
///
/// A test calls this with 1, 2, 3 and so on, until the future completes: then
/// it has been dropped at every await.
pub fn after_polls<F: Future>(polls: u32, future: F) -> AfterPolls<F> {
    AfterPolls { future: Some(Box::pin(future)), polls }
}

impl<F: Future> Future for AfterPolls<F> {
    type Output = Option<F::Output>;

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Self::Output> {
        let Some(future) = &mut self.future else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            self.future = None;
            return Poll::Ready(Some(output));
        }
        self.polls = self.polls.saturating_sub(1);
        if self.polls == 0 {
            self.future = None;
            return Poll::Ready(None);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Waker;

    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        let mut future = pin!(future);
        loop {
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
        }
    }

    /// Completes at the third poll.
    async fn third_poll() -> u32 {
        let mut polls = 0;
        poll_fn(|_| {
            polls += 1;
            if polls == 3 { Poll::Ready(polls) } else { Poll::Pending }
        })
        .await
    }

    #[test]
    fn a_future_is_dropped_after_the_last_poll_without_a_result() {
        assert_eq!(block_on(after_polls(1, third_poll())), None);
        assert_eq!(block_on(after_polls(2, third_poll())), None);
    }

    #[test]
    fn a_future_that_completes_in_time_returns_its_output() {
        assert_eq!(block_on(after_polls(3, third_poll())), Some(3));
        assert_eq!(block_on(after_polls(9, third_poll())), Some(3));
    }
}
