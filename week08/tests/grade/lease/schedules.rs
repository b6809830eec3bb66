//! Runs clients of a cache and a database in every order of their actions.

use std::time::{Duration, Instant};

use week08::lease::{
    Action, Cache, Config, Event, Lease, Lookup, Reader, Refused,
};

pub(crate) const CONFIG: Config = Config {
    lease: Duration::from_secs(10),
    retry_after: Duration::from_millis(50),
    ttl: Duration::from_secs(86_400),
};

/// The database begins with this value.
pub(crate) const OLD: u64 = 10;

/// The lease of a cache without leases.
pub(crate) const NO_LEASE: Lease = Lease(u64::MAX);

/// The longest run of a client. A correct client needs at most 5 actions.
const MAX_ACTIONS: usize = 8;

pub(crate) type Key = &'static str;
pub(crate) type Step = Box<dyn FnMut(Event<u64>) -> Action<u64>>;

/// Performs an action that concerns the cache.
pub(crate) type Store =
    Box<dyn FnMut(&Action<u64>, Key, Instant) -> Event<u64>>;

pub(crate) fn with_leases(now: Instant) -> Store {
    let mut cache = Cache::new(CONFIG, now);
    Box::new(move |action, key, now| match action {
        Action::Get => Event::Found(cache.get(&key, now)),
        Action::Fill(lease, value) => {
            Event::Filled(cache.fill(&key, *lease, *value, now))
        }
        _ => {
            cache.delete(&key, now);
            Event::Deleted
        }
    })
}

pub(crate) struct Client {
    name: String,
    key: Key,
    step: Step,
    next: Action<u64>,
    actions: usize,
    crashed: bool,
    /// The number of the version that this client has written.
    version: Option<usize>,
    /// The latest version whose write was done when this client started.
    at_least: usize,
}

impl Client {
    pub(crate) fn new(name: String, key: Key, mut step: Step) -> Self {
        let next = step(Event::Started);
        let (crashed, version) = (false, None);
        Self {
            name,
            key,
            step,
            next,
            actions: 0,
            crashed,
            version,
            at_least: 0,
        }
    }

    pub(crate) fn reader(number: usize, key: Key) -> Self {
        let mut reader = Reader::new(1);
        let step = Box::new(move |event| reader.step(event));
        Self::new(format!("reader {number}"), key, step)
    }

    fn is_done(&self) -> bool {
        matches!(self.next, Action::Done(_))
    }
}

/// Clients, their cache, and for each key all values of the database.
pub(crate) struct Run {
    now: Instant,
    store: Store,
    clients: Vec<Client>,
    crashes: usize,
    expiries: usize,
    database: Vec<(Key, Vec<u64>)>,
    log: Vec<String>,
    is_logged: bool,
}

#[derive(Clone, Copy)]
enum Choice {
    Act(usize),
    Crash(usize),
    Expire,
}

impl Run {
    /// `limits`: how many clients may crash, and how often the time of a lease
    /// may pass.
    pub(crate) fn new(
        now: Instant,
        store: Store,
        clients: Vec<Client>,
        limits: [usize; 2],
    ) -> Self {
        let mut database: Vec<_> =
            clients.iter().map(|c| (c.key, vec![OLD])).collect();
        database.sort_unstable();
        database.dedup();
        let (log, is_logged) = (Vec::new(), false);
        let [crashes, expiries] = limits;
        Self {
            now,
            store,
            clients,
            crashes,
            expiries,
            database,
            log,
            is_logged,
        }
    }

    fn choices(&self) -> Vec<Choice> {
        let (mut choices, mut started) = (Vec::new(), false);
        for (i, client) in self.clients.iter().enumerate() {
            if client.crashed || client.is_done() {
                continue;
            }
            choices.push(Choice::Act(i));
            if client.actions > 0 {
                started = true;
                choices.extend((self.crashes > 0).then_some(Choice::Crash(i)));
            }
        }
        choices
            .extend((started && self.expiries > 0).then_some(Choice::Expire));
        choices
    }

    /// Performs a choice. Returns an error if a client has a wrong result.
    fn perform(&mut self, choice: Choice) -> Result<(), String> {
        match choice {
            Choice::Act(i) => return self.act(i),
            Choice::Crash(i) => {
                self.crashes -= 1;
                self.clients[i].crashed = true;
                self.log.push(format!("{}: crash", self.clients[i].name));
            }
            Choice::Expire => {
                self.expiries -= 1;
                self.now += CONFIG.lease;
                self.log.push(format!("{:?} pass", CONFIG.lease));
            }
        }
        Ok(())
    }

    fn act(&mut self, i: usize) -> Result<(), String> {
        let key = self.clients[i].key;
        let same_key = self.clients.iter().filter(|c| c.key == key);
        let done = same_key.filter(|c| c.is_done()).filter_map(|c| c.version);
        let newest_done = done.max().unwrap_or(0);
        let client = &mut self.clients[i];
        let row = self.database.iter_mut().find(|row| row.0 == key);
        let values = &mut row.expect("a row for each key").1;
        if client.actions == 0 {
            client.at_least = newest_done;
        }
        client.actions += 1;
        let name = &client.name;
        if client.actions > MAX_ACTIONS {
            client.crashed = true;
            return Err(format!("{name} acts more than {MAX_ACTIONS} times"));
        }
        let event = match client.next {
            Action::Load => Event::Loaded(values[values.len() - 1]),
            Action::Wait(time) => {
                self.now += time.min(CONFIG.ttl);
                Event::Waited
            }
            Action::Commit(value) => {
                client.version = Some(values.len());
                values.push(value);
                Event::Committed
            }
            _ => (self.store)(&client.next, key, self.now),
        };
        if self.is_logged {
            let text = describe(&client.next, &event, key);
            self.log.push(format!("{name}: {text}"));
        }
        client.next = (client.step)(event);
        let Action::Done(value) = client.next else { return Ok(()) };
        let version = values.iter().position(|v| *v == value);
        if version.is_some_and(|version| version >= client.at_least) {
            return Ok(());
        }
        let expected = values[client.at_least];
        Err(format!(
            "{name} returns {value}, although the write of {expected} was done \
             when {name} started"
        ))
    }

    /// Compares cache and database when all clients have ended.
    fn end(&mut self) -> Result<(), String> {
        let mut now = self.now;
        for (key, values) in &self.database {
            let gap = |c: &Client| c.crashed && c.version.is_some();
            let gap = self.clients.iter().any(|c| c.key == *key && gap(c));
            let mut get = |now| match (self.store)(&Action::Get, key, now) {
                Event::Found(found) => found,
                event => panic!("{event:?} after `Action::Get`"),
            };
            let newest = values[values.len() - 1];
            let expired = now + CONFIG.lease;
            let wrong = match (get(now), get(expired)) {
                (Lookup::Hit(value), _) if value != newest && !gap => {
                    format!(
                        "the cache has {key} = {value}, the database {newest}"
                    )
                }
                (_, Lookup::Busy { .. }) => {
                    format!("{:?} later, {key} is still busy", CONFIG.lease)
                }
                _ => match get(expired + CONFIG.ttl) {
                    Lookup::Miss(_) => String::new(),
                    found => format!("{key} is {found:?} after its ttl"),
                },
            };
            if !wrong.is_empty() {
                return Err(format!("all have ended: {wrong}"));
            }
            now = expired + CONFIG.ttl;
        }
        Ok(())
    }
}

fn describe(action: &Action<u64>, event: &Event<u64>, key: Key) -> String {
    match (action, event) {
        (_, Event::Found(Lookup::Hit(value))) => {
            format!("get {key} → hit, {value}")
        }
        (_, Event::Found(Lookup::Miss(NO_LEASE))) => {
            format!("get {key} → miss")
        }
        (_, Event::Found(Lookup::Miss(Lease(lease)))) => {
            format!("get {key} → miss, lease {lease}")
        }
        (_, Event::Found(Lookup::Busy { .. })) => format!("get {key} → busy"),
        (_, Event::Loaded(value)) => format!("load {key} → {value}"),
        (Action::Fill(NO_LEASE, value), _) => format!("set {key} = {value}"),
        (Action::Fill(lease, value), Event::Filled(filled)) => {
            let refused = *filled == Err(Refused);
            let result = if refused { "refused" } else { "stored" };
            format!("set {key} = {value}, lease {} → {result}", lease.0)
        }
        (Action::Commit(value), _) => format!("commit {key} = {value}"),
        (Action::Wait(time), _) => format!("wait {time:?}"),
        _ => format!("delete {key}"),
    }
}

/// The result of all schedules.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) schedules: usize,
    pub(crate) wrong: usize,
    /// The actions of the shortest schedule that goes wrong, and its error.
    pub(crate) shortest: Option<Vec<String>>,
}

/// Runs every schedule, or the first `limit` of them: a tenth if some go wrong.
pub(crate) fn explore(limit: usize, new: impl Fn() -> Run) -> Report {
    let mut report = Report::default();
    // For each point of the schedule, the choice and the number of choices.
    let mut path: Vec<(usize, usize)> = Vec::new();
    let mut shortest = usize::MAX;
    while report.schedules < limit / if report.wrong > 0 { 10 } else { 1 } {
        report.schedules += 1;
        if let Err((length, error)) = play(&mut new(), &mut path) {
            report.wrong += 1;
            if length < shortest {
                shortest = length;
                let mut run = Run { is_logged: true, ..new() };
                _ = play(&mut run, &mut path);
                run.log.truncate(length);
                run.log.push(error);
                report.shortest = Some(run.log);
            }
        }
        while let Some((choice, choices)) = path.pop() {
            if choice + 1 < choices {
                path.push((choice + 1, choices));
                break;
            }
        }
        if path.is_empty() {
            break;
        }
    }
    report
}

/// Plays the schedule `path`, and then the first choice until the end. Returns
/// the first error, and the number of choices before it.
fn play(
    run: &mut Run,
    path: &mut Vec<(usize, usize)>,
) -> Result<(), (usize, String)> {
    let mut result = Ok(());
    let mut point = 0;
    loop {
        let choices = run.choices();
        if choices.is_empty() {
            return result.and_then(|()| run.end().map_err(|e| (point, e)));
        }
        if point == path.len() {
            path.push((0, choices.len()));
        }
        let performed = run.perform(choices[path[point].0]);
        point += 1;
        result = result.and_then(|()| performed.map_err(|e| (point, e)));
    }
}
