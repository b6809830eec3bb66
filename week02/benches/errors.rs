//! What an error costs: to make, to carry through three layers, to report, and
//! with a backtrace.
//!
//! `RUST_BACKTRACE` is read once in a process, so this one runs itself twice.

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

/// As deep as a small service's stack. The frames of the bench come on top.
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

    let mut group = criterion.benchmark_group("make and drop");
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

    let mut group = criterion.benchmark_group("report, nobody listens");
    group.bench_function("make", |b| b.iter(failure));
    group.bench_function("make and report", |b| {
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
    ratio("make and drop: boxed / enum", leaf::boxed, leaf::typed);
    ratio("make and drop: anyhow / boxed", leaf::anyhow, leaf::boxed);
    // Not of a success: it takes some ten nanoseconds, and how many more one
    // takes than another is how the compiler moves 64 bytes.
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
        println!("bytes of an error, and of a Result<String, _> with it:");
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
    group.bench_function("capture alone", |b| {
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
        ratio("traced: one in each layer / anyhow's one", three, typed);
        ratio("traced: capture and print / capture", print, capture);
    });
}

/// Prints how many times as long `answer` takes. Says nothing when all that is
/// asked is whether the bench runs.
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

/// `cargo bench` says so; `cargo test --benches` does not.
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
    // Not a tail call: each level keeps its frame.
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

/// One error, of one number, in three types; returned, never inlined.
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

/// The same facts, formatted into anyhow's context by every layer.
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

/// The same types below, and a box for each layer.
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
