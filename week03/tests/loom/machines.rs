//! Compares the outcomes of the same programs under the axioms of the memory
//! model, in loom, and on this CPU. Each known difference has a test.

use std::collections::BTreeSet;
use std::num::NonZero;
use std::sync::atomic::Ordering::{
    self, AcqRel, Acquire, Relaxed, Release, SeqCst,
};
use std::time::{Duration, Instant};

use week03::memory_model::{
    Op, Outcome, Program, fence, load, outcomes,
    outcomes_without_load_buffering, store, swap,
};
use week03::{litmus, machine as cpu};

use crate::in_loom::loom_outcomes;

/// Long enough for a busy machine. An idle one needs only a moment.
const DEADLINE: Duration = Duration::from_secs(60);

const X: usize = 0;
const Y: usize = 1;
const Z: usize = 2;

fn store_buffer(store_: Ordering, load_: Ordering) -> Program {
    Program::new([
        vec![store(X, 1, store_), load(Y, load_)],
        vec![store(Y, 1, store_), load(X, load_)],
    ])
}

/// A random generator with a fixed seed (xorshift, Marsaglia).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Returns a random operation that is not `SeqCst`.
    fn op(&mut self) -> Op {
        let (at, value) = (self.below(2), 1 + self.below(2) as u8);
        match self.below(7) {
            0..3 => load(at, self.one_of(&[Relaxed, Acquire])),
            3..5 => store(at, value, self.one_of(&[Relaxed, Release])),
            5 => {
                let orderings = [Relaxed, Acquire, Release, AcqRel];
                swap(at, value, self.one_of(&orderings))
            }
            _ => fence(self.one_of(&[Acquire, Release, AcqRel])),
        }
    }

    fn program(&mut self, threads: &[usize]) -> Program {
        let thread = |ops: &usize| (0..*ops).map(|_| self.op()).collect();
        Program { threads: threads.iter().map(thread).collect() }
    }
}

/// Whether a thread writes to a location that it has loaded before.
fn has_load_then_write(program: &Program) -> bool {
    let is_pair = |first: &Op, later: &Op| {
        matches!(first, Op::Load { .. })
            && first.at() == later.at()
            && later.writes().is_some()
    };
    program.threads.iter().any(|ops| {
        (0..ops.len()).any(|index| {
            let (first, later) = (&ops[index], &ops[index + 1..]);
            later.iter().any(|later| is_pair(first, later))
        })
    })
}

/// Whether one location is written to by both a swap and a store.
fn has_swap_and_store(program: &Program) -> bool {
    let is_pair = |swap: Op, store: Op| {
        matches!(swap, Op::Swap { .. })
            && matches!(store, Op::Store { .. })
            && swap.at() == store.at()
    };
    program.ops().any(|a| program.ops().any(|b| is_pair(a, b)))
}

fn set<const N: usize, const R: usize>(
    outcomes: [[u8; R]; N],
) -> BTreeSet<Outcome> {
    outcomes.into_iter().map(Vec::from).collect()
}

/// The axioms and loom were implemented independently of each other.
#[test]
fn loom_agrees_with_the_axioms_on_random_programs_without_seq_cst() {
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    let mut compared = 0;
    for n in 0..500 {
        let shape: &[usize] = if n % 4 == 0 { &[2, 2, 1] } else { &[3, 3] };
        let program = random.program(shape);
        if has_load_then_write(&program) || has_swap_and_store(&program) {
            continue;
        }
        compared += 1;
        let model = outcomes_without_load_buffering(&program);
        assert_eq!(
            loom_outcomes(&program),
            model,
            "loom (left) and the axioms (right) differ for\n{program}"
        );
    }
    println!("{compared} programs");
    assert!(
        compared > 150,
        "expected more than 150 programs to be compared, not {compared}"
    );
}

#[test]
fn loom_treats_seq_cst_accesses_as_acquire_and_release() {
    let program = litmus::store_buffering();
    assert!(!outcomes(&program).contains(&vec![0, 0]));
    let found = loom_outcomes(&program);
    assert!(
        found.contains(&vec![0, 0]),
        "expected loom to report the forbidden [0, 0], but it found {found:?}"
    );
}

/// loom lets the second fence synchronize with the first. The axioms do not:
/// the thread between them has no fence.
#[test]
fn loom_misses_an_outcome_because_seq_cst_fences_synchronize() {
    let program = Program::new([
        vec![store(X, 1, Relaxed), fence(SeqCst), store(Y, 1, Relaxed)],
        vec![load(Y, Relaxed), store(Z, 1, Relaxed)],
        vec![load(Z, Relaxed), fence(SeqCst), load(X, Relaxed)],
    ]);
    let without_the_data = vec![1, 1, 0];
    assert!(
        outcomes_without_load_buffering(&program).contains(&without_the_data)
    );
    let found = loom_outcomes(&program);
    assert!(
        !found.contains(&without_the_data),
        "expected loom to miss the allowed {without_the_data:?}, but it found \
         {found:?}"
    );
}

#[test]
fn loom_misses_load_buffering() {
    let program = Program::new([
        vec![load(X, Relaxed), store(Y, 1, Relaxed)],
        vec![load(Y, Relaxed), store(X, 1, Relaxed)],
    ]);
    assert!(outcomes(&program).contains(&vec![1, 1]));
    assert!(!outcomes_without_load_buffering(&program).contains(&vec![1, 1]));
    let found = loom_outcomes(&program);
    assert!(
        !found.contains(&vec![1, 1]),
        "expected loom to miss the allowed [1, 1], but it found {found:?}"
    );
}

/// loom's issues 166 and 392.
#[test]
fn loom_misses_outcomes_if_a_thread_loads_then_stores_one_location() {
    let program = Program::new([
        vec![load(X, Relaxed)],
        vec![load(X, Relaxed), store(X, 1, Relaxed)],
    ]);
    assert_eq!(outcomes(&program), set([[0, 0], [1, 0]]));
    assert_eq!(
        loom_outcomes(&program),
        set([[0, 0]]),
        "expected loom to miss the allowed [1, 0]"
    );
}

/// The outcome [0, 2] is forbidden. Thread 1 reads the 2 after its own store, so
/// the swap comes after that store and must read the 1.
#[test]
fn loom_reports_a_forbidden_swap_that_skips_a_store() {
    let program = Program::new([
        vec![swap(X, 2, Relaxed)],
        vec![store(X, 1, Relaxed), load(X, Relaxed)],
    ]);
    assert_eq!(outcomes(&program), set([[0, 1], [1, 1], [1, 2]]));
    let found = loom_outcomes(&program);
    assert!(
        found.contains(&vec![0, 2]),
        "expected loom to report the forbidden [0, 2], but it found {found:?}"
    );
}

/// Outcomes from papers and books.
#[test]
fn the_axioms_match_published_outcomes() {
    let readers = |store_, first, second| {
        Program::new([
            vec![store(X, 1, store_)],
            vec![store(Y, 1, store_)],
            vec![load(X, first), load(Y, second)],
            vec![load(Y, first), load(X, second)],
        ])
    };
    let disagree = vec![1, 0, 1, 0];
    for (program, outcome, is_allowed) in [
        (store_buffer(Relaxed, Relaxed), vec![0, 0], true),
        (store_buffer(Release, Acquire), vec![0, 0], true),
        (store_buffer(SeqCst, SeqCst), vec![0, 0], false),
        (store_buffer(SeqCst, Acquire), vec![0, 0], true),
        (store_buffer(Release, SeqCst), vec![0, 0], true),
        (readers(Release, Acquire, Acquire), disagree.clone(), true),
        (readers(SeqCst, SeqCst, SeqCst), disagree.clone(), false),
        // Forbidden by the standard's "coherence-ordered before". RC11 allows
        // it.
        (readers(Relaxed, SeqCst, SeqCst), disagree.clone(), false),
        // IRIW-acq-sc of the RC11 paper: forbidden until C++20.
        (readers(SeqCst, Acquire, SeqCst), disagree, true),
        // SeqCst fences have a total order, also across other threads' stores.
        (
            Program::new([
                vec![store(X, 1, Relaxed)],
                vec![store(Y, 1, Relaxed)],
                vec![load(X, Relaxed), fence(SeqCst), load(Y, Relaxed)],
                vec![load(Y, Relaxed), fence(SeqCst), load(X, Relaxed)],
            ]),
            vec![1, 0, 1, 0],
            false,
        ),
        // A SeqCst fence is also ordered with SeqCst accesses.
        (
            Program::new([
                vec![store(X, 1, Relaxed), fence(SeqCst), load(Y, Relaxed)],
                vec![store(Y, 1, SeqCst), load(X, SeqCst)],
            ]),
            vec![0, 0],
            false,
        ),
        // 2+2W: two threads store to both locations. With SeqCst, the last of
        // the four stores stores a 2, so one location ends with 2.
        (
            Program::new([
                vec![store(X, 1, SeqCst), store(Y, 2, SeqCst)],
                vec![store(Y, 1, SeqCst), store(X, 2, SeqCst)],
                vec![load(X, Relaxed), load(X, Relaxed)],
                vec![load(Y, Relaxed), load(Y, Relaxed)],
            ]),
            vec![2, 1, 2, 1],
            false,
        ),
        (
            Program::new([
                vec![store(X, 1, Release), store(Y, 2, Release)],
                vec![store(Y, 1, Release), store(X, 2, Release)],
                vec![load(X, Relaxed), load(X, Relaxed)],
                vec![load(Y, Relaxed), load(Y, Relaxed)],
            ]),
            vec![2, 1, 2, 1],
            true,
        ),
        // The SeqCst order agrees with happens-before, across a release and
        // acquire pair on another location.
        (
            Program::new([
                vec![store(X, 1, SeqCst), store(Z, 1, Release)],
                vec![load(Z, Acquire), load(Y, SeqCst)],
                vec![store(Y, 1, SeqCst), load(X, SeqCst)],
            ]),
            vec![1, 0, 0],
            false,
        ),
        // The same on one location. RC11 allows it, the standard does not.
        (
            Program::new([
                vec![store(X, 1, SeqCst), store(X, 2, Release)],
                vec![load(X, Acquire), load(Y, SeqCst)],
                vec![store(Y, 1, SeqCst), load(X, SeqCst)],
            ]),
            vec![2, 0, 0],
            false,
        ),
        // A single swap reads the initial value.
        (Program::new([vec![swap(X, 1, SeqCst)]]), vec![0], true),
        // A swap continues a release sequence, and a store of another thread
        // ends it.
        (litmus::release_sequence(), vec![1, 2, 0], false),
        (
            Program::new([
                vec![store(X, 1, Relaxed), store(Y, 1, Release)],
                vec![load(Y, Relaxed), store(Y, 2, Relaxed)],
                vec![load(Y, Acquire), load(X, Relaxed)],
            ]),
            vec![1, 2, 0],
            true,
        ),
        // Since C++20 a store of the same thread also ends it.
        (
            Program::new([
                vec![
                    store(X, 1, Relaxed),
                    store(Y, 1, Release),
                    store(Y, 2, Relaxed),
                ],
                vec![load(Y, Acquire), load(X, Relaxed)],
            ]),
            vec![2, 0],
            true,
        ),
        // One of two swaps of a location reads the other.
        (
            Program::new([
                vec![swap(X, 1, Relaxed)],
                vec![swap(X, 2, Relaxed)],
            ]),
            vec![0, 0],
            false,
        ),
        // A swap cannot read a later store of its own thread.
        (
            Program::new([vec![swap(X, 1, Relaxed), store(X, 2, Relaxed)]]),
            vec![2],
            false,
        ),
    ] {
        let allowed = outcomes(&program);
        assert_eq!(
            allowed.contains(&outcome),
            is_allowed,
            "whether {outcome:?} is allowed (left: the axioms, right: expected) \
             for\n{program}\nThe axioms allow {allowed:?}"
        );
    }
}

/// The exercise's programs, and the same programs without fences and with every
/// ordering `Relaxed`.
#[test]
fn the_cpu_shows_no_outcome_that_the_axioms_forbid() {
    let mut programs = vec![
        litmus::coherence(),
        litmus::message_passing(),
        litmus::load_buffering(),
        litmus::relay(),
        litmus::release_sequence(),
        litmus::message_passing_by_fences(),
        litmus::store_buffering(),
        litmus::store_buffering_by_fences(),
        litmus::store_buffering_by_swaps(),
        litmus::independent_reads(),
    ];
    for n in 0..programs.len() {
        let mut relaxed = programs[n].clone();
        for ops in &mut relaxed.threads {
            ops.retain(|op| op.at().is_some());
            ops.iter_mut().for_each(|op| *op = op.with(Relaxed));
        }
        programs.push(relaxed);
    }
    for program in programs {
        let allowed = outcomes(&program);
        let counts = cpu::count(&program, 4096);
        for (outcome, times) in &counts {
            assert!(
                allowed.contains(outcome),
                "the forbidden {outcome:?} was seen {times} times for\n{program}"
            );
        }
        let runs: usize = counts.values().sum();
        assert_eq!(
            runs, 4096,
            "expected each of 4096 runs to be counted once for\n{program}"
        );
    }
}

#[test]
fn the_number_of_runs_is_rounded_up_to_a_multiple_of_4096() {
    for (asked, done) in [(0, 0), (1, 4096), (4096, 4096), (4097, 8192)] {
        let counts = cpu::count(&litmus::coherence(), asked);
        let runs: usize = counts.values().sum();
        assert_eq!(runs, done, "runs for an argument of {asked}");
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_cpu_shows_store_buffering_with_release_and_acquire() {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    if cores < 2 {
        println!("skipped: a single core does not show store buffering");
        return;
    }
    let program = store_buffer(Release, Acquire);
    let start = Instant::now();
    while start.elapsed() < DEADLINE {
        let counts = cpu::count(&program, 4096);
        if let Some(times) = counts.get(&vec![0, 0]) {
            println!("{times} of 4096 runs");
            return;
        }
    }
    panic!("expected a run with [0, 0] within {DEADLINE:?}, but none was seen");
}
