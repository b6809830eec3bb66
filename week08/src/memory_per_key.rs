//! Redis memory: how many bytes a key costs.
//!
//! *Question.* How much memory do n keys take, with values of a given length?
//! How is the model checked against a real server?
//!
//! *Idea.* A **closed-form model**: add up the allocations of one key, each
//! rounded up to the **size class** of the allocator, and the hash table, whose
//! size is a power of two. To measure, read `used_memory` from `INFO` on an
//! empty server, write the keys, read it again, and divide the difference by
//! `DBSIZE`.
//!
//! *Guarantee.* The model is within 0.1 % of each of 116 measurements of
//! Redis 7.0.15, and within 2 % of each of 116 of Valkey 9.1.2 (1 % if glibc
//! leaves no holes): tests compare them. Another server has no model.
//!
//! *Cost.* It holds for one build: another version or another allocator needs
//! another model. It is for string keys without expiry whose values are not
//! integers, on 64 bits, without cluster mode, when no rehash is in progress.
//! It does not contain fragmentation, so the process takes more (its rss).
//!
//! ```
//! use week08::memory_per_key::{Info, Measurement, Model};
//!
//! let info = "redis_version:7.0.15\r\nused_memory:1000000\r\n\
//!             mem_allocator:jemalloc-5.3.0\r\n";
//! let before = Info::parse(info)?;
//! let model = Model::for_server(&before.server)?;
//! // Keys of 16 bytes, values of 44 and 45.
//! assert_eq!(model.bytes(16_384, 16, 44), Some(16_384 * 136));
//! assert_eq!(model.bytes(16_384, 16, 45), Some(16_384 * 152));
//!
//! let (before, after) = (before.used_memory, 3_490_400);
//! let measured = Measurement { before, after, keys: 16_384 };
//! assert!((measured.bytes_per_key()? - 152.0).abs() < 0.01);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

use thiserror::Error;

/// The length of the longest key and of the longest value that the model
/// covers.
pub const MAX_LEN: u64 = 32_767;

/// The largest number of keys that the model covers.
pub const MAX_KEYS: u64 = 1 << 32;

/// The longest value that Redis stores in the allocation of its object.
const MAX_EMBEDDED_VALUE: u64 = 44;

/// The largest object of Valkey that contains its value.
const MAX_EMBEDDED: u64 = 128;

/// Valkey reserves room for an expiry beside keys of this length.
const KEY_WITH_EXPIRY: u64 = 128;

/// What the model needs from the output of `INFO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The server.
    pub server: Server,
    /// The bytes that the server has allocated (`used_memory`).
    pub used_memory: u64,
}

/// The properties of a server that determine the memory of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The program.
    pub product: Product,
    /// Its version, such as `7.0.15`.
    pub version: String,
    /// Its allocator, such as `jemalloc-5.3.0`.
    pub allocator: String,
}

/// A program that has the command `INFO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// Redis.
    Redis,
    /// Valkey.
    Valkey,
}

/// The memory of a server before and after keys were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measurement {
    /// `used_memory` before.
    pub before: u64,
    /// `used_memory` after.
    pub after: u64,
    /// The keys that were added: the difference of `DBSIZE`.
    pub keys: u64,
}

/// Predicts the memory of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// Redis 7.0 with the jemalloc 5.3.0 of the system.
    Redis70,
    /// Valkey 9.1 with the malloc of glibc.
    Valkey91,
}

/// The reason why [`Info::parse`] failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InfoError {
    /// A field is missing.
    #[error("INFO has no field {0}")]
    Missing(&'static str),
    /// `used_memory` is not a `u64`.
    #[error("used_memory is {0:?}, which is not a number of bytes")]
    UsedMemory(String),
}

/// No keys were added, so there are no bytes per key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no keys were added")]
pub struct NoKeys;

/// No model is known for this server.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no model for {:?} {} with {}", .0.product, .0.version, .0.allocator)]
pub struct Unsupported(pub Server);

impl Info {
    /// Reads the output of `INFO`.
    pub fn parse(text: &str) -> Result<Self, InfoError> {
        let field = |name| {
            let mut fields = text.lines().filter_map(|l| l.split_once(':'));
            let field = fields.find(|field| field.0 == name);
            field.map(|field| field.1).ok_or(InfoError::Missing(name))
        };
        // Valkey also has a `redis_version`, that of a compatible Redis.
        let (product, version) = match field("valkey_version") {
            Ok(version) => (Product::Valkey, version),
            Err(_) => (Product::Redis, field("redis_version")?),
        };
        let version = version.to_owned();
        let allocator = field("mem_allocator")?.to_owned();
        let used = field("used_memory")?;
        let invalid = |_| InfoError::UsedMemory(used.to_owned());
        let used_memory = used.parse().map_err(invalid)?;
        Ok(Self { server: Server { product, version, allocator }, used_memory })
    }
}

impl Measurement {
    /// Returns the bytes of a key, which are negative if memory was freed.
    pub fn bytes_per_key(&self) -> Result<f64, NoKeys> {
        if self.keys == 0 {
            return Err(NoKeys);
        }
        let difference = i128::from(self.after) - i128::from(self.before);
        Ok(difference as f64 / self.keys as f64)
    }
}

impl Model {
    /// Returns the model of the server.
    pub fn for_server(server: &Server) -> Result<Self, Unsupported> {
        let version: Vec<_> = server.version.split('.').collect();
        match (server.product, &version[..], &*server.allocator) {
            (Product::Redis, ["7", "0", ..], "jemalloc-5.3.0") => {
                Ok(Self::Redis70)
            }
            (Product::Valkey, ["9", "1", ..], "libc") => Ok(Self::Valkey91),
            _ => Err(Unsupported(server.clone())),
        }
    }

    /// Returns the bytes that the allocator uses for a request of `bytes`.
    pub fn allocated(self, bytes: u64) -> u64 {
        match self {
            Self::Redis70 if bytes <= 8 => 8,
            Self::Redis70 if bytes <= 128 => bytes.next_multiple_of(16),
            Self::Redis70 => {
                bytes.next_multiple_of(bytes.next_power_of_two() / 8)
            }
            Self::Valkey91 => (bytes + 8).next_multiple_of(16).max(32) - 8,
        }
    }

    /// Returns the bytes that `keys` keys need, or `None` if the model does not
    /// cover this number or these lengths.
    pub fn bytes(self, keys: u64, key_len: u64, value_len: u64) -> Option<u64> {
        if !is_covered(keys, key_len, value_len) {
            return None;
        }
        let table = if keys == 0 { 0 } else { self.table(keys) };
        Some(keys * self.key(key_len, value_len) + table)
    }

    /// Returns the bytes of a key and its value, without the table.
    fn key(self, key_len: u64, value_len: u64) -> u64 {
        let (key, value) = (sds_size(key_len), sds_size(value_len));
        // An embedded string always has a header of 3 bytes.
        let embedded = 3 + value_len + 1;
        let allocated = |bytes| self.allocated(bytes);
        match self {
            Self::Redis70 => {
                let object = if value_len <= MAX_EMBEDDED_VALUE {
                    allocated(16 + embedded)
                } else {
                    allocated(16) + allocated(value)
                };
                allocated(24) + allocated(key) + object
            }
            Self::Valkey91 => {
                // The value takes the place of the pointer to it.
                let object = 8 + embedded.max(8) + 1 + key;
                if object <= MAX_EMBEDDED {
                    return allocated(object);
                }
                let expiry = if key_len >= KEY_WITH_EXPIRY { 8 } else { 0 };
                allocated(16 + expiry + 1 + key) + allocated(value)
            }
        }
    }

    /// Returns the bytes of the hash table.
    fn table(self, keys: u64) -> u64 {
        match self {
            Self::Redis70 => {
                self.allocated(8 * keys.next_power_of_two().max(4))
            }
            Self::Valkey91 => {
                let buckets = (keys / 7 + 1).next_power_of_two();
                let children = child_buckets(keys, buckets);
                self.allocated(64 * buckets) + children * self.allocated(64)
            }
        }
    }
}

/// Returns whether the model covers this number of keys and these lengths.
fn is_covered(keys: u64, key_len: u64, value_len: u64) -> bool {
    keys <= MAX_KEYS && (1..=MAX_LEN).contains(&key_len) && value_len <= MAX_LEN
}

/// Returns the size of a string: its header, its bytes and NUL.
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

/// Returns the expected number of Valkey's child buckets, for uniform hashes.
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
