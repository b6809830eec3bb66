//! Clients: each sends a request again, with the same id, until it is answered.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::time::sleep;
use week08::money::Transfer;

use crate::fleet::Note;
use crate::wire::Caller;

/// The requests of all clients.
pub(crate) struct Requests {
    service: Caller,
    transfers: BTreeMap<u64, Transfer>,
    waiting: Mutex<VecDeque<Request>>,
    answers: Mutex<BTreeMap<u64, String>>,
    /// How often a request was sent again without need.
    pub(crate) repeated: AtomicU32,
    /// How often a request was sent again because it was not answered.
    pub(crate) retried: AtomicU32,
}

/// A transfer, and whether it is requested twice at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) transfer: Transfer,
    pub(crate) is_twice: bool,
}

const PAUSE: Duration = Duration::from_millis(20);

impl Requests {
    pub(crate) fn new(service: Caller, requests: Vec<Request>) -> Self {
        let transfers = requests.iter().map(|r| (r.transfer.id, r.transfer));
        Self {
            service,
            transfers: transfers.collect(),
            waiting: Mutex::new(requests.into()),
            answers: Mutex::default(),
            repeated: AtomicU32::new(0),
            retried: AtomicU32::new(0),
        }
    }

    /// Sends requests until there is none left.
    pub(crate) async fn send_all(&self, notes: Sender<Note>) {
        while let Some(request) = self.next() {
            self.send(request, &notes).await;
        }
    }

    async fn send(&self, request: Request, notes: &Sender<Note>) {
        let Request { transfer, is_twice } = request;
        let text = transfer.to_string();
        if is_twice {
            self.repeated.fetch_add(1, Relaxed);
            let (first, second) =
                tokio::join!(self.call(&text), self.call(&text));
            if let Some(answer) = first.or(second) {
                self.lock().insert(transfer.id, answer);
                return;
            }
        } else if let Some(answer) = self.call(&text).await {
            self.lock().insert(transfer.id, answer);
            return;
        }
        let id = transfer.id;
        let note = Note::Client(format!("has no answer to {id}"));
        let _ = notes.send(note).await;
        loop {
            sleep(PAUSE).await;
            self.retried.fetch_add(1, Relaxed);
            if let Some(answer) = self.call(&text).await {
                self.lock().insert(id, answer);
                return;
            }
        }
    }

    /// Returns a final answer, or none.
    async fn call(&self, request: &str) -> Option<String> {
        let answer = self.service.call(request).await.ok();
        answer.filter(|answer| answer != "Unknown")
    }

    /// Returns all transfers that are requested.
    pub(crate) fn transfers(&self) -> &BTreeMap<u64, Transfer> {
        &self.transfers
    }

    /// Returns the answers of the transfers that are answered.
    pub(crate) fn answers(&self) -> BTreeMap<u64, String> {
        self.lock().clone()
    }

    fn next(&self) -> Option<Request> {
        let waiting = self.waiting.lock();
        waiting.unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, String>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
