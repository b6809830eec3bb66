//! The crash matrix: what a crash at each step of a transfer repeats, and how
//! the transfer ends.

use std::fmt::{self, Write};

use week08::money::cluster::{
    Action, Cluster, FROM, Fate, Faults, Process, Service, TO,
};
use week08::money::explore::System;

use crate::setups::ONE;
use crate::{Setup, machines};

/// A transfer without other faults than the crash.
const SETUP: Setup =
    Setup { faults: Faults { crashes: 1, ..ONE.faults }, ..ONE };

/// A row: an effect, and a crash of its process before or after it.
struct Row {
    effect: String,
    before: Settled,
    after: Settled,
}

/// How a run ends.
struct Settled {
    repeated: Repeated,
    outcome: &'static str,
    /// From the crash until nothing more happens.
    actions: usize,
}

/// The steps that are tried more often than in a run without a crash.
#[derive(Debug, Clone, Copy, Default)]
struct Repeated {
    debits: usize,
    messages: usize,
    calls: usize,
    /// Each is dropped, as the transfer was credited before.
    credits: usize,
}

/// Returns a table for each pattern, in Markdown.
pub fn markdown() -> String {
    use machines::{half_message, outbox, tcc};
    let poor = Setup { balance: 0, ..SETUP };
    let mut text = String::new();
    let outbox = outbox::answer::system::cluster(SETUP);
    table(&mut text, "Outbox and inbox", &outbox, None);
    let half_message = half_message::answer::system::cluster;
    let empty = half_message(poor);
    let half_message = half_message(SETUP);
    table(&mut text, "Half message and inbox", &half_message, Some(&empty));
    let tcc = tcc::answer::system::cluster;
    table(&mut text, "TCC", &tcc(SETUP), Some(&tcc(poor)));
    text
}

/// Writes a table. The second system begins with an empty account.
fn table<P: Process>(
    text: &mut String,
    title: &str,
    start: &Cluster<P>,
    empty: Option<&Cluster<P>>,
) {
    let _ = write!(
        text,
        "### {title}\n\n\
         | Step | Crash before it: again | Actions \
         | Crash after it: again | Actions | Outcome |\n\
         |------|------------------------|--------:\
         |-----------------------|--------:|---------|\n"
    );
    for Row { effect, before, after } in rows(start) {
        let (process, effect) = effect.split_once(": ").unwrap_or_default();
        let outcome = outcomes([before.outcome, after.outcome]);
        let _ = writeln!(
            text,
            "| {process}: `{effect}` | {} | {} | {} | {} | {outcome} |",
            before.repeated, before.actions, after.repeated, after.actions
        );
    }
    text.push('\n');
    if let Some(empty) = empty {
        let rows = rows(empty);
        let all = rows.iter().flat_map(|r| [r.before.outcome, r.after.outcome]);
        let _ = write!(
            text,
            "With an empty account, there are {} such crashes. Outcome: {}.\n\n",
            2 * rows.len(),
            outcomes(all)
        );
    }
}

fn outcomes(all: impl IntoIterator<Item = &'static str>) -> String {
    let mut all: Vec<_> = all.into_iter().collect();
    all.dedup();
    all.join(" / ")
}

fn rows<P: Process>(start: &Cluster<P>) -> Vec<Row> {
    let whole = Run::of(start.clone());
    let settle = |mut state: Cluster<P>, crash, done: &Run| {
        state.perform(&Action::Crash(crash));
        let rest = Run::of(state);
        let repeated = done.and(&rest).beyond(&whole);
        Settled { repeated, outcome: rest.outcome, actions: rest.actions }
    };
    let (mut state, mut done) = (start.clone(), Run::default());
    let mut rows = Vec::new();
    while let Some(action) = next_action(&state) {
        let (before, done_before) = (state.clone(), done);
        done.add(&state, &action);
        state.perform(&action);
        if let Action::Perform(id, _) = action {
            rows.push(Row {
                effect: before.describe(&action),
                before: settle(before, id, &done_before),
                after: settle(state.clone(), id, &done),
            });
        }
    }
    rows
}

/// Returns the action that a run without faults takes.
fn next_action<P: Process>(state: &Cluster<P>) -> Option<Action<P::Message>> {
    let mut actions = state.actions().into_iter();
    actions.find(|action| !state.is_fault(action))
}

/// The number of actions of each kind, and the outcome.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    counts: Repeated,
    actions: usize,
    outcome: &'static str,
}

impl Run {
    /// Runs without faults until nothing more happens.
    fn of<P: Process>(mut state: Cluster<P>) -> Self {
        let mut run = Self::default();
        while let Some(action) = next_action(&state) {
            run.add(&state, &action);
            state.perform(&action);
        }
        let is_right = state.check().and(state.check_settled()).is_ok();
        run.outcome = match sums(&state) {
            _ if !is_right => "WRONG",
            [_, 0] => "not made",
            _ => "credited once",
        };
        run
    }

    fn add<P: Process>(
        &mut self,
        state: &Cluster<P>,
        action: &Action<P::Message>,
    ) {
        self.actions += 1;
        if !matches!(action, Action::Perform(_, Fate::Performed)) {
            return;
        }
        let effect = state.describe(action);
        let has = |text: &str| effect.contains(text);
        let Repeated { debits, messages, calls, credits } = &mut self.counts;
        // The texts of all three patterns.
        let is_credit = has("Transact(Credit") || has("commits confirm credit");
        *debits +=
            usize::from(has("Transact(Debit") || has("commits try debit"));
        *messages += usize::from(has(": Publish(") || has(": deliver "));
        *calls += usize::from(
            has(": sends ") || has(": Prepare(") || has(": Confirm("),
        );
        *credits += usize::from(is_credit && sums(state)[1] > 0);
    }

    fn and(&self, rest: &Self) -> Repeated {
        let (a, b) = (self.counts, rest.counts);
        Repeated {
            debits: a.debits + b.debits,
            messages: a.messages + b.messages,
            calls: a.calls + b.calls,
            credits: a.credits + b.credits,
        }
    }
}

impl Repeated {
    fn beyond(self, whole: &Run) -> Self {
        let whole = whole.counts;
        Self {
            debits: self.debits.saturating_sub(whole.debits),
            messages: self.messages.saturating_sub(whole.messages),
            calls: self.calls.saturating_sub(whole.calls),
            credits: self.credits.saturating_sub(whole.credits),
        }
    }
}

/// Returns the cents that were debited and credited.
fn sums<P: Process>(state: &Cluster<P>) -> [i64; 2] {
    let balance = |service, account| {
        state.database(service).accounts.get(&account).copied().unwrap_or(0)
    };
    let from = balance(Service::Payment, FROM);
    [from, balance(Service::Savings, TO)]
}

impl fmt::Display for Repeated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { debits, messages, calls, credits } = *self;
        let counts = [
            (debits, "debit"),
            (messages, "message"),
            (calls, "call"),
            (credits, "credit"),
        ];
        let counts = counts.into_iter().filter(|(number, _)| *number > 0);
        let texts: Vec<_> = counts
            .map(|(number, what)| match number {
                1 => format!("1 {what}"),
                _ => format!("{number} {what}s"),
            })
            .collect();
        match &texts[..] {
            [] => f.write_str("nothing"),
            texts => f.write_str(&texts.join(", ")),
        }
    }
}
