//! Rules for the requests of a route: which rule a request is for, and what is done with it. Both halves of the proxy
//! make one call, [`Rules::decide`], before they pick the arm; a request that no rule matches goes on as if there were
//! none. Pure: random numbers and time are passed in.
//!
//! Order: `head` is what is seen of a request, `matching` finds the rule; then, each ending it if it answers, `cors`
//! (preflights), `limit`, `fault`, `target` (redirects). What is left is forwarded, with `edits` and rewrites.

pub mod cors;
pub mod counts;
pub mod edits;
pub mod fault;
pub mod head;
pub mod limit;
pub mod matching;
pub mod target;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, header};
use proxy_api::v1beta1 as api;

use cors::{Cors, Granted};
pub use counts::Action;
use counts::Counts;
pub use edits::FieldEdits;
use fault::Fault;
pub use head::{Fields, Head};
use limit::Limit;
use matching::Match;
use target::{Redirect, Rewrite};

/// Rules of one route, and hostnames and matches of one rule; Gateway API's limits.
const MAX_RULES: usize = 16;
const MAX_HOSTNAMES: usize = 16;
const MAX_MATCHES: usize = 64;
/// Bytes of a rule's name, which is a label of metrics.
const MAX_NAME: usize = 63;

/// Every rule of a route.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<Arc<Rule>>,
    /// With the index of their rule, in order of precedence.
    matches: Vec<(Match, usize)>,
}

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
    rewrite: Rewrite,
    redirect: Option<Redirect>,
    cors: Option<Cors>,
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
    granted: Granted,
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

/// Why rules cannot be taken into force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// More than there may be.
    #[error("more {0} than {1}")]
    TooMany(&'static str, usize),
    /// Two rules cannot be told apart in metrics.
    #[error("two rules are named {0:?}")]
    Twice(String),
    /// No hostname.
    #[error("hostname {0:?} is not a DNS name, or one behind `*.` where that is allowed")]
    Hostname(String),
    /// No path, or one that could be read in two ways.
    #[error("path {0:?} must start with / and hold no //, dot segments, %2F, ? or #")]
    Path(String),
    /// No method that is served.
    #[error("method {0:?} is not known")]
    Method(String),
    /// No name of a rule, header field or query parameter.
    #[error("{0:?} is not a valid name")]
    Name(String),
    /// No value of a header field.
    #[error("value of header {0:?} is not valid")]
    Value(String),
    /// A header field that rules may not change.
    #[error("header {0:?} belongs to the proxy and cannot be changed")]
    Kept(String),
    /// What becomes of a header field is not clear.
    #[error("header {0:?} is changed twice in one list of changes")]
    EditedTwice(String),
    /// A match without exact value or pattern.
    #[error("match has no value")]
    NoValue,
    /// A text above the limit.
    #[error("text of a match is longer than {0} bytes")]
    TooLong(usize),
    /// A pattern that is not valid, or compiles to too much.
    #[error("pattern {0:?} cannot be used: {1}")]
    Regex(String, String),
    /// Fault outside its limits.
    #[error("fault needs percentages of at most 100, a status of 400 to 599 and a delay of at most 60 s")]
    Fault,
    /// A redirect that leads nowhere.
    #[error("redirect cannot be used: {0}")]
    Redirect(&'static str),
    /// Both answered and forwarded.
    #[error("a rule either redirects or rewrites")]
    Both,
    /// There is no prefix to replace.
    #[error("to replace a prefix, every match of the rule needs a path of that type")]
    NoPrefix,
    /// No origin.
    #[error("origin {0:?} is neither `*` nor scheme://host, lower case, with `*` at most for the start of the host")]
    Origin(String),
    /// Rate limit outside its limits.
    #[error("rate limit needs 1 to 1000000 requests, at once too, and a unit of at most an hour")]
    RateLimit,
}

impl Rules {
    /// The rules of a route; `None` if there are none. Rules of the same name keep what they have counted before.
    ///
    /// # Errors
    /// Names the first rule that has no meaning.
    pub fn compile(rules: &[api::Rule], previous: Option<&Self>) -> Result<Option<Self>, RuleError> {
        if rules.is_empty() {
            return Ok(None);
        }
        bounded(rules.len(), "rules", MAX_RULES)?;
        let mut compiled = Self { rules: Vec::with_capacity(rules.len()), matches: Vec::new() };
        for (index, rule) in rules.iter().enumerate() {
            bounded(rule.hostnames.len(), "hostnames in a rule", MAX_HOSTNAMES)?;
            bounded(rule.matches.len(), "matches in a rule", MAX_MATCHES)?;
            let name = if rule.name.is_empty() { format!("rule-{index}") } else { rule.name.clone() };
            if compiled.named(&name).is_some() {
                return Err(RuleError::Twice(name));
            }
            let matches = Match::compile_all(&rule.hostnames, &rule.matches)?;
            let before = previous.and_then(|previous| previous.named(&name));
            let rule = Rule::compile(name, rule, before)?;
            if rule.needs_prefix() && matches.iter().any(|one| one.prefix().is_none()) {
                return Err(RuleError::NoPrefix);
            }
            compiled.rules.push(Arc::new(rule));
            compiled.matches.extend(matches.into_iter().map(|one| (one, index)));
        }
        // Stable: equal ones stay in the order of their rules.
        compiled.matches.sort_by_key(|(one, _)| one.rank());
        Ok(Some(compiled))
    }

    /// The rules, in the order given.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().map(Arc::as_ref)
    }

    /// What is done with a request, and counted; `None` if no rule matches it. `random` is any number, new for each
    /// request; `now` tells nanoseconds since a moment that is the same for all workers.
    #[must_use]
    pub fn decide(&self, head: &Head<'_>, random: u64, now: impl FnOnce() -> u64) -> Option<Decision> {
        let (matched, rule) = self.find(head)?;
        let prefix = matched.prefix().unwrap_or_default();
        let granted = rule.cors.as_ref().map(|cors| cors.grant(head)).unwrap_or_default();
        let (delay, answer) = rule.answer(head, prefix, random, now, &granted);
        let target = if answer.is_none() { rule.rewrite.target(head, prefix) } else { None };
        if delay.is_some() {
            rule.counts.add(Action::Delay);
        }
        if let Some(answer) = &answer {
            rule.counts.add(answer.action);
        }
        Some(Decision { rule: Arc::clone(rule), delay, answer, target, granted })
    }

    fn find(&self, head: &Head<'_>) -> Option<(&Match, &Arc<Rule>)> {
        self.matches.iter().map(|(one, index)| (one, &self.rules[*index])).find(|(one, rule)| {
            // A preflight speaks for the request that it announces.
            let announced = rule.cors.is_some().then(|| head.preflight()).flatten();
            one.holds(head, announced.as_deref().unwrap_or(head.method.as_bytes()))
        })
    }

    fn named(&self, name: &str) -> Option<&Rule> {
        self.iter().find(|rule| rule.name == name)
    }
}

impl Rule {
    fn compile(name: String, rule: &api::Rule, before: Option<&Self>) -> Result<Self, RuleError> {
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

    fn needs_prefix(&self) -> bool {
        self.rewrite.needs_prefix() || self.redirect.as_ref().is_some_and(Redirect::needs_prefix)
    }

    /// The delay, and the answer if it is the proxy's.
    fn answer(
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

fn bounded(count: usize, what: &'static str, most: usize) -> Result<(), RuleError> {
    if count <= most { Ok(()) } else { Err(RuleError::TooMany(what, most)) }
}

#[cfg(test)]
mod tests;
