//! Rules for the requests of a route: which rule a request is for, and what is done with it. Both halves of the proxy
//! make one call, [`Rules::decide`], before they pick the arm; a request that no rule matches goes on as if there were
//! none. Pure: random numbers and time are passed in.
//!
//! Order: `head` is what is seen of a request, `matching` finds the rule; then, each ending it if it answers, `cors`
//! (preflights), `limit`, `fault`, `target` (redirects). What is left is forwarded, with `edits` and rewrites. `rule` is one
//! rule, `decision` what comes of it.

pub mod cors;
pub mod counts;
mod decision;
pub mod edits;
mod error;
pub mod fault;
pub mod head;
pub mod limit;
pub mod matching;
mod rule;
pub mod target;

use std::sync::Arc;

use proxy_api::v1beta1 as api;

pub use counts::Action;
pub use decision::{Answer, Decision};
pub use edits::FieldEdits;
pub use error::RuleError;
pub use head::{Fields, Head};
use matching::Match;
pub use rule::{Rule, Timeout};

/// Rules of one route, and hostnames and matches of one rule; Gateway API's limits.
const MAX_RULES: usize = 16;
const MAX_HOSTNAMES: usize = 16;
const MAX_MATCHES: usize = 64;

/// Every rule of a route.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<Arc<Rule>>,
    /// With the index of their rule, in order of precedence.
    matches: Vec<(Match, usize)>,
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

fn bounded(count: usize, what: &'static str, most: usize) -> Result<(), RuleError> {
    if count <= most { Ok(()) } else { Err(RuleError::TooMany(what, most)) }
}

#[cfg(test)]
mod tests;
