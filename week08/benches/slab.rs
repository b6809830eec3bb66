//! The cost of a slab cache, against the system allocator and a `HashMap`.
//!
//! Both store the same items. The map has no limit, no eviction and no queues:
//! the ratio is the price of these, less that of the allocations.

use std::collections::HashMap;
use std::hint::black_box;
use std::time::Duration;

use lab::ratio::{Plan, measure};
use week08::slab_classes::{Classes, Config, Item, PAGE};
use week08::slab_lru::{self, Cache};

/// The number of keys.
const KEYS: u64 = 50_000;

/// The number of operations in one measured call.
const OPERATIONS: usize = 1_000;

fn main() {
    let classes = Classes::new(Config::default()).expect("good settings");
    for value_len in [10, 100, 1_000, 10_000] {
        compare(&classes, value_len);
    }
    println!("\nwaste of values with evenly spread lengths, for each class:");
    println!("class  chunk size  wasted bytes of a chunk  page end");
    let mut shortest = 0;
    for class in classes.classes() {
        let item =
            Item { key_len: 20, value_len: 0, has_flags: false, has_cas: true };
        let Some(longest) = classes.largest_value(class.number, item) else {
            continue;
        };
        // Larger items are chained.
        let longest = longest.min(class.chunk_size - item.size());
        let wasted = (shortest..=longest)
            .filter_map(|value_len| classes.waste(Item { value_len, ..item }));
        let (n, sum) = wasted.fold((0, 0), |(n, sum), w| (n + 1, sum + w));
        let mean = sum as f64 / f64::from(n);
        println!(
            "{:5} {:11} {mean:16.0} ({:4.1} %) {:9}",
            class.number,
            class.chunk_size,
            100.0 * mean / class.chunk_size as f64,
            class.unused_per_page()
        );
        shortest = longest + 1;
    }
}

fn compare(classes: &Classes, value_len: usize) {
    let plan = Plan { rounds: 31, sample: Duration::from_millis(10) };
    let memory = 2 * (value_len + 200) * KEYS as usize + 64 * PAGE;
    let classes = classes.clone();
    let mut cache = Cache::new(slab_lru::Config { memory, classes });
    let mut map: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    let value = vec![7; value_len];
    for id in 0..KEYS {
        cache.set(&key(id), &value).expect("a chunk");
        map.insert(key(id).to_vec(), value.clone());
    }
    // Both see the same keys, in the same order.
    let (mut ours, mut theirs) = (keys(), keys());
    let ratio = measure(
        plan,
        || {
            for _ in 0..OPERATIONS {
                let value = cache.get(&key(ours()));
                black_box(value.map(<[u8]>::len));
            }
        },
        || {
            for _ in 0..OPERATIONS {
                let value = map.get(&key(theirs())[..]);
                black_box(value.map(Vec::len));
            }
        },
    );
    println!("get of {value_len:6} bytes: slab_lru / HashMap = {ratio}");
    let (mut ours, mut theirs) = (keys(), keys());
    let ratio = measure(
        plan,
        || {
            for _ in 0..OPERATIONS {
                let stored = cache.set(&key(ours()), black_box(&value));
                stored.expect("a chunk");
            }
        },
        || {
            for _ in 0..OPERATIONS {
                let value = black_box(&value).clone();
                map.insert(key(theirs()).to_vec(), value);
            }
        },
    );
    println!("set of {value_len:6} bytes: slab_lru / HashMap = {ratio}");
}

/// Returns a key of 20 bytes.
fn key(id: u64) -> [u8; 20] {
    let mut key = *b"user:session12345678";
    key[12..20].copy_from_slice(&id.to_be_bytes());
    key
}

fn keys() -> impl FnMut() -> u64 {
    let mut random = fastrand::Rng::with_seed(8);
    move || random.u64(..KEYS)
}
