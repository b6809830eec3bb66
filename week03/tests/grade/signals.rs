use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use std::{env, fmt, iter, thread};

use axum::Router;
use axum::routing::get;
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Builder;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use week03::drain::Server;
use week03::signals::{BoxError, Part, run};

/// Nothing that has to happen takes longer. Counted in turns, which a machine
/// that is slow takes more slowly.
const TURN: Duration = Duration::from_millis(5);
const TURNS: u32 = 500;

/// A process that starts is read from a disk, and somebody's program may have
/// more to do.
const MORE_TURNS: u32 = 2000;

/// No answer takes longer, and none that is graded comes near.
const DEADLINE: Duration = Duration::from_secs(8);

/// Looks once a turn. Whether it has come true.
fn in_time(turns: u32, mut is_true: impl FnMut() -> bool) -> bool {
    (0..turns).any(|_| {
        let is_true = is_true();
        if !is_true {
            thread::park_timeout(TURN);
        }
        is_true
    })
}

/// A program of one's own to grade, in place of this one.
const PROGRAM: &str = "WB_PROGRAM";

/// Where the program listens.
const ADDRESS: &str = "ADDRESS";

/// This program is the child, and of this kind: it serves at once, or does not
/// before it is told to stop, or has a part that fails then, or blocks its only
/// thread, or leaves a thread behind that blocks.
const CHILD: &str = "WB_SIGNALS_CHILD";
const SERVES: &str = "serves";
const STARTS: &str = "starts";
const FAILS: &str = "fails";
const BLOCKS: &str = "blocks";
const LINGERS: &str = "lingers";

/// What it says once it has begun to start, has ended that, has reloaded, has a
/// part that blocks, and has returned from `run`.
const STARTING: &str = "starting";
const STARTED: &str = "started";
const RELOADED: &str = "reloaded";
const BLOCKED: &str = "blocked";
const RETURNED: &str = "returned";

/// The test that is the child where it is asked to.
const IS_CHILD: &str = "signals::stops::a_process_that_is_idle_ends_at_once";

/// The process under grading. Killed on drop.
struct Process {
    child: Child,
    address: SocketAddr,
    /// The lines that it prints.
    said: mpsc::Receiver<String>,
    /// How long it may take to do what it has to.
    turns: u32,
}

impl Process {
    /// One that serves.
    fn start() -> Self {
        // Somebody else may take a port just then.
        for _ in 0..3 {
            let mut process = Self::at(free_port());
            if process.serves() {
                return process;
            }
        }
        panic!("it ends at once, and does not serve on its {ADDRESS}");
    }

    fn at(address: SocketAddr) -> Self {
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
        let mut child = child.spawn().expect("it starts");
        let stdout = child.stdout.take().expect("it is piped");
        let (say, said) = mpsc::channel();
        thread::spawn(move || {
            let lines = BufReader::new(stdout).lines();
            // To the end, so that it can go on printing.
            lines.map_while(Result::ok).for_each(|line| drop(say.send(line)));
        });
        Self { child, address, said, turns: MORE_TURNS }
    }

    /// Waits until its port is open, or it has ended.
    fn serves(&mut self) -> bool {
        let mut has_ended = false;
        let has_begun = in_time(self.turns, || {
            let ended = self.child.try_wait().expect("a child of ours");
            has_ended = ended.is_some();
            has_ended || TcpStream::connect(self.address).is_ok()
        });
        assert!(has_begun, "it does not open {ADDRESS}");
        self.is_ready();
        !has_ended
    }

    /// It has started: what is asked of it from now on, it does at once.
    fn is_ready(&mut self) {
        if !is_foreign() {
            self.turns = TURNS;
        }
    }

    /// One of ours, which has begun to start.
    fn starts(kind: &str) -> Self {
        let mut process = Self::spawn(&mut own_child(kind), free_port());
        assert!(process.says(STARTING), "it does not start");
        process.is_ready();
        process
    }

    /// Waits until one of ours says this.
    fn says(&self, what: &str) -> bool {
        let mut said = iter::from_fn(|| self.said.recv_timeout(DEADLINE).ok());
        said.any(|line| line.ends_with(what))
    }

    /// Sends it a hangup, and waits for what that does.
    fn reloads(&mut self) {
        self.gets(Signal::HUP);
        if !self.says(RELOADED) {
            match self.child.try_wait().expect("a child of ours") {
                Some(status) => panic!("{}, at a hangup", Ended(status)),
                None => panic!("it does not reload"),
            }
        }
    }

    fn gets(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it still runs");
    }

    fn request(&self, path: &str) -> Request {
        let mut stream = TcpStream::connect(self.address).expect("a port");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("it reads");
        Request { stream }
    }

    /// The body of an answer that comes at once.
    fn body(&self, path: &str) -> String {
        let answer = self.request(path).answer();
        let answer = answer.unwrap_or_else(|| panic!("no answer to {path}"));
        answer.trim().to_owned()
    }

    /// A request that has begun, and ends when it is let go on.
    fn slow(&self) -> Request {
        // Of somebody's program by itself: nobody can tell it.
        self.begun(if is_foreign() { "/slow?ms=1000" } else { "/waits" })
    }

    /// One that does not end.
    fn very_slow(&self) -> Request {
        self.begun(if is_foreign() { "/slow?ms=60000" } else { "/waits" })
    }

    fn begun(&self, path: &str) -> Request {
        let request = self.request(path);
        if is_foreign() {
            // It was sent before all these, which have been answered.
            (0..20).for_each(|_| drop(self.body("/version")));
        } else {
            let has_begun = in_time(self.turns, || self.body("/begun") == "1");
            assert!(has_begun, "a request is not let in");
        }
        request
    }

    fn lets_go_on(&mut self) {
        if !is_foreign() {
            // The end of its input says so.
            drop(self.child.stdin.take());
        }
    }

    /// Waits until nobody is let in any more.
    fn closes(&self) {
        let is_closed =
            in_time(self.turns, || TcpStream::connect(self.address).is_err());
        assert!(is_closed, "it still lets clients in");
    }

    /// Waits for its end.
    fn ends(&mut self) -> Ended {
        let mut ended = None;
        let has_ended = in_time(self.turns, || {
            ended = self.child.try_wait().expect("our child");
            ended.is_some()
        });
        assert!(has_ended, "it runs on");
        Ended(ended.expect("it has"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already where a test has ended it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a process has ended.
struct Ended(ExitStatus);

impl Ended {
    /// As a shell and a supervisor show it: whoever is killed by a signal, and
    /// whoever exits as if it were, look the same.
    fn code(&self) -> i32 {
        let signal = || 128 + self.0.signal().expect("no code, so a signal");
        self.0.code().unwrap_or_else(signal)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.code(), self.0.signal()) {
            (Some(code), _) => write!(f, "it exits with {code}"),
            (None, Some(signal)) => write!(f, "signal {signal} kills it"),
            (None, None) => write!(f, "{}", self.0),
        }
    }
}

#[track_caller]
fn exits_with(code: i32, ended: &Ended, when: &str) {
    assert!(ended.code() == code, "{ended}, and not with {code}, {when}");
}

/// As one types it.
fn name(signal: Signal) -> &'static str {
    let names = [
        (Signal::TERM, "SIGTERM"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::USR2, "SIGUSR2"),
        (Signal::ALARM, "SIGALRM"),
    ];
    let found = names.iter().find(|(of, _)| *of == signal);
    found.expect("a signal of these tests").1
}

struct Request {
    stream: TcpStream,
}

impl Request {
    /// The body, where the whole answer comes.
    fn answer(mut self) -> Option<String> {
        let _ = self.stream.set_read_timeout(Some(DEADLINE));
        let mut answer = String::new();
        self.stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    }
}

/// With 1, or with whatever somebody's program says it with.
#[track_caller]
fn has_failed(ended: &Ended) {
    if is_foreign() {
        assert!(ended.code() > 0, "{ended}: nobody learns that it has failed");
    } else {
        exits_with(1, ended, "though a part has failed");
    }
}

/// This program, as the child.
fn own_child(starts: &str) -> Command {
    let own = env::current_exe().expect("this program's file");
    let mut own = Command::new(own);
    own.args(["--exact", IS_CHILD, "--nocapture"]).env(CHILD, starts);
    own
}

/// Whether the process is somebody's program, of which we know less.
fn is_foreign() -> bool {
    env::var_os(PROGRAM).is_some()
}

/// Whether it is ours, or else why only ours can be asked for this.
fn is_ours(or_else: &str) -> bool {
    if is_foreign() {
        println!("not asked of a program: {or_else}");
    }
    !is_foreign()
}

/// Not one of those that the system gives to clients: whoever asks again and
/// again for such a port while it is closed is given it some day as their own,
/// and finds themselves. Nor is it opened to try it: a process that another
/// thread starts just then has it open for a moment longer.
fn free_port() -> SocketAddr {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let ports = iter::repeat_with(|| {
        let n = std::process::id() + 997 * TRIED.fetch_add(1, Relaxed);
        let port = 20_000 + u16::try_from(n % 10_000).expect("it is small");
        SocketAddr::from(([127, 0, 0, 1], port))
    });
    let mut free = ports.filter(|port| TcpStream::connect(port).is_err());
    free.next().expect("there is always another")
}

mod stops {
    use super::*;

    #[test]
    fn the_first_signal_lets_requests_end_and_the_code_is_0() {
        for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
            let mut process = Process::start();
            let slow = process.slow();
            process.gets(signal);
            process.closes();
            process.lets_go_on();
            let answer = slow.answer();
            let signal = name(signal);
            assert!(answer.is_some(), "{signal}: half an answer, or none");
            exits_with(0, &process.ends(), &format!("after {signal}"));
        }
    }

    #[test]
    fn a_process_that_is_idle_ends_at_once() {
        be_the_child_if_asked();
        for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
            let mut process = Process::start();
            process.gets(signal);
            exits_with(0, &process.ends(), &format!("after {}", name(signal)));
        }
    }

    #[test]
    fn a_signal_during_the_start_is_heard() {
        if !is_ours("nobody knows how long it takes to start") {
            return;
        }
        let mut process = Process::starts(STARTS);
        process.gets(Signal::TERM);
        exits_with(0, &process.ends(), "after SIGTERM");
    }

    #[test]
    fn a_start_that_is_told_to_stop_ends_by_itself() {
        if !is_ours("nobody knows what it does in its start") {
            return;
        }
        let mut process = Process::starts(STARTS);
        process.gets(Signal::TERM);
        let _ = process.ends();
        assert!(process.says(STARTED), "its start is not run to its end");
    }

    #[test]
    fn what_is_ignored_by_default_stays_so() {
        let mut process = Process::start();
        for signal in [Signal::WINCH, Signal::CHILD, Signal::URG, Signal::CONT]
        {
            process.gets(signal);
            process.body("/version");
        }
        process.gets(Signal::TERM);
        exits_with(0, &process.ends(), "after SIGTERM");
    }

    #[test]
    fn what_kills_by_default_kills() {
        if !is_ours("it may have a use for these signals") {
            return;
        }
        for signal in [Signal::USR1, Signal::USR2, Signal::ALARM] {
            let mut process = Process::start();
            process.gets(signal);
            let (ended, signal) = (process.ends(), name(signal));
            assert!(
                ended.0.code().is_none(),
                "{signal} does not kill: {ended}"
            );
        }
    }
}

mod insists {
    use super::*;

    /// A process that was asked, and then told.
    fn insisted(first: Signal, second: Signal) -> Ended {
        let mut process = Process::start();
        let _slow = process.very_slow();
        process.gets(first);
        process.closes();
        process.gets(second);
        process.ends()
    }

    #[test]
    fn a_second_signal_ends_it_at_once() {
        for (first, second) in [
            (Signal::TERM, Signal::TERM),
            (Signal::INT, Signal::INT),
            (Signal::QUIT, Signal::TERM),
        ] {
            insisted(first, second);
        }
    }

    #[test]
    fn the_code_is_then_128_and_the_second_signal() {
        for (first, second) in [
            (Signal::TERM, Signal::TERM),
            (Signal::TERM, Signal::INT),
            (Signal::INT, Signal::QUIT),
        ] {
            let ended = insisted(first, second);
            let when = format!("after {} and {}", name(first), name(second));
            exits_with(128 + second.as_raw(), &ended, &when);
        }
    }

    #[test]
    fn a_hangup_does_not_insist() {
        if !is_ours("nobody sees when it has reloaded") {
            return;
        }
        let mut process = Process::start();
        let _slow = process.very_slow();
        process.gets(Signal::TERM);
        process.closes();
        process.reloads();
        process.gets(Signal::INT);
        let insisted = 128 + Signal::INT.as_raw();
        exits_with(insisted, &process.ends(), "after SIGTERM and SIGINT");
    }

    #[test]
    fn it_does_so_where_parts_block_all_threads() {
        if !is_ours("nobody knows how to block it") {
            return;
        }
        let mut process = Process::starts(BLOCKS);
        process.gets(Signal::TERM);
        assert!(process.says(BLOCKED), "its part is not told to stop");
        process.gets(Signal::TERM);
        let insisted = 128 + Signal::TERM.as_raw();
        exits_with(insisted, &process.ends(), "while a part blocks");
    }

    #[test]
    fn it_does_so_where_run_has_returned() {
        if !is_ours("nobody knows what it does at its end") {
            return;
        }
        let mut process = Process::starts(LINGERS);
        process.gets(Signal::TERM);
        assert!(process.says(RETURNED), "its part has ended, and it runs on");
        process.gets(Signal::INT);
        let insisted = 128 + Signal::INT.as_raw();
        exits_with(insisted, &process.ends(), "while it lingers");
    }
}

mod fails {
    use super::*;

    #[test]
    fn a_port_that_is_taken_ends_it_with_another_code() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("its address");
        let mut process = Process::at(address);
        has_failed(&process.ends());
    }

    #[test]
    fn one_part_fails_and_the_others_end_in_good_order() {
        let mut process = Process::start();
        let slow = process.slow();
        // Whether this is answered is its own affair.
        let _ = process.request("/crash").answer();
        process.closes();
        process.lets_go_on();
        assert!(slow.answer().is_some(), "the other part cuts off its request");
        has_failed(&process.ends());
    }

    #[test]
    fn one_part_ends_unasked_and_takes_the_others_along() {
        if !is_ours("not each one has a part that ends by itself") {
            return;
        }
        let mut process = Process::start();
        let slow = process.slow();
        let _ = process.request("/leave").answer();
        process.closes();
        process.lets_go_on();
        assert!(slow.answer().is_some(), "the other part cuts off its request");
        exits_with(1, &process.ends(), "though a part has failed");
    }

    #[test]
    fn a_part_that_fails_when_it_is_told_to_stop_has_failed() {
        if !is_ours("not each one has a part that fails then") {
            return;
        }
        let mut process = Process::starts(FAILS);
        process.gets(Signal::TERM);
        exits_with(1, &process.ends(), "though a part has failed");
    }

    #[test]
    fn the_first_signal_after_a_failure_asks() {
        if !is_ours("it may take that for the second signal") {
            return;
        }
        let mut process = Process::start();
        let slow = process.slow();
        let _ = process.request("/crash").answer();
        process.closes();
        process.gets(Signal::TERM);
        // Has it been heard? Surely before so many of these.
        (0..50).for_each(|_| process.reloads());
        process.lets_go_on();
        assert!(slow.answer().is_some(), "it insists");
        exits_with(1, &process.ends(), "though a part has failed");
    }
}

mod reloads {
    use super::*;

    #[test]
    fn each_hangup_reloads_and_loses_nothing() {
        let mut process = Process::start();
        let slow = process.slow();
        let version = || process.body("/version").parse::<u32>();
        let first = version().expect("a version is a number");
        for version_after in first + 1..first + 4 {
            process.gets(Signal::HUP);
            let reloads =
                in_time(process.turns, || version() == Ok(version_after));
            assert!(reloads, "no reload: {:?}", version());
        }
        process.lets_go_on();
        assert!(slow.answer().is_some(), "a request is lost by a reload");
        process.gets(Signal::TERM);
        exits_with(0, &process.ends(), "after SIGTERM");
    }

    #[test]
    fn a_reload_that_panics_takes_no_signal_away() {
        if !is_ours("not each one can be made to panic") {
            return;
        }
        let mut process = Process::start();
        let slow = process.slow();
        process.body("/trap");
        process.gets(Signal::HUP);
        let reloads =
            in_time(process.turns, || process.body("/version") == "sprung");
        assert!(reloads, "no reload");
        process.gets(Signal::HUP);
        let reloads =
            in_time(process.turns, || process.body("/version") == "1");
        assert!(reloads, "no reload after one that has panicked");
        process.gets(Signal::TERM);
        process.lets_go_on();
        assert!(slow.answer().is_some(), "a request is lost by a reload");
        exits_with(0, &process.ends(), "after a panic in a reload");
    }
}

/// Where this program is the child: does not return.
fn be_the_child_if_asked() {
    let Ok(kind) = env::var(CHILD) else { return };
    let mut threads = match &*kind {
        BLOCKS => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = threads.enable_all().build().expect("a runtime");
    let code = runtime.block_on(async {
        let site = Arc::new(Site::new());
        let (reloaded, told) = (Arc::clone(&site), Arc::clone(&site));
        thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            told.go_on.add_permits(1);
        });
        let start = async |stop: CancellationToken| match &*kind {
            SERVES => site.start(stop).await,
            STARTS => {
                println!("{STARTING}");
                stop.cancelled().await;
                tokio::task::yield_now().await;
                println!("{STARTED}");
                Ok(Vec::new())
            }
            FAILS => part(async move {
                stop.cancelled().await;
                Err("it has failed".into())
            }),
            BLOCKS => part(async move {
                stop.cancelled().await;
                println!("{BLOCKED}");
                for_ever()
            }),
            LINGERS => part(async move {
                tokio::task::spawn_blocking(for_ever);
                stop.cancelled().await;
                Ok(())
            }),
            _ => unreachable!("no such kind"),
        };
        run(start, move || reloaded.reload()).await
    });
    if kind == LINGERS {
        println!("{RETURNED}");
    }
    // As at the end of a `main` that is async: it waits for what blocks.
    drop(runtime);
    std::process::exit(code.into());
}

/// A process of one part, which says when it has begun: all is started by then.
fn part<F>(part: F) -> Result<Vec<Part>, BoxError>
where
    F: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    Ok(vec![Box::pin(async {
        println!("{STARTING}");
        part.await
    })])
}

fn for_ever() -> Result<(), BoxError> {
    loop {
        thread::park();
    }
}

/// What the child shows of itself.
struct Site {
    version: AtomicU32,
    /// Requests that have begun to wait.
    begun: AtomicU32,
    /// Lets one go on.
    go_on: Semaphore,
    /// How its second part ends.
    crash: Notify,
    leave: Notify,
    trap: AtomicU32,
}

/// A drain that no test outlives.
const A_DAY: Duration = Duration::from_secs(86_400);

/// The next reload panics; it has.
const SET: u32 = 1;
const SPRUNG: u32 = 2;

impl Site {
    fn new() -> Self {
        Self {
            version: AtomicU32::new(0),
            begun: AtomicU32::new(0),
            go_on: Semaphore::new(0),
            crash: Notify::new(),
            leave: Notify::new(),
            trap: AtomicU32::new(0),
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
        let serves: Part = Box::pin(async {
            server.serve(token).await;
            Ok(())
        });
        let other: Part = Box::pin(async move {
            tokio::select! {
                () = stop.cancelled() => Ok(()),
                () = self.crash.notified() => Err("it has crashed".into()),
                () = self.leave.notified() => Ok(()),
            }
        });
        Ok(vec![serves, other])
    }

    fn router(self: Arc<Self>) -> Router {
        let with = |tell: fn(&Self) -> String| {
            let site = Arc::clone(&self);
            get(async move || tell(&site))
        };
        Router::new()
            .route("/version", with(Self::version))
            .route("/crash", with(|site| told(&site.crash)))
            .route("/leave", with(|site| told(&site.leave)))
            .route(
                "/trap",
                with(|site| site.trap.swap(SET, Relaxed).to_string()),
            )
            .route("/begun", with(|site| site.begun.load(Relaxed).to_string()))
            .route("/waits", get(move || self.waits()))
    }

    async fn waits(self: Arc<Self>) -> &'static str {
        self.begun.fetch_add(1, Relaxed);
        self.go_on.acquire().await.expect("it stays open").forget();
        "waited"
    }

    fn version(&self) -> String {
        match self.trap.load(Relaxed) {
            SPRUNG => "sprung".to_owned(),
            _ => self.version.load(Relaxed).to_string(),
        }
    }

    fn reload(&self) {
        let set = self.trap.compare_exchange(SET, SPRUNG, Relaxed, Relaxed);
        assert!(set.is_err(), "on purpose: a bug in a reload");
        self.trap.store(0, Relaxed);
        self.version.fetch_add(1, Relaxed);
        println!("{RELOADED}");
    }
}

fn told(whom: &Notify) -> String {
    whom.notify_one();
    "told".to_owned()
}
