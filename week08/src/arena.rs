//! The memory of a slab cache: pages, chunks, items, an index, and queues.
//!
//! [`slab_lru`](crate::slab_lru) decides which chunk an item takes and which
//! item is evicted. This module stores the bytes. A page of [`PAGE`] bytes is
//! cut into chunks of one class. Each chunk is free or has an item:
//!
//! ```text
//! | header 48 | key | value | NUL, cas and \r\n: not used | wasted |
//! ```
//!
//! So an item takes as many bytes of a chunk as in memcached. The header has
//! the links of the index and of a queue, so storing an item allocates nothing,
//! except when a page is added.
//!
//! ```
//! use week08::arena::{Arena, Queues, Segment, State};
//! use week08::slab_classes::{Classes, Config, PAGE};
//!
//! let classes = Classes::new(Config::default())?;
//! let class = classes.class_of(100).unwrap();
//! let mut arena = Arena::new(PAGE);
//! assert_eq!(arena.take_free(class), None);
//! assert!(arena.add_page(class));
//! assert!(!arena.add_page(class), "the memory is used up");
//!
//! let chunk = arena.take_free(class).unwrap();
//! arena.store(chunk, b"key", b"value");
//! assert_eq!(arena.find(b"key"), Some(chunk));
//! assert_eq!(arena.value(chunk), b"value");
//!
//! let mut queues = Queues::default();
//! queues.push_front(&mut arena, chunk, State::default());
//! assert_eq!(queues.back(Segment::Hot), Some(chunk));
//! queues.remove(&mut arena, chunk);
//! arena.free(chunk);
//! assert_eq!(arena.find(b"key"), None);
//! # Ok::<_, week08::slab_classes::ConfigError>(())
//! ```

use std::hash::{BuildHasher, RandomState};
use std::num::NonZero;

use crate::slab_classes::{Class, PAGE};

/// The bytes in front of the key.
const HEADER: usize = 48;

// The header: four words of 8 bytes, 4 bytes, and 4 single bytes.
const NEXT: usize = 0;
const PREV: usize = 8;
const NEXT_IN_BUCKET: usize = 16;
const HASH: usize = 24;
const VALUE_LEN: usize = 32;
const KEY_LEN: usize = 36;
const CLASS: usize = 37;
const STATE: usize = 38;
const IS_USED: usize = 39;

/// All pages of a cache, and the index of its items.
#[derive(Debug)]
pub struct Arena {
    pages: Vec<Box<[u8]>>,
    max_pages: usize,
    /// The pages and free chunks of each class, by its number.
    slabs: Vec<Slab>,
    /// The first item of each bucket. Their number is 0 or a power of two.
    buckets: Vec<Option<Chunk>>,
    /// The number of chunks of all pages.
    chunks: usize,
    hasher: RandomState,
}

/// A reference to a chunk of an [`Arena`]: the position of its first byte plus
/// 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk(NonZero<u64>);

/// The state of an item: what a cache stores about it besides key and value.
/// The default is the state of a new item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State {
    /// The queue that the item is in.
    pub segment: Segment,
    /// The bit FETCHED.
    pub is_fetched: bool,
    /// The bit ACTIVE.
    pub is_active: bool,
}

/// The name of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Segment {
    /// New items.
    #[default]
    Hot,
    /// Items that are read again and again.
    Warm,
    /// All other items. The cache evicts items from this queue.
    Cold,
}

/// The queues of a class: one for each [`Segment`]. The items are linked
/// through their headers, so a queue takes no extra memory for an item, and
/// removes any item in constant time.
#[derive(Debug, Default)]
pub struct Queues([Queue; 3]);

#[derive(Debug, Default)]
struct Queue {
    head: Option<Chunk>,
    tail: Option<Chunk>,
    len: usize,
}

/// The pages and free chunks of a class.
#[derive(Debug, Clone, Default)]
struct Slab {
    chunk_size: usize,
    pages: usize,
    free: Option<Chunk>,
    free_chunks: usize,
}

impl Arena {
    /// Creates an arena without pages. The pages that it adds later fit in
    /// `memory` bytes. The index is not counted.
    pub fn new(memory: usize) -> Self {
        Self {
            pages: Vec::new(),
            max_pages: memory / PAGE,
            slabs: vec![Slab::default(); 256],
            buckets: Vec::new(),
            chunks: 0,
            hasher: RandomState::new(),
        }
    }

    /// Returns a free chunk of the class, or `None` if there is none. The chunk
    /// is then no longer free.
    pub fn take_free(&mut self, class: Class) -> Option<Chunk> {
        let chunk = self.slab(class.number).free?;
        let next = self.link(chunk, NEXT);
        let slab = self.slab_mut(class.number);
        slab.free = next;
        slab.free_chunks -= 1;
        Some(chunk)
    }

    /// Cuts a new page into free chunks of the class. Returns `false`, and does
    /// nothing, if the memory is used up.
    pub fn add_page(&mut self, class: Class) -> bool {
        if self.pages.len() >= self.max_pages {
            return false;
        }
        let first = self.pages.len() * PAGE;
        self.pages.push(vec![0; PAGE].into_boxed_slice());
        let slab = self.slab_mut(class.number);
        slab.chunk_size = class.chunk_size;
        slab.pages += 1;
        for n in (0..class.chunks_per_page).rev() {
            let position = (first + n * class.chunk_size) as u64;
            let chunk = Chunk(NonZero::<u64>::MIN.saturating_add(position));
            self.header(chunk)[CLASS] = class.number;
            self.push_free(chunk);
        }
        self.chunks += class.chunks_per_page;
        self.grow_index();
        true
    }

    /// Writes an item into a chunk that was taken, and adds it to the index.
    ///
    /// # Panics
    ///
    /// When the chunk has an item, when the key has more than 255 bytes, or when
    /// the item does not fit into the chunk.
    pub fn store(&mut self, chunk: Chunk, key: &[u8], value: &[u8]) {
        let size = HEADER + key.len() + value.len();
        let chunk_size = self.slab(self.class(chunk)).chunk_size;
        assert!(
            size <= chunk_size,
            "expected an item of at most {chunk_size} bytes, got {size} bytes"
        );
        let hash = self.hasher.hash_one(key);
        let key_len = key.len().try_into().expect("a key of up to 255 bytes");
        let len = value.len().try_into().expect("less than a page");
        let item = self.header(chunk);
        assert!(item[IS_USED] == 0, "expected a free chunk, not {chunk:?}");
        item[IS_USED] = 1;
        item[KEY_LEN] = key_len;
        put(item, VALUE_LEN, u32::to_le_bytes(len));
        put(item, HASH, hash.to_le_bytes());
        let (key_start, value_start) = (HEADER, HEADER + key.len());
        item[key_start..value_start].copy_from_slice(key);
        item[value_start..][..value.len()].copy_from_slice(value);
        self.push_bucket(chunk, hash);
    }

    /// Returns the chunk with the item of this key.
    pub fn find(&self, key: &[u8]) -> Option<Chunk> {
        let hash = self.hasher.hash_one(key);
        let mut item = *self.buckets.get(self.bucket(hash))?;
        while let Some(chunk) = item {
            if self.hash(chunk) == hash && self.key(chunk) == key {
                break;
            }
            item = self.link(chunk, NEXT_IN_BUCKET);
        }
        item
    }

    /// Removes the item from the index, and makes its chunk free. Remove it from
    /// its queue first.
    ///
    /// # Panics
    ///
    /// When the chunk has no item.
    pub fn free(&mut self, chunk: Chunk) {
        let item = self.header(chunk);
        assert!(item[IS_USED] == 1, "expected an item in {chunk:?}");
        item[IS_USED] = 0;
        let bucket = self.bucket(self.hash(chunk));
        let next = self.link(chunk, NEXT_IN_BUCKET);
        if self.buckets[bucket] == Some(chunk) {
            self.buckets[bucket] = next;
        } else {
            let mut before = self.buckets[bucket].expect("the item is indexed");
            while self.link(before, NEXT_IN_BUCKET) != Some(chunk) {
                let link = self.link(before, NEXT_IN_BUCKET);
                before = link.expect("the item is indexed");
            }
            self.set_link(before, NEXT_IN_BUCKET, next);
        }
        self.push_free(chunk);
    }

    /// Returns the key of the item.
    pub fn key(&self, chunk: Chunk) -> &[u8] {
        let item = self.item(chunk);
        &item[HEADER..][..usize::from(item[KEY_LEN])]
    }

    /// Returns the value of the item.
    pub fn value(&self, chunk: Chunk) -> &[u8] {
        let item = self.item(chunk);
        let len = u32::from_le_bytes(get(item, VALUE_LEN));
        &item[HEADER + usize::from(item[KEY_LEN])..][..len as usize]
    }

    /// Returns the number of the class that the chunk belongs to.
    pub fn class(&self, chunk: Chunk) -> u8 {
        self.item(chunk)[CLASS]
    }

    /// Returns the state of the item.
    pub fn state(&self, chunk: Chunk) -> State {
        let bits = self.item(chunk)[STATE];
        let segment = match bits & 3 {
            0 => Segment::Hot,
            1 => Segment::Warm,
            _ => Segment::Cold,
        };
        let (is_fetched, is_active) = (bits & 4 != 0, bits & 8 != 0);
        State { segment, is_fetched, is_active }
    }

    /// Sets the bits of the item.
    pub fn set_bits(
        &mut self,
        chunk: Chunk,
        is_fetched: bool,
        is_active: bool,
    ) {
        let segment = self.state(chunk).segment;
        self.set_state(chunk, State { segment, is_fetched, is_active });
    }

    fn set_state(&mut self, chunk: Chunk, state: State) {
        let bits = u8::from(state.is_fetched) << 2;
        let bits = bits | u8::from(state.is_active) << 3;
        self.header(chunk)[STATE] = bits | state.segment as u8;
    }

    /// Returns the number of pages of a class.
    pub fn pages(&self, class: Class) -> usize {
        self.slab(class.number).pages
    }

    /// Returns the number of free chunks of a class.
    pub fn free_chunks(&self, class: Class) -> usize {
        self.slab(class.number).free_chunks
    }

    fn slab(&self, class: u8) -> &Slab {
        &self.slabs[usize::from(class)]
    }

    fn slab_mut(&mut self, class: u8) -> &mut Slab {
        &mut self.slabs[usize::from(class)]
    }

    fn push_free(&mut self, chunk: Chunk) {
        let class = self.class(chunk);
        let slab = self.slab_mut(class);
        let next = slab.free.replace(chunk);
        slab.free_chunks += 1;
        self.set_link(chunk, NEXT, next);
    }

    /// Makes the index large enough for all chunks: a lookup then visits one
    /// other item on average.
    fn grow_index(&mut self) {
        if self.buckets.len() >= self.chunks {
            return;
        }
        let buckets = vec![None; self.chunks.next_power_of_two()];
        for first in std::mem::replace(&mut self.buckets, buckets) {
            let mut item = first;
            while let Some(chunk) = item {
                item = self.link(chunk, NEXT_IN_BUCKET);
                self.push_bucket(chunk, self.hash(chunk));
            }
        }
    }

    fn push_bucket(&mut self, chunk: Chunk, hash: u64) {
        let bucket = self.bucket(hash);
        let next = self.buckets[bucket].replace(chunk);
        self.set_link(chunk, NEXT_IN_BUCKET, next);
    }

    fn bucket(&self, hash: u64) -> usize {
        hash as usize & self.buckets.len().wrapping_sub(1)
    }

    fn hash(&self, chunk: Chunk) -> u64 {
        u64::from_le_bytes(get(self.item(chunk), HASH))
    }

    fn link(&self, chunk: Chunk, field: usize) -> Option<Chunk> {
        let link = u64::from_le_bytes(get(self.item(chunk), field));
        NonZero::new(link).map(Chunk)
    }

    fn set_link(&mut self, chunk: Chunk, field: usize, to: Option<Chunk>) {
        let link = to.map_or(0, |chunk| chunk.0.get());
        put(self.header(chunk), field, link.to_le_bytes());
    }

    /// Returns the bytes from the beginning of the chunk to the end of its page.
    fn item(&self, chunk: Chunk) -> &[u8] {
        let (page, offset) = chunk.position();
        &self.pages[page][offset..]
    }

    fn header(&mut self, chunk: Chunk) -> &mut [u8] {
        let (page, offset) = chunk.position();
        &mut self.pages[page][offset..]
    }
}

impl Chunk {
    fn position(self) -> (usize, usize) {
        let position = (self.0.get() - 1) as usize;
        (position / PAGE, position % PAGE)
    }
}

impl Queues {
    /// Adds an item that is in no queue to the head of the queue
    /// `state.segment`, and sets its state.
    pub fn push_front(
        &mut self,
        arena: &mut Arena,
        chunk: Chunk,
        state: State,
    ) {
        arena.set_state(chunk, state);
        self.0[state.segment as usize].push_front(arena, chunk);
    }

    /// Removes an item from its queue.
    pub fn remove(&mut self, arena: &mut Arena, chunk: Chunk) {
        let segment = arena.state(chunk).segment;
        self.0[segment as usize].remove(arena, chunk);
    }

    /// Returns the item at the tail of a queue: of its items, the one that was
    /// added first.
    pub fn back(&self, segment: Segment) -> Option<Chunk> {
        self.0[segment as usize].tail
    }

    /// Returns the number of items in a queue.
    pub fn len(&self, segment: Segment) -> usize {
        self.0[segment as usize].len
    }

    /// Returns the number of items in all queues.
    pub fn items(&self) -> usize {
        self.0.iter().map(|queue| queue.len).sum()
    }
}

impl Queue {
    fn push_front(&mut self, arena: &mut Arena, chunk: Chunk) {
        arena.set_link(chunk, PREV, None);
        arena.set_link(chunk, NEXT, self.head);
        match self.head.replace(chunk) {
            Some(head) => arena.set_link(head, PREV, Some(chunk)),
            None => self.tail = Some(chunk),
        }
        self.len += 1;
    }

    fn remove(&mut self, arena: &mut Arena, chunk: Chunk) {
        let prev = arena.link(chunk, PREV);
        let next = arena.link(chunk, NEXT);
        match prev {
            Some(prev) => arena.set_link(prev, NEXT, next),
            None => self.head = next,
        }
        match next {
            Some(next) => arena.set_link(next, PREV, prev),
            None => self.tail = prev,
        }
        self.len -= 1;
    }
}

fn get<const N: usize>(item: &[u8], field: usize) -> [u8; N] {
    item[field..field + N].try_into().expect("N bytes")
}

fn put<const N: usize>(item: &mut [u8], field: usize, bytes: [u8; N]) {
    item[field..field + N].copy_from_slice(&bytes);
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, VecDeque};

    use super::*;
    use crate::slab_classes::{Classes, Config};

    const SEGMENTS: [Segment; 3] = [Segment::Hot, Segment::Warm, Segment::Cold];

    fn classes() -> Classes {
        Classes::new(Config::default()).expect("good settings")
    }

    #[test]
    fn pages_are_cut_into_chunks_until_the_memory_is_used_up() {
        let mut arena = Arena::new(3 * PAGE - 1);
        for class in [classes().classes()[0], classes().classes()[38]] {
            assert!(arena.add_page(class));
            let chunks: Vec<_> =
                std::iter::from_fn(|| arena.take_free(class)).collect();
            assert_eq!(chunks.len(), class.chunks_per_page);
            // Each item fills its chunk, and changes no other.
            for (n, chunk) in chunks.iter().enumerate() {
                let value = vec![n as u8; class.chunk_size - HEADER - 8];
                arena.store(*chunk, &n.to_be_bytes(), &value);
                arena.set_bits(*chunk, true, true);
            }
            for (n, chunk) in chunks.iter().enumerate() {
                assert_eq!(arena.key(*chunk), n.to_be_bytes());
                assert!(arena.value(*chunk).iter().all(|b| *b == n as u8));
                assert_eq!(arena.class(*chunk), class.number);
                arena.free(*chunk);
            }
            assert_eq!(arena.free_chunks(class), class.chunks_per_page);
            assert_eq!(arena.pages(class), 1);
        }
        assert!(!arena.add_page(classes().classes()[1]));
    }

    #[test]
    fn keys_are_found_until_they_are_freed_also_after_the_index_grows() {
        let mut arena = Arena::new(64 * PAGE);
        let class = classes().class_of(1_000).expect("a class");
        let mut random = fastrand::Rng::with_seed(1);
        let mut model = HashMap::new();
        assert_eq!(arena.find(b""), None, "an arena without pages");
        for _ in 0..20_000 {
            let key = random.u16(..9_000).to_be_bytes();
            if let Some(chunk) = model.remove(&key) {
                assert_eq!(arena.find(&key), Some(chunk));
                arena.free(chunk);
            } else {
                let free = arena.take_free(class).or_else(|| {
                    assert!(arena.add_page(class));
                    arena.take_free(class)
                });
                arena.store(free.expect("a chunk"), &key, &key);
                model.insert(key, free.expect("a chunk"));
            }
            assert_eq!(arena.find(&key), model.get(&key).copied());
        }
        assert!(arena.pages(class) > 2, "expected the index to grow");
        assert!(model.iter().all(|(key, c)| arena.find(key) == Some(*c)));
    }

    #[test]
    fn queues_remove_items_anywhere_and_keep_the_order() {
        let mut arena = Arena::new(PAGE);
        let class = classes().class_of(1_000).expect("a class");
        assert!(arena.add_page(class));
        let mut random = fastrand::Rng::with_seed(1);
        let mut queues = Queues::default();
        let mut models: [VecDeque<Chunk>; 3] = Default::default();
        let mut free: Vec<_> =
            (0..50).map(|_| arena.take_free(class).expect("a chunk")).collect();
        for _ in 0..6_000 {
            let segment = SEGMENTS[random.usize(..3)];
            let model = &mut models[segment as usize];
            if random.bool() && !free.is_empty() {
                let chunk = free.swap_remove(random.usize(..free.len()));
                let state = State { segment, ..State::default() };
                queues.push_front(&mut arena, chunk, state);
                model.push_front(chunk);
            } else if !model.is_empty() {
                let at = random.usize(..model.len());
                let chunk = model.remove(at).expect("an item");
                queues.remove(&mut arena, chunk);
                free.push(chunk);
            }
            assert_eq!(queues.back(segment), model.back().copied());
            assert_eq!(queues.len(segment), model.len());
            assert_eq!(queues.items(), 50 - free.len());
            let next = |c: &Chunk| arena.link(*c, NEXT);
            let head = queues.0[segment as usize].head;
            let items = std::iter::successors(head, next);
            assert!(items.eq(models[segment as usize].iter().copied()));
        }
    }

    #[test]
    fn every_state_is_returned_as_it_was_set() {
        let mut arena = Arena::new(PAGE);
        let class = classes().classes()[0];
        assert!(arena.add_page(class));
        let chunk = arena.take_free(class).expect("a chunk");
        for segment in SEGMENTS {
            for bits in 0..4 {
                let (is_fetched, is_active) = (bits & 1 != 0, bits & 2 != 0);
                let state = State { segment, is_fetched, is_active };
                arena.set_state(chunk, State { segment, ..State::default() });
                arena.set_bits(chunk, is_fetched, is_active);
                assert_eq!(arena.state(chunk), state);
            }
        }
    }
}
