//! Runs five litmus tests, and compares the memory model, loom and your CPU.
//!
//! ```console
//! $ cargo run --release -p week03 --example litmus
//! ```

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::{fmt, io};

use lab::guess;
use week03::machine::count;
use week03::memory_model::{self, Outcome, Program, load, outcomes, store};

use self::in_loom::loom_outcomes;

// The module `machine` a second time, with loom's atomics.
#[path = "../tests/loom/in_loom.rs"]
mod in_loom;
#[allow(dead_code, unreachable_pub, reason = "loom needs only `execute`")]
#[path = "../src/machine.rs"]
mod machine;
#[path = "../tests/loom/model_checked"]
mod model_checked {
    #[allow(unused_imports, reason = "other modules use it, too")]
    pub(crate) mod loom_atomics;
}

/// A multiple of 4,096, to which `count` rounds up.
const RUNS: usize = 25 * 4096;

const X: usize = 0;
const Y: usize = 1;

fn main() -> io::Result<()> {
    let both = |write, read| {
        Program::new([
            vec![store(X, 1, write), load(Y, read)],
            vec![store(Y, 1, write), load(X, read)],
        ])
    };
    let both_zero = [0, 0];
    println!(
        "1. Each thread stores to its own variable and loads the other.\n"
    );
    let program = both(Relaxed, Relaxed);
    println!("{program}");
    let guess = guess::ask(&format!(
        "\nIn how many of {RUNS} runs does neither thread see the other's store?"
    ))?;
    let seen = show(&program, &both_zero);
    let why = "The store waits in the core's store buffer, and the load does \
               not wait for it.";
    println!(
        "{seen} of {RUNS}.{} {}",
        guess::remark(guess.as_deref(), seen.times),
        seen.explain(why)
    );

    println!("\n2. The same, with Release stores and Acquire loads.");
    let guess = guess::ask("\nIn how many runs now?")?;
    let seen = show(&both(Release, Acquire), &both_zero);
    let why = "No load reads the other thread's store, so a release does not \
               help.";
    println!(
        "{seen}.{} {}",
        guess::remark(guess.as_deref(), seen.times),
        seen.explain(why)
    );

    println!("\n3. The same, with SeqCst everywhere.\n");
    let seen = show(&both(SeqCst, SeqCst), &both_zero);
    println!(
        "{seen}. Here loom is wrong: it treats SeqCst as AcqRel, and reports \
         an outcome that is impossible."
    );

    println!(
        "\n4. Each thread loads the other's variable, then stores to its own."
    );
    let program = Program::new([
        vec![load(X, Relaxed), store(Y, 1, Relaxed)],
        vec![load(Y, Relaxed), store(X, 1, Relaxed)],
    ]);
    println!("\n{program}\n");
    let seen = show(&program, &[1, 1]);
    println!(
        "{seen}. The model allows both threads to read 1. loom executes the \
         operations one after the other, so it cannot show that. No x86-64 \
         CPU shows it. An ARM CPU may."
    );

    println!("\n5. One thread stores data and then a flag.");
    let message = |write, read| {
        Program::new([
            vec![store(X, 1, Relaxed), store(Y, 1, write)],
            vec![load(Y, read), load(X, Relaxed)],
        ])
    };
    let program = message(Relaxed, Relaxed);
    println!("\n{program}");
    let guess = guess::ask(
        "\nIn how many runs on this CPU is the flag seen without the data?",
    )?;
    let seen = show(&program, &[1, 0]);
    println!("{seen}.{}", guess::remark(guess.as_deref(), seen.times));
    let why = if cfg!(target_arch = "x86_64") {
        "No x86-64 CPU shows it, so a test on x86-64 never finds a missing \
         Release. loom finds it."
    } else {
        "An outcome that is not seen here may be rare: the model allows it."
    };
    println!("{why} The same with Release and Acquire:\n");
    show(&message(Release, Acquire), &[1, 0]);
    Ok(())
}

/// What the runs on this CPU have shown.
struct Seen {
    /// The number of runs with the surprising outcome.
    times: usize,
    /// Whether the two threads ran at the same time in any run.
    overlapped: bool,
}

impl Seen {
    /// Returns `why`, or a hint to try again if the threads never overlapped.
    fn explain<'a>(&self, why: &'a str) -> &'a str {
        match self.overlapped {
            true => why,
            false => {
                "The two threads never ran at the same time: this machine is \
                 busy. Run the example again."
            }
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.times)
    }
}

/// Prints all outcomes, and returns how often the `surprising` one was seen.
fn show(program: &Program, surprising: &[u8]) -> Seen {
    let (model, loom) = (outcomes(program), loom_outcomes(program));
    let counts = count(program, RUNS);
    let seen = counts.keys().cloned().collect();
    let all: BTreeSet<_> =
        [&model, &loom, &seen].into_iter().flatten().collect();
    println!("  read    model      loom    this CPU");
    for outcome in all {
        let cell = |outcomes: &BTreeSet<Outcome>, yes| {
            if outcomes.contains(outcome) { yes } else { "-" }
        };
        println!(
            "  {outcome:?}  {:9}  {:6}  {:8}",
            cell(&model, "allowed"),
            cell(&loom, "found"),
            counts.get(outcome).copied().unwrap_or_default()
        );
    }
    println!();
    // If one thread runs after the other, exactly one of them sees a store.
    let overlapped = counts.keys().any(|outcome| outcome[0] == outcome[1]);
    let times = counts.get(surprising).copied().unwrap_or_default();
    Seen { times, overlapped }
}
