//! The coordinator of TCC (try, confirm, cancel), and the calls that it makes.
//!
//! *Question.* Two services each do a part of a transfer. How do both finish it,
//! or both undo it, although calls are lost, and the coordinator crashes?
//!
//! *Idea.* Each part is a **branch**. The coordinator stores the transfer with
//! both branches before the first call. It tries both, and stores one decision:
//! confirm if both tries are done, otherwise cancel. It repeats the confirms or
//! cancels until both branches have acknowledged theirs.
//!
//! *Guarantee.* There is one decision for a transfer, since it is stored with a
//! compare-and-set. A cancel is sent to *both* branches, also to one whose try
//! was refused or never answered. A coordinator that has crashed goes on from
//! its table. For each branch, it waits for the answer to one operation at a
//! time. But a call of an earlier operation may still arrive.
//!
//! *Cost.* It runs one transfer at a time. A real coordinator runs many, and
//! holds a lease for each of them.

use std::collections::BTreeSet;
use std::fmt;

use super::{Row, Table, Transfer, Tx};

/// The part that a service has in a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The payment service takes the money from [`Transfer::from`].
    Debit,
    /// The savings service adds the money to [`Transfer::to`].
    Credit,
}

/// One side of a transfer. It is identified by the id of the transfer and the
/// side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Branch {
    /// The side.
    pub side: Side,
    /// The transfer.
    pub transfer: Transfer,
}

/// What the coordinator asks of a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// Reserve all that a confirm needs.
    Try,
    /// Use what was reserved.
    Confirm,
    /// Give back what was reserved, if anything was.
    Cancel,
}

/// A call of a participant. It may be lost, arrive twice, and arrive after a
/// later call.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Call {
    /// What to do.
    pub operation: Operation,
    /// The branch.
    pub branch: Branch,
}

/// The answer of a participant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reply {
    /// The call has taken effect, now or at an earlier time.
    Done,
    /// There is no such account, or it has not enough money, or it cannot take
    /// more. Nothing is changed, and a later call may succeed.
    Refused,
    /// The branch is cancelled, so it cannot be tried or confirmed.
    Cancelled,
    /// The branch is confirmed, so it cannot be cancelled.
    Confirmed,
    /// The branch has not been tried, so it cannot be confirmed.
    NotTried,
    /// The branch has other accounts or another amount.
    Conflict,
}

/// The progress of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Both branches are registered, and may have been tried.
    Trying,
    /// The decision is to confirm both branches.
    Confirming,
    /// The decision is to cancel both branches.
    Cancelling,
    /// Both branches are confirmed.
    Confirmed,
    /// Both branches are cancelled.
    Cancelled,
    /// A participant contradicts the decision: a person has to look.
    Parked,
}

/// Runs the transfers of its table, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Coordinator {
    patience: Option<u32>,
    running: Option<Running>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Running {
    phase: Phase,
    transfer: Transfer,
    /// The sides that have done the operation of this phase.
    done: BTreeSet<Side>,
    /// Whether a side has contradicted the decision.
    is_contradicted: bool,
    /// How many times the tries were repeated.
    waits: u32,
}

/// An event that the coordinator handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// A client has requested a transfer, for the first time or again.
    Requested(Transfer),
    /// It is time to look for a transfer, or to repeat calls without an answer.
    Wake,
    /// The transaction is committed.
    Committed(Outcome),
    /// The transaction is rolled back, or its outcome is unknown.
    RolledBack,
    /// A participant has answered a call.
    Answered(Call, Reply),
}

/// An effect that the caller performs. The caller reports the event of an
/// effect before it performs the next effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Run [`transact`] in one transaction, and commit it if it returns `Ok`.
    Transact(Command),
    /// Call the participant of this side.
    Call(Call),
    /// Tell the client that the transfer is stored. It will be confirmed or
    /// cancelled.
    Accept,
    /// Tell the client that the id belongs to another transfer.
    Refuse,
}

/// What a transaction does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// Stores a transfer, and thereby registers both branches.
    Begin(Transfer),
    /// Reads the oldest transfer that is not finished.
    Load,
    /// Changes the phase of a transfer to the second phase if it is still the
    /// first one. Then reads the stored phase.
    Change(Transfer, Phase, Phase),
}

/// What a transaction has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The transfer is stored, now or at an earlier time.
    Begun,
    /// Another transfer with this id is stored.
    Conflict,
    /// The transfer and its phase.
    Loaded(Option<(Phase, Transfer)>),
}

impl Coordinator {
    /// Creates a coordinator. It cancels a transfer if a try is not answered
    /// although it was repeated `patience` times. With `None`, it tries for
    /// ever.
    pub fn new(patience: Option<u32>) -> Self {
        Self { patience, running: None }
    }

    /// Returns whether a transfer is waiting for answers.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Handles an event, and returns the effects to perform, in order.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Requested(transfer) => {
                vec![Effect::Transact(Command::Begin(transfer))]
            }
            Event::Wake => self.wake(),
            Event::Committed(Outcome::Begun) => vec![Effect::Accept],
            Event::Committed(Outcome::Conflict) => vec![Effect::Refuse],
            Event::Committed(Outcome::Loaded(loaded)) => {
                let open =
                    loaded.filter(|(phase, _)| phase.operation().is_some());
                self.running = open.map(|(phase, transfer)| Running {
                    phase,
                    transfer,
                    done: BTreeSet::new(),
                    is_contradicted: false,
                    waits: 0,
                });
                self.calls()
            }
            // The next wake reads what is stored.
            Event::RolledBack => {
                self.running = None;
                Vec::new()
            }
            Event::Answered(call, reply) => self.answered(call, reply),
        }
    }

    fn wake(&mut self) -> Vec<Effect> {
        let Some(running) = &mut self.running else {
            return vec![Effect::Transact(Command::Load)];
        };
        if let (Phase::Trying, Some(patience)) = (running.phase, self.patience)
        {
            if running.waits == patience {
                return running.change(Phase::Cancelling);
            }
            running.waits += 1;
        }
        self.calls()
    }

    /// Calls each branch that has not done its operation.
    fn calls(&self) -> Vec<Effect> {
        let Some(running) = &self.running else { return Vec::new() };
        let Running { phase, transfer, ref done, .. } = *running;
        let operation = phase.operation().expect("it is not finished");
        let sides = [Side::Debit, Side::Credit].into_iter();
        let sides = sides.filter(|side| !done.contains(side));
        let branches = sides.map(|side| Branch { side, transfer });
        branches
            .map(|branch| Effect::Call(Call { operation, branch }))
            .collect()
    }

    fn answered(&mut self, call: Call, reply: Reply) -> Vec<Effect> {
        let Some(running) = &mut self.running else { return Vec::new() };
        let is_awaited = running.transfer == call.branch.transfer
            && running.phase.operation() == Some(call.operation);
        if !is_awaited {
            return Vec::new();
        }
        match (running.phase, reply) {
            (_, Reply::Done) => {}
            (Phase::Trying, _) => return running.change(Phase::Cancelling),
            // A decision is final: the call is repeated.
            (_, Reply::Refused) => return Vec::new(),
            // A person has to look at it, after the other side has done its
            // part: otherwise its money would stay frozen.
            (..) => running.is_contradicted = true,
        }
        running.done.insert(call.branch.side);
        if running.done.len() < 2 {
            return Vec::new();
        }
        running.change(match running.phase {
            Phase::Trying => Phase::Confirming,
            _ if running.is_contradicted => Phase::Parked,
            Phase::Confirming => Phase::Confirmed,
            _ => Phase::Cancelled,
        })
    }
}

impl Running {
    fn change(&self, to: Phase) -> Vec<Effect> {
        let command = Command::Change(self.transfer, self.phase, to);
        vec![Effect::Transact(command)]
    }
}

/// Performs a command in a transaction.
///
/// # Errors
///
/// Returns the error of the database. The transaction has to be rolled back.
pub async fn transact<T: Tx>(
    tx: &mut T,
    command: &Command,
) -> Result<Outcome, T::Error> {
    match *command {
        Command::Begin(transfer) => {
            let (key, row) =
                (transfer.id.to_string(), Phase::Trying.row(transfer));
            if tx.insert(Table::Transfers, &key, &row).await? {
                return Ok(Outcome::Begun);
            }
            let stored = tx.get(Table::Transfers, &key).await?;
            let is_same = stored.is_some_and(|row| parse(&row).1 == transfer);
            Ok(if is_same { Outcome::Begun } else { Outcome::Conflict })
        }
        // A real service does not read all rows: it uses `WHERE` and a partial
        // index.
        Command::Load => {
            let rows = tx.oldest(Table::Transfers, usize::MAX).await?;
            Ok(Outcome::Loaded(unfinished(&rows)))
        }
        Command::Change(transfer, from, to) => {
            let key = transfer.id.to_string();
            let (old, new) = (from.row(transfer), to.row(transfer));
            tx.replace(Table::Transfers, &key, &old, &new).await?;
            let stored = tx.get(Table::Transfers, &key).await?;
            Ok(Outcome::Loaded(stored.map(|row| parse(&row))))
        }
    }
}

/// Returns the first of the coordinator's rows that is not finished.
pub fn unfinished(rows: &[Row]) -> Option<(Phase, Transfer)> {
    let rows = rows.iter().map(|row| parse(&row.value));
    rows.into_iter().find(|(phase, _)| phase.operation().is_some())
}

/// Reads a row of the coordinator's [`Table::Transfers`].
///
/// # Panics
///
/// Panics if the text is not such a row.
pub fn parse(row: &str) -> (Phase, Transfer) {
    let (phase, transfer) = row.split_once(' ').expect("it has two parts");
    let phase = Phase::ALL.into_iter().find(|p| p.name() == phase);
    let transfer = transfer.parse().expect("it is a transfer");
    (phase.expect("it is a phase"), transfer)
}

impl Phase {
    const ALL: [Self; 6] = [
        Self::Trying,
        Self::Confirming,
        Self::Cancelling,
        Self::Confirmed,
        Self::Cancelled,
        Self::Parked,
    ];

    /// Returns the operation of this phase, or `None` if the transfer is
    /// finished.
    fn operation(self) -> Option<Operation> {
        match self {
            Self::Trying => Some(Operation::Try),
            Self::Confirming => Some(Operation::Confirm),
            Self::Cancelling => Some(Operation::Cancel),
            Self::Confirmed | Self::Cancelled | Self::Parked => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Trying => "trying",
            Self::Confirming => "confirming",
            Self::Cancelling => "cancelling",
            Self::Confirmed => "confirmed",
            Self::Cancelled => "cancelled",
            Self::Parked => "parked",
        }
    }

    fn row(self, transfer: Transfer) -> String {
        format!("{} {transfer}", self.name())
    }
}

/// Writes the operation, the side and the transfer: `try debit 7 1 2 100`.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = match self.operation {
            Operation::Try => "try",
            Operation::Confirm => "confirm",
            Operation::Cancel => "cancel",
        };
        write!(f, "{operation} {} {}", self.branch.side, self.branch.transfer)
    }
}

/// The format is short, because the trace of a run has many of these values.
impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Call({self})")
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debit => "debit",
            Self::Credit => "credit",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZero;

    use super::super::simulated::Database;
    use super::*;

    const TRANSFER: Transfer =
        Transfer { id: 7, from: 1, to: 2, cents: NonZero::<u32>::MIN };

    fn call(operation: Operation, side: Side) -> Call {
        Call { operation, branch: Branch { side, transfer: TRANSFER } }
    }

    /// Handles an event, runs transactions at once, and returns the calls.
    fn run(
        machine: &mut Coordinator,
        database: &mut Database,
        event: Event,
    ) -> Vec<Call> {
        let mut calls = Vec::new();
        for effect in machine.step(event) {
            match effect {
                Effect::Call(call) => calls.push(call),
                Effect::Accept | Effect::Refuse => {}
                Effect::Transact(command) => {
                    let body =
                        async |tx: &mut Database| transact(tx, &command).await;
                    let Ok(outcome) = database.transaction(body, Result::is_ok);
                    let event = Event::Committed(outcome);
                    calls.extend(run(machine, database, event));
                }
            }
        }
        calls
    }

    #[test]
    fn both_branches_are_stored_before_a_call_and_cancelled_after_a_refusal() {
        let (mut machine, mut database) =
            (Coordinator::new(None), Database::default());
        let mut run =
            |machine: &mut _, event| run(machine, &mut database, event);
        let both = |o| [call(o, Side::Debit), call(o, Side::Credit)].to_vec();
        assert_eq!(run(&mut machine, Event::Requested(TRANSFER)), []);
        let calls = run(&mut machine, Event::Wake);
        assert_eq!(calls, both(Operation::Try));
        let refused = Event::Answered(calls[1], Reply::Refused);
        let cancels = run(&mut machine, refused);
        assert_eq!(cancels, both(Operation::Cancel));
        // An answer to an earlier call changes nothing.
        assert_eq!(run(&mut machine, refused), []);
        let done = Event::Answered(cancels[0], Reply::Done);
        assert_eq!(run(&mut machine, done), []);
        // After a crash, it goes on from its table.
        machine = Coordinator::new(None);
        assert_eq!(run(&mut machine, Event::Wake), cancels);
        for call in cancels {
            run(&mut machine, Event::Answered(call, Reply::Done));
        }
        assert_eq!(run(&mut machine, Event::Wake), []);
        assert!(!machine.is_running());
    }

    #[test]
    fn a_transfer_is_parked_after_the_other_side_is_cancelled() {
        let (mut machine, mut database) =
            (Coordinator::new(Some(0)), Database::default());
        let mut run = |event| run(&mut machine, &mut database, event);
        run(Event::Requested(TRANSFER));
        run(Event::Wake);
        let cancels = run(Event::Wake);
        assert_eq!(run(Event::Answered(cancels[1], Reply::Confirmed)), []);
        assert_eq!(run(Event::Wake), [cancels[0]]);
        run(Event::Answered(cancels[0], Reply::Done));
        let rows = database.table(Table::Transfers);
        assert_eq!(parse(&rows[0].value), (Phase::Parked, TRANSFER));
    }

    #[test]
    fn an_id_of_another_transfer_is_refused() {
        let mut database = Database::default();
        let other = Transfer { to: 3, ..TRANSFER };
        for (transfer, expected) in [
            (TRANSFER, Outcome::Begun),
            (TRANSFER, Outcome::Begun),
            (other, Outcome::Conflict),
        ] {
            let begin = Command::Begin(transfer);
            let body = async |tx: &mut Database| transact(tx, &begin).await;
            let outcome = database.transaction(body, Result::is_ok);
            assert_eq!(outcome, Ok(expected), "{transfer}");
        }
        let refused = Event::Committed(Outcome::Conflict);
        assert_eq!(Coordinator::new(None).step(refused), [Effect::Refuse]);
    }

    #[test]
    fn a_decision_is_not_changed_by_a_second_coordinator() {
        let mut database = Database::default();
        let mut machines = [Coordinator::new(None), Coordinator::new(Some(0))];
        run(&mut machines[0], &mut database, Event::Requested(TRANSFER));
        let tries = machines
            .each_mut()
            .map(|machine| run(machine, &mut database, Event::Wake));
        let cancels = run(&mut machines[1], &mut database, Event::Wake);
        let mut last = Vec::new();
        for call in tries[0].clone() {
            let done = Event::Answered(call, Reply::Done);
            last = run(&mut machines[0], &mut database, done);
        }
        assert_eq!(last, cancels);
    }
}
