use std::error::Error;
use std::iter::successors;
use std::{fmt, io};

use sqlx::Error as DriverError;
use sqlx::error::{DatabaseError, ErrorKind};
use week02::context::{
    PublishError, ReadError, Request, handle, publish, read_author,
};

const REQUEST_IDS: [&str; 6] = [
    "req-a-b",
    "§",
    " \"padded\", 'quoted' \\n ",
    "%s-{id}-%%",
    "tab\tline\n\u{1b}[31m",
    "é-錠-🔒-abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLMNOPQRSTUVWXYZ-abc-\
     abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLMNOPQRSTUVWXYZ-end",
];

const ROUTES: [&str; 3] = [
    "POST /articles/{article}/comments",
    "get /",
    "PUT /文章/{*rest}/\"x\"?y=%zz&published-by-the-author-of-the-article-\
     and-read-by-every-subscriber-of-the-magazine-in-which-it-has-appeared",
];

mod data {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn every_layer_looks_up_the_author_and_returns_the_name_unchanged() {
        let long = "Zoë ".repeat(30_000);
        let names = ["anna", "", " Zoë\r\n", "\0{}\"\\", "NULL", &long];
        let equal = [(0, 0), (7, 7), (i64::MIN, i64::MIN)];
        for (n, (article, author)) in ids().into_iter().chain(equal).enumerate()
        {
            let request = request(n, article, author);
            for result in names.map(Some).into_iter().chain([None]) {
                let queried = RefCell::new(Vec::new());
                let query = |id| {
                    queried.borrow_mut().push(id);
                    result.map(str::to_owned).ok_or(DriverError::RowNotFound)
                };
                let returned = [
                    read_author(query, author).ok(),
                    publish(query, article, author).ok(),
                    handle(query, &request).ok(),
                ];
                assert!(
                    returned.iter().all(|name| name.as_deref() == result),
                    "the results of read_author, publish and handle, expected \
                     {result:.20?}, got {returned:.20?}"
                );
                assert_eq!(
                    queried.take(),
                    [author; 3],
                    "the ids queried by read_author, publish and handle"
                );
            }
        }
    }

    #[test]
    fn a_read_error_displays_the_table_and_the_author_id() {
        for Case { author, driver, .. } in cases() {
            let text = boxed(read_error(author, driver())).to_string();
            assert_eq!(
                (count_id(&text, author), text.matches("accounts").count()),
                (1, 1),
                "the number of times that author id {author} and the table \
                 `accounts` occur in the read error {text:?}"
            );
        }
    }

    #[test]
    fn a_read_error_has_the_sqlx_error_as_source_but_does_not_repeat_it() {
        for Case { author, driver, .. } in cases() {
            let error = boxed(read_error(author, driver()));
            assert_not_repeated(&error.to_string(), &driver());
            assert_is_driver(error.source(), &driver());
        }
    }
}

mod business {
    use super::*;

    #[test]
    fn a_publish_error_displays_the_article_id_but_not_the_author_row() {
        for Case { article, author, driver, .. } in cases() {
            let error = publish(|_| Err(driver()), article, author);
            let text = boxed(error.unwrap_err()).to_string();
            assert_eq!(
                count_id(&text, article),
                1,
                "the number of times that article id {article} occurs in the \
                 publish error {text:?}"
            );
            assert!(
                count_id(&text, author) == 0 && !text.contains("accounts"),
                "expected the publish error without `accounts` and {author}, \
                 which belong to the read error; seen: {text:?}"
            );
        }
    }

    #[test]
    fn a_publish_error_has_the_read_error_as_source_but_does_not_repeat_it() {
        for Case { article, author, driver, .. } in cases() {
            let below = read_error(author, driver()).to_string();
            let error = publish(|_| Err(driver()), article, author);
            let error = boxed(error.unwrap_err());

            let text = error.to_string();
            assert!(
                !text.contains(&below),
                "the read error's text {below:?} is repeated in the publish \
                 error {text:?}"
            );
            assert_not_repeated(&text, &driver());
            let source =
                error.source().expect("expected a source of the publish error");
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
        for case in cases() {
            let driver = (case.driver)();
            let error = case.edge_error();
            let links: Vec<_> = error.chain().collect();

            let below = successors(driver.source(), |&it| it.source()).count();
            assert_eq!(
                links.len() - below,
                4,
                "the number of links of {error:#}, without sources of the \
                 sqlx::Error"
            );
            assert!(
                is::<PublishError, _>(links[1]),
                "link 2 of 4 is no PublishError: {error:#}"
            );
            assert!(
                is::<ReadError, _>(links[2]),
                "link 3 of 4 is no ReadError: {error:#}"
            );
            assert_is_driver(Some(links[3]), &driver);
            let found = error.downcast_ref::<PublishError>();
            assert!(
                found.is_some(),
                "anyhow's downcast_ref finds no PublishError in {error:#}"
            );
        }
    }

    #[test]
    fn no_detail_is_missing_or_repeated_in_the_error_chain() {
        for case in cases() {
            let error = case.edge_error();
            let own = error.to_string();
            assert!(
                own.contains(&case.request.id)
                    && own.contains(case.request.route),
                "expected the request id {:?} and the route {:?} in the edge's \
                 error {own:?}",
                case.request.id,
                case.request.route
            );
            let text = format!("{error:#}");
            let driver = (case.driver)();
            let end = format!("{:#}", anyhow::Error::new((case.driver)()));
            let all = text.strip_suffix(&end).unwrap_or_else(|| {
                panic!("expected {end:?} at the end of the chain {text:?}")
            });
            assert_not_repeated(all, &driver);
            for fact in [&*case.request.id, case.request.route, "accounts"] {
                let times = all.matches(fact).count();
                assert_eq!(
                    times, 1,
                    "the number of times that {fact:?} occurs in: {all}"
                );
            }
            for id in [case.article, case.author] {
                let times = count_id(all, id);
                assert_eq!(
                    times, 1,
                    "the number of times that {id} occurs in: {all}"
                );
            }
        }
    }
}

mod backtraces {
    use std::backtrace::BacktraceStatus;
    use std::collections::BTreeSet;
    use std::env;
    use std::process::Command;

    use super::*;

    const CHILD: &str = "WEEK02_COUNTS_BACKTRACES";

    #[test]
    fn only_anyhow_captures_a_backtrace_and_only_if_enabled() {
        // std reads `RUST_BACKTRACE` once in a process, so each value needs a
        // child process.
        if env::var_os(CHILD).is_some() {
            let cases = cases();
            let counts: BTreeSet<_> =
                cases.iter().map(|it| count(&it.edge_error())).collect();
            println!("\n{CHILD}: {counts:?}");
            return;
        }
        let code = crate::sources::CONTEXT.lines();
        let code = code.map(|line| line.split("//").next().unwrap());
        let captures: Vec<_> =
            code.filter(|line| line.contains("Backtrace")).collect();
        assert!(
            captures.is_empty(),
            "expected no use of `Backtrace`, since anyhow captures the only \
             backtrace; found: {captures:#?}"
        );
        for (value, expected) in [
            (Some("1"), r#"{"1 in anyhow, 0 below"}"#),
            (Some("full"), r#"{"1 in anyhow, 0 below"}"#),
            (Some("0"), r#"{"0 in anyhow, 0 below"}"#),
            (None, r#"{"0 in anyhow, 0 below"}"#),
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

/// A request whose query fails.
struct Case {
    request: Request,
    article: i64,
    author: i64,
    /// Creates the error of the query.
    driver: fn() -> DriverError,
}

impl Case {
    fn edge_error(&self) -> anyhow::Error {
        handle(|_| Err((self.driver)()), &self.request).unwrap_err()
    }
}

/// Returns cases with every driver error for all `ids`.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (article, author) in ids() {
        for driver in DRIVER_ERRORS {
            let request = request(cases.len(), article, author);
            cases.push(Case { request, article, author, driver });
        }
    }
    cases
}

/// Returns ids of an article and an author. They have different digits.
fn ids() -> Vec<(i64, i64)> {
    // The first failure is shown, so ordinary ids come first.
    let mut ids = vec![
        (80_002, 70_001),
        (i64::MAX, i64::MIN),
        (i64::MIN, i64::MAX),
        (0, 1),
        (1, 0),
        (-1, 0),
        (0, -7),
        (1 << 31, 1 << 32),
        (-(1 << 32), 1_000),
    ];
    let mut state: u64 = 20;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state as i64 >> (state >> 59)
    };
    ids.extend((0..24).map(|_| (random(), random())));
    ids
}

fn request(n: usize, article: i64, author: i64) -> Request {
    let id = REQUEST_IDS[n % REQUEST_IDS.len()].to_owned();
    Request { id, route: ROUTES[n / 2 % ROUTES.len()], article, author }
}

/// Counts how often `text` contains this id, not counting a part of another
/// number.
fn count_id(text: &str, id: i64) -> usize {
    let id = id.to_string();
    let digit = |it: Option<char>| it.is_some_and(|it| it.is_ascii_digit());
    let whole = |&(at, _): &(usize, &str)| {
        let (before, rest) = text.split_at(at);
        !digit(before.chars().next_back())
            && !digit(rest[id.len()..].chars().next())
    };
    text.match_indices(&id).filter(whole).count()
}

/// Checks that the text of a link above the driver's error has neither its text
/// nor the text of its sources, as `Display` or as `Debug`.
fn assert_not_repeated(text: &str, driver: &DriverError) {
    for below in successors(Some(driver as &dyn Error), |&it| it.source()) {
        let (display, debug) = (below.to_string(), format!("{below:?}"));
        assert!(
            !text.contains(&display)
                && !text.contains(&debug)
                && !text.contains(&format!("{below:#?}")),
            "the text {display:?} or {debug:?} of a link below is repeated in \
             {text:?}"
        );
    }
}

/// Checks that this link is the driver's error, and not one with its text.
fn assert_is_driver(
    link: Option<&(dyn Error + 'static)>,
    expected: &DriverError,
) {
    let link = link.expect("expected a source of the read error");
    assert!(
        link.is::<DriverError>(),
        "expected the read error's source to be a sqlx::Error, got {link:?}"
    );
    assert_eq!(
        format!("{link:?}"),
        format!("{expected:?}"),
        "the sqlx::Error in the chain"
    );
}

/// Every kind of `sqlx::Error` that a program can create.
const DRIVER_ERRORS: [fn() -> DriverError; 22] = [
    || DriverError::RowNotFound,
    || DriverError::PoolTimedOut,
    || DriverError::PoolClosed,
    || DriverError::WorkerCrashed,
    || DriverError::BeginFailed,
    || DriverError::InvalidSavePointStatement,
    || DriverError::Protocol("a message of 5 bytes, 4 expected".to_owned()),
    || DriverError::InvalidArgument("a NUL in the name".to_owned()),
    || DriverError::TypeNotFound { type_name: "citext".to_owned() },
    || DriverError::ColumnIndexOutOfBounds { index: 80_001, len: 80_000 },
    || DriverError::ColumnNotFound("nickname".to_owned()),
    || DriverError::Configuration(Inner::boxed()),
    || DriverError::Tls(Inner::boxed()),
    || DriverError::Encode(Inner::boxed()),
    || DriverError::Decode(Inner::boxed()),
    || DriverError::AnyDriverError(Inner::boxed()),
    || DriverError::ColumnDecode {
        index: "\"name\"".to_owned(),
        source: Inner::boxed(),
    },
    || DriverError::Io(io::Error::from_raw_os_error(104)),
    || {
        DriverError::Io(io::Error::new(
            io::ErrorKind::TimedOut,
            Inner("EOF in a message"),
        ))
    },
    || DriverError::Migrate(Box::new(DriverError::PoolClosed.into())),
    || DriverError::Database(Box::new(Inner("UNIQUE on nickname"))),
    || DriverError::Database(Box::new(Inner("57014 cancelled"))),
];

/// An error inside of a driver's error.
#[derive(Debug)]
struct Inner(&'static str);

impl Inner {
    fn boxed() -> Box<dyn Error + Send + Sync> {
        Box::new(Self("from the \"inside\"\nof the driver"))
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for Inner {}

impl DatabaseError for Inner {
    fn message(&self) -> &str {
        self.0
    }

    fn kind(&self) -> ErrorKind {
        match self.0.starts_with("UNIQUE") {
            true => ErrorKind::UniqueViolation,
            false => ErrorKind::Other,
        }
    }

    fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync> {
        self
    }
}
