use week08::money::cluster;

use super::cluster::{Faults, World};
use crate::{Machine, Setup};

pub fn system(setup: Setup) -> impl Machine {
    let cluster::Faults { crashes, repeats, losses, failures } = setup.faults;
    let faults = Faults { crashes, losses, repeats, failures };
    World::new(setup.transfers.into(), faults)
}
