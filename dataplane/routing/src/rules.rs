//! Rules for the requests of a route: which rule a request is for, and what is done with it. Both halves of the proxy
//! make one call, [`Rules::decide`], before they pick the arm; a request that no rule matches goes on as if there were
//! none. Pure: random numbers are passed in.

pub mod head;
pub mod matching;

use std::sync::Arc;
use std::time::Duration;

use proxy_api::v1beta1 as api;

pub use head::{Fields, Head};
use matching::Match;

/// Rules of one route, and hostnames and matches of one rule; Gateway API's limits.
const MAX_RULES: usize = 16;
const MAX_HOSTNAMES: usize = 16;
const MAX_MATCHES: usize = 64;
/// Longest delay on purpose: a request that waits holds its connection.
const MAX_DELAY: Duration = Duration::from_secs(60);

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

/// Errors on purpose, in percent of the rule's requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Fault {
    delay: Option<(Duration, u8)>,
    abort: Option<(u16, u8)>,
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
}

/// An answer of the proxy itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200..=599.
    pub status: u16,
    /// Why.
    pub cause: Cause,
}

/// Which action of a rule it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Fault injection.
    Abort,
}

impl Cause {
    /// For the client.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Abort => "aborted on purpose",
        }
    }
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
    #[error("hostname {0:?} is neither a DNS name nor one behind `*.`")]
    Hostname(String),
    /// No path, or one that could be read in two ways.
    #[error("path {0:?} must start with / and hold no //, dot segments, %2F, ? or #")]
    Path(String),
    /// No method that is served.
    #[error("method {0:?} is not known")]
    Method(String),
    /// No name of a header field or query parameter.
    #[error("{0:?} is not a valid name")]
    Name(String),
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
    #[error("fault needs percentages of at most 100, a status of 200 to 599 and a delay of at most 60 s")]
    Fault,
}

impl Rules {
    /// The rules of a route; `None` if there are none.
    ///
    /// # Errors
    /// Names the first rule that has no meaning.
    pub fn compile(rules: &[api::Rule]) -> Result<Option<Self>, RuleError> {
        if rules.is_empty() {
            return Ok(None);
        }
        bounded(rules.len(), "rules", MAX_RULES)?;
        let mut compiled = Self { rules: Vec::with_capacity(rules.len()), matches: Vec::new() };
        for (index, rule) in rules.iter().enumerate() {
            bounded(rule.hostnames.len(), "hostnames in a rule", MAX_HOSTNAMES)?;
            bounded(rule.matches.len(), "matches in a rule", MAX_MATCHES)?;
            let matches = Match::compile_all(&rule.hostnames, &rule.matches)?;
            compiled.matches.extend(matches.into_iter().map(|one| (one, index)));
            let rule = Rule::compile(index, rule)?;
            if compiled.rules.iter().any(|other| other.name == rule.name) {
                return Err(RuleError::Twice(rule.name));
            }
            compiled.rules.push(Arc::new(rule));
        }
        // Stable: equal ones stay in the order of their rules.
        compiled.matches.sort_by_key(|(one, _)| one.rank());
        Ok(Some(compiled))
    }

    /// What is done with a request; `None` if no rule matches it. `random` is any number, new for each request.
    #[must_use]
    pub fn decide(&self, head: &Head<'_>, random: u64) -> Option<Decision> {
        let rule = self.find(head)?;
        let (delay, abort) = rule.fault.strike(random);
        let answer = abort.map(|status| Answer { status, cause: Cause::Abort });
        Some(Decision { rule: Arc::clone(rule), delay, answer })
    }

    fn find(&self, head: &Head<'_>) -> Option<&Arc<Rule>> {
        let found = self.matches.iter().find(|(one, _)| one.holds(head, head.method.as_bytes()));
        found.map(|(_, index)| &self.rules[*index])
    }
}

impl Rule {
    fn compile(index: usize, rule: &api::Rule) -> Result<Self, RuleError> {
        Ok(Self {
            name: if rule.name.is_empty() { format!("rule-{index}") } else { rule.name.clone() },
            request_timeout: match rule.request_timeout_ms {
                None => Timeout::Inherit,
                Some(0) => Timeout::Off,
                Some(millis) => Timeout::After(Duration::from_millis(millis)),
            },
            fault: rule.fault.as_ref().map(Fault::compile).transpose()?.unwrap_or_default(),
        })
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

impl Fault {
    fn compile(fault: &api::Fault) -> Result<Self, RuleError> {
        let percent = |value: u32| u8::try_from(value).ok().filter(|value| *value <= 100).ok_or(RuleError::Fault);
        let delay = Duration::from_millis(fault.delay_ms);
        let status = match fault.abort_status {
            0 => None,
            status => Some(u16::try_from(status).ok().filter(|s| (200..600).contains(s)).ok_or(RuleError::Fault)?),
        };
        if delay > MAX_DELAY {
            return Err(RuleError::Fault);
        }
        let (delay_percent, abort_percent) = (percent(fault.delay_percent)?, percent(fault.abort_percent)?);
        Ok(Self {
            delay: (!delay.is_zero()).then_some((delay, delay_percent)),
            abort: status.map(|status| (status, abort_percent)),
        })
    }

    /// Both strike independently of each other.
    fn strike(self, random: u64) -> (Option<Duration>, Option<u16>) {
        let hit = |random: u64, percent: u8| ((random & 0xffff_ffff) * 100) >> 32 < u64::from(percent);
        let delay = self.delay.filter(|(_, percent)| hit(random, *percent)).map(|(delay, _)| delay);
        let abort = self.abort.filter(|(_, percent)| hit(random >> 32, *percent)).map(|(status, _)| status);
        (delay, abort)
    }
}

fn bounded(count: usize, what: &'static str, most: usize) -> Result<(), RuleError> {
    if count <= most { Ok(()) } else { Err(RuleError::TooMany(what, most)) }
}

#[cfg(test)]
mod tests;
