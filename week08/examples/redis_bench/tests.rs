//! The tool against a real server.

use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lab::servers::Redis;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use week08::percentiles::{Connection as _, Plan};

use super::*;
use crate::client::{Client, Tally};
use crate::target::{Node, Numbers};

const KEYS: NonZero<u32> = NonZero::new(1234).unwrap();

const SETTINGS: Settings = Settings {
    connections: 5,
    runs: 1,
    plan: Plan {
        warm_up: Duration::ZERO,
        duration: Duration::from_millis(100),
        timeout: Duration::from_secs(5),
    },
    rate: None,
    with_peer: false,
};

fn counter(connection: &mut redis::Connection, name: &str) -> u64 {
    let info: String =
        redis::cmd("INFO").arg("stats").query(connection).unwrap();
    cpu::info_field(&info, name).unwrap().parse().unwrap()
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn each_get_hits_and_all_keys_are_removed() {
    for transport in [Transport::Tcp, Transport::Unix] {
        let redis = Redis::start().unwrap();
        let server = Server::own(&redis, transport).unwrap();
        let mut control = server.control().unwrap();
        redis::cmd("SET").arg("other").arg("1").exec(&mut control).unwrap();
        let target = Target::new(server, Keys::new(KEYS)).unwrap();
        let keys = &target.keys;
        for value_len in [1, 20_000] {
            target.fill(value_len).await.unwrap();
            let size: u32 = redis::cmd("DBSIZE").query(&mut control).unwrap();
            assert_eq!(size, keys.count() + 1);
            for number in [0, 7, keys.count() - 1] {
                let key = keys.key(number);
                let get = redis::cmd("GET").arg(key).query(&mut control);
                let value: String = get.unwrap();
                assert_eq!(value, "x".repeat(value_len));
            }
            for (command, depth) in
                [(Command::Get, 1), (Command::Set, 1), (Command::Get, 16)]
            {
                let before = counter(&mut control, "keyspace_hits");
                let kind = Kind { command, value_len, depth };
                let run = measure::run(&target, kind, &SETTINGS);
                let run = run.await.unwrap();
                assert!(run.operations > 0, "{kind:?}: no request");
                assert!(run.throughput > 0.0, "{kind:?}: no throughput");
                let hits = counter(&mut control, "keyspace_hits") - before;
                let gets = command == Command::Get;
                let expected = if gets { run.operations } else { 0 };
                assert_eq!(hits, expected, "{kind:?}");
            }
        }
        assert_eq!(counter(&mut control, "keyspace_misses"), 0);
        target.remove().unwrap();
        let size: u32 = redis::cmd("DBSIZE").query(&mut control).unwrap();
        assert_eq!(size, 1, "expected only the other key");
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_missing_key_is_an_error() {
    let redis = Redis::start().unwrap();
    let server = Server::own(&redis, Transport::Unix).unwrap();
    let target = Target::new(server, Keys::new(KEYS)).unwrap();
    let kind = Kind { command: Command::Get, value_len: 10, depth: 1 };
    let run = measure::run(&target, kind, &SETTINGS).await;
    let error = run.expect_err("expected an error").to_string();
    assert!(error.contains("a key is missing"), "{error}");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_password_and_a_database_are_used() {
    let redis = Redis::start().unwrap();
    let mut control = Server::at(&redis.url()).unwrap().control().unwrap();
    let set = ["SET", "requirepass", "secret"];
    redis::cmd("CONFIG").arg(&set).exec(&mut control).unwrap();
    let url = |password| format!("{}?db=3&pass={password}", redis.url());
    let server = Server::at(&url("secret")).unwrap();
    let target = Target::new(server, Keys::new(KEYS)).unwrap();
    target.fill(10).await.unwrap();
    let info: String =
        redis::cmd("INFO").arg("keyspace").query(&mut control).unwrap();
    assert!(info.contains("db3:keys=1234,"), "{info}");
    let wrong = Server::at(&url("wrong")).unwrap().connect().await;
    let error = wrong.expect_err("expected an error").to_string();
    assert!(error.contains("WRONGPASS"), "{error}");
}

/// Starts a node of a cluster, with these slots.
fn cluster_node(slots: [u32; 2]) -> (Redis, Server, [u16; 2]) {
    // The listeners end here, and the ports are free for the server.
    let listeners = [0; 2]
        .map(|port| std::net::TcpListener::bind(("127.0.0.1", port)).unwrap());
    let ports = listeners.map(|one| one.local_addr().unwrap().port());
    let [port, bus] = ports.map(|port| port.to_string());
    let options = ["--cluster-enabled", "yes", "--bind", "127.0.0.1", "--port"];
    let options = [&options[..], &[&port, "--cluster-port", &bus]].concat();
    let redis = Redis::start_with(&options).unwrap();
    let server = Server::at(&format!("redis://127.0.0.1:{port}")).unwrap();
    redis::cmd("CLUSTER")
        .arg("ADDSLOTSRANGE")
        .arg(&slots)
        .exec(&mut server.control().unwrap())
        .unwrap();
    (redis, server, ports)
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn each_connection_of_a_cluster_asks_a_node_for_its_own_keys() {
    let (_first, server, _) = cluster_node([0, 9_999]);
    let (_second, other, [port, bus]) = cluster_node([10_000, 16_383]);
    let mut control = server.control().unwrap();
    let meet = ["MEET", "127.0.0.1", &port.to_string(), &bus.to_string()];
    redis::cmd("CLUSTER").arg(&meet).exec(&mut control).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    for server in [&server, &other] {
        let mut control = server.control().unwrap();
        loop {
            let info: String =
                redis::cmd("CLUSTER").arg("INFO").query(&mut control).unwrap();
            if cpu::info_field(&info, "cluster_state") == Some("ok") {
                break;
            }
            assert!(Instant::now() < deadline, "the nodes do not meet: {info}");
        }
    }
    let target = Target::new(server, Keys::new(KEYS)).unwrap();
    assert!(target.is_cluster);
    assert_eq!(target.nodes.len(), 2);
    target.fill(10).await.unwrap();
    let mut controls = target.control().unwrap();
    let sizes = |controls: &mut [redis::Connection]| -> Vec<u32> {
        let size = redis::cmd("DBSIZE");
        controls.iter_mut().map(|one| size.query(one).unwrap()).collect()
    };
    let counts: Vec<_> =
        target.nodes.iter().map(|node| node.numbers.count()).collect();
    assert_eq!(sizes(&mut controls), counts);
    assert_eq!(counts.iter().sum::<u32>(), KEYS.get());
    for depth in [1, 16] {
        let kind = Kind { command: Command::Get, value_len: 10, depth };
        let run = measure::run(&target, kind, &SETTINGS).await.unwrap();
        assert!(run.throughput > 0.0, "depth {depth}: no throughput");
    }
    for control in &mut controls {
        assert!(counter(control, "keyspace_hits") > 0);
        assert_eq!(counter(control, "keyspace_misses"), 0);
    }
    target.remove().unwrap();
    assert_eq!(sizes(&mut controls), [0, 0]);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn an_open_loop_sends_commands_at_its_rate() {
    let redis = Redis::start().unwrap();
    let server = Server::own(&redis, Transport::Unix).unwrap();
    let target = Target::new(server, Keys::new(KEYS)).unwrap();
    let kind = Kind { command: Command::Set, value_len: 10, depth: 4 };
    let settings = Settings { rate: NonZero::new(800), ..SETTINGS };
    let run = measure::run(&target, kind, &settings).await.unwrap();
    assert_eq!(run.operations + run.timed_out, 80);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn redis_benchmark_uses_the_same_keys() {
    if !peer::is_installed() {
        println!("not tested: redis-benchmark is not installed");
        return;
    }
    let redis = Redis::start().unwrap();
    let server = Server::own(&redis, Transport::Tcp).unwrap();
    let mut control = server.control().unwrap();
    let target = Target::new(server, Keys::new(KEYS)).unwrap();
    target.fill(100).await.unwrap();
    let settings = Settings { with_peer: true, ..SETTINGS };
    for command in [Command::Get, Command::Set] {
        let kind = Kind { command, value_len: 100, depth: 2 };
        let measured = measure(&target, kind, &settings, || {});
        let measured = measured.await.unwrap();
        assert_eq!(measured.len(), 2);
        assert!(measured[1].throughput()[0] > 0.0);
    }
    assert_eq!(counter(&mut control, "keyspace_misses"), 0);
    let size: u32 = redis::cmd("DBSIZE").query(&mut control).unwrap();
    assert_eq!(size, target.keys.count());
}

/// A server that answers the first connection too late.
#[tokio::test]
async fn a_late_reply_is_not_taken_for_the_next_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::at(&format!("redis://{address}")).unwrap();
    let kind = Kind { command: Command::Get, value_len: 1, depth: 1 };
    let keys = Keys::new(KEYS);
    let node = Node { server, numbers: Numbers::Below(keys.count()) };
    let client = Client::connect(&node, &keys, kind, Arc::<Tally>::default());
    let mut client = client.await.unwrap();
    let (mut first, _) = listener.accept().await.unwrap();
    let mut request = [0; 512];
    {
        let mut waiting = std::pin::pin!(client.request(0));
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("expected no reply"),
            read = first.read(&mut request) => assert!(read.unwrap() > 0),
        }
        // Half of a reply, and the request is dropped while it waits.
        first.write_all(b"$1\r\n").await.unwrap();
    }
    let second = async {
        let (mut second, _) = listener.accept().await.unwrap();
        assert!(second.read(&mut request).await.unwrap() > 0);
        second.write_all(b"$1\r\na\r\n").await.unwrap();
        second
    };
    let (outcome, _second) = tokio::join!(client.request(1), second);
    assert_eq!(outcome, Ok(()));
}
