//! Slab classes: the memory of memcached. Your turn.
//!
//! These rules are graded, and nothing else. They describe memcached 1.6.18 on
//! 64 bits, except that `new` refuses two settings with which the server
//! crashes: NaN, and a small `chunk_max`.
//!
//! - A page has 1 MiB. It is cut into chunks of one size, as many as fit.
//! - `new` refuses a growth factor that is not greater than 1 (NaN is not), a
//!   `min_space` of 0, and a `max_item` outside 1 KiB to 1 GiB (both limits are
//!   allowed). It also refuses a `chunk_max` that is not a power of two from
//!   512 bytes to 1 MiB, or that does not divide `max_item`. The error contains
//!   the value that was refused (`MinSpace` contains none). If several settings
//!   are bad, the error may be about any of them. All other settings are
//!   accepted, also infinity and `usize::MAX`.
//! - The first size is 48 + `min_space`. A size gets a class if it is less than
//!   `chunk_max / growth_factor` (an `f64`) and if fewer than 62 classes exist.
//!   The chunk size of this class is the size, rounded up to a multiple of 8.
//!   The next size is this chunk size times the growth factor, without the
//!   fraction of the product. The first size that gets no class ends the table.
//!   Then one more class is added, the last one. Its chunks have `chunk_max`
//!   bytes.
//! - Classes are numbered from 1. Several may have the same chunk size.
//! - The size of an item is the sum of: 48 bytes of header, the key, 1 byte
//!   that ends the key, 4 bytes of flags if they are not 0, 8 bytes of cas if
//!   the item has one, the value, and 2 bytes for `\r\n`. If the sum is above
//!   `usize::MAX`, the size is `usize::MAX`. `size` accepts a key of any
//!   length.
//! - `class_of` returns the first class whose chunks are not smaller than the
//!   size, or the last class if no class has such chunks. It returns `None` if
//!   the size is 0 or above `max_item`.
//! - `chunks_of` returns `None` if the key is empty or longer than 250 bytes,
//!   or if the item's size is above `max_item`. An item of at most `chunk_max`
//!   bytes uses one chunk, of the class that `class_of` returns for its size.
//! - A larger item is *chained*. Its first chunk has no byte of the value. The
//!   class of this chunk is the class for the item's size without value and
//!   `\r\n`, plus 48 bytes. Then value and `\r\n` are cut into parts of
//!   `chunk_max - 48` bytes; the last part may be smaller, but is not empty.
//!   Each part uses a chunk of the class for the part's length plus 48.
//!   `chunks_of` returns the classes in this order.
//! - `waste` returns the sum of the chunk sizes less the item's size, or
//!   `None` if `chunks_of` returns `None`.
//! - `largest_value` ignores `item.value_len`. It returns the largest length
//!   of a value that puts the item into the class with this number: `class_of`
//!   returns that class for the item's size. It returns `None` if there is no
//!   such length, if no class has this number, or if the key is empty or
//!   longer than 250 bytes.
//! - No call panics, overflows or runs for ever, with any arguments.
//!
//! Help: `usize::next_multiple_of`, `slice::partition_point`.

use thiserror::Error;

/// The size of a page.
pub const PAGE: usize = 1 << 20;

/// The table of classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classes {
    // What do you need to find the class of a size?
}

/// The settings of [`Classes`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// The ratio of two successive chunk sizes, greater than 1 (`-f`).
    pub growth_factor: f64,
    /// The space for key, value and flags in the smallest chunk (`-n`).
    pub min_space: usize,
    /// The largest size of an item (`-I`).
    pub max_item: usize,
    /// The size of the largest chunk (`-o slab_chunk_max`). Larger items are
    /// stored in several chunks.
    pub chunk_max: usize,
}

/// A class: all chunks of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// The number of the class. The first one is 1.
    pub number: u8,
    /// The bytes of a chunk.
    pub chunk_size: usize,
    /// The number of chunks that a page is cut into.
    pub chunks_per_page: usize,
}

/// The properties of an item that determine its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// The length of the key. memcached accepts 1 to 250 bytes.
    pub key_len: usize,
    /// The length of the value.
    pub value_len: usize,
    /// Whether the client's flags are other than 0.
    pub has_flags: bool,
    /// Whether the item has a number for compare-and-swap: all items have it
    /// unless memcached was started with `-C`.
    pub has_cas: bool,
}

/// The setting that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
pub enum ConfigError {
    /// The growth factor is not greater than 1.
    #[error("growth factor {0} is not greater than 1")]
    GrowthFactor(f64),
    /// The space is 0.
    #[error("the smallest chunk has no space for an item")]
    MinSpace,
    /// The item limit is out of range.
    #[error("item limit of {0} bytes is not within 1 KiB to 1 GiB")]
    MaxItem(usize),
    /// The chunk limit is out of range, or does not fit the item limit.
    #[error("chunk limit of {0} bytes does not fit the page or the item limit")]
    ChunkMax(usize),
}

impl Default for Config {
    /// Returns the settings of a memcached that is started without options.
    fn default() -> Self {
        Self {
            growth_factor: 1.25,
            min_space: 48,
            max_item: 1 << 20,
            chunk_max: 1 << 19,
        }
    }
}

impl Classes {
    /// Calculates the table.
    pub fn new(_config: Config) -> Result<Self, ConfigError> {
        todo!("which comparison refuses NaN, and what ends the table?")
    }

    /// Returns all classes, the smallest first.
    pub fn classes(&self) -> &[Class] {
        todo!("which classes are there?")
    }

    /// Returns the class of an item of `size` bytes, or `None` if there is
    /// none.
    pub fn class_of(&self, _size: usize) -> Option<Class> {
        todo!("which chunk is the first that holds it?")
    }

    /// Returns the class of each chunk that the item uses, or `None` if
    /// memcached does not store the item.
    pub fn chunks_of(&self, _item: Item) -> Option<Vec<Class>> {
        todo!("does one chunk hold it, and if not, what does each part need?")
    }

    /// Returns the bytes by which the item's chunks exceed its size.
    pub fn waste(&self, _item: Item) -> Option<usize> {
        todo!("how large are all its chunks together?")
    }

    /// Returns the length of the largest value with which an item like `item`
    /// goes into the class, or `None` if there is no such value.
    pub fn largest_value(&self, _number: u8, _item: Item) -> Option<usize> {
        todo!("what does the item need without a value?")
    }
}

impl Class {
    /// Returns the bytes at the end of a page that belong to no chunk.
    pub fn unused_per_page(&self) -> usize {
        PAGE - self.chunks_per_page * self.chunk_size
    }
}

impl Item {
    /// Returns the bytes that the item needs in a chunk, at most `usize::MAX`.
    pub fn size(&self) -> usize {
        todo!("what does memcached store besides key and value?")
    }
}
