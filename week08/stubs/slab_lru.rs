//! Segmented LRU: eviction in a slab class. Your turn.
//!
//! These rules are graded, and nothing else.
//!
//! Placement:
//!
//! - An item has a key of 1 to 250 bytes and a value of any length, with any
//!   bytes. Its size is that of a `slab_classes::Item` without flags and with
//!   cas. Its class is the one that `Classes::class_of` returns for this size.
//! - `set` fails with `InvalidKey` if the key is empty or too long. If not, it
//!   fails with `TooLarge` if the item is larger than a chunk of the last
//!   class: this cache does not chain chunks.
//! - `set` first removes the key's old item, if there is one. So the old item
//!   neither counts nor is found any more, even if `set` then fails: its value
//!   would be stale.
//! - The chunk of a removed item is free for items of its class.
//! - The new item takes a free chunk of its class. If there is none, the class
//!   gets a page of `PAGE` bytes, which is cut into `chunks_per_page` free
//!   chunks. But if the pages of all classes together would then have more than
//!   `memory` bytes, no page is added: a *victim* of the same class is evicted,
//!   and the new item takes its chunk. If the class has no item either, `set`
//!   fails with `NoPage`. A page never changes its class.
//!
//! Queues:
//!
//! - Each class has the queues HOT, WARM and COLD, with a head and a tail. Each
//!   item is in one of them, and has the bits FETCHED and ACTIVE.
//! - A new item enters HOT at the head. Both of its bits are 0. This also holds
//!   if its key had a value before.
//! - A `get` that finds an item with FETCHED = 0 sets FETCHED. If FETCHED is 1
//!   and the item is in HOT or WARM, `get` sets ACTIVE. If FETCHED is 1 and the
//!   item is in COLD, the item moves to the head of WARM, and ACTIVE stays 0.
//!   FETCHED of an item never becomes 0 again.
//! - After the old item is removed, and before the new item takes a chunk,
//!   `set` makes two *rounds* in the class of the new item. A round has two
//!   steps:
//!   1. If HOT has more than 1/5 of the items of the class, the item at its
//!      tail moves to the head of WARM if it is ACTIVE, and of COLD if not.
//!   2. Then, if WARM has more than 2/5 of the items of the class, the item at
//!      its tail moves to the head of WARM if it is ACTIVE, and of COLD if not.
//!
//!   The items of all three queues count, and ACTIVE becomes 0 with each move.
//! - The victim is the item at the tail of COLD. If COLD is empty, the victim
//!   is the item at the tail of HOT. If HOT is empty, too, it is the item at
//!   the tail of WARM.
//! - `get`, `delete`, and a `set` that fails evict no item. Apart from removing
//!   the old item, a `set` that fails changes nothing.
//! - `delete` returns whether the key had a value.
//! - `stats` has all classes in the order of the table, also those without
//!   pages.
//! - The time of a call, also of `stats`, does not depend on the number of
//!   items, apart from a `set` that adds a page.
//!
//! Help: `crate::arena` has the bytes, the index, and the queues. Its `Arena`
//! has `take_free`, `add_page`, `store`, `find`, `value`, `free`, `class` (the
//! number of a chunk's class), `state`, `set_bits`, `pages` and `free_chunks`.
//! Its `Queues` are those of one class, with `push_front`, `remove`, `back`,
//! `len` and `items`. `Chunk` is a number, and can be copied. `cargo doc --open
//! -p week08` shows all of them.

use thiserror::Error;

use crate::slab_classes::{Class, Classes};

/// A cache of a fixed amount of memory.
#[derive(Debug)]
pub struct Cache {
    // What do you need besides the table of classes and an `Arena`?
}

/// The settings of a [`Cache`].
#[derive(Debug, Clone)]
pub struct Config {
    /// The bytes that all pages have together at most.
    pub memory: usize,
    /// The table of classes.
    pub classes: Classes,
}

/// The numbers of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassStats {
    /// The class.
    pub class: Class,
    /// The number of its pages.
    pub pages: usize,
    /// The number of its chunks without an item.
    pub free_chunks: usize,
    /// The number of items in HOT.
    pub hot: usize,
    /// The number of items in WARM.
    pub warm: usize,
    /// The number of items in COLD.
    pub cold: usize,
    /// The number of items that were evicted so far.
    pub evictions: u64,
}

/// Why an item was not stored. The key then has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SetError {
    /// The key is empty or too long.
    #[error("a key of {len} bytes is not within 1 to 250 bytes")]
    InvalidKey {
        /// The length of the key.
        len: usize,
    },
    /// The item does not fit into one chunk.
    #[error("an item of {size} bytes exceeds the largest chunk, {max} bytes")]
    TooLarge {
        /// The size of the item.
        size: usize,
        /// The size of the largest chunk.
        max: usize,
    },
    /// The class has no page, and the memory is used up by other classes.
    #[error("all pages belong to classes other than {class}")]
    NoPage {
        /// The number of the class.
        class: u8,
    },
}

impl Cache {
    /// Creates an empty cache.
    pub fn new(_config: Config) -> Self {
        todo!("what is stored for each class?")
    }

    /// Stores a value. If this fails, the key has no value: its old one would
    /// be stale.
    pub fn set(&mut self, _key: &[u8], _value: &[u8]) -> Result<(), SetError> {
        todo!("which class, which items move, and which chunk?")
    }

    /// Returns the value of the key, and remembers that it was read.
    pub fn get(&mut self, _key: &[u8]) -> Option<&[u8]> {
        todo!("is it the first read, and in which queue is the item?")
    }

    /// Removes the key, and returns whether it had a value.
    pub fn delete(&mut self, _key: &[u8]) -> bool {
        todo!("in which order do the queue and the arena lose the item?")
    }

    /// Returns the numbers of all classes, in their order.
    pub fn stats(&self) -> Vec<ClassStats> {
        todo!("which numbers does the arena know?")
    }
}
