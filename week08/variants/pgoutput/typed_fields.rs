//! A trait for the types of fields, and an enum for the state of the stream.
//!
//! The type of a field says how its bytes are read, so a message is a tuple of
//! types: `let (final_lsn, commit_time, xid) = input.read()?`. The stream is
//! idle, in a transaction, or has failed. Each message takes the state out and
//! puts the next one in. While a message is applied, the state is that of a
//! failed stream, so no path can forget it.

use std::collections::HashMap;
use std::mem::replace;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::replication::{
    Change, Column, DecodeError, Event, LogicalMessage, Lsn, Message, Relation,
    ReplicaIdentity, Row, StreamError, Transaction, Tuple, Value,
};

pub fn decode(bytes: &[u8]) -> Result<Message<'_>, DecodeError> {
    let mut input = Input(bytes);
    let message = input.read()?;
    if input.0.is_empty() {
        Ok(message)
    } else {
        Err(DecodeError::TrailingBytes(input.0.len()))
    }
}

#[derive(Debug, Default)]
pub struct Decoder {
    relations: HashMap<u32, Arc<Relation>>,
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    Open(Transaction),
    Failed(StreamError),
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Event>, StreamError> {
        let failed = State::Failed(StreamError::NoTransaction);
        let (state, result) = match replace(&mut self.state, failed) {
            State::Failed(error) => (None, Err(error)),
            state => match self.next(state, bytes) {
                Ok((state, event)) => (Some(state), Ok(event)),
                Err(error) => (None, Err(error)),
            },
        };
        self.state = state.unwrap_or_else(|| {
            State::Failed(result.clone().expect_err("no state is an error"))
        });
        result
    }

    fn next(
        &mut self,
        state: State,
        bytes: &[u8],
    ) -> Result<(State, Option<Event>), StreamError> {
        let message = match decode(bytes)? {
            Message::Type { .. } => return Ok((state, None)),
            Message::Relation(relation) => {
                self.relations.insert(relation.oid, relation.into());
                return Ok((state, None));
            }
            Message::Logical(message) if !message.transactional => {
                let message = message.into_owned();
                return Ok((state, Some(Event::Message(message))));
            }
            message => message,
        };
        let mut open = match (state, &message) {
            (State::Open(open), _) => open,
            (_, Message::Begin { final_lsn, commit_time, xid }) => {
                let transaction = Transaction {
                    xid: *xid,
                    commit_lsn: *final_lsn,
                    end_lsn: *final_lsn,
                    commit_time: *commit_time,
                    origin: None,
                    changes: Vec::new(),
                };
                return Ok((State::Open(transaction), None));
            }
            _ => return Err(StreamError::NoTransaction),
        };
        let change = match message {
            Message::Begin { .. } => {
                return Err(StreamError::OpenTransaction(open.xid));
            }
            Message::Commit { commit_lsn, end_lsn, .. } => {
                if commit_lsn != open.commit_lsn {
                    let (expected, seen) = (open.commit_lsn, commit_lsn);
                    return Err(StreamError::WrongCommit { expected, seen });
                }
                open.end_lsn = end_lsn;
                let event = Event::Transaction(open);
                return Ok((State::Idle, Some(event)));
            }
            Message::Origin { name, .. } => {
                open.origin = Some(name.to_owned());
                return Ok((State::Open(open), None));
            }
            Message::Insert { relation, new } => {
                Change::Insert { new: self.row(relation, new, None)? }
            }
            Message::Delete { relation, old } => {
                Change::Delete { old: self.row(relation, old, None)? }
            }
            Message::Update { relation, old, new } => {
                let old = old.map(|old| self.row(relation, old, None));
                let old = old.transpose()?;
                let new = self.row(relation, new, old.as_ref())?;
                Change::Update { old, new }
            }
            Message::Truncate { relations, cascade, restart_identity } => {
                let relations = relations.into_iter();
                let relations = relations.map(|oid| self.relation(oid));
                Change::Truncate {
                    relations: relations.collect::<Result<_, _>>()?,
                    cascade,
                    restart_identity,
                }
            }
            Message::Logical(message) => Change::Message(message.into_owned()),
            Message::Type { .. } | Message::Relation(_) => {
                unreachable!("handled above")
            }
        };
        open.changes.push(change);
        Ok((State::Open(open), None))
    }

    fn relation(&self, oid: u32) -> Result<Arc<Relation>, StreamError> {
        match self.relations.get(&oid) {
            Some(relation) => Ok(Arc::clone(relation)),
            None => Err(StreamError::UnknownRelation(oid)),
        }
    }

    /// Takes values that are unchanged from `old`.
    fn row(
        &self,
        oid: u32,
        tuple: Tuple<'_>,
        old: Option<&Row>,
    ) -> Result<Row, StreamError> {
        let relation = self.relation(oid)?;
        if relation.columns.len() != tuple.values.len() {
            return Err(StreamError::ColumnCount {
                relation: oid,
                columns: relation.columns.len(),
                values: tuple.values.len(),
            });
        }
        let mut values = Vec::with_capacity(tuple.values.len());
        for (i, value) in tuple.values.into_iter().enumerate() {
            let old = old.and_then(|old| old.values[i].as_ref());
            values.push(match (value, old) {
                _ if tuple.key_only && !relation.columns[i].is_key => None,
                (Value::Unchanged, Some(old)) => Some(old.clone()),
                (value, _) => Some(value.into_owned()),
            });
        }
        Ok(Row { relation, values })
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn read<T: Field<'a>>(&mut self) -> Result<T, DecodeError> {
        T::read_from(self)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        if len > self.0.len() {
            return Err(DecodeError::UnexpectedEnd);
        }
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        Ok(taken)
    }

    fn list<T: Field<'a>>(
        &mut self,
        count: usize,
    ) -> Result<Vec<T>, DecodeError> {
        // Each item has at least one byte.
        let mut items = Vec::with_capacity(count.min(self.0.len()));
        for _ in 0..count {
            items.push(self.read()?);
        }
        Ok(items)
    }

    fn tuple(&mut self, key_only: bool) -> Result<Tuple<'a>, DecodeError> {
        let count: u16 = self.read()?;
        Ok(Tuple { key_only, values: self.list(count.into())? })
    }

    fn new_tuple(&mut self) -> Result<Tuple<'a>, DecodeError> {
        match self.read()? {
            b'N' => self.tuple(false),
            tag => Err(DecodeError::UnknownTag(tag)),
        }
    }
}

/// A type that can be read.
trait Field<'a>: Sized {
    fn read_from(input: &mut Input<'a>) -> Result<Self, DecodeError>;
}

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl Field<'_> for $integer {
            fn read_from(input: &mut Input<'_>) -> Result<Self, DecodeError> {
                let bytes = input.take(size_of::<Self>())?;
                let bytes = bytes.try_into().expect("this many were taken");
                Ok(Self::from_be_bytes(bytes))
            }
        }
    )*};
}

integers!(u8, u16, u32, u64, i32, i64);

macro_rules! tuples {
    ($($field:ident)*) => {
        impl<'a, $($field: Field<'a>),*> Field<'a> for ($($field),*) {
            fn read_from(input: &mut Input<'a>) -> Result<Self, DecodeError> {
                Ok(($(input.read::<$field>()?),*))
            }
        }
    };
}

tuples!(A B);
tuples!(A B C);
tuples!(A B C D);

impl Field<'_> for Lsn {
    fn read_from(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        input.read().map(Lsn)
    }
}

impl Field<'_> for SystemTime {
    fn read_from(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        let since_2000: i64 = input.read()?;
        let since_1970 = i128::from(since_2000) + 946_684_800_000_000;
        let micros = u64::try_from(since_1970.unsigned_abs());
        let micros =
            Duration::from_micros(micros.expect("an i64 and 30 years"));
        let epoch = SystemTime::UNIX_EPOCH;
        Ok(if since_1970 < 0 { epoch - micros } else { epoch + micros })
    }
}

impl<'a> Field<'a> for &'a str {
    fn read_from(input: &mut Input<'a>) -> Result<Self, DecodeError> {
        let len = input.0.iter().take_while(|byte| **byte != 0).count();
        let with_nul = input.take(len + 1)?;
        Ok(str::from_utf8(&with_nul[..len])?)
    }
}

/// Bytes after their length.
impl<'a> Field<'a> for &'a [u8] {
    fn read_from(input: &mut Input<'a>) -> Result<Self, DecodeError> {
        let len: u32 = input.read()?;
        input.take(len as usize)
    }
}

impl<'a> Field<'a> for Value<'a> {
    fn read_from(input: &mut Input<'a>) -> Result<Self, DecodeError> {
        match input.read()? {
            b'n' => Ok(Self::Null),
            b'u' => Ok(Self::Unchanged),
            b't' => Ok(Self::Text(str::from_utf8(input.read()?)?.into())),
            b'b' => Ok(Self::Binary(input.read::<&[u8]>()?.into())),
            tag => Err(DecodeError::UnknownTag(tag)),
        }
    }
}

impl Field<'_> for Column {
    fn read_from(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        let flags: u8 = input.read()?;
        let (name, type_oid, type_modifier): (&str, _, _) = input.read()?;
        let (is_key, name) = (flags % 2 == 1, name.to_owned());
        Ok(Self { is_key, name, type_oid, type_modifier })
    }
}

impl Field<'_> for Relation {
    fn read_from(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        let (oid, schema, name, identity): (_, &str, &str, u8) =
            input.read()?;
        let identity = match identity {
            b'd' => ReplicaIdentity::Default,
            b'n' => ReplicaIdentity::Nothing,
            b'f' => ReplicaIdentity::Full,
            b'i' => ReplicaIdentity::Index,
            tag => return Err(DecodeError::UnknownTag(tag)),
        };
        let count: u16 = input.read()?;
        let columns = input.list(count.into())?;
        let (schema, name) = (schema.to_owned(), name.to_owned());
        Ok(Self { oid, schema, name, identity, columns })
    }
}

impl<'a> Field<'a> for Message<'a> {
    fn read_from(input: &mut Input<'a>) -> Result<Self, DecodeError> {
        Ok(match input.read()? {
            b'B' => {
                let (final_lsn, commit_time, xid) = input.read()?;
                Self::Begin { final_lsn, commit_time, xid }
            }
            b'C' => {
                let _flags: u8 = input.read()?;
                let (commit_lsn, end_lsn, commit_time) = input.read()?;
                Self::Commit { commit_lsn, end_lsn, commit_time }
            }
            b'O' => {
                let (commit_lsn, name) = input.read()?;
                Self::Origin { commit_lsn, name }
            }
            b'R' => Self::Relation(input.read()?),
            b'Y' => {
                let (oid, schema, name) = input.read()?;
                Self::Type { oid, schema, name }
            }
            b'I' => {
                let relation = input.read()?;
                Self::Insert { relation, new: input.new_tuple()? }
            }
            b'U' => {
                let (relation, tag): (_, u8) = input.read()?;
                let first = match tag {
                    b'K' | b'O' | b'N' => input.tuple(tag == b'K')?,
                    _ => return Err(DecodeError::UnknownTag(tag)),
                };
                if tag == b'N' {
                    Self::Update { relation, old: None, new: first }
                } else {
                    let (old, new) = (Some(first), input.new_tuple()?);
                    Self::Update { relation, old, new }
                }
            }
            b'D' => match input.read()? {
                (relation, tag @ (b'K' | b'O')) => {
                    Self::Delete { relation, old: input.tuple(tag == b'K')? }
                }
                (_, tag) => return Err(DecodeError::UnknownTag(tag)),
            },
            b'T' => {
                let (count, options): (u32, u8) = input.read()?;
                Self::Truncate {
                    relations: input.list(count as usize)?,
                    cascade: options & 1 == 1,
                    restart_identity: options & 2 == 2,
                }
            }
            b'M' => {
                let (flags, lsn, prefix, content): (u8, _, &str, &[u8]) =
                    input.read()?;
                Self::Logical(LogicalMessage {
                    transactional: flags & 1 == 1,
                    lsn,
                    prefix: prefix.into(),
                    content: content.into(),
                })
            }
            tag => return Err(DecodeError::UnknownTag(tag)),
        })
    }
}
