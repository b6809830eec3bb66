//! The whole way of a transfer, and an operator of the savings service.

use week08::money::cluster::{self, Cluster, Service, TO};
use week08::money::explore::System;
use week08::money::simulated::Database;

use super::cluster::{Any, pipeline};
use super::subject::{Command, transact};
use crate::{Machine, Setup};

/// The number of the consumer in its cluster.
const CONSUMER: cluster::Id = 2;

/// What the producer sends after a repair: transfer 1, with a new time.
const SENT_AGAIN: &str = "2000 1 1 2 1";

/// What the operator and the producer do is possible, but no run has to do it.
/// So the search treats it as a fault. A clean-up is not counted.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Operated {
    cluster: Cluster<Any>,
    /// How often the producer may send the message again.
    sends: u32,
    /// How often the rows of the inbox may be cleaned up.
    clean_ups: u32,
}

#[derive(Clone, PartialEq)]
enum Action {
    Of(cluster::Action<String>),
    SendAgain,
    /// Raises the horizon to this second. All transfers are of second 1,000.
    Clean(u64),
}

pub fn system(setup: Setup) -> impl Machine {
    let cluster = pipeline(setup.transfers, 2, setup.faults);
    let sends = setup.faults.repeats;
    // Without a repetition, a clean-up changes nothing.
    Operated { cluster, sends, clean_ups: 2 * sends.min(1) }
}

impl Operated {
    /// Returns whether transfer 1, which is 1 cent, was credited.
    fn is_credited(&self) -> bool {
        let savings = self.cluster.database(Service::Savings);
        savings.accounts[&TO] % 10 > 0
    }
}

fn clean(before_s: u64) -> Command {
    Command::Clean { before_s, limit: 10 }
}

impl System for Operated {
    type Action = Action;

    fn actions(&self) -> Vec<Action> {
        let actions = self.cluster.actions().into_iter().map(Action::Of);
        let mut actions: Vec<_> = actions.collect();
        if self.is_credited() && self.sends > 0 {
            actions.push(Action::SendAgain);
        }
        if self.is_credited() && self.clean_ups > 0 {
            actions.extend([Action::Clean(1_000), Action::Clean(1_001)]);
        }
        actions
    }

    fn describe(&self, action: &Action) -> String {
        match action {
            Action::Of(action) => self.cluster.describe(action),
            Action::SendAgain => {
                format!("the producer SENDS AGAIN {SENT_AGAIN}")
            }
            Action::Clean(s) => format!("savings: Transact({:?})", clean(*s)),
        }
    }

    fn is_fault(&self, action: &Action) -> bool {
        match action {
            Action::Of(action) => self.cluster.is_fault(action),
            Action::SendAgain | Action::Clean(_) => true,
        }
    }

    fn perform(&mut self, action: &Action) {
        match action {
            Action::Of(action) => self.cluster.perform(action),
            Action::SendAgain => {
                // The horizon only holds if the time of a message never
                // changes. So it is one or the other.
                (self.sends, self.clean_ups) = (self.sends - 1, 0);
                let (cluster, message) =
                    (self.cluster.clone(), SENT_AGAIN.to_owned());
                self.cluster = cluster.with_message(CONSUMER, 1, message);
            }
            Action::Clean(before_s) => {
                (self.sends, self.clean_ups) = (0, self.clean_ups - 1);
                let command = clean(*before_s);
                let body =
                    async |tx: &mut Database| transact(tx, &command).await;
                let savings = self.cluster.database_mut(Service::Savings);
                let cleaned = savings.transaction(body, |_| true);
                assert!(cleaned.is_ok(), "a database in memory has no errors");
            }
        }
    }

    fn check(&self) -> Result<(), String> {
        self.cluster.check()
    }

    fn check_settled(&self) -> Result<(), String> {
        self.cluster.check_settled()
    }
}
