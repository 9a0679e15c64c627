//! A/B testing: which requests may see the canary at all. Inside of the audience the weight counts as ever; everybody else
//! is stable's, and moves neither the split nor a client's bucket.

use proxy_api::v1beta1 as api;

use crate::rules::matching::Match;
use crate::rules::{Head, RuleError};

/// Matches of one audience; a rule's limit.
const MAX_MATCHES: usize = 64;

/// The requests that one of several matches holds for.
#[derive(Debug)]
pub struct Audience(Vec<Match>);

impl Audience {
    /// `None` where everybody is meant.
    ///
    /// # Errors
    /// When a match has no meaning, or there are too many.
    pub fn compile(matches: &[api::Match]) -> Result<Option<Self>, RuleError> {
        if matches.len() > MAX_MATCHES {
            return Err(RuleError::TooMany("matches in an audience", MAX_MATCHES));
        }
        if matches.is_empty() {
            return Ok(None);
        }
        Match::compile_all(&[], matches).map(|matches| Some(Self(matches)))
    }

    /// Whether the request is of the audience.
    #[must_use]
    pub fn holds(&self, head: &Head<'_>) -> bool {
        self.0.iter().any(|one| one.holds(head, head.method.as_bytes()))
    }
}

/// A pattern for values that begin with `text`.
#[must_use]
pub fn beginning(text: &str) -> String {
    format!("(?s){}.*", regex::escape(text))
}

/// A pattern for values that end in `text`.
#[must_use]
pub fn ending(text: &str) -> String {
    format!("(?s).*{}", regex::escape(text))
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn header(name: &str, kind: api::text_match::Kind) -> api::Match {
        let value = Some(api::TextMatch { kind: Some(kind) });
        api::Match { headers: vec![api::NamedMatch { name: name.into(), value }], ..Default::default() }
    }

    #[test]
    fn any_match_is_enough_and_all_of_it_must_hold() {
        use api::text_match::Kind::{Exact, Regex};
        let mut both = header("x-beta", Exact("yes".into()));
        both.headers.extend(header("x-country", Exact("de".into())).headers);
        let cookie = header("cookie", Regex("(.*; )?group=b(;.*)?".into()));
        let audience = Audience::compile(&[both, cookie]).unwrap().unwrap();
        let holds = |fields: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, value.parse().unwrap());
            }
            audience.holds(&Head::new("GET", "web", "/", &headers))
        };
        assert!(holds(&[("x-beta", "yes"), ("x-country", "de")]));
        assert!(!holds(&[("x-beta", "yes"), ("x-country", "fr")]));
        assert!(!holds(&[("x-beta", "yes")]));
        assert!(holds(&[("cookie", "a=b"), ("cookie", "group=b")]));
        assert!(!holds(&[("cookie", "group=bb")]));
        assert!(Audience::compile(&[]).unwrap().is_none());
        let ends = |pattern: String, value: &str| {
            let audience = Audience::compile(&[header("x-beta", Regex(pattern))]).unwrap().unwrap();
            let mut headers = HeaderMap::new();
            headers.append("x-beta", value.parse().unwrap());
            audience.holds(&Head::new("GET", "web", "/", &headers))
        };
        assert!(ends(beginning("a.b"), "a.bc") && !ends(beginning("a.b"), "axbc") && !ends(beginning("a.b"), "ca.b"));
        assert!(ends(ending("a.b"), "ca.b") && !ends(ending("a.b"), "a.bc"));
    }
}
