use week08::money::cluster::Faults;
use week08::money::explore::explore;

use crate::pipeline::pipeline;

#[test]
fn try_out() {
    for (n, b, crashes, repeats, failures) in [
        (1, 2, 1, 0, 0),
        (2, 2, 1, 0, 0),
        (2, 2, 2, 1, 0),
        (2, 1, 2, 0, 1),
        (1, 1, 2, 1, 1),
        (3, 2, 1, 0, 0),
    ] {
        let f = Faults { crashes, repeats, losses: 0, failures };
        let t = std::time::Instant::now();
        match explore(pipeline(n, b, f), 60_000) {
            Ok(states) => {
                println!("{n} {b} {f:?}: {states} states in {:?}", t.elapsed())
            }
            Err(e) => panic!("{e}"),
        }
    }
}
