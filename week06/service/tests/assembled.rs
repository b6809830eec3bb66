//! The whole service: API, Kafka, job, database, Redis.

mod reading;

use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use lab::servers::Redis;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use week03::drain::Server;
use week06_service::backlog::{self, Backlog};
use week06_service::broker::{MockBroker, Setup, run_if_asked};
use week06_service::http::{self, Api};
use week06_service::invalidation::Bus;
use week06_service::own::{self, Own};
use week06_service::producer::{self, Producer};
use week06_service::reads::{self, Reads};
use week06_service::service::{Config, DEAD_LETTERS, Parts, Service, TOPIC};
use week06_service::store::Store;
use week06_service::writes::{Ids, Writes};

use reading::{Database, request, until};

/// The broker is this test binary, which runs only this test.
#[test]
fn broker_process() {
    run_if_asked();
}

fn broker() -> MockBroker {
    let setup = Setup {
        arguments: &["broker_process", "--exact", "--nocapture"],
        topics: &[(TOPIC, 4), (DEAD_LETTERS, 1)],
        session: Duration::from_secs(1),
    };
    MockBroker::spawn(setup).expect("it starts")
}

async fn start(
    database: &Database,
    broker: &MockBroker,
    redis: Option<&Redis>,
) -> Service {
    let config = Config {
        address: ([127, 0, 0, 1], 0).into(),
        database: database.url.clone(),
        redis: redis.map(Redis::url),
        kafka: Some(broker.bootstrap().to_owned()),
        parts: Parts::ALL,
        // Not shared: the services are as far apart as two processes.
        bus: Bus::default(),
        node: 1,
    };
    Service::start(config).await.expect("it starts")
}

async fn post(address: SocketAddr, id: u64, subject: u64) {
    let line = format!("POST /v1/subjects/{subject}/comments");
    let body = json!({ "id": id, "author": 5, "text": "a comment" });
    let response = request(address, &line, &body.to_string()).await;
    assert_eq!(response.status, 202, "{response:?}");
}

async fn page(address: SocketAddr, query: &str) -> Vec<u64> {
    let line = format!("GET /v1/subjects/7/comments?limit=50{query}");
    let response = request(address, &line, "").await;
    assert_eq!(response.status, 200, "{response:?}");
    let comments = response.body["comments"].as_array().expect("a list");
    comments.iter().map(|c| c["id"].as_u64().expect("an id")).collect()
}

/// Authors see each comment at once, and everyone sees it once the job has
/// written it, and once only.
async fn assert_read_your_writes(service: &Service, other: &Service) {
    let (here, there) = (service.address(), other.address());
    let mut expected = Vec::new();
    for id in 1..30 {
        // The page is hot: it is in the local caches.
        for _ in 0..5 {
            page(there, "").await;
        }
        post(here, id, 7).await;
        expected.insert(0, id);
        assert_eq!(page(here, "&author=5").await, expected);
        let seen = page(here, "").await;
        assert!(expected.ends_with(&seen), "{seen:?} of {expected:?}");
    }
    for address in [here, there] {
        until("everyone sees all comments", async || {
            page(address, "").await == expected
        })
        .await;
        assert_eq!(page(address, "&author=5").await, expected);
    }
    assert_eq!(service.store().count(7).await.unwrap(), 29);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authors_read_their_comments_at_once_and_everyone_reads_them_once() {
    let (database, broker) = (Database::new(), broker());
    let service = start(&database, &broker, None).await;
    assert_read_your_writes(&service, &service).await;
    service.stop().await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server"]
async fn two_processes_with_redis_show_each_comment_once() {
    let (database, broker) = (Database::new(), broker());
    let redis = Redis::start().expect("it starts");
    let first = start(&database, &broker, Some(&redis)).await;
    let second = start(&database, &broker, Some(&redis)).await;
    assert_read_your_writes(&first, &second).await;
    first.stop().await.expect("it stops");
    second.stop().await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_comments_are_in_the_database_after_a_stop_and_a_start() {
    let (database, broker) = (Database::new(), broker());
    let service = start(&database, &broker, None).await;
    let address = service.address();
    let mut posts = tokio::task::JoinSet::new();
    for id in 0..200 {
        posts.spawn(post(address, id, id % 10));
    }
    posts.join_all().await;
    service.stop().await.expect("it stops");
    let service = start(&database, &broker, None).await;
    until("all comments are written", async || {
        let mut count = 0;
        for subject in 0..10 {
            count += service.store().count(subject).await.unwrap();
        }
        count == 200
    })
    .await;
    service.stop().await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comment_is_refused_with_429_while_too_many_wait() {
    let (database, broker) = (Database::new(), broker());
    let brokers = broker.bootstrap().to_owned();
    // No job writes, and one comment that waits is too many.
    let backlog = Backlog::watch(backlog::Config {
        brokers: brokers.clone(),
        topic: TOPIC.to_owned(),
        group: "comments".to_owned(),
        high: 0,
        low: 0,
        every: Duration::from_millis(10),
        stale_after: Duration::from_secs(60),
    });
    let backlog = backlog.expect("it starts");
    until("the lag is known", async || backlog.lag() == Some(0)).await;
    let timeout = Duration::from_secs(5);
    let config = producer::Config { brokers, topic: TOPIC.to_owned(), timeout };
    let producer =
        Producer::new(&config, Some(backlog.clone())).expect("it starts");
    let store = Store::connect(&database.url).await.expect("it is created");
    let reads = reads::Config {
        local_cache: None,
        singleflight: true,
        max_queries: NonZero::<u32>::MIN,
        max_waiting: 10,
    };
    let reads = Reads::new(Arc::new(store), None, &reads);
    let own = own::Config { ttl: timeout, capacity: 10, per_author: 10 };
    let own = Own::new(None, own);
    let writes = Writes::Kafka(producer);
    let api = Arc::new(Api { reads, own, writes, ids: Ids::new(1) });
    let router = http::router(Arc::clone(&api));
    let address = ([127, 0, 0, 1], 0).into();
    let server = Server::bind(address, router, Duration::ZERO);
    let server = server.await.expect("there is a port");
    let address = server.local_addr().expect("it is bound");
    let server = tokio::spawn(server.serve(CancellationToken::new()));
    let _server = AbortOnDropHandle::new(server);

    post(address, 1, 7).await;
    until("it waits", async || backlog.lag() == Some(1)).await;
    let line = "POST /v1/subjects/7/comments";
    let body = json!({ "id": 2, "author": 5, "text": "a comment" });
    let response = request(address, line, &body.to_string()).await;
    assert_eq!(response.status, 429, "{response:?}");
    // The job stands still, so the longest time is returned.
    assert!(response.head.contains("retry-after: 30\r\n"), "{response:?}");
    assert_eq!(api.own.recent(5, 7).await.len(), 1);
}
