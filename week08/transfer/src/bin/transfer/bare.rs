//! The limit: two local transactions, and nothing that repeats or repairs them.

use anyhow::Result;
use week08::money::{Transfer, Tx as _};

use crate::child::Context;
use crate::pattern::Role;
use crate::wire::serve;

/// Changes the balance of an account, and stores nothing else. A crash, a lost
/// answer or a repeated request loses or creates money.
pub(crate) async fn service(context: Context, role: Role) -> Result<()> {
    let dir = context.dir.clone();
    serve(&dir, role, async move |line| {
        let transfer: Transfer = line.parse().ok()?;
        let cents = i64::from(transfer.cents.get());
        let (account, cents) = match role {
            Role::Payment => (transfer.from, -cents),
            _ => (transfer.to, cents),
        };
        let body = async |tx: &mut week08_transfer::sql::SqlTx| {
            tx.add(account, cents).await
        };
        let is_changed = context.ledger.transaction(body).await.ok()?;
        is_changed.then(|| "ok".to_owned())
    })
    .await?;
    Ok(())
}
