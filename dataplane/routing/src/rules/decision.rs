//! What is done with one request, as those who carry it out ask for it.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::cors::{self, Granted};
use super::{Action, Rule};

/// What is done with one request that a rule matches.
#[derive(Debug)]
pub struct Decision {
    /// The rule.
    pub rule: Arc<Rule>,
    /// Wait for so long before anything else.
    pub delay: Option<Duration>,
    /// Answer with this instead of asking an endpoint; such a request is no arm's.
    pub answer: Option<Answer>,
    /// Path and query for the endpoint, where they change.
    pub target: Option<String>,
    pub(super) granted: Granted,
}

/// An answer of the proxy itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 204, or 300..=599.
    pub status: u16,
    /// Why.
    pub action: Action,
    /// In addition to what every answer has.
    pub fields: Vec<(HeaderName, HeaderValue)>,
}

impl Decision {
    /// Whether the proxy answers itself.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.answer.is_some()
    }

    /// The host for the endpoint, where it changes.
    #[must_use]
    pub fn hostname(&self) -> Option<&str> {
        self.rule.rewrite.hostname.as_deref()
    }

    /// Whether the client does not get the endpoint's field `name`.
    #[must_use]
    pub fn drops(&self, name: &str) -> bool {
        self.rule.response_headers.drops(name) || (self.rule.cors.is_some() && cors::owns(name))
    }

    /// The fields that the endpoint's answer gets in addition.
    pub fn written(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.rule.response_headers.written().chain(self.granted.iter().map(|(name, value)| (name, value)))
    }
}
