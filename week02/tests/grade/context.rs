use std::error::Error;

use sqlx::Error as DriverError;
use week02::context::{
    PublishError, ReadError, Request, handle, publish, read_author,
};

const ROUTE: &str = "POST /articles/{article}/comments";

/// Ids of an article and an author. No number contains another as text.
const IDS: [(i64, i64); 3] =
    [(80_002, 70_001), (-2_718, 3_141), (i64::MAX, i64::MIN)];

mod data {
    use std::cell::Cell;
    use std::io;

    use super::*;

    #[test]
    fn every_layer_looks_up_the_author_and_returns_the_name_unchanged() {
        for name in ["anna", "", " Zoë\n"] {
            for (article, author) in IDS {
                let queried = Cell::new(None);
                let query = |id| {
                    queried.set(Some(id));
                    Ok(name.to_owned())
                };
                let request = request(article, author);

                let read = read_author(query, author).ok();
                assert_eq!(read.as_deref(), Some(name), "read_author returned");
                assert_eq!(
                    queried.take(),
                    Some(author),
                    "read_author queried id"
                );
                let published = publish(query, article, author).ok();
                assert_eq!(
                    published.as_deref(),
                    Some(name),
                    "publish returned"
                );
                assert_eq!(queried.take(), Some(author), "publish queried id");
                let handled = handle(query, &request).ok();
                assert_eq!(handled.as_deref(), Some(name), "handle returned");
                assert_eq!(queried.take(), Some(author), "handle queried id");
            }
        }
    }

    #[test]
    fn a_read_error_displays_the_table_and_the_author_id() {
        for (_, author) in IDS {
            let text =
                boxed(read_error(author, DriverError::RowNotFound)).to_string();
            assert!(
                text.contains(&author.to_string()),
                "no author id {author} in the read error {text:?}"
            );
            assert!(
                text.contains("accounts"),
                "no table `accounts` in the read error {text:?}"
            );
        }
    }

    #[test]
    fn a_read_error_has_the_sqlx_error_as_source_but_does_not_repeat_it() {
        let io_error = DriverError::Io(io::Error::other("reset by peer"));
        for driver in driver_errors().into_iter().chain([io_error]) {
            let driver_text = driver.to_string();
            let error = boxed(read_error(70_001, driver));

            let text = error.to_string();
            assert!(
                !text.contains(&driver_text),
                "the driver's text {driver_text:?} is repeated in the read \
                 error {text:?}"
            );
            let source = error.source();
            let source = source.expect("expected a source of the read error");
            assert_eq!(
                source.to_string(),
                driver_text,
                "the text of the read error's source"
            );
            assert!(
                source.is::<DriverError>(),
                "expected the read error's source to be a sqlx::Error, got \
                 {source:?}"
            );
        }
    }
}

mod business {
    use super::*;

    #[test]
    fn a_publish_error_displays_the_article_id_but_not_the_author_row() {
        for (article, author) in IDS {
            let error =
                publish(|_| Err(DriverError::PoolClosed), article, author);
            let text = boxed(error.unwrap_err()).to_string();
            assert!(
                text.contains(&article.to_string()),
                "no article id {article} in the publish error {text:?}"
            );
            for row_fact in [author.to_string(), "accounts".to_owned()] {
                assert!(
                    !text.contains(&row_fact),
                    "expected the publish error without {row_fact}, which \
                     belongs to the read error; seen: {text:?}"
                );
            }
        }
    }

    #[test]
    fn a_publish_error_has_the_read_error_as_source_but_does_not_repeat_it() {
        for driver in driver_errors() {
            let below = read_error(70_001, copy(&driver)).to_string();
            let error =
                boxed(publish(|_| Err(driver), 80_002, 70_001).unwrap_err());

            let text = error.to_string();
            assert!(
                !text.contains(&below),
                "the read error's text {below:?} is repeated in the publish \
                 error {text:?}"
            );
            let source = error.source();
            let source =
                source.expect("expected a source of the publish error");
            assert!(
                is::<ReadError, _>(source),
                "expected the publish error's source to be a ReadError, got \
                 {source:?}"
            );
            assert_eq!(
                source.to_string(),
                below,
                "the text of the publish error's source"
            );
        }
    }
}

mod edge {
    use super::*;

    #[test]
    fn the_error_chain_has_one_link_for_each_layer() {
        for driver in driver_errors() {
            let error = edge_error(driver, &request(80_002, 70_001));
            let links: Vec<_> = error.chain().collect();

            assert_eq!(links.len(), 4, "the number of links of {error:#}");
            assert!(
                is::<PublishError, _>(links[1]),
                "link 2 of 4 is no PublishError: {error:#}"
            );
            assert!(
                is::<ReadError, _>(links[2]),
                "link 3 of 4 is no ReadError: {error:#}"
            );
            assert!(
                links[3].is::<DriverError>(),
                "link 4 of 4 is no sqlx::Error: {error:#}"
            );
            let found = error.downcast_ref::<PublishError>();
            assert!(
                found.is_some(),
                "anyhow's downcast_ref finds no PublishError in {error:#}"
            );
        }
    }

    #[test]
    fn no_detail_is_missing_or_repeated_in_the_error_chain() {
        for (article, author) in IDS {
            for driver in driver_errors() {
                let facts = [
                    "req-9f3c".to_owned(),
                    ROUTE.to_owned(),
                    article.to_string(),
                    "accounts".to_owned(),
                    author.to_string(),
                    driver.to_string(),
                ];
                let error = edge_error(driver, &request(article, author));
                let all = format!("{error:#}");

                for fact in facts {
                    let times = all.matches(&fact).count();
                    assert_eq!(
                        times, 1,
                        "the number of times that `{fact}` occurs in: {all}"
                    );
                }
            }
        }
    }
}

mod backtraces {
    use std::backtrace::BacktraceStatus;
    use std::env;
    use std::process::Command;

    use super::*;

    const CHILD: &str = "WEEK02_COUNTS_BACKTRACES";

    #[test]
    fn only_anyhow_captures_a_backtrace_and_only_if_enabled() {
        // std reads `RUST_BACKTRACE` once in a process, so each value needs a
        // child process.
        if env::var_os(CHILD).is_some() {
            let error =
                edge_error(DriverError::PoolClosed, &request(80_002, 70_001));
            println!("\n{CHILD}: {}", count(&error));
            return;
        }
        for (value, expected) in [
            (Some("1"), "1 in anyhow, 0 below"),
            (None, "0 in anyhow, 0 below"),
        ] {
            let seen = count_in_child(value);
            assert_eq!(
                seen, expected,
                "backtraces captured with RUST_BACKTRACE={value:?}"
            );
        }
    }

    /// Runs this test in a child process with this value of `RUST_BACKTRACE`.
    /// Returns the counts that it prints.
    fn count_in_child(rust_backtrace: Option<&str>) -> String {
        let (_crate, module) = module_path!().split_once("::").unwrap();
        let test = format!(
            "{module}::only_anyhow_captures_a_backtrace_and_only_if_enabled"
        );
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--exact", &test, "--nocapture"]).env(CHILD, "1");
        child.env_remove("RUST_LIB_BACKTRACE").env_remove("RUST_BACKTRACE");
        if let Some(value) = rust_backtrace {
            child.env("RUST_BACKTRACE", value);
        }

        let output = child.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        let seen = printed
            .lines()
            .find_map(|line| line.strip_prefix(CHILD)?.strip_prefix(": "));
        seen.map(str::to_owned).unwrap_or_else(|| {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let message = stderr.split("stack backtrace:").next().unwrap();
            panic!(
                "the child process printed no counts, {}: {message}",
                output.status
            )
        })
    }

    fn count(error: &anyhow::Error) -> String {
        let captured = error.backtrace().status() == BacktraceStatus::Captured;
        // The first link is anyhow's. Its `Debug` may print the backtrace that
        // anyhow has captured.
        let below = error.chain().skip(1).filter(|link| {
            // `{:#?}` shows a field of type `Backtrace`, `{:?}` shows the
            // backtrace of an `anyhow::Error` in a field.
            let (pretty, plain) = (format!("{link:#?}"), format!("{link:?}"));
            pretty.contains("Backtrace [") || plain.contains("tack backtrace:")
        });
        format!("{} in anyhow, {} below", usize::from(captured), below.count())
    }
}

#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an error type that callers can match on",
    label = "the error of a lower layer",
    note = "the errors of the two lower layers have to be \
            `std::error::Error + Send + Sync + 'static`; only the edge uses \
            anyhow"
)]
trait LayerError<Proof> {
    fn boxed(self) -> Box<dyn Error + Send + Sync>;
    fn is_type_of(link: &(dyn Error + 'static)) -> bool;
}

impl<E: Error + Send + Sync + 'static> LayerError<()> for E {
    fn boxed(self) -> Box<dyn Error + Send + Sync> {
        Box::new(self)
    }

    fn is_type_of(link: &(dyn Error + 'static)) -> bool {
        link.is::<E>()
    }
}

/// Applies to no type. If two implementations could apply, rustc prints the
/// message above; with a single one, it prints which bound of that one fails.
impl<E: Never> LayerError<[(); 0]> for E {
    fn boxed(self) -> Box<dyn Error + Send + Sync> {
        unreachable!("no type implements `Never`")
    }

    fn is_type_of(_link: &(dyn Error + 'static)) -> bool {
        unreachable!("no type implements `Never`")
    }
}

trait Never {}

/// Boxes the error of a lower layer.
fn boxed<Proof>(error: impl LayerError<Proof>) -> Box<dyn Error + Send + Sync> {
    error.boxed()
}

fn is<E: LayerError<Proof>, Proof>(link: &(dyn Error + 'static)) -> bool {
    E::is_type_of(link)
}

fn read_error(author: i64, driver: DriverError) -> ReadError {
    read_author(|_| Err(driver), author).unwrap_err()
}

fn edge_error(driver: DriverError, request: &Request) -> anyhow::Error {
    handle(|_| Err(driver), request).unwrap_err()
}

fn request(article: i64, author: i64) -> Request {
    Request { id: "req-9f3c".to_owned(), route: ROUTE, article, author }
}

/// Returns driver errors without a source, so that each is the last link of its
/// chain.
fn driver_errors() -> [DriverError; 4] {
    [
        DriverError::RowNotFound,
        DriverError::PoolTimedOut,
        DriverError::PoolClosed,
        DriverError::Protocol("a message of 5 bytes, 4 expected".to_owned()),
    ]
}

fn copy(error: &DriverError) -> DriverError {
    match error {
        DriverError::RowNotFound => DriverError::RowNotFound,
        DriverError::PoolTimedOut => DriverError::PoolTimedOut,
        DriverError::PoolClosed => DriverError::PoolClosed,
        DriverError::Protocol(text) => DriverError::Protocol(text.clone()),
        other => unreachable!("{other} is not one of `driver_errors`"),
    }
}
