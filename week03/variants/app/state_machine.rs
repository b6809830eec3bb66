//! Application lifecycle as a state machine: one loop, which takes the next
//! step when the awaited event has happened.

use std::future::pending;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::plan::{
    Ended, Entry, Plan, Ready, Registry, Report, Step, Tasks, Work,
};

/// A step of startup or shutdown.
enum Action {
    Start(Entry),
    Register(Registry),
    Call(Work),
    LameDuck,
    Cancel(AbortHandle, CancellationToken),
}

/// The event that the loop waits for.
enum Wait {
    Nothing,
    Ready(oneshot::Receiver<()>),
    End(AbortHandle, Instant),
    LameDuck(Instant),
    Stop,
}

/// Starts the entries of `plan`, serves, and shuts down.
pub async fn run(plan: Plan, stop: CancellationToken) -> Report {
    let Plan { limits, entries, registry } = plan;
    let registry = registry.map(|it| ("register", Action::Register(it)));
    let mut to_do = entries
        .into_iter()
        .map(|(name, entry)| (name, Action::Start(entry)))
        .chain(registry);
    let mut undo = Vec::new();
    let mut tasks = Tasks::default();
    let mut steps = Vec::new();
    let mut began: Option<Instant> = None;
    let mut wait = Wait::Nothing;
    loop {
        if stop.is_cancelled() {
            began.get_or_insert_with(Instant::now);
        }
        while let Some(step) = tasks.try_next() {
            if !step.ended.is_ok() {
                began.get_or_insert_with(Instant::now);
            }
            steps.push(step);
        }
        let shutting_down = began.is_some();
        let is_done = match &wait {
            Wait::Nothing => true,
            Wait::Ready(_) | Wait::Stop => shutting_down,
            Wait::End(task, _) => !tasks.contains(task),
            Wait::LameDuck(_) => tasks.is_empty(),
        };
        if is_done {
            let action = if shutting_down { undo.pop() } else { to_do.next() };
            let in_budget =
                began.is_none_or(|began| began.elapsed() < limits.budget);
            let mut call = |name, work| {
                let task = tasks.spawn(name, work);
                tasks.expect_end(&task);
                Wait::End(task, Instant::now() + limits.call)
            };
            wait = match action {
                None if shutting_down => break,
                None => Wait::Stop,
                Some((name, Action::Start(Entry::Part(start)))) => {
                    let token = CancellationToken::new();
                    let (sender, ready) = Ready::channel();
                    let own = token.clone();
                    // In its task: if `start` panics, the part has failed.
                    let work = Box::pin(async { start(sender, own).await });
                    let task = tasks.spawn(name, work);
                    undo.push((name, Action::Cancel(task, token)));
                    Wait::Ready(ready)
                }
                Some((name, Action::Start(Entry::OnStop(hook)))) => {
                    undo.push((name, Action::Call(hook)));
                    Wait::Nothing
                }
                Some((_, Action::Register(registry))) => {
                    undo.push(("lame duck", Action::LameDuck));
                    undo.push((
                        "deregister",
                        Action::Call(registry.deregister),
                    ));
                    call("register", registry.register)
                }
                Some((name, Action::Call(_))) if !in_budget => {
                    let (ended, took) = (Ended::Aborted, Duration::ZERO);
                    steps.push(Step { name, ended, took });
                    Wait::Nothing
                }
                Some((name, Action::Start(Entry::OnStart(work))))
                | Some((name, Action::Call(work))) => call(name, work),
                Some((_, Action::LameDuck)) => {
                    Wait::LameDuck(Instant::now() + limits.lame_duck)
                }
                Some((_, Action::Cancel(task, token))) => {
                    token.cancel();
                    tasks.expect_end(&task);
                    Wait::End(task, Instant::now() + limits.budget)
                }
            };
            continue;
        }
        let end = began.map(|began| began + limits.budget);
        let limit = match &wait {
            Wait::End(_, limit) | Wait::LameDuck(limit) => {
                Some(end.map_or(*limit, |end| end.min(*limit)))
            }
            Wait::Nothing | Wait::Ready(_) | Wait::Stop => None,
        };
        tokio::select! {
            biased;
            () = stop.cancelled(), if !shutting_down => {}
            Some(step) = tasks.next() => {
                if !step.ended.is_ok() {
                    began.get_or_insert_with(Instant::now);
                }
                steps.push(step);
            }
            () = wait_until_ready(&mut wait) => wait = Wait::Nothing,
            () = sleep_until_limit(limit) => match &wait {
                Wait::End(task, _) => {
                    task.abort();
                    while tasks.contains(task) {
                        steps.extend(tasks.next().await);
                    }
                    began.get_or_insert_with(Instant::now);
                }
                _ => wait = Wait::Nothing,
            }
        }
    }
    let took = began.map_or(Duration::ZERO, |began| began.elapsed());
    Report { steps, took }
}

async fn wait_until_ready(wait: &mut Wait) {
    let Wait::Ready(ready) = wait else {
        return pending().await;
    };
    if ready.await.is_err() {
        pending().await
    }
}

async fn sleep_until_limit(limit: Option<Instant>) {
    match limit {
        Some(limit) => sleep_until(limit).await,
        None => pending().await,
    }
}
