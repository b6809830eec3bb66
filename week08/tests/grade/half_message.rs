use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Display};
use std::num::NonZero;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{self, RngAlgorithm, TestRng, TestRunner};
use week08::half_message::{
    Command, Effect, Event, Producer, Reply, next, transact,
};
use week08::money::broker::{Decision, Input, State};
use week08::money::cluster::Faults;
use week08::money::explore::{explore, run_at_random};
use week08::money::simulated::Database;
use week08::money::{Message, Transfer};

#[path = "half_message/cluster.rs"]
mod cluster;
#[allow(clippy::duplicate_mod, reason = "three graders share it")]
#[path = "statements.rs"]
mod statements;

use cluster::{Setup, cluster};
use statements::{Failed, Lock, Other, Watch};

const DECISIONS: [Decision; 3] =
    [Decision::Commit, Decision::Rollback, Decision::Unknown];
const LIMITS: [u32; 9] = [0, 1, 2, 15, 16, 130, 1_500, u32::MAX - 1, u32::MAX];

mod broker {
    use super::*;

    #[test]
    fn an_open_message_is_checked_up_to_the_limit_and_then_parked() {
        for limit in LIMITS {
            let last = limit.saturating_sub(1);
            for checks in [0, 1, 14, 15, 16, 200, limit / 2, last, limit] {
                let expected = if checks < limit {
                    State::Prepared { checks: checks + 1 }
                } else {
                    State::Parked
                };
                expect(State::Prepared { checks }, Input::Due, limit, expected);
            }
        }
    }

    #[test]
    fn a_decision_ends_a_prepared_or_parked_message_and_is_final() {
        for limit in LIMITS {
            for input in inputs() {
                for state in [State::RolledBack, State::Delivered] {
                    expect(state, input, limit, state);
                }
                let expected = match input {
                    Input::Delivered => State::Delivered,
                    _ => State::Committed,
                };
                expect(State::Committed, input, limit, expected);
            }
            let prepared = [0, 1, limit / 2, limit, u32::MAX];
            let prepared = prepared.map(|checks| State::Prepared { checks });
            for state in prepared.into_iter().chain([State::Parked]) {
                for (decision, expected) in [
                    (Decision::Commit, State::Committed),
                    (Decision::Rollback, State::RolledBack),
                    (Decision::Unknown, state),
                ] {
                    expect(state, Input::Confirmed(decision), limit, expected);
                }
            }
        }
    }

    #[test]
    fn a_parked_message_waits_until_a_person_retries_or_refunds_it() {
        for limit in LIMITS {
            for (input, expected) in [
                (Input::Due, State::Parked),
                (Input::Delivered, State::Parked),
                (Input::Retry, State::Prepared { checks: 0 }),
                (Input::Refund, State::Refunding),
            ] {
                expect(State::Parked, input, limit, expected);
                if input != Input::Due {
                    // The person, or the queue, does it twice.
                    expect(expected, input, limit, expected);
                }
            }
            // A refund ends when the producer has rolled back.
            for input in inputs() {
                let expected = match input {
                    Input::Confirmed(Decision::Rollback) => State::RolledBack,
                    _ => State::Refunding,
                };
                expect(State::Refunding, input, limit, expected);
            }
            for checks in [0, 1, limit] {
                let state = State::Prepared { checks };
                for input in [Input::Retry, Input::Refund, Input::Delivered] {
                    expect(state, input, limit, state);
                }
            }
        }
    }

    fn expect(state: State, input: Input, limit: u32, expected: State) {
        let what = format!("{state:?} after {input:?} with {limit} checks");
        check(expected, next(state, input, limit), what);
    }

    fn inputs() -> Vec<Input> {
        let others =
            [Input::Due, Input::Delivered, Input::Retry, Input::Refund];
        let confirmed = DECISIONS.map(Input::Confirmed);
        confirmed.into_iter().chain(others).collect()
    }
}

mod outcomes {
    use super::*;

    #[test]
    fn a_debit_after_a_check_back_is_refused() {
        for id in [0, 7, u64::MAX] {
            let mut database = Database::new([(1, 100)]);
            let transfer = transfer(id, 1, 60);
            for (command, expected) in [
                (Command::Check(transfer), Decision::Rollback),
                (Command::Debit(transfer), Decision::Rollback),
                (Command::Check(transfer), Decision::Rollback),
                (Command::Refund(transfer), Decision::Rollback),
                (Command::Debit(transfer), Decision::Rollback),
            ] {
                let seen = run(&mut database, command);
                check(expected, seen, format!("the decision of {command:?}"));
                check(100, database.total(), format!("cents at {command:?}"));
            }
        }
        // Many ids, in one transaction, as each copies the database.
        let mut database = Database::new([(1, 3_000)]);
        let run_all = async |tx: &mut Database| {
            let commands = [Command::Debit, Command::Check, Command::Debit];
            for (round, id) in
                (0..3).flat_map(|r| (0..1_500).map(move |i| (r, i)))
            {
                let transfer = transfer(id, 1, 1);
                let is_checked = id % 2 == 0;
                let command = match round {
                    0 if is_checked => Command::Check(transfer),
                    _ => commands[round](transfer),
                };
                let expected = match is_checked {
                    true => Decision::Rollback,
                    false => Decision::Commit,
                };
                let Ok(decision) = transact(tx, &command).await;
                check(expected, decision, format!("{command:?}"));
            }
        };
        database.transaction(run_all, |()| true);
        check(2_250, database.total(), "cents after 750 debits of 1 cent");
    }

    #[test]
    fn a_refused_debit_is_refused_for_good() {
        for (account, cents) in [(1, 101), (9, 1), (1, u32::MAX)] {
            let mut database = Database::new([(1, 100)]);
            let transfer = transfer(7, account, cents);
            let decision = run(&mut database, Command::Debit(transfer));
            check(Decision::Rollback, decision, "too little money");
            database.accounts.insert(account, i64::MAX);
            for command in [Command::Debit, Command::Check, Command::Debit] {
                let command = command(transfer);
                let decision = run(&mut database, command);
                let what = format!("{command:?} after more money has come");
                check(Decision::Rollback, decision, &what);
                check(i64::MAX, database.accounts[&account], what);
            }
        }
    }

    #[test]
    fn a_refund_without_an_account_is_unknown_and_can_be_repeated() {
        let mut database = Database::new([(1, 100)]);
        let transfer = transfer(7, 1, 60);
        let mut expect = |balance: Option<i64>, command, expected, then| {
            match balance {
                Some(balance) => _ = database.accounts.insert(1, balance),
                None => _ = database.accounts.remove(&1),
            }
            let command: Command = command;
            let what = format!("{command:?} with {balance:?} cents");
            check(expected, run(&mut database, command), &what);
            check(then, database.accounts.get(&1).copied(), what);
        };
        let (debit, refund) =
            (Command::Debit(transfer), Command::Refund(transfer));
        let full = Some(i64::MAX - 59);
        expect(Some(100), debit, Decision::Commit, Some(40));
        for _ in 0..2 {
            expect(None, refund, Decision::Unknown, None);
            expect(full, refund, Decision::Unknown, full);
            expect(full, debit, Decision::Commit, full);
            let command = Command::Check(transfer);
            expect(None, command, Decision::Commit, None);
        }
        expect(Some(0), refund, Decision::Rollback, Some(60));
        expect(Some(60), refund, Decision::Rollback, Some(60));
        expect(Some(60), debit, Decision::Rollback, Some(60));
    }

    #[test]
    fn any_commands_have_the_decisions_and_balances_of_a_model() {
        let id = select(vec![0, 1, 1 << 32, u64::MAX]);
        let cents = select(vec![1, 10, 60, 100, u32::MAX]);
        let command = (0..5, id, 1_u64..4, 2_u64..4, cents);
        for_all(300, vec(command, 0..40), |commands| {
            let accounts = [(1, 150), (2, i64::from(u32::MAX))];
            let mut database = Database::new(accounts);
            let mut balances = BTreeMap::from(accounts);
            // Whether the transfer of each id is debited.
            let mut model = BTreeMap::new();
            for (kind, id, from, to, cents) in commands {
                let transfer = Transfer { to, ..transfer(id, from, cents) };
                let command = match kind {
                    0..3 => Command::Debit(transfer),
                    3 => Command::Check(transfer),
                    _ => Command::Refund(transfer),
                };
                let old = model.contains_key(&id).then(|| database.clone());
                let expected = model_of(&mut model, &mut balances, command);
                let seen = run(&mut database, command);
                check(expected, seen, format!("the decision of {command:?}"));
                let what = format!("balances after {command:?}");
                check(&balances, &database.accounts, what);
                // A later command changes no row, if it refunds nothing.
                let old = old.filter(|old| old.accounts == database.accounts);
                if let Some(old) = old {
                    let what = format!("rows after the later {command:?}");
                    check(old.rows, database.rows.clone(), what);
                }
            }
        });
    }

    #[test]
    fn an_error_of_any_statement_is_returned_at_once() {
        for_each_race(|Race { before, other, alone, .. }, command| {
            // If `first` is 0, the other command does not run.
            for first in 0.. {
                for number in first + 1.. {
                    let mut seen = 0;
                    let watch = match first {
                        0 => Watch::fail_at(number, &mut seen),
                        _ => Watch::new(|tx, locks| {
                            seen += 1;
                            if seen == first {
                                alone.commit(tx, locks);
                            }
                            if seen < number { Ok(()) } else { Err(Failed) }
                        }),
                    };
                    let mut database = alone.committed.clone();
                    let result = run_with(&mut database, command, watch).0;
                    let what = format!(
                        "the result and the number of statements of \
                         {command:?}, after {before:?}, if {other:?} commits \
                         before statement {first} (0: never), and statement \
                         {number} fails"
                    );
                    if seen < number {
                        assert!(result.is_ok(), "{what}: {result:?}");
                        assert!(number > 1, "{command:?} runs no statement");
                        if seen < first {
                            return;
                        }
                        break;
                    }
                    check((Err(Failed), number), (result, seen), what);
                }
            }
        });
    }

    #[test]
    fn concurrent_commands_have_the_result_of_one_after_the_other() {
        for_each_race(|Race { before, other, alone, theirs }, command| {
            let serial = |first, second| {
                let mut database = alone.committed.clone();
                let decisions =
                    [first, second].map(|command| run(&mut database, command));
                (decisions, database.total())
            };
            let ([a, b], total) = serial(command, *other);
            let ([d, c], other_total) = serial(*other, command);
            let expected = [([a, b], total), ([c, d], other_total)];
            for number in 1.. {
                let (mut statements, mut is_done) = (0, false);
                let watch = Watch::new(|tx, locks| {
                    statements += 1;
                    if statements == number {
                        is_done = alone.commit(tx, locks);
                    }
                    Ok(())
                });
                let mut database = alone.committed.clone();
                let ours = run_with(&mut database, command, watch).0;
                if statements < number {
                    break;
                }
                // If it could not commit, it had to wait.
                let theirs =
                    if is_done { *theirs } else { run(&mut database, *other) };
                let seen = ([ours.unwrap(), theirs], database.total());
                assert!(
                    expected.contains(&seen),
                    "{other:?} commits before statement {number} of \
                     {command:?}, after {before:?}:\nexpected one of \
                     {expected:?}\n    seen {seen:?} (decisions of \
                     {command:?} and {other:?}, and cents in the account)"
                );
            }
        });
    }

    /// A command that commits between two statements of another one.
    struct Race<'a> {
        /// The commands that are committed before.
        before: &'a [Command],
        other: Command,
        /// What the other command does if it runs alone.
        alone: Other<'a>,
        theirs: Decision,
    }

    fn for_each_race(test: impl Fn(&Race<'_>, Command)) {
        let commands = |transfer| {
            [Command::Debit, Command::Check, Command::Refund]
                .map(|command| command(transfer))
        };
        let ours = commands(transfer(7, 1, 60));
        // Another transfer has the same id, or the same account.
        let [same_id, same_account] =
            [transfer(7, 1, 30), transfer(8, 1, 90)].map(commands);
        let [debit, check, refund] = ours;
        let before = [
            vec![],
            vec![debit],
            vec![check],
            vec![debit, refund],
            vec![same_id[0]],
            vec![same_account[0]],
            vec![same_account[0], debit],
        ];
        for before in &before {
            // Enough money for one of the transfers, and for all.
            for balance in [100, 1_000] {
                let mut start = Database::new([(1, balance)]);
                for command in before {
                    run(&mut start, *command);
                }
                for other in [ours, same_id, same_account].concat() {
                    let mut after = start.clone();
                    let (theirs, locks) =
                        run_with(&mut after, other, Watch::idle());
                    let theirs = theirs.unwrap();
                    let alone = Other { committed: &start, after, locks };
                    let race = Race { before, other, alone, theirs };
                    for command in ours {
                        test(&race, command);
                    }
                }
            }
        }
    }

    fn model_of(
        model: &mut BTreeMap<u64, Option<Transfer>>,
        balances: &mut BTreeMap<u64, i64>,
        command: Command,
    ) -> Decision {
        let (Command::Debit(transfer)
        | Command::Check(transfer)
        | Command::Refund(transfer)) = command;
        let cents = i64::from(transfer.cents.get());
        let is_debit = matches!(command, Command::Debit(_));
        let debited = model.entry(transfer.id).or_insert_with(|| {
            let balance = balances.get_mut(&transfer.from);
            let rich = balance.filter(|b| is_debit && **b >= cents);
            rich.map(|balance| {
                *balance -= cents;
                transfer
            })
        });
        if *debited != Some(transfer) {
            return Decision::Rollback;
        }
        if matches!(command, Command::Refund(_)) {
            *debited = None;
            *balances.get_mut(&transfer.from).expect("debited") += cents;
            return Decision::Rollback;
        }
        Decision::Commit
    }
}

mod producer {
    use super::*;

    #[test]
    fn a_request_is_prepared_then_debited_then_confirmed_and_answered() {
        for id in [0, 7, u64::MAX] {
            for (decision, reply) in [
                (Decision::Commit, Reply::Accepted),
                (Decision::Rollback, Reply::Refused),
            ] {
                let mut producer = Producer::default();
                // A client repeats its request.
                for _ in 0..3 {
                    debiting(&mut producer, id);
                    let event = Event::Committed(decision);
                    step(
                        &mut producer,
                        event,
                        &[Effect::Confirm(id, decision), Effect::Reply(reply)],
                    );
                }
            }
        }
    }

    #[test]
    fn a_request_without_a_known_outcome_confirms_nothing() {
        for id in [0, 7, u64::MAX] {
            for (event, reply) in [
                (Event::TimedOut, Reply::Unknown),
                (Event::PrepareRefused(id), Reply::Refused),
            ] {
                let mut producer = Producer::default();
                for _ in 0..2 {
                    preparing(&mut producer, id);
                    let reply = Effect::Reply(reply);
                    step(&mut producer, event.clone(), &[reply]);
                }
                for _ in 0..2 {
                    debiting(&mut producer, id);
                    let reply = Effect::Reply(Reply::Unknown);
                    step(&mut producer, Event::RolledBack, &[reply]);
                }
            }
        }
    }

    #[test]
    fn check_backs_and_refunds_are_answered_from_the_database() {
        let mut producer = Producer::default();
        for id in [7, 0, u64::MAX] {
            for decision in DECISIONS {
                for is_refund in [false, true] {
                    checking(&mut producer, id, is_refund);
                    let confirm = Effect::Confirm(id, decision);
                    let event = Event::Committed(decision);
                    step(&mut producer, event, &[confirm]);
                    checking(&mut producer, id, is_refund);
                    let unknown = Effect::Confirm(id, Decision::Unknown);
                    step(&mut producer, Event::RolledBack, &[unknown]);
                }
            }
        }
    }

    #[test]
    fn late_answers_and_earlier_events_change_nothing() {
        let id = || select(vec![0, 7, u64::MAX]);
        let late = || vec((0_u32..3, id()), 0..5);
        let (commit, rollback) = (Decision::Commit, Decision::Rollback);
        let outcome = select(vec![None, Some(commit), Some(rollback)]);
        let work = (0..5, id(), outcome, [late(), late(), late()]);
        for_all(200, vec(work, 1..7), |works| {
            let producer = &mut Producer::default();
            for (kind, id, outcome, [idle, waiting, running]) in works {
                ignore(producer, idle, None);
                // A check-back, a refund, and requests that the broker does not
                // answer, refuses, or stores.
                let (is_request, is_stored) = (kind > 1, kind == 4);
                if is_request {
                    preparing(producer, id);
                    ignore(producer, waiting, Some(id));
                    let (event, effect) = match kind {
                        2 => (Event::TimedOut, Effect::Reply(Reply::Unknown)),
                        3 => (
                            Event::PrepareRefused(id),
                            Effect::Reply(Reply::Refused),
                        ),
                        _ => {
                            let debit = Command::Debit(message(id).transfer);
                            (Event::Prepared(id), Effect::Transact(debit))
                        }
                    };
                    step(producer, event, &[effect]);
                    if !is_stored {
                        continue;
                    }
                } else {
                    checking(producer, id, kind == 1);
                }
                ignore(producer, running, None);
                let event = outcome.map_or(Event::RolledBack, Event::Committed);
                let decision = outcome.unwrap_or(Decision::Unknown);
                let confirm = Effect::Confirm(id, decision);
                let reply = Effect::Reply(match decision {
                    Decision::Commit => Reply::Accepted,
                    Decision::Rollback => Reply::Refused,
                    Decision::Unknown => Reply::Unknown,
                });
                let expected = match outcome {
                    _ if !is_request => vec![confirm],
                    Some(_) => vec![confirm, reply],
                    None => vec![reply],
                };
                step(producer, event, &expected);
            }
        });
    }

    /// Sends late answers: the producer waits for the answer to another id, or
    /// for none.
    fn ignore(
        producer: &mut Producer,
        late: Vec<(u32, u64)>,
        awaited: Option<u64>,
    ) {
        for (kind, id) in late {
            let event = match kind {
                0 => Event::Prepared(id),
                1 => Event::PrepareRefused(id),
                _ => Event::TimedOut,
            };
            let is_late = event != Event::TimedOut && awaited != Some(id);
            if is_late || awaited.is_none() {
                step(producer, event, &[]);
            }
        }
    }

    fn preparing(producer: &mut Producer, id: u64) {
        let message = message(id);
        let event = Event::Requested(message);
        step(producer, event, &[Effect::Prepare(message)]);
    }

    fn debiting(producer: &mut Producer, id: u64) {
        preparing(producer, id);
        let debit = Command::Debit(message(id).transfer);
        step(producer, Event::Prepared(id), &[Effect::Transact(debit)]);
    }

    fn checking(producer: &mut Producer, id: u64, is_refund: bool) {
        let message = message(id);
        let transfer = message.transfer;
        let (event, command) = if is_refund {
            (Event::Refund(message), Command::Refund(transfer))
        } else {
            (Event::CheckBack(message), Command::Check(transfer))
        };
        step(producer, event, &[Effect::Transact(command)]);
    }

    fn message(id: u64) -> Message {
        Message { debited_s: 9, transfer: transfer(id, 1, 60) }
    }

    fn step(producer: &mut Producer, event: Event, expected: &[Effect]) {
        let what = format!("effects of {event:?} for {producer:?}");
        check(expected, &producer.step(event), what);
    }
}

mod crashes {
    use super::*;

    const SMALL: Setup = Setup {
        transfers: 1,
        balance: 1_000,
        attempts: 2,
        max_checks: 1,
        retries: 0,
        must_complete: false,
    };

    #[test]
    fn transfers_complete_without_faults() {
        for transfers in 1..=3 {
            for max_checks in [0, 1, 15] {
                let setup = Setup { transfers, max_checks, ..SMALL };
                visit(Setup { must_complete: true, ..setup }, [0, 0, 0, 0]);
            }
        }
    }

    #[test]
    fn no_cent_is_lost_in_two_crashes() {
        for crashes in 1..=2 {
            // The client gives up, or tries again.
            visit(Setup { attempts: 1, ..SMALL }, [crashes, 0, 0, 0]);
            visit(SMALL, [crashes, 0, 0, 0]);
        }
        visit(Setup { transfers: 2, ..SMALL }, [1, 0, 0, 0]);
    }

    #[test]
    fn a_refused_transfer_is_never_credited() {
        let setup = Setup { balance: 0, retries: 1, ..SMALL };
        visit(setup, [2, 1, 0, 0]);
        visit(Setup { max_checks: 0, ..setup }, [1, 1, 1, 0]);
    }

    #[test]
    fn no_cent_is_lost_by_lost_calls_failures_and_early_check_backs() {
        let once = Setup { attempts: 1, ..SMALL };
        for faults in [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]] {
            visit(once, faults);
        }
        visit(Setup { max_checks: 0, ..once }, [0, 2, 0, 0]);
        visit(SMALL, [0, 1, 1, 1]);
        visit(Setup { retries: 1, ..once }, [1, 1, 1, 0]);
        visit(Setup { max_checks: 0, ..SMALL }, [0, 1, 0, 2]);
        visit(Setup { max_checks: 0, ..SMALL }, [1, 1, 1, 0]);
        visit(Setup { max_checks: 2, retries: 1, ..SMALL }, [0, 2, 1, 0]);
        // Enough for the second transfer after a refund of the first one.
        let setup = Setup { transfers: 2, balance: 10, max_checks: 0, ..SMALL };
        visit(setup, [1, 0, 1, 0]);
    }

    #[test]
    fn four_transfers_survive_many_faults_in_random_runs() {
        let mut random = fastrand::Rng::with_seed(8);
        for max_checks in (0..4).cycle().take(80) {
            let setup = Setup { transfers: 4, max_checks, ..SMALL };
            let setup = Setup { attempts: 3, retries: 3, ..setup };
            let balance = if max_checks == 3 { 500 } else { 10_000 };
            let faults =
                Faults { crashes: 5, repeats: 5, losses: 5, failures: 5 };
            // Faults are the last actions. Not all of them happen early.
            let choose = |n| random.usize(..n).min(random.usize(..n));
            let cluster = cluster(Setup { balance, ..setup }, faults);
            let run = run_at_random(cluster, 600, choose);
            run.unwrap_or_else(|run| panic!("{run}"));
        }
    }

    fn visit(setup: Setup, faults: [u32; 4]) {
        let [crashes, repeats, losses, failures] = faults;
        let faults = Faults { crashes, repeats, losses, failures };
        let run = explore(cluster(setup, faults), 30_000);
        run.unwrap_or_else(|run| panic!("{run}"));
    }
}

fn transfer(id: u64, from: u64, cents: u32) -> Transfer {
    Transfer { id, from, to: 2, cents: NonZero::new(cents).unwrap() }
}

/// Commits a command, and returns its decision.
fn run(database: &mut Database, command: Command) -> Decision {
    let body = async |tx: &mut Database| transact(tx, &command).await;
    let Ok(decision) = database.transaction(body, |_| true);
    decision
}

/// Runs a command in a transaction that is watched, and commits it.
fn run_with(
    database: &mut Database,
    command: Command,
    mut watch: Watch<'_>,
) -> (Result<Decision, Failed>, BTreeSet<Lock>) {
    let body = async |tx: &mut Database| {
        transact(&mut watch.begin(tx), &command).await
    };
    let result = database.transaction(body, Result::is_ok);
    (result, watch.locks)
}

#[expect(clippy::needless_pass_by_value, reason = "the calls are shorter")]
fn check<T: PartialEq + Debug>(expected: T, seen: T, what: impl Display) {
    assert!(
        expected == seen,
        "{what}:\nexpected {expected:?}\n    seen {seen:?}"
    );
}

fn for_all<S: Strategy>(cases: u32, strategy: S, check: impl Fn(S::Value)) {
    let config = test_runner::Config {
        cases,
        failure_persistence: None,
        ..test_runner::Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let test = |value| {
        check(value);
        Ok(())
    };
    TestRunner::new_with_rng(config, rng).run(&strategy, test).unwrap();
}
