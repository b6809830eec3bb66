use week01::backoff::delay;

mod growth {
    use super::*;

    #[test]
    fn the_first_wait_is_ten() {
        assert_eq!(delay(0), 10, "milliseconds before the first try");
    }

    #[test]
    fn each_wait_doubles() {
        assert_eq!((delay(1), delay(3)), (20, 80), "before tries 1 and 3");
    }
}

mod limits {
    use super::*;

    #[test]
    fn no_wait_is_longer_than_a_second() {
        for n in 7..100 {
            assert_eq!(delay(n), 1000, "milliseconds before try {n}");
        }
    }
}

mod servers {
    use super::*;

    #[test]
    #[ignore = "needs redis-server"]
    fn a_server_is_left_in_peace() {
        assert_eq!(delay(0), 10);
    }

    #[test]
    fn a_server_is_not_needed_for_this() {
        assert!(delay(6) < 1001, "milliseconds before try 6");
    }
}
