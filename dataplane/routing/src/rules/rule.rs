//! One rule: compiled from its message, and what it says to a request that it matches.

use std::time::Duration;

use http::{HeaderName, HeaderValue, header};
use proxy_api::v1beta1 as api;

use super::cors::{Cors, Granted};
use super::counts::Counts;
use super::fault::Fault;
use super::limit::Limit;
use super::target::{Redirect, Rewrite};
use super::{Action, Answer, FieldEdits, Head, RuleError};

/// Bytes of a rule's name, which is a label of metrics.
const MAX_NAME: usize = 63;

/// What is done with the requests that it matches.
#[derive(Debug)]
pub struct Rule {
    /// For metrics.
    pub name: String,
    /// Instead of the route's.
    pub request_timeout: Timeout,
    /// Of what the endpoint gets.
    pub request_headers: FieldEdits,
    /// Of what the client gets.
    pub response_headers: FieldEdits,
    /// What it did itself.
    pub counts: Counts,
    pub(super) rewrite: Rewrite,
    redirect: Option<Redirect>,
    pub(super) cors: Option<Cors>,
    limit: Option<Limit>,
    fault: Fault,
}

/// A rule's word on a limit of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// The route's counts.
    Inherit,
    /// There is none.
    Off,
    /// This one.
    After(Duration),
}

impl Rule {
    /// `before`: the rule of the same name that was in force.
    ///
    /// # Errors
    /// What of it has no meaning.
    pub(super) fn compile(name: String, rule: &api::Rule, before: Option<&Self>) -> Result<Self, RuleError> {
        let label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
        if name.len() > MAX_NAME || !name.bytes().all(label) {
            return Err(RuleError::Name(name));
        }
        if rule.redirect.is_some() && rule.rewrite.is_some() {
            return Err(RuleError::Both);
        }
        let limited = before.and_then(|before| before.limit.as_ref());
        Ok(Self {
            name,
            request_timeout: match rule.request_timeout_ms {
                None => Timeout::Inherit,
                Some(0) => Timeout::Off,
                Some(millis) => Timeout::After(Duration::from_millis(millis)),
            },
            request_headers: FieldEdits::compile(rule.request_headers.as_ref())?,
            response_headers: FieldEdits::compile(rule.response_headers.as_ref())?,
            counts: before.map(|before| before.counts.clone()).unwrap_or_default(),
            rewrite: rule.rewrite.as_ref().map(Rewrite::compile).transpose()?.unwrap_or_default(),
            redirect: rule.redirect.as_ref().map(Redirect::compile).transpose()?,
            cors: rule.cors.as_ref().map(Cors::compile).transpose()?,
            limit: rule.rate_limit.as_ref().map(|limit| Limit::compile(limit, limited)).transpose()?,
            fault: rule.fault.as_ref().map(Fault::compile).transpose()?.unwrap_or_default(),
        })
    }

    /// Whether it replaces a prefix, which each of its matches must then have.
    pub(super) fn needs_prefix(&self) -> bool {
        self.rewrite.needs_prefix() || self.redirect.as_ref().is_some_and(Redirect::needs_prefix)
    }

    /// The delay, and the answer if it is the proxy's.
    pub(super) fn answer(
        &self,
        head: &Head<'_>,
        prefix: &str,
        random: u64,
        now: impl FnOnce() -> u64,
        granted: &Granted,
    ) -> (Option<Duration>, Option<Answer>) {
        let with = |status, action, field: Option<(HeaderName, HeaderValue)>| {
            Some(Answer { status, action, fields: field.into_iter().chain(granted.iter().cloned()).collect() })
        };
        if let Some(cors) = self.cors.as_ref().filter(|_| head.preflight().is_some()) {
            return (None, Some(Answer { status: 204, action: Action::Preflight, fields: cors.preflight(head) }));
        }
        if let Some(wait) = self.limit.as_ref().and_then(|limit| limit.take(now()).err()) {
            let seconds = HeaderValue::from(wait.div_ceil(1_000_000_000).max(1));
            return (None, with(429, Action::RateLimit, Some((header::RETRY_AFTER, seconds))));
        }
        let (delay, abort) = self.fault.strike(random);
        if let Some(status) = abort {
            return (delay, with(status, Action::Abort, None));
        }
        let Some(redirect) = &self.redirect else { return (delay, None) };
        match redirect.location(head, prefix) {
            Some(location) => (delay, with(redirect.status, Action::Redirect, Some((header::LOCATION, location)))),
            // `OPTIONS *` asks about the server, not about a place that could be elsewhere.
            None => (delay, None),
        }
    }
}

impl Timeout {
    /// The limit, where the route says `inherited`.
    #[must_use]
    pub fn over(self, inherited: Option<Duration>) -> Option<Duration> {
        match self {
            Self::Inherit => inherited,
            Self::Off => None,
            Self::After(limit) => Some(limit),
        }
    }
}
