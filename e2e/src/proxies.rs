//! Looks at the proxies of a pool through their admin port, from inside the cluster's network.

use std::time::Duration;

use anyhow::Result;
use proxy_api::{PROXY_ADMIN_PORT, metrics};

use crate::watching::is_ready;
use crate::world::Shop;

/// The weight that each ready proxy has in force for the shop's Canary; `None` where it has no route.
///
/// # Errors
/// When the pods cannot be listed. A proxy that does not answer counts as having no route.
pub async fn weights(shop: &Shop) -> Result<Vec<Option<i32>>> {
    let mut weights = Vec::new();
    for pod in shop.proxies().await?.into_iter().filter(is_ready) {
        let Some(address) = pod.status.and_then(|status| status.pod_ip) else { continue };
        let text = metrics_of(&format!("http://{address}:{PROXY_ADMIN_PORT}/metrics")).await.unwrap_or_default();
        weights.push(gauge(&text, metrics::WEIGHT, &shop.name));
    }
    Ok(weights)
}

/// What a `/metrics` says.
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
}
