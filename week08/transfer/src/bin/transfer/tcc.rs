//! The processes of TCC: both participants, and the coordinator.

use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_local;
use tokio::time::timeout;
use week08::money::coordinator::{
    Branch, Call, Command, Coordinator, Effect, Event, Operation, Outcome,
    Reply, Side, transact,
};
use week08_transfer::sql::Ledger;

use crate::child::{Context, drive};
use crate::pattern::Role;
use crate::wire::{Caller, serve};

/// The coordinator repeats calls that are not answered after this time.
const REPEAT: Duration = Duration::from_millis(100);

/// It cancels a transfer after it has repeated the tries so often.
const PATIENCE: Option<u32> = Some(3);

/// Answers the calls of the coordinator.
pub(crate) async fn participant(context: Context, role: Role) -> Result<()> {
    let dir = context.dir.clone();
    serve(&dir, role, async move |line| {
        let call = parse_call(line)?;
        let body = async |tx: &mut _| week08::tcc::transact(tx, &call).await;
        let reply = context.ledger.transaction(body).await.ok()?;
        let Call { operation, branch: Branch { side, transfer } } = call;
        let operation = format!("{operation:?}").to_lowercase();
        let text = format!("{operation} {side} {}: {reply:?}", transfer.id);
        match (call.operation, side) {
            (Operation::Confirm, Side::Credit) => {
                context.reports.report_credit(transfer.id, &text).await;
            }
            _ => context.reports.report(&text).await,
        }
        Some(format!("{reply:?}"))
    })
    .await?;
    Ok(())
}

/// Stores the requests of clients, and runs the transfers.
pub(crate) async fn coordinator(context: Context) -> Result<()> {
    let dir = context.dir.clone();
    let requested = Rc::new(Notify::new());
    spawn_local(run(context.clone(), Rc::clone(&requested)));
    serve(&dir, Role::Coordinator, async move |line| {
        let mut answer = None;
        let perform = async |effect| match effect {
            Effect::Transact(command) => {
                Some(execute(&context.ledger, &command).await)
            }
            Effect::Accept | Effect::Refuse => {
                let id = line.split_once(' ').map_or("", |(id, _)| id);
                context.reports.report(&format!("stores request {id}")).await;
                answer = Some(format!("{effect:?}"));
                None
            }
            Effect::Call(_) => unreachable!("a request makes no call"),
        };
        // It has no state: that of transfers is in the database.
        let mut machine = Coordinator::new(PATIENCE);
        let event = Event::Requested(line.parse().ok()?);
        drive(|event| machine.step(event), event, perform).await;
        requested.notify_one();
        answer
    })
    .await?;
    Ok(())
}

/// Runs one transfer after the other.
async fn run(context: Context, requested: Rc<Notify>) {
    let Context { ledger, dir, reports } = context;
    let debit = Rc::new(Caller::new(&dir, Role::Payment));
    let credit = Rc::new(Caller::new(&dir, Role::Savings));
    let (sender, mut answers) = mpsc::channel(2);
    let mut machine = Coordinator::new(PATIENCE);
    loop {
        let event = if machine.is_running() {
            let answer = timeout(REPEAT, answers.recv()).await;
            let answer = answer.ok().flatten();
            answer.map_or(Event::Wake, |(call, reply)| {
                Event::Answered(call, reply)
            })
        } else {
            Event::Wake
        };
        let mut is_idle = false;
        let perform = async |effect| match effect {
            Effect::Transact(command) => {
                let event = execute(&ledger, &command).await;
                if let Command::Change(transfer, _, to) = command {
                    let text = format!("stores {to:?} of {}", transfer.id);
                    reports.report(&text).await;
                }
                is_idle = matches!(
                    event,
                    Event::Committed(Outcome::Loaded(None)) | Event::RolledBack
                );
                Some(event)
            }
            Effect::Call(call) => {
                let (debit, credit) = (Rc::clone(&debit), Rc::clone(&credit));
                let sender = sender.clone();
                spawn_local(async move {
                    let caller = match call.branch.side {
                        Side::Debit => debit,
                        Side::Credit => credit,
                    };
                    // A call without an answer is repeated.
                    let answer = caller.call(&call.to_string()).await;
                    let reply = answer.ok().and_then(|text| parse_reply(&text));
                    if let Some(reply) = reply {
                        let _ = sender.send((call, reply)).await;
                    }
                });
                None
            }
            Effect::Accept | Effect::Refuse => {
                unreachable!("requests are handled elsewhere")
            }
        };
        drive(|event| machine.step(event), event, perform).await;
        if is_idle {
            let _ = timeout(REPEAT, requested.notified()).await;
        }
    }
}

async fn execute(ledger: &Ledger, command: &Command) -> Event {
    let body = async |tx: &mut _| transact(tx, command).await;
    match ledger.transaction(body).await {
        Ok(outcome) => Event::Committed(outcome),
        Err(_) => Event::RolledBack,
    }
}

/// Reads the text of a call: `try debit 7 1 2 100`.
fn parse_call(text: &str) -> Option<Call> {
    let (operation, rest) = text.split_once(' ')?;
    let (side, transfer) = rest.split_once(' ')?;
    let operation = match operation {
        "try" => Operation::Try,
        "confirm" => Operation::Confirm,
        "cancel" => Operation::Cancel,
        _ => return None,
    };
    let side = if side == "debit" { Side::Debit } else { Side::Credit };
    let transfer = transfer.parse().ok()?;
    Some(Call { operation, branch: Branch { side, transfer } })
}

fn parse_reply(text: &str) -> Option<Reply> {
    let all = [
        Reply::Done,
        Reply::Refused,
        Reply::Cancelled,
        Reply::Confirmed,
        Reply::NotTried,
        Reply::Conflict,
    ];
    all.into_iter().find(|reply| format!("{reply:?}") == text)
}
