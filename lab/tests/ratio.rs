//! Tests of `lab::ratio`.

use std::hint::black_box;
use std::panic::catch_unwind;
use std::time::Duration;

use lab::ratio::{Plan, Ratio, measure};

#[test]
fn the_median_is_the_middle_value_or_the_mean_of_the_middle_two() {
    let odd = Ratio::of(&[7.0, 1.0, 3.0, 2.0, 6.0, 5.0, 4.0]);
    assert_eq!(odd.median, 4.0);
    let even = Ratio::of(&[8.0, 7.0, 1.0, 3.0, 2.0, 6.0, 5.0, 4.0]);
    assert_eq!(even.median, 4.5);
}

#[test]
fn the_interval_matches_the_tables_of_the_sign_test() {
    // The number of rounds, and the ranks in the tables for 95 %.
    for (n, low, high) in [
        (6, 1.0, 6.0),
        (8, 1.0, 8.0),
        (9, 2.0, 8.0),
        (10, 2.0, 9.0),
        (20, 6.0, 15.0),
        (50, 18.0, 33.0),
        (100, 40.0, 61.0),
        (2000, 956.0, 1045.0),
    ] {
        let ranks: Vec<f64> = (1..=n).map(f64::from).collect();
        let ratio = Ratio::of(&ranks);
        assert_eq!((ratio.low, ratio.high), (low, high), "of {n} rounds");
    }
}

#[test]
fn one_long_pause_does_not_change_the_ratio() {
    let mut rounds = vec![1.0; 20];
    rounds[7] = 1000.0;
    assert_eq!(Ratio::of(&rounds).to_string(), "1.00 (1.00 to 1.00)");
}

#[test]
fn five_rounds_are_too_few() {
    let panic = catch_unwind(|| Ratio::of(&[1.0; 5])).unwrap_err();
    let message = panic
        .downcast_ref::<String>()
        .expect("the panic message should be a `String`");
    assert!(message.contains("5 rounds are too few"), "{message}");
}

#[test]
fn three_times_the_work_takes_about_three_times_as_long() {
    let plan = Plan { rounds: 41, sample: Duration::from_micros(300) };
    let ratio = measure(plan, || spin(3000), || spin(1000));

    assert!(
        (2.0..4.5).contains(&ratio.median),
        "expected a median from 2 to 4.5, got {ratio}"
    );
    assert!(ratio.low <= ratio.median && ratio.median <= ratio.high);
}

fn spin(iterations: u64) {
    for iteration in 0..iterations {
        black_box(iteration);
    }
}
