use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::panic::{panic_any, resume_unwind, set_hook};
use std::pin::Pin;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use std::{env, fmt, fs, io, iter, mem, thread};

use rustix::process::{Pid, Signal, getpid, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net;
use tokio::runtime::Builder;
use tokio::sync::{Notify, Semaphore, mpsc as tasks};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use week03::signals::{BoxError, Part, run};

/// The time between two checks of a condition. Limits are counted in ticks, so
/// they are longer on a slow machine.
const TICK: Duration = Duration::from_millis(5);

/// The limit for an event that has to come at once.
const TICKS: u32 = 600;

/// The same for the start of a process, and for every event of another program.
const LONG_TICKS: u32 = 2000;

/// The limit for the exit at the second signal.
const EXIT_TICKS: u32 = 400;

/// The limit for a process to settle.
const SETTLE_TICKS: u32 = 120;

/// The limit for a response.
const DEADLINE: Duration = Duration::from_secs(8);

/// A signal that follows the first one within this time repeats it.
const REPETITION: Duration = Duration::from_millis(100);

/// From this time after the first signal on, a signal is the second one.
const SECOND: Duration = Duration::from_millis(300);

/// How a part can end. The first one never fails.
const ENDS: [&str; 3] = ["cancel-and-ok", "ok", "fail"];

/// The signals that request a shutdown.
const REQUESTS: [Signal; 3] = [Signal::TERM, Signal::INT, Signal::QUIT];

/// The signals that the process handles.
const HANDLED: [Signal; 4] =
    [Signal::HUP, Signal::TERM, Signal::INT, Signal::QUIT];

/// Checks `condition` once in each tick. Returns whether it became true.
fn becomes_true(ticks: u32, mut condition: impl FnMut() -> bool) -> bool {
    (0..ticks).any(|_| {
        condition() || {
            thread::park_timeout(TICK);
            false
        }
    })
}

/// The command of another program to grade, in place of the grader's own child.
const PROGRAM: &str = "WB_PROGRAM";

/// The address on which the process has to listen.
const ADDRESS: &str = "ADDRESS";

/// If this variable is set, this program is the child. It serves HTTP, or obeys
/// a [`Script`] in a runtime with one thread, with two threads, or with one
/// thread on which every timer of tokio expires at once.
const CHILD: &str = "WB_SIGNALS_CHILD";
const SERVES: &str = "serves";
const ONE_THREAD: &str = "one thread";
const TWO_THREADS: &str = "two threads";
const FAST_CLOCK: &str = "fast clock";

/// Obeys a script, too. The call of `start` first sends itself this signal.
const SIGNALS_ITSELF: &str = "signals itself: ";

/// Begins each line that the child prints for a script.
const SAYS: &str = "child says: ";

/// The number of the child's parts is at most this.
const PARTS: usize = 130;

/// The test that runs the child, if [`CHILD`] is set.
const CHILD_TEST: &str =
    "shutdown::the_first_signal_drains_requests_and_the_exit_code_is_0";

/// The process that is graded. Killed on drop.
struct Process {
    child: Child,
    address: SocketAddr,
    /// The lines that it prints.
    lines: mpsc::Receiver<String>,
    /// The limit for each event.
    ticks: u32,
}

impl Process {
    /// Starts a process that serves.
    fn start() -> Self {
        let mut seen = String::new();
        // Another program may take the port just then.
        for _ in 0..3 {
            let mut process = Self::start_at(free_port());
            if process.listens() {
                // The port is open before startup is over. A response shows
                // that the parts run.
                drop(process.body("/version"));
                return process;
            }
            seen = process.end().to_string();
        }
        panic!(
            "expected the process to listen on the address in `{ADDRESS}`; it \
             ended before that, in each of 3 starts: {seen}"
        );
    }

    fn start_at(address: SocketAddr) -> Self {
        let mut command = match env::var(PROGRAM) {
            Ok(program) => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", &format!("exec {program}")]);
                shell
            }
            Err(_) => own_child(SERVES),
        };
        Self::spawn(&mut command, address)
    }

    fn spawn(command: &mut Command, address: SocketAddr) -> Self {
        let command = &mut with_default_signals(command);
        let command = command.env(ADDRESS, address.to_string());
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child.spawn().expect("cannot start the process");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (line_sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let stdout = BufReader::new(stdout).lines();
            // Reads to the end, so that the process never blocks on a full
            // pipe.
            stdout
                .map_while(Result::ok)
                .for_each(|line| drop(line_sender.send(line)));
        });
        Self { child, address, lines, ticks: LONG_TICKS }
    }

    fn limit(&self) -> Duration {
        TICK * self.ticks
    }

    /// Waits until the port is open, or the process has ended. Returns whether
    /// it still runs.
    fn listens(&mut self) -> bool {
        let has_begun = becomes_true(self.ticks, || {
            !self.runs() || TcpStream::connect(self.address).is_ok()
        });
        assert!(
            has_begun,
            "expected the process to listen on {}, the address in \
             `{ADDRESS}`; clients cannot connect {:?} after its start",
            self.address,
            self.limit()
        );
        self.startup_is_over();
        self.runs()
    }

    /// From now on, the grader's own child has to react at once.
    fn startup_is_over(&mut self) {
        if !is_foreign() {
            self.ticks = TICKS;
        }
    }

    fn send(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        if let Err(error) = kill_process(pid, signal) {
            let signal = name(signal);
            panic!("the process ended before {signal} was sent: {error}");
        }
    }

    /// Waits until the process has handled all earlier signals: no signal is
    /// pending, and between two checks all threads sleep. If the process is
    /// never idle, or if there is no `/proc`, the limit passes instead.
    fn settles(&self) {
        let mut last = None;
        becomes_true(SETTLE_TICKS, || {
            let seen = self.sleeping_threads();
            let has_settled = seen.is_some() && seen == last;
            last = seen;
            has_settled
        });
    }

    /// Returns the status of each thread, with the number of its context
    /// switches. Returns `None` if a thread runs or a signal is pending.
    fn sleeping_threads(&self) -> Option<Vec<String>> {
        let folder = format!("/proc/{}/task", self.child.id());
        let status = |thread: io::Result<fs::DirEntry>| {
            let file = thread.ok()?.path().join("status");
            let status = fs::read_to_string(file).ok()?;
            // A process that has ended is in state Z.
            let states = ["State:\tS", "State:\tZ"];
            let sleeps = states.iter().any(|line| status.contains(line));
            let is_pending = !status.contains("ShdPnd:\t0000000000000000\n");
            (sleeps && !is_pending).then_some(status)
        };
        fs::read_dir(folder).ok()?.map(status).collect()
    }

    fn request(&self, path: &str) -> Request {
        let address = self.address;
        let mut stream = TcpStream::connect(address).unwrap_or_else(|error| {
            panic!("cannot connect to {address} for GET {path}: {error}")
        });
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
        );
        if let Err(error) = stream.write_all(request.as_bytes()) {
            panic!("cannot send GET {path}: {error}");
        }
        Request { path: path.to_owned(), stream }
    }

    /// Returns the body of a response that comes at once.
    fn body(&self, path: &str) -> String {
        self.request(path).body("while the process serves").trim().to_owned()
    }

    /// Begins requests that are in flight until [`release`](Self::release).
    fn slow_requests(&self) -> Vec<Request> {
        // The grader cannot release a request of another program.
        let paths = match is_foreign() {
            true => &["/slow?ms=1500", "/slow?ms=300", "/slow?ms=1000"][..],
            false => &["/waits"],
        };
        paths.iter().map(|path| self.begin(path)).collect()
    }

    /// Begins a request that stays in flight.
    fn endless_request(&self) -> Request {
        self.begin(if is_foreign() { "/slow?ms=60000" } else { "/waits" })
    }

    fn begin(&self, path: &str) -> Request {
        let request = self.request(path);
        if is_foreign() {
            // After these responses, the earlier request has surely arrived.
            (0..10).for_each(|_| drop(self.body("/version")));
        } else {
            let has_begun =
                becomes_true(self.ticks, || self.body("/begun") == "1");
            assert!(has_begun, "the handler of GET {path} was not called");
        }
        request
    }

    fn release(&mut self) {
        if !is_foreign() {
            // The child reads its stdin to the end, and then releases a
            // request.
            drop(self.child.stdin.take());
        }
    }

    /// Waits until the port is closed.
    fn closes_its_port(&self, when: &str) {
        let is_closed = becomes_true(self.ticks, || {
            TcpStream::connect(self.address).is_err()
        });
        assert!(
            is_closed,
            "expected the port to be closed {when}; clients can still connect \
             to {} after {:?}",
            self.address,
            self.limit()
        );
    }

    #[track_caller]
    fn exits_with(&mut self, code: i32, when: &str) {
        self.exits_within(self.ticks, Some(code), when);
    }

    /// Checks for exit code 1, or for any code but 0 of another program.
    #[track_caller]
    fn exits_with_a_failure(&mut self, when: &str) {
        let code = (!is_foreign()).then_some(1);
        self.exits_within(self.ticks, code, when);
    }

    /// Waits until the process exits, and checks its exit code. `None` stands
    /// for any code but 0.
    #[track_caller]
    fn exits_within(&mut self, ticks: u32, code: Option<i32>, when: &str) {
        let has_ended = becomes_true(ticks, || !self.runs());
        assert!(
            has_ended,
            "expected the process to exit {when}; it still runs after {:?}",
            TICK * ticks
        );
        let ended = self.end();
        let expected =
            code.map_or("other than 0".to_owned(), |code| code.to_string());
        assert!(
            code.map_or(ended.code() > 0, |code| ended.code() == code),
            "expected exit code {expected} {when}; {ended}"
        );
    }

    /// Checks that the requests are answered, and that the process runs until
    /// then.
    #[track_caller]
    fn answers(&mut self, requests: Vec<Request>, when: &str) {
        for request in requests {
            let path = request.path.clone();
            let has_ended = || self.ended().map(|ended| ended.to_string());
            if let Err(seen) = request.response_unless(has_ended) {
                panic!(
                    "expected a response with status 200 to GET {path} \
                     {when}; {seen}"
                );
            }
        }
    }

    /// Returns the signals that Linux reports in a line of the process's status
    /// in `/proc`, as a mask. Without `/proc`, returns `None`.
    fn mask(&self, line: &str) -> Option<u64> {
        mask(&self.child.id().to_string(), line)
    }

    fn runs(&mut self) -> bool {
        self.ended().is_none()
    }

    fn ended(&mut self) -> Option<Ended> {
        self.child.try_wait().expect("a child process").map(Ended)
    }

    /// Returns how a process ended that has already ended.
    fn end(&mut self) -> Ended {
        Ended(self.child.wait().expect("a child process"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if a test has already waited for the end of the process.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a process has ended.
struct Ended(ExitStatus);

impl Ended {
    /// Returns the exit code as shells report it: 128 + *n* for a process that
    /// signal *n* has killed, and for a process that exits with this code.
    fn code(&self) -> i32 {
        let signal = || 128 + self.0.signal().expect("no code, so a signal");
        self.0.code().unwrap_or_else(signal)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the process ended with {}", self.0)
    }
}

fn name(signal: Signal) -> String {
    let name =
        format!("{signal:?}").replace('"', "").replace("Signal::", "SIG");
    name.replace("ALARM", "ALRM").replace("CHILD", "CHLD")
}

/// Returns a mask of signals from a line of `/proc/PROCESS/status`.
fn mask(process: &str, line: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let mask = status.lines().find_map(|text| text.strip_prefix(line))?;
    let mask = mask.trim_start_matches(':').trim();
    let mask = u64::from_str_radix(mask, 16).ok()?;
    // The C library uses 32 and 33 for itself.
    Some(mask & !(0b11 << 31))
}

fn bit(signal: Signal) -> u64 {
    1 << (signal.as_raw() - 1)
}

struct Request {
    path: String,
    stream: TcpStream,
}

impl Request {
    /// Returns the body of the response, or what was seen instead.
    fn response(self) -> Result<String, String> {
        self.response_unless(|| None)
    }

    /// The same. Returns an error if the process has ended before the response
    /// has come.
    fn response_unless(
        mut self,
        mut has_ended: impl FnMut() -> Option<String>,
    ) -> Result<String, String> {
        let _ = self.stream.set_read_timeout(Some(TICK));
        let mut response = Vec::new();
        let mut buffer = [0; 1024];
        let mut ticks = 0;
        loop {
            // Before the read: a response that has come stays readable.
            let ended = has_ended();
            match self.stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => response.extend_from_slice(&buffer[..n]),
                Err(error) => match (error.kind(), ended) {
                    (ErrorKind::WouldBlock | ErrorKind::TimedOut, None) => {}
                    (_, Some(ended)) => {
                        return Err(format!("{ended} before the response"));
                    }
                    _ => return Err(format!("reading it failed: {error}")),
                },
            }
            ticks += 1;
            if TICK * ticks > DEADLINE {
                return Err(format!(
                    "the connection is still open after {DEADLINE:?}"
                ));
            }
        }
        let response = String::from_utf8_lossy(&response);
        let Some((head, body)) = response.split_once("\r\n\r\n") else {
            return Err(format!("the connection ended after {response:?}"));
        };
        if !head.starts_with("HTTP/1.1 200") {
            return Err(format!("the response began with {head:?}"));
        }
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim())
        });
        if length == Some(&body.len().to_string()) {
            return Ok(body.to_owned());
        }
        Err(format!(
            "the body has {} bytes, and the `Content-Length` is {length:?}",
            body.len()
        ))
    }

    #[track_caller]
    fn body(self, when: &str) -> String {
        let path = self.path.clone();
        match self.response() {
            Ok(body) => body,
            Err(seen) => panic!(
                "expected a response with status 200 to GET {path} {when}; \
                 {seen}"
            ),
        }
    }
}

/// Returns the command that runs this program as the child.
fn own_child(kind: &str) -> Command {
    let own = env::current_exe().expect("this program's file");
    let (_crate, module) = module_path!().split_once("::").unwrap();
    let test = format!("{module}::{CHILD_TEST}");
    let mut own = Command::new(own);
    own.args(["--exact", &test, "--nocapture"]).env(CHILD, kind);
    own
}

/// Returns a command that runs `command` with the default dispositions of the
/// signals that the process handles. They are inherited: the grader itself may
/// run in the background of a script, which ignores SIGINT.
fn with_default_signals(command: &Command) -> Command {
    let ignored = mask("self", "SigIgn").unwrap_or(0);
    let mut env = match HANDLED.iter().any(|of| ignored & bit(*of) != 0) {
        true => {
            let mut env = Command::new("env");
            env.arg("--default-signal=HUP,TERM,INT,QUIT");
            env.arg(command.get_program());
            env
        }
        false => Command::new(command.get_program()),
    };
    env.args(command.get_args());
    for (name, value) in command.get_envs() {
        env.env(name, value.expect("no variable is removed"));
    }
    env
}

/// Calls `work` with each item, in up to sixteen threads at a time.
fn in_parallel<T: Copy + Send + Sync>(
    items: impl IntoIterator<Item = T>,
    work: impl Fn(T) + Sync,
) {
    let work: &(dyn Fn(T) + Sync) = &work;
    for items in items.into_iter().collect::<Vec<_>>().chunks(16) {
        thread::scope(|scope| {
            let spawn = |item: T| scope.spawn(move || work(item));
            let threads: Vec<_> = items.iter().copied().map(spawn).collect();
            for thread in threads {
                thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            }
        });
    }
}

/// Returns whether another program is graded, about which less is known.
fn is_foreign() -> bool {
    env::var_os(PROGRAM).is_some()
}

/// Ends a test that cannot be asked of another program.
macro_rules! own_child_only {
    ($why_not:literal) => {
        if is_foreign() {
            println!("not asked of a program: {}", $why_not);
            return;
        }
    };
}

/// Returns a port below the range that the system gives to clients. In that
/// range, a client that connects to a closed port again and again may get this
/// very port as its own, and connect to itself. The port is not opened here: a
/// process that another thread starts would inherit it for a moment.
fn free_port() -> SocketAddr {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let ports = iter::repeat_with(|| {
        let n = std::process::id() + 997 * TRIED.fetch_add(1, Relaxed);
        let port = 20_000 + u16::try_from(n % 10_000).expect("below 10,000");
        SocketAddr::from(([127, 0, 0, 1], port))
    });
    let mut free = ports.filter(|port| TcpStream::connect(port).is_err());
    free.next().expect("the iterator is endless")
}

/// Drives a child by commands and signals, and predicts what it does.
///
/// The child says what happens in `start` (number 0) and in each part (from 1
/// on). They end only when they are told to. `reload` spawns a task that says
/// `reloaded`.
struct Script {
    process: Process,
    /// The steps so far, for messages.
    steps: Vec<String>,
    /// The signals that were ignored when the process started.
    ignored: Vec<Signal>,
    /// `start` or the parts that have not ended.
    running: BTreeSet<usize>,
    is_cancelled: bool,
    has_failed: bool,
    /// When the first signal had been handled.
    first: Option<Instant>,
    /// A blocking task keeps the process alive after `run` has returned.
    has_blocking_task: bool,
}

impl Script {
    fn start(kind: &str, ignored: &[Signal]) -> Self {
        let mut child = own_child(kind);
        if !ignored.is_empty() {
            // An ignored signal is inherited. 64 is the highest one.
            let signals: Vec<_> =
                ignored.iter().map(|of| of.as_raw().to_string()).collect();
            let ignore = format!("trap '' {} 64; exec", signals.join(" "));
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", &format!("{ignore} \"$0\" \"$@\"")]);
            shell.arg(child.get_program()).args(child.get_args());
            shell.env(CHILD, kind);
            child = shell;
        }
        let process = Process::spawn(&mut child, free_port());
        let mut script = Self {
            process,
            steps: vec![format!("a start with {kind}, {ignored:?} ignored")],
            ignored: ignored.to_vec(),
            running: BTreeSet::from([0]),
            is_cancelled: false,
            has_failed: false,
            first: None,
            has_blocking_task: false,
        };
        let hangs_up = kind.strip_prefix(SIGNALS_ITSELF) == Some("1");
        let lines = ["begun 0", "reloaded"].map(str::to_owned);
        script.expect(lines.into_iter().take(1 + usize::from(hangs_up)));
        script.process.startup_is_over();
        script
    }

    /// The same, and completes `start` with so many parts, unless with 0.
    fn with_parts(kind: &str, parts: usize) -> Self {
        let mut script = Self::start(kind, &[]);
        if parts > 0 {
            script.complete_start(parts);
        }
        script
    }

    /// Waits for these lines, in any order. No other lines may come.
    fn expect(&mut self, lines: impl IntoIterator<Item = String>) {
        let mut expected: BTreeSet<_> = lines.into_iter().collect();
        while !expected.is_empty() {
            let after = &self.steps;
            let lines = &self.process.lines;
            let limit = self.process.limit();
            let Ok(line) = lines.recv_timeout(limit) else {
                let seen = match self.process.ended() {
                    Some(ended) => ended.to_string(),
                    None => format!("nothing after {limit:?}"),
                };
                panic!("expected {expected:?} after {after:?}; seen: {seen}");
            };
            let Some((_, line)) = line.split_once(SAYS) else { continue };
            assert!(
                expected.remove(line),
                "expected {expected:?} after {after:?}; seen: {line:?}"
            );
        }
    }

    fn tell(&mut self, number: usize, command: &str) {
        self.steps.push(match number {
            0 => format!("`{command}` in start"),
            RELOAD => format!("`{command}` in reload"),
            _ => format!("`{command}` in part {number}"),
        });
        let stdin = self.process.child.stdin.as_mut().expect("stdin is open");
        if let Err(error) = writeln!(stdin, "{number} {command}") {
            let ended = self.process.ended();
            let seen = ended.map_or(error.to_string(), |it| it.to_string());
            panic!("expected a process after {:?}; {seen}", self.steps);
        }
    }

    fn send(&mut self, signal: Signal) {
        self.steps.push(name(signal));
        self.process.send(signal);
    }

    /// Predicts the lines that tell of a cancellation.
    fn cancellation(&mut self) -> Vec<String> {
        match mem::replace(&mut self.is_cancelled, true) {
            true => Vec::new(),
            false => self.running.iter().map(cancelled).collect(),
        }
    }

    fn complete_start(&mut self, parts: usize) {
        self.tell(0, &format!("ok {parts}"));
        self.running = (1..=parts).collect();
        let begun = self.running.iter().map(|part| format!("begun {part}"));
        let seen = self.running.iter().filter(|_| self.is_cancelled);
        let ends = iter::once("ends 0".to_owned());
        let lines = begun.chain(seen.map(cancelled)).chain(ends);
        self.expect(lines.collect::<Vec<_>>());
        self.end_if_nothing_runs();
    }

    /// Ends `start` or a part. `how` is one of [`ENDS`].
    fn end(&mut self, number: usize, how: &str) {
        self.tell(number, how);
        self.running.remove(&number);
        self.has_failed |= match how {
            "ok" => !self.is_cancelled,
            _ => how == "fail",
        };
        let mut lines = self.cancellation();
        lines.push(format!("ends {number}"));
        self.expect(lines);
        if !self.running.is_empty() {
            self.hang_up();
        }
        self.end_if_nothing_runs();
    }

    fn end_if_nothing_runs(&mut self) {
        if !self.running.is_empty() {
            return;
        }
        if self.has_blocking_task {
            return self.expect(["returned".to_owned()]);
        }
        let when = format!("after {:?}", self.steps);
        self.process.exits_with(self.has_failed.into(), &when);
    }

    fn cancel_token(&mut self, number: usize) {
        self.tell(number, "cancel");
        let lines = self.cancellation();
        self.expect(lines);
    }

    /// Sends a signal that is not the second one, together with a SIGHUP.
    fn signal(&mut self, signal: Signal) {
        self.send(signal);
        self.send(Signal::HUP);
        self.process.settles();
        let mut lines = self.reloaded();
        if !self.ignored.contains(&signal) {
            lines.extend(self.cancellation());
            self.first.get_or_insert_with(Instant::now);
        }
        self.expect(lines);
        self.hang_up();
    }

    fn hang_up(&mut self) {
        self.send(Signal::HUP);
        let lines = self.reloaded();
        self.expect(lines);
    }

    /// Predicts the line that tells of a SIGHUP.
    fn reloaded(&self) -> Vec<String> {
        let is_ignored = self.ignored.contains(&Signal::HUP);
        if is_ignored { Vec::new() } else { vec!["reloaded".to_owned()] }
    }

    /// Lets the next call of `reload` do this before it ends.
    fn hang_up_with(&mut self, command: &str) {
        self.tell(RELOAD, command);
        self.expect([format!("reload will {command}")]);
        self.send(Signal::HUP);
        self.expect([format!("reload does {command}")]);
    }

    /// Forces the exit by a second signal, after a first one if necessary.
    fn force(&mut self, [first, second]: [Signal; 2]) {
        self.send(Signal::HUP);
        if self.first.is_none() {
            self.send(first);
            self.process.settles();
            self.first = Some(Instant::now());
        }
        wait_until(self.first.expect("sent above") + SECOND);
        self.send(second);
        let when = format!("at once after {:?}", self.steps);
        let code = Some(128 + second.as_raw());
        self.process.exits_within(EXIT_TICKS, code, &when);
    }

    /// Takes a random step that ends neither all parts nor the process.
    fn step(&mut self, random: &mut Random, can_fail: bool) {
        let running: Vec<_> = self.running.iter().copied().collect();
        let number = running[random.below(running.len())];
        match random.below(8) {
            0 if number == 0 => self.complete_start(2 + random.below(3)),
            0 | 1 if running.len() > 1 => {
                let ends = if can_fail { &ENDS } else { &ENDS[..1] };
                self.end(number, ends[random.below(ends.len())]);
            }
            2 if number != 0 || random.below(2) == 0 => {
                self.cancel_token(number);
            }
            3 | 4 if self.first.is_none() => {
                self.signal(REQUESTS[random.below(3)]);
            }
            _ => self.hang_up(),
        }
    }

    /// Ends `start` and all parts, and so the process.
    fn finish(&mut self, random: &mut Random, can_fail: bool) {
        if self.running.contains(&0) {
            match can_fail && random.below(4) == 0 {
                true => self.end(0, "fail"),
                false => self.complete_start(1 + random.below(3)),
            }
        }
        if !self.is_cancelled && !can_fail {
            self.signal(REQUESTS[random.below(3)]);
        }
        while let Some(number) = self.running.first().copied() {
            let ends = if can_fail { &ENDS } else { &ENDS[..1] };
            self.end(number, ends[random.below(ends.len())]);
        }
    }
}

fn cancelled(number: &usize) -> String {
    format!("cancelled {number}")
}

fn wait_until(time: Instant) {
    while let Some(left) = time.checked_duration_since(Instant::now())
        && !left.is_zero()
    {
        thread::park_timeout(left);
    }
}

/// A generator of pseudo-random numbers: SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut n = self.0;
        n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((n ^ (n >> 31)) % limit as u64).expect("below `limit`")
    }
}

/// Returns the pairs of signals that request a shutdown.
fn pairs() -> Vec<[Signal; 2]> {
    let pairs = REQUESTS.map(|first| REQUESTS.map(|second| [first, second]));
    pairs.concat()
}

mod shutdown {
    use super::*;

    #[test]
    fn the_first_signal_drains_requests_and_the_exit_code_is_0() {
        run_child_if_set();
        let idle = REQUESTS.map(|signal| (signal, false));
        let busy = REQUESTS.map(|signal| (signal, true));
        in_parallel([idle, busy].concat(), |(signal, is_busy)| {
            let when = format!("after {}", name(signal));
            let mut process = Process::start();
            let slow = match is_busy {
                true => process.slow_requests(),
                false => Vec::new(),
            };
            process.send(signal);
            if is_busy {
                process.closes_its_port(&when);
            }
            process.release();
            let in_flight = format!("that was in flight at {}", name(signal));
            process.answers(slow, &in_flight);
            process.exits_with(0, &when);
        });
    }

    #[test]
    fn signals_during_startup_are_handled_and_startup_completes() {
        own_child_only!("the grader cannot see when its startup begins");
        let parts = [Some(0), Some(1), Some(2), Some(PARTS), None].repeat(2);
        in_parallel(parts.into_iter().enumerate(), |(n, parts)| {
            let mut script = Script::start(ONE_THREAD, &[]);
            script.hang_up();
            match n < 5 {
                true => script.cancel_token(0),
                false => script.signal(REQUESTS[n % 3]),
            }
            script.hang_up();
            match parts {
                Some(parts) => script.complete_start(parts),
                None => script.end(0, "fail"),
            }
            while let Some(part) = script.running.last().copied() {
                script.end(part, "ok");
            }
        });
    }

    #[test]
    fn signals_are_handled_as_soon_as_start_is_called() {
        own_child_only!("the grader cannot see when its startup begins");
        in_parallel([HANDLED; 8].concat(), |signal| {
            let kind = format!("{SIGNALS_ITSELF}{}", signal.as_raw());
            let mut script = Script::start(&kind, &[]);
            if signal != Signal::HUP {
                let lines = script.cancellation();
                script.expect(lines);
            }
            script.finish(&mut Random(1), false);
        });
    }

    #[test]
    fn run_waits_for_all_parts_however_long_they_take() {
        own_child_only!("the grader cannot make time pass faster");
        in_parallel(0..6, |seed| {
            let random = &mut Random(seed);
            let mut script =
                Script::with_parts(FAST_CLOCK, 1 + random.below(4));
            script.signal(REQUESTS[random.below(3)]);
            while let Some(part) = script.running.first().copied() {
                // It still runs after all timers of tokio have expired.
                script.process.settles();
                script.hang_up();
                script.end(part, "ok");
            }
        });
    }

    #[test]
    fn all_other_signals_keep_their_disposition() {
        let mut process = Process::start();
        let ignored = [Signal::WINCH, Signal::CHILD, Signal::URG, Signal::CONT];
        ignored.iter().for_each(|signal| process.send(*signal));
        process.settles();
        let when = format!("after {:?}", ignored.map(name));
        process.request("/version").body(&when);
        let deadly = [Signal::ALARM, Signal::USR1, Signal::USR2];
        if is_foreign() {
            // The runtime of its language may handle signals. But a program
            // that ignores them passes that on to its child processes.
            let ignored = process.mask("SigIgn").unwrap_or(0);
            for signal in deadly {
                assert!(
                    ignored & bit(signal) == 0,
                    "expected {} not to be ignored; mask of the ignored \
                     signals: {ignored:#x}",
                    name(signal)
                );
            }
        }
        process.send(Signal::TERM);
        process.exits_with(0, "after SIGTERM");
        if is_foreign() {
            return;
        }
        in_parallel(deadly, |signal| {
            let mut process = Process::start();
            process.send(signal);
            let when = format!("after {}, which kills it", name(signal));
            process.exits_with(128 + signal.as_raw(), &when);
        });
        keeps_the_masks();
    }

    /// Checks which signals the child handles and ignores.
    fn keeps_the_masks() {
        // This process has the handlers of the standard library, too.
        let own = HANDLED.iter().map(|signal| bit(*signal)).sum::<u64>();
        let names = ["SigCgt", "SigIgn"];
        let [handled, ignored] = names.map(|name| mask("self", name));
        let expected =
            [handled.map(|mask| mask | own), ignored.map(|mask| mask & !own)];
        let mut script = Script::with_parts(TWO_THREADS, 2);
        for when in ["after the start", "in shutdown"] {
            let seen = names.map(|name| script.process.mask(name));
            assert!(
                seen == expected,
                "expected {expected:x?} as the masks of handled and of ignored \
                 signals {when}; seen: {seen:x?}"
            );
            if !script.is_cancelled {
                script.signal(Signal::TERM);
            }
        }
        script.finish(&mut Random(1), false);
    }

    #[test]
    fn signals_ignored_at_the_start_of_the_process_stay_ignored() {
        own_child_only!("it may handle a signal that was ignored");
        if mask("self", "SigIgn").is_none() {
            println!("not graded: this system does not report ignored signals");
            return;
        }
        in_parallel(1..16, |set| {
            let mut bits = (0..4).map(|bit| set >> bit & 1 == 1);
            let (ignored, handled): (Vec<_>, Vec<_>) =
                HANDLED.into_iter().partition(|_| bits.next() == Some(true));
            let random = &mut Random(set);
            let mut script = Script::start(TWO_THREADS, &ignored);
            script.complete_start(2);
            ignored.repeat(2).into_iter().for_each(|it| script.signal(it));
            match handled.iter().find(|signal| **signal != Signal::HUP) {
                Some(signal) => script.signal(*signal),
                None => script.cancel_token(1),
            }
            script.finish(random, false);
        });
    }
}

mod second_signal {
    use super::*;

    #[test]
    fn a_second_signal_ends_the_process_at_once_with_code_128_plus_n() {
        let times = Mutex::new(Vec::new());
        in_parallel(pairs(), |[first, second]| {
            let when = format!(
                "at once after {} and {}, with a request in flight",
                name(first),
                name(second)
            );
            let mut process = Process::start();
            let _request = process.endless_request();
            process.send(first);
            process.closes_its_port(&format!("after {}", name(first)));
            wait_until(Instant::now() + SECOND);
            let start = Instant::now();
            process.send(second);
            let code = 128 + second.as_raw();
            process.exits_within(EXIT_TICKS, Some(code), &when);
            times.lock().expect("no panic").push(start.elapsed());
        });
        let times = times.into_inner().expect("no panic");
        assert!(
            times.iter().any(|time| *time < SECOND),
            "expected an exit at once after the second signal; seen: {times:?}"
        );
    }

    #[test]
    fn a_signal_within_100_ms_of_the_first_one_has_no_effect() {
        own_child_only!("each signal after the first may force its exit");
        in_parallel(pairs().into_iter().enumerate(), |(n, [first, _])| {
            // A loaded machine may be too slow.
            for is_last in [false; 9].into_iter().chain([true]) {
                let mut script = Script::with_parts(TWO_THREADS, 2 * (n % 3));
                if n % 3 == 1 {
                    // The shutdown begins long before the first signal.
                    script.end(1, ["fail", "cancel-and-ok"][n / 3 % 2]);
                    wait_until(Instant::now() + SECOND);
                }
                let start = Instant::now();
                script.send(first);
                let lines = script.cancellation();
                script.expect(lines);
                REQUESTS.iter().for_each(|signal| script.send(*signal));
                script.process.settles();
                let is_in_time = start.elapsed() < REPETITION;
                if script.process.runs() {
                    return script.finish(&mut Random(1), false);
                }
                assert!(
                    !is_in_time && !is_last,
                    "expected the process to go on after {:?}, within \
                     {REPETITION:?}; {}",
                    script.steps,
                    script.process.end()
                );
            }
        });
    }

    #[test]
    fn repeated_signals_force_the_exit_after_300_ms() {
        own_child_only!("it may exit at any repetition");
        let times = Mutex::new(Vec::new());
        in_parallel(0..8, |_| {
            let mut process = Script::with_parts(TWO_THREADS, 1).process;
            let pid = Pid::from_child(&process.child);
            let start = Instant::now();
            // As by a user who presses Ctrl-C again and again.
            becomes_true(EXIT_TICKS, || {
                kill_process(pid, Signal::INT).is_err() || !process.runs()
            });
            times.lock().expect("no panic").push(start.elapsed());
        });
        let times = times.into_inner().expect("no panic");
        // A loaded machine may be too slow in some of the runs.
        assert!(
            times.iter().all(|time| *time >= REPETITION)
                && times.iter().any(|time| *time < 2 * SECOND),
            "expected the process to exit between {REPETITION:?} and {SECOND:?} \
             after the first of many SIGINTs; seen, in 8 runs: {times:?}"
        );
    }

    #[test]
    fn a_second_signal_ends_the_process_while_all_runtime_threads_block() {
        own_child_only!("the grader cannot make it block its threads");
        in_parallel(pairs(), |pair| {
            // `start` or a part blocks, before or after the first signal.
            let [is_start, is_late] = pair.map(|it| it == Signal::INT);
            let parts = if is_start { 0 } else { 2 };
            let mut script = Script::with_parts(ONE_THREAD, parts);
            if is_late {
                script.signal(pair[0]);
            }
            script.tell(usize::from(!is_start), "block");
            script.expect(["blocked".to_owned()]);
            script.force(pair);
        });
    }

    #[test]
    fn a_second_signal_ends_the_process_after_run_has_returned() {
        own_child_only!("the grader cannot see when its parts have ended");
        in_parallel(pairs().into_iter().enumerate(), |(n, pair)| {
            let number = n % 2;
            let mut script = Script::with_parts(TWO_THREADS, 2 * number);
            script.tell(number, "leave a blocking task");
            script.expect(["left".to_owned()]);
            script.has_blocking_task = true;
            if pair[0] != Signal::INT {
                script.signal(pair[0]);
            }
            while let Some(number) = script.running.first().copied() {
                // Without a signal, part 1 fails.
                script.end(number, if number == 0 { "fail" } else { "ok" });
            }
            script.force(pair);
        });
    }

    #[test]
    fn sighup_during_shutdown_does_not_force_an_exit() {
        let mut process = Process::start();
        let slow = process.slow_requests();
        process.send(Signal::TERM);
        process.closes_its_port("after SIGTERM");
        // From now on, it would count as a second signal.
        wait_until(Instant::now() + SECOND);
        (0..5).for_each(|_| process.send(Signal::HUP));
        process.settles();
        process.release();
        process.answers(slow, "that was in flight at SIGTERM and SIGHUP");
        process.exits_with(0, "after SIGTERM and SIGHUP");
    }
}

mod failures {
    use super::*;

    const AFTER_FAILURE: &str = "after a part has failed";

    #[test]
    fn a_taken_port_ends_the_process_with_a_nonzero_exit_code() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("the address of a listener");
        let mut process = Process::start_at(address);
        let when = format!("after a start with a taken port, {address}");
        process.exits_with_a_failure(&when);
    }

    #[test]
    fn a_failed_part_shuts_down_the_other_parts_gracefully() {
        in_parallel([false, true], |is_signalled| {
            let mut process = Process::start();
            let slow = process.slow_requests();
            // A response to this request is optional.
            let _ = process.request("/crash").response();
            process.closes_its_port(AFTER_FAILURE);
            let mut when = "that was in flight at the failure of a part";
            if is_signalled {
                // It is the first signal, and so it does not force the exit.
                process.send(Signal::TERM);
                process.settles();
                when = "that was in flight at a failure and the first SIGTERM";
            }
            process.release();
            process.answers(slow, when);
            process.exits_with_a_failure(AFTER_FAILURE);
        });
    }

    #[test]
    fn the_exit_code_is_1_if_and_only_if_start_or_a_part_has_failed() {
        own_child_only!("no HTTP path ends one of its parts");
        in_parallel(0..48, |seed| {
            let random = &mut Random(seed);
            let kind = [ONE_THREAD, TWO_THREADS, FAST_CLOCK][random.below(3)];
            let can_fail = random.below(3) != 0;
            let mut script = Script::start(kind, &[]);
            // Half of the scripts take no step before their parts end.
            for _ in 0..random.below(12) * random.below(2) {
                script.step(random, can_fail);
            }
            script.finish(random, can_fail);
        });
    }

    #[test]
    fn a_part_that_returns_right_before_a_signal_counts_as_failed() {
        own_child_only!("no HTTP path makes one of its parts return early");
        for _ in 0..3 {
            // Part 2 sends SIGTERM when part 1 has returned, and waits until
            // the token is cancelled. It blocks the only thread meanwhile.
            let mut script = Script::with_parts(ONE_THREAD, 2);
            script.tell(1, "signal-in-part 2");
            script.running.remove(&1);
            script.has_failed = true;
            let lines = script.cancellation();
            script.expect(lines);
            script.end(2, "ok");
        }
    }
}

mod reloads {
    use super::*;

    #[test]
    fn each_sighup_reloads_and_no_request_is_lost() {
        let mut process = Process::start();
        let slow = process.slow_requests();
        let version = || process.body("/version").parse::<u32>();
        let first = version().unwrap_or_else(|error| {
            panic!("expected a number as the body of /version: {error}")
        });
        let mut times = Vec::new();
        for expected in first + 1..first + 7 {
            let start = Instant::now();
            process.send(Signal::HUP);
            let reloads =
                becomes_true(process.ticks, || version() == Ok(expected));
            times.push(start.elapsed());
            assert!(
                reloads,
                "expected version {expected} after SIGHUP; seen: {:?}",
                version()
            );
        }
        assert!(
            times.iter().any(|time| *time < REPETITION),
            "expected a reload at once after SIGHUP; seen: {times:?}"
        );
        process.release();
        process.answers(slow, "that was in flight during SIGHUP");
        process.send(Signal::TERM);
        process.exits_with(0, "after SIGTERM");
    }

    #[test]
    fn a_sighup_during_a_reload_causes_another_reload() {
        own_child_only!("the grader cannot send a signal during its reload");
        let mut script = Script::start(ONE_THREAD, &[]);
        for has_started in [false, true] {
            if has_started {
                script.complete_start(2);
            }
            script.hang_up_with("signal 1");
            (0..2).for_each(|_| script.expect(["reloaded".to_owned()]));
        }
        script.finish(&mut Random(1), false);
    }

    #[test]
    fn signals_are_still_handled_after_a_panic_in_reload() {
        own_child_only!("no HTTP path makes its reload panic");
        in_parallel(REQUESTS, |signal| {
            let mut script = Script::start(TWO_THREADS, &[]);
            script.hang_up_with("panic");
            script.hang_up();
            script.complete_start(2);
            script.hang_up_with("panic");
            script.hang_up_with("panic");
            script.hang_up();
            script.signal(signal);
            script.hang_up_with("panic");
            script.hang_up();
            script.finish(&mut Random(1), false);
        });
    }
}

/// In a command, stands for `reload`.
const RELOAD: usize = PARTS + 1;

/// Prints a line for a [`Script`].
fn say(line: &str) {
    println!("{SAYS}{line}");
}

/// Runs the child if [`CHILD`] is set, and does not return then.
fn run_child_if_set() {
    let Ok(kind) = env::var(CHILD) else { return };
    let mut threads = match &*kind {
        TWO_THREADS | SERVES => Builder::new_multi_thread(),
        _ => Builder::new_current_thread(),
    };
    threads.worker_threads(2).enable_all().start_paused(kind == FAST_CLOCK);
    let runtime = threads.build().expect("a runtime");
    let code = runtime.block_on(async {
        let (start, reload) = match &*kind {
            SERVES => serving(),
            _ => scripted(&kind),
        };
        run(start, reload).await
    });
    // Until the runtime shuts down, a task could still receive a signal.
    let tasks = runtime.metrics();
    thread::spawn(move || {
        while tasks.num_alive_tasks() > 0 {
            thread::park_timeout(TICK);
        }
        say("returned");
    });
    // As at the end of an async `main`: waits for blocking tasks.
    drop(runtime);
    std::process::exit(code.into());
}

/// The arguments of [`run`], boxed, so that it is compiled once.
type Arguments =
    (Box<dyn FnOnce(CancellationToken) -> Started>, Box<dyn FnMut() + Send>);
type Started = Pin<Box<dyn Future<Output = Result<Vec<Part>, BoxError>>>>;

/// Parts that obey the commands of a [`Script`].
fn scripted(kind: &str) -> Arguments {
    let (senders, mut receivers): (Vec<_>, Vec<_>) =
        (0..=PARTS).map(|_| tasks::channel(8)).unzip();
    let senders = Arc::new(senders);
    let next_reload = Arc::new(Mutex::new(String::new()));
    let (tell, next) = (Arc::clone(&senders), Arc::clone(&next_reload));
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            let (number, command) =
                line.split_once(' ').expect("a number and a command");
            match number.parse().expect("a number") {
                RELOAD => {
                    command.clone_into(&mut next.lock().expect("no panic"));
                    say(&format!("reload will {command}"));
                }
                n => drop(tell[n].blocking_send(command.to_owned())),
            }
        }
    });
    let own_signal = kind.strip_prefix(SIGNALS_ITSELF).map(str::to_owned);
    let mut start = async move |stop: CancellationToken| {
        let peers = Arc::clone(&senders);
        let commands = receivers.remove(0);
        let parts = obey(0, stop.clone(), commands, peers).await?;
        let part = |(n, commands)| -> Part {
            let part = obey(n + 1, stop.clone(), commands, senders.clone());
            Box::pin(async { part.await.map(drop) })
        };
        Ok(receivers.drain(..parts).enumerate().map(part).collect())
    };
    // Of a runtime with one thread.
    let only_thread = (kind != TWO_THREADS).then(|| thread::current().id());
    let reload = move || {
        let command = mem::take(&mut *next_reload.lock().expect("no panic"));
        if !command.is_empty() {
            say(&format!("reload does {command}"));
        }
        if command == "panic" {
            // Of a panic on purpose, there is nothing to report.
            set_hook(Box::new(|_| ()));
            panic_any(Bomb);
        }
        if let Some(number) = command.strip_prefix("signal ") {
            signal_itself(number);
            // It arrives while this call still runs.
            wait_until(Instant::now() + 4 * TICK);
        }
        tokio::spawn(async move {
            let thread = thread::current().id();
            say(match only_thread.is_none_or(|only| only == thread) {
                true => "reloaded",
                false => "reloaded in another runtime",
            });
        });
    };
    (
        Box::new(move |stop| {
            own_signal.iter().for_each(|number| signal_itself(number));
            Box::pin(async move { start(stop).await })
        }),
        Box::new(reload),
    )
}

/// The payload of a panic. Its destructor panics.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("on purpose: a payload is dropped");
    }
}

/// The body of `start` and of each part. Returns the number in the last command.
async fn obey(
    number: usize,
    stop: CancellationToken,
    mut commands: tasks::Receiver<String>,
    peers: Arc<Vec<tasks::Sender<String>>>,
) -> Result<usize, BoxError> {
    say(&format!("begun {number}"));
    let mut is_cancelled = false;
    loop {
        let command = tokio::select! {
            biased;
            () = stop.cancelled(), if !is_cancelled => {
                is_cancelled = true;
                say(&cancelled(&number));
                continue;
            }
            command = commands.recv() => command.expect("a sender is kept"),
        };
        let (verb, argument) =
            command.split_once(' ').unwrap_or((&command, ""));
        match verb {
            "ok" | "fail" | "cancel-and-ok" => {
                if verb == "cancel-and-ok" {
                    stop.cancel();
                }
                say(&format!("ends {number}"));
                return match verb {
                    "fail" => Err("a failure".into()),
                    _ => Ok(argument.parse().unwrap_or(0)),
                };
            }
            "cancel" => stop.cancel(),
            "block" => block_with_locks(),
            "leave" => {
                tokio::task::spawn_blocking(block_forever);
                say("left");
            }
            "signal-in-part" => {
                let peer = &peers[argument.parse::<usize>()?];
                peer.try_send("signal 15".to_owned())?;
                return Ok(0);
            }
            "signal" => {
                signal_itself(argument);
                while !stop.is_cancelled() {
                    thread::park_timeout(TICK);
                }
            }
            _ => unreachable!("no such command: {command}"),
        }
    }
}

/// Sends the signal with this number to this process.
fn signal_itself(number: &str) {
    let signal = HANDLED.iter().find(|of| of.as_raw().to_string() == number);
    let signal = signal.expect("a signal that the process handles");
    kill_process(getpid(), *signal).expect("this process runs");
}

fn block_with_locks() {
    say("blocked");
    let _locks = (io::stdout().lock(), io::stderr().lock());
    block_forever();
}

fn block_forever() {
    loop {
        thread::park();
    }
}

/// The state of the child of kind [`SERVES`].
struct Service {
    version: AtomicU32,
    /// The number of requests that have begun to wait.
    begun: AtomicU32,
    /// Each permit lets one waiting request complete.
    release: Semaphore,
    /// Makes the second part fail.
    crash: Notify,
}

/// Parts that serve HTTP.
fn serving() -> Arguments {
    let service = Arc::new(Service {
        version: AtomicU32::new(0),
        begun: AtomicU32::new(0),
        release: Semaphore::new(0),
        crash: Notify::new(),
    });
    let (reloaded, released) = (Arc::clone(&service), Arc::clone(&service));
    thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        released.release.add_permits(1);
    });
    let reload = move || _ = reloaded.version.fetch_add(1, Relaxed);
    (Box::new(|stop| Box::pin(service.start(stop))), Box::new(reload))
}

impl Service {
    async fn start(
        self: Arc<Self>,
        stop: CancellationToken,
    ) -> Result<Vec<Part>, BoxError> {
        let listener = net::TcpListener::bind(env::var(ADDRESS)?).await?;
        let serve = Arc::clone(&self).serve(listener, stop.clone());
        let other = async move {
            tokio::select! {
                () = stop.cancelled() => Ok(()),
                () = self.crash.notified() => Err("a part failed".into()),
            }
        };
        Ok(vec![Box::pin(serve), Box::pin(other)])
    }

    /// Accepts requests until `stop` is cancelled, and completes them.
    async fn serve(
        self: Arc<Self>,
        listener: net::TcpListener,
        stop: CancellationToken,
    ) -> Result<(), BoxError> {
        let mut responses = JoinSet::new();
        let accept = || stop.run_until_cancelled(listener.accept());
        while let Some(accepted) = accept().await {
            responses.spawn(Arc::clone(&self).respond(accepted?.0));
        }
        drop(listener);
        while responses.join_next().await.is_some() {}
        Ok(())
    }

    async fn respond(
        self: Arc<Self>,
        mut stream: net::TcpStream,
    ) -> io::Result<()> {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        let request = String::from_utf8_lossy(&request);
        let mut number = 0;
        match request.split(' ').nth(1) {
            Some("/version") => number = self.version.load(Relaxed),
            Some("/begun") => number = self.begun.load(Relaxed),
            Some("/crash") => self.crash.notify_one(),
            _ => {
                self.begun.fetch_add(1, Relaxed);
                self.release.acquire().await.expect("never closed").forget();
            }
        }
        let body = number.to_string();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}", body.len());
        stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await
    }
}
