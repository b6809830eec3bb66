//! The subjects whose pages may be old, because a refresh has failed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;

/// Subjects to delete. One is forgotten after the longest time for which a page
/// is stored, so a long outage uses memory only for the writes of this time.
#[derive(Debug)]
pub(super) struct Missed {
    subjects: Mutex<HashMap<u64, Entry>>,
    /// The number of subjects, for readers: almost always it is zero.
    len: AtomicUsize,
    added: Notify,
    ttl: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    since: Instant,
    /// How often the subject was added.
    number: u64,
}

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

impl Missed {
    pub(super) fn new(ttl: Duration) -> Self {
        Self {
            subjects: Mutex::default(),
            len: AtomicUsize::new(0),
            added: Notify::new(),
            ttl,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    /// Returns whether the page of a subject may be old.
    pub(super) fn contains(&self, subject: u64) -> bool {
        // A stale zero is as if the read had come before the failure.
        self.len() > 0 && self.lock().contains_key(&subject)
    }

    pub(super) fn insert(&self, subject: u64) {
        let mut subjects = self.lock();
        let entry = Entry { since: Instant::now(), number: 0 };
        let entry = subjects.entry(subject).or_insert(entry);
        entry.since = Instant::now();
        entry.number += 1;
        self.len.store(subjects.len(), Relaxed);
        drop(subjects);
        self.added.notify_one();
    }

    /// Waits until there are subjects, and until the pause is over. Returns
    /// them with the numbers that [`remove`](Self::remove) needs.
    pub(super) async fn next(&self) -> Vec<(u64, u64)> {
        while self.len() == 0 {
            self.added.notified().await;
        }
        sleep(PAUSE).await;
        let mut subjects = self.lock();
        subjects.retain(|_, entry| entry.since.elapsed() < self.ttl);
        self.len.store(subjects.len(), Relaxed);
        let all = subjects.iter();
        all.map(|(subject, entry)| (*subject, entry.number)).collect()
    }

    /// Removes a subject, unless it was added again.
    pub(super) fn remove(&self, subject: u64, number: u64) {
        let mut subjects = self.lock();
        if subjects.get(&subject).is_some_and(|e| e.number == number) {
            subjects.remove(&subject);
        }
        self.len.store(subjects.len(), Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.subjects.lock().expect("no code panics with the lock held")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_subject_that_is_added_again_stays_until_it_is_deleted_again() {
        let missed = Missed::new(Duration::from_secs(60));
        missed.insert(7);
        let first = missed.next().await;
        missed.insert(7); // while its page is being deleted
        let [(subject, number)] = first[..] else { panic!("{first:?}") };
        missed.remove(subject, number);
        assert!(missed.contains(7));

        let second = missed.next().await;
        let [(subject, number)] = second[..] else { panic!("{second:?}") };
        missed.remove(subject, number);
        assert!(!missed.contains(7));
        assert_eq!(missed.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_subject_is_forgotten_when_no_old_page_can_be_left() {
        let missed = Missed::new(Duration::ZERO);
        missed.insert(7);
        assert_eq!(missed.next().await, []);
        assert_eq!(missed.len(), 0);
    }
}
