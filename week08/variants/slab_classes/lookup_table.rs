//! A table from each size, in steps of 8 bytes, to its class.
//!
//! All chunk sizes are multiples of 8. So a size that is rounded up to one has
//! the same class, and an array answers without a search. It takes a byte for
//! each 8 bytes of `chunk_max`: 64 KiB by default, where the binary search
//! needs six steps in 1 KiB. The chunks of a chained item are calculated by a
//! division, without a loop over the value.

use std::iter::{repeat_n, successors};

use thiserror::Error;

pub const PAGE: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classes {
    classes: Vec<Class>,
    /// The index of the class for a size of 8 times the index, rounded up.
    index: Vec<u8>,
    max_item: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    pub growth_factor: f64,
    pub min_space: usize,
    pub max_item: usize,
    pub chunk_max: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    pub number: u8,
    pub chunk_size: usize,
    pub chunks_per_page: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    pub key_len: usize,
    pub value_len: usize,
    pub has_flags: bool,
    pub has_cas: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Error)]
pub enum ConfigError {
    #[error("growth factor {0} is not greater than 1")]
    GrowthFactor(f64),
    #[error("the smallest chunk has no space for an item")]
    MinSpace,
    #[error("item limit of {0} bytes is not within 1 KiB to 1 GiB")]
    MaxItem(usize),
    #[error("chunk limit of {0} bytes does not fit the page or the item limit")]
    ChunkMax(usize),
}

impl Default for Config {
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
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        let Config { growth_factor, min_space, max_item, chunk_max } = config;
        let good_chunks = [512, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14];
        let good_chunks = good_chunks.iter().flat_map(|c| [*c, c << 6]);
        match (growth_factor > 1.0, min_space, max_item) {
            (false, ..) => {
                return Err(ConfigError::GrowthFactor(growth_factor));
            }
            (_, 0, _) => return Err(ConfigError::MinSpace),
            (.., 0..1_024 | 1_073_741_825..) => {
                return Err(ConfigError::MaxItem(max_item));
            }
            _ if !good_chunks.into_iter().any(|c| c == chunk_max)
                || max_item % chunk_max != 0 =>
            {
                return Err(ConfigError::ChunkMax(chunk_max));
            }
            _ => {}
        }
        let aligned = |size: f64| {
            let is_small = size < chunk_max as f64 / growth_factor;
            is_small.then(|| (size as usize).div_ceil(8) * 8)
        };
        let first = aligned(min_space as f64 + 48.0);
        let sizes = successors(first, |size| {
            aligned((*size as f64 * growth_factor).floor())
        });
        let classes: Vec<_> = (1..)
            .zip(sizes.take(62).chain([chunk_max]))
            .map(|(number, chunk_size)| Class {
                number,
                chunk_size,
                chunks_per_page: PAGE / chunk_size,
            })
            .collect();
        let mut index = Vec::new();
        for class in &classes {
            let end = (class.chunk_size / 8 + 1).max(index.len());
            index.resize(end, class.number - 1);
        }
        Ok(Self { classes, index, max_item })
    }

    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    pub fn class_of(&self, size: usize) -> Option<Class> {
        if !(1..=self.max_item).contains(&size) {
            return None;
        }
        let last = self.classes.len() - 1;
        let index = self.index.get(size.div_ceil(8));
        let index = index.map_or(last, |index| usize::from(*index));
        Some(self.classes[index])
    }

    pub fn chunks_of(&self, item: Item) -> Option<Vec<Class>> {
        if item.key_len == 0 || item.key_len > 250 {
            return None;
        }
        let class = self.class_of(item.size())?;
        if item.size() <= self.chunk_max() {
            return Some(vec![class]);
        }
        let capacity = self.chunk_max() - 48;
        let value = item.value_len + 2;
        let header = self.class_of(item.size() - value + 48);
        let full = repeat_n(self.class_of(self.chunk_max()), value / capacity);
        let rest = value % capacity;
        let rest = (rest > 0).then(|| self.class_of(rest + 48));
        [header].into_iter().chain(full).chain(rest).collect()
    }

    pub fn waste(&self, item: Item) -> Option<usize> {
        let chunks = self.chunks_of(item)?;
        let size = |waste, chunk: &Class| waste + chunk.chunk_size;
        Some(chunks.iter().fold(0, size) - item.size())
    }

    pub fn largest_value(&self, number: u8, item: Item) -> Option<usize> {
        let mut sizes: Vec<_> =
            self.classes.iter().map(|class| class.chunk_size).collect();
        *sizes.last_mut()? = self.max_item;
        sizes.retain(|size| {
            self.class_of(*size).is_some_and(|class| class.number == number)
        });
        let overhead = Item { value_len: 0, ..item }.size();
        let is_valid = (1..=250).contains(&item.key_len);
        sizes.pop()?.checked_sub(overhead).filter(|_| is_valid)
    }

    fn chunk_max(&self) -> usize {
        self.classes[self.classes.len() - 1].chunk_size
    }
}

impl Class {
    pub fn unused_per_page(&self) -> usize {
        PAGE % self.chunk_size
    }
}

impl Item {
    pub fn size(&self) -> usize {
        let size = 51
            + self.key_len as u128
            + self.value_len as u128
            + if self.has_flags { 4 } else { 0 }
            + if self.has_cas { 8 } else { 0 };
        size.try_into().unwrap_or(usize::MAX)
    }
}
