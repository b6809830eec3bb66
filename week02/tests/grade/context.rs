use std::error::Error;

use sqlx::Error as DriverError;
use week02::context::{
    PublishError, ReadError, Request, handle, publish, read_author,
};

const ROUTE: &str = "POST /articles/{article}/comments";

/// Article and author: no number is part of another.
const IDS: [(i64, i64); 3] =
    [(80_002, 70_001), (-2_718, 3_141), (i64::MAX, i64::MIN)];

mod data {
    use std::cell::Cell;
    use std::io;

    use super::*;

    #[test]
    fn a_name_comes_back_as_it_was_read() {
        for name in ["anna", "", " Zoë\n"] {
            for (article, author) in IDS {
                let asked = Cell::new(None);
                let query = |id| {
                    asked.set(Some(id));
                    Ok(name.to_owned())
                };
                let request = request(article, author);

                let read = read_author(query, author).ok();
                assert_eq!(read.as_deref(), Some(name), "from read_author");
                assert_eq!(asked.take(), Some(author), "read_author asked for");
                let published = publish(query, article, author).ok();
                assert_eq!(published.as_deref(), Some(name), "from publish");
                assert_eq!(asked.take(), Some(author), "publish asked for");
                let handled = handle(query, &request).ok();
                assert_eq!(handled.as_deref(), Some(name), "from handle");
                assert_eq!(asked.take(), Some(author), "handle asked for");
            }
        }
    }

    #[test]
    fn a_read_error_says_which_row_of_which_table() {
        for (_, author) in IDS {
            let text = link(read(author, DriverError::RowNotFound)).to_string();
            assert!(text.contains(&author.to_string()), "no {author}: {text}");
            assert!(text.contains("accounts"), "no `accounts`: {text}");
        }
    }

    #[test]
    fn a_read_error_leads_to_the_driver_s_own() {
        let with_a_source = DriverError::Io(io::Error::other("reset by peer"));
        for driver in driver_errors().into_iter().chain([with_a_source]) {
            let said = driver.to_string();
            let error = link(read(70_001, driver));

            let text = error.to_string();
            assert!(!text.contains(&said), "repeats the driver: {text}");
            let source = error.source().expect("a read error has a source");
            assert_eq!(source.to_string(), said, "what the source says");
            assert!(source.is::<DriverError>(), "not sqlx's: {source:?}");
        }
    }
}

mod business {
    use super::*;

    #[test]
    fn a_publish_error_says_the_article_and_not_the_row() {
        for (article, author) in IDS {
            let error =
                publish(|_| Err(DriverError::PoolClosed), article, author);
            let text = link(error.unwrap_err()).to_string();
            assert!(
                text.contains(&article.to_string()),
                "no {article}: {text}"
            );
            for below in [author.to_string(), "accounts".to_owned()] {
                assert!(!text.contains(&below), "{below} is the row's: {text}");
            }
        }
    }

    #[test]
    fn a_publish_error_leads_to_the_read_error() {
        for driver in driver_errors() {
            let below = read(70_001, copy(&driver)).to_string();
            let error =
                link(publish(|_| Err(driver), 80_002, 70_001).unwrap_err());

            let text = error.to_string();
            assert!(!text.contains(&below), "repeats the read error: {text}");
            let source = error.source().expect("a publish error has a source");
            assert!(is::<ReadError, _>(source), "not a ReadError: {source:?}");
            assert_eq!(source.to_string(), below, "what the source says");
        }
    }
}

mod edge {
    use super::*;

    #[test]
    fn every_layer_adds_one_link() {
        for driver in driver_errors() {
            let error = handled(driver, &request(80_002, 70_001));
            let links: Vec<_> = error.chain().collect();

            assert_eq!(links.len(), 4, "links of {error:#}");
            assert!(is::<PublishError, _>(links[1]), "second of {error:#}");
            assert!(is::<ReadError, _>(links[2]), "third of {error:#}");
            assert!(links[3].is::<DriverError>(), "last of {error:#}");
            let found = error.downcast_ref::<PublishError>();
            assert!(found.is_some(), "anyhow finds none in {error:#}");
        }
    }

    #[test]
    fn every_fact_stands_in_the_chain_once() {
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
                let error = handled(driver, &request(article, author));
                let all = format!("{error:#}");

                for fact in facts {
                    let times = all.matches(&fact).count();
                    assert_eq!(
                        times, 1,
                        "times that `{fact}` stands in: {all}"
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
    fn one_backtrace_is_captured_and_only_when_asked_for() {
        // Whether to capture is decided once in a process.
        if env::var_os(CHILD).is_some() {
            let error =
                handled(DriverError::PoolClosed, &request(80_002, 70_001));
            println!("\n{CHILD}: {}", count(&error));
            return;
        }
        for (value, expected) in [
            (Some("1"), "1 in anyhow, 0 below"),
            (None, "0 in anyhow, 0 below"),
        ] {
            let seen = seen_with(value);
            assert_eq!(seen, expected, "where RUST_BACKTRACE is {value:?}");
        }
    }

    /// What a child sees that runs this very test with `RUST_BACKTRACE` so.
    fn seen_with(rust_backtrace: Option<&str>) -> String {
        let (_crate, module) = module_path!().split_once("::").unwrap();
        let test = format!(
            "{module}::one_backtrace_is_captured_and_only_when_asked_for"
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
            let said = stderr.split("stack backtrace:").next().unwrap();
            panic!("{} with nothing counted: {said}", output.status)
        })
    }

    fn count(error: &anyhow::Error) -> String {
        let captured = error.backtrace().status() == BacktraceStatus::Captured;
        // The first link is anyhow's own, and may show its own.
        let below = error.chain().skip(1).filter(|link| {
            // One prints the `Backtrace` in a field, the other an anyhow::Error.
            let (pretty, plain) = (format!("{link:#?}"), format!("{link:?}"));
            pretty.contains("Backtrace [") || plain.contains("tack backtrace:")
        });
        format!("{} in anyhow, {} below", usize::from(captured), below.count())
    }
}

#[diagnostic::on_unimplemented(
    message = "`{Self}` is no error type that callers can match on",
    label = "an error of a lower layer",
    note = "the two lower layers have error types of their own, which are \
            `std::error::Error + Send + Sync + 'static`: anyhow is for the edge"
)]
trait LayerError<Proof> {
    fn boxed(self) -> Box<dyn Error + Send + Sync>;
    fn made(link: &(dyn Error + 'static)) -> bool;
}

impl<E: Error + Send + Sync + 'static> LayerError<()> for E {
    fn boxed(self) -> Box<dyn Error + Send + Sync> {
        Box::new(self)
    }

    fn made(link: &(dyn Error + 'static)) -> bool {
        link.is::<E>()
    }
}

/// Applies to nothing. With a choice of two, rustc says the message above; with
/// one, it says what that one lacks.
impl<E: Nothing> LayerError<[(); 0]> for E {
    fn boxed(self) -> Box<dyn Error + Send + Sync> {
        unreachable!("nobody implements `Nothing`")
    }

    fn made(_link: &(dyn Error + 'static)) -> bool {
        unreachable!("nobody implements `Nothing`")
    }
}

trait Nothing {}

/// The error of a lower layer, as anybody above would hold it.
fn link<Proof>(error: impl LayerError<Proof>) -> Box<dyn Error + Send + Sync> {
    error.boxed()
}

fn is<E: LayerError<Proof>, Proof>(link: &(dyn Error + 'static)) -> bool {
    E::made(link)
}

fn read(author: i64, driver: DriverError) -> ReadError {
    read_author(|_| Err(driver), author).unwrap_err()
}

fn handled(driver: DriverError, request: &Request) -> anyhow::Error {
    handle(|_| Err(driver), request).unwrap_err()
}

fn request(article: i64, author: i64) -> Request {
    Request { id: "req-9f3c".to_owned(), route: ROUTE, article, author }
}

/// Those that end a chain: some of sqlx's errors have a source of their own.
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
        other => unreachable!("{other} is none of `driver_errors`"),
    }
}
