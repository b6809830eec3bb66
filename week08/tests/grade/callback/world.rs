//! A payment company and a shop: requests are lost, repeated and late, and the
//! shop crashes.

use std::collections::VecDeque;

use week08::callback::{
    Answer, Delivery, Effect, Event, Keys, Receiver, handle, reconcile, sign,
};
use week08::money::Table;
use week08::money::explore::System;
use week08::money::shop::{Difference, Notice, Order, Payment, Request, State};
use week08::money::simulated::Database;

use super::PAID_S;

/// A request arrives too late if it is sent before the last pause and arrives
/// after it.
const PAUSES_S: [u64; 3] = [15, 15, 400];
const KEY: &[u8] = b"secret";

/// Order 1 is of player 1, and so on. Each player gets at most one item.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    now_s: u64,
    deliveries: Vec<Delivery>,
    /// In flight, sorted.
    requests: Vec<Request>,
    /// In flight, sorted: the order and the answer.
    answers: Vec<(u64, Answer)>,
    /// The order and the effects of the request that the shop handles.
    handled: Option<(u64, VecDeque<Effect>)>,
    shop: Database,
    faults: Faults,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Faults {
    pub(crate) crashes: u32,
    pub(crate) losses: u32,
    pub(crate) repeats: u32,
    pub(crate) failures: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Arrive(Request),
    Perform,
    Answered(u64, Answer),
    Create(u64),
    Attempt(u64),
    // Faults:
    Repeat(Request),
    Lose(Request),
    LoseAnswer(u64, Answer),
    RollBack,
    LoseOutcome,
    Crash,
}

impl World {
    pub(crate) fn new(orders: u64, faults: Faults) -> Self {
        Self {
            now_s: PAID_S,
            deliveries: (0..orders).map(|_| Delivery::new(PAID_S)).collect(),
            requests: Vec::new(),
            answers: Vec::new(),
            handled: None,
            shop: Database::new((1..=orders).map(|player| (player, 0))),
            faults,
        }
    }

    fn state(&self, order: u64) -> Option<State> {
        let row = self.shop.rows.get(&(Table::Orders, order.to_string()))?;
        Some(row.value.parse::<Order>().expect("an order").state)
    }

    fn has_effect(&self) -> bool {
        self.handled.is_some()
    }

    fn receive(&mut self, event: Event) {
        let keys = Keys::from([("k".to_owned(), KEY.to_vec())]);
        let effects = Receiver { keys, window_s: 300 }.step(event);
        let (_, queue) = self.handled.as_mut().expect("a request is handled");
        queue.extend(effects);
        if queue.is_empty() {
            self.handled = None;
        }
    }

    fn take(&mut self, request: &Request) {
        let index = self.requests.iter().position(|other| other == request);
        self.requests.remove(index.expect("it is in flight"));
    }

    /// Performs the first effect of the shop. Without `commits`, a transaction
    /// is rolled back. Without `learns`, the shop does not see its outcome.
    fn perform_effect(&mut self, commits: bool, learns: bool) {
        let (order, queue) = self.handled.as_mut().expect("there is an effect");
        match queue.pop_front().expect("there is an effect") {
            Effect::Transact(notice) => {
                let body = async |tx: &mut Database| handle(tx, &notice).await;
                let Ok(outcome) = self.shop.transaction(body, |_| commits);
                let event = if learns {
                    Event::Committed(outcome)
                } else {
                    Event::RolledBack
                };
                self.receive(event);
            }
            Effect::Answer(answer) => {
                self.answers.push((*order, answer));
                self.answers.sort_unstable();
                if queue.is_empty() {
                    self.handled = None;
                }
            }
        }
    }
}

fn order_of(request: &Request) -> u64 {
    let text = String::from_utf8_lossy(&request.body);
    text.parse::<Notice>().expect("a notice").payment.order
}

fn payment(order: u64) -> Payment {
    let currency = "CNY".to_owned();
    Payment { order, cents: 100, currency, paid_s: PAID_S }
}

impl System for World {
    type Action = Action;

    fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.has_effect() {
            actions.push(Action::Perform);
        } else {
            actions.extend(self.requests.iter().cloned().map(Action::Arrive));
        }
        let answers = self.answers.iter().copied();
        actions.extend(answers.clone().map(|(o, a)| Action::Answered(o, a)));
        for (order, delivery) in (1..).zip(&self.deliveries) {
            if self.state(order).is_none() {
                actions.push(Action::Create(order));
            }
            if delivery.due_s.is_some() {
                actions.push(Action::Attempt(order));
            }
        }
        let Faults { crashes, losses, repeats, failures } = self.faults;
        if repeats > 0 {
            actions.extend(self.requests.iter().cloned().map(Action::Repeat));
        }
        if losses > 0 {
            actions.extend(self.requests.iter().cloned().map(Action::Lose));
            actions.extend(answers.map(|(o, a)| Action::LoseAnswer(o, a)));
        }
        let effect = self.handled.iter().find_map(|(_, q)| q.front());
        if failures > 0 && matches!(effect, Some(Effect::Transact(_))) {
            actions.extend([Action::RollBack, Action::LoseOutcome]);
        }
        if crashes > 0 && self.has_effect() {
            actions.push(Action::Crash);
        }
        actions
    }

    fn describe(&self, action: &Action) -> String {
        let effect = || {
            let effect = self.handled.iter().find_map(|(_, q)| q.front());
            match effect {
                Some(Effect::Transact(notice)) => format!("handle {notice}"),
                Some(Effect::Answer(answer)) => format!("answer {answer:?}"),
                None => "nothing".to_owned(),
            }
        };
        let text = |request: &Request| {
            let body = String::from_utf8_lossy(&request.body);
            format!("{body} (signed at {})", request.timestamp)
        };
        match action {
            Action::Arrive(request) => format!("shop gets {}", text(request)),
            Action::Perform => format!("shop: {}", effect()),
            Action::Answered(order, answer) => {
                format!("company gets {answer:?} for order {order}")
            }
            Action::Create(order) => format!("shop creates order {order}"),
            Action::Attempt(order) => format!("company notifies order {order}"),
            Action::Repeat(request) => {
                format!("the network REPEATS {}", text(request))
            }
            Action::Lose(request) => format!("LOST: {}", text(request)),
            Action::LoseAnswer(order, answer) => {
                format!("LOST: answer {answer:?} for order {order}")
            }
            Action::RollBack => format!("shop: {}: ROLLED BACK", effect()),
            Action::LoseOutcome => {
                format!("shop: {}: committed, the OUTCOME IS LOST", effect())
            }
            Action::Crash => "shop: CRASH".to_owned(),
        }
    }

    fn is_fault(&self, action: &Action) -> bool {
        match action {
            Action::Arrive(_)
            | Action::Perform
            | Action::Answered(..)
            | Action::Create(_)
            | Action::Attempt(_) => false,
            Action::Repeat(_)
            | Action::Lose(_)
            | Action::LoseAnswer(..)
            | Action::RollBack
            | Action::LoseOutcome
            | Action::Crash => true,
        }
    }

    fn perform(&mut self, action: &Action) {
        match action {
            Action::Arrive(request) => {
                self.take(request);
                self.handled = Some((order_of(request), VecDeque::new()));
                self.receive(Event::Received(request.clone(), self.now_s));
            }
            Action::Perform => self.perform_effect(true, true),
            Action::Answered(order, answer) => {
                self.answers.retain(|other| *other != (*order, *answer));
                let text = match answer {
                    Answer::Success => "success",
                    Answer::Failure => "failure",
                };
                let delivery = &mut self.deliveries[*order as usize - 1];
                delivery.answered(text.as_bytes());
            }
            Action::Create(order) => {
                let value = format!("unpaid {order} 100 CNY");
                let key = order.to_string();
                let created = self.shop.transaction(
                    async |tx: &mut Database| {
                        use week08::money::Tx as _;
                        tx.insert(Table::Orders, &key, &value).await
                    },
                    |_| true,
                );
                assert_eq!(created, Ok(true), "the order is new");
            }
            Action::Attempt(order) => {
                let delivery = &mut self.deliveries[*order as usize - 1];
                let due_s = delivery.due_s.expect("it is due");
                self.now_s = self.now_s.max(due_s);
                if delivery.next_attempt(&PAUSES_S, self.now_s) {
                    let nonce = delivery.attempts.to_string();
                    let notice = Notice { id: 9, payment: payment(*order) };
                    let body = notice.to_string().into_bytes();
                    let request = sign("k", KEY, self.now_s, &nonce, body);
                    self.requests.push(request);
                    self.requests.sort_unstable();
                }
            }
            Action::Repeat(request) => {
                self.faults.repeats -= 1;
                self.requests.push(request.clone());
                self.requests.sort_unstable();
            }
            Action::Lose(request) => {
                self.faults.losses -= 1;
                self.take(request);
            }
            Action::LoseAnswer(order, answer) => {
                self.faults.losses -= 1;
                self.answers.retain(|other| *other != (*order, *answer));
            }
            Action::RollBack => {
                self.faults.failures -= 1;
                self.perform_effect(false, false);
            }
            Action::LoseOutcome => {
                self.faults.failures -= 1;
                self.perform_effect(true, false);
            }
            Action::Crash => {
                self.faults.crashes -= 1;
                self.handled = None;
            }
        }
    }

    fn check(&self) -> Result<(), String> {
        for (order, delivery) in (1..).zip(&self.deliveries) {
            let items = self.shop.accounts[&order];
            if items > 1 {
                return Err(format!(
                    "order {order} is delivered {items} times"
                ));
            }
            let is_lost = delivery.is_acknowledged && items == 0;
            if is_lost {
                return Err(format!(
                    "order {order} is answered with success, and is not \
                     delivered"
                ));
            }
        }
        Ok(())
    }

    fn check_settled(&self) -> Result<(), String> {
        let orders = 1..=self.deliveries.len() as u64;
        let there: Vec<_> = orders.clone().map(payment).collect();
        let is_delivered =
            |payment: &Payment| self.shop.accounts[&payment.order] == 1;
        let here = there.iter().filter(|payment| is_delivered(payment));
        let here: Vec<_> = here.cloned().collect();
        let day_s = 0..86_400;
        let seen = reconcile(&here, &there, &day_s, 60);
        let lost = there.into_iter().filter(|payment| !is_delivered(payment));
        let expected: Vec<_> = lost.map(Difference::MissingHere).collect();
        if seen != expected {
            return Err(format!(
                "expected the differences {expected:?}, seen {seen:?}"
            ));
        }
        // What is not delivered was notified until the last attempt.
        let is_delivered = |order| self.shop.accounts[&order] == 1;
        for (order, delivery) in orders.zip(&self.deliveries) {
            let is_given_up = delivery.attempts == PAUSES_S.len() + 1;
            if !is_delivered(order) && !is_given_up {
                return Err(format!(
                    "order {order} is not delivered, and the company gives up \
                     after {} of {} attempts",
                    delivery.attempts,
                    PAUSES_S.len() + 1,
                ));
            }
        }
        Ok(())
    }
}
