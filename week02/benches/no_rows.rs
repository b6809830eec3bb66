//! What it costs to say "no row" with an error rather than with an option.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use lab::ratio::{Plan, measure};
use sqlx::any::AnyPoolOptions;
use tokio::runtime::{Builder, Runtime};
use week02::db;
use week02::no_rows::{Account, Accounts, Error};

criterion_group!(benches, no_row, ratios);
criterion_main!(benches);

type Row = (i64, String, String);

/// The same read, with absence as an option all the way up.
async fn find(pool: &sqlx::AnyPool, id: i64) -> sqlx::Result<Option<Account>> {
    let select = "SELECT id, name, team FROM accounts WHERE id = $1";
    let row = sqlx::query_as::<_, Row>(select).bind(id);
    let row = row.fetch_optional(pool).await?;
    Ok(row.map(|(id, name, team)| Account { id, name, team }))
}

/// The shape of the two outcomes, without a database below.
fn said_with_an_error(id: i64) -> Result<Account, Error> {
    let source = Some(sqlx::Error::RowNotFound.into());
    Err(Error::NotFound { entity: "account", key: id, source })
}

fn said_with_an_option(_id: i64) -> Option<Account> {
    None
}

fn no_row(criterion: &mut Criterion) {
    let table = Table::new();
    let Table { runtime, pool, accounts, .. } = &table;

    let mut group = criterion.benchmark_group("no row");
    group.bench_function("as an error", |bencher| {
        bencher.iter(|| runtime.block_on(accounts.get(black_box(7))))
    });
    group.bench_function("as an option", |bencher| {
        bencher.iter(|| runtime.block_on(find(pool, black_box(7))))
    });
    group.bench_function("as an error, without SQL", |bencher| {
        bencher.iter(|| said_with_an_error(black_box(7)))
    });
    group.bench_function("as an option, without SQL", |bencher| {
        bencher.iter(|| said_with_an_option(black_box(7)))
    });
    group.finish();
}

fn ratios(_: &mut Criterion) {
    let table = Table::new();
    let Table { runtime, pool, accounts, .. } = &table;

    let plan = Plan { rounds: 101, sample: Duration::from_millis(10) };
    for (case, id) in [("no row", 7), ("a row", 1)] {
        let ratio = measure(
            plan,
            || drop(black_box(runtime.block_on(accounts.get(black_box(id))))),
            || drop(black_box(runtime.block_on(find(pool, black_box(id))))),
        );
        println!("{case}: error / option = {ratio}");
    }
}

/// One account in a file.
struct Table {
    runtime: Runtime,
    pool: sqlx::AnyPool,
    accounts: Accounts,
    _dir: tempfile::TempDir,
}

impl Table {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory for the database");
        let file = dir.path().join("bench.db");
        let url = format!("sqlite://{}?mode=rwc", file.display());
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let pool = runtime.block_on(async {
            let options = AnyPoolOptions::new().max_connections(1);
            let pool = db::connect(&url, options).await.expect("a database");
            db::create_tables(&pool).await.expect("the tables are new");
            let insert = "INSERT INTO accounts VALUES (1, 'ada', 'red')";
            sqlx::query(insert).execute(&pool).await.expect("an account");
            pool
        });
        let accounts = Accounts::new(pool.clone());
        Self { runtime, pool, accounts, _dir: dir }
    }
}
