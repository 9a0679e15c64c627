//! Asks the local Prometheus, as an outside observer of what the operator is judging by.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use proxy_api::metrics;
use serde_json::Value;

use crate::cluster::layout;

/// Between two looks.
const POLL: Duration = Duration::from_millis(100);

/// The canary arm's success rate in percent since its counters began: what the built-in metric reads as long as the
/// first release is younger than its window.
#[must_use]
pub fn success_rate(namespace: &str, canary: &str) -> String {
    let requests = |code: &str| {
        format!(
            "sum({name}{{{ns}=\"{namespace}\",{cn}=\"{canary}\",{arm}=\"{canary_arm}\",{code_label}{code}}})",
            name = metrics::REQUESTS_TOTAL,
            ns = metrics::LABEL_NAMESPACE,
            cn = metrics::LABEL_CANARY,
            arm = metrics::LABEL_ARM,
            canary_arm = metrics::ARM_CANARY,
            code_label = metrics::LABEL_CODE,
        )
    };
    let (failed, all) = (requests("=~\"5..\""), requests("!=\"0\""));
    format!("100 - 100 * ({failed} or vector(0)) / {all}")
}

async fn ask(path: &str, parameters: &[(&str, &str)]) -> Result<Value> {
    let url = format!("{}/api/v1/{path}", layout::PROMETHEUS);
    reqwest::Client::new()
        .get(reqwest::Url::parse_with_params(&url, parameters)?)
        .timeout(Duration::from_secs(5))
        .send()
        .await
        .context("cannot ask Prometheus")?
        .json()
        .await
        .context("cannot read what Prometheus says")
}

/// The labels of each exemplar of the last hour that Prometheus keeps for the series of a query.
///
/// # Errors
/// When Prometheus does not answer.
pub async fn exemplars(query: &str) -> Result<Vec<BTreeMap<String, String>>> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let (start, end) = ((now - 3600).to_string(), (now + 60).to_string());
    let answer = ask("query_exemplars", &[("query", query), ("start", &start), ("end", &end)]).await?;
    let series = answer["data"].as_array().into_iter().flatten();
    let exemplars = series.filter_map(|series| series["exemplars"].as_array()).flatten();
    exemplars.map(|exemplar| Ok(serde_json::from_value(exemplar["labels"].clone())?)).collect()
}

/// The value of a query that gives one series; `None` where there is none or it is no number.
///
/// # Errors
/// When Prometheus does not answer.
pub async fn value(query: &str) -> Result<Option<f64>> {
    let answer = ask("query", &[("query", query)]).await?;
    let text = answer.pointer("/data/result/0/value/1").and_then(Value::as_str);
    Ok(text.and_then(|text| text.parse().ok()).filter(|value: &f64| value.is_finite()))
}

/// When the query first gives a value as `wanted`.
///
/// # Errors
/// When it does not within `limit`, or Prometheus does not answer.
pub async fn first(query: &str, limit: Duration, wanted: impl Fn(f64) -> bool) -> Result<Instant> {
    let deadline = Instant::now() + limit;
    let mut tick = tokio::time::interval(POLL);
    loop {
        tick.tick().await;
        if value(query).await?.is_some_and(&wanted) {
            return Ok(Instant::now());
        }
        if Instant::now() > deadline {
            bail!("{query} does not cross within {:.0} s", limit.as_secs_f64());
        }
    }
}
