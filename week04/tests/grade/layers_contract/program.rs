//! The process that is graded, and a client for HTTP/1.1.

use std::error::Error;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{env, fs, io, iter, process, thread};

use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use week04::composition::Application;
use week04::settings;

/// The command of the program to grade, in place of the workbook's own service.
pub(super) const PROGRAM: &str = "WB_PROGRAM";

/// If this variable is set, this process is the workbook's own service.
const CHILD: &str = "WB_CONTRACT_CHILD";

/// The test that runs the service, if [`CHILD`] is set.
const CHILD_TEST: &str = "created_resources_are_read_back_with_equal_fields";

const START_LIMIT: Duration = Duration::from_secs(10);
const ANSWER_LIMIT: Duration = Duration::from_secs(4);
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// The time between two checks of a condition.
const TICK: Duration = Duration::from_millis(5);

/// The process that is graded. Killed on drop.
pub(super) struct Program {
    child: Mutex<Child>,
    pub(super) address: SocketAddr,
    pub(super) home: Arc<TempDir>,
}

impl Program {
    /// Starts the program with a new database, and waits until it serves.
    pub(super) fn start() -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        Self::start_in(&Arc::new(home))
    }

    pub(super) fn start_in(home: &Arc<TempDir>) -> Self {
        let mut last = None;
        // Another process may take the port just then.
        for _ in 0..3 {
            let program = Self::spawn(Arc::clone(home));
            match program.serves() {
                Ok(()) => return program,
                Err(ended) => last = Some((program, ended)),
            }
        }
        // Until the panic, keeps the program, which then prints its output.
        let (_program, ended) = last.expect("three starts");
        panic!(
            "expected the program to serve; it ended before GET /healthz was \
             answered, in each of 3 starts: {ended}"
        );
    }

    fn spawn(home: Arc<TempDir>) -> Self {
        let mut command = match env::var(PROGRAM) {
            Ok(program) => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", &format!("exec {program}")]);
                shell
            }
            Err(_) => {
                let own = env::current_exe().expect("this program's file");
                let (_crate, module) = module_path!().split_once("::").unwrap();
                let module = module.trim_end_matches("::program");
                let test = format!("{module}::{CHILD_TEST}");
                let mut own = Command::new(own);
                own.args(["--exact", &test, "--nocapture"]).env(CHILD, "");
                own
            }
        };
        let address = free_port();
        let database = home.path().join("comments.db");
        let output = fs::File::create(home.path().join("output"))
            .expect("a file in a temporary folder");
        let errors = output.try_clone().expect("a second handle of a file");
        let child = command
            .env("ADDRESS", address.to_string())
            .env("COMMENTS_SERVER_HTTP_ADDRESS", address.to_string())
            .env(
                "COMMENTS_DATA_URL",
                format!("sqlite://{}", database.display()),
            )
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn();
        let child = Mutex::new(child.expect("cannot start the program"));
        Self { child, address, home }
    }

    /// Waits until `/healthz` answers 200. Returns an error if the program ends.
    fn serves(&self) -> Result<(), ExitStatus> {
        let mut seen = String::new();
        let end = Instant::now() + START_LIMIT;
        while Instant::now() < end {
            if let Some(ended) = self.ended() {
                return Err(ended);
            }
            match self.try_call("GET", "/healthz", b"") {
                Ok(answer) if answer.status == 200 => return Ok(()),
                Ok(answer) if answer.status == 503 => {
                    seen = "the last status was 503".to_owned();
                }
                Ok(answer) => {
                    panic!("expected status 200; {}", answer.describe())
                }
                Err(error) => {
                    seen = format!("the last attempt failed: {error}")
                }
            }
            thread::park_timeout(TICK);
        }
        panic!(
            "expected GET /healthz on the address in `ADDRESS` to answer 200 \
             within {START_LIMIT:?}; {seen}"
        );
    }

    fn ended(&self) -> Option<ExitStatus> {
        let mut child = self.child.lock().expect("no thread panics with it");
        child.try_wait().expect("a child process")
    }

    pub(super) fn terminate(&self) {
        let id = self.child.lock().expect("no thread panics with it").id();
        let mut shell = Command::new("/bin/sh");
        let sent = shell.args(["-c", &format!("kill -TERM {id}")]).status();
        assert!(
            sent.is_ok_and(|sent| sent.success()),
            "expected the program to run until SIGTERM is sent; it has ended"
        );
    }

    pub(super) fn closes_its_port(&self) {
        assert!(
            becomes_true(|| !self.accepts()),
            "expected the port to be closed after SIGTERM; clients can still \
             connect after {STOP_LIMIT:?}"
        );
    }

    /// Returns whether the port is open. If the queue of its listener is full, it
    /// is open, and clients wait.
    fn accepts(&self) -> bool {
        match TcpStream::connect_timeout(&self.address, TICK * 100) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::TimedOut,
        }
    }

    #[track_caller]
    pub(super) fn exits_with_0(&self) {
        let mut ended = None;
        let has_ended = becomes_true(|| {
            ended = self.ended();
            ended.is_some()
        });
        assert!(
            has_ended,
            "expected the program to exit after SIGTERM; it still runs \
             {STOP_LIMIT:?} after the last response"
        );
        let ended = ended.expect("the program has ended");
        assert!(
            ended.code() == Some(0),
            "expected exit code 0 after SIGTERM; seen: {ended}"
        );
    }

    /// Sends a request except for the last `held_back` bytes of its body.
    pub(super) fn begin(
        &self,
        method: &str,
        target: &str,
        body: &[u8],
        held_back: usize,
    ) -> io::Result<Pending> {
        let mut stream =
            TcpStream::connect_timeout(&self.address, ANSWER_LIMIT)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        stream.set_nodelay(true)?;
        let address = self.address;
        let mut message = format!(
            "{method} {target} HTTP/1.1\r\nHost: {address}\r\n\
             Connection: close\r\n"
        );
        if matches!(method, "POST" | "PATCH") {
            message += "Content-Type: application/json\r\n";
            message += &format!("Content-Length: {}\r\n", body.len());
        }
        message += "\r\n";
        let (first, rest) = body.split_at(body.len() - held_back);
        stream.write_all(&[message.as_bytes(), first].concat())?;
        let body = String::from_utf8_lossy(body);
        let request = format!("{method} {target} {}", short(&body));
        let request = request.trim_end().to_owned();
        Ok(Pending { request, stream, rest: rest.to_owned() })
    }

    fn try_call(
        &self,
        method: &str,
        target: &str,
        body: &[u8],
    ) -> io::Result<Answer> {
        self.begin(method, target, body, 0)?.finish()
    }

    #[track_caller]
    pub(super) fn call(
        &self,
        method: &str,
        target: &str,
        body: &[u8],
    ) -> Answer {
        match self.try_call(method, target, body) {
            Ok(answer) => answer,
            Err(error) => {
                let seen = match error.kind() {
                    // What a read returns at its timeout.
                    io::ErrorKind::WouldBlock => "none".to_owned(),
                    _ => error.to_string(),
                };
                panic!(
                    "expected a response to {method} {target} {} within \
                     {ANSWER_LIMIT:?}; seen: {seen}",
                    short(&String::from_utf8_lossy(body))
                )
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let child = self.child.get_mut().expect("no thread panics with it");
        // Both fail if the program has already ended.
        let _ = child.kill();
        let _ = child.wait();
        if thread::panicking() {
            let output = fs::read(self.home.path().join("output"));
            let output = output.unwrap_or_default();
            let output = String::from_utf8_lossy(&output);
            let lines: Vec<_> = output.lines().collect();
            for line in &lines[lines.len().saturating_sub(6)..] {
                println!("the program: {}", short(line));
            }
        }
    }
}

/// A request of which a part may not have been sent.
pub(super) struct Pending {
    pub(super) request: String,
    stream: TcpStream,
    rest: Vec<u8>,
}

impl Pending {
    /// Sends the rest, and reads the response.
    pub(super) fn finish(mut self) -> io::Result<Answer> {
        self.stream.write_all(&self.rest)?;
        let mut reader = BufReader::new(self.stream);
        let mut head: Vec<String> = Vec::new();
        // A response with a status below 200 comes before the response.
        while head.is_empty() || head[0].starts_with("HTTP/1.1 1") {
            head = iter::from_fn(|| Some(line(&mut reader)))
                .take_while(|line| !line.as_deref().is_ok_and(str::is_empty))
                .collect::<io::Result<_>>()?;
        }
        let status = head[0].split(' ').nth(1).and_then(|it| it.parse().ok());
        let status = status.ok_or_else(|| {
            io::Error::other(format!("no HTTP response: {:?}", head[0]))
        })?;
        let header = |name: &str| {
            let header = |line: &String| {
                let (key, value) = line.split_once(':')?;
                let matches = key.eq_ignore_ascii_case(name);
                matches.then(|| value.trim().to_ascii_lowercase())
            };
            head.iter().find_map(header).unwrap_or_default()
        };
        let mut body = Vec::new();
        if header("transfer-encoding") == "chunked" {
            loop {
                let size = line(&mut reader)?;
                let size = size.split(';').next().unwrap_or_default();
                let size = u64::from_str_radix(size.trim(), 16)
                    .map_err(|_| io::Error::other("a chunk has no size"))?;
                if size == 0 {
                    break;
                }
                (&mut reader).take(size).read_to_end(&mut body)?;
                line(&mut reader)?;
            }
        } else if let Ok(size) = header("content-length").parse::<u64>() {
            let read = (&mut reader).take(size).read_to_end(&mut body)?;
            if (read as u64) < size {
                return Err(cut("in a body"));
            }
        } else if status != 204 {
            reader.read_to_end(&mut body)?;
        }
        Ok(Answer {
            request: self.request,
            status,
            content_type: header("content-type"),
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}

/// Reads a line of a response.
fn line(reader: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    match reader.read_line(&mut line)? {
        0 => Err(cut("in the head of a response")),
        _ => Ok(line.trim_end().to_owned()),
    }
}

fn cut(when: &str) -> io::Error {
    io::Error::other(format!("the connection ended {when}"))
}

/// A response, and the request for messages.
pub(super) struct Answer {
    pub(super) request: String,
    pub(super) status: u16,
    pub(super) content_type: String,
    pub(super) body: String,
}

impl Answer {
    /// Describes the response and the request, for a message.
    pub(super) fn describe(&self) -> String {
        let lines: Vec<_> = self.body.lines().map(str::trim).collect();
        let (status, body) = (self.status, short(&lines.join(" ")));
        format!("seen: {status} {body} in response to {}", self.request)
    }
}

/// Returns a port below the range that the system gives to clients. The port is
/// not opened here: a process that another thread starts would inherit it.
fn free_port() -> SocketAddr {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let ports = iter::repeat_with(|| {
        let n = process::id() + 997 * TRIED.fetch_add(1, Relaxed);
        let port = 10_000 + u16::try_from(n % 10_000).expect("below 10,000");
        SocketAddr::from(([127, 0, 0, 1], port))
    });
    let mut free = ports.filter(|port| TcpStream::connect(port).is_err());
    free.next().expect("the iterator is endless")
}

/// Returns the beginning of a text.
pub(super) fn short(text: &str) -> String {
    match text.char_indices().nth(300) {
        None => text.to_owned(),
        Some((at, _)) => {
            let left_out = text[at..].chars().count();
            format!("{}… (and {left_out} characters)", &text[..at])
        }
    }
}

/// Checks `condition` until the limit for a shutdown.
fn becomes_true(mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + STOP_LIMIT;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        thread::park_timeout(TICK);
    }
}

/// Runs the workbook's own service until SIGTERM, if this is its process.
pub(super) fn run_service_if_child() {
    if env::var_os(CHILD).is_none() {
        return;
    }
    let serve = async {
        let stop = CancellationToken::new();
        let mut terminated = signal(SignalKind::terminate())?;
        let stopping = stop.clone();
        tokio::spawn(async move {
            terminated.recv().await;
            stopping.cancel();
        });
        let options = settings::load("{}", env::vars())?.options()?;
        let opened = Application::open(options).await;
        opened.map_err(|error| error.to_string())?.run(stop).await
    };
    let runtime = Runtime::new().expect("a runtime");
    let served: Result<(), Box<dyn Error + Send + Sync>> =
        runtime.block_on(serve);
    if let Err(error) = &served {
        eprintln!("the service failed: {error}");
    }
    process::exit(i32::from(served.is_err()));
}
