//! Which keys are used? Each run has its own key space, and removes it at the
//! end.

use std::num::NonZero;
use std::sync::Arc;

use anyhow::Context as _;

use crate::client::{Client, Kind, Tally};
use crate::resp::{Command, DIGITS};
use crate::server::Server;

/// Keys that no other program uses: their prefix is random.
#[derive(Debug)]
pub(crate) struct Keys {
    prefix: String,
    count: NonZero<u32>,
}

/// The number of keys in one `UNLINK`. While it removes them, the server serves
/// no other client.
const REMOVED_TOGETHER: u32 = 1000;

/// The bytes of values in one write.
const WRITTEN_TOGETHER: usize = 128 * 1024;

impl Keys {
    pub(crate) fn new(count: NonZero<u32>) -> Self {
        let prefix = format!("redis_bench:{:08x}:", fastrand::u32(..));
        Self { prefix, count }
    }

    /// Sets each key to a value of this length, so each GET hits.
    pub(crate) async fn fill(
        &self,
        server: &Server,
        value_len: usize,
    ) -> anyhow::Result<()> {
        let depth = (WRITTEN_TOGETHER / value_len.max(1)).clamp(1, 1000);
        let kind = Kind { command: Command::Set, value_len, depth };
        let client =
            Client::connect(server, self, kind, Arc::<Tally>::default());
        client
            .await?
            .send_all_keys()
            .await
            .with_context(|| format!("{} keys are not written", self.count))
    }

    /// Removes the keys.
    pub(crate) fn remove(&self, server: &Server) -> anyhow::Result<()> {
        let mut control = server.control()?;
        for start in (0..self.count()).step_by(REMOVED_TOGETHER as usize) {
            let end = self.count().min(start.saturating_add(REMOVED_TOGETHER));
            let keys: Vec<_> = (start..end).map(|n| self.key(n)).collect();
            let unlink = redis::cmd("UNLINK").arg(keys).exec(&mut control);
            unlink.with_context(|| {
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
