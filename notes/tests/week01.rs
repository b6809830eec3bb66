//! What the page on gRPC says of header compression, counted on a connection.

use std::fs;
use std::path::Path;

use h2::client;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use tokio::io::{AsyncReadExt, DuplexStream};

const HOST: &str = "comments.internal:9000";
const PATH: &str = "/comments.v1.CommentService/ListComments";

/// How many calls are made on the connection.
const CALLS: usize = 1000;

#[test]
fn the_bytes_of_a_call_s_headers() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without I/O");
    let compressed = runtime.block_on(http2(Indexed::All));
    let apart = runtime.block_on(http2(Indexed::WhatComesBack));
    let page = "pages/week01/grpc.md";
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let page = fs::read_to_string(page).unwrap();
    let says = |name: &str, bytes: &[usize]| {
        assert_eq!(bytes.len(), CALLS, "{name}");
        let mean = bytes.iter().sum::<usize>() as f64 / CALLS as f64;
        let [first, second, later] = [0, 1, 27].map(|call| bytes[call]);
        let row =
            format!("| {name} | {first} | {second} | {later} | {mean:.0} |");
        assert!(page.contains(&row), "the page does not say\n{row}");
    };
    let text: Vec<_> = (1..).take(CALLS).map(http1).collect();
    says("HTTP/1.1, as text", &text);
    says("HTTP/2, compressed", &compressed);
    says("HTTP/2, with deadline and trace kept out of the table", &apart);

    let is_longer = |bytes: usize| bytes > 130;
    let longer = (0..).zip(&compressed).filter(|(_, it)| is_longer(**it));
    let longer: Vec<u64> = longer.map(|(call, _)| call + 1).collect();
    assert_eq!(longer[..4], [1, 28, 55, 82], "every 27 calls");
}

/// What `h2` may put into the table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Indexed {
    All,
    /// Not the deadline, nor the trace.
    WhatComesBack,
}

/// What goes along with call number `call`. The deadline and the trace are
/// other ones each time.
fn headers(call: u64) -> HeaderMap {
    let deadline = format!("{}m", 100 + call % 900);
    let trace = call.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let trace =
        format!("00-{trace:016x}{0:016x}-{0:016x}-01", trace.reverse_bits());
    let pairs = [
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "grpc-go/1.80.0"),
        ("x-caller", "web-bff"),
        ("grpc-timeout", &deadline),
        ("traceparent", &trace),
    ];
    pairs
        .into_iter()
        .map(|(name, value)| {
            let value = HeaderValue::from_str(value).unwrap();
            (HeaderName::from_static(name), value)
        })
        .collect()
}

fn http1(call: u64) -> usize {
    let mut head = format!("POST {PATH} HTTP/1.1\r\nhost: {HOST}\r\n");
    for (name, value) in &headers(call) {
        head += &format!("{name}: {}\r\n", value.to_str().unwrap());
    }
    head += "\r\n";
    head.len()
}

/// Of each call on one connection, in order.
async fn http2(indexed: Indexed) -> Vec<usize> {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    let (mut calls, connection) = client::handshake(ours).await.unwrap();
    let work = tokio::spawn(connection);
    for call in (1..).take(CALLS) {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::builder()
            .scheme("http")
            .authority(HOST)
            .path_and_query(PATH)
            .build()
            .unwrap();
        *request.headers_mut() = headers(call);
        if indexed == Indexed::WhatComesBack {
            for name in ["grpc-timeout", "traceparent"] {
                let value = request.headers_mut().get_mut(name);
                value.unwrap().set_sensitive(true);
            }
        }
        let (answer, body) = calls.send_request(request, false).unwrap();
        // Nobody will answer.
        drop((answer, body));
        tokio::task::yield_now().await;
    }
    drop(calls);
    tokio::task::yield_now().await;
    work.abort();
    let _ = work.await;
    header_frames(&mut theirs).await
}

/// RFC 9113, section 4.1: a frame is a length of 24 bits, a type, a flag, a
/// stream of 31 bits behind one that is reserved, and the payload.
async fn header_frames(from: &mut DuplexStream) -> Vec<usize> {
    const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
    const HEAD: usize = 9;
    const HEADERS: u8 = 1;
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).await.unwrap();
    let mut rest = &bytes[PREFACE..];
    let mut sizes = Vec::new();
    while let Some((head, after)) = rest.split_first_chunk::<HEAD>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let length = usize::try_from(length).unwrap();
        if head[3] == HEADERS {
            sizes.push(HEAD + length);
        }
        rest = &after[length..];
    }
    sizes
}
