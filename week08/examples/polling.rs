//! What polling costs, and what it saves: queries at idle against latency.
//!
//! A simulation without threads and clocks. Two messages a second arrive at
//! random for ten minutes, and then none for ten minutes. A transaction and a
//! publication take 1 ms each. There is one poller.

use std::collections::VecDeque;
use std::num::NonZero;

use week08::money::simulated::Database;
use week08::money::{Table, Tx};
use week08::poller::{Bounds, Config, Effect, Event, Poller, transact};

const HALF_MS: u64 = 600_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!("pauses          queries/s   queries/s   mean latency   p99");
    println!("                at load     at idle     ms             ms");
    let fixed = [10, 50, 100, 500, 1_000].map(|ms| (ms, ms, false));
    let adaptive = [(10, 1_000, false), (1_000, 1_000, true)];
    for (min, max, notifies) in fixed.into_iter().chain(adaptive) {
        let [busy, idle, mean, p99] = run(Bounds { min, max }, notifies).await;
        let mut name = format!("{min} ms");
        if min != max {
            name = format!("{min} to {max} ms");
        }
        if notifies {
            name += ", notify";
        }
        println!("{name:15} {busy:<11.1} {idle:<11.1} {mean:<14.1} {p99:.0}");
    }
}

/// Returns the queries a second with and without load, and the latencies.
async fn run(pause_ms: Bounds, notifies: bool) -> [f64; 4] {
    let mut random = fastrand::Rng::with_seed(8);
    let arrivals = (0..1_200).map(|_| random.u64(..HALF_MS));
    let mut arrivals: Vec<_> = arrivals.collect();
    arrivals.sort_unstable();
    let mut arrivals = VecDeque::from(arrivals);
    let mut database = Database::default();
    let mut poller = Poller::new(Config {
        buckets: NonZero::new(1).unwrap(),
        batch: NonZero::new(100).unwrap(),
        lease_ms: 10_000,
        publish_timeout_ms: 2_000,
        pause_ms,
        backoff_ms: Bounds { min: 100, max: 60_000 },
    });
    let mut latencies = Vec::new();
    let (mut now, mut queries) = (0, [0.0; 2]);
    let mut effect = Some(Effect::Wait { until_ms: 0 });
    while now < 2 * HALF_MS {
        let is_waiting = matches!(effect, Some(Effect::Wait { .. }));
        // Rows that have arrived until the effect ends.
        let end = match effect {
            Some(Effect::Wait { until_ms }) => until_ms,
            _ => now + 1,
        };
        let next = arrivals.front().copied().filter(|at| *at <= end);
        let event = match effect.clone() {
            _ if next.is_some() => {
                let at = arrivals.pop_front().expect("it has a front");
                let key = format!("{}/{at}", arrivals.len());
                let value = at.to_string();
                let Ok(_) = database.insert(Table::Outbox, &key, &value).await;
                if !(notifies && is_waiting) {
                    continue;
                }
                now = at.max(now);
                Event::Notified
            }
            Some(Effect::Wait { .. }) => {
                now = end;
                Event::Wake
            }
            Some(Effect::Transact(command)) => {
                now = end;
                queries[usize::from(now > HALF_MS)] += 1.0;
                let Ok(outcome) = transact(&mut database, &command, now).await;
                Event::Committed(outcome)
            }
            Some(Effect::Publish(row)) => {
                now = end;
                let at: u64 = row.value.parse().expect("the time");
                latencies.push(now - at);
                Event::Published
            }
            None => unreachable!("each event of an effect has an effect"),
        };
        effect = poller.step(event, now);
    }
    latencies.sort_unstable();
    let sum: u64 = latencies.iter().sum();
    let number = latencies.len();
    assert_eq!(number, 1_200);
    let seconds = HALF_MS as f64 / 1_000.0;
    let p99 = latencies[number * 99 / 100] as f64;
    let mean = sum as f64 / number as f64;
    [queries[0] / seconds, queries[1] / seconds, mean, p99]
}
