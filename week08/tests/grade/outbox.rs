use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{Debug, Display};
use std::mem;
use std::num::NonZero;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{self, RngAlgorithm, TestRng, TestRunner};
use week08::money::cluster::{Fate, Faults};
use week08::money::explore::{explore, run_at_random};
use week08::money::simulated::Database;
use week08::money::{Table, Transfer};
use week08::outbox::{Api, Effect, Event, Relay, Reply, transact};

#[allow(clippy::duplicate_mod, reason = "two graders share it")]
#[path = "pipeline.rs"]
mod pipeline;
#[allow(clippy::duplicate_mod, reason = "two graders share it")]
#[path = "statements.rs"]
mod statements;

use pipeline::pipeline;
use statements::{Lock, Other, Watch};

mod debit {
    use super::*;

    #[test]
    fn a_repeated_request_is_accepted_and_debits_nothing() {
        let mut database = Database::new([(1, 100)]);
        let mut messages = vec!["7 5 1 2 60".to_owned()];
        for now_s in [7, 7, 8, u64::MAX] {
            let reply = request(&mut database, transfer(5, 1, 2, 60), now_s);
            check(Reply::Accepted, reply, "the reply to the same request");
            check(40, database.total(), "the balance after this request");
            let seen = publish_all(&mut database);
            check(&messages, &seen, "the messages after this request");
            messages.clear();
        }
    }

    #[test]
    fn an_id_with_other_content_is_a_conflict() {
        for id in [0, 1, u64::MAX] {
            let mut database = Database::new([(1, 100), (3, 100)]);
            request(&mut database, transfer(id, 1, 2, 60), 7);
            for _ in 0..2 {
                let others = [(3, 2, 60), (1, 3, 60), (1, 2, 61), (1, 2, 6)];
                for (from, to, cents) in
                    others.into_iter().chain([(9, 2, 60), (1, 2, 600)])
                {
                    let before = content(&database);
                    let other = transfer(id, from, to, cents);
                    let reply = request(&mut database, other, 7);
                    let what = format!("{other} after {id} 1 2 60");
                    check(Reply::Conflict, reply, &what);
                    check(&before, &content(&database), what);
                }
                publish_all(&mut database);
            }
        }
    }

    #[test]
    fn a_refused_id_is_free_for_a_later_request() {
        for later in [transfer(5, 1, 2, 101), transfer(5, 3, 4, 7)] {
            let mut database = Database::new([(1, 100), (3, 100)]);
            for refused in [transfer(5, 1, 2, 101), transfer(5, 9, 2, 1)] {
                let reply = request(&mut database, refused, 7);
                check(Reply::Refused, reply, format!("reply to {refused}"));
                check(200, database.total(), "balances after a refusal");
            }
            database.accounts.insert(1, 200);
            let reply = request(&mut database, later, 8);
            check(Reply::Accepted, reply, format!("reply to {later}"));
            let seen = publish_all(&mut database);
            check(vec![format!("8 {later}")], seen, "messages");
        }
    }

    #[test]
    fn any_requests_get_the_replies_and_balances_of_a_model() {
        let large = [1 << 53, (1 << 53) + 1, u64::MAX - 1, u64::MAX];
        let number = || select([&[0, 1, 2][..], &large].concat());
        let id = select([&[0, 1, 10, 1 << 32][..], &large].concat());
        let cents = select(vec![1, 2, 10, 50, u32::MAX]);
        let new = (id, number(), number(), cents).prop_map(Ok);
        let again = any::<usize>().prop_map(Err);
        let is_published = prop::bool::weighted(0.2);
        let one = (prop_oneof![3 => new, 1 => again], number(), is_published);
        for_each_length(40, 8, one, |requests| {
            let accounts = [(0, 90), (1, 100), (2, 0), (u64::MAX, i64::MAX)];
            let mut database = Database::new(accounts);
            let mut model = BTreeMap::from(accounts);
            let (mut accepted, mut messages) = (BTreeMap::new(), Vec::new());
            let (mut sent, mut run) = (vec![(0, 1, 2, 1)], Vec::new());
            for (next, now_s, is_published) in requests {
                sent.push(next.unwrap_or_else(|i| sent[i % sent.len()]));
                let (id, from, to, cents) = sent[sent.len() - 1];
                let transfer = transfer(id, from, to, cents);
                let balance = model.get_mut(&from);
                let balance = balance.filter(|b| **b >= i64::from(cents));
                let before = content(&database);
                let (expected, is_new) = match (accepted.get(&id), balance) {
                    (Some(first), _) if *first == transfer => {
                        (Reply::Accepted, false)
                    }
                    (Some(_), _) => (Reply::Conflict, false),
                    (None, None) => (Reply::Refused, false),
                    (None, Some(balance)) => {
                        *balance -= i64::from(cents);
                        accepted.insert(id, transfer);
                        messages.push(format!("{now_s} {transfer}"));
                        (Reply::Accepted, true)
                    }
                };
                let reply = request(&mut database, transfer, now_s);
                run.push(format!("{transfer} in second {now_s}: {reply:?}"));
                let run = format!("after the requests\n{}", run.join("\n"));
                check(expected, reply, format!("the last reply {run}"));
                check(&model, &database.accounts, format!("balances {run}"));
                if !is_new {
                    let what = format!(
                        "what is stored before the last request, and {run}"
                    );
                    check(before, content(&database), what);
                }
                if is_published {
                    let messages = mem::take(&mut messages);
                    let seen = publish_all(&mut database);
                    check(messages, seen, format!("messages {run}"));
                }
            }
            let run = format!("after the requests\n{}", run.join("\n"));
            let seen = publish_all(&mut database);
            check(messages, seen, format!("messages {run}"));
        });
    }

    #[test]
    fn an_error_of_any_statement_rolls_back_and_the_reply_is_unknown() {
        let first = transfer(5, 1, 2, 60);
        let nexts = [first, transfer(5, 1, 2, 6), transfer(6, 1, 2, 60)];
        for (next, is_second) in nexts.map(|n| [(n, false), (n, true)]).concat()
        {
            for number in 1.. {
                let mut database = Database::new([(1, 100)]);
                if is_second {
                    request(&mut database, first, 7);
                }
                let before = database.clone();
                let mut seen = 0;
                let watch = Watch::fail_at(number, &mut seen);
                let reply = request_with(&mut database, next, 7, watch).0;
                if seen < number {
                    assert!(number > 1, "expected a statement, seen none");
                    break;
                }
                let case = format!("statement {number} of {next} fails");
                check(Reply::Unknown, reply, format!("the reply: {case}"));
                check(before, database, format!("what is stored: {case}"));
            }
        }
    }

    #[test]
    fn concurrent_requests_have_the_result_of_one_after_the_other() {
        let start = Database::new([(1, 100), (3, 60)]);
        let both = |first, second| {
            let mut database = start.clone();
            let first = request(&mut database, first, 7);
            let second = request(&mut database, second, 7);
            (first, second, content(&database))
        };
        let all =
            [(5, 1, 60), (5, 1, 100), (5, 3, 60), (5, 1, 101), (6, 1, 60)]
                .map(|(id, from, cents)| transfer(id, from, 2, cents));
        for (a, b) in all.iter().flat_map(|a| all.map(move |b| (*a, b))) {
            let a_then_b = both(a, b);
            let (b_reply, a_reply, rows) = both(b, a);
            let b_then_a = (a_reply, b_reply, rows);
            let mut after = start.clone();
            let (reply, locks) = request_with(&mut after, b, 7, Watch::idle());
            let b_alone = Other { committed: &start, after, locks };
            for number in 1.. {
                let (mut statements, mut is_done) = (0, false);
                let watch = Watch::new(|tx, locks| {
                    statements += 1;
                    if statements == number {
                        is_done = b_alone.commit(tx, locks);
                    }
                    Ok(())
                });
                let mut database = start.clone();
                let a_reply = request_with(&mut database, a, 7, watch).0;
                if statements < number {
                    break;
                }
                // If it could not commit, it had to wait.
                let b_reply =
                    if is_done { reply } else { request(&mut database, b, 7) };
                let seen = (a_reply, b_reply, content(&database));
                assert!(
                    seen == a_then_b || seen == b_then_a,
                    "{b} commits before statement {number} of {a}\nexpected \
                     {a_then_b:?}\n      or {b_then_a:?}\n    seen {seen:?}"
                );
            }
        }
    }
}

mod relay {
    use super::*;

    #[test]
    fn messages_are_published_in_the_order_of_their_debits() {
        for (messages, batch) in [0, 1, 2, 3, 17, 130]
            .into_iter()
            .flat_map(|n| [1, 2, 16, 17, 18, 1 << 32].map(|b| (n, b)))
            .chain([(1_500, 100), (1_500, 1_499), (5, usize::MAX)])
        {
            let (mut database, expected) = debited(messages);
            let seen =
                wake(&mut new(batch), &mut database, |_, _, _| Fate::Performed);
            let case = format!("{messages} messages, batches of {batch}");
            let transactions = seen.len() - messages;
            check(expected, published(seen), &case);
            check(0, outbox(&database), format!("rows left of {case}"));
            let most = 2 * messages.div_ceil(batch) + 1;
            assert!(
                transactions <= most,
                "{case}: expected {most} transactions, seen {transactions}"
            );
        }
    }

    #[test]
    fn a_message_stays_in_the_outbox_until_it_is_acknowledged() {
        for batch in [1, 2, 5, 100] {
            let (mut database, mut left) = debited(17);
            left.sort();
            let (mut relay, mut late) = (new(batch), None);
            wake(&mut relay, &mut database, |_, database, effect| {
                let rows = outbox(database);
                assert!(
                    rows >= left.len(),
                    "expected the {} messages without an acknowledgment in the \
                     outbox, seen {rows} rows, when a relay with batches of \
                     {batch} comes to {effect:?}",
                    left.len()
                );
                let Effect::Publish(message) = effect else {
                    return Fate::Performed;
                };
                if left.len() == 12 && late.is_none() {
                    let (_, message) = debit_late(database, 2_000, 0);
                    left.push(late.insert(message).clone());
                }
                left.retain(|other| other != message);
                Fate::Performed
            });
            check(
                Vec::<String>::new(),
                left,
                "messages that were not published",
            );
        }
    }

    #[test]
    fn after_a_failure_a_relay_publishes_nothing_until_it_is_woken() {
        let always = Just(vec![true; 50]);
        let often = vec(any::<bool>(), 0..60);
        let rarely = vec(prop::bool::weighted(0.05), 0..60);
        let fails = prop_oneof![5 => often, 4 => rarely, 1 => always];
        let sizes = (0..30_usize, 1..20_usize, 0..5_u64);
        for_all(400, (sizes, fails), |((messages, batch, late), fails)| {
            let (mut database, mut left) = debited(messages);
            let (mut relay, mut fails) = (new(batch), fails.into_iter());
            for round in 0..=60 {
                let mut attempts = 0;
                let mut has_failed = false;
                let fate = |_: &mut _, database: &mut _, effect: &Effect| {
                    if !matches!(effect, Effect::Publish(_)) {
                        return Fate::Performed;
                    }
                    if attempts == 0 && round < late {
                        left.push(debit(database, 1_000 + round));
                    }
                    assert!(
                        !has_failed,
                        "batches of {batch}: expected no message after a failed \
                         one, seen {effect:?}"
                    );
                    attempts += 1;
                    let fails = fails.next().unwrap_or(false);
                    has_failed |= fails;
                    if fails { Fate::Refused } else { Fate::Performed }
                };
                let seen = published(wake(&mut relay, &mut database, fate));
                let case = format!(
                    "publishing in batches of {batch} until message {attempts} \
                     {}",
                    if has_failed { "fails" } else { "succeeds" }
                );
                check(&left[..attempts.min(left.len())], &seen, &case);
                left.drain(..attempts - usize::from(has_failed));
                check(
                    left.len(),
                    outbox(&database),
                    format!("rows after {case}"),
                );
            }
            check(0, left.len(), "messages that were not published");
        });
    }

    #[test]
    fn a_rolled_back_transaction_repeats_at_most_a_batch() {
        let fates = [Fate::Refused, Fate::AnswerLost];
        for (batch, fate) in
            [1, 2, 5, 100].map(|b| fates.map(|f| (b, f))).concat()
        {
            for number in 1.. {
                let (mut database, expected) = debited(11);
                let (mut relay, mut transactions) = (new(batch), 0);
                let first = wake(&mut relay, &mut database, |_, _, effect| {
                    let is_publish = matches!(effect, Effect::Publish(_));
                    transactions += usize::from(!is_publish);
                    let is_this = !is_publish && transactions == number;
                    if is_this { fate } else { Fate::Performed }
                });
                if transactions < number {
                    break;
                }
                let case = format!(
                    "transaction {number} {fate:?}, batches of {batch}"
                );
                let end = matches!(first.last(), Some(Effect::Transact(_)));
                assert!(
                    end && transactions == number,
                    "{case}: expected no effect after it until the next wake"
                );
                let mut first = published(first);
                check(&expected[..first.len()], &first, &case);
                let second =
                    wake(&mut relay, &mut database, |_, _, _| Fate::Performed);
                let second = published(second);
                check(0, outbox(&database), format!("rows left after {case}"));
                let twice = (first.len() + second.len()).saturating_sub(11);
                assert!(twice <= batch, "{case}: seen {twice} messages twice");
                first.truncate(11 - second.len().min(11));
                first.extend(second);
                check(&expected, &first, &case);
            }
        }
    }

    #[test]
    fn any_rows_and_faults_have_the_publications_of_a_model() {
        let fate = prop_oneof![
            6 => Just(Fate::Performed),
            1 => Just(Fate::Refused),
            1 => Just(Fate::AnswerLost),
        ];
        let seq = prop_oneof![3 => Just(None), 1 => (0..99_u64).prop_map(Some)];
        let step = (fate, seq, any::<bool>());
        let sizes = (0..7_usize, select(vec![1, 2, 3, 5, 20, 40]));
        for_each_length(40, 10, (step, sizes), |steps| {
            let sizes = steps.first().map_or((3, 2), |(_, sizes)| *sizes);
            let (mut database, messages) = debited(sizes.0);
            let rows = database.table(Table::Outbox);
            let rows = rows.iter().map(|row| row.seq).zip(messages).collect();
            let mut model = Publications::new(rows, sizes.1);
            let mut relay = new(sizes.1);
            let wakes = steps.len() + 1;
            let mut steps = steps.into_iter().map(|(step, _)| step);
            for _ in 0..wakes {
                model.wake();
                wake(&mut relay, &mut database, |relay, database, effect| {
                    let (fate, late, is_woken) =
                        steps.next().unwrap_or((Fate::Performed, None, false));
                    model.log(format!("{effect:?}: {fate:?}"));
                    model.check(effect);
                    if let Some(seq) = late {
                        let id = 2_000 + model.run.len() as u64;
                        let (seq, message) = debit_late(database, id, seq);
                        model.log(format!("    seq {seq} appears: {message}"));
                        model.rows.insert(seq, message);
                    }
                    if is_woken {
                        let woken = relay.step(Event::Wake);
                        check(Vec::new(), woken, "effects of a wake when busy");
                    }
                    model.perform(effect, fate);
                    fate
                });
                model.check_idle(outbox(&database));
            }
            check(0, model.rows.len(), "rows after a wake without faults");
        });
    }

    #[test]
    fn an_error_of_any_statement_rolls_back_and_the_relay_is_idle() {
        for (messages, batch) in [(0, 1), (3, 1), (5, 2), (3, 5), (17, 16)] {
            for number in 1.. {
                let (mut database, expected) = debited(messages);
                let (mut relay, mut seen) = (new(batch), 0);
                let watch = Watch::fail_at(number, &mut seen);
                let performed = |_: &mut _, _: &mut _, _: &_| Fate::Performed;
                wake_with(&mut relay, &mut database, watch, performed);
                if seen < number {
                    assert!(number > 1, "expected a statement, seen none");
                    break;
                }
                let case = format!(
                    "{messages} messages, batches of {batch}, statement \
                     {number} failed: messages of the next wake"
                );
                let first = messages - outbox(&database);
                let seen =
                    published(wake(&mut relay, &mut database, performed));
                check(&expected[first..], &seen, case);
            }
        }
    }

    #[test]
    fn a_busy_relay_ignores_a_wake() {
        for (batch, fate) in [1, 2, 5]
            .map(|b| [(b, Fate::Performed), (b, Fate::Refused)])
            .concat()
        {
            let (mut database, expected) = debited(5);
            let seen =
                wake(&mut new(batch), &mut database, |relay, _, effect| {
                    let woken = relay.step(Event::Wake);
                    let what = format!("effects of a wake before {effect:?}");
                    check(Vec::new(), woken, what);
                    let fails = *effect == Effect::Publish(expected[2].clone());
                    if fails { fate } else { Fate::Performed }
                });
            let end = if fate == Fate::Refused { 3 } else { 5 };
            let case = format!(
                "batches of {batch}, a wake before each effect: the messages"
            );
            check(&expected[..end], &published(seen), case);
        }
    }

    /// What a relay has to publish, and when it has to stop.
    struct Publications {
        batch: usize,
        /// The messages in the outbox by `seq`.
        rows: BTreeMap<u64, String>,
        /// The rows that were read and are not published.
        unpublished: VecDeque<u64>,
        /// The rows that are published and not deleted.
        published: Vec<u64>,
        has_failed: bool,
        is_rolled_back: bool,
        batches: usize,
        transactions: usize,
        run: Vec<String>,
    }

    impl Publications {
        fn new(rows: BTreeMap<u64, String>, batch: usize) -> Self {
            let (unpublished, published, run) = Default::default();
            let (has_failed, is_rolled_back) = (false, false);
            let (batches, transactions) = (0, 0);
            Self {
                batch,
                rows,
                unpublished,
                published,
                has_failed,
                is_rolled_back,
                batches,
                transactions,
                run,
            }
        }

        fn wake(&mut self) {
            let (rows, run) =
                (mem::take(&mut self.rows), mem::take(&mut self.run));
            *self = Self { run, ..Self::new(rows, self.batch) };
            self.log(format!(
                "a wake of a relay with batches of {}, and the rows {:?}",
                self.batch, self.rows
            ));
        }

        fn log(&mut self, line: String) {
            self.run.push(line);
        }

        /// Checks that the effect may be the next one.
        fn check(&mut self, effect: &Effect) {
            let run = self.run.join("\n");
            assert!(
                !self.is_rolled_back,
                "{run}\nexpected no effect after a rollback until the next wake"
            );
            let Effect::Publish(message) = effect else {
                self.transactions += 1;
                let most = 2 * self.batches + 1;
                assert!(
                    self.transactions <= most,
                    "{run}\nexpected {most} transactions after this wake, seen \
                     one more"
                );
                let is_between =
                    !self.published.is_empty() && !self.unpublished.is_empty();
                assert!(
                    self.has_failed || !is_between,
                    "{run}\nexpected no transaction before the batch is \
                     published"
                );
                return;
            };
            assert!(
                !self.has_failed,
                "{run}\nexpected no message after a failed one until the next \
                 wake"
            );
            if self.unpublished.is_empty() {
                assert!(
                    self.published.is_empty(),
                    "{run}\nexpected that the batch is deleted before the next \
                     message"
                );
                let rows = self.rows.keys().take(self.batch);
                self.unpublished = rows.copied().collect();
                self.batches += 1;
            }
            let next = self.unpublished.front().map(|seq| &self.rows[seq]);
            check(next, Some(message), format!("{run}\nthe next message"));
        }

        fn perform(&mut self, effect: &Effect, fate: Fate) {
            if let Effect::Publish(_) = effect {
                match fate {
                    Fate::Performed => {
                        self.published.extend(self.unpublished.pop_front());
                    }
                    Fate::Refused | Fate::AnswerLost => self.has_failed = true,
                }
                return;
            }
            let published = mem::take(&mut self.published);
            if fate != Fate::Refused {
                self.rows.retain(|seq, _| !published.contains(seq));
            }
            self.is_rolled_back = fate != Fate::Performed;
        }

        /// Checks how many rows there are when the relay is idle.
        fn check_idle(&self, rows: usize) {
            let run = self.run.join("\n");
            check(self.rows.len(), rows, format!("{run}\nrows when idle"));
            assert!(
                self.rows.is_empty() || self.has_failed || self.is_rolled_back,
                "{run}\nexpected no row when idle, seen {rows}"
            );
        }
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

fn transfer(id: u64, from: u64, to: u64, cents: u32) -> Transfer {
    Transfer { id, from, to, cents: NonZero::new(cents).unwrap() }
}

fn request(database: &mut Database, transfer: Transfer, now_s: u64) -> Reply {
    request_with(database, transfer, now_s, Watch::idle()).0
}

/// Requests a transfer. Returns the reply, and what was locked.
fn request_with(
    database: &mut Database,
    transfer: Transfer,
    now_s: u64,
    mut watch: Watch,
) -> (Reply, BTreeSet<Lock>) {
    let effects = Api.step(Event::Requested { transfer, now_s });
    let mut effects = VecDeque::from(effects);
    let (mut reply, mut published) = (None, None);
    while let Some(effect) = effects.pop_front() {
        let event = match effect {
            Effect::Transact(command) => {
                let body = async |tx: &mut Database| {
                    transact(&mut watch.begin(tx), &command).await
                };
                let outcome = database.transaction(body, Result::is_ok);
                if outcome.is_err() {
                    check(None, published.take(), "messages after a rollback");
                }
                outcome.map_or(Event::RolledBack, Event::Committed)
            }
            Effect::Publish(message) => {
                published = Some(message);
                Event::Published
            }
            Effect::Reply(seen) => {
                check(None, reply, "replies before the last one");
                reply = Some(seen);
                continue;
            }
        };
        check(None, reply, "replies before all effects are performed");
        effects.extend(Api.step(event));
    }
    (reply.expect("a request is answered"), watch.locks)
}

fn new(batch: usize) -> Relay {
    Relay::new(NonZero::new(batch).unwrap())
}

/// Returns a database with debited transfers, and their messages.
fn debited(messages: usize) -> (Database, Vec<String>) {
    let mut database = Database::new([(1, i64::MAX)]);
    // In another order than their ids and times.
    let ids = (1..=messages as u64).map(|i| i * 7_919 % 1_501);
    // A transaction copies the database, so keep it small meanwhile.
    let mut rows = BTreeMap::new();
    let debit = ids.map(|id| {
        let message = debit(&mut database, id);
        rows.extend(mem::take(&mut database.rows));
        message
    });
    let messages = debit.collect();
    database.rows = rows;
    (database, messages)
}

/// Debits a transfer, and returns its message.
fn debit(database: &mut Database, id: u64) -> String {
    let transfer = transfer(id, 1, 2, 1);
    let reply = request(database, transfer, id % 10);
    check(Reply::Accepted, reply, format!("reply to {transfer}"));
    format!("{} {transfer}", id % 10)
}

/// Debits a transfer whose transaction began earlier: its row has about this
/// `seq`, and no other row has it. Returns it and the message.
fn debit_late(database: &mut Database, id: u64, seq: u64) -> (u64, String) {
    let message = debit(database, id);
    let rows = database.table(Table::Outbox);
    let seqs: BTreeSet<_> = rows.iter().map(|row| row.seq).collect();
    let newest =
        *seqs.last().expect("expected a row in the outbox after a debit");
    let free = |seq: &u64| *seq == newest || !seqs.contains(seq);
    let seq = (seq.min(newest)..=newest).find(free).unwrap_or(newest);
    let rows = database.rows.iter_mut();
    let mut rows = rows.filter(|(id, _)| id.0 == Table::Outbox);
    let row = rows.find(|(_, row)| row.seq == newest);
    row.expect("the row of this transfer").1.seq = seq;
    (seq, message)
}

/// Returns the balances, and the rows without their numbers.
fn content(
    database: &Database,
) -> (BTreeMap<u64, i64>, BTreeMap<(Table, String), String>) {
    let rows = database.rows.iter();
    let rows = rows.map(|(id, row)| (id.clone(), row.value.clone()));
    (database.accounts.clone(), rows.collect())
}

fn outbox(database: &Database) -> usize {
    database.table(Table::Outbox).len()
}

/// Wakes the relay, reports events until it has no effect to perform, and
/// returns its effects.
fn wake(
    relay: &mut Relay,
    database: &mut Database,
    fate: impl FnMut(&mut Relay, &mut Database, &Effect) -> Fate,
) -> Vec<Effect> {
    wake_with(relay, database, Watch::idle(), fate)
}

fn wake_with(
    relay: &mut Relay,
    database: &mut Database,
    mut watch: Watch,
    mut fate: impl FnMut(&mut Relay, &mut Database, &Effect) -> Fate,
) -> Vec<Effect> {
    assert!(relay.is_idle(), "expected an idle relay before a wake");
    let (mut effects, mut seen) = (relay.step(Event::Wake), Vec::new());
    let mut last = Event::Wake;
    while !effects.is_empty() {
        let effect = effects.remove(0);
        assert!(!relay.is_idle(), "is_idle: expected false before {effect:?}");
        assert!(seen.len() < 10_000, "a relay has 10,000 effects after a wake");
        let fate = fate(relay, database, &effect);
        seen.push(effect.clone());
        last = match effect {
            Effect::Transact(command) => {
                let body = async |tx: &mut Database| {
                    transact(&mut watch.begin(tx), &command).await
                };
                let outcome = database.transaction(body, |outcome| {
                    outcome.is_ok() && fate != Fate::Refused
                });
                assert!(
                    outcome.is_err() || !watch.has_failed,
                    "a statement of {command:?} fails: expected its error, seen \
                     {outcome:?}"
                );
                match outcome {
                    Ok(outcome) if fate == Fate::Performed => {
                        Event::Committed(outcome)
                    }
                    _ => Event::RolledBack,
                }
            }
            Effect::Publish(_) if fate == Fate::Performed => Event::Published,
            Effect::Publish(_) => Event::PublishFailed,
            Effect::Reply(reply) => panic!("a relay replies {reply:?}"),
        };
        effects.extend(relay.step(last.clone()));
    }
    assert!(
        relay.is_idle(),
        "expected an effect or an idle relay after {last:?}, seen neither"
    );
    seen
}

/// Publishes all messages in one batch, and returns them.
fn publish_all(database: &mut Database) -> Vec<String> {
    published(wake(&mut new(1_000), database, |_, _, _| Fate::Performed))
}

fn published(effects: Vec<Effect>) -> Vec<String> {
    let publish = |effect| match effect {
        Effect::Publish(message) => Some(message),
        _ => None,
    };
    effects.into_iter().filter_map(publish).collect()
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
    for length in 0..=longest {
        for_all(cases, vec(item.clone(), length), &check);
    }
}

fn for_all<S: Strategy>(cases: u32, strategy: S, check: impl Fn(S::Value)) {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let config = test_runner::Config::default();
    let mut runner = TestRunner::new_with_rng(config, rng);
    for _ in 0..cases {
        let value = strategy.new_tree(&mut runner).expect("a value");
        check(value.current());
    }
}
