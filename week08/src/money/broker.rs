//! A broker's table of two-phase messages.
//!
//! *Question.* A broker stores a message before the producer's transaction, and
//! shows it to consumers afterwards. What does it store, and what does a person
//! see of a message whose producer never answers?
//!
//! *Idea.* One row holds the message and its [`State`]. The function that finds
//! the next state is the policy, and an argument of [`apply`]. The row changes
//! by compare and swap, so two instances of the broker do not overwrite each
//! other. Two more tables list open messages and parked ones.
//!
//! *Guarantee.* If two events of a message are applied at the same time, the
//! result is that of one after the other.
//!
//! *Cost.* A final state is kept, so that a late confirmation finds it. A real
//! broker deletes it after a retention time, which has to be longer than the
//! delay of any confirmation.

use std::fmt;
use std::str::FromStr;

use super::{Message, ParseError, Table, Tx};

/// The state of a message in the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// No consumer sees the message: its transaction may not be committed.
    Prepared {
        /// How often the producer was asked.
        checks: u32,
    },
    /// Consumers see the message. It is delivered until it is acknowledged.
    Committed,
    /// The queue of the consumer has the message.
    Delivered,
    /// No consumer ever sees the message.
    RolledBack,
    /// The producer has not answered. A person decides.
    Parked,
    /// A person has decided that no consumer ever sees the message. The
    /// producer has to return the money.
    Refunding,
}

/// What a producer says about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Decision {
    /// The local transaction is committed.
    Commit,
    /// The local transaction has changed no balance, and never will.
    Rollback,
    /// The producer does not know it yet.
    Unknown,
}

/// An event of a message that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Input {
    /// The producer has sent its decision, unasked or after a check-back. It
    /// may be late, and it may arrive twice.
    Confirmed(Decision),
    /// The message has been open for a while.
    Due,
    /// The queue of the consumer has accepted the message.
    Delivered,
    /// A person lets the broker ask again.
    Retry,
    /// A person gives up the transfer.
    Refund,
}

/// What the broker sends after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Output {
    /// Asks a producer for its decision: any instance of the service.
    CheckBack(Message),
    /// Puts the message into the queue of the consumer.
    Deliver(Message),
    /// Asks a producer to return the money.
    Refund(Message),
}

impl State {
    /// Returns whether the broker has still something to do.
    pub fn is_open(self) -> bool {
        matches!(
            self,
            Self::Prepared { .. } | Self::Committed | Self::Refunding
        )
    }
}

/// Stores a message that no consumer sees yet. Returns true if it is stored,
/// now or before, whatever has become of it. Returns false if the broker has
/// another transfer with this id.
///
/// # Errors
///
/// Returns the error of the database. The transaction has to be rolled back.
pub async fn prepare<T: Tx>(
    tx: &mut T,
    message: &Message,
) -> Result<bool, T::Error> {
    let key = message.transfer.id.to_string();
    let stored =
        Stored { state: State::Prepared { checks: 0 }, message: *message };
    if tx.insert(Table::Fence, &key, &stored.to_string()).await? {
        return tx.insert(Table::Outbox, &key, &message.to_string()).await;
    }
    let first = tx.get(Table::Fence, &key).await?;
    let first = first.map(|text| Stored::parse(&text).message.transfer);
    Ok(first == Some(message.transfer))
}

/// Applies an event to the message of a transfer. `next` returns the next
/// state. Returns what the broker sends after the commit.
///
/// # Errors
///
/// Returns the error of the database. The transaction has to be rolled back.
pub async fn apply<T: Tx>(
    tx: &mut T,
    id: u64,
    input: Input,
    next: impl Fn(State, Input) -> State + Send + Sync,
) -> Result<Option<Output>, T::Error> {
    let key = id.to_string();
    while let Some(text) = tx.get(Table::Fence, &key).await? {
        let Stored { state: old, message } = Stored::parse(&text);
        let state = next(old, input);
        let new = Stored { state, message }.to_string();
        if new != text && !tx.replace(Table::Fence, &key, &text, &new).await? {
            // Another event was applied meanwhile.
            continue;
        }
        let parked = |state| state == State::Parked;
        for (table, was, is) in [
            (Table::Outbox, old.is_open(), state.is_open()),
            (Table::Parked, parked(old), parked(state)),
        ] {
            if is && !was {
                tx.insert(table, &key, &message.to_string()).await?;
            } else if was && !is {
                tx.delete(table, &key).await?;
            }
        }
        return Ok(output(input, state, message));
    }
    Ok(None)
}

/// Returns the oldest messages that are open: each is [`Input::Due`] after a
/// while.
///
/// # Errors
///
/// Returns the error of the database.
pub async fn open<T: Tx>(
    tx: &mut T,
    limit: usize,
) -> Result<Vec<Message>, T::Error> {
    messages(tx, Table::Outbox, limit).await
}

/// Returns the oldest messages that are parked.
///
/// # Errors
///
/// Returns the error of the database.
pub async fn parked<T: Tx>(
    tx: &mut T,
    limit: usize,
) -> Result<Vec<Message>, T::Error> {
    messages(tx, Table::Parked, limit).await
}

fn output(input: Input, state: State, message: Message) -> Option<Output> {
    match (input, state) {
        // It is not asked again at once.
        (Input::Due, State::Prepared { .. }) => {
            Some(Output::CheckBack(message))
        }
        (Input::Due | Input::Confirmed(_), State::Committed) => {
            Some(Output::Deliver(message))
        }
        (Input::Due | Input::Refund, State::Refunding) => {
            Some(Output::Refund(message))
        }
        _ => None,
    }
}

async fn messages<T: Tx>(
    tx: &mut T,
    table: Table,
    limit: usize,
) -> Result<Vec<Message>, T::Error> {
    let rows = tx.oldest(table, limit).await?;
    let message = |text: &str| text.parse().expect("the broker wrote it");
    Ok(rows.iter().map(|row| message(&row.value)).collect())
}

/// The row of a message.
struct Stored {
    state: State,
    message: Message,
}

impl Stored {
    fn parse(text: &str) -> Self {
        text.parse().expect("the broker wrote it")
    }
}

/// Writes the state before the message: `committed 1000 7 1 2 100`.
impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.state {
            State::Prepared { checks } => write!(f, "prepared:{checks}")?,
            State::Committed => write!(f, "committed")?,
            State::Delivered => write!(f, "delivered")?,
            State::RolledBack => write!(f, "rolled_back")?,
            State::Parked => write!(f, "parked")?,
            State::Refunding => write!(f, "refunding")?,
        }
        write!(f, " {}", self.message)
    }
}

impl FromStr for Stored {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (state, message) =
            text.split_once(' ').ok_or(ParseError::Fields)?;
        let state = match (state, state.strip_prefix("prepared:")) {
            (_, Some(checks)) => State::Prepared { checks: checks.parse()? },
            ("committed", _) => State::Committed,
            ("delivered", _) => State::Delivered,
            ("rolled_back", _) => State::RolledBack,
            ("parked", _) => State::Parked,
            ("refunding", _) => State::Refunding,
            _ => return Err(ParseError::Fields),
        };
        Ok(Self { state, message: message.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::num::NonZero;

    use super::super::simulated::Database;
    use super::super::{Row, Transfer};
    use super::*;

    fn message(cents: u32) -> Message {
        let cents = NonZero::new(cents).unwrap();
        let transfer = Transfer { id: u64::MAX, from: 1, to: 2, cents };
        Message { debited_s: 9, transfer }
    }

    fn run<R>(
        database: &mut Database,
        body: impl AsyncFnOnce(&mut Database) -> R,
    ) -> R {
        database.transaction(body, |_| true)
    }

    #[test]
    fn a_message_is_listed_while_it_is_open_or_parked() {
        let mut database = Database::default();
        let new = message(5);
        for _ in 0..2 {
            let stored = run(&mut database, async |tx| prepare(tx, &new).await);
            assert_eq!(stored, Ok(true));
        }
        let other = message(6);
        let stored = run(&mut database, async |tx| prepare(tx, &other).await);
        assert_eq!(stored, Ok(false));
        for (state, is_open, is_parked, sent) in [
            (
                State::Prepared { checks: 7 },
                true,
                false,
                Some(Output::CheckBack(new)),
            ),
            (State::Parked, false, true, None),
            (State::Refunding, true, false, Some(Output::Refund(new))),
            (State::Committed, true, false, Some(Output::Deliver(new))),
            (State::Delivered, false, false, None),
            (State::RolledBack, false, false, None),
        ] {
            for _ in 0..2 {
                let output = run(&mut database, async |tx| {
                    apply(tx, u64::MAX, Input::Due, |_, _| state).await
                });
                assert_eq!(output, Ok(sent), "{state:?}");
                let all = run(&mut database, async |tx| open(tx, 2).await);
                assert_eq!(all, Ok(vec![new; usize::from(is_open)]));
                let all = run(&mut database, async |tx| parked(tx, 2).await);
                assert_eq!(all, Ok(vec![new; usize::from(is_parked)]));
            }
        }
    }

    #[test]
    fn an_unknown_message_is_not_stored() {
        let mut database = Database::default();
        let output = run(&mut database, async |tx| {
            apply(tx, 1, Input::Due, |state, _| state).await
        });
        assert_eq!(output, Ok(None));
        assert_eq!(database, Database::default());
    }

    /// Another event commits this state after the first `get`.
    struct Raced {
        tx: Database,
        other: Option<State>,
    }

    impl Tx for Raced {
        type Error = Infallible;

        async fn add(&mut self, _: u64, _: i64) -> Result<bool, Infallible> {
            unreachable!("a broker has no accounts")
        }

        async fn insert(
            &mut self,
            table: Table,
            key: &str,
            value: &str,
        ) -> Result<bool, Infallible> {
            self.tx.insert(table, key, value).await
        }

        async fn get(
            &mut self,
            table: Table,
            key: &str,
        ) -> Result<Option<String>, Infallible> {
            let value = self.tx.get(table, key).await?;
            if let (Some(old), Some(state)) = (&value, self.other.take()) {
                let message = Stored::parse(old).message;
                let new = Stored { state, message }.to_string();
                assert_eq!(
                    self.tx.replace(table, key, old, &new).await,
                    Ok(true)
                );
            }
            Ok(value)
        }

        async fn replace(
            &mut self,
            table: Table,
            key: &str,
            from: &str,
            to: &str,
        ) -> Result<bool, Infallible> {
            self.tx.replace(table, key, from, to).await
        }

        async fn delete(
            &mut self,
            table: Table,
            key: &str,
        ) -> Result<bool, Infallible> {
            self.tx.delete(table, key).await
        }

        async fn oldest(
            &mut self,
            table: Table,
            limit: usize,
        ) -> Result<Vec<Row>, Infallible> {
            self.tx.oldest(table, limit).await
        }
    }

    #[test]
    fn an_event_that_commits_meanwhile_is_not_overwritten() {
        let mut database = Database::default();
        let new = message(5);
        run(&mut database, async |tx| prepare(tx, &new).await).unwrap();
        let mut raced = Raced { tx: database, other: Some(State::Committed) };
        let next = |state, _| match state {
            State::Prepared { .. } => State::RolledBack,
            state => state,
        };
        let output = run(&mut Database::default(), async |_| {
            apply(&mut raced, u64::MAX, Input::Due, next).await
        });
        assert_eq!(output, Ok(Some(Output::Deliver(new))));
    }
}
