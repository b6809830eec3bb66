use std::time::Duration;

use model::*;
use week06::shave::{Config, Effect, Event, Offset};

#[path = "shave/model.rs"]
mod model;

const FIRSTS: [Offset; 4] = [0, 1, 5_000_000_000, Offset::MAX - 10];

mod batches {
    use super::*;

    #[test]
    fn full_batches_are_written_one_at_a_time_in_the_order_of_reading() {
        for max_batch in [1, 2, 17, 130, 1_500] {
            let mut member = Member::new(config([max_batch, 9_000], CENTURY));
            member.checks_commits = false;
            let mut next = PARTITIONS.map(|p| (p, i64::from(p)));
            next.iter().for_each(|(p, next)| member.assign(*p, *next));
            let (mut read, mut seen) = (vec![], vec![]);
            for i in 0..2 * max_batch + max_batch / 2 {
                let (p, next) = &mut next[i * i % 3];
                read.push((*p, *next));
                seen.extend(member.poll(*p, *next));
                *next += 1;
            }
            while member.in_flight > 0 {
                seen.extend(member.step(Event::Written));
            }
            let full = read.chunks_exact(max_batch).map(write);
            assert_eq!(seen, full.collect::<Vec<_>>(), "effects (left)");
        }
    }

    #[test]
    fn an_incomplete_batch_waits_until_its_first_record_has_lingered() {
        for linger in TIMES {
            let mut member = Member::new(config([3, 9], linger));
            member.checks_commits = false;
            member.assign(0, 0);
            member.poll(0, 0);
            member.now += linger.min(CENTURY) / 2;
            member.poll(0, 1);
            member.tick_around(START.checked_add(linger));
            if linger < Duration::MAX {
                member.step(Event::Written);
                member.poll(0, 2);
                member.tick_around(member.now.checked_add(linger));
            }
        }
    }

    #[test]
    fn polling_pauses_at_the_limit_and_resumes_at_half_of_it() {
        for limit in [1, 2, 3, 17, 130, 1_500] {
            let mut member = Member::new(config([1, limit], CENTURY));
            member.checks_commits = false;
            member.read(0, 0..limit as Offset - 1);
            let seen = member.poll(0, limit as Offset);
            assert!(seen.contains(&Effect::Pause), "{seen:?} at {limit}");
            // These were fetched before the pause took effect.
            (0..9).for_each(|i| _ = member.poll(0, limit as Offset + i));
            while member.in_flight > 0 {
                let seen = member.step(Event::Written);
                let (len, resumes) =
                    (member.queue.len(), seen.contains(&Effect::Resume));
                assert_eq!(resumes, len == limit / 2, "resumes at {len}");
            }
        }
    }

    #[test]
    fn any_history_without_a_failure_writes_each_record_once() {
        Member::run(0, 80);
    }
}

mod commits {
    use super::*;

    #[test]
    fn an_offset_is_committed_when_all_records_before_it_are_written() {
        for first in FIRSTS {
            let mut member = Member::new(config([2, 100], CENTURY));
            [5, 6].into_iter().for_each(|p| member.assign(p, first));
            for (p, o) in [(5, 0), (6, 3), (5, 4), (6, 8), (5, 8), (6, 9)] {
                member.poll(p, first + o);
            }
            let seen = member.step(Event::Written);
            let commit = Effect::Commit(vec![(5, first + 1), (6, first + 4)]);
            assert!(seen.contains(&commit), "{seen:?}, expected {commit:?}");
            // Until it is answered, there is no other commit.
            member.step(Event::Written);
            let seen = member.step(Event::Committed);
            let commit = Effect::Commit(vec![(5, first + 5), (6, first + 9)]);
            assert_eq!(seen, [commit], "effects (left)");
        }
    }

    #[test]
    fn a_commit_has_the_offsets_of_all_partitions() {
        for partitions in [1, 2, 17, 130, 1_500] {
            let max = partitions as usize;
            let mut member = Member::new(config([max, 9_000], CENTURY));
            (0..partitions).for_each(|p| member.read(p, 3..4));
            let seen = member.step(Event::Written);
            let commit =
                Effect::Commit((0..partitions).map(|p| (p, 4)).collect());
            assert_eq!(seen, [commit], "effects (left)");
        }
    }

    #[test]
    fn a_failed_commit_is_repeated_after_the_retry_time() {
        for retry_after in TIMES {
            let config = config([1, 100], CENTURY);
            let mut member = Member::new(Config { retry_after, ..config });
            member.read(0, 0..2);
            member.step(Event::Written);
            member.now += MS;
            member.step(Event::CommitFailed);
            let retry_at = member.now.checked_add(retry_after);
            // Another record is processed, and changes only the offset.
            member.step(Event::Written);
            member.tick_around(retry_at);
        }
    }

    #[test]
    fn any_history_with_refused_commits_and_stops_loses_no_record() {
        Member::run(1, 80);
    }
}

mod failures {
    use super::*;

    #[test]
    fn a_failed_write_is_repeated_in_order_after_the_retry_time() {
        for retry_after in TIMES {
            let config = config([3, 100], MS);
            let mut member = Member::new(Config { retry_after, ..config });
            member.read(0, 0..2);
            member.now += MS;
            member.step(Event::Tick);
            // These are read during the write.
            (2..6).for_each(|o| _ = member.poll(0, o));
            member.step(Event::WriteFailed);
            member.tick_around(member.now.checked_add(retry_after));
        }
    }

    #[test]
    fn a_rejected_record_becomes_a_dead_letter_after_those_before_it() {
        for (len, i) in (1..6).flat_map(|len| (0..len).map(move |i| (len, i))) {
            let mut member = Member::new(config([len, 100], CENTURY));
            member.read(0, 0..len as Offset);
            let mut seen = member.step(Event::Rejected(i));
            if i > 0 {
                seen = member.step(Event::Written);
            }
            let is_sent = seen.contains(&letter((0, i as Offset)));
            assert!(is_sent, "{seen:?}, expected a dead letter of {i}");
            // If it fails, it is repeated, and the others wait behind it.
            member.step(Event::DeadLetterFailed);
            member.step(Event::Stop);
            member.tick_around(Some(member.now + 100 * MS));
            member.step(Event::DeadLettered);
        }
    }

    #[test]
    fn any_history_with_failures_and_poison_loses_no_record() {
        Member::run(2, 100);
    }
}

mod rebalance {
    use super::*;

    #[test]
    fn a_revoked_partition_gets_a_last_commit_and_a_lost_one_gets_none() {
        let ends = [Event::Revoked(0), Event::Lost(0)];
        for (answers, end) in (0..6).map(|i| (i / 2, ends[i % 2].clone())) {
            let mut member = Member::new(config([1, 100], CENTURY));
            member.read(0, 5..8);
            for event in &[Event::Written, Event::Committed][..answers] {
                member.step(event.clone());
            }
            let seen = member.step(end.clone());
            let is_last = answers == 1 && end == Event::Revoked(0);
            let last = is_last.then_some(Effect::LastCommit(0, 6));
            assert_eq!(seen, Vec::from_iter(last), "effects of {end:?} (left)");
            member.step(Event::Written);
            member.step(end);
        }
    }

    #[test]
    fn an_answer_after_the_end_of_an_assignment_changes_no_offset() {
        let answers = [Event::Written, Event::WriteFailed, Event::Rejected(0)];
        for (answer, ends) in answers.into_iter().zip([65_535, 255, 0]) {
            let mut member = Member::new(config([1, 100], CENTURY));
            member.read(0, 5..7);
            // After that, a commit of 6 and a write of record 6 are in flight.
            member.step(Event::Written);
            member.step(Event::Lost(0));
            for _ in 0..ends {
                member.assign(0, 0);
                member.step(Event::Lost(0));
            }
            member.read(0, 3..4);
            member.step(answer);
            member.step(Event::Committed);
            member.now += 100 * MS;
            member.step(Event::Tick);
            let seen = member.step(Event::Written);
            let commit = Effect::Commit(vec![(0, 4)]);
            assert_eq!(seen, [commit], "effects (left)");
        }
    }

    #[test]
    fn any_history_with_rebalances_loses_no_record() {
        Member::run(3, 400);
    }
}
