//! What is typed, and what it means.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::sight::Logged;
use crate::telemetry::LogFormat;

/// Sluice's data plane: splits the traffic of Services between a stable and a canary version.
#[derive(Clone, Debug, Parser)]
#[command(name = "sluice-proxy", version)]
pub struct Args {
    /// Host and port of the operator's config stream; every address of the host is an operator replica.
    #[arg(long, env = "SLUICE_OPERATOR", value_name = "HOST:PORT", required_unless_present = "config")]
    pub operator: Option<String>,
    /// File with the operator's CA certificates (PEM); read anew for each connection.
    #[arg(long, env = "SLUICE_CA", value_name = "FILE", required_unless_present_any = ["plaintext", "config"])]
    pub ca: Option<PathBuf>,
    /// Speak to the operator without TLS, for tests.
    #[arg(long, conflicts_with = "ca")]
    pub plaintext: bool,
    /// File with the service-account token that says who this proxy is; read anew for each connection.
    #[arg(long, env = "SLUICE_TOKEN", value_name = "FILE")]
    pub token: Option<PathBuf>,
    /// Serve the routes of this file (YAML) instead of an operator's; read anew when it changes.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["operator", "ca", "plaintext", "token", "state_dir"])]
    pub config: Option<PathBuf>,
    /// With --config: say whether the file is valid, and serve nothing.
    #[arg(long, requires = "config")]
    pub check: bool,
    /// With --config: where the listener that names no port listens.
    #[arg(long, requires = "config", conflicts_with = "listen_address", value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Directory in which the last configuration survives a restart of the container.
    #[arg(long, env = "SLUICE_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Worker threads; as many as CPUs are available if absent.
    #[arg(long, env = "SLUICE_WORKERS", value_parser = clap::value_parser!(u16).range(1..=128))]
    pub workers: Option<u16>,
    /// Connections from clients at a time, unless the configuration says otherwise; fewer if the open files allow no more.
    #[arg(long, env = "SLUICE_MAX_CONNECTIONS", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub max_connections: u64,
    /// Bytes of HTTP/2 that all clients and endpoints together leave in the proxy before each may have only what it needs to get on.
    #[arg(long, env = "SLUICE_MAX_HELD_BYTES", default_value_t = routing::limits::HELD_BYTES, value_parser = clap::value_parser!(u64).range(16 * 1024 * 1024..))]
    pub max_held_bytes: u64,
    /// Address of the admin server; every address, port 14999 if absent.
    #[arg(long, env = "SLUICE_ADMIN", value_name = "ADDRESS:PORT")]
    pub admin: Option<SocketAddr>,
    /// Address on which the ports of the routes are opened; every address of both families if absent.
    #[arg(long, env = "SLUICE_LISTEN_ADDRESS", value_name = "ADDRESS")]
    pub listen_address: Option<IpAddr>,
    /// After SIGTERM: how long to go on accepting connections while not ready, such as 5s.
    #[arg(long, env = "SLUICE_DRAIN_DELAY", default_value = "5s", value_parser = duration)]
    pub drain_delay: Duration,
    /// After that: how long open connections may take to finish, such as 25s.
    #[arg(long, env = "SLUICE_DRAIN_DEADLINE", default_value = "25s", value_parser = duration)]
    pub drain_deadline: Duration,
    /// Format of the log lines.
    #[arg(long, env = "SLUICE_LOG_FORMAT", default_value = "json")]
    pub log_format: LogFormat,
    /// Access log on standard output, JSON: `errors`, or the share of requests that gets a line, such as 0.01; none if absent.
    #[arg(long, env = "SLUICE_ACCESS_LOG", value_parser = logged)]
    pub access_log: Option<Logged>,
    /// Collector that spans go to, OTLP over gRPC; no traces if absent.
    #[arg(long, env = "SLUICE_TRACING_ENDPOINT", value_name = "http://HOST:PORT")]
    pub tracing_endpoint: Option<String>,
    /// Share of the traces begun here that is sampled, 0 to 1; a caller's decision is kept.
    #[arg(long, env = "SLUICE_TRACING_RATIO", default_value_t = 0.01, value_parser = share, requires = "tracing_endpoint")]
    pub tracing_ratio: f64,
    /// Zone of this pod's node, for routes whose loadBalancer says localityLbSetting.
    #[arg(long, env = "POD_ZONE", default_value = "")]
    pub zone: String,
    /// Name of this pod.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pub pod_name: String,
    /// Namespace of this pod, whose routes it serves.
    #[arg(long, env = "POD_NAMESPACE", default_value = "")]
    pub pod_namespace: String,
}

/// A duration as users write it: a whole number and `ms`, `s` or `m`.
///
/// # Errors
/// When it is not.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} must be a whole number and ms, s or m"))?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(format!("{text:?} must end in ms, s or m")),
    }
}

/// A share as users write it.
///
/// # Errors
/// When it is not between 0 and 1.
pub fn share(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} must be a number"))?;
    if (0.0..=1.0).contains(&number) { Ok(number) } else { Err(format!("{text:?} must be between 0 and 1")) }
}

fn logged(text: &str) -> Result<Logged, String> {
    if text == "errors" { Ok(Logged::Errors) } else { share(text).map(Logged::Share) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_access_log_is_for_errors_or_for_a_share() {
        assert_eq!(logged("errors"), Ok(Logged::Errors));
        assert_eq!(logged("0.5"), Ok(Logged::Share(0.5)));
        assert!(logged("1.1").is_err() && logged("NaN").is_err() && logged("all").is_err());
    }

    #[test]
    fn durations_carry_their_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("5").is_err());
        assert!(duration("s").is_err());
        assert!(duration("1.5s").is_err());
    }
}
