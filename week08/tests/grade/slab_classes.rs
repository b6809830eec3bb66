use std::io::{BufRead, BufReader, Write};
use std::iter::{once, repeat_n};
use std::os::unix::net::UnixStream;

use lab::servers::Memcached;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{self, RngAlgorithm, TestRng, TestRunner};
use week08::slab_classes::{Class, Classes, Config, ConfigError, Item};

const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

mod table {
    use super::*;

    #[test]
    fn default_settings_give_39_classes_from_96_bytes_to_512_kib() {
        let classes = new(Config::default());
        let all = classes.classes();
        let expected = (39, class(1, 96, 10_922), class(39, MIB / 2, 2));
        let seen = (all.len(), all[0], all[all.len() - 1]);
        assert_eq!(seen, expected, "number, first, last: seen, expected");
    }

    #[test]
    fn the_tables_recorded_from_memcached_are_equal() {
        let lines = records(include_str!("slab_classes/tables.txt"));
        let tables = lines.map(|(config, _, sizes)| {
            let rows = (1..).zip(numbers(sizes));
            let rows = rows.map(|(n, size)| class(n, size, MIB / size));
            check_table(config, &rows.collect::<Vec<_>>());
        });
        assert_eq!(tables.count(), 78, "recorded tables (left)");
    }

    #[test]
    fn any_accepted_settings_give_a_table_by_the_rules() {
        for_all(3_000, any_config(), |c| check_table(c, &table(c)));
        // With these factors, it depends on rounding whether the table ends.
        for min_space in 1..464 {
            let factor = 512.0 / (48 + min_space) as f64;
            let config = config(factor, [min_space, 1_024, 512]);
            check_table(config, &table(config));
        }
        // With these, a chunk size times the factor is 1 above a multiple of
        // 8, or a bit less: the nearest `f64` decides.
        for factor in (1_001..4_000_usize).step_by(2) {
            let first = (7..).find(|n| n * factor % 1_000 == 125);
            let min_space = 8 * first.expect("odd numbers have one") - 48;
            let factor = factor as f64 / 1_000.0;
            let config = config(factor, [min_space, MIB, MIB]);
            check_table(config, &table(config));
        }
    }

    #[test]
    fn a_factor_of_at_most_1_or_nan_is_refused() {
        let below = [1.0, 1.0_f64.next_down(), 0.5, f64::MIN_POSITIVE, 0.0];
        let negative = [-0.0, -1.25, f64::NEG_INFINITY, f64::NAN, -f64::NAN];
        for bad in [below, negative].concat() {
            let seen = Classes::new(config(bad, [48, MIB, MIB]));
            let is_right = matches!(seen, Err(ConfigError::GrowthFactor(f))
                if f.to_bits() == bad.to_bits());
            assert!(is_right, "expected GrowthFactor({bad:e}), got {seen:?}");
        }
    }

    #[test]
    fn bad_settings_are_refused_whatever_the_other_settings_are() {
        let factors = select(vec![1.0, 0.5, 0.0, -1.25, f64::NAN]);
        let bad = (any::<[bool; 4]>(), factors, 0..10_000_usize);
        for_all(2_000, (any_config(), bad), |(mut config, bad)| {
            let (is_bad, factor, n) = bad;
            let Config { max_item, chunk_max, .. } = config;
            let items = [n % 1_024, max_item + (1 << (31 + n % 33))];
            let chunks = [n % 512, chunk_max + (1 << (21 + n % 43))];
            if is_bad[0] {
                config.growth_factor = factor;
            }
            if is_bad[1] {
                config.min_space = 0;
            }
            if is_bad[2] {
                config.max_item = items[n / 5_000];
            }
            if is_bad[3] {
                config.chunk_max = chunks[n / 5_000];
            }
            let Config { max_item, chunk_max, .. } = config;
            let is_divisor = chunk_max != 0 && max_item % chunk_max == 0;
            let seen = Classes::new(config);
            let is_right = match seen {
                Ok(_) => is_bad == [false; 4],
                Err(ConfigError::GrowthFactor(f)) => {
                    is_bad[0] && f.to_bits() == factor.to_bits()
                }
                Err(ConfigError::MinSpace) => is_bad[1],
                Err(ConfigError::MaxItem(n)) => is_bad[2] && n == max_item,
                Err(ConfigError::ChunkMax(n)) => {
                    (is_bad[3] || !is_divisor) && n == chunk_max
                }
            };
            let text = "expected the error of a bad setting, or else a table";
            assert!(is_right, "{text}, got {seen:?} for {config:?}");
        });
    }

    #[test]
    fn space_and_limits_outside_their_ranges_are_refused() {
        let check = |settings: [usize; 3], expected| {
            let seen = Classes::new(config(1.25, settings)).err();
            assert_eq!(seen, expected, "seen, expected for {settings:?}");
        };
        check([0, MIB, MIB], Some(ConfigError::MinSpace));
        for bad in [0, 1, 512, 1_023, GIB + 1, GIB + 512, usize::MAX] {
            check([48, bad, 512], Some(ConfigError::MaxItem(bad)));
        }
        for max_item in [1_024, 1_536, 3_000, 12_288, MIB, 3 * MIB, GIB] {
            let powers = (0..64).map(|bits| 1_usize << bits);
            let near = powers.flat_map(|p| [p - 1, p, p + 1, p / 4 * 3]);
            for chunk in near.chain([max_item, max_item / 2, usize::MAX]) {
                let is_good = (9..=20).any(|bits| chunk == 1 << bits)
                    && max_item % chunk == 0;
                let error = ConfigError::ChunkMax(chunk);
                check([48, max_item, chunk], (!is_good).then_some(error));
            }
        }
    }
}

mod items {
    use super::*;

    #[test]
    fn an_item_has_a_header_key_nul_flags_cas_value_and_line_end() {
        let large = [usize::MAX - 60, usize::MAX - 1, usize::MAX];
        let lens = [&[0, 1, 2, 17, 250, 251, 300, 65_536], &large[..]].concat();
        for (key_len, value_len) in
            lens.iter().flat_map(|k| lens.iter().map(move |v| (*k, *v)))
        {
            for (flags, cas) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let item = item([key_len, value_len, flags, cas]);
                let all = [48, key_len, 1, 4 * flags, 8 * cas, value_len, 2];
                let sum: u128 = all.iter().map(|n| *n as u128).sum();
                let expected = sum.try_into().unwrap_or(usize::MAX);
                let seen = item.size();
                assert_eq!(seen, expected, "seen, expected for {item:?}");
            }
        }
    }

    #[test]
    fn a_size_belongs_to_the_first_class_that_holds_it() {
        for_all(500, any_config(), |config| {
            let classes = new(config);
            let powers = (0..64).map(|bits| 1_usize << bits);
            let ends = powers.chain([config.max_item, usize::MAX]);
            for end in sizes(&classes).chain(ends) {
                for size in [end - 1, end, end.saturating_add(1)] {
                    let expected = class_of(&classes, config, size);
                    let seen = classes.class_of(size);
                    let case = "seen, expected for";
                    assert_eq!(seen, expected, "{case} {size}, {config:?}");
                }
            }
        });
    }

    #[test]
    fn the_largest_value_of_a_class_is_the_last_that_goes_into_it() {
        for_all(500, (any_config(), any_item()), |(config, item)| {
            let classes = new(config);
            let fixed = Item { value_len: 0, ..item }.size();
            let mut expected = vec![None; 256];
            for size in sizes(&classes).chain([config.max_item]) {
                // The next item of the same class replaces this one.
                let class = class_of(&classes, config, size).expect("a class");
                let value_len = size.checked_sub(fixed);
                expected[usize::from(class.number)] =
                    value_len.filter(|_| has_valid_key(item));
            }
            let numbers = 0..=u8::MAX;
            let seen = numbers.map(|n| classes.largest_value(n, item));
            let seen: Vec<_> = seen.collect();
            let case = format!("classes 0 to 255, {item:?}, {config:?}");
            assert_eq!(seen, expected, "seen, expected for {case}");
        });
    }
}

mod chained {
    use super::*;

    #[test]
    fn recorded_items_use_the_chunks_that_memcached_took() {
        let lines = records(include_str!("slab_classes/items.txt"));
        let items = lines.map(|(config, numbers, expected)| {
            let item = item(numbers.try_into().expect("an item"));
            let seen = counts(new(config).chunks_of(item));
            assert_eq!(seen, expected, "seen, expected: {item:?} {config:?}");
        });
        assert_eq!(items.count(), 268, "recorded items (left)");
    }

    #[test]
    fn an_item_above_the_chunk_limit_uses_a_header_and_chained_chunks() {
        for_all(100, (any_config(), any_item()), |(config, item)| {
            let classes = new(config);
            check_chunks(&classes, config, item);
            for key_len in 0..=251 {
                let value_len = config.chunk_max;
                let item = Item { key_len, value_len, ..item };
                check_chunks(&classes, config, item);
            }
            let fixed = Item { value_len: 0, ..item }.size();
            let part = config.chunk_max - 48;
            for base in (0..5).map(|n| n * part).chain([config.max_item]) {
                for end in sizes(&classes).chain([0, 2, 50]) {
                    let above = fixed.saturating_add(1);
                    for less in [0, 49, 50, 51, fixed - 1, fixed, above] {
                        let value_len = (base + end).saturating_sub(less);
                        let item = Item { value_len, ..item };
                        check_chunks(&classes, config, item);
                    }
                }
            }
        });
    }

    #[test]
    fn a_value_that_fills_its_chunks_uses_chunks_of_the_last_class() {
        for chunk_max in [512, 8_192, MIB] {
            let config = config(1.25, [48, GIB, chunk_max]);
            let classes = new(config);
            let most = (GIB / chunk_max - 1).min(300_000);
            for parts in [2, 3, 17, 130, 1_500, most] {
                let value_len = parts * (chunk_max - 48) - 2;
                check_chunks(&classes, config, item([250, value_len, 1, 1]));
            }
        }
    }
}

mod memcached {
    use super::*;

    #[test]
    #[ignore = "needs memcached"]
    fn the_installed_memcached_prints_the_same_tables() {
        let limits = ["16 65536 32768", "48 1048576 524288", "128 4096 512"];
        for factor in ["1.05", "1.25", "2.0", "1.0001"] {
            for settings in limits.map(|limits| format!("{factor} {limits}")) {
                let log = start(&settings, true).log().expect("a log");
                let classes = new(parse(&settings).0);
                let rows = classes.classes().iter().map(|c| {
                    let (n, size) = (c.number, c.chunk_size);
                    let row = format!("class {n:3}: chunk size {size:9}");
                    format!("slab {row} perslab {:7}\n", c.chunks_per_page)
                });
                // The line after the table begins with `<`.
                let table =
                    rows.chain(once("<".to_owned())).collect::<String>();
                assert!(log.starts_with(&table), "got {table}, expected {log}");
            }
        }
    }

    #[test]
    #[ignore = "needs memcached"]
    fn the_installed_memcached_takes_the_same_chunks_for_items() {
        for (settings, cas) in
            [("1.25 48 1048576 524288", 1), ("1.3 16 4096 512", 0)]
        {
            let server = start(settings, cas == 1);
            let stream = UnixStream::connect(server.socket());
            let mut stream = BufReader::new(stream.expect("a server"));
            let config = parse(settings).0;
            let classes = new(config);
            for (key_len, flags) in [(1, 0), (17, 1), (250, 1)] {
                let empty = item([key_len, 0, flags, cas]);
                let last = config.max_item;
                for end in sizes(&classes).chain([0, last / 2, last]) {
                    let end = end.saturating_sub(empty.size());
                    for value_len in [end.saturating_sub(1), end, end + 1] {
                        let item = Item { value_len, ..empty };
                        let expected = store(&mut stream, item);
                        let seen = counts(classes.chunks_of(item));
                        assert_eq!(seen, expected, "{item:?} {settings}");
                    }
                }
            }
        }
    }

    fn start(settings: &str, has_cas: bool) -> Memcached {
        let options = ["-f", "-n", "-I", "-oslab_chunk_max="].into_iter();
        let args = options.zip(settings.split(' '));
        let args: Vec<_> = args.map(|(o, value)| [o, value].concat()).collect();
        let mut args: Vec<_> = args.iter().map(String::as_str).collect();
        args.extend(["-vv", "-C"].iter().take(2 - usize::from(has_cas)));
        Memcached::start(&args).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Stores the item alone, and returns the chunks in use.
    fn store(stream: &mut BufReader<UnixStream>, item: Item) -> String {
        let (key, flags) = ("k".repeat(item.key_len), item.has_flags as u8);
        let (len, value) = (item.value_len, "v".repeat(item.value_len));
        let requests = format!(
            "set {key} {flags} 0 {len}\r\n{value}\r\n\
             stats slabs\r\ndelete {key}\r\n"
        );
        stream.get_mut().write_all(requests.as_bytes()).expect("a server");
        let mut lines = stream.lines().map(|line| line.expect("a server"));
        let is_stored = lines.next().is_some_and(|line| line == "STORED");
        let lines = lines.take_while(|l| l != "DELETED" && l != "NOT_FOUND");
        let used = lines.filter_map(|line| {
            let (class, n) = line.split_once(":used_chunks ")?;
            (n != "0").then(|| format!("{n}x{}", &class[5..]))
        });
        let used: Vec<_> = used.collect();
        if is_stored { used.join(" ") } else { "too large".to_owned() }
    }
}

/// Returns the table by the rules of the stub.
fn table(config: Config) -> Vec<Class> {
    let mut sizes = Vec::new();
    let mut size = 48 + config.min_space as u128;
    let end = config.chunk_max as f64 / config.growth_factor;
    while sizes.len() < 62 && (size as f64) < end {
        size = size.div_ceil(8) * 8;
        sizes.push(size as usize);
        size = (size as f64 * config.growth_factor).floor() as u128;
    }
    let sizes = sizes.into_iter().chain([config.chunk_max]);
    (1..).zip(sizes).map(|(n, size)| class(n, size, MIB / size)).collect()
}

fn class_of(classes: &Classes, config: Config, size: usize) -> Option<Class> {
    let classes = classes.classes();
    let first = classes.iter().find(|class| class.chunk_size >= size);
    let class = first.or(classes.last()).copied();
    class.filter(|_| (1..=config.max_item).contains(&size))
}

fn chunks_of(
    classes: &Classes,
    config: Config,
    item: Item,
) -> Option<Vec<Class>> {
    if !has_valid_key(item) || item.size() > config.max_item {
        return None;
    }
    let (value, part) = (item.value_len + 2, config.chunk_max - 48);
    let full = repeat_n(config.chunk_max, value / part);
    let rest = Some(value % part + 48).filter(|rest| *rest > 48);
    let sizes: Vec<_> = if item.size() <= config.chunk_max {
        vec![item.size()]
    } else {
        once(item.size() - value + 48).chain(full).chain(rest).collect()
    };
    sizes.iter().map(|size| class_of(classes, config, *size)).collect()
}

fn has_valid_key(item: Item) -> bool {
    (1..=250).contains(&item.key_len)
}

fn new(config: Config) -> Classes {
    let classes = Classes::new(config);
    let failure = "expected a table, got";
    classes.unwrap_or_else(|e| panic!("{failure} {e:?} for {config:?}"))
}

fn sizes(classes: &Classes) -> impl Iterator<Item = usize> {
    classes.classes().iter().map(|class| class.chunk_size)
}

fn check_table(config: Config, expected: &[Class]) {
    let classes = new(config);
    assert_eq!(classes.classes(), expected, "seen, expected for {config:?}");
}

/// Returns the settings, the further numbers and the result of each line.
fn records(text: &str) -> impl Iterator<Item = (Config, Vec<usize>, &str)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let (left, result) = line.split_once(": ").expect("a result");
        let (config, numbers) = parse(left);
        (config, numbers, result)
    })
}

fn check_chunks(classes: &Classes, config: Config, item: Item) {
    let case = format!("{item:?}, {config:?}");
    let expected = chunks_of(classes, config, item);
    let seen = classes.chunks_of(item);
    let used = expected.as_ref().map(|e| e.iter().map(|c| c.chunk_size).sum());
    let waste = used.map(|used: usize| used - item.size());
    assert_eq!(classes.waste(item), waste, "waste: seen, expected for {case}");
    if seen != expected {
        let (seen, expected) = (counts(seen), counts(expected));
        panic!("expected {expected}, got {seen} (or the order), for {case}");
    }
}

/// Returns the number of chunks of each class, as in `1x2 3x39`.
fn counts(chunks: Option<Vec<Class>>) -> String {
    let Some(mut chunks) = chunks else { return "too large".to_owned() };
    chunks.sort_by_key(|class| class.number);
    let groups = chunks.chunk_by(|a, b| a.number == b.number);
    let groups = groups.map(|g| format!("{}x{}", g.len(), g[0].number));
    groups.collect::<Vec<_>>().join(" ")
}

/// Reads four settings, and returns the further numbers.
fn parse(text: &str) -> (Config, Vec<usize>) {
    let (factor, rest) = text.split_once(' ').expect("four settings");
    let mut settings = numbers(rest);
    let rest = settings.split_off(3);
    let settings = settings.try_into().expect("four settings");
    (config(factor.parse().expect("a factor"), settings), rest)
}

fn numbers(text: &str) -> Vec<usize> {
    let words = text.split_whitespace();
    words.map(|word| word.parse().expect("a number")).collect()
}

fn class(number: usize, chunk_size: usize, chunks_per_page: usize) -> Class {
    Class { number: number as u8, chunk_size, chunks_per_page }
}

fn config(growth_factor: f64, settings: [usize; 3]) -> Config {
    let [min_space, max_item, chunk_max] = settings;
    Config { growth_factor, min_space, max_item, chunk_max }
}

fn item([key_len, value_len, flags, cas]: [usize; 4]) -> Item {
    Item { key_len, value_len, has_flags: flags == 1, has_cas: cas == 1 }
}

fn any_config() -> impl Strategy<Value = Config> {
    let usual = [1.05, 1.25, 1.001, 1.01, 2.0, 4.0].into_iter();
    let extreme = [1.0 + f64::EPSILON, 1e300, f64::MAX, f64::INFINITY];
    let known = select(usual.chain(extreme).collect::<Vec<_>>());
    let factor = prop_oneof![1.000_001..1.1, 1.1..1.6, 1.6..8.0, known];
    let known = select(vec![16, 48, 456, 463, 464, usize::MAX]);
    let large = (0..64, 1..700_usize).prop_map(|(b, n)| (1_usize << b) + n);
    let space = prop_oneof![1..80_usize, 1..700_usize, 1..MIB, known, large];
    let settings = (factor, space, 9..=20_u32, 1..40_usize);
    settings.prop_map(|(factor, space, bits, times)| {
        let chunk = 1 << bits;
        let max_item = (chunk * times).max(1_024);
        // Some tables have two classes of `chunk_max`, and no other.
        let (factor, space) = match space % 8 {
            1 => (1.0 + f64::EPSILON, chunk - 48 - space % 7),
            _ => (factor, space),
        };
        config(factor, [space, max_item, chunk])
    })
}

fn any_item() -> impl Strategy<Value = Item> {
    let known = select(vec![0, 1, 250, 251, 256, 100_000, usize::MAX]);
    let keys = prop_oneof![4 => 1..=250_usize, 4 => 1..20_usize, 1 => known];
    let large = (0..200_usize).prop_map(|n| usize::MAX - n);
    let values = prop_oneof![8 => 0..3 * MIB, 2 => 0..99_usize, 1 => large];
    let parts = (keys, values, 0..2_usize, 0..2_usize);
    parts.prop_map(|(key, value, flags, cas)| item([key, value, flags, cas]))
}

fn for_all<S: Strategy>(cases: u32, values: S, check: impl Fn(S::Value)) {
    let config = test_runner::Config::with_cases(cases);
    let config = test_runner::Config { failure_persistence: None, ..config };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let outcome = TestRunner::new_with_rng(config, rng).run(&values, |value| {
        check(value);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
