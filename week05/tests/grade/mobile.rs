use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::strategy::{Strategy, ValueTree};
use proptest::{collection::vec, test_runner::TestRunner};
use week05::mobile::Outcome::{Ok as Served, Refused, Unreachable};
use week05::mobile::{Attempt, Config, Outcome, Restraint, Tap};

const ZERO: Duration = Duration::ZERO;
const MAX: Duration = Duration::MAX;
const MICRO: Duration = Duration::from_micros(1);
const SECOND: Duration = Duration::from_secs(1);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3_600);
const HIGHEST: f64 = 1.0 - f64::EPSILON / 2.0;

const CONFIG: Config = Config {
    min_gap: Duration::from_secs(2),
    base: Duration::from_secs(4),
    cap: Duration::from_secs(250),
    max_retry_after: Duration::from_secs(600),
    timeout: Duration::from_secs(10),
};

/// The wait after each attempt is the minimum gap.
const GAP_ONLY: Config = Config { base: ZERO, cap: ZERO, ..CONFIG };

type Event = fn(&mut Phone, f64);

const FAIL: Event = |phone, rand| phone.end(Some(Unreachable), rand);
const SERVE: Event = |phone, rand| phone.end(Some(Served), rand);
const DROP: Event = |phone, rand| phone.end(None, rand);
const REFUSE: Event = |phone, rand| phone.refuse(None, rand);
const REFUSE_FOR: Event =
    |phone, rand| phone.refuse(Some((800 * SECOND).mul_f64(rand)), rand);
const RESTART: Event = |phone, _| phone.restart();
const SERVE_OLDEST: Event = |phone, rand| {
    phone.attempts.reverse();
    SERVE(phone, rand);
};
const BACK: Event = |phone, rand| {
    phone.now = (phone.now - YEAR.mul_f64(rand.powi(9))).max(UNIX_EPOCH);
};
const FORWARD: Event = |phone, rand| phone.now += YEAR.mul_f64(rand);
const WAIT: Event = |_, _| {};

mod attempts {
    use super::*;

    #[test]
    fn taps_in_flight_or_during_a_wait_change_nothing() {
        let taps: Event = |phone, rand| {
            let step = (phone.left() / 1_500).saturating_sub(MICRO);
            for i in 0..1_500 {
                phone.tap(f64::from(i) / 1_500.0);
                phone.now += step;
            }
            FAIL(phone, rand);
        };
        run(2, 150, &[GAP_ONLY], &[taps]);
    }

    #[test]
    fn attempts_start_at_least_the_minimum_gap_apart() {
        let gaps = [ZERO, SECOND, 30 * SECOND, YEAR, MAX];
        let configs = gaps.map(|min_gap| Config { min_gap, ..GAP_ONLY });
        run(10, 150, &configs, &[SERVE, FAIL, WAIT, DROP]);
    }

    #[test]
    fn an_attempt_without_an_outcome_is_in_flight_until_its_timeout() {
        let timeouts = [ZERO, SECOND, 10 * SECOND, YEAR, MAX];
        let configs = timeouts.map(|timeout| Config { timeout, ..GAP_ONLY });
        run(15, 150, &configs, &[WAIT, WAIT, FAIL, SERVE_OLDEST]);
    }
}

mod backoff {
    use super::*;

    #[test]
    fn a_dropped_attempt_is_a_failure() {
        let drop_in_panic: Event = |phone, _| {
            let attempt = AssertUnwindSafe(phone.attempts.pop());
            let panics = move || panic!("on purpose, with {attempt:?}");
            catch_unwind(panics).unwrap_err();
        };
        run(10, 150, &[CONFIG], &[DROP, drop_in_panic]);
    }

    #[test]
    fn the_backoff_with_jitter_doubles_with_each_failure_up_to_the_cap() {
        let times = [ZERO, MICRO / 1_000, SECOND, 300 * SECOND, MAX];
        for base in times {
            let configs = times.map(|cap| Config { base, cap, ..CONFIG });
            run(2, 3_000, &configs, &[FAIL]);
            run(2, 150, &configs, &[FAIL, FAIL, REFUSE, REFUSE_FOR, SERVE]);
        }
    }

    #[test]
    fn retry_after_with_jitter_replaces_the_backoff_up_to_its_maximum() {
        let times = [ZERO, SECOND, 600 * SECOND, YEAR, MAX];
        let base = Config { timeout: ZERO, ..CONFIG };
        let configs = times.map(|max| Config { max_retry_after: max, ..base });
        let at_once: Event = |phone, rand| phone.refuse(Some(ZERO), rand);
        let never: Event = |phone, rand| phone.refuse(Some(MAX), rand);
        run(10, 150, &configs, &[FAIL, REFUSE_FOR, at_once, never]);
    }
}

mod restarts {
    use super::*;

    #[test]
    fn a_restart_continues_the_wait_and_counts_an_attempt_in_flight() {
        let gap = Config { min_gap: YEAR, ..CONFIG };
        let long = Config { base: YEAR, cap: 160 * YEAR, ..CONFIG };
        let events = [RESTART, RESTART, FAIL, SERVE, REFUSE_FOR];
        run(12, 150, &[CONFIG, CONFIG, gap, long], &events);
        run(6, 3_000, &[Config { base: MICRO, ..CONFIG }], &[RESTART, FAIL]);
    }

    #[test]
    fn an_incomplete_or_foreign_text_waits_for_the_minimum_gap() {
        let foreign = ["", ";", "{}", "\0", "ü", "9 9", &"9".repeat(70_000)];
        let mut texts = foreign.map(String::from).to_vec();
        for text in saved_texts() {
            for (i, _) in text.char_indices() {
                texts.extend([text[..i].to_owned(), text.clone() + &text[i..]]);
            }
        }
        for text in texts {
            let mut phone = Phone::new(CONFIG, 55);
            phone.restraint = Restraint::new(CONFIG, Some(&text), phone.now);
            phone.wait = CONFIG.min_gap;
            phone.tap(0.5);
            phone.now += phone.left() + MICRO;
            phone.tap(HIGHEST);
            DROP(&mut phone, 0.5);
            phone.tap(0.5);
        }
    }

    #[test]
    fn no_text_makes_a_wait_longer_than_the_settings_allow() {
        let digits = ["", "0", "9", "99", "255", &"9".repeat(20)];
        let largest = ["4294967295", "18446744073709551615"];
        let (cap, max_retry_after) = (12 * SECOND, 9 * SECOND);
        let short = Config { cap, max_retry_after, ..CONFIG };
        for text in saved_texts() {
            for (i, old) in text.char_indices() {
                for new in digits.iter().chain(&largest) {
                    let rest = &text[i + old.len_utf8()..];
                    let text = format!("{}{new}{rest}", &text[..i]);
                    check_bounds(CONFIG, &text);
                    check_bounds(short, &text);
                }
            }
        }
    }
}

mod clocks {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_begins_the_wait_again() {
        let events = [BACK, BACK, FAIL, SERVE, REFUSE_FOR, RESTART];
        run(30, 150, &[CONFIG], &events);
    }

    #[test]
    fn a_clock_that_jumps_forward_releases_one_attempt() {
        run(40, 150, &[CONFIG], &[FORWARD, FAIL, DROP, REFUSE_FOR, BACK, WAIT]);
    }

    #[test]
    fn any_sequence_of_events_matches_the_rules() {
        let configs = [0, 1, 2, 3, 4, 5, 6].map(|i| Config {
            min_gap: 9 * SECOND * (i % 3),
            base: SECOND * (i % 5),
            cap: 40 * SECOND * i,
            max_retry_after: 20 * SECOND * (i % 4),
            timeout: 15 * SECOND * (6 - i),
        });
        let ends = [FAIL, SERVE, DROP, REFUSE, REFUSE_FOR, SERVE_OLDEST];
        run(30, 150, &configs, &[&ends[..], &[WAIT, RESTART, BACK]].concat());
    }
}

/// Lets events happen in a generated order, with taps between most of them,
/// often just before or after the end of a wait, until the year 2500.
fn run(cases: usize, steps: usize, configs: &[Config], events: &[Event]) {
    let mut runner = TestRunner::deterministic();
    let steps = vec((0_usize..1_000, 0.0..1.0_f64, 0.0..1.0_f64), steps);
    for (i, config) in configs.repeat(cases).into_iter().enumerate() {
        let mut phone = Phone::new(config, [55, 0, 440][i / configs.len() % 3]);
        let steps = steps.new_tree(&mut runner).unwrap().current();
        for (choice, rand, step) in steps {
            let extreme = [step, step, 0.0, HIGHEST][choice / 100 % 4];
            let (left, end) = (phone.left(), UNIX_EPOCH + 530 * YEAR);
            let pause = match choice % 5 {
                0 => left.saturating_sub(2 * MICRO),
                1 => left.saturating_add(MICRO),
                2 => left.mul_f64(step),
                3 => (200 * SECOND).mul_f64(step.powi(6)),
                _ => ZERO,
            };
            if left > 400 * YEAR || phone.now + pause > end {
                phone.restart();
                phone.restraint.tap(phone.now, rand);
                break;
            }
            phone.now += pause;
            if choice % 3 > 0 {
                phone.tap(rand);
            }
            events[choice / 5 % events.len()](&mut phone, extreme);
            if choice % 7 > 1 {
                phone.tap(extreme);
            }
        }
    }
}

fn check_bounds(config: Config, text: &str) {
    let longest = config.cap.max(2 * config.max_retry_after);
    let mut now = Phone::new(config, 55).now;
    let mut restraint = Restraint::new(config, Some(text), now);
    for _ in 0..3 {
        let first = restraint.tap(now, HIGHEST);
        now += longest + MICRO;
        let later = restraint.tap(now, HIGHEST);
        assert!(
            !matches!(first, Tap::Wait(wait) if wait > longest)
                && matches!(later, Tap::Send(_)),
            "with {text:?}, expected: `Send` after {longest:?}; seen: {later:?}"
        );
        restraint.save();
    }
}

fn saved_texts() -> Vec<String> {
    let mut phone = Phone::new(Config { max_retry_after: YEAR, ..CONFIG }, 55);
    let ends = [FAIL, RESTART, DROP, REFUSE_FOR, RESTART, SERVE].repeat(2);
    let save = |end: Event| {
        phone.now += phone.left() + MICRO;
        phone.tap(0.7);
        end(&mut phone, 0.9);
        phone.restraint.save()
    };
    ends.into_iter().map(save).collect()
}

/// A phone, and the state that is expected of it.
struct Phone {
    restraint: Restraint,
    config: Config,
    now: SystemTime,
    begin: SystemTime,
    wait: Duration,
    failures: u32,
    /// The attempts without an outcome. `true`: no newer one was sent.
    attempts: Vec<(bool, Attempt)>,
}

impl Phone {
    fn new(config: Config, years: u32) -> Self {
        let now = UNIX_EPOCH + years * YEAR;
        let restraint = Restraint::new(config, None, now);
        let (begin, wait, failures, attempts) = (now, ZERO, 0, Vec::new());
        Self { restraint, config, now, begin, wait, failures, attempts }
    }

    fn elapsed(&self) -> Duration {
        self.now.duration_since(self.begin).unwrap_or_default()
    }

    fn is_in_flight(&self) -> bool {
        let is_held = self.attempts.iter().any(|attempt| attempt.0);
        is_held && self.elapsed() < self.config.timeout
    }

    fn left(&self) -> Duration {
        let busy = self.is_in_flight().then_some(self.config.timeout);
        self.wait.max(busy.unwrap_or(ZERO)).saturating_sub(self.elapsed())
    }

    fn ceiling(&self) -> Duration {
        let Config { base, cap, .. } = self.config;
        let doubled = |time: Duration, _| time.saturating_mul(2).min(cap);
        (1..self.failures.min(100)).fold(base.min(cap), doubled)
    }

    /// Taps, and compares the result with the expected one.
    fn tap(&mut self, rand: f64) {
        self.begin = self.begin.min(self.now);
        let left = self.wait.saturating_sub(self.elapsed());
        let busy = self.is_in_flight();
        let tap = self.restraint.tap(self.now, rand);
        let is_expected = match &tap {
            _ if busy => matches!(tap, Tap::InFlight),
            Tap::Wait(seen) if left > ZERO => seen.abs_diff(left) <= 2 * MICRO,
            _ => left == ZERO && matches!(tap, Tap::Send(_)),
        };
        assert!(
            is_expected,
            "seen: {tap:?}; expected: in flight: {busy}, left: {left:?}, after \
             {} failures, with {:?}",
            self.failures, self.config
        );
        let Tap::Send(attempt) = tap else { return };
        self.failures += 1;
        self.begin = self.now;
        self.wait = self.ceiling().mul_f64(rand).max(self.config.min_gap);
        self.attempts.iter_mut().for_each(|attempt| attempt.0 = false);
        self.attempts.push((true, attempt));
    }

    fn refuse(&mut self, retry_after: Option<Duration>, rand: f64) {
        self.end(Some(Refused { retry_after }), rand);
    }

    fn end(&mut self, end: Option<Outcome>, rand: f64) {
        let Some((is_current, attempt)) = self.attempts.pop() else { return };
        let Some(outcome) = end else { return };
        self.restraint.finish(attempt, outcome, self.now, rand);
        if !is_current {
            return;
        }
        let gap_left = self.config.min_gap.saturating_sub(self.elapsed());
        let bound = self.config.max_retry_after;
        let wait = match outcome {
            Served => ZERO,
            Refused { retry_after: Some(r) } => {
                r.min(bound).saturating_add(r.min(bound).mul_f64(rand))
            }
            _ => self.ceiling().mul_f64(rand),
        };
        self.failures *= u32::from(outcome != Served);
        (self.begin, self.wait) = (self.now, wait.max(gap_left));
    }

    fn restart(&mut self) {
        let text = self.restraint.save();
        self.restraint = Restraint::new(self.config, Some(&text), self.now);
        self.begin = self.begin.min(self.now);
        self.attempts.iter_mut().for_each(|attempt| attempt.0 = false);
    }
}
