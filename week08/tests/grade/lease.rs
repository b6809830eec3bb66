use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::fs::read_to_string;
use std::hash::{Hash, Hasher};
use std::iter::repeat_n;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use fastrand::Rng;
use week08::lease::{
    Action, Cache, Config, Event, Lease, Lookup, Reader, Refused, Writer,
};

use schedules::{CONFIG, Client, OLD, Run};

#[path = "lease/schedules.rs"]
mod schedules;

const SECOND: Duration = Duration::from_secs(1);
const NANO: Duration = Duration::from_nanos(1);
const YEAR: Duration = Duration::from_secs(366 * 86_400);
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

mod clients {
    use super::*;

    #[test]
    fn a_reader_waits_at_most_max_waits_times_and_fills_only_with_a_lease() {
        let (found, done) = (Event::Found, Action::Done("row"));
        let busy = |retry_after| found(Lookup::Busy { retry_after });
        let loaded = |action| (Event::Loaded("row"), action);
        let miss = |id, filled| {
            vec![
                (found(Lookup::Miss(Lease(id))), Action::Load),
                loaded(Action::Fill(Lease(id), "row")),
                (Event::Filled(filled), done.clone()),
            ]
        };
        let ends = [
            vec![(found(Lookup::Hit("row")), done.clone())],
            vec![(busy(NANO), Action::Load), loaded(done.clone())],
            miss(0, Ok(())),
            miss(7, Err(Refused)),
            miss(u64::MAX, Ok(())),
        ];
        let times = [NANO, Duration::ZERO, Duration::MAX].into_iter().cycle();
        for max_waits in [0, 1, 2, 17, 300, 1 << 16, u32::MAX] {
            for end in &ends {
                let mut events = vec![(Event::Started, Action::Get)];
                for time in times.clone().take(max_waits.min(300) as usize) {
                    events.push((busy(time), Action::Wait(time)));
                    events.push((Event::Waited, Action::Get));
                }
                // The others would wait for too long.
                if max_waits <= 300 {
                    events.extend_from_slice(end);
                }
                let mut reader = Reader::new(max_waits);
                expect_actions(|event| reader.step(event), events);
            }
        }
    }

    #[test]
    fn a_writer_commits_before_it_deletes() {
        let mut writer = Writer::new("row");
        let events = vec![
            (Event::Started, Action::Commit("row")),
            (Event::Committed, Action::Delete),
            (Event::Deleted, Action::Done("row")),
        ];
        expect_actions(|event| writer.step(event), events);
    }
}

mod leases {
    use super::*;

    #[test]
    fn calls_at_one_time_match_a_model_of_leases_and_values() {
        let mut random = Rng::with_seed(1);
        for _ in 0..200 {
            Pair::new(CONFIG).random_calls(&mut random, false);
        }
    }

    #[test]
    fn no_lease_is_created_twice() {
        let (mut now, mut leases) = (*START, HashSet::new());
        let mut cache = Cache::new(CONFIG, now);
        for keys in repeat_n(1, 70_000).chain(repeat_n(1_500, 20)) {
            for key in 0..keys {
                let Lookup::Miss(lease) = cache.get(&key, now) else {
                    panic!("expected a miss: key {key} has nothing")
                };
                assert!(leases.insert(lease), "{lease:?} was created before");
                if leases.len() % 3 == 0 {
                    cache.fill(&key, lease, "row", now).unwrap();
                }
            }
            now += [CONFIG.ttl, NANO, Duration::ZERO][leases.len() % 3];
            (0..keys).for_each(|key| cache.delete(&key, now));
        }
    }
}

mod expiry {
    use super::*;

    #[test]
    fn calls_at_any_times_match_a_model_of_leases_and_values() {
        let longest = Duration::from_secs(u64::MAX);
        let times = [10 * SECOND, NANO, Duration::ZERO, Duration::MAX, longest];
        let waits = [SECOND, Duration::ZERO, 20 * SECOND, Duration::MAX];
        let mut random = Rng::with_seed(2);
        for i in 0..400 {
            let mut pair = Pair::new(Config {
                lease: times[i % 5],
                retry_after: waits[i / 25 % if i % 5 < 3 { 4 } else { 3 }],
                ttl: times[i / 5 % 5],
            });
            pair.random_calls(&mut random, true);
            // What lasts for more than a century has not ended then.
            let late = pair.latest + 100 * YEAR;
            (0..3).for_each(|key| pair.get(key, late));
        }
    }

    #[test]
    fn clones_are_bounded_by_the_keys_that_are_stored_at_once() {
        let times = [10 * SECOND, NANO];
        for n in 0..40 {
            let (lease, ttl) = (times[n % 2], times[n / 2 % 2]);
            let mut pair = Pair::new(Config { lease, ttl, ..CONFIG });
            let mut now = pair.latest;
            // A key with a value and one with a lease stay, others come and go.
            pair.get(0, now);
            pair.fill(0, pair.leases[0].1, now);
            pair.get(1, now);
            for round in 0..3_000 {
                if pair.most > 500 {
                    break;
                }
                let key = if n % 8 < 4 { 2 } else { 2 + round };
                let fate = [0, 1, 2, 3, round % 4][n / 8];
                pair.get(key, now);
                if fate % 2 == 1 {
                    pair.fill(key, pair.leases[pair.leases.len() - 1].1, now);
                }
                if fate > 1 {
                    pair.delete(key, now);
                }
                now += NANO;
            }
        }
    }

    #[test]
    fn time_grows_at_most_with_the_logarithm_of_the_number_of_keys() {
        // They fill the table of a `HashMap`: with one more key, it grows.
        const KEYS: usize = 7 << 13;
        let (begin, mut calls, mut now) = (cpu_time(), 0, *START);
        let mut after = |time| {
            calls += 1;
            if calls % 128 == 0 {
                let used = cpu_time().saturating_sub(begin);
                assert!(used < 5 * SECOND, "{used:.1?} for {calls} calls");
            }
            now += time;
            now
        };
        let key = |n| Wide([n % KEYS; 32]);
        let other = Wide([KEYS; 32]);
        let mut cache = Cache::new(CONFIG, after(NANO));
        for _ in 0..2 {
            let get = |n| match cache.get(&key(n), after(NANO)) {
                Lookup::Miss(lease) => lease,
                found => panic!("{found:?}, expected a miss of key {n}"),
            };
            let leases: Vec<_> = (0..KEYS).map(get).collect();
            for _ in 0..2_000 {
                cache.get(&other, after(NANO));
                cache.delete(&other, after(NANO));
            }
            // In another order.
            for n in (0..KEYS).map(|n| n * 40_503 % KEYS) {
                for expected in [Ok(()), Err(Refused)] {
                    let seen = cache.fill(&key(n), leases[n], n, after(NANO));
                    assert_eq!(seen, expected, "key {n}");
                }
                let found = cache.get(&key(n), after(NANO));
                assert_eq!(found, Lookup::Hit(n), "key {n}");
                if n % 2 == 0 {
                    cache.delete(&key(n), after(NANO));
                }
            }
            after(CONFIG.lease + CONFIG.ttl);
        }
    }
}

mod interleavings {
    use super::*;

    #[test]
    fn one_reader_and_one_writer_leave_no_stale_value() {
        expect_no_fault(10, [1, 1], [0, 0]);
    }

    #[test]
    fn two_readers_and_two_writers_leave_no_stale_value() {
        expect_no_fault(20_000, [2, 2], [0, 0]);
    }

    #[test]
    fn crashes_and_ended_leases_at_any_step_leave_no_key_busy_or_stale() {
        expect_no_fault(10_000, [2, 1], [1, 1]);
        expect_no_fault(2_000, [1, 2], [1, 1]);
    }
}

/// Runs every schedule of so many readers and writers. `limits`: how many of
/// them may crash, and how often the time of a lease may pass.
fn expect_no_fault(at_least: usize, clients: [u64; 2], limits: [usize; 2]) {
    // A correct answer has at most half as many.
    let range = at_least..150_000;
    let [readers, writers] = clients;
    let new = || {
        let readers =
            (1..=readers).map(|n| Client::reader(n as usize, "price"));
        let writers = (1..=writers).map(|n| {
            let mut writer = Writer::new(OLD + n);
            let step = Box::new(move |event| writer.step(event));
            Client::new(format!("writer {n}"), "price", step)
        });
        let clients = readers.chain(writers).collect();
        Run::new(*START, schedules::with_leases(*START), clients, limits)
    };
    let report = schedules::explore(range.end, new);
    let (schedules, wrong) = (report.schedules, report.wrong);
    let trace = report.shortest.unwrap_or_default().join("\n  ");
    assert!(
        wrong == 0,
        "{wrong} of {schedules} schedules go wrong, for example this one:\n  \
         {trace}"
    );
    assert!(
        range.contains(&schedules),
        "{schedules} schedules, expected {range:?}: does each client perform \
         its actions, and no others?"
    );
}

/// Returns the CPU time of this thread on Linux, and elsewhere the time.
fn cpu_time() -> Duration {
    let stat = read_to_string("/proc/thread-self/schedstat");
    let nanos = stat.ok().and_then(|s| s.split(' ').next()?.parse().ok());
    nanos.filter(|n| *n > 0).map_or(START.elapsed(), Duration::from_nanos)
}

type Row = &'static str;

fn expect_actions(
    mut step: impl FnMut(Event<Row>) -> Action<Row>,
    events: Vec<(Event<Row>, Action<Row>)>,
) {
    for (event, expected) in events {
        let after = format!("{event:?}");
        let seen = step(event);
        assert_eq!(seen, expected, "action (left), expected (right), {after}");
    }
}

/// A key or a value. Its clones are counted, and some keys have equal hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stored(u64, Arc<()>);

impl Hash for Stored {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0 / 2).hash(state);
    }
}

/// A key of 256 bytes: it takes long to move many of them, and not to hash them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wide([usize; 32]);

impl Hash for Wide {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0[0].hash(state);
    }
}

/// The cache under test, and a model of it. Times count from `START`.
struct Pair {
    cache: Cache<Stored, Stored>,
    config: Config,
    latest: Duration,
    /// For each key, the lease, its end (or that of the value), and the value.
    model: HashMap<u64, (Lease, Duration, Option<u64>)>,
    /// The largest number of keys in the model at one time.
    most: usize,
    /// Each key has a clone of the first, each value one of the second.
    counters: [Arc<()>; 2],
    leases: Vec<(u64, Lease)>,
    calls: Vec<String>,
}

impl Pair {
    fn new(config: Config) -> Self {
        Self {
            cache: Cache::new(config, *START + SECOND),
            config,
            latest: SECOND,
            model: HashMap::new(),
            most: 0,
            counters: Default::default(),
            leases: Vec::new(),
            calls: Vec::new(),
        }
    }

    /// Makes calls, all at once, or mostly near the end of what a key has.
    fn random_calls(&mut self, random: &mut Rng, is_moving: bool) {
        for _ in 0..random.u8(..120) {
            let mut key = random.u64(..3);
            let end = self.model.get(&key).map(|entry| entry.1);
            let end = end.filter(|end| *end < YEAR).unwrap_or(self.latest);
            let now = match random.u8(..10) {
                0..4 => self.latest,
                _ if !is_moving => self.latest,
                4 => self.latest + NANO,
                5 => end - NANO,
                6 | 7 => end,
                8 => Duration::ZERO,
                _ => self.latest + 3 * SECOND,
            };
            // Mostly one of the latest leases, and mostly for its own key.
            let back = random.f64().powi(6) * self.leases.len() as f64;
            let lease = self.leases.iter().nth_back(back as usize);
            match (random.u8(..20), lease) {
                (0..9, _) => self.get(key, now),
                (9..12, _) | (_, None) => self.delete(key, now),
                (n, Some(&(its_key, Lease(id)))) => {
                    if n < 19 {
                        key = its_key;
                    }
                    // Now and then, a lease that was not created.
                    let ids = [0, u64::MAX, id.wrapping_add(1 << 32)];
                    let id = *ids.get(random.usize(..60)).unwrap_or(&id);
                    self.fill(key, Lease(id), now);
                }
            }
        }
    }

    fn stored(&self, kind: usize, id: u64) -> Stored {
        Stored(id, Arc::clone(&self.counters[kind]))
    }

    /// Removes what has ended from the model.
    fn advance(&mut self, now: Duration, call: &str) {
        self.latest = self.latest.max(now);
        self.model.retain(|_, entry| entry.1 > self.latest);
        self.calls.push(format!("at {now:?}: {call}"));
    }

    /// Compares a result with that of the model, and counts what is stored.
    fn expect<T: PartialEq + Debug>(&mut self, seen: T, expected: T) {
        *self.calls.last_mut().unwrap() += &format!(" → {seen:?}");
        let (is_right, text) = (seen == expected, format!("{expected:?}"));
        drop((seen, expected));
        self.most = self.most.max(self.model.len());
        let bound = 4 * self.most + 50;
        let clones = self.counters.each_ref().map(|c| Arc::strong_count(c) - 1);
        assert!(
            is_right && clones.iter().all(|clones| *clones <= bound),
            "expected {text}, and at most {bound} clones of keys and of values, \
             not {clones:?}, with {:?}, after\n  {}",
            self.config,
            self.calls[self.calls.len().saturating_sub(12)..].join("\n  ")
        );
    }

    fn get(&mut self, key: u64, now: Duration) {
        self.advance(now, &format!("get {key}"));
        let seen = self.cache.get(&self.stored(0, key), *START + now);
        let expected = match (self.model.get(&key), &seen) {
            (Some((_, _, Some(value))), _) => {
                Lookup::Hit(self.stored(1, *value))
            }
            (Some((_, end, None)), _) => {
                let rest = *end - self.latest;
                let retry_after = self.config.retry_after.min(rest);
                Lookup::Busy { retry_after }
            }
            (None, Lookup::Miss(lease)) => {
                let end = self.latest.saturating_add(self.config.lease);
                self.model.insert(key, (*lease, end, None));
                self.leases.push((key, *lease));
                seen.clone()
            }
            (None, _) => {
                let calls = self.calls.join("\n  ");
                panic!("expected a lease, not {seen:?}, after\n  {calls}");
            }
        };
        self.expect(seen, expected);
    }

    fn fill(&mut self, key: u64, lease: Lease, now: Duration) {
        let id = self.calls.len() as u64;
        self.advance(now, &format!("fill {key} with {lease:?} and {id}"));
        let (stored, value) = (self.stored(0, key), self.stored(1, id));
        let seen = self.cache.fill(&stored, lease, value, *START + now);
        drop(stored);
        let expected = match self.model.get_mut(&key) {
            Some(entry) if entry.0 == lease && entry.2.is_none() => {
                let end = self.latest.saturating_add(self.config.ttl);
                *entry = (lease, end, Some(id));
                Ok(())
            }
            _ => Err(Refused),
        };
        self.expect(seen, expected);
    }

    fn delete(&mut self, key: u64, now: Duration) {
        self.advance(now, &format!("delete {key}"));
        self.cache.delete(&self.stored(0, key), *START + now);
        self.model.remove(&key);
        self.expect((), ());
    }
}
