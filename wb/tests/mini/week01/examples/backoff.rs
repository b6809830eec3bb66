//! Prints the waits, or draws them.

use week01::backoff::delay;

fn main() {
    if std::env::args().any(|argument| argument == "--figure") {
        println!("<svg><text>{}</text></svg>", delay(2));
    } else {
        (0..8).for_each(|n| println!("{} ms", delay(n)));
    }
}
