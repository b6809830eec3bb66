//! Starts the processes, kills them, and starts them again.

use std::collections::{HashMap, VecDeque};
use std::env;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinSet;

use crate::child::{Options, URL};
use crate::pattern::Role;
use crate::print;
use crate::report::Mode;
use crate::world::World;

pub(crate) use tokio::sync::mpsc::Receiver;

/// The processes of a run. They end when it is dropped.
pub(crate) struct Fleet {
    _tasks: JoinSet<()>,
}

/// When a process is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kill {
    /// After so many of its reports, counted from its first start.
    pub(crate) after: usize,
    /// Whether it may begin its next effect before it is killed.
    pub(crate) is_inside: bool,
}

/// An event of a run, for the trace.
#[derive(Debug)]
pub(crate) enum Note {
    /// A process has reported an effect.
    Report(Role, String),
    /// A process was killed after it had reported an effect.
    Killed(Role, String),
    /// A process has ended, and was not killed.
    Ended(Role, String),
    /// A client has sent a request again.
    Client(String),
}

const NOTES: usize = 1_000;

impl Fleet {
    /// Starts all processes. Returns what they report.
    pub(crate) fn start(
        world: &World,
        mode: Mode,
        mut kills: HashMap<Role, Vec<Kill>>,
    ) -> Result<(Self, Sender<Note>, Receiver<Note>)> {
        let (sender, receiver) = channel(NOTES);
        let mut tasks = JoinSet::new();
        for &role in world.pattern.roles() {
            let options = world.options(role, mode)?;
            let mut kills = kills.remove(&role).unwrap_or_default();
            kills.sort_unstable();
            let sender = sender.clone();
            tasks.spawn(async move {
                let ended = keep_running(&options, kills.into(), &sender).await;
                if let Err(error) = ended {
                    let text = print::chain(&error);
                    let _ = sender.send(Note::Ended(role, text)).await;
                }
            });
        }
        Ok((Self { _tasks: tasks }, sender, receiver))
    }
}

/// Starts a process again each time it was killed.
async fn keep_running(
    options: &Options,
    mut kills: VecDeque<Kill>,
    notes: &Sender<Note>,
) -> Result<()> {
    let role = options.role;
    let mut reports = 0;
    loop {
        let mut process = Command::new(env::current_exe()?)
            .args(options.arguments())
            .env(URL, &options.url)
            // Ctrl-C in a terminal is for the parent.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("it does not start")?;
        let mut stdin = process.stdin.take().context("it is piped")?;
        let stdout = process.stdout.take().context("it is piped")?;
        let mut lines = BufReader::new(stdout).lines();
        let mut is_killed = false;
        while let Some(line) = lines.next_line().await? {
            reports += 1;
            let kill = kills.pop_front_if(|kill| kill.after <= reports);
            if options.mode == Mode::Ask && kill.is_none_or(|k| k.is_inside) {
                // An error: it has just died, and the loop ends.
                let _ = stdin.write_all(b"\n").await;
            }
            if kill.is_some() {
                process.start_kill()?;
                is_killed = true;
                notes.send(Note::Killed(role, line)).await?;
                break;
            }
            notes.send(Note::Report(role, line)).await?;
        }
        let status = process.wait().await?;
        if !is_killed {
            bail!("{status}");
        }
    }
}
