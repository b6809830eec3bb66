//! All runs of a system with faults: crashes, repetitions, lost answers.
//!
//! *Question.* A process can crash between any two of its effects, and a message
//! can arrive twice. Which of these runs loses money?
//!
//! *Idea.* A **breadth-first search** over the states. A system says which
//! actions are possible in its state, and an action changes the state. A state
//! that was visited before is not visited again. So the first state that breaks
//! the invariant has the shortest run.
//!
//! *Guarantee.* All states that are reachable within the faults that the system
//! allows are checked. From each of them, the system also runs without faults
//! until nothing more happens, and this last state is checked, too.
//!
//! *Cost.* The number of states grows fast with the number of transfers and
//! faults. With two transfers and two crashes, there are some thousands.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::mem;
use std::rc::Rc;

/// Processes, their databases, and the messages between them.
pub trait System: Clone + Eq + Hash {
    /// One change: a process performs an effect, a message arrives, a process
    /// crashes.
    type Action: Clone;

    /// Returns the actions that are possible next. A run without faults takes
    /// the first action that is not a fault, so this action must change the
    /// state.
    fn actions(&self) -> Vec<Self::Action>;

    /// Describes an action in this state, for a trace.
    fn describe(&self, action: &Self::Action) -> String;

    /// Returns whether the action is a fault.
    fn is_fault(&self, action: &Self::Action) -> bool;

    /// Changes the state.
    fn perform(&mut self, action: &Self::Action);

    /// Checks what holds in each state.
    ///
    /// # Errors
    ///
    /// Returns what is wrong.
    fn check(&self) -> Result<(), String>;

    /// Checks what holds when nothing more happens.
    ///
    /// # Errors
    ///
    /// Returns what is wrong.
    fn check_settled(&self) -> Result<(), String>;
}

/// A run that ends in a wrong state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counterexample {
    /// Describes the invariant that does not hold.
    pub violation: String,
    /// The actions, in order.
    pub trace: Vec<String>,
}

/// The most actions without a fault until a system settles.
const MAX_SETTLING: usize = 1_000;

/// Visits all states that `system` can reach, and returns their number.
///
/// # Errors
///
/// Returns the shortest run to a state that breaks [`System::check`], or from
/// which the system does not settle as it should.
///
/// # Panics
///
/// Panics if there are more than `max_states` states.
pub fn explore<S: System>(
    system: S,
    max_states: usize,
) -> Result<usize, Counterexample> {
    let system = Rc::new(system);
    // The state and the action that come before each state.
    let mut visited: Vec<Visited<S>> = vec![(Rc::clone(&system), None)];
    let mut known = HashSet::<_, Fast>::from_iter([system]);
    let mut settled = HashSet::<_, Fast>::default();
    let mut index = 0;
    while let Some((state, _)) = visited.get(index) {
        let state = Rc::clone(state);
        let checked = state.check();
        let checked = checked.map_err(|violation| (violation, Vec::new()));
        let checked = checked.and_then(|()| settle(&*state, &mut settled));
        if let Err((violation, mut tail)) = checked {
            let mut trace = trace_to(&visited, index);
            trace.append(&mut tail);
            return Err(Counterexample { violation, trace });
        }
        for action in state.actions() {
            let mut next = S::clone(&state);
            next.perform(&action);
            let next = Rc::new(next);
            if known.insert(Rc::clone(&next)) {
                assert!(
                    known.len() <= max_states,
                    "more than {max_states} states"
                );
                visited.push((next, Some((index, action))));
            }
        }
        index += 1;
    }
    Ok(visited.len())
}

/// Runs a random schedule to its end, which must be reached after `max_actions`.
/// `choose` gets a number of actions, and returns a smaller number.
///
/// # Errors
///
/// Returns the run if it ends in a wrong state.
pub fn run_at_random<S: System>(
    mut system: S,
    max_actions: usize,
    mut choose: impl FnMut(usize) -> usize,
) -> Result<(), Counterexample> {
    let mut trace = Vec::new();
    for _ in 0..max_actions {
        if let Err(violation) = system.check() {
            return Err(Counterexample { violation, trace });
        }
        let mut actions = system.actions();
        if actions.is_empty() {
            break;
        }
        let action = actions.swap_remove(choose(actions.len()));
        trace.push(system.describe(&action));
        system.perform(&action);
    }
    settle(&system, &mut HashSet::default()).map_err(|(violation, mut tail)| {
        trace.append(&mut tail);
        Counterexample { violation, trace }
    })
}

/// Runs without faults until nothing more happens, or until a state from which
/// the system is known to settle. Returns an error, and the actions before it,
/// if a state is wrong.
fn settle<S: System>(
    system: &S,
    settled: &mut HashSet<S, Fast>,
) -> Result<(), (String, Vec<String>)> {
    let mut system = system.clone();
    let mut path: Vec<(S, S::Action)> = Vec::new();
    let checked = loop {
        if settled.contains(&system) {
            break Ok(());
        }
        let mut actions = system.actions().into_iter();
        let action = actions.find(|action| !system.is_fault(action));
        let Some(action) = action else {
            break system.check_settled();
        };
        if path.len() == MAX_SETTLING {
            path.truncate(20);
            break Err(format!(
                "the system does not settle within {MAX_SETTLING} actions"
            ));
        }
        let mut next = system.clone();
        next.perform(&action);
        path.push((mem::replace(&mut system, next), action));
        if let Err(violation) = system.check() {
            break Err(violation);
        }
    };
    match checked {
        Ok(()) => {
            settled.extend(path.into_iter().map(|(state, _)| state));
            Ok(())
        }
        Err(violation) => {
            let described = path.iter().map(|(s, action)| s.describe(action));
            Err((violation, described.collect()))
        }
    }
}

type Visited<S> = (Rc<S>, Option<(usize, <S as System>::Action)>);

fn trace_to<S: System>(visited: &[Visited<S>], index: usize) -> Vec<String> {
    let mut trace = Vec::new();
    let mut before = &visited[index].1;
    while let Some((index, action)) = before {
        trace.push(visited[*index].0.describe(action));
        before = &visited[*index].1;
    }
    trace.reverse();
    trace
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, after:", self.violation)?;
        for (number, action) in (1..).zip(&self.trace) {
            writeln!(f, "{number:4}. {action}")?;
        }
        Ok(())
    }
}

/// In a build without optimization, this is much faster than std's hasher.
type Fast = BuildHasherDefault<FastHasher>;

#[derive(Default)]
struct FastHasher(u64);

impl Hasher for FastHasher {
    fn write(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        while let Some((first, rest)) = bytes.split_first_chunk::<8>() {
            self.write_u64(u64::from_ne_bytes(*first));
            bytes = rest;
        }
        let mut last = 0;
        for byte in bytes {
            last = last << 8 | u64::from(*byte);
        }
        self.write_u64(last);
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(n.into());
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }

    fn write_u64(&mut self, n: u64) {
        self.0 =
            (self.0.rotate_left(5) ^ n).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn write_isize(&mut self, n: isize) {
        self.write_u64(n as u64);
    }

    fn finish(&self) -> u64 {
        // The high bits are the best ones, and the map uses low ones, too.
        self.0.rotate_left(26)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two processes that read a counter and then write it. A crash loses what
    /// was read, and the process starts again.
    #[derive(Debug, Clone, PartialEq, Eq, Hash)]
    struct Counter {
        is_atomic: bool,
        value: u32,
        read: [Option<u32>; 2],
        done: [bool; 2],
        crashes: u32,
    }

    #[derive(Debug, Clone, Copy)]
    enum Action {
        Read(usize),
        Write(usize),
        Crash(usize),
    }

    impl System for Counter {
        type Action = Action;

        fn actions(&self) -> Vec<Action> {
            let mut actions = Vec::new();
            for i in (0..2).filter(|i| !self.done[*i]) {
                actions.push(match self.read[i] {
                    None => Action::Read(i),
                    Some(_) => Action::Write(i),
                });
            }
            let read = (0..2).filter(|i| self.read[*i].is_some());
            let crashes = read.filter(|_| self.crashes > 0).map(Action::Crash);
            actions.extend(crashes);
            actions
        }

        fn describe(&self, action: &Action) -> String {
            format!("{action:?}")
        }

        fn is_fault(&self, action: &Action) -> bool {
            matches!(action, Action::Crash(_))
        }

        fn perform(&mut self, action: &Action) {
            match *action {
                Action::Read(i) if self.is_atomic => {
                    self.value += 1;
                    self.done[i] = true;
                }
                Action::Read(i) => self.read[i] = Some(self.value),
                Action::Write(i) => {
                    self.value = self.read[i].take().expect("it was read") + 1;
                    self.done[i] = true;
                }
                Action::Crash(i) => {
                    self.read[i] = None;
                    self.crashes -= 1;
                }
            }
        }

        fn check(&self) -> Result<(), String> {
            let done = self.done.iter().filter(|done| **done).count() as u32;
            let more = self.value > done;
            if more { Err("it counts too much".into()) } else { Ok(()) }
        }

        fn check_settled(&self) -> Result<(), String> {
            let (value, expected) = (self.value, 2);
            (value == expected)
                .then_some(())
                .ok_or(format!("the counter is {value}, expected {expected}"))
        }
    }

    fn counter(is_atomic: bool) -> Counter {
        let (read, done) = ([None; 2], [false; 2]);
        Counter { is_atomic, value: 0, read, done, crashes: 1 }
    }

    #[test]
    fn a_lost_update_is_found_with_its_shortest_run() {
        let found = explore(counter(false), 1_000).unwrap_err();
        assert_eq!(found.violation, "the counter is 1, expected 2");
        assert_eq!(found.trace, ["Read(1)", "Read(0)", "Write(0)", "Write(1)"]);
        assert_eq!(explore(counter(true), 1_000), Ok(4));
    }

    #[test]
    fn a_random_run_finds_a_lost_update() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut choose = |n| random.usize(..n);
        let found = (0..100).find_map(|_| {
            run_at_random(counter(false), 100, &mut choose).err()
        });
        assert_eq!(found.unwrap().violation, "the counter is 1, expected 2");
    }
}
