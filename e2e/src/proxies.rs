//! Looks at the proxies of a pool through their admin port, from inside the cluster's network.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kube::ResourceExt as _;
use proxy_api::{PROXY_ADMIN_PORT, metrics};
use serde_json::Value;

use crate::watching::is_ready;
use crate::world::{SOON, Shop};

/// The weight that each ready proxy has in force for the shop's Canary; `None` where it has no route.
///
/// # Errors
/// When the pods cannot be listed. A proxy that does not answer counts as having no route.
pub async fn weights(shop: &Shop) -> Result<Vec<Option<i32>>> {
    let weight = |text: Result<String>| gauge(&text.unwrap_or_default(), metrics::WEIGHT, &shop.name);
    Ok(each(shop, "metrics").await?.into_iter().map(|(_, text)| weight(text)).collect())
}

/// What each ready proxy says of the ports of the shop's Service in its `/clusters`.
///
/// # Errors
/// When the pods cannot be listed, or one does not answer.
pub async fn clusters(shop: &Shop) -> Result<Vec<Vec<Value>>> {
    let service = format!("{}/{}", shop.namespace, shop.name);
    let ports = |(_, text): (String, Result<String>)| {
        let clusters: Value = serde_json::from_str(&text?)?;
        let ports = clusters["ports"].as_array().cloned().unwrap_or_default();
        Ok(ports.into_iter().filter(|port| port["service"] == service.as_str()).collect())
    };
    each(shop, "clusters").await?.into_iter().map(ports).collect()
}

/// Each ready proxy's pod, and what its admin port says at `path`.
async fn each(shop: &Shop, path: &str) -> Result<Vec<(String, Result<String>)>> {
    let mut all = Vec::new();
    for pod in shop.proxies().await?.into_iter().filter(is_ready) {
        let name = pod.name_any();
        let Some(address) = pod.status.and_then(|status| status.pod_ip) else { continue };
        all.push((name, metrics_of(&format!("http://{address}:{PROXY_ADMIN_PORT}/{path}")).await));
    }
    Ok(all)
}

/// Sum of a counter of the shop's Canary over its ready proxies, of the series that have all of `labels`.
///
/// # Errors
/// When the pods cannot be listed or one does not answer: its share would be missing.
pub async fn total(shop: &Shop, name: &str, labels: &[(&str, &str)]) -> Result<u64> {
    let mut sum = 0;
    for (_, text) in each(shop, "metrics").await? {
        sum += counted(&text?, name, &[&[(metrics::LABEL_CANARY, shop.name.as_str())], labels].concat());
    }
    Ok(sum)
}

/// The pod of the proxy through which most requests go right now.
///
/// # Errors
/// When none counts a request within [`SOON`], or one does not answer.
pub async fn busiest(shop: &Shop) -> Result<String> {
    let mut before = BTreeMap::new();
    let deadline = Instant::now() + SOON;
    loop {
        let mut counts = BTreeMap::new();
        for (pod, text) in each(shop, "metrics").await? {
            let count = counted(&text?, metrics::REQUESTS_TOTAL, &[(metrics::LABEL_CANARY, shop.name.as_str())]);
            counts.insert(pod, count);
        }
        let risen = |(pod, count): (&String, &u64)| Some((*count - *before.get(pod)?, pod.clone()));
        if let Some((1.., pod)) = counts.iter().filter_map(risen).max() {
            return Ok(pod);
        }
        ensure!(Instant::now() < deadline, "no proxy serves a request: {counts:?}");
        before = counts;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Sum of the samples of `name` that have all of `labels`.
#[must_use]
pub fn counted(text: &str, name: &str, labels: &[(&str, &str)]) -> u64 {
    let has = |line: &str, (label, value): &(&str, &str)| {
        let pair = format!("{label}=\"{value}\"");
        line.contains(&format!("{{{pair}")) || line.contains(&format!(",{pair}"))
    };
    text.lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .filter(|line| labels.iter().all(|label| has(line, label)))
        // An exemplar may follow.
        .filter_map(|line| line.split(" # ").next()?.rsplit(' ').next()?.parse::<f64>().ok())
        .map(|value| value.round() as u64)
        .sum()
}

/// What an admin port says, such as its `/metrics`.
///
/// # Errors
/// When it does not answer within a second.
pub async fn metrics_of(url: &str) -> Result<String> {
    Ok(reqwest::Client::new().get(url).timeout(Duration::from_secs(1)).send().await?.text().await?)
}

/// The value of the gauge `name` whose labels mention the Canary.
fn gauge(text: &str, name: &str, canary: &str) -> Option<i32> {
    let label = format!("{}=\"{canary}\"", metrics::LABEL_CANARY);
    let line = text.lines().find(|line| line.starts_with(name) && line.contains(&label))?;
    line.rsplit(' ').next()?.parse::<f64>().ok().map(|value| value.round() as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_is_read_by_its_canary() {
        let text = "# TYPE sluice_proxy_weight_percent gauge\n\
                    sluice_proxy_weight_percent{canary_namespace=\"a\",canary=\"api\"} 5\n\
                    sluice_proxy_weight_percent{canary_namespace=\"a\",canary=\"web\"} 25\n";
        assert_eq!(gauge(text, metrics::WEIGHT, "web"), Some(25));
        assert_eq!(gauge(text, metrics::WEIGHT, "shop"), None);
    }

    #[test]
    fn a_counter_is_summed_over_the_series_that_have_the_labels() {
        let text = "n_total{canary=\"web\",arm=\"canary\",code=\"200\"} 5\n\
                    n_total{canary=\"web\",arm=\"canary\",code=\"500\"} 2 # {trace_id=\"x\"} 7\n\
                    n_total{canary=\"web\",arm=\"stable\",code=\"200\"} 11\n\
                    n_totals{canary=\"web\",arm=\"canary\"} 100\n\
                    n_total{canary=\"api\",arm=\"canary\",code=\"200\"} 1000\n";
        let of = |labels: &[(&str, &str)]| counted(text, "n_total", &[&[("canary", "web")], labels].concat());
        assert_eq!((of(&[]), of(&[("arm", "canary")]), of(&[("code", "500")])), (18, 7, 2));
    }
}
