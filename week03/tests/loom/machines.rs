//! Three machines run the same programs: the axioms of the memory model, loom,
//! and this CPU. Where they differ, it is said how.

use std::collections::BTreeSet;
use std::num::NonZero;
use std::sync::atomic::Ordering::{
    self, AcqRel, Acquire, Relaxed, Release, SeqCst,
};
use std::time::{Duration, Instant};

use week03::memory_model::{
    Op, Outcome, Program, fence, load, outcomes, outcomes_in_order, store, swap,
};
use week03::{litmus, machine as cpu};

use crate::in_loom::in_loom;

/// Enough to see on a busy machine what takes a moment on an idle one.
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

/// Numbers that look random and are the same each time (xorshift, Marsaglia).
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

    /// Without `SeqCst`.
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
fn has_a_load_and_then_a_write(program: &Program) -> bool {
    let is_pair = |first: &Op, later: &Op| {
        matches!(first, Op::Load { .. })
            && first.at() == later.at()
            && later.writes().is_some()
    };
    program.threads.iter().any(|ops| {
        (0..ops.len()).any(|place| {
            let (first, later) = (&ops[place], &ops[place + 1..]);
            later.iter().any(|later| is_pair(first, later))
        })
    })
}

/// Whether one location is written to by a swap and also by a store.
fn has_a_swap_beside_a_store(program: &Program) -> bool {
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

/// Each of the two was written without the other.
#[test]
fn loom_finds_what_the_axioms_allow_where_it_is_exact() {
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    let mut compared = 0;
    for n in 0..500 {
        let shape: &[usize] = if n % 4 == 0 { &[2, 2, 1] } else { &[3, 3] };
        let program = random.program(shape);
        if has_a_load_and_then_a_write(&program)
            || has_a_swap_beside_a_store(&program)
        {
            continue;
        }
        compared += 1;
        let model = outcomes_in_order(&program);
        assert_eq!(in_loom(&program), model, "of\n{program}");
    }
    println!("{compared} programs");
    assert!(compared > 150, "{compared} programs were compared");
}

#[test]
fn loom_takes_seq_cst_accesses_for_acquire_and_release() {
    let program = litmus::store_buffering();
    assert!(!outcomes(&program).contains(&vec![0, 0]));
    assert!(in_loom(&program).contains(&vec![0, 0]), "a false alarm");
}

/// The second fence learns of the first by way of a thread that has none.
#[test]
fn loom_lets_seq_cst_fences_tell_more_than_they_do() {
    let program = Program::new([
        vec![store(X, 1, Relaxed), fence(SeqCst), store(Y, 1, Relaxed)],
        vec![load(Y, Relaxed), store(Z, 1, Relaxed)],
        vec![load(Z, Relaxed), fence(SeqCst), load(X, Relaxed)],
    ]);
    let all_but_the_first = vec![1, 1, 0];
    assert!(outcomes_in_order(&program).contains(&all_but_the_first));
    assert!(!in_loom(&program).contains(&all_but_the_first), "a miss");
}

#[test]
fn loom_has_no_load_buffering() {
    let program = Program::new([
        vec![load(X, Relaxed), store(Y, 1, Relaxed)],
        vec![load(Y, Relaxed), store(X, 1, Relaxed)],
    ]);
    assert!(outcomes(&program).contains(&vec![1, 1]));
    assert!(!outcomes_in_order(&program).contains(&vec![1, 1]));
    assert!(!in_loom(&program).contains(&vec![1, 1]), "a miss");
}

/// loom's issues 166 and 392.
#[test]
fn loom_skips_orders_where_a_thread_loads_and_then_writes() {
    let program = Program::new([
        vec![load(X, Relaxed)],
        vec![load(X, Relaxed), store(X, 1, Relaxed)],
    ]);
    assert_eq!(outcomes(&program), set([[0, 0], [1, 0]]));
    assert_eq!(in_loom(&program), set([[0, 0]]), "a miss");
}

/// What the second thread reads comes after its own store, so that the swap
/// comes after that, too, and reads the 1.
#[test]
fn loom_lets_a_swap_overlook_a_store() {
    let program = Program::new([
        vec![swap(X, 2, Relaxed)],
        vec![store(X, 1, Relaxed), load(X, Relaxed)],
    ]);
    assert_eq!(outcomes(&program), set([[0, 1], [1, 1], [1, 2]]));
    let in_loom = in_loom(&program);
    assert!(in_loom.contains(&vec![0, 2]), "a false alarm: {in_loom:?}");
}

/// Outcomes that papers and books name.
#[test]
fn the_axioms_say_what_the_literature_says() {
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
        // By the standard's "coherence-ordered before"; RC11 allows it.
        (readers(Relaxed, SeqCst, SeqCst), disagree.clone(), false),
        // IRIW-acq-sc of the RC11 paper: forbidden until C++20.
        (readers(SeqCst, Acquire, SeqCst), disagree, true),
        // Fences have an order among themselves, over what others have read.
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
        // And with accesses that are SeqCst.
        (
            Program::new([
                vec![store(X, 1, Relaxed), fence(SeqCst), load(Y, Relaxed)],
                vec![store(Y, 1, SeqCst), load(X, SeqCst)],
            ]),
            vec![0, 0],
            false,
        ),
        // Of two writes in each of two threads, one is the last: 2+2W.
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
        // What was told counts in the order of what is SeqCst, too.
        (
            Program::new([
                vec![store(X, 1, SeqCst), store(Z, 1, Release)],
                vec![load(Z, Acquire), load(Y, SeqCst)],
                vec![store(Y, 1, SeqCst), load(X, SeqCst)],
            ]),
            vec![1, 0, 0],
            false,
        ),
        // The same over one word: RC11 allows it, the standard does not.
        (
            Program::new([
                vec![store(X, 1, SeqCst), store(X, 2, Release)],
                vec![load(X, Acquire), load(Y, SeqCst)],
                vec![store(Y, 1, SeqCst), load(X, SeqCst)],
            ]),
            vec![2, 0, 0],
            false,
        ),
        // Alone, it reads what was there.
        (Program::new([vec![swap(X, 1, SeqCst)]]), vec![0], true),
        // A release sequence goes on over a swap, and ends at a store.
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
        // Also a store of the same thread ends it, since C++20.
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
        // Of two swaps of one word, one reads the other.
        (
            Program::new([
                vec![swap(X, 1, Relaxed)],
                vec![swap(X, 2, Relaxed)],
            ]),
            vec![0, 0],
            false,
        ),
        // And no swap reads what its own thread writes later.
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
            "{outcome:?} of\n{program}\nout of {allowed:?}"
        );
    }
}

/// The exercise's programs, and the same without any ordering.
#[test]
fn this_cpu_shows_nothing_that_the_axioms_forbid() {
    let mut programs = vec![
        litmus::coherence(),
        litmus::message_passing(),
        litmus::load_buffering(),
        litmus::relay(),
        litmus::release_sequence(),
        litmus::message_passing_by_fences(),
        litmus::store_buffering(),
        litmus::store_buffering_by_fences(),
        litmus::meeting(),
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
                "{outcome:?} was seen {times} times, of\n{program}"
            );
        }
        let runs: usize = counts.values().sum();
        assert_eq!(runs, 4096, "each run is counted once, of\n{program}");
    }
}

#[test]
fn runs_are_rounded_up() {
    for (asked, done) in [(0, 0), (1, 4096), (4096, 4096), (4097, 8192)] {
        let counts = cpu::count(&litmus::coherence(), asked);
        let runs: usize = counts.values().sum();
        assert_eq!(runs, done, "of {asked}");
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_store_buffer_of_this_cpu_is_seen() {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    if cores < 2 {
        println!("one core has no one to hide a store from");
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
    panic!("in {DEADLINE:?} no load has overtaken a store");
}
