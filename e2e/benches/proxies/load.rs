//! Closed-loop load by wrk (HTTP/1.1) and h2load (HTTP/2), and what they report. They run on the cores of the benchmark.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::guest::Guest;
use crate::origin::Origin;
use crate::peers;

/// Requests under way at a time.
pub(crate) const CONCURRENCY: usize = 64;
/// Likewise of 1 MiB.
const LARGE_CONCURRENCY: usize = 16;
/// Connections of an HTTP/2 client; each has its share of the requests under way as streams.
const HTTP2_CONNECTIONS: usize = 8;
/// Likewise for 1 MiB: several bodies share a connection.
const LARGE_HTTP2_CONNECTIONS: usize = 4;
/// What is asked for, but for [`crate::origin::LARGE_PATH`].
const SMALL_PATH: &str = "/items/42?page=1";

/// The load generators.
#[derive(Debug)]
pub(crate) struct Tools {
    wrk: PathBuf,
    h2load: PathBuf,
    /// For scripts and bodies.
    folder: PathBuf,
}

/// What is asked of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// HTTP/1.1, 1 KiB back.
    Small,
    /// HTTP/1.1, 1 MiB back.
    Download,
    /// HTTP/1.1, 1 MiB sent.
    Upload,
    /// HTTP/2, 1 KiB back.
    Http2,
    /// HTTP/2, 1 MiB back.
    Http2Download,
    /// HTTP/2, 1 MiB sent.
    Http2Upload,
    /// A unary gRPC call of 64 bytes, the same back.
    Grpc,
}

/// How an HTTP/2 client spreads its requests.
#[derive(Clone, Copy, Debug)]
struct Streams {
    connections: usize,
    each: usize,
}

const SMALL_STREAMS: Streams = Streams { connections: HTTP2_CONNECTIONS, each: CONCURRENCY / HTTP2_CONNECTIONS };
const LARGE_STREAMS: Streams =
    Streams { connections: LARGE_HTTP2_CONNECTIONS, each: LARGE_CONCURRENCY / LARGE_HTTP2_CONNECTIONS };

/// What a load did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) per_second: f64,
}

/// A load on one proxy, and what it cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) done: Done,
    /// CPU time of the proxy per request, in microseconds.
    pub(crate) cpu_micros: f64,
    /// Share of one core that the proxy used, 0..=1 per worker.
    pub(crate) busy: f64,
    /// Percent of the requests that went to the canary.
    pub(crate) canary: f64,
}

impl Tools {
    pub(crate) fn find(folder: &Path) -> Result<Self> {
        let tools = Self {
            wrk: peers::load_generator("wrk")?,
            h2load: peers::load_generator("h2load")?,
            folder: folder.into(),
        };
        std::fs::create_dir_all(folder)?;
        // A gRPC frame: not compressed, 64 bytes (the protocol's "Length-Prefixed-Message").
        let mut message = vec![0, 0, 0, 0, 64];
        message.resize(5 + 64, b'm');
        std::fs::write(folder.join("message"), message)?;
        std::fs::write(folder.join("large"), vec![b'x'; crate::origin::LARGE])?;
        let script = format!(
            "wrk.method = 'POST'\nwrk.body = string.rep('x', {})\nwrk.headers['content-type'] = 'text/plain'\n",
            crate::origin::LARGE
        );
        std::fs::write(folder.join("upload.lua"), script)?;
        Ok(tools)
    }

    /// Runs a load for `time` and measures what it costs `guest`.
    pub(crate) fn measure(
        &self,
        load: Load,
        to: SocketAddr,
        guest: &Guest,
        origin: &Origin,
        time: Duration,
    ) -> Result<Sample> {
        let (before, counts) = (guest.cpu_micros()?, origin.counts());
        let done = self.run(load, to, time)?;
        let cpu = guest.cpu_micros()? - before;
        if done.requests == 0 {
            bail!("no request was answered");
        }
        let seconds = done.requests as f64 / done.per_second;
        let [stable, canary] = std::array::from_fn(|arm| (origin.counts()[arm] - counts[arm]) as f64);
        let canary = 100.0 * canary / (stable + canary);
        Ok(Sample { done, cpu_micros: cpu / done.requests as f64, busy: cpu / 1e6 / seconds, canary })
    }

    /// Runs a load for `time`.
    pub(crate) fn run(&self, load: Load, to: SocketAddr, time: Duration) -> Result<Done> {
        match load {
            Load::Small => self.wrk(CONCURRENCY, &[], &format!("http://{to}{SMALL_PATH}"), time),
            Load::Download => {
                self.wrk(LARGE_CONCURRENCY, &[], &format!("http://{to}{}", crate::origin::LARGE_PATH), time)
            }
            Load::Upload => {
                let script = self.folder.join("upload.lua").display().to_string();
                self.wrk(LARGE_CONCURRENCY, &["-s", &script], &format!("http://{to}/upload"), time)
            }
            Load::Http2 => self.h2load(SMALL_STREAMS, &[], &format!("http://{to}{SMALL_PATH}"), time),
            Load::Http2Download => {
                self.h2load(LARGE_STREAMS, &[], &format!("http://{to}{}", crate::origin::LARGE_PATH), time)
            }
            Load::Http2Upload => {
                let body = self.folder.join("large").display().to_string();
                let more = ["-d", &body, "-H", "content-type: text/plain"];
                self.h2load(LARGE_STREAMS, &more, &format!("http://{to}/upload"), time)
            }
            Load::Grpc => {
                let message = self.folder.join("message").display().to_string();
                let more = ["-d", &message, "-H", "content-type: application/grpc", "-H", "te: trailers"];
                self.h2load(SMALL_STREAMS, &more, &format!("http://{to}{SMALL_PATH}"), time)
            }
        }
    }

    /// Sends so many small HTTP/1.1 requests, however long that takes; all must be answered.
    pub(crate) fn count(&self, requests: u64, to: SocketAddr) -> Result<()> {
        let mut command = Command::new(&self.h2load);
        command.args(["--h1", "-t1", "-c16", "-n", &requests.to_string()]).arg(format!("http://{to}{SMALL_PATH}"));
        let done = parse_h2load(&output(&mut command)?)?;
        if done.requests == requests { Ok(()) } else { bail!("{} of {requests} requests were answered", done.requests) }
    }

    fn wrk(&self, connections: usize, more: &[&str], url: &str, time: Duration) -> Result<Done> {
        let mut command = Command::new(&self.wrk);
        command.args([
            "-t1",
            &format!("-c{connections}"),
            &format!("-d{}s", time.as_secs().max(1)),
            "--timeout",
            "10s",
        ]);
        command.args(["-H", "accept: application/json", "-H", "accept-encoding: gzip", "-H", "user-agent: bench/1.0"]);
        command.args(more).arg(url);
        parse_wrk(&output(&mut command)?)
    }

    fn h2load(&self, streams: Streams, more: &[&str], url: &str, time: Duration) -> Result<Done> {
        let mut command = Command::new(&self.h2load);
        let Streams { connections, each } = streams;
        command.args(["-t1", &format!("-c{connections}"), &format!("-m{each}")]);
        command.args(["-D", &time.as_secs().max(1).to_string()]).args(more).arg(url);
        parse_h2load(&output(&mut command)?)
    }
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{command:?} failed: {text}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}

/// `  75310 requests in 2.00s, 9.1MB read`, `Socket errors: connect 0, read 0, write 0, timeout 0`,
/// `Non-2xx or 3xx responses: 3`, `Requests/sec:  37648.10`.
fn parse_wrk(text: &str) -> Result<Done> {
    let line = |what: &str| text.lines().find(|line| line.contains(what));
    let requests = line(" requests in ").and_then(|line| line.split_whitespace().next()?.parse().ok());
    let per_second = line("Requests/sec:").and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    let numbers = |line: &str| line.split([' ', ',']).filter_map(|word| word.parse::<u64>().ok()).sum::<u64>();
    let failed = line("Socket errors:").map_or(0, numbers) + line("Non-2xx").map_or(0, numbers);
    match (requests, per_second) {
        (Some(requests), Some(per_second)) => Ok(Done { requests, failed, per_second }),
        _ => bail!("wrk said: {text}"),
    }
}

/// `finished in 2.00s, 30512.00 req/s, 3.5MB/s` and `requests: 61024 total, 61088 started, 61024 done, 61024 succeeded,
/// 0 failed, 0 errored, 0 timeout`.
fn parse_h2load(text: &str) -> Result<Done> {
    let finished = text.lines().find(|line| line.starts_with("finished in"));
    let per_second = finished.and_then(|line| line.split(", ").nth(1)?.trim_end_matches(" req/s").parse().ok());
    let counts = text.lines().find_map(|line| line.strip_prefix("requests: "));
    let count = |what: &str| {
        let of = |part: &str| part.trim().strip_suffix(what)?.trim().parse::<u64>().ok();
        counts.and_then(|line| line.split(',').find_map(of))
    };
    match (per_second, count("succeeded"), count("failed")) {
        (Some(per_second), Some(requests), Some(failed)) => Ok(Done { requests, failed, per_second }),
        _ => bail!("h2load said: {text}"),
    }
}
