//! A simulated remote level and origin, which processes share, and a model of
//! the rules.

use std::collections::{HashMap, HashSet};
use std::future::{pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fastbloom::AtomicBloomFilter;
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep, timeout};
use week08::levels::{
    Config, GetError, Levels, Origin, Remote, RemoteError, Stored, Value,
};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const KEYS: [&str; 3] = ["book", "", "日本 %\n"];
pub(crate) const TIMEOUT: Duration = Duration::from_millis(1_000);
pub(crate) const GET: usize = 0;
pub(crate) const SET: usize = 1;
pub(crate) const DELETE: usize = 2;
pub(crate) const PUBLISH: usize = 3;
pub(crate) const LOAD: usize = 4;
pub(crate) const CALLS: [&str; 5] =
    ["`get`", "`set`", "`delete`", "`publish`", "`load`"];
/// No call takes so long.
pub(crate) const NEVER: Duration = Duration::from_secs(10_000);

pub(crate) fn config() -> Config {
    Config {
        capacity: 10_000.try_into().unwrap(),
        local_ttl: 8 * SECOND,
        remote_ttl: 64 * SECOND,
        negative_ttl: 4 * SECOND,
        unsynced_ttl: 2 * SECOND,
        jitter: 0.5,
        remote_timeout: TIMEOUT,
        loads_without_remote: 1,
    }
}

pub(crate) fn filter<K: AsRef<str>>(keys: &[K]) -> AtomicBloomFilter {
    filter_for(keys.len().max(100), keys)
}

/// Returns a filter with `keys` that has space for `expected` keys. One with
/// more space takes longer to create.
pub(crate) fn filter_for<K: AsRef<str>>(
    expected: usize,
    keys: &[K],
) -> AtomicBloomFilter {
    let filter = AtomicBloomFilter::with_false_pos(1e-6).seed(&7);
    let filter = filter.expected_items(expected);
    keys.iter().for_each(|key| _ = filter.insert(key.as_ref()));
    filter
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Price(pub(crate) u32);

impl Value for Price {
    fn encode(&self) -> Vec<u8> {
        self.0.to_be_bytes().into()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(u32::from_be_bytes(bytes)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

/// A row that is never missing.
#[derive(Clone, Default)]
pub(crate) struct Row(pub(crate) Arc<AtomicU32>);

impl Origin for Row {
    type Value = Price;
    type Error = Broken;

    async fn load(&self, _: &str) -> Result<Option<Price>, Broken> {
        let value = self.0.load(SeqCst);
        wait(Duration::ZERO).await;
        Ok(Some(Price(value)))
    }
}

/// A value whose drop can hold up the thread that drops it.
#[derive(Clone)]
pub(crate) struct Slow {
    pub(crate) value: u32,
    gate: Arc<Gate>,
}

/// A row with values of this type.
#[derive(Clone, Default)]
pub(crate) struct SlowRow {
    pub(crate) value: Arc<AtomicU32>,
    pub(crate) gate: Arc<Gate>,
}

#[derive(Default)]
pub(crate) struct Gate {
    /// The next drop of a value is slow.
    pub(crate) is_armed: AtomicBool,
    /// A slow drop has begun, or will not come.
    pub(crate) is_dropping: AtomicBool,
    /// The slow drop may end.
    pub(crate) may_end: AtomicBool,
}

impl Gate {
    /// Waits until `flag` is set, or until `time` has passed.
    pub(crate) fn wait(flag: &AtomicBool, time: Duration) {
        let start = std::time::Instant::now();
        while !flag.load(SeqCst) && start.elapsed() < time {
            std::thread::yield_now();
        }
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        if self.gate.is_armed.swap(false, SeqCst) {
            self.gate.is_dropping.store(true, SeqCst);
            // It does not come if the drop is under a lock that the other
            // thread needs.
            Gate::wait(&self.gate.may_end, 20 * MS);
        }
    }
}

impl Value for Slow {
    fn encode(&self) -> Vec<u8> {
        Vec::new()
    }

    fn decode(_: &[u8]) -> Option<Self> {
        None
    }
}

impl Origin for SlowRow {
    type Value = Slow;
    type Error = Broken;

    async fn load(&self, _: &str) -> Result<Option<Slow>, Broken> {
        let value = self.value.load(SeqCst);
        wait(Duration::ZERO).await;
        Ok(Some(Slow { value, gate: Arc::clone(&self.gate) }))
    }
}

/// A remote level that stores nothing.
pub(crate) struct Empty;

impl Remote for Empty {
    type Error = Broken;

    async fn get(&self, _: &str) -> Result<Option<Stored>, Broken> {
        Ok(None)
    }

    async fn set(
        &self,
        _: &str,
        _: Vec<u8>,
        _: Duration,
    ) -> Result<(), Broken> {
        Ok(())
    }

    async fn delete(&self, _: &str) -> Result<(), Broken> {
        Ok(())
    }

    async fn publish(&self, _: &str) -> Result<(), Broken> {
        Ok(())
    }
}

/// A simulated remote level and origin, which processes share.
#[derive(Clone)]
pub(crate) struct World(Arc<Mutex<State>>);

#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// Keys that are here, but have no price, are absent.
    pub(crate) rows: HashMap<String, Option<u32>>,
    /// The entries, and when they expire.
    pub(crate) remote: HashMap<String, (Vec<u8>, Option<Instant>)>,
    /// The messages for each process. `None` if its channel is lost.
    pub(crate) messages: Vec<Option<Vec<String>>>,
    /// What calls of each kind do.
    pub(crate) plans: [Plan; 5],
    pub(crate) calls: Vec<Call>,
    /// The number of calls that are running, and the largest such number.
    running: usize,
    pub(crate) at_once: usize,
}

/// A call that has begun, and has neither ended nor been dropped.
struct Running<'a>(&'a World);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.lock().running -= 1;
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    Get(String),
    Set(String, Vec<u8>, Duration),
    Delete(String),
    Publish(String),
    Load(String),
}

/// How long a call takes before and after its effect, and how it ends.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Plan {
    pub(crate) before: Duration,
    pub(crate) after: Duration,
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Outcome {
    #[default]
    Ok,
    Error,
    Hang,
    Panic,
    /// A panic of `delete` before it returns a future.
    PanicWhenCalled,
}

impl Call {
    pub(crate) fn kind(&self) -> usize {
        match self {
            Self::Get(_) => GET,
            Self::Set(..) => SET,
            Self::Delete(_) => DELETE,
            Self::Publish(_) => PUBLISH,
            Self::Load(_) => LOAD,
        }
    }
}

impl State {
    /// What a call does and returns.
    pub(crate) fn execute(
        &mut self,
        call: &Call,
        now: Instant,
    ) -> Option<Stored> {
        match call {
            Call::Get(key) => {
                let (bytes, end) = self.remote.get(key)?.clone();
                let rest = |end: Instant| end.saturating_duration_since(now);
                let ttl = end.map_or(Duration::MAX, rest);
                // At its end, it is still there, with nothing left.
                return end
                    .is_none_or(|end| now <= end)
                    .then_some(Stored { bytes, ttl });
            }
            Call::Set(key, bytes, ttl) => {
                let entry = (bytes.clone(), now.checked_add(*ttl));
                self.remote.insert(key.clone(), entry);
            }
            Call::Delete(key) => _ = self.remote.remove(key),
            Call::Publish(key) => {
                let queues = self.messages.iter_mut().flatten();
                queues.for_each(|queue| queue.push(key.clone()));
            }
            Call::Load(_) => {}
        }
        None
    }

    pub(crate) fn row(&self, key: &str) -> Option<Price> {
        self.rows.get(key).copied().flatten().map(Price)
    }
}

impl World {
    pub(crate) fn new(processes: usize, rows: &[(&str, Option<u32>)]) -> Self {
        let rows = rows.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        let messages = vec![Some(Vec::new()); processes];
        let state = State { rows, messages, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Returns a process whose channel is lost.
    pub(crate) fn process(&self, config: Config) -> Levels<Self, Self> {
        Levels::new(config, self.clone(), self.clone())
    }

    /// Returns processes with a filter that has the keys of all rows.
    pub(crate) fn processes(&self, n: usize) -> Vec<Levels<Self, Self>> {
        let keys: Vec<_> = self.lock().rows.keys().cloned().collect();
        let process = |_| {
            let levels = self.process(config());
            levels.channel_restored(filter(&keys));
            levels
        };
        (0..n).map(process).collect()
    }

    pub(crate) fn write(&self, key: &str, row: Option<u32>) {
        self.lock().rows.insert(key.to_owned(), row);
    }

    /// Delivers all messages.
    pub(crate) fn deliver(&self, levels: &[Levels<Self, Self>]) {
        for (i, process) in levels.iter().enumerate() {
            self.deliver_to(i, process);
        }
    }

    pub(crate) fn deliver_to(&self, i: usize, process: &Levels<Self, Self>) {
        let queue = self.lock().messages[i].as_mut().map(std::mem::take);
        let messages = queue.unwrap_or_default();
        messages.iter().for_each(|key| process.on_invalidation(key));
    }

    fn begin(&self, call: &Call) -> (Plan, Running<'_>) {
        let mut state = self.lock();
        state.calls.push(call.clone());
        state.running += 1;
        state.at_once = state.at_once.max(state.running);
        (state.plans[call.kind()], Running(self))
    }

    pub(crate) async fn call(
        &self,
        call: Call,
    ) -> Result<Option<Stored>, Broken> {
        let (Plan { before, after, outcome }, _running) = self.begin(&call);
        wait(before).await;
        // Looked up again: it may have changed during the wait.
        let outcome = match outcome {
            Outcome::Ok => self.lock().plans[call.kind()].outcome,
            _ => outcome,
        };
        match outcome {
            Outcome::Ok | Outcome::PanicWhenCalled => {}
            Outcome::Error => return Err(Broken),
            Outcome::Hang => pending().await,
            Outcome::Panic => panic!("on purpose"),
        }
        let reply = self.lock().execute(&call, Instant::now());
        wait(after).await;
        Ok(reply)
    }

    pub(crate) fn expect(
        &self,
        key: &str,
        row: Option<u32>,
        seen: Result<Option<Price>, GetError<Broken>>,
    ) {
        let calls = &self.lock().calls;
        let latest = &calls[calls.len().saturating_sub(10)..];
        assert_eq!(
            seen.map(|value| value.map(|price| price.0)),
            Ok(row),
            "`get` of {key:?} (left), expected (right); the latest calls: \
             {latest:?}"
        );
    }
}

impl Remote for World {
    type Error = Broken;

    async fn get(&self, key: &str) -> Result<Option<Stored>, Broken> {
        self.call(Call::Get(key.to_owned())).await
    }

    async fn set(
        &self,
        key: &str,
        bytes: Vec<u8>,
        ttl: Duration,
    ) -> Result<(), Broken> {
        self.call(Call::Set(key.to_owned(), bytes, ttl)).await.map(drop)
    }

    fn delete(
        &self,
        key: &str,
    ) -> impl Future<Output = Result<(), Broken>> + Send {
        let outcome = self.lock().plans[DELETE].outcome;
        assert!(outcome != Outcome::PanicWhenCalled, "on purpose");
        let call = self.call(Call::Delete(key.to_owned()));
        async { call.await.map(drop) }
    }

    async fn publish(&self, key: &str) -> Result<(), Broken> {
        self.call(Call::Publish(key.to_owned())).await.map(drop)
    }
}

impl Origin for World {
    type Value = Price;
    type Error = Broken;

    async fn load(&self, key: &str) -> Result<Option<Price>, Broken> {
        let row = self.lock().row(key);
        self.call(Call::Load(key.to_owned())).await.map(|_| row)
    }
}

/// The rules, for calls one after the other.
pub(crate) struct Model {
    pub(crate) config: Config,
    pub(crate) state: State,
    pub(crate) now: Instant,
    pub(crate) processes: Vec<Process>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Process {
    pub(crate) entries: HashMap<String, Local>,
    pub(crate) keys: Option<HashSet<String>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Local {
    pub(crate) value: Option<Price>,
    pub(crate) since: Instant,
    pub(crate) ttl: Duration,
}

impl Model {
    pub(crate) fn call(
        &mut self,
        call: Call,
    ) -> Result<Option<Stored>, RemoteError<Broken>> {
        let plan = self.state.plans[call.kind()];
        let limit = if call.kind() == LOAD { 1_000 * SECOND } else { TIMEOUT };
        let (took, result) = match plan.outcome {
            Outcome::Ok if plan.before < limit => {
                let at = self.now + plan.before;
                let reply = self.state.execute(&call, at);
                (plan.before + plan.after, Ok(reply))
            }
            Outcome::Error => (plan.before, Err(RemoteError::Failed(Broken))),
            _ => (limit, Ok(None)),
        };
        self.state.calls.push(call);
        self.state.at_once = 1;
        self.now += took.min(limit);
        if took < limit { result } else { Err(RemoteError::TimedOut) }
    }

    pub(crate) fn get(
        &mut self,
        p: usize,
        key: &str,
        rand: f64,
    ) -> Result<Option<Price>, GetError<Broken>> {
        let process = &self.processes[p];
        if let Some(entry) = process.entries.get(key)
            && self.now - entry.since < entry.ttl
        {
            return Ok(entry.value);
        }
        if process.keys.as_ref().is_some_and(|keys| !keys.contains(key)) {
            return Ok(None);
        }
        let mut entry = self.fill(key.to_owned(), rand)?;
        let config = self.config;
        let unsynced = config.local_ttl.min(config.unsynced_ttl);
        let process = &mut self.processes[p];
        let ttl = process.keys.as_ref().map_or(unsynced, |_| config.local_ttl);
        entry.ttl = entry.ttl.min(self.config.life(ttl, rand));
        process.entries.insert(key.to_owned(), entry.clone());
        Ok(entry.value)
    }

    pub(crate) fn fill(
        &mut self,
        key: String,
        rand: f64,
    ) -> Result<Local, GetError<Broken>> {
        let since = self.now;
        let found = self.call(Call::Get(key.clone()));
        if let Ok(Some(Stored { bytes, ttl })) = &found {
            let value = match &**bytes {
                [0] => Some(None),
                [1, a, b, c, d] => Some(Price::decode(&[*a, *b, *c, *d])),
                _ => None,
            };
            if let Some(value) = value {
                return Ok(Local { value, since, ttl: *ttl });
            }
            let _ = self.call(Call::Delete(key.clone()));
        }
        if found.is_err() && self.config.loads_without_remote == 0 {
            return Err(GetError::Refused);
        }
        let since = self.now;
        let value = self.state.row(&key);
        let load = self.call(Call::Load(key.clone()));
        load.map_err(|_| GetError::Origin(Broken))?;
        let (bytes, ttl) = match value {
            Some(price) => {
                ([vec![1], price.encode()].concat(), self.config.remote_ttl)
            }
            None => (vec![0], self.config.negative_ttl),
        };
        let ttl = self.config.life(ttl, rand);
        let rest = ttl.saturating_sub(self.now - since);
        if found.is_ok() && !rest.is_zero() {
            let _ = self.call(Call::Set(key, bytes, rest));
        }
        Ok(Local { value, since, ttl })
    }

    pub(crate) fn invalidate(
        &mut self,
        p: usize,
        key: &str,
    ) -> Result<(), RemoteError<Broken>> {
        let deleted = self.call(Call::Delete(key.to_owned()));
        self.forget(p, key);
        let published = self.call(Call::Publish(key.to_owned()));
        deleted.and(published).map(drop)
    }

    pub(crate) fn forget(&mut self, p: usize, key: &str) {
        let Process { entries, keys } = &mut self.processes[p];
        entries.remove(key);
        keys.as_mut().map(|keys| keys.insert(key.to_owned()));
    }
}

pub(crate) trait Life {
    fn life(&self, ttl: Duration, rand: f64) -> Duration;
}

impl Life for Config {
    fn life(&self, ttl: Duration, rand: f64) -> Duration {
        ttl - ttl.mul_f64(self.jitter * rand)
    }
}

/// Returns the digits of a number with these bases.
pub(crate) fn digits<const N: usize>(
    mut number: usize,
    bases: [usize; N],
) -> [usize; N] {
    bases.map(|base| {
        let digit = number % base;
        number /= base;
        digit
    })
}

/// Runs a test in paused time, which advances when all tasks wait.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let mut runtime = Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build();
    // Without the box, `block_on` would be compiled for each test.
    let test: Pin<Box<dyn Future<Output = T> + '_>> = Box::pin(test);
    runtime.unwrap().block_on(async {
        let test = timeout(1_000_000 * SECOND, test).await;
        test.expect("a call of `get` or `invalidate` never returns")
    })
}

/// Waits, and for at least one poll.
pub(crate) async fn wait(time: Duration) {
    if !time.is_zero() {
        return sleep(time).await;
    }
    let mut is_first = true;
    poll_fn(|context| {
        if !std::mem::take(&mut is_first) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// Polls `future` at most `n` times.
pub(crate) fn poll_times<F: Future>(
    n: usize,
    future: &mut Pin<Box<F>>,
) -> Option<F::Output> {
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..n {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
    }
    None
}

/// Returns `None` if `future` panics.
pub(crate) async fn catch<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|context| {
        let poll = AssertUnwindSafe(|| future.as_mut().poll(context));
        catch_unwind(poll).map_or(Poll::Ready(None), |poll| poll.map(Some))
    })
    .await
}
