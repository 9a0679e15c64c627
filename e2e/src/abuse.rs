//! Clients and origins that mean harm, against a `sluice-proxy` of their own, beside honest clients that are measured.
//!
//! [`ATTACKS`] is the list; [`run`] carries one out and says what it did to memory, files and the honest clients. What the
//! attackers do is in [`clients`] and [`origins`]. All of it is on loopback, bounded in connections and in time.

pub mod clients;
pub mod origins;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::StatusCode;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::Instant;

use crate::load::{self, Load};
use crate::server::{self, Server};
use crate::standalone::{Proxy, Route};
use clients::Client;
use origins::Origin;

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long a proxy may take until it is back at rest: what the slowest limit of a connection leaves open.
const RECOVERS_WITHIN: Duration = Duration::from_secs(90);
/// Files that may stay open after an attack beyond those before: pooled connections to the honest origin.
const POOLED: usize = 64;
/// Buffers that connections under attack may hold at once, in KiB: a window of 1 MiB per HTTP/2 connection, and some.
const BUFFERS_KIB: u64 = 24 * 1024;
/// What a connection may cost while it does nothing, in KiB.
const IDLE_CONNECTION_KIB: u64 = 12;

/// One way to do harm.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// Told to people.
    pub name: &'static str,
    /// What each client does, again and again.
    pub client: Client,
    /// What the origin does that the client asks for.
    pub origin: Origin,
    /// Clients at a time.
    pub clients: usize,
    /// What every attempt that ends must end in; `None`: the proxy may endure it.
    pub ends: Option<&'static str>,
}

const fn mk(name: &'static str, client: Client, clients: usize, ends: Option<&'static str>) -> Attack {
    Attack { name, client, origin: Origin::Good, clients, ends }
}

const fn bad(name: &'static str, origin: Origin, client: Client, ends: Option<&'static str>) -> Attack {
    Attack { name, client, origin, clients: 16, ends }
}

/// All of them.
pub const ATTACKS: [Attack; 16] = [
    mk("slow headers", Client::SlowHead, 200, Some("cut")),
    mk("slow body", Client::SlowBody, 200, Some("cut")),
    mk("idle connections", Client::Idle, 2_000, None),
    mk("rapid reset", Client::RapidReset, 4, Some("cut")),
    mk("CONTINUATION flood", Client::Continuation, 4, Some("cut")),
    mk("SETTINGS flood", Client::Settings, 4, None),
    mk("PING flood", Client::Ping, 4, None),
    mk("header bomb (HPACK)", Client::Hpack, 4, Some("refused")),
    mk("header bomb (HTTP/1)", Client::LargeHead, 4, Some("refused")),
    mk("request smuggling", Client::Smuggle, 4, Some("refused")),
    mk("chunk extensions", Client::Extensions, 4, Some("cut")),
    bad("origin hangs", Origin::Hangs, Client::Get, Some("504")),
    bad("origin resets", Origin::Resets, Client::Get, Some("502")),
    bad("origin answers early", Origin::Early, Client::Upload, Some("413")),
    bad("origin answers garbage", Origin::Garbage, Client::Get, Some("502")),
    bad("origin sends 10 GiB", Origin::Endless, Client::Trickle, None),
];

/// How long and how hard.
#[derive(Clone, Copy, Debug)]
pub struct Force {
    /// Of the attack.
    pub time: Duration,
    /// Of the honest clients alone, before and after.
    pub calm: Duration,
    /// Requests per second of the honest clients.
    pub rps: u32,
    /// Connections that do nothing, in place of [`Attack::clients`]; the others scale not.
    pub idle: usize,
    /// The proxy's own, from which who runs this keeps off; as it comes, if `None`.
    pub core: Option<usize>,
}

/// What an attack did.
#[derive(Clone, Debug, Serialize)]
pub struct Harm {
    /// Of the attack.
    pub name: &'static str,
    /// How its attempts ended.
    pub ends: BTreeMap<String, u64>,
    /// Requests of the honest clients without a good answer, and all of them.
    pub lost: u64,
    pub requests: u64,
    /// 99th percentile of the honest clients, in ms: before, meanwhile, after.
    pub p99_ms: [f64; 3],
    /// The same of clients that ask the honest origin itself, at the same times: what the machine adds, without the proxy.
    pub direct_p99_ms: [f64; 3],
    /// Memory in KiB: before, the most, after.
    pub resident_kib: [u64; 3],
    /// Most that is allowed, in KiB.
    pub resident_limit_kib: u64,
    /// Open files: before, after.
    pub files: [usize; 2],
    /// What a request that was smuggled in would have reached.
    pub smuggled: u64,
}

impl Harm {
    /// What is wrong, times left aside.
    #[must_use]
    pub fn faults(&self, attack: &Attack) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |good: bool, fault: String| {
            if !good {
                faults.push(format!("{}: {fault}", self.name));
            }
        };
        check(self.requests > 0 && self.lost == 0, format!("{} of {} honest requests lost", self.lost, self.requests));
        let [_, most, after] = self.resident_kib;
        let limit = self.resident_limit_kib;
        check(most <= limit, format!("{most} KiB at most, {limit} KiB allowed"));
        check(after <= limit, format!("{after} KiB afterwards, {limit} KiB allowed"));
        let [before, after] = self.files;
        check(after <= before + POOLED, format!("{after} files open, {before} before"));
        check(self.smuggled == 0, format!("{} requests smuggled", self.smuggled));
        check(!self.ends.is_empty(), "not one attempt".to_owned());
        if let Some(wanted) = attack.ends {
            let others: Vec<_> = self.ends.keys().filter(|end| *end != wanted && *end != "held").collect();
            check(others.is_empty() && self.ends.contains_key(wanted), format!("ends: {:?}, not {wanted}", self.ends));
        }
        faults
    }
}

/// Carries an attack out.
///
/// # Errors
/// When the proxy cannot be started, or ends.
pub async fn run(attack: &Attack, force: &Force) -> Result<Harm> {
    let smuggled = Arc::new(AtomicU64::new(0));
    let (honest, hostile) = (Side::honest()?, Side::hostile()?);
    let good = honest.origin(Arc::clone(&smuggled)).await?;
    let bad = hostile.handle().spawn(origins::start(attack.origin)).await??;
    let target = bad.as_ref().map_or(good.address(), origins::Running::address);
    // Only where nothing else would end it: elsewhere the proxy's own limits are at work.
    let timeout: &[&str] = if matches!(attack.origin, Origin::Hangs) { &["requestTimeout: 3s"] } else { &[] };
    let proxy = Proxy::start(&Route::new("http", good.address()).and(target, timeout)?).await?;
    if let Some(core) = force.core {
        proxy.stay_on(core)?;
    }
    let victim = proxy.second().context("the second route listens")?;
    let both = || [proxy.address(), good.address()].map(|address| honest.load(address, force.rps));
    let calm = || async {
        let loads = both();
        tokio::time::sleep(force.calm).await;
        stop(loads).await
    };
    let [before, direct_before] = calm().await;
    let (resident, files) = (proxy.resident_kib()?, proxy.open_files()?);
    let loads = both();
    let until = Instant::now() + force.time;
    let idle = matches!(attack.client, Client::Idle);
    let count = if idle { force.idle } else { attack.clients };
    // One after the other: a thousand connections in a second are harm enough.
    let client = attack.client;
    let start = move |number: usize| async move {
        tokio::time::sleep(Duration::from_millis(number as u64)).await;
        clients::attack(client, victim, until).await
    };
    let attackers: Vec<_> = (0..count).map(|number| hostile.handle().spawn(start(number))).collect();
    let mut most = resident;
    while Instant::now() < until {
        tokio::time::sleep(LOOK).await;
        most = most.max(proxy.resident_kib()?);
    }
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    for attacker in attackers {
        for (end, times) in attacker.await? {
            *ends.entry(end).or_default() += times;
        }
    }
    let [during, direct_during] = stop(loads).await;
    let per_connection = if idle { count as u64 * IDLE_CONNECTION_KIB } else { BUFFERS_KIB };
    let limit = 2 * resident + per_connection;
    let give_up = Instant::now() + RECOVERS_WITHIN;
    while Instant::now() < give_up && (proxy.open_files()? > files + POOLED || proxy.resident_kib()? > limit) {
        tokio::time::sleep(LOOK).await;
    }
    let [after, direct_after] = calm().await;
    let p99 = |reports: [&load::Report; 3]| reports.map(|report| report.quantile(99.0).as_secs_f64() * 1_000.0);
    Ok(Harm {
        name: attack.name,
        ends,
        lost: during.lost() + after.lost(),
        requests: during.requests + after.requests,
        p99_ms: p99([&before, &during, &after]),
        direct_p99_ms: p99([&direct_before, &direct_during, &direct_after]),
        resident_kib: [resident, most, proxy.resident_kib()?],
        resident_limit_kib: limit,
        files: [files, proxy.open_files()?],
        smuggled: smuggled.load(Relaxed),
    })
}

/// Through the proxy, and directly.
async fn stop([through, direct]: [Load; 2]) -> [load::Report; 2] {
    [through.stop().await, direct.stop().await]
}

/// One of the two sides, on threads of its own: what attackers are busy with delays the proxy at most, not the clock that it
/// is measured by.
struct Side(Option<Runtime>);

/// Of the attackers' threads: they have all that the proxy and those who are measured leave of the machine, as if they were on
/// another one. Else it is the kernel's shares of two cores that are measured.
const LOWEST_PRIORITY: i32 = 19;

impl Side {
    /// Clients and origin that are measured.
    fn honest() -> Result<Self> {
        Ok(Self(Some(Builder::new_multi_thread().worker_threads(1).thread_name("honest").enable_all().build()?)))
    }

    /// Clients and origins that mean harm.
    fn hostile() -> Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(2).thread_name("hostile").enable_all().on_thread_start(|| {
            // Lower is always allowed; on Linux it is the thread's own.
            rustix::process::setpriority_process(None, LOWEST_PRIORITY).expect("a thread may lower its priority");
        });
        Ok(Self(Some(builder.build()?)))
    }

    fn handle(&self) -> Handle {
        self.0.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }

    fn load(&self, address: SocketAddr, rps: u32) -> Load {
        let settings = load::Settings::new(address, "web", rps);
        let _inside = self.handle().enter();
        // Slowness is measured, not lost: on a machine that is busy elsewhere it says nothing about the proxy.
        Load::start(load::Settings { timeout: Duration::from_secs(60), ..settings })
    }

    async fn origin(&self, smuggled: Arc<AtomicU64>) -> Result<Server> {
        let start = async move {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            Server::start(listener, move |request| {
                if request.uri().path() == clients::SMUGGLED {
                    smuggled.fetch_add(1, Relaxed);
                }
                async { server::typed(StatusCode::OK, "text/plain", "hello\n") }
            })
        };
        self.handle().spawn(start).await?
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // A runtime that waits for its tasks may not be dropped by a task.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_harm_does_is_told() {
        let attack = ATTACKS.iter().find(|attack| attack.name == "slow headers").unwrap();
        let ends = |end: &str| BTreeMap::from([(end.to_owned(), 3), ("held".to_owned(), 1)]);
        let none = Harm {
            name: attack.name,
            ends: ends("cut"),
            lost: 0,
            requests: 100,
            p99_ms: [1.0; 3],
            direct_p99_ms: [1.0; 3],
            resident_kib: [10, 20, 10],
            resident_limit_kib: 20,
            files: [10, 10 + POOLED],
            smuggled: 0,
        };
        assert!(none.faults(attack).is_empty());
        for harm in [
            Harm { ends: ends("endured"), ..none.clone() },
            Harm { ends: BTreeMap::from([("held".to_owned(), 1)]), ..none.clone() },
            Harm { lost: 1, ..none.clone() },
            Harm { requests: 0, ..none.clone() },
            Harm { resident_kib: [10, 21, 10], ..none.clone() },
            Harm { files: [10, 11 + POOLED], ..none.clone() },
            Harm { smuggled: 1, ..none.clone() },
        ] {
            assert_eq!(harm.faults(attack).len(), 1, "{harm:?}");
        }
    }
}
