use std::cell::Cell;
use std::collections::HashMap;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use serde::Deserialize;
use toml::{Table, Value};
use week03::config::{Config, Snapshot, Subscription};
use week03::layers::{Cause, Error, Layer};

use crate::common::{PanicsOnDrop, Random, within};

/// The longest time that a test waits for an event.
const DEADLINE: Duration = Duration::from_secs(2);

/// How long a slow layer waits for a second reload that may overtake it. A
/// right answer passes for any value.
const OVERTAKING_TIME: Duration = Duration::from_millis(300);

const DEFAULTS: &str = r#"
port = 80
tags = ["a", "b"]
extra = { deep = 1 }
[pool]
min = 1
max = 8
wait = { connect = 10, read = 20 }
"#;

/// A text that is not valid TOML.
const BROKEN: &str = "port = ";

/// A text for which the layer panics.
const PANICS: &str = "panics";

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    port: u16,
    tags: Vec<String>,
    extra: Value,
    pool: Pool,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pool {
    min: u32,
    max: u32,
    wait: Wait,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    connect: u32,
    read: u32,
}

fn validate(settings: &Settings) -> Result<(), Cause> {
    assert!(settings.port != 13, "on purpose: a bug in `validate`");
    match settings.pool.min <= settings.pool.max {
        true => Ok(()),
        false => Err("pool.min is greater than pool.max".into()),
    }
}

/// The content of a layer. Tests replace it.
#[derive(Debug, Clone, Default)]
struct Content(Arc<Mutex<String>>);

impl Content {
    fn set(&self, text: &str) {
        text.clone_into(&mut self.0.lock().unwrap());
    }

    fn get(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    fn layer(&self, name: &'static str) -> Layer {
        let content = self.clone();
        Layer::new(name, move || {
            let text = content.get();
            assert!(text != PANICS, "on purpose: a bug in a layer");
            Ok(text.parse()?)
        })
    }
}

/// A configuration of three layers: defaults, and two that tests can edit.
#[derive(Clone)]
struct Fixture {
    file: Content,
    environment: Content,
    config: Config<Settings>,
}

impl Fixture {
    fn new() -> Self {
        Self::with("", "").expect("valid settings were rejected")
    }

    fn with(file: &str, environment: &str) -> Result<Self, Error> {
        let [defaults, file, environment] =
            [DEFAULTS, file, environment].map(|text| {
                let content = Content::default();
                content.set(text);
                content
            });
        let layers = vec![
            defaults.layer("defaults"),
            file.layer("file"),
            environment.layer("environment"),
        ];
        let config = Config::new(layers, validate)?;
        Ok(Self { file, environment, config })
    }

    /// Replaces the file by one with this port, and reloads.
    fn reload_with_port(&self, port: u16) -> Arc<Snapshot<Settings>> {
        self.file.set(&format!("port = {port}"));
        self.config.reload().expect("valid settings were rejected")
    }

    fn current(&self) -> VersionAndPort {
        version_and_port(&self.config.snapshot())
    }

    fn subscribe<F>(&self, observer: F) -> Subscription
    where
        F: Fn(&Snapshot<Settings>, &Snapshot<Settings>) + Send + Sync + 'static,
    {
        self.config.subscribe(observer)
    }
}

type VersionAndPort = (u64, u16);

fn version_and_port(snapshot: &Snapshot<Settings>) -> VersionAndPort {
    (snapshot.version, snapshot.value.port)
}

fn table(text: &str) -> Value {
    Value::Table(text.parse().expect("a table"))
}

fn kind(error: &Error) -> String {
    match error {
        Error::Layer { layer, .. } => format!("Error::Layer({layer})"),
        Error::Shape(_) => "Error::Shape".to_owned(),
        Error::Invalid(_) => "Error::Invalid".to_owned(),
    }
}

/// Like `kind`, with the cause.
fn kind_and_cause(error: &Error) -> String {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    let cause = cause.filter(|_| !matches!(error, Error::Shape(_)));
    format!("{}: {}", kind(error), cause.unwrap_or_default())
}

/// The calls of an observer: the old and the new version of each.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<[VersionAndPort; 2]>>>);

impl Log {
    fn add(&self, old: &Snapshot<Settings>, new: &Snapshot<Settings>) {
        self.0
            .lock()
            .unwrap()
            .push([version_and_port(old), version_and_port(new)]);
    }

    fn calls(&self) -> Vec<[VersionAndPort; 2]> {
        self.0.lock().unwrap().clone()
    }

    /// Subscribes an observer that records its calls.
    fn subscribe(fixture: &Fixture) -> (Self, Subscription) {
        let log = Self::default();
        let subscription = {
            let log = log.clone();
            fixture.subscribe(move |old, new| log.add(old, new))
        };
        (log, subscription)
    }
}

/// A subscription that an observer can drop.
type SharedSubscription = Arc<Mutex<Option<Subscription>>>;

fn keep(shared: &SharedSubscription, subscription: Subscription) {
    *shared.lock().unwrap() = Some(subscription);
}

fn unsubscribe(shared: &SharedSubscription) {
    let subscription = shared.lock().unwrap().take();
    drop(subscription);
}

thread_local! {
    /// The value of a missing `n`. So settings may differ although no layer has
    /// changed, like a password whose layer has only the name of a file.
    static DEFAULT_N: Cell<i64> = const { Cell::new(0) };
}

/// Settings that say little about their layers: every key may be missing, keys
/// may be unknown, and two values may be equal although they differ.
#[derive(Debug, Clone, Deserialize)]
struct Loose {
    #[serde(default = "default_n")]
    n: i64,
    x: Option<Value>,
    #[serde(default)]
    note: String,
}

fn default_n() -> i64 {
    DEFAULT_N.get()
}

impl Loose {
    /// All fields, also the one that `==` ignores.
    fn fields(&self) -> Fields {
        (self.n, self.x.clone(), self.note.clone())
    }
}

/// The fields of a [`Loose`]. The order of the keys in a table does not count.
type Fields = (i64, Option<Value>, String);

impl PartialEq for Loose {
    fn eq(&self, other: &Self) -> bool {
        self.n == other.n && self.x == other.x
    }
}

/// The number and the note that are not valid.
const INVALID: (i64, &str) = (-1, "rejected");

/// The number for which `validate` panics.
const BUG: i64 = 13;

fn validate_loose(loose: &Loose) -> Result<(), Cause> {
    match (loose.n, &*loose.note) {
        (BUG, _) => resume_unwind(Box::new("a bug in `validate`")),
        (n, note) if n == INVALID.0 || note == INVALID.1 => {
            Err("n is -1, or the note is `rejected`".into())
        }
        _ => Ok(()),
    }
}

/// What the next read of a layer returns.
#[derive(Debug, Clone)]
enum Next {
    Table(Table),
    Error,
    Panic,
}

fn random_value(random: &mut Random, depth: usize) -> Value {
    const TEXTS: [&str; 7] = ["", " ", "\"'%", "a.b", "A.B", "键", "true"];

    match random.below(if depth < 4 { 12 } else { 6 }) {
        0 => Value::Integer(*random.pick(&[i64::MIN, 0, 1, i64::MAX])),
        1 => Value::Boolean(random.below(2) == 0),
        2 => Value::Float(*random.pick(&[0.0, 0.5, f64::INFINITY])),
        3 | 4 => Value::from(*random.pick(&TEXTS)),
        5 => Value::Datetime("1979-05-27T07:32:00Z".parse().unwrap()),
        6 | 7 => (0..random.below(3))
            .map(|_| random_value(random, depth + 1))
            .collect::<Vec<_>>()
            .into(),
        _ => (0..random.below(4))
            .map(|_| (*random.pick(&TEXTS), random_value(random, depth + 1)))
            .collect::<HashMap<_, _>>()
            .into(),
    }
}

fn random_table(random: &mut Random) -> Table {
    let mut table = Table::new();
    if random.below(2) == 0 {
        let n = *random.pick(&[0, 1, 2, 2, i64::MIN, i64::MAX, INVALID.0, BUG]);
        table.insert("n".to_owned(), n.into());
    }
    for key in ["x", "x", "note", "unknown"] {
        if random.below(2) == 0 {
            let is_text = key == "note" && random.below(8) > 0;
            let value = match is_text {
                true => Value::from(*random.pick(&["one", "two", INVALID.1])),
                false => random_value(random, 0),
            };
            table.insert(key.to_owned(), value);
        }
    }
    table
}

/// The definition: merges `overlay` into `base`.
fn merge(base: &mut Value, overlay: &Value) {
    match (base, overlay) {
        (Value::Table(base), Value::Table(overlay)) => {
            for (key, value) in overlay {
                let missing = Value::from(0);
                merge(base.entry(key.clone()).or_insert(missing), value);
            }
        }
        (base, overlay) => *base = overlay.clone(),
    }
}

/// The definition: what `new` or `reload` finds, or `None` if it panics.
fn expected(layers: &[Next]) -> Option<Result<Loose, String>> {
    let mut merged = Value::Table(Table::new());
    for (index, layer) in layers.iter().enumerate() {
        match layer {
            Next::Table(table) => merge(&mut merged, &table.clone().into()),
            Next::Error => {
                return Some(Err(format!("Error::Layer({index}): unreadable")));
            }
            Next::Panic => return None,
        }
    }
    outcome(|| {
        let loose: Loose =
            merged.try_into().map_err(|_| "Error::Shape: ".to_owned())?;
        match validate_loose(&loose) {
            Ok(()) => Ok(loose),
            Err(cause) => Err(format!("Error::Invalid: {cause}")),
        }
    })
}

/// Layers whose next reads can be set. Their names are their numbers.
#[derive(Clone)]
struct Script(Arc<Vec<Mutex<Next>>>);

impl Script {
    fn new(layers: usize) -> Self {
        let empty = || Mutex::new(Next::Table(Table::new()));
        Self(Arc::new((0..layers).map(|_| empty()).collect()))
    }

    fn set(&self, index: usize, next: Next) {
        *self.0[index].lock().unwrap() = next;
    }

    fn next(&self) -> Vec<Next> {
        self.0.iter().map(|next| next.lock().unwrap().clone()).collect()
    }

    fn config(&self) -> Result<Config<Loose>, Error> {
        let layers = (0..self.0.len()).map(|index| {
            let script = self.clone();
            let name = ["0", "1", "2", "3"].get(index).unwrap_or(&"more");
            Layer::new(name, move || {
                let next = script.0[index].lock().unwrap().clone();
                match next {
                    Next::Table(table) => Ok(table),
                    Next::Error => Err("unreadable".into()),
                    Next::Panic => resume_unwind(Box::new("a bug in a layer")),
                }
            })
        });
        Config::new(layers.collect(), validate_loose)
    }
}

fn outcome<T>(
    call: impl FnOnce() -> Result<T, String>,
) -> Option<Result<T, String>> {
    catch_unwind(AssertUnwindSafe(call)).ok()
}

mod merges {
    use super::*;

    #[test]
    fn random_layers_are_merged_as_defined() {
        let mut random = Random(1);
        for (layers, rounds) in [(0, 1), (1, 200), (2, 500), (4, 500), (130, 5)]
        {
            for _ in 0..rounds {
                let script = Script::new(layers);
                for index in 0..layers {
                    let is_error = layers <= 4 && random.below(20) == 0;
                    let next = match is_error {
                        true => Next::Error,
                        false => Next::Table(random_table(&mut random)),
                    };
                    script.set(index, next);
                }
                let seen = outcome(|| match script.config() {
                    Ok(config) => Ok(config.snapshot().value.fields()),
                    Err(error) => Err(kind_and_cause(&error)),
                });
                let expected = expected(&script.next())
                    .map(|result| result.map(|loose| loose.fields()));
                assert!(
                    seen == expected,
                    "`new` with the layers {:#?}: expected {expected:#?}, but \
                     saw {seen:#?} (`None`: a panic)",
                    script.next()
                );
            }
        }
        for depth in [1, 2, 17, 100] {
            let nested = |key: &str| {
                let leaf = Value::from(HashMap::from([(key, 1)]));
                let value = (0..depth).fold(leaf, |value, _| {
                    HashMap::from([("x", value)]).into()
                });
                Next::Table(value.try_into().expect("a table"))
            };
            let script = Script::new(2);
            let layers = [nested("a"), nested("b")];
            script.set(0, layers[0].clone());
            script.set(1, layers[1].clone());
            let config = script.config().expect("valid settings were rejected");
            assert_eq!(
                Some(Ok(config.snapshot().value.clone())),
                expected(&layers),
                "two tables that differ at depth {depth}"
            );
        }
    }

    #[test]
    fn layers_are_read_in_order_one_after_the_other() {
        /// How long a layer waits for another one. A right answer passes for any
        /// value.
        const OVERLAP: Duration = Duration::from_millis(20);

        let reads = Arc::new(Mutex::new(Vec::new()));
        let layers = [0, 1, 2].map(|index| {
            let (reads, never) = (reads.clone(), Mutex::new(channel::<()>().1));
            Layer::new("a layer", move || {
                reads.lock().unwrap().push(format!("begin {index}"));
                let _ = never.lock().unwrap().recv_timeout(OVERLAP);
                thread::yield_now();
                reads.lock().unwrap().push(format!("end {index}"));
                Ok(Table::new())
            })
        });
        let config = Config::<Loose>::new(layers.into(), |_| Ok(()));
        let config = config.expect("valid settings were rejected");
        config.reload().expect("valid settings were rejected");
        let once =
            (0..3).flat_map(|it| [format!("begin {it}"), format!("end {it}")]);
        let twice: Vec<_> = once.clone().chain(once).collect();
        let reads = reads.lock().unwrap();
        assert_eq!(*reads, twice, "the reads of `new` and of one `reload`");
    }

    #[test]
    fn later_layers_override_earlier_ones_and_nested_tables_are_merged() {
        let file = "port = 81\n[pool]\nmax = 9\nwait.read = 21";
        let environment = "port = 82\npool.wait.connect = 12";
        let fixture = Fixture::with(file, environment)
            .expect("valid settings were rejected");
        let now = fixture.config.snapshot();
        let wait = Wait { connect: 12, read: 21 };
        assert_eq!(now.value.port, 82, "the port is set in all three layers");
        assert_eq!(
            now.value.pool,
            Pool { min: 1, max: 9, wait },
            "the section `pool`, merged from three layers"
        );
        assert_eq!(
            now.value.tags,
            ["a", "b"],
            "`tags` is set in the first layer only"
        );
        assert_eq!(now.version, 1, "the version after `new`");
    }

    #[test]
    fn lists_are_replaced_not_merged_and_so_are_values_whose_type_differs() {
        let fixture = Fixture::with("tags = [\"c\"]\nextra = 5", "").unwrap();
        let now = fixture.config.snapshot();
        assert_eq!(
            now.value.tags,
            ["c"],
            "`tags`: a later list replaces a list"
        );
        assert_eq!(
            now.value.extra,
            Value::from(5),
            "`extra`: 5 replaces a table"
        );
        let fixture = Fixture::with("extra = 5", "extra.other = 2").unwrap();
        let extra = &fixture.config.snapshot().value.extra;
        assert_eq!(*extra, table("other = 2"), "`extra`: a table replaces 5");
    }
}

mod publishes {
    use super::*;

    #[test]
    fn a_change_gets_the_next_version_and_old_snapshots_stay_the_same() {
        let fixture = Fixture::new();
        let before = fixture.config.snapshot();
        let clone = fixture.config.clone();
        let _observer = Log::subscribe(&fixture);
        let returned = fixture.reload_with_port(81);
        assert_eq!(
            version_and_port(&returned),
            (2, 81),
            "the snapshot that `reload` returned"
        );
        assert_eq!(
            version_and_port(&clone.snapshot()),
            (2, 81),
            "the snapshot of a clone"
        );
        assert_eq!(
            version_and_port(&before),
            (1, 80),
            "a snapshot that was taken before the reload"
        );
        fixture.environment.set("port = 82");
        let second = Arc::downgrade(&returned);
        drop(returned);
        // A thread that has read version 2, and keeps running without it.
        let (read, has_read) = channel();
        let (_running, ended) = channel::<()>();
        let reads = clone.clone();
        thread::spawn(move || {
            let version = reads.snapshot().version;
            let _ = read.send(version);
            let _ = ended.recv();
        });
        let version = has_read.recv_timeout(DEADLINE);
        assert_eq!(version, Ok(2), "the version that another thread read");
        clone.reload().expect("valid settings were rejected");
        assert!(
            second.upgrade().is_none(),
            "expected version 2 to be dropped: version 3 is published, and no \
             caller keeps version 2"
        );
        assert_eq!(
            fixture.current(),
            (3, 82),
            "the snapshot after a reload by a clone"
        );
    }

    #[test]
    fn a_key_deleted_from_a_layer_no_longer_applies() {
        let fixture = Fixture::with("port = 81\nextra.other = 2", "");
        let fixture = fixture.expect("valid settings were rejected");
        let extra = || fixture.config.snapshot().value.extra.clone();
        assert_eq!(
            extra(),
            table("deep = 1\nother = 2"),
            "`extra` after `new`"
        );
        for (version, text, port, expected) in [
            (2, "extra.other = 2", 80, table("deep = 1\nother = 2")),
            (3, "port = 82", 82, table("deep = 1")),
            (4, "extra = \"of another type\"", 80, "of another type".into()),
            (5, "", 80, table("deep = 1")),
        ] {
            fixture.file.set(text);
            fixture.config.reload().expect("valid settings were rejected");
            assert_eq!(
                fixture.current(),
                (version, port),
                "version and port after a reload with the file {text:?}"
            );
            assert_eq!(
                extra(),
                expected,
                "`extra` after a reload with the file {text:?}"
            );
        }
    }

    #[test]
    fn a_failed_reload_changes_nothing_and_returns_its_error() {
        let fixture = Fixture::new();
        let before = fixture.reload_with_port(81);
        for (file, environment, expected) in [
            (BROKEN, "", "Error::Layer(file)"),
            ("port = 99", BROKEN, "Error::Layer(environment)"),
            ("port = 99", "pool.max = \"9\"", "Error::Shape"),
            ("port = 99", "port_of_call = 1", "Error::Shape"),
            ("port = 99", "pool.max = 0", "Error::Invalid"),
        ] {
            fixture.file.set(file);
            fixture.environment.set(environment);
            let result = fixture.config.reload();
            let result = result.map(|now| version_and_port(&now));
            let result = result.map_err(|error| kind(&error));
            let what = format!(
                "with the file {file:?} and the environment {environment:?}"
            );
            let expected = expected.to_owned();
            assert_eq!(result, Err(expected.clone()), "`reload` {what}");
            let last = fixture.clone().config.last_error();
            let last = last.map(|error| kind(&error));
            assert_eq!(last, Some(expected), "`last_error` {what}");
            let now = fixture.config.snapshot();
            assert_eq!(
                (now.version, &now.value),
                (2, &before.value),
                "the snapshot after `reload` {what}"
            );
        }
        fixture.file.set("pool.max = 9");
        fixture.environment.set("");
        fixture.config.reload().expect("valid settings were rejected");
        assert_eq!(
            fixture.current(),
            (3, 80),
            "the snapshot after the next valid reload"
        );
    }

    #[test]
    fn a_new_value_is_not_visible_before_it_is_validated() {
        static CONFIG: OnceLock<Config<Settings>> = OnceLock::new();
        static READ: Mutex<Vec<VersionAndPort>> = Mutex::new(Vec::new());
        let content = Content::default();
        content.set(DEFAULTS);
        let check = |_: &Settings| {
            if let Some(config) = CONFIG.get() {
                READ.lock().unwrap().push(version_and_port(&config.snapshot()));
                // Other threads do not wait.
                within(DEADLINE, "another thread during `validate`", || {
                    drop(config.subscribe(|_, _| {}));
                    (config.snapshot().version, config.last_error().is_some())
                });
            }
            Ok(())
        };
        let config = Config::new(vec![content.layer("text")], check);
        let config = CONFIG
            .get_or_init(|| config.expect("valid settings were rejected"));
        content.set(&DEFAULTS.replace("80", "81"));
        let reload = || config.reload().map(|now| version_and_port(&now)).ok();
        assert_eq!(
            within(
                DEADLINE,
                "a reload whose `validate` calls `snapshot`",
                reload
            ),
            Some((2, 81)),
            "the snapshot that `reload` returned"
        );
        let read = READ.lock().unwrap();
        assert_eq!(*read, [(1, 80)], "the snapshots that `validate` read");
    }

    #[test]
    fn reload_works_again_after_a_panic_in_a_layer_or_in_validate() {
        let fixture = Fixture::new();
        for (version, text) in [(2, PANICS), (3, "port = 13")] {
            fixture.file.set(text);
            let before = fixture.current();
            let reload = AssertUnwindSafe(|| fixture.config.reload().is_ok());
            assert!(
                catch_unwind(reload).is_err(),
                "`reload` returned, expected a panic for {text:?}"
            );
            assert_eq!(
                fixture.current(),
                before,
                "the snapshot after a panic for {text:?}"
            );
            let last = fixture.config.last_error().map(|error| kind(&error));
            assert_eq!(last, None, "`last_error` after a panic for {text:?}");
            let next = fixture.clone();
            let port = 80 + u16::try_from(version).unwrap();
            let next =
                within(DEADLINE, "the reload after a panic", move || {
                    version_and_port(&next.reload_with_port(port))
                });
            assert_eq!(
                next,
                (version, port),
                "the next reload after a panic for {text:?}"
            );
        }
    }
}

mod notifies {
    use super::*;

    /// An observer, and the calls that are expected.
    struct Observed {
        calls: Arc<Mutex<Vec<Call>>>,
        expected: Vec<Call>,
        subscription: Option<Subscription>,
    }

    /// Version and fields of the old snapshot, then those of the new one.
    type Call = [(u64, Fields); 2];

    impl Observed {
        fn new(config: &Config<Loose>, panics: bool) -> Self {
            let calls = Arc::<Mutex<Vec<Call>>>::default();
            let log = calls.clone();
            // Its drop unsubscribes another observer.
            let owned = Mutex::new(config.subscribe(|_, _| {}));
            let subscription = config.subscribe(move |old, new| {
                let _owned = &owned;
                let call = [old, new].map(|it| (it.version, it.value.fields()));
                log.lock().unwrap().push(call);
                if panics {
                    resume_unwind(Box::new("a bug in an observer"));
                }
            });
            Self { calls, expected: vec![], subscription: Some(subscription) }
        }
    }

    /// Runs a random sequence of calls, and compares all results with a model.
    fn run_sequence(random: &mut Random) {
        let layers = random.below(4);
        let script = Script::new(layers);
        let config = script.config().expect("valid settings were rejected");
        let mut value = expected(&script.next()).unwrap().unwrap();
        let (mut version, mut last_error) = (1, None);
        let mut observers = Vec::new();
        let mut steps = Vec::new();
        for _ in 0..60 {
            let layer = random.below(layers.max(1));
            let step = match random.below(12) {
                0..=3 if layers > 0 => {
                    let next = match random.below(12) {
                        0 => Next::Panic,
                        1 => Next::Error,
                        _ => Next::Table(random_table(random)),
                    };
                    script.set(layer, next.clone());
                    format!("layer {layer} is {next:?}")
                }
                4 => {
                    let panics = random.below(3) == 0;
                    observers.push(Observed::new(&config, panics));
                    format!("subscribe, panics: {panics}")
                }
                5 if !observers.is_empty() => {
                    let index = random.below(observers.len());
                    observers[index].subscription = None;
                    format!("unsubscribe {index}")
                }
                6 => {
                    DEFAULT_N.set(*random.pick(&[0, 1, INVALID.0]));
                    format!("a missing n is {}", DEFAULT_N.get())
                }
                _ => {
                    let seen = outcome(|| match config.clone().reload() {
                        Ok(now) => Ok((now.version, now.value.fields())),
                        Err(error) => Err(kind_and_cause(&error)),
                    });
                    let expected = expected(&script.next());
                    if let Some(result) = &expected {
                        last_error = result.as_ref().err().cloned();
                    }
                    if let Some(Ok(new)) = &expected
                        && *new != value
                    {
                        let old = (version, value.fields());
                        value.clone_from(new);
                        version += 1;
                        let call = [old, (version, value.fields())];
                        for observer in &mut observers {
                            if observer.subscription.is_some() {
                                observer.expected.push(call.clone());
                            }
                        }
                    }
                    let expected = expected.map(|result| {
                        result.map(|_| (version, value.fields()))
                    });
                    assert!(
                        seen == expected,
                        "`reload` returned {seen:#?}, expected {expected:#?} \
                         (`None`: a panic), after {steps:#?}"
                    );
                    "reload".to_owned()
                }
            };
            steps.push(step);
            let now = config.snapshot();
            let seen = (
                now.version,
                now.value.fields(),
                config.last_error().map(|error| kind_and_cause(&error)),
            );
            let expected = (version, value.fields(), last_error.clone());
            assert!(
                seen == expected,
                "the version, the value and `last_error` are {seen:#?}, \
                 expected {expected:#?}, after {steps:#?}"
            );
            for (index, observer) in observers.iter().enumerate() {
                let calls = observer.calls.lock().unwrap();
                assert!(
                    *calls == observer.expected,
                    "calls of observer {index}: {calls:#?}, expected {:#?}, \
                     after {steps:#?}",
                    observer.expected
                );
                let is_held = Arc::strong_count(&observer.calls) > 1;
                assert_eq!(
                    is_held,
                    observer.subscription.is_some(),
                    "whether observer {index} still holds its values, after \
                     {steps:#?}"
                );
            }
        }
    }

    #[test]
    fn results_and_calls_are_correct_for_random_sequences_of_calls() {
        let mut random = Random(2);
        for number in 0..150 {
            let mut random = Random(random.next());
            let sequence = format!("sequence {number} of random calls");
            within(DEADLINE, &sequence, move || run_sequence(&mut random));
        }
    }

    /// All changes are published during one call. Meanwhile other observers
    /// panic.
    #[test]
    fn many_changes_published_during_one_delivery_are_all_delivered() {
        const CHANGES: u16 = 300;

        let fixture = Fixture::new();
        let nested = fixture.clone();
        let _publishes = fixture.subscribe(move |_, new| {
            if new.version == 2 {
                for port in 1001..1000 + CHANGES {
                    nested.reload_with_port(port);
                }
            }
        });
        let _panics = [(); 17].map(|()| {
            fixture.subscribe(|_, _| resume_unwind(Box::new("a bug")))
        });
        let logs: Vec<_> = (0..130).map(|_| Log::subscribe(&fixture)).collect();
        let outer = fixture.clone();
        within(
            DEADLINE,
            "a reload whose observer reloads 300 times",
            move || outer.reload_with_port(1000),
        );
        let ports = [80].into_iter().chain(1000..1000 + CHANGES);
        let all: Vec<_> = (1..).zip(ports).collect();
        let all: Vec<_> = all.windows(2).map(|two| [two[0], two[1]]).collect();
        for (log, _subscription) in logs {
            assert_eq!(log.calls(), all, "the calls of each observer");
        }
    }

    #[test]
    fn subscribing_and_unsubscribing_does_not_use_up_memory() {
        const COUNT: usize = 1_000_000;
        const OWN_PROCESS: &str = "WB_CONFIG_OWN_PROCESS";

        // Other tests use memory, too: this one runs in a process of its own.
        if env::var_os(OWN_PROCESS).is_none() {
            let (_crate, module) = module_path!().split_once("::").unwrap();
            let test = "subscribing_and_unsubscribing_does_not_use_up_memory";
            let own = env::current_exe().expect("this program's file");
            let mut own = Command::new(own);
            own.args(["--exact", &format!("{module}::{test}")]);
            own.env(OWN_PROCESS, "1");
            let output = own.output().expect("the process runs");
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{text}");
            assert!(text.contains("1 passed"), "expected one test: {text}");
            return;
        }
        // The resident memory in bytes. Zero on systems other than Linux.
        let resident = || {
            let all =
                fs::read_to_string("/proc/self/statm").unwrap_or_default();
            let pages = all.split(' ').nth(1).and_then(|it| it.parse().ok());
            4096 * pages.unwrap_or(0_usize)
        };
        let fixture = Fixture::new();
        let before = resident();
        for number in 0..COUNT {
            drop(fixture.subscribe(move |_, _| {
                black_box(number);
            }));
        }
        let kept = resident().saturating_sub(before);
        assert!(
            kept < 8 * COUNT,
            "{COUNT} observers were subscribed and unsubscribed, and the \
             process has grown by {kept} bytes"
        );
    }

    /// An observer that was subscribed during a delivery.
    struct Newcomer {
        log: Log,
        subscription: Option<Subscription>,
        /// The latest version when it was subscribed.
        since: u64,
        /// The version that was being delivered when it was unsubscribed.
        until: Option<u64>,
    }

    /// In each of its calls, one observer reloads, subscribes and unsubscribes
    /// others, and reloads another configuration, in random order.
    #[test]
    fn an_observer_gets_the_changes_from_its_subscribe_to_its_unsubscribe() {
        const LAST: u64 = 300;

        let next_port = |fixture: &Fixture| fixture.current().1 + 1;
        let (fixture, other) = (Fixture::new(), Fixture::new());
        let (other_log, _other) = Log::subscribe(&other);
        let newcomers = Arc::new(Mutex::new(Vec::<Newcomer>::new()));
        let faults = Arc::new(Mutex::new(Vec::<String>::new()));
        let random = Mutex::new(Random(3));
        let (nested, list, found) =
            (fixture.clone(), newcomers.clone(), faults.clone());
        let _acts = fixture.subscribe(move |_, new| {
            let mut random = random.lock().unwrap();
            let mut list = list.lock().unwrap();
            for _ in 0..random.below(8) {
                let since = nested.current().0;
                let index = random.below(list.len().max(1));
                match random.below(4) {
                    0 if since < LAST => {
                        nested.reload_with_port(next_port(&nested));
                    }
                    1 => {
                        let (log, subscription) = Log::subscribe(&nested);
                        let subscription = Some(subscription);
                        let until = None;
                        list.push(Newcomer { log, subscription, since, until });
                    }
                    2 => {
                        let Some(it) = list.get_mut(index) else { continue };
                        drop(it.subscription.take());
                        it.until.get_or_insert(new.version);
                        if Arc::strong_count(&it.log.0) > 1 {
                            found.lock().unwrap().push(format!(
                                "observer {index} still holds its values \
                                 after its subscription was dropped"
                            ));
                        }
                    }
                    3 => {
                        let port = next_port(&other);
                        other.reload_with_port(port);
                        let last = other_log.calls().last().map(|it| it[1].1);
                        if last != Some(port) {
                            found.lock().unwrap().push(format!(
                                "a reload of another configuration returned \
                                 before port {port} was delivered: {last:?}"
                            ));
                        }
                    }
                    _ => {}
                }
            }
        });
        let reloads = fixture.clone();
        let what = "reloads whose observer reloads and subscribes";
        within(DEADLINE, what, move || {
            while reloads.current().0 < LAST {
                reloads.reload_with_port(next_port(&reloads));
            }
        });
        let faults = faults.lock().unwrap();
        assert!(faults.is_empty(), "during a delivery: {faults:#?}");
        for (index, it) in newcomers.lock().unwrap().iter().enumerate() {
            let calls: Vec<_> =
                it.log.calls().iter().map(|[_, new]| new.0).collect();
            let mut expected: Vec<_> =
                (it.since + 1..=it.until.unwrap_or(LAST)).collect();
            // The others may be called for this version earlier or later.
            if it.until.is_some() && calls.len() < expected.len() {
                expected.pop();
            }
            assert_eq!(
                calls, expected,
                "versions that observer {index} got. It was subscribed after \
                 version {}, and unsubscribed during the delivery of {:?}",
                it.since, it.until
            );
        }
    }

    #[test]
    fn dropping_a_subscription_during_delivery_stops_pending_calls() {
        let fixture = Fixture::new();
        // The observers unsubscribe each other, so only one of them is called.
        let subscriptions =
            [SharedSubscription::default(), SharedSubscription::default()];
        let calls = Arc::new(AtomicU32::new(0));
        for (own, other) in [(0, 1), (1, 0)] {
            let (calls, other) = (calls.clone(), subscriptions[other].clone());
            let subscription = fixture.subscribe(move |_, _| {
                calls.fetch_add(1, Relaxed);
                unsubscribe(&other);
            });
            keep(&subscriptions[own], subscription);
        }
        let reloads = fixture.clone();
        within(
            DEADLINE,
            "a reload whose observer unsubscribes another",
            move || reloads.reload_with_port(81),
        );
        assert_eq!(
            calls.load(Relaxed),
            1,
            "calls of two observers that unsubscribe each other"
        );
    }

    /// Records whether a panic unwinds when it is dropped, and panics then.
    struct SeesUnwinding(Arc<AtomicBool>, Option<PanicsOnDrop>);

    impl Drop for SeesUnwinding {
        fn drop(&mut self) {
            self.0.fetch_or(thread::panicking(), Relaxed);
            drop(self.1.take());
        }
    }

    #[test]
    fn an_observer_panic_does_not_stop_other_or_later_calls() {
        let fixture = Fixture::new();
        let (first, _first) = Log::subscribe(&fixture);
        let calls = Arc::new(AtomicU32::new(0));
        let _panics = {
            let calls = calls.clone();
            fixture.subscribe(move |_, new| {
                calls.fetch_add(1, Relaxed);
                if new.version == 2 {
                    resume_unwind(Box::new(PanicsOnDrop(2)));
                }
                panic!("on purpose: a bug in an observer");
            })
        };
        // An observer that unsubscribes itself and panics in its first call,
        // and panics again when it is dropped.
        let kept = SharedSubscription::default();
        let is_unwinding = Arc::new(AtomicBool::new(false));
        let panics = SeesUnwinding(is_unwinding.clone(), Some(PanicsOnDrop(2)));
        let own = kept.clone();
        let subscription = fixture.subscribe(move |_, _| {
            let _holds = &panics;
            unsubscribe(&own);
            resume_unwind(Box::new("a bug in an observer"));
        });
        keep(&kept, subscription);
        let (last, _last) = Log::subscribe(&fixture);
        for port in [81, 82] {
            let fixture = fixture.clone();
            let reload = move || fixture.reload_with_port(port).value.port;
            let returned =
                within(DEADLINE, "a reload whose observer panics", reload);
            assert_eq!(returned, port, "the port that `reload` returned");
        }
        let changes = [[(1, 80), (2, 81)], [(2, 81), (3, 82)]];
        assert_eq!(
            first.calls(),
            changes,
            "calls of the observer subscribed before the panicking one"
        );
        assert_eq!(
            last.calls(),
            changes,
            "calls of the observer subscribed after the panicking one"
        );
        assert_eq!(calls.load(Relaxed), 2, "calls of the panicking observer");
        assert!(
            !is_unwinding.load(Relaxed),
            "an observer was dropped while its own panic unwinds: a second \
             panic, of its destructor, would abort the process"
        );
    }
}

mod races {
    use super::*;

    /// Subscribes an observer that blocks in its call for version 2 until the
    /// returned sender is dropped. The closure waits until that call has begun.
    fn blocking_observer(
        fixture: &Fixture,
    ) -> (Subscription, impl FnOnce(), Sender<()>) {
        let (begun, has_begun) = channel();
        let (unblock, unblocked) = channel();
        let unblocked = Mutex::new(unblocked);
        let subscription = fixture.subscribe(move |_, new| {
            if new.version == 2 {
                begun.send(()).expect("the test receives");
                let _ = unblocked.lock().unwrap().recv();
            }
        });
        let wait_until_called = move || {
            has_begun
                .recv_timeout(DEADLINE)
                .expect("the observer was not called for version 2");
        };
        (subscription, wait_until_called, unblock)
    }

    #[test]
    fn an_observer_can_use_the_configuration_and_is_not_called_recursively() {
        let fixture = Fixture::new();
        let (log, nested) = (Log::default(), fixture.clone());
        let own = SharedSubscription::default();
        let (done, results) = channel();
        let (records, unsubscribes) = (log.clone(), own.clone());
        // An assertion in the observer would not fail the test: `reload`
        // catches its panic.
        let subscription = fixture.subscribe(move |old, new| {
            records.add(old, new);
            let before =
                (nested.current(), nested.config.last_error().is_none());
            drop(nested.subscribe(|_, _| {}));
            let mut returned = None;
            let mut fails = true;
            if new.version == 2 {
                returned = Some(version_and_port(&nested.reload_with_port(82)));
                nested.file.set(BROKEN);
                fails = nested.config.reload().is_err();
            } else {
                unsubscribe(&unsubscribes);
            }
            let _ = done.send((before, returned, fails, records.calls().len()));
        });
        keep(&own, subscription);
        let reloads = fixture.clone();
        // Another test checks the returned error.
        fixture.file.set(BROKEN);
        let _ = fixture.config.reload();
        within(DEADLINE, "a reload whose observer reloads", move || {
            reloads.reload_with_port(81)
        });
        let results: Vec<_> = results.try_iter().collect();
        assert_eq!(
            results,
            [
                (((2, 81), true), Some((3, 82)), true, 1),
                (((3, 82), false), None, true, 2)
            ],
            "in both calls of the observer: the snapshot and whether \
             `last_error` is `None`, the result of `reload`, whether a reload \
             of a broken file failed, and the calls so far"
        );
        fixture.reload_with_port(83);
        assert_eq!(
            log.calls(),
            [[(1, 80), (2, 81)], [(2, 81), (3, 82)]],
            "calls of the observer, which unsubscribed itself in the last one"
        );
    }

    #[test]
    fn a_running_observer_does_not_block_other_threads() {
        let fixture = Fixture::new();
        let (_blocking, wait_until_called, unblock) =
            blocking_observer(&fixture);
        let reloads = fixture.clone();
        let first = thread::spawn(move || reloads.reload_with_port(81).version);
        wait_until_called();
        let other = fixture.clone();
        let what =
            "a thread that uses the configuration while an observer runs";
        let result = within(DEADLINE, what, move || {
            drop(other.subscribe(|_, _| {}));
            let last = other.config.last_error().map(|error| kind(&error));
            assert_eq!(last, None, "`last_error` while an observer runs");
            let before = other.current();
            let versions =
                [82, 82].map(|it| other.reload_with_port(it).version);
            other.file.set(BROKEN);
            (before, versions, other.config.reload().is_err())
        });
        assert_eq!(
            result,
            ((2, 81), [3, 3], true),
            "while an observer runs: the snapshot, the versions of a reload \
             and of one without a change, and whether a third one failed"
        );
        drop(unblock);
        assert_eq!(
            first.join().expect("the first reload panicked"),
            2,
            "the version that the first reload returned"
        );
    }

    #[test]
    fn dropping_a_subscription_does_not_wait_for_its_running_call() {
        let fixture = Fixture::new();
        let (begun, begins) = channel();
        let (unblock, unblocked) = channel::<()>();
        let unblocked = Mutex::new(unblocked);
        let held = Arc::new(());
        let holds = held.clone();
        let subscription = fixture.subscribe(move |_, new| {
            let _ = begun.send((new.version, Arc::strong_count(&holds)));
            let _ = unblocked.lock().unwrap().recv_timeout(DEADLINE);
        });
        let reloads = fixture.clone();
        let first = thread::spawn(move || reloads.reload_with_port(81).version);
        let call = begins.recv_timeout(DEADLINE).expect("a call for version 2");
        assert_eq!(call.0, 2, "the version of the first call");
        let start = Instant::now();
        within(
            DEADLINE,
            "the drop of a subscription while it is called",
            || {
                drop(subscription);
            },
        );
        let waited = start.elapsed();
        assert!(
            waited < DEADLINE / 2,
            "the drop waited {waited:?} for the call"
        );
        // It is published while the call runs, and not delivered to it.
        fixture.reload_with_port(82);
        drop(unblock);
        first.join().expect("the first reload panicked");
        let more = begins.recv_timeout(DEADLINE);
        assert!(more.is_err(), "a call after the drop: {more:?}");
        let owners = Arc::strong_count(&held);
        assert_eq!(owners, 1, "owners of a value of the observer, afterwards");
    }

    #[test]
    fn a_layer_can_read_and_subscribe_during_a_reload() {
        let own_config = Arc::new(OnceLock::<Config<Settings>>::new());
        let (content, reads) = (Content::default(), own_config.clone());
        let errors = Arc::new(Mutex::new(Vec::new()));
        let records = errors.clone();
        content.set(DEFAULTS);
        let layer = content.layer("text");
        let layer = Layer::new("text", move || {
            if let Some(config) = reads.get() {
                let version = config.snapshot().version;
                assert_eq!(version, 1, "the version that the layer read");
                let last = config.last_error().map(|error| kind(&error));
                records.lock().unwrap().push(last);
                drop(config.subscribe(|_, _| {}));
                // So can another thread.
                let config = config.clone();
                within(DEADLINE, "another thread during a reload", move || {
                    drop(config.subscribe(|_, _| {}));
                    (config.snapshot().version, config.last_error().is_some())
                });
            }
            Ok(layer.read()?)
        });
        let config = Config::new(vec![layer], validate)
            .expect("valid settings were rejected");
        own_config.set(config.clone()).expect("it is set once");
        for (text, expected) in [
            (BROKEN, Err("Error::Layer(text)")),
            (&*DEFAULTS.replace("80", "81"), Ok((2, 81))),
        ] {
            content.set(text);
            let config = config.clone();
            let reload = move || match config.reload() {
                Ok(now) => Ok(version_and_port(&now)),
                Err(error) => Err(kind(&error)),
            };
            let what = "a reload whose layer reads the configuration";
            assert_eq!(
                within(DEADLINE, what, reload),
                expected.map_err(str::to_owned),
                "the result of `reload` with {text:?}"
            );
        }
        let errors = errors.lock().unwrap();
        let expected = [None, Some("Error::Layer(text)".to_owned())];
        assert_eq!(
            *errors, expected,
            "`last_error` in the layer, for each reload"
        );
    }

    #[test]
    fn a_reload_that_waits_for_a_slow_one_publishes_the_latest_content() {
        for panics in [false, true] {
            let (content, slow) =
                (Content::default(), Arc::new(AtomicBool::new(false)));
            content.set(DEFAULTS);
            let (begun, has_begun) = channel();
            let (returned, has_returned) = channel();
            let has_returned = Mutex::new(has_returned);
            let (layer, is_slow) = (content.layer("text"), slow.clone());
            let layer = Layer::new("slow", move || {
                let table = layer.read()?;
                if is_slow.swap(false, Relaxed) {
                    begun.send(())?;
                    // In a right answer the second reload waits for this
                    // one, so this wait times out.
                    let _ = has_returned
                        .lock()
                        .unwrap()
                        .recv_timeout(OVERTAKING_TIME);
                    assert!(!panics, "on purpose: a bug in a layer");
                }
                Ok(table)
            });
            let config = Config::new(vec![layer], validate)
                .expect("valid settings were rejected");
            slow.store(true, Relaxed);
            content.set(&DEFAULTS.replace("80", "81"));
            let first = config.clone();
            let reload = AssertUnwindSafe(move || first.reload().is_ok());
            let first = thread::spawn(|| catch_unwind(reload).ok());
            has_begun
                .recv_timeout(DEADLINE)
                .expect("the first reload did not read the layer");

            content.set(&DEFAULTS.replace("80", "82"));
            let second = config.clone();
            let port = move || second.reload().map(|now| now.value.port).ok();
            assert_eq!(
                within(DEADLINE, "a reload that waits for another one", port),
                Some(82),
                "the port that the second reload returned"
            );
            // The first reload may have stopped waiting.
            let _ = returned.send(());
            assert_eq!(
                first.join().expect("it catches the panic"),
                (!panics).then_some(true),
                "whether the first reload returned `Ok` (`None`: a panic)"
            );
            let port = config.snapshot().value.port;
            assert_eq!(
                port, 82,
                "the port after both reloads: the layer contained 82 before the \
             second one began"
            );
        }
    }

    #[test]
    fn observers_finish_one_change_before_the_next_is_delivered() {
        let fixture = Fixture::new();
        let (_blocking, wait_until_called, unblock) =
            blocking_observer(&fixture);
        let (log, _subscription) = Log::subscribe(&fixture);
        let reloads = fixture.clone();
        let first = thread::spawn(move || reloads.reload_with_port(81).version);
        wait_until_called();
        let reloads = fixture.clone();
        within(DEADLINE, "a reload while an observer runs", move || {
            reloads.reload_with_port(82)
        });
        let calls = log.calls();
        let early = calls.iter().any(|[_, (version, _)]| *version == 3);
        assert!(
            !early,
            "version 3 was delivered while an observer of version 2 still \
             runs: {calls:?}"
        );
        drop(unblock);
        first.join().expect("the first reload panicked");
        let changes = [[(1, 80), (2, 81)], [(2, 81), (3, 82)]];
        assert_eq!(
            log.calls(),
            changes,
            "calls of the second observer, as [old, new]"
        );
    }
}
