//! Latency at half of what HAProxy can serve. Open loop: requests are due at fixed times and timed from then, so that a
//! stall shows instead of slowing its own load down ("coordinated omission", Gil Tene).

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};

use crate::Bench;
use crate::load::{CONCURRENCY, Load};
use crate::origin::SMALL;
use crate::peers::Kind;
use crate::report::{Limit, Report, median};
use crate::setup;

pub(crate) const NAME: &str = "latency";
const REQUEST: &[u8] = b"GET /items/42?page=1 HTTP/1.1\r\nhost: web\r\naccept: */*\r\nuser-agent: bench/1.0\r\n\r\n";

/// Requests that are due, oldest first, and a bell for the connections that take them.
type Queue = Rc<(RefCell<VecDeque<Instant>>, Notify)>;

/// Measures the endpoints directly and through every proxy, by turns.
pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut running = Vec::new();
    for peer in &bench.peers {
        let folder = bench.folder.join(NAME);
        running.push(setup::start(peer, &bench.origin, &bench.cores.proxy, bench.clients, &folder)?);
    }
    let reference = running.iter().find(|proxy| proxy.kind == Kind::Haproxy).or(running.first());
    let reference = reference.context("there is no proxy")?.http1;
    let time = Duration::from_secs(bench.seconds);
    let rate = bench.tools.run(Load::Small, reference, time)?.per_second / 2.0;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measure =
        |to: SocketAddr| -> Result<Vec<f64>> { tokio::task::LocalSet::new().block_on(&runtime, load(to, rate, time)) };
    // Added to what the endpoints take without a proxy, of each round.
    let mut added: BTreeMap<Kind, [Vec<f64>; 2]> = BTreeMap::new();
    for round in 0..=bench.rounds {
        let direct = measure(bench.origin.stable)?;
        for proxy in &running {
            let through = measure(proxy.http1).with_context(|| format!("{} is not served", proxy.kind.name()))?;
            if round > 0 {
                let [p50, p99] = added.entry(proxy.kind).or_default();
                p50.push(quantile(&through, 0.5) - quantile(&direct, 0.5));
                p99.push(quantile(&through, 0.99) - quantile(&direct, 0.99));
            }
        }
    }
    for (index, what) in ["added p50, µs", "added p99, µs"].into_iter().enumerate() {
        let values: Vec<_> = added.iter().filter_map(|(kind, values)| Some((*kind, median(&values[index])?))).collect();
        report.figure(NAME, what, &values);
    }
    let p99 = |kind: Kind| added.get(&kind).map(|[_, p99]| p99.clone()).unwrap_or_default();
    let ratios: Vec<f64> =
        p99(Kind::Sluice).iter().zip(p99(Kind::Haproxy)).map(|(ours, theirs)| ours / theirs.max(1.0)).collect();
    let note = format!("{rate:.0} requests/s");
    report.bar(NAME, "added p99 × haproxy", Limit::AtMost(1.0), median(&ratios), &note);
    Ok(())
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted.get((sorted.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN)
}

/// Latencies in microseconds, in order.
async fn load(to: SocketAddr, rate: f64, time: Duration) -> Result<Vec<f64>> {
    let queue: Queue = Rc::default();
    let taken = Rc::new(RefCell::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CONCURRENCY {
        tasks.spawn_local(connection(to, Rc::clone(&queue), Rc::clone(&taken)));
    }
    let mut due = pace(rate, time);
    while let Some(due) = due.recv().await {
        queue.0.borrow_mut().push_back(due);
        queue.1.notify_one();
        if let Some(ended) = tasks.try_join_next() {
            ended?.context("a connection broke")?;
            bail!("a connection ended");
        }
    }
    tasks.shutdown().await;
    let mut latencies = taken.take();
    latencies.sort_by(f64::total_cmp);
    Ok(latencies)
}

/// Says when each request is due, from a thread: tokio's timers have a grain of a millisecond, a thread's sleep one of
/// some 50 µs.
fn pace(rate: f64, time: Duration) -> mpsc::UnboundedReceiver<Instant> {
    let (due, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let begun = Instant::now();
        for number in 0..(rate * time.as_secs_f64()) as u64 {
            let next = begun + Duration::from_secs_f64(number as f64 / rate);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            // Nobody listens any more when a connection broke.
            if due.send(next).is_err() {
                return;
            }
        }
    });
    receiver
}

async fn connection(to: SocketAddr, queue: Queue, taken: Rc<RefCell<Vec<f64>>>) -> Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let mut answer = Vec::with_capacity(4 * SMALL);
    loop {
        let next = queue.0.borrow_mut().pop_front();
        let Some(due) = next else {
            queue.1.notified().await;
            continue;
        };
        stream.write_all(REQUEST).await?;
        answer.clear();
        while !complete(&answer) {
            if stream.read_buf(&mut answer).await? == 0 {
                bail!("closed by {to}");
            }
        }
        taken.borrow_mut().push(due.elapsed().as_secs_f64() * 1e6);
    }
}

/// Whether this is the whole small answer.
pub(crate) fn complete(answer: &[u8]) -> bool {
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n");
    head.is_some_and(|head| answer.len() >= head + 4 + SMALL)
}
