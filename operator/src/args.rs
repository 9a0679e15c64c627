//! Flags and environment → [`Args`]. Defaults live here and nowhere else.

use clap::{Args as ClapArgs, Parser, Subcommand};

use crate::telemetry::Format;

/// Progressive delivery for Kubernetes Deployments.
#[derive(Debug, Parser)]
#[command(name = "sluice-operator", version)]
pub struct Args {
    /// Read for every command; only the operator itself uses more than the log format.
    #[command(flatten)]
    pub run: RunArgs,
    /// None: run the operator.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of running the operator.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Delete every Canary, wait until traffic and holds are taken back, remove the bindings: for the chart's
    /// uninstall hook.
    Cleanup {
        /// Seconds to wait at the most.
        #[arg(long, default_value_t = 120)]
        timeout_seconds: u64,
    },
}

/// How to run the operator.
#[derive(Clone, Debug, ClapArgs)]
pub struct RunArgs {
    /// URL of the Prometheus that the built-in metrics are read from.
    #[arg(long, env = "SLUICE_METRICS_SERVER", default_value = "http://prometheus.monitoring.svc:9090")]
    pub metrics_server: String,
    /// Seconds between two scrapes of the proxies by that Prometheus; the shortest query window is four of them.
    #[arg(long, env = "SLUICE_SCRAPE_INTERVAL", default_value = "15s", value_parser = parse_seconds)]
    pub scrape_interval: u64,
    /// Image of the proxies.
    #[arg(long, env = "SLUICE_PROXY_IMAGE", default_value = "sluice.dev/sluice-proxy:dev")]
    pub proxy_image: String,
    /// Pull policy of that image.
    #[arg(long, env = "SLUICE_PROXY_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    pub proxy_image_pull_policy: String,
    /// `json` or `text`.
    #[arg(long, env = "SLUICE_LOG_FORMAT", default_value = "json")]
    pub log_format: Format,
    /// Let metric servers and alert receivers be on this pod's loopback addresses.
    #[arg(long, env = "SLUICE_OUTBOUND_ALLOW_LOOPBACK")]
    pub outbound_allow_loopback: bool,
    /// Networks that metric servers and alert receivers may not be in, such as the API server's.
    #[arg(long, env = "SLUICE_OUTBOUND_DENY", value_delimiter = ',')]
    pub outbound_deny: Vec<ipnet::IpNet>,
    /// Name of this pod (downward API).
    #[arg(long, env = "POD_NAME", default_value = "sluice-operator")]
    pub pod_name: String,
    /// Namespace of this pod (downward API).
    #[arg(long, env = "POD_NAMESPACE", default_value = crds::names::SYSTEM_NAMESPACE)]
    pub pod_namespace: String,
}

/// Whole seconds from `15s`, `1m` or `15`.
fn parse_seconds(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.strip_suffix('m') {
        Some(digits) => (digits, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    match digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)) {
        Some(seconds) if (1..=3_600).contains(&seconds) => Ok(seconds),
        Some(_) | None => Err(format!("{text} is not a time between 1s and 60m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_minutes_are_understood_and_the_rest_is_not() {
        assert_eq!(parse_seconds("15s"), Ok(15));
        assert_eq!(parse_seconds("2m"), Ok(120));
        assert_eq!(parse_seconds("3"), Ok(3));
        assert_eq!(parse_seconds("60m"), Ok(3_600));
        for bad in ["", "0s", "1h", "-1s", "s", "61m", "3601", "18446744073709551615m"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }
}
