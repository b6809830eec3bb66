//! The broker that needs no installation: librdkafka's mock cluster, in a
//! process of its own.
//!
//! **Question.** A test kills consumers and takes brokers down. How does it get a
//! Kafka that starts in milliseconds and that no other test shares?
//!
//! **Idea.** The current executable runs again, with an environment variable
//! that makes it a broker. An assertion inside the mock aborts its process, and
//! not the test. The process ends when its standard input does, so that it never
//! outlives the one that has started it, also after a SIGKILL.
//!
//! **Guarantee.** A broker that [`spawn`](MockBroker::spawn) returns accepts
//! connections. [`check`](MockBroker::check) reports one that has died, with its
//! last words.
//!
//! **Cost.** It is a mock. It keeps at most 5 MiB of a partition, in memory, and
//! deletes older records silently. It does not deduplicate the records of an
//! idempotent producer after a lost acknowledgment. A consumer has to set
//! `group.protocol=consumer`. Every client takes a real cluster's bootstrap
//! servers instead.

#![allow(
    unsafe_code,
    reason = "the session of a group is not in rdkafka's safe interface"
)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{
    Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{env, process};

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, DefaultProducerContext, Producer as _};
use rdkafka_sys as native;

/// A process that serves as a Kafka cluster of one broker.
#[derive(Debug)]
pub struct MockBroker {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    bootstrap: String,
    errors: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

/// The settings of a [`MockBroker`].
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// The arguments with which the executable reaches [`run_if_asked`]. A
    /// program needs none, a test binary needs those that run one test.
    pub arguments: &'a [&'a str],
    /// The topics, and their numbers of partitions.
    pub topics: &'a [(&'a str, i32)],
    /// The time after which a member of a group that sends no heartbeat is
    /// removed.
    pub session: Duration,
}

/// The broker process has ended.
#[derive(Debug, thiserror::Error)]
#[error("the mock broker has died: {status}; it has written:\n{errors}")]
pub struct Died {
    /// How the process has ended.
    pub status: ExitStatus,
    /// Its standard error.
    pub errors: String,
}

/// Holds the session in milliseconds, and the topics: `1000 comments=6`.
const VARIABLE: &str = "WEEK06_MOCK_BROKER";

/// Precedes the address in the output, since a test harness prints lines too.
const READY: &str = "mock broker: ";

const DONE: &str = "mock broker has obeyed";

/// The number of the only broker.
const BROKER: i32 = 1;

impl MockBroker {
    /// Starts a broker process, and waits until it accepts connections.
    ///
    /// # Errors
    ///
    /// Returns an error if the process cannot be started, or if it ends without
    /// having called [`run_if_asked`].
    ///
    /// # Panics
    ///
    /// Never: the streams are piped.
    pub fn spawn(setup: Setup<'_>) -> io::Result<Self> {
        let mut value = setup.session.as_millis().to_string();
        for (topic, partitions) in setup.topics {
            value += &format!(" {topic}={partitions}");
        }
        let mut child = Command::new(env::current_exe()?)
            .args(setup.arguments)
            .env(VARIABLE, value)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let errors = Arc::default();
        let stderr = child.stderr.take().expect("it is piped");
        let reader = thread::spawn({
            let errors = Arc::clone(&errors);
            move || collect(stderr, &errors)
        });
        let mut broker = Self {
            commands: child.stdin.take().expect("it is piped"),
            answers: BufReader::new(child.stdout.take().expect("it is piped")),
            child,
            bootstrap: String::new(),
            errors,
            reader: Some(reader),
        };
        broker.bootstrap = broker.wait_for(READY)?;
        Ok(broker)
    }

    /// Returns the address for `bootstrap.servers`.
    #[must_use]
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Closes all connections, and accepts none until [`up`](Self::up).
    ///
    /// # Errors
    ///
    /// Returns an error if the process has died, as the other commands do.
    pub fn down(&mut self) -> io::Result<()> {
        self.command("down")
    }

    /// Accepts connections again. The records are still there.
    ///
    /// # Errors
    ///
    /// Returns an error if the process has died.
    pub fn up(&mut self) -> io::Result<()> {
        self.command("up")
    }

    /// Delays each response.
    ///
    /// # Errors
    ///
    /// Returns an error if the process has died.
    pub fn round_trip(&mut self, delay: Duration) -> io::Result<()> {
        self.command(&format!("rtt {}", delay.as_millis()))
    }

    /// Returns whether the process still runs. A test calls it when something
    /// did not happen, to tell a fault of the mock from one of the code.
    ///
    /// # Errors
    ///
    /// Returns the exit status and the standard error of a process that has
    /// ended.
    pub fn check(&mut self) -> Result<(), Died> {
        match self.child.try_wait() {
            Ok(Some(status)) => {
                // All that it has written, up to its end.
                if let Some(reader) = self.reader.take() {
                    let _ = reader.join();
                }
                let errors = lock(&self.errors).clone();
                Err(Died { status, errors })
            }
            Ok(None) | Err(_) => Ok(()),
        }
    }

    fn command(&mut self, command: &str) -> io::Result<()> {
        writeln!(self.commands, "{command}")?;
        self.wait_for(DONE).map(drop)
    }

    /// Reads up to a line with `marker`, and returns the rest of this line.
    fn wait_for(&mut self, marker: &str) -> io::Result<String> {
        let mut line = String::new();
        while self.answers.read_line(&mut line)? > 0 {
            if let Some((_, rest)) = line.split_once(marker) {
                return Ok(rest.trim().to_owned());
            }
            line.clear();
        }
        let errors = lock(&self.errors).clone();
        Err(io::Error::other(format!("the mock broker has ended: {errors}")))
    }
}

impl Drop for MockBroker {
    fn drop(&mut self) {
        // It stores nothing: there is nothing to wait for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Becomes a broker if this process was started by [`MockBroker::spawn`], and
/// does not return then. It is the first call of `main`, and in a test binary
/// the only one of the test that the arguments name.
///
/// # Panics
///
/// Panics if the mock cluster cannot be created, which ends the process.
pub fn run_if_asked() {
    let Ok(setup) = env::var(VARIABLE) else { return };
    let mut words = setup.split(' ');
    let session = words.next().and_then(|word| word.parse().ok());
    let session: i32 = session.expect("spawn has written a number");

    let holder: BaseProducer = ClientConfig::new()
        .set("test.mock.num.brokers", "1")
        .create()
        .expect("the mock cluster is created");
    // SAFETY: `holder` is a client with a mock cluster, which it owns and which
    // lives as long as it does: until the end of this function. The setters take
    // any cluster that is alive, from any thread.
    unsafe {
        let client = holder.client().native_ptr();
        let cluster = native::rd_kafka_handle_mock_cluster(client);
        native::rd_kafka_mock_set_group_consumer_session_timeout_ms(
            cluster, session,
        );
        native::rd_kafka_mock_set_group_consumer_heartbeat_interval_ms(
            cluster,
            (session / 10).max(1),
        );
    }
    let cluster = holder.client().mock_cluster().expect("it has one");
    for word in words {
        let (topic, partitions) =
            word.split_once('=').expect("spawn has written topic=number");
        let partitions = partitions.parse().expect("it is a number");
        let created = cluster.create_topic(topic, partitions, 1);
        created.expect("the topic is created");
    }
    // A test harness may have written the beginning of a line.
    println!("\n{READY}{}", cluster.bootstrap_servers());
    for line in io::stdin().lines().map_while(Result::ok) {
        obey(&cluster, &line);
        println!("\n{DONE}");
    }
    process::exit(0);
}

fn obey(cluster: &MockCluster<'_, DefaultProducerContext>, line: &str) {
    let mut words = line.split(' ');
    let done = match (words.next(), words.next().map(str::parse)) {
        (Some("down"), None) => cluster.broker_down(BROKER),
        (Some("up"), None) => cluster.broker_up(BROKER),
        (Some("rtt"), Some(Ok(ms))) => {
            cluster.broker_round_trip_time(BROKER, Duration::from_millis(ms))
        }
        _ => panic!("unknown command {line:?}"),
    };
    done.expect("the mock obeys");
}

fn collect(mut stderr: impl Read, errors: &Mutex<String>) {
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = stderr.read(&mut buffer) {
        lock(errors).push_str(&String::from_utf8_lossy(&buffer[..len]));
    }
}

fn lock(errors: &Mutex<String>) -> std::sync::MutexGuard<'_, String> {
    errors.lock().unwrap_or_else(PoisonError::into_inner)
}
