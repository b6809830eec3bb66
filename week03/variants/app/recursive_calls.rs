//! Application lifecycle, with the call stack as the stack of undo steps. Each
//! step of startup calls the remaining steps. It undoes itself when they
//! return.

use std::pin::Pin;
use std::time::Duration;
use std::vec;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, Id, JoinError};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::plan::{
    Ended, Entry, Limits, Plan, Ready, Registry, Report, Step, Work,
};
use crate::signals::BoxError;

type Name = &'static str;

/// Starts the entries of `plan`, serves, and shuts down.
pub async fn run(plan: Plan, stop: CancellationToken) -> Report {
    let (ends, ended) = mpsc::channel(1);
    let mut app = App {
        limits: plan.limits,
        stop,
        shutdown_began: None,
        parts: Vec::new(),
        ends,
        ended,
        steps: Vec::new(),
    };
    app.run_entries(plan.entries.into_iter(), plan.registry).await;
    let took =
        app.shutdown_began.map_or(Duration::ZERO, |began| began.elapsed());
    Report { steps: app.steps, took }
}

struct App {
    limits: Limits,
    stop: CancellationToken,
    shutdown_began: Option<Instant>,
    /// The parts that have not ended.
    parts: Vec<Part>,
    ends: mpsc::Sender<(Id, Outcome)>,
    ended: mpsc::Receiver<(Id, Outcome)>,
    steps: Vec<Step>,
}

struct Part {
    name: Name,
    cancelled_at: Option<Instant>,
    task: AbortHandle,
    _forward: AbortOnDropHandle<()>,
}

impl Drop for Part {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Outcome = Result<Result<(), BoxError>, JoinError>;

impl App {
    async fn is_shutting_down(&mut self) -> bool {
        self.catch_up().await;
        if self.stop.is_cancelled() {
            self.shutdown_began.get_or_insert_with(Instant::now);
        }
        self.shutdown_began.is_some()
    }

    /// Records each part that has already ended.
    async fn catch_up(&mut self) {
        while self.parts.iter().any(|part| part.task.is_finished()) {
            self.next_event().await;
        }
    }

    /// Starts the remaining entries, serves, and undoes those entries.
    fn run_entries(
        &mut self,
        mut rest: vec::IntoIter<(Name, Entry)>,
        registry: Option<Registry>,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            if self.is_shutting_down().await {
                return;
            }
            match rest.next() {
                None => self.register_and_serve(registry).await,
                Some((name, Entry::OnStart(hook))) => {
                    self.call(name, hook).await;
                    self.run_entries(rest, registry).await;
                }
                Some((name, Entry::OnStop(hook))) => {
                    self.run_entries(rest, registry).await;
                    self.call(name, hook).await;
                }
                Some((name, Entry::Part(start))) => {
                    let token = CancellationToken::new();
                    let (sender, ready) = Ready::channel();
                    let own = token.clone();
                    // In its task: if `start` panics, the part has failed.
                    let work = Box::pin(async { start(sender, own).await });
                    let part = self.spawn(name, work);
                    tokio::select! {
                        biased;
                        () = self.next_event() => {}
                        Ok(()) = ready => {}
                    }
                    self.run_entries(rest, registry).await;
                    self.catch_up().await;
                    token.cancel();
                    self.wait_for_end(&part).await;
                }
            }
        })
    }

    async fn register_and_serve(&mut self, registry: Option<Registry>) {
        let Some(Registry { register, deregister }) = registry else {
            return self.serve().await;
        };
        self.call("register", register).await;
        self.serve().await;
        self.call("deregister", deregister).await;
        let end = self.within_budget(Instant::now() + self.limits.lame_duck);
        while !self.parts.is_empty() {
            tokio::select! {
                biased;
                () = self.next_event() => {}
                () = sleep_until(end) => break,
            }
        }
    }

    async fn serve(&mut self) {
        while !self.is_shutting_down().await {
            self.next_event().await;
        }
    }

    fn spawn(&mut self, name: Name, work: Work) -> AbortHandle {
        let task = tokio::spawn(work);
        let (handle, ends) = (task.abort_handle(), self.ends.clone());
        let forward = tokio::spawn(async move {
            let ended = (task.id(), task.await);
            // Sending fails if `run` was dropped.
            let _ = ends.send(ended).await;
        });
        self.parts.push(Part {
            name,
            cancelled_at: None,
            task: handle.clone(),
            _forward: AbortOnDropHandle::new(forward),
        });
        handle
    }

    fn position(&self, id: Id) -> Option<usize> {
        self.parts.iter().position(|part| part.task.id() == id)
    }

    /// Waits until a part ends or `stop` is cancelled.
    async fn next_event(&mut self) {
        tokio::select! {
            biased;
            () = self.stop.cancelled(), if self.shutdown_began.is_none() => {
                self.shutdown_began = Some(Instant::now());
            }
            Some((id, outcome)) = self.ended.recv() => {
                let at = self.position(id).expect("a part ends once");
                let part = self.parts.remove(at);
                let since = part.cancelled_at;
                self.record(part.name, outcome, since, since.is_some());
            }
        }
    }

    fn record(
        &mut self,
        name: Name,
        outcome: Outcome,
        since: Option<Instant>,
        end_expected: bool,
    ) {
        let ended = match outcome {
            Ok(Ok(())) if end_expected => Ended::Ok,
            Ok(Ok(())) => Ended::Early,
            Ok(Err(error)) => Ended::Failed(error),
            Err(error) if error.is_panic() => Ended::Panicked(error),
            Err(_) => Ended::Aborted,
        };
        if !ended.is_ok() {
            self.shutdown_began.get_or_insert_with(Instant::now);
        }
        let took = since.map_or(Duration::ZERO, |since| since.elapsed());
        self.steps.push(Step { name, ended, took });
    }

    fn within_budget(&self, limit: Instant) -> Instant {
        let began = self.shutdown_began;
        began.map_or(limit, |began| limit.min(began + self.limits.budget))
    }

    async fn wait_for_end(&mut self, task: &AbortHandle) {
        let Some(at) = self.position(task.id()) else {
            return;
        };
        let now = Instant::now();
        self.parts[at].cancelled_at = Some(now);
        let limit = self.within_budget(now + self.limits.budget);
        while self.position(task.id()).is_some() {
            tokio::select! {
                biased;
                () = self.next_event() => {}
                () = sleep_until(limit) => {
                    task.abort();
                    self.next_event().await;
                }
            }
        }
    }

    async fn call(&mut self, name: Name, work: Work) {
        let since = Instant::now();
        if self
            .shutdown_began
            .is_some_and(|at| at + self.limits.budget <= since)
        {
            let (ended, took) = (Ended::Aborted, Duration::ZERO);
            return self.steps.push(Step { name, ended, took });
        }
        let mut task = AbortOnDropHandle::new(tokio::spawn(work));
        let mut is_aborted = false;
        let outcome = loop {
            let limit = self.within_budget(since + self.limits.call);
            tokio::select! {
                biased;
                outcome = &mut task => break outcome,
                () = self.next_event() => {}
                () = sleep_until(limit), if !is_aborted => {
                    task.abort();
                    is_aborted = true;
                }
            }
        };
        self.record(name, outcome, Some(since), true);
    }
}
