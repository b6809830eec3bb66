use std::fmt::Debug;
use std::panic::resume_unwind;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use prost::Message;
use prost_types::Any;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::pb;
use week04::failure::{Failure, Violation};
use week04::google_rpc::{NAMES, header_size, http_status, to_json};
use week04::status::{code_of_http, from_grpc, from_http, to_grpc, to_http};

const BUDGET: usize = 7 * 1024;
const INTERNAL_MESSAGE: &str = "internal error";
const REQUEST_ID: &str = "requestId";
const INTERNAL: [Code; 3] = [Code::Unknown, Code::Internal, Code::DataLoss];

mod codes {
    use super::*;

    #[test]
    fn every_http_status_has_the_code_that_clients_act_on() {
        for number in 100..=999 {
            let seen = code_of_http(status_code(number));
            assert_eq!(seen, expected_code(number), "code_of_http({number})");
        }
    }
}

mod round_trip {
    use super::*;

    #[test]
    fn a_failure_is_equal_after_grpc() {
        check(200, failure(5, 40), |failure| {
            let read = from_grpc(&over_the_wire(&to_grpc(&failure)));
            equal("the failure after gRPC", &read, &public(&failure))
        });
    }

    #[test]
    fn a_failure_is_equal_after_http() {
        let failures = prop_oneof![4 => failure(17, 300), 1 => large()];
        check(200, failures, |failure| {
            let read = from_http(&to_http(&failure));
            equal("the failure after HTTP", &read, &public(&failure))
        });
    }

    #[test]
    fn grpc_details_repeat_code_and_message_and_have_one_error_info() {
        check(100, failure(5, 40), |failure| {
            let status = to_grpc(&failure);
            let rpc = pb::Status::decode(status.details()).unwrap_or_default();
            equal("code in the details", &rpc.code, &status.code().into())?;
            equal("message in the details", &*rpc.message, status.message())?;
            let expected = public(&failure).to_rpc();
            let count = expected.details.len();
            equal("number of details", &rpc.details.len(), &count)?;
            // The order of the details is free.
            let sorted = |rpc| {
                let mut details = details_as_json(rpc);
                details.sort_by_key(Value::to_string);
                details
            };
            equal("the details", &sorted(&rpc), &sorted(&expected))
        });
    }

    #[test]
    fn an_http_response_has_the_status_and_the_json_of_its_code() {
        for (code, name) in NAMES.into_iter().skip(1) {
            let response = to_http(&example(code));
            let status = response.status();
            assert_eq!(status, http_status(code), "HTTP status of {code:?}");
            let media = response.headers().get(CONTENT_TYPE);
            assert_eq!(
                media.map(|value| value.as_bytes()),
                Some(&b"application/json"[..]),
                "content-type of {code:?}"
            );
            let internal = INTERNAL.contains(&code);
            let message = if internal { INTERNAL_MESSAGE } else { "no \"7\"" };
            let mut details = vec![
                json!({
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "NO_SUCH_ROW",
                    "domain": "example.com",
                    "metadata": { REQUEST_ID: "r-1", "row": "7" },
                }),
                json!({
                    "@type": "type.googleapis.com/google.rpc.RetryInfo",
                    "retryDelay": "1.500s",
                }),
                json!({
                    "@type": "type.googleapis.com/google.rpc.BadRequest",
                    "fieldViolations": [
                        { "field": "id", "description": "is 7" },
                    ],
                }),
            ];
            if internal {
                details.pop();
                details[0]["metadata"] = json!({ REQUEST_ID: "r-1" });
            }
            let error = json!({
                "code": status.as_u16(),
                "status": name,
                "message": message,
                "details": details,
            });
            let body: Option<Value> =
                serde_json::from_slice(response.body()).ok();
            let expected = Some(json!({ "error": error }));
            assert_eq!(body, expected, "the body of {code:?}");
        }
    }

    #[test]
    fn the_retry_after_header_is_rounded_up_to_whole_seconds() {
        check(300, prop::option::of(delays()), |delay| {
            let aborted = example(Code::Aborted);
            let response = to_http(&Failure { retry_after: delay, ..aborted });
            let seen = response.headers().get(RETRY_AFTER);
            let seen = seen.map(|value| value.to_str().unwrap().to_owned());
            let expected = delay.map(|delay| {
                delay.as_nanos().div_ceil(1_000_000_000).to_string()
            });
            equal(&format!("retry-after for {delay:?}"), &seen, &expected)
        });
    }

    #[test]
    fn an_internal_error_reveals_only_the_reason_and_the_request_id() {
        for code in INTERNAL {
            let mut failure = example(code);
            failure.message = "cannot connect to 10.0.0.3".to_owned();
            let (grpc, http) = (to_grpc(&failure), to_http(&failure));
            for bytes in
                [grpc.message().as_bytes(), grpc.details(), http.body()]
            {
                let text = String::from_utf8_lossy(bytes);
                for secret in ["10.0.0.3", "row", "is 7"] {
                    let reveals = text.contains(secret);
                    assert!(!reveals, "{code:?} reveals {secret}: {text:?}");
                }
            }
            for read in [from_grpc(&grpc), from_http(&http)] {
                assert_eq!(read, public(&failure), "the failure that is read");
            }
        }
    }

    #[test]
    fn a_code_of_ok_is_sent_and_read_as_unknown() {
        let grpc = to_grpc(&example(Code::Ok));
        assert_eq!(grpc.code(), Code::Unknown, "to_grpc sends code");
        assert_eq!(grpc.message(), INTERNAL_MESSAGE, "to_grpc sends message");
        let http = to_http(&example(Code::Ok));
        assert_eq!(http.status(), 500, "to_http sends status");

        let read = from_grpc(&Status::new(Code::Ok, "fine"));
        assert_eq!(read.code, Code::Unknown, "from_grpc reads code");
        let body = json!({ "error": { "status": "OK" } }).to_string();
        let read = from_http(&Response::new(body));
        assert_eq!(read.code, Code::Unknown, "from_http reads code");
    }
}

mod limit {
    use super::*;

    #[test]
    fn violations_then_metadata_then_message_are_cut_to_fit_the_budget() {
        check(150, large(), |failure| {
            let sent = to_grpc(&failure);
            let size = header_size(&sent);
            let error = format!("expected at most {BUDGET} bytes, got {size}");
            ensure(size <= BUDGET, error)?;
            let all = public(&failure);
            let read = from_grpc(&over_the_wire(&sent));
            let (violations, metadata, message) = (
                read.violations.len(),
                read.metadata.len(),
                read.message.len(),
            );
            let kept = format!(
                "kept {violations} of {} violations, {metadata} of {} entries \
                 of metadata, {message} of {} bytes of the message",
                all.violations.len(),
                all.metadata.len(),
                all.message.len()
            );
            let prefix = all.message.starts_with(&read.message)
                && read == part(&all, violations, metadata, message);
            ensure(prefix, format!("expected the first parts, {kept}"))?;
            // With one more of the part that was cut last, it must not fit.
            let next = all.message[message..].chars().next();
            let one_more = if let Some(next) = next {
                let parts = violations + metadata;
                ensure(
                    parts == 0,
                    format!("the message is cut first, {kept}"),
                )?;
                part(&all, 0, 0, message + next.len_utf8())
            } else if metadata < all.metadata.len() {
                let error = format!("metadata is cut first, {kept}");
                ensure(violations == 0, error)?;
                part(&all, 0, metadata + 1, message)
            } else if violations < all.violations.len() {
                part(&all, violations + 1, metadata, message)
            } else {
                return Ok(());
            };
            let details = one_more.to_rpc().encode_to_vec().into();
            let size = header_size(&Status::with_details(
                one_more.code,
                one_more.message,
                details,
            ));
            ensure(size > BUDGET, format!("more would fit, {kept}"))
        });
    }

    #[test]
    fn a_very_large_failure_is_cut_in_less_than_5_seconds() {
        let entries = |count: usize| (0..count).map(|n| n.to_string());
        let small = example(Code::NotFound);
        let violations = entries(20_000).map(violation).collect();
        let metadata = entries(20_000).map(|n| (n.clone(), n)).collect();
        let message = "数".repeat(350_000);
        for (large, failure) in [
            ("violations", Failure { violations, ..small.clone() }),
            ("metadata", Failure { metadata, ..small.clone() }),
            ("message", Failure { message, ..small }),
        ] {
            let (done, result) = mpsc::channel();
            let work = thread::spawn(move || done.send(to_grpc(&failure)));
            match result.recv_timeout(Duration::from_secs(5)) {
                Ok(sent) => drop(sent),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    panic!("to_grpc takes 5 seconds: the {large} is very large")
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    resume_unwind(work.join().unwrap_err())
                }
            }
        }
    }
}

mod peers {
    use super::*;

    #[test]
    fn details_that_do_not_decode_keep_code_and_message() {
        let valid = example(Code::Aborted).to_rpc().encode_to_vec();
        let bytes = prop_oneof![
            vec(any::<u8>(), 0..60),
            (0..valid.len()).prop_map(move |end| valid[..end].to_vec()),
        ];
        check(400, (codes(), text(40), bytes), |(code, message, bytes)| {
            let decodes = pb::Status::decode(&*bytes).is_ok();
            let status = Status::with_details(code, &*message, bytes.into());
            let read = from_grpc(&status);
            let expected =
                Failure { code: not_ok(code), message, ..Failure::default() };
            if decodes {
                let seen = (read.code, read.message);
                let expected = (expected.code, expected.message);
                return equal("code and message", &seen, &expected);
            }
            equal("the failure without details", &read, &expected)
        });
    }

    #[test]
    fn malformed_unknown_and_repeated_details_do_not_affect_others() {
        let details = vec(prop::sample::select(details_of_peers()), 0..9);
        check(400, (codes(), details), |(code, chosen)| {
            let mut expected = Failure {
                code: not_ok(code),
                message: "m".to_owned(),
                ..Failure::default()
            };
            // The last detail is applied first, so the first one counts.
            for (any, _, source) in chosen.iter().rev() {
                let Some(source) = source.clone() else { continue };
                match any.type_url.rsplit('.').next() {
                    Some("ErrorInfo") => {
                        expected.reason = source.reason;
                        expected.domain = source.domain;
                        expected.metadata = source.metadata;
                    }
                    Some("RetryInfo") => {
                        expected.retry_after = source.retry_after;
                    }
                    _ => expected.violations = source.violations,
                }
            }
            let rpc = pb::Status {
                code: Code::Aborted.into(), // the header has another code
                message: "another message".to_owned(),
                details: chosen.iter().map(|(any, ..)| any.clone()).collect(),
            };
            let bytes = rpc.encode_to_vec().into();
            let read = from_grpc(&Status::with_details(code, "m", bytes));
            let json: Vec<_> = chosen.iter().map(|(_, json, _)| json).collect();
            equal(&format!("gRPC with {json:?}"), &read, &expected)?;
            let name = NAMES[code as usize].1;
            let error = json!({ "error": { "status": name, "message": "m",
                                           "details": json } });
            let read = from_http(&response(503, &error.to_string()));
            equal(&format!("HTTP with {json:?}"), &read, &expected)
        });
    }

    #[test]
    fn a_body_of_a_proxy_has_the_code_of_its_http_status() {
        for number in 100..=999 {
            for body in [
                "",
                "<html><h1>Bad Gateway</h1></html>",
                "null",
                "{}",
                "[{'error': {'status': 'NOT_FOUND'}}]",
                "{'error': 'NOT_FOUND'}",
                "{'error': {'code': 404, 'message': 'no route'}}",
                "{'error': {'status': 'Not Found'}}",
                "{'status': 'NOT_FOUND', 'message': 'no route'}",
            ] {
                let response = response(number, &body.replace('\'', "\""));
                let expected = Failure {
                    code: expected_code(number),
                    message: response.status().to_string(),
                    ..Failure::default()
                };
                let seen = from_http(&response);
                assert_eq!(seen, expected, "status {number}, body {body}");
            }
        }
        let no_text = Response::new([0xff]);
        assert_eq!(from_http(&no_text).code, Code::Unknown, "no UTF-8");
    }

    #[test]
    fn the_code_in_the_body_counts_and_not_the_http_status() {
        for (code, _) in NAMES.into_iter().skip(1) {
            for number in [200, 404, 500, 502, http_status(code).as_u16()] {
                let failure = example(code);
                let seen = from_http(&response(number, &json_body(&failure)));
                assert_eq!(seen, failure, "{code:?} with status {number}");
            }
        }
    }

    #[test]
    fn a_retry_after_header_counts_if_the_body_has_no_delay() {
        let with_delay = example(Code::Unavailable);
        let without = Failure { retry_after: None, ..with_delay.clone() };
        for (header, seconds) in [
            ("0", Some(0)),
            ("86400", Some(86_400)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", None),
            ("", None),
            ("-1", None),
            ("1.5", None),
        ] {
            let delay = seconds.map(Duration::from_secs);
            for (body, expected) in [
                ("<html>".to_owned(), delay),
                (json_body(&without), delay),
                (json_body(&with_delay), with_delay.retry_after),
            ] {
                let mut response = response(503, &body);
                let headers = response.headers_mut();
                headers.insert(RETRY_AFTER, header.parse().unwrap());
                let seen = from_http(&response).retry_after;
                assert_eq!(seen, expected, "retry-after {header:?}, {body}");
            }
        }
    }
}

/// Returns details of a peer as bytes and as JSON. Each has the failure whose
/// fields are read, or `None` if the detail is malformed or unknown.
fn details_of_peers() -> Vec<(Any, Value, Option<Failure>)> {
    let mut other = example(Code::Aborted);
    other.reason = "OTHER".to_owned();
    other.metadata.clear();
    other.retry_after = Some(Duration::ZERO);
    other.violations.push(violation("数".to_owned()));
    let mut details = Vec::new();
    for failure in [example(Code::Aborted), other] {
        let rpc = failure.to_rpc();
        let json = details_as_json(&rpc).into_iter();
        let valid = rpc.details.into_iter().zip(json);
        details.extend(valid.map(|(any, v)| (any, v, Some(failure.clone()))));
    }
    let any = |name: &str, value| Any {
        type_url: format!("type.googleapis.com/{name}"),
        value,
    };
    for (seconds, text) in [(-1, "-1s"), (i64::MIN, "-9s")] {
        let retry_delay = Some(prost_types::Duration { seconds, nanos: 0 });
        let bytes = pb::RetryInfo { retry_delay }.encode_to_vec();
        let any = any("google.rpc.RetryInfo", bytes);
        let json = json!({ "@type": any.type_url, "retryDelay": text });
        details.push((any, json, Some(Failure::default())));
    }
    for name in ["ErrorInfo", "RetryInfo", "BadRequest", "DebugInfo", "Hint"] {
        let cut = vec![0x0a, 9, b'x']; // a field of 9 bytes
        let any = any(&format!("google.rpc.{name}"), cut);
        let json = json!({ "@type": any.type_url, "reason": 7, "detail": 7,
                           "retryDelay": "soon", "fieldViolations": 7 });
        details.push((any, json, None));
    }
    details
}

fn expected_code(http: u16) -> Code {
    match http {
        400 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        409 => Code::Aborted,
        416 => Code::OutOfRange,
        429 => Code::ResourceExhausted,
        499 => Code::Cancelled,
        500 => Code::Internal,
        501 => Code::Unimplemented,
        502 | 503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        _ => Code::Unknown,
    }
}

fn example(code: Code) -> Failure {
    let metadata = [(REQUEST_ID, "r-1"), ("row", "7")];
    Failure {
        code,
        reason: "NO_SUCH_ROW".to_owned(),
        domain: "example.com".to_owned(),
        message: "no \"7\"".to_owned(),
        metadata: metadata.map(|(k, v)| (k.into(), v.into())).into(),
        retry_after: Some(Duration::from_millis(1_500)),
        violations: vec![Violation {
            field: "id".to_owned(),
            description: "is 7".to_owned(),
        }],
    }
}

fn not_ok(code: Code) -> Code {
    if code == Code::Ok { Code::Unknown } else { code }
}

fn public(failure: &Failure) -> Failure {
    let mut failure = Failure { code: not_ok(failure.code), ..failure.clone() };
    if INTERNAL.contains(&failure.code) {
        failure.message = INTERNAL_MESSAGE.to_owned();
        failure.metadata.retain(|key, _| key == REQUEST_ID);
        failure.violations = Vec::new();
    }
    failure
}

/// Returns the first violations, entries and bytes of the message.
fn part(
    all: &Failure,
    violations: usize,
    entries: usize,
    len: usize,
) -> Failure {
    let metadata = all.metadata.clone().into_iter().take(entries).collect();
    let first = all.violations.iter().take(violations);
    let violations = first.cloned().collect();
    let message = all.message[..len].to_owned();
    Failure { message, metadata, violations, ..all.clone() }
}

fn over_the_wire(status: &Status) -> Status {
    let mut headers = HeaderMap::new();
    status.add_header(&mut headers).unwrap();
    Status::from_header_map(&headers).unwrap()
}

fn json_body(failure: &Failure) -> String {
    let body = to_json(&failure.to_rpc(), StatusCode::OK);
    String::from_utf8(body).unwrap()
}

fn details_as_json(rpc: &pb::Status) -> Vec<Value> {
    let body = to_json(rpc, StatusCode::OK);
    let mut body: Value = serde_json::from_slice(&body).unwrap();
    serde_json::from_value(body["error"]["details"].take()).unwrap()
}

fn response(number: u16, body: &str) -> Response<String> {
    let mut response = Response::new(body.to_owned());
    *response.status_mut() = status_code(number);
    response
}

fn status_code(number: u16) -> StatusCode {
    StatusCode::from_u16(number).unwrap()
}

/// Runs `test` with generated inputs. If one fails, looks for a smaller one
/// that fails, and panics with its error.
fn check<S: Strategy>(
    cases: u32,
    inputs: S,
    test: impl Fn(S::Value) -> Result<(), String>,
) {
    let rng_seed = RngSeed::Fixed(4);
    let config = Config { rng_seed, ..Config::default() };
    let mut runner = TestRunner::new(config);
    for _ in 0..cases {
        let mut input = inputs.new_tree(&mut runner).unwrap();
        let Err(mut error) = test(input.current()) else { continue };
        let mut smaller = input.simplify();
        for _ in 0..500 {
            if !smaller {
                break;
            }
            smaller = match test(input.current()) {
                Ok(()) => input.complicate(),
                Err(smaller_error) => {
                    error = smaller_error;
                    input.simplify()
                }
            };
        }
        panic!("{error}");
    }
}

fn equal<T: PartialEq + Debug + ?Sized>(
    what: &str,
    seen: &T,
    expected: &T,
) -> Result<(), String> {
    let error = || format!("{what}: expected {expected:?}, got {seen:?}");
    (seen == expected).then_some(()).ok_or_else(error)
}

fn ensure(holds: bool, error: String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(error) }
}

fn codes() -> impl Strategy<Value = Code> {
    (0..17).prop_map(Code::from_i32)
}

fn delays() -> impl Strategy<Value = Duration> {
    let seconds = prop_oneof![Just(0), 0..90_u64, 0..315_576_000_000_u64];
    let nanos = prop_oneof![Just(0), Just(1), 0..1_000_000_000_u32];
    (seconds, nanos).prop_map(|(secs, nanos)| Duration::new(secs, nanos))
}

/// Text with control characters, quotes, `%` and all of Unicode.
fn text(max: usize) -> impl Strategy<Value = String> {
    let special =
        prop::sample::select(vec!["", "%", "%41", " ", "\0\r\n", "数"]);
    let any_text = vec(any::<char>(), 0..max).prop_map(String::from_iter);
    prop_oneof![special.prop_map(str::to_owned), "[a-z ]{0,40}", any_text]
}

fn violation(text: String) -> Violation {
    Violation { field: text.clone(), description: text }
}

/// Failures with up to `max` violations and entries of metadata, and with a
/// message of up to `len` characters.
fn failure(max: usize, len: usize) -> impl Strategy<Value = Failure> {
    let name = prop_oneof!["[A-Z][A-Z0-9_]{1,61}[A-Z0-9]", Just(String::new())];
    let key = prop_oneof!["[a-z][a-zA-Z0-9]{0,9}", Just(REQUEST_ID.to_owned())];
    let violation = (text(9), text(9))
        .prop_map(|(field, description)| Violation { field, description });
    (
        codes(),
        (name, "[a-z]{0,9}(\\.[a-z]{1,9}){0,3}", text(len)),
        btree_map(key, text(9), 0..=max),
        prop::option::of(delays()),
        vec(violation, 0..=max),
    )
        .prop_map(|(code, texts, metadata, retry_after, violations)| {
            let (reason, domain, message) = texts;
            Failure {
                code,
                reason,
                domain,
                message,
                metadata,
                retry_after,
                violations,
            }
        })
}

/// Failures of which each of the three parts may exceed the budget.
fn large() -> impl Strategy<Value = Failure> {
    let count =
        || prop_oneof![5 => 0..3_usize, 4 => 0..400_usize, 1 => Just(1_500)];
    let character = prop::sample::select(vec!["x", "%", "ü", "数", "😀", "\n"]);
    (failure(2, 9), count(), count(), 0..9_000_usize, character).prop_map(
        |(mut failure, violations, entries, length, character)| {
            let texts = |count: usize| (0..count).map(|n| format!("{n:04}"));
            failure.violations.extend(texts(violations).map(violation));
            failure.metadata.extend(texts(entries).map(|n| (n.clone(), n)));
            failure.message += &character.repeat(length / character.len());
            failure
        },
    )
}
