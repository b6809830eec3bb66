//! An error group with a bound on how many of its tasks run at a time.
//!
//! *Question.* A thousand files are to be fetched, and no more than ten at a
//! time. What happens to the 990 when one fetch fails? And what if a fetch wants
//! to start another one?
//!
//! *Idea.* A [group](crate::group) with **slots**. To spawn is to wait for a slot
//! first, and the task keeps it until it is gone, however it ends. The wait is
//! part of the group: when the group is told to stop, it ends. A member that
//! spawns must not wait, since it holds a slot itself: where each slot is held by
//! somebody who waits for one, nobody ever gets one. So it is refused.
//!
//! *Guarantee.* No more than `limit` tasks run at any time. Of those who wait the
//! first is served first, and none once the group is cancelled. A slot comes back
//! from every task: from one that returns, fails, panics, or is dropped. What is
//! refused is given back. [`wait`](Group::wait) returns when no task is left and
//! none can begin.
//!
//! *Cost.* A lock and a semaphore at each start and end. A task that a member
//! starts elsewhere is no member: if the member waits for it and it waits for a
//! slot, the deadlock is back.
//!
//! ```
//! use std::num::NonZero;
//!
//! use tokio_util::sync::CancellationToken;
//! use week03::limit::{Group, Refused};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let one = NonZero::new(1).unwrap();
//! let group = Group::<&str>::new(&CancellationToken::new(), one);
//! let (spawner, members) = (group.spawner(), group.spawner());
//! let member = async move {
//!     // The only slot is mine.
//!     let refused = members.spawn(async { Ok(()) }).await;
//!     assert!(matches!(refused, Err(Refused::Full(_))));
//!     Err("no such file")
//! };
//! assert!(spawner.spawn(member).await.is_ok());
//! assert_eq!(group.wait().await, Err("no such file"));
//! # }
//! ```

use std::any::Any;
use std::fmt;
use std::num::NonZero;
use std::panic::{self, AssertUnwindSafe};

use futures_util::FutureExt;

use crate::model_checked::shuttle_tasks::{
    Arc, CancellationToken, DropGuard, Mutex, Notify, OwnedSemaphorePermit,
    Semaphore, spawn, task_local,
};

/// Tasks that end together, so many at a time. Dropping it aborts them at their
/// next `.await`, cancels the token, and refuses whoever still waits.
pub struct Group<E> {
    spawner: Spawner<E>,
    _gone: [DropGuard; 2],
}

/// Starts tasks in a [`Group`]. Members may keep one; it may outlive the group.
pub struct Spawner<E> {
    shared: Arc<Shared<E>>,
}

/// A task that was not started.
pub enum Refused<F> {
    /// All slots are taken, and who asks must not wait.
    Full(F),
    /// The group was cancelled before there was a slot, or has ended.
    Cancelled(F),
}

struct Shared<E> {
    slots: Arc<Semaphore>,
    /// A lock, since one decision needs all of it: whether this was the last
    /// task, and whether another one may begin.
    tasks: Mutex<Tasks<E>>,
    /// Told when no task is left.
    idle: Notify,
    token: CancellationToken,
    /// Cancelled when the group is gone: then members are dropped.
    gone: CancellationToken,
}

struct Tasks<E> {
    running: usize,
    has_ended: bool,
    /// The error that came first.
    error: Option<E>,
    panic: Option<Box<dyn Any + Send>>,
}

task_local! {
    /// The group whose member is being polled, by its address.
    static MEMBER_OF: usize;
}

impl<E: Send + 'static> Group<E> {
    /// A group of `limit` tasks at a time, that is told to stop when `parent` is
    /// cancelled.
    pub fn new(parent: &CancellationToken, limit: NonZero<usize>) -> Self {
        let (token, gone) = (parent.child_token(), CancellationToken::new());
        let _gone = [token.clone().drop_guard(), gone.clone().drop_guard()];
        let tasks =
            Tasks { running: 0, has_ended: false, error: None, panic: None };
        let shared = Arc::new(Shared {
            slots: Arc::new(Semaphore::new(limit.get())),
            tasks: Mutex::new(tasks),
            idle: Notify::new(),
            token,
            gone,
        });
        Self { spawner: Spawner { shared }, _gone }
    }

    /// Is cancelled as soon as a task fails or panics, the parent is cancelled,
    /// or the group has ended.
    pub fn token(&self) -> CancellationToken {
        self.spawner.shared.token.clone()
    }

    /// Starts tasks in this group, from wherever it is taken to.
    pub fn spawner(&self) -> Spawner<E> {
        self.spawner.clone()
    }

    /// Waits until no task is left. From then on all are refused.
    ///
    /// # Errors
    ///
    /// The error that came first in time.
    ///
    /// # Panics
    ///
    /// With what a task panicked with, also when another task failed.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped drops the group.
    pub async fn wait(self) -> Result<(), E> {
        let shared = &self.spawner.shared;
        loop {
            let idle = shared.idle.notified();
            if shared.end_if_idle() {
                break;
            }
            idle.await;
        }
        let mut tasks = shared.tasks.lock().expect("nobody panics with it");
        let (error, panic) = (tasks.error.take(), tasks.panic.take());
        drop(tasks);
        if let Some(payload) = panic {
            panic::resume_unwind(payload);
        }
        error.map_or(Ok(()), Err)
    }
}

impl<E: Send + 'static> Spawner<E> {
    /// Waits for a slot, and starts `task` in it. A member of the group never
    /// waits.
    ///
    /// # Errors
    ///
    /// `Full` to a member when no slot is free, `Cancelled` when the group is
    /// cancelled, before or meanwhile, or has ended.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped drops the task, and takes no slot.
    pub async fn spawn<F>(&self, task: F) -> Result<(), Refused<F>>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let slot = if self.is_member() {
            Arc::clone(&self.shared.slots).try_acquire_owned().ok()
        } else {
            tokio::select! {
                biased;
                () = self.shared.token.cancelled() => None,
                slot = Arc::clone(&self.shared.slots).acquire_owned() => slot.ok(),
            }
        };
        // Only now: who fails tells the others, and gives its slot back then.
        if self.shared.token.is_cancelled() {
            return Err(Refused::Cancelled(task));
        }
        match slot {
            Some(slot) => self.start(slot, task),
            None => Err(Refused::Full(task)),
        }
    }

    /// Starts `task` if there is a slot, also when the group is cancelled: to
    /// clean up, for one.
    ///
    /// # Errors
    ///
    /// `Full` when no slot is free, `Cancelled` when the group has ended.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn try_spawn<F>(&self, task: F) -> Result<(), Refused<F>>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        match Arc::clone(&self.shared.slots).try_acquire_owned() {
            Ok(slot) => self.start(slot, task),
            // What holds the slots then is about to be dropped.
            Err(_) if self.shared.has_ended() => Err(Refused::Cancelled(task)),
            Err(_) => Err(Refused::Full(task)),
        }
    }

    fn is_member(&self) -> bool {
        let id = self.shared.id();
        MEMBER_OF.try_with(|group| *group == id).unwrap_or(false)
    }

    fn start<F>(
        &self,
        slot: OwnedSemaphorePermit,
        task: F,
    ) -> Result<(), Refused<F>>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let Some(running) = Running::begin(&self.shared) else {
            return Err(Refused::Cancelled(task));
        };
        let member = Member { task, slot, running };
        spawn(MEMBER_OF.scope(self.shared.id(), async move {
            // Dropped last to first.
            let Member { running, slot: _slot, task } = member;
            let shared = &running.0;
            let ended = tokio::select! {
                biased;
                () = shared.gone.cancelled() => return,
                ended = AssertUnwindSafe(task).catch_unwind() => ended,
            };
            if let Ok(Ok(())) = ended {
                return;
            }
            shared.keep(ended);
            // The others are told when it is kept: what they fail with because
            // of that comes later.
            shared.token.cancel();
        }));
        Ok(())
    }
}

/// Keeps `new` where there is none, or else hands it back.
fn keep_first<T>(first: &mut Option<T>, new: Option<T>) -> Option<T> {
    match first {
        Some(_) => new,
        None => {
            *first = new;
            None
        }
    }
}

impl<E> Shared<E> {
    fn id(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }

    fn keep(&self, ended: Result<Result<(), E>, Box<dyn Any + Send>>) {
        let mut tasks = self.tasks.lock().expect("nobody panics with it");
        let (error, panic) = match ended {
            Ok(ended) => (ended.err(), None),
            Err(payload) => (None, Some(payload)),
        };
        let surplus = (
            keep_first(&mut tasks.error, error),
            keep_first(&mut tasks.panic, panic),
        );
        // To drop them runs anybody's code: not under the lock.
        drop(tasks);
        drop(surplus);
    }

    fn has_ended(&self) -> bool {
        self.tasks.lock().expect("nobody panics with it").has_ended
    }

    fn end_if_idle(&self) -> bool {
        let mut tasks = self.tasks.lock().expect("nobody panics with it");
        tasks.has_ended |= tasks.running == 0;
        tasks.has_ended
    }
}

/// A task that has not begun. Its parts are dropped in this order, also if it
/// never does: it runs until it has nothing left, and then its slot is free.
struct Member<F, E> {
    task: F,
    slot: OwnedSemaphorePermit,
    running: Running<E>,
}

/// One of those that run.
struct Running<E>(Arc<Shared<E>>);

impl<E> Running<E> {
    fn begin(shared: &Arc<Shared<E>>) -> Option<Self> {
        let mut tasks = shared.tasks.lock().expect("nobody panics with it");
        if tasks.has_ended {
            return None;
        }
        tasks.running += 1;
        Some(Self(Arc::clone(shared)))
    }
}

impl<E> Drop for Running<E> {
    fn drop(&mut self) {
        let mut tasks = self.0.tasks.lock().expect("nobody panics with it");
        tasks.running -= 1;
        if tasks.running == 0 {
            self.0.idle.notify_one();
        }
    }
}

impl<E> Drop for Group<E> {
    fn drop(&mut self) {
        let tasks = self.spawner.shared.tasks.lock();
        // Not `expect`: this may run while a panic unwinds.
        if let Ok(mut tasks) = tasks {
            tasks.has_ended = true;
        }
    }
}

impl<E> Clone for Spawner<E> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<E> fmt::Debug for Group<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").finish_non_exhaustive()
    }
}

impl<E> fmt::Debug for Spawner<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawner").finish_non_exhaustive()
    }
}

impl<F> fmt::Debug for Refused<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Full(_) => "Full",
            Self::Cancelled(_) => "Cancelled",
        };
        f.debug_tuple(name).finish_non_exhaustive()
    }
}
