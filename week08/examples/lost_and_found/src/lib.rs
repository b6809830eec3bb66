//! The mistakes of the exercises on money, as systems that can be searched.
//!
//! *Question.* A foil is the answer with an edit. How is it run next to the
//! answer, without a second copy of the code?
//!
//! *Idea.* The build script applies the edits of `week08/exercises/*.toml`. It
//! writes one module for each foil, in which the grader's processes use the foil
//! in place of the answer.

#![forbid(unsafe_code)]

use week08::money::cluster::Faults;
use week08::money::explore::{Counterexample, System, explore};

pub mod matrix;
pub mod setups;

// The foils and the processes import these modules from their crate.
pub(crate) use week08::money;

/// The systems: `machines::EXERCISE::answer`, and `machines::EXERCISE::FOIL`.
#[allow(warnings, reason = "the foils and the processes are generated")]
pub mod machines {
    include!(concat!(env!("OUT_DIR"), "/machines.rs"));
}

/// A system that several threads can search.
pub trait Machine:
    System<Action: PartialEq + Send + Sync + 'static> + Send + Sync + 'static
{
}

impl<S> Machine for S where
    S: System<Action: PartialEq + Send + Sync + 'static>
        + Send
        + Sync
        + 'static
{
}

/// The size of a system. A pattern uses the fields that it knows.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// The number of transfers, or of orders.
    pub transfers: u32,
    /// The balance of the payment service at the beginning.
    pub balance: i64,
    /// How often a client sends a request that is not answered.
    pub attempts: u32,
    /// How often the broker of half messages asks.
    pub max_checks: u32,
    /// How often a person lets the broker ask again.
    pub retries: u32,
    /// How often the coordinator of TCC waits for an answer before it cancels.
    pub patience: Option<u32>,
    /// The faults that may happen.
    pub faults: Faults,
}

/// An answer with one mistake that loses or creates money.
#[derive(Debug)]
pub struct Foil {
    /// The exercise.
    pub exercise: &'static str,
    /// The name of the foil.
    pub name: &'static str,
    /// The damage that it does.
    pub lesson: &'static str,
    /// Visits all states that a setup allows.
    search: fn(Setup) -> Result<usize, Counterexample>,
}

/// What a mistake does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// Somebody has paid, and nobody has got it.
    Lost,
    /// Somebody has got what nobody has paid.
    Created,
    /// A transfer is never made, or never ends.
    Stuck,
}

/// The shortest run that shows a mistake.
#[derive(Debug)]
pub struct Found {
    /// The number of faults in it. There is no run with fewer.
    pub faults: u32,
    /// The violation, and the run.
    pub counterexample: Counterexample,
}

include!(concat!(env!("OUT_DIR"), "/foils.rs"));

/// The most states of a search.
const MAX_STATES: usize = 200_000;

/// Every mistake shows in a run with this number of faults.
const MAX_FAULTS: u32 = 2;

fn search(system: impl Machine) -> Result<usize, Counterexample> {
    explore(system, MAX_STATES)
}

impl Foil {
    /// Searches the runs with no fault, with one fault, and so on. Returns the
    /// shortest run that is wrong, of those with the fewest faults.
    pub fn find(&self) -> Option<Found> {
        (0..=MAX_FAULTS).find_map(|faults| {
            let setups = setups::with_faults(self.exercise, faults).into_iter();
            let wrong = setups.filter_map(|setup| {
                let run = (self.search)(setup).err()?;
                // An effect whose answer is lost is two actions.
                let length = run.trace.len() + setup.faults.failures as usize;
                Some((length, run))
            });
            let (_, counterexample) =
                wrong.min_by_key(|(length, _)| *length)?;
            Some(Found { faults, counterexample })
        })
    }
}

/// Counts what the runs do.
///
/// # Errors
///
/// Returns a violation whose damage is not known.
pub fn summary(all: &[Found]) -> Result<String, String> {
    let damage = |found: &Found| {
        let violation = &found.counterexample.violation;
        found.damage().ok_or_else(|| violation.clone())
    };
    let damages: Vec<_> = all.iter().map(damage).collect::<Result<_, _>>()?;
    let count = |damage| damages.iter().filter(|d| **d == damage).count();
    let unprovoked = all.iter().filter(|found| found.faults == 0).count();
    Ok(format!(
        "{} mistakes: {} lose money, {} create money, {} leave a transfer \
         undone.\n{unprovoked} of them go wrong without any fault.",
        all.len(),
        count(Damage::Lost),
        count(Damage::Created),
        count(Damage::Stuck),
    ))
}

impl Found {
    /// Returns what the run does, or none if the violation has another text.
    pub fn damage(&self) -> Option<Damage> {
        let violation = &self.counterexample.violation;
        let has = |text: &str| violation.contains(text);
        if has("lost") || has("debited 2 times") || has("is answered with") {
            Some(Damage::Lost)
        } else if has("credited") || has("-1 times") || has("delivered 2") {
            Some(Damage::Created)
        } else if has("never taken effect")
            || has("reserved")
            || has("contradicts")
            || has("gives up")
        {
            Some(Damage::Stuck)
        } else {
            None
        }
    }
}
