//! Segmented LRU: eviction in a slab class.
//!
//! *Question.* A nightly export reads ten million cold keys once. In the morning
//! the hit ratio is zero. How does memcached evict, so that such a scan does not
//! wash out the keys that users read?
//!
//! *Idea.* A **segmented LRU**: each class has the queues HOT, WARM and COLD. A
//! new item enters HOT, and victims leave from COLD. An item has to be read
//! twice to enter WARM, and again to stay there when it reaches the tail. The
//! keys of a scan are read once, so they pass through HOT and COLD. A read only
//! sets a bit, unless the item is in COLD.
//!
//! *Guarantee.* A key that is read at most once after it was set never enters
//! WARM. So no number of such keys evicts an item of WARM, while WARM has at
//! most two fifths of the items in its class. A set moves at most four items
//! and evicts at most one, only if its class has no free chunk and gets no page.
//!
//! *Cost.* An item that is popular for less time than it takes to pass HOT and
//! COLD gets no protection. A class evicts its own items only: a page never
//! changes its class, and a class without a page refuses all items
//! (*calcification*). The cache has one owner (`&mut self`), also for reads:
//! threads share it behind a lock. A set that adds a page may have to enlarge
//! the index, and then visits all items.
//!
//! ```
//! use week08::slab_classes::{self, Classes};
//! use week08::slab_lru::{Cache, Config, SetError};
//!
//! let classes = Classes::new(slab_classes::Config::default())?;
//! let mut cache = Cache::new(Config { memory: 64 << 20, classes });
//! cache.set(b"user:1", b"Ada")?;
//! assert_eq!(cache.get(b"user:1"), Some(&b"Ada"[..]));
//!
//! let large = vec![0; 600_000];
//! let refused = cache.set(b"user:1", &large);
//! assert_eq!(refused, Err(SetError::TooLarge { size: 600_065, max: 524_288 }));
//! assert_eq!(cache.get(b"user:1"), None, "the old value would be stale");
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

use thiserror::Error;

use crate::arena::{Arena, Chunk, Queues, Segment, State};
use crate::slab_classes::{Class, Classes, Item};

/// How often each set looks for items that have to leave HOT or WARM. With 1,
/// a queue that is too long because items were deleted would stay so.
const ROUNDS: usize = 2;

/// A cache of a fixed amount of memory.
#[derive(Debug)]
pub struct Cache {
    classes: Classes,
    arena: Arena,
    /// For each class, in their order.
    slabs: Vec<Slab>,
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

#[derive(Debug, Default)]
struct Slab {
    queues: Queues,
    evictions: u64,
}

impl Cache {
    /// Creates an empty cache.
    pub fn new(config: Config) -> Self {
        let Config { memory, classes } = config;
        let slabs = classes.classes().iter().map(|_| Slab::default());
        let slabs = slabs.collect();
        Self { classes, arena: Arena::new(memory), slabs }
    }

    /// Stores a value. If this fails, the key has no value: its old one would
    /// be stale.
    pub fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), SetError> {
        self.delete(key);
        let class = self.class_of(key.len(), value.len())?;
        for _ in 0..ROUNDS {
            self.move_tail(class, Segment::Hot, 1);
            self.move_tail(class, Segment::Warm, 2);
        }
        let no_page = SetError::NoPage { class: class.number };
        let chunk = self.take_chunk(class).ok_or(no_page)?;
        self.arena.store(chunk, key, value);
        let queues = &mut self.slabs[index(class.number)].queues;
        queues.push_front(&mut self.arena, chunk, State::default());
        Ok(())
    }

    /// Returns the value of the key, and remembers that it was read.
    pub fn get(&mut self, key: &[u8]) -> Option<&[u8]> {
        let chunk = self.arena.find(key)?;
        let state = self.arena.state(chunk);
        if !state.is_fetched {
            self.arena.set_bits(chunk, true, false);
        } else if state.segment == Segment::Cold {
            self.move_to(Segment::Warm, chunk);
        } else {
            self.arena.set_bits(chunk, true, true);
        }
        Some(self.arena.value(chunk))
    }

    /// Removes the key, and returns whether it had a value.
    pub fn delete(&mut self, key: &[u8]) -> bool {
        let chunk = self.arena.find(key);
        chunk.map(|chunk| self.remove(chunk)).is_some()
    }

    /// Returns the numbers of all classes, in their order.
    pub fn stats(&self) -> Vec<ClassStats> {
        let slabs = self.classes.classes().iter().zip(&self.slabs);
        let stats = slabs.map(|(class, slab)| ClassStats {
            class: *class,
            pages: self.arena.pages(*class),
            free_chunks: self.arena.free_chunks(*class),
            hot: slab.queues.len(Segment::Hot),
            warm: slab.queues.len(Segment::Warm),
            cold: slab.queues.len(Segment::Cold),
            evictions: slab.evictions,
        });
        stats.collect()
    }

    fn class_of(&self, key: usize, value: usize) -> Result<Class, SetError> {
        if !(1..=250).contains(&key) {
            return Err(SetError::InvalidKey { len: key });
        }
        let (has_flags, has_cas) = (false, true);
        let item = Item { key_len: key, value_len: value, has_flags, has_cas };
        let size = item.size();
        let last = self.classes.classes().last();
        let max = last.map_or(0, |class| class.chunk_size);
        // It is tempting to ask `class_of` alone. But it returns the last class
        // for larger items, too, because memcached chains chunks for them.
        let class = self.classes.class_of(size).filter(|_| size <= max);
        class.ok_or(SetError::TooLarge { size, max })
    }

    /// Moves the item at the tail of a queue, if the queue has more than this
    /// many fifths of the class's items.
    fn move_tail(&mut self, class: Class, segment: Segment, fifths: usize) {
        let queues = &self.slabs[index(class.number)].queues;
        if 5 * queues.len(segment) > fifths * queues.items() {
            let tail = queues.back(segment).expect("the queue has items");
            let is_active = self.arena.state(tail).is_active;
            let to = if is_active { Segment::Warm } else { Segment::Cold };
            self.move_to(to, tail);
        }
    }

    /// Returns a chunk for a new item: a free one, one of a new page, or that
    /// of a victim.
    fn take_chunk(&mut self, class: Class) -> Option<Chunk> {
        let free = self.arena.take_free(class);
        if free.is_some() {
            return free;
        }
        if !self.arena.add_page(class) {
            let slab = &mut self.slabs[index(class.number)];
            // COLD is empty if all of its items were read since the last set.
            let [cold, hot, warm] =
                [Segment::Cold, Segment::Hot, Segment::Warm]
                    .map(|segment| slab.queues.back(segment));
            let victim = cold.or(hot).or(warm)?;
            slab.evictions += 1;
            self.remove(victim);
        }
        self.arena.take_free(class)
    }

    /// Moves an item to the head of a queue, and clears ACTIVE.
    fn move_to(&mut self, segment: Segment, chunk: Chunk) {
        let state = self.arena.state(chunk);
        let queues = &mut self.slabs[index(self.arena.class(chunk))].queues;
        queues.remove(&mut self.arena, chunk);
        let state = State { segment, is_active: false, ..state };
        queues.push_front(&mut self.arena, chunk, state);
    }

    fn remove(&mut self, chunk: Chunk) {
        let queues = &mut self.slabs[index(self.arena.class(chunk))].queues;
        queues.remove(&mut self.arena, chunk);
        self.arena.free(chunk);
    }
}

/// Returns the position of a class in the table.
fn index(class: u8) -> usize {
    usize::from(class) - 1
}
