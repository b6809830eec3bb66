//! The cost of reporting a missing row as an error rather than as `None`.

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

/// The same read, which returns a missing row as `None`.
async fn find(pool: &sqlx::AnyPool, id: i64) -> sqlx::Result<Option<Account>> {
    let select = "SELECT id, name, team FROM accounts WHERE id = $1";
    let row = sqlx::query_as::<_, Row>(select).bind(id);
    let row = db::fetch_all(pool, row).await?.into_iter().next();
    Ok(row.map(|(id, name, team)| Account { id, name, team }))
}

/// The two results alone, without a query.
fn missing_row_as_error(id: i64) -> Result<Account, Error> {
    let source = Some(sqlx::Error::RowNotFound.into());
    Err(Error::NotFound { entity: "account", key: id, source })
}

fn missing_row_as_option(_id: i64) -> Option<Account> {
    None
}

fn no_row(criterion: &mut Criterion) {
    let database = Database::new();
    let Database { runtime, pool, accounts, .. } = &database;

    let mut group = criterion.benchmark_group("no row");
    group.bench_function("as an error", |bencher| {
        bencher.iter(|| runtime.block_on(accounts.get(black_box(7))))
    });
    group.bench_function("as an option", |bencher| {
        bencher.iter(|| runtime.block_on(find(pool, black_box(7))))
    });
    group.bench_function("as an error, without SQL", |bencher| {
        bencher.iter(|| missing_row_as_error(black_box(7)))
    });
    group.bench_function("as an option, without SQL", |bencher| {
        bencher.iter(|| missing_row_as_option(black_box(7)))
    });
    group.finish();
}

fn ratios(_: &mut Criterion) {
    let database = Database::new();
    let Database { runtime, pool, accounts, .. } = &database;

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

/// A database file with one account.
struct Database {
    runtime: Runtime,
    pool: sqlx::AnyPool,
    accounts: Accounts,
    _dir: tempfile::TempDir,
}

impl Database {
    fn new() -> Self {
        let dir =
            tempfile::tempdir().expect("a temporary directory can be created");
        let file = dir.path().join("bench.db");
        let url = format!("sqlite://{}?mode=rwc", file.display());
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime can be built");
        let pool = runtime.block_on(async {
            let options = AnyPoolOptions::new().max_connections(1);
            let pool =
                db::connect(&url, options).await.expect("the database opens");
            db::create_tables(&pool).await.expect("the tables are created");
            let insert = "INSERT INTO accounts VALUES (1, 'ada', 'red')";
            sqlx::query(insert)
                .execute(&pool)
                .await
                .expect("the account is inserted");
            pool
        });
        let accounts = Accounts::new(pool.clone());
        Self { runtime, pool, accounts, _dir: dir }
    }
}
