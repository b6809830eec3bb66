//! The protocols, and the processes of each.

use std::fmt;

use clap::ValueEnum;

/// A protocol between the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pattern {
    /// An outbox, a relay, Kafka, and an inbox.
    Outbox,
    /// An outbox that is published from the log of Postgres.
    Tail,
    /// Half messages in a broker, with check-backs, and an inbox.
    Half,
    /// Try, confirm, cancel.
    Tcc,
    /// Two local transactions, which are only measured.
    #[value(hide = true)]
    Bare,
}

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum Role {
    /// Debits accounts.
    Payment,
    /// Credits accounts.
    Savings,
    /// Publishes the outbox of the payment service.
    Relay,
    /// Publishes the outbox from the log of Postgres.
    Tailer,
    /// Stores two-phase messages.
    Broker,
    /// Decides about the branches of TCC.
    Coordinator,
}

impl Pattern {
    /// Returns all processes.
    pub(crate) fn roles(self) -> &'static [Role] {
        match self {
            Self::Outbox => &[Role::Payment, Role::Relay, Role::Savings],
            Self::Tail => &[Role::Payment, Role::Tailer, Role::Savings],
            Self::Half => &[Role::Payment, Role::Broker, Role::Savings],
            Self::Tcc => &[Role::Payment, Role::Coordinator, Role::Savings],
            Self::Bare => &[Role::Payment, Role::Savings],
        }
    }

    /// Returns the process that a client sends its request to.
    pub(crate) fn entry(self) -> Role {
        match self {
            Self::Outbox | Self::Tail | Self::Half | Self::Bare => {
                Role::Payment
            }
            Self::Tcc => Role::Coordinator,
        }
    }

    /// Returns the processes that are called.
    pub(crate) fn servers(self) -> &'static [Role] {
        match self {
            Self::Outbox | Self::Tail => &[Role::Payment],
            Self::Half | Self::Tcc | Self::Bare => self.roles(),
        }
    }

    pub(crate) fn uses_kafka(self) -> bool {
        matches!(self, Self::Outbox | Self::Tail)
    }
}

impl Role {
    /// Returns the name of the database that the process uses.
    pub(crate) fn database(self) -> &'static str {
        match self {
            Self::Payment | Self::Relay | Self::Tailer => "payment",
            Self::Savings => "savings",
            Self::Broker => "broker",
            Self::Coordinator => "coordinator",
        }
    }
}

/// Returns the text that the command line has for a value.
pub(crate) fn name(value: &impl ValueEnum) -> String {
    let value = value.to_possible_value().expect("no value is skipped");
    value.get_name().to_owned()
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&name(self))
    }
}
