//! Compares hit ratios before and after a scan.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;

use lab::guess;
use lab::servers::{Memcached, StartError};
use memcache::Client;
use week08::slab_classes::{Classes, Config, PAGE};
use week08::slab_lru::{self, Cache};

use super::server;

/// The pages of each cache.
const PAGES: usize = 64;

/// The length of each value. All items are in one class.
const VALUE_LEN: usize = 1_000;

/// The number of keys that users read.
const KEYS: usize = 300_000;

/// The number of keys that the export reads.
const EXPORT: u64 = 150_000;

/// The number of keys in a request.
const BATCH: usize = 50;

/// The number of requests before the measurement, and in its three parts.
const REQUESTS: [usize; 4] = [10_000, 2_000, 400, 2_000];

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Prints hit ratios of this cache, of memcached, and of a plain LRU.
pub(crate) fn compare() -> Outcome<()> {
    let classes = Classes::new(Config::default())?;
    let size = 48 + 8 + 1 + 8 + VALUE_LEN + 2;
    let class = classes.class_of(size).ok_or("no class")?;
    let chunks = PAGES * class.chunks_per_page;
    println!(
        "A cache of {PAGES} MiB has {chunks} chunks for values of {VALUE_LEN} \
         bytes. Users read {KEYS}\nkeys with Zipf's distribution. A missing \
         value is stored. In the night, an export\nreads {EXPORT} other keys \
         once.\n"
    );

    let mut lru = Lru { chunks, ..Lru::default() };
    let lru_hits = run(&mut lru)?;
    println!(
        "hits in percent      before  directly after  later\nplain LRU \
         (simulated) {}",
        row(lru_hits)
    );
    let [before, after, _] = lru_hits;
    let guess = guess::ask(&format!(
        "\nDirectly after the export, a plain LRU has {after:.0} % hits \
         instead of {before:.0}. How many has\nmemcached's segmented LRU?"
    ))?;

    let memory = PAGES * PAGE;
    let address = server::start(Cache::new(slab_lru::Config {
        memory,
        classes: classes.clone(),
    }))?;
    let hits = run(&mut client(&address.to_string())?)?;
    println!("\nthis cache           {}", row(hits));
    let megabytes = PAGES.to_string();
    match Memcached::start(&["-m", &megabytes]) {
        Ok(memcached) => {
            let path = memcached.socket().display().to_string();
            let mut client = client(&path)?;
            let version = client.version()?.remove(0).1;
            println!("memcached {version:10} {}", row(run(&mut client)?));
        }
        Err(error @ StartError::Missing(_)) => println!("{error}"),
        Err(error) => return Err(error.into()),
    }
    println!(
        "\nThis cache has {:.0} % directly after the export.{}",
        hits[1],
        guess::remark(guess.as_deref(), hits[1].round())
    );
    Ok(())
}

fn row([before, after, later]: [f64; 3]) -> String {
    format!("{before:6.1} {after:15.1} {later:6.1}")
}

/// A cache that is read in batches.
trait Target {
    /// Reads the keys, stores those that are missing, and returns the number of
    /// hits.
    fn read(&mut self, keys: &[u64]) -> Outcome<usize>;
}

impl Target for Client {
    fn read(&mut self, keys: &[u64]) -> Outcome<usize> {
        let name = |key: &u64| format!("{key:08}");
        let names: Vec<_> = keys.iter().map(name).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let found: HashMap<String, Vec<u8>> = self.gets(&names)?;
        for name in names {
            let expected = name.repeat(VALUE_LEN / 8);
            match found.get(name) {
                Some(value) if *value == expected.as_bytes() => {}
                Some(_) => return Err(format!("wrong value: {name}").into()),
                None => self.set(name, &expected, 0)?,
            }
        }
        Ok(found.len())
    }
}

#[derive(Default)]
struct Lru {
    chunks: usize,
    used: HashMap<u64, u64>,
    order: BTreeMap<u64, u64>,
    now: u64,
}

impl Target for Lru {
    fn read(&mut self, keys: &[u64]) -> Outcome<usize> {
        let mut hits = 0;
        for key in keys {
            self.now += 1;
            self.order.insert(self.now, *key);
            if let Some(before) = self.used.insert(*key, self.now) {
                self.order.remove(&before);
                hits += 1;
            } else if self.used.len() > self.chunks
                && let Some((_, oldest)) = self.order.pop_first()
            {
                self.used.remove(&oldest);
            }
        }
        Ok(hits)
    }
}

fn client(server: &str) -> Outcome<Client> {
    let url = format!("memcache://{server}?protocol=ascii");
    Ok(Client::with_pool_size(url, 1)?)
}

/// Returns the hits in percent: before the export, directly after it, and later.
fn run(target: &mut impl Target) -> Outcome<[f64; 3]> {
    let mut random = fastrand::Rng::with_seed(2026);
    let mut sum = 0.0;
    let sums = (1..=KEYS).map(|rank| {
        sum += (rank as f64).powf(-0.99);
        sum
    });
    let sums: Vec<f64> = sums.collect();
    let mut users = |target: &mut dyn Target, requests| -> Outcome<f64> {
        let (mut hits, mut all) = (0, 0);
        for _ in 0..requests {
            let mut key = || {
                let at = random.f64() * sum;
                sums.partition_point(|sum| *sum < at) as u64
            };
            let mut keys: Vec<_> = (0..BATCH).map(|_| key()).collect();
            keys.sort_unstable();
            keys.dedup();
            hits += target.read(&keys)?;
            all += keys.len();
        }
        Ok(100.0 * hits as f64 / all as f64)
    };
    let [warm_up, before, after, later] = REQUESTS;
    users(target, warm_up)?;
    let before = users(target, before)?;
    let export: Vec<_> = (KEYS as u64..).take(EXPORT as usize).collect();
    for keys in export.chunks(BATCH) {
        target.read(keys)?;
    }
    Ok([before, users(target, after)?, users(target, later)?])
}
