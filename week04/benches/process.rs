//! Measures the whole process: the time from its start to the first answer, and
//! its memory with idle and with silent connections.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use rustix::process::{Pid, Resource, Rlimit, Signal};
use rustix::process::{getrlimit, kill_process, setrlimit};
use week03::signals;
use week04::composition::Application;
use week04::settings;

/// If this variable is set, this process is the service. It contains the URL of
/// the database.
const SERVICE: &str = "BENCH_SERVICE_DATABASE";

const STARTS: usize = 21;

fn main() -> ExitCode {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    setrlimit(Resource::Nofile, raised).expect("the maximum is allowed");
    match env::var(SERVICE) {
        Ok(url) => serve(&url),
        Err(_) => {
            measure();
            ExitCode::SUCCESS
        }
    }
}

fn measure() {
    let dir = tempfile::tempdir().expect("a folder can be created");
    let url = format!("sqlite://{}/test.db", dir.path().display());
    let mut starts: Vec<_> = (0..STARTS)
        .map(|_| {
            let begin = Instant::now();
            let (service, http, _) = start(&url);
            assert!(get(http).starts_with("HTTP/1.1 200 "));
            let took = begin.elapsed();
            stop(service);
            took
        })
        .collect();
    starts.sort_unstable();
    println!(
        "from start to first answer: {:.1} ms (median of {STARTS})",
        starts[STARTS / 2].as_secs_f64() * 1e3
    );

    let (service, http, _) = start(&url);
    get(http);
    let before = memory_kib(&service);
    let mut clients = Vec::new();
    for _ in 0..1000 {
        let mut client = TcpStream::connect(http).expect("it is open");
        client.write_all(REQUEST).expect("it reads");
        let mut answer = [0; 512];
        assert!(client.read(&mut answer).expect("it answers") > 0);
        clients.push(client);
    }
    let idle = memory_kib(&service);
    println!(
        "memory: {before} KiB, with 1,000 idle HTTP connections {idle} KiB: \
         {:.1} KiB each",
        f64::from(idle - before) / 1e3
    );
    drop(clients);
    stop(service);

    let (service, http, grpc) = start(&url);
    get(http);
    let before = memory_kib(&service);
    let silent: Vec<_> = (0..10_000)
        .map(|n| {
            let address = if n % 2 == 0 { http } else { grpc };
            TcpStream::connect(address).expect("it is open")
        })
        .collect();
    let begin = Instant::now();
    assert!(get(http).starts_with("HTTP/1.1 200 "));
    println!(
        "with 10,000 connections that send nothing: {} KiB more, a request \
         takes {:.1} ms",
        memory_kib(&service) - before,
        begin.elapsed().as_secs_f64() * 1e3
    );
    drop(silent);
    stop(service);
}

const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: bench\r\n\r\n";

fn start(url: &str) -> (Child, SocketAddr, SocketAddr) {
    let mut service = Command::new(env::current_exe().expect("its path"))
        .env(SERVICE, url)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program can be started");
    let stdout = service.stdout.take().expect("stdout is piped");
    let mut lines = BufReader::new(stdout).lines();
    let mut address = || {
        let line = lines.next().expect("the service prints its address");
        line.expect("it is text").parse().expect("it is an address")
    };
    let (http, grpc) = (address(), address());
    (service, http, grpc)
}

fn stop(mut service: Child) {
    let pid = Pid::from_child(&service);
    kill_process(pid, Signal::TERM).expect("the process runs");
    let status = service.wait().expect("a child process");
    assert!(status.success(), "expected exit code 0; seen: {status}");
}

fn get(address: SocketAddr) -> String {
    // Until the service says that it serves, the answer is 503.
    loop {
        let mut client = TcpStream::connect(address).expect("it is open");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("ok");
        client.write_all(REQUEST).expect("it reads");
        let mut answer = [0; 512];
        let length = client.read(&mut answer).expect("it answers");
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        if !answer.starts_with("HTTP/1.1 503") {
            return answer;
        }
    }
}

fn memory_kib(service: &Child) -> i32 {
    let path = format!("/proc/{}/status", service.id());
    let status = fs::read_to_string(path).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    kib.and_then(|kib| kib.parse().ok()).expect("Linux has this line")
}

#[tokio::main]
async fn serve(url: &str) -> ExitCode {
    let text = format!(r#"{{"data": {{"url": "{url}"}}}}"#);
    let start = async |stop| {
        let options = settings::load(&text, [])?.options()?;
        let application = Application::open(options).await;
        let application = application.map_err(|failed| failed.error)?;
        let (http, grpc) = application.addresses()?;
        println!("{http}\n{grpc}");
        let part: signals::Part = Box::pin(application.run(stop));
        Ok(vec![part])
    };
    signals::run(start, || {}).await.into()
}
