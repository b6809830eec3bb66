//! Measures the time to spawn ten thousand tasks and to wait for all of them: in
//! a `Group`, in a `JoinSet`, and with a `TaskTracker`.

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

fn spawn_in_group(runtime: &Runtime) {
    runtime.block_on(async {
        let mut group = Group::<Infallible>::new(&CancellationToken::new());
        for _ in 0..TASKS {
            group.spawn(async { Ok(()) });
        }
        group.wait().await.expect("no task can fail");
    });
}

fn spawn_in_join_set(runtime: &Runtime) {
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

fn spawn_in_tracker(runtime: &Runtime) {
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
            bencher.iter(|| spawn_in_group(&runtime));
        });
        group.bench_function("JoinSet", |bencher| {
            bencher.iter(|| spawn_in_join_set(&runtime));
        });
        group.bench_function("TaskTracker", |bencher| {
            bencher.iter(|| spawn_in_tracker(&runtime));
        });
        group.finish();
    }
}

fn ratios(_: &mut Criterion) {
    let plan = Plan { rounds: 101, sample: Duration::from_millis(20) };
    for (threads, runtime) in runtimes() {
        for (peer, run) in [
            ("JoinSet", spawn_in_join_set as fn(&Runtime)),
            ("TaskTracker", spawn_in_tracker),
        ] {
            let ratio =
                measure(plan, || spawn_in_group(&runtime), || run(&runtime));
            println!("{threads}: Group / {peer} = {ratio}");
        }
    }
}
