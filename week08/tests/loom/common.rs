//! Runs models: of threads under loom, of tasks under shuttle.

use std::future::poll_fn;
use std::pin::pin;

use tokio::runtime::Handle;

pub(crate) use lab_models::explore;
pub(crate) use lab_models::shuffle_with_timers as shuffle;

/// Waits for `future`, and panics if it has started a task that shuttle does not
/// run. The model would only end with a deadlock.
pub(crate) async fn in_shuttle<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|context| {
        let poll = future.as_mut().poll(context);
        let tasks = Handle::current().metrics().num_alive_tasks();
        assert_eq!(
            tasks, 0,
            "tasks of `tokio::spawn` (left), expected (right): shuttle does \
             not run them. Take `spawn` from the module that the stub names"
        );
        poll
    })
    .await
}
