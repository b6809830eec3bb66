use week08::money::cluster::Cluster;

use super::cluster::{Any, pipeline};
use crate::{Machine, Setup};

pub fn system(setup: Setup) -> impl Machine {
    cluster(setup)
}

pub(crate) fn cluster(setup: Setup) -> Cluster<Any> {
    pipeline(setup.transfers, 2, setup.faults)
}
