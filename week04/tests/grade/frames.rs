use std::collections::BTreeMap;
use std::fmt::Debug;
use std::iter;

use bytes::Buf;
use lab::alloc::{Counting, allocated_bytes};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use prost::Message as _;
use prost::encoding::{self, decode_key, decode_varint};
use week04::frames::*;
use week04::wire_format::{
    DATA, Error, Field, GrpcMessage, MAX_FIELD_NUMBER, PADDED, PREFACE, Value,
};
use week04_api::profile::v1::Numbers;

#[path = "frames/recording.rs"]
mod recording;

mod varints {
    use super::*;

    #[test]
    fn every_varint_is_written_and_read_as_by_prost() {
        for value in integers() {
            // Bytes are appended to what is there.
            let mut written = vec![0x7f];
            write_varint(value, &mut written);
            let expected = [vec![0x7f], varint(value, 1)].concat();
            assert_eq!(written, expected, "{value} written after a byte 127");
            for length in 1..=10 {
                let bytes = varint(value, length);
                for end in 0..bytes.len() {
                    let cut = &bytes[..end];
                    let read = read_varint(&mut &*cut);
                    assert_eq!(read, Err(Error::Truncated), "of {cut:02x?}");
                }
                let followed = [&bytes, &b"rest"[..]].concat();
                let mut rest = &followed[..];
                let read = read_varint(&mut rest);
                let expected = (Ok(value), &b"rest"[..]);
                assert_eq!((read, rest), expected, "of {followed:02x?}");
            }
        }
    }

    #[test]
    fn a_varint_may_have_ten_bytes_and_64_bits_but_not_more() {
        for length in 1..=12 {
            for (last, fill) in (0..0x180).map(|n| (n % 0x80, n / 0x80)) {
                let mut bytes = vec![[0x80, 0x81, 0xff][fill]; length - 1];
                bytes.push(last as u8);
                let expected = decode_varint(&mut &bytes[..])
                    .map_err(|_| Error::VarintOverflow);
                let read = read_varint(&mut &bytes[..]);
                assert_eq!(read, expected, "of {bytes:02x?}");
            }
        }
        let endless = read_varint(&mut &[0xff; 1_500][..]);
        assert_eq!(endless, Err(Error::VarintOverflow), "1,500 bytes of ff");
    }

    #[test]
    fn an_int32_is_written_and_read_as_by_prost() {
        for bits in integers() {
            let bytes = [vec![3 << 3], varint(bits, 1)].concat();
            let value = Numbers::decode(&bytes[..]).unwrap().int32_value;
            assert_eq!(to_int32(bits), value, "int32 of {bits:#x}");
            let mut expected = Vec::new();
            encoding::int32::encode(3, &value, &mut expected);
            let written = varint(from_int32(value), 1);
            assert_eq!(written, expected[1..], "varint of the int32 {value}");
        }
    }

    #[test]
    fn a_sint64_is_written_and_read_as_by_prost() {
        for bits in integers() {
            let bytes = [vec![8 << 3], varint(bits, 1)].concat();
            let value = Numbers::decode(&bytes[..]).unwrap().sint64_value;
            assert_eq!(unzigzag(bits), value, "sint64 of {bits:#x}");
            assert_eq!(zigzag(value), bits, "varint of the sint64 {value}");
        }
    }
}

mod fields {
    use super::*;

    #[test]
    fn fields_are_read_and_written_in_order_and_a_cut_field_is_truncated() {
        for fields in samples(150, vec(any_field(), 0..6)) {
            let (parts, fields): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
            for_each_cut(&parts, |cut, count| {
                let expected = count.map(|count| fields[..count].to_vec());
                assert_reads(decode_fields, cut, expected);
            });
            let written = fields_by_prost(&encode_fields(&fields));
            assert_eq!(written, Some(fields), "prost read what was written");
        }
        let many = vec![Field { number: 1, value: Value::Varint(7) }; 100_000];
        assert_reads(decode_fields, &[8, 7].repeat(100_000), Ok(many));
    }

    #[test]
    fn any_bytes_are_accepted_or_rejected_as_by_prost() {
        let random = samples(2_000, vec(any::<u8>(), 0..300));
        let fields = samples(8, any_field()).map(|(bytes, _)| bytes);
        let changed = changes(fields.collect::<Vec<_>>().concat());
        for bytes in random.chain(changed.map(|(_, bytes)| bytes)) {
            let (seen, expected) =
                (decode_fields(&bytes), fields_by_prost(&bytes));
            assert!(
                seen.as_ref().ok() == expected.as_ref(),
                "expected {} as by prost, got {} for {bytes:02x?}",
                short(&expected),
                short(&seen),
            );
        }
    }

    #[test]
    fn a_length_beyond_the_end_is_truncated_and_allocates_no_memory() {
        for length in integers() {
            let mut rest = &b"hello"[..];
            let read = read_bytes(&mut rest, length).map(|read| (read, rest));
            let parts = b"hello".split_at_checked(length as usize);
            let expected = parts.ok_or(Error::Truncated);
            assert_eq!(read, expected, "{length} bytes of 5, and the rest");
            // One byte follows the length.
            let field = [&[2 << 3 | 2], &varint(length, 1)[..], &[0]].concat();
            for bytes in [&field[..], &[&[8, 7], &field[..]].concat()] {
                if length > 1 {
                    assert_reads(decode_fields, bytes, Err(Error::Truncated));
                }
            }
        }
    }

    #[test]
    fn an_invalid_number_wire_type_or_varint_in_a_field_is_an_error() {
        let powers = (0..61).flat_map(|bit| [1 << bit, (1 << bit) - 1]);
        let large = [(1 << 61) - 1, (1 << 32) + 1];
        let numbers = (0..40_000_u64).step_by(7).chain(powers).chain(large);
        let tags = numbers.flat_map(|number| (number << 3)..=(number << 3 | 7));
        for tag in tags {
            let (number, wire_type) = (tag >> 3, (tag & 7) as u8);
            let zeros = [1, 8, 1, 0, 0, 4, 0, 0][usize::from(wire_type)];
            let bytes =
                [&[8, 7], &varint(tag, 1)[..], &vec![0; zeros]].concat();
            let valid_number = (1..=MAX_FIELD_NUMBER.into()).contains(&number);
            let expected = match (valid_number, zeros > 0) {
                (true, true) => fields_by_prost(&bytes).ok_or(Error::Truncated),
                (true, false) => Err(Error::WireType(wire_type)),
                (false, true) => Err(Error::FieldNumber(number)),
                // Either error is correct, but there must be one.
                (false, false) => decode_fields(&bytes).and(Ok(Vec::new())),
            };
            assert_reads(decode_fields, &bytes, expected);
        }
        // A tag, a value and a length of eleven bytes.
        for start in [&[][..], &[1 << 3], &[1 << 3 | 2]] {
            let bytes = [&[8, 7], start, &varint(8, 11), &[0; 8]].concat();
            assert_reads(decode_fields, &bytes, Err(Error::VarintOverflow));
        }
    }
}

mod streams {
    use super::*;

    #[test]
    fn grpc_messages_are_separated_by_their_lengths() {
        let sizes = [0, 1, 5, 130, 255, 256, 257, 1_500, 65_535, 65_536];
        let sizes = sizes.into_iter().chain([300_000, (1 << 24) + 1, 0]);
        let mixed = sizes.map(|size| message(size % 2 == 1, &vec![7; size]));
        let many = vec![message(false, &[3]); 100_000];
        for messages in [mixed.collect(), many] {
            assert_messages(&messages.concat(), Ok(&messages));
        }
        let any_message = (any::<bool>(), vec(any::<u8>(), 0..20));
        let any_message = any_message.prop_map(|(flag, b)| message(flag, &b));
        for messages in samples(50, vec(any_message, 0..6)) {
            for_each_cut(&messages, |cut, count| {
                assert_messages(cut, count.map(|count| &messages[..count]));
            });
        }
        for claimed in (3..32).map(|bit| 1_u32 << bit).chain([u32::MAX]) {
            let data = [&[0][..], &claimed.to_be_bytes(), b"short"].concat();
            assert_messages(&data, Err(Error::Truncated));
        }
    }

    #[test]
    fn an_invalid_compressed_flag_or_stream_id_is_an_error() {
        for (flag, before) in (4..=511).map(|n| ((n / 2) as u8, n % 2 * 2)) {
            let mut data = message(false, &[1]).repeat(before);
            data.extend([flag, 0, 0, 0, 0]);
            assert_messages(&data, Err(Error::CompressedFlag(flag)));
        }
        for (id, data) in [(0, ""), (0, "hello"), (1 << 31, ""), (1 << 31, "a")]
        {
            let frames = [3, id].map(|id| frame(DATA, 1, id, data.as_bytes()));
            assert_reads(stream_data, &frames.concat(), Err(Error::StreamZero));
        }
    }

    #[test]
    fn data_frames_are_joined_for_each_stream_and_other_frames_skipped() {
        let with_preface = |frames: Vec<_>| {
            [[vec![(PREFACE.to_vec(), None)], frames.clone()].concat(), frames]
        };
        let recordings = samples(150, vec(any_frame(), 0..8));
        for frames in recordings.flat_map(with_preface) {
            let (parts, data): (Vec<_>, Vec<_>) = frames.into_iter().unzip();
            for_each_cut(&parts, |cut, count| {
                let expected = count.map(|count| joined(&data[..count]));
                assert_reads(stream_data, cut, expected);
            });
        }
        let (mut recording, mut expected) = (Vec::new(), BTreeMap::new());
        for n in 0..100_000 {
            let id = n % 600 * 2 + 1;
            recording.extend(frame(DATA, 0, id, &[n as u8]));
            expected.entry(id).or_insert_with(Vec::new).push(n as u8);
        }
        for kind in 1..=u8::MAX {
            recording.extend(frame(kind, u8::MAX, 2, b"others"));
        }
        assert_reads(stream_data, &recording, Ok(expected));
        for length in [255, 256, 65_535, 65_536, (1 << 24) - 1] {
            let data = vec![9; length];
            let parts = [frame(6, 0, 0, &data), frame(DATA, 0, 1, &data)];
            let expected = Ok(BTreeMap::from([(1, data)]));
            assert_reads(stream_data, &parts.concat(), expected);
        }
        // A frame of an unknown type may begin as the preface does.
        let mut like_preface = PREFACE.to_vec();
        like_preface.resize(9 + 0x50_52_49, 7);
        let mut almost = like_preface.clone();
        almost[PREFACE.len() - 1] = 7;
        let parts = [almost, like_preface, frame(DATA, 0, 1, b"data")];
        let expected = Ok(BTreeMap::from([(1, b"data".into())]));
        assert_reads(stream_data, &parts.concat(), expected);
    }

    #[test]
    fn padding_is_not_data_and_must_fit_into_its_frame() {
        let sizes = [0, 1, 17, 254, 255, 256];
        let all = (0..=u8::MAX).flat_map(|n| sizes.map(|size| (n, size)));
        for (padding, size) in all {
            let payload = [&[padding][..], &vec![padding; size]].concat();
            let padded = frame(DATA, PADDED, 5, &payload);
            let frames = [frame(DATA, 0, 5, &[7; 300]), padded].concat();
            let expected = size.checked_sub(padding.into()).map(|size| {
                [(5, [vec![7; 300], vec![padding; size]].concat())].into()
            });
            let expected = expected.ok_or(Error::Padding);
            assert_reads(stream_data, &frames, expected);
        }
        let empty = frame(DATA, PADDED, 5, &[]);
        assert_reads(stream_data, &empty, Err(Error::Padding));
    }

    #[test]
    fn any_bytes_are_read_without_a_panic() {
        let messages = message(true, b"abc").repeat(3);
        let padded = frame(DATA, PADDED, 1, &[&[2], &messages[..]].concat());
        let recording = [PREFACE, &frame(1, 4, 1, b"h"), &padded].concat();
        let random = samples(3_000, vec(any::<u8>(), 0..300)).map(|b| (0, b));
        for (position, bytes) in random.chain(changes(recording)) {
            let _ = grpc_messages(&bytes[position..]);
            let _ = stream_data(&bytes);
            let _ = stream_data(&bytes[..position]);
            let _ = stream_data(&[PREFACE, &bytes].concat());
        }
    }
}

mod call {
    use std::collections::BTreeSet;

    use week04_api::comments::v1::{CreateSubjectRequest, Subject};

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
        let [sent, received] = recording::record(&requests)
            .await
            .map(|bytes| stream_data(&bytes).expect("the streams of one side"));
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
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Checks what `read` returns, and how much memory it allocates.
fn assert_reads<'a, T: Debug + PartialEq>(
    read: fn(&'a [u8]) -> Result<T, Error>,
    bytes: &'a [u8],
    expected: Result<T, Error>,
) {
    let before = allocated_bytes();
    let results = [expected, read(bytes)];
    let allocated = allocated_bytes() - before;
    // A field in memory is much larger than its bytes, and vectors grow.
    let limit = 4_096 + 200 * bytes.len();
    let [expected, seen] = &results;
    assert!(
        seen == expected && allocated <= limit,
        "expected {} and up to {limit} allocated bytes, got {} and {allocated} \
         for {} bytes: {:02x?}",
        short(expected),
        short(seen),
        bytes.len(),
        &bytes[..bytes.len().min(200)],
    );
}

fn short(value: &dyn Debug) -> String {
    format!("{:.600}", format!("{value:?}"))
}

/// Calls `check` with each beginning of the joined parts, and with the number
/// of parts in it. If it ends inside a part, the number is an error.
fn for_each_cut(
    parts: &[Vec<u8>],
    check: impl Fn(&[u8], Result<usize, Error>),
) {
    let bytes = parts.concat();
    check(&[], Ok(0));
    let mut start = 0;
    for (count, part) in parts.iter().enumerate() {
        for end in start + 1..start + part.len() {
            check(&bytes[..end], Err(Error::Truncated));
        }
        start += part.len();
        check(&bytes[..start], Ok(count + 1));
    }
}

/// Returns the bytes with each byte changed to each value, and its position.
fn changes(bytes: Vec<u8>) -> impl Iterator<Item = (usize, Vec<u8>)> {
    (0..bytes.len() << 8).map(move |n| {
        let mut changed = bytes.clone();
        changed[n >> 8] = n as u8;
        (n >> 8, changed)
    })
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
    (0..64)
        .flat_map(|bit| [1 << bit, (1 << bit) - 1, (1 << bit) + 1, !(1 << bit)])
        .chain([u64::MAX])
        .chain(samples(300, any::<u64>()))
}

/// Returns `value` as a varint of at least `length` bytes.
fn varint(value: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    encoding::encode_varint(value, &mut bytes);
    for last in bytes.len()..length {
        bytes[last - 1] |= 0x80;
        bytes.push(0);
    }
    bytes
}

/// Generates a field and its bytes. Their varints may be longer than necessary.
fn any_field() -> impl Strategy<Value = (Vec<u8>, Field)> {
    let number = prop_oneof![1..20_u32, 1..=MAX_FIELD_NUMBER];
    let integer = || select(integers().collect::<Vec<_>>());
    let value = prop_oneof![
        integer().prop_map(Value::Varint),
        integer().prop_map(Value::Fixed64),
        vec(any::<u8>(), 0..200).prop_map(Value::Len),
        integer().prop_map(|value| Value::Fixed32(value as u32)),
    ];
    (number, value, 1..=10_usize).prop_map(|(number, value, length)| {
        let tag = u64::from(number) << 3 | u64::from(value.wire_type());
        let bytes = match &value {
            Value::Varint(value) => varint(*value, length),
            Value::Fixed64(value) => value.to_le_bytes().into(),
            Value::Len(data) => {
                [&varint(data.len() as u64, length), &data[..]].concat()
            }
            Value::Fixed32(value) => value.to_le_bytes().into(),
        };
        ([varint(tag, length), bytes].concat(), Field { number, value })
    })
}

/// Decodes fields with prost's functions. Returns `None` if prost reports an
/// error, or for a group.
fn fields_by_prost(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let (number, wire_type) = decode_key(&mut bytes).ok()?;
        let value = match wire_type as u8 {
            0 => Value::Varint(decode_varint(&mut bytes).ok()?),
            1 => Value::Fixed64(bytes.try_get_u64_le().ok()?),
            2 => {
                let length = decode_varint(&mut bytes).ok()?;
                Value::Len(bytes.split_off(..length as usize)?.into())
            }
            5 => Value::Fixed32(bytes.try_get_u32_le().ok()?),
            _ => return None,
        };
        fields.push(Field { number, value });
    }
    Some(fields)
}

/// Returns the bytes of a gRPC message.
fn message(compressed: bool, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    [&[compressed.into()], &length.to_be_bytes()[..], payload].concat()
}

fn assert_messages(data: &[u8], expected: Result<&[Vec<u8>], Error>) {
    let expected = expected.map(|messages| {
        let messages = messages.iter().map(|message| GrpcMessage {
            compressed: message[0] == 1,
            payload: &message[5..],
        });
        messages.collect()
    });
    assert_reads(grpc_messages, data, expected);
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    [&length, &[kind, flags][..], &id.to_be_bytes(), payload].concat()
}

/// Generates a frame, and what it adds to the data of its stream.
fn any_frame() -> impl Strategy<Value = (Vec<u8>, Option<(u32, Vec<u8>)>)> {
    // The types of RFC 9113 are below 10.
    let kind = prop_oneof![4 => Just(DATA), 1 => 1..10_u8, 1 => 1..=u8::MAX];
    let id = prop_oneof![1..4_u32, Just(u32::MAX >> 1)];
    let bytes = vec(any::<u8>(), 0..12);
    let data = prop_oneof![4 => bytes, 1 => Just(PREFACE.to_vec())];
    (kind, any::<u8>(), id, any::<bool>(), data, 0..6_u8).prop_map(
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
