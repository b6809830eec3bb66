//! TCC (try, confirm, cancel): a participant with a fence table.
//!
//! *Question.* The payment service freezes money for a transfer, and the savings
//! service says no, or says nothing. How is the money freed exactly once, also
//! if the cancel arrives before the try?
//!
//! *Idea.* The **fence** is a table with a row for each branch: tried,
//! confirmed or cancelled. Each call changes the row and the account in one
//! local transaction. A try inserts the row, so a second try changes nothing. A
//! confirm or a cancel changes the row only if its state is still *tried*
//! (compare-and-set). A cancel that finds no row inserts one, a **tombstone**,
//! which refuses the late try.
//!
//! *Guarantee.* Calls may be repeated, and may arrive in any order or at the
//! same time. A branch is tried at most once, and then confirmed or cancelled,
//! never both. A cancel gives back exactly what its try froze, and nothing if
//! there was no try.
//!
//! *Cost.* Money stays frozen until the coordinator comes back. Each service
//! needs three operations in place of one, and its fence grows by a row for each
//! branch: a row may be deleted only when no call for it can arrive any more.
//!
//! ```
//! use std::num::NonZero;
//! use week08::money::Transfer;
//! use week08::money::coordinator::Operation::{Cancel, Try};
//! use week08::money::coordinator::{Branch, Call, Reply, Side};
//! use week08::money::simulated::Database;
//! use week08::tcc::transact;
//!
//! let mut database = Database::new([(1, 500)]);
//! let cents = NonZero::new(100).unwrap();
//! let transfer = Transfer { id: 7, from: 1, to: 2, cents };
//! let branch = Branch { side: Side::Debit, transfer };
//! let mut send = |operation| {
//!     let call = Call { operation, branch };
//!     let body = async |tx: &mut Database| transact(tx, &call).await;
//!     database.transaction(body, Result::is_ok)
//! };
//! assert_eq!(send(Cancel), Ok(Reply::Done));
//! assert_eq!(send(Try), Ok(Reply::Cancelled));
//! assert_eq!(database.total(), 500);
//! ```

use crate::money::coordinator::{Branch, Call, Operation, Reply, Side};
use crate::money::{Table, Transfer, Tx};

/// Performs a call in a local transaction of the participant. The caller commits
/// it if the result is `Ok`, whatever the reply is, and sends the reply after
/// the commit.
///
/// # Errors
///
/// Returns the error of the database. The transaction has to be rolled back.
///
/// # Cancel safety
///
/// If the future is dropped, the transaction has to be rolled back.
pub async fn transact<T: Tx>(
    tx: &mut T,
    call: &Call,
) -> Result<Reply, T::Error> {
    let branch = call.branch;
    let key = format!("{} {}", branch.transfer.id, branch.side);
    match call.operation {
        Operation::Try => try_branch(tx, branch, &key).await,
        Operation::Confirm => finish(tx, branch, &key, CONFIRMED).await,
        Operation::Cancel => {
            // The tombstone first. If a try runs at the same time, the second
            // of the two inserts waits until the first transaction ends.
            let tombstone = row(CANCELLED, &branch.transfer);
            if tx.insert(Table::Fence, &key, &tombstone).await? {
                return Ok(Reply::Done);
            }
            finish(tx, branch, &key, CANCELLED).await
        }
    }
}

const TRIED: &str = "tried";
const CONFIRMED: &str = "confirmed";
const CANCELLED: &str = "cancelled";

async fn try_branch<T: Tx>(
    tx: &mut T,
    branch: Branch,
    key: &str,
) -> Result<Reply, T::Error> {
    let Branch { side, transfer } = branch;
    let tried = row(TRIED, &transfer);
    if !tx.insert(Table::Fence, key, &tried).await? {
        let stored = tx.get(Table::Fence, key).await?;
        return Ok(match state(stored.as_deref(), &transfer) {
            Ok(CANCELLED) => Reply::Cancelled,
            Ok(_) => Reply::Done,
            Err(reply) => reply,
        });
    }
    let is_reserved = match side {
        Side::Debit => tx.add(transfer.from, -cents(&transfer)).await?,
        // The account only has to exist.
        Side::Credit => tx.add(transfer.to, 0).await?,
    };
    if !is_reserved {
        // Otherwise a cancel would give back what was never frozen.
        tx.delete(Table::Fence, key).await?;
        return Ok(Reply::Refused);
    }
    Ok(Reply::Done)
}

/// Confirms or cancels a branch that is tried.
async fn finish<T: Tx>(
    tx: &mut T,
    branch: Branch,
    key: &str,
    to: &str,
) -> Result<Reply, T::Error> {
    let Branch { side, transfer } = branch;
    let (tried, finished) = (row(TRIED, &transfer), row(to, &transfer));
    // Compare and set: of two calls at once, the second waits, and changes
    // nothing. The account is changed after the row, so that all calls lock in
    // one order.
    if !tx.replace(Table::Fence, key, &tried, &finished).await? {
        let stored = tx.get(Table::Fence, key).await?;
        return Ok(match state(stored.as_deref(), &transfer) {
            Ok(state) if state == to => Reply::Done,
            Ok(CONFIRMED) => Reply::Confirmed,
            Ok(CANCELLED) => Reply::Cancelled,
            // The try was committed after the `replace`.
            Ok(_) => Reply::NotTried,
            Err(reply) => reply,
        });
    }
    let is_done = match (side, to) {
        (Side::Debit, CANCELLED) => {
            tx.add(transfer.from, cents(&transfer)).await?
        }
        (Side::Credit, CONFIRMED) => {
            tx.add(transfer.to, cents(&transfer)).await?
        }
        // The money left the account with the try, or was never added.
        _ => true,
    };
    if !is_done {
        tx.replace(Table::Fence, key, &finished, &tried).await?;
        return Ok(Reply::Refused);
    }
    Ok(Reply::Done)
}

fn row(state: &str, transfer: &Transfer) -> String {
    format!("{state} {transfer}")
}

/// Returns the state in a row of the branch, or the reply if there is none.
fn state<'a>(
    row: Option<&'a str>,
    transfer: &Transfer,
) -> Result<&'a str, Reply> {
    let (state, stored) =
        row.and_then(|row| row.split_once(' ')).ok_or(Reply::NotTried)?;
    let is_same = stored == transfer.to_string();
    if is_same { Ok(state) } else { Err(Reply::Conflict) }
}

fn cents(transfer: &Transfer) -> i64 {
    i64::from(transfer.cents.get())
}
