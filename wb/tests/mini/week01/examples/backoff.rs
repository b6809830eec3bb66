//! Prints the waits.

fn main() {
    (0..8).for_each(|n| println!("{} ms", week01::backoff::delay(n)));
}
