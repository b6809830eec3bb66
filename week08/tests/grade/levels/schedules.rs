//! Random schedules of calls, one after the other, and other events.

use std::collections::HashMap;
use std::fmt::Debug;
use std::time::Duration;

use proptest::array::uniform4;
use proptest::collection::vec;
use proptest::sample::select;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use tokio::time::{Instant, advance, timeout};
use week08::levels::Config;

use super::world::*;

/// Kinds of steps: only reads, changes of rows, time, and remote entries.
pub(crate) const READS: [usize; 10] = [0, 0, 0, 0, 0, 0, 1, 2, 2, 3];

const TIMES: [u64; 8] = [1, 500, 999, 1_000, 2_000, 4_000, 8_000, 32_000];
const ENTRIES: [&[u8]; 8] = [
    &[],
    &[0, 1],
    &[1],
    &[2],
    &[1, 0, 0, 0],
    &[1, 0, 0, 0, 0, 0],
    &[1, 0, 0, 0, 9],
    &[0],
];

/// Runs random schedules with steps of these kinds, and compares each result,
/// each call and the time with those of the model.
pub(crate) fn check_schedules(
    cases: usize,
    kinds: &[usize],
    delays: &[[u64; 2]],
) {
    let step = (select(kinds.to_vec()), 0..3_usize, 0..3_usize, 0..8_usize);
    let any = (vec(step, 1..60), uniform4(0..5_usize), 0..4_usize);
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Default::default(), rng);
    for case in 0..cases {
        let (steps, lives, jitter) =
            any.new_tree(&mut runner).unwrap().current();
        let [delay, loads_without_remote, load, capped] =
            digits(case, [delays.len(), 2, 3, 2]);
        let life = |i: usize, usual| {
            let special = [Duration::ZERO, Duration::MAX];
            special.get(lives[i]).copied().unwrap_or(usual)
        };
        let config = Config {
            local_ttl: life(0, 8 * SECOND),
            remote_ttl: life(1, 64 * SECOND),
            negative_ttl: life(2, 4 * SECOND),
            unsynced_ttl: life(3, [2, 100][capped] * SECOND),
            jitter: [0.0, 0.25, 0.5, 1.0][jitter],
            loads_without_remote,
            ..config()
        };
        let [before, after] = delays[delay].map(Duration::from_millis);
        let load = [0, 5, 200][load] * SECOND;
        let is_restored = kinds == READS;
        let mut schedule =
            Schedule { config, before, after, load, is_restored, steps };
        let Some(mismatch) = schedule.run() else { continue };
        let Mismatch { seen, expected, steps } = schedule.shorten(mismatch);
        let channels = if is_restored {
            "restored at first, with all keys"
        } else {
            "lost at first, and `channel_restored` gets the keys of the rows \
             that are not `None`"
        };
        assert_eq!(
            seen,
            expected,
            "a step's result, its calls, how many of them ran at once, and the \
             time since the start (left), expected (right). The channels are \
             {channels}. {}. Remote calls take {before:?} until their effect \
             and {after:?} after it, `load` takes {load:?} and {after:?}. The \
             step is the last one of this list: {}",
            debug(config).replace(&debug(Duration::MAX), "MAX"),
            steps.join("; ")
        );
    }
}

struct Schedule {
    config: Config,
    /// How long remote calls take before and after their effect.
    before: Duration,
    after: Duration,
    /// How long `load` takes, before `after`.
    load: Duration,
    is_restored: bool,
    /// The kind of each step, a process, a key, and a number.
    steps: Vec<(usize, usize, usize, usize)>,
}

#[derive(Debug, PartialEq)]
struct Seen {
    result: String,
    calls: Vec<Call>,
    /// How many of the calls ran at once.
    at_once: usize,
    time: Duration,
}

struct Mismatch {
    seen: Seen,
    expected: Seen,
    /// Descriptions of the steps until this one.
    steps: Vec<String>,
}

impl Schedule {
    /// Drops steps while there is a mismatch, and returns the last mismatch.
    fn shorten(&mut self, mut mismatch: Mismatch) -> Mismatch {
        self.steps.truncate(mismatch.steps.len());
        for i in (0..self.steps.len()).rev() {
            if i >= self.steps.len() {
                continue; // A mismatch came earlier, and ends the schedule.
            }
            let step = self.steps.remove(i);
            if let Some(shorter) = self.run() {
                self.steps.truncate(shorter.steps.len());
                mismatch = shorter;
            } else {
                self.steps.insert(i, step);
            }
        }
        mismatch
    }

    /// Returns the first mismatch.
    fn run(&self) -> Option<Mismatch> {
        run(self.compare())
    }

    async fn compare(&self) -> Option<Mismatch> {
        let Self { config, before, after, load, .. } = *self;
        let world = World::new(3, &[]);
        let plan = Plan { before, after, outcome: Outcome::Ok };
        world.lock().plans = [plan; 5];
        world.lock().plans[LOAD].before = load;
        let levels: Vec<_> = (0..3).map(|_| world.process(config)).collect();
        let (state, start) = (world.lock().clone(), Instant::now());
        let processes = vec![Process::default(); 3];
        let mut model = Model { config, state, now: start, processes };
        if self.is_restored {
            for (process, levels) in model.processes.iter_mut().zip(&levels) {
                process.keys = Some(KEYS.map(String::from).into());
                levels.channel_restored(filter(&KEYS));
            }
        }
        let mut steps = Vec::new();
        for &(kind, p, k, x) in &self.steps {
            let key = KEYS[k];
            let row = (x > 1).then_some(x as u32);
            let mut seen = debug(());
            let mut expected = seen.clone();
            let name = match kind {
                0 => {
                    let rand = x as f64 / 8.0;
                    seen = returned(levels[p].get(key, rand)).await;
                    expected = debug(model.get(p, key, rand));
                    format!("process {p}: `get({key:?}, {rand})`")
                }
                1 => {
                    world.write(key, row);
                    model.state.rows.insert(key.to_owned(), row);
                    format!("the row of {key:?} changes to {row:?}")
                }
                2 => {
                    let step = Duration::from_millis(TIMES[x]);
                    advance(step).await;
                    model.now += step;
                    format!("{step:?} pass")
                }
                3 => {
                    let life = [0, 1_000_500, 1_000_000_000][p];
                    let life = Duration::from_micros(life);
                    let bytes = ENTRIES[x];
                    let entry = (bytes.to_vec(), Some(model.now + life));
                    model.state.remote.insert(key.into(), entry.clone());
                    world.lock().remote.insert(key.into(), entry);
                    format!(
                        "the remote entry of {key:?} is now {bytes:?}, for \
                         {life:?}"
                    )
                }
                4 => {
                    world.write(key, row);
                    model.state.rows.insert(key.to_owned(), row);
                    seen = returned(levels[p].invalidate(key)).await;
                    expected = debug(model.invalidate(p, key));
                    format!(
                        "the row of {key:?} changes to {row:?}, process \
                         {p}: `invalidate({key:?})`"
                    )
                }
                5 => {
                    let queue = &mut model.state.messages[p];
                    let queue = queue.as_mut().map(std::mem::take);
                    for key in queue.unwrap_or_default() {
                        model.forget(p, &key);
                    }
                    world.deliver_to(p, &levels[p]);
                    format!("process {p}: `on_invalidation` per message")
                }
                6 => {
                    world.lock().messages[p] = None;
                    model.state.messages[p] = None;
                    levels[p].channel_lost();
                    model.processes[p] = Process::default();
                    format!("process {p}: `channel_lost`")
                }
                7 => {
                    world.lock().messages[p] = Some(Vec::new());
                    model.state.messages[p] = Some(Vec::new());
                    let exists = |k: &&str| model.state.row(k).is_some();
                    let keys = KEYS.iter().copied().filter(exists);
                    let keys: Vec<_> = keys.map(String::from).collect();
                    levels[p].channel_restored(filter(&keys));
                    let keys = Some(keys.into_iter().collect());
                    let entries = HashMap::new();
                    model.processes[p] = Process { entries, keys };
                    format!("process {p}: `channel_restored`")
                }
                8 => {
                    let kind = x % 5;
                    let hang = [Outcome::Hang, Outcome::Error];
                    let hang = hang[usize::from(kind == LOAD)];
                    let outcome = [Outcome::Ok, Outcome::Error, hang][k];
                    world.lock().plans[kind].outcome = outcome;
                    model.state.plans[kind].outcome = outcome;
                    let call = CALLS[kind];
                    format!("from now on, {call} ends by {outcome:?}")
                }
                _ => {
                    for state in [&mut model.state, &mut world.lock()] {
                        for plan in &mut state.plans {
                            plan.outcome = Outcome::Ok;
                        }
                    }
                    "from now on, all calls end by Ok".to_owned()
                }
            };
            steps.push(name);
            let state = &mut world.lock();
            let seen = Seen::new(seen, state, start.elapsed());
            let time = model.now - start;
            let expected = Seen::new(expected, &mut model.state, time);
            if seen != expected {
                return Some(Mismatch { seen, expected, steps });
            }
        }
        None
    }
}

impl Seen {
    fn new(result: String, state: &mut State, time: Duration) -> Self {
        let calls = std::mem::take(&mut state.calls);
        let at_once = std::mem::take(&mut state.at_once);
        Self { result, calls, at_once, time }
    }
}

fn debug(value: impl Debug) -> String {
    format!("{value:?}")
}

/// Returns the result of `call` as text.
async fn returned(call: impl Future<Output: Debug>) -> String {
    timeout(NEVER, call).await.map_or("it never returns".to_owned(), debug)
}
