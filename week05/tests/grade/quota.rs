use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Barrier, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use lab::servers::Redis;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use proptest::{array::uniform5, collection::vec, num::u32::ANY};
use week05::gcra::Throttled;
use week05::quota::{Config, Holder, Ledger};
use week05::quota_bucket::Bucket;
use week05::quota_store::{Grant, RedisStore, Request, Share, fair_share};

use self::world::World;

const NANO: Duration = Duration::from_nanos(1);
const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

const RATES: [u64; 8] = [0, 1, 2, 17, 130, 999, 1_500, u64::MAX];
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

#[path = "quota/world.rs"]
mod world;

mod holder {
    use super::*;

    #[test]
    fn the_lease_begins_with_its_request_and_without_one_the_rate_is_safe() {
        let (lease, limits) = (config(5).lease, [0, 3, 1_000, u64::MAX]);
        for delay in [Duration::ZERO, SECOND, lease - NANO, lease, DAY] {
            for (limit, holders) in limits.into_iter().zip([5, 5, 7, 1]) {
                let mut pair = Pair::new(Config { limit, ..config(holders) });
                pair.check(*START);
                pair.acquire(*START);
                pair.refresh(1, *START);
                pair.check(*START + DAY);
                pair.receive(1, 700, *START + delay);
                for now in [lease - NANO, lease, DAY] {
                    pair.check(*START + now.max(delay));
                }
            }
        }
    }

    #[test]
    fn only_the_first_reply_to_the_latest_request_counts() {
        let mut pair = Pair::new(config(5));
        pair.receive(0, 900, *START);
        for sent in 1..300 {
            let now = *START + sent as u32 * config(5).refresh;
            let (earlier, later) = (now - NANO, now + SECOND); // in threads
            pair.acquire(later);
            pair.receive(0, 900, later);
            pair.refresh(1, now);
            for old in [0, sent - 1, sent + 1] {
                pair.receive(old, 900, earlier);
            }
            if sent % 3 != 0 {
                pair.receive(sent, sent, earlier);
                pair.receive(sent, 900, now);
            }
            pair.check(now + config(5).lease);
        }
    }

    #[test]
    fn a_request_is_due_after_each_interval_and_after_a_lower_grant() {
        let (mut pair, mut now) = (Pair::new(config(5)), *START);
        for rate in [100, 100, 400, 399, 399, 0, 0, 800, 5, 6, 900, 1] {
            pair.refresh(7, now);
            pair.refresh(7, now);
            pair.receive(pair.number, rate, now);
            pair.refresh(7, now);
            pair.refresh(7, now + config(5).refresh - NANO);
            now += config(5).refresh * (rate as u32 % 3 + 1);
        }
    }

    #[test]
    fn any_sequence_of_calls_matches_the_rules() {
        for (i, schedule) in schedules(160, 150).enumerate() {
            let lease = [NANO, SECOND, 10 * SECOND, DAY][i % 4];
            let mut pair = Pair::new(Config {
                limit: RATES[i / 2 % 8],
                lease,
                refresh: lease / [1, 4, 5][i % 3],
                burst: [NANO, MILLI, SECOND, DAY][i / 16 % 4],
                ..config([1, 5, u64::MAX][i % 3])
            });
            let mut now = *START + DAY;
            for [step, call, a, b, c] in schedule {
                let unit = [NANO, MILLI, lease / 16, lease][a as usize % 4];
                now += unit * (step % 5);
                let rates = [pair.safe(), (b % 40).into(), any(b), 0];
                let rate = rates[c as usize % 4];
                match call % 8 {
                    0 | 1 => pair.refresh(any(b), now),
                    2 | 3 => pair.receive(pair.number, rate, now),
                    4 => pair.receive(pair.number ^ 1, rate, now),
                    _ => (0..a % 40).for_each(|_| pair.acquire(now)),
                }
                pair.check(now);
            }
        }
    }

    #[test]
    fn threads_share_one_credit_and_send_each_request_once() {
        let (limit, refresh) = (1_000_000, config(5).refresh);
        let holder = Holder::new(Config { limit, ..config(5) }, *START);
        let send = || {
            let is_due = |i: &u32| holder.refresh(1, *START + *i * refresh);
            (1..20_000).filter(|i| is_due(i).is_some()).collect::<Vec<_>>()
        };
        let mut sent = on_threads(&send).concat();
        sent.sort_unstable();
        let twice = sent.windows(2).find(|pair| pair[0] == pair[1]);
        assert_eq!(twice, None, "a time at which two requests were due");

        // Four threads take the safe share for a burst of a second.
        let now = *START + DAY;
        let take = || (0..50_000).all(|_| holder.try_acquire(now).is_ok());
        assert_eq!(on_threads(&take), [true; 4], "all are admitted");
        assert!(holder.try_acquire(now).is_err(), "there is no credit left");
    }

    #[test]
    fn a_late_reply_does_not_change_the_rate_that_a_request_states() {
        let holder = Holder::new(config(5), *START);
        let at = |number: u64| *START + config(5).refresh * number as u32;
        let (latest, rounds) = (AtomicU64::new(0), 200_000);
        let reply = |i: u64| {
            let number = latest.load(SeqCst);
            holder.receive(Grant { number, rate: number + i % 2 }, at(number));
            number < rounds
        };
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..1_000_000).all(reply));
            }
            for number in 1..=rounds {
                let stated = holder.refresh(1, at(number)).map(|r| r.has);
                let rates = [(); 5].map(|()| Some(holder.rate(at(number))));
                assert_eq!(rates, [stated; 5], "rates, stated rates (right)");
                latest.store(number, SeqCst);
                (0..number % 64).for_each(|_| std::hint::spin_loop()); // pause
            }
        });
    }

    fn on_threads<T: Send>(call: &(impl Fn() -> T + Sync)) -> [T; 4] {
        let barrier = Barrier::new(4);
        thread::scope(|scope| {
            let call = || (barrier.wait(), call()).1;
            let threads = [(); 4].map(|()| scope.spawn(call));
            threads.map(|thread| thread.join().unwrap())
        })
    }
}

mod ledger {
    use super::*;

    #[test]
    fn a_new_ledger_grants_for_one_lease_what_holders_have() {
        for (n, most) in [(6, 500), (1_500, 2)] {
            let (mut ledger, mut model) = (Ledger::default(), Model::default());
            for (number, tenths) in (0..).zip([0, 1, 9, 10, 11, 19, 20]) {
                for a in 0..if number == 0 { n } else { 6 } {
                    let (now, lease) = (DAY + SECOND * tenths, 10 * SECOND);
                    let mut new = request([a; 5], number, (n, 1_000, lease));
                    new.has = (u64::from(a * 171) % most + 1) / (number + 1);
                    model.check(&new, now, ledger.grant(&new, now));
                }
            }
        }
    }

    #[test]
    fn an_old_or_repeated_request_has_no_effect() {
        let (mut ledger, mut model) = (Ledger::default(), Model::default());
        let sent = [0, 0, 7, 7, 6, 0, 8, 512, 511, 1 << 32, 513, u64::MAX, 7];
        for (a, number) in (0..).zip(sent) {
            for holder in 0..2 {
                let mut new = request([a; 5], number, (9, 1_000, DAY / 1_440));
                new.holder = holder.to_string();
                let now = DAY + 7 * SECOND * a;
                model.check(&new, now, ledger.grant(&new, now));
            }
        }
    }

    #[test]
    fn each_grant_matches_the_rules() {
        for (i, schedule) in schedules(240, 150).enumerate() {
            let (mut ledger, mut model) = (Ledger::default(), Model::default());
            let lease = [MILLI, 10 * SECOND][i % 2];
            let (mut now, mut last) = (DAY * 20_000, None);
            for (number, choices) in (1..).zip(schedule) {
                let limit = any(i as u32 + choices[1] % 16 / 15);
                let holders = [3, 17, 2_000][i % 3];
                let new = request(choices, number, (holders, limit, lease));
                now += lease * (choices[4] % 9) / [4, 32, 2_000][i / 2 % 3];
                now += lease * u32::from(number == 9); // the ledger has learnt
                let goes_back = u32::from(choices[4] % 40 == 39);
                now -= lease * (choices[3] % 60) * goes_back;
                let ends = model.shares.values().map(|share| share.until);
                let end = ends.filter(|end| *end > now).min().unwrap_or(now);
                let choice = choices[1] as usize / 16 % 16;
                now = *[end, end - NANO].get(choice).unwrap_or(&now);
                let request = last.take().unwrap_or(new);
                model.check(&request, now, ledger.grant(&request, now));
                last = (choices[4] % 7 == 0).then_some(request);
            }
        }
    }
}

mod schedules {
    use super::*;

    #[test]
    fn leases_never_exceed_the_limit_whatever_is_lost_or_repeated() {
        run_schedules(false);
    }

    #[test]
    fn after_a_restart_of_the_store_the_limit_holds_again_in_a_lease() {
        run_schedules(true);
    }

    fn run_schedules(restarts: bool) {
        for (i, schedule) in schedules(150, 400).enumerate() {
            let limit = [10, 1_000][i % 2];
            let config = Config { limit, ..config(u64::MAX) }; // safe: 0
            let mut world = World::new(config, i % 5 + 2);
            let mut strict = Duration::ZERO;
            for choices in schedule {
                world.act(choices);
                if restarts && choices[4] % 150 == 0 {
                    world.store = Ledger::default();
                    strict = world.now + world.config.lease;
                }
                let (now, rates) = (world.now, world.rates());
                assert!(
                    rates.iter().sum::<u64>() <= limit || now < strict,
                    "at {now:?}, the rates {rates:?} exceed the limit {limit}"
                );
            }
        }
    }

    #[test]
    fn without_a_store_holders_fall_back_to_safe_shares_and_recover() {
        for (nodes, empty) in [(1, true), (2, false), (5, true), (17, false)] {
            let mut world = World::new(config(nodes as u64), nodes);
            world.nodes[0].wants.set(10);
            world.rounds(10, true);
            assert_eq!(world.rates(), world.fair(), "(right: fair) at first");
            world.rounds(5, false);
            let safe = vec![1_000 / nodes as u64; nodes];
            assert_eq!(world.rates(), safe, "(right: safe) a lease later");
            if empty {
                world.store = Ledger::default();
                world.rounds(5, true);
                assert_eq!(world.rates(), safe, "(right: safe), store learns");
            }
            world.rounds(3, true);
            assert_eq!(world.rates(), world.fair(), "(right: fair) again");
        }
    }

    #[test]
    fn the_share_of_a_crashed_holder_is_used_again_after_a_lease() {
        for nodes in [2, 3, 17] {
            let mut world = World::new(config(nodes), nodes as usize);
            world.rounds(10, true);
            world.nodes.remove(0);
            world.rounds(4, true);
            let sum: u64 = world.rates().iter().sum();
            assert!(sum < 1_000, "the sum is {sum} before the lease has ended");
            world.rounds(3, true);
            assert_eq!(world.rates(), world.fair(), "rates, fair ones (right)");
        }
    }

    #[test]
    fn rates_become_fair_within_three_refreshes_of_each_holder() {
        for (i, schedule) in schedules(48, 16).enumerate() {
            let config = Config { limit: any(i as u32), ..config(5) };
            let mut world = World::new(config, i % 17 + 1);
            world.rounds(8, true);
            for [a, b, c, ..] in schedule {
                let node = a as usize % world.nodes.len();
                let wants = [c.into(), any(b), 50][c as usize % 3];
                world.nodes[node].wants.set(wants);
                world.rounds(3, true);
                assert_eq!(world.rates(), world.fair(), "(right: fair)");
            }
        }
    }
}

mod redis {
    use super::*;

    #[test]
    #[ignore = "needs redis-server"]
    fn the_script_in_redis_decides_as_the_ledger_does() {
        let server = Redis::start().unwrap();
        for (i, schedule) in schedules(8, 150).enumerate() {
            let (url, key) = (server.url(), format!("quota:{i}"));
            let mut store = RedisStore::new(&url, &key, SECOND).unwrap();
            let (mut ledger, mut last) = (Ledger::default(), None);
            for (number, choices) in (1..).zip(schedule) {
                let (holders, lease) = ([3, 130][i / 4], MILLI * 8);
                let limit = [0, 7, 1_000, 1 << 53][i % 4];
                let mut new = request(choices, number, (holders, limit, lease));
                (new.has, new.lease) = (new.has.min(1 << 53), lease);
                let request = last.take().unwrap_or(new);
                let (now, grant) = store.grant(&request).unwrap();
                let expected = ledger.grant(&request, now);
                assert_eq!(grant, expected, "(right: ledger) for {request:?}");
                last = (choices[4] % 7 == 0).then_some(request);
            }
        }
    }
}

fn config(holders: u64) -> Config {
    Config {
        name: "node".to_owned(),
        class: 3,
        limit: 1_000,
        holders: NonZero::new(holders).unwrap(),
        lease: 10 * SECOND,
        refresh: 2 * SECOND,
        burst: SECOND,
    }
}

fn any(choice: u32) -> u64 {
    RATES[choice as usize % RATES.len()]
}

/// Generates schedules of random choices, the same in each run.
fn schedules(n: usize, length: usize) -> impl Iterator<Item = Vec<[u32; 5]>> {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(<_>::default(), rng);
    let strategy = vec(uniform5(ANY), length);
    (0..n).map(move |_| strategy.new_tree(&mut runner).unwrap().current())
}

fn request(
    [a, b, c, d, _]: [u32; 5],
    number: u64,
    (holders, limit, lease): (u32, u64, Duration),
) -> Request {
    let late = if b % 11 == 0 { (c % 40).into() } else { 0 };
    Request {
        holder: format!("node-{:03}", a % holders),
        number: number.saturating_sub(late),
        class: [0, 0, 0, 1, 3, 255][c as usize % 6],
        wants: [(d % 500).into(), any(d / 8)][d as usize / 4 % 2],
        has: [(a % 300).into(), any(c)][usize::from(a % 16 == 0)],
        limit,
        lease: lease * [4, 4, 3, 5][d as usize / 8 % 4] / 4,
    }
}

/// A holder, and what is expected of it.
struct Pair {
    holder: Holder,
    config: Config,
    bucket: Bucket,
    lease: (u64, Instant),
    number: u64,
    sent: Option<Instant>,
    due: Instant,
}

impl Pair {
    fn new(config: Config) -> Self {
        let holder = Holder::new(config.clone(), *START);
        let (bucket, lease, due) = (Bucket::new(*START), (0, *START), *START);
        Self { holder, config, bucket, lease, number: 0, sent: None, due }
    }

    fn safe(&self) -> u64 {
        self.config.limit / self.config.holders
    }

    fn rate(&self, now: Instant) -> u64 {
        if now < self.lease.1 { self.lease.0 } else { self.safe() }
    }

    fn check(&self, now: Instant) {
        let (seen, expected) = (self.holder.rate(now), self.rate(now));
        assert_eq!(seen, expected, "rate (right: expected)");
    }

    fn refresh(&mut self, wants: u64, now: Instant) {
        let expected = (now >= self.due).then(|| {
            self.number += 1;
            self.sent = Some(now);
            self.due = now + self.config.refresh;
            let Config { class, limit, lease, .. } = self.config;
            let (number, has) = (self.number, self.rate(now));
            let holder = self.config.name.clone();
            Request { holder, number, class, wants, has, limit, lease }
        });
        let seen = self.holder.refresh(wants, now);
        assert_eq!(seen, expected, "refresh: seen (left), expected (right)");
    }

    fn receive(&mut self, number: u64, rate: u64, now: Instant) {
        self.holder.receive(Grant { number, rate }, now);
        if let Some(sent) = self.sent.take_if(|_| number == self.number) {
            self.fill(now);
            let before = self.rate(now);
            self.lease = (rate, sent + self.config.lease);
            if self.rate(now) < before {
                self.due = now;
            }
        }
        self.check(now);
    }

    fn fill(&mut self, now: Instant) {
        let ((rate, until), burst) = (self.lease, self.config.burst);
        self.bucket.fill(rate, burst, now.min(until));
        self.bucket.fill(self.safe(), burst, now);
    }

    fn acquire(&mut self, now: Instant) {
        self.fill(now);
        let (rate, refresh) = (self.rate(now), self.config.refresh);
        let error = |wait| Throttled { retry_after: refresh.min(wait) };
        let expected = self.bucket.take(rate).map_err(error);
        let seen = self.holder.try_acquire(now);
        assert_eq!(seen, expected, "try_acquire: seen, expected (right)");
    }
}

/// A model of a ledger, with the rules of the stub.
#[derive(Default)]
struct Model {
    born: Option<Duration>,
    shares: BTreeMap<String, Share>,
}

impl Model {
    fn check(&mut self, request: &Request, now: Duration, seen: Option<Grant>) {
        let expected = self.grant(request, now);
        assert_eq!(seen, expected, "(right: expected) at {now:?}: {request:?}");
    }

    fn grant(&mut self, request: &Request, now: Duration) -> Option<Grant> {
        let &Request { number, class, wants, has, limit, lease, .. } = request;
        let born = self.born.unwrap_or(now).min(now);
        self.born = Some(born);
        for share in self.shares.values_mut() {
            share.until = share.until.min(now + lease);
        }
        self.shares.retain(|_, share| now < share.until);
        let own = self.shares.get(&request.holder);
        if own.is_some_and(|own| own.number >= number) {
            return None;
        }
        let name = request.holder.clone();
        self.shares.remove(&name);
        let others = self.shares.values().map(|share| u128::from(share.rate));
        let free = u128::from(limit).saturating_sub(others.sum()) as u64;
        let until = now + lease;
        let share = Share { number, class, wants, rate: has, until };
        self.shares.insert(name.clone(), share);
        let target = match now - born < lease {
            true => has,
            false => fair_share(limit, &self.shares, &name),
        };
        let rate = free.min(target);
        self.shares.get_mut(&name).unwrap().rate = has.max(rate);
        Some(Grant { number, rate })
    }
}
