//! Only inserts rows, and never changes one: a row for the beginning of a
//! branch, and one for its end.
//!
//! - The *begin* row says whether a try or a cancel came first. A cancel inserts
//!   it, too: this is the tombstone.
//! - The *end* row says whether the branch is confirmed or cancelled. If a
//!   confirm and a cancel come at once, the unique key decides: both insert the
//!   same key, so the second one waits.
//!
//! This costs two rows for each branch, and needs no compare-and-set. With an end
//! row for each operation, a confirm and a cancel at once would both insert their
//! own, and neither would see the other.

use crate::money::coordinator::{Call, Operation, Reply, Side};
use crate::money::{Table, Tx};

/// Performs a call in a local transaction of the participant. The caller commits
/// it if the result is `Ok`, whatever the reply is.
///
/// # Errors
///
/// Returns the error of the database. The transaction has to be rolled back.
pub async fn transact<T: Tx>(
    tx: &mut T,
    call: &Call,
) -> Result<Reply, T::Error> {
    let Call { operation, branch } = *call;
    let transfer = branch.transfer;
    let key = |row| format!("{row} {} {}", transfer.id, branch.side);
    let (begin, end) = (key("begin"), key("end"));
    let text = |operation| format!("{operation:?} {transfer}");
    let own = text(operation);

    // Did a try or a cancel come first?
    let is_first = operation != Operation::Confirm
        && tx.insert(Table::Fence, &begin, &own).await?;
    if is_first && operation == Operation::Cancel {
        return Ok(Reply::Done);
    }
    if !is_first {
        let Some(first) = tx.get(Table::Fence, &begin).await? else {
            return Ok(Reply::NotTried);
        };
        let tombstone = text(Operation::Cancel);
        if first != text(Operation::Try) && first != tombstone {
            return Ok(Reply::Conflict);
        }
        if first == tombstone {
            let is_cancel = operation == Operation::Cancel;
            let reply = if is_cancel { Reply::Done } else { Reply::Cancelled };
            return Ok(reply);
        }
        // The first end is final.
        let is_try = operation == Operation::Try;
        if is_try || !tx.insert(Table::Fence, &end, &own).await? {
            let last = tx.get(Table::Fence, &end).await?;
            let cancelled = last.as_ref() == Some(&tombstone);
            return Ok(match operation {
                Operation::Cancel if !cancelled => Reply::Confirmed,
                Operation::Try | Operation::Confirm if cancelled => {
                    Reply::Cancelled
                }
                _ => Reply::Done,
            });
        }
    }

    let cents = i64::from(transfer.cents.get());
    let is_done = match (branch.side, operation) {
        (Side::Debit, Operation::Try) => tx.add(transfer.from, -cents).await?,
        (Side::Debit, Operation::Confirm) => true,
        (Side::Debit, Operation::Cancel) => {
            tx.add(transfer.from, cents).await?
        }
        (Side::Credit, Operation::Try) => tx.add(transfer.to, 0).await?,
        (Side::Credit, Operation::Confirm) => {
            tx.add(transfer.to, cents).await?
        }
        (Side::Credit, Operation::Cancel) => true,
    };
    if !is_done {
        // The row of this call: it has had no effect.
        let row = if operation == Operation::Try { &begin } else { &end };
        tx.delete(Table::Fence, row).await?;
        return Ok(Reply::Refused);
    }
    Ok(Reply::Done)
}
