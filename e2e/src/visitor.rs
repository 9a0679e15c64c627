//! One client of a shop, as a browser is: it keeps its cookies, follows no redirect, and asks one thing at a time.
//!
//! Every request goes over a connection of its own, so that it may meet any proxy. Beside the load generator, which counts
//! many alike, this one looks at single answers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, StatusCode};
use proxy_api::metrics::REQUESTS_TOTAL;
use reqwest::redirect::Policy;

use crate::app::VERSION_HEADER;
use crate::proxies;
use crate::world::{SOON, Shop};

/// Longest time that an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Looks at a count that goes on rising before it is taken as others' doing.
const LOOKS: u32 = 5;

/// A client with its cookies.
#[derive(Clone, Debug)]
pub struct Visitor {
    client: reqwest::Client,
    base: String,
    cookies: BTreeMap<String, String>,
    answers: u64,
}

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: String,
}

impl Answer {
    /// The version that gave it; empty where none did.
    #[must_use]
    pub fn version(&self) -> &str {
        self.field(VERSION_HEADER)
    }

    /// The first value of a field; empty where there is none.
    #[must_use]
    pub fn field(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl Visitor {
    /// One without cookies, whose requests go through the proxies: kube-proxy follows the Service a moment later, and what
    /// it still brings to the pods themselves no proxy counts. What was asked to find out is among its answers, and is all
    /// that the proxies have counted, if nobody else asks them.
    ///
    /// # Errors
    /// As [`Shop::address`], and when no proxy counts a request within [`SOON`].
    pub async fn of(shop: &Shop) -> Result<Self> {
        let client = reqwest::Client::builder()
            .redirect(Policy::none())
            .pool_max_idle_per_host(0)
            .timeout(TIMEOUT)
            .no_proxy()
            .build()?;
        let mut visitor =
            Self { client, base: format!("http://{}", shop.address(80).await?), cookies: BTreeMap::new(), answers: 0 };
        let deadline = Instant::now() + SOON;
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        let (mut counted, mut looks) = (0, 0);
        // What was asked is counted a moment after its answer. Under load there is no last one to wait for.
        while looks < LOOKS {
            tick.tick().await;
            let before = std::mem::replace(&mut counted, proxies::total(shop, REQUESTS_TOTAL, &[]).await?);
            if counted > 0 {
                looks = if counted == before { LOOKS } else { looks + 1 };
                continue;
            }
            ensure!(Instant::now() < deadline, "no proxy is asked, only pods");
            visitor.client.get(&visitor.base).send().await?.bytes().await?;
        }
        visitor.answers = counted;
        Ok(visitor)
    }

    /// Asks for a path, with fields beside the cookies.
    ///
    /// # Errors
    /// When there is no complete answer.
    pub async fn get(&mut self, path: &str, fields: &[(&str, &str)]) -> Result<Answer> {
        let mut request = self.client.get(format!("{}{path}", self.base));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        if !self.cookies.is_empty() {
            let pairs: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header(COOKIE, pairs.join("; "));
        }
        let response = request.send().await.with_context(|| format!("no answer to {path}"))?;
        let (status, headers) = (response.status(), response.headers().clone());
        for cookie in headers.get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok()) {
            if let Some((name, value)) = cookie.split(';').next().and_then(|pair| pair.split_once('=')) {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        let body = response.text().await.with_context(|| format!("no complete answer to {path}"))?;
        self.answers += 1;
        Ok(Answer { status, headers, body })
    }

    /// Complete answers so far.
    #[must_use]
    pub const fn answers(&self) -> u64 {
        self.answers
    }
}
