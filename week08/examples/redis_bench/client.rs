//! How does a connection send batches of commands?

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use fastrand::Rng;
use week08::percentiles::{Connection, Failed};

use crate::keys::Keys;
use crate::resp::{Batch, Command, Problem, Replies};
use crate::server::Stream;
use crate::target::Node;

/// A connection that sends one batch after the other, with random keys.
#[derive(Debug)]
pub(crate) struct Client {
    node: Node,
    /// `None` while the stream may have replies to an earlier batch.
    stream: Option<Stream>,
    batch: Batch,
    replies: Replies,
    buffer: Box<[u8]>,
    random: Rng,
    tally: Arc<Tally>,
}

/// The commands that all connections count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) command: Command,
    /// The length of the values in bytes.
    pub(crate) value_len: usize,
    /// The number of commands in a write.
    pub(crate) depth: usize,
}

/// The counts of all connections together.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// The commands of batches whose replies were all as expected.
    answered: AtomicU64,
    first_problem: OnceLock<Problem>,
}

/// The bytes of a read, as many as in redis-benchmark.
const BUFFER: usize = 16 * 1024;

impl Client {
    /// Connects.
    pub(crate) async fn connect(
        node: &Node,
        keys: &Keys,
        kind: Kind,
        tally: Arc<Tally>,
    ) -> Result<Self, Problem> {
        let Kind { command, value_len, depth } = kind;
        let value = vec![b'x'; value_len];
        Ok(Self {
            node: node.clone(),
            stream: Some(node.server.connect().await?),
            batch: Batch::new(command, keys.prefix(), &value, depth),
            replies: Replies::new(command, value_len),
            buffer: vec![0; BUFFER].into(),
            random: Rng::new(),
            tally,
        })
    }

    /// Sends a command for each key of the node, in order.
    pub(crate) async fn send_all_keys(&mut self) -> Result<(), Problem> {
        let numbers = self.node.numbers.clone();
        let mut next = 0;
        while next < numbers.count() {
            let last = numbers.count() - 1;
            self.batch.set_keys(|| {
                let index = next.min(last);
                next += 1;
                numbers.at(index)
            });
            self.exchange().await?;
        }
        Ok(())
    }

    /// Sends the batch, and reads its replies.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, it drops the stream. So a late reply is never
    /// taken for a reply to a later batch, and the next call connects again.
    async fn exchange(&mut self) -> Result<(), Problem> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                self.replies.reset();
                self.node.server.connect().await?
            }
        };
        stream.write_all(self.batch.bytes()).await?;
        let mut left = self.batch.depth();
        while left > 0 {
            let read = stream.read(&mut self.buffer).await?;
            let complete = self.replies.read(&self.buffer[..read])?;
            left = left.checked_sub(complete).ok_or_else(|| {
                Problem::Malformed("more replies than commands".to_owned())
            })?;
        }
        self.stream = Some(stream);
        self.replies.take_problem().map_or(Ok(()), Err)
    }
}

impl Connection for Client {
    async fn request(&mut self, _: u64) -> Result<(), Failed> {
        let numbers = &self.node.numbers;
        let count = numbers.count();
        self.batch.set_keys(|| numbers.at(self.random.u32(..count)));
        match self.exchange().await {
            Ok(()) => {
                self.tally.record(self.batch.depth());
                Ok(())
            }
            Err(problem) => {
                // The first problem tells more than the problems that follow
                // from it.
                let _ = self.tally.first_problem.set(problem);
                Err(Failed)
            }
        }
    }
}

impl Tally {
    fn record(&self, commands: usize) {
        // Relaxed: the number publishes nothing.
        self.answered.fetch_add(commands as u64, Relaxed);
    }

    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Relaxed)
    }

    pub(crate) fn first_problem(&self) -> Option<&Problem> {
        self.first_problem.get()
    }
}
