use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{Debug, Display};
use std::iter;
use std::mem;
use std::num::NonZero;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::subsequence;
use proptest::test_runner::{self, RngAlgorithm, TestRng, TestRunner};
use week08::money::simulated::Database;
use week08::money::{Row, Table};
use week08::poller::{
    Bounds, Command, Config, Effect, Event, Lease, Outcome, Poller, aggregate,
    bucket, transact,
};

#[allow(clippy::duplicate_mod, reason = "several graders share it")]
#[path = "statements.rs"]
mod statements;

use statements::{Other, Watch};

/// What the clock of the database is ahead of those of the pollers.
const AHEAD: u64 = 1_000_000;

mod pauses {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_while_nothing_is_found() {
        for (min, max) in [(1, 1), (10, 1_000), (7, 100), (3, u64::MAX)] {
            let pause_ms = Bounds { min, max };
            let mut poller = Poller::new(Config { pause_ms, ..CONFIG });
            let (mut now, mut first) = (7, min);
            for _ in 0..3 {
                let mut pause = first;
                for number in 0..70 {
                    claim(&mut poller, Event::Wake, now);
                    check(None, poller.step(Event::Wake, now), "a busy wake");
                    now = now.saturating_add(number);
                    let answer = if number % 5 == 3 {
                        Event::RolledBack
                    } else {
                        Event::Committed(Outcome::NothingToClaim)
                    };
                    let until_ms = now.saturating_add(pause);
                    check(
                        Some(Effect::Wait { until_ms }),
                        poller.step(answer, now),
                        format!("pause {number} from {min} to {max} at {now}"),
                    );
                    now = until_ms;
                    pause = pause.saturating_mul(2).min(max);
                }
                if max > 1_000 {
                    break;
                }
                // Then a row is found.
                let mut solo = Solo::with(poller);
                solo.insert("a/1");
                solo.now = now;
                let until = solo.run(Event::Wake, |_, _| true);
                check(now + min, until, "the end of a pause after a row");
                (poller, now, first) = (solo.poller, until, max.min(2 * min));
            }
        }
    }

    #[test]
    fn a_notification_ends_a_pause_and_resets_it() {
        for pauses in 0..20 {
            let mut poller = Poller::new(CONFIG);
            for _ in 0..pauses {
                claim(&mut poller, Event::Wake, 5);
                nothing(&mut poller, 5);
            }
            claim(&mut poller, Event::Notified, 6);
            let expected = Some(Effect::Wait { until_ms: 7 + 10 });
            check(expected, nothing(&mut poller, 7), "the pause that follows");
        }
    }

    #[test]
    fn a_notification_during_a_claim_causes_another_claim() {
        let mut poller = Poller::new(CONFIG);
        for _ in 0..3 {
            claim(&mut poller, Event::Wake, 0);
            for _ in 0..2 {
                let effect = poller.step(Event::Notified, 1);
                check(None, effect, "a notification during a claim");
            }
            let effect = nothing(&mut poller, 2);
            assert!(
                matches!(effect, Some(Effect::Transact(Command::Claim { .. }))),
                "expected another claim, since rows may have been committed \
                 after the first one has read; seen {effect:?}"
            );
            let expected = Some(Effect::Wait { until_ms: 13 });
            check(expected, nothing(&mut poller, 3), "after another claim");
            claim(&mut poller, Event::Wake, 20);
            let expected = Some(Effect::Wait { until_ms: 40 });
            check(expected, nothing(&mut poller, 20), "without notification");
        }
        // After a rollback, the database gets its pause all the same.
        claim(&mut poller, Event::Wake, 45);
        poller.step(Event::Notified, 45);
        let expected = Some(Effect::Wait { until_ms: 55 });
        check(expected, poller.step(Event::RolledBack, 45), "a rollback");
        // One that arrives before the claim is sent needs no other claim.
        let lease = Lease { bucket: 0, number: 1, until_ms: AHEAD };
        let [key, value] = ["a/1", "a/1 value"].map(str::to_owned);
        let claimed = Outcome::Claimed(lease, vec![Row { seq: 1, key, value }]);
        claim(&mut poller, Event::Wake, 50);
        poller.step(Event::Committed(claimed), 50);
        check(None, poller.step(Event::Notified, 50), "while it publishes");
        poller.step(Event::Published, 50);
        claim(&mut poller, Event::Committed(Outcome::Finished), 50);
        let expected = Some(Effect::Wait { until_ms: 60 });
        check(expected, nothing(&mut poller, 50), "after the next claim");
    }

    #[test]
    fn a_claim_follows_a_batch_without_a_pause() {
        for (rows, batch) in [0, 1, 2, 17, 130]
            .into_iter()
            .flat_map(|rows| [1, 2, 16, 17, 100].map(|batch| (rows, batch)))
            .chain([(300, 299), (1_500, usize::MAX)])
        {
            let batch = NonZero::new(batch).unwrap();
            let mut solo = Solo::new(Config { batch, ..CONFIG });
            let expected: Vec<_> =
                (0..rows).map(|n| solo.insert(&format!("a/{n}"))).collect();
            solo.run(Event::Wake, |_, _| true);
            let case = format!("{rows} rows in batches of {batch}");
            check(&expected, &solo.published(), &case);
            let seen = solo.effects.len() - rows;
            let most = 2 * rows.div_ceil(batch.get()) + 2;
            check(most, seen, format!("transactions and pauses of {case}"));
        }
    }
}

mod leases {
    use super::*;

    #[derive(Debug, Clone)]
    enum Op {
        Insert(u8, u8),
        Claim(usize, u64, BTreeSet<u8>),
        Finish(usize, Vec<bool>),
        /// The clock of a database may be set back.
        Sleep(i64),
    }

    #[test]
    fn any_commands_have_the_outcomes_of_a_model() {
        let names = || proptest::collection::btree_set(0..9_u8, 0..3);
        let new_row = (0..9_u8, 0..4_u8).prop_map(|(a, n)| Op::Insert(a, n));
        let op = prop_oneof![
            6 => new_row,
            4 => (1..5_usize, 1..30_u64, names())
                .prop_map(|(batch, ms, except)| Op::Claim(batch, ms, except)),
            3 => (0..6_usize, vec(any::<bool>(), 6))
                .prop_map(|(index, is)| Op::Finish(index, is)),
            2 => (-9..20_i64).prop_map(Op::Sleep),
        ];
        for_all(400, (1..6_u32, vec(op, 0..60)), |(buckets, ops)| {
            let buckets = NonZero::new(buckets).unwrap();
            let (mut database, mut now) = (Database::default(), AHEAD);
            let mut rows: Vec<String> = Vec::new();
            // By bucket: number, end and whether it is held.
            let mut held = BTreeMap::<u32, (u64, u64)>::new();
            let mut leases: Vec<(Lease, Vec<Row>)> = Vec::new();
            for op in ops {
                match op {
                    Op::Insert(a, n) => {
                        let key = format!("{a}/{n}");
                        if insert(&mut database, &key) {
                            rows.push(key);
                        }
                    }
                    Op::Sleep(ms) => now = now.strict_add_signed(ms),
                    Op::Claim(batch, lease_ms, except) => {
                        let blocked: BTreeSet<_> =
                            except.iter().map(u8::to_string).collect();
                        let of = |key: &str| bucket(aggregate(key), buckets);
                        let mut open = rows.clone();
                        open.retain(|row| !blocked.contains(aggregate(row)));
                        let is_free = |row: &&String| {
                            held.get(&of(row)).is_none_or(|(_, e)| *e <= now)
                        };
                        let expected = open.iter().find(is_free).map(|r| of(r));
                        let command = Command::Claim {
                            buckets,
                            batch: NonZero::new(batch).unwrap(),
                            lease_ms,
                            blocked,
                        };
                        let what = format!("{command:?} of {open:?} at {now}");
                        let outcome = run(&mut database, &command, now);
                        let Outcome::Claimed(lease, seen) = outcome else {
                            check(Outcome::NothingToClaim, outcome, &what);
                            check(expected, None, what);
                            continue;
                        };
                        check(expected, Some(lease.bucket), &what);
                        check(now + lease_ms, lease.until_ms, &what);
                        let last = held.get(&lease.bucket).map_or(0, |h| h.0);
                        assert!(
                            lease.number > last,
                            "{what}: expected a number above {last}, seen {}",
                            lease.number
                        );
                        open.retain(|row| of(row) == lease.bucket);
                        open.truncate(batch);
                        let keys: Vec<_> =
                            seen.iter().map(|row| row.key.clone()).collect();
                        check(&open, &keys, &what);
                        held.insert(
                            lease.bucket,
                            (lease.number, lease.until_ms),
                        );
                        leases.push((lease, seen));
                    }
                    Op::Finish(index, is_published) => {
                        if leases.is_empty() {
                            continue;
                        }
                        let index = leases.len().saturating_sub(index + 1);
                        let (lease, read) = leases[index].clone();
                        let last = held[&lease.bucket];
                        let is_held = last.0 == lease.number;
                        if is_held && last.1 == 0 {
                            continue;
                        }
                        // A person may have deleted a row.
                        let keys = iter::once("0/gone".to_owned())
                            .chain(read.into_iter().map(|row| row.key));
                        let published: Vec<_> = keys
                            .zip(is_published)
                            .filter_map(|(key, is)| is.then_some(key))
                            .collect();
                        let mut expected = Outcome::LeaseLost;
                        if is_held {
                            rows.retain(|row| !published.contains(row));
                            held.insert(lease.bucket, (last.0, 0));
                            expected = Outcome::Finished;
                        }
                        let command = Command::Finish { lease, published };
                        let outcome = run(&mut database, &command, now);
                        check(expected, outcome, format!("{command:?}"));
                    }
                }
                check(&rows, &keys(&database), "the rows of the outbox");
            }
        });
    }

    #[test]
    fn three_hundred_leases_of_a_bucket_have_increasing_numbers() {
        let mut database = Database::default();
        insert(&mut database, "1/1");
        let command = Command::Claim {
            buckets: NonZero::new(1).unwrap(),
            batch: NonZero::new(1).unwrap(),
            lease_ms: 1,
            blocked: BTreeSet::new(),
        };
        let mut last = 0;
        for n in 0..300 {
            let outcome = run(&mut database, &command, AHEAD + n);
            let Outcome::Claimed(lease, _) = outcome else {
                panic!("claim {n}: expected a lease, seen {outcome:?}");
            };
            let number = lease.number;
            assert!(
                number > last,
                "claim {n}: expected a number above {last}, seen {number}"
            );
            last = number;
        }
    }

    #[test]
    fn an_error_of_any_statement_is_returned_at_once() {
        for (database, command) in [false, true].map(commands).concat() {
            for number in 1.. {
                let (mut seen, mut copy) = (0, database.clone());
                let mut watch = Watch::fail_at(number, &mut seen);
                let result = copy.transaction(
                    async |tx: &mut Database| {
                        transact(&mut watch.begin(tx), &command, AHEAD).await
                    },
                    Result::is_ok,
                );
                drop(watch);
                if seen < number {
                    assert!(number > 1, "{command:?}: expected a statement");
                    break;
                }
                assert!(
                    result.is_err(),
                    "{command:?}: statement {number} fails\nexpected its error\
                     \n    seen {result:?}"
                );
            }
        }
    }

    #[test]
    fn concurrent_commands_never_share_a_lease() {
        let pairs = |is_new| {
            let all = commands(is_new).into_iter();
            all.flat_map(move |a| {
                commands(is_new).into_iter().map(move |b| (a.clone(), b))
            })
        };
        for ((before, a), (_, b)) in pairs(false).chain(pairs(true)) {
            // A lease is finished once.
            if a == b && matches!(a, Command::Finish { .. }) {
                continue;
            }
            let mut after = before.clone();
            let mut watch = Watch::idle();
            let b_outcome = run_with(&mut after, &b, AHEAD, &mut watch);
            let locks = watch.locks.clone();
            let other = Other { committed: &before, after, locks };
            for number in 1.. {
                let (mut statements, mut is_done) = (0, false);
                let mut watch = Watch::new(|tx, locks| {
                    statements += 1;
                    if statements == number {
                        is_done = other.commit(tx, locks);
                    }
                    Ok(())
                });
                let mut database = before.clone();
                let a_outcome = run_with(&mut database, &a, AHEAD, &mut watch);
                drop(watch);
                if statements < number {
                    break;
                }
                let b_outcome = if is_done {
                    b_outcome.clone()
                } else {
                    run(&mut database, &b, AHEAD)
                };
                let what = format!(
                    "{b:?} commits before statement {number} of {a:?}: seen \
                     {b_outcome:?} and {a_outcome:?}"
                );
                let outcomes = [(&a, &a_outcome), (&b, &b_outcome)];
                let mut claimed = BTreeSet::new();
                for (command, outcome) in outcomes {
                    if let Outcome::Claimed(lease, rows) = outcome {
                        let is_new = claimed.insert(lease.bucket);
                        assert!(is_new, "one bucket is claimed twice: {what}");
                        assert!(!rows.is_empty(), "no rows: {what}");
                    } else {
                        let is_claim = matches!(command, Command::Claim { .. });
                        assert!(!is_claim, "a free bucket is left: {what}");
                    }
                }
                for (command, outcome) in outcomes {
                    let Command::Finish { lease, published } = command else {
                        continue;
                    };
                    let left = keys(&database);
                    let is_left = left.contains(&published[0]);
                    let is_lost = *outcome == Outcome::LeaseLost;
                    check(is_lost, is_left, format!("row left: {what}"));
                    let is_taken = claimed.contains(&lease.bucket);
                    let has_row = |(_, outcome): (&Command, &Outcome)| {
                        let Outcome::Claimed(_, rows) = outcome else {
                            return false;
                        };
                        rows.iter().any(|row| row.key == published[0])
                    };
                    assert!(
                        is_lost || !outcomes.into_iter().any(has_row),
                        "a row of a later lease is deleted: {what}"
                    );
                    assert!(!is_lost || is_taken, "lost: {what}");
                }
            }
        }
        // One after the other, each command claims another bucket.
        for buckets in [1, 2, 17, 130].map(|n| NonZero::new(n).unwrap()) {
            let mut database = Database::default();
            let mut left: BTreeSet<_> = (0..300)
                .map(|n| {
                    insert(&mut database, &format!("{n}/1"));
                    bucket(&n.to_string(), buckets)
                })
                .collect();
            let command = claim_command(Config { buckets, ..CONFIG });
            while let Outcome::Claimed(Lease { bucket, .. }, _) =
                run(&mut database, &command, AHEAD)
            {
                assert!(left.remove(&bucket), "{bucket} is claimed twice");
            }
            check(BTreeSet::new(), left, "the buckets that are not claimed");
        }
    }

    /// Returns commands for the same content: two leases have expired, or no
    /// bucket was ever claimed.
    fn commands(is_new: bool) -> Vec<(Database, Command)> {
        let mut database = Database::default();
        for key in ["a/1", "a/2", "b/1", "b/2", "c/1", "a/3"] {
            insert(&mut database, key);
        }
        let claim = claim_command(CONFIG);
        if is_new {
            return vec![(database, claim)];
        }
        let first = run(&mut database, &claim, AHEAD - 5_000);
        let second = run(&mut database, &claim, AHEAD - 5_000);
        let finish = [first, second].map(|outcome| {
            let Outcome::Claimed(lease, rows) = outcome else {
                panic!("expected a claimed bucket, seen {outcome:?}");
            };
            Command::Finish { lease, published: vec![rows[0].key.clone()] }
        });
        let commands = [&[claim], &finish[..]].concat();
        commands
            .into_iter()
            .map(|command| (database.clone(), command))
            .collect()
    }
}

mod publishing {
    use super::*;

    #[test]
    fn a_failing_row_blocks_its_aggregate_alone() {
        let rows = vec((0..5_u8, 0..3_u8), 0..30);
        let input = (rows, vec(any::<bool>(), 15), 1..20_usize, 1..5_u32);
        for_all(150, input, |(rows, fails, batch, buckets)| {
            let batch = NonZero::new(batch).unwrap();
            let buckets = NonZero::new(buckets).unwrap();
            let mut solo = Solo::new(Config { batch, buckets, ..CONFIG });
            let mut model = BTreeMap::<u8, Vec<String>>::new();
            for (a, n) in rows {
                let key = format!("{a}/{n}");
                if keys(&solo.database).contains(&key) {
                    continue;
                }
                model.entry(a).or_default().push(solo.insert(&key));
            }
            let does_fail = |row: &Row| {
                let (a, n) = row.key.split_once('/').unwrap();
                let (a, n): (usize, usize) =
                    (a.parse().unwrap(), n.parse().unwrap());
                fails[a * 3 + n]
            };
            solo.run(Event::Wake, |_, effect| {
                !matches!(effect, Effect::Publish(row) if does_fail(row))
            });
            let is_one = |e: &&Effect| matches!(e, Effect::Transact(_));
            let transactions = solo.effects.iter().filter(is_one).count();
            let all = model.values().map(Vec::len).sum::<usize>();
            if buckets.get() == 1 && all <= batch.get() {
                let expected = if all == 0 { 1 } else { 3 };
                let what = "transactions if all rows fit into a batch";
                check(expected, transactions, what);
            }
            let seen = solo.published();
            let of = |seen: &[String], a: u8| {
                let prefix = format!("{a}/");
                let own = seen.iter().filter(|v| v.starts_with(&prefix));
                own.cloned().collect::<Vec<_>>()
            };
            for (a, all) in &model {
                let is_failing = |value: &&String| {
                    let key = value.split(' ').next().unwrap().to_owned();
                    does_fail(&Row { seq: 0, key, value: String::new() })
                };
                let end = all.iter().position(|v| is_failing(&v));
                let end = end.map_or(all.len(), |end| end + 1);
                let what = format!("attempts of aggregate {a} of {model:?}");
                check(&all[..end], &of(&seen, *a), what);
            }
            // Later, all succeed.
            solo.effects.clear();
            for _ in 0..100 {
                solo.now += 10;
                solo.run(Event::Wake, |_, _| true);
            }
            check(0, keys(&solo.database).len(), "rows left at the end");
        });
    }

    #[test]
    fn a_failing_row_is_retried_after_doubling_times_up_to_a_bound() {
        for backoff_ms in [(1, 1), (50, 800), (30, 30_000)]
            .map(|(min, max)| Bounds { min, max })
        {
            let mut solo = Solo::new(Config { backoff_ms, ..CONFIG });
            for key in ["a/1", "a/2"] {
                solo.insert(key);
            }
            // The times of all attempts. The 70th one of each row succeeds.
            let mut attempts = BTreeMap::<String, Vec<u64>>::new();
            for pauses in 0.. {
                assert!(pauses < 50_000, "not tried again: {attempts:?}");
                solo.now = solo.run(Event::Wake, |now, effect| {
                    let Effect::Publish(row) = effect else { return true };
                    let times = attempts.entry(row.key.clone()).or_default();
                    times.push(*now);
                    times.len() == 70
                });
                if keys(&solo.database).is_empty() {
                    break;
                }
            }
            check(2, attempts.len(), "rows with attempts");
            for (key, times) in attempts {
                check(70, times.len(), format!("attempts of {key}"));
                let mut expected = backoff_ms.min;
                for pair in times.windows(2) {
                    let most = expected + CONFIG.pause_ms.max;
                    let seen = pair[1] - pair[0];
                    assert!(
                        (expected..=most).contains(&seen),
                        "{key}, {backoff_ms:?}: expected the next attempt after \
                         {expected} to {most} ms, seen {seen}; all: {times:?}"
                    );
                    expected = (2 * expected).min(backoff_ms.max);
                }
            }
        }
    }

    #[test]
    fn a_poller_publishes_and_deletes_nothing_after_its_lease() {
        let times = (0..1_500_u64, vec(0..700_u64, 1..40), 0..40_usize);
        for_all(300, times, |(answer, times, rows)| {
            let mut solo = Solo::new(CONFIG);
            for n in 0..rows {
                solo.insert(&format!("{}/{n}", n % 3));
            }
            let (mut times, mut left) = (times.into_iter().cycle(), 0);
            let (mut end, mut claims) = (0, 0);
            solo.run(Event::Wake, |now, effect| {
                match effect {
                    Effect::Transact(Command::Claim { .. }) => {
                        claims += 1;
                        end = *now + CONFIG.lease_ms;
                        *now += if claims > 3 { 0 } else { answer };
                        left = 5;
                    }
                    Effect::Publish(row) => {
                        left -= 1;
                        assert!(
                            *now + CONFIG.publish_timeout_ms < end,
                            "{row:?} is published at {now} with a timeout of \
                             200 ms, and the lease ends at {end}"
                        );
                        let time = times.next().unwrap();
                        *now += if claims > 30 { 0 } else { time };
                    }
                    Effect::Transact(Command::Finish { .. }) => {
                        assert!(*now < end, "deletes at {now}, lease to {end}");
                    }
                    Effect::Wait { .. } => unreachable!("it ends the run"),
                }
                true
            });
            check(0, keys(&solo.database).len(), "rows left at the end");
        });
    }

    #[test]
    fn a_gap_in_seq_delays_nothing() {
        let mut solo = Solo::new(CONFIG);
        let mut expected = Vec::new();
        for seq in [1, 2, 4, 9, 1 << 40, 1 << 41] {
            let key = format!("a/{seq}");
            expected.push(solo.insert(&key));
            let row = solo.database.rows.get_mut(&(Table::Outbox, key));
            row.expect("it is inserted").seq = seq;
            let now = solo.now;
            solo.run(Event::Notified, |_, _| true);
            check(&expected, &solo.published(), format!("after seq {seq}"));
            check(now, solo.now, "the time");
        }
    }

    #[test]
    fn a_batch_goes_on_until_the_lease_is_too_short() {
        for (time, expected) in
            [(0, 60), (47, 18), (100, 8), (160, 5), (199, 5), (200, 4)]
        {
            let batch = NonZero::new(60).unwrap();
            let mut solo = Solo::new(Config { batch, ..CONFIG });
            for n in 0..60 {
                solo.insert(&format!("a/{n}"));
            }
            let mut finished = Vec::new();
            solo.run(Event::Wake, |now, effect| {
                match effect {
                    Effect::Publish(_) => *now += time,
                    Effect::Transact(Command::Finish { published, .. }) => {
                        finished.push(published.len());
                    }
                    _ => {}
                }
                true
            });
            let what = format!("rows of a lease if each takes {time} ms");
            check(Some(&expected), finished.first(), what);
        }
    }

    #[test]
    fn after_a_rollback_a_poller_waits_and_repeats_what_is_left() {
        for number in 1..=7 {
            let mut solo = Solo::new(CONFIG);
            let rows: Vec<_> =
                (0..11).map(|n| solo.insert(&format!("a/{n}"))).collect();
            let mut transactions = 0;
            let until = solo.run(Event::Wake, |_, effect| {
                let is_one = matches!(effect, Effect::Transact(_));
                transactions += usize::from(is_one);
                assert!(transactions <= number, "{effect:?} after a rollback");
                !(is_one && transactions == number)
            });
            check(number, transactions, "transactions until a rollback");
            check(solo.now + 10, until, "the end of a pause after a rollback");
            let mut seen = solo.published();
            let left = keys(&solo.database).len();
            solo.effects.clear();
            solo.now += CONFIG.lease_ms;
            solo.run(Event::Wake, |_, _| true);
            check(&rows[11 - left..], &solo.published(), "after a rollback");
            seen.truncate(11 - left);
            check(&rows[..11 - left], &seen, "before a rollback");
        }
    }

    /// The aggregates are `a`, `ab`, `a/b`, `é` and the empty text.
    const KEYS: [&str; 9] =
        ["a/1", "a/2", "a", "ab/1", "ab/2", "a/b/1", "a/b/2", "é/1", "/1"];

    /// What the rules say about a poller.
    struct Model {
        config: Config,
        last: Effect,
        claimed_at: u64,
        is_notified: bool,
        pause: Option<u64>,
        /// By aggregate: the last backoff, and its end.
        backoffs: BTreeMap<String, (u64, u64)>,
        lease: Lease,
        rows: VecDeque<Row>,
        published: Vec<String>,
    }

    #[test]
    fn any_events_have_the_effects_of_a_model() {
        // Many backoffs and leases end at a multiple of 50.
        let ms = prop_oneof![(0..7_u64).prop_map(|n| 50 * n), 0..300_u64];
        let keys = subsequence(&KEYS[..], 0..=5).prop_shuffle();
        // The clock of the database is behind or ahead.
        let op = (ms, 0..8_u8, keys, 0..20_000_u64);
        for_all(400, (any::<bool>(), vec(op, 0..60)), |(is_endless, ops)| {
            let lease_ms = if is_endless { u64::MAX } else { 1_000 };
            let config = Config { lease_ms, ..CONFIG };
            let mut poller = Poller::new(config);
            let mut model = Model {
                config,
                last: Effect::Wait { until_ms: 0 },
                claimed_at: 0,
                is_notified: false,
                pause: None,
                backoffs: BTreeMap::new(),
                lease: Lease { bucket: 0, number: 0, until_ms: 0 },
                rows: VecDeque::new(),
                published: Vec::new(),
            };
            let (mut now, mut events) = (0, Vec::new());
            for (number, (ms, kind, keys, until_ms)) in (1..).zip(ops) {
                now += ms;
                let lease = Lease { bucket: number % 4, number: 7, until_ms };
                let event = model.event(kind, &keys, lease);
                events.push((now, event.clone()));
                let expected = model.step(event.clone(), now);
                let mut seen = poller.step(event, now);
                if let Some(Effect::Transact(Command::Finish {
                    published,
                    ..
                })) = &mut seen
                {
                    published.sort_unstable();
                }
                check(expected, seen, format!("the effect of {events:?}"));
            }
        });
    }

    impl Model {
        /// Returns an event that may follow the last effect.
        fn event(&self, kind: u8, keys: &[&str], lease: Lease) -> Event {
            let outcome = match (&self.last, kind) {
                (_, 0) => return Event::Notified,
                (_, 1) | (Effect::Wait { .. }, _) => return Event::Wake,
                (Effect::Publish(_), 2..5) => return Event::PublishFailed,
                (Effect::Publish(_), _) => return Event::Published,
                (_, 2) => return Event::RolledBack,
                (Effect::Transact(Command::Finish { .. }), 3) => {
                    Outcome::LeaseLost
                }
                (Effect::Transact(Command::Finish { .. }), _) => {
                    Outcome::Finished
                }
                // It may forget the backoffs that have ended.
                (Effect::Transact(Command::Claim { blocked, .. }), 3..5)
                    if blocked.len() == self.backoffs.len() =>
                {
                    Outcome::NothingToClaim
                }
                (Effect::Transact(Command::Claim { blocked, .. }), _) => {
                    let keys = keys.iter().map(|key| (*key).to_owned());
                    let row = |(seq, key): (u64, String)| Row {
                        seq,
                        value: format!("{key} value"),
                        key,
                    };
                    let mut rows: Vec<_> = (1..).zip(keys).map(row).collect();
                    rows.retain(|row| !blocked.contains(aggregate(&row.key)));
                    Outcome::Claimed(lease, rows)
                }
            };
            Event::Committed(outcome)
        }

        fn step(&mut self, event: Event, now: u64) -> Option<Effect> {
            let is_waiting = matches!(self.last, Effect::Wait { .. });
            if event == Event::Notified {
                (self.pause, self.is_notified) = (None, true);
            }
            self.last = match event {
                Event::Wake | Event::Notified if !is_waiting => return None,
                Event::RolledBack => self.wait(now),
                Event::Committed(Outcome::NothingToClaim)
                    if !self.is_notified =>
                {
                    self.wait(now)
                }
                Event::Committed(Outcome::Claimed(lease, rows)) => {
                    (self.pause, self.lease) = (None, lease);
                    (self.rows, self.published) = (rows.into(), Vec::new());
                    self.publish(now)
                }
                Event::Published => {
                    let key = self.rows.pop_front().unwrap().key;
                    self.backoffs.remove(aggregate(&key));
                    self.published.push(key);
                    self.publish(now)
                }
                Event::PublishFailed => {
                    let key = self.rows.pop_front().unwrap().key;
                    let name = aggregate(&key);
                    self.rows.retain(|row| aggregate(&row.key) != name);
                    let last = self.backoffs.get(name).map(|last| last.0);
                    let backoff = self.config.backoff_ms.after(last);
                    let end = now + backoff;
                    self.backoffs.insert(name.to_owned(), (backoff, end));
                    self.publish(now)
                }
                _ => self.claim(now),
            };
            Some(self.last.clone())
        }

        fn wait(&mut self, now: u64) -> Effect {
            let pause = self.config.pause_ms.after(self.pause);
            self.pause = Some(pause);
            Effect::Wait { until_ms: now + pause }
        }

        fn claim(&mut self, now: u64) -> Effect {
            (self.claimed_at, self.is_notified) = (now, false);
            let mut backoffs = self.backoffs.clone();
            backoffs.retain(|_, (_, end)| now < *end);
            let blocked = backoffs.into_keys().collect();
            let Config { buckets, batch, lease_ms, .. } = self.config;
            Effect::Transact(Command::Claim {
                buckets,
                batch,
                lease_ms,
                blocked,
            })
        }

        fn publish(&mut self, now: u64) -> Effect {
            let end = self.claimed_at.saturating_add(self.config.lease_ms);
            if let Some(row) = self.rows.front()
                && now + self.config.publish_timeout_ms < end
            {
                Effect::Publish(row.clone())
            } else if now < end {
                let mut published = mem::take(&mut self.published);
                published.sort_unstable();
                let lease = self.lease;
                Effect::Transact(Command::Finish { lease, published })
            } else {
                self.claim(now)
            }
        }
    }
}

mod pollers {
    use super::*;

    #[test]
    fn three_pollers_publish_each_row_once_in_order() {
        for seed in 0..80 {
            let mut cluster = Cluster::new(seed, 3, false);
            cluster.run(400);
            cluster.settle();
            let mut counts = BTreeMap::new();
            for value in &cluster.log {
                *counts.entry(value).or_insert(0) += 1;
            }
            let twice = counts.iter().find(|(_, count)| **count > 1);
            check(None, twice, "a row that is published twice, without faults");
        }
    }

    #[test]
    fn slow_and_failing_pollers_lose_no_row_and_keep_the_order() {
        for seed in 0..200 {
            let mut cluster = Cluster::new(seed, 2 + seed as usize % 3, true);
            cluster.run(600);
            cluster.settle();
        }
    }

    struct Cluster {
        random: fastrand::Rng,
        has_faults: bool,
        database: Database,
        pollers: Vec<(Poller, Effect)>,
        now: u64,
        seq: u64,
        /// Rows that are inserted and not committed.
        open: Vec<Row>,
        committed: Vec<Row>,
        /// The values that the broker has stored.
        log: Vec<String>,
        acknowledged: BTreeSet<String>,
    }

    impl Cluster {
        fn new(seed: u64, pollers: usize, has_faults: bool) -> Self {
            Self {
                random: fastrand::Rng::with_seed(seed),
                has_faults,
                database: Database::default(),
                pollers: vec![Self::poller(); pollers],
                now: 0,
                seq: 0,
                open: Vec::new(),
                committed: Vec::new(),
                log: Vec::new(),
                acknowledged: BTreeSet::new(),
            }
        }

        fn poller() -> (Poller, Effect) {
            let config = Config { batch: NonZero::new(4).unwrap(), ..CONFIG };
            (Poller::new(config), Effect::Wait { until_ms: 0 })
        }

        fn run(&mut self, steps: usize) {
            for _ in 0..steps {
                match self.random.u32(..20) {
                    0..4 => self.begin(),
                    4..8 => self.end(),
                    8 if self.has_faults => {
                        self.now += self.random.u64(..700);
                    }
                    9 if self.has_faults => {
                        let index = self.random.usize(..self.pollers.len());
                        let poller = &mut self.pollers[index].0;
                        if let Some(e) = poller.step(Event::Notified, self.now)
                        {
                            self.pollers[index].1 = e;
                        }
                    }
                    10 if self.has_faults && self.random.bool() => {
                        // A crash.
                        let index = self.random.usize(..self.pollers.len());
                        self.pollers[index] = Self::poller();
                    }
                    _ => {
                        let index = self.random.usize(..self.pollers.len());
                        self.step(index);
                    }
                }
            }
        }

        /// Ends all transactions and faults, and publishes what is left.
        fn settle(&mut self) {
            while !self.open.is_empty() {
                self.end();
            }
            self.has_faults = false;
            for round in 0.. {
                if keys(&self.database).is_empty() {
                    break;
                }
                assert!(
                    round < 5_000,
                    "rows that are not published: {:?}",
                    self.database.table(Table::Outbox)
                );
                self.step(round % self.pollers.len());
            }
            let mut last = BTreeMap::new();
            let mut seen = BTreeSet::new();
            for value in &self.log {
                let row = self.committed.iter().find(|row| row.value == *value);
                let row = row.expect("a committed row");
                // Rows of `late` are committed in another order.
                if seen.insert(value) && !row.key.starts_with("late") {
                    let last = last.entry(aggregate(&row.key)).or_insert(0);
                    assert!(
                        *last < row.seq,
                        "{row:?} is published after seq {last}; log: {:?}",
                        self.log
                    );
                    *last = row.seq;
                }
            }
            check(self.committed.len(), seen.len(), "rows in the log");
        }

        /// Inserts a row in a new transaction.
        fn begin(&mut self) {
            let names = ["a", "b", "c", "d", "late1", "late2"];
            let name = names[self.random.usize(..names.len())];
            let key = format!("{name}/{}", self.random.u32(..3));
            // A lock of the aggregate keeps its rows in order.
            let is_locked = |row: &Row| {
                row.key == key
                    || (!name.starts_with("late")
                        && aggregate(&row.key) == name)
            };
            if self.open.iter().any(is_locked)
                || keys(&self.database).contains(&key)
            {
                return;
            }
            self.seq += 1;
            let value = format!("{key} {}", self.seq);
            self.open.push(Row { seq: self.seq, key, value });
        }

        /// Commits a transaction or rolls it back.
        fn end(&mut self) {
            if self.open.is_empty() {
                return;
            }
            let index = self.random.usize(..self.open.len());
            let row = self.open.swap_remove(index);
            if self.random.u32(..4) > 0 {
                self.committed.push(row.clone());
                let id = (Table::Outbox, row.key.clone());
                self.database.rows.insert(id, row);
            }
        }

        /// Performs the effect of a poller.
        fn step(&mut self, index: usize) {
            let fault =
                if self.has_faults { self.random.u32(..12) } else { 99 };
            let event = match self.pollers[index].1.clone() {
                Effect::Wait { until_ms } => {
                    if until_ms > self.now {
                        let is_waiting =
                            |e: &Effect| matches!(e, Effect::Wait { .. });
                        if self.pollers.iter().all(|p| is_waiting(&p.1)) {
                            self.now += 10;
                        }
                        return;
                    }
                    Event::Wake
                }
                Effect::Transact(command) => {
                    let before = self.database.table(Table::Outbox);
                    let now = self.now + AHEAD;
                    let mut copy = self.database.clone();
                    let outcome = run(&mut copy, &command, now);
                    if fault != 0 {
                        self.database = copy;
                    }
                    let after = self.database.table(Table::Outbox);
                    for row in before.iter().filter(|r| !after.contains(r)) {
                        assert!(
                            self.acknowledged.contains(&row.value),
                            "{row:?} is deleted without an acknowledgment"
                        );
                    }
                    // The answer of a commit may be lost.
                    if fault <= 1 {
                        Event::RolledBack
                    } else {
                        Event::Committed(outcome)
                    }
                }
                Effect::Publish(row) => {
                    if fault != 0 {
                        self.log.push(row.value.clone());
                    }
                    if fault <= 2 {
                        Event::PublishFailed
                    } else {
                        self.acknowledged.insert(row.value);
                        Event::Published
                    }
                }
            };
            let (poller, effect) = &mut self.pollers[index];
            let next = poller.step(event, self.now);
            *effect = next.expect("an effect follows an event of an effect");
        }
    }
}

const CONFIG: Config = Config {
    buckets: NonZero::new(4).unwrap(),
    batch: NonZero::new(5).unwrap(),
    lease_ms: 1_000,
    publish_timeout_ms: 200,
    pause_ms: Bounds { min: 10, max: 160 },
    backoff_ms: Bounds { min: 50, max: 800 },
};

/// A poller that works alone.
struct Solo {
    poller: Poller,
    database: Database,
    now: u64,
    effects: Vec<Effect>,
}

impl Solo {
    fn new(config: Config) -> Self {
        Self::with(Poller::new(config))
    }

    fn with(poller: Poller) -> Self {
        Self { poller, database: Database::default(), now: 0, effects: vec![] }
    }

    /// Inserts a row, and returns its value.
    fn insert(&mut self, key: &str) -> String {
        assert!(insert(&mut self.database, key));
        format!("{key} value")
    }

    /// Performs effects until the poller waits, and returns until when.
    fn run(
        &mut self,
        event: Event,
        mut succeeds: impl FnMut(&mut u64, &Effect) -> bool,
    ) -> u64 {
        let mut event = event;
        for _ in 0..5_000 {
            let effect = self.poller.step(event, self.now);
            let effect = effect.expect("a poller that is not idle has effects");
            self.effects.push(effect.clone());
            if let Effect::Wait { until_ms } = effect {
                return until_ms;
            }
            let begin = self.now;
            let is_ok = succeeds(&mut self.now, &effect);
            event = match effect {
                Effect::Transact(command) if is_ok => {
                    let now = begin + AHEAD;
                    Event::Committed(run(&mut self.database, &command, now))
                }
                Effect::Publish(_) if is_ok => Event::Published,
                Effect::Publish(_) => Event::PublishFailed,
                _ => Event::RolledBack,
            };
        }
        panic!("expected a pause, seen 5,000 effects without one");
    }

    /// Returns the values of all rows that were given to the broker.
    fn published(&self) -> Vec<String> {
        let value = |effect: &Effect| match effect {
            Effect::Publish(row) => Some(row.value.clone()),
            _ => None,
        };
        self.effects.iter().filter_map(value).collect()
    }
}

fn claim_command(config: Config) -> Command {
    let Config { buckets, batch, lease_ms, .. } = config;
    Command::Claim { buckets, batch, lease_ms, blocked: BTreeSet::new() }
}

/// Reports an event that has to cause a claim of anything.
fn claim(poller: &mut Poller, event: Event, now: u64) {
    let what = format!("the effect of {event:?}");
    let expected = Effect::Transact(claim_command(CONFIG));
    check(Some(expected), poller.step(event, now), what);
}

fn nothing(poller: &mut Poller, now: u64) -> Option<Effect> {
    poller.step(Event::Committed(Outcome::NothingToClaim), now)
}

fn run(database: &mut Database, command: &Command, now: u64) -> Outcome {
    run_with(database, command, now, &mut Watch::idle())
}

fn run_with(
    database: &mut Database,
    command: &Command,
    now: u64,
    watch: &mut Watch,
) -> Outcome {
    let body = async |tx: &mut Database| {
        transact(&mut watch.begin(tx), command, now).await
    };
    let outcome = database.transaction(body, Result::is_ok);
    outcome.expect("no statement fails")
}

fn insert(database: &mut Database, key: &str) -> bool {
    use week08::money::Tx;
    let value = format!("{key} value");
    let Ok(is_new) = database.transaction(
        async |tx: &mut Database| tx.insert(Table::Outbox, key, &value).await,
        |_| true,
    );
    is_new
}

/// Returns the keys of the outbox by `seq`.
fn keys(database: &Database) -> Vec<String> {
    let rows = database.table(Table::Outbox);
    rows.into_iter().map(|row| row.key).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "the calls are shorter")]
fn check<T: PartialEq + Debug>(expected: T, seen: T, what: impl Display) {
    assert!(
        expected == seen,
        "{what}:\nexpected {expected:?}\n    seen {seen:?}"
    );
}

fn for_all<S: Strategy>(cases: u32, strategy: S, check: impl Fn(S::Value)) {
    let config = test_runner::Config {
        cases,
        failure_persistence: None,
        ..test_runner::Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let test = |value| {
        check(value);
        Ok(())
    };
    TestRunner::new_with_rng(config, rng).run(&strategy, test).unwrap();
}
