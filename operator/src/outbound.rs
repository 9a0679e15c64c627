//! Every HTTP call that the operator makes to an address a user may have written: Prometheus, Slack, webhooks.
//!
//! Guards what such a call can do: no redirects, no proxy from the environment, no credentials in the URL, a deadline
//! for the whole exchange, a cap on the answer, and no connection to an address that [`Policy`] refuses; the address
//! that was checked is the one that is dialled. It may not judge answers, and never repeats their bodies, or the paths
//! of URLs (a Slack URL is a secret), in an error.

mod policy;

use std::{error::Error as StdError, io, net::IpAddr, sync::Arc, time::Duration};

use reqwest::{Url, dns, header, redirect};

pub use policy::Policy;

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

/// Why there is no answer. `place` is `host:port`, never a path.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The client could not be set up; terminal.
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
    /// The address is not one that can be called; a person has to change it.
    #[error("the address is not usable: {problem}")]
    Address {
        /// What is wrong with it, and what was expected.
        problem: &'static str,
    },
    /// The name leads to an address that the policy refuses; a person has to change it.
    #[error("{place} leads to {address}, an address that Sluice does not call")]
    Refused {
        /// Whom.
        place: String,
        /// The first refused address.
        address: IpAddr,
    },
    /// No connection; a retry may help.
    #[error("no connection to {place}: {cause}")]
    Connect {
        /// Whom.
        place: String,
        /// Class of the failure.
        cause: String,
        /// For the log.
        #[source]
        source: reqwest::Error,
    },
    /// No complete answer in time; a retry may help.
    #[error("no answer from {place} within {} s", after.as_secs_f64())]
    Deadline {
        /// Whom.
        place: String,
        /// The deadline.
        after: Duration,
    },
    /// The answer is longer than allowed.
    #[error("the answer of {place} is longer than {limit_bytes} bytes")]
    TooLarge {
        /// Whom.
        place: String,
        /// The cap.
        limit_bytes: usize,
    },
    /// The server wants to send us elsewhere.
    #[error("{place} answers with a redirect (status {status}), which Sluice does not follow")]
    Redirect {
        /// Whom.
        place: String,
        /// HTTP status code.
        status: u16,
    },
    /// The connection broke in mid-exchange, or what came was not HTTP; a retry may help.
    #[error("the exchange with {place} broke off")]
    Exchange {
        /// Whom.
        place: String,
        /// For the log.
        #[source]
        source: reqwest::Error,
    },
}

impl OutboundError {
    /// Whether the same call may succeed later without anyone changing anything.
    #[must_use]
    pub const fn passing(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Deadline { .. } | Self::Exchange { .. } => true,
            Self::Client(_)
            | Self::Address { .. }
            | Self::Refused { .. }
            | Self::TooLarge { .. }
            | Self::Redirect { .. } => false,
        }
    }
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

fn classify(error: reqwest::Error, place: &str) -> OutboundError {
    let place = place.to_owned();
    let source = error.without_url();
    if let Some(RefusedAddress(address)) = cause(&source) {
        return OutboundError::Refused { place, address: *address };
    }
    if !source.is_connect() {
        return OutboundError::Exchange { place, source };
    }
    let cause = if source.is_timeout() {
        format!("not established within {} s", CONNECT_TIMEOUT.as_secs())
    } else if cause::<Unresolved>(&source).is_some() {
        "the name cannot be resolved".to_owned()
    } else if let Some(error) = cause::<rustls::Error>(&source) {
        tls_class(error).to_owned()
    } else {
        cause::<io::Error>(&source).map_or_else(|| "refused".to_owned(), |error| error.kind().to_string())
    };
    OutboundError::Connect { place, cause, source }
}

fn tls_class(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(_) => "its certificate is not trusted",
        _ => "TLS cannot be established",
    }
}

/// The first error of type `T` in the chain; `io::Error` may hide one inside.
fn cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut link = Some(error);
    while let Some(error) = link {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| cause(inner)) {
            return Some(found);
        }
        link = error.source();
    }
    None
}

fn retry_after(headers: &header::HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Looks names up and hands on only addresses that were checked, so that no second lookup can swap them.
struct Resolver {
    policy: Arc<Policy>,
}

#[derive(Debug, thiserror::Error)]
#[error("the address {0} is refused by policy")]
struct RefusedAddress(IpAddr);

#[derive(Debug, thiserror::Error)]
#[error("the name cannot be resolved")]
struct Unresolved(#[source] io::Error);

impl dns::Resolve for Resolver {
    fn resolve(&self, name: dns::Name) -> dns::Resolving {
        let policy = Arc::clone(&self.policy);
        Box::pin(async move {
            let addresses: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(Unresolved)?.collect();
            // One refused address refuses them all: a name that leads to both is not an honest one.
            if let Some(refused) = addresses.iter().find(|address| !policy.permits(address.ip())) {
                return Err(RefusedAddress(refused.ip()).into());
            }
            Ok(Box::new(addresses.into_iter()) as dns::Addrs)
        })
    }
}

#[cfg(test)]
pub(crate) mod fault;
#[cfg(test)]
mod tests;
