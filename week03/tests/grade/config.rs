use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use toml::Value;
use week03::config::{Config, Snapshot, Subscription};
use week03::layers::{Cause, Error, Layer};

use crate::common::soon;

/// Nobody waits longer for what has to happen.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long one thread gives another the chance to do what it must not do. Where
/// it does not, the test passes however long it takes.
const CHANCE: Duration = Duration::from_millis(300);

const DEFAULTS: &str = r#"
port = 80
tags = ["a", "b"]
extra = { deep = 1 }
[pool]
min = 1
max = 8
wait = { connect = 10, read = 20 }
"#;

/// Settings that are no text, and a layer that panics.
const BROKEN: &str = "port = ";
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
    assert!(settings.port != 13, "on purpose: a bug of `validate`");
    match settings.pool.min <= settings.pool.max {
        true => Ok(()),
        false => Err("more at least than at most".into()),
    }
}

/// What a layer says, until it is set to something else.
#[derive(Debug, Clone, Default)]
struct Text(Arc<Mutex<String>>);

impl Text {
    fn set(&self, text: &str) {
        text.clone_into(&mut self.0.lock().unwrap());
    }

    fn get(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    fn layer(&self, name: &'static str) -> Layer {
        let text = self.clone();
        Layer::new(name, move || {
            let text = text.get();
            assert!(text != PANICS, "on purpose: a bug of a layer");
            Ok(text.parse()?)
        })
    }
}

/// Three layers, two of which can be edited.
#[derive(Clone)]
struct Site {
    file: Text,
    environment: Text,
    config: Config<Settings>,
}

impl Site {
    fn new() -> Self {
        Self::with("", "").expect("settings that are valid")
    }

    fn with(file: &str, environment: &str) -> Result<Self, Error> {
        let [defaults, f, e] = [DEFAULTS, file, environment].map(|text| {
            let layer = Text::default();
            layer.set(text);
            layer
        });
        let layers = vec![
            defaults.layer("defaults"),
            f.layer("file"),
            e.layer("environment"),
        ];
        let config = Config::new(layers, validate)?;
        Ok(Self { file: f, environment: e, config })
    }

    /// Writes another port into the file, and reloads.
    fn port(&self, port: u16) -> Arc<Snapshot<Settings>> {
        self.file.set(&format!("port = {port}"));
        self.config.reload().expect("settings that are valid")
    }

    fn seen(&self) -> Seen {
        seen(&self.config.snapshot())
    }

    fn subscribe<F>(&self, observer: F) -> Subscription
    where
        F: Fn(&Snapshot<Settings>, &Snapshot<Settings>) + Send + Sync + 'static,
    {
        self.config.subscribe(observer)
    }
}

/// Version and port.
type Seen = (u64, u16);

fn seen(snapshot: &Snapshot<Settings>) -> Seen {
    (snapshot.version, snapshot.value.port)
}

fn table(text: &str) -> Value {
    Value::Table(text.parse().expect("a table"))
}

fn kind(error: &Error) -> String {
    match error {
        Error::Layer { layer, .. } => format!("the layer {layer}"),
        Error::Shape(_) => "the shape".to_owned(),
        Error::Invalid(_) => "not valid".to_owned(),
    }
}

/// What an observer is told: old and new.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<[Seen; 2]>>>);

impl Log {
    fn add(&self, old: &Snapshot<Settings>, new: &Snapshot<Settings>) {
        self.0.lock().unwrap().push([seen(old), seen(new)]);
    }

    fn told(&self) -> Vec<[Seen; 2]> {
        self.0.lock().unwrap().clone()
    }

    /// An observer that writes down what it is told.
    fn of(site: &Site) -> (Self, Subscription) {
        let log = Self::default();
        let subscription = {
            let log = log.clone();
            site.subscribe(move |old, new| log.add(old, new))
        };
        (log, subscription)
    }
}

/// A subscription that observers can end.
type Slot = Arc<Mutex<Option<Subscription>>>;

fn put(slot: &Slot, subscription: Subscription) {
    *slot.lock().unwrap() = Some(subscription);
}

fn end(slot: &Slot) {
    let subscription = slot.lock().unwrap().take();
    drop(subscription);
}

mod merges {
    use super::*;

    #[test]
    fn a_later_layer_wins_and_tables_are_merged_at_any_depth() {
        let file = "port = 81\n[pool]\nmax = 9\nwait.read = 21";
        let environment = "port = 82\npool.wait.connect = 12";
        let site = Site::with(file, environment).expect("it is valid");
        let now = site.config.snapshot();
        let wait = Wait { connect: 12, read: 21 };
        assert_eq!(now.value.port, 82, "the port, which all layers have");
        assert_eq!(now.value.pool, Pool { min: 1, max: 9, wait });
        assert_eq!(now.value.tags, ["a", "b"], "as in the first layer");
        assert_eq!(now.version, 1, "the first version");
    }

    #[test]
    fn what_is_no_table_is_replaced_as_a_whole() {
        let site = Site::with("tags = [\"c\"]\nextra = 5", "").unwrap();
        let now = site.config.snapshot();
        assert_eq!(now.value.tags, ["c"], "a list over a list");
        assert_eq!(now.value.extra, Value::from(5), "5 over a table");
        let site = Site::with("extra = 5", "extra.other = 2").unwrap();
        let extra = &site.config.snapshot().value.extra;
        assert_eq!(*extra, table("other = 2"), "a table over 5");
    }

    #[test]
    fn without_valid_settings_there_is_no_configuration() {
        for (file, environment, fails) in [
            (BROKEN, "", "the layer file"),
            ("", BROKEN, "the layer environment"),
            ("", "port = \"none\"", "the shape"),
            ("prot = 81", "", "the shape"),
            ("pool.min = 9", "", "not valid"),
        ] {
            let failed = Site::with(file, environment).map(|_| ());
            let failed = failed.map_err(|error| kind(&error));
            assert_eq!(
                failed,
                Err(fails.to_owned()),
                "{file:?} and {environment:?}"
            );
        }
        let merged = Site::with("pool.min = 9", "pool.max = 10");
        assert!(merged.is_ok(), "together they are valid: {:?}", merged.err());
    }
}

mod publishes {
    use super::*;

    #[test]
    fn a_change_is_the_next_version_and_readers_keep_theirs() {
        let site = Site::new();
        let before = site.config.snapshot();
        let clone = site.config.clone();
        let returned = site.port(81);
        assert_eq!(seen(&returned), (2, 81), "what `reload` returns");
        assert_eq!(seen(&clone.snapshot()), (2, 81), "what a clone sees");
        assert_eq!(seen(&before), (1, 80), "what was read before");
        site.environment.set("port = 82");
        clone.reload().expect("it is valid");
        assert_eq!(site.seen(), (3, 82));
    }

    #[test]
    fn what_is_equal_is_no_new_version() {
        let site = Site::new();
        for text in ["", "# a remark", "port = 80", "pool.min = 1"] {
            site.file.set(text);
            let returned = site.config.reload().expect("it is valid");
            assert_eq!(seen(&returned), (1, 80), "returned for {text:?}");
            assert_eq!(site.seen(), (1, 80), "published for {text:?}");
        }
        assert_eq!(seen(&site.port(81)), (2, 81));
    }

    #[test]
    fn what_a_layer_says_no_more_is_gone() {
        let site = Site::with("port = 81\nextra.other = 2", "");
        let site = site.expect("it is valid");
        let extra = || site.config.snapshot().value.extra.clone();
        assert_eq!(extra(), table("deep = 1\nother = 2"));
        for (version, text, port, expected) in [
            (2, "extra.other = 2", 80, table("deep = 1\nother = 2")),
            (3, "port = 82", 82, table("deep = 1")),
            (4, "extra = \"of another type\"", 80, "of another type".into()),
            (5, "", 80, table("deep = 1")),
        ] {
            site.file.set(text);
            site.config.reload().expect("it is valid");
            assert_eq!(site.seen(), (version, port), "with {text:?}");
            assert_eq!(extra(), expected, "with {text:?}");
        }
    }

    #[test]
    fn what_fails_changes_nothing() {
        let site = Site::new();
        let before = site.port(81);
        for (file, environment, fails) in [
            (BROKEN, "", "the layer file"),
            ("port = 99", BROKEN, "the layer environment"),
            ("port = 99", "pool.max = \"9\"", "the shape"),
            ("port = 99", "port_of_call = 1", "the shape"),
            ("port = 99", "pool.max = 0", "not valid"),
        ] {
            site.file.set(file);
            site.environment.set(environment);
            let failed = site.config.reload().map(|now| seen(&now));
            let failed = failed.map_err(|error| kind(&error));
            assert_eq!(
                failed,
                Err(fails.to_owned()),
                "{file:?} and {environment:?}"
            );
            let now = site.config.snapshot();
            assert_eq!(seen(&now), (2, 81), "after {file:?}, {environment:?}");
            assert_eq!(now.value, before.value);
        }
        site.file.set("pool.max = 9");
        site.environment.set("");
        site.config.reload().expect("it is valid");
        assert_eq!(site.seen(), (3, 80), "nothing is left of what failed");
    }

    #[test]
    fn what_is_being_checked_is_seen_by_nobody() {
        static CONFIG: OnceLock<Config<Settings>> = OnceLock::new();
        static SEEN: Mutex<Vec<Seen>> = Mutex::new(Vec::new());
        let text = Text::default();
        text.set(DEFAULTS);
        let check = |_: &Settings| {
            let now = CONFIG.get().map(|config| seen(&config.snapshot()));
            SEEN.lock().unwrap().extend(now);
            Ok(())
        };
        let config = Config::new(vec![text.layer("text")], check);
        let config = CONFIG.get_or_init(|| config.expect("it is valid"));
        text.set(&DEFAULTS.replace("80", "81"));
        let reload = || config.reload().map(|now| seen(&now)).ok();
        assert_eq!(soon("a reload", reload), Some((2, 81)));
        let seen = SEEN.lock().unwrap();
        assert_eq!(*seen, [(1, 80)], "what `validate` could read");
    }

    #[test]
    fn who_asks_later_hears_of_the_last_error() {
        let site = Site::new();
        let last = |site: &Site| {
            let error = site.config.last_error()?;
            Some((kind(&error), error.to_string()))
        };
        assert_eq!(last(&site), None, "at the start");
        for (file, fails) in
            [(BROKEN, "the layer file"), ("pool.min = 9", "not valid")]
        {
            site.file.set(file);
            let failed = site.config.reload().map(|now| seen(&now));
            let failed = failed.expect_err("it is not valid").to_string();
            let expected = Some((fails.to_owned(), failed));
            assert_eq!(last(&site), expected, "after {file:?}");
            assert_eq!(last(&site.clone()), expected, "of a clone");
        }
    }

    #[test]
    fn a_reload_that_succeeds_clears_the_last_error() {
        for (file, what) in [("port = 81", "a change"), ("", "nothing new")] {
            let site = Site::new();
            site.file.set(BROKEN);
            // It may be returned or not.
            let _ = site.config.reload();
            site.file.set(file);
            site.config.reload().expect("it is valid");
            let last = site.config.last_error().map(|error| kind(&error));
            assert_eq!(last, None, "after a reload with {what}");
        }
    }

    #[test]
    fn a_panic_spoils_one_reload() {
        let site = Site::new();
        for (version, text) in [(2, PANICS), (3, "port = 13")] {
            site.file.set(text);
            let before = site.seen();
            let reload = AssertUnwindSafe(|| site.config.reload().is_ok());
            assert!(catch_unwind(reload).is_err(), "{text:?} panics");
            assert_eq!(site.seen(), before, "after a panic of {text:?}");
            let last = site.config.last_error().map(|error| kind(&error));
            assert_eq!(last, None, "the last error, after a panic");
            let next = site.clone();
            let port = 80 + u16::try_from(version).unwrap();
            let next = soon("the next reload", move || seen(&next.port(port)));
            assert_eq!(next, (version, port), "the next reload");
        }
    }
}

mod tells {
    use super::*;

    #[test]
    fn each_observer_hears_each_change_once() {
        let site = Site::new();
        let logs = [Log::of(&site), Log::of(&site), Log::of(&site)];
        for file in ["port = 81", "port = 81", BROKEN, "", "port = 82"] {
            site.file.set(file);
            // Not each of them succeeds.
            let _ = site.config.reload();
        }
        let changes = [
            [(1, 80), (2, 81)], // old and new
            [(2, 81), (3, 80)],
            [(3, 80), (4, 82)],
        ];
        for (log, _subscription) in &logs {
            assert_eq!(log.told(), changes);
        }
    }

    #[test]
    fn what_is_told_has_been_published() {
        let site = Site::new();
        let (told, was_told) = channel();
        let config = site.config.clone();
        let _subscription = site.subscribe(move |_, new| {
            let now = seen(&config.snapshot());
            told.send((seen(new), now)).expect("the test listens");
        });
        site.port(81);
        let (new, now) = was_told.try_recv().expect("it is told");
        assert_eq!(now, new, "what an observer reads, and what it is told");
    }

    #[test]
    fn who_is_told_of_a_change_finds_no_old_error() {
        let site = Site::new();
        let (told, was_told) = channel();
        let config = site.config.clone();
        let _subscription = site.subscribe(move |_, _| {
            let last = config.last_error().map(|error| kind(&error));
            told.send(last).expect("the test listens");
        });
        site.file.set(BROKEN);
        // It may be returned or not.
        let _ = site.config.reload();
        soon("a reload", move || site.port(81));
        let last = was_told.try_recv().expect("it is told");
        assert_eq!(last, None, "`last_error`, as an observer sees it");
    }

    #[test]
    fn who_subscribes_hears_what_is_published_from_then_on() {
        let site = Site::new();
        site.port(81);
        let (late, kept) = (Log::default(), Slot::default());
        let _first = {
            let (site, late, kept) = (site.clone(), late.clone(), kept.clone());
            let nested = site.clone();
            site.subscribe(move |_, new| {
                if new.version == 3 {
                    nested.port(83);
                    let late = late.clone();
                    put(
                        &kept,
                        nested.subscribe(move |old, new| late.add(old, new)),
                    );
                }
            })
        };
        let outer = site.clone();
        soon("a reload", move || outer.port(82));
        assert_eq!(site.seen(), (4, 83), "both have been published");
        assert_eq!(
            late.told().len(),
            0,
            "it subscribed when both were published"
        );
        site.port(84);
        assert_eq!(late.told(), [[(4, 83), (5, 84)]]);
    }

    #[test]
    fn who_has_gone_hears_nothing_more() {
        let site = Site::new();
        let (log, subscription) = Log::of(&site);
        site.port(81);
        drop(subscription);
        site.port(82);
        assert_eq!(log.told(), [[(1, 80), (2, 81)]]);
    }

    #[test]
    fn who_goes_while_changes_are_told_hears_nothing_more() {
        let site = Site::new();
        // Each ends the other one: whoever is called first.
        let slots = [Slot::default(), Slot::default()];
        let calls = Arc::new(AtomicU32::new(0));
        for (own, other) in [(0, 1), (1, 0)] {
            let (calls, other) = (calls.clone(), slots[other].clone());
            let subscription = site.subscribe(move |_, _| {
                calls.fetch_add(1, Relaxed);
                end(&other);
            });
            put(&slots[own], subscription);
        }
        let reloads = site.clone();
        soon("a reload", move || reloads.port(81));
        assert_eq!(calls.load(Relaxed), 1, "calls of two that end each other");

        // One ends another when the next change is published, and not told.
        let (log, subscription) = Log::of(&site);
        let slot = Slot::default();
        put(&slot, subscription);
        let nested = site.clone();
        let _ends = site.subscribe(move |_, new| {
            if new.version == 3 {
                nested.port(83);
                end(&slot);
            }
        });
        let reloads = site.clone();
        soon("a reload", move || reloads.port(82));
        let mut told = log.told();
        told.retain(|[_, (version, _)]| *version > 3);
        assert!(told.is_empty(), "told after it had gone: {told:?}");
    }

    #[test]
    fn an_observer_that_panics_keeps_nobody_from_hearing() {
        let site = Site::new();
        let (first, _first) = Log::of(&site);
        let calls = Arc::new(AtomicU32::new(0));
        let _panics = {
            let calls = calls.clone();
            site.subscribe(move |_, _| {
                calls.fetch_add(1, Relaxed);
                panic!("on purpose: a bug of an observer");
            })
        };
        let (last, _last) = Log::of(&site);
        for port in [81, 82] {
            let site = site.clone();
            let reload = move || site.port(port).value.port;
            let returned = soon("a reload", reload);
            assert_eq!(returned, port, "what `reload` returns");
        }
        let changes = [[(1, 80), (2, 81)], [(2, 81), (3, 82)]];
        assert_eq!(first.told(), changes, "before the one that panics");
        assert_eq!(last.told(), changes, "after the one that panics");
        assert_eq!(calls.load(Relaxed), 2, "calls of the one that panics");
    }
}

mod races {
    use super::*;

    /// An observer that begins with version 2 and is held there until the sender
    /// is gone.
    fn held(site: &Site) -> (Subscription, impl FnOnce(), Sender<()>) {
        let (begun, has_begun) = channel();
        let (go_on, may_go_on) = channel();
        let may_go_on = Mutex::new(may_go_on);
        let subscription = site.subscribe(move |_, new| {
            if new.version == 2 {
                begun.send(()).expect("the test waits for it");
                let _ = may_go_on.lock().unwrap().recv();
            }
        });
        let begins = move || {
            has_begun.recv_timeout(DEADLINE).expect("the observer begins");
        };
        (subscription, begins, go_on)
    }

    #[test]
    fn an_observer_may_read_and_subscribe() {
        let site = Site::new();
        let (nested, slot) = (site.clone(), Slot::default());
        let (did, has_done) = channel();
        let own = slot.clone();
        // What it panics with, nobody would hear.
        let subscription = site.subscribe(move |_, _| {
            drop(nested.subscribe(|_, _| {}));
            end(&own);
            let _ =
                did.send((nested.seen(), nested.config.last_error().is_none()));
        });
        put(&slot, subscription);
        soon("a reload", move || site.port(81));
        let did = has_done.try_recv().expect("it comes to its end");
        assert_eq!(did, ((2, 81), true));
    }

    #[test]
    fn an_observer_may_reload() {
        let site = Site::new();
        let (log, nested) = (Log::default(), site.clone());
        let (did, has_done) = channel();
        let _subscription = {
            let log = log.clone();
            site.subscribe(move |old, new| {
                log.add(old, new);
                if new.version == 2 {
                    let returned = seen(&nested.port(82));
                    nested.file.set(BROKEN);
                    let fails = nested.config.reload().is_err();
                    let _ = did.send((returned, fails, log.told().len()));
                }
            })
        };
        soon("a reload", move || site.port(81));
        let did = has_done.try_recv().expect("it comes to its end");
        assert_eq!(did, ((3, 82), true, 1), "and is not called meanwhile");
        assert_eq!(log.told(), [[(1, 80), (2, 81)], [(2, 81), (3, 82)]]);
    }

    #[test]
    fn nobody_waits_for_an_observer() {
        let site = Site::new();
        let (_held, begins, go_on) = held(&site);
        let reloads = site.clone();
        let first = thread::spawn(move || reloads.port(81).version);
        begins();
        let other = site.clone();
        let seen = soon("what another thread does meanwhile", move || {
            drop(other.subscribe(|_, _| {}));
            assert!(other.config.last_error().is_none());
            (other.seen(), other.port(82).version)
        });
        assert_eq!(seen, ((2, 81), 3));
        drop(go_on);
        assert_eq!(first.join().expect("it returns"), 2);
    }

    #[test]
    fn nobody_waits_for_a_layer() {
        let this = Arc::new(OnceLock::<Config<Settings>>::new());
        let (text, reads) = (Text::default(), this.clone());
        let errors = Arc::new(Mutex::new(Vec::new()));
        let saw = errors.clone();
        text.set(DEFAULTS);
        let layer = text.layer("text");
        let layer = Layer::new("text", move || {
            if let Some(config) = reads.get() {
                assert_eq!(config.snapshot().version, 1);
                let last = config.last_error().map(|error| kind(&error));
                saw.lock().unwrap().push(last);
                drop(config.subscribe(|_, _| {}));
            }
            Ok(layer.read()?)
        });
        let config = Config::new(vec![layer], validate).expect("it is valid");
        this.set(config.clone()).expect("nobody else sets it");
        for (text_is, result) in [
            (BROKEN, Err("the layer text")),
            (&*DEFAULTS.replace("80", "81"), Ok((2, 81))),
        ] {
            text.set(text_is);
            let config = config.clone();
            let reload = move || match config.reload() {
                Ok(now) => Ok(seen(&now)),
                Err(error) => Err(kind(&error)),
            };
            let returned = soon("a reload whose layer reads", reload);
            assert_eq!(returned, result.map_err(str::to_owned));
        }
        let errors = errors.lock().unwrap();
        let expected = [None, Some("the layer text".to_owned())];
        assert_eq!(*errors, expected, "`last_error`, as layers saw it");
    }

    #[test]
    fn a_slow_reload_does_not_put_back_what_was_before() {
        let (text, slow) = (Text::default(), Arc::new(AtomicBool::new(false)));
        text.set(DEFAULTS);
        let (begun, has_begun) = channel();
        let (returned, has_returned) = channel();
        let has_returned = Mutex::new(has_returned);
        let (layer, is_slow) = (text.layer("text"), slow.clone());
        let layer = Layer::new("slow", move || {
            let table = layer.read()?;
            if is_slow.swap(false, Relaxed) {
                begun.send(())?;
                // Where reloads wait for each other, this one is the first.
                let _ = has_returned.lock().unwrap().recv_timeout(CHANCE);
            }
            Ok(table)
        });
        let config = Config::new(vec![layer], validate).expect("it is valid");
        slow.store(true, Relaxed);
        text.set(&DEFAULTS.replace("80", "81"));
        let first = config.clone();
        let first = thread::spawn(move || first.reload().is_ok());
        has_begun.recv_timeout(DEADLINE).expect("the layer is read");

        text.set(&DEFAULTS.replace("80", "82"));
        let second = config.clone();
        let port = move || second.reload().map(|now| now.value.port).ok();
        assert_eq!(soon("the second reload", port), Some(82));
        // It may have returned long ago.
        let _ = returned.send(());
        assert!(first.join().expect("it does not panic"));
        let port = config.snapshot().value.port;
        assert_eq!(port, 82, "the second reload began when the text said 82");
    }

    #[test]
    fn changes_are_told_one_after_the_other() {
        let site = Site::new();
        let (_held, begins, go_on) = held(&site);
        let (log, _subscription) = Log::of(&site);
        let reloads = site.clone();
        let first = thread::spawn(move || reloads.port(81).version);
        begins();
        let reloads = site.clone();
        soon("another reload", move || reloads.port(82));
        let told = log.told();
        let early = told.iter().any(|[_, (version, _)]| *version == 3);
        assert!(!early, "told before everybody has heard of 2: {told:?}");
        drop(go_on);
        first.join().expect("it returns");
        let changes = [[(1, 80), (2, 81)], [(2, 81), (3, 82)]];
        assert_eq!(log.told(), changes, "no reload is under way any more");
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Triple {
        a: u64,
        b: u64,
        c: u64,
    }

    #[test]
    fn all_see_the_same_versions_none_mixed_none_lost() {
        const WRITERS: u64 = 3;
        const READERS: usize = 2;
        const RELOADS: u64 = 100;

        let number = Arc::new(AtomicU64::new(0));
        let reads = number.clone();
        let layer = Layer::new("number", move || {
            let n = reads.load(Relaxed);
            thread::yield_now();
            thread::yield_now();
            Ok(format!("a = {n}\nb = {n}\nc = {n}").parse()?)
        });
        let same = |triple: &Triple| match triple {
            Triple { a, b, c } if a == b && b == c => Ok(()),
            other => Err(format!("{other:?}").into()),
        };
        let config = Config::new(vec![layer], same).expect("it is valid");
        let told = Arc::new(Mutex::new(Vec::new()));
        let tells = told.clone();
        let _subscription = config.subscribe(move |old, new| {
            let change = [old, new].map(|it| (it.version, it.value.a));
            // Some take longer, and could be overtaken.
            let yields = if new.version % 8 == 0 { 20 } else { 0 };
            for _ in 0..yields {
                thread::yield_now();
            }
            tells.lock().unwrap().push(change);
        });

        let (last_number, start) = (number.clone(), Instant::now());
        let barrier = Arc::new(Barrier::new(WRITERS as usize + READERS));
        let writing = Arc::new(AtomicU64::new(WRITERS));
        let mut threads = Vec::new();
        for _ in 0..WRITERS {
            let (config, number) = (config.clone(), number.clone());
            let (barrier, writing) = (barrier.clone(), writing.clone());
            threads.push(move || {
                let mut all = Vec::new();
                // Also when it panics: readers end with the last writer.
                let _leaves = Leaves(writing);
                barrier.wait();
                for _ in 0..RELOADS {
                    // Where the machine is busy, not as often.
                    if start.elapsed() > Duration::from_secs(1) {
                        break;
                    }
                    let least = number.fetch_add(1, Relaxed) + 1;
                    let returned = config.reload().expect("it is valid");
                    let now = config.snapshot();
                    assert!(now.value.a >= least, "{now:?} is not {least}");
                    all.extend([returned, now]);
                }
                all
            });
        }
        let mut readers = Vec::new();
        for _ in 0..READERS {
            let (config, barrier) = (config.clone(), barrier.clone());
            let writing = writing.clone();
            readers.push(move || {
                let mut all = vec![config.snapshot()];
                barrier.wait();
                while writing.load(Relaxed) > 0 {
                    let (now, last) = (config.snapshot(), all.last().unwrap());
                    let (new, old) = (now.version, last.version);
                    assert!(new >= old, "version {new} after version {old}");
                    if new > old {
                        all.push(now);
                    }
                    thread::yield_now();
                }
                all
            });
        }
        let all = soon("writers and readers", move || {
            thread::scope(|scope| {
                let writers: Vec<_> =
                    threads.into_iter().map(|run| scope.spawn(run)).collect();
                let readers: Vec<_> =
                    readers.into_iter().map(|run| scope.spawn(run)).collect();
                let all = writers.into_iter().chain(readers);
                all.map(|thread| thread.join()).collect::<Vec<_>>()
            })
        });

        let mut versions = HashMap::new();
        for snapshot in all
            .into_iter()
            .flat_map(|seen| seen.unwrap_or_else(|panic| resume_unwind(panic)))
        {
            let Snapshot { version, value: Triple { a, b, c } } = &*snapshot;
            assert!(a == b && b == c, "a mix of versions: {snapshot:?}");
            let other = *versions.entry(*version).or_insert(*a);
            assert_eq!(other, *a, "two values for version {version}");
        }
        let last = config.snapshot();
        let number = last_number.load(Relaxed);
        assert_eq!(last.value.a, number, "the last one is lost");
        let mut before = (1, 0);
        for &[old, new] in told.lock().unwrap().iter() {
            assert_eq!(old, before, "old of a change, and new of the last");
            let (version, a) = new;
            assert_eq!(version, old.0 + 1, "told after version {}", old.0);
            let seen = *versions.entry(version).or_insert(a);
            assert_eq!(seen, a, "told and seen of version {version}");
            before = new;
        }
        assert_eq!(before, (last.version, last.value.a), "told at last");
    }

    struct Leaves(Arc<AtomicU64>);

    impl Drop for Leaves {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Relaxed);
        }
    }
}
