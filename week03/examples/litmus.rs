//! Five small programs, and what the memory model, loom and your CPU say comes out of them.
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

use self::in_loom::in_loom;

// The machine a second time, of loom's atomics.
#[path = "../tests/loom/in_loom.rs"]
mod in_loom;
#[allow(dead_code, unreachable_pub, reason = "loom needs its steps alone")]
#[path = "../src/machine.rs"]
mod machine;
#[path = "../tests/loom/model_checked"]
mod model_checked {
    #[allow(unused_imports, reason = "it serves more than one module")]
    pub(crate) mod loom_atomics;
}

/// A multiple of what runs at a time.
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
    let neither = [0, 0];
    println!("1. Each thread writes its own word, and reads the other's.\n");
    let program = both(Relaxed, Relaxed);
    println!("{program}");
    let guess = guess::ask(&format!(
        "\nOf {RUNS} runs, in how many does neither see what the other wrote?"
    ))?;
    let seen = show(&program, &neither);
    let why = "The store waits in the core's buffer, and the load does not \
               wait for it.";
    println!(
        "{seen} of {RUNS}.{} {}",
        guess::remark(guess.as_deref(), seen.odd),
        seen.or_not(why)
    );

    println!("\n2. The same, and all stores are releases, all loads acquires.");
    let guess = guess::ask("\nIn how many now?")?;
    let seen = show(&both(Release, Acquire), &neither);
    let why = "Nobody reads from anybody, so that a release can tell nothing.";
    println!(
        "{seen}.{} {}",
        guess::remark(guess.as_deref(), seen.odd),
        seen.or_not(why)
    );

    println!("\n3. The same, and everything is SeqCst.\n");
    let seen = show(&both(SeqCst, SeqCst), &neither);
    println!(
        "{seen}. Here loom is wrong: it takes SeqCst for AcqRel, and reports \
         what cannot be."
    );

    println!(
        "\n4. Each thread reads the other's word, and then writes its own."
    );
    let program = Program::new([
        vec![load(X, Relaxed), store(Y, 1, Relaxed)],
        vec![load(Y, Relaxed), store(X, 1, Relaxed)],
    ]);
    println!("\n{program}\n");
    let seen = show(&program, &[1, 1]);
    println!(
        "{seen}. The model allows that both read a 1. loom runs a program step \
         by step, and cannot show it. No x86-64 does. An ARM may."
    );

    println!("\n5. One thread writes data and then a flag.");
    let message = |write, read| {
        Program::new([
            vec![store(X, 1, Relaxed), store(Y, 1, write)],
            vec![load(Y, read), load(X, Relaxed)],
        ])
    };
    let program = message(Relaxed, Relaxed);
    println!("\n{program}");
    let guess = guess::ask(
        "\nIn how many runs is the flag seen, and not the data, on this CPU?",
    )?;
    let seen = show(&program, &[1, 0]);
    println!("{seen}.{}", guess::remark(guess.as_deref(), seen.odd));
    let why = if cfg!(target_arch = "x86_64") {
        "No x86-64 shows it. That is why a test on one finds no missing \
         Release: loom does."
    } else {
        "What is not seen here may be rare: the model allows it."
    };
    println!("{why} And with Release and Acquire:\n");
    show(&message(Release, Acquire), &[1, 0]);
    Ok(())
}

/// What this CPU has shown.
struct Seen {
    /// How often the outcome that was asked for.
    odd: usize,
    /// Whether in any run both threads were under way at once.
    have_met: bool,
}

impl Seen {
    /// `why`, if these runs can tell.
    fn or_not<'a>(&self, why: &'a str) -> &'a str {
        match self.have_met {
            true => why,
            false => {
                "The two threads have never met: this machine has other work. \
                 Run it again."
            }
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.odd)
    }
}

/// Prints all outcomes, and returns what was seen, also of the one that is `odd`.
fn show(program: &Program, odd: &[u8]) -> Seen {
    let (model, loom) = (outcomes(program), in_loom(program));
    let counts = count(program, RUNS);
    let seen = counts.keys().cloned().collect();
    let all: BTreeSet<_> =
        [&model, &loom, &seen].into_iter().flatten().collect();
    println!("  read    model      loom    this CPU");
    for outcome in all {
        let says = |outcomes: &BTreeSet<Outcome>, yes| {
            if outcomes.contains(outcome) { yes } else { "-" }
        };
        println!(
            "  {outcome:?}  {:9}  {:6}  {:8}",
            says(&model, "allowed"),
            says(&loom, "found"),
            counts.get(outcome).copied().unwrap_or_default()
        );
    }
    println!();
    // One after the other: then one of the two sees nothing, and the other all.
    let have_met = counts.keys().any(|outcome| outcome[0] == outcome[1]);
    Seen { odd: counts.get(odd).copied().unwrap_or_default(), have_met }
}
