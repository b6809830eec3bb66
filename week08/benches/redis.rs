//! GET and SET by value size, one command in a write and sixteen, against a
//! Redis server on a Unix socket.
//!
//! A measured call sends one batch and reads its replies, so it is a round trip
//! on one connection. See the example `redis_bench` for many connections.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use criterion::{
    BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use lab::servers::{Redis, StartError};

criterion_group!(benches, commands);
criterion_main!(benches);

const SIZES: [usize; 7] = [10, 20, 50, 100, 200, 1000, 5000];

const DEPTHS: [usize; 2] = [1, 16];

const KEYS: usize = 10_000;

fn commands(criterion: &mut Criterion) {
    let redis = match Redis::start() {
        Err(error @ StartError::Missing(_)) => {
            println!("not measured: {error}");
            return;
        }
        started => started.expect("redis-server starts"),
    };
    let stream = UnixStream::connect(redis.socket()).expect("a connection");
    let mut stream = BufReader::new(stream);
    for depth in DEPTHS {
        for name in ["GET", "SET"] {
            let group = format!("{name}, {depth} in a write");
            let mut group = criterion.benchmark_group(group);
            group.warm_up_time(Duration::from_millis(500));
            group.measurement_time(Duration::from_secs(2));
            group.throughput(Throughput::Elements(depth as u64));
            for size in SIZES {
                let sets: Vec<_> =
                    (0..KEYS).map(|key| encode("SET", key, size)).collect();
                let batches: Vec<_> = (0..KEYS / depth)
                    .map(|batch| {
                        let keys = batch * depth..(batch + 1) * depth;
                        keys.flat_map(|key| encode(name, key, size)).collect()
                    })
                    .collect::<Vec<Vec<u8>>>();
                let reply = match name {
                    "GET" => size + format!("${size}\r\n\r\n").len(),
                    _ => b"+OK\r\n".len(),
                };
                for set in sets {
                    stream.get_mut().write_all(&set).expect("a request");
                    let mut line = String::new();
                    stream.read_line(&mut line).expect("a reply");
                    assert_eq!(line, "+OK\r\n");
                }
                let mut replies = vec![0; reply * depth];
                let mut batches = batches.iter().cycle();
                let first = if name == "GET" { b'$' } else { b'+' };
                let id = BenchmarkId::from_parameter(size);
                group.bench_function(id, |bencher| {
                    bencher.iter(|| {
                        let batch = batches.next().expect("a cycle");
                        stream.get_mut().write_all(batch).expect("a request");
                        stream.read_exact(&mut replies).expect("the replies");
                        assert_eq!(replies[reply * (depth - 1)], first);
                    });
                });
            }
        }
    }
}

fn encode(name: &str, key: usize, size: usize) -> Vec<u8> {
    let key = format!("{key:012}");
    let value = "x".repeat(size);
    let mut arguments = vec![name, &key];
    if name == "SET" {
        arguments.push(&value);
    }
    let mut bytes = format!("*{}\r\n", arguments.len());
    for argument in arguments {
        bytes += &format!("${}\r\n{argument}\r\n", argument.len());
    }
    bytes.into_bytes()
}
