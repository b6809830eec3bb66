//! The sizes of the systems that are searched for a mistake.

use week08::money::cluster::Faults;

use crate::Setup;

/// One transfer, with enough money, and without faults.
pub const ONE: Setup = Setup {
    transfers: 1,
    balance: 1_000,
    attempts: 2,
    max_checks: 1,
    retries: 0,
    patience: None,
    faults: NO_FAULTS,
};

const NO_FAULTS: Faults =
    Faults { crashes: 0, repeats: 0, losses: 0, failures: 0 };

/// Returns the systems of an exercise in which `number` faults happen.
pub fn with_faults(exercise: &str, number: u32) -> Vec<Setup> {
    let sizes = sizes(exercise);
    let with = |faults| sizes.iter().map(move |size| Setup { faults, ..*size });
    faults(number).into_iter().flat_map(with).collect()
}

fn sizes(exercise: &str) -> Vec<Setup> {
    let two = Setup { transfers: 2, ..ONE };
    let poor = Setup { balance: 0, ..ONE };
    let impatient = |patience| Setup { patience: Some(patience), ..ONE };
    match exercise {
        "half_message" => vec![
            Setup { attempts: 1, ..ONE },
            ONE,
            poor,
            Setup { max_checks: 0, ..ONE },
            // Enough for the second transfer after a refund of the first one.
            Setup { balance: 10, max_checks: 0, ..two },
        ],
        "tcc" => vec![ONE, poor, impatient(0), impatient(1)],
        _ => vec![ONE, two],
    }
}

/// Returns all faults of this number.
fn faults(number: u32) -> Vec<Faults> {
    let mut all = Vec::new();
    for crashes in (0..=number).rev() {
        for repeats in (0..=number - crashes).rev() {
            for losses in (0..=number - crashes - repeats).rev() {
                let failures = number - crashes - repeats - losses;
                all.push(Faults { crashes, repeats, losses, failures });
            }
        }
    }
    all
}
