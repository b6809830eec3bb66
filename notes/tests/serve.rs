//! `serve`: a reader's browser, and the program that starts it, get what they
//! were promised.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use notes::serve::Server;
use rustix::process::{Pid, Signal, kill_process};

mod mini;

/// After it, nothing will come any more.
const DEADLINE: Duration = Duration::from_secs(30);

#[test]
fn the_book_and_nothing_else_is_served() {
    let notes = Notes::serve(&["--port", "0"]);
    let start = notes.get("/");
    assert_eq!(start.status, 200);
    assert!(start.has_header("content-type: text/html"));
    assert!(start.has_header("cache-control: no-store"));
    assert!(start.body.contains("The Backend Workbook"));
    let page = notes.get("/week02/no_rows.html");
    assert_eq!(page.status, 200);
    assert!(page.body.contains("No row is an answer"));

    let style = start.body.split('"').find(|part| part.contains("theme/book"));
    let style = notes.get(&format!("/{}", style.expect("a style of ours")));
    assert_eq!(style.status, 200);
    assert!(style.has_header("content-type: text/css"));
    assert!(style.body.contains(".exercise"));

    let missing = notes.get("/week02/no_such_page.html");
    assert_eq!(missing.status, 404);
    assert!(missing.body.contains("Document not found"));
}

#[test]
fn nothing_outside_the_book_is_served() {
    let notes = Notes::serve(&["--port", "0"]);
    let up = "../".repeat(12);
    let escaped = "%2e%2e/".repeat(12);
    let both = "..%2f".repeat(12);
    for path in [up, escaped, both, "/".to_owned()] {
        let answer = notes.get(&format!("/{path}etc/hostname"));
        assert_eq!(answer.status, 404, "/{path}etc/hostname");
    }
    // Other addresses of this machine are not listened on.
    let other = SocketAddr::from(([127, 0, 0, 2], notes.address.port()));
    assert!(TcpStream::connect(other).is_err());
}

#[test]
fn a_head_is_an_answer_without_its_body() {
    let notes = Notes::serve(&["--port", "0"]);
    let head = notes.request("HEAD", "/index.html");
    assert_eq!((head.status, &*head.body), (200, ""));
    let length = notes.get("/index.html").body.len();
    assert!(head.has_header(&format!("content-length: {length}")));
    assert_eq!(notes.request("POST", "/index.html").status, 405);
}

#[test]
fn it_ends_in_good_order_also_while_a_request_is_half_sent() {
    for signal in [Signal::TERM, Signal::INT] {
        let notes = Notes::serve(&["--port", "0"]);
        let mut open = TcpStream::connect(notes.address).unwrap();
        open.write_all(b"GET / HT").unwrap();
        // Once this is answered, the half one has been accepted.
        assert_eq!(notes.get("/").status, 200);
        let (status, more) = notes.end(signal);
        assert_eq!(status.code(), Some(0), "after {signal:?}");
        assert_eq!(more, "", "it says one line");
    }
}

#[test]
fn a_port_that_was_asked_for_and_is_taken_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let Output { status, stdout, stderr } =
        command(&["--port", &port]).output().unwrap();
    assert_eq!(status.code(), Some(2));
    assert_eq!(String::from_utf8(stdout).unwrap(), "");
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(&format!("cannot listen on port {port}")), "{said}");
}

#[test]
fn where_no_port_was_asked_for_a_taken_one_leads_to_another() {
    // Or somebody else has it: then it is taken as well.
    let _taken = TcpListener::bind("127.0.0.1:3000");
    let notes = Notes::serve(&[]);
    assert_ne!(notes.address.port(), 3000);
    assert_eq!(notes.get("/").status, 200);
}

#[test]
fn a_page_follows_its_sources() {
    let root = mini::workbook();
    let (page, toml) =
        ("notes/pages/week01/pause.md", "week01/exercises/pause.toml");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let server = runtime.block_on(Server::start(root.path(), Some(0))).unwrap();
    let address = parse(&server.address().unwrap());
    let mut clock = SystemTime::now();
    let mut change = |file: &str, old: &str, new: &str| {
        mini::replace(root.path(), file, old, new);
        // Also where a file's time is coarse.
        clock += Duration::from_secs(1);
        let file = File::options().append(true).open(root.path().join(file));
        file.unwrap().set_modified(clock).unwrap();
    };
    let get = || request(address, "GET", "/week01/pause.html");
    thread::scope(|scope| {
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        scope.spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    ran = server.run() => ran.unwrap(),
                    _ = ended => {}
                }
            });
        });
        let body = get().body;
        assert!(body.contains("The incident."));
        change(page, "The incident.", "Another incident.");
        assert!(get().body.contains("Another incident."));
        change("week01/src/pause.rs", "How long.", "How many seconds.");
        assert!(get().body.contains("How many seconds."));

        change(toml, "minutes = 45", "minutes = soon");
        let broken = get();
        assert_eq!(broken.status, 500);
        assert!(broken.body.starts_with(&format!("{toml}:4: ")));
        change(toml, "minutes = soon", "minutes = 50");
        assert!(get().body.contains("50 minutes"));
        drop(end);
    });
}

/// The notes' own program, while it serves.
struct Notes {
    child: Child,
    lines: mpsc::Receiver<String>,
    address: SocketAddr,
}

impl Notes {
    fn serve(arguments: &[&str]) -> Self {
        let mut command = command(arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            // Whoever ends the test first no longer listens.
            stdout.lines().try_for_each(|line| send.send(line.unwrap()))
        });
        let line = lines.recv_timeout(DEADLINE).expect("the address");
        Self { child, lines, address: parse(&line) }
    }

    fn get(&self, path: &str) -> Answer {
        self.request("GET", path)
    }

    fn request(&self, method: &str, path: &str) -> Answer {
        request(self.address, method, path)
    }

    /// What became of it, and what it said besides its address.
    fn end(mut self, signal: Signal) -> (ExitStatus, String) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let deadline = Instant::now() + DEADLINE;
        let mut more = String::new();
        // It closes its end of the pipe when it ends, and not before.
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => more += &line,
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    panic!("it still runs after {signal:?}")
                }
            }
        }
        (self.child.wait().unwrap(), more)
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        // It has ended already where a test has ended it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_notes"));
    command.arg("serve").args(arguments);
    command
}

fn parse(address: &str) -> SocketAddr {
    let address = address.strip_prefix("http://").expect("an address");
    let address = address.strip_suffix('/').expect("with a path");
    address.parse().expect("an address and a port")
}

struct Answer {
    status: u16,
    headers: String,
    body: String,
}

impl Answer {
    fn has_header(&self, header: &str) -> bool {
        self.headers.lines().any(|line| line.to_lowercase().starts_with(header))
    }
}

/// Not by a client, which would tidy the path.
fn request(address: SocketAddr, method: &str, path: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (headers, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, headers: headers.to_owned(), body: body.to_owned() }
}
