//! What `spec.service` says about traffic, as the proxies are told: names and units change, nothing is decided. Pure.
//!
//! Form and ranges are the schema's affair; the proxies refuse what they do not know, and say so in their acknowledgement.

use crds::canary::CanaryService;
use proxy_api::v1beta1 as api;

/// `spec.service.retries`.
#[must_use]
pub fn retries(service: &CanaryService) -> Option<api::Retries> {
    let asked = service.retries.as_ref()?;
    let budget = asked.budget.clone().unwrap_or_default();
    Some(api::Retries {
        attempts: unsigned(asked.attempts),
        per_try_timeout_ms: millis(asked.per_try_timeout.as_deref()),
        retry_on: asked.retry_on.clone().unwrap_or_default(),
        budget_percent: budget.percent.map(unsigned),
        min_retries_per_second: budget.min_retries_per_second.map(unsigned),
    })
}

/// A time such as `250ms`, `15s` or `2m` in milliseconds; 0 where there is none.
#[must_use]
pub fn millis(text: Option<&str>) -> u64 {
    let text = text.unwrap_or_default();
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit_ms = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => 0,
    };
    digits.parse::<u64>().unwrap_or_default().saturating_mul(unit_ms)
}

fn unsigned(value: i32) -> u32 {
    u32::try_from(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn retries_are_passed_on_in_milliseconds_and_with_their_budget() {
        let service = |retries: serde_json::Value| -> CanaryService {
            serde_json::from_value(json!({ "port": 80, "retries": retries })).unwrap()
        };
        let full = json!({
            "attempts": 2, "perTryTimeout": "250ms", "retryOn": "5xx,reset",
            "budget": { "percent": 5, "minRetriesPerSecond": 0 }
        });
        let wanted = api::Retries {
            attempts: 2,
            per_try_timeout_ms: 250,
            retry_on: "5xx,reset".to_owned(),
            budget_percent: Some(5),
            min_retries_per_second: Some(0),
        };
        assert_eq!(retries(&service(full)), Some(wanted));
        let least = api::Retries { attempts: 1, ..Default::default() };
        assert_eq!(retries(&service(json!({ "attempts": 1 }))), Some(least));
        assert_eq!(retries(&service(json!(null))), None);
    }
}
