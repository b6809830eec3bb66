//! How much memory do a million values take in memcached, and which growth
//! factor wastes the least?
//!
//! ```console
//! $ cargo run --release -p week08 --example slabs
//! ```
//!
//! The example takes some seconds. If memcached is installed, it stores a part
//! of the values in memcached, and compares the chunks.
//!
//! ```console
//! $ cargo run --release -p week08 --example slabs -- --cache
//! ```
//!
//! With `--cache`, the example serves the cache of [`week08::slab_lru`] to a
//! client of memcached, and compares its hit ratio with that of memcached,
//! before and after a scan. This takes a minute.

mod scan;
mod server;

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use clap::Parser;
use lab::guess;
use lab::servers::{Memcached, StartError};
use week08::slab_classes::{Class, Classes, Config, Item};

/// The number of values whose memory is calculated.
const VALUES: usize = 1_000_000;

/// The number of values that are stored in memcached.
const STORED: usize = 3_000;

const FACTORS: [f64; 7] = [1.02, 1.05, 1.08, 1.15, 1.25, 1.5, 2.0];

/// The factor that the reader guesses about.
const FINE: f64 = 1.05;

#[derive(Parser)]
struct Arguments {
    /// Compare the hit ratios of this cache and of memcached
    #[arg(long)]
    cache: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    if Arguments::parse().cache {
        return scan::compare();
    }
    let values = values();
    println!(
        "{VALUES} values: half of them have less than 600 bytes, some have \
         more than 20 KB.\nWith the default factor of 1.25, they take:\n"
    );
    let wasted = print_classes(&classes(1.25)?, &values);
    println!("\nSo {wasted:.1} % of the memory is wasted.");
    let guess = guess::ask(
        "\nSomebody sets the factor to 1.05 (`-f 1.05`), so that the chunks \
         fit better. How many\npercent of the memory are wasted then?",
    )?;
    println!("\nfactor  classes  largest but one  memory MB  wasted");
    let mut fine = 0.0;
    for factor in FACTORS {
        let classes = classes(factor)?;
        let (used, wasted) = memory(&classes, &values);
        let all = classes.classes();
        println!(
            "{factor:6} {:8} {:16} {:10.0} {wasted:6.1}%  {}",
            all.len(),
            all[all.len() - 2].chunk_size,
            used as f64 / 1e6,
            "#".repeat(wasted.round() as usize / 2)
        );
        if factor == FINE {
            fine = wasted;
        }
    }
    println!(
        "\nWith {FINE}, {fine:.0} % are wasted.{} The 62 classes before the \
         last end at some KB,\nand each larger value takes a chunk of 512 KiB.",
        guess::remark(guess.as_deref(), fine.round())
    );
    println!("\nThe first {STORED} values in memcached:\n");
    for factor in [FINE, 1.25] {
        match compare(factor, &values[..STORED]) {
            Err(error) if is_missing(&*error) => {
                println!("not compared: {error}");
                return Ok(());
            }
            outcome => outcome?,
        }
    }
    println!("\nThe option `--cache` compares hit ratios around a scan.");
    Ok(())
}

fn classes(growth_factor: f64) -> Result<Classes, Box<dyn Error>> {
    Ok(Classes::new(Config { growth_factor, ..Config::default() })?)
}

/// Returns items with keys of 20 bytes. The logarithms of their values' lengths
/// are nearly normal.
fn values() -> Vec<Item> {
    let mut random = fastrand::Rng::with_seed(2026);
    let mut value_len = || {
        let normal = (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
        (600.0 * (1.4 * normal).exp()) as usize
    };
    let item = |value_len| Item {
        key_len: 20,
        value_len,
        has_flags: false,
        has_cas: true,
    };
    (0..VALUES).map(|_| item(value_len())).collect()
}

/// Returns the bytes of the chunks that the items use, and how many percent of
/// them are wasted.
fn memory(classes: &Classes, items: &[Item]) -> (usize, f64) {
    let size: usize = items.iter().map(Item::size).sum();
    let wasted = items.iter().filter_map(|item| classes.waste(*item));
    let wasted: usize = wasted.sum();
    let used = size + wasted;
    (used, 100.0 * wasted as f64 / used as f64)
}

/// Prints the classes that items use, and returns the percentage of waste.
fn print_classes(classes: &Classes, items: &[Item]) -> f64 {
    println!("class  chunk size  per page  page end    items  wasted");
    for class in classes.classes() {
        let is_here =
            |item: &Item| classes.class_of(item.size()) == Some(*class);
        let here: Vec<_> = items.iter().copied().filter(is_here).collect();
        if here.is_empty() {
            continue;
        }
        let Class { number, chunk_size, chunks_per_page } = class;
        println!(
            "{number:5} {chunk_size:11} {chunks_per_page:9} {:9} {:8} {:6.1}%",
            class.unused_per_page(),
            here.len(),
            memory(classes, &here).1
        );
    }
    memory(classes, items).1
}

fn is_missing(error: &(dyn Error + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(StartError::Missing(_)))
}

/// Stores the items, and compares the chunks in use.
fn compare(factor: f64, items: &[Item]) -> Result<(), Box<dyn Error>> {
    let classes = classes(factor)?;
    let factor = format!("{factor}");
    let server = Memcached::start(&["-vv", "-m", "4096", "-f", &factor])?;
    let rows = server.log()?.matches("slab class ").count();
    let mut stream = BufReader::new(UnixStream::connect(server.socket())?);
    for (number, item) in (0..).zip(items) {
        let (len, value) = (item.value_len, "v".repeat(item.value_len));
        let set = format!("set {number:020} 0 0 {len}\r\n{value}\r\n");
        stream.get_mut().write_all(set.as_bytes())?;
        let mut response = String::new();
        stream.read_line(&mut response)?;
        if response != "STORED\r\n" {
            return Err(format!("{item:?}: {response}").into());
        }
    }
    stream.get_mut().write_all(b"stats slabs\r\n")?;
    let mut used = [0; 64];
    for line in stream.lines() {
        let line = line?;
        let words: Vec<_> = line.split([' ', ':']).collect();
        match words[..] {
            ["STAT", class, "used_chunks", n] => {
                used[class.parse::<usize>()?] = n.parse::<usize>()?;
            }
            ["END"] => break,
            _ => {}
        }
    }
    let chunks = items.iter().filter_map(|item| classes.chunks_of(*item));
    let mut calculated = [0; 64];
    chunks.flatten().for_each(|c| calculated[usize::from(c.number)] += 1);
    let bytes = |chunks: [usize; 64]| {
        let all = classes.classes().iter();
        let bytes = all.map(|c| c.chunk_size * chunks[usize::from(c.number)]);
        bytes.sum::<usize>() as f64 / 1e6
    };
    println!(
        "factor {factor}: {rows} classes, {:.2} MB in chunks; calculated: {} \
         classes, {:.2} MB; {}",
        bytes(used),
        classes.classes().len(),
        bytes(calculated),
        if used == calculated { "all equal" } else { "NOT EQUAL" }
    );
    Ok(())
}
