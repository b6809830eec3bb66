//! Chunks that are only counted, and queues that are ordered by numbers.
//!
//! The allocator stores keys and values, and the cache counts the pages and
//! chunks that they would take. A queue is an ordered map: an item that moves to
//! a head gets a new number, which is the highest, and the lowest number is the
//! tail. There are no links, so no item can be in a queue and not in the index.
//!
//! Each set allocates twice, a move takes a time of `log n`, and an item takes
//! about 100 bytes for the entries of both maps. The process also has the bytes
//! that the allocator adds to each value: the limit is no longer that of the
//! process.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use thiserror::Error;

use crate::arena::{Segment, State};
use crate::slab_classes::{Class, Classes, Item, PAGE};

#[derive(Debug)]
pub struct Cache {
    config: Config,
    slabs: Vec<Slab>,
    entries: HashMap<Arc<[u8]>, Entry>,
    /// The latest number.
    latest: u64,
}

#[derive(Debug, Clone)]
pub struct Config {
    pub memory: usize,
    pub classes: Classes,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassStats {
    pub class: Class,
    pub pages: usize,
    pub free_chunks: usize,
    pub hot: usize,
    pub warm: usize,
    pub cold: usize,
    pub evictions: u64,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SetError {
    #[error("a key of {len} bytes is not within 1 to 250 bytes")]
    InvalidKey { len: usize },
    #[error("an item of {size} bytes exceeds the largest chunk, {max} bytes")]
    TooLarge { size: usize, max: usize },
    #[error("all pages belong to classes other than {class}")]
    NoPage { class: u8 },
}

#[derive(Debug, Default)]
struct Slab {
    pages: usize,
    evictions: u64,
    queues: [BTreeMap<u64, Arc<[u8]>>; 3],
}

#[derive(Debug)]
struct Entry {
    value: Box<[u8]>,
    slab: usize,
    number: u64,
    state: State,
}

impl Cache {
    pub fn new(config: Config) -> Self {
        let slabs = config.classes.classes().iter();
        let slabs = slabs.map(|_| Slab::default()).collect();
        Self { config, slabs, entries: HashMap::new(), latest: 0 }
    }

    pub fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), SetError> {
        self.delete(key);
        let class = self.class_of(key.len(), value.len())?;
        let slab = usize::from(class.number) - 1;
        for _ in 0..2 {
            for (segment, percent) in [(Segment::Hot, 20), (Segment::Warm, 40)]
            {
                self.trim(slab, segment, percent);
            }
        }
        self.make_room(slab, class)?;
        let key = Arc::<[u8]>::from(key);
        let (value, state) = (value.into(), State::default());
        self.entries
            .insert(key.clone(), Entry { value, slab, number: 0, state });
        self.enqueue(key, state);
        Ok(())
    }

    pub fn get(&mut self, key: &[u8]) -> Option<&[u8]> {
        let (key, entry) = self.entries.get_key_value(key)?;
        let key = key.clone();
        let mut state = entry.state;
        if state.is_fetched && state.segment == Segment::Cold {
            self.move_to(&key, Segment::Warm);
        } else {
            state.is_active = state.is_fetched;
            state.is_fetched = true;
            self.entries.get_mut(&key)?.state = state;
        }
        self.entries.get(&key).map(|entry| &*entry.value)
    }

    pub fn delete(&mut self, key: &[u8]) -> bool {
        self.dequeue(key);
        self.entries.remove(key).is_some()
    }

    pub fn stats(&self) -> Vec<ClassStats> {
        let slabs = self.config.classes.classes().iter().zip(&self.slabs);
        let stats = slabs.map(|(class, slab)| {
            let [hot, warm, cold] = slab.queues.each_ref().map(BTreeMap::len);
            let chunks = slab.pages * class.chunks_per_page;
            ClassStats {
                class: *class,
                pages: slab.pages,
                free_chunks: chunks - hot - warm - cold,
                hot,
                warm,
                cold,
                evictions: slab.evictions,
            }
        });
        stats.collect()
    }

    fn class_of(&self, key: usize, value: usize) -> Result<Class, SetError> {
        if key == 0 || key > 250 {
            return Err(SetError::InvalidKey { len: key });
        }
        let (has_flags, has_cas) = (false, true);
        let item = Item { key_len: key, value_len: value, has_flags, has_cas };
        let size = item.size();
        let all = self.config.classes.classes();
        let first = all.iter().find(|class| class.chunk_size >= size);
        let max = all.last().map_or(0, |class| class.chunk_size);
        first.copied().ok_or(SetError::TooLarge { size, max })
    }

    fn trim(&mut self, slab: usize, segment: Segment, percent: usize) {
        let queues = &self.slabs[slab].queues;
        let queue = &queues[segment as usize];
        let items: usize = queues.iter().map(BTreeMap::len).sum();
        if queue.len() * 100 <= items * percent {
            return;
        }
        let Some((_, key)) = queue.first_key_value() else { return };
        let (key, entry) = (key.clone(), &self.entries[key]);
        let is_active = entry.state.is_active;
        let to = if is_active { Segment::Warm } else { Segment::Cold };
        self.move_to(&key, to);
    }

    /// Makes sure that the class has a chunk for one more item.
    fn make_room(&mut self, slab: usize, class: Class) -> Result<(), SetError> {
        let pages: usize = self.slabs.iter().map(|slab| slab.pages).sum();
        let items: usize =
            self.slabs[slab].queues.iter().map(BTreeMap::len).sum();
        if items < self.slabs[slab].pages * class.chunks_per_page {
            return Ok(());
        }
        if pages < self.config.memory / PAGE {
            self.slabs[slab].pages += 1;
            return Ok(());
        }
        let [hot, warm, cold] = &self.slabs[slab].queues;
        let tail = |queue: &BTreeMap<_, Arc<[u8]>>| {
            queue.first_key_value().map(|(_, key)| key.clone())
        };
        let victim = tail(cold).or_else(|| tail(hot)).or_else(|| tail(warm));
        let no_page = SetError::NoPage { class: class.number };
        self.delete(&victim.ok_or(no_page)?);
        self.slabs[slab].evictions += 1;
        Ok(())
    }

    fn move_to(&mut self, key: &Arc<[u8]>, segment: Segment) {
        let is_fetched = self.entries[key].state.is_fetched;
        self.dequeue(key);
        let state = State { segment, is_fetched, is_active: false };
        self.enqueue(key.clone(), state);
    }

    fn enqueue(&mut self, key: Arc<[u8]>, state: State) {
        self.latest += 1;
        let entry = self.entries.get_mut(&key).expect("an entry");
        (entry.number, entry.state) = (self.latest, state);
        let queues = &mut self.slabs[entry.slab].queues;
        queues[state.segment as usize].insert(self.latest, key);
    }

    fn dequeue(&mut self, key: &[u8]) {
        let Some(entry) = self.entries.get(key) else { return };
        let queues = &mut self.slabs[entry.slab].queues;
        queues[entry.state.segment as usize].remove(&entry.number);
    }
}
