//! A model of the rules, and generators of failures and of what peers send.

use std::fmt::Debug;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Response, StatusCode};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use prost::Message;
use prost_types::Any;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::{ErrorInfo, RetryInfo, pb};
use week04::failure::{Failure, Violation};
use week04::google_rpc::{http_status, pack, to_json};
use week04::status::{to_grpc, to_http};

const INTERNAL_MESSAGE: &str = "internal error";
const REQUEST_ID: &str = "requestId";
/// With `Ok`, because a failure with this code is sent as `Unknown`.
const INTERNAL: [Code; 4] =
    [Code::Ok, Code::Unknown, Code::Internal, Code::DataLoss];

pub(super) fn not_ok(code: Code) -> Code {
    if code == Code::Ok { Code::Unknown } else { code }
}

pub(super) fn public(failure: &Failure) -> Failure {
    let mut public = Failure { code: not_ok(failure.code), ..failure.clone() };
    if INTERNAL.contains(&failure.code) {
        public.message = INTERNAL_MESSAGE.to_owned();
        public.metadata.retain(|key, _| key == REQUEST_ID);
        public.violations = Vec::new();
    }
    public
}

/// Returns the first violations, entries and bytes of the message.
pub(super) fn part(
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

/// Checks that `to_grpc` sends the public failure.
pub(super) fn expect_grpc(failure: &Failure) -> Result<(), String> {
    let (sent, public) = (to_grpc(failure), public(failure));
    equal("code of the status", &sent.code(), &public.code)?;
    equal("message of the status", sent.message(), &*public.message)?;
    let rpc = pb::Status::decode(sent.details()).unwrap_or_default();
    equal("code in the details", &rpc.code, &public.code.into())?;
    equal("message in the details", &*rpc.message, &*public.message)?;
    let json = |rpc| sorted_json(&to_json(rpc, StatusCode::OK));
    equal("the details", &json(&rpc), &json(&public.to_rpc()))
}

/// Checks that `to_http` sends the public failure.
pub(super) fn expect_http(failure: &Failure) -> Result<(), String> {
    let (sent, public) = (to_http(failure), public(failure));
    let status = http_status(public.code);
    equal("HTTP status", &sent.status(), &status)?;
    let media = sent.headers().get(CONTENT_TYPE);
    let media = media.map(|value| value.as_bytes());
    equal("content-type", &media, &Some(b"application/json"))?;
    let expected = sorted_json(&to_json(&public.to_rpc(), status));
    equal("the body", &sorted_json(sent.body()), &expected)
}

/// Parses an error. The order of its details is free.
fn sorted_json(body: &[u8]) -> Option<Value> {
    let mut body: Value = serde_json::from_slice(body).ok()?;
    let details = body.get_mut("error")?.get_mut("details")?.as_array_mut()?;
    details.sort_by_key(Value::to_string);
    Some(body)
}

pub(super) fn encode(failure: &Failure) -> Status {
    let details = failure.to_rpc().encode_to_vec().into();
    Status::with_details(failure.code, &*failure.message, details)
}

pub(super) fn over_the_wire(status: &Status) -> Status {
    let mut headers = HeaderMap::new();
    status.add_header(&mut headers).unwrap();
    Status::from_header_map(&headers).unwrap()
}

pub(super) fn json_body(failure: &Failure) -> String {
    let body = to_json(&failure.to_rpc(), StatusCode::OK);
    String::from_utf8(body).unwrap()
}

pub(super) fn response(number: u16, body: &str) -> Response<String> {
    let mut response = Response::new(body.to_owned());
    *response.status_mut() = StatusCode::from_u16(number).unwrap();
    response
}

pub(super) fn example(code: Code) -> Failure {
    let metadata = [(REQUEST_ID, "r-1"), ("row", "7")];
    Failure {
        code,
        reason: "NO_SUCH_ROW".to_owned(),
        domain: "example.com".to_owned(),
        message: "no \"7\"".to_owned(),
        metadata: metadata.map(|(k, v)| (k.into(), v.into())).into(),
        retry_after: Some(Duration::from_millis(1_500)),
        violations: vec![violation("is 7".to_owned())],
    }
}

pub(super) fn violation(text: String) -> Violation {
    Violation { field: text.clone(), description: text }
}

/// A detail of a peer.
#[derive(Debug, Clone)]
pub(super) struct Detail {
    pub(super) any: Any,
    pub(super) json: Value,
    /// The failure whose fields are read, or `None` if the detail is ignored.
    source: Option<Failure>,
}

/// Returns the fields of the first detail of each type that is not ignored.
pub(super) fn fields_of(details: &[Detail]) -> Failure {
    let mut failure = Failure::default();
    // The last detail is applied first, so the first one counts.
    for Detail { any, source, .. } in details.iter().rev() {
        let Some(source) = source.clone() else { continue };
        match any.type_url.rsplit('.').next() {
            Some("ErrorInfo") => {
                failure.reason = source.reason;
                failure.domain = source.domain;
                failure.metadata = source.metadata;
            }
            Some("RetryInfo") => failure.retry_after = source.retry_after,
            _ => failure.violations = source.violations,
        }
    }
    failure
}

/// Returns valid, empty, negative, malformed and unknown details.
pub(super) fn details_of_peers() -> Vec<Detail> {
    let mut other = example(Code::Aborted);
    other.reason = "OTHER".to_owned();
    other.metadata.clear();
    other.retry_after = Some(Duration::ZERO);
    other.violations.push(violation("数".to_owned()));
    let mut details = Vec::new();
    for failure in [example(Code::Aborted), other, Failure::default()] {
        let rpc = failure.to_rpc();
        let body = sorted_json(&to_json(&rpc, StatusCode::OK)).unwrap();
        for any in rpc.details {
            let json = body["error"]["details"].as_array().unwrap();
            let json = json.iter().find(|json| json["@type"] == any.type_url);
            let (json, source) = (json.unwrap().clone(), Some(failure.clone()));
            details.push(Detail { any, json, source });
        }
    }
    for (delay, text) in [
        (None, None),
        (Some((-1, 0)), Some("-1s")),
        (Some((0, -1)), Some("-0.000000001s")),
        (Some((i64::MIN, 0)), Some("-9s")),
    ] {
        let retry_delay = delay
            .map(|(seconds, nanos)| prost_types::Duration { seconds, nanos });
        let retry = pb::RetryInfo { retry_delay };
        details.push(Detail {
            any: pack(RetryInfo::TYPE_URL, &retry),
            json: json!({ "@type": RetryInfo::TYPE_URL, "retryDelay": text }),
            source: Some(Failure::default()),
        });
    }
    // The first field has 9 bytes, but 1 byte follows.
    let cut = vec![0x0a, 9, b'x'];
    let unknown = details[0].any.value.clone();
    for (name, value) in [
        ("google.rpc.ErrorInfo", &cut),
        ("google.rpc.RetryInfo", &cut),
        ("google.rpc.BadRequest", &cut),
        ("google.rpc.DebugInfo", &cut),
        ("google.rpc.Hint", &cut),
        ("google.rpc.ErrorInfo2", &unknown),
        ("example.v1.ErrorInfo", &unknown),
    ] {
        let type_url = format!("type.googleapis.com/{name}");
        details.push(Detail {
            json: json!({ "@type": type_url, "reason": 7, "detail": 7,
                          "retryDelay": "soon", "fieldViolations": 7 }),
            any: Any { type_url, value: value.clone() },
            source: None,
        });
    }
    details
}

/// Runs `test` with generated inputs. If one fails, looks for a smaller one
/// that fails, and panics with its error.
pub(super) fn check<S: Strategy>(
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
        for _ in 0..100 {
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

pub(super) fn equal<T: PartialEq + Debug + ?Sized>(
    what: &str,
    seen: &T,
    expected: &T,
) -> Result<(), String> {
    let error = || format!("{what}: expected {expected:?}, got {seen:?}");
    (seen == expected).then_some(()).ok_or_else(error)
}

pub(super) fn ensure(holds: bool, error: String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(error) }
}

pub(super) fn codes() -> impl Strategy<Value = Code> {
    (0..17).prop_map(Code::from_i32)
}

pub(super) fn internal() -> impl Strategy<Value = Code> {
    select(INTERNAL.to_vec())
}

/// Codes whose failures are sent with all fields.
pub(super) fn visible() -> impl Strategy<Value = Code> {
    let codes = (0..17).map(Code::from_i32);
    select(codes.filter(|it| !INTERNAL.contains(it)).collect::<Vec<_>>())
}

pub(super) fn statuses() -> impl Strategy<Value = u16> {
    prop_oneof![
        select(vec![200, 401, 404, 409, 429, 500, 502, 503, 504]),
        100..=999_u16
    ]
}

pub(super) fn delays() -> impl Strategy<Value = Duration> {
    let seconds = prop_oneof![Just(0), 0..90_u64, 0..315_576_000_000_u64];
    let nanos = prop_oneof![Just(0), Just(1), 0..1_000_000_000_u32];
    (seconds, nanos).prop_map(|(secs, nanos)| Duration::new(secs, nanos))
}

/// Values of the header `retry-after`, each with its delay.
pub(super) fn retry_headers()
-> impl Strategy<Value = (Vec<u8>, Option<Duration>)> {
    let valid = prop_oneof![0..4_u64, 0..315_576_000_000_u64];
    let valid = valid.prop_map(|seconds| {
        let text = seconds.to_string();
        (text.into_bytes(), Some(Duration::from_secs(seconds)))
    });
    let date = &b"Sun, 06 Nov 1994 08:49:37 GMT"[..];
    let numbers = [&b"-1"[..], b"1.5", b"1.0", b"1e3", b"5s", b"0x10", b"inf"];
    let others = [date, b"", "数".as_bytes(), b"\xff"];
    let ignored = select([&numbers[..], &others].concat());
    prop_oneof![valid, ignored.prop_map(|text| (text.to_vec(), None))]
}

/// Details of a body with and without a delay, each with the delay.
pub(super) fn retry_bodies() -> impl Strategy<Value = (Value, Option<Duration>)>
{
    let info =
        |delay| json!({ "@type": RetryInfo::TYPE_URL, "retryDelay": delay });
    let other = json!({ "@type": ErrorInfo::TYPE_URL, "reason": "OTHER" });
    select(vec![
        (json!([]), None),
        (json!([other]), None),
        (json!([info(Value::Null)]), None),
        (json!([info(json!("soon"))]), None),
        (json!([info(json!("-1s"))]), None),
        (json!([info(json!("0s"))]), Some(Duration::ZERO)),
        (json!([info(json!("1.5s"))]), Some(Duration::from_millis(1_500))),
    ])
}

/// Text with control characters, quotes, `%` and all of Unicode.
pub(super) fn text(max: usize) -> impl Strategy<Value = String> {
    let special = select(vec!["", "%", "%41", " ", "\0\r\n", "数"]);
    let any_text = vec(any::<char>(), 0..max).prop_map(String::from_iter);
    prop_oneof![special.prop_map(str::to_owned), "[a-z ]{0,40}", any_text]
}

/// Failures with up to `max` violations and entries of metadata, and with a
/// message of up to `len` characters.
pub(super) fn failure(
    max: usize,
    len: usize,
) -> impl Strategy<Value = Failure> {
    let name = prop_oneof!["[A-Z][A-Z0-9_]{1,61}[A-Z0-9]", Just(String::new())];
    let like_id = select(vec![REQUEST_ID, "requestid", "requestId2"]);
    let key = prop_oneof![
        "[a-z][a-zA-Z0-9]{0,9}",
        Just(REQUEST_ID.to_owned()),
        like_id.prop_map(str::to_owned),
    ];
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

/// Failures of which each of the three parts may exceed the budget: by its
/// number, or by the size of one violation or entry among small ones.
pub(super) fn large() -> impl Strategy<Value = Failure> {
    let count =
        || prop_oneof![5 => 0..3_usize, 4 => 0..400_usize, 1 => Just(1_500)];
    let character = select(vec!["x", "%", " ", "\"", "ü", "数", "😀", "\n"]);
    let length = prop_oneof![0..90_usize, 0..9_000_usize];
    let one = (0..30_usize, prop_oneof![Just(0), 0..9_000_usize]);
    (failure(2, 9), count(), count(), length, character, one).prop_map(
        |(mut failure, violations, entries, length, character, (at, size))| {
            let text = |n| {
                let size = if n == at { size } else { 0 };
                format!("{n:04}{}", "x".repeat(size))
            };
            failure.violations.extend((0..violations).map(text).map(violation));
            let entries = (0..entries).map(|n| (format!("{n:04}"), text(n)));
            failure.metadata.extend(entries);
            if let Some(id) = failure.metadata.get_mut(REQUEST_ID) {
                *id += &"r".repeat(size);
            }
            failure.message += &character.repeat(length / character.len());
            failure
        },
    )
}
