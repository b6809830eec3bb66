use week08::money::cluster::Cluster;

use super::cluster::{self, Part};
use crate::{Machine, Setup};

pub fn system(setup: Setup) -> impl Machine {
    cluster(setup)
}

pub(crate) fn cluster(setup: Setup) -> Cluster<Part> {
    let Setup { transfers, balance, patience, faults, .. } = setup;
    cluster::cluster(transfers, balance, patience, faults)
}
