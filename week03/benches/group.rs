//! What it costs to start ten thousand tasks and wait for all of them: in a
//! group, in a `JoinSet`, and behind a `TaskTracker`.

use std::convert::Infallible;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use lab::ratio::{Plan, measure};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use week03::group::Group;

criterion_group!(benches, spawn_to_join, ratios);
criterion_main!(benches);

const TASKS: usize = 10_000;

fn in_a_group(runtime: &Runtime) {
    runtime.block_on(async {
        let mut group = Group::<Infallible>::new(&CancellationToken::new());
        for _ in 0..TASKS {
            group.spawn(async { Ok(()) });
        }
        group.wait().await.expect("no task can fail");
    });
}

fn in_a_join_set(runtime: &Runtime) {
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..TASKS {
            tasks.spawn(async { Ok::<_, Infallible>(()) });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.expect("no task panics").expect("no task can fail");
        }
    });
}

fn behind_a_tracker(runtime: &Runtime) {
    runtime.block_on(async {
        let tasks = TaskTracker::new();
        for _ in 0..TASKS {
            tasks.spawn(async { Ok::<_, Infallible>(()) });
        }
        tasks.close();
        tasks.wait().await;
    });
}

fn runtimes() -> [(&'static str, Runtime); 2] {
    let mut one = Builder::new_current_thread();
    let mut many = Builder::new_multi_thread();
    [
        ("one thread", one.build().expect("a runtime")),
        ("many threads", many.build().expect("a runtime")),
    ]
}

fn spawn_to_join(criterion: &mut Criterion) {
    for (threads, runtime) in runtimes() {
        let mut group = criterion.benchmark_group(threads);
        group.bench_function("Group", |bencher| {
            bencher.iter(|| in_a_group(&runtime));
        });
        group.bench_function("JoinSet", |bencher| {
            bencher.iter(|| in_a_join_set(&runtime));
        });
        group.bench_function("TaskTracker", |bencher| {
            bencher.iter(|| behind_a_tracker(&runtime));
        });
        group.finish();
    }
}

fn ratios(_: &mut Criterion) {
    let plan = Plan { rounds: 101, sample: Duration::from_millis(20) };
    for (threads, runtime) in runtimes() {
        for (peer, run) in [
            ("JoinSet", in_a_join_set as fn(&Runtime)),
            ("TaskTracker", behind_a_tracker),
        ] {
            let ratio =
                measure(plan, || in_a_group(&runtime), || run(&runtime));
            println!("{threads}: Group / {peer} = {ratio}");
        }
    }
}
