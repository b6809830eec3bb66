//! Who is a member is known by the id of its task, and is forgotten with it.

use std::any::Any;
use std::collections::HashSet;
use std::fmt;
use std::num::NonZero;
use std::panic::{self, AssertUnwindSafe};

use futures_util::FutureExt;

use crate::model_checked::shuttle_tasks::{
    Arc, CancellationToken, DropGuard, Id, Mutex, Notify, OwnedSemaphorePermit,
    Semaphore, spawn, try_id,
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
    members: HashSet<Id>,
    has_ended: bool,
    /// The error that came first.
    error: Option<E>,
    panic: Option<Box<dyn Any + Send>>,
}

impl<E: Send + 'static> Group<E> {
    /// A group of `limit` tasks at a time, that is told to stop when `parent` is
    /// cancelled.
    pub fn new(parent: &CancellationToken, limit: NonZero<usize>) -> Self {
        let (token, gone) = (parent.child_token(), CancellationToken::new());
        let _gone = [token.clone().drop_guard(), gone.clone().drop_guard()];
        let tasks = Tasks {
            running: 0,
            members: HashSet::new(),
            has_ended: false,
            error: None,
            panic: None,
        };
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
        let slot = if self.shared.has_this_task() {
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
        spawn(async move {
            // Dropped last to first.
            let Member { running, slot, task } = member;
            let running = running.of_this_task();
            let _slot = slot;
            let shared = &running.shared;
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
        });
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
    fn has_this_task(&self) -> bool {
        let tasks = self.tasks.lock().expect("nobody panics with it");
        try_id().is_some_and(|id| tasks.members.contains(&id))
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
struct Running<E> {
    shared: Arc<Shared<E>>,
    id: Option<Id>,
}

impl<E> Running<E> {
    fn begin(shared: &Arc<Shared<E>>) -> Option<Self> {
        let mut tasks = shared.tasks.lock().expect("nobody panics with it");
        if tasks.has_ended {
            return None;
        }
        tasks.running += 1;
        Some(Self { shared: Arc::clone(shared), id: None })
    }

    fn of_this_task(mut self) -> Self {
        self.id = try_id();
        let mut tasks =
            self.shared.tasks.lock().expect("nobody panics with it");
        tasks.members.extend(self.id);
        drop(tasks);
        self
    }
}

impl<E> Drop for Running<E> {
    fn drop(&mut self) {
        let mut tasks =
            self.shared.tasks.lock().expect("nobody panics with it");
        if let Some(id) = self.id {
            tasks.members.remove(&id);
        }
        tasks.running -= 1;
        if tasks.running == 0 {
            self.shared.idle.notify_one();
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
