//! The memory model of Rust's atomics, as a function that can be run.
//!
//! *Question.* Which outcomes can a program of a few atomic operations have, on
//! any machine and with any compiler, and which are impossible?
//!
//! *Idea.* Do not run the program. Enumerate every candidate execution: which
//! write each load reads from, and in which order the writes to each location
//! come. Keep the candidates that satisfy the axioms of the model. Rust uses
//! the memory model of C++20. The axioms here have the form of RC11 (Lahav,
//! Vafeiadis, Kang, Hur and Dreyer, "Repairing Sequential Consistency in
//! C/C++11", PLDI 2017), with two differences. The order of `SeqCst` operations
//! is that of the standard, section \[atomics.order\]. RC11 forbids load
//! buffering; the standard does not, and neither does [`outcomes`].
//!
//! *Guarantee.* [`outcomes`] returns every outcome that the axioms allow, and
//! no other. This holds for programs without branches in which no value is
//! computed from another value.
//!
//! *Cost.* The time is exponential in the number of loads, and factorial in the
//! number of writes to a location. Operations and locations together are at
//! most 32.
//!
//! ```
//! use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
//!
//! use week03::memory_model::{Program, load, outcomes, store};
//!
//! const DATA: usize = 0;
//! const FLAG: usize = 1;
//! let message = Program::new([
//!     vec![store(DATA, 1, Relaxed), store(FLAG, 1, Release)],
//!     vec![load(FLAG, Acquire), load(DATA, Relaxed)],
//! ]);
//! let outcomes = outcomes(&message);
//! assert!(outcomes.contains(&vec![1, 1]));
//! assert!(!outcomes.contains(&vec![1, 0]), "the flag without the data");
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Release, SeqCst};

/// One atomic operation. Locations are numbered from 0, and hold 0 at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in `std::sync::atomic`")]
pub enum Op {
    Load { at: usize, ordering: Ordering },
    Store { at: usize, value: u8, ordering: Ordering },
    Swap { at: usize, value: u8, ordering: Ordering },
    Fence { ordering: Ordering },
}

/// `AtomicU8::load`.
pub fn load(at: usize, ordering: Ordering) -> Op {
    Op::Load { at, ordering }
}

/// `AtomicU8::store`.
pub fn store(at: usize, value: u8, ordering: Ordering) -> Op {
    Op::Store { at, value, ordering }
}

/// `AtomicU8::swap`.
pub fn swap(at: usize, value: u8, ordering: Ordering) -> Op {
    Op::Swap { at, value, ordering }
}

/// `std::sync::atomic::fence`.
pub fn fence(ordering: Ordering) -> Op {
    Op::Fence { ordering }
}

impl Op {
    /// Returns the location, or `None` for a fence.
    pub fn at(self) -> Option<usize> {
        match self {
            Self::Load { at, .. }
            | Self::Store { at, .. }
            | Self::Swap { at, .. } => Some(at),
            Self::Fence { .. } => None,
        }
    }

    /// Returns the ordering.
    pub fn ordering(self) -> Ordering {
        match self {
            Self::Load { ordering, .. }
            | Self::Store { ordering, .. }
            | Self::Swap { ordering, .. }
            | Self::Fence { ordering } => ordering,
        }
    }

    /// Returns the same operation with another ordering.
    #[must_use]
    pub fn with(self, ordering: Ordering) -> Self {
        match self {
            Self::Load { at, .. } => load(at, ordering),
            Self::Store { at, value, .. } => store(at, value, ordering),
            Self::Swap { at, value, .. } => swap(at, value, ordering),
            Self::Fence { .. } => fence(ordering),
        }
    }

    /// Returns whether the operation reads a value: loads and swaps do.
    pub fn reads(self) -> bool {
        matches!(self, Self::Load { .. } | Self::Swap { .. })
    }

    /// Returns the value that a store or a swap writes.
    pub fn writes(self) -> Option<u8> {
        match self {
            Self::Store { value, .. } | Self::Swap { value, .. } => Some(value),
            Self::Load { .. } | Self::Fence { .. } => None,
        }
    }
}

/// The operations of each thread, in program order.
///
/// ```
/// use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
///
/// use week03::memory_model::{Program, fence, load, store, swap};
///
/// let program = Program::new([
///     vec![store(0, 1, Relaxed), fence(Release), store(1, 1, Relaxed)],
///     vec![swap(1, 2, Acquire), load(0, Relaxed)],
/// ]);
/// let text = "\
/// thread 0:  x.store(1, Relaxed)  fence(Release)  y.store(1, Relaxed)
/// thread 1:  y.swap(2, Acquire)  x.load(Relaxed)";
/// assert_eq!(program.to_string(), text);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// A list of operations for each thread.
    pub threads: Vec<Vec<Op>>,
}

/// The values that were read: by thread 0 in program order, then by thread 1,
/// and so on.
pub type Outcome = Vec<u8>;

impl Program {
    /// Creates a program of these threads.
    pub fn new<const N: usize>(threads: [Vec<Op>; N]) -> Self {
        Self { threads: threads.into() }
    }

    /// Returns all operations, thread by thread.
    pub fn ops(&self) -> impl Iterator<Item = Op> {
        self.threads.iter().flatten().copied()
    }

    /// Returns the number of locations.
    pub fn locations(&self) -> usize {
        self.ops().filter_map(Op::at).max().map_or(0, |last| last + 1)
    }
}

/// One line for each thread.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, ops) in self.threads.iter().enumerate() {
            write!(f, "{}thread {n}:", if n == 0 { "" } else { "\n" })?;
            for op in ops {
                let at = op.at().map_or('-', |at| char::from(b'x' + at as u8));
                let ordering = op.ordering();
                match op {
                    Op::Load { .. } => write!(f, "  {at}.load({ordering:?})"),
                    Op::Store { value, .. } => {
                        write!(f, "  {at}.store({value}, {ordering:?})")
                    }
                    Op::Swap { value, .. } => {
                        write!(f, "  {at}.swap({value}, {ordering:?})")
                    }
                    Op::Fence { .. } => write!(f, "  fence({ordering:?})"),
                }?;
            }
        }
        Ok(())
    }
}

/// Returns every outcome that the memory model allows.
///
/// # Panics
///
/// Panics if the program has more than 32 operations and locations in total.
pub fn outcomes(program: &Program) -> BTreeSet<Outcome> {
    Events::of(program).outcomes(|_| true)
}

/// Returns the outcomes that need no load buffering, as RC11 requires: program
/// order and reads-from together form no cycle. A checker that runs the
/// operations one after the other can show only these outcomes.
///
/// # Panics
///
/// Panics where [`outcomes`] does.
pub fn outcomes_without_load_buffering(program: &Program) -> BTreeSet<Outcome> {
    let events = Events::of(program);
    events.outcomes(|rf| events.sb.or(rf).closure().is_irreflexive())
}

/// The number of an event. The first events write the initial 0 to each
/// location.
type Event = usize;

struct Events {
    ops: Vec<Op>,
    /// Sequenced-before, within a thread. It leaves out the initial writes: no
    /// relation leads to an initial write, so none is part of a cycle.
    sb: Relation,
    locations: usize,
}

impl Events {
    fn of(program: &Program) -> Self {
        let locations = program.locations();
        let first = (0..locations).map(|at| store(at, 0, Ordering::Relaxed));
        let ops: Vec<_> = first.chain(program.ops()).collect();
        assert!(ops.len() <= 32, "at most 32 operations and locations");
        let mut sb = Relation::default();
        let mut next = locations;
        for thread in &program.threads {
            let end = next + thread.len();
            for event in next..end {
                (event + 1..end).for_each(|later| sb.add(event, later));
            }
            next = end;
        }
        Self { ops, sb, locations }
    }

    fn outcomes(
        &self,
        may_read_from: impl Fn(Relation) -> bool,
    ) -> BTreeSet<Outcome> {
        let mut outcomes = BTreeSet::new();
        for order in self.orders_of_writes() {
            for sources in self.sources(&order) {
                let mut rf = Relation::default();
                for (read, source) in self.reads().zip(&sources) {
                    rf.add(*source, read);
                }
                if may_read_from(rf) && self.are_consistent(&order, rf) {
                    outcomes.insert(self.outcome(&sources));
                }
            }
        }
        outcomes
    }

    fn events_where(&self, holds: impl Fn(Op) -> bool) -> Set {
        let events = 0..self.ops.len();
        events.filter(|event| holds(self.ops[*event])).map(|e| 1 << e).sum()
    }

    fn writes_to(&self, at: usize) -> Vec<Event> {
        let is_write = |op: Op| op.at() == Some(at) && op.writes().is_some();
        (0..self.ops.len()).filter(|event| is_write(self.ops[*event])).collect()
    }

    /// Returns every choice of modification orders: a list of writes for each
    /// location.
    fn orders_of_writes(&self) -> Vec<Vec<Vec<Event>>> {
        let of_one = |at| {
            let [first, others @ ..] = &self.writes_to(at)[..] else {
                unreachable!("each location has an initial write")
            };
            let orders = permutations(others).into_iter();
            orders.map(|order| [&[*first], &order[..]].concat()).collect()
        };
        product(&(0..self.locations).map(of_one).collect::<Vec<_>>())
    }

    fn reads(&self) -> impl Iterator<Item = Event> {
        (0..self.ops.len()).filter(|event| self.ops[*event].reads())
    }

    /// Returns every choice of sources: for each read, the write that it reads
    /// from.
    fn sources(&self, order: &[Vec<Event>]) -> Vec<Vec<Event>> {
        let of_one = |read: Event| {
            let op = self.ops[read];
            let writes = &order[op.at().expect("a read has a location")];
            match writes.iter().position(|write| *write == read) {
                // A read-modify-write reads the write just before its own.
                Some(place) => vec![writes[place - 1]],
                None => writes.clone(),
            }
        };
        product(&self.reads().map(of_one).collect::<Vec<_>>())
    }

    fn outcome(&self, sources: &[Event]) -> Outcome {
        let value = |source: &Event| self.ops[*source].writes();
        sources.iter().filter_map(value).collect()
    }

    // ANCHOR: axioms
    /// Whether the candidate satisfies every axiom.
    fn are_consistent(&self, order: &[Vec<Event>], rf: Relation) -> bool {
        let sb = self.sb;
        // The modification order of each location.
        let mut mo = Relation::default();
        for writes in order {
            for (place, write) in writes.iter().enumerate() {
                writes[place + 1..].iter().for_each(|w| mo.add(*write, *w));
            }
        }
        // Reads-before: the writes that come after the one that a read has
        // seen. A swap does not come before itself.
        let rb = rf.inverse().then(mo).without_self();
        let eco = rf.or(mo).or(rb).closure();

        let acquires = self.events_where(|op| {
            matches!(op.ordering(), Acquire | AcqRel | SeqCst)
        });
        let releases = self.events_where(|op| {
            matches!(op.ordering(), Release | AcqRel | SeqCst)
        });
        let fences = self.events_where(|op| op.at().is_none());
        let writes = self.events_where(|op| op.writes().is_some());
        let swaps = self.events_where(|op| matches!(op, Op::Swap { .. }));

        // Release sequences: a write, and the read-modify-writes that follow
        // it.
        let sequence = rf.to(swaps).closure().or(Relation::IDENTITY).of(writes);
        // Synchronizes-with: from a release, or from a release fence before the
        // write, to an acquire, or to an acquire fence after the read.
        let before = sb.of(fences).or(Relation::IDENTITY).of(releases);
        let after = sb.to(fences).or(Relation::IDENTITY).to(acquires);
        let sw = before.then(sequence).then(rf).then(after);
        let hb = sb.or(sw).closure();
        let is_coherent = hb.then(eco).or(hb).is_irreflexive();

        // All SeqCst operations have one total order. It agrees with strongly
        // happens-before, and with coherence. A SeqCst fence also orders the
        // accesses that happen before it or after it.
        let sc = self.events_where(|op| op.ordering() == SeqCst);
        let strongly =
            sb.or(sw.of(sc).to(sc)).or(sb.then(hb).then(sb)).closure();
        let from = Relation::IDENTITY.of(sc).or(hb.of(sc & fences));
        let to = Relation::IDENTITY.of(sc).or(hb.to(sc & fences));
        let psc = strongly.of(sc).to(sc).or(from.then(eco).then(to));

        is_coherent && psc.closure().is_irreflexive()
    }
    // ANCHOR_END: axioms
}

/// A set of events, one bit each.
type Set = u32;

/// For each event, the set of events that it is related to.
#[derive(Clone, Copy, Default)]
struct Relation([Set; 32]);

impl Relation {
    const IDENTITY: Self = {
        let mut rows = [0; 32];
        let mut event = 0;
        while event < 32 {
            rows[event] = 1 << event;
            event += 1;
        }
        Self(rows)
    };

    fn add(&mut self, from: Event, to: Event) {
        self.0[from] |= 1 << to;
    }

    fn map(self, row: impl Fn(Event, Set) -> Set) -> Self {
        let mut rows = self.0;
        for (event, set) in rows.iter_mut().enumerate() {
            *set = row(event, *set);
        }
        Self(rows)
    }

    fn or(self, other: Self) -> Self {
        self.map(|event, set| set | other.0[event])
    }

    fn without_self(self) -> Self {
        self.map(|event, set| set & !(1 << event))
    }

    /// The pairs that begin in `events`.
    fn of(self, events: Set) -> Self {
        self.map(|event, set| if events >> event & 1 == 1 { set } else { 0 })
    }

    /// The pairs that end in `events`.
    fn to(self, events: Set) -> Self {
        self.map(|_, set| set & events)
    }

    /// Composition: one step in `self`, then one in `other`.
    fn then(self, other: Self) -> Self {
        self.map(|_, set| {
            let next = (0..32).filter(|middle| set >> middle & 1 == 1);
            next.fold(0, |all, middle: usize| all | other.0[middle])
        })
    }

    fn inverse(self) -> Self {
        let mut inverse = Self::default();
        for (from, set) in self.0.iter().enumerate() {
            let to = (0..32).filter(|to| set >> to & 1 == 1);
            to.for_each(|to| inverse.add(to, from));
        }
        inverse
    }

    /// Transitive closure: one step or more.
    fn closure(self) -> Self {
        let mut closure = self;
        for middle in 0..32 {
            let onward = closure.0[middle];
            closure = closure.map(|_, set| {
                if set >> middle & 1 == 1 { set | onward } else { set }
            });
        }
        closure
    }

    fn is_irreflexive(self) -> bool {
        self.0.iter().enumerate().all(|(event, set)| set >> event & 1 == 0)
    }
}

/// Every way to take one item of each list.
fn product<T: Clone>(choices: &[Vec<T>]) -> Vec<Vec<T>> {
    choices.iter().fold(vec![Vec::new()], |ways, choice| {
        let longer = |way: &Vec<T>| {
            let way = way.clone();
            choice.iter().map(move |one| {
                let mut way = way.clone();
                way.push(one.clone());
                way
            })
        };
        ways.iter().flat_map(longer).collect()
    })
}

fn permutations(items: &[Event]) -> Vec<Vec<Event>> {
    let [first, others @ ..] = items else { return vec![Vec::new()] };
    let insert = |order: Vec<Event>| {
        (0..=order.len()).map(move |place| {
            let mut order = order.clone();
            order.insert(place, *first);
            order
        })
    };
    permutations(others).into_iter().flat_map(insert).collect()
}
