//! TCC (try, confirm, cancel): a participant with a fence table. Your turn.
//!
//! A coordinator tries both branches of a transfer, and then confirms both or
//! cancels both. You write the participant. Both services use the same code:
//! the payment service for debits, and the savings service for credits.
//!
//! These rules are graded, and nothing else:
//!
//! - A branch is identified by the id of its transfer and its side. It is
//!   untried at first. Then it is tried, and after that confirmed or cancelled.
//!   An untried branch may also be cancelled. Its state is kept in
//!   `Table::Fence`, in one row or several. No other table is changed.
//! - Try of an untried branch: a debit takes the cents from the account `from`
//!   (they are frozen). A credit changes no balance, but if there is no account
//!   `to`, the reply is `Refused`, and nothing changes. Otherwise the branch is
//!   tried, and the reply is `Done`.
//! - Confirm of a tried branch: a debit changes no account, and its account
//!   need not exist. A credit adds the cents to `to`. Then the branch is
//!   confirmed, and the reply is `Done`.
//! - Cancel of a tried branch: a debit adds the cents to `from`. A credit
//!   changes no account, and its account need not exist. Then the branch is
//!   cancelled, and the reply is `Done`.
//! - If `Tx::add` returns false, the reply is `Refused`, and the branch and the
//!   accounts are as before the call.
//! - Cancel of an untried branch: it is cancelled, the reply is `Done`, and no
//!   account changes.
//! - Confirm of an untried branch: `NotTried`, and nothing changes.
//! - A repeated call changes nothing, and its reply is `Done`: the try of a
//!   branch that is tried or confirmed, the confirm of a confirmed branch, the
//!   cancel of a cancelled one.
//! - A confirmed branch stays confirmed, and a cancelled branch stays
//!   cancelled. The reply to a cancel of a confirmed branch is `Confirmed`. The
//!   reply to a try or a confirm of a cancelled branch is `Cancelled`. Nothing
//!   changes.
//! - If a branch was tried or cancelled with other accounts or other cents, the
//!   reply to any call is `Conflict`, and nothing changes. This rule goes before
//!   the others.
//! - `transact` returns the error of the first statement (a method of `Tx`) that
//!   returns one, and executes no further statement. Otherwise it returns `Ok`,
//!   and the caller commits, whatever the reply is. A call executes at most 100
//!   statements, and waits for nothing else.
//! - Two transactions at the same time have replies and effects as if one had
//!   run after the other, in either order. The documentation of `Tx` describes
//!   the isolation and the locks.
//! - Each transaction changes a row of the fence before it calls `add`. All
//!   transactions lock in one order, even if a branch has several rows, so that
//!   no two of them deadlock.
//!
//! Help: `Call`, `Branch`, `Side` and `Reply` are in `money::coordinator`, `Tx`
//! and `Table` in `money`. `Tx::insert` and `Tx::replace` return whether they
//! have changed something. `Tx::add` of 0 cents returns whether there is the
//! account. The text of a `Transfer` (`to_string`) can be a part of a row.

use crate::money::Tx;
use crate::money::coordinator::{Call, Operation, Reply};

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
    _tx: &mut T,
    call: &Call,
) -> Result<Reply, T::Error> {
    match call.operation {
        Operation::Try => {
            todo!("what if a row is there: from a try, or from a cancel?")
        }
        Operation::Confirm => {
            todo!("of two calls at once, which one adds the money?")
        }
        Operation::Cancel => {
            todo!("what does the try find that arrives after this?")
        }
    }
}
