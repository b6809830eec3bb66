//! The messages and changes of PostgreSQL's logical replication, as types.
//!
//! [`pgoutput`](crate::pgoutput) decodes the bytes of a message to a
//! [`Message`], and collects messages to [`Transaction`]s.

use std::borrow::Cow;
use std::fmt;
use std::str::Utf8Error;
use std::sync::Arc;
use std::time::SystemTime;

use thiserror::Error;

/// A position in the log: the number of bytes before it.
///
/// ```
/// # use week08::replication::Lsn;
/// assert_eq!(Lsn(0x16B3748).to_string(), "0/16B3748");
/// assert_eq!(Lsn(0x2A_0000_00FF).to_string(), "2A/FF");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 as u32)
    }
}

/// A message of `pgoutput`, protocol version 1. It borrows from its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// `B`: the changes of a transaction follow.
    Begin {
        /// The position of the commit.
        final_lsn: Lsn,
        /// When the transaction was committed.
        commit_time: SystemTime,
        /// The id of the transaction.
        xid: u32,
    },
    /// `C`: the transaction is complete.
    Commit {
        /// The position of the commit.
        commit_lsn: Lsn,
        /// The position after the commit: the one to confirm.
        end_lsn: Lsn,
        /// When the transaction was committed.
        commit_time: SystemTime,
    },
    /// `O`: the transaction was replicated from another server.
    Origin {
        /// The position of the commit on that server.
        commit_lsn: Lsn,
        /// The name of that server.
        name: &'a str,
    },
    /// `R`: describes the columns of a table.
    Relation(Relation),
    /// `Y`: the name of a type that is not built in.
    Type {
        /// The number of the type.
        oid: u32,
        /// The schema, or an empty text for `pg_catalog`.
        schema: &'a str,
        /// The name in its schema.
        name: &'a str,
    },
    /// `I`: a row was inserted.
    Insert {
        /// The number of the relation.
        relation: u32,
        /// The inserted row.
        new: Tuple<'a>,
    },
    /// `U`: a row was updated.
    Update {
        /// The number of the relation.
        relation: u32,
        /// The row before the update, or its key, or nothing.
        old: Option<Tuple<'a>>,
        /// The row after the update.
        new: Tuple<'a>,
    },
    /// `D`: a row was deleted.
    Delete {
        /// The number of the relation.
        relation: u32,
        /// The deleted row, or its key.
        old: Tuple<'a>,
    },
    /// `T`: relations were emptied.
    Truncate {
        /// The numbers of the relations.
        relations: Vec<u32>,
        /// Whether the command had the option `CASCADE`.
        cascade: bool,
        /// Whether the command had the option `RESTART IDENTITY`.
        restart_identity: bool,
    },
    /// `M`: a message that an application has written to the log.
    Logical(LogicalMessage<'a>),
}

/// A message written by `pg_logical_emit_message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogicalMessage<'a> {
    /// Whether the message belongs to a transaction.
    pub transactional: bool,
    /// The position of the message.
    pub lsn: Lsn,
    /// The prefix. Applications use it to recognize their own messages.
    pub prefix: Cow<'a, str>,
    /// The content: any bytes.
    pub content: Cow<'a, [u8]>,
}

impl LogicalMessage<'_> {
    /// Copies the borrowed bytes.
    pub fn into_owned(self) -> LogicalMessage<'static> {
        LogicalMessage {
            transactional: self.transactional,
            lsn: self.lsn,
            prefix: self.prefix.into_owned().into(),
            content: self.content.into_owned().into(),
        }
    }
}

/// The description of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// The number of the relation.
    pub oid: u32,
    /// The schema, or an empty text for `pg_catalog`.
    pub schema: String,
    /// The name in its schema.
    pub name: String,
    /// The table's `REPLICA IDENTITY`.
    pub identity: ReplicaIdentity,
    /// The published columns. Generated columns are not among them.
    pub columns: Vec<Column>,
}

/// Which columns of the old row come with an update or a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReplicaIdentity {
    /// `d`: the primary key.
    Default,
    /// `n`: none. The server refuses to update or delete a published row.
    Nothing,
    /// `f`: all columns.
    Full,
    /// `i`: the columns of a unique index.
    Index,
}

/// The description of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Whether the column belongs to the replica identity.
    pub is_key: bool,
    /// The name of the column.
    pub name: String,
    /// The number of the column's type.
    pub type_oid: u32,
    /// The modifier of the type, such as the length of a `varchar`, or -1.
    pub type_modifier: i32,
}

/// The values of a row, as they are in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuple<'a> {
    /// Whether only the key columns have their values (`K`). The other columns
    /// are sent as NULL, whatever their values are.
    pub key_only: bool,
    /// A value for each column of the relation.
    pub values: Vec<Value<'a>>,
}

/// The value of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// `n`: NULL.
    Null,
    /// `u`: a large value that the update did not change, and that the server
    /// has not sent (TOAST). It is not NULL.
    Unchanged,
    /// `t`: the value in the text format of its type.
    Text(Cow<'a, str>),
    /// `b`: the value in the binary format of its type.
    Binary(Cow<'a, [u8]>),
}

impl Value<'_> {
    /// Copies the borrowed bytes.
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Self::Null => Value::Null,
            Self::Unchanged => Value::Unchanged,
            Self::Text(text) => Value::Text(text.into_owned().into()),
            Self::Binary(bytes) => Value::Binary(bytes.into_owned().into()),
        }
    }

    /// Returns the text, or `None` if the value is not a text.
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
}

/// The reason why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes end before the message does.
    #[error("the message is incomplete")]
    UnexpectedEnd,
    /// This many bytes follow the message.
    #[error("{0} bytes follow the message")]
    TrailingBytes(usize),
    /// The byte that tells which kind of message or value follows is unknown.
    #[error("unknown tag {:?}", char::from(*.0))]
    UnknownTag(u8),
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    NotUtf8(#[from] Utf8Error),
}

/// The result of a message that completes a transaction, or belongs to none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A transaction was committed.
    Transaction(Transaction),
    /// A message that belongs to no transaction. It was written even if the
    /// transaction around it was rolled back.
    Message(LogicalMessage<'static>),
}

/// A committed transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The id of the transaction.
    pub xid: u32,
    /// The position of the commit.
    pub commit_lsn: Lsn,
    /// The position after the commit. Confirm it when the changes are durable.
    pub end_lsn: Lsn,
    /// When the transaction was committed.
    pub commit_time: SystemTime,
    /// The name of the server that the transaction was replicated from.
    pub origin: Option<String>,
    /// The changes, in their order.
    pub changes: Vec<Change>,
}

/// A change of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A row was inserted.
    Insert {
        /// The inserted row.
        new: Row,
    },
    /// A row was updated.
    Update {
        /// The old row, or its key. `None` if the key has not changed and the
        /// replica identity is not `FULL`.
        old: Option<Row>,
        /// The row after the update.
        new: Row,
    },
    /// A row was deleted.
    Delete {
        /// The deleted row, or its key.
        old: Row,
    },
    /// Relations were emptied.
    Truncate {
        /// The relations.
        relations: Vec<Arc<Relation>>,
        /// Whether the command had the option `CASCADE`.
        cascade: bool,
        /// Whether the command had the option `RESTART IDENTITY`.
        restart_identity: bool,
    },
    /// A message that belongs to the transaction.
    Message(LogicalMessage<'static>),
}

/// A row with the names of its columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The relation as it was when the row was changed.
    pub relation: Arc<Relation>,
    /// A value for each column of the relation. `None` if the column is not a
    /// part of the key, and only the key was sent.
    pub values: Vec<Option<Value<'static>>>,
}

impl Row {
    /// Returns the value of a column, or `None` if it was not sent, or if the
    /// relation has no such column.
    pub fn get(&self, column: &str) -> Option<&Value<'static>> {
        let columns = &self.relation.columns;
        let index = columns.iter().position(|c| c.name == column)?;
        self.values.get(index)?.as_ref()
    }
}

/// The reason why a stream cannot be decoded any further.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StreamError {
    /// The bytes are not a message.
    #[error("failed to decode a message")]
    Decode(#[from] DecodeError),
    /// A change of a relation that no message has described.
    #[error("no message has described relation {0}")]
    UnknownRelation(u32),
    /// A tuple that does not fit the latest description of its relation.
    #[error("relation {relation} has {columns} columns, and a row {values}")]
    ColumnCount {
        /// The number of the relation.
        relation: u32,
        /// The number of columns of the relation.
        columns: usize,
        /// The number of values of the tuple.
        values: usize,
    },
    /// A message that is only allowed between `Begin` and `Commit`.
    #[error("the message belongs to a transaction, and none has begun")]
    NoTransaction,
    /// A `Begin` between `Begin` and `Commit`.
    #[error("transaction {0} has not ended")]
    OpenTransaction(u32),
    /// A `Commit` of another transaction than the one that has begun.
    #[error("expected the commit at {expected}, got the one at {seen}")]
    WrongCommit {
        /// The final position of the `Begin`.
        expected: Lsn,
        /// The position of the `Commit`.
        seen: Lsn,
    },
}
