//! A run with chaos: processes are killed, requests are repeated, and no cent is
//! lost.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use fastrand::Rng;
use lab::servers::Postgres;
use tokio::sync::mpsc::Receiver;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::{Instant, timeout};
use week08::money::Transfer;

use crate::audit::{Auditor, Books};
use crate::clients::{Request, Requests};
use crate::fleet::{Fleet, Kill, Note};
use crate::kafka::Observer;
use crate::ledger::Ledger;
use crate::pattern::{Pattern, Role};
use crate::print;
use crate::report::Mode;
use crate::signals::{Signals, Stopped};
use crate::wire::Caller;
use crate::world::{BALANCE, FROM, SETTINGS, TO, World};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The protocol between the services.
    #[arg(long, value_enum, default_value = "outbox")]
    pattern: Pattern,
    /// Chooses the amounts, and after which of their effects the processes are
    /// killed. The timing is that of the machine: two runs with one seed differ.
    #[arg(long, default_value = "1", value_name = "SEED")]
    chaos: u64,
    /// The number of transfers.
    #[arg(long, default_value = "30")]
    transfers: u32,
    /// The most kills. With few transfers, a process may have no work left
    /// before it would be killed.
    #[arg(long, default_value = "6")]
    crashes: u32,
    /// An empty database of a Postgres server, which is used as a template. By
    /// default, a server is started. The pattern `tail` needs `wal_level =
    /// logical`, and a user without a password. For other patterns, put the
    /// password into `PGPASSWORD`: arguments are visible in the list of processes.
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
}

/// The requests that are sent at the same time.
const CLIENTS: usize = 4;

/// After so long without a kill or an answer, all transfers have to be credited
/// or refunded.
const DEADLINE: Duration = Duration::from_secs(30);

/// A run ends if nothing was reported for so long, and the consumer has
/// acknowledged all messages of Kafka.
const QUIET: Duration = Duration::from_millis(800);

/// How often the databases are read if nothing is reported.
const LOOK: Duration = Duration::from_millis(20);

pub(crate) async fn run(options: &Options) -> Result<()> {
    let mut signals = Signals::new()?;
    let server = match &options.postgres {
        Some(_) => None,
        None => {
            let server = Postgres::start_with(&SETTINGS);
            Some(server.context("Postgres does not start")?)
        }
    };
    let url = options.postgres.clone();
    let url = url.or(server.as_ref().map(Postgres::url)).unwrap_or_default();
    let world = World::new(options.pattern, &url)?;
    let mut ledger = Ledger::default();
    let result = match signals.after(world.create()).await {
        Ok(()) => signals.or(run_in(&world, options, &mut ledger)).await,
        Err(error) => Err(error),
    };
    // The processes have been killed.
    let deleted = match signals.or(world.delete()).await {
        Err(error) if error.is::<Stopped>() => {
            let names = world.databases().join(" and ");
            Err(error
                .context(format!("the deletion of {names} may be incomplete")))
        }
        deleted => deleted,
    };
    match (result, deleted) {
        (Err(error), Err(other)) => {
            Err(anyhow!("{}; {}", print::chain(&error), print::chain(&other)))
        }
        (result, deleted) => result.and(deleted),
    }
}

async fn run_in(
    world: &World,
    options: &Options,
    ledger: &mut Ledger,
) -> Result<()> {
    let &Options { pattern, chaos, transfers, crashes, .. } = options;
    let mut random = Rng::with_seed(chaos);
    let requests = requests(pattern, transfers, &mut random);
    let auditor =
        Auditor::connect(world, requests.iter().map(|r| r.transfer)).await?;
    let kills = kills(pattern, transfers, crashes, &mut random);
    let (fleet, notes, mut received) = Fleet::start(world, Mode::Ask, kills)?;
    for role in pattern.servers() {
        Caller::new(world.dir.path(), *role).wait_until_up().await?;
    }
    let service = Caller::new(world.dir.path(), pattern.entry());
    let requests = Arc::new(Requests::new(service, requests));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (requests, notes) = (Arc::clone(&requests), notes.clone());
        clients.spawn(async move { requests.send_all(notes).await });
    }
    print::line(format_args!(
        "{transfers} transfers with {CLIENTS} clients, and up to {crashes} kills. \
         All amounts are in\ncents.\n"
    ))?;
    Ledger::print_header()?;
    let books = ledger.watch(world, &auditor, &mut received, &requests).await?;
    drop((clients, fleet));
    check_answers(pattern, &requests, &books)?;
    ledger.print_sums(&requests, &books)
}

impl Ledger {
    /// Prints and audits until all transfers are answered and settled.
    async fn watch(
        &mut self,
        world: &World,
        auditor: &Auditor,
        notes: &mut Receiver<Note>,
        requests: &Requests,
    ) -> Result<Books> {
        let transfers = requests.transfers().len();
        let kafka = Some(world.kafka()).filter(|url| !url.is_empty());
        let kafka = kafka.map(Observer::new).transpose()?;
        let lag = || match &kafka {
            Some(kafka) => block_in_place(|| kafka.lag()),
            None => Ok(0),
        };
        let mut deadline = Instant::now() + DEADLINE;
        let mut answered = 0;
        let mut last_note = Instant::now();
        loop {
            let first = timeout(LOOK, notes.recv()).await.ok().flatten();
            let mut batch: Vec<_> = first.into_iter().collect();
            while let Ok(note) = notes.try_recv() {
                batch.push(note);
            }
            if !batch.is_empty() {
                last_note = Instant::now();
            }
            let answers = requests.answers().len();
            let has_faults =
                batch.iter().any(|n| !matches!(n, Note::Report(..)));
            if has_faults || answers > answered {
                deadline = Instant::now() + DEADLINE;
                answered = answers;
            }
            let books = auditor.read().await;
            // Also if the money is wrong: they are the trace.
            self.print(batch, books.as_ref().ok())?;
            let books = books?;
            let is_done = answers == transfers && books.are_settled();
            if is_done && last_note.elapsed() > QUIET && lag()? == 0 {
                return Ok(books);
            }
            if Instant::now() > deadline {
                bail!(
                    "after {DEADLINE:?}, {answers} of {transfers} requests are \
                     answered, {} cents are in flight ({:?}), {} rows are open, \
                     and {} messages are not acknowledged",
                    books.in_flight(),
                    books.transfers_in_flight(),
                    books.open,
                    lag()?,
                );
            }
        }
    }
}

/// Checks the answers that the clients have got.
fn check_answers(
    pattern: Pattern,
    requests: &Requests,
    books: &Books,
) -> Result<()> {
    for (id, answer) in requests.answers() {
        let is_credited = books.credited.contains_key(&id);
        let is_right = match (pattern, &answer[..]) {
            // The coordinator has accepted to confirm it or to cancel it.
            (Pattern::Tcc, "Accept") => true,
            (_, "Accepted") => is_credited,
            (_, "Refused") => !is_credited,
            _ => false,
        };
        ensure!(
            is_right,
            "the answer to {id} is {answer}, but credited: {is_credited}"
        );
    }
    Ok(())
}

/// Returns transfers of different amounts. Some are refused, and some are
/// requested twice.
fn requests(pattern: Pattern, number: u32, random: &mut Rng) -> Vec<Request> {
    let request = |id| {
        let id = u64::from(id);
        let (from, mut to) = (random.u64(FROM), random.u64(TO));
        let mut cents = random.u32(1..10) * 1_000 + id as u32 % 1_000;
        match random.u8(..10) {
            // More than the balance.
            0 => cents += BALANCE as u32,
            // No such account: the try is refused, and the other is cancelled.
            1 if pattern == Pattern::Tcc => to = TO.end,
            _ => {}
        }
        let cents = NonZero::new(cents).expect("it is positive");
        let transfer = Transfer { id, from, to, cents };
        Request { transfer, is_twice: random.u8(..4) == 0 }
    };
    (1..=number).map(request).collect()
}

/// Chooses after which of their reports processes are killed. The processes take
/// turns, so each of them is killed if there are enough kills. Each process
/// reports more than one effect for two transfers.
fn kills(
    pattern: Pattern,
    transfers: u32,
    number: u32,
    random: &mut Rng,
) -> HashMap<Role, Vec<Kill>> {
    let mut kills: HashMap<_, Vec<_>> = HashMap::new();
    let mut roles = pattern.roles().to_vec();
    random.shuffle(&mut roles);
    for role in roles.into_iter().cycle().take(number as usize) {
        let after = random.usize(..(transfers as usize / 2).max(1)) + 1;
        let kill = Kill { after, is_inside: random.bool() };
        kills.entry(role).or_default().push(kill);
    }
    kills
}
