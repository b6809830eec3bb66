use week08::money::cluster::Cluster;

use super::cluster::{self, Part};
use crate::{Machine, Setup};

pub fn system(setup: Setup) -> impl Machine {
    cluster(setup)
}

pub(crate) fn cluster(setup: Setup) -> Cluster<Part> {
    let Setup { transfers, balance, attempts, max_checks, retries, .. } = setup;
    let must_complete = false;
    let size = cluster::Setup {
        transfers,
        balance,
        attempts,
        max_checks,
        retries,
        must_complete,
    };
    cluster::cluster(size, setup.faults)
}
