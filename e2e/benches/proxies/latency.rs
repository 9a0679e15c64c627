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
use crate::origin::{Origin, SMALL};
use crate::peers::Kind;
use crate::report::{Limit, Report, median};
use crate::setup;

pub(crate) const NAME: &str = "latency";
const REQUEST: &[u8] = b"GET /items/42?page=1 HTTP/1.1\r\nhost: web\r\naccept: */*\r\nuser-agent: bench/1.0\r\n\r\n";

/// Requests that are due, oldest first, and a bell for the connections that take them.
type Queue = Rc<(RefCell<VecDeque<Instant>>, Notify)>;

/// Measures the endpoints directly and through every proxy, by turns.
pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let loader = Loader::start()?;
    let mut running = Vec::new();
    for peer in &bench.peers {
        let folder = bench.folder.join(NAME);
        running.push(setup::start(peer, &loader.origin, &bench.cores.proxy, bench.clients, &folder)?);
    }
    let reference = running.iter().find(|proxy| proxy.kind == Kind::Haproxy).or(running.first());
    let reference = reference.context("there is no proxy")?.http1;
    let time = Duration::from_secs(bench.seconds);
    let rate = bench.tools.run(Load::Small, reference, time)?.per_second / 2.0;
    let measure = |to: SocketAddr| loader.measure(to, rate, time);
    // Added to what the endpoints take without a proxy, of each round.
    let mut added: BTreeMap<Kind, [Vec<f64>; 2]> = BTreeMap::new();
    for round in 0..=bench.rounds {
        let direct = measure(loader.origin.stable)?;
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

/// A load to be put on a proxy, and who waits for its latencies.
struct Order {
    to: SocketAddr,
    rate: f64,
    time: Duration,
    done: std::sync::mpsc::SyncSender<Result<Vec<f64>>>,
}

/// Clients and endpoints on one thread that does not sleep while it loads: nothing but the proxy then waits for a scheduler,
/// however few cores there are.
struct Loader {
    origin: Origin,
    orders: mpsc::Sender<Order>,
}

impl Loader {
    fn start() -> Result<Self> {
        let (orders, mut received) = mpsc::channel::<Order>(1);
        let origin = Origin::beside(|| async move {
            while let Some(Order { to, rate, time, done }) = received.recv().await {
                // Who ordered it is gone when the benchmark fails.
                let _ = done.send(load(to, rate, time).await);
            }
        })?;
        Ok(Self { origin, orders })
    }

    /// Latencies in microseconds, in order.
    fn measure(&self, to: SocketAddr, rate: f64, time: Duration) -> Result<Vec<f64>> {
        let (done, measured) = std::sync::mpsc::sync_channel(1);
        self.orders.blocking_send(Order { to, rate, time, done }).ok().context("the load's thread is gone")?;
        measured.recv().context("the load's thread is gone")?
    }
}

async fn load(to: SocketAddr, rate: f64, time: Duration) -> Result<Vec<f64>> {
    let queue: Queue = Rc::default();
    let taken = Rc::new(RefCell::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CONCURRENCY {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        tasks.spawn_local(connection(stream, Rc::clone(&queue), Rc::clone(&taken)));
    }
    let begun = Instant::now();
    for number in 0..(rate * time.as_secs_f64()) as u64 {
        let due = begun + Duration::from_secs_f64(number as f64 / rate);
        // Each turn looks at the sockets; a timer has a grain of a millisecond, and a sleep of some 50 µs.
        while Instant::now() < due {
            tokio::task::yield_now().await;
        }
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

async fn connection(mut stream: TcpStream, queue: Queue, taken: Rc<RefCell<Vec<f64>>>) -> Result<()> {
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
                bail!("it was closed by the other end");
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
