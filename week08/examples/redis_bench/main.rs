//! How many GETs and SETs does a Redis server answer per second, by the size of
//! the values, and how long does each take?
//!
//! ```console
//! $ cargo run --release -p week08 --example redis_bench
//! $ cargo run --release -p week08 --example redis_bench -- --help
//! ```
//!
//! Without options, it takes some minutes: it starts a server, and measures
//! seven value sizes with and without pipelining, in several runs.
//! redis-benchmark runs beside it with the same commands, keys and connections,
//! if it is installed. The loop is closed: it measures throughput and service
//! time. With `--rate`, the loop is open: each request is due at a time of its
//! own, and its latency is measured from that time.
//!
//! Keys are random, from a key space that is written before the measurement. On
//! a server given by `--url`, they have a prefix of their own and are removed
//! at the end, also after an error or Ctrl-C. The server needs memory for all
//! keys with the largest value. If the URL is that of a node of a cluster, the
//! connections are spread over its primaries, and each asks for keys of its
//! node. redis-benchmark does not run then: it chooses the slot of each key by a
//! hash tag of its own, so its GETs would miss.

mod chart;
mod client;
mod cpu;
mod keys;
mod measure;
mod peer;
mod resp;
mod server;
mod table;
mod target;
#[cfg(test)]
mod tests;

use std::fs;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser;
use clap::builder::TypedValueParser as _;
use indicatif::{ProgressBar, ProgressStyle};
use lab::guess;
use lab::servers::Redis;
use tokio::runtime::Builder;
use week08::percentiles::Plan;

use client::Kind;
use keys::Keys;
use measure::{Measured, Settings, measure};
use resp::Command;
use server::{Server, Transport};
use target::Target;

/// Measures GET and SET by value size.
#[derive(Parser)]
struct Options {
    /// A server, redis:// or redis+unix://. Without it, one is started.
    #[arg(long)]
    url: Option<String>,
    /// How the clients reach the server that is started.
    #[arg(long, value_enum, default_value = "tcp", conflicts_with = "url")]
    transport: Transport,
    /// The value sizes in bytes.
    #[arg(long, value_delimiter = ',', value_parser = size(100_000_000),
        default_value = "10,20,50,100,200,1000,5000")]
    sizes: Vec<usize>,
    /// The numbers of commands that are sent in one write.
    #[arg(long, value_delimiter = ',', value_parser = size(10_000),
        default_value = "1,16")]
    pipeline: Vec<usize>,
    /// The number of different keys.
    #[arg(long, default_value = "100000")]
    keys: NonZero<u32>,
    /// The number of connections.
    #[arg(long, default_value = "50", value_parser = size(10_000))]
    connections: usize,
    /// The number of runs of each tool.
    #[arg(long, default_value = "3", value_parser = size(1000))]
    runs: usize,
    /// The measured time of a run in seconds.
    #[arg(long, default_value = "0.5", value_parser = seconds)]
    seconds: Duration,
    /// The warm-up before the measured time, in seconds.
    #[arg(long, default_value = "0.1", value_parser = seconds)]
    warm_up: Duration,
    /// After how many seconds a request times out.
    #[arg(long, default_value = "5", value_parser = seconds)]
    timeout: Duration,
    /// Commands per second of an open loop, in whole pipelines. redis-benchmark
    /// has no open loop, so it does not run.
    #[arg(long)]
    rate: Option<NonZero<u64>>,
    /// Do not run redis-benchmark.
    #[arg(long)]
    alone: bool,
    /// Write the results to this file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write charts into this directory.
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Only print a chart of the run that the notes show.
    #[arg(long, value_parser = ["throughput"])]
    figure: Option<String>,
}

/// The run that the notes show.
const RECORDED: &str = include_str!("recorded.csv");

fn size(max: u64) -> impl clap::builder::TypedValueParser<Value = usize> {
    clap::value_parser!(u64).range(1..=max).map(|size| size as usize)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "not a number".to_owned())?;
    let valid = (0.0..=86_400.0).contains(&seconds);
    let duration = valid.then(|| Duration::from_secs_f64(seconds));
    duration.ok_or_else(|| "not from 0 to 86400".to_owned())
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if options.figure.is_some() {
        print!("{}", chart::of_csv(RECORDED)?);
        return Ok(());
    }
    // One thread: the other processors are the server's.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(compare(&options))
}

async fn compare(options: &Options) -> anyhow::Result<()> {
    let (server, _own) = match &options.url {
        Some(url) => (Server::at(url)?, None),
        None => {
            let own = Redis::start()?;
            (Server::own(&own, options.transport)?, Some(own))
        }
    };
    let version = version(&server)?;
    let target = Target::new(server, Keys::new(options.keys))?;
    let nodes = target.nodes.len();
    if options.connections < nodes {
        bail!("{nodes} nodes need at least as many connections");
    }
    let deepest = options.pipeline.iter().max().map_or(1, |max| *max as u64);
    if options.rate.is_some_and(|rate| rate.get() < deepest) {
        bail!("--rate is less than a pipeline of {deepest}");
    }
    let guess = ask(options)?;
    let measured = tokio::select! {
        measured = measure_all(options, &version, &target) => measured,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    // A server that was started here is stopped, so its keys need no removal.
    let removed = match &options.url {
        Some(_) => target.remove(),
        None => Ok(()),
    };
    if let Err(error) = &removed {
        eprintln!("{error:#}");
    }
    let measured = measured?;
    removed?;
    if let Some(path) = &options.csv {
        let text = table::CSV_HEADER.to_owned() + &table::csv(&measured);
        fs::write(path, text)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(dir) = &options.svg {
        let charts = chart::write(dir, &measured)?;
        println!("{charts} charts are in {}.", dir.display());
    }
    conclude(options, &measured, guess.as_deref());
    Ok(())
}

fn ask(options: &Options) -> anyhow::Result<Option<String>> {
    let ([small, .., large], None) = (&options.sizes[..], options.rate) else {
        return Ok(None);
    };
    Ok(guess::ask(&format!(
        "The tool sends GETs of values of {small} bytes, then of {large} \
         bytes (pipeline: {}).\nHow many percent of the requests per second \
         remain?",
        options.pipeline[0]
    ))?)
}

async fn measure_all(
    options: &Options,
    version: &str,
    target: &Target,
) -> anyhow::Result<Vec<Measured>> {
    let may_run =
        options.rate.is_none() && !options.alone && !target.is_cluster;
    let with_peer = may_run && peer::is_installed();
    if may_run && !with_peer {
        println!("redis-benchmark is not installed.");
    }
    let settings = Settings {
        connections: options.connections,
        runs: options.runs,
        plan: Plan {
            warm_up: options.warm_up,
            duration: options.seconds,
            timeout: options.timeout,
        },
        rate: options.rate,
        with_peer,
    };
    let cpus = std::thread::available_parallelism()?;
    println!(
        "\n{version}, {cpus} processors\n{}; {} connections, {} keys, {} runs of \
         {:?}\n\nA line shows the run in the middle, and the spread is the \
         lowest and highest run.\nFrom six runs on, the spread of a ratio is \
         the 95 % interval of its median.\n",
        target.addresses(),
        settings.connections,
        target.keys.count(),
        settings.runs,
        options.seconds
    );
    println!("{}", table::HEADER);

    let commands = [Command::Get, Command::Set];
    let tools = if with_peer { 2 } else { 1 };
    let kinds = options.sizes.len() * options.pipeline.len() * commands.len();
    let bar = progress_bar(kinds * options.runs * tools);
    let mut all = Vec::new();
    for &value_len in &options.sizes {
        bar.set_message(format!("writing values of {value_len} bytes"));
        target.fill(value_len).await?;
        for command in commands {
            for &depth in &options.pipeline {
                let kind = Kind { command, value_len, depth };
                bar.set_message(format!(
                    "{} of {value_len} bytes, {depth} in a write",
                    command.name()
                ));
                let step = || bar.inc(1);
                let measured = measure(target, kind, &settings, step);
                let measured = measured.await?;
                bar.suspend(|| print!("{}", table::lines(&measured)));
                all.extend(measured);
            }
        }
    }
    bar.finish_and_clear();
    Ok(all)
}

fn version(server: &Server) -> anyhow::Result<String> {
    let mut control = server.control()?;
    let info: String = redis::cmd("INFO").arg("server").query(&mut control)?;
    let field = |name| cpu::info_field(&info, name).unwrap_or("unknown");
    Ok(format!("Redis {} on {}", field("redis_version"), field("os")))
}

fn progress_bar(steps: usize) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{msg:34} {wide_bar} {pos}/{len}, {eta} left",
    );
    let style = style.expect("the template is valid");
    ProgressBar::new(steps as u64).with_style(style)
}

/// Prints the conclusions.
fn conclude(options: &Options, measured: &[Measured], guess: Option<&str>) {
    let get = |value_len, depth| {
        let kind = Kind { command: Command::Get, value_len, depth };
        // The first result is that of this tool.
        let ours = measured.iter().find(|one| one.kind == kind);
        ours.map_or([f64::NAN; 2], |one| {
            [one.throughput()[0], one.server_micros()]
        })
    };
    let (sizes, depths) = (&options.sizes, &options.pipeline);
    println!();
    if let Some(rate) = options.rate {
        println!(
            "At a fixed rate, a latency is measured from the time at which its \
             request was due.\nSo it includes all waiting, and up to 1 ms of \
             tokio's timer. If fewer than {rate}\nrequests per second were \
             answered, the server or this client is too slow for the\nrate."
        );
        return;
    }
    if let [small, .., large] = sizes[..] {
        let [before, cpu] = get(small, depths[0]);
        let [after, more_cpu] = get(large, depths[0]);
        let remain = (100.0 * after / before).round();
        println!(
            "With values of {large} bytes instead of {small}, {remain} % of the \
             GETs per second\nremain.{} The server spends {more_cpu:.1} µs on \
             each instead of {cpu:.1} µs.",
            guess::remark(guess, remain)
        );
    }
    if let [few, .., many] = depths[..] {
        println!(
            "With {many} commands in a write instead of {few}, there are {:.1} \
             times as many\nGETs of {} bytes.",
            get(sizes[0], many)[0] / get(sizes[0], few)[0],
            sizes[0]
        );
    }
    println!(
        "\nSystem calls and the round trip are nearly the whole cost of a small \
         request. So\nthe throughput is about the same for 10 bytes and for \
         some hundred. A pipeline\nshares this cost among its commands. So it \
         multiplies the throughput, which then\nbegins to fall at a smaller \
         value size."
    );
}
