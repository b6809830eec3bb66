//! The layouts as data: each server is a table of numbers.
//!
//! A `Layout` has the sizes of one server, and one formula reads all of them.
//! A further server is a further constant, if its objects fit the formula. The
//! allocators are lists of size classes, as jemalloc itself has one, and
//! `INFO` becomes a map of all fields. The answer has a `match` for each
//! server instead, which is shorter for two, and easier to compare with the
//! structures of the server.

use std::collections::HashMap;

use thiserror::Error;

pub const MAX_LEN: u64 = 32_767;

pub const MAX_KEYS: u64 = 1 << 32;

/// What the model needs from the output of `INFO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    pub server: Server,
    pub used_memory: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub product: Product,
    pub version: String,
    pub allocator: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    Redis,
    Valkey,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measurement {
    pub before: u64,
    pub after: u64,
    pub keys: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    Redis70,
    Valkey91,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InfoError {
    #[error("INFO has no field {0}")]
    Missing(&'static str),
    #[error("used_memory is {0:?}, which is not a number of bytes")]
    UsedMemory(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no keys were added")]
pub struct NoKeys;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no model for {:?} {} with {}", .0.product, .0.version, .0.allocator)]
pub struct Unsupported(pub Server);

/// The sizes of one server.
struct Layout {
    /// The allocation that points to the key and to the object, if there is
    /// one. Otherwise the object contains the key.
    entry: Option<u64>,
    /// The bytes in front of an object that contains its value.
    embedding: u64,
    /// The smallest embedded value, with its header and NUL.
    min_embedded: u64,
    /// The largest object that contains its value.
    max_embedding: u64,
    /// The key length from which an object has room for an expiry.
    expiry_from: u64,
    /// The bytes of a slot or bucket, and the keys that it holds.
    slot: (u64, u64),
    /// The smallest number of slots.
    min_slots: u64,
    /// The places that are free in a table.
    spare: u64,
    has_children: bool,
}

const REDIS: Layout = Layout {
    entry: Some(24),
    embedding: 16,
    min_embedded: 0,
    max_embedding: 64,
    expiry_from: u64::MAX,
    slot: (8, 1),
    min_slots: 4,
    spare: 0,
    has_children: false,
};

const VALKEY: Layout = Layout {
    entry: None,
    embedding: 8,
    min_embedded: 8,
    max_embedding: 128,
    expiry_from: 128,
    slot: (64, 7),
    min_slots: 1,
    spare: 1,
    has_children: true,
};

/// The bytes in front of an object with a pointer to its value.
const OBJECT: u64 = 16;

impl Info {
    pub fn parse(text: &str) -> Result<Self, InfoError> {
        let lines = text.split('\n').map(|l| l.strip_suffix('\r').unwrap_or(l));
        let fields = lines.filter_map(|line| line.split_once(':'));
        let fields: HashMap<_, _> = fields.collect();
        let get = |name| fields.get(name).copied();
        let need = |name| get(name).ok_or(InfoError::Missing(name));
        let used = need("used_memory")?;
        let product = match get("valkey_version") {
            Some(_) => Product::Valkey,
            None => Product::Redis,
        };
        let version =
            get("valkey_version").map_or(need("redis_version"), Ok)?;
        Ok(Self {
            server: Server {
                product,
                version: version.to_owned(),
                allocator: need("mem_allocator")?.to_owned(),
            },
            used_memory: used
                .parse()
                .map_err(|_| InfoError::UsedMemory(used.to_owned()))?,
        })
    }
}

impl Measurement {
    pub fn bytes_per_key(&self) -> Result<f64, NoKeys> {
        let Self { before, after, keys } = *self;
        let sign = if after < before { -1.0 } else { 1.0 };
        let size = before.abs_diff(after) as f64;
        if keys == 0 { Err(NoKeys) } else { Ok(sign * size / keys as f64) }
    }
}

impl Model {
    pub fn for_server(server: &Server) -> Result<Self, Unsupported> {
        let known = [
            (Product::Redis, "7.0", "jemalloc-5.3.0", Self::Redis70),
            (Product::Valkey, "9.1", "libc", Self::Valkey91),
        ];
        let is_known =
            |(product, version, allocator): (Product, &str, &str)| {
                let rest = server.version.strip_prefix(version);
                let is_same =
                    rest.is_some_and(|r| r.is_empty() || r.starts_with('.'));
                is_same
                    && product == server.product
                    && allocator == server.allocator
            };
        let found = known.into_iter().find(|k| is_known((k.0, k.1, k.2)));
        found.map(|k| k.3).ok_or_else(|| Unsupported(server.clone()))
    }

    pub fn allocated(self, bytes: u64) -> u64 {
        if let Self::Valkey91 = self {
            // A list of all multiples of 16 would be too long.
            return (bytes.max(24) + 7) / 16 * 16 + 8;
        }
        let quantum = (16..=128).step_by(16);
        let doublings = (5..).flat_map(|n| [5, 6, 7, 8].map(|m: u64| m << n));
        let mut classes = [8].into_iter().chain(quantum).chain(doublings);
        classes.find(|class| *class >= bytes).expect("the list has no end")
    }

    pub fn bytes(self, keys: u64, key_len: u64, value_len: u64) -> Option<u64> {
        if !is_covered(keys, key_len, value_len) || keys == 0 {
            return is_covered(keys, key_len, value_len).then_some(0);
        }
        let each = self.requests(key_len, value_len);
        let each: u64 = each.into_iter().map(|n| self.allocated(n)).sum();
        let layout = self.layout();
        let (size, holds) = layout.slot;
        let mut slots = layout.min_slots;
        while slots * holds < keys + layout.spare {
            slots *= 2;
        }
        let children =
            if layout.has_children { child_buckets(keys, slots) } else { 0 };
        let table = self.allocated(slots * size);
        Some(keys * each + table + children * self.allocated(size))
    }

    /// Returns the sizes of all allocations of a key.
    fn requests(self, key_len: u64, value_len: u64) -> Vec<u64> {
        let layout = self.layout();
        let key = sds_size(key_len);
        let (mut requests, inside) = match layout.entry {
            Some(entry) => (vec![entry, key], 0),
            None => (vec![], 1 + key),
        };
        let value = (value_len + 4).max(layout.min_embedded);
        let object = layout.embedding + inside + value;
        if object <= layout.max_embedding {
            requests.push(object);
        } else {
            let expiry = if key_len >= layout.expiry_from { 8 } else { 0 };
            requests.extend([OBJECT + inside + expiry, sds_size(value_len)]);
        }
        requests
    }

    fn layout(self) -> Layout {
        match self {
            Self::Redis70 => REDIS,
            Self::Valkey91 => VALKEY,
        }
    }
}

/// Returns whether the model covers this number of keys and these lengths.
fn is_covered(keys: u64, key_len: u64, value_len: u64) -> bool {
    keys <= MAX_KEYS && (1..=MAX_LEN).contains(&key_len) && value_len <= MAX_LEN
}

pub fn sds_size(len: u64) -> u64 {
    let header = match len {
        0..32 => 1,
        32..256 => 3,
        256..65_536 => 5,
        65_536..0x1_0000_0000 => 9,
        _ => 17,
    };
    header + len + 1
}

pub fn child_buckets(keys: u64, buckets: u64) -> u64 {
    let mean = keys as f64 / buckets as f64;
    // The probability that a bucket has `n` keys (Poisson).
    let mut probability = (-mean).exp();
    let mut children = 0.0;
    for n in 1..100_u32 {
        probability *= mean / f64::from(n);
        // A bucket holds 7 keys, or 6 and a pointer to a child.
        children += probability * f64::from(n.saturating_sub(2) / 6);
    }
    (children * buckets as f64).round() as u64
}
