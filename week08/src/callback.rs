//! Payment notifications: signed, retried, reconciled.
//!
//! *Question.* A payment company tells a shop by HTTP that an order is paid. The
//! notification is lost, arrives five times, arrives a day late, or is forged.
//! How does each player get the item exactly once? How does the shop find a
//! difference?
//!
//! *Idea.* The sender repeats a **webhook** with growing pauses until the answer
//! is `success`. The receiver verifies a **signature** over the bytes that have
//! arrived, and handles the payment in one transaction, which is **idempotent by
//! the order**. A daily **reconciliation** compares the records of both sides.
//!
//! *Guarantee.* Only the holder of a key can have an item delivered, and each
//! order is delivered at most once. The answer `success` is sent after the commit
//! of a delivery, or of a row that a person will see. A payment whose last
//! notification is lost is a difference in the reconciliation of its day.
//!
//! *Cost.* Both sides share the secret, so neither side can prove to a third
//! party who has signed. A signature with a private key is such a proof. A clock
//! that is wrong by more than the window refuses all requests. A reconciliation
//! finds a lost payment a day later.
//!
//! ```
//! use week08::callback::*;
//! use week08::money::shop::Notice;
//!
//! let keys = Keys::from([("2026".to_owned(), b"secret".to_vec())]);
//! let mut receiver = Receiver { keys, window_s: 300 };
//! let body = b"9 7 100 CNY 1000".to_vec();
//! let request = sign("2026", b"secret", 1_002, "5f3a", body);
//! let notice: Notice = "9 7 100 CNY 1000".parse().unwrap();
//!
//! let effects = receiver.step(Event::Received(request.clone(), 1_003));
//! assert_eq!(effects, [Effect::Transact(notice)]);
//! let effects = receiver.step(Event::Committed(Outcome::Delivered));
//! assert_eq!(effects, [Effect::Answer(Answer::Success)]);
//! // A day later, the same request is a replay.
//! let effects = receiver.step(Event::Received(request, 87_403));
//! assert_eq!(effects, [Effect::Answer(Answer::Failure)]);
//! ```

use std::collections::BTreeMap;
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
    let mut mac = mac.expect("HMAC takes keys of any length");
    // A separator that no header can contain: no other fields give these bytes.
    for part in [timestamp.as_bytes(), b"\n", nonce.as_bytes(), b"\n", body] {
        mac.update(part);
    }
    mac
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
    let Some(unpaid) = tx.get(Table::Orders, &key).await? else {
        return Ok(Outcome::UnknownOrder);
    };
    let mut order: Order = unpaid.parse().expect("the shop has written it");
    let amount = (payment.cents, &payment.currency);
    if amount != (order.cents, &order.currency) {
        return park(tx, notice).await;
    }
    if order.state != State::Unpaid {
        return Ok(Outcome::Repeated);
    }
    order.state = State::Paid;
    let paid = order.to_string();
    // A concurrent notice may have been faster. If not, the row is now locked.
    if !tx.replace(Table::Orders, &key, &unpaid, &paid).await? {
        return Ok(Outcome::Repeated);
    }
    if !tx.add(order.player, 1).await? {
        return park(tx, notice).await;
    }
    order.state = State::Delivered;
    tx.replace(Table::Orders, &key, &paid, &order.to_string()).await?;
    Ok(Outcome::Delivered)
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
    let start_s = day_s.start.saturating_sub(grace_s);
    let near_s = start_s..day_s.end.saturating_add(grace_s);
    let is_near = |payment: &&Payment| near_s.contains(&payment.paid_s);
    let mut here = here.iter().filter(is_near).cloned().peekable();
    let mut there = there.iter().filter(is_near).cloned().peekable();
    let mut differences = Vec::new();
    loop {
        let both = here.peek().into_iter().chain(there.peek());
        let Some(order) = both.map(|payment| payment.order).min() else {
            return differences;
        };
        let here = here.next_if(|payment| payment.order == order);
        let there = there.next_if(|payment| payment.order == order);
        differences.extend(Difference::of(here, there, day_s));
    }
}
