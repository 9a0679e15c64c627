//! What rules see of a request: a view of the head as it was parsed, whichever half of the proxy parsed it. Looking
//! copies nothing; only a field that was sent in several lines is joined.

use std::borrow::Cow;
use std::fmt;

/// The header fields of a request.
pub trait Fields {
    /// Shows every value of the field `name` (lower case), in the order sent.
    fn visit<'f>(&'f self, name: &str, see: &mut dyn FnMut(&'f [u8]));
}

/// One request's head, as the client sent it: before hop-by-hop fields go and before anything is rewritten.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// Upper case, as all methods that are known.
    pub method: &'a str,
    /// `host` or `host:port`: the one that is forwarded, from the target or `:authority`, else from `Host`.
    pub authority: &'a str,
    /// As sent, percent signs and all; `*` for `OPTIONS *`.
    pub path: &'a str,
    /// As sent, without the question mark.
    pub query: Option<&'a str>,
    fields: &'a dyn Fields,
}

impl fmt::Debug for Head<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, authority, path, query, fields: _ } = self;
        write!(out, "{method} {authority} {path} {query:?}")
    }
}

impl<'a> Head<'a> {
    /// `target` is path and query.
    #[must_use]
    pub fn new(method: &'a str, authority: &'a str, target: &'a str, fields: &'a dyn Fields) -> Self {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        Self { method, authority, path, query, fields }
    }

    /// The authority without its port.
    #[must_use]
    pub fn host(&self) -> &'a str {
        self.host_and_port().0
    }

    /// The port of the authority.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.host_and_port().1.parse().ok()
    }

    fn host_and_port(&self) -> (&'a str, &'a str) {
        let authority = self.authority.rsplit('@').next().unwrap_or_default();
        let end = authority.rfind(']').unwrap_or(0);
        match authority[end..].find(':').map(|at| end + at) {
            Some(colon) => (&authority[..colon], &authority[colon + 1..]),
            None => (authority, ""),
        }
    }

    /// The value of the field `name` (lower case). Several lines count as one list (RFC 9110 §5.3), of cookies with
    /// semicolons (RFC 9113 §8.2.3); `host` is the authority.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        if name == "host" {
            return Some(Cow::Borrowed(self.authority.as_bytes()));
        }
        let separator: &[u8] = if name == "cookie" { b"; " } else { b", " };
        let mut found: Option<Cow<'a, [u8]>> = None;
        self.fields.visit(name, &mut |value| match &mut found {
            None => found = Some(Cow::Borrowed(value)),
            Some(before) => {
                let before = before.to_mut();
                before.extend_from_slice(separator);
                before.extend_from_slice(value);
            }
        });
        found
    }

    /// The first value of the query parameter `name`, both as sent, not decoded; empty if it has no `=`.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&'a str> {
        let mut pairs = self.query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// The method that a browser asks by this request if it may send (Fetch §3.2.2, "CORS-preflight request").
    #[must_use]
    pub fn preflight(&self) -> Option<Cow<'a, [u8]>> {
        let asks = self.method == "OPTIONS" && self.field("origin").is_some();
        asks.then(|| self.field("access-control-request-method")).flatten()
    }
}

impl Fields for http::HeaderMap {
    fn visit<'f>(&'f self, name: &str, see: &mut dyn FnMut(&'f [u8])) {
        for value in self.get_all(name) {
            see(value.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn the_host_is_the_authority_without_its_port() {
        let none = HeaderMap::new();
        for (authority, host) in [
            ("web", "web"),
            ("web:80", "web"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            (":80", ""),
            ("u:p@web:80", "web"),
        ] {
            assert_eq!(Head::new("GET", authority, "/", &none).host(), host);
        }
    }

    #[test]
    fn lines_of_one_field_are_one_list() {
        let mut fields = HeaderMap::new();
        for (name, value) in [("x-a", "1"), ("x-a", "2"), ("cookie", "a=1"), ("cookie", "b=2"), ("host", "other")] {
            fields.append(name, value.parse().unwrap());
        }
        let head = Head::new("GET", "web:80", "/", &fields);
        let text = |name: &str| head.field(name).map(|value| String::from_utf8(value.into_owned()).unwrap());
        assert_eq!(text("x-a").as_deref(), Some("1, 2"));
        assert_eq!(text("cookie").as_deref(), Some("a=1; b=2"));
        assert_eq!(text("host").as_deref(), Some("web:80"));
        assert_eq!(text("x-b"), None);
    }

    #[test]
    fn of_a_parameter_the_first_value_counts_as_sent() {
        let none = HeaderMap::new();
        let head = Head::new("GET", "web", "/a?b=1&c&b=2&d=x%2Fy?z", &none);
        assert_eq!((head.path, head.parameter("b"), head.parameter("c")), ("/a", Some("1"), Some("")));
        assert_eq!((head.parameter("d"), head.parameter("e")), (Some("x%2Fy?z"), None));
    }
}
