use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lab::alloc::allocated_bytes;
use lab::servers::Postgres;
use proptest::prelude::*;
use proptest::test_runner::{self, RngAlgorithm, TestRng, TestRunner};
use proptest::{collection::vec, sample::select};
use week08::pgoutput::{Decoder, decode};
use week08::replication::DecodeError::{
    self, NotUtf8, TrailingBytes, UnexpectedEnd, UnknownTag,
};
use week08::replication::{
    Change, Column, Event, LogicalMessage, Lsn, Message, Relation,
    ReplicaIdentity as Identity, Row, StreamError, Transaction, Tuple, Value,
};

static Y2000: LazyLock<SystemTime> =
    LazyLock::new(|| UNIX_EPOCH + Duration::from_secs(946_684_800));

const RECORDED: &str = include_str!("pgoutput/recorded.txt");

mod fields {
    use super::*;

    #[test]
    fn messages_without_rows_decode_to_the_encoded_fields() {
        let noisy = (message(WITHOUT_ROW), any::<u8>());
        for_all(250, noisy, |(message, noise)| {
            check(&encode(&message, noise), &Ok(message));
        });
        for n in [0, 1, 2, 17, 130, 1_500, 32_768, 65_535] {
            let columns = vec![column(n % 2 == 1, "c"); n];
            let message = Message::Relation(relation(7, columns));
            check(&encode(&message, 0), &Ok(message));
            let relations = (0..n as u32 + 3).collect();
            let (cascade, restart_identity) = (n % 2 == 1, n % 3 == 1);
            let message =
                Message::Truncate { relations, cascade, restart_identity };
            check(&encode(&message, 0), &Ok(message));
        }
    }

    #[test]
    fn a_commit_time_counts_microseconds_since_2000_also_before() {
        let far = [i64::MIN, i64::MIN + 1, i64::MAX];
        let near = [0, 1, -1, -946_684_800_000_000, -946_684_799_999_999];
        for micros in [&far[..], &near].concat() {
            let unix = i128::from(micros) + 946_684_800_000_000;
            let distance = unix.unsigned_abs().try_into().expect("a u64");
            let distance = Duration::from_micros(distance);
            let (before, after) =
                (UNIX_EPOCH - distance, UNIX_EPOCH + distance);
            let commit_time = if unix < 0 { before } else { after };
            let (zeros, time) = ([0; 8], micros.to_be_bytes());
            let begin = [b"B", &zeros[..], &time, &zeros[..4]].concat();
            let (lsn, xid) = (Lsn(0), 0);
            let message = Message::Begin { final_lsn: lsn, commit_time, xid };
            check(&begin, &Ok(message));
            let commit = [b"C\0", &zeros[..], &zeros, &time].concat();
            let (commit_lsn, end_lsn) = (lsn, lsn);
            let message = Message::Commit { commit_lsn, end_lsn, commit_time };
            check(&commit, &Ok(message));
        }
    }

    #[test]
    fn an_unknown_message_or_identity_tag_is_refused_with_the_tag() {
        for tag in (0..=255).filter(|tag| !b"BCORYIUDTM".contains(tag)) {
            check(&[tag], &Err(UnknownTag(tag)));
            check(&[&[tag][..], &[0; 24]].concat(), &Err(UnknownTag(tag)));
        }
        for tag in (0..=255).filter(|tag| !b"dnfi".contains(tag)) {
            let bytes = [b"R\0\0\0\x01s\0t\0", &[tag][..], b"\0\0"].concat();
            check(&bytes, &Err(UnknownTag(tag)));
        }
    }
}

mod rows {
    use super::*;

    #[test]
    fn rows_decode_to_the_encoded_values() {
        for_all(250, message(WITH_ROW), |message| {
            check(&encode(&message, 0), &Ok(message));
        });
        for n in [0, 1, 2, 17, 130, 1_500, 32_768, 65_535] {
            let values = [Value::Null, text("é"), Value::Unchanged];
            let values: Vec<_> = values.into_iter().cycle().take(n).collect();
            let message = Message::Insert { relation: 1, new: new(values) };
            check(&encode(&message, 0), &Ok(message));
        }
    }

    #[test]
    fn a_message_cut_anywhere_or_continued_is_refused() {
        let messages = message(0..WITH_ROW.end);
        for_all(120, messages, |message| {
            let bytes = encode(&message, 0);
            let all = 0..bytes.len();
            let far = |end: &usize| *end < 300 || bytes.len() - end < 300;
            for end in all.filter(far) {
                check(&bytes[..end], &Err(UnexpectedEnd));
            }
            for n in [1, 2, 17, 300] {
                let longer = [&bytes[..], &vec![n as u8; n]].concat();
                check(&longer, &Err(TrailingBytes(n)));
            }
        });
        for start in [
            &b"I\0\0\0\x01N\0\x01t"[..],
            b"D\0\0\0\x01K\0\x01b",
            b"M\0\0\0\0\0\0\0\0\0\0",
        ] {
            for len in [3_u32, 1 << 16, (1 << 31) - 1, 1 << 31, u32::MAX] {
                let bytes = [start, &len.to_be_bytes(), b"ab"].concat();
                check(&bytes, &Err(UnexpectedEnd));
            }
        }
    }

    #[test]
    fn a_tuple_or_value_tag_that_is_not_allowed_is_refused() {
        for tag in 0..=255 {
            for (before, allowed, after) in [
                ("I\0\0\0\x01", "N", "\0\0"),
                ("D\0\0\0\x01", "KO", "\0\0"),
                ("U\0\0\0\x01K\0\0", "N", "\0\0"),
                ("U\0\0\0\x01O\0\x01n", "N", "\0\x01u"),
                ("I\0\0\0\x01N\0\x02n", "nutb", ""),
                ("D\0\0\0\x01K\0\x01", "nutb", ""),
                ("U\0\0\0\x01", "KON", ""),
            ] {
                let (before, after) = (before.as_bytes(), after.as_bytes());
                let bytes = [before, &[tag][..], after].concat();
                let seen = decode(&bytes);
                let is_unknown = !allowed.as_bytes().contains(&tag);
                let is_right = match seen {
                    Err(UnknownTag(seen)) => is_unknown && seen == tag,
                    _ => !is_unknown,
                };
                assert!(is_right, "tag {tag} in {bytes:02x?} gives {seen:?}");
            }
        }
    }

    #[test]
    fn a_text_that_is_not_utf8_is_refused() {
        let whole = "aé€🦀".as_bytes();
        let cut = (0..=whole.len()).map(|end| &whole[..end]);
        let bad = [b"\xFF".as_slice(), b"a\xC0\x80", b"\xED\xA0\x80", b"\x80"];
        for text in cut.chain(bad) {
            let len = [0, 0, 0, text.len() as u8];
            for (before, after) in [
                (&b"O\0\0\0\0\0\0\0\x01"[..], &b"\0"[..]),
                (b"Y\0\0\0\x01", b"\0name\0"),
                (b"Y\0\0\0\x01\0", b"\0"),
                (b"R\0\0\0\x01", b"\0name\0d\0\0"),
                (b"R\0\0\0\x01\0", b"\0d\0\0"),
                (b"R\0\0\0\x01\0\0d\0\x01\x01", b"\0\0\0\0\0\0\0\0\0"),
                (b"M\0\0\0\0\0\0\0\0\x01", b"\0\0\0\0\0"),
                (&[b"I\0\0\0\x01N\0\x01t", &len[..]].concat(), b""),
            ] {
                let bytes = [before, text, after].concat();
                let seen = decode(&bytes);
                let is_right = match str::from_utf8(text) {
                    Ok(_) => seen.is_ok(),
                    Err(_) => matches!(seen, Err(NotUtf8(_))),
                };
                assert!(is_right, "{text:?} in {bytes:?} gives {seen:?}");
            }
        }
    }

    #[test]
    fn any_bytes_decode_or_fail_in_memory_in_proportion() {
        let check_size = |bytes: &[u8]| {
            let before = allocated_bytes();
            let result = decode(bytes);
            let allocated = allocated_bytes() - before;
            let limit = 4_096 + 200 * bytes.len();
            assert!(
                allocated <= limit,
                "{allocated} bytes allocated for {bytes:02x?}, limit {limit}"
            );
            let Ok(message) = result else { return };
            let same = encode(&message, 0);
            let length = (same.len(), bytes.len());
            assert_eq!(length.0, length.1, "{bytes:02x?} gives {message:?}");
            check(&same, &Ok(message));
        };
        let messages = message(0..WITH_ROW.end);
        let change = (any::<usize>(), any::<u8>());
        for_all(250, (messages, vec(change, 1..4)), |(message, changes)| {
            let mut bytes = encode(&message, 0);
            for (at, byte) in changes {
                let at = at % bytes.len();
                for byte in [byte, 0, 0xFF, bytes[at] ^ 1] {
                    bytes[at] = byte;
                    check_size(&bytes);
                }
            }
        });
        for_all(3_000, vec(any::<u8>(), 0..40), |bytes| check_size(&bytes));
        // A vector that grows by doubling has the most unused memory here.
        for n in [17, 129, 1_025] {
            let (relation, new) = (1, new(vec![Value::Null; n]));
            let old = Some(new.clone());
            check_size(&encode(&Message::Update { relation, old, new }, 0));
            let columns = vec![column(true, ""); n];
            let described = Message::Relation(self::relation(1, columns));
            check_size(&encode(&described, 0));
        }
        let large = "x".repeat(1 << 20);
        let (lsn, prefix) = (Lsn(1), large.as_str().into());
        let logical = LogicalMessage {
            transactional: true,
            lsn,
            prefix,
            content: large.as_bytes().into(),
        };
        let values = [
            Value::Text(large.as_str().into()),
            Value::Binary(large.as_bytes().into()),
        ];
        let insert = Message::Insert { relation: 1, new: new(values.into()) };
        for message in [insert, Message::Logical(logical)] {
            let (bytes, before) = (encode(&message, 0), allocated_bytes());
            drop(decode(&bytes).expect("a message"));
            let allocated = allocated_bytes() - before;
            assert!(allocated < 4_096, "{allocated} bytes for borrowed values");
        }
        // Large numbers of items, or of bytes, and too few of them.
        for tag in *b"IUDRTM" {
            for at in 1..24 {
                for large in [&b"\xFF\xFF"[..], &[0x7F, 0xFF, 0xFF, 0xFF]] {
                    for fill in *b"\0NKOntb" {
                        let mut bytes = [&[tag][..], &[fill; 30]].concat();
                        bytes[at..at + large.len()].copy_from_slice(large);
                        check_size(&bytes);
                    }
                }
                check_size(&[&[tag][..], &vec![0xFF; at]].concat());
            }
        }
    }
}

mod transactions {
    use super::*;

    #[test]
    fn recorded_messages_of_postgresql_rebuild_the_recorded_tables() {
        let mut messages = 0;
        replay(|section| {
            messages += section.messages.len();
            (section.messages.clone(), section.rows.clone())
        });
        assert_eq!(messages, 152, "recorded messages (left)");
    }

    #[test]
    fn any_stream_gives_whole_transactions_or_one_lasting_error() {
        let any_message = prop_oneof![message(WITH_ROW), message(WITHOUT_ROW)];
        let step = (any_message, 0..100_u8, any::<u8>());
        let steps = (vec(step, 0..50), any::<[bool; 2]>());
        for_all(120, steps, |(steps, keys)| {
            let mut model = Model::default();
            for oid in 0..3 {
                let columns = keys.iter().take(oid as usize);
                let columns = columns.map(|is_key| column(*is_key, "c"));
                let relation = relation(oid, columns.collect());
                model.push(&Message::Relation(relation), 0, 0);
            }
            for (message, fault, noise) in steps {
                let message = model.fit(message, fault);
                let extra = [-1, 1].get(usize::from(fault));
                model.push(&message, noise, extra.copied().unwrap_or(0));
            }
        });
    }

    #[test]
    fn any_number_of_relations_changes_and_columns_is_returned() {
        for n in [0, 1, 2, 17, 130, 1_500] {
            let oid = |n: u32| n.wrapping_mul(0x9E37_79B1);
            let relations: Vec<_> = (0..n).map(oid).collect();
            let one = vec![column(true, "c")];
            let describe = |oid: &u32| relation(*oid, one.clone());
            let described = relations.iter().map(describe);
            let described = described.map(Message::Relation);
            let insert = |relation: &u32| {
                let (relation, new) = (*relation, new(vec![text("x")]));
                Message::Insert { relation, new }
            };
            let rows = relations.iter().map(insert);
            let mut messages: Vec<_> = described.chain(rows).collect();
            let (columns, relation) =
                (vec![column(false, "c"); n as usize], oid(n));
            let wide = self::relation(relation, columns);
            let new = new(vec![text("y"); n as usize]);
            let (cascade, restart_identity) = (true, false);
            messages.extend([
                Message::Relation(wide),
                Message::Insert { relation, new },
                Message::Truncate { relations, cascade, restart_identity },
            ]);
            transaction(&messages);
        }
    }

    #[test]
    fn an_old_key_has_no_values_outside_the_key() {
        for (bits, key_only) in (0..32).flat_map(|n| [(n, true), (n, false)]) {
            let n = [5, 17, 130, 300][bits % 4];
            let columns = (0..n).map(|i| column(bits >> (i % 5) & 1 == 1, "c"));
            let mut values = vec![Value::Null; n];
            (values[1], values[n - 1]) = (text("old"), text(""));
            let (old, new) =
                (Tuple { key_only, values }, new(vec![text("new"); n]));
            transaction(&[
                Message::Relation(relation(1, columns.collect())),
                Message::Delete { relation: 1, old: old.clone() },
                Message::Update { relation: 1, old: Some(old), new },
            ]);
        }
    }

    #[test]
    fn an_unchanged_value_takes_that_of_the_old_row_if_it_was_sent() {
        let binary = Value::Binary(vec![0, 255].into());
        let values = [Value::Null, Value::Unchanged, text("old"), binary];
        // Each value of the new row meets each one of the old row.
        for (bits, first) in (0..32).flat_map(|n| (0..4).map(move |i| (n, i))) {
            let n = [4, 17, 130, 300][bits % 4];
            let columns = (0..n).map(|i| column(bits >> (i % 4) & 1 == 1, "c"));
            let from = |first| values.iter().cycle().skip(first).take(n);
            let new = new(from(first).cloned().collect());
            let (key_only, values) =
                (bits & 16 == 0, from(0).cloned().collect());
            let old = Some(Tuple { key_only, values });
            transaction(&[
                Message::Relation(relation(1, columns.collect())),
                Message::Update { relation: 1, old: None, new: new.clone() },
                Message::Update { relation: 1, old, new },
            ]);
        }
    }

    #[test]
    fn a_new_description_of_a_relation_applies_to_later_rows_only() {
        let columns = ["a", "b"].map(|name| column(true, name)).to_vec();
        let mut described = relation(1, columns);
        let other = Relation { oid: 2, ..described.clone() };
        let mut messages = vec![Message::Relation(other)];
        let changes: [fn(&mut Relation); 10] = [
            |_| {},
            |relation| relation.columns.swap(0, 1),
            |relation| relation.columns[0].is_key = false,
            |relation| relation.columns[0].name = "x".to_owned(),
            |relation| relation.columns[0].type_oid = 25,
            |relation| relation.columns[0].type_modifier = 7,
            |relation| relation.identity = Identity::Full,
            |relation| relation.name = "renamed".to_owned(),
            |relation| relation.schema = "other".to_owned(),
            |relation| relation.columns = vec![column(true, "c"); 3],
        ];
        for change in changes {
            change(&mut described);
            let row = |relation: &Relation| {
                new(vec![text("x"); relation.columns.len()])
            };
            let (relations, cascade, restart_identity) =
                (vec![2, 1], true, false);
            messages.extend([
                Message::Relation(described.clone()),
                Message::Insert { relation: 1, new: row(&described) },
                Message::Insert { relation: 2, new: new(vec![text("y"); 2]) },
                Message::Delete { relation: 1, old: row(&described) },
                Message::Truncate { relations, cascade, restart_identity },
            ]);
        }
        transaction(&messages);
    }

    #[test]
    fn after_an_error_no_transaction_comes_out() {
        let columns = vec![column(true, "a"), column(false, "b")];
        let columns = Message::Relation(relation(1, columns));
        let row = |n| new(vec![Value::Unchanged; n]);
        let insert = |relation, n| Message::Insert { relation, new: row(n) };
        let (relations, cascade, restart_identity) = (vec![1, 5], true, true);
        let truncate =
            Message::Truncate { relations, cascade, restart_identity };
        let alone = logical(false);
        let (expected, seen) = (Lsn(7), Lsn(8));
        let mut faults = vec![
            (encode(&insert(2, 2), 0), StreamError::UnknownRelation(2)),
            (encode(&truncate, 0), StreamError::UnknownRelation(5)),
            (encode(&begin(9), 0), StreamError::OpenTransaction(7)),
            (
                encode(&commit(8), 0),
                StreamError::WrongCommit { expected, seen },
            ),
            (b"?".to_vec(), UnknownTag(b'?').into()),
            (vec![], UnexpectedEnd.into()),
            (
                [encode(&insert(1, 2), 0), vec![0]].concat(),
                TrailingBytes(1).into(),
            ),
        ];
        for (values, key_only) in
            [0, 1, 3, 17].into_iter().flat_map(|n| [(n, false), (n, true)])
        {
            let old = Tuple { key_only, ..row(values) };
            let (relation, some_old) = (1, Some(old.clone()));
            let error =
                StreamError::ColumnCount { relation, columns: 2, values };
            faults.extend(
                [
                    insert(1, values),
                    Message::Delete { relation, old },
                    Message::Update { relation, old: some_old, new: row(2) },
                    Message::Update {
                        relation,
                        old: Some(Tuple { key_only, ..row(2) }),
                        new: row(values),
                    },
                ]
                .map(|message| (encode(&message, 0), error.clone())),
            );
        }
        for (bytes, error) in faults {
            let mut decoder = Decoder::default();
            for good in [&begin(7), &columns, &insert(1, 2)] {
                let seen = decoder.push(&encode(good, 0));
                assert_eq!(seen, Ok(None), "seen, expected for {good:?}");
            }
            let next = [&commit(7), &alone, &begin(9), &commit(9)];
            let next = next.map(|message| encode(message, 0)).into_iter();
            let next = next.chain([vec![]]);
            for bytes in [bytes].into_iter().chain(next) {
                let seen = decoder.push(&bytes);
                assert_eq!(
                    seen,
                    Err(error.clone()),
                    "seen, expected for {bytes:02x?}"
                );
            }
        }
        let origin = Message::Origin { commit_lsn: Lsn(1), name: "a" };
        for outside in [insert(1, 2), logical(true), commit(7), origin] {
            let mut decoder = Decoder::default();
            assert_eq!(decoder.push(&encode(&columns, 0)), Ok(None));
            let seen = decoder.push(&encode(&outside, 0));
            let expected = Err(StreamError::NoTransaction);
            assert_eq!(seen, expected, "seen, expected for {outside:?} alone");
        }
        // A new connection begins without relations.
        let mut decoder = Decoder::default();
        assert_eq!(decoder.push(&encode(&begin(7), 0)), Ok(None));
        let seen = decoder.push(&encode(&insert(1, 2), 0));
        let expected = Err(StreamError::UnknownRelation(1));
        assert_eq!(seen, expected, "seen, expected of a new `Decoder`");
    }
}

mod postgres {
    use super::*;

    #[test]
    #[ignore = "needs postgres"]
    fn messages_of_the_installed_postgres_rebuild_its_tables() {
        let settings = ["wal_level=logical", "synchronous_commit=on"];
        let server = Postgres::start_with(&settings);
        let server = server.unwrap_or_else(|error| panic!("{error}"));
        let psql = |sql: &str| {
            let output = server.psql(sql);
            output.unwrap_or_else(|error| panic!("{error} for {sql}"))
        };
        let mut has_slot = false;
        replay(|section| {
            psql(&section.sql);
            has_slot |= section.sql.contains("pg_create_logical");
            let read = format!(
                "SELECT encode(data, 'hex') FROM \
                 pg_logical_slot_get_binary_changes('s', NULL, NULL, \
                 'proto_version', '1', 'publication_names', 'p', \
                 'messages', 'true', 'binary', '{}')",
                section.is_binary
            );
            let messages = if has_slot { psql(&read) } else { String::new() };
            let rows = section.select.as_deref().map(psql).unwrap_or_default();
            let mut rows: Vec<_> = rows.lines().map(str::to_owned).collect();
            rows.sort();
            (messages.lines().map(from_hex).collect(), rows)
        });
    }
}

/// The rules of the stub for a stream, without bytes.
#[derive(Debug, Default)]
struct Model {
    decoder: Decoder,
    relations: BTreeMap<u32, Arc<Relation>>,
    open: Option<Transaction>,
    failed: Option<StreamError>,
}

impl Model {
    /// Pushes the message to the decoder, too, and compares the results. The
    /// message gets `extra` bytes, or loses some.
    fn push(&mut self, message: &Message<'static>, noise: u8, extra: isize) {
        let mut bytes = encode(message, noise);
        bytes.resize(bytes.len().saturating_add_signed(extra), noise);
        let seen = self.decoder.push(&bytes);
        let expected = match (self.failed.clone(), extra) {
            (Some(error), _) => Err(vec![error]),
            (None, 0) => self.apply(message),
            (None, ..0) => Err(vec![UnexpectedEnd.into()]),
            (None, n) => Err(vec![TrailingBytes(n.unsigned_abs()).into()]),
        };
        let is_right = match (&seen, &expected) {
            (Err(seen), Err(any)) => any.contains(seen),
            (seen, expected) => seen.as_ref().ok() == expected.as_ref().ok(),
        };
        assert!(
            is_right,
            "expected {expected:?} (any of these errors), got {seen:?}, for \
             {message:?} and {extra} bytes, with these relations: {:?}",
            self.relations
        );
        self.failed = seen.err();
    }

    /// Changes the message so that it fits the stream, unless there is a fault.
    fn fit(&self, message: Message<'static>, fault: u8) -> Message<'static> {
        use Message::{Begin, Commit, Delete, Insert, Truncate, Type, Update};
        let mut message = match (message, &self.open) {
            (message, _) if fault == 2 => message,
            (Begin { .. }, Some(open)) => commit(open.commit_lsn.0),
            (Commit { end_lsn, commit_time, .. }, Some(open)) => {
                Commit { commit_lsn: open.commit_lsn, end_lsn, commit_time }
            }
            (
                message @ (Begin { .. } | Message::Relation(_) | Type { .. }),
                None,
            ) => message,
            (Message::Logical(m), None) if !m.transactional => {
                Message::Logical(m)
            }
            (_, None) => begin(fault.into()),
            (message, _) => message,
        };
        let fit = |oid: &mut u32, tuples: Vec<&mut Tuple<'_>>| {
            *oid = if fault == 3 { *oid } else { *oid % 3 };
            let columns = self.relations.get(oid).map(|r| &r.columns[..]);
            let columns = columns.unwrap_or_default();
            let keys = columns.iter().filter(|column| column.is_key).count();
            for (i, tuple) in (0..).zip(tuples) {
                let n = match fault.wrapping_sub(2 * i) {
                    4 => columns.len() + 1,
                    5 => keys,
                    _ => columns.len(),
                };
                tuple.values.resize(n, Value::Unchanged);
            }
        };
        match &mut message {
            Message::Relation(relation) => relation.oid %= 3,
            Insert { relation, new } => fit(relation, vec![new]),
            Delete { relation, old } => fit(relation, vec![old]),
            Update { relation, old, new } => {
                fit(relation, old.iter_mut().chain([new]).collect());
            }
            Truncate { relations, .. } if fault != 3 => {
                relations.iter_mut().for_each(|oid| *oid %= 3);
            }
            _ => {}
        }
        message
    }

    /// Returns each error that applies.
    fn errors(&self, message: &Message<'static>) -> Vec<StreamError> {
        use Message::{Begin, Commit, Delete, Insert, Truncate, Type, Update};
        let (relations, tuples) = match message {
            Insert { relation, new: tuple }
            | Delete { relation, old: tuple } => {
                (&[*relation][..], vec![tuple])
            }
            Update { relation, old, new } => {
                (&[*relation][..], old.iter().chain([new]).collect())
            }
            Truncate { relations, .. } => (&relations[..], vec![]),
            _ => Default::default(),
        };
        let mut errors = Vec::new();
        for &relation in relations {
            let Some(Relation { columns, .. }) =
                self.relations.get(&relation).map(|relation| &**relation)
            else {
                errors.push(StreamError::UnknownRelation(relation));
                continue;
            };
            let columns = columns.len();
            let counts = tuples.iter().map(|tuple| tuple.values.len());
            let wrong = counts.filter(|values| *values != columns);
            errors.extend(wrong.map(|values| StreamError::ColumnCount {
                relation,
                columns,
                values,
            }));
        }
        match (message, &self.open) {
            (Begin { .. }, Some(open)) => {
                errors.push(StreamError::OpenTransaction(open.xid));
            }
            (Commit { commit_lsn, .. }, Some(open)) => {
                let (expected, seen) = (open.commit_lsn, *commit_lsn);
                let error = StreamError::WrongCommit { expected, seen };
                errors.extend((seen != expected).then_some(error));
            }
            (Begin { .. } | Message::Relation(_) | Type { .. }, None)
            | (_, Some(_)) => {}
            (Message::Logical(m), None) if !m.transactional => {}
            (_, None) => errors.push(StreamError::NoTransaction),
        }
        errors
    }

    /// Returns the event, or each error that applies.
    fn apply(
        &mut self,
        message: &Message<'static>,
    ) -> Result<Option<Event>, Vec<StreamError>> {
        let errors = self.errors(message);
        if !errors.is_empty() {
            return Err(errors);
        }
        let row = |oid: &u32, tuple: &Tuple<'static>| {
            let relation = Arc::clone(&self.relations[oid]);
            let columns = relation.columns.iter();
            let is_sent =
                columns.map(|column| column.is_key || !tuple.key_only);
            let values = tuple.values.iter().cloned().zip(is_sent);
            let values = values.map(|(v, is_sent)| is_sent.then_some(v));
            let values = values.collect();
            Row { relation, values }
        };
        let change = match message.clone() {
            Message::Relation(relation) => {
                self.relations.insert(relation.oid, relation.into());
                return Ok(None);
            }
            Message::Type { .. } => return Ok(None),
            Message::Logical(m) if !m.transactional => {
                return Ok(Some(Event::Message(m)));
            }
            Message::Begin { final_lsn, commit_time, xid } => {
                self.open = Some(Transaction {
                    xid,
                    commit_lsn: final_lsn,
                    end_lsn: Lsn(0),
                    commit_time,
                    origin: None,
                    changes: Vec::new(),
                });
                return Ok(None);
            }
            Message::Commit { end_lsn, .. } => {
                let open = self.open.take().expect(OPEN);
                let event = Event::Transaction(Transaction { end_lsn, ..open });
                return Ok(Some(event));
            }
            Message::Origin { name, .. } => {
                self.open.as_mut().expect(OPEN).origin = Some(name.to_owned());
                return Ok(None);
            }
            Message::Logical(m) => Change::Message(m),
            Message::Insert { relation, new } => {
                Change::Insert { new: row(&relation, &new) }
            }
            Message::Delete { relation, old } => {
                Change::Delete { old: row(&relation, &old) }
            }
            Message::Update { relation, old, new } => {
                let old = old.map(|old| row(&relation, &old));
                let mut new = row(&relation, &new);
                let olds = old.iter().flat_map(|old| &old.values);
                for (value, old) in new.values.iter_mut().zip(olds) {
                    if let (Some(Value::Unchanged), Some(_)) = (&value, old) {
                        value.clone_from(old);
                    }
                }
                Change::Update { old, new }
            }
            Message::Truncate { relations, cascade, restart_identity } => {
                let relations = relations.iter();
                let relations = relations.map(|oid| &self.relations[oid]);
                let relations = relations.cloned().collect();
                Change::Truncate { relations, cascade, restart_identity }
            }
        };
        self.open.as_mut().expect(OPEN).changes.push(change);
        Ok(None)
    }
}

const OPEN: &str = "a transaction: there was no error";

/// A part of the recording: commands, and what the server sent after them.
#[derive(Debug, Default)]
struct Section {
    sql: String,
    is_binary: bool,
    messages: Vec<Vec<u8>>,
    /// A query, and the rows that it returned.
    select: Option<String>,
    rows: Vec<String>,
}

/// Decodes the messages that `record` returns for each section of the
/// recording, applies the changes to copies of the tables, and compares both.
fn replay(mut record: impl FnMut(&Section) -> (Vec<Vec<u8>>, Vec<String>)) {
    let mut sections: Vec<Section> = Vec::new();
    for line in RECORDED.lines() {
        let (start, text) = line.split_at(line.find(' ').unwrap_or(0));
        if let ">" | "binary>" = start {
            sections.push(Section::default());
        }
        let Some(section) = sections.last_mut() else { continue };
        let text = text.trim_start().to_owned();
        match start {
            ">" | "binary>" => {
                section.is_binary = start != ">";
                section.sql = text;
            }
            "?" => section.select = Some(text),
            "|" => section.rows.push(text),
            _ => section.messages.push(from_hex(&text)),
        }
    }
    let (mut decoder, mut notes) = (Decoder::default(), Vec::new());
    let mut tables = BTreeMap::<_, Vec<Row>>::new();
    for section in sections {
        let (messages, rows) = record(&section);
        for bytes in messages {
            let event = decoder.push(&bytes);
            let event = event.unwrap_or_else(|e| panic!("{e:?}: {bytes:02x?}"));
            let t = match event {
                Some(Event::Transaction(t)) => t,
                Some(Event::Message(m)) => {
                    notes.push(format!("alone: {}", m.content.escape_ascii()));
                    continue;
                }
                None => continue,
            };
            notes.extend(t.origin.map(|name| format!("from {name}")));
            let changes = t.changes.iter().filter_map(|change| match change {
                Change::Message(m) => {
                    Some(m.content.escape_ascii().to_string())
                }
                _ => None,
            });
            notes.extend(changes);
            if !section.is_binary {
                t.changes.into_iter().for_each(|c| replicate(c, &mut tables));
            }
        }
        if let Some(select) = &section.select {
            let table = select.split(' ').next_back().expect("a table");
            let copy = tables.get(table.trim_matches('"'));
            let copy = copy.into_iter().flatten().map(record_text);
            let mut copy: Vec<_> = copy.collect();
            copy.sort();
            assert_eq!(copy, rows, "copied, real rows of {table}");
        }
    }
    let kept = ["kept", r"\x00\xff", "alone: alone", "inside"];
    let expected = [&kept[..], &["alone: survives", "from branch office"]];
    assert_eq!(notes, expected.concat(), "messages and origins (left)");
}

/// Applies the change to the copies of the tables.
fn replicate(change: Change, tables: &mut BTreeMap<String, Vec<Row>>) {
    let relation = match &change {
        Change::Insert { new: row } | Change::Update { new: row, .. } => {
            &row.relation
        }
        Change::Delete { old } => &old.relation,
        Change::Truncate { relations, .. } => {
            relations.iter().for_each(|r| _ = tables.remove(&r.name));
            return;
        }
        Change::Message(_) => return,
    };
    let table = tables.entry(relation.name.clone()).or_default();
    // The columns that tell which row it is.
    let is_same = |row: &Row, key: &Row| {
        let columns = key.relation.columns.iter().zip(&key.values);
        columns
            .filter(|(c, v)| c.is_key && v.is_some())
            .all(|(c, value)| row.get(&c.name) == value.as_ref())
    };
    match change {
        Change::Insert { new } => table.push(new),
        Change::Delete { old } => table.retain(|row| !is_same(row, &old)),
        Change::Update { old, mut new } => {
            let key = old.as_ref().unwrap_or(&new);
            let found = table.iter().position(|row| is_same(row, key));
            let row = &mut table[found.expect("the row that is updated")];
            for (value, column) in
                new.values.iter_mut().zip(&new.relation.columns)
            {
                if *value == Some(Value::Unchanged) {
                    *value = row.get(&column.name).cloned();
                }
            }
            *row = new;
        }
        Change::Truncate { .. } | Change::Message(_) => {}
    }
}

/// Returns the row as PostgreSQL prints a record.
fn record_text(row: &Row) -> String {
    let values = row.values.iter().map(|value| {
        let Some(Value::Text(text)) = value else { return String::new() };
        let special = |c: char| c.is_whitespace() || "\"(),\\".contains(c);
        if !text.is_empty() && !text.contains(special) {
            return text.to_string();
        }
        let text = text.replace('\\', r"\\").replace('"', "\"\"");
        format!("\"{}\"", text.replace('\n', r"\n"))
    });
    format!("({})", values.collect::<Vec<_>>().join(","))
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let bytes = digits.map(|two| str::from_utf8(two).ok());
    let bytes = bytes.map(|two| u8::from_str_radix(two?, 16).ok());
    bytes.collect::<Option<_>>().expect("hexadecimal digits")
}

/// Compares a transaction with these messages with the model.
fn transaction(messages: &[Message<'static>]) {
    let (mut model, begin, commit) = (Model::default(), begin(0), commit(0));
    for message in [&begin].into_iter().chain(messages).chain([&commit]) {
        model.push(message, 0, 0);
    }
}

fn check(bytes: &[u8], expected: &Result<Message<'_>, DecodeError>) {
    let seen = decode(bytes);
    let is_equal = seen == *expected;
    let short = |result| format!("{:.900}", format!("{result:?}"));
    assert!(
        is_equal,
        "expected {}, got {}, for {} bytes: {:02x?}",
        short(expected),
        short(&seen),
        bytes.len(),
        &bytes[..bytes.len().min(200)]
    );
}

/// Encodes a message. `noise` gets into the bits of flags that have no meaning.
fn encode(message: &Message<'_>, noise: u8) -> Vec<u8> {
    let micros = |time: &SystemTime| match time.duration_since(*Y2000) {
        Ok(after) => (after.as_micros() as i64).to_be_bytes(),
        Err(e) => {
            (e.duration().as_micros() as i64).wrapping_neg().to_be_bytes()
        }
    };
    let flags = |bits: u8, known: u8| [bits | noise & !known];
    let old_tuple =
        |old: &Tuple<'_>| tuple(if old.key_only { b'K' } else { b'O' }, old);
    let be = u32::to_be_bytes;
    match message {
        Message::Begin { final_lsn, commit_time, xid } => {
            join(&[b"B", &lsn(final_lsn), &micros(commit_time), &be(*xid)])
        }
        Message::Commit { commit_lsn, end_lsn, commit_time } => {
            let (end, time) = (lsn(end_lsn), micros(commit_time));
            join(&[&[b'C', noise], &lsn(commit_lsn), &end, &time])
        }
        Message::Origin { commit_lsn, name } => {
            join(&[b"O", &lsn(commit_lsn), name.as_bytes(), b"\0"])
        }
        Message::Type { oid, schema, name } => {
            let names = format!("{schema}\0{name}\0");
            join(&[b"Y", &be(*oid), names.as_bytes()])
        }
        Message::Relation(relation) => {
            let Relation { oid, schema, name, identity, columns } = relation;
            let identity = match identity {
                Identity::Default => "d",
                Identity::Nothing => "n",
                Identity::Full => "f",
                Identity::Index => "i",
            };
            let names = format!("{schema}\0{name}\0{identity}");
            let count = (columns.len() as u16).to_be_bytes();
            let columns = columns.iter().flat_map(|column| {
                let (start, name) =
                    (flags(column.is_key.into(), 1), &column.name);
                let modifier = column.type_modifier.to_be_bytes();
                let ends = [be(column.type_oid), modifier].concat();
                join(&[&start, name.as_bytes(), b"\0", &ends])
            });
            let columns: Vec<_> = columns.collect();
            join(&[b"R", &be(*oid), names.as_bytes(), &count, &columns])
        }
        Message::Insert { relation, new } => {
            join(&[b"I", &be(*relation), &tuple(b'N', new)])
        }
        Message::Update { relation, old, new } => {
            let old = old.as_ref().map(old_tuple).unwrap_or_default();
            join(&[b"U", &be(*relation), &old, &tuple(b'N', new)])
        }
        Message::Delete { relation, old } => {
            join(&[b"D", &be(*relation), &old_tuple(old)])
        }
        Message::Truncate { relations, cascade, restart_identity } => {
            let count = be(relations.len() as u32);
            let bits = u8::from(*cascade) | u8::from(*restart_identity) << 1;
            let relations = relations.iter().flat_map(|oid| be(*oid));
            let relations: Vec<_> = relations.collect();
            join(&[b"T", &count, &flags(bits, 3), &relations])
        }
        Message::Logical(m) => {
            let start = [&flags(m.transactional.into(), 1)[..], &lsn(&m.lsn)];
            let (prefix, len) =
                (m.prefix.as_bytes(), be(m.content.len() as u32));
            join(&[b"M", &start.concat(), prefix, b"\0", &len, &m.content])
        }
    }
}

fn tuple(tag: u8, tuple: &Tuple<'_>) -> Vec<u8> {
    let count = (tuple.values.len() as u16).to_be_bytes();
    let values = tuple.values.iter().flat_map(|value| {
        let (tag, data) = match value {
            Value::Null => return b"n".to_vec(),
            Value::Unchanged => return b"u".to_vec(),
            Value::Text(text) => (b"t", text.as_bytes()),
            Value::Binary(data) => (b"b", &data[..]),
        };
        join(&[tag, &(data.len() as u32).to_be_bytes(), data])
    });
    join(&[&[tag], &count, &values.collect::<Vec<_>>()])
}

fn lsn(lsn: &Lsn) -> [u8; 8] {
    lsn.0.to_be_bytes()
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn text(text: &'static str) -> Value<'static> {
    Value::Text(text.into())
}

fn new(values: Vec<Value<'_>>) -> Tuple<'_> {
    Tuple { key_only: false, values }
}

fn relation(oid: u32, columns: Vec<Column>) -> Relation {
    let (schema, name) = ("public".to_owned(), "accounts".to_owned());
    Relation { oid, schema, name, identity: Identity::Default, columns }
}

fn column(is_key: bool, name: &str) -> Column {
    Column { is_key, name: name.to_owned(), type_oid: 20, type_modifier: -1 }
}

fn begin(final_lsn: u64) -> Message<'static> {
    let final_lsn = Lsn(final_lsn);
    let (commit_time, xid) = (UNIX_EPOCH, final_lsn.0 as u32);
    Message::Begin { final_lsn, commit_time, xid }
}

fn commit(commit_lsn: u64) -> Message<'static> {
    let (commit_lsn, end_lsn) = (Lsn(commit_lsn), Lsn(commit_lsn ^ 9));
    let commit_time = UNIX_EPOCH;
    Message::Commit { commit_lsn, end_lsn, commit_time }
}

fn logical(transactional: bool) -> Message<'static> {
    let (prefix, content) = ("".into(), b"x".as_slice().into());
    let lsn = Lsn(1);
    Message::Logical(LogicalMessage { transactional, lsn, prefix, content })
}

fn any_text() -> impl Strategy<Value = &'static str> {
    let long = [0, 1, 127, 128, 255, 256, 40_000].map(|n| "é".repeat(n));
    let long = select(long.map(|text| &*text.leak()).to_vec());
    let chars = vec(any::<char>(), 0..5).prop_map(|chars| {
        let text: String = chars.into_iter().filter(|c| *c != '\0').collect();
        &*text.leak()
    });
    prop_oneof![60 => chars, 1 => long]
}

fn any_time() -> impl Strategy<Value = SystemTime> {
    let micros = prop_oneof![any::<i64>(), -9_i64..9];
    micros.prop_map(|micros| {
        let distance = Duration::from_micros(micros.unsigned_abs());
        if micros < 0 { *Y2000 - distance } else { *Y2000 + distance }
    })
}

fn any_column() -> impl Strategy<Value = Column> {
    let parts = (any::<bool>(), any_text(), any::<u32>(), any::<i32>());
    parts.prop_map(|(is_key, name, type_oid, type_modifier)| Column {
        is_key,
        name: name.to_owned(),
        type_oid,
        type_modifier,
    })
}

fn any_tuple() -> impl Strategy<Value = Tuple<'static>> {
    let text = prop_oneof![any_text(), Just("a\0b")];
    let value = prop_oneof![
        Just(Value::Null),
        Just(Value::Unchanged),
        text.prop_map(|text| Value::Text(text.into())),
        vec(any::<u8>(), 0..9).prop_map(|bytes| Value::Binary(bytes.into())),
    ];
    let parts = (any::<bool>(), vec(value, 0..6));
    parts.prop_map(|(key_only, values)| Tuple { key_only, values })
}

const WITHOUT_ROW: Range<u8> = 0..7;
const WITH_ROW: Range<u8> = 7..11;

fn message(kinds: Range<u8>) -> impl Strategy<Value = Message<'static>> {
    let all =
        [Identity::Default, Identity::Nothing, Identity::Full, Identity::Index];
    let id = prop_oneof![0..4_u32, any::<u32>()];
    let numbers = (
        kinds,
        any::<[u64; 2]>(),
        any_time(),
        any::<u32>(),
        any::<[bool; 2]>(),
    );
    let texts = ([any_text(), any_text()], vec(any::<u8>(), 0..9));
    let lists = (vec(any_column(), 0..6), vec(id, 0..5), select(all.to_vec()));
    let parts = (numbers, texts, lists, [any_tuple(), any_tuple()]);
    parts.prop_map(|(numbers, ([text, name], content), lists, [old, tuple])| {
        let (kind, lsns, commit_time, oid, [first, second]) = numbers;
        let (columns, relations, identity) = lists;
        let ([lsn, end_lsn], new) = (lsns.map(Lsn), new(tuple.values));
        let (relation, commit_lsn) = (oid, lsn);
        match kind {
            0 => Message::Begin { final_lsn: lsn, commit_time, xid: oid },
            1 => Message::Commit { commit_lsn, end_lsn, commit_time },
            2 => Message::Origin { commit_lsn, name },
            3 => Message::Type { oid, schema: text, name },
            4 => {
                let (schema, name) = (text.to_owned(), name.to_owned());
                let relation =
                    Relation { oid, schema, name, identity, columns };
                Message::Relation(relation)
            }
            5 => {
                let (cascade, restart_identity) = (first, second);
                Message::Truncate { relations, cascade, restart_identity }
            }
            6 => {
                let (prefix, content) = (text.into(), content.into());
                let transactional = first;
                Message::Logical(LogicalMessage {
                    transactional,
                    lsn,
                    prefix,
                    content,
                })
            }
            7 => Message::Insert { relation, new },
            8 => Message::Delete { relation, old },
            9 => Message::Update { relation, old: None, new },
            _ => Message::Update { relation, old: Some(old), new },
        }
    })
}

fn for_all<S: Strategy>(cases: u32, values: S, check: impl Fn(S::Value)) {
    let config = test_runner::Config::with_cases(cases);
    let config = test_runner::Config { failure_persistence: None, ..config };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let outcome = TestRunner::new_with_rng(config, rng).run(&values, |value| {
        check(value);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
