//! Calls between processes: a line for the request, and a line for the answer.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use crate::pattern::Role;

/// Calls one process. It keeps connections, and opens more if they are in use.
#[derive(Debug)]
pub(crate) struct Caller {
    socket: PathBuf,
    idle: Mutex<Vec<BufReader<UnixStream>>>,
}

/// A call that takes longer has failed, but it may still take effect.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The longest time until a process is up.
const START: Duration = Duration::from_secs(20);

const PAUSE: Duration = Duration::from_millis(5);

/// Answers the calls of a process until it ends. If `handle` returns none, the
/// connection is closed.
pub(crate) async fn serve(
    dir: &Path,
    role: Role,
    handle: impl AsyncFn(&str) -> Option<String> + 'static,
) -> io::Result<()> {
    let (socket, handle) = (socket(dir, role), Rc::new(handle));
    // A process that was killed has left it.
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(socket)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let handle = Rc::clone(&handle);
        spawn_local(async move {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while let Ok(1..) = stream.read_line(&mut line).await {
                let Some(answer) = handle(line.trim_end()).await else { break };
                let answer = answer + "\n";
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    break;
                }
                line.clear();
            }
        });
    }
}

fn socket(dir: &Path, role: Role) -> PathBuf {
    dir.join(role.to_string())
}

impl Caller {
    /// Creates a caller, which connects when it calls.
    pub(crate) fn new(dir: &Path, role: Role) -> Self {
        Self { socket: socket(dir, role), idle: Mutex::default() }
    }

    /// Waits until the process accepts connections.
    pub(crate) async fn wait_until_up(&self) -> io::Result<()> {
        let attempts = async {
            while UnixStream::connect(&self.socket).await.is_err() {
                sleep(PAUSE).await;
            }
        };
        Ok(timeout(START, attempts).await?)
    }

    /// Sends a request once, and returns the answer.
    ///
    /// After an error, the request may have taken effect, or take effect later.
    pub(crate) async fn call(&self, request: &str) -> io::Result<String> {
        let call = timeout(TIMEOUT, self.try_call(request));
        let result = call.await.unwrap_or(Err(ErrorKind::TimedOut.into()));
        if result.is_err() {
            // The other connections of a dead process are closed, too.
            self.idle().clear();
        }
        result
    }

    async fn try_call(&self, request: &str) -> io::Result<String> {
        let idle = self.idle().pop();
        let mut stream = match idle {
            Some(stream) => stream,
            None => BufReader::new(UnixStream::connect(&self.socket).await?),
        };
        stream.write_all(format!("{request}\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_line(&mut answer).await?;
        if !answer.ends_with('\n') {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        answer.pop();
        self.idle().push(stream);
        Ok(answer)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<BufReader<UnixStream>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
