//! A celebrity's subject floods one partition. How long do other subjects wait
//! there, and what changes if the subject is spread?
//!
//! ```console
//! $ cargo run --release -p week06 --example spread
//! ```
//!
//! A simulation in virtual time: 8 partitions, each with a consumer that
//! processes 1,000 records a second. For 10 s, 4,000 records a second arrive,
//! and from 2 s to 6 s, six of ten are for one subject.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io::Result;
use std::time::{Duration, Instant};

use lab::guess;
use week05::simulator::Random;
use week05::window;
use week06::hot;
use week06::hot_partition::{Config, Counters, Route, Spreader};

const PARTITIONS: usize = 8;
const PER_MS: u64 = 4;
const ARRIVALS_MS: u64 = 10_000;
const EVENT_MS: std::ops::Range<u64> = 2_000..6_000;
const CELEBRITY: u64 = 0;
const SUBJECTS: u64 = 10_000;
const AUTHORS: u64 = 5_000;

/// The time between two writes of the counters.
const FLUSH_MS: u64 = 100;

type Author = [u8; 8];

/// A record in the queue of its partition.
struct Record {
    route: Route<u64, Author>,
    arrived_ms: u64,
    /// How many records the author had about this subject before.
    number: u64,
}

#[derive(Default)]
struct Report {
    longest_queue: usize,
    /// The longest wait of a record that is not about the celebrity, in ms.
    longest_wait: u64,
    drained_ms: u64,
    out_of_order: u64,
    sub_keys: usize,
    increments: u64,
    updates: usize,
    /// Those of the celebrity's row.
    hot_updates: usize,
    comments: i128,
}

fn main() -> Result<()> {
    println!(
        "{PARTITIONS} partitions, each with a consumer of 1,000 records a \
         second. 4,000 records a second\narrive. For 4 s, six of ten are for \
         one subject."
    );
    let guess = guess::ask(
        "\nEach subject is in one partition. How many milliseconds does a \
         record of another\nsubject wait there, at most?",
    )?;
    println!(
        "\nkey                  longest queue  others wait  drained at  \
         sub-keys"
    );
    let together = simulate(1);
    let spread = simulate(8);
    for (name, report) in
        [("subject", &together), ("subject and sub-key", &spread)]
    {
        println!(
            "{name:20} {:13} {:9} ms {:8} ms {:9}",
            report.longest_queue,
            report.longest_wait,
            report.drained_ms,
            report.sub_keys
        );
    }
    println!(
        "\nRecords of an author that were processed out of order: {} and {}.",
        together.out_of_order, spread.out_of_order
    );
    println!(
        "\nWith one partition for each subject, others wait {} ms.{}",
        together.longest_wait,
        guess::remark(guess.as_deref(), together.longest_wait)
    );
    println!(
        "\nThe counters merge {} increments into {} updates of rows. The row \
         of the celebrity\nis updated {} times, for {} comments.",
        spread.increments, spread.updates, spread.hot_updates, spread.comments
    );
    Ok(())
}

/// Sends the records, spread over `ways` sub-keys when their subject is hot.
fn simulate(ways: u32) -> Report {
    let start = Instant::now();
    let bucket = Duration::from_millis(100);
    let window = window::Config { bucket, buckets: number(10) };
    let hot = hot::Config {
        capacity: number(1_000),
        window,
        hot_at: number(500),
        cool_below: number(250),
    };
    let mut spreader = Spreader::new(Config { hot, ways: number(ways) }, start);
    let counters = Counters::default();
    let mut rows = BTreeMap::<u64, i128>::new();
    let mut random = Random(2026);
    let mut queues: [VecDeque<Record>; PARTITIONS] = Default::default();
    let (mut sent, mut seen) = (HashMap::new(), HashMap::new());
    let mut sub_keys = HashSet::new();
    let mut report = Report::default();

    for now_ms in 0.. {
        let now = start + Duration::from_millis(now_ms);
        for _ in 0..PER_MS * u64::from(now_ms < ARRIVALS_MS) {
            let mut below = |n: u64| (random.uniform() * n as f64) as u64;
            let is_event = EVENT_MS.contains(&now_ms) && below(10) < 6;
            let subject =
                if is_event { CELEBRITY } else { 1 + below(SUBJECTS) };
            let author = below(AUTHORS).to_le_bytes();
            let route = spreader.route(subject, author, now);
            if subject == CELEBRITY {
                sub_keys.insert(route.sub);
            }
            let next = sent.entry((subject, author)).or_insert(0);
            let number = *next;
            *next += 1;
            // The sub-keys of a subject are in different partitions.
            let partition = (subject + u64::from(route.sub)) as usize;
            let record = Record { route, arrived_ms: now_ms, number };
            queues[partition % PARTITIONS].push_back(record);
        }
        for queue in &mut queues {
            report.longest_queue = report.longest_queue.max(queue.len());
            let Some(record) = queue.pop_front() else { continue };
            let Record { route, arrived_ms, number } = record;
            if route.subject != CELEBRITY {
                let waited = now_ms - arrived_ms;
                report.longest_wait = report.longest_wait.max(waited);
            }
            let expected =
                seen.entry((route.subject, route.author)).or_insert(0);
            report.out_of_order += u64::from(*expected != number);
            *expected = number + 1;
            counters.add(route.subject, 1);
            report.increments += 1;
            spreader.done(&route);
        }
        let is_drained = queues.iter().all(VecDeque::is_empty);
        let ends = is_drained && now_ms >= ARRIVALS_MS;
        if now_ms % FLUSH_MS == 0 || ends {
            let batch = counters.take();
            for (subject, sum) in batch.entries() {
                *rows.entry(*subject).or_default() += sum;
                report.hot_updates += usize::from(*subject == CELEBRITY);
            }
            report.updates += batch.entries().len();
            batch.commit();
        }
        if ends {
            report.drained_ms = now_ms;
            break;
        }
    }
    report.sub_keys = sub_keys.len();
    report.comments = rows[&CELEBRITY];
    report
}

fn number<N, T: TryFrom<N>>(number: N) -> T {
    T::try_from(number).unwrap_or_else(|_| unreachable!("it is not 0"))
}
