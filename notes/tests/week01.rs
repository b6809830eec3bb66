//! Counts the bytes of request headers, for the table on the gRPC page.

use std::fs;
use std::path::Path;

use h2::client;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use tokio::io::{AsyncReadExt, DuplexStream};

const HOST: &str = "comments.internal:9000";
const PATH: &str = "/comments.v1.CommentService/ListComments";

/// The number of calls on one connection.
const CALLS: usize = 1000;

#[test]
fn the_page_shows_the_measured_header_bytes() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without I/O should build");
    let compressed = runtime.block_on(http2(Indexed::All));
    let without_varying = runtime.block_on(http2(Indexed::RepeatedHeaders));
    let page = "pages/week01/grpc.md";
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let page = fs::read_to_string(page).unwrap();
    let check_row = |name: &str, bytes: &[usize]| {
        assert_eq!(bytes.len(), CALLS, "measured calls of {name}");
        let mean = bytes.iter().sum::<usize>() as f64 / CALLS as f64;
        let [first, second, later] = [0, 1, 27].map(|call| bytes[call]);
        let row =
            format!("| {name} | {first} | {second} | {later} | {mean:.0} |");
        assert!(page.contains(&row), "expected on the page:\n{row}");
    };
    let text: Vec<_> = (1..).take(CALLS).map(http1).collect();
    check_row("HTTP/1.1, as text", &text);
    check_row("HTTP/2, compressed", &compressed);
    check_row(
        "HTTP/2, with deadline and trace kept out of the table",
        &without_varying,
    );

    let is_longer = |bytes: usize| bytes > 130;
    let longer = (0..).zip(&compressed).filter(|(_, bytes)| is_longer(**bytes));
    let longer: Vec<u64> = longer.map(|(call, _)| call + 1).collect();
    assert_eq!(
        longer[..4],
        [1, 28, 55, 82],
        "the calls with longer headers: expected every 27th"
    );
}

/// The headers that `h2` may put into its table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Indexed {
    All,
    /// All but the deadline and the trace, which differ in each call.
    RepeatedHeaders,
}

/// Returns the headers of call number `call`. The deadline and the trace are
/// different in each call.
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

/// Returns the bytes of the request head as HTTP/1.1 text.
fn http1(call: u64) -> usize {
    let mut head = format!("POST {PATH} HTTP/1.1\r\nhost: {HOST}\r\n");
    for (name, value) in &headers(call) {
        head += &format!("{name}: {}\r\n", value.to_str().unwrap());
    }
    head += "\r\n";
    head.len()
}

/// Returns the bytes of the header frame of each call, in order, on one HTTP/2
/// connection.
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
        if indexed == Indexed::RepeatedHeaders {
            for name in ["grpc-timeout", "traceparent"] {
                let value = request.headers_mut().get_mut(name);
                value.unwrap().set_sensitive(true);
            }
        }
        // No server responds.
        drop(calls.send_request(request, false).unwrap());
        tokio::task::yield_now().await;
    }
    drop(calls);
    tokio::task::yield_now().await;
    work.abort();
    let _ = work.await;
    header_frames(&mut theirs).await
}

/// Reads all frames, and returns the bytes of each header frame.
///
/// RFC 9113, section 4.1: a frame has a length of 24 bits, a type and flags of 8
/// bits each, a reserved bit, a stream of 31 bits, and the payload.
async fn header_frames(from: &mut DuplexStream) -> Vec<usize> {
    const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
    const FRAME_HEADER: usize = 9;
    const HEADERS: u8 = 1;
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).await.unwrap();
    let mut rest = &bytes[PREFACE..];
    let mut sizes = Vec::new();
    while let Some((head, after)) = rest.split_first_chunk::<FRAME_HEADER>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let length = usize::try_from(length).unwrap();
        if head[3] == HEADERS {
            sizes.push(FRAME_HEADER + length);
        }
        rest = &after[length..];
    }
    sizes
}
