//! What each failure looks like to the caller, to the log and to the client, on
//! a real database.
//!
//! ```console
//! $ cargo run -p week02 --example no_rows               # SQLite
//! $ cargo run -p week02 --example no_rows -- postgres   # a server of its own
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

/// Counts what is logged.
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

    let home = tempfile::tempdir()?;
    let server = match std::env::args().nth(1).as_deref() {
        None | Some("sqlite") => None,
        Some("postgres") => Some(Postgres::start()?),
        Some(other) => anyhow::bail!("neither sqlite nor postgres: {other}"),
    };
    let (url, setup) = match &server {
        // How long a statement waits for another's lock.
        Some(server) => (server.url(), "SET lock_timeout = '50ms'"),
        None => {
            let file = home.path().join("comments.db");
            let url = format!("sqlite://{}?mode=rwc", file.display());
            (url, "PRAGMA busy_timeout = 50")
        }
    };
    let pool = open(&url, setup).await?;

    println!("Seven requests. Three succeed, and four fail in different ways.");
    let guess = guess::ask("How many lines will the log have?")?;

    requests(&pool).await?;

    let lines = LINES.load(Relaxed);
    let guess = guess::remark(guess.as_deref(), lines);
    println!(
        "\n{lines} lines.{guess} One for each request that failed, none for the \
         layers that\nthe errors came through, and none for the author who is gone. (Where a \
         text\nstands twice, it is the driver that repeats its own source.)"
    );
    pool.close().await;
    Ok(())
}

async fn requests(pool: &AnyPool) -> anyhow::Result<()> {
    let accounts = Accounts::new(pool.clone());
    let names = classify::Accounts::new(pool.clone());

    request("GET /accounts/1", "the row is there");
    answer("req-1", accounts.get(1).await.map(|it| it.name), read_failed);

    request(
        "GET /accounts/7",
        "there is no such row: to this caller, a failure",
    );
    answer("req-2", accounts.get(7).await.map(|it| it.name), read_failed);

    request("GET /articles/20", "its author is 7: to this caller, an answer");
    answer("req-3", author_name(accounts.get(7).await), read_failed);

    request("GET /accounts/2", "the row has no name, so it does not decode");
    answer("req-4", accounts.get(2).await.map(|it| it.name), read_failed);

    request("PATCH /accounts/3", "the name ada is taken");
    answer("req-5", renamed(names.rename(3, "ada").await), rename_failed);

    request("PATCH /accounts/3", "another transaction holds the row");
    let mut rival = pool.begin().await?;
    sqlx::query("UPDATE accounts SET team = team WHERE id = 3")
        .execute(&mut *rival)
        .await?;
    answer("req-6", renamed(names.rename(3, "cy").await), rename_failed);
    rival.rollback().await?;

    request("PATCH /accounts/3", "the client of req-6 tries again, as told");
    answer("req-7", renamed(names.rename(3, "cy").await), rename_failed);
    Ok(())
}

fn request(route: &str, story: &str) {
    println!("\n{route}: {story}");
}

/// The edge: shows what the caller saw, reports it, and shows the reply.
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

/// What the caller can do, in the words of the edge.
fn reason(class: Class) -> Reason {
    match class {
        Class::Conflict => Reason::AlreadyExists,
        Class::Rejected => Reason::InvalidArgument,
        Class::Busy => Reason::Busy,
        Class::TimedOut => Reason::DeadlineExceeded,
        // Both requests here can be repeated: a read, and a rename to the same
        // name. For one that cannot, "retryable" would be a lie.
        Class::Lost => Reason::Unavailable,
        Class::Corrupt | Class::Bug => Reason::Internal,
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
    outcome.map(|was_there| {
        let answer = if was_there { "renamed" } else { "no such account" };
        answer.to_owned()
    })
}

/// Three accounts, of which one has no name.
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
