//! Whether a request is a rule's, and which of several rules comes first: Gateway API's HTTPRouteMatch and its
//! precedence. What is compared is the text as sent, byte for byte: nothing is decoded or normalised, so there is one
//! reading of a path, and it is the endpoint's.

use std::cmp::Reverse;

use proxy_api::v1beta1 as api;
use regex::bytes::{Regex, RegexBuilder};

use super::{Head, RuleError};

/// Bytes of one pattern, and of any other text of a match; Gateway API's limit for a header value.
const MAX_TEXT: usize = 4096;
/// Bytes that a compiled pattern may take, and each worker's cache for it. Matching is linear in pattern and text.
const MAX_REGEX: usize = 256 * 1024;
/// Header and query matches of one match; Gateway API's limit.
const MAX_NAMED: usize = 16;

/// One way to be a rule's: all of it must hold.
#[derive(Debug)]
pub struct Match {
    host: Host,
    path: Path,
    method: Option<String>,
    headers: Vec<(String, Text)>,
    query: Vec<(String, Text)>,
}

/// Whose requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// Everybody's.
    Any,
    /// Lower case.
    Exact(String),
    /// `.example.com`, lower case.
    Suffix(String),
}

#[derive(Debug)]
enum Path {
    Any,
    Exact(String),
    /// Without a slash at its end.
    Prefix(String),
    Regex(Regex),
}

#[derive(Debug)]
enum Text {
    Exact(String),
    Regex(Regex),
}

/// Order of precedence, the first one smallest: the more specific host, exact paths, longer prefixes, patterns (where
/// Gateway API leaves the choice), a method, more header matches, more query matches.
pub type Rank = (Reverse<(u8, usize)>, Reverse<(u8, usize)>, Reverse<bool>, Reverse<usize>, Reverse<usize>);

impl Match {
    /// The matches of one rule: each of `matches` on each of `hostnames`.
    ///
    /// # Errors
    /// When one of them has no meaning.
    pub fn compile_all(hostnames: &[String], matches: &[api::Match]) -> Result<Vec<Self>, RuleError> {
        let any_host = [String::new()];
        let any_request = [api::Match::default()];
        let mut compiled = Vec::new();
        for hostname in if hostnames.is_empty() { &any_host[..] } else { hostnames } {
            for one in if matches.is_empty() { &any_request[..] } else { matches } {
                compiled.push(Self::compile(hostname, one)?);
            }
        }
        Ok(compiled)
    }

    fn compile(hostname: &str, api: &api::Match) -> Result<Self, RuleError> {
        if api.headers.len() > MAX_NAMED || api.query.len() > MAX_NAMED {
            return Err(RuleError::TooMany("header or query matches", MAX_NAMED));
        }
        let headers = api.headers.iter().map(|one| {
            let name = http::HeaderName::try_from(&one.name).map_err(|_| RuleError::Name(one.name.clone()))?;
            Ok((name.as_str().to_owned(), Text::compile(one.value.as_ref())?))
        });
        let query = api.query.iter().map(|one| match one.name.is_empty() {
            true => Err(RuleError::Name(String::new())),
            false => Ok((one.name.clone(), Text::compile(one.value.as_ref())?)),
        });
        Ok(Self {
            host: Host::compile(hostname)?,
            path: Path::compile(api.path.as_ref())?,
            method: method(&api.method)?,
            headers: headers.collect::<Result<_, _>>()?,
            query: query.collect::<Result<_, _>>()?,
        })
    }

    /// Its place among all matches of a route; equal ones go by the order of their rules.
    #[must_use]
    pub fn rank(&self) -> Rank {
        let host = match &self.host {
            Host::Exact(host) => (2, host.len()),
            Host::Suffix(suffix) => (1, suffix.len()),
            Host::Any => (0, 0),
        };
        let path = match &self.path {
            Path::Exact(path) => (3, path.len()),
            Path::Prefix(prefix) => (2, prefix.len()),
            Path::Regex(_) => (1, 0),
            Path::Any => (0, 0),
        };
        let (headers, query) = (Reverse(self.headers.len()), Reverse(self.query.len()));
        (Reverse(host), Reverse(path), Reverse(self.method.is_some()), headers, query)
    }

    /// Whether `head` is such a request. With `method` it is asked as if it had that one: a preflight speaks for the
    /// request that it announces.
    #[must_use]
    pub fn holds(&self, head: &Head<'_>, method: &[u8]) -> bool {
        self.method.as_ref().is_none_or(|wanted| wanted.as_bytes() == method)
            && self.path.holds(head.path)
            && self.host.holds(head.host())
            && self.headers.iter().all(|(name, text)| head.field(name).is_some_and(|value| text.holds(&value)))
            && self
                .query
                .iter()
                .all(|(name, text)| head.parameter(name).is_some_and(|value| text.holds(value.as_bytes())))
    }

    /// The prefix of paths that it is for, without a slash at its end.
    #[must_use]
    pub fn prefix(&self) -> Option<&str> {
        match &self.path {
            Path::Prefix(prefix) => Some(prefix),
            Path::Any => Some(""),
            Path::Exact(_) | Path::Regex(_) => None,
        }
    }
}

impl Host {
    /// Empty: any.
    ///
    /// # Errors
    /// When it is no hostname, nor one behind `*.`.
    pub fn compile(hostname: &str) -> Result<Self, RuleError> {
        let (suffix, name) = match hostname.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, hostname),
        };
        if hostname.is_empty() {
            return Ok(Self::Any);
        }
        let label = |label: &str| {
            !label.is_empty() && label.len() <= 63 && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if name.len() > 253 || !name.split('.').all(label) {
            return Err(RuleError::Hostname(hostname.to_owned()));
        }
        let name = name.to_ascii_lowercase();
        Ok(if suffix { Self::Suffix(format!(".{name}")) } else { Self::Exact(name) })
    }

    fn holds(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(wanted) => host.eq_ignore_ascii_case(wanted),
            Self::Suffix(suffix) => {
                let start = host.len().checked_sub(suffix.len()).filter(|start| *start > 0);
                start.and_then(|start| host.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            }
        }
    }
}

impl Path {
    fn compile(path: Option<&api::TextMatch>) -> Result<Self, RuleError> {
        use api::text_match::Kind;
        match path.and_then(|path| path.kind.as_ref()) {
            None => Ok(Self::Any),
            Some(Kind::Exact(exact)) => plain_path(exact).map(|exact| Self::Exact(exact.to_owned())),
            Some(Kind::Prefix(prefix)) => match plain_path(prefix)?.strip_suffix('/').unwrap_or(prefix) {
                "" => Ok(Self::Any),
                prefix => Ok(Self::Prefix(prefix.to_owned())),
            },
            Some(Kind::Regex(pattern)) => regex(pattern).map(Self::Regex),
        }
    }

    fn holds(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(wanted) => path == wanted,
            Self::Prefix(prefix) => {
                path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Regex(regex) => regex.is_match(path.as_bytes()),
        }
    }
}

impl Text {
    fn compile(text: Option<&api::TextMatch>) -> Result<Self, RuleError> {
        use api::text_match::Kind;
        match text.and_then(|text| text.kind.as_ref()) {
            Some(Kind::Exact(exact)) if exact.len() <= MAX_TEXT => Ok(Self::Exact(exact.clone())),
            Some(Kind::Exact(_)) => Err(RuleError::TooLong(MAX_TEXT)),
            Some(Kind::Regex(pattern)) => regex(pattern).map(Self::Regex),
            Some(Kind::Prefix(_)) | None => Err(RuleError::NoValue),
        }
    }

    fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(wanted) => value == wanted.as_bytes(),
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

/// A path that is what it says: what the HTTPPathMatch of Gateway API allows for exact ones and prefixes.
///
/// # Errors
/// When it could be read in two ways.
pub fn plain_path(path: &str) -> Result<&str, RuleError> {
    let lower = path.to_ascii_lowercase();
    let doubtful = ["//", "/./", "/../", "%2f", "#", "?"].iter().any(|part| lower.contains(part))
        || lower.ends_with("/.")
        || lower.ends_with("/..");
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/".contains(&byte);
    match path.starts_with('/') && path.len() <= MAX_TEXT && !doubtful && path.bytes().all(valid) {
        true => Ok(path),
        false => Err(RuleError::Path(path.to_owned())),
    }
}

/// Those of Gateway API less CONNECT, which is not served.
fn method(method: &str) -> Result<Option<String>, RuleError> {
    match method {
        "" => Ok(None),
        "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "OPTIONS" | "TRACE" | "PATCH" => Ok(Some(method.to_owned())),
        _ => Err(RuleError::Method(method.to_owned())),
    }
}

/// Of the whole text, as Envoy and with it most implementations of Gateway API have it, and with RE2's ASCII classes.
fn regex(pattern: &str) -> Result<Regex, RuleError> {
    if pattern.len() > MAX_TEXT {
        return Err(RuleError::TooLong(MAX_TEXT));
    }
    let build = |pattern: &str| {
        let mut builder = RegexBuilder::new(pattern);
        builder.unicode(false).size_limit(MAX_REGEX).dfa_size_limit(MAX_REGEX);
        builder.build().map_err(|error| RuleError::Regex(pattern.to_owned(), error.to_string()))
    };
    // Alone first: `a)|(b` would break out of the anchors.
    build(pattern)?;
    build(&format!("^(?:{pattern})$"))
}
