use week01::pause::is_needed;

mod need {
    use super::*;

    #[test]
    fn without_a_failure_there_is_none() {
        assert!(!is_needed(0), "nothing failed");
    }

    #[test]
    fn after_a_failure_there_is_one() {
        assert!(is_needed(1), "something failed");
    }
}
