//! The server of the example `slabs`, as a client sees it.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use lab::servers::Memcached;
use memcache::{Client, MemcacheError};
use week08::slab_classes::{Classes, Config, PAGE};
use week08::slab_lru::{self, Cache};

#[path = "../examples/slabs/server.rs"]
mod server;

fn cache(pages: usize) -> Cache {
    let classes = Classes::new(Config::default()).expect("good settings");
    Cache::new(slab_lru::Config { memory: pages * PAGE, classes })
}

fn client(url: &str) -> Client {
    let url = format!("memcache://{url}?protocol=ascii");
    Client::with_pool_size(url, 2).expect("a server")
}

/// Returns what the client sees.
fn session(client: &Client) -> Result<Vec<String>, MemcacheError> {
    let mut seen = Vec::new();
    let text = |value: Option<Vec<u8>>| match value {
        Some(value) => format!("{} bytes: {:.40?}", value.len(), value),
        None => "no value".to_owned(),
    };
    let bytes: Vec<u8> = (0..=255).chain(*b"END\r\n").collect();
    for len in [0, 1, 2, 250, 1_000, 100_000, 500_000] {
        let key = "k".repeat(len.clamp(1, 250));
        let value: Vec<u8> = bytes.iter().copied().cycle().take(len).collect();
        client.set(&key, &value[..], 0)?;
        let stored: Option<Vec<u8>> = client.get(&key)?;
        seen.push(format!("equal: {}", stored.as_ref() == Some(&value)));
        seen.push(text(stored));
    }
    client.set("a", "1", 0)?;
    client.set("b", "2", 0)?;
    let both: HashMap<String, String> = client.gets(&["b", "none", "a"])?;
    let mut both: Vec<_> = both.into_iter().collect();
    both.sort();
    seen.push(format!("{both:?}"));
    seen.push(format!("{}, {}", client.delete("a")?, client.delete("a")?));
    seen.push(text(client.get("a")?));
    // The old value is gone, too.
    let large = vec![0; 2 * PAGE];
    let error = client.set("b", &large[..], 0).expect_err("it is too large");
    seen.push(error.to_string());
    seen.push(text(client.get("b")?));
    Ok(seen)
}

#[test]
fn a_client_gets_the_values_that_it_stored() {
    let address = server::start(cache(16)).expect("a server");
    let client = client(&address.to_string());
    assert_eq!(client.version().expect("a version")[0].1, "slab_lru");
    let seen = session(&client).expect("a session");
    let right = seen.iter().filter(|line| *line == "equal: true").count();
    assert_eq!(right, 7, "expected 7 equal values: {seen:#?}");
    assert!(seen.ends_with(&["no value".to_owned()]), "{seen:#?}");
}

#[test]
#[ignore = "needs memcached"]
fn a_client_sees_the_same_as_with_memcached() {
    let memcached = Memcached::start(&["-m", "64"]);
    let memcached = memcached.unwrap_or_else(|error| panic!("{error}"));
    let expected = session(&client(&memcached.socket().display().to_string()));
    let address = server::start(cache(64)).expect("a server");
    let seen = session(&client(&address.to_string()));
    assert_eq!(seen.expect("a session"), expected.expect("a session"));
}

#[test]
fn pipelined_and_malformed_commands_are_answered_in_order() {
    let address = server::start(cache(1)).expect("a server");
    let mut stream = TcpStream::connect(address).expect("a server");
    let long = "k".repeat(251);
    let commands = format!(
        "set a 0 0 3 noreply\r\nget\r\nget a\r\nset b 0 0 100000\r\n\
         {}\r\nset {long} 0 0 1\r\nx\r\nset c 0 0 1\r\nxyz\r\ndelete c\r\n\
         gets a\r\nquit\r\n",
        "v".repeat(100_000)
    );
    // The value of `a` is itself a command.
    let commands = commands.replacen("\r\n", "\r\nget\r\n", 1);
    stream.write_all(commands.as_bytes()).expect("a server");
    let mut seen = String::new();
    stream.read_to_string(&mut seen).expect("a server");
    assert_eq!(
        seen,
        "ERROR\r\nVALUE a 0 3\r\nget\r\nEND\r\n\
         SERVER_ERROR out of memory storing object\r\n\
         CLIENT_ERROR bad command line format\r\n\
         CLIENT_ERROR bad data chunk\r\nERROR\r\nNOT_FOUND\r\n\
         VALUE a 0 3 0\r\nget\r\nEND\r\n"
    );
}
