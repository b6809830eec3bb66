//! How many bytes does a key cost in Redis, and what does packing into hashes
//! save?
//!
//! ```console
//! $ cargo run --release -p week08 --example memory_per_key
//! $ cargo run --release -p week08 --example memory_per_key -- --full
//! $ cargo run --release -p week08 --example memory_per_key -- --valkey PATH
//! $ cargo run --release -p week08 --example memory_per_key -- --url URL
//! $ cargo run --release -p week08 --example memory_per_key -- --figure overhead
//! ```
//!
//! It takes about half a minute. Each line of its table has a server of its own.
//! `--full` measures up to 500,000 keys: this takes minutes, and 3 GB of memory.
//! Valkey is measured too if `valkey-server` is in the `PATH`, or with
//! `--valkey` and the path of the program. `--url` measures one line on a
//! server that is empty and has no other client, and deletes the keys again.
//! `--figure` prints an SVG file from the model: see
//! `notes/pages/figures/week08`.

mod figure;
mod measure;

use std::env;
use std::error::Error;
use std::path::PathBuf;

use lab::guess;
use week08::memory_per_key::{Measurement, Model};

use measure::{Keys, Source, measure};

const KEY_LEN: usize = 16;
const VALUE_LENS: [usize; 7] = [10, 20, 50, 100, 200, 1_000, 5_000];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let (is_full, valkey) = match arguments[..] {
        ["--figure", "overhead"] => {
            print!("{}", figure::overhead());
            return Ok(());
        }
        ["--url", url] => {
            print_table(&Source::Url(url.to_owned()), &[100_000], &[100])?;
            return Ok(());
        }
        [] => (false, find("valkey-server")),
        ["--full"] => (true, find("valkey-server")),
        ["--valkey", path] => (false, Some(path.into())),
        ["--full", "--valkey", path] => (true, Some(path.into())),
        _ => {
            return Err("usage: memory_per_key [--full] [--valkey PATH] | \
                        --url URL | --figure overhead"
                .into());
        }
    };
    let guess = guess::ask(
        "Redis stores 100,000 keys of 16 bytes with values of 10 bytes. How \
         many bytes does each\nof them need?",
    )?;
    let keys: &[u64] = if is_full {
        &[10_000, 50_000, 100_000, 500_000]
    } else {
        &[10_000, 100_000]
    };
    let small = print_table(&Source::Redis, keys, &VALUE_LENS)?;
    println!(
        "\nA key of 16 bytes with a value of 10 needs {small:.0} bytes.{}",
        guess::remark(guess.as_deref(), small.round())
    );
    print_packing(&Source::Redis)?;
    if let Some(path) = valkey {
        println!();
        let source = Source::Program(path);
        print_table(&source, keys, &VALUE_LENS)?;
        print_packing(&source)?;
    }
    Ok(())
}

/// Measures each number of keys with each length. Returns the bytes of a key of
/// the shortest value with 100,000 keys.
fn print_table(
    source: &Source,
    numbers: &[u64],
    value_lens: &[usize],
) -> Result<f64, Box<dyn Error>> {
    let mut small = 0.0;
    for (row, (number, value_len)) in numbers
        .iter()
        .flat_map(|number| value_lens.iter().map(move |len| (*number, *len)))
        .enumerate()
    {
        let keys = Keys::Strings { key_len: KEY_LEN, value_len };
        let (server, measured) = measure(source, number, keys)?;
        let model = Model::for_server(&server);
        if row == 0 {
            println!(
                "\n{:?} {} with {}, keys of {KEY_LEN} bytes; in bytes a key:\n",
                server.product, server.version, server.allocator
            );
            if let Err(unsupported) = &model {
                println!("{unsupported}: only measured\n");
            }
            println!(
                "   keys  value  measured     model  difference  overhead"
            );
        }
        let per_key = measured.bytes_per_key()?;
        let payload = (KEY_LEN + value_len) as f64;
        let bytes = model.ok().and_then(|model| {
            model.bytes(number, KEY_LEN as u64, value_len as u64)
        });
        let (model, difference) = match bytes {
            None => ("-".to_owned(), "-".to_owned()),
            Some(bytes) => {
                let model = bytes as f64 / number as f64;
                let difference = (model / per_key - 1.0) * 100.0;
                (format!("{model:.2}"), format!("{difference:.2} %"))
            }
        };
        println!(
            "{number:7} {value_len:6} {per_key:9.2} {model:>9} \
             {difference:>11} {:9.1}",
            per_key - payload
        );
        if (number, value_len) == (100_000, VALUE_LENS[0]) {
            small = per_key;
        }
    }
    Ok(small)
}

/// Measures 100,000 values as strings, and in hashes of 100.
fn print_packing(source: &Source) -> Result<(), Box<dyn Error>> {
    const VALUES: u64 = 100_000;
    println!(
        "\n{VALUES} values, each in a key or packed into hashes of 100 fields; in \
         bytes a value:\n\n value  own key  packed   saved"
    );
    for value_len in [10, 20, 50, 64] {
        let bytes = |keys| -> Result<f64, Box<dyn Error>> {
            let measured = measure(source, VALUES, keys)?.1;
            let values = Measurement { keys: VALUES, ..measured };
            Ok(values.bytes_per_key()?)
        };
        let own = bytes(Keys::Strings { key_len: KEY_LEN, value_len })?;
        let packed = bytes(Keys::Hashes { key_len: KEY_LEN - 2, value_len })?;
        let saved = (1.0 - packed / own) * 100.0;
        println!("{value_len:6} {own:8.1} {packed:7.1} {saved:5.0} %");
    }
    Ok(())
}

/// Returns the path of a program in the `PATH`.
fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let files = env::split_paths(&path).map(|dir| dir.join(program));
    files.into_iter().find(|file| file.is_file())
}
