//! A run with chaos: processes are killed, requests are repeated, and no cent is
//! lost.

use std::collections::{HashMap, HashSet};
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use fastrand::Rng;
use lab::servers::Postgres;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use week08::money::Transfer;

use crate::audit::{Auditor, Books};
use crate::clients::{Request, Requests};
use crate::fleet::{Fleet, Kill, Note};
use crate::pattern::{Pattern, Role};
use crate::report::Mode;
use crate::wire::Caller;
use crate::world::{BALANCE, FROM, TO, World};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The protocol between the services.
    #[arg(long, value_enum, default_value = "outbox")]
    pattern: Pattern,
    /// Chooses which processes are killed, and after which of their effects.
    #[arg(long, default_value = "1", value_name = "SEED")]
    chaos: u64,
    /// The number of transfers.
    #[arg(long, default_value = "30")]
    transfers: u32,
    /// The number of kills.
    #[arg(long, default_value = "6")]
    crashes: u32,
    /// An empty database of a Postgres server, which is used as a template. By
    /// default, a server is started.
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
}

/// The requests that are sent at the same time.
const CLIENTS: usize = 4;

/// After so long without a kill or an answer, all transfers have to be credited
/// or refunded.
const DEADLINE: Duration = Duration::from_secs(30);

/// How often the databases are read if nothing is reported.
const LOOK: Duration = Duration::from_millis(20);

/// The width of a line's text.
const WIDTH: usize = 44;

/// Counts what happens, and prints it.
#[derive(Default)]
struct Ledger {
    kills: u32,
    /// The reports of calls that had taken effect already.
    repeated: u32,
    reported: HashSet<(Role, String)>,
    /// The transfers that were seen debited.
    debited: HashSet<u64>,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    let server = match &options.postgres {
        Some(_) => None,
        None => Some(Postgres::start().context("Postgres does not start")?),
    };
    let url = options.postgres.clone();
    let url = url.or(server.as_ref().map(Postgres::url)).unwrap_or_default();
    let world = World::create(options.pattern, &url).await?;
    let mut ledger = Ledger::default();
    let result = run_in(&world, options, &mut ledger).await;
    result.and(world.delete().await)
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
    println!(
        "{transfers} transfers with {CLIENTS} clients, and {crashes} kills. All \
         amounts are in cents.\n"
    );
    println!(
        "{:WIDTH$} {:>8} {:>9} {:>8} {:>10}",
        "What happens", "debited", "in flight", "credited", "total"
    );
    let books =
        ledger.watch(&auditor, &mut received, &requests, transfers).await?;
    drop((clients, fleet));
    check_answers(pattern, &requests, &books)?;
    ledger.print_sums(&requests, &books);
    Ok(())
}

impl Ledger {
    /// Prints and audits until all transfers are answered and settled.
    async fn watch(
        &mut self,
        auditor: &Auditor,
        notes: &mut Receiver<Note>,
        requests: &Requests,
        transfers: u32,
    ) -> Result<Books> {
        let mut deadline = Instant::now() + DEADLINE;
        let mut answered = 0;
        loop {
            let first = timeout(LOOK, notes.recv()).await.ok().flatten();
            let mut batch: Vec<_> = first.into_iter().collect();
            while let Ok(note) = notes.try_recv() {
                batch.push(note);
            }
            let answers = requests.answers().len();
            let has_faults =
                batch.iter().any(|n| !matches!(n, Note::Report(..)));
            if has_faults || answers > answered {
                deadline = Instant::now() + DEADLINE;
                answered = answers;
            }
            let books = auditor.read().await?;
            self.print(batch, &books)?;
            if answers == transfers as usize && books.are_settled() {
                return Ok(books);
            }
            if Instant::now() > deadline {
                bail!(
                    "after {DEADLINE:?}, {answers} of {transfers} requests are \
                     answered, {} cents are in flight, and {} rows are open",
                    books.in_flight(),
                    books.open,
                );
            }
        }
    }

    /// Prints what was reported, and the sums after it.
    fn print(&mut self, notes: Vec<Note>, books: &Books) -> Result<()> {
        let last = notes.len().saturating_sub(1);
        for (i, note) in notes.into_iter().enumerate() {
            let text = match note {
                Note::Report(role, text) => {
                    self.count(role, &text);
                    format!("{role:12}{text}")
                }
                Note::Killed(role, text) => {
                    self.count(role, &text);
                    self.kills += 1;
                    format!("{role:12}{text}: KILL")
                }
                Note::Client(text) => format!("{:12}{text}", "client"),
                Note::Ended(role, text) => {
                    bail!("{role} has ended by itself: {text}")
                }
            };
            if i == last {
                let credited = books.savings;
                println!(
                    "{text:WIDTH$} {:>8} {:>9} {credited:>8} {:>10}",
                    books.in_flight() + credited,
                    books.in_flight(),
                    books.payment + books.in_flight() + credited,
                );
            } else {
                println!("{text}");
            }
        }
        self.debited.extend(books.debited.keys());
        Ok(())
    }

    fn count(&mut self, role: Role, text: &str) {
        // An inbox says so, and a participant of TCC repeats its answer.
        let is_new = self.reported.insert((role, text.to_owned()));
        let is_call = text.starts_with("commits") && text.contains("it ");
        let is_repeated = text.starts_with("drops") || (is_call && !is_new);
        self.repeated += u32::from(is_repeated);
    }

    fn print_sums(&self, requests: &Requests, books: &Books) {
        let all = requests.transfers();
        // A short debit may be between two audits.
        let was_debited = |id: &u64| {
            let text = format!("commits try debit {id}: Done");
            self.debited.contains(id)
                || self.reported.contains(&(Role::Payment, text))
        };
        let refunded: Vec<_> = all
            .iter()
            .filter(|(id, _)| was_debited(id))
            .filter(|(id, _)| !books.debited.contains_key(id))
            .map(|(_, transfer)| i64::from(transfer.cents.get()))
            .collect();
        let credited = books.credited.len();
        println!(
            "\n{} transfers: {credited} credited, {} refunded, {} refused.\n{} \
             kills, {} requests sent again without an answer, {} twice on \
             purpose,\n{} duplicates without an effect. {} cents are debited and \
             credited, {}\nin flight, and {} were refunded: 0 cents lost.",
            all.len(),
            refunded.len(),
            all.len() - credited - refunded.len(),
            self.kills,
            requests.retried.load(Relaxed),
            requests.repeated.load(Relaxed),
            self.repeated,
            books.savings,
            books.in_flight(),
            refunded.iter().sum::<i64>(),
        );
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

/// Chooses processes, and after which of their reports they are killed. Each
/// process reports more than one effect for two transfers.
fn kills(
    pattern: Pattern,
    transfers: u32,
    number: u32,
    random: &mut Rng,
) -> HashMap<Role, Vec<Kill>> {
    let mut kills: HashMap<_, Vec<_>> = HashMap::new();
    for _ in 0..number {
        let role = pattern.roles()[random.usize(..pattern.roles().len())];
        let after = random.usize(..(transfers as usize / 2).max(1)) + 1;
        let kill = Kill { after, is_inside: random.bool() };
        kills.entry(role).or_default().push(kill);
    }
    kills
}
