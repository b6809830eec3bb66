use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};
use week04::wire::{Cause, Failure, build};

use Event::{Composed, Opened};
use support::*;

#[path = "wire/support.rs"]
mod support;

/// How long a test waits for other threads.
const DEADLINE: Duration = Duration::from_secs(5);

const SIZES: [usize; 5] = [0, 1, 2, 17, 130];

/// Returns parts of which the one with the number `at` opens like `open`.
fn parts_with(at: usize, open: End) -> Vec<Part> {
    let mut parts = vec![GOOD; at + 2];
    parts[at].open = open;
    parts
}

mod builds {
    use super::*;

    #[test]
    fn build_returns_the_value_and_runs_no_clean_up() {
        for size in SIZES {
            let app = App::new(&vec![GOOD; size]);
            app.run(async {
                let (values, cleanups) = app.build().await.unwrap();
                let values: Vec<_> = values.iter().map(|it| it.0).collect();
                let expected: Vec<_> = (0..size).collect();
                assert_eq!(values, expected, "values that `provide` returned");
                sleep(DAY).await;
                let mut expected: Vec<_> = (0..size).map(Opened).collect();
                expected.push(Composed);
                assert_eq!(app.events(), expected, "events before `close`");
                assert!(cleanups.close().await.is_empty(), "no failures");
            });
        }
    }

    #[test]
    fn close_runs_each_clean_up_once_in_reverse_order() {
        for size in SIZES {
            let app = App::new(&vec![GOOD; size]);
            app.run(async {
                let closed = app.build_and_close().await;
                assert_eq!(closed, size, "number of values closed");
            });
        }
    }
}

mod failures {
    use super::*;

    #[test]
    fn a_failed_constructor_closes_the_earlier_parts_before_build_returns() {
        for at in SIZES {
            let app = App::new(&parts_with(at, End::Err));
            app.run(async {
                let error = app.build().await.unwrap_err().error;
                assert_eq!(error.0, at, "the error of the constructor");
                let closed = app.assert_closed_in_reverse("after `build`");
                assert_eq!(closed, at, "number of values closed");
            });
        }
    }

    #[test]
    fn a_panic_is_raised_again_when_the_clean_ups_have_run() {
        let panics = [End::Panic, End::PanicInCall];
        let all = SIZES.map(|at| panics.map(|open| (at, open)));
        for (at, open) in all.into_iter().flatten() {
            let app = App::new(&parts_with(at, open));
            app.run(async {
                let built = AssertUnwindSafe(app.build()).catch_unwind();
                let payload = built.await.expect_err("expected a panic");
                let seen = payload.downcast_ref::<OnPurpose>();
                let expected = Some(&OnPurpose(at));
                assert_eq!(seen, expected, "payload of the panic");
                let closed = app.assert_closed_in_reverse("after the panic");
                assert_eq!(closed, at, "number of values closed");
            });
        }
    }

    #[test]
    fn a_failed_constructor_whose_error_is_handled_has_no_clean_up() {
        for parts in lists(4, &[GOOD, FAILS]) {
            let app = App { continues: true, ..App::new(&parts) };
            app.run(async {
                let closed = app.build_and_close().await;
                let good = parts.iter().filter(|it| it.open == End::Ok);
                assert_eq!(closed, good.count(), "number of values closed");
            });
        }
    }

    #[test]
    fn a_failed_clean_up_is_reported_and_the_others_still_run() {
        let mut all = lists(4, &ANY_CLOSE);
        all.push(ANY_CLOSE.repeat(26));
        all.extend(ANY_CLOSE.map(|part| vec![part; 130]));
        for mut parts in all {
            for failing in [None, Some(FAILS)] {
                parts.extend(failing);
                let app = App::new(&parts);
                app.run(app.build_and_close());
            }
        }
    }

    #[test]
    fn each_clean_up_may_take_the_limit_from_its_own_start_and_no_longer() {
        let takes = [ms(9), 29 * DAY, Duration::MAX];
        let all = takes.map(|takes| Part { takes, ..GOOD });
        for limit in [Duration::ZERO, LIMIT, 30 * DAY, Duration::MAX] {
            let all = if limit == Duration::MAX { &all[..2] } else { &all };
            let lists = lists(3, all).into_iter().chain([vec![all[0]; 17]]);
            for parts in lists {
                let app = App { limit, ..App::new(&parts) };
                app.run(async {
                    let start = Instant::now();
                    app.build_and_close().await; // building takes no time
                    let took = start.elapsed();
                    let least: Duration =
                        parts.iter().map(|part| part.takes.min(limit)).sum();
                    // The precision of tokio's timer is 1 ms.
                    let most = least + ms(2 * parts.len() as u64);
                    assert!(
                        (least..=most).contains(&took),
                        "`close` took {took:?}, expected {least:?}, with the \
                         limit {limit:?}: {parts:?}"
                    );
                });
            }
        }
    }

    #[test]
    fn concurrent_constructors_close_in_reverse_order_of_their_return() {
        let awaits = [0, 1, 2].map(|awaits| Part { awaits, ..GOOD });
        for parts in lists(3, &awaits) {
            let app = App { concurrent: true, ..App::new(&parts) };
            app.run(async {
                let opened = app.build_and_close().await;
                let mut order: Vec<_> = (0..parts.len()).collect();
                order.sort_by_key(|number| parts[*number].awaits);
                let expected: Vec<_> = order.into_iter().map(Opened).collect();
                let seen = &app.events()[..opened];
                assert_eq!(seen, expected, "order of return: {parts:?}");
            });
        }
    }

    #[test]
    fn a_constructor_may_provide_its_own_dependency() {
        let app = App::new(&[GOOD]);
        app.run(async {
            let built = build(LIMIT, async |all| {
                let inner = app.provide(all, 0);
                let app = app.clone();
                // Returns how many clean-ups have run before.
                let close =
                    |_| async move { Err(OnPurpose(app.called()).into()) };
                all.provide("outer", inner, close).await
            });
            let (_, cleanups) = built.await.unwrap();
            let seen = format!("{:?}", cleanups.close().await);
            let cause = Cause::Failed(OnPurpose(0).into());
            let expected = format!("{:?}", [Failure { name: "outer", cause }]);
            assert_eq!(seen, expected, "0 clean-ups should run before `outer`");
        });
    }
}

mod drops {
    use super::*;

    #[test]
    fn a_build_dropped_at_any_await_closes_what_was_constructed() {
        let panics = Part { open: End::Panic, ..GOOD };
        let slow = Part { awaits: 2, ..GOOD };
        let mut all = lists(3, &[AT_ONCE, slow, FAILS, panics]);
        all.extend([vec![GOOD; 17], vec![AT_ONCE; 130]]);
        for parts in all {
            let polls = 4 + parts.iter().map(|it| it.awaits).sum::<usize>();
            for concurrent in [true, false] {
                let app = App { concurrent, ..App::new(&parts) };
                let opened =
                    drop_after_every_poll(&app, polls, |app, _| app.build());
                let good = parts.iter().take_while(|it| it.open == End::Ok);
                let good = good.count();
                let is_good = concurrent || opened == good;
                assert!(is_good, "{opened} parts were constructed, not {good}");
            }
        }
    }

    #[test]
    fn a_dropped_build_drops_compose_before_a_clean_up_runs() {
        let (home, app) = (runtime(), App::new(&[GOOD; 3]));
        let building = build(LIMIT, async |all| {
            // A slow destructor: meanwhile, the runtime may run clean-ups.
            let _slow = OnDrop(Some(|| {
                run_a_day(&home, async {});
                assert_eq!(app.called(), 0, "clean-ups that were called");
            }));
            app.compose(all).await?;
            pending::<Result<(), OnPurpose>>().await
        });
        drop(poll(&home, 6, building));
        run_a_day(&home, async {});
        let closed = app.assert_closed_in_reverse("a day after the drop");
        assert_eq!(closed, 3, "number of values closed");
    }

    #[test]
    fn clean_ups_continue_after_the_future_that_runs_them_is_dropped() {
        for mut parts in lists(2, &ANY_CLOSE) {
            let app = App::new(&parts);
            drop_after_every_poll(&app, 30, |app, home| {
                home.block_on(app.build()).unwrap().1.close()
            });
            for open in [End::Err, End::Panic] {
                parts.push(Part { open, ..GOOD });
                let app = App::new(&parts);
                drop_after_every_poll(&app, 30, |app, _| app.build());
                parts.pop();
            }
        }
    }

    #[test]
    fn cleanups_dropped_outside_of_the_runtime_of_build_run_on_it() {
        for case in ["no runtime", "one thread", "several threads", "a panic"] {
            let app = App::new(&[GOOD; 17]);
            let home = runtime();
            let (_, cleanups) = home.block_on(app.build()).unwrap();
            let (running, ended) = mpsc::channel::<()>();
            let thread = thread::spawn(move || {
                let _running = running;
                let drop_it = async move { drop(cleanups) };
                match case {
                    "one thread" => runtime().block_on(drop_it),
                    "several threads" => threads().block_on(drop_it),
                    "a panic" => {
                        let _dropped = drop_it;
                        panic!("on purpose");
                    }
                    _ => drop(drop_it),
                }
            });
            let ended = ended.recv_timeout(DEADLINE);
            let expected = Err(RecvTimeoutError::Disconnected);
            assert_eq!(ended, expected, "the drop blocks its thread: {case}");
            assert_eq!(thread.join().is_err(), case == "a panic", "{case}");
            run_a_day(&home, async {});
            let closed = app.assert_closed_in_reverse(case);
            assert_eq!(closed, 17, "number of values closed: {case}");
        }
    }

    #[test]
    fn clean_ups_are_dropped_without_a_panic_after_runtime_shutdown() {
        for parts in [vec![GOOD; 17], vec![GOOD, GOOD, FAILS]] {
            for polls in 0..25 {
                let app = App::new(&parts);
                let home = runtime();
                let to_drop = poll(&home, polls, app.build());
                drop(home);
                let called = app.called();
                let dropped = AssertUnwindSafe(|| drop(to_drop));
                assert!(
                    catch_unwind(dropped).is_ok(),
                    "expected no panic when `build`, polled {polls} times, or \
                     `Cleanups` is dropped"
                );
                let composed = app.events().contains(&Composed);
                assert_eq!(composed, polls > 0, "whether `compose` was called");
                assert_eq!(app.called(), called, "clean-ups that were called");
                assert_eq!(app.left(), 0, "clean-ups that are not dropped");
            }
        }
    }

    #[test]
    fn on_several_threads_clean_ups_run_one_at_a_time_in_reverse_order() {
        let home = threads();
        let slow = Part { takes: 2 * LIMIT, ..GOOD };
        let lists = lists(3, &[slow, HANGS]).into_iter();
        let all =
            lists.flat_map(|parts| [(parts.clone(), true), (parts, false)]);
        let all = all.map(async |(parts, closes)| {
            let app = App { limit: 20 * LIMIT, ..App::new(&parts) };
            let built = home.spawn(app.build()).await.unwrap();
            let (_, cleanups) = built.unwrap();
            if closes {
                let failures = home.spawn(cleanups.close()).await;
                app.assert_failures(&failures.unwrap());
            } else {
                home.spawn(async { drop(cleanups) }).await.unwrap();
            }
            while app.left() > 0 {
                sleep(ms(1)).await;
            }
            app.assert_closed_in_reverse("on several threads");
        });
        let all = async { timeout(DEADLINE, join_all(all)).await };
        let ended = home.block_on(all).is_ok();
        assert!(ended, "the clean-ups have not ended in {DEADLINE:?}");
    }
}
