//! A backend fails for ten seconds: which requests do its clients still send?
//!
//! ```console
//! $ cargo run -p week05 --example breaker
//! ```
//!
//! The time is simulated, and the random numbers have a fixed seed.

use std::error::Error;
use std::num::NonZero;
use std::time::{Duration, Instant};

use lab::guess;
use week05::simulator::Random;
use week05::sre_breaker::{Breaker, Config};
use week05::window;

/// The number of requests that callers want to send in each second.
const RATE: u32 = 1000;

/// The backend fails from second 5 to second 15.
const OUTAGE: std::ops::Range<u32> = 5..15;

const SECONDS: u32 = 60;

fn main() -> Result<(), Box<dyn Error>> {
    println!(
        "{RATE} requests a second go to a backend, which fails from second {} \
         to second {}.\nThe window of the breaker has 3 seconds, and K is 2.",
        OUTAGE.start, OUTAGE.end
    );
    let question = "\nHow many seconds after the outage do 99 % of the requests \
                    pass again, with one probe a second?";
    let guess = guess::ask(question)?;
    let with = simulate(Duration::from_secs(1));
    let without = simulate(Duration::MAX);
    println!("\nRequests that pass in each second:\n");
    println!("second  backend  one probe a second  no probe");
    for second in 0..SECONDS {
        let state = if OUTAGE.contains(&second) { "fails" } else { "works" };
        let n = second as usize;
        if second % 3 == 0 || (OUTAGE.end..OUTAGE.end + 6).contains(&second) {
            println!(
                "{second:6}  {state}    {:>18}  {:>8}",
                with[n], without[n]
            );
        }
    }
    let recovery = |passed: &[u32]| {
        let after = OUTAGE.end..SECONDS;
        after.clone().find(|&s| passed[s as usize] * 100 >= RATE * 99)
    };
    let text = |passed: &[u32]| match recovery(passed) {
        Some(second) => format!("{} seconds", second - OUTAGE.end),
        None => format!("more than {} seconds", SECONDS - OUTAGE.end),
    };
    let seconds = recovery(&with).map_or(0, |second| second - OUTAGE.end);
    println!(
        "\n99 % pass again after {} with one probe a second, and after {} \
         without.{}",
        text(&with),
        text(&without),
        guess::remark(guess.as_deref(), seconds)
    );
    Ok(())
}

/// Returns how many requests pass in each second.
fn simulate(probe_interval: Duration) -> Vec<u32> {
    let start = Instant::now();
    let config = Config {
        k: 2.0,
        min_requests: 20,
        window: window::Config {
            bucket: Duration::from_millis(300),
            buckets: NonZero::new(10).expect("ten is not zero"),
        },
        probe_interval,
        slow_call: Duration::from_secs(2),
    };
    let breaker = Breaker::new(config, start);
    let mut random = Random(2026);
    let mut passed = vec![0; SECONDS as usize];
    for request in 0..SECONDS * RATE {
        let second = request / RATE;
        let now = start + Duration::from_secs(1) * request / RATE;
        if let Ok(call) = breaker.allow(now, random.uniform()) {
            passed[second as usize] += 1;
            if OUTAGE.contains(&second) {
                call.failure(now);
            } else {
                call.success(now);
            }
        }
    }
    passed
}
