//! Which keys are used? Each run has its own key space, and removes it at the
//! end.

use std::num::NonZero;
use std::sync::Arc;

use anyhow::Context as _;

use crate::client::{Client, Kind, Tally};
use crate::resp::{Command, DIGITS};
use crate::target::Node;

/// Keys that no other program uses: their prefix is random.
#[derive(Debug)]
pub(crate) struct Keys {
    prefix: String,
    count: NonZero<u32>,
}

/// The number of `UNLINK` commands in one write.
const REMOVED_TOGETHER: u32 = 1000;

/// The bytes of values in one write.
const WRITTEN_TOGETHER: usize = 128 * 1024;

impl Keys {
    pub(crate) fn new(count: NonZero<u32>) -> Self {
        let prefix = format!("redis_bench:{:08x}:", fastrand::u32(..));
        Self { prefix, count }
    }

    /// Sets each key of a node to a value of this length.
    pub(crate) async fn fill(
        &self,
        node: &Node,
        value_len: usize,
    ) -> anyhow::Result<()> {
        let depth = (WRITTEN_TOGETHER / value_len.max(1)).clamp(1, 1000);
        let kind = Kind { command: Command::Set, value_len, depth };
        let client = Client::connect(node, self, kind, Arc::<Tally>::default());
        client.await?.send_all_keys().await.with_context(|| {
            format!("{} keys are not written", node.numbers.count())
        })
    }

    /// Removes the keys of a node.
    pub(crate) fn remove(&self, node: &Node) -> anyhow::Result<()> {
        let mut control = node.server.control()?;
        let count = node.numbers.count();
        for start in (0..count).step_by(REMOVED_TOGETHER as usize) {
            let end = count.min(start.saturating_add(REMOVED_TOGETHER));
            // A command for each key: in a cluster, the keys of one command
            // have to be in one slot.
            let mut pipeline = redis::pipe();
            for index in start..end {
                let key = self.key(node.numbers.at(index));
                pipeline.cmd("UNLINK").arg(key).ignore();
            }
            pipeline.exec(&mut control).with_context(|| {
                format!("keys with the prefix {} remain", self.prefix)
            })?;
        }
        Ok(())
    }

    /// Returns a key.
    pub(crate) fn key(&self, number: u32) -> String {
        format!("{}{number:0DIGITS$}", self.prefix)
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn count(&self) -> u32 {
        self.count.get()
    }
}
