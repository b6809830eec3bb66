use std::sync::atomic::Ordering::{
    self, AcqRel, Acquire, Relaxed, Release, SeqCst,
};

use week03::litmus;
use week03::memory_model::{Op, Program, load, outcomes, store, swap};

/// One step down. A fence that is relaxed is none.
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

/// What is read, in the order of the threads; `ANY` is whatever it is.
type Pattern = &'static [u8];

const ANY: u8 = u8::MAX;

fn shown(never: Pattern) -> String {
    let one = |value: &u8| match *value {
        ANY => "anything".to_owned(),
        value => value.to_string(),
    };
    never.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn is_allowed(program: &Program, never: Pattern) -> bool {
    outcomes(program).iter().any(|outcome| {
        let pairs = outcome.iter().zip(never);
        pairs.into_iter().all(|(seen, never)| *never == ANY || seen == never)
    })
}

/// A puzzle: the reader's program, the one that was asked for, with orderings
/// that do not count, and what must not come out.
struct Puzzle {
    program: Program,
    given: Program,
    never: Pattern,
    /// Whether the orderings of loads and stores are given as well.
    relaxed: bool,
}

impl Puzzle {
    fn forbids(self) {
        let Self { program, never, .. } = self.checked();
        assert!(
            !is_allowed(&program, never),
            "it may read {}, thread by thread, which must never be:\n{program}",
            shown(never)
        );
    }

    /// Each ordering is needed.
    fn needs_each(self) {
        let Self { program, never, .. } = self.checked();
        assert!(
            !is_allowed(&program, never),
            "it may read {}, which must never be, before anything is made \
             weaker:\n{program}",
            shown(never)
        );
        for thread in 0..program.threads.len() {
            for place in 0..program.threads[thread].len() {
                let op = program.threads[thread][place];
                for ordering in weaker(op) {
                    let mut weaker = program.clone();
                    let is_fence = op.at().is_none();
                    let what = if is_fence && ordering == Relaxed {
                        weaker.threads[thread].remove(place);
                        "without this fence".to_owned()
                    } else {
                        weaker.threads[thread][place] = op.with(ordering);
                        format!("{ordering:?} in place of {:?}", op.ordering())
                    };
                    assert!(
                        is_allowed(&weaker, never),
                        "forbidden as well with {what}, in thread {thread}:\n\
                         {weaker}"
                    );
                }
            }
        }
    }

    /// Is the program that was asked for, apart from its orderings.
    fn checked(self) -> Self {
        let bare = |program: &Program| -> Vec<Vec<Op>> {
            let threads = program.threads.iter();
            let bare = |op: &Op| op.with(SeqCst);
            threads.map(|ops| ops.iter().map(bare).collect()).collect()
        };
        assert_eq!(
            bare(&self.program),
            bare(&self.given),
            "only the orderings are yours:\n{}",
            self.program
        );
        for op in self.program.ops() {
            let can_have = match op {
                Op::Load { .. } => [Relaxed, Acquire, SeqCst].to_vec(),
                Op::Store { .. } => [Relaxed, Release, SeqCst].to_vec(),
                Op::Swap { .. } => {
                    [Relaxed, Acquire, Release, AcqRel, SeqCst].to_vec()
                }
                Op::Fence { .. } => [Acquire, Release, AcqRel, SeqCst].to_vec(),
            };
            let ordering = op.ordering();
            assert!(
                can_have.contains(&ordering),
                "{op:?} panics: it cannot have this ordering"
            );
            let is_given = matches!(op, Op::Load { .. } | Op::Store { .. });
            assert!(
                !(self.relaxed && is_given) || ordering == Relaxed,
                "loads and stores are relaxed here, and stay so:\n{}",
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

mod told {
    use super::*;

    fn coherence() -> Puzzle {
        Puzzle {
            program: litmus::coherence(),
            given: Program::new([
                [w(X, 1), w(X, 2)].to_vec(),
                [r(X), r(X)].to_vec(),
            ]),
            never: &[2, 1],
            relaxed: false,
        }
    }

    #[test]
    fn reads_of_one_word_do_not_go_back() {
        coherence().forbids();
    }

    #[test]
    fn reads_of_one_word_need_no_more() {
        coherence().needs_each();
    }

    fn message_passing() -> Puzzle {
        Puzzle {
            program: litmus::message_passing(),
            given: Program::new([
                [w(X, 1), w(Y, 1)].to_vec(),
                [r(Y), r(X)].to_vec(),
            ]),
            never: &[1, 0],
            relaxed: false,
        }
    }

    #[test]
    fn who_sees_the_flag_sees_the_data() {
        message_passing().forbids();
    }

    #[test]
    fn the_flag_needs_no_more() {
        message_passing().needs_each();
    }

    fn load_buffering() -> Puzzle {
        Puzzle {
            program: litmus::load_buffering(),
            given: Program::new([
                [r(X), w(Y, 1)].to_vec(),
                [r(Y), w(X, 1)].to_vec(),
            ]),
            never: &[1, 1],
            relaxed: false,
        }
    }

    #[test]
    fn nobody_reads_what_comes_after_its_own_read() {
        load_buffering().forbids();
    }

    #[test]
    fn to_read_no_later_write_needs_no_more() {
        load_buffering().needs_each();
    }
}

mod handed_on {
    use super::*;

    fn relay() -> Puzzle {
        Puzzle {
            program: litmus::relay(),
            given: Program::new([
                [w(X, 1), w(Y, 1)].to_vec(),
                [r(Y), w(Z, 1)].to_vec(),
                [r(Z), r(X)].to_vec(),
            ]),
            never: &[1, 1, 0],
            relaxed: false,
        }
    }

    #[test]
    fn what_is_told_is_handed_on() {
        relay().forbids();
    }

    #[test]
    fn to_hand_it_on_needs_no_more() {
        relay().needs_each();
    }

    fn release_sequence() -> Puzzle {
        Puzzle {
            program: litmus::release_sequence(),
            given: Program::new([
                [w(X, 1), w(Y, 1)].to_vec(),
                [s(Y, 2)].to_vec(),
                [r(Y), r(X)].to_vec(),
            ]),
            never: &[1, 2, 0],
            relaxed: false,
        }
    }

    #[test]
    fn a_swap_hands_on_what_it_has_read() {
        release_sequence().forbids();
    }

    #[test]
    fn the_swap_needs_no_more() {
        release_sequence().needs_each();
    }

    fn message_passing_by_fences() -> Puzzle {
        Puzzle {
            program: litmus::message_passing_by_fences(),
            given: Program::new([
                [w(X, 1), F, w(Y, 1)].to_vec(),
                [r(Y), F, r(X)].to_vec(),
            ]),
            never: &[1, 0],
            relaxed: true,
        }
    }

    #[test]
    fn fences_tell_as_accesses_do() {
        message_passing_by_fences().forbids();
    }

    #[test]
    fn these_fences_need_no_more() {
        message_passing_by_fences().needs_each();
    }
}

mod in_one_order {
    use super::*;

    fn store_buffering() -> Puzzle {
        Puzzle {
            program: litmus::store_buffering(),
            given: Program::new([
                [w(X, 1), r(Y)].to_vec(),
                [w(Y, 1), r(X)].to_vec(),
            ]),
            never: &[0, 0],
            relaxed: false,
        }
    }

    #[test]
    fn one_of_two_sees_the_other() {
        store_buffering().forbids();
    }

    #[test]
    fn one_order_of_four_needs_no_more() {
        store_buffering().needs_each();
    }

    fn store_buffering_by_fences() -> Puzzle {
        Puzzle {
            program: litmus::store_buffering_by_fences(),
            given: Program::new([
                [w(X, 1), F, r(Y)].to_vec(),
                [w(Y, 1), F, r(X)].to_vec(),
            ]),
            never: &[0, 0],
            relaxed: true,
        }
    }

    #[test]
    fn between_fences_one_of_two_sees_the_other() {
        store_buffering_by_fences().forbids();
    }

    #[test]
    fn one_order_of_fences_needs_no_more() {
        store_buffering_by_fences().needs_each();
    }

    fn meeting() -> Puzzle {
        Puzzle {
            program: litmus::meeting(),
            given: Program::new([
                [w(X, 1), s(Z, 1), r(Y)].to_vec(),
                [w(Y, 1), s(Z, 1), r(X)].to_vec(),
            ]),
            never: &[ANY, 0, ANY, 0],
            relaxed: true,
        }
    }

    #[test]
    fn of_two_that_swap_one_word_one_sees_the_other() {
        meeting().forbids();
    }

    #[test]
    fn a_meeting_needs_no_more() {
        meeting().needs_each();
    }

    fn independent_reads() -> Puzzle {
        Puzzle {
            program: litmus::independent_reads(),
            given: Program::new([
                [w(X, 1)].to_vec(),
                [w(Y, 1)].to_vec(),
                [r(X), r(Y)].to_vec(),
                [r(Y), r(X)].to_vec(),
            ]),
            never: &[1, 0, 1, 0],
            relaxed: false,
        }
    }

    #[test]
    fn all_agree_on_the_order_of_two_writes() {
        independent_reads().forbids();
    }

    #[test]
    fn one_order_for_all_needs_no_more() {
        independent_reads().needs_each();
    }
}
