//! The contract, over gRPC and over HTTP.

use serde_json::json;
use tonic::Code;
use week04_api::comments::v1;

use crate::common::Running;

const COMMENT: &str = "/v1/subjects/rust/comments/1";
const COMMENTS: &str = "/v1/subjects/rust/comments";

#[tokio::test]
async fn both_protocols_read_and_write_the_same_comments() {
    let service = Running::start().await;
    service.prepare().await;
    let mut client = service.client().await;
    let name = "subjects/rust/comments/1".to_owned();
    let over_grpc = client.get_comment(v1::GetCommentRequest { name }).await;
    let over_grpc = over_grpc.expect("the comment exists").into_inner();
    let over_http = service.get(COMMENT).await.json();
    assert_eq!(over_http["text"], over_grpc.text);
    assert_eq!(over_http["etag"], over_grpc.etag);
    let request = v1::CreateCommentRequest {
        parent: "subjects/rust".to_owned(),
        comment: Some(v1::Comment {
            author: "bob".to_owned(),
            text: "\u{1f600} \"quoted\"".to_owned(),
            reply_to: over_grpc.name,
            ..Default::default()
        }),
        request_id: "1".to_owned(),
    };
    let created = client.create_comment(request.clone()).await;
    let created = created.expect("the subject exists").into_inner();
    let again = client.create_comment(request).await;
    assert_eq!(again.expect("a retry succeeds").into_inner(), created);
    let path = format!("{COMMENTS}?replyTo=subjects/rust/comments/1");
    let listed = service.get(&path).await.json();
    assert_eq!(listed["comments"][0]["text"], created.text);
    assert_eq!(listed["comments"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn an_error_has_the_same_code_and_reason_in_both_protocols() {
    let service = Running::start().await;
    service.prepare().await;
    let mut client = service.client().await;
    let name = "subjects/rust/comments/404".to_owned();
    let over_grpc = client.get_comment(v1::GetCommentRequest { name }).await;
    let over_grpc = over_grpc.expect_err("there is no such comment");
    let failure = week04::status::from_grpc(&over_grpc);
    assert_eq!(failure.code, Code::NotFound);
    let over_http = service.get("/v1/subjects/rust/comments/404").await;
    assert_eq!(over_http.status, 404);
    assert_eq!(over_http.reason(), failure.reason);
    assert_eq!(failure.reason, "COMMENT_NOT_FOUND");
}

#[tokio::test]
async fn each_kind_of_bad_request_has_a_reason_and_stores_nothing() {
    let service = Running::start().await;
    service.prepare().await;
    for (method, path, body, status, reason) in [
        ("POST", COMMENTS, "{", 400, "MALFORMED_JSON"),
        ("POST", COMMENTS, "[]", 400, "INVALID_JSON"),
        ("POST", COMMENTS, "", 400, "MISSING_BODY"),
        (
            "POST",
            COMMENTS,
            r#"{"author": 1, "text": "x"}"#,
            400,
            "INVALID_JSON",
        ),
        (
            "POST",
            COMMENTS,
            r#"{"autor": "x", "text": "x"}"#,
            400,
            "INVALID_JSON",
        ),
        (
            "POST",
            COMMENTS,
            r#"{"author": "x", "text": " "}"#,
            400,
            "INVALID_FIELD",
        ),
        (
            "POST",
            COMMENTS,
            r#"{"author": "x", "text": "a\u0000"}"#,
            400,
            "INVALID_FIELD",
        ),
        ("POST", COMMENTS, r#"{"text": "x"}"#, 400, "INVALID_FIELD"),
        (
            "POST",
            "/v1/subjects/No/comments",
            r#"{"author": "x", "text": "x"}"#,
            400,
            "INVALID_FIELD",
        ),
        (
            "POST",
            "/v1/subjects/no/comments",
            r#"{"author": "x", "text": "x"}"#,
            404,
            "SUBJECT_NOT_FOUND",
        ),
        ("GET", "/v1/subjects/none/comments", "", 404, "SUBJECT_NOT_FOUND"),
        (
            "GET",
            "/v1/subjects/rust/comments?pageSize=-1",
            "",
            400,
            "INVALID_FIELD",
        ),
        (
            "GET",
            "/v1/subjects/rust/comments?pageSize=x",
            "",
            400,
            "INVALID_JSON",
        ),
        (
            "GET",
            "/v1/subjects/rust/comments?size=1",
            "",
            400,
            "UNKNOWN_PARAMETER",
        ),
        (
            "GET",
            "/v1/subjects/rust/comments?parent=x",
            "",
            400,
            "UNKNOWN_PARAMETER",
        ),
        (
            "GET",
            "/v1/subjects/rust/comments?pageToken=x",
            "",
            400,
            "INVALID_FIELD",
        ),
        (
            "GET",
            "/v1/subjects/rust/comments?orderBy=x",
            "",
            400,
            "INVALID_FIELD",
        ),
        ("GET", "/v1/subjects/rust/comments/01", "", 400, "INVALID_FIELD"),
        ("GET", COMMENTS, "{}", 400, "UNEXPECTED_BODY"),
        ("PATCH", COMMENT, r#"{"text": ""}"#, 400, "INVALID_FIELD"),
        ("PATCH", COMMENT, r#"{"author": "eve"}"#, 400, ""),
        (
            "PATCH",
            "/v1/subjects/rust/comments/1?updateMask=nothing",
            "{}",
            400,
            "INVALID_FIELD_MASK",
        ),
        (
            "PATCH",
            COMMENT,
            r#"{"text": "x", "etag": "\"9\""}"#,
            409,
            "COMMENT_CHANGED",
        ),
        (
            "PATCH",
            COMMENT,
            r#"{"text": "x", "etag": "9"}"#,
            400,
            "INVALID_FIELD",
        ),
        (
            "POST",
            "/v1/subjects/rust/comments/1:like",
            r#"{"user": ""}"#,
            400,
            "INVALID_FIELD",
        ),
        (
            "POST",
            "/v1/subjects?subjectId=rust",
            r#"{"title": "x"}"#,
            409,
            "SUBJECT_ALREADY_EXISTS",
        ),
        ("PUT", COMMENT, "{}", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/v1/nothing", "", 404, "PATH_NOT_FOUND"),
        (
            "GET",
            "/v1/subjects/rust%2Fcomments/comments",
            "",
            404,
            "PATH_NOT_FOUND",
        ),
    ] {
        let answer = service.send(method, path, "", body).await;
        let seen = format!("{method} {path} {body}: {answer:?}");
        assert_eq!(answer.status, status, "{seen}");
        assert!(answer.head.contains("x-request-id: "), "{seen}");
        assert_eq!(answer.json()["error"]["code"], status, "{seen}");
        if !reason.is_empty() {
            assert_eq!(answer.reason(), reason, "{seen}");
        }
    }
    let subject = service.get("/v1/subjects/rust").await.json();
    assert_eq!(subject["commentCount"], "1");
    let comment = service.get(COMMENT).await.json();
    assert_eq!(
        (&comment["text"], &comment["etag"]),
        (&json!("first"), &json!("\"1\""))
    );
}

#[tokio::test]
async fn a_patch_without_a_mask_changes_the_keys_of_its_body() {
    let service = Running::start().await;
    service.prepare().await;
    let place = r#"{"place": {"label": "Bern", "latitude": 46.9}, "labels": {"a": "1", "b": "2"}}"#;
    let patched = service.patch(COMMENT, place).await.json();
    assert_eq!(patched["place"]["label"], "Bern");
    assert_eq!(patched["text"], "first", "an absent key stays");
    let patched = service.patch(COMMENT, "{}").await.json();
    assert_eq!(patched["place"]["label"], "Bern");
    assert_eq!(patched["etag"], "\"2\"", "nothing has changed");
    let label = r#"{"place": {"label": ""}}"#;
    let patched = service.patch(COMMENT, label).await.json();
    assert_eq!(patched["place"]["label"], "");
    assert_eq!(patched["place"]["latitude"], 46.9);
    let path = format!("{COMMENT}?updateMask=labels");
    let patched = service
        .patch(&path, r#"{"text": "not in the mask", "labels": {"c": "3"}}"#)
        .await
        .json();
    assert_eq!(patched["labels"], json!({"c": "3"}));
    assert_eq!(patched["text"], "first");
    let patched = service.patch(COMMENT, r#"{"place": null}"#).await.json();
    assert_eq!(patched.get("place"), None);
    // What a client has read, it can write back.
    let read = service.get(COMMENT).await.json();
    let patched = service.patch(COMMENT, &read.to_string()).await;
    assert_eq!((patched.status, patched.json()), (200, read));
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_before_it_is_read_whole() {
    let limit = r#", "server": {"http": {"maxBodyBytes": 1000}}"#;
    let storage = crate::common::Storage::sqlite();
    let service = Running::start_with(storage, limit).await;
    service.prepare().await;
    let body = |length: usize| {
        let text = "x".repeat(length - r#"{"author":"ann","text":""}"#.len());
        format!(r#"{{"author":"ann","text":"{text}"}}"#)
    };
    assert_eq!(service.post(COMMENTS, &body(1000)).await.status, 200);
    let refused = service.post(COMMENTS, &body(1001)).await;
    assert_eq!(refused.status, 413);
    assert_eq!(refused.reason(), "BODY_TOO_LARGE");
    let type_of_text = format!(
        "POST {COMMENTS} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\
         content-type: text/plain\r\ncontent-length: 2\r\n\r\n{{}}"
    );
    let refused = service.send_raw(type_of_text.as_bytes()).await;
    assert_eq!(refused.status, 415);
}

#[tokio::test]
async fn a_request_stops_working_at_its_deadline() {
    let service = Running::start().await;
    service.prepare().await;
    // SQLite has one writer: this transaction blocks all other writes.
    let other = service.storage(1).await;
    let transaction = other.begin().await.expect("the database answers");
    let body = r#"{"author": "ann", "text": "late"}"#;
    let deadline = "grpc-timeout: 50m\r\n";
    let answer = service.send("POST", COMMENTS, deadline, body).await;
    assert_eq!(answer.status, 504, "{answer:?}");
    assert_eq!(answer.reason(), "DEADLINE_EXCEEDED");
    transaction.rollback().await.expect("the database answers");
    // Waits for the lock that the late request was waiting for.
    service
        .post("/v1/subjects/rust/comments/1:like", r#"{"user": "bob"}"#)
        .await;
    let subject = service.get("/v1/subjects/rust").await.json();
    assert_eq!(subject["commentCount"], "1", "the late request was executed");
    for not_a_time in ["grpc-timeout: soon\r\n", "grpc-timeout:\r\n"] {
        let answer = service.send("GET", COMMENT, not_a_time, "").await;
        assert_eq!(answer.status, 200, "{not_a_time}: {answer:?}");
    }
    let no_time = "grpc-timeout: 0S\r\n";
    assert_eq!(service.send("GET", COMMENT, no_time, "").await.status, 504);
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_answered_at_the_timeout() {
    let timeout = r#", "server": {"http": {"timeout": "0.2s"}}"#;
    let storage = crate::common::Storage::sqlite();
    let service = Running::start_with(storage, timeout).await;
    let half = b"POST /v1/subjects HTTP/1.1\r\nhost: x\r\n\
        connection: close\r\ncontent-length: 20\r\n\r\n{";
    let answer = service.send_raw(half).await;
    assert_eq!(answer.status, 504, "{answer:?}");
    assert!(service.get("/metrics").await.body.contains(
        "requests_total{method=\"other\",code=\"DEADLINE_EXCEEDED\"} 1"
    ));
}

#[tokio::test]
async fn the_limit_of_grpc_messages_is_that_of_its_listener() {
    let limit = r#", "server": {"grpc": {"maxBodyBytes": 1000}}"#;
    let storage = crate::common::Storage::sqlite();
    let service = Running::start_with(storage, limit).await;
    service.prepare().await;
    let text = "x".repeat(2000);
    let body = format!(r#"{{"author": "ann", "text": "{text}"}}"#);
    assert_eq!(service.post(COMMENTS, &body).await.status, 200);
    let mut client = service.client().await;
    let request = v1::CreateCommentRequest {
        parent: "subjects/rust".to_owned(),
        comment: Some(v1::Comment {
            author: "ann".to_owned(),
            text,
            ..Default::default()
        }),
        request_id: String::new(),
    };
    let refused = client.create_comment(request).await;
    let refused = refused.expect_err("the message is too large");
    assert_eq!(refused.code(), Code::OutOfRange);
}

#[tokio::test]
async fn a_page_of_long_texts_fits_into_a_message_of_grpc() {
    let service = Running::start().await;
    service.prepare().await;
    let mut client = service.client().await;
    for _ in 0..120 {
        let request = v1::CreateCommentRequest {
            parent: "subjects/rust".to_owned(),
            comment: Some(v1::Comment {
                author: "ann".to_owned(),
                text: "\u{4e2d}".repeat(10_000),
                ..Default::default()
            }),
            request_id: String::new(),
        };
        client.create_comment(request).await.expect("it is valid");
    }
    let mut request = v1::ListCommentsRequest {
        parent: "subjects/rust".to_owned(),
        page_size: 1000,
        ..Default::default()
    };
    let mut seen = 0;
    loop {
        let page = client.list_comments(request.clone()).await;
        let page = page.expect("it fits").into_inner();
        seen += page.comments.len();
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen, 121, "comments on all pages");
}

#[tokio::test]
async fn a_request_id_is_returned_and_an_unfit_one_is_replaced() {
    let service = Running::start().await;
    service.prepare().await;
    for path in [COMMENT, "/v1/subjects/none"] {
        let answer =
            service.send("GET", path, "x-request-id: a-1\r\n", "").await;
        assert!(answer.head.contains("x-request-id: a-1"), "{answer:?}");
    }
    let long = "9".repeat(65);
    let long = format!("x-request-id: {long}\r\n");
    let answer = service.send("GET", COMMENT, &long, "").await;
    assert!(answer.head.contains("x-request-id: "), "{answer:?}");
    assert!(!answer.head.contains("99999"), "{answer:?}");
}

#[tokio::test]
async fn metrics_count_requests_by_method_and_code() {
    let service = Running::start().await;
    service.prepare().await;
    for _ in 0..3 {
        service.get(COMMENT).await;
    }
    service.get("/v1/subjects/rust/comments/404").await;
    let metrics = service.get("/metrics").await.body;
    let method = "/comments.v1.CommentService/GetComment";
    for line in [
        format!("requests_total{{method=\"{method}\",code=\"OK\"}} 3"),
        format!("requests_total{{method=\"{method}\",code=\"NOT_FOUND\"}} 1"),
        format!("request_seconds_count{{method=\"{method}\"}} 4"),
        "requests_in_flight 0".to_owned(),
    ] {
        assert!(metrics.contains(&line), "expected {line} in {metrics}");
    }
}

#[tokio::test]
async fn each_path_of_the_openapi_document_reaches_its_method() {
    let service = Running::start().await;
    service.prepare().await;
    let document = service.get("/openapi.json").await.json();
    let paths = document["paths"].as_object().expect("it has paths");
    let mut operations = Vec::new();
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().expect("an object") {
            let id = operation["operationId"].as_str().expect("it has an id");
            operations.push(id.to_owned());
            let path = path.replace("{subjects}", "rust");
            let path = path.replace("{comments}", "1");
            let method = method.to_uppercase();
            // Deletes last: the others need the comment.
            if method != "DELETE" {
                let body = operation.get("requestBody").map_or("", |_| "{}");
                let answer = service.send(&method, &path, "", body).await;
                assert!(
                    matches!(answer.status, 200 | 400),
                    "{method} {path}: {answer:?}"
                );
            }
        }
    }
    operations.sort_unstable();
    let expected = [
        "CreateComment",
        "CreateSubject",
        "DeleteComment",
        "GetComment",
        "GetSubject",
        "LikeComment",
        "ListComments",
        "UpdateComment",
    ];
    assert_eq!(operations, expected);
    // Every reference leads to a schema.
    let text = document.to_string();
    for part in text.split("#/components/schemas/").skip(1) {
        let name = part.split('"').next().expect("it ends");
        let schema = &document["components"]["schemas"][name];
        assert!(schema.is_object(), "{name} has no schema");
    }
}

#[tokio::test]
async fn a_handler_that_panics_is_answered_and_the_next_request_served() {
    use axum::Router;
    use axum::routing::post;
    use week04::server::metrics::Metrics;
    use week04::server::middleware;

    async fn panics() {
        panic!("on purpose");
    }
    let metrics = Metrics::new();
    let router = Router::new().route("/panic", post(panics));
    let limit = std::time::Duration::from_secs(5);
    let router = middleware::add(router, metrics.clone(), Vec::new(), limit);
    let request = http::Request::post("/panic").body(axum::body::Body::empty());
    let request = request.expect("the request is valid");
    use tower::ServiceExt as _;
    let answer = router.oneshot(request).await.expect("it cannot fail");
    let status = tonic::Status::from_header_map(answer.headers());
    let status = status.expect("the answer is an error");
    assert_eq!(status.code(), Code::Internal);
    assert!(!status.message().contains("on purpose"), "{status:?}");
    assert!(metrics.to_text().contains("code=\"INTERNAL\"} 1"));
}
