//! Serves a [`Cache`] over the text protocol of memcached.
//!
//! The server knows `get`, `gets`, `set`, `delete`, `version` and `quit`. It
//! ignores the flags and the expiry of an item. There is no compare-and-swap:
//! the `cas` number of every item is 0.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use week08::slab_classes::PAGE;
use week08::slab_lru::{Cache, SetError};

/// The longest line. memcached closes the connection at a longer one, too.
const MAX_LINE: u64 = 64 << 10;

/// Serves the cache on a port of the loopback interface, until the process
/// ends. Returns the address.
pub(crate) fn start(cache: Cache) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    // A read changes the queues, too. So a lock that several readers share is
    // not possible.
    let cache = Arc::new(Mutex::new(cache));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let cache = cache.clone();
            // An error closes this connection only.
            thread::spawn(move || serve(&stream, &cache));
        }
    });
    Ok(address)
}

fn serve(stream: &TcpStream, cache: &Mutex<Cache>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BufReader::new(stream);
    let mut output = BufWriter::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        let Some(command) = line.strip_suffix(b"\n") else { return Ok(()) };
        let command = command.strip_suffix(b"\r").unwrap_or(command);
        let words = command.split(|byte| *byte == b' ');
        let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
        match words[..] {
            [b"get", ref keys @ ..] if !keys.is_empty() => {
                get(keys, "", cache, &mut output)?;
            }
            [b"gets", ref keys @ ..] if !keys.is_empty() => {
                get(keys, " 0", cache, &mut output)?;
            }
            [b"set", key, _flags, _expiry, len, ref rest @ ..] => {
                let Some(len) = parse(len) else {
                    output.write_all(b"CLIENT_ERROR bad data chunk\r\n")?;
                    output.flush()?;
                    return Ok(());
                };
                let response = set(key, len, &mut input, cache)?;
                if rest != [b"noreply"] {
                    output.write_all(response)?;
                }
            }
            [b"delete", key, ref rest @ ..] => {
                let response: &[u8] = match lock(cache).delete(key) {
                    true => b"DELETED\r\n",
                    false => b"NOT_FOUND\r\n",
                };
                if rest != [b"noreply"] {
                    output.write_all(response)?;
                }
            }
            [b"version"] => output.write_all(b"VERSION slab_lru\r\n")?,
            [b"quit"] => return Ok(()),
            _ => output.write_all(b"ERROR\r\n")?,
        }
        // Answer pipelined commands together.
        if input.buffer().is_empty() {
            output.flush()?;
        }
    }
}

/// Writes the values of those keys that are stored. `cas` is the text that
/// follows the length of a value.
fn get(
    keys: &[&[u8]],
    cas: &str,
    cache: &Mutex<Cache>,
    output: &mut impl Write,
) -> io::Result<()> {
    for key in keys {
        let mut cache = lock(cache);
        if let Some(value) = cache.get(key) {
            output.write_all(b"VALUE ")?;
            output.write_all(key)?;
            write!(output, " 0 {}{cas}\r\n", value.len())?;
            output.write_all(value)?;
            output.write_all(b"\r\n")?;
        }
    }
    output.write_all(b"END\r\n")
}

/// Reads and stores a value, and returns the response.
fn set(
    key: &[u8],
    len: usize,
    input: &mut impl BufRead,
    cache: &Mutex<Cache>,
) -> io::Result<&'static [u8]> {
    if len > PAGE {
        // No item can be that large. The old value of the key would be stale.
        let mut value = input.take(len as u64 + 2);
        io::copy(&mut value, &mut io::sink())?;
        lock(cache).delete(key);
        return Ok(b"SERVER_ERROR object too large for cache\r\n");
    }
    let mut value = vec![0; len + 2];
    input.read_exact(&mut value)?;
    let Some(value) = value.strip_suffix(b"\r\n") else {
        return Ok(b"CLIENT_ERROR bad data chunk\r\n");
    };
    Ok(match lock(cache).set(key, value) {
        Ok(()) => b"STORED\r\n",
        Err(SetError::InvalidKey { .. }) => {
            b"CLIENT_ERROR bad command line format\r\n"
        }
        Err(SetError::TooLarge { .. }) => {
            b"SERVER_ERROR object too large for cache\r\n"
        }
        Err(SetError::NoPage { .. }) => {
            b"SERVER_ERROR out of memory storing object\r\n"
        }
    })
}

fn parse(number: &[u8]) -> Option<usize> {
    let number: u32 = str::from_utf8(number).ok()?.parse().ok()?;
    number.try_into().ok()
}

fn lock(cache: &Mutex<Cache>) -> std::sync::MutexGuard<'_, Cache> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}
