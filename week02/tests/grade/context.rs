use std::borrow::Cow;
use std::error::Error;
use std::io;
use std::iter::successors;

use lab::alloc::{Counting, allocations, bytes_in_use};
use sqlx::Error as DriverError;
use sqlx::error::{DatabaseError, ErrorKind};
use week02::context::{
    PublishError, ReadError, Request, handle, publish, read_author,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// The first failure is shown, so ordinary texts come first.
const REQUEST_IDS: [&str; 7] = [
    "req-a-b",
    "§",
    "  \"padded\", 'quoted' \\n  ",
    "%s-{id}-%% tab\tline\n\u{1b}[31m é-錠-🔒",
    "accounts/80002/70001",
    "",
    LONG,
];

const ROUTES: [&str; 6] = [
    "POST /articles/{article}/comments",
    "get /",
    "/health",
    "PUT /文章/{*rest}/\"x\"?y=%zz",
    "",
    LONG,
];

const LONG: &str = match str::from_utf8(&[b'~'; 5_000]) {
    Ok(text) => text,
    Err(_) => panic!("`~` is ASCII"),
};

mod data {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn every_layer_looks_up_the_author_and_returns_the_name_unchanged() {
        let long = "Zoë ".repeat(30_000);
        let names = ["anna", "", " Zoë\r\n", "\0{}\"\\", "NULL", &long];
        for (n, (article, author)) in ids().into_iter().enumerate() {
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
        for case in cases() {
            let author = case.request.author.to_string();
            let error = boxed(case.read());
            let facts = ["accounts", &author];
            assert_facts(&texts(&*error), &facts, &case.request);
        }
    }

    #[test]
    fn a_read_error_has_the_sqlx_error_as_source_but_does_not_repeat_it() {
        for case in cases() {
            let error = boxed(case.read());
            assert_not_repeated(&*error);
            assert_is_driver(error.source(), &(case.driver)());
        }
    }
}

mod business {
    use super::*;

    #[test]
    fn a_publish_error_displays_the_article_id_but_not_the_author_row() {
        for case in cases() {
            let article = case.request.article.to_string();
            let error = boxed(case.publish());
            assert_facts(&texts(&*error), &[&article], &case.request);
        }
    }

    #[test]
    fn a_publish_error_has_the_read_error_as_source_but_does_not_repeat_it() {
        for case in cases() {
            let error = boxed(case.publish());
            assert_not_repeated(&*error);
            let source = error.source();
            assert!(
                source.is_some_and(|it| it.is::<ReadError>()),
                "expected the publish error's source to be a ReadError, got \
                 {source:?}"
            );
            assert_eq!(
                source.map(|it| it.to_string()),
                Some(case.read().to_string()),
                "the text of the publish error's source"
            );
        }
    }
}

mod edge {
    use super::*;

    #[test]
    fn the_error_of_the_edge_displays_the_request_id_and_the_route_only() {
        for case in cases() {
            let error = case.handle();
            let link = error.chain().next().expect("the edge's error");
            let facts = [&case.request.id, case.request.route];
            assert_facts(&texts(link), &facts, &case.request);
            assert_not_repeated(link);
        }
    }

    #[test]
    fn the_error_chain_has_one_link_for_each_layer() {
        for case in cases() {
            let driver = (case.driver)();
            let error = case.handle();
            let links: Vec<_> = error.chain().collect();

            let below = successors(driver.source(), |&it| it.source()).count();
            assert_eq!(
                links.len() - below,
                4,
                "the number of links of {error:#}, without sources of the \
                 sqlx::Error"
            );
            assert!(
                links[1].is::<PublishError>() && links[2].is::<ReadError>(),
                "links 2 and 3 of 4 are no PublishError and ReadError: \
                 {error:#}"
            );
            assert_is_driver(Some(links[3]), &driver);
            assert!(
                error.downcast_ref::<PublishError>().is_some(),
                "anyhow's downcast_ref finds no PublishError in {error:#}"
            );
        }
    }

    #[test]
    fn no_detail_is_missing_or_repeated_in_the_error_chain() {
        for case in cases() {
            let text = format!("{:#}", case.handle());
            let end = format!("{:#}", anyhow::Error::new((case.driver)()));
            let all = text.strip_suffix(&end).unwrap_or_else(|| {
                panic!("expected {end:?} at the end of the chain {text:?}")
            });
            let Request { id, route, article, author } = &case.request;
            let (article, author) = (article.to_string(), author.to_string());
            let facts = [&**id, route, &article, &author, "accounts"];
            assert_facts(&[all.to_owned()], &facts, &case.request);
        }
    }

    #[test]
    fn a_failed_request_keeps_no_memory_after_its_error_is_dropped() {
        let cases = cases();
        // The first error of a kind may initialize a static.
        cases[..DRIVER_ERRORS.len()].iter().for_each(|it| drop(it.handle()));
        for case in &cases {
            let before = bytes_in_use();
            drop(case.handle());
            let kept = bytes_in_use() - before;
            let Request { article, author, .. } = case.request;
            assert_eq!(
                kept, 0,
                "bytes still in use after the error was dropped: seen (left), \
                 expected (right); article {article}, author {author}"
            );
        }
    }
}

mod backtraces {
    use std::backtrace::Backtrace;
    use std::env;
    use std::hint::black_box;
    use std::process::Command;

    use super::*;

    const EXPECTED: &str = "WEEK02_EXPECTED_BACKTRACES";

    #[test]
    fn only_anyhow_captures_a_backtrace_and_only_if_enabled() {
        // std reads `RUST_BACKTRACE` once in a process, so each value needs a
        // child process.
        if let Ok(expected) = env::var(EXPECTED) {
            assert_captured(expected.parse().unwrap());
            return;
        }
        let (_crate, module) = module_path!().split_once("::").unwrap();
        let test = format!(
            "{module}::only_anyhow_captures_a_backtrace_and_only_if_enabled"
        );
        for value in [Some("1"), Some("full"), Some("0"), None] {
            let disabled = matches!(value, None | Some("0"));
            let mut child = Command::new(env::current_exe().unwrap());
            child.args(["--exact", &test, "--nocapture"]);
            child.env_remove("RUST_LIB_BACKTRACE").env_remove("RUST_BACKTRACE");
            child.envs(value.map(|value| ("RUST_BACKTRACE", value)));
            child.env(EXPECTED, if disabled { "0" } else { "1" });

            let output = child.output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            let message = stderr.split("stack backtrace:").next().unwrap();
            assert!(
                String::from_utf8_lossy(&output.stdout).contains("1 passed"),
                "a child process with RUST_BACKTRACE={value:?}, {}: {message}",
                output.status
            );
        }
    }

    fn assert_captured(expected: usize) {
        let one = growth(&|| drop(Backtrace::force_capture()));
        for case in cases().iter().take(DRIVER_ERRORS.len()) {
            let calls: [&dyn Fn(); 4] = [
                &|| drop(case.handle()),
                &|| drop(case.publish()),
                &|| drop(case.read()),
                &|| drop(handle(|_| Ok("anna".to_owned()), &case.request)),
            ];
            assert_eq!(
                calls.map(|call| (growth(call) + one / 2) / one),
                [expected, 0, 0, 0],
                "backtraces captured by handle, publish and read_author with \
                 {:?}, and by handle on success: seen (left), expected (right)",
                (case.driver)()
            );
        }
    }

    /// Returns how many more allocations `call` makes on a deep stack. Only a
    /// backtrace makes more: it stores the stack in a vector, which grows.
    fn growth(call: &dyn Fn()) -> usize {
        // The first call may initialize a static.
        call();
        allocations_at(2_500, call).saturating_sub(allocations_at(150, call))
    }

    /// Counts the allocations of a call below `depth` other functions.
    fn allocations_at(depth: usize, call: &dyn Fn()) -> usize {
        if depth > 0 {
            return black_box(allocations_at(depth - 1, call));
        }
        let before = allocations();
        call();
        allocations() - before
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
}

impl<E: Error + Send + Sync + 'static> LayerError<()> for E {
    fn boxed(self) -> Box<dyn Error + Send + Sync> {
        Box::new(self)
    }
}

/// Applies to no type. If two implementations could apply, rustc prints the
/// message above; with a single one, it prints which bound of that one fails.
impl<E: Never> LayerError<[(); 0]> for E {
    fn boxed(self) -> Box<dyn Error + Send + Sync> {
        unreachable!("no type implements `Never`")
    }
}

trait Never {}

/// Boxes the error of a lower layer.
fn boxed<Proof>(error: impl LayerError<Proof>) -> Box<dyn Error + Send + Sync> {
    error.boxed()
}

/// A request whose query fails.
struct Case {
    request: Request,
    /// Creates the error of the query.
    driver: fn() -> DriverError,
}

impl Case {
    fn query(&self) -> impl FnOnce(i64) -> Result<String, DriverError> {
        |_| Err((self.driver)())
    }

    fn read(&self) -> ReadError {
        read_author(self.query(), self.request.author).unwrap_err()
    }

    fn publish(&self) -> PublishError {
        let Request { article, author, .. } = self.request;
        publish(self.query(), article, author).unwrap_err()
    }

    fn handle(&self) -> anyhow::Error {
        handle(self.query(), &self.request).unwrap_err()
    }
}

/// Returns cases with every driver error for all `ids`.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (article, author) in ids() {
        for &driver in DRIVER_ERRORS {
            let request = request(cases.len(), article, author);
            cases.push(Case { request, driver });
        }
    }
    cases
}

/// Returns ids of an article and an author.
fn ids() -> Vec<(i64, i64)> {
    // The first failure is shown, so ordinary ids come first.
    let mut ids = vec![
        (80_002, 70_001),
        (i64::MAX, i64::MIN),
        (i64::MIN, i64::MAX),
        (0, 1),
        (-1, 0),
        (1, -7),
        (1 << 31, -(1 << 32)),
        (7, 7),
        (i64::MIN, i64::MIN),
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

fn texts(link: &dyn Error) -> [String; 2] {
    [format!("{link}"), format!("{link:#}")]
}

/// Checks that each text contains these facts of the request once, and no other
/// fact or digit.
fn assert_facts(texts: &[String], facts: &[&str], request: &Request) {
    let Request { id, route, .. } = request;
    let others = [&**id, route, "accounts"].into_iter();
    let others = others.chain("0123456789".split(""));
    let others: Vec<_> = others.filter(|it| !it.is_empty()).collect();
    for text in texts {
        let mut rest = text.clone();
        for fact in facts {
            assert!(
                rest.contains(fact),
                "expected {} in the text; seen: {}",
                short(fact),
                short(text)
            );
            rest = rest.replacen(fact, "", 1);
        }
        if let Some(other) = others.iter().find(|it| rest.contains(**it)) {
            panic!(
                "expected the text without {}, which it repeats, or which \
                 belongs to another link; seen: {}",
                short(other),
                short(text)
            );
        }
    }
}

/// Quotes a text. Cuts a long one.
fn short(text: &str) -> String {
    let quoted = format!("{text:?}");
    if quoted.chars().count() <= 200 {
        return quoted;
    }
    format!("{quoted:.200}… ({} bytes)", text.len())
}

/// Checks that the texts of a link contain neither the text of a link below it,
/// as `Display` or as `Debug`, nor a value in the driver's error.
fn assert_not_repeated(link: &(dyn Error + 'static)) {
    for below in successors(link.source(), |&it| it.source()) {
        let [display, debug] = [format!("{below}"), format!("{below:?}")];
        let pretty = format!("{below:#?}");
        for part in [&*display, &debug, &pretty].into_iter().chain(VALUES) {
            let text = texts(link).into_iter().find(|it| it.contains(part));
            assert_eq!(text, None, "a text that repeats {part:?} of {debug}");
        }
    }
}

/// Checks that this link is the driver's error, and not one with its text.
fn assert_is_driver(
    link: Option<&(dyn Error + 'static)>,
    expected: &DriverError,
) {
    let found = link.and_then(|it| it.downcast_ref::<DriverError>());
    assert_eq!(
        found.map(|it| format!("{it:?}")),
        Some(format!("{expected:?}")),
        "the source of the read error, `None` if it is no sqlx::Error: {link:?}"
    );
}

/// Parts of the values in `DRIVER_ERRORS`.
const VALUES: [&str; 4] =
    ["¶", "UnexpectedEof", "ConnectionReset", "UniqueViolation"];

/// Every kind of `sqlx::Error` that a program can create.
const DRIVER_ERRORS: &[fn() -> DriverError] = &[
    || DriverError::RowNotFound,
    || DriverError::PoolTimedOut,
    || DriverError::PoolClosed,
    || DriverError::WorkerCrashed,
    || DriverError::BeginFailed,
    || DriverError::InvalidSavePointStatement,
    || DriverError::Protocol("¶ a message of 5 bytes, 4 expected".to_owned()),
    || DriverError::InvalidArgument("¶ a NUL in the name".to_owned()),
    || DriverError::TypeNotFound { type_name: "¶citext".to_owned() },
    || DriverError::ColumnIndexOutOfBounds { index: 80_001, len: 80_000 },
    || DriverError::ColumnNotFound("¶nickname".to_owned()),
    || DriverError::Configuration(Inner::boxed()),
    || DriverError::Tls(Inner::boxed()),
    || DriverError::Encode(Inner::boxed()),
    || DriverError::Decode(Inner::boxed()),
    || DriverError::AnyDriverError(Inner::boxed()),
    || DriverError::ColumnDecode {
        index: "\"¶name\"".to_owned(),
        source: Inner::boxed(),
    },
    || io::Error::from_raw_os_error(104).into(),
    || io::Error::from(io::ErrorKind::UnexpectedEof).into(),
    || io::Error::new(io::ErrorKind::TimedOut, Inner("¶ EOF")).into(),
    || DriverError::Migrate(Box::new(DriverError::PoolClosed.into())),
    || Inner("23505 ¶ UNIQUE on nickname").into(),
    || Inner("23503 ¶ no such account").into(),
    || Inner("23502 ¶ NULL as nickname").into(),
    || Inner("23514 ¶ CHECK of nickname").into(),
    || Inner("23P01 ¶ ranges overlap").into(),
    || Inner("40001 ¶ write conflict").into(),
    || Inner("57014 ¶ cancelled").into(),
];

/// An error inside of a driver's error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Inner(&'static str);

impl Inner {
    fn boxed() -> Box<dyn Error + Send + Sync> {
        Box::new(Self("¶ from the \"inside\"\nof the driver"))
    }
}

/// As PostgreSQL's: the message begins with the code.
impl DatabaseError for Inner {
    fn message(&self) -> &str {
        self.0
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(self.0[..5].into())
    }

    fn kind(&self) -> ErrorKind {
        match &self.0[..5] {
            "23502" => ErrorKind::NotNullViolation,
            "23503" => ErrorKind::ForeignKeyViolation,
            "23505" => ErrorKind::UniqueViolation,
            "23514" => ErrorKind::CheckViolation,
            "23P01" => ErrorKind::ExclusionViolation,
            _ => ErrorKind::Other,
        }
    }

    fn table(&self) -> Option<&str> {
        Some("¶authors")
    }

    fn constraint(&self) -> Option<&str> {
        Some("¶accounts_pkey")
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
