//! Who a proxy is: a bearer token → the pod and the namespace whose routes it may have.
//!
//! The API server judges the token (TokenReview with our audience); this module judges the answer, remembers it for a
//! minute, and believes nothing that the proxy says of itself. No fallback: a token without our audience is nobody's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::{Api, PostParams};
use proxy_api::TOKEN_AUDIENCE;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// Longest token that is sent on; a projected service-account token has about 1.2 KiB.
const TOKEN_LIMIT: usize = 8 * 1024;
/// How long an answer is believed: a pod that is gone may open a stream for this much longer.
const CACHE_TTL: Duration = Duration::from_secs(60);
/// Most answers remembered; a pool of that size reconnecting asks at most once per proxy.
const CACHE_SIZE: usize = 4_096;
/// Most reviews in flight, so that a storm of bad tokens cannot starve the operator's other calls.
const REVIEWS_IN_FLIGHT: usize = 16;
/// One review takes milliseconds; past this the proxy tries again.
const REVIEW_DEADLINE: Duration = Duration::from_secs(5);
/// Extra of a token that is bound to a pod (Kubernetes, `serviceaccount.PodNameKey`).
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

/// A proxy as its token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Whose routes it may have.
    pub namespace: String,
    /// Its pod.
    pub pod: String,
}

/// Why a stream has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No `authorization: Bearer …`. Final.
    #[error("no bearer token")]
    Missing,
    /// The token, or the answer about it, is not that of a proxy. Final for this token.
    #[error("token refused: {0}")]
    Refused(&'static str),
    /// The API server could not be asked. Trying again helps.
    #[error("cannot review the token")]
    Unreachable(#[source] kube::Error),
    /// The API server did not answer in time. Trying again helps.
    #[error("token review not answered in {} s", REVIEW_DEADLINE.as_secs())]
    Deadline,
}

/// Asks somebody what a token is worth: the API server, or a table in tests.
pub trait Review: Send + Sync {
    /// The status of a TokenReview of `token` for [`TOKEN_AUDIENCE`].
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, kube::Result<TokenReviewStatus>>;
}

impl Review for kube::Client {
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, kube::Result<TokenReviewStatus>> {
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]) };
        Box::pin(async move {
            let review = TokenReview { spec, ..TokenReview::default() };
            let answer = Api::<TokenReview>::all(self.clone()).create(&PostParams::default(), &review).await?;
            Ok(answer.status.unwrap_or_default())
        })
    }
}

/// SHA-256 of a token → whose it is, and until when that is believed.
type Known = HashMap<[u8; 32], (Proxy, Instant)>;

/// Tokens → proxies, with a small memory. Cheap to clone.
#[derive(Clone)]
pub struct Identities {
    review: Arc<dyn Review>,
    known: Arc<Mutex<Known>>,
    permits: Arc<Semaphore>,
}

impl Identities {
    /// By the API server behind `client`.
    #[must_use]
    pub fn new(client: kube::Client) -> Self {
        Self::with(Arc::new(client))
    }

    /// By anyone.
    #[must_use]
    pub fn with(review: Arc<dyn Review>) -> Self {
        let permits = Arc::new(Semaphore::new(REVIEWS_IN_FLIGHT));
        Self { review, known: Arc::default(), permits }
    }

    /// The proxy whose `authorization` header this is. Answers within [`REVIEW_DEADLINE`]. Cancellation safe.
    ///
    /// # Errors
    /// See [`IdentityError`]; refusals are final for the token, the others are worth another try.
    pub async fn identify(&self, authorization: Option<&str>) -> Result<Proxy, IdentityError> {
        let token = authorization.and_then(|value| value.strip_prefix("Bearer ")).ok_or(IdentityError::Missing)?;
        if token.is_empty() || token.len() > TOKEN_LIMIT {
            return Err(IdentityError::Refused("its length is that of no token"));
        }
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(proxy) = self.recall(&key) {
            return Ok(proxy);
        }
        let ask = async {
            let _permit = self.permits.acquire().await.expect("the semaphore is never closed");
            self.review.review(token).await.map_err(IdentityError::Unreachable)
        };
        let status = timeout(REVIEW_DEADLINE, ask).await.map_err(|_| IdentityError::Deadline)??;
        let proxy = judge(&status).map_err(IdentityError::Refused)?;
        self.remember(key, proxy.clone());
        Ok(proxy)
    }

    fn recall(&self, key: &[u8; 32]) -> Option<Proxy> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).filter(|(_, until)| *until > Instant::now()).map(|(proxy, _)| proxy.clone())
    }

    /// Refusals are not remembered: right after a pod's start the API server may not know it yet.
    fn remember(&self, key: [u8; 32], proxy: Proxy) {
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CACHE_SIZE {
            known.retain(|_, (_, until)| *until > now);
        }
        if known.len() < CACHE_SIZE {
            known.insert(key, (proxy, now + CACHE_TTL));
        }
    }
}

/// What the API server said → the proxy, or why it is none.
fn judge(status: &TokenReviewStatus) -> Result<Proxy, &'static str> {
    if status.authenticated != Some(true) {
        return Err("the API server does not know it");
    }
    // Absent audiences mean an authenticator that did not look at them.
    if !status.audiences.iter().flatten().any(|audience| audience == TOKEN_AUDIENCE) {
        return Err("it is not for this operator");
    }
    let user = status.user.as_ref().ok_or("it names no user")?;
    let name = user.username.as_deref().and_then(|name| name.strip_prefix("system:serviceaccount:"));
    let (namespace, account) = name.and_then(|name| name.split_once(':')).ok_or("it is no service account's")?;
    if account != crds::names::POOL_NAME || namespace.is_empty() {
        return Err("its service account is not the pool's");
    }
    match user.extra.as_ref().and_then(|extra| extra.get(POD_NAME)).map(Vec::as_slice) {
        Some([pod]) if !pod.is_empty() => Ok(Proxy { namespace: namespace.to_owned(), pod: pod.clone() }),
        _ => Err("it is not bound to a pod"),
    }
}

#[cfg(test)]
pub(crate) mod tests;
