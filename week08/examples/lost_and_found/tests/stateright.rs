//! stateright visits the same states as the search of `money::explore`.
//!
//! Both call the same `step` functions and transactions, but they share no code
//! of a search. If they agree on the number of states and on the first wrong
//! one, neither has left out a state.

use lost_and_found::setups::ONE;
use lost_and_found::{Machine, Setup, machines};
use stateright::{Checker, Model, Path, Property};
use week08::money::cluster::Faults;
use week08::money::explore::{explore, run_at_random};

/// A system as a model of stateright.
struct Modelled<S> {
    start: S,
    /// Whether a state is already wrong if it will settle in a wrong one.
    looks_ahead: bool,
}

impl<S: Machine> Model for Modelled<S> {
    type State = S;
    type Action = S::Action;

    fn init_states(&self) -> Vec<S> {
        vec![self.start.clone()]
    }

    fn actions(&self, state: &S, actions: &mut Vec<S::Action>) {
        *actions = state.actions();
    }

    fn next_state(&self, state: &S, action: S::Action) -> Option<S> {
        let mut next = state.clone();
        next.perform(&action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(RIGHT, |model: &Self, state: &S| {
            let is_settled_well = match model.looks_ahead {
                true => settles_well,
                false => is_settled_well,
            };
            state.check().is_ok() && is_settled_well(state)
        })]
    }
}

const RIGHT: &str = "no money is lost or created, and each run settles";

/// With more states, `explore` would take too long.
const MAX_STATES: usize = 100_000;

/// Checks a state in which nothing but a fault can happen.
fn is_settled_well<S: Machine>(state: &S) -> bool {
    let mut actions = state.actions().into_iter();
    actions.any(|action| !state.is_fault(&action))
        || state.check_settled().is_ok()
}

/// Returns whether a run without faults from this state ends well.
fn settles_well<S: Machine>(state: &S) -> bool {
    run_at_random(state.clone(), 0, |_| 0).is_ok()
}

/// Checks a right system. Both searches have to visit the same states.
fn check(start: impl Machine) {
    let expected = explore(start.clone(), MAX_STATES);
    let expected = expected.unwrap_or_else(|run| panic!("{run}"));
    let seen = check_with_stateright(start);
    assert_eq!(seen, expected, "states of stateright (left) and of `explore`");
}

/// Checks a right system, and returns the number of its states.
fn check_with_stateright(start: impl Machine) -> usize {
    let checker = Modelled { start, looks_ahead: false }.checker();
    let checker = checker.spawn_bfs().join();
    if let Some(path) = checker.discovery(RIGHT) {
        panic!("stateright finds a wrong run:\n{:#?}", described(path).0);
    }
    let states = checker.unique_state_count();
    println!("{states} states");
    states
}

/// Checks a wrong system. Both searches have to find the same run.
fn check_wrong(start: impl Machine) {
    let expected = explore(start.clone(), MAX_STATES);
    let expected = expected.expect_err("the system is wrong");
    let checker = Modelled { start, looks_ahead: true }.checker();
    let checker = checker.spawn_bfs().join();
    let path = checker.discovery(RIGHT).expect("stateright finds a wrong run");
    let (mut trace, last) = described(path);
    // The search also describes how the system settles.
    if last.check().is_ok() {
        let run = run_at_random(last, 0, |_| 0);
        trace.append(&mut run.expect_err("the state is wrong").trace);
    }
    assert_eq!(trace, expected.trace, "stateright (left) and `explore`");
}

/// Returns the texts of the actions, and the last state.
fn described<S: Machine>(path: Path<S, S::Action>) -> (Vec<String>, S) {
    let last = path.last_state().clone();
    let steps = path.into_vec().into_iter();
    let texts = steps.filter_map(|(s, action)| Some(s.describe(&action?)));
    (texts.collect(), last)
}

const TWO: Setup = with(2, 2);

const fn with(transfers: u32, crashes: u32) -> Setup {
    let faults = Faults { crashes, repeats: 0, losses: 0, failures: 0 };
    Setup { transfers, faults, ..ONE }
}

#[test]
fn an_outbox_and_an_inbox_lose_no_money_in_two_crashes() {
    check(machines::outbox::answer::system(TWO));
}

#[test]
fn an_inbox_credits_once_despite_clean_ups_and_repeated_messages() {
    let faults = Faults { crashes: 1, repeats: 1, losses: 0, failures: 0 };
    check(machines::inbox::answer::system(Setup { faults, ..ONE }));
}

#[test]
fn half_messages_lose_no_money_in_two_crashes() {
    check(machines::half_message::answer::system(TWO));
}

#[test]
fn tcc_loses_no_money_in_two_crashes() {
    check(machines::tcc::answer::system(with(1, 2)));
    check(machines::tcc::answer::system(with(2, 1)));
    let states = check_with_stateright(machines::tcc::answer::system(TWO));
    assert!(states > MAX_STATES, "`explore` can visit {states} states, too");
}

// The notifications of two orders share nothing.
#[test]
fn a_paid_order_is_delivered_once_in_two_crashes() {
    check(machines::callback::answer::system(with(1, 2)));
}

#[test]
fn stateright_finds_the_same_wrong_runs() {
    check_wrong(machines::outbox::commits_then_publishes::system(TWO));
    check_wrong(machines::outbox::publishes_then_commits::system(TWO));
    check_wrong(machines::inbox::deduplicates_in_a_transaction_after::system(
        TWO,
    ));
    check_wrong(
        machines::half_message::check_back_leaves_no_tombstone::system(TWO),
    );
    check_wrong(machines::tcc::deletes_the_row_when_done::system(TWO));
}
