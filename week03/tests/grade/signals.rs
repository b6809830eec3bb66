use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use std::{env, fmt, fs, iter, thread};

use axum::Router;
use axum::routing::get;
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Builder;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use week03::drain::Server;
use week03::signals::{BoxError, Part, run};

/// The time between two checks of a condition. Limits are counted in ticks, so
/// they are longer on a slow machine.
const TICK: Duration = Duration::from_millis(5);

/// The limit for an event that has to come at once.
const TICKS: u32 = 500;

/// The same for the start of a process, and for every event of another program.
const LONG_TICKS: u32 = 2000;

/// The limit for a response and for a printed line.
const DEADLINE: Duration = Duration::from_secs(8);

/// Checks `condition` once in each tick. Returns whether it became true.
fn becomes_true(ticks: u32, mut condition: impl FnMut() -> bool) -> bool {
    (0..ticks).any(|_| {
        let is_true = condition();
        if !is_true {
            thread::park_timeout(TICK);
        }
        is_true
    })
}

/// The command of another program to grade, in place of the grader's own child.
const PROGRAM: &str = "WB_PROGRAM";

/// The address on which the process has to listen.
const ADDRESS: &str = "ADDRESS";

/// If this variable is set, this program is the child, of one of these kinds:
/// it serves at once, its `start` waits for the cancellation, its part fails
/// after the cancellation, its part blocks the only thread of the runtime, or a
/// blocking task is left when `run` has returned.
const CHILD: &str = "WB_SIGNALS_CHILD";
const SERVES: &str = "serves";
const WAITS_IN_START: &str = "waits in start";
const FAILS_IN_SHUTDOWN: &str = "fails in shutdown";
const BLOCKS_THE_THREAD: &str = "blocks the thread";
const BLOCKS_AFTER_RUN: &str = "blocks after run";

/// Lines that the child prints: `start` or the part has begun, `start` has
/// completed, `reload` has been called, the part blocks, and `run` has
/// returned.
const STARTING: &str = "starting";
const STARTED: &str = "started";
const RELOADED: &str = "reloaded";
const BLOCKED: &str = "blocked";
const RETURNED: &str = "returned";

/// The test that runs the child, if [`CHILD`] is set.
const CHILD_TEST: &str =
    "signals::shutdown::an_idle_process_exits_with_0_at_the_first_signal";

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
        let mut has_ended = false;
        let has_begun = becomes_true(self.ticks, || {
            let ended = self.child.try_wait().expect("a child process");
            has_ended = ended.is_some();
            has_ended || TcpStream::connect(self.address).is_ok()
        });
        assert!(
            has_begun,
            "expected the process to listen on {}, the address in \
             `{ADDRESS}`; clients cannot connect {:?} after its start",
            self.address,
            self.limit()
        );
        self.startup_is_over();
        !has_ended
    }

    /// From now on, the grader's own child has to react at once.
    fn startup_is_over(&mut self) {
        if !is_foreign() {
            self.ticks = TICKS;
        }
    }

    /// Starts the grader's own child, and waits until `start` or its part runs.
    fn start_child(kind: &str) -> Self {
        let mut process = Self::spawn(&mut own_child(kind), free_port());
        assert!(
            process.prints(STARTING),
            "expected `run` to call `start` and to run its parts; this has not \
             happened within {DEADLINE:?}"
        );
        process.startup_is_over();
        process
    }

    /// Waits until the child prints `line`. Returns false if it does not.
    fn prints(&self, line: &str) -> bool {
        let mut lines =
            iter::from_fn(|| self.lines.recv_timeout(DEADLINE).ok());
        lines.any(|printed| printed.ends_with(line))
    }

    /// Sends SIGHUP, and waits until `reload` has been called.
    fn reload(&mut self) {
        self.send(Signal::HUP);
        if !self.prints(RELOADED) {
            let seen = match self.child.try_wait().expect("a child process") {
                Some(status) => Ended(status).to_string(),
                None => format!("it was not called within {DEADLINE:?}"),
            };
            panic!("expected a call of `reload` after SIGHUP; {seen}");
        }
    }

    fn send(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        if let Err(error) = kill_process(pid, signal) {
            let signal = name(signal);
            panic!("the process ended before {signal} was sent: {error}");
        }
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

    /// Begins a request that is in flight until [`release`](Self::release).
    fn slow_request(&self) -> Request {
        // The grader cannot release a request of another program.
        self.begin(if is_foreign() { "/slow?ms=1000" } else { "/waits" })
    }

    /// Begins a request that stays in flight.
    fn endless_request(&self) -> Request {
        self.begin(if is_foreign() { "/slow?ms=60000" } else { "/waits" })
    }

    fn begin(&self, path: &str) -> Request {
        let request = self.request(path);
        if is_foreign() {
            // After these responses, the earlier request has surely arrived.
            (0..20).for_each(|_| drop(self.body("/version")));
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

    /// Waits until the process exits.
    fn exit(&mut self, when: &str) -> Ended {
        let mut ended = None;
        let has_ended = becomes_true(self.ticks, || {
            ended = self.child.try_wait().expect("a child process");
            ended.is_some()
        });
        assert!(
            has_ended,
            "expected the process to exit {when}; it still runs after {:?}",
            self.limit()
        );
        Ended(ended.expect("the process has ended"))
    }

    /// Returns whether Linux reports a handler for `signal`. Without `/proc` and
    /// for another program, whose language may handle every signal, returns
    /// `false`.
    fn handles(&self, signal: Signal) -> bool {
        let status = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(status).unwrap_or_default();
        let handled = status
            .lines()
            .find_map(|line| line.strip_prefix("SigCgt:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        let bit = 1 << (signal.as_raw() - 1);
        !is_foreign() && handled.is_some_and(|mask| mask & bit != 0)
    }

    /// Returns how a process ended that has already ended.
    fn end(&mut self) -> Ended {
        Ended(self.child.wait().expect("a child process"))
    }

    #[track_caller]
    fn exits_with(&mut self, code: i32, when: &str) {
        let ended = self.exit(when);
        assert!(
            ended.code() == code,
            "expected exit code {code} {when}; {ended}"
        );
    }

    /// Checks for exit code 1, or for any code but 0 of another program.
    #[track_caller]
    fn exits_with_a_failure(&mut self, when: &str) {
        if is_foreign() {
            let ended = self.exit(when);
            assert!(
                ended.code() > 0,
                "expected an exit code other than 0 {when}; {ended}"
            );
        } else {
            self.exits_with(1, when);
        }
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
        match (self.0.code(), self.0.signal()) {
            (Some(code), _) => {
                write!(f, "the process exited with code {code}")
            }
            (None, Some(signal)) => {
                write!(f, "the process was killed by signal {signal}")
            }
            (None, None) => write!(f, "the process ended with {}", self.0),
        }
    }
}

fn name(signal: Signal) -> &'static str {
    let names = [
        (Signal::TERM, "SIGTERM"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::HUP, "SIGHUP"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::USR2, "SIGUSR2"),
        (Signal::ALARM, "SIGALRM"),
        (Signal::WINCH, "SIGWINCH"),
        (Signal::CHILD, "SIGCHLD"),
        (Signal::URG, "SIGURG"),
        (Signal::CONT, "SIGCONT"),
    ];
    let found = names.iter().find(|(of, _)| *of == signal);
    found.expect("a signal of these tests").1
}

struct Request {
    path: String,
    stream: TcpStream,
}

impl Request {
    /// Returns the body of the response, or what was seen instead.
    fn response(mut self) -> Result<String, String> {
        let _ = self.stream.set_read_timeout(Some(DEADLINE));
        let mut response = String::new();
        self.stream
            .read_to_string(&mut response)
            .map_err(|error| format!("reading it failed: {error}"))?;
        let Some((head, body)) = response.split_once("\r\n\r\n") else {
            return Err(format!("the connection ended after {response:?}"));
        };
        match head.starts_with("HTTP/1.1 200") {
            true => Ok(body.to_owned()),
            false => Err(format!("the response began with {head:?}")),
        }
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
    let mut own = Command::new(own);
    own.args(["--exact", CHILD_TEST, "--nocapture"]).env(CHILD, kind);
    own
}

/// Returns whether another program is graded, about which less is known.
fn is_foreign() -> bool {
    env::var_os(PROGRAM).is_some()
}

/// Returns whether the grader's own child is graded. Otherwise prints why the
/// test cannot be asked of another program.
fn is_own_child(why_not: &str) -> bool {
    if is_foreign() {
        println!("not asked of a program: {why_not}");
    }
    !is_foreign()
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

mod shutdown {
    use super::*;

    #[test]
    fn the_first_signal_drains_requests_and_the_exit_code_is_0() {
        for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
            let when = format!("after {}", name(signal));
            let mut process = Process::start();
            let slow = process.slow_request();
            process.send(signal);
            process.closes_its_port(&when);
            process.release();
            slow.body(&format!("that was in flight at {}", name(signal)));
            process.exits_with(0, &when);
        }
    }

    #[test]
    fn an_idle_process_exits_with_0_at_the_first_signal() {
        run_child_if_set();
        for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
            let mut process = Process::start();
            process.send(signal);
            process.exits_with(0, &format!("after {}", name(signal)));
        }
    }

    #[test]
    fn a_signal_during_startup_begins_shutdown_with_exit_code_0() {
        if !is_own_child("the grader cannot see when its startup begins") {
            return;
        }
        let mut process = Process::start_child(WAITS_IN_START);
        process.send(Signal::TERM);
        process.exits_with(0, "after SIGTERM during `start`");
    }

    #[test]
    fn startup_is_completed_even_if_a_signal_arrives_during_it() {
        if !is_own_child("the grader cannot see whether its startup completes")
        {
            return;
        }
        let mut process = Process::start_child(WAITS_IN_START);
        process.send(Signal::TERM);
        let ended = process.exit("after SIGTERM during `start`");
        assert!(
            process.prints(STARTED),
            "expected `start` to complete after SIGTERM; {ended} before that"
        );
    }

    #[test]
    fn signals_ignored_by_default_are_still_ignored() {
        let mut process = Process::start();
        let ignored = [Signal::WINCH, Signal::CHILD, Signal::URG, Signal::CONT];
        for signal in ignored {
            assert!(
                !process.handles(signal),
                "expected no handler for {}; /proc reports one",
                name(signal)
            );
            process.send(signal);
            let when = format!("after {}", name(signal));
            process.request("/version").body(&when);
        }
        process.send(Signal::TERM);
        process.exits_with(0, "after SIGTERM");
    }

    #[test]
    fn unhandled_signals_such_as_sigusr1_still_kill_the_process() {
        if !is_own_child("it may handle these signals itself") {
            return;
        }
        for signal in [Signal::USR1, Signal::USR2, Signal::ALARM] {
            let mut process = Process::start();
            process.send(signal);
            let signal = name(signal);
            let ended = process.exit(&format!("after {signal}"));
            assert!(
                ended.0.code().is_none(),
                "expected {signal} to kill the process; {ended}"
            );
        }
    }
}

mod second_signal {
    use super::*;

    /// Sends two signals to a process with a request in flight.
    fn send_both(first: Signal, second: Signal) -> Ended {
        let mut process = Process::start();
        let _request = process.endless_request();
        process.send(first);
        process.closes_its_port(&format!("after {}", name(first)));
        process.send(second);
        process.exit(&after(first, second))
    }

    fn after(first: Signal, second: Signal) -> String {
        format!(
            "after {} and {}, with a request in flight",
            name(first),
            name(second)
        )
    }

    #[test]
    fn a_second_signal_ends_the_process_at_once() {
        for (first, second) in [
            (Signal::TERM, Signal::TERM),
            (Signal::INT, Signal::INT),
            (Signal::QUIT, Signal::TERM),
        ] {
            send_both(first, second);
        }
    }

    #[test]
    fn the_exit_code_is_128_plus_the_number_of_the_second_signal() {
        for (first, second) in [
            (Signal::TERM, Signal::TERM),
            (Signal::TERM, Signal::INT),
            (Signal::INT, Signal::QUIT),
        ] {
            let ended = send_both(first, second);
            let code = 128 + second.as_raw();
            assert!(
                ended.code() == code,
                "expected exit code {code} {}; {ended}",
                after(first, second)
            );
        }
    }

    #[test]
    fn sighup_during_shutdown_reloads_and_does_not_force_an_exit() {
        if !is_own_child("the grader cannot see a reload during shutdown") {
            return;
        }
        let mut process = Process::start();
        let _request = process.endless_request();
        process.send(Signal::TERM);
        process.closes_its_port("after SIGTERM");
        process.reload();
        process.send(Signal::INT);
        let code = 128 + Signal::INT.as_raw();
        process.exits_with(code, "after SIGTERM, SIGHUP and SIGINT");
    }

    #[test]
    fn a_second_signal_ends_the_process_while_all_runtime_threads_block() {
        if !is_own_child("the grader cannot make it block its threads") {
            return;
        }
        let mut process = Process::start_child(BLOCKS_THE_THREAD);
        process.send(Signal::TERM);
        assert!(
            process.prints(BLOCKED),
            "expected SIGTERM to cancel the token of the part; it was not \
             cancelled within {DEADLINE:?}"
        );
        process.send(Signal::TERM);
        let code = 128 + Signal::TERM.as_raw();
        let when = "after a second SIGTERM, while a part blocks the only \
                    thread of its runtime";
        process.exits_with(code, when);
    }

    #[test]
    fn a_second_signal_ends_the_process_after_run_has_returned() {
        if !is_own_child("the grader cannot see when its parts have ended") {
            return;
        }
        let mut process = Process::start_child(BLOCKS_AFTER_RUN);
        process.send(Signal::TERM);
        assert!(
            process.prints(RETURNED),
            "expected `run` to return after SIGTERM, when its only part has \
             ended; it did not within {DEADLINE:?}"
        );
        process.send(Signal::INT);
        let code = 128 + Signal::INT.as_raw();
        let when = "after SIGTERM and SIGINT, while the runtime waits for a \
                    blocking task";
        process.exits_with(code, when);
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
        let mut process = Process::start();
        let slow = process.slow_request();
        // A response to this request is optional.
        let _ = process.request("/crash").response();
        process.closes_its_port(AFTER_FAILURE);
        process.release();
        slow.body("that was in flight in another part at the failure");
        process.exits_with_a_failure(AFTER_FAILURE);
    }

    #[test]
    fn a_part_that_returns_before_it_is_cancelled_counts_as_failed() {
        if !is_own_child("no HTTP path makes one of its parts return early") {
            return;
        }
        let mut process = Process::start();
        let slow = process.slow_request();
        let _ = process.request("/return").response();
        process.closes_its_port("after a part has returned `Ok` early");
        process.release();
        slow.body("that was in flight when another part returned early");
        process.exits_with(1, "after a part has returned `Ok` early");
    }

    #[test]
    fn a_part_that_fails_during_shutdown_makes_the_exit_code_1() {
        if !is_own_child("no HTTP path makes one of its parts fail in shutdown")
        {
            return;
        }
        let mut process = Process::start_child(FAILS_IN_SHUTDOWN);
        process.send(Signal::TERM);
        process.exits_with(1, "after a part has failed during shutdown");
    }

    #[test]
    fn the_first_signal_after_a_failure_does_not_force_an_exit() {
        if !is_own_child("it may count the failure as the first signal") {
            return;
        }
        let mut process = Process::start();
        let slow = process.slow_request();
        let _ = process.request("/crash").response();
        process.closes_its_port(AFTER_FAILURE);
        process.send(Signal::TERM);
        // After so many reloads, SIGTERM has surely been handled, too.
        (0..50).for_each(|_| process.reload());
        process.release();
        slow.body("that was in flight at a failure and the first SIGTERM");
        process.exits_with(1, AFTER_FAILURE);
    }
}

mod reloads {
    use super::*;

    #[test]
    fn each_sighup_reloads_and_no_request_is_lost() {
        let mut process = Process::start();
        let slow = process.slow_request();
        let version = || process.body("/version").parse::<u32>();
        let first = version().unwrap_or_else(|error| {
            panic!("expected a number as the body of /version: {error}")
        });
        for expected in first + 1..first + 4 {
            process.send(Signal::HUP);
            let reloads =
                becomes_true(process.ticks, || version() == Ok(expected));
            assert!(
                reloads,
                "expected version {expected} after SIGHUP; seen: {:?}",
                version()
            );
        }
        process.release();
        slow.body("that was in flight during SIGHUP");
        process.send(Signal::TERM);
        process.exits_with(0, "after SIGTERM");
    }

    #[test]
    fn signals_are_still_handled_after_a_panic_in_reload() {
        if !is_own_child("no HTTP path makes its reload panic") {
            return;
        }
        let mut process = Process::start();
        let slow = process.slow_request();
        process.body("/let_reload_panic");
        process.send(Signal::HUP);
        let panics = becomes_true(process.ticks, || {
            process.body("/version") == "panicked"
        });
        assert!(panics, "SIGHUP did not call `reload`");
        process.send(Signal::HUP);
        let reloads =
            becomes_true(process.ticks, || process.body("/version") == "1");
        assert!(
            reloads,
            "SIGHUP did not call `reload` again after a call that panicked"
        );
        process.send(Signal::TERM);
        process.release();
        slow.body("that was in flight at a panic in `reload`");
        process.exits_with(0, "after a panic in `reload` and SIGTERM");
    }
}

/// Runs the child if [`CHILD`] is set, and does not return then.
fn run_child_if_set() {
    let Ok(kind) = env::var(CHILD) else { return };
    let mut threads = match &*kind {
        BLOCKS_THE_THREAD => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = threads.enable_all().build().expect("a runtime");
    let code = runtime.block_on(async {
        let service = Arc::new(Service::new());
        let reloaded = Arc::clone(&service);
        let released = Arc::clone(&service);
        thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            released.release.add_permits(1);
        });
        let start = async |stop: CancellationToken| match &*kind {
            SERVES => service.start(stop).await,
            WAITS_IN_START => {
                println!("{STARTING}");
                stop.cancelled().await;
                tokio::task::yield_now().await;
                println!("{STARTED}");
                Ok(Vec::new())
            }
            FAILS_IN_SHUTDOWN => single_part(async move {
                stop.cancelled().await;
                Err("a part failed during shutdown".into())
            }),
            BLOCKS_THE_THREAD => single_part(async move {
                stop.cancelled().await;
                println!("{BLOCKED}");
                block_forever()
            }),
            BLOCKS_AFTER_RUN => single_part(async move {
                tokio::task::spawn_blocking(block_forever);
                stop.cancelled().await;
                Ok(())
            }),
            _ => unreachable!("no such kind of child"),
        };
        run(start, move || reloaded.reload()).await
    });
    if kind == BLOCKS_AFTER_RUN {
        // Until the runtime shuts down, a task could still receive a signal.
        let tasks = runtime.metrics();
        thread::spawn(move || {
            while tasks.num_alive_tasks() > 0 {
                thread::park_timeout(TICK);
            }
            println!("{RETURNED}");
        });
    }
    // As at the end of an async `main`: waits for blocking tasks.
    drop(runtime);
    std::process::exit(code.into());
}

/// Returns one part, which prints [`STARTING`] when it runs.
fn single_part<F>(part: F) -> Result<Vec<Part>, BoxError>
where
    F: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    Ok(vec![Box::pin(async {
        println!("{STARTING}");
        part.await
    })])
}

fn block_forever() -> Result<(), BoxError> {
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
    /// Makes the second part return `Ok`.
    early_return: Notify,
    reload_panic: AtomicU32,
}

/// A drain timeout longer than any test.
const A_DAY: Duration = Duration::from_secs(86_400);

/// Values of `reload_panic`: the next call panics, or the last call panicked.
const NEXT: u32 = 1;
const PANICKED: u32 = 2;

impl Service {
    fn new() -> Self {
        Self {
            version: AtomicU32::new(0),
            begun: AtomicU32::new(0),
            release: Semaphore::new(0),
            crash: Notify::new(),
            early_return: Notify::new(),
            reload_panic: AtomicU32::new(0),
        }
    }

    async fn start(
        self: Arc<Self>,
        stop: CancellationToken,
    ) -> Result<Vec<Part>, BoxError> {
        let address = env::var(ADDRESS)?.parse()?;
        let router = Arc::clone(&self).router();
        let server = Server::bind(address, router, A_DAY).await?;
        let token = stop.clone();
        let serve: Part = Box::pin(async {
            server.serve(token).await;
            Ok(())
        });
        let other: Part = Box::pin(async move {
            tokio::select! {
                () = stop.cancelled() => Ok(()),
                () = self.crash.notified() => Err("a part failed".into()),
                () = self.early_return.notified() => Ok(()),
            }
        });
        Ok(vec![serve, other])
    }

    fn router(self: Arc<Self>) -> Router {
        let with = |respond: fn(&Self) -> String| {
            let service = Arc::clone(&self);
            get(async move || respond(&service))
        };
        Router::new()
            .route("/version", with(Self::version))
            .route("/crash", with(|service| notify(&service.crash)))
            .route("/return", with(|service| notify(&service.early_return)))
            .route(
                "/let_reload_panic",
                with(|service| {
                    service.reload_panic.swap(NEXT, Relaxed).to_string()
                }),
            )
            .route(
                "/begun",
                with(|service| service.begun.load(Relaxed).to_string()),
            )
            .route("/waits", get(move || self.wait()))
    }

    async fn wait(self: Arc<Self>) -> &'static str {
        self.begun.fetch_add(1, Relaxed);
        self.release.acquire().await.expect("never closed").forget();
        "waited"
    }

    fn version(&self) -> String {
        match self.reload_panic.load(Relaxed) {
            PANICKED => "panicked".to_owned(),
            _ => self.version.load(Relaxed).to_string(),
        }
    }

    fn reload(&self) {
        let next = self
            .reload_panic
            .compare_exchange(NEXT, PANICKED, Relaxed, Relaxed);
        assert!(next.is_err(), "on purpose: a bug in a reload");
        self.reload_panic.store(0, Relaxed);
        self.version.fetch_add(1, Relaxed);
        println!("{RELOADED}");
    }
}

fn notify(part: &Notify) -> String {
    part.notify_one();
    "notified".to_owned()
}
