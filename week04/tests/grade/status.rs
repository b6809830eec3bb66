use std::panic::resume_unwind;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use prost::Message;
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::pb;
use week04::failure::Failure;
use week04::google_rpc::{NAMES, code_of_http, header_size};
use week04::status::{from_grpc, from_http, to_grpc, to_http};

use support::*;

#[path = "status/support.rs"]
mod support;

const BUDGET: usize = 7 * 1024;

mod send {
    use super::*;

    #[test]
    fn an_http_response_has_the_status_and_the_json_of_the_whole_failure() {
        let long = text(9).prop_map(|text| Failure {
            message: text.repeat(9_000),
            ..Failure::default()
        });
        let failures =
            prop_oneof![8 => failure(17, 300), 2 => large(), 1 => long];
        check(120, (visible(), failures), |(code, failure)| {
            expect_http(&Failure { code, ..failure })
        });
    }

    #[test]
    fn the_retry_after_header_is_rounded_up_to_whole_seconds() {
        let delays = prop::option::of(delays());
        check(300, (codes(), delays), |(code, delay)| {
            let response =
                to_http(&Failure { retry_after: delay, ..example(code) });
            let seen = response.headers().get(RETRY_AFTER);
            let expected = delay.map(|delay| {
                delay.as_nanos().div_ceil(1_000_000_000).to_string()
            });
            let expected: Option<HeaderValue> =
                expected.map(|seconds| seconds.parse().unwrap());
            let what = format!("retry-after for {code:?} and {delay:?}");
            equal(&what, &seen, &expected.as_ref())
        });
    }

    #[test]
    fn grpc_details_repeat_code_and_message_and_have_one_error_info() {
        check(100, (visible(), failure(5, 40)), |(code, failure)| {
            expect_grpc(&Failure { code, ..failure })
        });
    }

    #[test]
    fn an_internal_error_reveals_only_the_reason_and_the_request_id() {
        check(150, (internal(), failure(5, 40)), |(code, failure)| {
            let failure = Failure { code, ..failure };
            expect_grpc(&failure)?;
            expect_http(&failure)
        });
    }
}

mod read {
    use super::*;

    #[test]
    fn a_failure_is_equal_after_grpc_and_after_http() {
        check(150, failure(5, 40), |failure| {
            let public = public(&failure);
            let read = from_grpc(&over_the_wire(&to_grpc(&failure)));
            equal("the failure after gRPC", &read, &public)?;
            let read = from_http(&to_http(&failure));
            equal("the failure after HTTP", &read, &public)
        });
    }

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
            let mut expected =
                Failure { code: not_ok(code), message, ..Failure::default() };
            if decodes {
                let Failure { code, message, .. } = expected;
                expected = Failure { code, message, ..read.clone() };
            }
            equal("the failure", &read, &expected)
        });
    }

    #[test]
    fn malformed_unknown_and_repeated_details_do_not_affect_others() {
        let details = vec(select(details_of_peers()), 0..9);
        check(500, (codes(), details), |(code, chosen)| {
            let expected = Failure {
                code: not_ok(code),
                message: "m".to_owned(),
                ..fields_of(&chosen)
            };
            let rpc = pb::Status {
                code: Code::Aborted.into(), // the header has another code
                message: "another message".to_owned(),
                details: chosen.iter().map(|it| it.any.clone()).collect(),
            };
            let bytes = rpc.encode_to_vec().into();
            let read = from_grpc(&Status::with_details(code, "m", bytes));
            let what = format!("gRPC with the details {:?}", rpc.details);
            equal(&what, &read, &expected)?;

            let details: Vec<_> = chosen.iter().map(|it| &it.json).collect();
            let name = NAMES[code as usize].1;
            let error = json!({ "error": { "status": name, "message": "m",
                                           "details": details } });
            let read = from_http(&response(503, &error.to_string()));
            equal(&format!("HTTP with {details:?}"), &read, &expected)
        });
    }

    #[test]
    fn a_body_of_a_proxy_has_the_code_of_its_http_status() {
        for number in 100..=999 {
            let status = StatusCode::from_u16(number).unwrap();
            let expected = Failure {
                code: code_of_http(status),
                message: status.to_string(),
                ..Failure::default()
            };
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
                let body = body.replace('\'', "\"");
                let seen = from_http(&response(number, &body));
                assert_eq!(seen, expected, "status {number}, body {body}");
            }
            let no_text = response(number, "").map(|_| [0xff]);
            let seen = from_http(&no_text);
            assert_eq!(seen, expected, "status {number}, no UTF-8");
        }
    }

    #[test]
    fn the_body_counts_and_not_the_http_status_or_the_content_type() {
        let media = select(vec![
            "application/json",
            "application/json; charset=utf-8",
            "text/html",
        ]);
        let inputs = (failure(2, 9), statuses(), prop::option::of(media));
        check(200, inputs, |(failure, number, media)| {
            let mut response = response(number, &json_body(&failure));
            if let Some(media) = media {
                let media = HeaderValue::from_static(media);
                response.headers_mut().insert(CONTENT_TYPE, media);
            }
            let expected = Failure { code: not_ok(failure.code), ..failure };
            let what = format!("status {number}, content-type {media:?}");
            equal(&what, &from_http(&response), &expected)
        });
    }

    #[test]
    fn a_retry_after_header_counts_if_the_body_has_no_delay() {
        let inputs = (codes(), statuses(), retry_headers(), retry_bodies());
        check(
            500,
            inputs,
            |(code, number, (header, delay), (infos, first))| {
                let name = NAMES[code as usize].1;
                let error = json!({ "error": { "status": name,
                                           "details": infos } });
                let header = HeaderValue::from_bytes(&header).unwrap();
                for (body, in_body) in
                    [(&*error.to_string(), first), ("<html>", None)]
                {
                    let mut response = response(number, body);
                    response.headers_mut().insert(RETRY_AFTER, header.clone());
                    let seen = from_http(&response).retry_after;
                    let what = format!(
                        "the delay for retry-after {header:?}, {number}, {body}"
                    );
                    equal(&what, &seen, &in_body.or(delay))?;
                }
                Ok(())
            },
        );
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
                let error = format!("the metadata is cut first, {kept}");
                ensure(violations == 0, error)?;
                part(&all, 0, metadata + 1, message)
            } else if violations < all.violations.len() {
                part(&all, violations + 1, metadata, message)
            } else {
                return Ok(());
            };
            let size = header_size(&encode(&one_more));
            ensure(size > BUDGET, format!("one more would fit, {kept}"))
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
