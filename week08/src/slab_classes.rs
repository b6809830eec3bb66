//! Slab classes: the memory of memcached.
//!
//! *Question.* memcached stores values of any size for months, and its memory
//! does not fragment. Into which chunk does an item go, how many chunks fit on
//! a page, and how many bytes are wasted?
//!
//! *Idea.* A **slab allocator**: each page of 1 MiB is cut into chunks of one
//! size. The sizes are those of up to 63 **classes**, and each is larger than
//! the one before by the growth factor. An item takes a chunk of the first
//! class that holds it. So a chunk that becomes free fits the next item of its
//! class, and no two free chunks ever have to be merged.
//!
//! *Guarantee.* The table and the chunks of an item are those of memcached
//! 1.6.18 on 64 bits: tests compare them with a server. No configuration has
//! more than 63 classes, because the loop counts them.
//!
//! *Cost.* An item wastes up to the distance to the chunk size below its own:
//! about `1 - 1 / growth_factor` of its chunk. A factor that is too small fills
//! the 63 classes with small chunks, and each larger item takes one of
//! `chunk_max`. A chunk that one class does not need is not free for another.
//!
//! ```
//! use week08::slab_classes::{Classes, Config, Item};
//!
//! let classes = Classes::new(Config::default())?;
//! assert_eq!(classes.classes().len(), 39);
//!
//! let (key_len, value_len) = (10, 100);
//! let item = Item { key_len, value_len, has_flags: false, has_cas: true };
//! assert_eq!(item.size(), 48 + 11 + 8 + 102);
//! let class = classes.class_of(item.size()).unwrap();
//! assert_eq!((class.number, class.chunk_size), (4, 192));
//! assert_eq!(classes.waste(item), Some(23));
//! assert_eq!(classes.largest_value(4, item), Some(123));
//! # Ok::<_, week08::slab_classes::ConfigError>(())
//! ```

use thiserror::Error;

/// The size of a page.
pub const PAGE: usize = 1 << 20;

/// The bytes in front of the key of each item.
const HEADER: usize = 48;

/// The bytes in front of the data of a chained chunk.
const CHUNK_HEADER: usize = 48;

/// The bytes after each value: `\r\n`.
const LINE_END: usize = 2;

/// Chunk sizes are multiples of this number.
const ALIGN: usize = 8;

/// The largest number of classes.
const MAX_CLASSES: usize = 63;

/// The table of classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classes {
    classes: Vec<Class>,
    max_item: usize,
    chunk_max: usize,
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
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        let Config { growth_factor, max_item, chunk_max, .. } = config;
        // A size from here on would be followed by one above `chunk_max`.
        let end = chunk_max as f64 / growth_factor;
        let mut sizes = Vec::new();
        let mut size = HEADER.saturating_add(config.min_space);
        while sizes.len() + 1 < MAX_CLASSES && (size as f64) < end {
            let aligned = size.next_multiple_of(ALIGN);
            sizes.push(aligned);
            // It is tempting to round, but memcached truncates here.
            size = (aligned as f64 * growth_factor) as usize;
        }
        sizes.push(chunk_max);
        let classes = (1..).zip(sizes).map(|(number, chunk_size)| Class {
            number,
            chunk_size,
            chunks_per_page: PAGE / chunk_size,
        });
        Ok(Self { classes: classes.collect(), max_item, chunk_max })
    }

    /// Returns all classes, the smallest first.
    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// Returns the class of an item of `size` bytes, or `None` if there is
    /// none.
    pub fn class_of(&self, size: usize) -> Option<Class> {
        if size == 0 || size > self.max_item {
            return None;
        }
        let index = self.classes.partition_point(|c| c.chunk_size < size);
        // An item above the largest chunk counts in the last class.
        self.classes.get(index).or(self.classes.last()).copied()
    }

    /// Returns the class of each chunk that the item uses, or `None` if
    /// memcached does not store the item.
    pub fn chunks_of(&self, item: Item) -> Option<Vec<Class>> {
        let size = item.size();
        let class = self.class_of(size).filter(|_| item.has_valid_key())?;
        if size <= self.chunk_max {
            return Some(vec![class]);
        }
        let mut rest = item.value_len + LINE_END;
        let mut chunks = vec![self.class_of(size - rest + CHUNK_HEADER)?];
        while rest > 0 {
            let size = (rest + CHUNK_HEADER).min(self.chunk_max);
            chunks.push(self.class_of(size)?);
            rest -= size - CHUNK_HEADER;
        }
        Some(chunks)
    }

    /// Returns the bytes by which the item's chunks exceed its size.
    pub fn waste(&self, item: Item) -> Option<usize> {
        let chunks = self.chunks_of(item)?;
        let used: usize = chunks.iter().map(|class| class.chunk_size).sum();
        Some(used - item.size())
    }

    /// Returns the length of the largest value with which an item like `item`
    /// goes into the class, or `None` if there is no such value.
    pub fn largest_value(&self, number: u8, item: Item) -> Option<usize> {
        let class = self.classes.iter().find(|c| c.number == number)?;
        let is_last = self.classes.last() == Some(class);
        let size = if is_last { self.max_item } else { class.chunk_size };
        let without_value = Item { value_len: 0, ..item }.size();
        let value_len = size.checked_sub(without_value)?;
        // The class before may have chunks of the same size.
        let is_used = self.class_of(size) == Some(*class);
        (is_used && item.has_valid_key()).then_some(value_len)
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
        let flags = if self.has_flags { 4 } else { 0 };
        let cas = if self.has_cas { 8 } else { 0 };
        let fixed = HEADER + 1 + flags + cas + LINE_END;
        fixed.saturating_add(self.key_len).saturating_add(self.value_len)
    }

    fn has_valid_key(&self) -> bool {
        (1..=250).contains(&self.key_len)
    }
}

impl Config {
    fn check(&self) -> Result<(), ConfigError> {
        let &Self { growth_factor, min_space, max_item, chunk_max } = self;
        // `growth_factor <= 1.0` would accept NaN.
        if growth_factor.is_nan() || growth_factor <= 1.0 {
            return Err(ConfigError::GrowthFactor(growth_factor));
        }
        if min_space == 0 {
            return Err(ConfigError::MinSpace);
        }
        if !(1 << 10..=1 << 30).contains(&max_item) {
            return Err(ConfigError::MaxItem(max_item));
        }
        if !chunk_max.is_power_of_two()
            || !(512..=PAGE).contains(&chunk_max)
            || !max_item.is_multiple_of(chunk_max)
        {
            return Err(ConfigError::ChunkMax(chunk_max));
        }
        Ok(())
    }
}
