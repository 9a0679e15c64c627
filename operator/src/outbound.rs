//! Every HTTP call that the operator makes to an address a user may have written: Prometheus, Slack, webhooks.
//!
//! Guards what such a call can do: no redirects, no proxy from the environment, no credentials in the URL, a deadline
//! for the whole exchange, a cap on the answer, and no connection to an address that [`Policy`] refuses; the address
//! that was checked is the one that is dialled. It may not judge answers, and never repeats their bodies, or the paths
//! of URLs (a Slack URL is a secret), in an error.

mod error;
mod policy;
mod resolver;

use std::{net::IpAddr, sync::Arc, time::Duration};

use reqwest::{Url, header, redirect};

pub use error::OutboundError;
use error::classify;
pub use policy::Policy;
use resolver::Resolver;

/// Longest time for name resolution, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Idle connections kept per server: as many as one server is asked at once.
const IDLE_PER_HOST: usize = 8;
/// Idle connections are closed after this time: below the idle timeouts of common servers and NATs.
const IDLE_TIMEOUT: Duration = Duration::from_secs(55);
/// Highest `Retry-After` that is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// The guarded client; clones share connections.
#[derive(Clone, Debug)]
pub struct Outbound {
    client: reqwest::Client,
    policy: Arc<Policy>,
}

/// What one call may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For the whole exchange, the answer's body included.
    pub deadline: Duration,
    /// Longest body of an answer.
    pub answer_bytes: usize,
}

/// An answer within its limits, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status code, never 3xx.
    pub status: u16,
    /// `Retry-After` in seconds, at most five minutes.
    pub retry_after: Option<Duration>,
    /// The body.
    pub body: Vec<u8>,
}

fn mozilla_roots() -> Vec<reqwest::Certificate> {
    let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
    roots.filter_map(|root| reqwest::Certificate::from_der(root).ok()).collect()
}

impl Outbound {
    /// Sets up the client. The rustls provider must be installed.
    ///
    /// # Errors
    /// [`OutboundError::Client`]; a retry does not help.
    pub fn new(policy: Policy) -> Result<Self, OutboundError> {
        let policy = Arc::new(policy);
        let builder = || {
            reqwest::Client::builder()
                .redirect(redirect::Policy::none())
                .no_proxy()
                .connect_timeout(CONNECT_TIMEOUT)
                .pool_max_idle_per_host(IDLE_PER_HOST)
                .pool_idle_timeout(IDLE_TIMEOUT)
                .user_agent(concat!("sluice-operator/", env!("CARGO_PKG_VERSION")))
                .dns_resolver(Arc::new(Resolver { policy: Arc::clone(&policy) }))
        };
        // A scratch image has no root certificates: Mozilla's, compiled in, take their place.
        let client = builder()
            .build()
            .or_else(|_| builder().tls_certs_only(mozilla_roots()).build())
            .map_err(OutboundError::Client)?;
        Ok(Self { client, policy })
    }

    /// Sends `body` to `url` and takes the whole answer. Dropping the future ends the exchange.
    ///
    /// # Errors
    /// Every [`OutboundError`] but `Client`; [`OutboundError::passing`] tells whether a retry may help.
    pub async fn post(
        &self,
        url: &Url,
        content_type: &'static str,
        body: Vec<u8>,
        limits: Limits,
    ) -> Result<Answer, OutboundError> {
        let place = place(url);
        // The client dials a literal address without asking the resolver, so it is looked at here.
        if let Some(address) = literal(url).filter(|address| !self.policy.permits(*address)) {
            return Err(OutboundError::Refused { place, address });
        }
        let request = self.client.post(url.clone()).header(header::CONTENT_TYPE, content_type).body(body);
        match tokio::time::timeout(limits.deadline, exchange(request, &place, limits.answer_bytes)).await {
            Ok(result) => result,
            Err(_) => Err(OutboundError::Deadline { place, after: limits.deadline }),
        }
    }
}

/// Reads an address that a user wrote.
///
/// # Errors
/// [`OutboundError::Address`], with what was expected.
pub fn parse_address(text: &str) -> Result<Url, OutboundError> {
    let refuse = |problem| Err(OutboundError::Address { problem });
    let Ok(url) = Url::parse(text.trim()) else {
        return refuse("expected a URL such as http://prometheus.monitoring:9090");
    };
    if !matches!(url.scheme(), "http" | "https") {
        return refuse("expected a URL that begins with http:// or https://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refuse("expected a URL without user name and password");
    }
    if url.host_str().is_none_or(str::is_empty) {
        return refuse("expected a URL with a host name");
    }
    Ok(url)
}

/// `host:port` of a URL: what errors and logs may say of it.
#[must_use]
pub fn place(url: &Url) -> String {
    let host = url.host_str().unwrap_or("(no host)");
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

async fn exchange(request: reqwest::RequestBuilder, place: &str, limit_bytes: usize) -> Result<Answer, OutboundError> {
    let mut response = request.send().await.map_err(|error| classify(error, place))?;
    let status = response.status();
    if status.is_redirection() {
        return Err(OutboundError::Redirect { place: place.to_owned(), status: status.as_u16() });
    }
    let too_large = || OutboundError::TooLarge { place: place.to_owned(), limit_bytes };
    if response.content_length().is_some_and(|length| length > limit_bytes as u64) {
        return Err(too_large());
    }
    let retry_after = retry_after(response.headers());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| classify(error, place))? {
        if body.len() + chunk.len() > limit_bytes {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status: status.as_u16(), retry_after, body })
}

fn retry_after(headers: &header::HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

#[cfg(test)]
pub(crate) mod fault;
#[cfg(test)]
mod tests;
