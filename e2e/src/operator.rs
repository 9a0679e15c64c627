//! The running operator, seen and mistreated from outside: killed, scaled, counted.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use crds::names::{LEASE, OPERATOR_SERVICE, POOL_NAME, SYSTEM_NAMESPACE};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _};
use nix::sys::signal::{Signal, kill};
use proxy_api::OPERATOR_ADMIN_PORT;

use crate::kubectl::kubectl;
use crate::processes;
use crate::proxies::metrics_of;
use crate::world::{SOON, Shop, World};

/// Entry point of the operator's image.
const PROGRAM: &str = "/sluice-operator";
/// As the audit log names it.
pub const USER: &str = "system:serviceaccount:sluice-system:sluice-operator";
/// The operator's histogram: seconds from a weight's write to the last proxy's acknowledgement.
pub const ACKNOWLEDGED_SECONDS: &str = "sluice_operator_route_acknowledged_seconds";
/// Without a request of the operator for so long, it is quiet.
const QUIET: Duration = Duration::from_secs(3);

/// Kills every operator process with SIGKILL and returns how many there were; waits for one if the last kill was just
/// now. The pods go with them: a kubelet would wait longer each time before it starts a container that died again.
///
/// # Errors
/// When there is none for [`SOON`].
pub async fn kill_all() -> Result<usize> {
    let deadline = Instant::now() + SOON;
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let processes = loop {
        tick.tick().await;
        let found = tokio::task::spawn_blocking(|| processes::of_program(PROGRAM)).await??;
        if !found.is_empty() {
            break found;
        }
        ensure!(Instant::now() < deadline, "there is no operator process");
    };
    for pid in &processes {
        // It may be gone already.
        let _ = kill(*pid, Signal::SIGKILL);
    }
    let selector = "app.kubernetes.io/component=operator";
    kubectl(&["delete", "pods", "-n", SYSTEM_NAMESPACE, "-l", selector, "--grace-period=0", "--force"]).await?;
    Ok(processes.len())
}

/// Scales the operator and waits until that many are ready.
///
/// # Errors
/// When that takes more than [`SOON`].
pub async fn scale(replicas: u32) -> Result<()> {
    let replicas_flag = format!("--replicas={replicas}");
    kubectl(&["scale", "deployment", OPERATOR_SERVICE, "-n", SYSTEM_NAMESPACE, &replicas_flag]).await?;
    let deadline = Instant::now() + SOON;
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    loop {
        tick.tick().await;
        let there = addresses().await?.len();
        if there == replicas as usize {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{there} operators, not {replicas}");
    }
}

/// The lease as it stands: who leads since when, and how long that lasts if it is not renewed.
#[derive(Clone, Debug)]
pub struct Leader {
    /// Name of the pod.
    pub pod: String,
    /// When it took the lease, in milliseconds since the epoch, by its own clock.
    pub since_ms: i64,
    /// When nobody else need wait for it any more, unless it renews.
    pub until_ms: i64,
}

/// Who leads; none where the lease was given back and not taken yet.
///
/// # Errors
/// When the lease cannot be read or lacks a time.
pub async fn leader(world: &World) -> Result<Option<Leader>> {
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), SYSTEM_NAMESPACE);
    let spec = leases.get(LEASE).await?.spec.unwrap_or_default();
    let holder = spec.holder_identity.unwrap_or_default();
    let Some((pod, _)) = holder.rsplit_once('_') else { return Ok(None) };
    let (acquired, renewed) = (spec.acquire_time.context("no acquireTime")?, spec.renew_time.context("no renewTime")?);
    let lasts = i64::from(spec.lease_duration_seconds.context("no leaseDurationSeconds")?) * 1_000;
    Ok(Some(Leader {
        pod: pod.to_owned(),
        since_ms: acquired.0.as_millisecond(),
        until_ms: renewed.0.as_millisecond() + lasts,
    }))
}

/// Waits until someone leads who is not `before`.
///
/// # Errors
/// When nobody does within [`SOON`].
pub async fn next_leader(world: &World, before: &str) -> Result<Leader> {
    let deadline = Instant::now() + SOON;
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    loop {
        tick.tick().await;
        if let Some(leader) = leader(world).await?.filter(|leader| leader.pod != before) {
            return Ok(leader);
        }
        ensure!(Instant::now() < deadline, "nobody but {before} leads");
    }
}

/// Waits until the pool of a shop has every proxy ready.
///
/// # Errors
/// When that takes more than two minutes.
pub async fn until_pool_ready(shop: &Shop) -> Result<()> {
    kubectl(&["rollout", "status", "deployment", POOL_NAME, "-n", &shop.namespace, "--timeout=120s"]).await.map(drop)
}

/// Waits until the operator asks nothing of the API server but its lease.
///
/// # Errors
/// When it goes on for more than two minutes.
pub async fn until_quiet(world: &World) -> Result<()> {
    // What earlier stories left is taken back by the operator too.
    let deadline = Instant::now() + 2 * SOON;
    let mut audit = world.cluster.audit();
    loop {
        tokio::time::sleep(QUIET).await;
        if world.is_leaving().await? && Instant::now() < deadline {
            continue;
        }
        let mut entries = audit.read_of(USER)?;
        entries.retain(|entry| entry.resource != "leases" && entry.verb != "watch");
        if entries.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the operator does not come to rest: {:?}", entries.last());
        }
    }
}

/// The logs of every operator replica.
///
/// # Errors
/// When they cannot be read.
pub async fn logs() -> Result<String> {
    let deployment = format!("deployment/{OPERATOR_SERVICE}");
    kubectl(&["logs", "-n", SYSTEM_NAMESPACE, &deployment, "--all-pods=true", "--tail=-1"]).await
}

/// The acknowledgement histogram of all replicas together: upper bound of each bucket in seconds, and its count.
pub type Buckets = Vec<(f64, u64)>;

/// What the operators have measured so far.
///
/// # Errors
/// When one does not answer.
pub async fn acknowledgements() -> Result<Buckets> {
    let mut buckets: Buckets = Vec::new();
    for address in addresses().await? {
        let text = metrics_of(&format!("http://{address}:{OPERATOR_ADMIN_PORT}/metrics")).await?;
        for (bound, count) in parse_buckets(&text) {
            match buckets.iter_mut().find(|(known, _)| known.total_cmp(&bound).is_eq()) {
                Some((_, sum)) => *sum += count,
                None => buckets.push((bound, count)),
            }
        }
    }
    Ok(buckets)
}

/// How many weight writes were acknowledged between two looks, and the upper bound of the bucket that holds 99 % of
/// them, in seconds.
///
/// # Errors
/// When there was none.
pub fn acknowledgement_p99(before: &Buckets, after: &Buckets) -> Result<(u64, f64)> {
    let earlier = |bound: f64| before.iter().find(|(known, _)| known.total_cmp(&bound).is_eq()).map_or(0, |(_, n)| *n);
    let new: Buckets = after.iter().map(|(bound, count)| (*bound, count.saturating_sub(earlier(*bound)))).collect();
    p99(&new).with_context(|| format!("no operator reports {ACKNOWLEDGED_SECONDS}"))
}

fn parse_buckets(text: &str) -> Vec<(f64, u64)> {
    let prefix = format!("{ACKNOWLEDGED_SECONDS}_bucket");
    let parse = |line: &str| {
        let bound = line.split("le=\"").nth(1)?.split('"').next()?;
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
        let count: f64 = line.split("} ").nth(1)?.split(' ').next()?.parse().ok()?;
        Some((bound, count as u64))
    };
    text.lines().filter(|line| line.starts_with(&prefix)).filter_map(parse).collect()
}

fn p99(buckets: &[(f64, u64)]) -> Option<(u64, f64)> {
    let all = buckets.iter().map(|(_, count)| *count).max().filter(|count| *count > 0)?;
    let enough = |count: u64| count * 100 >= all * 99;
    let bound = buckets.iter().filter(|(_, count)| enough(*count)).map(|(bound, _)| *bound).reduce(f64::min)?;
    Some((all, bound))
}

/// Addresses of the operator pods that are ready.
async fn addresses() -> Result<Vec<String>> {
    let selector = "app.kubernetes.io/component=operator";
    let pods = kubectl(&["get", "pods", "-n", SYSTEM_NAMESPACE, "-l", selector, "-o", "json"]).await?;
    let pods: kube::core::ObjectList<Pod> = serde_json::from_str(&pods)?;
    let is_up = |pod: &Pod| pod.metadata.deletion_timestamp.is_none() && crate::watching::is_ready(pod);
    let address = |pod: Pod| {
        let name = pod.name_any();
        pod.status.and_then(|status| status.pod_ip).with_context(|| format!("{name} has no address"))
    };
    pods.items.into_iter().filter(is_up).map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_p99_is_the_bucket_that_holds_99_percent() {
        let text = format!(
            "{n}_bucket{{le=\"0.05\"}} 98\n{n}_bucket{{le=\"0.25\"}} 99\n{n}_bucket{{le=\"+Inf\"}} 100\n{n}_count 100\n",
            n = ACKNOWLEDGED_SECONDS
        );
        assert_eq!(p99(&parse_buckets(&text)), Some((100, 0.25)));
        let all = parse_buckets(&text);
        assert!(acknowledgement_p99(&all, &all).is_err());
    }
}
