//! Payment notifications: signed, retried, reconciled. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! The sender
//!
//! - An attempt is *due* when the clock has reached `due_s`. `next_attempt`
//!   begins at most one attempt, and returns whether it began one. If no attempt
//!   is due, it changes nothing.
//! - The n-th pause follows attempt number n, and starts when the attempt is
//!   begun, not when it was due. Each call may get another list of pauses. Times
//!   above `u64::MAX` are `u64::MAX`. If the list has no n-th pause, attempt
//!   number n is the last one.
//! - The answer `success` ends the attempts. All other answers change nothing.
//!
//! The signature
//!
//! - The signature is the HMAC-SHA256 of these bytes: the timestamp, a line feed,
//!   the nonce, a line feed, and the body. The bytes are those that have arrived.
//! - `verify` returns the first of these reasons to refuse a request:
//!   1. `Key`: no key has this id.
//!   2. `Signature`: the signature is wrong, too long or too short.
//!   3. `Timestamp`: the timestamp is no `u64`, or it is more than `window_s`
//!      before or after the clock.
//!   4. `Body`: the body is no `Notice`.
//! - Timestamps, bodies and the rows of orders are read with `str::parse`.
//! - Each key of `keys` is valid for requests with its own id.
//!
//! The order
//!
//! - If the order does not exist, nothing changes. The outcome is `UnknownOrder`.
//! - A notice with another amount or currency than its order is *parked*, in any
//!   state of the order. Nothing else changes.
//! - A parked notice is a row of `Table::Parked`, whose value is the text
//!   of the notice. The outcome is `Parked`, or `Repeated` if the row exists.
//! - A notice with the right amount delivers an order that is `Unpaid`. The state
//!   becomes `Delivered`, and the account of the player has one item more. The
//!   outcome is `Delivered`. If `add` returns false, the state becomes `Paid`, and
//!   the notice is parked.
//! - A notice with the right amount for an order that is no longer `Unpaid`
//!   changes nothing. The outcome is `Repeated`. The id of the notice does not
//!   matter.
//! - Between two notices, the shop may change an amount or open an account, and a
//!   person may delete a parked row.
//! - Another notice may commit between two of your statements. Even then,
//!   an item is delivered once.
//! - If a statement returns an error, `handle` returns it at once.
//!
//! The answer
//!
//! - `step` returns one effect. A verified request is handled in a transaction. A
//!   refused request is answered with `Failure`.
//! - The answer after a commit is `Success`, or `Failure` for an unknown order.
//!   The answer after a rollback is `Failure`.
//! - The shop may crash before and after each effect. Requests and answers may be
//!   lost, repeated or late. Each order is delivered at most once, and a
//!   notification that is answered with `Success` is delivered or parked.
//!
//! The reconciliation
//!
//! - Only records whose time is in `start - grace_s..end + grace_s` count, where
//!   `start..end` is the day. Both lists are sorted by the order, and by nothing
//!   else.
//! - Records of the same order are paired: the first of one side with the first
//!   of the other, the second with the second, and so on. A record without a
//!   partner is missing on the other side. The amounts of a pair may differ.
//! - The time of a difference is the time of the company's record (`there`), or of
//!   the shop's record if there is no other. Only differences whose time is within
//!   `day_s` are returned, sorted by the order.
//!
//! Given: `sign`, `answered`, `park`, and the types in `money::shop`.
//! `Difference::of` compares a pair of records.

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
    pub fn next_attempt(&mut self, _pauses_s: &[u64], _now_s: u64) -> bool {
        todo!("is an attempt due, and when is the one after it?")
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

fn mac(
    key: &[u8],
    _timestamp: &str,
    _nonce: &str,
    _body: &[u8],
) -> Hmac<Sha256> {
    let mac = Hmac::<Sha256>::new_from_slice(key);
    let _mac = mac.expect("HMAC takes keys of any length");
    todo!("which bytes are signed, so that no other fields give the same?")
}

impl Receiver {
    /// Handles an event, and returns the effects to perform, in order.
    pub fn step(&mut self, _event: Event) -> Vec<Effect> {
        todo!("what is the answer to each event, or what comes before it?")
    }

    /// Verifies a request that arrives at this second since 1970.
    ///
    /// # Errors
    ///
    /// Returns the first reason to refuse it, in the order of [`Refused`].
    pub fn verify(
        &self,
        _request: &Request,
        _now_s: u64,
    ) -> Result<Notice, Refused> {
        todo!("what do you know before the signature is verified?")
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
    _tx: &mut T,
    _notice: &Notice,
) -> Result<Outcome, T::Error> {
    todo!("which statement lets one of two concurrent notices win?")
}

/// Stores a notice for a person, if it is not stored yet.
#[allow(dead_code, reason = "you will use it")]
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
    let mut differences = Vec::<Difference>::new();
    let _ = (&mut here, &mut there, &mut differences);
    todo!("which order comes next, and which sides have it?")
}
