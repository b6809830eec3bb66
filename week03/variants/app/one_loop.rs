//! The life of an application. Here it is a machine: one loop, which does the
//! next thing when what it waits for has come.

use std::future::pending;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::plan::{
    Ended, Entry, Plan, Ready, Registry, Report, Step, Tasks, Work,
};

enum Do {
    Start(Entry),
    Register(Registry),
    Call(Work),
    LameDuck,
    Tell(AbortHandle, CancellationToken),
}

enum Wait {
    Nothing,
    Ready(oneshot::Receiver<()>),
    End(AbortHandle, Instant),
    LameDuck(Instant),
    Stop,
}

/// Starts what `plan` says, serves, and stops.
pub async fn run(plan: Plan, stop: CancellationToken) -> Report {
    let Plan { limits, entries, registry } = plan;
    let registry = registry.map(|both| ("register", Do::Register(both)));
    let mut to_do = entries
        .into_iter()
        .map(|(name, entry)| (name, Do::Start(entry)))
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
            if !step.ended.is_well() {
                began.get_or_insert_with(Instant::now);
            }
            steps.push(step);
        }
        let stops = began.is_some();
        let is_over = match &wait {
            Wait::Nothing => true,
            Wait::Ready(_) | Wait::Stop => stops,
            Wait::End(task, _) => !tasks.contains(task),
            Wait::LameDuck(_) => tasks.is_empty(),
        };
        if is_over {
            let next = if stops { undo.pop() } else { to_do.next() };
            let has_time =
                began.is_none_or(|began| began.elapsed() < limits.budget);
            let mut call = |name, work| {
                let task = tasks.spawn(name, work);
                tasks.due(&task);
                Wait::End(task, Instant::now() + limits.call)
            };
            wait = match next {
                None if stops => break,
                None => Wait::Stop,
                Some((name, Do::Start(Entry::Part(start)))) => {
                    let token = CancellationToken::new();
                    let (said, ready) = Ready::channel();
                    let task = tasks.spawn(name, start(said, token.clone()));
                    undo.push((name, Do::Tell(task, token)));
                    Wait::Ready(ready)
                }
                Some((name, Do::Start(Entry::OnStop(hook)))) => {
                    undo.push((name, Do::Call(hook)));
                    Wait::Nothing
                }
                Some((_, Do::Register(both))) => {
                    undo.push(("lame duck", Do::LameDuck));
                    undo.push(("deregister", Do::Call(both.deregister)));
                    call("register", both.register)
                }
                Some((name, Do::Call(_))) if !has_time => {
                    let (ended, took) = (Ended::Aborted, Duration::ZERO);
                    steps.push(Step { name, ended, took });
                    Wait::Nothing
                }
                Some((name, Do::Start(Entry::OnStart(work))))
                | Some((name, Do::Call(work))) => call(name, work),
                Some((_, Do::LameDuck)) => {
                    Wait::LameDuck(Instant::now() + limits.lame_duck)
                }
                Some((_, Do::Tell(task, token))) => {
                    token.cancel();
                    tasks.due(&task);
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
            () = stop.cancelled(), if !stops => {}
            Some(step) = tasks.next() => {
                if !step.ended.is_well() {
                    began.get_or_insert_with(Instant::now);
                }
                steps.push(step);
            }
            () = is_ready(&mut wait) => wait = Wait::Nothing,
            () = at(limit) => match &wait {
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

async fn is_ready(wait: &mut Wait) {
    let Wait::Ready(ready) = wait else {
        return pending().await;
    };
    if ready.await.is_err() {
        pending().await
    }
}

async fn at(limit: Option<Instant>) {
    match limit {
        Some(limit) => sleep_until(limit).await,
        None => pending().await,
    }
}
