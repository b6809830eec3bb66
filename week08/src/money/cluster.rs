//! Processes of two services that crash, and messages that are repeated.
//!
//! *Question.* A protocol is a few functions and state machines. How is such a
//! protocol run with every possible crash, without threads, sockets and clocks?
//!
//! *Idea.* A [`Process`] performs one **effect** at a time: a transaction, a
//! message, an acknowledgment. A crash is possible before and after each
//! effect. It loses everything that the process has in memory. Databases and
//! queues survive.
//!
//! *Guarantee.* The amount of each transfer is a different power of ten. So the
//! digits of the debited and the credited sums say how often each transfer took
//! effect, and a run is wrong as soon as one digit is wrong. No transfer may be
//! debited twice, or credited more often than it was debited.
//!
//! *Cost.* A transaction is one effect, so no two transactions run at the same
//! time in this model. A real database has to serialize them.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::num::NonZero;
use std::sync::Arc;

use super::Transfer;
use super::explore::System;
use super::simulated::Database;

/// The number of a process in its cluster.
pub type Id = usize;

/// The account that the payment service debits.
pub const FROM: u64 = 1;

/// The account that the savings service credits.
pub const TO: u64 = 2;

/// A program. It is cloned and compared with all that it has in memory.
pub trait Process: Clone + Debug + Eq + Hash {
    /// The messages that processes send each other.
    type Message: Clone + Debug + Display + Ord + Hash;

    /// Returns the name of the process, for traces.
    fn name(&self) -> String;

    /// Returns the service whose database the process uses.
    fn service(&self) -> Service;

    /// Loses everything that is in memory, as a crash does.
    fn restart(&mut self);

    /// Handles a message. It is called when the process has no effect to
    /// perform. A message of a queue is delivered again until it is
    /// acknowledged.
    fn receive(&mut self, message: Self::Message);

    /// Returns whether [`wake`](Self::wake) has something to do: there are rows
    /// to publish, or it is time to try again.
    fn has_work(&self, database: &Database) -> bool;

    /// Returns whether the process waits for an answer. Such a process is woken
    /// when no call is in flight. To wake it earlier is a fault: its time-out
    /// was too short.
    fn is_waiting(&self) -> bool {
        false
    }

    /// Called now and then when the process has no effect to perform.
    fn wake(&mut self);

    /// Returns whether there is an effect to perform.
    fn has_effect(&self) -> bool;

    /// Describes the next effect. It is only called if there is one.
    fn describe_effect(&self) -> String;

    /// Performs the next effect, or fails to, as `fate` says.
    fn perform(
        &mut self,
        database: &mut Database,
        fate: Fate,
    ) -> Output<Self::Message>;

    /// Checks the process and its database when nothing more happens.
    ///
    /// # Errors
    ///
    /// Returns what is wrong.
    fn check_settled(&self, _database: &Database) -> Result<(), String> {
        Ok(())
    }
}

/// The outcome of an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// The effect is performed, and the process gets its result.
    Performed,
    /// The effect is performed, but the answer is lost: the process gets an
    /// error.
    AnswerLost,
    /// The effect is not performed, and the process gets an error.
    Refused,
}

/// A service with a database of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// It debits [`FROM`].
    Payment,
    /// It credits [`TO`].
    Savings,
    /// It keeps the state of a protocol.
    Coordinator,
}

/// What an effect does outside of its process and database.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Output<M> {
    /// Nothing.
    None,
    /// A queue stores the message for a process. The queue keeps it until it is
    /// acknowledged, and delivers the messages of one key in order.
    Queue {
        /// The receiver.
        to: Id,
        /// Messages with the same key keep their order.
        key: u64,
        /// The message.
        message: M,
    },
    /// The process acknowledges a message of its queue.
    Acknowledge(M),
    /// A call: the message arrives once, or is lost. Calls arrive in any order.
    Call {
        /// The receiver.
        to: Id,
        /// The message.
        message: M,
    },
}

/// The faults that may still happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// Crashes of any process.
    pub crashes: u32,
    /// Queued messages that arrive again after they were acknowledged, and
    /// waits that end while a call is in flight.
    pub repeats: u32,
    /// Calls that are lost.
    pub losses: u32,
    /// Effects that are refused, or whose answer is lost.
    pub failures: u32,
}

/// Processes, databases, and the messages between them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cluster<P: Process> {
    processes: Vec<P>,
    /// Each database is shared with earlier states until it changes.
    databases: BTreeMap<Service, Arc<Database>>,
    /// The messages of each receiver and key.
    queues: BTreeMap<(Id, u64), Vec<P::Message>>,
    /// Sorted, as their order has no meaning.
    calls: Vec<(Id, P::Message)>,
    /// The last message that each process has acknowledged.
    acknowledged: BTreeMap<Id, P::Message>,
    faults: Faults,
    transfers: u32,
    /// The balance of the payment service at the beginning.
    balance: i64,
    must_complete: bool,
}

/// A change of a [`Cluster`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<M> {
    /// A process performs its next effect.
    Perform(Id, Fate),
    /// The queue delivers its first message, which stays in the queue.
    Deliver(Id, M),
    /// A call arrives.
    Call(Id, M),
    /// A process looks for work.
    Wake(Id),
    /// A process stops waiting for an answer, although a call is in flight.
    TimeOut(Id),
    /// A process crashes.
    Crash(Id),
    /// The queue delivers a message that was acknowledged.
    Repeat(Id, M),
    /// A call is lost.
    Lose(Id, M),
}

/// Returns transfers from [`FROM`] to [`TO`]: 1 cent, 10 cents, 100 cents, …
///
/// # Panics
///
/// Panics if `number` is more than 9.
pub fn transfers(number: u32) -> Vec<Transfer> {
    assert!(number <= 9, "at most 9 transfers");
    let cents = |i| NonZero::new(10_u32.pow(i)).expect("it is positive");
    let transfer = |i: u32| {
        let id = u64::from(i) + 1;
        Transfer { id, from: FROM, to: TO, cents: cents(i) }
    };
    (0..number).map(transfer).collect()
}

impl<P: Process> Cluster<P> {
    /// Creates a cluster that makes [`transfers`]. The payment service has
    /// `balance` cents. If the transfers `must_complete`, each takes effect in
    /// the end; otherwise it may be refused or refunded.
    pub fn new(
        processes: Vec<P>,
        transfers: u32,
        balance: i64,
        must_complete: bool,
        faults: Faults,
    ) -> Self {
        let databases = [
            (Service::Payment, Database::new([(FROM, balance)])),
            (Service::Savings, Database::new([(TO, 0)])),
            (Service::Coordinator, Database::default()),
        ];
        Self {
            processes,
            databases: databases.map(|(s, d)| (s, Arc::new(d))).into(),
            queues: BTreeMap::new(),
            calls: Vec::new(),
            acknowledged: BTreeMap::new(),
            faults,
            transfers,
            balance,
            must_complete,
        }
    }

    /// Puts a message into the queue of a process. It stands for a client that
    /// repeats its request until it is answered.
    #[must_use]
    pub fn with_message(
        mut self,
        to: Id,
        key: u64,
        message: P::Message,
    ) -> Self {
        self.push(Output::Queue { to, key, message }, to);
        self
    }

    /// Returns the database of a service.
    pub fn database(&self, service: Service) -> &Database {
        &self.databases[&service]
    }

    /// Returns the database of a service, for what happens outside of the
    /// processes.
    pub fn database_mut(&mut self, service: Service) -> &mut Database {
        Arc::make_mut(self.databases.entry(service).or_default())
    }

    /// Returns how often each transfer was debited and credited.
    fn counts(&self) -> Vec<[i64; 2]> {
        let balance = |service, account| {
            let accounts = &self.database(service).accounts;
            accounts.get(&account).copied().unwrap_or(0)
        };
        let mut debited = self.balance - balance(Service::Payment, FROM);
        let mut credited = balance(Service::Savings, TO);
        let count = |sum: &mut i64| {
            // From -4 to 5, so that one refund too many is -1 and not 9.
            let count = (*sum + 4).rem_euclid(10) - 4;
            *sum = (*sum - count) / 10;
            count
        };
        let counts = 0..=self.transfers;
        counts.map(|_| [count(&mut debited), count(&mut credited)]).collect()
    }

    fn push(&mut self, output: Output<P::Message>, by: Id) {
        match output {
            Output::None => {}
            Output::Queue { to, key, message } => {
                self.queues.entry((to, key)).or_default().push(message);
            }
            Output::Call { to, message } => {
                self.calls.push((to, message));
                self.calls.sort_unstable();
            }
            Output::Acknowledge(message) => {
                self.queues.retain(|(to, _), queue| {
                    if *to == by && queue.first() == Some(&message) {
                        queue.remove(0);
                    }
                    !queue.is_empty()
                });
                self.acknowledged.insert(by, message);
            }
        }
    }

    fn take_call(&mut self, to: Id, message: &P::Message) {
        let call = self.calls.iter().position(|c| c.0 == to && c.1 == *message);
        self.calls.remove(call.expect("the call is in flight"));
    }
}

impl<P: Process> System for Cluster<P> {
    type Action = Action<P::Message>;

    fn actions(&self) -> Vec<Self::Action> {
        let mut actions = Vec::new();
        let is_busy = !self.calls.is_empty()
            || self.processes.iter().any(Process::has_effect);
        for (id, process) in self.processes.iter().enumerate() {
            if process.has_effect() {
                actions.push(Action::Perform(id, Fate::Performed));
                continue;
            }
            for (_, queue) in self.queues.iter().filter(|q| q.0.0 == id) {
                actions.push(Action::Deliver(id, queue[0].clone()));
            }
            for (_, message) in self.calls.iter().filter(|call| call.0 == id) {
                actions.push(Action::Call(id, message.clone()));
            }
            if process.has_work(self.database(process.service())) {
                if !process.is_waiting() || !is_busy {
                    actions.push(Action::Wake(id));
                } else if self.faults.repeats > 0 {
                    actions.push(Action::TimeOut(id));
                }
            }
        }
        let Faults { crashes, repeats, losses, failures } = self.faults;
        for (id, process) in self.processes.iter().enumerate() {
            if crashes > 0 {
                let mut restarted = process.clone();
                restarted.restart();
                let changes = restarted != *process;
                actions.extend(changes.then_some(Action::Crash(id)));
            }
            if failures > 0 && process.has_effect() {
                let fates = [Fate::AnswerLost, Fate::Refused];
                actions.extend(fates.map(|fate| Action::Perform(id, fate)));
            }
        }
        if repeats > 0 {
            let repeated = self.acknowledged.iter();
            actions.extend(
                repeated
                    .map(|(id, message)| Action::Repeat(*id, message.clone())),
            );
        }
        if losses > 0 {
            let lost = self.calls.iter();
            actions.extend(
                lost.map(|(id, message)| Action::Lose(*id, message.clone())),
            );
        }
        actions
    }

    fn describe(&self, action: &Self::Action) -> String {
        let name = |id: &Id| self.processes[*id].name();
        match action {
            Action::Perform(id, fate) => {
                let effect = self.processes[*id].describe_effect();
                let fate = match fate {
                    Fate::Performed => "",
                    Fate::AnswerLost => ": the ANSWER IS LOST",
                    Fate::Refused => ": REFUSED",
                };
                format!("{}: {effect}{fate}", name(id))
            }
            Action::Deliver(id, message) => {
                format!("{} receives {message}", name(id))
            }
            Action::Call(id, message) => {
                format!("{} is called: {message}", name(id))
            }
            Action::Wake(id) => format!("{} looks for work", name(id)),
            Action::TimeOut(id) => {
                format!("{} TIMES OUT while a call is in flight", name(id))
            }
            Action::Crash(id) => format!("{}: CRASH", name(id)),
            Action::Repeat(id, message) => {
                format!("the queue REPEATS {message} for {}", name(id))
            }
            Action::Lose(id, message) => {
                format!("a call of {} is LOST: {message}", name(id))
            }
        }
    }

    fn is_fault(&self, action: &Self::Action) -> bool {
        match action {
            Action::Perform(_, fate) => *fate != Fate::Performed,
            Action::Deliver(..) | Action::Call(..) | Action::Wake(_) => false,
            Action::Crash(_)
            | Action::Repeat(..)
            | Action::Lose(..)
            | Action::TimeOut(_) => true,
        }
    }

    fn perform(&mut self, action: &Self::Action) {
        match action {
            Action::Perform(id, fate) => {
                self.faults.failures -= u32::from(*fate != Fate::Performed);
                let process = &mut self.processes[*id];
                let database = self.databases.get_mut(&process.service());
                let database = database.expect("each service has a database");
                let database = Arc::make_mut(database);
                let output = process.perform(database, *fate);
                self.push(output, *id);
            }
            Action::Deliver(id, message) => {
                self.processes[*id].receive(message.clone());
            }
            Action::Call(id, message) => {
                self.take_call(*id, message);
                self.processes[*id].receive(message.clone());
            }
            Action::Wake(id) => self.processes[*id].wake(),
            Action::TimeOut(id) => {
                self.faults.repeats -= 1;
                self.processes[*id].wake();
            }
            Action::Crash(id) => {
                self.faults.crashes -= 1;
                self.processes[*id].restart();
            }
            Action::Repeat(id, message) => {
                self.faults.repeats -= 1;
                let queue = self.queues.entry((*id, u64::MAX)).or_default();
                queue.push(message.clone());
            }
            Action::Lose(id, message) => {
                self.faults.losses -= 1;
                self.take_call(*id, message);
            }
        }
    }

    fn check(&self) -> Result<(), String> {
        for (i, [debited, credited]) in self.counts().into_iter().enumerate() {
            let id = i + 1;
            if !(0..=1).contains(&debited) {
                return Err(format!(
                    "transfer {id} was debited {}",
                    times(debited)
                ));
            }
            if !(0..=debited).contains(&credited) {
                return Err(format!(
                    "transfer {id} was debited {}, and credited {}",
                    times(debited),
                    times(credited)
                ));
            }
        }
        Ok(())
    }

    fn check_settled(&self) -> Result<(), String> {
        for process in &self.processes {
            process.check_settled(self.database(process.service()))?;
        }
        let counts = self.counts();
        let transfers = counts.iter().take(self.transfers as usize);
        for (i, [debited, credited]) in transfers.enumerate() {
            let id = i + 1;
            if debited != credited {
                return Err(format!(
                    "the money of transfer {id} was debited, and is lost"
                ));
            }
            if self.must_complete && *credited == 0 {
                return Err(format!("transfer {id} has never taken effect"));
            }
        }
        Ok(())
    }
}

fn times(number: i64) -> String {
    match number {
        1 => "once".to_owned(),
        _ => format!("{number} times"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::explore::explore;
    use super::super::{Table, Tx as _};
    use super::*;

    /// Debits in one transaction and then calls the savings service, which
    /// credits whatever it receives.
    #[derive(Debug, Clone, PartialEq, Eq, Hash)]
    enum Naive {
        Payment { calls: Option<u64> },
        Savings { credits: Option<u64> },
    }

    impl Process for Naive {
        type Message = u64;

        fn name(&self) -> String {
            format!("{:?}", self.service()).to_lowercase()
        }

        fn service(&self) -> Service {
            match self {
                Self::Payment { .. } => Service::Payment,
                Self::Savings { .. } => Service::Savings,
            }
        }

        fn restart(&mut self) {
            match self {
                Self::Payment { calls } => *calls = None,
                Self::Savings { credits } => *credits = None,
            }
        }

        fn receive(&mut self, message: u64) {
            match self {
                Self::Payment { .. } => unreachable!("no process calls it"),
                Self::Savings { credits } => *credits = Some(message),
            }
        }

        fn has_work(&self, database: &Database) -> bool {
            let is_payment = self.service() == Service::Payment;
            is_payment && database.table(Table::Transfers).is_empty()
        }

        fn wake(&mut self) {
            if let Self::Payment { calls } = self {
                *calls = Some(1);
            }
        }

        fn has_effect(&self) -> bool {
            let (Self::Payment { calls: effect }
            | Self::Savings { credits: effect }) = self;
            effect.is_some()
        }

        fn describe_effect(&self) -> String {
            let is_payment = self.service() == Service::Payment;
            if is_payment { "debit".into() } else { "credit".into() }
        }

        fn perform(&mut self, database: &mut Database, _: Fate) -> Output<u64> {
            match self {
                Self::Payment { calls } => {
                    let cents = calls.take().expect("an effect is due");
                    let commit = database.transaction(
                        async |tx: &mut Database| {
                            let _ = tx.insert(Table::Transfers, "1", "").await;
                            tx.add(FROM, -1).await
                        },
                        |added| *added == Ok(true),
                    );
                    assert_eq!(commit, Ok(true));
                    Output::Call { to: 1, message: cents }
                }
                Self::Savings { credits } => {
                    *credits = None;
                    let _ = database.transaction(
                        async |tx: &mut Database| tx.add(TO, 1).await,
                        |added| *added == Ok(true),
                    );
                    Output::None
                }
            }
        }
    }

    fn cluster(faults: Faults) -> Cluster<Naive> {
        let payment = Naive::Payment { calls: None };
        let savings = Naive::Savings { credits: None };
        Cluster::new(vec![payment, savings], 1, 5, true, faults)
    }

    #[test]
    fn a_lost_call_loses_the_money() {
        assert_eq!(explore(cluster(Faults::default()), 100), Ok(5));
        let faults = Faults { losses: 1, ..Faults::default() };
        let found = explore(cluster(faults), 100).unwrap_err();
        assert_eq!(
            found.to_string(),
            "the money of transfer 1 was debited, and is lost, after:\n   \
             1. payment looks for work\n   \
             2. payment: debit\n   \
             3. a call of savings is LOST: 1\n"
        );
    }

    #[test]
    fn a_crash_before_the_credit_loses_the_money() {
        let faults = Faults { crashes: 1, ..Faults::default() };
        let found = explore(cluster(faults), 100).unwrap_err();
        assert_eq!(found.trace.last().unwrap(), "savings: CRASH");
    }
}
