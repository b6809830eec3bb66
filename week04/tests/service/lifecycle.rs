//! Start, overload, faults and shutdown of the whole service.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use week04::composition::Application;
use week04::settings;
use week04_api::comments::v1;

use crate::common::{Proxy, Running, Storage, postgres_server};

#[tokio::test]
async fn the_health_is_not_serving_before_the_listeners_close() {
    let settings = r#", "shutdown": {"lameDuck": "30s", "budget": "1s"}"#;
    let service = Running::start_with(Storage::sqlite(), settings).await;
    service.prepare().await;
    let mut health = HealthClient::new(service.channel().await);
    let mut check = async |service: &str| {
        let service = service.to_owned();
        let answer = health.check(HealthCheckRequest { service }).await;
        answer.map(|answer| answer.into_inner().status())
    };
    let name = "comments.v1.CommentService";
    for service in ["", name] {
        let status = check(service).await.expect("it is served");
        assert_eq!(status, ServingStatus::Serving, "{service:?}");
    }
    let unknown = check("none").await.expect_err("there is no such service");
    assert_eq!(unknown.code(), Code::NotFound);

    service.stop.cancel();
    while service.get("/healthz").await.status == 200 {}
    for service in ["", name] {
        let status = check(service).await.expect("it is still served");
        assert_eq!(status, ServingStatus::NotServing, "{service:?}");
    }
    let answer = service.get("/v1/subjects/rust").await;
    assert_eq!(answer.status, 200, "the listener is still open");
}

#[tokio::test]
async fn a_stopped_service_keeps_its_data_and_frees_its_ports() {
    let service = Running::start().await;
    service.prepare().await;
    let idle = TcpStream::connect(service.http).await.expect("it is open");
    let mut client = service.client().await;
    service.stop.cancel();
    let Running { ended, http, grpc, .. } = &mut { service };
    let stopped = Instant::now();
    ended.await.expect("no panic").expect("a clean shutdown");
    assert!(
        stopped.elapsed() < Duration::from_secs(10),
        "idle connections have delayed the shutdown"
    );
    for address in [http, grpc] {
        let refused = TcpStream::connect(*address).await;
        assert!(refused.is_err(), "the port {address} is still open");
    }
    drop(idle);
    let request = v1::GetSubjectRequest { name: "subjects/rust".to_owned() };
    let refused = client.get_subject(request).await;
    assert!(refused.is_err(), "the connection is still served");
}

#[tokio::test]
async fn a_client_that_watches_the_health_does_not_delay_shutdown() {
    let service = Running::start().await;
    let mut health = HealthClient::new(service.channel().await);
    let request = HealthCheckRequest { service: String::new() };
    let watch = health.watch(request).await.expect("it is served");
    let mut watch = watch.into_inner();
    let mut last = None;
    service.stop.cancel();
    let stopped = Instant::now();
    while let Ok(Some(answer)) = watch.message().await {
        last = Some(answer.status());
    }
    assert_eq!(last, Some(ServingStatus::NotServing), "the last answer");
    service.ended.await.expect("no panic").expect("a clean shutdown");
    let took = stopped.elapsed();
    assert!(took < Duration::from_secs(5), "the shutdown took {took:?}");
}

#[tokio::test]
async fn a_stalled_http_client_does_not_keep_grpc_from_draining() {
    use tokio::io::AsyncWriteExt as _;

    let settings = r#", "shutdown": {"budget": "2s"}"#;
    let service = Running::start_with(Storage::sqlite(), settings).await;
    let mut stalled = TcpStream::connect(service.http).await.expect("open");
    let half = b"POST /v1/subjects HTTP/1.1\r\nhost: x\r\n\
        content-type: application/json\r\ncontent-length: 20\r\n\r\n{";
    stalled.write_all(half).await.expect("the server reads");
    let mut client = service.client().await;
    let request = v1::GetSubjectRequest { name: "subjects/none".to_owned() };
    let answer = client.get_subject(request).await.expect_err("none");
    assert_eq!(answer.code(), Code::NotFound);
    service.stop.cancel();
    // Both listeners close at once.
    let closed = async {
        while TcpStream::connect(service.grpc).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    let closed = tokio::time::timeout(Duration::from_secs(1), closed).await;
    assert!(closed.is_ok(), "gRPC still accepts connections after 1 s");
    let ended = service.ended.await.expect("no panic");
    let report = ended.expect_err("one connection is aborted").to_string();
    assert!(report.contains("1 connections were aborted"), "{report}");
}

#[tokio::test]
async fn a_taken_port_is_an_error_and_closes_the_database() {
    let first = Running::start().await;
    let storage = Storage::sqlite();
    let text = format!(
        r#"{{"data": {{"url": "{}"}},
             "server": {{"grpc": {{"address": "{}"}}}}}}"#,
        storage.url(),
        first.grpc
    );
    let options = settings::load(&text, []).and_then(|s| s.options());
    let options = options.expect("the settings are valid");
    let failed = Application::open(options).await;
    let failed = failed.expect_err("the port is taken");
    let error = failed.error.to_string();
    assert!(error.contains("in use"), "{error}");
    assert!(failed.failures.is_empty(), "{failed:?}");
}

#[tokio::test]
async fn connections_that_send_nothing_do_not_delay_requests() {
    let service = Running::start().await;
    service.prepare().await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        for address in [service.http, service.grpc] {
            let stream = TcpStream::connect(address).await;
            silent.push(stream.expect("the port is open"));
        }
    }
    let answer = service.get("/v1/subjects/rust").await;
    assert_eq!(answer.status, 200);
    let mut client = service.client().await;
    let request = v1::GetSubjectRequest { name: "subjects/rust".to_owned() };
    client.get_subject(request).await.expect("it is served");
}

#[tokio::test]
async fn a_full_pool_is_answered_with_503_until_a_connection_is_free() {
    let service = Running::start().await;
    service.prepare().await;
    let service_ref = &service;
    // SQLite has one writer: another client's transaction blocks all writes.
    let other = service.storage(1).await;
    let transaction = other.begin().await.expect("the database answers");
    let body = r#"{"author": "ann", "text": "blocked"}"#;
    // One more than the service has connections.
    let path = |n| format!("/v1/subjects/rust/comments?requestId={n}");
    let requests: Vec<_> = (0..5)
        .map(|n| {
            Box::pin(async move { service_ref.post(&path(n), body).await })
        })
        .collect();
    let (busy, _, blocked) = futures_util::future::select_all(requests).await;
    assert_eq!(busy.status, 503, "{busy:?}");
    assert_eq!(busy.reason(), "STORAGE_UNAVAILABLE");
    assert!(busy.head.contains("retry-after: 1"), "{busy:?}");
    transaction.rollback().await.expect("the database answers");
    for answer in futures_util::future::join_all(blocked).await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let subject = service.get("/v1/subjects/rust").await.json();
    assert_eq!(subject["commentCount"], "5", "the refused write was stored");
}

#[tokio::test]
async fn reflection_names_the_services_of_the_contract() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let service = Running::start().await;
    let mut client = ServerReflectionClient::new(service.channel().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let requests = futures_util::stream::iter([request]);
    let answers = client.server_reflection_info(requests).await;
    let mut answers = answers.expect("it is served").into_inner();
    let answer = answers.message().await.expect("it answers");
    let answer = answer.and_then(|answer| answer.message_response);
    let Some(MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("expected a list of services, and got {answer:?}");
    };
    let mut names: Vec<_> = list.service.into_iter().map(|s| s.name).collect();
    names.sort_unstable();
    let expected = [
        "comments.v1.CommentService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    ];
    assert_eq!(names, expected);
}

#[tokio::test]
#[ignore = "needs postgres"]
async fn a_service_recovers_when_its_database_is_back() {
    let server = postgres_server();
    let mut proxy = Proxy::new(server.socket());
    proxy.up();
    let storage = Storage::at(proxy.url());
    let service = Running::start_with(storage, "").await;
    service.prepare().await;
    let path = "/v1/subjects/rust/comments/1";
    for _ in 0..3 {
        proxy.down().await;
        let body = r#"{"author": "ann", "text": "lost"}"#;
        for answer in [
            service.get(path).await,
            service.post("/v1/subjects/rust/comments?requestId=1", body).await,
        ] {
            assert_eq!(answer.status, 503, "{answer:?}");
            assert_eq!(answer.reason(), "STORAGE_UNAVAILABLE");
            assert!(answer.head.contains("retry-after: 1"), "{answer:?}");
        }
        // Without a request id, a retry could create a second comment.
        let path = "/v1/subjects/rust/comments";
        let answer = service.post(path, body).await;
        assert!(!answer.head.contains("retry-after"), "{answer:?}");
        proxy.up();
        // A connection that broke is found when it is used: one request for
        // each connection of the pool may still fail.
        let mut answers = Vec::new();
        for _ in 0..5 {
            answers.push(service.get(path).await.status);
        }
        assert_eq!(answers.last(), Some(&200), "{answers:?}");
    }
    let subject = service.get("/v1/subjects/rust").await.json();
    assert_eq!(subject["commentCount"], "1", "a refused write was stored");
}
