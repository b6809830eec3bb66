//! Tests of `notes serve`: the responses, the port, the signals, and rendering
//! after a change.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use notes::serve::Server;
use rustix::process::{Pid, Signal, kill_process};

mod fixture;

/// The longest wait for the server.
const DEADLINE: Duration = Duration::from_secs(30);

#[test]
fn pages_and_styles_are_served_and_a_missing_page_is_404() {
    let notes = Notes::serve(&["--port", "0"]);
    let start = notes.get("/");
    assert_eq!(start.status, 200);
    assert!(start.has_header("content-type: text/html"));
    assert!(start.has_header("cache-control: no-store"));
    assert!(start.body.contains("The Backend Workbook"));
    let page = notes.get("/week02/no_rows.html");
    assert_eq!(page.status, 200);
    let title = title("week02/no_rows.md");
    assert!(page.body.contains(&title), "expected {title:?} on the page");

    let style = start.body.split('"').find(|part| part.contains("theme/book"));
    let style = notes.get(&format!(
        "/{}",
        style.expect("a page should link to theme/book.css")
    ));
    assert_eq!(style.status, 200);
    assert!(style.has_header("content-type: text/css"));
    assert!(style.body.contains(".exercise"));

    let missing = notes.get("/week02/no_such_page.html");
    assert_eq!(missing.status, 404);
    assert!(missing.body.contains("Document not found"));
}

#[test]
fn a_path_outside_the_book_is_404() {
    let notes = Notes::serve(&["--port", "0"]);
    let up = "../".repeat(12);
    let escaped = "%2e%2e/".repeat(12);
    let both = "..%2f".repeat(12);
    for path in [up, escaped, both, "/".to_owned()] {
        let path = format!("/{path}etc/hostname");
        assert_eq!(notes.get(&path).status, 404, "status of {path}");
    }
}

#[test]
fn the_server_listens_on_one_address_only() {
    let notes = Notes::serve(&["--port", "0"]);
    assert_eq!(notes.address.ip(), IpAddr::from([127, 0, 0, 1]));
    let other = SocketAddr::from(([127, 0, 0, 2], notes.address.port()));
    assert!(TcpStream::connect(other).is_err(), "connected to {other}");
}

#[test]
fn head_returns_the_headers_of_get_without_the_body() {
    let notes = Notes::serve(&["--port", "0"]);
    let head = notes.request("HEAD", "/index.html");
    assert_eq!((head.status, &*head.body), (200, ""));
    let length = notes.get("/index.html").body.len();
    assert!(head.has_header(&format!("content-length: {length}")));
    assert_eq!(notes.request("POST", "/index.html").status, 405);
}

#[test]
fn sigterm_and_sigint_end_the_server_despite_an_incomplete_request() {
    for signal in [Signal::TERM, Signal::INT] {
        let notes = Notes::serve(&["--port", "0"]);
        let mut open = TcpStream::connect(notes.address).unwrap();
        open.write_all(b"GET / HT").unwrap();
        // After this response, the server has accepted the first connection.
        assert_eq!(notes.get("/").status, 200);
        let (status, more) = notes.stop(signal);
        assert_eq!(status.code(), Some(0), "exit code after {signal:?}");
        assert_eq!(more, "", "output after the address");
    }
}

#[test]
fn a_requested_port_that_is_taken_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let Output { status, stdout, stderr } =
        command(&["--port", &port]).output().unwrap();
    assert_eq!(status.code(), Some(2));
    assert_eq!(String::from_utf8(stdout).unwrap(), "");
    let error = String::from_utf8(stderr).unwrap();
    assert_eq!(error.lines().count(), 1, "lines of {error:?}");
    let expected = format!("cannot listen on port {port}");
    assert!(error.contains(&expected), "expected {expected:?} in {error:?}");
}

#[test]
fn a_default_port_that_is_taken_is_replaced_by_a_free_port() {
    // If this fails, another process has taken the port.
    let _taken = TcpListener::bind("127.0.0.1:3000");
    let notes = Notes::serve(&[]);
    assert_ne!(notes.address.port(), 3000);
    assert_eq!(notes.get("/").status, 200);
}

#[test]
fn a_changed_source_is_in_the_next_response() {
    let root = fixture::workbook();
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
        fixture::replace(root.path(), file, old, new);
        // Set a later time: some file systems store only whole seconds.
        clock += Duration::from_secs(1);
        let file = File::options().append(true).open(root.path().join(file));
        file.unwrap().set_modified(clock).unwrap();
    };
    let get = || request(address, "GET", "/week01/pause.html");
    thread::scope(|scope| {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        scope.spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    ran = server.run() => ran.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        let body = get().body;
        assert!(body.contains("The incident."));
        change(page, "The incident.", "Another incident.");
        assert!(get().body.contains("Another incident."));
        change(
            "week01/src/pause.rs",
            "seconds to wait.",
            "length of the pause.",
        );
        assert!(get().body.contains("length of the pause."));

        change(toml, "minutes = 45", "minutes = many");
        let response = get();
        assert_eq!(response.status, 500);
        assert!(response.body.starts_with(&format!("{toml}:4: ")));
        change(toml, "minutes = many", "minutes = 50");
        assert!(get().body.contains("50 minutes"));
        drop(stop);
    });
}

/// A running process of the program `notes serve`.
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
            // Stop when the test has dropped the receiver.
            stdout.lines().try_for_each(|line| send.send(line.unwrap()))
        });
        let line = lines
            .recv_timeout(DEADLINE)
            .expect("the program should print its address");
        Self { child, lines, address: parse(&line) }
    }

    fn get(&self, path: &str) -> Response {
        self.request("GET", path)
    }

    fn request(&self, method: &str, path: &str) -> Response {
        request(self.address, method, path)
    }

    /// Sends `signal`. Returns the exit status, and the output after the address.
    fn stop(mut self, signal: Signal) -> (ExitStatus, String) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let deadline = Instant::now() + DEADLINE;
        let mut more = String::new();
        // The process closes its end of the pipe when it ends.
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => more += &line,
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    panic!("the program still runs after {signal:?}")
                }
            }
        }
        (self.child.wait().unwrap(), more)
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        // If the test has stopped the process, both calls do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the title of a page.
fn title(page: &str) -> String {
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("pages");
    let text = fs::read_to_string(pages.join(page)).unwrap();
    let title = text.lines().next().and_then(|line| line.strip_prefix("# "));
    title.expect("a page should begin with its title").to_owned()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_notes"));
    command.arg("serve").args(arguments);
    command
}

/// Parses the URL that the program prints.
fn parse(address: &str) -> SocketAddr {
    let address = address
        .strip_prefix("http://")
        .expect("the address should begin with http://");
    let address =
        address.strip_suffix('/').expect("the address should end with a slash");
    address.parse().expect("the address should be an IP address and a port")
}

struct Response {
    status: u16,
    headers: String,
    body: String,
}

impl Response {
    fn has_header(&self, header: &str) -> bool {
        self.headers.lines().any(|line| line.to_lowercase().starts_with(header))
    }
}

/// Sends a request over a plain connection, because an HTTP client would
/// normalize the path.
fn request(address: SocketAddr, method: &str, path: &str) -> Response {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (headers, body) = response.split_once("\r\n\r\n").unwrap();
    let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
    Response { status, headers: headers.to_owned(), body: body.to_owned() }
}
