//! Which servers are measured, and which keys does each have? One server has all
//! keys. In a cluster, a key is on the node that has its hash slot.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::cpu;
use crate::keys::Keys;
use crate::server::Server;

/// The servers that are measured, and the keys.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) keys: Keys,
    /// The servers that have keys.
    pub(crate) nodes: Vec<Node>,
    pub(crate) is_cluster: bool,
}

/// A server, and its keys.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) server: Server,
    pub(crate) numbers: Numbers,
}

/// The numbers of the keys that a server has.
#[derive(Debug, Clone)]
pub(crate) enum Numbers {
    /// All numbers below this one.
    Below(u32),
    /// These numbers.
    Listed(Arc<[u32]>),
}

/// The slots of a node, and its host and port.
type Range = (RangeInclusive<u16>, String, u16);

/// The number of hash slots.
const SLOTS: u16 = 16_384;

impl Target {
    /// Asks the server whether it is a node of a cluster, and if so, which node
    /// has which slots.
    ///
    /// # Errors
    ///
    /// When a slot has no node. Then the cluster refuses some keys.
    pub(crate) fn new(server: Server, keys: Keys) -> anyhow::Result<Self> {
        let mut control = server.control()?;
        let info: String =
            redis::cmd("INFO").arg("cluster").query(&mut control)?;
        if cpu::info_field(&info, "cluster_enabled") != Some("1") {
            let numbers = Numbers::Below(keys.count());
            let nodes = vec![Node { server, numbers }];
            return Ok(Self { keys, nodes, is_cluster: false });
        }
        let nodes: String =
            redis::cmd("CLUSTER").arg("NODES").query(&mut control)?;
        let ranges = ranges(&nodes)?;
        let mut of_ranges = vec![Vec::new(); ranges.len()];
        for number in 0..keys.count() {
            let slot = slot(keys.key(number).as_bytes());
            let range =
                ranges.iter().position(|(slots, ..)| slots.contains(&slot));
            let range = range.with_context(|| {
                format!("no node of the cluster has slot {slot}")
            })?;
            of_ranges[range].push(number);
        }
        // A node may have several ranges.
        let mut lists: Vec<(Server, Vec<u32>)> = Vec::new();
        for ((_, host, port), numbers) in ranges.into_iter().zip(of_ranges) {
            let node = server.of_cluster(&host, port);
            let address = node.address();
            match lists.iter_mut().find(|(node, _)| node.address() == address) {
                Some((_, list)) => list.extend(numbers),
                None => lists.push((node, numbers)),
            }
        }
        lists.retain(|(_, list)| !list.is_empty());
        let nodes = lists.into_iter().map(|(server, list)| {
            let numbers = Numbers::Listed(list.into());
            Node { server, numbers }
        });
        let nodes = nodes.collect();
        Ok(Self { keys, nodes, is_cluster: true })
    }

    /// Returns the node of a connection. The nodes get equally many, as far as
    /// the number of connections allows.
    pub(crate) fn node(&self, connection: usize) -> &Node {
        &self.nodes[connection % self.nodes.len()]
    }

    /// Sets each key to a value of this length, so each GET hits.
    pub(crate) async fn fill(&self, value_len: usize) -> anyhow::Result<()> {
        for node in &self.nodes {
            self.keys.fill(node, value_len).await?;
        }
        Ok(())
    }

    /// Removes the keys.
    pub(crate) fn remove(&self) -> anyhow::Result<()> {
        self.nodes.iter().try_for_each(|node| self.keys.remove(node))
    }

    /// Connects to each node for commands that are not measured.
    pub(crate) fn control(&self) -> anyhow::Result<Vec<redis::Connection>> {
        self.nodes.iter().map(|node| node.server.control()).collect()
    }

    /// Returns the addresses of the servers, without the password.
    pub(crate) fn addresses(&self) -> String {
        let nodes = self.nodes.iter().map(|node| node.server.address());
        nodes.collect::<Vec<_>>().join(", ")
    }
}

impl Numbers {
    /// Returns how many numbers there are.
    pub(crate) fn count(&self) -> u32 {
        match self {
            Self::Below(count) => *count,
            Self::Listed(numbers) => numbers.len() as u32,
        }
    }

    /// Returns the number at this index, which is less than the count.
    pub(crate) fn at(&self, index: u32) -> u32 {
        match self {
            Self::Below(_) => index,
            Self::Listed(numbers) => numbers[index as usize],
        }
    }
}

/// Returns the processor time of all servers.
pub(crate) fn server_cpu(
    control: &mut [redis::Connection],
) -> anyhow::Result<Duration> {
    control.iter_mut().map(cpu::of_server).sum()
}

/// Parses the reply to `CLUSTER NODES`: the primaries and their slots. The host
/// is empty if it is that of the server that was asked.
fn ranges(nodes: &str) -> anyhow::Result<Vec<Range>> {
    let mut ranges = Vec::new();
    for line in nodes.lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let [_, address, flags, _, _, _, _, _, slots @ ..] = &fields[..] else {
            bail!("CLUSTER NODES has the line {line:?}");
        };
        let mut flags = flags.split(',');
        // A replica has the slots of its primary, but answers no GETs.
        if !flags.any(|flag| flag == "master") {
            continue;
        }
        // The address is host:port@bus, and a name may follow a comma.
        let client = address.split('@').next().unwrap_or_default();
        let (host, port) =
            client.rsplit_once(':').context("a node has no port")?;
        // A slot that moves is in brackets, beside its entry for the owner.
        for range in slots.iter().filter(|range| !range.starts_with('[')) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let slots = first.parse()?..=last.parse()?;
            ranges.push((slots, host.to_owned(), port.parse()?));
        }
    }
    Ok(ranges)
}

/// Returns the hash slot of a key without a hash tag: CRC-16/XMODEM modulo
/// 16,384. Source: Redis cluster specification, "Key distribution model".
fn slot(key: &[u8]) -> u16 {
    let crc = key.iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            let polynomial = if crc & 0x8000 == 0 { 0 } else { 0x1021 };
            (crc << 1) ^ polynomial
        })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_of_a_key_is_that_of_the_specification() {
        // The check value of CRC-16/XMODEM is 0x31C3.
        assert_eq!(slot(b"123456789"), 0x31C3 % SLOTS);
        assert_eq!(slot(b""), 0);
        assert_eq!(slot(b"foo"), 12_182);
    }

    #[test]
    fn only_primaries_have_slots() {
        let nodes = "a1 10.0.0.1:7000@17000,one master - 0 5 1 connected 0-99 7 \
                     [8->-b2]\n\
                     b2 fe80::2:7001@17001 slave a1 0 5 1 connected\n\
                     c3 :7002@17002 myself,master - 0 5 1 connected 100-16383\n";
        let parsed = ranges(nodes).unwrap();
        let first = "10.0.0.1".to_owned();
        assert_eq!(
            parsed,
            [
                (0..=99, first.clone(), 7000),
                (7..=7, first, 7000),
                (100..=16_383, String::new(), 7002),
            ]
        );
        assert!(ranges("a1 10.0.0.1:7000@17000 master").is_err());
    }
}
