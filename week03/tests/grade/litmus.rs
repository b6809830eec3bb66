use std::sync::atomic::Ordering::{
    self, AcqRel, Acquire, Relaxed, Release, SeqCst,
};

use week03::litmus;
use week03::memory_model::{Op, Program, load, outcomes, store, swap};

/// The orderings one step below that of `op`. A `Relaxed` fence is no fence.
fn weaker(op: Op) -> Vec<Ordering> {
    match (op, op.ordering()) {
        (_, Relaxed) => vec![],
        (Op::Load { .. }, SeqCst) => vec![Acquire],
        (Op::Store { .. }, SeqCst) => vec![Release],
        (Op::Swap { .. } | Op::Fence { .. }, SeqCst) => vec![AcqRel],
        (_, AcqRel) => vec![Acquire, Release],
        (_, _) => vec![Relaxed],
    }
}

/// The values read by thread 0, then those by thread 1, and so on. `ANY`
/// matches every value.
type Pattern = &'static [u8];

const ANY: u8 = u8::MAX;

fn shown(pattern: Pattern) -> String {
    let value = |value: &u8| match *value {
        ANY => "any value".to_owned(),
        value => value.to_string(),
    };
    pattern.iter().map(value).collect::<Vec<_>>().join(", ")
}

fn is_allowed(program: &Program, pattern: Pattern) -> bool {
    outcomes(program).iter().any(|outcome| {
        let mut pairs = outcome.iter().zip(pattern);
        pairs.all(|(read, pattern)| *pattern == ANY || read == pattern)
    })
}

/// A program of the subject, and what is required of it.
struct LitmusTest {
    program: Program,
    /// The expected operations, with any orderings.
    expected: Program,
    forbidden: Pattern,
    /// Whether every load and store must stay `Relaxed`.
    accesses_are_relaxed: bool,
}

impl LitmusTest {
    fn forbids_the_outcome(self) {
        let Self { program, forbidden, .. } = self.checked();
        assert!(
            !is_allowed(&program, forbidden),
            "expected the memory model to forbid the reads {} (thread 0 first), \
             but it allows them:\n{program}",
            shown(forbidden)
        );
    }

    fn needs_each_ordering(self) {
        let Self { program, forbidden, .. } = self.checked();
        assert!(
            !is_allowed(&program, forbidden),
            "expected the memory model to forbid the reads {} (thread 0 first), \
             but it allows them before any ordering is made weaker:\n{program}",
            shown(forbidden)
        );
        for thread in 0..program.threads.len() {
            for index in 0..program.threads[thread].len() {
                let op = program.threads[thread][index];
                for ordering in weaker(op) {
                    let mut weaker = program.clone();
                    let is_fence = op.at().is_none();
                    let change = if is_fence && ordering == Relaxed {
                        weaker.threads[thread].remove(index);
                        format!("without fence({:?})", op.ordering())
                    } else {
                        weaker.threads[thread][index] = op.with(ordering);
                        format!("with {ordering:?} for {:?}", op.ordering())
                    };
                    assert!(
                        is_allowed(&weaker, forbidden),
                        "expected every ordering to be needed, but the outcome \
                         is also forbidden {change} in thread {thread}:\n\
                         {weaker}"
                    );
                }
            }
        }
    }

    /// Checks that the program has the expected operations, and orderings that
    /// they can have.
    fn checked(self) -> Self {
        let without_orderings = |program: &Program| -> Vec<Vec<Op>> {
            let threads = program.threads.iter();
            let same = |op: &Op| op.with(SeqCst);
            threads.map(|ops| ops.iter().map(same).collect()).collect()
        };
        assert_eq!(
            without_orderings(&self.program),
            without_orderings(&self.expected),
            "expected the operations of the stub (right), with other orderings \
             only, but the program is\n{}",
            self.program
        );
        for op in self.program.ops() {
            let valid = match op {
                Op::Load { .. } => [Relaxed, Acquire, SeqCst].to_vec(),
                Op::Store { .. } => [Relaxed, Release, SeqCst].to_vec(),
                Op::Swap { .. } => {
                    [Relaxed, Acquire, Release, AcqRel, SeqCst].to_vec()
                }
                Op::Fence { .. } => [Acquire, Release, AcqRel, SeqCst].to_vec(),
            };
            let ordering = op.ordering();
            assert!(
                valid.contains(&ordering),
                "expected an ordering out of {valid:?}, but {op:?} would panic"
            );
            let is_access = matches!(op, Op::Load { .. } | Op::Store { .. });
            let must_be_relaxed = self.accesses_are_relaxed && is_access;
            assert!(
                !must_be_relaxed || ordering == Relaxed,
                "expected every load and store to stay Relaxed, but the program \
                 is\n{}",
                self.program
            );
        }
        self
    }
}

const X: usize = 0;
const Y: usize = 1;
const Z: usize = 2;

fn w(at: usize, value: u8) -> Op {
    store(at, value, Relaxed)
}

fn r(at: usize) -> Op {
    load(at, Relaxed)
}

fn s(at: usize, value: u8) -> Op {
    swap(at, value, Relaxed)
}

const F: Op = Op::Fence { ordering: SeqCst };

mod release_acquire {
    use super::*;

    fn coherence() -> LitmusTest {
        LitmusTest {
            program: litmus::coherence(),
            expected: Program::new([
                [w(X, 1), w(X, 2)].to_vec(),
                [r(X), r(X)].to_vec(),
            ]),
            forbidden: &[2, 1],
            accesses_are_relaxed: false,
        }
    }

    #[test]
    fn coherence_forbids_an_older_value_in_the_second_load() {
        coherence().forbids_the_outcome();
    }

    #[test]
    fn the_coherence_test_uses_the_weakest_orderings_that_are_enough() {
        coherence().needs_each_ordering();
    }

    fn message_passing() -> LitmusTest {
        LitmusTest {
            program: litmus::message_passing(),
            expected: Program::new([
                [w(X, 1), w(Y, 1)].to_vec(),
                [r(Y), r(X)].to_vec(),
            ]),
            forbidden: &[1, 0],
            accesses_are_relaxed: false,
        }
    }

    #[test]
    fn in_message_passing_a_thread_that_sees_the_flag_also_sees_the_data() {
        message_passing().forbids_the_outcome();
    }

    #[test]
    fn message_passing_uses_the_weakest_orderings_that_are_enough() {
        message_passing().needs_each_ordering();
    }

    fn load_buffering() -> LitmusTest {
        LitmusTest {
            program: litmus::load_buffering(),
            expected: Program::new([
                [r(X), w(Y, 1)].to_vec(),
                [r(Y), w(X, 1)].to_vec(),
            ]),
            forbidden: &[1, 1],
            accesses_are_relaxed: false,
        }
    }

    #[test]
    fn in_load_buffering_the_two_loads_never_both_return_the_value_1() {
        load_buffering().forbids_the_outcome();
    }

    #[test]
    fn load_buffering_uses_the_weakest_orderings_that_are_enough() {
        load_buffering().needs_each_ordering();
    }
}

mod chains_and_fences {
    use super::*;

    fn relay() -> LitmusTest {
        LitmusTest {
            program: litmus::relay(),
            expected: Program::new([
                [w(X, 1), w(Y, 1)].to_vec(),
                [r(Y), w(Z, 1)].to_vec(),
                [r(Z), r(X)].to_vec(),
            ]),
            forbidden: &[1, 1, 0],
            accesses_are_relaxed: false,
        }
    }

    #[test]
    fn in_relay_the_thread_that_sees_the_relayed_flag_sees_the_data() {
        relay().forbids_the_outcome();
    }

    #[test]
    fn the_relay_test_uses_the_weakest_orderings_that_are_enough() {
        relay().needs_each_ordering();
    }

    fn release_sequence() -> LitmusTest {
        LitmusTest {
            program: litmus::release_sequence(),
            expected: Program::new([
                [w(X, 1), w(Y, 1)].to_vec(),
                [s(Y, 2)].to_vec(),
                [r(Y), r(X)].to_vec(),
            ]),
            forbidden: &[1, 2, 0],
            accesses_are_relaxed: false,
        }
    }

    #[test]
    fn a_thread_that_sees_the_flag_written_by_a_swap_sees_the_data() {
        release_sequence().forbids_the_outcome();
    }

    #[test]
    fn release_sequence_uses_the_weakest_orderings_that_are_enough() {
        release_sequence().needs_each_ordering();
    }

    fn message_passing_by_fences() -> LitmusTest {
        LitmusTest {
            program: litmus::message_passing_by_fences(),
            expected: Program::new([
                [w(X, 1), F, w(Y, 1)].to_vec(),
                [r(Y), F, r(X)].to_vec(),
            ]),
            forbidden: &[1, 0],
            accesses_are_relaxed: true,
        }
    }

    #[test]
    fn with_fences_a_thread_that_sees_the_flag_also_sees_the_data() {
        message_passing_by_fences().forbids_the_outcome();
    }

    #[test]
    fn message_passing_by_fences_uses_the_weakest_fences_that_are_enough() {
        message_passing_by_fences().needs_each_ordering();
    }
}

mod total_order {
    use super::*;

    fn store_buffering() -> LitmusTest {
        LitmusTest {
            program: litmus::store_buffering(),
            expected: Program::new([
                [w(X, 1), r(Y)].to_vec(),
                [w(Y, 1), r(X)].to_vec(),
            ]),
            forbidden: &[0, 0],
            accesses_are_relaxed: false,
        }
    }

    #[test]
    fn store_buffering_forbids_both_loads_returning_zero() {
        store_buffering().forbids_the_outcome();
    }

    #[test]
    fn store_buffering_uses_the_weakest_orderings_that_are_enough() {
        store_buffering().needs_each_ordering();
    }

    fn store_buffering_by_fences() -> LitmusTest {
        LitmusTest {
            program: litmus::store_buffering_by_fences(),
            expected: Program::new([
                [w(X, 1), F, r(Y)].to_vec(),
                [w(Y, 1), F, r(X)].to_vec(),
            ]),
            forbidden: &[0, 0],
            accesses_are_relaxed: true,
        }
    }

    #[test]
    fn store_buffering_by_fences_forbids_both_loads_returning_zero() {
        store_buffering_by_fences().forbids_the_outcome();
    }

    #[test]
    fn store_buffering_by_fences_uses_the_weakest_fences_that_are_enough() {
        store_buffering_by_fences().needs_each_ordering();
    }

    fn store_buffering_by_swaps() -> LitmusTest {
        LitmusTest {
            program: litmus::store_buffering_by_swaps(),
            expected: Program::new([
                [w(X, 1), s(Z, 1), r(Y)].to_vec(),
                [w(Y, 1), s(Z, 1), r(X)].to_vec(),
            ]),
            forbidden: &[ANY, 0, ANY, 0],
            accesses_are_relaxed: true,
        }
    }

    #[test]
    fn store_buffering_by_swaps_forbids_both_loads_returning_zero() {
        store_buffering_by_swaps().forbids_the_outcome();
    }

    #[test]
    fn store_buffering_by_swaps_uses_the_weakest_orderings_that_are_enough() {
        store_buffering_by_swaps().needs_each_ordering();
    }

    fn independent_reads() -> LitmusTest {
        LitmusTest {
            program: litmus::independent_reads(),
            expected: Program::new([
                [w(X, 1)].to_vec(),
                [w(Y, 1)].to_vec(),
                [r(X), r(Y)].to_vec(),
                [r(Y), r(X)].to_vec(),
            ]),
            forbidden: &[1, 0, 1, 0],
            accesses_are_relaxed: false,
        }
    }

    #[test]
    fn independent_reads_forbid_readers_seeing_opposite_orders() {
        independent_reads().forbids_the_outcome();
    }

    #[test]
    fn independent_reads_use_the_weakest_orderings_that_are_enough() {
        independent_reads().needs_each_ordering();
    }
}
