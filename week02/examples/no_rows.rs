//! Shows each failure as the caller, the log and the client see it, on a real
//! database.
//!
//! ```console
//! $ cargo run -p week02 --example no_rows               # SQLite
//! $ cargo run -p week02 --example no_rows -- postgres   # starts a server
//! ```

use std::error::Error as StdError;
use std::io::stdout;
use std::iter::successors;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use lab::guess;
use lab::servers::Postgres;
use sqlx::AnyPool;
use sqlx::any::AnyPoolOptions;
use week02::classify::{self, Class, classify};
use week02::db;
use week02::no_rows::{Accounts, Error, author_name};
use week02::report::{Failure, Reason, report};

/// The number of log lines.
static LINES: AtomicUsize = AtomicUsize::new(0);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .with_writer(|| {
            LINES.fetch_add(1, Relaxed);
            print!("  log     ");
            stdout()
        })
        .init();

    let dir = tempfile::tempdir()?;
    let server = match std::env::args().nth(1).as_deref() {
        None | Some("sqlite") => None,
        Some("postgres") => Some(Postgres::start()?),
        Some(other) => {
            anyhow::bail!("expected `sqlite` or `postgres`, got `{other}`")
        }
    };
    let (url, setup) = match &server {
        // The time that a statement waits for a lock.
        Some(server) => (server.url(), "SET lock_timeout = '50ms'"),
        None => {
            let file = dir.path().join("comments.db");
            let url = format!("sqlite://{}?mode=rwc", file.display());
            (url, "PRAGMA busy_timeout = 50")
        }
    };
    let pool = open(&url, setup).await?;

    println!("Seven requests: three succeed, and four fail in different ways.");
    let guess = guess::ask("How many lines will the log have?")?;

    requests(&pool).await?;

    let lines = LINES.load(Relaxed);
    let guess = guess::remark(guess.as_deref(), lines);
    println!(
        "\n{lines} lines.{guess} Each failed request is logged once. The layers \
         below the edge\nlog nothing, and a deleted author is no failure. (If a \
         log line has a text\ntwice, the driver's error repeats its own source.)"
    );
    pool.close().await;
    Ok(())
}

async fn requests(pool: &AnyPool) -> anyhow::Result<()> {
    let accounts = Accounts::new(pool.clone());
    let names = classify::Accounts::new(pool.clone());

    request("GET /accounts/1", "the row exists");
    answer("req-1", accounts.get(1).await.map(|it| it.name), read_failed);

    request("GET /accounts/7", "the row is missing: a failure for this caller");
    answer("req-2", accounts.get(7).await.map(|it| it.name), read_failed);

    request(
        "GET /articles/20",
        "its author, 7, is missing: shown as [deleted]",
    );
    answer("req-3", author_name(accounts.get(7).await), read_failed);

    request("GET /accounts/2", "the row does not decode: its name is NULL");
    answer("req-4", accounts.get(2).await.map(|it| it.name), read_failed);

    request("PATCH /accounts/3", "another account has the name ada");
    answer("req-5", renamed(names.rename(3, "ada").await), rename_failed);

    request("PATCH /accounts/3", "another transaction has locked the row");
    let mut other = pool.begin().await?;
    sqlx::query("UPDATE accounts SET team = team WHERE id = 3")
        .execute(&mut *other)
        .await?;
    answer("req-6", renamed(names.rename(3, "cy").await), rename_failed);
    other.rollback().await?;

    request("PATCH /accounts/3", "the client of req-6 retries");
    answer("req-7", renamed(names.rename(3, "cy").await), rename_failed);
    Ok(())
}

fn request(route: &str, situation: &str) {
    println!("\n{route}: {situation}");
}

/// The edge of the service: prints the error that the caller got, reports it,
/// and prints the reply to the client.
fn answer<E: StdError>(
    request_id: &str,
    outcome: Result<String, E>,
    failure: fn(E) -> Failure,
) {
    match outcome {
        Ok(text) => println!("  client  200 {text}"),
        Err(error) => {
            println!("  caller  {error}");
            let reply = report(request_id, &failure(error));
            let retry = if reply.retryable { "retryable" } else { "final" };
            println!(
                "  client  {} {} ({retry}): {}, see {}",
                reply.http, reply.reason, reply.message, reply.request_id
            );
        }
    }
}

fn read_failed(error: Error) -> Failure {
    let reason = match &error {
        Error::NotFound { .. } => Reason::NotFound,
        Error::Failed { source, .. } => driver_error(&**source)
            .map_or(Reason::Internal, |error| reason(classify(error))),
    };
    Failure::new(reason, error).context("cannot show the account")
}

fn rename_failed(error: classify::Error) -> Failure {
    Failure::new(reason(error.class), error)
        .context("cannot rename the account")
}

/// Maps the class of an error to a reason for the client.
fn reason(class: Class) -> Reason {
    match class {
        Class::Conflict => Reason::AlreadyExists,
        Class::Rejected => Reason::InvalidArgument,
        Class::Busy => Reason::Busy,
        Class::TimedOut => Reason::DeadlineExceeded,
        // Both requests here are idempotent: a read, and a rename to the same
        // name. Do not map `Lost` to a retryable reason for any other request.
        Class::Lost => Reason::Unavailable,
        Class::Corrupt | Class::Unexpected => Reason::Internal,
    }
}

fn driver_error<'a>(
    error: &'a (dyn StdError + 'static),
) -> Option<&'a sqlx::Error> {
    successors(Some(error), |&error| error.source())
        .find_map(|error| error.downcast_ref())
}

fn renamed(
    outcome: Result<bool, classify::Error>,
) -> Result<String, classify::Error> {
    outcome.map(|found| {
        let answer = if found { "renamed" } else { "no such account" };
        answer.to_owned()
    })
}

/// Opens a database with three accounts. One of them has no name.
async fn open(url: &str, setup: &'static str) -> anyhow::Result<AnyPool> {
    let options = AnyPoolOptions::new()
        .max_connections(2)
        .acquire_timeout(Duration::from_secs(2))
        .after_connect(move |connection, _| {
            Box::pin(async move {
                sqlx::query(setup).execute(connection).await?;
                Ok(())
            })
        });
    let pool = db::connect(url, options).await?;
    for statement in [
        "CREATE TABLE accounts \
         (id BIGINT PRIMARY KEY, name TEXT UNIQUE, team TEXT NOT NULL)",
        "INSERT INTO accounts (id, name, team) \
         VALUES (1, 'ada', 'red'), (2, NULL, 'red'), (3, 'bo', 'blue')",
    ] {
        sqlx::query(statement).execute(&pool).await?;
    }
    Ok(pool)
}
