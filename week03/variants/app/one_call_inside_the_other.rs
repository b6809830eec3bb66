//! The life of an application. Here the stack is that of the calls: whatever a
//! step of the start does, it takes back itself, when the rest has returned.

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

/// Starts what `plan` says, serves, and stops.
pub async fn run(plan: Plan, stop: CancellationToken) -> Report {
    let (ends, ended) = mpsc::channel(1);
    let mut app = App {
        limits: plan.limits,
        stop,
        began: None,
        parts: Vec::new(),
        ends,
        ended,
        steps: Vec::new(),
    };
    app.entries(plan.entries.into_iter(), plan.registry).await;
    let took = app.began.map_or(Duration::ZERO, |began| began.elapsed());
    Report { steps: app.steps, took }
}

struct App {
    limits: Limits,
    stop: CancellationToken,
    began: Option<Instant>,
    /// Those that have not ended.
    parts: Vec<Part>,
    ends: mpsc::Sender<(Id, Outcome)>,
    ended: mpsc::Receiver<(Id, Outcome)>,
    steps: Vec<Step>,
}

struct Part {
    name: Name,
    told: Option<Instant>,
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
    async fn stops(&mut self) -> bool {
        self.catch_up().await;
        if self.stop.is_cancelled() {
            self.began.get_or_insert_with(Instant::now);
        }
        self.began.is_some()
    }

    /// Takes in each part that is gone by now.
    async fn catch_up(&mut self) {
        while self.parts.iter().any(|part| part.task.is_finished()) {
            self.next().await;
        }
    }

    fn entries(
        &mut self,
        mut rest: vec::IntoIter<(Name, Entry)>,
        registry: Option<Registry>,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            if self.stops().await {
                return;
            }
            match rest.next() {
                None => self.registered(registry).await,
                Some((name, Entry::OnStart(hook))) => {
                    self.call(name, hook).await;
                    self.entries(rest, registry).await;
                }
                Some((name, Entry::OnStop(hook))) => {
                    self.entries(rest, registry).await;
                    self.call(name, hook).await;
                }
                Some((name, Entry::Part(start))) => {
                    let token = CancellationToken::new();
                    let (said, ready) = Ready::channel();
                    let part = self.spawn(name, start(said, token.clone()));
                    tokio::select! {
                        biased;
                        () = self.next() => {}
                        Ok(()) = ready => {}
                    }
                    self.entries(rest, registry).await;
                    self.catch_up().await;
                    token.cancel();
                    self.until_gone(&part).await;
                }
            }
        })
    }

    async fn registered(&mut self, registry: Option<Registry>) {
        let Some(Registry { register, deregister }) = registry else {
            return self.serve().await;
        };
        self.call("register", register).await;
        self.serve().await;
        self.call("deregister", deregister).await;
        let end = self.over(Instant::now() + self.limits.lame_duck);
        while !self.parts.is_empty() {
            tokio::select! {
                biased;
                () = self.next() => {}
                () = sleep_until(end) => break,
            }
        }
    }

    async fn serve(&mut self) {
        while !self.stops().await {
            self.next().await;
        }
    }

    fn spawn(&mut self, name: Name, work: Work) -> AbortHandle {
        let task = tokio::spawn(work);
        let (handle, ends) = (task.abort_handle(), self.ends.clone());
        let forward = tokio::spawn(async move {
            let ended = (task.id(), task.await);
            // It fails where nobody waits any more.
            let _ = ends.send(ended).await;
        });
        self.parts.push(Part {
            name,
            told: None,
            task: handle.clone(),
            _forward: AbortOnDropHandle::new(forward),
        });
        handle
    }

    fn at(&self, id: Id) -> Option<usize> {
        self.parts.iter().position(|part| part.task.id() == id)
    }

    /// Waits for the end of a part, or the beginning of the stop.
    async fn next(&mut self) {
        tokio::select! {
            biased;
            () = self.stop.cancelled(), if self.began.is_none() => {
                self.began = Some(Instant::now());
            }
            Some((id, outcome)) = self.ended.recv() => {
                let at = self.at(id).expect("a part ends once");
                let part = self.parts.remove(at);
                self.keep(part.name, outcome, part.told, part.told.is_some());
            }
        }
    }

    fn keep(
        &mut self,
        name: Name,
        outcome: Outcome,
        since: Option<Instant>,
        due: bool,
    ) {
        let ended = match outcome {
            Ok(Ok(())) if due => Ended::Well,
            Ok(Ok(())) => Ended::Unasked,
            Ok(Err(error)) => Ended::Failed(error),
            Err(error) if error.is_panic() => Ended::Panicked(error),
            Err(_) => Ended::Aborted,
        };
        if !ended.is_well() {
            self.began.get_or_insert_with(Instant::now);
        }
        let took = since.map_or(Duration::ZERO, |since| since.elapsed());
        self.steps.push(Step { name, ended, took });
    }

    fn over(&self, limit: Instant) -> Instant {
        let began = self.began;
        began.map_or(limit, |began| limit.min(began + self.limits.budget))
    }

    async fn until_gone(&mut self, task: &AbortHandle) {
        let Some(at) = self.at(task.id()) else {
            return;
        };
        let told = Instant::now();
        self.parts[at].told = Some(told);
        let over = self.over(told + self.limits.budget);
        while self.at(task.id()).is_some() {
            tokio::select! {
                biased;
                () = self.next() => {}
                () = sleep_until(over) => {
                    task.abort();
                    self.next().await;
                }
            }
        }
    }

    async fn call(&mut self, name: Name, work: Work) {
        let since = Instant::now();
        if self.began.is_some_and(|at| at + self.limits.budget <= since) {
            let (ended, took) = (Ended::Aborted, Duration::ZERO);
            return self.steps.push(Step { name, ended, took });
        }
        let mut task = AbortOnDropHandle::new(tokio::spawn(work));
        let mut is_cut_off = false;
        let outcome = loop {
            let limit = self.over(since + self.limits.call);
            tokio::select! {
                biased;
                outcome = &mut task => break outcome,
                () = self.next() => {}
                () = sleep_until(limit), if !is_cut_off => {
                    task.abort();
                    is_cut_off = true;
                }
            }
        };
        self.keep(name, outcome, Some(since), true);
    }
}
