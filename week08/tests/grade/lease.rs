use std::collections::{HashMap, HashSet};
use std::fs::read_to_string;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use week08::lease::{
    Action, Cache, Config, Event, Lease, Lookup, Reader, Refused, Writer,
};

use schedules::{CONFIG, Client, OLD, Run};

#[path = "lease/schedules.rs"]
mod schedules;

const SECOND: Duration = Duration::from_secs(1);
const NANO: Duration = Duration::from_nanos(1);
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

mod clients {
    use super::*;

    #[test]
    fn a_reader_loads_and_fills_with_the_lease_of_its_miss() {
        for (id, filled) in [(0, Ok(())), (7, Err(Refused)), (u64::MAX, Ok(()))]
        {
            let (mut reader, value) = (Reader::new(3), format!("row {id}"));
            let events = [
                (Event::Started, Action::Get),
                (Event::Found(Lookup::Miss(Lease(id))), Action::Load),
                (
                    Event::Loaded(value.clone()),
                    Action::Fill(Lease(id), value.clone()),
                ),
                (Event::Filled(filled), Action::Done(value)),
            ];
            expect_actions(|event| reader.step(event), events);
        }
    }

    #[test]
    fn a_busy_reader_waits_at_most_max_waits_times_and_then_only_loads() {
        let value = || "row".to_owned();
        let found = |found| (Event::Found(found), Action::Load);
        let busy = |retry_after| Lookup::Busy { retry_after };
        let loaded = |action| (Event::Loaded(value()), action);
        let done = || Action::Done(value());
        for waits in [0, 1, 2, 17, 300] {
            let ends = [
                vec![(Event::Found(Lookup::Hit(value())), done())],
                vec![found(busy(NANO)), loaded(done())],
                vec![
                    found(Lookup::Miss(Lease(5))),
                    loaded(Action::Fill(Lease(5), value())),
                    (Event::Filled(Err(Refused)), done()),
                ],
            ];
            for end in ends {
                let mut events = vec![(Event::Started, Action::Get)];
                for n in 0..waits as usize {
                    let time = [NANO, Duration::ZERO, Duration::MAX][n % 3];
                    let busy = Event::Found(busy(time));
                    events.push((busy, Action::Wait(time)));
                    events.push((Event::Waited, Action::Get));
                }
                events.extend(end);
                let mut reader = Reader::new(waits);
                expect_actions(|event| reader.step(event), events);
            }
        }
    }

    #[test]
    fn a_writer_commits_before_it_deletes() {
        for value in ["", "row"].map(str::to_owned) {
            let mut writer = Writer::new(value.clone());
            let events = [
                (Event::Started, Action::Commit(value.clone())),
                (Event::Committed, Action::Delete),
                (Event::Deleted, Action::Done(value)),
            ];
            expect_actions(|event| writer.step(event), events);
        }
    }
}

mod leases {
    use super::*;

    #[test]
    fn calls_at_one_time_match_a_model_of_leases_and_values() {
        for calls in generated_calls(200) {
            let mut pair = Pair::new(CONFIG);
            for [call, key, lease, _] in calls {
                pair.call(call, key, lease, *START);
            }
        }
    }

    #[test]
    fn a_refused_fill_does_not_replace_a_value() {
        let mut pair = Pair::new(CONFIG);
        let deleted = pair.get(0, *START);
        pair.delete(0, *START);
        let used = pair.get(0, *START);
        for lease in [used, used, deleted] {
            pair.fill(0, lease.unwrap(), *START);
            assert_eq!(pair.get(0, *START), None, "a hit gives no lease");
        }
    }

    #[test]
    fn no_lease_is_created_twice() {
        let mut cache = Cache::new(CONFIG, *START);
        let mut leases = HashMap::new();
        for n in 0..100_000_u64 {
            let key = if n % 2 == 0 { 0 } else { n };
            let Lookup::Miss(lease) = cache.get(&key, *START) else {
                panic!("call {n}: expected a miss: key {key} was deleted")
            };
            if let Some(earlier) = leases.insert(lease, n) {
                panic!("calls {earlier} and {n} of `get` both got {lease:?}");
            }
            match n % 3 {
                0 => cache.fill(&key, lease, n, *START).unwrap(),
                _ => cache.delete(&key, *START),
            }
            cache.delete(&key, *START);
        }
    }
}

mod expiry {
    use super::*;

    #[test]
    fn calls_at_any_times_match_a_model_of_leases_and_values() {
        let times = [10 * SECOND, NANO, Duration::ZERO, Duration::MAX];
        for (i, calls) in generated_calls(400).enumerate() {
            let mut pair = Pair::new(Config {
                lease: times[i % 4],
                retry_after: [SECOND, Duration::ZERO, 20 * SECOND][i / 16 % 3],
                ttl: times[i / 4 % 4],
            });
            for [call, key, lease, time] in calls {
                let now = pair.time(key, time);
                pair.call(call, key, lease, now);
            }
            // What lasts for `Duration::MAX` has not ended then.
            let late = pair.latest + 100 * 366 * 86_400 * SECOND;
            for key in 0..3 {
                pair.get(key, late);
            }
        }
    }

    #[test]
    fn a_lease_that_has_ended_cannot_fill() {
        for early in [NANO, Duration::ZERO] {
            let mut pair = Pair::new(CONFIG);
            let lease = pair.get(0, *START).unwrap();
            let now = *START + CONFIG.lease - early;
            pair.fill(0, lease, now);
            pair.get(0, now);
        }
    }

    #[test]
    fn memory_and_time_are_bounded_by_the_keys_that_are_stored_at_once() {
        let begin = cpu_time();
        let Config { lease, ttl, .. } = CONFIG;
        for (m, rounds) in [(1, 3_000), (17, 200), (50_000, 2)] {
            let (mut now, stored) = (*START, Arc::new(()));
            let mut cache = Cache::new(CONFIG, now);
            let clone = |id: u64| Stored(id, Arc::clone(&stored));
            for round in 0..rounds {
                let keys = (round * m..(round + 1) * m).map(|id| {
                    // A single key is deleted at once, with a value or without.
                    (id, if m == 1 { 1 + 2 * (round % 2) } else { id % 4 })
                });
                let mut leases = Vec::new();
                for (id, _) in keys.clone() {
                    match cache.get(&clone(id), now) {
                        Lookup::Miss(lease) => leases.push(lease),
                        found => panic!("expected a miss, not {found:?}"),
                    }
                    let used = cpu_time().saturating_sub(begin);
                    assert!(
                        used < 5 * SECOND,
                        "{used:.1?} of CPU time: does a call visit all {m} keys?"
                    );
                }
                for ((id, fate), lease) in keys.zip(leases) {
                    let found = cache.get(&clone(id), now);
                    assert!(
                        matches!(found, Lookup::Busy { .. }),
                        "key {id} of {m} keys with leases: expected busy, not \
                         {found:?}"
                    );
                    if fate > 1 {
                        let value = clone(id);
                        _ = cache.fill(&clone(id), lease, value, now);
                        let found = cache.get(&clone(id), now);
                        assert_eq!(
                            found,
                            Lookup::Hit(clone(id)),
                            "of {m} keys"
                        );
                    }
                    if fate % 2 == 1 {
                        cache.delete(&clone(id), now);
                    }
                }
                now += if m == 1 { NANO } else { lease + ttl };
                cache.delete(&clone(0), now);
                // Keys and values are clones of the same.
                let clones = Arc::strong_count(&stored) - 1;
                let bound = 2 * (4 * m as usize + 50);
                assert!(
                    clones <= bound,
                    "{clones} clones of keys and values are stored, expected \
                     at most {bound}: only {m} keys had a lease or a value at \
                     one time"
                );
            }
        }
    }
}

mod interleavings {
    use super::*;

    #[test]
    fn one_reader_and_one_writer_leave_no_stale_value() {
        expect_no_fault(10, &[PRICE], &[PRICE], [0, 0]);
    }

    #[test]
    fn two_readers_and_two_writers_leave_no_stale_value() {
        expect_no_fault(20_000, &[PRICE; 2], &[PRICE; 2], [0, 0]);
    }

    #[test]
    fn a_lease_may_expire_at_any_step() {
        expect_no_fault(3_000, &[PRICE; 2], &[PRICE], [0, 1]);
    }

    #[test]
    fn a_client_may_crash_at_any_step() {
        expect_no_fault(10_000, &[PRICE; 2], &[PRICE], [1, 1]);
        expect_no_fault(2_000, &[PRICE], &[PRICE; 2], [1, 1]);
    }

    #[test]
    fn clients_of_two_keys_do_not_disturb_each_other() {
        expect_no_fault(20_000, &[PRICE, STOCK], &[PRICE, STOCK], [0, 0]);
    }
}

/// A correct answer has at most half as many.
const MAX_SCHEDULES: usize = 150_000;

const PRICE: &str = "price";
const STOCK: &str = "stock";

/// Runs every schedule of readers and writers of these keys. `limits`: how many
/// of them may crash, and how often the time of a lease may pass.
fn expect_no_fault(
    at_least: usize,
    readers: &[&'static str],
    writers: &[&'static str],
    limits: [usize; 2],
) {
    let new = || {
        let readers = readers.iter().enumerate();
        let readers = readers.map(|(i, key)| Client::reader(i + 1, key));
        let writers = writers.iter().enumerate().map(|(i, key)| {
            let mut writer = Writer::new(OLD + 1 + i as u64);
            let step = Box::new(move |event| writer.step(event));
            Client::new(format!("writer {}", i + 1), key, step)
        });
        let clients = readers.chain(writers).collect();
        Run::new(*START, schedules::with_leases(*START), clients, limits)
    };
    let report = schedules::explore(MAX_SCHEDULES, new);
    let schedules = report.schedules;
    if let Some(trace) = report.shortest {
        panic!(
            "{} of {schedules} schedules go wrong, for example this one:\n  {}",
            report.wrong,
            trace.join("\n  ")
        );
    }
    println!("{schedules} schedules");
    assert!(
        (at_least..MAX_SCHEDULES).contains(&schedules),
        "{schedules} schedules, expected {at_least} to {MAX_SCHEDULES}: does \
         each client perform its actions, and no others?"
    );
}

/// Returns the CPU time of this thread on Linux, and elsewhere the time.
fn cpu_time() -> Duration {
    let stat = read_to_string("/proc/thread-self/schedstat");
    let nanos = stat.ok().and_then(|s| s.split(' ').next()?.parse().ok());
    nanos.filter(|n| *n > 0).map_or(START.elapsed(), Duration::from_nanos)
}

fn expect_actions(
    mut step: impl FnMut(Event<String>) -> Action<String>,
    events: impl IntoIterator<Item = (Event<String>, Action<String>)>,
) {
    for (event, expected) in events {
        let after = format!("{event:?}");
        let seen = step(event);
        assert_eq!(seen, expected, "action (left), expected (right), {after}");
    }
}

fn generated_calls(n: usize) -> impl Iterator<Item = Vec<[f64; 4]>> {
    let calls = vec(proptest::array::uniform4(0.0..1.0), 0..120);
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Default::default(), rng);
    (0..n).map(move |_| calls.new_tree(&mut runner).unwrap().current())
}

/// A key or a value whose clones are counted. Some keys have equal hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stored(u64, Arc<()>);

impl Hash for Stored {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0 / 2).hash(state);
    }
}

/// The cache under test, and a model of it.
struct Pair {
    cache: Cache<usize, String>,
    config: Config,
    latest: Instant,
    /// For each key, the lease, its end (or that of the value), and the value.
    model: HashMap<usize, (Lease, Option<Instant>, Option<String>)>,
    leases: Vec<(usize, Lease)>,
    seen: HashSet<Lease>,
    calls: Vec<String>,
}

impl Pair {
    fn new(config: Config) -> Self {
        Self {
            cache: Cache::new(config, *START),
            config,
            latest: *START,
            model: HashMap::new(),
            leases: Vec::new(),
            seen: HashSet::new(),
            calls: Vec::new(),
        }
    }

    /// Returns a time near the end of what a key has, or an earlier time.
    fn time(&self, key: f64, time: f64) -> Instant {
        let entry = self.model.get(&((key * 3.0) as usize));
        let until = entry.and_then(|e| e.1).unwrap_or(self.latest);
        match (time * 10.0) as u32 {
            0..4 => self.latest,
            4 => self.latest + NANO,
            5 => until.checked_sub(NANO).unwrap(),
            6 | 7 => until,
            8 => *START,
            _ => self.latest + Duration::from_secs(3),
        }
    }

    fn call(&mut self, call: f64, key: f64, lease: f64, now: Instant) {
        let mut key = (key * 3.0) as usize;
        if call < 0.45 {
            self.get(key, now);
        } else if call > 0.85 {
            self.delete(key, now);
        } else if !self.leases.is_empty() {
            // Mostly one of the latest leases, and mostly for its own key.
            let back = (lease.powi(6) * self.leases.len() as f64) as usize;
            let (its_key, lease) = self.leases[self.leases.len() - 1 - back];
            if call < 0.8 {
                key = its_key;
            }
            // Now and then, a lease that was not created.
            let other = call > 0.6 && call < 0.62;
            let id = lease.0.wrapping_add(u64::from(other) << 32);
            self.fill(key, Lease(id), now);
        }
    }

    /// Removes what has ended from the model.
    fn advance(&mut self, now: Instant, call: &str) {
        self.latest = self.latest.max(now);
        self.model.retain(|_, e| e.1.is_none_or(|end| end > self.latest));
        let after = now.checked_duration_since(*START).unwrap_or_default();
        self.calls.push(format!("at {after:?}: {call}"));
    }

    fn end(&self, after: Duration) -> Option<Instant> {
        (after != Duration::MAX).then(|| self.latest + after)
    }

    /// Compares a result with that of the model.
    fn expect<T: PartialEq + std::fmt::Debug>(&mut self, seen: &T, model: &T) {
        let (config, last) = (self.config, self.calls.len().saturating_sub(12));
        assert!(
            seen == model,
            "returned {seen:?}, expected {model:?}, with {config:?}. The last \
             calls:\n  {}",
            self.calls[last..].join("\n  ")
        );
        if let Some(call) = self.calls.last_mut() {
            *call += &format!(" → {seen:?}");
        }
    }

    fn get(&mut self, key: usize, now: Instant) -> Option<Lease> {
        self.advance(now, &format!("get {key}"));
        let seen = self.cache.get(&key, now);
        let retry_after = self.config.retry_after;
        let expected = match (self.model.get(&key), &seen) {
            (Some((_, _, Some(value))), _) => Lookup::Hit(value.clone()),
            (Some((_, end, None)), _) => {
                let rest = end.map(|end| end.duration_since(self.latest));
                let retry_after = retry_after.min(rest.unwrap_or(retry_after));
                Lookup::Busy { retry_after }
            }
            (None, Lookup::Miss(lease)) if self.seen.insert(*lease) => {
                let end = self.end(self.config.lease);
                self.model.insert(key, (*lease, end, None));
                self.leases.push((key, *lease));
                seen.clone()
            }
            (None, _) => {
                let calls = self.calls.join("\n  ");
                panic!("{seen:?}, expected a new lease, after\n  {calls}");
            }
        };
        self.expect(&seen, &expected);
        if let Lookup::Miss(lease) = seen { Some(lease) } else { None }
    }

    fn fill(&mut self, key: usize, lease: Lease, now: Instant) {
        let value = format!("value {}", self.calls.len());
        self.advance(now, &format!("fill {key} with {lease:?} and {value:?}"));
        let seen = self.cache.fill(&key, lease, value.clone(), now);
        let end = self.end(self.config.ttl);
        let expected = match self.model.get_mut(&key) {
            Some(entry) if entry.0 == lease && entry.2.is_none() => {
                *entry = (lease, end, Some(value));
                Ok(())
            }
            _ => Err(Refused),
        };
        self.expect(&seen, &expected);
    }

    fn delete(&mut self, key: usize, now: Instant) {
        self.advance(now, &format!("delete {key}"));
        self.cache.delete(&key, now);
        self.model.remove(&key);
        self.expect(&(), &());
    }
}
