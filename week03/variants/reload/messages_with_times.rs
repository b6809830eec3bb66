//! Hot reload with a channel instead of a lock: each message has the time at
//! which it was sent. The thread takes all messages that were sent during a read
//! before it reads again.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, Sender, TryRecvError, channel,
};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecursiveMode, Watcher};

/// Reads a file again whenever it may have changed.
#[derive(Debug)]
pub struct Reloader {
    messages: Sender<(Instant, Message)>,
    /// `Some` until the drop.
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Clone, Copy)]
enum Message {
    Hint,
    Trigger,
    Stop,
}

/// The times that decide when a file is read.
#[derive(Debug, Clone, Copy)]
pub struct Debounce {
    /// The quiet time required before a read.
    pub quiet: Duration,
    /// The longest time from the first hint to the read.
    pub max_delay: Duration,
    /// The longest time between the starts of two reads, with or without a
    /// hint.
    pub max_interval: Duration,
}

/// Computes when the next read is due.
#[derive(Debug)]
pub struct Schedule {
    debounce: Debounce,
    begun: Option<Instant>,
    triggered: Option<Instant>,
    /// The first and the last hint since the last read began.
    hinted: Option<(Instant, Instant)>,
}

impl Schedule {
    /// Creates a schedule whose first read is due at once.
    pub fn new(debounce: Debounce, now: Instant) -> Self {
        Self { debounce, begun: None, triggered: Some(now), hinted: None }
    }

    /// Returns when the next read is due, if nothing happens before.
    pub fn due(&self) -> Instant {
        let Debounce { quiet, max_delay, max_interval } = self.debounce;
        let hinted = self
            .hinted
            .map(|(first, last)| Instant::min(first + max_delay, last + quiet));
        let max_interval = self.begun.map(|begun| begun + max_interval);
        let all = [self.triggered, hinted, max_interval].into_iter().flatten();
        all.min().expect("a trigger is set until the first read begins")
    }

    /// Records a hint: the file may have changed.
    pub fn hint(&mut self, now: Instant) {
        let first = self.hinted.map_or(now, |(first, _)| first);
        self.hinted = Some((first, now));
    }

    /// Records a trigger: a read is due at once.
    pub fn trigger(&mut self, now: Instant) {
        self.triggered.get_or_insert(now);
    }

    /// Records that a read begins.
    pub fn begin(&mut self, now: Instant) {
        (self.begun, self.triggered, self.hinted) = (Some(now), None, None);
    }
}

/// Returns whether the file may have changed.
pub fn is_hint(event: &notify::Result<notify::Event>) -> bool {
    let Ok(event) = event else { return true };
    let reads = matches!(event.kind, EventKind::Access(_));
    let wrote = EventKind::Access(AccessKind::Close(AccessMode::Write));
    !reads || event.kind == wrote
}

impl Reloader {
    /// Watches `file`. Calls `read` at once, and again whenever the file may
    /// have changed.
    pub fn start(
        file: &Path,
        debounce: Debounce,
        mut read: impl FnMut() + Send + 'static,
    ) -> notify::Result<Self> {
        let (messages, received) = channel();
        let hints = messages.clone();
        let mut watcher = notify::recommended_watcher(move |event| {
            if is_hint(&event) {
                let _ = hints.send((Instant::now(), Message::Hint));
            }
        })?;
        // The parent of a bare file name is empty: the first dot makes it the
        // working folder. The last dot makes it an error if the parent is a
        // file.
        let folder = file.parent().unwrap_or(Path::new("/"));
        let folder = Path::new(".").join(folder).join(".");
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
        let thread = thread::spawn(move || {
            let schedule = Schedule::new(debounce, Instant::now());
            run(schedule, &received, || {
                // The folder may have been replaced.
                let _ = watcher.unwatch(&folder);
                let _ = watcher.watch(&folder, RecursiveMode::NonRecursive);
                catch_panic(&mut read);
            });
            drop(watcher);
            catch_panic(move || drop(read));
        });
        Ok(Self { messages, thread: Some(thread) })
    }

    /// Triggers a read at once, and does not wait for it.
    pub fn trigger(&self) {
        let _ = self.messages.send((Instant::now(), Message::Trigger));
    }
}

fn run(
    mut schedule: Schedule,
    messages: &Receiver<(Instant, Message)>,
    mut read: impl FnMut(),
) {
    loop {
        let now = Instant::now();
        // All messages that were sent before now lead to one read. Messages that
        // are sent later do not delay it, even if they never end.
        loop {
            match messages.try_recv() {
                Ok((sent, message)) => {
                    if !apply(&mut schedule, sent, message) {
                        return;
                    }
                    if sent > now {
                        break;
                    }
                }
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => break,
            }
        }
        if schedule.due() <= now {
            schedule.begin(now);
            read();
            continue;
        }
        match messages.recv_timeout(schedule.due() - now) {
            Ok((sent, message)) => {
                if !apply(&mut schedule, sent, message) {
                    return;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Returns `false` if the reloader stops.
fn apply(schedule: &mut Schedule, sent: Instant, message: Message) -> bool {
    match message {
        Message::Hint => schedule.hint(sent),
        Message::Trigger => schedule.trigger(sent),
        Message::Stop => return false,
    }
    true
}

fn catch_panic(run: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
        drop_payload(payload);
    }
}

/// Drops the payload of a panic. Its destructor may panic, too.
fn drop_payload(payload: Box<dyn Any + Send>) {
    let dropped = catch_unwind(AssertUnwindSafe(move || drop(payload)));
    dropped.unwrap_or_else(std::mem::forget);
}

impl Drop for Reloader {
    fn drop(&mut self) {
        let _ = self.messages.send((Instant::now(), Message::Stop));
        let thread = self.thread.take().expect("the drop takes it once");
        if thread.thread().id() != thread::current().id() {
            let _ = thread.join();
        }
    }
}
