use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Display};
use std::ops::Range;

use hmac::{Hmac, KeyInit as _, Mac as _};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{self, RngAlgorithm, TestRng, TestRunner};
use week08::callback::{
    Answer, Delivery, Effect, Event, Keys, Outcome, Receiver, Refused, handle,
    reconcile, sign,
};
use week08::money::explore::{explore, run_at_random};
use week08::money::shop::{Difference, Notice, Order, Payment, Request, State};
use week08::money::simulated::Database;
use week08::money::{Table, Tx as _};

#[allow(clippy::duplicate_mod, reason = "several graders share it")]
#[path = "statements.rs"]
mod statements;
#[path = "callback/world.rs"]
mod world;

use Outcome::{Delivered, Parked, Repeated, UnknownOrder};
use statements::{Other, Watch};
use world::{Faults, World};

const PAID_S: u64 = 1_000;

mod sender {
    use super::*;

    #[test]
    fn each_pause_is_measured_from_the_attempt_before() {
        let pause = select(vec![0, 1, 15, 180, 21_600, u64::MAX]);
        let wait = select(vec![0, 1, 14, 15, 16, 179, 180, 90_000]);
        let start = select(vec![0, 1_000, u64::MAX - 1_000]);
        // Each deployment of the sender has its own list of pauses.
        let deployment = (vec(pause, 0..150), vec(wait, 0..120));
        let any = (start, vec(deployment, 1..4));
        for_all(300, any, |(start_s, deployments)| {
            let mut delivery = Delivery::new(start_s);
            let (mut now_s, mut due_s) = (start_s, Some(start_s));
            let mut attempts = 0;
            let steps = deployments.iter().flat_map(|(pauses_s, waits_s)| {
                waits_s.iter().map(move |wait_s| (pauses_s, wait_s))
            });
            for (pauses_s, wait_s) in steps {
                // Twice: the second one is due at once if the pause is 0.
                for _ in 0..2 {
                    let is_due = due_s.is_some_and(|due_s| due_s <= now_s);
                    if is_due {
                        let pause_s = pauses_s.get(attempts);
                        due_s = pause_s.map(|s| now_s.saturating_add(*s));
                        attempts += 1;
                    }
                    let seen = delivery.next_attempt(pauses_s, now_s);
                    let case = format!("at {now_s}, pauses {pauses_s:?}");
                    check(is_due, seen, format!("an attempt {case}"));
                    check(attempts, delivery.attempts, "attempts");
                    check(due_s, delivery.due_s, format!("due {case}"));
                }
                now_s = now_s.saturating_add(*wait_s);
            }
        });
    }

    #[test]
    fn only_the_answer_success_ends_the_attempts() {
        let wrong = [
            "",
            "fail",
            "SUCCESS",
            "Success",
            " success",
            "success ",
            "success\n",
            "successful",
            "not success",
            "succes",
            "200",
            "ok",
        ];
        // Between any two attempts, and after the last.
        for acknowledged in 1..=4 {
            let mut delivery = Delivery::new(0);
            for number in 1..=4 {
                let now_s = number * 10;
                let seen = delivery.next_attempt(&[10; 3], now_s);
                let case = format!("attempt {number} without success");
                check(true, seen, &case);
                let before = delivery;
                for text in wrong {
                    delivery.answered(text.as_bytes());
                    check(before, delivery, format!("{case}: answer {text:?}"));
                }
                if number == acknowledged {
                    break;
                }
            }
            for text in ["success", "failure", "success"] {
                delivery.answered(text.as_bytes());
                check(true, delivery.is_acknowledged, "acknowledged");
                for now_s in [0, 50, 60, 100_000, u64::MAX] {
                    let seen = delivery.next_attempt(&[10; 3], now_s);
                    check(false, seen, "an attempt after success");
                }
            }
        }
    }
}

mod signature {
    use super::*;

    #[test]
    fn a_signature_covers_timestamp_nonce_and_body() {
        // No control characters: the nonce is a header.
        let keys = btree_map("\\PC{0,9}", vec(any::<u8>(), 0..200), 1..5);
        let time_s = select(vec![0, 1, 999, 1_790_000_000, u64::MAX]);
        let text = |pattern| (pattern, select(vec![1, 2, 17, 130, 1_500]));
        let any =
            (keys, time_s, text("\\PC{0,3}"), notice(), text("[^ ]{0,3}"));
        for_all(60, any, |(keys, time_s, nonce, mut notice, currency)| {
            let nonce = nonce.0.repeat(nonce.1);
            notice.payment.currency = currency.0.repeat(currency.1);
            let body = notice.to_string().into_bytes();
            let receiver = Receiver { keys, window_s: 300 };
            let case = format!(
                "a nonce of {} bytes and a body of {} bytes",
                nonce.len(),
                body.len()
            );
            for (id, key) in &receiver.keys {
                let seen = sign(id, key, time_s, &nonce, body.clone());
                let time = time_s.to_string();
                let expected = request(id, key, &time, &nonce, &body);
                let signatures = (&expected.signature, &seen.signature);
                check(signatures.0, signatures.1, format!("signature: {case}"));
                check(true, expected == seen, format!("equal fields: {case}"));
                let seen = receiver.verify(&seen, time_s);
                let seen = seen.map(|seen| seen == notice);
                check(Ok(true), seen, format!("the same notice: {case}"));
            }
        });
    }

    #[test]
    fn a_request_with_any_changed_byte_is_refused() {
        let (good, mut forged) = (good(), BTreeSet::new());
        for field in 0..5 {
            let edit =
                |change: &dyn Fn(&mut Vec<u8>)| edit(&good, field, change);
            let length = edit(&|_| ()).1;
            for index in 0..length {
                for bit in 0..8 {
                    forged.extend(edit(&|bytes| bytes[index] ^= 1 << bit).0);
                    // The same bit of two bytes.
                    let two = [index, length - 1 - index];
                    let flip = |bytes: &mut Vec<u8>| {
                        two.iter().for_each(|index| bytes[*index] ^= 1 << bit);
                    };
                    forged.extend(edit(&flip).0);
                }
                forged.extend(edit(&|bytes| _ = bytes.remove(index)).0);
                forged.extend(edit(&|bytes| bytes.truncate(index)).0);
            }
            for byte in *b"0 a\n" {
                forged.extend(edit(&|bytes| bytes.push(byte)).0);
                forged.extend(edit(&|bytes| bytes.insert(0, byte)).0);
            }
        }
        for key_id in ["b", "", "A", "aa"] {
            forged.insert(Request { key_id: key_id.into(), ..good.clone() });
        }
        check_forged(forged);
    }

    #[test]
    fn bytes_that_move_to_the_next_field_are_refused() {
        let (good, mut forged) = (good(), BTreeSet::new());
        let headers = [&good.timestamp[..], &good.nonce].concat();
        for border in 0..=headers.len() {
            let (timestamp, nonce) = headers.split_at(border);
            let (timestamp, nonce) = (timestamp.into(), nonce.into());
            forged.insert(Request { timestamp, nonce, ..good.clone() });
        }
        let all = [good.nonce.as_bytes(), &good.body].concat();
        for border in 0..=all.len() {
            let nonce = String::from_utf8(all[..border].to_vec()).unwrap();
            let body = all[border..].to_vec();
            forged.insert(Request { nonce, body, ..good.clone() });
        }
        check_forged(forged);
    }

    fn good() -> Request {
        sign("a", b"secret", 1_005, "5f3", b"9 7 100 CNY 1000".to_vec())
    }

    fn check_forged(mut forged: BTreeSet<Request>) {
        let receiver = receiver([("a", b"secret"), ("b", b"others")]);
        let verify = |request: &Request| receiver.verify(request, 1_005);
        assert!(verify(&good()).is_ok(), "expected {:?} to be valid", good());
        forged.remove(&good());
        for request in forged {
            let is_known = ["a", "b"].contains(&&request.key_id[..]);
            let refused =
                if is_known { Refused::Signature } else { Refused::Key };
            check(Err(refused), verify(&request), format!("{request:?}"));
        }
    }

    #[test]
    fn a_body_is_verified_as_it_has_arrived() {
        let expected: Notice = "9 7 100 CNY 1000".parse().unwrap();
        for text in ["9 7 100 CNY 1000", "+9 007 0100 CNY 01000"] {
            for timestamp in ["1005", "01005", "+1005"] {
                let body = text.as_bytes();
                let request = request("k", b"x", timestamp, "n", body);
                let seen = receiver([("k", b"x")]).verify(&request, 1_005);
                let case = format!("{text:?} with timestamp {timestamp:?}");
                check(Ok(expected.clone()), seen, case);
            }
        }
    }

    #[test]
    fn a_request_is_refused_for_the_first_reason() {
        let bodies: [&[u8]; 7] = [
            b"",
            b" 9 7 100 CNY 1000",
            b"\xef\xbb\xbf9 7 100 CNY 1000",
            b"9 7 100 CNY",
            b"9 7 100 CNY 1000\n",
            b"{}",
            b"9 7 1 \xff 5",
        ];
        let times =
            ["", "x", "-1", "1005.0", "1005 ", " 1005", "600", "1500", "0"];
        for (&body, &timestamp) in pairs(&bodies, &times) {
            for faults in 0..16 {
                let has = |reason: u32| faults >> reason & 1 == 1;
                let body = if has(3) { body } else { &b"9 7 1 CNY 5"[..] };
                let timestamp = if has(2) { timestamp } else { "1005" };
                let mut request = request("k", b"x", timestamp, "n", body);
                request.signature[0] ^= u8::from(has(1));
                request.key_id = if has(0) { "z" } else { "k" }.to_owned();
                let reasons = [
                    Refused::Key,
                    Refused::Signature,
                    Refused::Timestamp,
                    Refused::Body,
                ];
                let first = (0..4).find(|reason| has(*reason));
                let expected = first.map(|reason| reasons[reason as usize]);
                let seen = receiver([("k", b"x")]).verify(&request, 1_005);
                check(expected, seen.err(), format!("{request:?}"));
            }
        }
    }

    #[test]
    fn requests_of_both_keys_are_accepted_during_a_rotation() {
        let body = b"9 7 100 CNY 1000";
        let pairs = [("2025", b"old"), ("2026", b"new")];
        // Also with ids whose order is the other way round.
        for ids in [["2025", "2026"], ["b", "a"]] {
            let [old, new] = ids;
            let (old, new) = ((old, &pairs[0].1[..]), (new, &pairs[1].1[..]));
            for (keys, is_valid) in [
                (vec![old], [true, false]),
                (vec![old, new], [true, true]),
                (vec![new], [false, true]),
                (vec![], [false, false]),
            ] {
                for ((id, key), is_valid) in
                    [old, new].into_iter().zip(is_valid)
                {
                    let request = request(id, key, "1005", "n", body);
                    let receiver = receiver(keys.clone());
                    let seen = receiver.verify(&request, 1_005).err();
                    let expected = (!is_valid).then_some(Refused::Key);
                    check(expected, seen, format!("key {id} with {keys:?}"));
                }
            }
        }
    }

    #[test]
    fn a_timestamp_is_accepted_up_to_the_window_on_both_sides() {
        let middle = u64::MAX / 2;
        for now_s in [0, 1, 300, 1_000_000, middle, u64::MAX - 1, u64::MAX] {
            for window_s in [0, 1, 300, 86_400, u64::MAX] {
                let offsets = [0, 1, window_s.saturating_sub(1), window_s];
                let offsets = offsets.into_iter();
                let offsets =
                    offsets.chain([window_s.saturating_add(1), middle]);
                for offset in offsets.chain([86_401, 1 << 32, u64::MAX]) {
                    let (now, offset) = (i128::from(now_s), i128::from(offset));
                    // Also below 0 and above `u64::MAX`.
                    for time in [now - offset, now + offset] {
                        let body = b"9 7 100 CNY 1000";
                        let is_near = offset <= i128::from(window_s)
                            && u64::try_from(time).is_ok();
                        let time = time.to_string();
                        let request = request("k", b"x", &time, "n", body);
                        let mut receiver = receiver([("k", b"x")]);
                        receiver.window_s = window_s;
                        let seen = receiver.verify(&request, now_s).err();
                        let expected = (!is_near).then_some(Refused::Timestamp);
                        let case = format!("{time} at {now_s} ± {window_s}");
                        check(expected, seen, case);
                    }
                }
            }
        }
    }
}

mod orders {
    use super::*;

    #[test]
    fn any_sequence_of_notices_has_the_outcomes_of_a_model() {
        // The same notices come again, in any order.
        let notices = vec(notice(), 1..8);
        let player = select(vec![1, 2, 3, u64::MAX]);
        let items = select(vec![0, 5, i64::MAX - 1, i64::MAX]);
        let steps = vec((0..10, any::<usize>(), player, items), 0..60);
        for_all(400, (notices, steps), |(notices, steps)| {
            let accounts = [(1, 0), (2, 5), (u64::MAX, i64::MAX - 1)];
            let mut database = Database::new(accounts);
            let mut model =
                Model { accounts: accounts.into(), ..Model::default() };
            for (action, index, player, items) in steps {
                let notice = &notices[index % notices.len()];
                let (id, text) = (notice.payment.order, notice.to_string());
                let Payment { cents, currency, .. } = notice.payment.clone();
                match (action, model.orders.get_mut(&id)) {
                    (0..2, None) => {
                        let state = State::Unpaid;
                        let order = Order { state, player, cents, currency };
                        create_order(&mut database, id, &order);
                        model.orders.insert(id, order);
                    }
                    (0, Some(order)) => {
                        // The shop changes the price.
                        (order.cents, order.currency) = (cents, currency);
                        let row = (Table::Orders, id.to_string());
                        let row = database.rows.get_mut(&row).unwrap();
                        row.value = text_of(order);
                    }
                    (2, _) => {
                        database.accounts.insert(player, items);
                        model.accounts.insert(player, items);
                    }
                    (3, _) => {
                        // A person has decided.
                        database.rows.remove(&(Table::Parked, text.clone()));
                        model.parked.remove(&text);
                    }
                    _ => {
                        let orders_before = model.orders.clone();
                        let expected = model.handle(notice);
                        let mut before = database.clone();
                        let seen = receive(&mut database, notice);
                        check(expected, seen, notice);
                        let is_equal = orders_before == model.orders;
                        if is_equal && expected == Parked {
                            // Only this row is new.
                            let id = (Table::Parked, text);
                            let row = database.rows.get(&id).cloned();
                            before.rows.extend(row.map(|row| (id, row)));
                            check(&before.rows, &database.rows, "all rows");
                        } else if is_equal {
                            check(&before, &database, "what is stored");
                        }
                    }
                }
                check(&model.accounts, &database.accounts, "items of players");
                check(&model.orders, &orders(&database), "orders");
                check(&model.parked, &parked(&database), "parked notices");
            }
        });
    }

    #[test]
    fn an_error_of_any_statement_rolls_the_delivery_back() {
        // Delivered, not enough paid, no place for the item, unknown.
        for text in
            ["1 7 100 CNY 5", "1 7 99 CNY 5", "1 8 5 CNY 5", "1 9 1 A 1"]
        {
            for number in 1.. {
                let mut database = shop();
                let (before, mut seen) = (database.clone(), 0);
                let mut watch = Watch::fail_at(number, &mut seen);
                let notice = text.parse().unwrap();
                let outcome = run(&mut database, &notice, &mut watch);
                drop(watch);
                if seen < number {
                    assert!(number > 1, "expected a statement, seen none");
                    break;
                }
                let case = format!("statement {number} for {text} fails");
                check(Err(statements::Failed), outcome, &case);
                check(before, database, format!("what is stored: {case}"));
            }
        }
    }

    #[test]
    fn concurrent_notices_of_an_order_deliver_one_item() {
        let texts =
            ["1 7 100 CNY 5", "2 7 100 CNY 6", "3 7 99 CNY 5", "4 8 5 CNY 5"];
        let notices = texts.map(|text| text.parse::<Notice>().unwrap());
        for (a, b) in pairs(&notices, &notices) {
            let committed = shop();
            let (mut after, mut watch) = (committed.clone(), Watch::idle());
            let alone = run(&mut after, b, &mut watch).unwrap();
            let locks = watch.locks;
            let b_alone = Other { committed: &committed, after, locks };
            for number in 1.. {
                let (mut statements, mut is_done) = (0, false);
                let mut watch = Watch::new(|tx, locks| {
                    statements += 1;
                    if statements == number {
                        is_done = b_alone.commit(tx, locks);
                    }
                    Ok(())
                });
                let mut database = committed.clone();
                let of_a = run(&mut database, a, &mut watch).unwrap();
                drop(watch);
                if statements < number {
                    break;
                }
                // If it does not commit, it has to wait.
                let seen = if is_done {
                    [alone, of_a]
                } else {
                    [of_a, receive(&mut database, b)]
                };
                let sequence = if is_done { [b, a] } else { [a, b] };
                let mut model = Model {
                    accounts: committed.accounts.clone(),
                    ..Model::default()
                };
                model.orders = orders(&committed);
                let expected = sequence.map(|notice| model.handle(notice));
                let case =
                    format!("{b} commits before statement {number} of {a}");
                check(expected, seen, format!("outcomes: {case}"));
                check(
                    &model.accounts,
                    &database.accounts,
                    format!("items: {case}"),
                );
                check(
                    &model.orders,
                    &orders(&database),
                    format!("orders: {case}"),
                );
                check(
                    &model.parked,
                    &parked(&database),
                    format!("parked notices: {case}"),
                );
            }
        }
    }

    #[test]
    fn success_is_answered_only_after_the_commit() {
        let body = b"9 7 100 CNY 1000";
        let notice: Notice = "9 7 100 CNY 1000".parse().unwrap();
        let good = request("k", b"x", "1005", "n", body);
        let refused = [
            (request("z", b"x", "1005", "n", body), 1_005),
            (request("k", b"y", "1005", "n", body), 1_005),
            (good.clone(), 9_005),
            (request("k", b"x", "1005", "n", b"{}"), 1_005),
        ];
        let answer = |answer| vec![Effect::Answer(answer)];
        let (success, failure) =
            (answer(Answer::Success), answer(Answer::Failure));
        let committed = |outcome| Event::Committed(outcome);
        let refused = refused.map(|(request, now_s)| {
            (Event::Received(request, now_s), failure.clone())
        });
        let cases = [
            (Event::Received(good, 1_005), vec![Effect::Transact(notice)]),
            (committed(Delivered), success.clone()),
            (committed(Repeated), success.clone()),
            (committed(Parked), success),
            (committed(UnknownOrder), failure.clone()),
            (Event::RolledBack, failure.clone()),
        ];
        let cases: Vec<_> = cases.into_iter().chain(refused).collect();
        // Each event after each other one.
        for (before, (event, expected)) in pairs(&cases, &cases) {
            let mut receiver = receiver([("k", b"x")]);
            receiver.step(before.0.clone());
            check(
                expected,
                &receiver.step(event.clone()),
                format!("{event:?}"),
            );
        }
    }

    #[test]
    fn an_item_is_delivered_once_despite_crashes_and_losses() {
        for (crashes, losses, repeats, failures) in
            [(2, 0, 0, 0), (0, 1, 1, 0), (1, 0, 0, 1)]
        {
            let faults = Faults { crashes, losses, repeats, failures };
            let run = explore(World::new(1, faults), 20_000);
            run.unwrap_or_else(|run| panic!("{run}"));
        }
        let faults = Faults { crashes: 3, losses: 2, repeats: 2, failures: 2 };
        let mut random = fastrand::Rng::with_seed(8);
        for orders in (1..=3).cycle().take(60) {
            // Faults are the last actions. Not all of them happen early.
            let choose = |n| random.usize(..n).min(random.usize(..n));
            let run = run_at_random(World::new(orders, faults), 300, choose);
            run.unwrap_or_else(|run| panic!("{run}"));
        }
    }
}

mod reconciliation {
    use super::*;

    #[test]
    fn differences_are_those_of_a_model() {
        let records = || vec(payment(), 0..12);
        let any = (records(), records(), 0..=6_u64, records());
        for_all(600, any, |(mut here, mut there, grace_s, both)| {
            here.extend(both.clone());
            there.extend(both);
            // Records of the same order have no order among themselves.
            here.sort_by_key(|payment| payment.order);
            there.sort_by_key(|payment| payment.order);
            for day_s in [0..10, 10..20, 20..30, 15..15] {
                let expected = differences(&here, &there, &day_s, grace_s);
                // The same when it is repeated.
                for _ in 0..2 {
                    let seen = reconcile(&here, &there, &day_s, grace_s);
                    let case = format!(
                        "{day_s:?} ± {grace_s}, here {here:?}, there {there:?}"
                    );
                    check(&expected, &seen, case);
                }
            }
        });
    }

    #[test]
    fn a_payment_near_midnight_matches_a_record_of_either_day() {
        for (grace_s, apart_s) in
            pairs(&[0, 1, 5, 60], &[0, 1, 2, 5, 6, 60, 61])
        {
            for late_s in 0..=*apart_s {
                let record = |paid_s| payment_of(7, 100, "CNY", paid_s);
                let first = record(1_000 + late_s - apart_s);
                let second = record(1_000 + late_s);
                for (here, there) in [(&first, &second), (&second, &first)] {
                    let days = [0..1_000, 1_000..2_000];
                    let mut seen = Vec::new();
                    for day_s in &days {
                        let (here, there) = (here.clone(), there.clone());
                        seen.extend(reconcile(
                            &[here],
                            &[there],
                            day_s,
                            *grace_s,
                        ));
                    }
                    let expected: Vec<_> = days
                        .iter()
                        .flat_map(|day_s| {
                            let (here, there) = (here.clone(), there.clone());
                            differences(&[here], &[there], day_s, *grace_s)
                        })
                        .collect();
                    let case =
                        format!("{here:?} and {there:?}, grace {grace_s}");
                    check(&expected, &seen, &case);
                    if apart_s <= grace_s {
                        check(0, seen.len(), case);
                    }
                }
            }
        }
    }
}

const IDS: [u64; 4] = [0, 7, 8, u64::MAX];

fn amount() -> impl Strategy<Value = (u64, String)> {
    // The type `f64` cannot hold the difference of the large ones.
    let cents = select(vec![0, 99, 100, 1 << 53, (1 << 53) + 1, u64::MAX]);
    (cents, select(vec!["", "CNY", "USD", "cny"]).prop_map(str::to_owned))
}

fn notice() -> impl Strategy<Value = Notice> {
    let any = (0..3_u64, select(IDS.to_vec()), amount(), 0..2_u64);
    any.prop_map(|(id, order, (cents, currency), paid_s)| {
        let payment = Payment { order, cents, currency, paid_s };
        Notice { id, payment }
    })
}

fn payment() -> impl Strategy<Value = Payment> {
    let order = prop_oneof![3 => 0..6_u64, 1 => select(IDS.to_vec())];
    let cents = select(vec![99, 100, u64::MAX]);
    let any = (order, cents, select(vec!["CNY", "USD"]), 0..30_u64);
    any.prop_map(|(order, cents, currency, paid_s)| {
        payment_of(order, cents, currency, paid_s)
    })
}

fn payment_of(order: u64, cents: u64, currency: &str, paid_s: u64) -> Payment {
    Payment { order, cents, currency: currency.to_owned(), paid_s }
}

/// Signs without the code under test.
fn request(
    key_id: &str,
    key: &[u8],
    timestamp: &str,
    nonce: &str,
    body: &[u8],
) -> Request {
    let text = [timestamp.as_bytes(), b"\n", nonce.as_bytes(), b"\n", body];
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
    mac.update(&text.concat());
    Request {
        key_id: key_id.to_owned(),
        timestamp: timestamp.to_owned(),
        nonce: nonce.to_owned(),
        body: body.to_owned(),
        signature: mac.finalize().into_bytes().to_vec(),
    }
}

fn receiver<'a, K: AsRef<[u8]>>(
    keys: impl IntoIterator<Item = (&'a str, K)>,
) -> Receiver {
    let keys = keys.into_iter();
    let keys = keys.map(|(id, key)| (id.to_owned(), key.as_ref().to_vec()));
    Receiver { keys: Keys::from_iter(keys), window_s: 300 }
}

/// Returns the request with a field changed (none if it is no text any more),
/// and the length of the field.
fn edit(
    good: &Request,
    field: usize,
    change: &dyn Fn(&mut Vec<u8>),
) -> (Option<Request>, usize) {
    let mut fields = [
        good.key_id.clone().into_bytes(),
        good.timestamp.clone().into_bytes(),
        good.nonce.clone().into_bytes(),
        good.body.clone(),
        good.signature.clone(),
    ];
    let length = fields[field].len();
    change(&mut fields[field]);
    let [key_id, timestamp, nonce, body, signature] = fields;
    let headers = [key_id, timestamp, nonce].map(String::from_utf8);
    let [Ok(key_id), Ok(timestamp), Ok(nonce)] = headers else {
        return (None, length);
    };
    let request = Request { key_id, timestamp, nonce, body, signature };
    let has_line_feed = [&request.timestamp, &request.nonce]
        .iter()
        .any(|header| header.contains('\n'));
    ((!has_line_feed).then_some(request), length)
}

/// Orders 7 and 8 are not paid. The player of order 8 has no account.
fn shop() -> Database {
    let mut database = Database::new([(1, 0)]);
    for (id, text) in [(7, "unpaid 1 100 CNY"), (8, "unpaid 2 5 CNY")] {
        create_order(&mut database, id, &text.parse().unwrap());
    }
    database
}

fn create_order(database: &mut Database, id: u64, order: &Order) {
    let (key, value) = (id.to_string(), text_of(order));
    let insert =
        async |tx: &mut Database| tx.insert(Table::Orders, &key, &value).await;
    let Ok(_) = database.transaction(insert, Result::is_ok);
}

/// Not the text that an order is written as, but it is read as this order.
fn text_of(Order { state, player, cents, currency }: &Order) -> String {
    let state = format!("{state:?}").to_lowercase();
    format!("{state} +{player} 0{cents} {currency}")
}

/// Runs a transaction, and commits it if it returns `Ok`.
fn run(
    database: &mut Database,
    notice: &Notice,
    watch: &mut Watch,
) -> Result<Outcome, statements::Failed> {
    let body =
        async |tx: &mut Database| handle(&mut watch.begin(tx), notice).await;
    database.transaction(body, Result::is_ok)
}

fn receive(database: &mut Database, notice: &Notice) -> Outcome {
    run(database, notice, &mut Watch::idle()).expect("no statement fails")
}

fn orders(database: &Database) -> BTreeMap<u64, Order> {
    let rows = database.table(Table::Orders).into_iter();
    rows.map(|row| (row.key.parse().unwrap(), row.value.parse().unwrap()))
        .collect()
}

fn parked(database: &Database) -> BTreeSet<String> {
    let rows = database.table(Table::Parked).into_iter();
    rows.map(|row| row.value).collect()
}

/// What the rules say about orders.
#[derive(Default)]
struct Model {
    accounts: BTreeMap<u64, i64>,
    orders: BTreeMap<u64, Order>,
    parked: BTreeSet<String>,
}

impl Model {
    fn handle(&mut self, notice: &Notice) -> Outcome {
        let payment = &notice.payment;
        let Some(order) = self.orders.get_mut(&payment.order) else {
            return UnknownOrder;
        };
        let is_right =
            payment.cents == order.cents && payment.currency == order.currency;
        if is_right && order.state != State::Unpaid {
            return Repeated;
        }
        if is_right {
            order.state = State::Paid;
            let items = self.accounts.get_mut(&order.player);
            if let Some(items) = items.filter(|items| **items < i64::MAX) {
                *items += 1;
                order.state = State::Delivered;
                return Delivered;
            }
        }
        let is_new = self.parked.insert(notice.to_string());
        if is_new { Parked } else { Repeated }
    }
}

/// What the rules say about two sets of records: by order, in pairs.
fn differences(
    here: &[Payment],
    there: &[Payment],
    day_s: &Range<u64>,
    grace_s: u64,
) -> Vec<Difference> {
    let mut seen = Vec::new();
    let is_near = |payment: &&Payment| {
        payment.paid_s + grace_s >= day_s.start
            && payment.paid_s < day_s.end + grace_s
    };
    let all: Vec<_> = here.iter().chain(there).collect();
    let ids: BTreeSet<_> = all.iter().map(|payment| payment.order).collect();
    for id in ids {
        let of = |side: &[Payment]| {
            let side = side.iter().filter(is_near);
            let side = side.filter(|payment| payment.order == id);
            side.cloned().collect::<Vec<_>>()
        };
        let (here, there) = (of(here), of(there));
        for i in 0..here.len().max(there.len()) {
            let (a, b) = (here.get(i), there.get(i));
            let dated = b.or(a).unwrap();
            if dated.paid_s < day_s.start || dated.paid_s >= day_s.end {
                continue;
            }
            seen.extend(match (a.cloned(), b.cloned()) {
                (Some(here), Some(there)) => {
                    let is_same = here.cents == there.cents
                        && here.currency == there.currency;
                    (!is_same).then_some(Difference::Amount { here, there })
                }
                (Some(here), None) => Some(Difference::MissingThere(here)),
                (None, there) => there.map(Difference::MissingHere),
            });
        }
    }
    seen
}

fn pairs<'a, A, B>(
    a: &'a [A],
    b: &'a [B],
) -> impl Iterator<Item = (&'a A, &'a B)> {
    a.iter().flat_map(move |a| b.iter().map(move |b| (a, b)))
}

#[expect(clippy::needless_pass_by_value, reason = "the calls are shorter")]
fn check<T: Debug + PartialEq>(expected: T, seen: T, what: impl Display) {
    assert!(expected == seen, "{what}: expected {expected:?}, seen {seen:?}");
}

fn for_all<S: Strategy>(cases: u32, strategy: S, test: impl Fn(S::Value)) {
    let config = test_runner::Config {
        cases,
        failure_persistence: None,
        ..test_runner::Config::default()
    };
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, random);
    let run = runner.run(&strategy, |value| {
        test(value);
        Ok(())
    });
    run.unwrap_or_else(|error| panic!("{error}"));
}
