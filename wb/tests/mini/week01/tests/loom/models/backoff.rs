use crate::backoff::delay;

#[test]
fn the_model_doubles() {
    assert_eq!(delay(2), 40, "milliseconds before try 2");
}
