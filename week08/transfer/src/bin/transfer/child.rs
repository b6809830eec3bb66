//! A child process, and the loop that performs the effects of a state machine.

use std::collections::VecDeque;
use std::env;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use week08_transfer::sql::Ledger;

use crate::outbox::Rows;
use crate::pattern::{Pattern, Role, name};
use crate::report::{Mode, Reports};
use crate::{bare, half, outbox, tailer, tcc};

/// What the parent tells a process.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    pub(crate) role: Role,
    pub(crate) pattern: Pattern,
    /// Which reports it writes.
    pub(crate) mode: Mode,
    /// The folder of the sockets.
    pub(crate) dir: PathBuf,
    /// The database. It is in [`URL`], as it may have a password.
    #[arg(skip)]
    pub(crate) url: String,
    /// The bootstrap servers.
    #[arg(default_value = "")]
    pub(crate) kafka: String,
}

/// The variable with the URL of the database. Unlike arguments, other users
/// cannot see it.
pub(crate) const URL: &str = "TRANSFER_DATABASE_URL";

/// What the parts of a service share.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) ledger: Ledger,
    pub(crate) dir: PathBuf,
    pub(crate) reports: Reports,
}

impl Options {
    /// Returns the arguments that start the process.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let Self { role, pattern, mode, dir, url: _, kafka } = self;
        vec![
            "child".to_owned(),
            name(role),
            name(pattern),
            name(mode),
            dir.display().to_string(),
            kafka.clone(),
        ]
    }
}

/// Becomes a process of a service.
pub(crate) async fn run(options: Options) -> Result<()> {
    let Options { role, pattern, mode, dir, url: _, kafka } = options;
    let url = env::var(URL).context(URL)?;
    let reports = Reports::new(mode);
    let ledger = Ledger::connect(&url).await?;
    let context = Context { ledger, dir, reports };
    match (role, pattern) {
        (Role::Payment, Pattern::Outbox) => {
            outbox::payment(context, Rows::Stay).await
        }
        (Role::Payment, Pattern::Tail) => {
            outbox::payment(context, Rows::AreDeleted).await
        }
        (Role::Relay, _) => outbox::relay(context, &kafka).await,
        (Role::Tailer, _) => tailer::tail(context, &url, &kafka).await,
        (Role::Savings, Pattern::Outbox | Pattern::Tail) => {
            outbox::savings(context, &kafka).await
        }
        (Role::Payment, Pattern::Half) => half::payment(context).await,
        (Role::Broker, _) => half::broker(context).await,
        (Role::Savings, Pattern::Half) => half::savings(context).await,
        (Role::Payment | Role::Savings, Pattern::Tcc) => {
            tcc::participant(context, role).await
        }
        (Role::Coordinator, _) => tcc::coordinator(context).await,
        (Role::Payment | Role::Savings, Pattern::Bare) => {
            bare::service(context, role).await
        }
    }
}

/// Lets a state machine handle an event, and performs its effects in order. The
/// event of an effect is handled before the next effect is performed.
pub(crate) async fn drive<Event, Effect>(
    mut step: impl FnMut(Event) -> Vec<Effect>,
    event: Event,
    mut perform: impl AsyncFnMut(Effect) -> Option<Event>,
) {
    let mut effects = VecDeque::from(step(event));
    while let Some(effect) = effects.pop_front() {
        if let Some(event) = perform(effect).await {
            effects.extend(step(event));
        }
    }
}

/// Returns the seconds since 1970.
pub(crate) fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("the clock is right").as_secs()
}
