use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use std::{env, fmt, thread};

use axum::Router;
use axum::extract::RawQuery;
use axum::routing::get;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use week03::drain::Server;
use week03::signals::{BoxError, Part, run};

/// Nothing that has to happen takes longer. Counted in turns, which a machine
/// that is slow takes more slowly.
const TURN: Duration = Duration::from_millis(5);
const TURNS: u32 = 500;

/// Somebody's program may need a moment more.
const TURNS_OF_A_PROGRAM: u32 = 1600;

/// No answer takes longer, and none that is graded comes near.
const DEADLINE: Duration = Duration::from_secs(8);

/// Looks once a turn. Whether it has come true.
fn in_time(mut is_true: impl FnMut() -> bool) -> bool {
    let turns = if is_foreign() { TURNS_OF_A_PROGRAM } else { TURNS };
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

/// This program is the child, and starts so: at once, or when it is told to stop.
const CHILD: &str = "WB_SIGNALS_CHILD";
const AT_ONCE: &str = "at once";
const NEVER: &str = "never";

/// The test that is the child where it is asked to.
const IS_CHILD: &str = "signals::stops::a_process_that_is_idle_ends_at_once";

/// The process under grading. Killed on drop.
struct Process {
    child: Child,
    address: SocketAddr,
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
            Err(_) => own_child(AT_ONCE),
        };
        Self::spawn(&mut command, address)
    }

    fn spawn(command: &mut Command, address: SocketAddr) -> Self {
        let command = command.env(ADDRESS, address.to_string());
        let child = command.stdout(Stdio::piped()).spawn();
        Self { child: child.expect("it starts"), address }
    }

    /// Waits until its port is open, or it has ended.
    fn serves(&mut self) -> bool {
        let mut has_ended = false;
        let has_begun = in_time(|| {
            let ended = self.child.try_wait().expect("a child of ours");
            has_ended = ended.is_some();
            has_ended || TcpStream::connect(self.address).is_ok()
        });
        assert!(has_begun, "it does not open {ADDRESS}");
        !has_ended
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

    /// A request that has begun, and takes so long.
    fn slow(&self, takes: Duration) -> Request {
        let slow = self.request(&format!("/slow?ms={}", takes.as_millis()));
        if is_foreign() {
            // It was sent before all these, which have been answered.
            (0..20).for_each(|_| drop(self.body("/version")));
        } else {
            let has_begun = in_time(|| self.body("/begun") == "1");
            assert!(has_begun, "a request is not let in");
        }
        slow
    }

    /// Waits until nobody is let in any more.
    fn closes(&self) {
        let is_closed = in_time(|| TcpStream::connect(self.address).is_err());
        assert!(is_closed, "it still lets clients in");
    }

    /// Waits for its end.
    fn ends(&mut self) -> Ended {
        let mut ended = None;
        let has_ended = in_time(|| {
            ended = self.child.try_wait().expect("our child");
            ended.is_some()
        });
        assert!(has_ended, "it runs on");
        Ended(ended.and_then(|status| status.code()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already where a test has ended it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The exit code; none where a signal has killed it.
#[derive(PartialEq, Eq)]
struct Ended(Option<i32>);

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(code) => write!(f, "exit code {code}"),
            None => f.write_str("killed by a signal"),
        }
    }
}

fn exits_with(code: i32) -> Ended {
    Ended(Some(code))
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
    match ended {
        Ended(Some(1..)) if is_foreign() => {}
        ended => assert_eq!(*ended, exits_with(1)),
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

/// Whether it is ours, which alone can be asked for this.
fn is_ours() -> bool {
    if is_foreign() {
        println!("not asked of a program");
    }
    !is_foreign()
}

/// Not one of those that the system gives to clients: whoever asks again and
/// again for such a port while it is closed is given it some day as their own,
/// and finds themselves. Nor is it opened to try it: a process that another
/// thread starts just then has it open for a moment longer.
fn free_port() -> SocketAddr {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let ports = std::iter::repeat_with(|| {
        let n = std::process::id() + 997 * TRIED.fetch_add(1, Relaxed);
        let port = 20_000 + u16::try_from(n % 10_000).expect("it is small");
        SocketAddr::from(([127, 0, 0, 1], port))
    });
    let mut free = ports.filter(|port| TcpStream::connect(port).is_err());
    free.next().expect("there is always another")
}

/// Slower than all that happens at once.
const SLOW: Duration = Duration::from_secs(1);

/// Slower than any test.
const VERY_SLOW: Duration = Duration::from_secs(60);

mod stops {
    use super::*;

    #[test]
    fn the_first_signal_lets_requests_end_and_the_code_is_0() {
        let of_each = [Signal::TERM, Signal::INT, Signal::QUIT].map(|signal| {
            let process = Process::start();
            let slow = process.slow(SLOW);
            (signal, process, slow)
        });
        for (signal, process, _) in &of_each {
            process.gets(*signal);
        }
        for (signal, mut process, slow) in of_each {
            process.closes();
            let answer = slow.answer();
            assert!(answer.is_some(), "{signal:?}: half an answer, or none");
            assert_eq!(process.ends(), exits_with(0), "{signal:?}");
        }
    }

    #[test]
    fn a_process_that_is_idle_ends_at_once() {
        be_the_child_if_asked();
        for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
            let mut process = Process::start();
            process.gets(signal);
            assert_eq!(process.ends(), exits_with(0), "{signal:?}");
        }
    }

    #[test]
    fn a_signal_during_the_start_is_heard() {
        if !is_ours() {
            return; // Nobody knows how long it starts.
        }
        let mut child = own_child(NEVER);
        let mut process = Process::spawn(&mut child, free_port());
        let stdout = process.child.stdout.take().expect("it is piped");
        let lines = BufReader::new(stdout).lines();
        let mut lines = lines.map_while(Result::ok);
        assert!(
            lines.any(|line| line.ends_with(STARTING)),
            "it does not start"
        );
        process.gets(Signal::TERM);
        assert_eq!(process.ends(), exits_with(0));
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
        assert_eq!(process.ends(), exits_with(0));
    }
}

mod insists {
    use super::*;

    /// A process that was asked, and then told.
    fn insisted(first: Signal, second: Signal) -> Ended {
        let mut process = Process::start();
        let _slow = process.slow(VERY_SLOW);
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
            let code = exits_with(128 + second.as_raw());
            assert_eq!(ended, code, "after {first:?} and {second:?}");
        }
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
        let slow = process.slow(SLOW);
        // Whether this is answered is its own affair.
        let _ = process.request("/crash").answer();
        process.closes();
        assert!(slow.answer().is_some(), "the other part cuts off its request");
        has_failed(&process.ends());
    }

    #[test]
    fn one_part_ends_unasked_and_takes_the_others_along() {
        if !is_ours() {
            return; // Not every program has such a part.
        }
        let mut process = Process::start();
        let slow = process.slow(SLOW);
        let _ = process.request("/leave").answer();
        process.closes();
        assert!(slow.answer().is_some(), "the other part cuts off its request");
        assert_eq!(process.ends(), exits_with(1));
    }
}

mod reloads {
    use super::*;

    #[test]
    fn each_hangup_reloads_and_loses_nothing() {
        let mut process = Process::start();
        let slow = process.slow(SLOW);
        let version = || process.body("/version").parse::<u32>();
        let first = version().expect("a version is a number");
        for version_after in first + 1..first + 4 {
            process.gets(Signal::HUP);
            let reloads = in_time(|| version() == Ok(version_after));
            assert!(reloads, "no reload: {:?}", version());
        }
        assert!(slow.answer().is_some(), "a request is lost by a reload");
        process.gets(Signal::TERM);
        assert_eq!(process.ends(), exits_with(0));
    }

    #[test]
    fn a_reload_that_panics_takes_no_signal_away() {
        if !is_ours() {
            return; // Not every program can be made to.
        }
        let mut process = Process::start();
        let slow = process.slow(SLOW);
        process.body("/trap");
        process.gets(Signal::HUP);
        let reloads = in_time(|| process.body("/version") == "sprung");
        assert!(reloads, "no reload");
        process.gets(Signal::TERM);
        assert!(slow.answer().is_some(), "a request is lost by a reload");
        assert_eq!(process.ends(), exits_with(0), "after a panic in a reload");
    }
}

/// Where this program is the child: does not return.
fn be_the_child_if_asked() {
    let Ok(starts) = env::var(CHILD) else { return };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let code = runtime.block_on(async {
        let site = Arc::new(Site::default());
        let reloaded = Arc::clone(&site);
        let start = async |stop: CancellationToken| {
            if starts == NEVER {
                println!("{STARTING}");
                stop.cancelled().await;
                return Ok(Vec::new());
            }
            site.start(stop).await
        };
        run(start, move || reloaded.reload()).await
    });
    std::process::exit(code.into());
}

/// What it says once it has begun to start.
const STARTING: &str = "starting";

/// What the child shows of itself.
#[derive(Default)]
struct Site {
    version: AtomicU32,
    /// Slow requests that have begun.
    begun: AtomicU32,
    /// How its second part ends.
    crash: Notify,
    leave: Notify,
    trap: AtomicU32,
}

/// The next reload panics; it has.
const SET: u32 = 1;
const SPRUNG: u32 = 2;

impl Site {
    async fn start(
        self: Arc<Self>,
        stop: CancellationToken,
    ) -> Result<Vec<Part>, BoxError> {
        let address = env::var(ADDRESS)?.parse()?;
        let router = Arc::clone(&self).router();
        let server = Server::bind(address, router, 2 * VERY_SLOW).await?;
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
            .route("/slow", get(move |query| slow(self, query)))
    }

    fn version(&self) -> String {
        match self.trap.load(Relaxed) {
            SPRUNG => "sprung".to_owned(),
            _ => self.version.load(Relaxed).to_string(),
        }
    }

    fn reload(&self) {
        let set = self.trap.compare_exchange(SET, SPRUNG, Relaxed, Relaxed);
        assert!(set.is_err(), "a bug in a reload");
        self.version.fetch_add(1, Relaxed);
    }
}

fn told(whom: &Notify) -> String {
    whom.notify_one();
    "told".to_owned()
}

/// `?ms=1000`
async fn slow(site: Arc<Site>, RawQuery(query): RawQuery) -> &'static str {
    site.begun.fetch_add(1, Relaxed);
    let takes = query.as_deref().and_then(|query| query.strip_prefix("ms="));
    let takes = takes.and_then(|ms| ms.parse().ok()).expect("how long?");
    tokio::time::sleep(Duration::from_millis(takes)).await;
    "slow"
}
