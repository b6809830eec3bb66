//! pgoutput: decoding PostgreSQL's logical replication.
//!
//! *Question.* A service wants every committed change of a table, in commit
//! order, without polling. PostgreSQL streams the changes as bytes. How are
//! they decoded, and what is surprising about them?
//!
//! *Idea.* **Change data capture** from the log. Each message begins with a
//! tag, and its fields follow without padding, in **big-endian** order. A row
//! has values and no names: a `Relation` message has described the columns
//! before, and the next one for the same table replaces it. The changes are
//! collected until their `Commit`.
//!
//! *Guarantee.* No input causes a panic, or an allocation that is not in
//! proportion to its length: each item of a list is read before it is stored.
//! A transaction comes out complete or not at all, because the first error
//! ends the stream.
//!
//! *Cost.* A transaction is in memory until its commit, however large it is.
//! An old value is missing unless it belongs to the replica identity, and so is
//! a large value that an update did not change.
//!
//! ```
//! use week08::pgoutput::Decoder;
//! use week08::replication::{Change, Event, Lsn};
//!
//! let stream: [&[u8]; 4] = [
//!     b"B\0\0\0\0\x01\x6B\x37\x48\0\0\0\0\0\0\0\0\0\0\0\x07",
//!     b"R\0\0\0\x09public\0accounts\0d\0\x01\x01id\0\0\0\0\x14\xFF\xFF\xFF\xFF",
//!     b"I\0\0\0\x09N\0\x01t\0\0\0\x0242",
//!     b"C\0\0\0\0\0\x01\x6B\x37\x48\0\0\0\0\x01\x6B\x37\x78\0\0\0\0\0\0\0\0",
//! ];
//! let mut decoder = Decoder::default();
//! for bytes in &stream[..3] {
//!     assert_eq!(decoder.push(bytes), Ok(None));
//! }
//! let Ok(Some(Event::Transaction(t))) = decoder.push(stream[3]) else {
//!     panic!("expected a transaction");
//! };
//! let [Change::Insert { new }] = &t.changes[..] else {
//!     panic!("expected one inserted row");
//! };
//! assert_eq!(new.get("id").and_then(|id| id.as_text()), Some("42"));
//! assert_eq!(t.end_lsn, Lsn(0x16B3778));
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::replication::{
    Change, Column, DecodeError, Event, LogicalMessage, Lsn, Message, Relation,
    ReplicaIdentity, Row, StreamError, Transaction, Tuple, Value,
};

/// Decodes the message that `bytes` consist of.
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, DecodeError> {
    let mut input = Input(bytes);
    let message = input.message()?;
    match input.0.len() {
        0 => Ok(message),
        trailing => Err(DecodeError::TrailingBytes(trailing)),
    }
}

/// Collects the messages of one connection into transactions.
#[derive(Debug, Default)]
pub struct Decoder {
    relations: HashMap<u32, Arc<Relation>>,
    open: Option<Transaction>,
    failed: Option<StreamError>,
}

impl Decoder {
    /// Decodes the next message, and returns what it completes.
    ///
    /// After an error, each call returns that error again: a transaction
    /// without one of its changes must not come out. Connect again, with a new
    /// `Decoder`. The server repeats what was not confirmed.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Event>, StreamError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let message = decode(bytes).map_err(StreamError::from);
        let result = message.and_then(|message| self.apply(message));
        self.failed = result.as_ref().err().cloned();
        result
    }

    fn apply(
        &mut self,
        message: Message<'_>,
    ) -> Result<Option<Event>, StreamError> {
        let change = match message {
            Message::Begin { final_lsn, commit_time, xid } => {
                if let Some(open) = &self.open {
                    return Err(StreamError::OpenTransaction(open.xid));
                }
                self.open = Some(Transaction {
                    xid,
                    commit_lsn: final_lsn,
                    end_lsn: final_lsn,
                    commit_time,
                    origin: None,
                    changes: Vec::new(),
                });
                return Ok(None);
            }
            Message::Commit { commit_lsn: seen, end_lsn, .. } => {
                let open = self.open.take();
                let mut transaction = open.ok_or(StreamError::NoTransaction)?;
                let expected = transaction.commit_lsn;
                if seen != expected {
                    return Err(StreamError::WrongCommit { expected, seen });
                }
                transaction.end_lsn = end_lsn;
                return Ok(Some(Event::Transaction(transaction)));
            }
            Message::Origin { name, .. } => {
                self.open()?.origin = Some(name.to_owned());
                return Ok(None);
            }
            Message::Relation(relation) => {
                self.relations.insert(relation.oid, Arc::new(relation));
                return Ok(None);
            }
            Message::Type { .. } => return Ok(None),
            Message::Logical(message) => {
                let message = message.into_owned();
                if !message.transactional {
                    return Ok(Some(Event::Message(message)));
                }
                Change::Message(message)
            }
            Message::Insert { relation, new } => {
                Change::Insert { new: self.row(relation, new)? }
            }
            Message::Update { relation, old, new } => {
                let old = old.map(|old| self.row(relation, old)).transpose()?;
                let mut new = self.row(relation, new)?;
                // With `REPLICA IDENTITY FULL`, the old row has the value.
                for (i, value) in new.values.iter_mut().enumerate() {
                    if *value == Some(Value::Unchanged)
                        && let Some(old) = &old
                        && old.values[i].is_some()
                    {
                        value.clone_from(&old.values[i]);
                    }
                }
                Change::Update { old, new }
            }
            Message::Delete { relation, old } => {
                Change::Delete { old: self.row(relation, old)? }
            }
            Message::Truncate { relations, cascade, restart_identity } => {
                let relations = relations.iter().map(|oid| self.relation(*oid));
                let relations = relations.collect::<Result<_, _>>()?;
                Change::Truncate { relations, cascade, restart_identity }
            }
        };
        self.open()?.changes.push(change);
        Ok(None)
    }

    fn open(&mut self) -> Result<&mut Transaction, StreamError> {
        self.open.as_mut().ok_or(StreamError::NoTransaction)
    }

    fn relation(&self, oid: u32) -> Result<Arc<Relation>, StreamError> {
        let relation = self.relations.get(&oid).cloned();
        relation.ok_or(StreamError::UnknownRelation(oid))
    }

    /// Returns the tuple as a row, with the columns that the relation has now.
    fn row(&self, oid: u32, tuple: Tuple<'_>) -> Result<Row, StreamError> {
        let relation = self.relation(oid)?;
        let (columns, values) = (relation.columns.len(), tuple.values.len());
        if columns != values {
            let relation = oid;
            return Err(StreamError::ColumnCount { relation, columns, values });
        }
        let columns = relation.columns.iter().zip(tuple.values);
        let values = columns.map(|(column, value)| {
            let is_sent = column.is_key || !tuple.key_only;
            is_sent.then(|| value.into_owned())
        });
        let values = values.collect();
        Ok(Row { relation, values })
    }
}

/// The bytes that have not been read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn message(&mut self) -> Result<Message<'a>, DecodeError> {
        Ok(match self.u8()? {
            b'B' => Message::Begin {
                final_lsn: self.lsn()?,
                commit_time: self.time()?,
                xid: self.u32()?,
            },
            b'C' => {
                let _flags = self.u8()?;
                Message::Commit {
                    commit_lsn: self.lsn()?,
                    end_lsn: self.lsn()?,
                    commit_time: self.time()?,
                }
            }
            b'O' => Message::Origin {
                commit_lsn: self.lsn()?,
                name: self.string()?,
            },
            b'R' => Message::Relation(self.relation()?),
            b'Y' => Message::Type {
                oid: self.u32()?,
                schema: self.string()?,
                name: self.string()?,
            },
            b'I' => Message::Insert {
                relation: self.u32()?,
                new: self.tuple(b"N")?.1,
            },
            b'U' => {
                let relation = self.u32()?;
                let (old, new) = match self.tuple(b"KON")? {
                    (b'N', new) => (None, new),
                    (_, old) => (Some(old), self.tuple(b"N")?.1),
                };
                Message::Update { relation, old, new }
            }
            b'D' => Message::Delete {
                relation: self.u32()?,
                old: self.tuple(b"KO")?.1,
            },
            b'T' => {
                let (count, options) = (self.u32()?, self.u8()?);
                Message::Truncate {
                    relations: self.list(count, Self::u32)?,
                    cascade: options & 1 != 0,
                    restart_identity: options & 2 != 0,
                }
            }
            b'M' => Message::Logical(LogicalMessage {
                transactional: self.u8()? & 1 != 0,
                lsn: self.lsn()?,
                prefix: self.string()?.into(),
                content: self.counted()?.into(),
            }),
            tag => return Err(DecodeError::UnknownTag(tag)),
        })
    }

    fn relation(&mut self) -> Result<Relation, DecodeError> {
        Ok(Relation {
            oid: self.u32()?,
            schema: self.string()?.to_owned(),
            name: self.string()?.to_owned(),
            identity: match self.u8()? {
                b'd' => ReplicaIdentity::Default,
                b'n' => ReplicaIdentity::Nothing,
                b'f' => ReplicaIdentity::Full,
                b'i' => ReplicaIdentity::Index,
                tag => return Err(DecodeError::UnknownTag(tag)),
            },
            columns: {
                let count = self.u16()?;
                self.list(count.into(), Self::column)?
            },
        })
    }

    fn column(&mut self) -> Result<Column, DecodeError> {
        Ok(Column {
            is_key: self.u8()? & 1 != 0,
            name: self.string()?.to_owned(),
            type_oid: self.u32()?,
            type_modifier: i32::from_be_bytes(self.array()?),
        })
    }

    /// Reads a tuple with one of these tags, and returns its tag, too.
    fn tuple(&mut self, tags: &[u8]) -> Result<(u8, Tuple<'a>), DecodeError> {
        let tag = self.u8()?;
        if !tags.contains(&tag) {
            return Err(DecodeError::UnknownTag(tag));
        }
        let count = self.u16()?;
        let values = self.list(count.into(), Self::value)?;
        Ok((tag, Tuple { key_only: tag == b'K', values }))
    }

    fn value(&mut self) -> Result<Value<'a>, DecodeError> {
        Ok(match self.u8()? {
            b'n' => Value::Null,
            b'u' => Value::Unchanged,
            b't' => Value::Text(str::from_utf8(self.counted()?)?.into()),
            b'b' => Value::Binary(self.counted()?.into()),
            tag => return Err(DecodeError::UnknownTag(tag)),
        })
    }

    /// It is tempting to reserve memory for `count` items. But a `Truncate` of
    /// six bytes can promise four billion of them.
    fn list<T>(
        &mut self,
        count: u32,
        read: fn(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        (0..count).map(|_| read(self)).collect()
    }

    /// Reads a text that ends with NUL.
    fn string(&mut self) -> Result<&'a str, DecodeError> {
        let end = self.0.iter().position(|byte| *byte == 0);
        let text = self.bytes(end.ok_or(DecodeError::UnexpectedEnd)?)?;
        let _nul = self.u8()?;
        Ok(str::from_utf8(text)?)
    }

    /// Reads a length, and as many bytes.
    fn counted(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u32()?;
        self.bytes(len as usize)
    }

    /// Microseconds since 2000, negative before: not the epoch of Unix.
    fn time(&mut self) -> Result<SystemTime, DecodeError> {
        let micros = i64::from_be_bytes(self.array()?);
        let epoch = UNIX_EPOCH + Duration::from_secs(946_684_800);
        let distance = Duration::from_micros(micros.unsigned_abs());
        Ok(if micros < 0 { epoch - distance } else { epoch + distance })
    }

    fn lsn(&mut self) -> Result<Lsn, DecodeError> {
        Ok(Lsn(u64::from_be_bytes(self.array()?)))
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (first, rest) =
            self.0.split_first_chunk().ok_or(DecodeError::UnexpectedEnd)?;
        self.0 = rest;
        Ok(*first)
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (first, rest) =
            self.0.split_at_checked(len).ok_or(DecodeError::UnexpectedEnd)?;
        self.0 = rest;
        Ok(first)
    }
}
