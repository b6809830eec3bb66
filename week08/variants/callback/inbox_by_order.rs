//! Instead of a compare-and-set of the order, the id of the order is inserted
//! into the inbox. The insert is the lock, as in the exercise on the inbox: a
//! concurrent notice of the same order waits for it. The shop then has two tables
//! that say whether an order is paid, and must not delete rows of either. The
//! reconciliation collects the records in a map by order, so they need not be
//! sorted, but all records of a day are in memory.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::money::shop::{Difference, Notice, Order, Payment, Request, State};
use crate::money::{Table, Tx};

/// The pauses after each attempt but the last, in seconds: 15 s, 15 s, 30 s, 3
/// min, …, 6 h. The last attempt is a day after the first.
pub const PAUSES_S: [u64; 15] = [
    15, 15, 30, 180, 600, 1_200, 1_800, 1_800, 1_800, 3_600, 10_800, 10_800,
    10_800, 21_600, 21_600,
];

/// The shared secrets by their ids. During a rotation there are two.
pub type Keys = BTreeMap<String, Vec<u8>>;

/// The sender's state of a notification. The caller stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Delivery {
    /// The number of attempts that were begun.
    pub attempts: usize,
    /// When the next attempt is due, in seconds since 1970. None: never.
    pub due_s: Option<u64>,
    /// Whether an answer was `success`.
    pub is_acknowledged: bool,
}

/// The shop's side. It handles one request at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Receiver {
    /// The keys that are valid now.
    pub keys: Keys,
    /// How far the timestamp of a request may be from the shop's clock.
    pub window_s: u64,
}

/// An event that the receiver handles.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// A request has arrived at this second since 1970.
    Received(Request, u64),
    /// The transaction is committed.
    Committed(Outcome),
    /// The transaction is rolled back, or its outcome is unknown.
    RolledBack,
}

/// An effect that the caller performs. The caller reports the event of an
/// effect before it performs the next effect.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Run [`handle`] in one transaction, and commit it if it returns `Ok`.
    Transact(Notice),
    /// Answer the request.
    Answer(Answer),
}

/// The answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Answer {
    /// The body is `success`: the notification must not come again.
    Success,
    /// The body is another text: the notification has to come again.
    Failure,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// No key has this id, or the key was removed.
    #[error("the key is not known")]
    Key,
    /// The request is forged, or was changed on its way.
    #[error("the signature is wrong")]
    Signature,
    /// The request is a replay, or a clock is wrong.
    #[error("the timestamp is outside of the window")]
    Timestamp,
    /// The signature is right, so the sender has a bug.
    #[error("the body is no notice")]
    Body,
}

/// What [`handle`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The player has the item.
    Delivered,
    /// The notice was handled before. Nothing is changed.
    Repeated,
    /// A person has to decide: the notice is a row of [`Table::Parked`].
    Parked,
    /// There is no such order yet. Nothing is changed.
    UnknownOrder,
}

impl Delivery {
    /// Creates the state of a notification whose first attempt is due now.
    pub fn new(now_s: u64) -> Self {
        Self { attempts: 0, due_s: Some(now_s), is_acknowledged: false }
    }

    /// Begins an attempt if one is due, and returns whether it began. The caller
    /// stores the state, and then sends a request with a new timestamp and nonce.
    pub fn next_attempt(&mut self, pauses_s: &[u64], now_s: u64) -> bool {
        if self.due_s.is_none_or(|due_s| now_s < due_s) {
            return false;
        }
        let pause_s = pauses_s.get(self.attempts);
        // The pause starts now, and not when the attempt was due. So the
        // attempts after an outage of the sender also have pauses.
        self.due_s = pause_s.map(|pause_s| now_s.saturating_add(*pause_s));
        self.attempts += 1;
        true
    }

    /// Handles an answer. The caller does not call this if no answer arrives.
    pub fn answered(&mut self, text: &[u8]) {
        if text == b"success" {
            self.is_acknowledged = true;
            self.due_s = None;
        }
    }
}

/// Signs a notification.
pub fn sign(
    key_id: &str,
    key: &[u8],
    timestamp_s: u64,
    nonce: &str,
    body: Vec<u8>,
) -> Request {
    let timestamp = timestamp_s.to_string();
    let mac = mac(key, &timestamp, nonce, &body);
    let signature = mac.finalize().into_bytes().to_vec();
    let (key_id, nonce) = (key_id.to_owned(), nonce.to_owned());
    Request { key_id, timestamp, nonce, body, signature }
}

fn mac(key: &[u8], timestamp: &str, nonce: &str, body: &[u8]) -> Hmac<Sha256> {
    let mac = Hmac::<Sha256>::new_from_slice(key);
    let mut bytes = format!("{timestamp}\n{nonce}\n").into_bytes();
    bytes.extend(body);
    mac.expect("HMAC takes keys of any length").chain_update(bytes)
}

impl Receiver {
    /// Handles an event, and returns the effects to perform, in order.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        let answer = match event {
            Event::Received(request, now_s) => {
                match self.verify(&request, now_s) {
                    Ok(notice) => return vec![Effect::Transact(notice)],
                    Err(_) => Answer::Failure,
                }
            }
            // The order may be created a moment later.
            Event::Committed(Outcome::UnknownOrder) => Answer::Failure,
            // If it were sent before the commit, a crash could lose the payment.
            Event::Committed(_) => Answer::Success,
            Event::RolledBack => Answer::Failure,
        };
        vec![Effect::Answer(answer)]
    }

    /// Verifies a request that arrives at this second since 1970.
    ///
    /// # Errors
    ///
    /// Returns the first reason to refuse it, in the order of [`Refused`].
    pub fn verify(
        &self,
        request: &Request,
        now_s: u64,
    ) -> Result<Notice, Refused> {
        let Request { key_id, timestamp, nonce, body, signature } = request;
        let key = self.keys.get(key_id).ok_or(Refused::Key)?;
        // The MAC is of the bytes that have arrived. The comparison takes
        // constant time.
        let mac = mac(key, timestamp, nonce, body);
        mac.verify_slice(signature).map_err(|_| Refused::Signature)?;
        let timestamp_s: Option<u64> = timestamp.parse().ok();
        timestamp_s
            .filter(|time_s| time_s.abs_diff(now_s) <= self.window_s)
            .ok_or(Refused::Timestamp)?;
        let text = str::from_utf8(body).map_err(|_| Refused::Body)?;
        text.parse().map_err(|_| Refused::Body)
    }
}

/// Handles a verified notice in a transaction. The account of the player counts
/// the items.
///
/// # Errors
///
/// Returns the error of the database. The transaction has to be rolled back.
///
/// # Panics
///
/// Panics if the row of the order is no [`Order`].
///
/// # Cancel safety
///
/// If the future is dropped, the transaction has to be rolled back.
pub async fn handle<T: Tx>(
    tx: &mut T,
    notice: &Notice,
) -> Result<Outcome, T::Error> {
    let payment = &notice.payment;
    let key = payment.order.to_string();
    let Some(row) = tx.get(Table::Orders, &key).await? else {
        return Ok(Outcome::UnknownOrder);
    };
    let order: Order = row.parse().expect("the shop has written it");
    if payment.cents != order.cents || payment.currency != order.currency {
        return park(tx, notice).await;
    }
    // The row of the order in the inbox is the lock, and says that it is paid.
    let is_first = tx.insert(Table::Inbox, &key, &notice.to_string()).await?;
    if !is_first || order.state != State::Unpaid {
        return Ok(Outcome::Repeated);
    }
    let is_delivered = tx.add(order.player, 1).await?;
    let state = if is_delivered { State::Delivered } else { State::Paid };
    let new = Order { state, ..order }.to_string();
    tx.replace(Table::Orders, &key, &row, &new).await?;
    if is_delivered {
        return Ok(Outcome::Delivered);
    }
    park(tx, notice).await
}

/// Stores a notice for a person, if it is not stored yet.
async fn park<T: Tx>(tx: &mut T, notice: &Notice) -> Result<Outcome, T::Error> {
    let text = notice.to_string();
    let is_new = tx.insert(Table::Parked, &text, &text).await?;
    Ok(if is_new { Outcome::Parked } else { Outcome::Repeated })
}

/// Compares the records of both sides for a day. Both lists are sorted by order.
pub fn reconcile(
    here: &[Payment],
    there: &[Payment],
    day_s: &Range<u64>,
    grace_s: u64,
) -> Vec<Difference> {
    let end_s = day_s.end.saturating_add(grace_s);
    let is_near = |payment: &&Payment| {
        payment.paid_s.saturating_add(grace_s) >= day_s.start
            && payment.paid_s < end_s
    };
    // The records of each order: of the shop, and of the company.
    let mut orders: BTreeMap<u64, [VecDeque<Payment>; 2]> = BTreeMap::new();
    for (side, records) in [here, there].into_iter().enumerate() {
        for payment in records.iter().filter(is_near) {
            let order = orders.entry(payment.order).or_default();
            order[side].push_back(payment.clone());
        }
    }
    let mut differences = Vec::new();
    for [mut here, mut there] in orders.into_values() {
        while !(here.is_empty() && there.is_empty()) {
            let pair = (here.pop_front(), there.pop_front());
            differences.extend(Difference::of(pair.0, pair.1, day_s));
        }
    }
    differences
}
