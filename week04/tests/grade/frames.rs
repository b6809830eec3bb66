use std::collections::BTreeMap;
use std::fmt::Write;
use std::iter;

use bytes::Buf;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint, encode_varint};
use week04::frames::*;
use week04::wire_format::{
    DATA, Error, Field, MAX_FIELD_NUMBER, PADDED, PREFACE, Value,
};
use week04_api::profile::v1::profile::Contact;
use week04_api::profile::v1::{Address, Numbers, Phone, Profile};

mod varints {
    use super::*;

    #[test]
    fn every_varint_is_written_and_read_as_by_prost() {
        for value in integers() {
            let mut expected = Vec::new();
            encode_varint(value, &mut expected);
            // Bytes are appended to what is there.
            let mut bytes = vec![0xff];
            write_varint(value, &mut bytes);
            assert_eq!(hex(&bytes[1..]), hex(&expected), "varint of {value}");
            assert_eq!(bytes[0], 0xff, "the byte before the varint");

            bytes.push(0xff);
            let mut rest = &bytes[1..];
            assert_eq!(read_varint(&mut rest), Ok(value), "{}", hex(&bytes));
            assert_eq!(rest, [0xff], "the bytes after {}", hex(&bytes));
            for end in 0..expected.len() {
                let read = read_varint(&mut &expected[..end]);
                let cut = hex(&expected[..end]);
                assert_eq!(read, Err(Error::Truncated), "varint {cut}");
            }
        }
    }

    #[test]
    fn a_varint_may_have_ten_bytes_and_64_bits_but_not_more() {
        for length in 1..=12 {
            for last in 0..0x80 {
                for fill in [0x80, 0x81, 0xff] {
                    let mut bytes = vec![fill; length - 1];
                    bytes.push(last);
                    let expected = decode_varint(&mut &bytes[..])
                        .map_err(|_| Error::VarintOverflow);
                    let read = read_varint(&mut &bytes[..]);
                    assert_eq!(read, expected, "varint {}", hex(&bytes));
                }
            }
        }
        let endless = read_varint(&mut &[0xff; 1_500][..]);
        assert_eq!(endless, Err(Error::VarintOverflow), "1,500 bytes of ff");
    }

    #[test]
    fn an_int32_is_written_and_read_as_by_prost() {
        for varint in integers() {
            let bytes = field(3, &Value::Varint(varint));
            let value = Numbers::decode(&bytes[..]).unwrap().int32_value;
            assert_eq!(to_int32(varint), value, "int32 of {varint:#x}");
            if value != 0 {
                let numbers =
                    Numbers { int32_value: value, ..Numbers::default() };
                let written = field(3, &Value::Varint(from_int32(value)));
                let expected = numbers.encode_to_vec();
                assert_eq!(hex(&written), hex(&expected), "int32 {value}");
            }
        }
        assert_eq!(from_int32(0), 0, "varint of the int32 0");
    }

    #[test]
    fn a_sint64_is_written_and_read_as_by_prost() {
        for varint in integers() {
            let bytes = field(8, &Value::Varint(varint));
            let value = Numbers::decode(&bytes[..]).unwrap().sint64_value;
            assert_eq!(unzigzag(varint), value, "sint64 of {varint:#x}");
            assert_eq!(zigzag(value), varint, "varint of the sint64 {value}");
        }
    }
}

mod fields {
    use super::*;

    #[test]
    fn a_field_of_every_scalar_type_is_read_and_written_as_by_prost() {
        let tags = vec!["many".into(); 1_500];
        let many = Profile { tags, ..profile() }.encode_to_vec();
        let scalars = integers().map(|value| numbers(value).encode_to_vec());
        for bytes in scalars.chain([many]) {
            let fields = decode_fields(&bytes);
            let expected = fields_by_prost(&bytes).expect("bytes of prost");
            assert_eq!(fields, Ok(expected), "the fields of {}", hex(&bytes));
            let written = encode_fields(&fields.unwrap());
            assert_eq!(hex(&written), hex(&bytes), "the encoded fields");
        }
    }

    #[test]
    fn any_bytes_are_accepted_or_rejected_as_by_prost() {
        for bytes in samples(2_000, vec(any::<u8>(), 0..300)) {
            assert_same_as_prost(&bytes);
        }
        let valid = profile().encode_to_vec();
        for position in 0..valid.len() {
            let mut bytes = valid.clone();
            for byte in 0..=u8::MAX {
                bytes[position] = byte;
                assert_same_as_prost(&bytes);
            }
        }
    }

    #[test]
    fn a_field_that_extends_beyond_the_end_is_truncated() {
        for length in integers().filter(|length| *length > 5) {
            let read = read_bytes(&mut &b"hello"[..], length);
            assert_eq!(read, Err(Error::Truncated), "{length} bytes of 5");
        }
        let mut bytes = &b"hello"[..];
        assert_eq!(read_bytes(&mut bytes, 0), Ok(&b""[..]), "0 bytes of 5");
        assert_eq!(read_bytes(&mut bytes, 4), Ok(&b"hell"[..]), "4 bytes of 5");
        assert_eq!(bytes, b"o", "the bytes after 4 bytes of 5");
        assert_eq!(read_bytes(&mut bytes, 1), Ok(&b"o"[..]), "1 byte of 1");
        let values =
            (0..64).map(|bit| numbers(u64::MAX << bit).encode_to_vec());
        for bytes in values.chain([profile().encode_to_vec()]) {
            for end in 0..bytes.len() {
                let cut = &bytes[..end];
                let expected = fields_by_prost(cut).ok_or(Error::Truncated);
                assert_eq!(decode_fields(cut), expected, "of {}", hex(cut));
            }
        }
        let powers = (1..64).map(|bit| 1 << bit);
        let lengths = powers.chain(u64::MAX - 300..=u64::MAX);
        for length in lengths.flat_map(|length| [length, length | 1]) {
            let mut bytes = field(6, &Value::Fixed32(7));
            bytes.push(2 << 3 | 2);
            encode_varint(length, &mut bytes);
            bytes.push(0);
            let fields = decode_fields(&bytes);
            assert_eq!(fields, Err(Error::Truncated), "of {}", hex(&bytes));
        }
    }

    #[test]
    fn an_invalid_field_number_or_wire_type_is_an_error() {
        let max = u64::from(MAX_FIELD_NUMBER);
        let far = (29..61).map(|bit| 1_u64 << bit);
        let near = (0..30).flat_map(|bit| [1 << bit, (1 << bit) - 1]);
        for number in far.chain(near).chain([(1 << 61) - 1, (1 << 32) + 1]) {
            for wire_type in 0..8 {
                let mut bytes = Vec::new();
                encode_varint(number << 3 | wire_type, &mut bytes);
                // A complete value of every wire type.
                bytes.extend([7, 0, 0, 0, 0, 0, 0, 0]);
                let valid_number = (1..=max).contains(&number);
                let valid_type = matches!(wire_type, 0 | 1 | 2 | 5);
                let fields = decode_fields(&bytes);
                let seen =
                    format!("got {fields:?} for field {number}:{wire_type}");
                if !valid_number && valid_type {
                    let expected = Error::FieldNumber(number);
                    assert!(fields == Err(expected), "{expected:?}: {seen}");
                } else if valid_number && !valid_type {
                    let expected = Error::WireType(wire_type as u8);
                    assert!(fields == Err(expected), "{expected:?}: {seen}");
                } else if valid_number && wire_type > 0 {
                    // After a varint of one byte, seven zeros remain.
                    assert_same_as_prost(&bytes);
                } else {
                    assert!(fields.is_err(), "expected an error, {seen}");
                }
            }
        }
    }

    #[test]
    fn a_changed_field_leaves_unknown_fields_as_they_were() {
        let unknown = field(MAX_FIELD_NUMBER, &Value::Fixed64(u64::MAX));
        let again = field(2, &Value::Len(b"an earlier nickname".into()));
        let bytes =
            [&unknown, &again, &profile().encode_to_vec()[..], &unknown]
                .concat();
        let mut fields = decode_fields(&bytes).expect("valid fields");
        assert_eq!(hex(&encode_fields(&fields)), hex(&bytes), "all fields");

        let nickname = fields.iter_mut().rfind(|field| field.number == 2);
        nickname.expect("field 2").value = Value::Len(b"Zo".into());
        let changed = encode_fields(&fields);
        let expected = Profile { nickname: "Zo".into(), ..profile() };
        let read = Profile::decode(&changed[..]);
        assert_eq!(read, Ok(expected), "prost read the changed message");
        for end in [&changed[..unknown.len()], &changed[changed.len() - 13..]] {
            assert_eq!(hex(end), hex(&unknown), "the unknown field");
        }
    }
}

mod streams {
    use super::*;

    #[test]
    fn grpc_messages_are_separated_by_their_lengths() {
        let sizes = [0, 1, 5, 130, 255, 256, 257, 1_500, 65_535, 65_536];
        let large = [(true, vec![7; 300_000]), (false, vec![8; (1 << 24) + 1])];
        let mixed = sizes.map(|size| (size % 2 == 1, vec![size as u8; size]));
        let many = vec![(false, vec![3]); 1_500];
        for messages in [&large[..], &mixed, &many, &[]] {
            let data: Vec<_> = messages.iter().map(grpc_message).collect();
            assert_messages(&data.concat(), Ok(messages));
        }
        let message = (any::<bool>(), vec(any::<u8>(), 0..20));
        for messages in samples(50, vec(message, 0..6)) {
            let data: Vec<_> = messages.iter().map(grpc_message).collect();
            let ends = ends(&data);
            let data = data.concat();
            for end in 0..=data.len() {
                let whole = ends.binary_search(&end);
                let expected = whole.map(|count| &messages[..count]);
                assert_messages(&data[..end], expected.map_err(|_| ()));
            }
        }
        for claimed in (17..32).map(|bit| 1_u32 << bit).chain([u32::MAX]) {
            let data = [&[0][..], &claimed.to_be_bytes(), b"short"].concat();
            assert_messages(&data, Err(()));
        }
    }

    #[test]
    fn an_invalid_compressed_flag_or_stream_id_is_an_error() {
        for flag in 2..=u8::MAX {
            for before in [0, 2] {
                let mut data = grpc_message(&(false, vec![1])).repeat(before);
                data.extend([flag, 0, 0, 0, 0]);
                let expected = Err(Error::CompressedFlag(flag));
                assert_eq!(grpc_messages(&data), expected, "flag {flag}");
            }
        }
        for id in [0, 1 << 31] {
            for data in [&b""[..], b"hello"] {
                let parts = [frame(DATA, 0, 3, data), frame(DATA, 1, id, data)];
                let streams = stream_data(&parts.concat());
                let expected = Err(Error::StreamZero);
                assert_eq!(streams, expected, "stream id {id:#x}");
            }
        }
    }

    #[test]
    fn data_frames_are_joined_for_each_stream_and_other_frames_skipped() {
        for frames in samples(150, vec(frame_on_any_stream(), 0..8)) {
            let (parts, data): (Vec<_>, Vec<_>) = frames.into_iter().unzip();
            let ends = ends(&parts);
            for preface in [PREFACE, &[]] {
                let recording = [preface, &parts.concat()].concat();
                for end in preface.len()..=recording.len() {
                    let seen = stream_data(&recording[..end]);
                    let whole = ends.binary_search(&(end - preface.len()));
                    let expected = whole.map(|count| joined(&data[..count]));
                    let expected = expected.map_err(|_| Error::Truncated);
                    let cut = hex(&recording[..end]);
                    assert_eq!(seen, expected, "the data in {cut}");
                }
            }
        }
        let many = (0..1_500).map(|n| Some((n % 600 * 2 + 1, vec![n as u8])));
        let many: Vec<_> = many.collect();
        let parts = many.iter().flatten();
        let parts = parts.flat_map(|(id, data)| frame(DATA, 0, *id, data));
        let streams = stream_data(&parts.collect::<Vec<_>>());
        assert_eq!(streams, Ok(joined(&many)), "1,500 frames of 600 streams");
        let kinds = 1..=u8::MAX;
        let others = kinds.flat_map(|kind| frame(kind, u8::MAX, 1, b"others"));
        let streams = stream_data(&others.collect::<Vec<_>>());
        assert_eq!(streams, Ok(BTreeMap::new()), "frames of all other types");
        for length in [255, 256, 65_535, 65_536, (1 << 24) - 1] {
            let data = vec![9; length];
            let parts = [frame(6, 0, 0, &data), frame(DATA, 0, 1, &data)];
            let streams = stream_data(&parts.concat()).expect("two frames");
            assert!(streams[&1] == data, "the data of a frame of {length}");
        }
    }

    #[test]
    fn padding_is_not_data_and_must_fit_into_its_frame() {
        for padding in 0..=u8::MAX {
            for size in [0, 1, 17, 254, 255, 256] {
                let payload = [&[padding][..], &vec![padding; size]].concat();
                let streams = stream_data(&frame(DATA, PADDED, 5, &payload));
                let expected = size
                    .checked_sub(padding.into())
                    .map(|size| BTreeMap::from([(5, vec![padding; size])]));
                let expected = expected.ok_or(Error::Padding);
                assert_eq!(streams, expected, "{padding} of {size} bytes");
            }
        }
        let empty = stream_data(&frame(DATA, PADDED, 5, &[]));
        assert_eq!(empty, Err(Error::Padding), "no byte for the length");
    }

    #[test]
    fn any_bytes_are_read_without_a_panic() {
        for bytes in samples(3_000, vec(any::<u8>(), 0..300)) {
            let _ = grpc_messages(&bytes);
            let _ = stream_data(&bytes);
            let _ = stream_data(&[PREFACE, &bytes].concat());
        }
        let messages = grpc_message(&(true, b"abc".into())).repeat(3);
        let padded = [&[2][..], &messages].concat();
        let frames = [frame(1, 4, 1, b"h"), frame(DATA, PADDED, 1, &padded)];
        let recording = [PREFACE, &frames.concat()].concat();
        for position in 0..recording.len() {
            let mut bytes = recording.clone();
            for byte in 0..=u8::MAX {
                bytes[position] = byte;
                let _ = grpc_messages(&bytes[position..]);
                let _ = stream_data(&bytes);
                let _ = stream_data(&bytes[..position]);
            }
        }
    }
}

mod call {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use futures_util::future::join_all;
    use hyper::server::conn::http2;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use hyper_util::service::TowerToHyperService;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;
    use tonic::{Request, Response, Status};
    use week04_api::comments::v1::comment_service_client as client;
    use week04_api::comments::v1::comment_service_server::{
        CommentService, CommentServiceServer,
    };
    use week04_api::comments::v1::*;

    use super::*;

    #[tokio::test]
    async fn the_messages_of_concurrent_tonic_calls_are_found_in_the_bytes() {
        // Small messages, and messages that need several frames each.
        let requests = [0, 1, 130, 17_000, 40_000, 120_000].map(|size| {
            let title = "é".repeat(size / 2);
            let name = format!("subjects/{size}");
            let subject = Subject { name, title, ..Subject::default() };
            let subject_id = format!("{size}");
            CreateSubjectRequest { subject: Some(subject), subject_id }
        });
        let calls = timeout(Duration::from_secs(8), record(&requests)).await;
        let [sent, received] = calls.expect("the calls end in 8 s");
        let sent = stream_data(&sent).expect("the streams of the client");
        let received =
            stream_data(&received).expect("the streams of the server");
        assert!(sent.keys().eq(received.keys()), "each call has one stream id");

        let mut found = BTreeSet::new();
        for (id, data) in &sent {
            let payloads = [data, &received[id]].map(|data| {
                let messages = grpc_messages(data).expect("gRPC messages");
                assert_eq!(messages.len(), 1, "the messages of stream {id}");
                assert!(!messages[0].compressed, "compression is off");
                let payload = messages[0].payload;
                let fields = decode_fields(payload).expect("protobuf fields");
                let same = encode_fields(&fields) == payload;
                assert!(same, "the fields of stream {id}, encoded again");
                payload
            });
            let request = CreateSubjectRequest::decode(payloads[0]).unwrap();
            let answer = Subject::decode(payloads[1]).unwrap();
            assert_eq!(request.subject, Some(answer), "stream {id}");
            assert!(requests.contains(&request), "a request of {id}");
            found.insert(request.subject_id);
        }
        assert_eq!(found.len(), requests.len(), "requests found: {found:?}");
    }

    /// Calls an echo server at once with all requests. Returns all bytes that
    /// the client has sent and received.
    async fn record(requests: &[CreateSubjectRequest]) -> [Vec<u8>; 2] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let calls = async {
            let connected = client::CommentServiceClient::connect(address);
            let client = connected.await.unwrap();
            let calls = join_all(requests.iter().map(|request| {
                let (mut client, request) = (client.clone(), request.clone());
                async move { client.create_subject(request).await }
            }));
            for answer in calls.await {
                answer.expect("the answer of the echo server");
            }
        };
        let proxy = async {
            let (client, _) = listener.accept().await.unwrap();
            let (ours, theirs) = tokio::io::duplex(5_000);
            let echo = CommentServiceServer::new(Echo);
            let served = http2::Builder::new(TokioExecutor::new())
                .serve_connection(
                    TokioIo::new(theirs),
                    TowerToHyperService::new(echo),
                );
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = tokio::io::split(ours);
            let (_, sent, received) = tokio::join!(
                served,
                forward(from_client, to_server),
                forward(from_server, to_client),
            );
            [sent, received]
        };
        let ((), recordings) = tokio::join!(calls, proxy);
        recordings
    }

    /// Forwards all bytes, and returns them.
    async fn forward(
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> Vec<u8> {
        let mut recording = Vec::new();
        let mut start = 0;
        while from.read_buf(&mut recording).await.is_ok_and(|read| read > 0) {
            // The other side may have closed the connection already.
            let _ = to.write_all(&recording[start..]).await;
            start = recording.len();
        }
        let _ = to.shutdown().await;
        recording
    }

    struct Echo;

    macro_rules! implement_only_create_subject {
        ($($method:ident: $request:ty => $response:ty,)*) => {
            #[tonic::async_trait]
            impl CommentService for Echo {
                async fn create_subject(
                    &self,
                    request: Request<CreateSubjectRequest>,
                ) -> Result<Response<Subject>, Status> {
                    let subject = request.into_inner().subject;
                    Ok(Response::new(subject.unwrap_or_default()))
                }

                $(async fn $method(
                    &self,
                    _request: Request<$request>,
                ) -> Result<Response<$response>, Status> {
                    Err(Status::unimplemented("not part of this test"))
                })*
            }
        };
    }

    implement_only_create_subject! {
        get_subject: GetSubjectRequest => Subject,
        create_comment: CreateCommentRequest => Comment,
        get_comment: GetCommentRequest => Comment,
        list_comments: ListCommentsRequest => ListCommentsResponse,
        update_comment: UpdateCommentRequest => Comment,
        delete_comment: DeleteCommentRequest => (),
        like_comment: LikeCommentRequest => LikeCommentResponse,
    }
}

/// Returns `count` values, the same in each run.
fn samples<S: Strategy>(
    count: usize,
    values: S,
) -> impl Iterator<Item = S::Value> {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    iter::repeat_with(move || values.new_tree(&mut runner).unwrap().current())
        .take(count)
}

/// Returns integers near every power of two, and random ones.
fn integers() -> impl Iterator<Item = u64> {
    let powers = (0..64).map(|bit| 1_u64 << bit);
    powers
        .flat_map(|power| [power, power - 1, power + 1, !power])
        .chain(samples(300, any::<u64>()))
}

/// Returns a message with a value in each field, made of the bits of `value`.
fn numbers(value: u64) -> Numbers {
    Numbers {
        double_value: f64::from_bits(value | 1),
        float_value: f32::from_bits(value as u32 | 1),
        int32_value: value as i32,
        int64_value: value as i64,
        uint32_value: value as u32,
        uint64_value: value,
        sint32_value: value as i32,
        sint64_value: value as i64,
        fixed32_value: value as u32,
        fixed64_value: value,
        sfixed32_value: value as i32,
        sfixed64_value: value as i64,
        bool_value: value % 2 == 1,
        string_value: value.to_string(),
        bytes_value: vec![value as u8; value as usize % 300],
        packed_values: vec![value as i64; value as usize % 4],
    }
}

/// Returns a message with repeated, nested, map and `oneof` fields.
fn profile() -> Profile {
    let home = Address { street: "Ring 9".into(), ..Address::default() };
    Profile {
        nickname: "Zoë".into(),
        address: Some(home.clone()),
        labels: [("k".into(), String::new())].into(),
        tags: vec!["a".into(), String::new(), "a".into()],
        former_addresses: vec![home, Address::default()],
        age: Some(-1),
        contact: Some(Contact::Phone(Phone { number: "1".into() })),
        numbers: Some(numbers(0xfedc_ba98)),
        ..Profile::default()
    }
}

/// Returns the bytes of one field.
fn field(number: u32, value: &Value) -> Vec<u8> {
    encode_fields(&[Field { number, value: value.clone() }])
}

fn assert_same_as_prost(bytes: &[u8]) {
    let (seen, expected) = (decode_fields(bytes), fields_by_prost(bytes));
    let seen_by_prost = expected.as_ref().ok_or("an error");
    assert!(
        seen.as_ref().ok() == expected.as_ref(),
        "expected {seen_by_prost:?} as by prost, got {seen:?} for {}",
        hex(bytes),
    );
}

/// Decodes fields with prost's functions. Returns `None` if prost reports an
/// error, or for a group.
fn fields_by_prost(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let (number, wire_type) = decode_key(&mut bytes).ok()?;
        let value = match wire_type {
            WireType::Varint => Value::Varint(decode_varint(&mut bytes).ok()?),
            WireType::SixtyFourBit => {
                Value::Fixed64(bytes.try_get_u64_le().ok()?)
            }
            WireType::LengthDelimited => {
                let length = decode_varint(&mut bytes).ok()?;
                let (value, rest) = bytes.split_at_checked(length as usize)?;
                bytes = rest;
                Value::Len(value.into())
            }
            WireType::ThirtyTwoBit => {
                Value::Fixed32(bytes.try_get_u32_le().ok()?)
            }
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        fields.push(Field { number, value });
    }
    Some(fields)
}

/// Returns the bytes of a gRPC message: the compressed flag and the payload.
fn grpc_message((compressed, payload): &(bool, Vec<u8>)) -> Vec<u8> {
    let length = payload.len() as u32;
    [&[u8::from(*compressed)], &length.to_be_bytes()[..], payload].concat()
}

fn assert_messages(data: &[u8], expected: Result<&[(bool, Vec<u8>)], ()>) {
    let seen = grpc_messages(data).map(|messages| {
        let parts = messages.iter().map(|m| (m.compressed, m.payload.to_vec()));
        parts.collect::<Vec<_>>()
    });
    let expected = expected.map(<[_]>::to_vec).map_err(|()| Error::Truncated);
    let lengths = |messages: &Vec<(bool, Vec<u8>)>| {
        messages.iter().map(|(_, payload)| payload.len()).collect::<Vec<_>>()
    };
    assert!(
        seen == expected,
        "expected payloads of {:?} bytes, got {:?}; {} bytes begin with {}",
        expected.as_ref().map(lengths),
        seen.as_ref().map(lengths),
        data.len(),
        hex(&data[..data.len().min(200)]),
    );
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    [&length, &[kind, flags][..], &id.to_be_bytes(), payload].concat()
}

/// Generates a frame, and what it adds to the data of its stream.
fn frame_on_any_stream()
-> impl Strategy<Value = (Vec<u8>, Option<(u32, Vec<u8>)>)> {
    let kind = prop_oneof![4 => Just(DATA), 1 => 1..=u8::MAX];
    let id = prop_oneof![1..4_u32, Just(u32::MAX >> 1)];
    let data = vec(any::<u8>(), 0..12);
    let reserved = any::<bool>();
    (kind, any::<u8>(), id, reserved, data, 0..6_u8).prop_map(
        |(kind, flags, id, reserved, data, padding)| {
            let mut payload = data.clone();
            if kind == DATA && flags & PADDED != 0 {
                payload.insert(0, padding);
                payload.extend(vec![0xee; padding.into()]);
            }
            let bits = id | u32::from(reserved) << 31;
            // SETTINGS, for instance, belong to stream 0.
            let bits = if kind != DATA && reserved { 0 } else { bits };
            let added = (kind == DATA).then_some((id, data));
            (frame(kind, flags, bits, &payload), added)
        },
    )
}

fn joined(data: &[Option<(u32, Vec<u8>)>]) -> BTreeMap<u32, Vec<u8>> {
    let mut streams = BTreeMap::<_, Vec<_>>::new();
    for (id, data) in data.iter().flatten() {
        streams.entry(*id).or_default().extend(data);
    }
    streams
}

/// Returns where each part ends in the concatenation, beginning with 0.
fn ends(parts: &[Vec<u8>]) -> Vec<usize> {
    let mut ends = vec![0];
    for part in parts {
        ends.push(ends[ends.len() - 1] + part.len());
    }
    ends
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x} ").expect("a String takes any text");
        text
    })
}
