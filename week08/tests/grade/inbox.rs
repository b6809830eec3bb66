use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{Debug, Display};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{self, RngAlgorithm, TestRng, TestRunner};
use week08::inbox::{Command, Consumer, Effect, Event, Outcome, transact};
use week08::money::cluster::Faults;
use week08::money::explore::{explore, run_at_random};
use week08::money::simulated::Database;
use week08::money::{Message, Table};

#[allow(clippy::duplicate_mod, reason = "two graders share it")]
#[path = "pipeline.rs"]
mod pipeline;
#[allow(clippy::duplicate_mod, reason = "two graders share it")]
#[path = "statements.rs"]
mod statements;

use Outcome::{Cleaned, Credited, Parked, Repeated};
use pipeline::pipeline;
use statements::{Other, Watch};

mod credit {
    use super::*;

    #[test]
    fn a_message_that_arrives_again_is_credited_once() {
        for id in [0, 1, u64::MAX] {
            let mut database = Database::new([(2, 1)]);
            let text = format!("7 {id} 1 2 60");
            for expected in [Credited, Repeated, Repeated] {
                check(expected, deliver(&mut database, &text), &text);
                check(61, database.total(), "the balance");
            }
            check(0, parked(&database).len(), "parked messages");
        }
    }

    #[test]
    fn an_id_with_another_text_is_parked_and_not_credited() {
        for id in [0, 1, u64::MAX] {
            let mut database = Database::new([(2, 0), (3, 0)]);
            let first = format!("7 {id} 1 2 60");
            check(Credited, deliver(&mut database, &first), &first);
            let mut others = vec![
                format!("8 {id} 1 2 60"),
                format!("6 {id} 1 2 60"),
                format!("7 {id} 9 2 60"),
                format!("7 {id} 1 3 60"),
                format!("7 {id} 1 9 60"),
                format!("7 {id} 1 2 6"),
                format!("7 {id} 1 2 600"),
                format!("+7 {id} 1 2 60"),
                format!("7 0{id} 1 2 60"),
            ];
            for other in &others {
                for expected in [Parked, Repeated] {
                    let seen = deliver(&mut database, other);
                    check(expected, seen, format!("{other} after {first}"));
                    check(60, database.total(), "the balances");
                }
            }
            check(Repeated, deliver(&mut database, &first), first);
            others.sort();
            check(others, parked(&database), "parked messages");
        }
    }

    #[test]
    fn a_message_that_cannot_be_credited_is_parked_and_acknowledged() {
        let many = "9 ".repeat(1_500);
        let texts = [
            "7 5 1 9 60",
            "7 5 1 3 1",
            "",
            " ",
            "hello",
            "7 5 1 2",
            "7 5 1 2 0",
            "7 5 1 2 -1",
            "-7 5 1 2 60",
            "7 5 1 2 60 ",
            "7 5 1 2 60\n",
            "7 5 1 2 4294967296",
            "7 18446744073709551616 1 2 60",
            "7 5 1 2 sechzig ❦ ' \" %",
            &many,
        ];
        for text in texts {
            let mut database = Database::new([(2, 0), (3, i64::MAX)]);
            for expected in [Parked, Repeated] {
                check(expected, deliver(&mut database, text), text);
                check(i64::MAX, database.total(), "the balances");
                check(vec![text.to_owned()], parked(&database), text);
            }
        }
        let mut database = Database::new([(2, 0)]);
        for text in ["7 5 1 9 60", "7 5 1 2 60"] {
            let what = format!("{text}: it has the id of a parked message");
            check(Parked, deliver(&mut database, text), what);
        }
    }

    #[test]
    fn any_messages_and_clean_ups_have_the_outcomes_of_a_model() {
        let large = [1 << 53, (1 << 53) + 1, u64::MAX - 1, u64::MAX];
        let number = move || select([&[0, 1, 2][..], &large].concat());
        let cents = select(vec![0, 1, 2, 10, u32::MAX]);
        let message = (number(), number(), number(), number(), cents);
        let affix = || prop_oneof![9 => Just(""), 1 => select(AFFIXES)];
        let message = (affix(), message, affix()).prop_map(|(a, m, z)| {
            let (debited_s, id, from, to, cents) = m;
            Step::New(format!("{a}{debited_s} {id} {from} {to} {cents}{z}"))
        });
        let again = (affix(), any::<usize>(), affix())
            .prop_map(|(a, i, z)| Step::Again(a, i, z));
        let cleans =
            (number(), 0..8_usize).prop_map(|(s, limit)| Step::Clean(s, limit));
        let any = prop_oneof![3 => message, 3 => again, 1 => cleans];
        for_each_length(40, 10, any, |steps| {
            let accounts = [(0, 0), (1, 100), (u64::MAX, i64::MAX - 10)];
            let mut database = Database::new(accounts);
            let mut model = Model::new(accounts);
            let (mut sent, mut run) = (vec![String::new()], Vec::new());
            for step in steps {
                let (before, ids) = (content(&database), model.inbox.len());
                let (expected, seen) =
                    if let Step::Clean(before_s, limit) = step {
                        let seen = clean(&mut database, before_s, limit);
                        run.push(format!("{:?}", clean_up(before_s, limit)));
                        (model.clean(before_s, limit), seen)
                    } else {
                        let text = match step {
                            Step::New(text) => text,
                            Step::Again(a, i, z) => {
                                format!("{a}{}{z}", sent[i % sent.len()])
                            }
                            Step::Clean(..) => unreachable!("it is above"),
                        };
                        let seen = deliver(&mut database, &text);
                        run.push(format!("{text:?}"));
                        let expected = model.credit(&text);
                        sent.push(text);
                        (expected, seen)
                    };
                let run = format!("after\n{}", run.join("\n"));
                check(&expected, &seen, format!("the last outcome {run}"));
                check(
                    &model.accounts,
                    &database.accounts,
                    format!("balances {run}"),
                );
                let rows = database.table(Table::Inbox).len();
                check(model.inbox.len(), rows, format!("inbox rows {run}"));
                let expected_parked = model.parked.iter().cloned().collect();
                let what = format!("parked messages {run}");
                check(expected_parked, parked(&database), what);
                if expected == Repeated && ids == model.inbox.len() {
                    let what =
                        format!("what is stored before the last, and {run}");
                    check(before, content(&database), what);
                }
            }
        });
    }

    /// What makes another text of a message. Some are still a message.
    const AFFIXES: &[&str] = &[" ", "\n", "\t", "\0", "+", "0", "-", "."];

    #[derive(Debug, Clone)]
    enum Step {
        New(String),
        /// A text that was sent before, with something before and after it.
        Again(&'static str, usize, &'static str),
        Clean(u64, usize),
    }

    #[test]
    fn an_error_of_any_statement_rolls_back_and_is_not_acknowledged() {
        let credits =
            ["7 5 1 2 60", "7 6 1 2 60", "7 5 1 2 6", "3 6 1 2 1", "x"];
        let credits = credits.map(|text| Command::Credit(text.to_owned()));
        let cleans = [3, 5, 9].map(|before_s| clean_up(before_s, 9));
        for command in [&credits[..], &cleans].concat() {
            for number in 1.. {
                let mut database = Database::new([(2, 0)]);
                deliver(&mut database, "7 5 1 2 60");
                clean(&mut database, 5, 0);
                let (before, mut seen) = (database.clone(), 0);
                let mut watch = Watch::fail_at(number, &mut seen);
                let outcome = if let Command::Credit(text) = &command {
                    deliver_with(&mut database, text, &mut watch)
                } else {
                    run(&mut database, &command, &mut watch).ok()
                };
                drop(watch);
                if seen < number {
                    assert!(number > 1, "expected a statement, seen none");
                    break;
                }
                let case = format!("statement {number} of {command:?} fails");
                check(None, outcome, format!("what is committed: {case}"));
                check(before, database, format!("what is stored: {case}"));
            }
        }
    }
}

mod clean_up {
    use super::*;

    #[test]
    fn a_message_whose_row_was_deleted_is_not_credited_again() {
        for (horizon, debited_s) in [(1, 0), (8, 7), (u64::MAX, u64::MAX - 1)] {
            let mut database = Database::new([(2, 0)]);
            let text = format!("{debited_s} 5 1 2 60");
            deliver(&mut database, &text);
            check(Cleaned(1), clean(&mut database, horizon, 9), "the clean-up");
            for expected in [Parked, Repeated] {
                let seen = deliver(&mut database, &text);
                check(expected, seen, format!("{text}, horizon {horizon}"));
                check(60, database.total(), "the balance");
            }
            let seen = clean(&mut database, horizon, 9);
            check(Cleaned(1), seen, "the next clean-up");
            check(Repeated, deliver(&mut database, &text), "parked before");
        }
    }

    #[test]
    fn a_horizon_rises_without_rows_and_never_falls() {
        for horizons in [[8, 7], [8, 0], [0, 8], [7, 8], [8, 8]] {
            for limit in [0, 1, 9] {
                let mut database = Database::new([(2, 0)]);
                for before_s in horizons {
                    let seen = clean(&mut database, before_s, limit);
                    check(Cleaned(0), seen, "a clean-up without rows");
                }
                for (debited_s, expected) in [(7, Parked), (8, Credited)] {
                    let text = format!("{debited_s} {debited_s} 1 2 60");
                    let seen = deliver(&mut database, &text);
                    let what = format!("{text}, horizons {horizons:?}");
                    check(expected, seen, what);
                }
            }
        }
    }

    #[test]
    fn a_message_at_the_horizon_is_credited_and_keeps_its_row() {
        for horizon in [0, 1, 8, u64::MAX] {
            let mut database = Database::new([(2, 0)]);
            let text = format!("{horizon} 5 1 2 60");
            for expected in [Credited, Repeated, Repeated] {
                let seen = clean(&mut database, horizon, 9);
                let what = format!("{text}, horizon {horizon}");
                check(Cleaned(0), seen, format!("the clean-up: {what}"));
                check(expected, deliver(&mut database, &text), what);
            }
        }
    }

    #[test]
    fn a_clean_up_looks_at_the_oldest_rows_up_to_its_limit() {
        for limit in [0, 1, 2, 17, 130, 1_499, 1_500, usize::MAX] {
            let mut database = Database::new([(2, 0)]);
            let (mut rows, mut debited_s) = (BTreeMap::new(), Vec::new());
            for i in 0..1_500 {
                // Every third is above the horizon. Ids are not in order.
                let (second, id) = (i % 3 + 6, i * 7_919 % 1_501);
                deliver(&mut database, &format!("{second} {id} 1 2 1"));
                // A transaction copies the database: keep it small.
                rows.extend(std::mem::take(&mut database.rows));
                debited_s.push(second);
            }
            database.rows = rows;
            let looked_at = debited_s.iter().take(limit);
            let expected = looked_at.filter(|second| **second < 8).count();
            let seen = clean(&mut database, 8, limit);
            check(Cleaned(expected), seen, format!("limit {limit}"));
            let left = database.table(Table::Inbox).len();
            check(1_500 - expected, left, format!("rows, limit {limit}"));
        }
    }

    #[test]
    fn concurrent_credits_neither_lose_a_message_nor_credit_it_twice() {
        let all = [credits().as_slice(), &cleans()].concat();
        for start in starts() {
            for (a, b) in pairs(&all, &all) {
                let is_credit = |c: &Command| matches!(c, Command::Credit(_));
                if is_credit(a) || is_credit(b) {
                    check_concurrent(&start, a, b);
                }
            }
        }
    }

    #[test]
    fn after_concurrent_clean_ups_no_message_is_credited_again() {
        for start in starts() {
            for (a, b) in pairs(&cleans(), &cleans()) {
                check_concurrent(&start, a, b);
            }
        }
    }

    #[test]
    fn two_commits_between_statements_credit_no_message_twice() {
        let texts =
            ["5 1 1 2 1", "15 1 1 2 10", "25 1 1 2 100", "15 2 1 2 1000"];
        let credits = texts.map(|text| Command::Credit(text.to_owned()));
        let cleans = [10, 20].map(|before_s| clean_up(before_s, 9));
        let all = [&credits[..], &cleans].concat();
        for start in (0..=2).map(|number| &credits[..number]) {
            for (b, c) in pairs(&all, &all) {
                for (a, (b, c)) in all.iter().map(|a| (a, (b, c))) {
                    for_each_point(start, a, &[b, c], |database, case| {
                        check_texts(&database, &texts, [a, b, c], case);
                    });
                }
            }
        }
    }

    /// Checks that each text is credited at most once, also when it is delivered
    /// again, and that none is lost. Its cents are a digit of the balance.
    fn check_texts(
        database: &Database,
        texts: &[&str; 4],
        commands: [&Command; 3],
        case: &str,
    ) {
        let credits = |database: &Database, text: &str| {
            let digit = texts.iter().position(|other| *other == text);
            let digit = u32::try_from(digit.expect("one of the texts"));
            database.total() / 10_i64.pow(digit.expect("below 4")) % 10
        };
        for command in commands {
            let Command::Credit(text) = command else { continue };
            let is_safe =
                credits(database, text) == 1 || parked(database).contains(text);
            assert!(is_safe, "{case}:\n{text:?} is lost");
        }
        for first in 0..texts.len() {
            let (mut database, mut texts) = (database.clone(), *texts);
            texts.rotate_left(first);
            for text in texts.map(|text| [text; 2]).concat() {
                deliver(&mut database, text);
            }
            for text in texts {
                let seen = credits(&database, text);
                assert!(
                    seen <= 1,
                    "{case}:\nexpected at most one credit of {text:?}, seen \
                     {seen}, after {texts:?} arrived again"
                );
            }
        }
    }

    fn credits() -> [Command; 4] {
        ["5 1 1 2 1", "15 2 1 2 1000", "5 1 1 2 10", "x"]
            .map(|text| Command::Credit(text.to_owned()))
    }

    fn cleans() -> [Command; 4] {
        [4, 10, 10, 20].map(|before_s| clean_up(before_s, 9))
    }

    /// Returns what was committed before two transactions run concurrently.
    fn starts() -> Vec<Vec<Command>> {
        let (credits, cleans) = (credits(), cleans());
        let mut starts: Vec<_> =
            (0..=2).map(|number| credits[..number].to_vec()).collect();
        starts.push([&credits[..2], &cleans[..1]].concat());
        starts
    }

    fn pairs<'a>(
        a: &'a [Command],
        b: &'a [Command],
    ) -> impl Iterator<Item = (&'a Command, &'a Command)> {
        a.iter().flat_map(move |a| b.iter().map(move |b| (a, b)))
    }

    fn check_concurrent(start: &[Command], a: &Command, b: &Command) {
        for_each_point(start, a, &[b], |database, case| {
            check_deliveries(database, [a, b], case);
        });
    }

    /// Lets others commit before each statement of `a`, one after the other.
    fn for_each_point(
        start: &[Command],
        a: &Command,
        others: &[&Command],
        check: impl Fn(Database, &str),
    ) {
        let mut committed = Database::new([(2, 0)]);
        for command in start {
            run(&mut committed, command, &mut Watch::idle()).unwrap();
        }
        let (mut after, mut locks) = (committed.clone(), BTreeSet::new());
        for other in others {
            let mut watch = Watch::idle();
            run(&mut after, other, &mut watch).unwrap();
            locks.extend(watch.locks);
        }
        let others_alone = Other { committed: &committed, after, locks };
        for number in 1.. {
            let (mut statements, mut is_done) = (0, false);
            let mut watch = Watch::new(|tx, locks| {
                statements += 1;
                if statements == number {
                    is_done = others_alone.commit(tx, locks);
                }
                Ok(())
            });
            let mut database = committed.clone();
            run(&mut database, a, &mut watch).unwrap();
            drop(watch);
            if statements < number {
                break;
            }
            if !is_done {
                // They had to wait.
                for other in others {
                    run(&mut database, other, &mut Watch::idle()).unwrap();
                }
            }
            let others: Vec<_> =
                others.iter().map(|other| format!("{other:?}")).collect();
            let case = format!(
                "{} commits before statement {number} of {a:?}, both after \
                 {start:?}",
                others.join(" and then ")
            );
            check(database, &case);
        }
    }

    /// Delivers all messages again. Checks that each id is credited at most
    /// once, and that no message is lost.
    fn check_deliveries(
        mut database: Database,
        concurrent: [&Command; 2],
        case: &str,
    ) {
        let check_total = |total: i64, when: &str| {
            let is_right = [0, 1, 10].contains(&(total % 1_000));
            assert!(
                is_right && total < 2_000,
                "{case}:\nexpected at most one credit for each id, seen a \
                 balance of {total} {when}"
            );
        };
        check_total(database.total(), "after both");
        for command in concurrent {
            let Command::Credit(text) = command else { continue };
            let is_credited = match text.as_str() {
                "5 1 1 2 1" => database.total() % 1_000 == 1,
                "5 1 1 2 10" => database.total() % 1_000 == 10,
                "15 2 1 2 1000" => database.total() >= 1_000,
                _ => false,
            };
            let is_parked = parked(&database).contains(text);
            assert!(is_credited || is_parked, "{case}:\n{text:?} is lost");
        }
        for text in ["5 1 1 2 1", "15 2 1 2 1000", "5 1 1 2 10"] {
            deliver(&mut database, text);
            deliver(&mut database, text);
        }
        check_total(database.total(), "after all messages arrived again");
    }
}

mod crashes {
    use super::*;

    #[test]
    fn a_transfer_survives_two_crashes_a_repeat_and_a_failure() {
        let (crashes, repeats, failures) = (2, 1, 1);
        let faults = Faults { crashes, repeats, failures, losses: 0 };
        let run = explore(pipeline(1, 1, faults), 30_000);
        run.unwrap_or_else(|run| panic!("{run}"));
    }

    #[test]
    fn one_to_three_transfers_survive_a_crash_at_any_step() {
        for transfers in 1..=3 {
            let faults = Faults { crashes: 1, ..Faults::default() };
            let run = explore(pipeline(transfers, 2, faults), 30_000);
            run.unwrap_or_else(|run| panic!("{run}"));
        }
    }

    #[test]
    fn five_transfers_survive_many_faults_in_random_runs() {
        let mut random = fastrand::Rng::with_seed(8);
        for batch in (1..=4).cycle().take(400) {
            let (crashes, repeats, failures) = (6, 3, 6);
            let faults = Faults { crashes, repeats, failures, losses: 0 };
            // Faults are the last actions. Not all of them happen early.
            let choose = |n| random.usize(..n).min(random.usize(..n));
            let run = run_at_random(pipeline(5, batch, faults), 400, choose);
            run.unwrap_or_else(|run| panic!("{run}"));
        }
    }
}

/// What the rules say.
struct Model {
    accounts: BTreeMap<u64, i64>,
    /// The ids and texts that were received.
    inbox: Vec<(u64, String)>,
    parked: BTreeSet<String>,
    horizon: u64,
}

impl Model {
    fn new(accounts: [(u64, i64); 3]) -> Self {
        let (inbox, parked) = Default::default();
        Self { accounts: accounts.into(), inbox, parked, horizon: 0 }
    }

    fn credit(&mut self, text: &str) -> Outcome {
        let Ok(message) = text.parse::<Message>() else {
            return self.park(text);
        };
        let transfer = message.transfer;
        match self.inbox.iter().find(|row| row.0 == transfer.id) {
            Some((_, first)) if first == text => return Repeated,
            Some(_) => return self.park(text),
            None => self.inbox.push((transfer.id, text.to_owned())),
        }
        let balance = self.accounts.get_mut(&transfer.to);
        let cents = i64::from(transfer.cents.get());
        let balance = balance.filter(|b| b.checked_add(cents).is_some());
        match balance.filter(|_| message.debited_s >= self.horizon) {
            Some(balance) => {
                *balance += cents;
                Credited
            }
            None => self.park(text),
        }
    }

    fn park(&mut self, text: &str) -> Outcome {
        let is_new = self.parked.insert(text.to_owned());
        if is_new { Parked } else { Repeated }
    }

    fn clean(&mut self, before_s: u64, limit: usize) -> Outcome {
        self.horizon = self.horizon.max(before_s);
        let (rows, mut number) = (self.inbox.len(), 0);
        self.inbox.retain(|(_, text)| {
            number += 1;
            let message: Message = text.parse().expect("it has an id");
            number > limit || message.debited_s >= self.horizon
        });
        Cleaned(rows - self.inbox.len())
    }
}

fn clean_up(before_s: u64, limit: usize) -> Command {
    Command::Clean { before_s, limit }
}

fn clean(database: &mut Database, before_s: u64, limit: usize) -> Outcome {
    let command = clean_up(before_s, limit);
    run(database, &command, &mut Watch::idle()).expect("no statement fails")
}

/// Runs a transaction, and commits it if it returns `Ok`.
fn run(
    database: &mut Database,
    command: &Command,
    watch: &mut Watch,
) -> Result<Outcome, statements::Failed> {
    let body =
        async |tx: &mut Database| transact(&mut watch.begin(tx), command).await;
    database.transaction(body, Result::is_ok)
}

fn deliver(database: &mut Database, text: &str) -> Outcome {
    let outcome = deliver_with(database, text, &mut Watch::idle());
    outcome.unwrap_or_else(|| panic!("expected an acknowledgment of {text:?}"))
}

/// Delivers a message. Returns the outcome if the message is acknowledged.
fn deliver_with(
    database: &mut Database,
    text: &str,
    watch: &mut Watch,
) -> Option<Outcome> {
    let mut consumer = Consumer;
    let mut effects =
        VecDeque::from(consumer.step(Event::Received(text.into())));
    let (mut outcome, mut is_acknowledged) = (None, false);
    while let Some(effect) = effects.pop_front() {
        check(false, is_acknowledged, "whether an acknowledgment came before");
        let event = match effect {
            Effect::Transact(command) => match run(database, &command, watch) {
                Ok(committed) => {
                    outcome = Some(committed.clone());
                    Event::Committed(committed)
                }
                Err(_) => Event::RolledBack,
            },
            Effect::Acknowledge => {
                is_acknowledged = true;
                continue;
            }
        };
        effects.extend(consumer.step(event));
    }
    assert!(
        outcome.is_some() || !is_acknowledged,
        "{text:?} is acknowledged, and no transaction is committed"
    );
    outcome.filter(|_| is_acknowledged)
}

/// Returns the rows without their numbers, in the order of their numbers.
fn content(database: &Database) -> BTreeMap<Table, Vec<(String, String)>> {
    let tables = database.rows.keys().map(|(table, _)| *table);
    let rows = |table| {
        let rows = database.table(table).into_iter();
        (table, rows.map(|row| (row.key, row.value)).collect())
    };
    tables.collect::<BTreeSet<_>>().into_iter().map(rows).collect()
}

/// Returns the texts of the parked messages, sorted.
fn parked(database: &Database) -> Vec<String> {
    let rows = database.table(Table::Parked).into_iter();
    let mut texts: Vec<_> = rows.map(|row| row.value).collect();
    texts.sort();
    texts
}

#[expect(clippy::needless_pass_by_value, reason = "the calls are shorter")]
fn check<T: PartialEq + Debug>(expected: T, seen: T, what: impl Display) {
    assert!(
        expected == seen,
        "{what}:\nexpected {expected:?}\n    seen {seen:?}"
    );
}

/// Checks this number of generated vectors of each length. The short ones come
/// first, so the first failure is easy to read.
fn for_each_length<S: Strategy + Clone>(
    longest: usize,
    cases: u32,
    item: S,
    check: impl Fn(Vec<S::Value>),
) {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let config = test_runner::Config::default();
    let mut runner = TestRunner::new_with_rng(config, rng);
    for length in 0..=longest {
        let items = vec(item.clone(), length);
        for _ in 0..cases {
            let value = items.new_tree(&mut runner).expect("a value");
            check(value.current());
        }
    }
}
