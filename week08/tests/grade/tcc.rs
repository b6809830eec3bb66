use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::num::NonZero;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{
    self, RngAlgorithm, TestError, TestRng, TestRunner,
};
use week08::money::coordinator::Operation::{Cancel, Confirm, Try};
use week08::money::coordinator::Side::{Credit, Debit};
use week08::money::coordinator::{Branch, Call, Operation, Reply, Side};
use week08::money::simulated::Database;
use week08::money::{Table, Transfer};

#[path = "tcc/cluster.rs"]
mod cluster;
#[path = "tcc/session.rs"]
mod session;

use session::{Model, Session};

const OPERATIONS: [Operation; 3] = [Try, Confirm, Cancel];
const SIDES: [Side; 2] = [Debit, Credit];
const FROM: u64 = 1;
const TO: u64 = 2;

mod calls {
    use super::*;

    #[test]
    fn a_try_freezes_a_debit_once_and_only_reserves_a_credit() {
        for [from, to, cents] in [[500, 0, 100], [100, 7, 100], [1, 0, 1]] {
            let mut bank = Bank::new(from, to, cents);
            bank.expect(Debit, Try, Reply::Done, [from - cents, to]);
            bank.expect(Debit, Try, Reply::Done, [from - cents, to]);
            bank.expect(Credit, Try, Reply::Done, [from - cents, to]);
            bank.expect(Credit, Try, Reply::Done, [from - cents, to]);
        }
    }

    #[test]
    fn a_confirm_keeps_the_debit_and_adds_the_credit_once() {
        for [from, to, cents] in [[500, 0, 100], [100, 7, 100], [1, 0, 1]] {
            let mut bank = Bank::new(from, to, cents);
            bank.expect(Debit, Try, Reply::Done, [from - cents, to]);
            bank.expect(Credit, Try, Reply::Done, [from - cents, to]);
            let (from, credited) = (from - cents, to + cents);
            bank.expect(Debit, Confirm, Reply::Done, [from, to]);
            bank.expect(Debit, Confirm, Reply::Done, [from, to]);
            bank.expect(Credit, Confirm, Reply::Done, [from, credited]);
            bank.expect(Credit, Confirm, Reply::Done, [from, credited]);
        }
    }

    #[test]
    fn a_cancel_gives_back_what_the_try_froze_once() {
        for [from, to, cents] in [[500, 0, 100], [100, 7, 100], [1, 0, 1]] {
            let mut bank = Bank::new(from, to, cents);
            bank.expect(Debit, Try, Reply::Done, [from - cents, to]);
            bank.expect(Credit, Try, Reply::Done, [from - cents, to]);
            for _ in 0..2 {
                bank.expect(Debit, Cancel, Reply::Done, [from, to]);
                bank.expect(Credit, Cancel, Reply::Done, [from, to]);
            }
        }
    }

    #[test]
    fn a_refused_try_freezes_nothing_and_its_cancel_gives_nothing_back() {
        for [from, cents] in [[99, 100], [0, 1], [0, i64::from(u32::MAX)]] {
            let mut bank = Bank::new(from, 0, cents);
            bank.expect(Debit, Try, Reply::Refused, [from, 0]);
            bank.expect(Debit, Try, Reply::Refused, [from, 0]);
            bank.expect(Debit, Cancel, Reply::Done, [from, 0]);
        }
        let mut bank = Bank::new(500, 0, 100);
        bank.database.accounts.remove(&TO);
        for operation in [Try, Try, Cancel] {
            let reply = bank.call(Credit, operation);
            let expected =
                if operation == Try { Reply::Refused } else { Reply::Done };
            assert_eq!(
                reply, expected,
                "reply (seen, expected) to {operation:?} of a credit whose \
                 account `to` does not exist"
            );
        }
    }
}

mod fence {
    use super::*;

    #[test]
    fn a_cancel_without_a_try_succeeds_and_its_late_try_is_refused() {
        for side in SIDES {
            let mut bank = Bank::new(500, 0, 100);
            for _ in 0..2 {
                bank.expect(side, Cancel, Reply::Done, [500, 0]);
                bank.expect(side, Try, Reply::Cancelled, [500, 0]);
                bank.expect(side, Try, Reply::Cancelled, [500, 0]);
                bank.expect(side, Confirm, Reply::Cancelled, [500, 0]);
            }
        }
    }

    #[test]
    fn a_confirmed_or_cancelled_branch_stays_so_whatever_is_called() {
        for (side, last) in
            SIDES.into_iter().flat_map(|side| [(side, Confirm), (side, Cancel)])
        {
            let mut bank = Bank::new(500, 0, 100);
            bank.call(side, Try);
            bank.call(side, last);
            let balances = bank.balances();
            for operation in [Try, Confirm, Cancel, Try, Cancel, Confirm, Try] {
                let expected = match (last, operation) {
                    (Confirm, Cancel) => Reply::Confirmed,
                    (Cancel, Try | Confirm) => Reply::Cancelled,
                    _ => Reply::Done,
                };
                bank.expect(side, operation, expected, balances);
            }
        }
    }

    #[test]
    fn any_calls_in_any_order_match_the_model() {
        let steps = prop::collection::vec(any_step(), 1..60);
        let balance = select(vec![0, 100, 250, 1 << 33, i64::MAX]);
        for_all(
            1_500,
            (balance.clone(), balance, steps),
            |(from, to, steps)| {
                let mut database = Database::new([(FROM, from), (TO, to)]);
                let mut model = Model::new(&database);
                let first = database.accounts.clone();
                for (i, step) in steps.iter().enumerate() {
                    let (seen, expected) = match *step {
                        Step::Call(call) => (
                            session::run(&mut database, call),
                            model.call(call),
                        ),
                        Step::Set(account, cents) => {
                            set(&mut database.accounts, account, cents);
                            set(&mut model.accounts, account, cents);
                            continue;
                        }
                    };
                    let steps = &steps[..=i];
                    let what = format!(
                        "accounts {first:?} (and no other), then {steps:?}"
                    );
                    if seen != expected {
                        return Err(format!(
                            "{what}: the reply to the last call is {seen:?}, \
                             and not {expected:?}"
                        ));
                    }
                    let (seen, expected) =
                        (&database.accounts, &model.accounts);
                    if seen != expected {
                        return Err(format!(
                            "{what}: the accounts are {seen:?}, and not \
                             {expected:?}"
                        ));
                    }
                    let mut tables = database.rows.keys().map(|key| key.0);
                    let other = tables.find(|table| *table != Table::Fence);
                    if let Some(other) = other {
                        return Err(format!(
                            "{what}: the table {other:?} has a row, and only \
                             `Fence` may be changed"
                        ));
                    }
                }
                Ok(())
            },
        );
    }

    #[test]
    fn each_of_2_000_open_branches_is_found_again() {
        let mut database = Database::new([(FROM, 2_000), (TO, 0)]);
        let call = |id: u64, side, operation| {
            let cents = NonZero::<u32>::MIN;
            let id = id << 28;
            let transfer = Transfer { id, from: FROM, to: TO, cents };
            Call { operation, branch: Branch { side, transfer } }
        };
        let end = |id| if id % 2 == 0 { Confirm } else { Cancel };
        let rounds =
            ["the first try", "its repeat", "confirm or cancel", "a late try"];
        for (round, name) in rounds.into_iter().enumerate() {
            for (id, side) in (0..1_000).flat_map(|id| SIDES.map(|s| (id, s))) {
                let operation = if round == 2 { end(id) } else { Try };
                let is_late = round == 3 && end(id) == Cancel;
                let expected =
                    if is_late { Reply::Cancelled } else { Reply::Done };
                let call = call(id, side, operation);
                let reply = session::run(&mut database, call);
                assert_eq!(
                    reply, expected,
                    "reply (seen, expected) to `{call}` ({name}), among 2 000 \
                     branches"
                );
            }
        }
        let balances: Vec<_> = database.accounts.into_values().collect();
        assert_eq!(
            balances,
            [1_500, 500],
            "balances of both accounts (seen, expected) at the end"
        );
    }
}

mod concurrency {
    use std::cmp::Ordering;

    use super::*;

    #[test]
    fn two_calls_at_once_act_like_one_after_the_other() {
        for situation in situations() {
            let rivals = SIDES.into_iter().flat_map(|side| {
                OPERATIONS.map(|o| [(side, o, 100), (side, o, 99)])
            });
            for (side, operation, cents) in rivals.flatten() {
                let mut rival = situation.call;
                rival.operation = operation;
                rival.branch.side = side;
                rival.branch.transfer.cents = NonZero::new(cents).unwrap();
                check_rival(&situation, rival);
            }
        }
    }

    #[test]
    fn the_row_of_the_fence_is_changed_before_the_account() {
        for situation in situations() {
            let mut session = Session::new(situation.database.clone());
            session.run(situation.call).unwrap();
            assert!(
                !session.account_was_first,
                "{situation}: it calls `add` before it has changed a row of \
                 the fence, so two calls can deadlock"
            );
        }
    }

    #[test]
    fn a_failed_statement_fails_the_call_and_a_repeat_succeeds() {
        for situation in situations() {
            let Situation { database, model, call, .. } = &situation;
            let (mut model, call) = (model.clone(), *call);
            let expected = model.call(call);
            for n in 0.. {
                let mut session = Session::new(database.clone());
                session.fails_at = Some(n);
                let result = session.run(call);
                if session.statements <= n {
                    assert_eq!(
                        result,
                        Ok(expected),
                        "{situation}, and no statement failed: result (seen, \
                         expected)"
                    );
                    break;
                }
                let message =
                    format!("{situation}, and statement {} failed", n + 1);
                assert!(
                    result.is_err(),
                    "{message}: the call returned {result:?}, and not the error"
                );
                assert_eq!(
                    session.statements,
                    n + 1,
                    "{message}: number of statements (seen, expected)"
                );
                let mut database = database.clone();
                let message = format!("{message}, then it was repeated");
                let reply = session::run(&mut database, call);
                assert_eq!(
                    reply, expected,
                    "{message}: reply (seen, expected) to the repeat"
                );
                assert_eq!(
                    database.accounts, model.accounts,
                    "{message}: accounts (seen, expected) after the repeat"
                );
            }
        }
    }

    /// Runs `rival` at each point of the situation's call, and checks that both
    /// have the effects of one of the two orders.
    fn check_rival(situation: &Situation, rival: Call) {
        let Situation { database, model, call: first, .. } = situation;
        let first = *first;
        let mut sides = vec![first.branch.side, rival.branch.side];
        sides.dedup();
        let later = sides.iter().flat_map(|&side| {
            let branch = Branch { side, transfer: first.branch.transfer };
            OPERATIONS.map(|operation| Call { operation, branch })
        });
        let later: Vec<_> = later.collect();
        for n in 0.. {
            let mut session = Session::new(database.clone());
            session.rival = Some((n, rival));
            let reply = session.run(first).expect("no statement fails");
            let statements = session.statements;
            let start = match n.cmp(&statements) {
                Ordering::Less => format!("before its statement {}", n + 1),
                Ordering::Equal => "before its commit".to_owned(),
                Ordering::Greater => "after its commit".to_owned(),
            };
            assert!(
                !session.is_deadlock,
                "{situation}, and `{rival}` starts {start}: each waits for a \
                 row that the other has changed (a deadlock)"
            );
            let (mut after, rival_reply) = session.commit();
            // Replies and accounts, after both calls and after each later one.
            let mut seen =
                vec![(vec![reply, rival_reply], after.accounts.clone())];
            for &call in &later {
                let reply = session::run(&mut after, call);
                seen.push((vec![reply], after.accounts.clone()));
            }
            let orders = [false, true].map(|rival_is_first| {
                let mut model = model.clone();
                let replies = if rival_is_first {
                    let rival_reply = model.call(rival);
                    vec![model.call(first), rival_reply]
                } else {
                    vec![model.call(first), model.call(rival)]
                };
                let mut expected = vec![(replies, model.accounts.clone())];
                for &call in &later {
                    let reply = model.call(call);
                    expected.push((vec![reply], model.accounts.clone()));
                }
                expected
            });
            let differences = orders.each_ref().map(|expected| {
                let pairs = seen.iter().zip(expected);
                let i = pairs.into_iter().position(|(a, b)| a != b)?;
                let calls = match i {
                    0 => "both replies, in the order above".to_owned(),
                    i => format!("the reply to a later `{}`", later[i - 1]),
                };
                let (seen, expected) = (&seen[i], &expected[i]);
                Some(format!(
                    "{calls}, and the accounts, are {seen:?}, and not \
                     {expected:?}"
                ))
            });
            if let [Some(first), Some(second)] = differences {
                panic!(
                    "{situation}, and `{rival}` starts {start}: they do not \
                     act like one after the other.\nIf `{rival}` is the \
                     second one: {first}.\nIf it is the first one: {second}."
                );
            }
            if n > statements {
                break;
            }
        }
    }
}

mod crashes {
    use fastrand::Rng;
    use week08::money::cluster::Faults;
    use week08::money::explore::{explore, run_at_random};

    use super::cluster::cluster;

    const NONE: Faults =
        Faults { crashes: 0, repeats: 0, losses: 0, failures: 0 };

    #[test]
    fn transfers_complete_despite_two_crashes_or_lost_calls() {
        check(1, 1, None, Faults { crashes: 2, ..NONE });
        check(1, 1, None, Faults { losses: 2, ..NONE });
        check(2, 11, None, Faults { losses: 1, ..NONE });
    }

    #[test]
    fn a_cancel_that_overtakes_its_try_leaves_nothing_reserved() {
        check(1, 1, Some(0), Faults { repeats: 1, ..NONE });
        check(1, 1, Some(1), Faults { repeats: 2, ..NONE });
    }

    #[test]
    fn a_transfer_without_enough_money_is_cancelled_on_both_sides() {
        check(1, 0, None, Faults { crashes: 1, ..NONE });
        check(2, 10, None, Faults { losses: 1, ..NONE });
    }

    #[test]
    fn random_runs_with_all_faults_neither_lose_nor_create_money() {
        let mut rng = Rng::with_seed(8);
        for run in 0..300 {
            let faults =
                Faults { crashes: 3, repeats: 4, losses: 3, failures: 3 };
            let (number, patience) = (run % 5 + 1, [None, Some(0), Some(1)]);
            let patience = patience[run as usize % 3];
            let balance = [99_999, 11, 1_000][run as usize / 5 % 3];
            let cluster = cluster(number, balance, patience, faults);
            let choose = |n| rng.usize(..n);
            if let Err(found) = run_at_random(cluster, 400, choose) {
                panic!("run {run}: {found}");
            }
        }
    }

    fn check(number: u32, balance: i64, patience: Option<u32>, f: Faults) {
        let cluster = cluster(number, balance, patience, f);
        if let Err(found) = explore(cluster, 200_000) {
            panic!("{found}");
        }
    }
}

/// One transfer, and the accounts of both services in one database.
struct Bank {
    database: Database,
    model: Model,
    transfer: Transfer,
    /// The calls until now, for messages.
    calls: Vec<String>,
}

impl Bank {
    fn new(from: i64, to: i64, cents: i64) -> Self {
        let database = Database::new([(FROM, from), (TO, to)]);
        let cents = NonZero::new(u32::try_from(cents).unwrap()).unwrap();
        let transfer = Transfer { id: 7, from: FROM, to: TO, cents };
        let (model, calls) = (Model::new(&database), Vec::new());
        Self { database, model, transfer, calls }
    }

    fn to_call(&self, side: Side, operation: Operation) -> Call {
        let branch = Branch { side, transfer: self.transfer };
        Call { operation, branch }
    }

    fn call(&mut self, side: Side, operation: Operation) -> Reply {
        let call = self.to_call(side, operation);
        let reply = session::run(&mut self.database, call);
        self.calls.push(format!("`{call}`"));
        reply
    }

    /// Gives both accounts this balance, or closes them.
    fn set(&mut self, cents: Option<i64>) {
        for account in [FROM, TO] {
            set(&mut self.database.accounts, account, cents);
            set(&mut self.model.accounts, account, cents);
        }
    }

    fn balances(&self) -> [i64; 2] {
        [FROM, TO].map(|account| self.database.accounts[&account])
    }

    fn expect(
        &mut self,
        side: Side,
        operation: Operation,
        reply: Reply,
        balances: [i64; 2],
    ) {
        let (before, call) = (self.balances(), self.to_call(side, operation));
        let earlier = match self.calls.join(", ") {
            calls if calls.is_empty() => "no call".to_owned(),
            calls => calls,
        };
        let seen = (self.call(side, operation), self.balances());
        assert_eq!(
            seen,
            (reply, balances),
            "reply, and balances of `from` and `to` (seen, expected): \
             `{call}`, after {earlier}, with the balances {before:?}"
        );
    }
}

/// A call, and what there is before it.
struct Situation {
    database: Database,
    model: Model,
    call: Call,
    /// The state of both branches.
    state: &'static str,
}

impl fmt::Display for Situation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { database, call, state, .. } = self;
        write!(f, "`{call}` of {state}, accounts {:?}", database.accounts)
    }
}

/// Returns each operation in each state of both branches, also after a refused
/// try, with too little money for a try, and without the account.
fn situations() -> Vec<Situation> {
    let mut all = Vec::new();
    for (side, operation) in
        SIDES.into_iter().flat_map(|side| OPERATIONS.map(|o| (side, o)))
    {
        for (state, was_refused, before) in [
            ("an untried branch", false, &[][..]),
            ("a branch whose try was refused", true, &[Try]),
            ("a tried branch", false, &[Try]),
            ("a confirmed branch", false, &[Try, Confirm]),
            ("a cancelled branch", false, &[Try, Cancel]),
            ("a branch that was cancelled untried", false, &[Cancel]),
        ] {
            for cents in [Some(150), Some(0), None] {
                let mut bank = Bank::new(150, 150, 100);
                if was_refused {
                    bank.set(None);
                }
                for operation in before {
                    for side in SIDES {
                        bank.call(side, *operation);
                        bank.model.call(bank.to_call(side, *operation));
                    }
                }
                bank.set(cents);
                let call = bank.to_call(side, operation);
                let Bank { database, model, .. } = bank;
                all.push(Situation { database, model, call, state });
            }
        }
    }
    all
}

/// Opens an account with this balance, or closes it.
fn set(accounts: &mut BTreeMap<u64, i64>, account: u64, cents: Option<i64>) {
    accounts.remove(&account);
    accounts.extend(cents.map(|cents| (account, cents)));
}

#[derive(Clone, Copy)]
enum Step {
    Call(Call),
    Set(u64, Option<i64>),
}

/// Short, as messages have many of them.
impl Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(call) => write!(f, "`{call}`"),
            Self::Set(account, Some(cents)) => {
                write!(f, "account {account} has {cents}")
            }
            Self::Set(account, None) => {
                write!(f, "account {account} is closed")
            }
        }
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    // Some are equal as a `u32`, as an `f64`, as the nearest `i64`, or without
    // their first bit.
    let (double, signed) = (1 << 53, i64::MAX as u64);
    let ids = [1, 11, (1 << 32) + 1, double, double + 1, signed, u64::MAX];
    // Some are equal in another order, as `u32`s, or without the space.
    let accounts = [
        (FROM, TO),
        (TO, FROM),
        (TO, TO),
        (FROM, FROM),
        (0, TO),
        (FROM, 0),
        (u64::MAX, TO),
        (FROM, u64::MAX),
        ((1 << 32) + FROM, TO),
        (FROM, (1 << 32) + TO),
        (11, 2),
        (1, 12),
    ];
    let accounts =
        prop_oneof![3 => Just(accounts[0]), 1 => select(accounts.to_vec())];
    let cents = prop_oneof![8 => Just(100), 1 => select(vec![1_000, u32::MAX])];
    let id = select(ids.to_vec());
    let (side, operation) = (select(&SIDES[..]), select(&OPERATIONS[..]));
    let call = (id, accounts, cents, side, operation);
    let call = call.prop_map(|(id, (from, to), cents, side, operation)| {
        let cents = NonZero::new(cents).unwrap();
        let transfer = Transfer { id, from, to, cents };
        Step::Call(Call { operation, branch: Branch { side, transfer } })
    });
    let cents = select(vec![None, Some(0), Some(199), Some(i64::MAX - 99)]);
    let set = (select(vec![FROM, TO, 0, u64::MAX]), cents);
    let set = set.prop_map(|(account, cents)| Step::Set(account, cents));
    prop_oneof![12 => call, 1 => set]
}

/// Checks many inputs. Panics with the message of the smallest one that is found
/// to fail.
fn for_all<T: Debug>(
    cases: u32,
    inputs: impl Strategy<Value = T>,
    check: impl Fn(T) -> Result<(), String>,
) {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let failure_persistence = None;
    let config = test_runner::Config {
        cases,
        failure_persistence,
        ..test_runner::Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, rng);
    let checked =
        runner.run(&inputs, |input| check(input).map_err(TestCaseError::fail));
    match checked {
        Ok(()) => {}
        Err(TestError::Fail(message, _)) => panic!("{message}"),
        Err(error) => panic!("{error}"),
    }
}
