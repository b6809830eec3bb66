//! The gutter between two real Redis servers. The time of the router is virtual:
//! one read in each millisecond.

use std::num::NonZero;
use std::time::{Duration, Instant};

use lab::servers::Redis;
use redis::{Client, Commands as _, Connection, RedisResult};
use week05::gutter::{Config, Destination, Router, Safety};
use week05::simulator::Random;
use week05::{sre_breaker, window};

const MS: Duration = Duration::from_millis(1);
const KEYS: u32 = 50;
const MAX_STALENESS: Duration = Duration::from_secs(3);

/// A client of both clusters.
struct Reader {
    router: Router,
    /// The main cluster, which may be down, and the gutter.
    clusters: [Option<Connection>; 2],
    now: Instant,
    random: Random,
}

/// What happened to the reads of a second.
#[derive(Debug, Default)]
struct Counts {
    main: u32,
    gutter: u32,
    refused: u32,
    /// Attempts at the main cluster that failed.
    failures: u32,
}

impl Reader {
    /// Reads a thousand keys, one in each millisecond.
    fn read_for_a_second(&mut self) -> Counts {
        let mut counts = Counts::default();
        for key in (0..KEYS).cycle().take(1000) {
            self.now += MS;
            let (router, clusters) = (&self.router, &mut self.clusters);
            let rands = [self.random.uniform(), self.random.uniform()];
            let Ok(mut call) = router.route(self.now, rands) else {
                counts.refused += 1;
                continue;
            };
            if call.destination() == Destination::Main {
                if get(&mut clusters[0], key).is_ok() {
                    call.success(self.now);
                    counts.main += 1;
                    continue;
                }
                counts.failures += 1;
                let rand = self.random.uniform();
                let safety = Safety::Idempotent;
                match call.fail_over(self.now, rand, safety) {
                    Some(second) => call = second,
                    None => {
                        counts.refused += 1;
                        continue;
                    }
                }
            }
            let gutter = &mut clusters[1];
            let value = get(gutter, key).expect("the gutter works");
            if value.is_none() {
                // The database is read just now.
                let ttl = router.ttl(self.now, self.now).expect("it is new");
                let ttl = u64::try_from(ttl.as_millis()).expect("it is short");
                let gutter = gutter.as_mut().expect("it is connected");
                let stored = gutter.pset_ex(key, "value", ttl);
                let () = stored.expect("the gutter works");
            }
            call.success(self.now);
            counts.gutter += 1;
        }
        counts
    }
}

/// Returns the value of a key, or an error if the cluster is down.
fn get(
    cluster: &mut Option<Connection>,
    key: u32,
) -> RedisResult<Option<String>> {
    let down = || redis::RedisError::from(std::io::Error::other("it is down"));
    cluster.as_mut().ok_or_else(down)?.get(key)
}

fn connect(server: &Redis) -> Connection {
    let client = Client::open(server.url()).expect("the URL is valid");
    client.get_connection().expect("the server is ready")
}

/// Starts a main cluster that has all values.
fn warm() -> (Redis, Connection) {
    let server = Redis::start().expect("redis-server starts");
    let mut connection = connect(&server);
    for key in 0..KEYS {
        let stored = connection.set(key, "value");
        let () = stored.expect("the server works");
    }
    (server, connection)
}

#[test]
#[ignore = "needs redis-server"]
fn a_gutter_takes_over_from_a_killed_redis_and_gives_the_reads_back() {
    let (main, connection) = warm();
    let gutter = Redis::start().expect("redis-server starts");
    let breaker = sre_breaker::Config {
        k: 2.0,
        min_requests: 20,
        window: window::Config {
            bucket: 100 * MS,
            buckets: NonZero::new(10).expect("it is not zero"),
        },
        probe_interval: 100 * MS,
        slow_call: 1000 * MS,
    };
    let config = Config {
        main: breaker,
        gutter: breaker,
        gutter_capacity: NonZero::new(6).expect("it is not zero"),
        max_staleness: MAX_STALENESS,
    };
    let now = Instant::now();
    let mut reader = Reader {
        router: Router::new(config, now),
        clusters: [Some(connection), Some(connect(&gutter))],
        now,
        random: Random(2026),
    };

    let healthy = reader.read_for_a_second();
    assert_eq!((healthy.main, healthy.gutter), (1000, 0), "{healthy:?}");

    // The connection breaks: each further read fails.
    drop(main);
    let seconds = [(); 3].map(|()| reader.read_for_a_second());
    let first = &seconds[0];
    assert_eq!(first.main, 0, "the main cluster is down: {first:?}");
    // Each failure fails over, and later reads go to the gutter at once.
    assert_eq!(first.gutter + first.refused, 1000, "{first:?}");
    assert!(first.gutter > 950, "{first:?}");
    let last = &seconds[2];
    assert!(last.gutter > 950, "{last:?}");
    // Two probes in 100 ms at most, and a few reads that pass by chance.
    assert!((5..=40).contains(&last.failures), "{last:?}");

    let mut ttls = connect(&gutter);
    for key in 0..KEYS {
        let ttl: i64 = ttls.pttl(key).expect("the gutter works");
        let limit = i64::try_from(MAX_STALENESS.as_millis()).expect("short");
        assert!((1..=limit).contains(&ttl), "key {key}: {ttl} ms");
    }

    // The main cluster is back.
    let (_main, connection) = warm();
    reader.clusters[0] = Some(connection);
    let seconds = [(); 20].map(|()| reader.read_for_a_second());
    let last = &seconds[19];
    assert_eq!((last.main, last.gutter), (1000, 0), "{last:?}");
    let refused: u32 = seconds.iter().map(|second| second.refused).sum();
    assert!(refused < 200, "{refused} of 20,000 reads were refused");
}
