//! A simulation: nodes with wrong clocks, a store, and a network that loses,
//! delays and repeats messages.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use week05::quota::{Config, Holder, Ledger};
use week05::quota_store::{Grant, Request, Share, fair_share};

use super::{DAY, START};

pub(super) struct World {
    pub(super) config: Config,
    pub(super) now: Duration,
    pub(super) store: Ledger,
    pub(super) nodes: Vec<Rc<Node>>,
    started: u32,
    messages: Vec<(Rc<Node>, Message)>,
}

/// A node. Messages for it may outlive it.
pub(super) struct Node {
    config: Config,
    holder: Holder,
    /// Its clock at the start of the simulation.
    start: Instant,
    pub(super) wants: Cell<u64>,
}

#[derive(Clone)]
enum Message {
    Request(Request),
    Reply(Grant),
}

impl World {
    pub(super) fn new(config: Config, nodes: usize) -> Self {
        let (now, store, started) = (Duration::ZERO, Ledger::default(), 0);
        let (count, nodes, messages) = (nodes, Vec::new(), Vec::new());
        let mut world = Self { config, now, store, nodes, started, messages };
        (0..count).for_each(|_| world.start(5_000));
        world
    }

    fn start(&mut self, wants: u64) {
        let id = self.started;
        self.started += 1;
        let (name, class) = (format!("node-{id:03}"), (id % 3 / 2) as u8);
        let config = Config { name, class, ..self.config.clone() };
        let start = *START + DAY * (id * 7 % 5);
        let holder = Holder::new(config.clone(), start + self.now);
        let wants = Cell::new(wants);
        self.nodes.push(Rc::new(Node { config, holder, start, wants }));
    }

    fn poll(&self, node: &Node) -> Option<Request> {
        node.holder.refresh(node.wants.get(), node.start + self.now)
    }

    fn deliver(&mut self, node: &Node, message: Message) -> Option<Message> {
        let grant = match message {
            Message::Request(new) => self.store.grant(&new, 9 * DAY + self.now),
            Message::Reply(grant) => {
                node.holder.receive(grant, node.start + self.now);
                None
            }
        };
        grant.map(Message::Reply)
    }

    /// Passes time, polls a node, delivers, loses or repeats a message, or
    /// replaces a node that has crashed.
    pub(super) fn act(&mut self, [choice, a, b, wants, _]: [u32; 5]) {
        let i = a as usize % self.nodes.len();
        let mut node = Rc::clone(&self.nodes[i]);
        let sent = match choice % 16 {
            0..3 => {
                self.now += self.config.refresh * (a % 9) / 8;
                None
            }
            3..7 => self.poll(&node).map(Message::Request),
            7..15 if !self.messages.is_empty() => {
                let i = a as usize % self.messages.len();
                let (receiver, message) = self.messages.swap_remove(i);
                if b % 5 == 0 {
                    return; // lost
                }
                node = receiver;
                if b % 5 == 1 {
                    self.messages.push((Rc::clone(&node), message.clone()));
                }
                self.deliver(&node, message)
            }
            15 if b % 4 == 0 => {
                self.nodes.swap_remove(i);
                self.start((wants % 2_000).into());
                None
            }
            _ => None,
        };
        self.messages.extend(sent.map(|message| (node, message)));
    }

    /// Each node refreshes `n` times, and again if that is due at once.
    pub(super) fn rounds(&mut self, n: u32, connected: bool) {
        for _ in 0..n {
            self.now += self.config.refresh;
            for node in self.nodes.clone().iter().flat_map(|node| [node; 3]) {
                let mut message = self.poll(node).map(Message::Request);
                while let Some(sent) = message.filter(|_| connected) {
                    message = self.deliver(node, sent);
                }
            }
        }
    }

    pub(super) fn rates(&self) -> Vec<u64> {
        self.nodes.iter().map(|n| n.holder.rate(n.start + self.now)).collect()
    }

    /// Returns the rates that are fair for what the nodes want.
    pub(super) fn fair(&self) -> Vec<u64> {
        let share = |node: &Rc<Node>| {
            let Config { name, class, .. } = node.config.clone();
            let (wants, until) = (node.wants.get(), Duration::ZERO);
            (name, Share { number: 0, class, wants, rate: 0, until })
        };
        let shares = self.nodes.iter().map(share).collect();
        let names = self.nodes.iter().map(|node| &node.config.name);
        names.map(|n| fair_share(self.config.limit, &shares, n)).collect()
    }
}
