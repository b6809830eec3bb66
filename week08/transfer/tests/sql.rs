//! The protocols in local transactions of real databases.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use lab::cancel::after_polls;
use lab::servers::Postgres;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::timeout;
use week08::money::simulated::Database;
use week08::money::{Message, Table, Transfer, Tx};
use week08::outbox::{Outcome, Reply};
use week08::{inbox, outbox};
use week08_transfer::sql::{Ledger, SqlTx};

const FROM: u64 = 1;
const TO: u64 = 2;

/// Runs a test on a database of its own.
async fn on_sqlite(test: impl AsyncFnOnce(&str)) {
    let dir = TempDir::new().unwrap();
    test(&format!("sqlite:{}", dir.path().join("ledger.db").display())).await;
}

async fn on_postgres(test: impl AsyncFnOnce(&str)) {
    let server = Postgres::start().expect("it starts");
    test(&server.url()).await;
}

fn transfer(id: u64, cents: u32) -> Transfer {
    Transfer { id, from: FROM, to: TO, cents: NonZero::new(cents).unwrap() }
}

fn message(id: u64, cents: u32) -> Message {
    Message { debited_s: 1_000, transfer: transfer(id, cents) }
}

async fn debit(ledger: &Ledger, id: u64, cents: u32) -> sqlx::Result<Reply> {
    let command = outbox::Command::Debit(message(id, cents));
    let outcome = ledger
        .transaction(async |tx| outbox::transact(tx, &command).await)
        .await?;
    match outcome {
        Outcome::Debit(reply) => Ok(reply),
        other => panic!("a debit, and not {other:?}"),
    }
}

async fn credit(ledger: &Ledger, text: &str) -> inbox::Outcome {
    let command = inbox::Command::Credit(text.to_owned());
    let credit = async |tx: &mut _| inbox::transact(tx, &command).await;
    ledger.transaction(credit).await.unwrap()
}

async fn each_reply_is_right(url: &str) {
    let ledger = Ledger::connect(url).await.unwrap();
    ledger.open_account(FROM, 150).await.unwrap();
    for (id, cents, reply, balance) in [
        (7, 100, Reply::Accepted, 50),
        (7, 100, Reply::Accepted, 50),
        (7, 99, Reply::Conflict, 50),
        (8, 51, Reply::Refused, 50),
        (8, 50, Reply::Accepted, 0),
    ] {
        let seen = debit(&ledger, id, cents).await.unwrap();
        assert_eq!(seen, reply, "transfer {id} of {cents} cents");
        assert_eq!(ledger.balance(FROM).await.unwrap(), Some(balance));
    }
    let rows = ledger.transaction(async |tx| tx.oldest(Table::Outbox, 9).await);
    let texts: Vec<_> =
        rows.await.unwrap().into_iter().map(|r| r.value).collect();
    assert_eq!(texts, ["1000 7 1 2 100", "1000 8 1 2 50"]);
}

async fn concurrent_requests_debit_and_credit_once(url: &str) {
    let ledger = Arc::new(Ledger::connect(url).await.unwrap());
    ledger.open_account(FROM, 1_000_000).await.unwrap();
    ledger.open_account(TO, 0).await.unwrap();
    let mut tasks = JoinSet::new();
    for id in (0..20).flat_map(|id| [id; 4]) {
        let ledger = Arc::clone(&ledger);
        tasks.spawn(async move {
            assert_eq!(debit(&ledger, id, 10).await.unwrap(), Reply::Accepted);
            credit(&ledger, &message(id, 10).to_string()).await;
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    assert_eq!(ledger.balance(FROM).await.unwrap(), Some(1_000_000 - 200));
    assert_eq!(ledger.balance(TO).await.unwrap(), Some(200));
}

async fn a_dropped_transaction_leaves_nothing_open(url: &str) {
    let ledger = Ledger::connect(url).await.unwrap();
    ledger.open_account(FROM, 1_000_000).await.unwrap();
    let mut id = 0;
    for polls in 0..60 {
        id += 1;
        let _ = after_polls(polls, debit(&ledger, id, 10)).await;
        // A next transaction that goes on in an open one would be lost.
        id += 1;
        assert_eq!(debit(&ledger, id, 10).await.unwrap(), Reply::Accepted);
    }
    let again = Ledger::connect(url).await.unwrap();
    let rows =
        again.transaction(async |tx| tx.oldest(Table::Outbox, 999).await);
    let rows = rows.await.unwrap().len();
    assert!(rows >= 60, "{rows} messages, expected one of each second debit");
    let expected = 1_000_000 - 10 * rows as i64;
    assert_eq!(again.balance(FROM).await.unwrap(), Some(expected));
}

/// Performs random operations, and returns their results.
async fn operations<T: Tx>(
    tx: &mut T,
    seed: u64,
) -> Result<Vec<String>, T::Error> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut results = Vec::new();
    for _ in 0..6 {
        let table = [Table::Outbox, Table::Fence][random.usize(..2)];
        let key = ["", "a", "b", "é'%", "a "][random.usize(..5)];
        let value = ["", "x", "y"][random.usize(..3)];
        let other = ["", "x", "y"][random.usize(..3)];
        results.push(match random.u8(..6) {
            0 => format!("{:?}", tx.insert(table, key, value).await?),
            1 => format!("{:?}", tx.get(table, key).await?),
            2 => format!("{:?}", tx.replace(table, key, value, other).await?),
            3 => format!("{:?}", tx.delete(table, key).await?),
            4 => {
                let rows = tx.oldest(table, random.usize(..4)).await?;
                let rows: Vec<_> =
                    rows.iter().map(|row| (&row.key, &row.value)).collect();
                format!("{rows:?}")
            }
            _ => {
                let account = random.u64(1..4);
                let cents = match random.u8(..8) {
                    0 => [i64::MIN, i64::MAX][random.usize(..2)],
                    _ => random.i64(-300..300),
                };
                format!("{:?}", tx.add(account, cents).await?)
            }
        });
    }
    Ok(results)
}

async fn operations_agree_with_the_simulated_database(url: &str) {
    let ledger = Ledger::connect(url).await.unwrap();
    let mut simulated = Database::new([(1, 500), (2, 0)]);
    for (account, cents) in [(1, 500), (2, 0)] {
        ledger.open_account(account, cents).await.unwrap();
    }
    for seed in 0..400 {
        let is_committed = seed % 3 != 0;
        let expected = simulated.transaction(
            async |tx: &mut Database| operations(tx, seed).await.unwrap(),
            |_| is_committed,
        );
        let mut seen = Vec::new();
        let ended = ledger.transaction(async |tx| {
            seen = operations(tx, seed).await?;
            is_committed.then_some(()).ok_or(sqlx::Error::RowNotFound)
        });
        assert_eq!(ended.await.is_ok(), is_committed);
        assert_eq!(seen, expected, "operations of seed {seed}");
    }
    for account in [1, 2] {
        let seen = ledger.balance(account).await.unwrap();
        let expected = simulated.accounts.get(&account).copied();
        assert_eq!(seen, expected, "balance of account {account}");
    }
}

/// A server whose default is `REPEATABLE READ` must not credit twice.
#[tokio::test]
#[ignore = "needs postgres"]
async fn a_credit_sees_a_horizon_that_was_raised_while_it_waited() {
    on_postgres(async |url| {
        let ledger = Ledger::connect(url).await.unwrap();
        ledger.open_account(TO, 0).await.unwrap();
        let message = message(7, 100).to_string();
        credit(&ledger, &message).await;
        let level = "DO $$ BEGIN EXECUTE format(
                'ALTER DATABASE %I SET default_transaction_isolation = %L',
                current_database(), 'repeatable read'
            ); END $$";
        let pool = sqlx::AnyPool::connect(url).await.unwrap();
        sqlx::raw_sql(level).execute(&pool).await.unwrap();
        let ledger = Ledger::connect(url).await.unwrap();
        let mut late = Box::pin(credit(&ledger, &message));
        let clean = inbox::Command::Clean { before_s: 2_000, limit: 9 };
        ledger
            .transaction(async |tx| {
                let cleaned = inbox::transact(tx, &clean).await?;
                assert_eq!(cleaned, inbox::Outcome::Cleaned(1));
                // The credit waits for the deleted row.
                let time = Duration::from_millis(300);
                assert!(timeout(time, &mut late).await.is_err());
                Ok(())
            })
            .await
            .unwrap();
        assert_eq!(late.await, inbox::Outcome::Parked);
        assert_eq!(ledger.balance(TO).await.unwrap(), Some(100));
    })
    .await;
}

#[tokio::test]
#[ignore = "needs postgres"]
async fn a_transaction_with_an_ignored_failure_is_an_error() {
    on_postgres(async |url| {
        let ledger = Ledger::connect(url).await.unwrap();
        let ended = ledger.transaction(async |tx| {
            tx.insert(Table::Outbox, "a", "").await?;
            let refused = tx.insert(Table::Outbox, "\0", "").await;
            assert!(refused.is_err(), "Postgres refuses U+0000");
            Ok(())
        });
        assert!(ended.await.is_err(), "nothing was committed");
        let rows = async |tx: &mut SqlTx| tx.oldest(Table::Outbox, 9).await;
        assert_eq!(ledger.transaction(rows).await.unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn operations_agree_with_the_simulated_database_on_sqlite() {
    on_sqlite(operations_agree_with_the_simulated_database).await;
}

#[tokio::test]
#[ignore = "needs postgres"]
async fn operations_agree_with_the_simulated_database_on_postgres() {
    on_postgres(operations_agree_with_the_simulated_database).await;
}

#[tokio::test]
async fn each_reply_is_right_on_sqlite() {
    on_sqlite(each_reply_is_right).await;
}

#[tokio::test]
#[ignore = "needs postgres"]
async fn each_reply_is_right_on_postgres() {
    on_postgres(each_reply_is_right).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_take_effect_once_on_sqlite() {
    on_sqlite(concurrent_requests_debit_and_credit_once).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs postgres"]
async fn concurrent_requests_take_effect_once_on_postgres() {
    on_postgres(concurrent_requests_debit_and_credit_once).await;
}

#[tokio::test]
async fn a_dropped_transaction_leaves_nothing_open_on_sqlite() {
    on_sqlite(a_dropped_transaction_leaves_nothing_open).await;
}

#[tokio::test]
#[ignore = "needs postgres"]
async fn a_dropped_transaction_leaves_nothing_open_on_postgres() {
    on_postgres(a_dropped_transaction_leaves_nothing_open).await;
}
