//! The cost of an error: to create it, to return it through three layers, to
//! report it, and to capture a backtrace.
//!
//! A process reads `RUST_BACKTRACE` only once, so the bench starts itself twice
//! as a child: without backtraces (`plain`) and with them (`traced`).

use std::backtrace::Backtrace;
use std::error::Error;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::time::Duration;
use std::{env, io};

use anyhow::Context as _;
use criterion::Criterion;
use lab::ratio::{Plan, measure};
use week02::context::{PublishError, ReadError, Request, handle};
use week02::report::{Failure, Reason, report};

const CHILD: &str = "WEEK02_BENCH_ERRORS";

/// The stack depth of a small service. The frames of the bench are added to it.
const DEPTH: u32 = 30;

fn main() -> io::Result<ExitCode> {
    match env::var(CHILD).as_deref() {
        Ok("plain") => plain(),
        Ok(_) => traced(),
        Err(_) => {
            for (child, backtrace) in [("plain", "0"), ("traced", "1")] {
                let status = Command::new(env::current_exe()?)
                    .args(env::args_os().skip(1))
                    .env(CHILD, child)
                    .env("RUST_LIB_BACKTRACE", backtrace)
                    .status()?;
                if !status.success() {
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn plain() {
    let mut criterion = criterion();
    let request = request();

    let mut group = criterion.benchmark_group("create and drop");
    group.bench_function("enum", |b| b.iter(leaf::typed));
    group.bench_function("boxed", |b| b.iter(leaf::boxed));
    group.bench_function("anyhow", |b| b.iter(leaf::anyhow));
    group.finish();

    for (outcome, query) in
        [("a failure", fails as Query), ("a success", succeeds)]
    {
        let name = format!("{outcome} through three layers");
        let mut group = criterion.benchmark_group(name);
        group.bench_function("types, then anyhow", |b| {
            b.iter(|| handle(black_box(query), &request));
        });
        group.bench_function("boxed", |b| {
            b.iter(|| boxed::handle(black_box(query), &request));
        });
        group.bench_function("anyhow", |b| {
            b.iter(|| anyhow_only::handle(black_box(query), &request));
        });
        group.finish();
    }

    let mut group = criterion.benchmark_group("report, without a subscriber");
    group.bench_function("create", |b| b.iter(failure));
    group.bench_function("create and report", |b| {
        b.iter(|| report("req-81", &failure()));
    });
    group.finish();

    let failed = failure();
    let printed = anyhow_only::handle(fails, &request).unwrap_err();
    ratio(
        "report / print anyhow's chain",
        || report("req-81", black_box(&failed)),
        || format!("{:#}", black_box(&printed)),
    );
    ratio("create and drop: boxed / enum", leaf::boxed, leaf::typed);
    ratio("create and drop: anyhow / boxed", leaf::anyhow, leaf::boxed);
    // No ratio for a success: it takes some ten nanoseconds, and the difference
    // depends only on how the compiler moves 64 bytes.
    let query = fails as Query;
    ratio(
        "a failure: types, then anyhow / anyhow",
        || handle(black_box(query), &request),
        || anyhow_only::handle(black_box(query), &request),
    );
    ratio(
        "a failure: types, then anyhow / boxed",
        || handle(black_box(query), &request),
        || boxed::handle(black_box(query), &request),
    );
    if measuring() {
        println!(
            "size in bytes of the error, and of a Result<String, _> with it:"
        );
        size::<sqlx::Error>("sqlx::Error");
        size::<ReadError>("ReadError");
        size::<PublishError>("PublishError");
        size::<anyhow::Error>("anyhow::Error");
    }
}

fn criterion() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args()
}

fn traced() {
    let mut criterion = criterion();
    let request = request();
    let all_anyhow =
        || anyhow_only::handle(black_box(fails as Query), &request);
    let typed = || handle(black_box(fails as Query), &request);
    let capture = || Backtrace::force_capture();
    let print = || Backtrace::force_capture().to_string();

    let name = format!("with a backtrace, {DEPTH} calls deep");
    let mut group = criterion.benchmark_group(name);
    group.bench_function("capture only", |b| {
        at_depth(DEPTH, &mut || b.iter(capture));
    });
    group.bench_function("capture and print", |b| {
        at_depth(DEPTH, &mut || b.iter(print));
    });
    group.bench_function("types, then anyhow", |b| {
        at_depth(DEPTH, &mut || b.iter(typed));
    });
    group.bench_function("anyhow", |b| {
        at_depth(DEPTH, &mut || b.iter(all_anyhow));
    });
    group.finish();

    at_depth(DEPTH, &mut || {
        let three = || (typed(), capture(), capture());
        ratio(
            "traced: a backtrace in each layer / one in anyhow",
            three,
            typed,
        );
        ratio("traced: capture and print / capture", print, capture);
    });
}

/// Prints the time of `answer` divided by the time of `peer`. Prints nothing
/// when a test only checks that the bench runs.
fn ratio<A, P>(
    name: &str,
    mut answer: impl FnMut() -> A,
    mut peer: impl FnMut() -> P,
) {
    if measuring() {
        let plan = Plan { rounds: 51, sample: Duration::from_millis(5) };
        let ratio = measure(
            plan,
            || drop(black_box(answer())),
            || drop(black_box(peer())),
        );
        println!("ratio  {name}: {ratio}");
    }
}

/// Returns whether `cargo bench` runs this: it passes `--bench`, and
/// `cargo test --benches` does not.
fn measuring() -> bool {
    env::args().any(|arg| arg == "--bench")
}

fn size<E>(name: &str) {
    let (error, result) = (size_of::<E>(), size_of::<Result<String, E>>());
    println!("size   {name}: {error}, {result}");
}

#[inline(never)]
fn at_depth(depth: u32, run: &mut dyn FnMut()) {
    if depth == 0 {
        run();
    } else {
        at_depth(black_box(depth - 1), run);
    }
    // Prevents a tail call, so that each level keeps its stack frame.
    black_box(depth);
}

type Query = fn(i64) -> Result<String, sqlx::Error>;

fn fails(_: i64) -> Result<String, sqlx::Error> {
    Err(sqlx::Error::PoolClosed)
}

fn succeeds(_: i64) -> Result<String, sqlx::Error> {
    Ok(String::new())
}

fn request() -> Request {
    Request {
        id: "req-81".to_owned(),
        route: "POST /articles/{article}/comments",
        article: 20,
        author: 7,
    }
}

fn failure() -> Failure {
    Failure::new(Reason::Unavailable, black_box(sqlx::Error::PoolClosed))
        .context("cannot read row 7 of accounts")
        .context("cannot publish on article 20")
}

/// The same error in three types, returned by functions that are not inlined.
mod leaf {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    pub(super) enum Leaf {
        #[error("no row {0}")]
        NoRow(i64),
    }

    #[inline(never)]
    pub(super) fn typed() -> Result<(), Leaf> {
        Err(Leaf::NoRow(black_box(7)))
    }

    #[inline(never)]
    pub(super) fn boxed() -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(typed()?)
    }

    #[inline(never)]
    pub(super) fn anyhow() -> anyhow::Result<()> {
        Ok(typed()?)
    }
}

/// Every layer adds the same facts as text, with anyhow's `context`.
mod anyhow_only {
    use super::*;

    pub(super) fn handle(
        query: Query,
        request: &Request,
    ) -> anyhow::Result<String> {
        publish(query, request.article, request.author).with_context(|| {
            format!("request {}, {}", request.id, request.route)
        })
    }

    fn publish(
        query: Query,
        article: i64,
        author: i64,
    ) -> anyhow::Result<String> {
        read_author(query, author)
            .with_context(|| format!("cannot publish on article {article}"))
    }

    fn read_author(query: Query, author: i64) -> anyhow::Result<String> {
        query(author)
            .with_context(|| format!("cannot read row {author} of accounts"))
    }
}

/// Every layer adds the same facts as text, in a boxed error.
mod boxed {
    use super::*;

    type BoxError = Box<dyn Error + Send + Sync>;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: String,
        source: BoxError,
    }

    fn layer(text: String, source: impl Into<BoxError>) -> BoxError {
        Layer { text, source: source.into() }.into()
    }

    pub(super) fn handle(
        query: Query,
        request: &Request,
    ) -> Result<String, BoxError> {
        let Request { id, route, article, author } = request;
        publish(query, *article, *author)
            .map_err(|error| layer(format!("request {id}, {route}"), error))
    }

    fn publish(
        query: Query,
        article: i64,
        author: i64,
    ) -> Result<String, BoxError> {
        read_author(query, author).map_err(|error| {
            layer(format!("cannot publish on article {article}"), error)
        })
    }

    fn read_author(query: Query, author: i64) -> Result<String, BoxError> {
        query(author).map_err(|error| {
            layer(format!("cannot read row {author} of accounts"), error)
        })
    }
}
