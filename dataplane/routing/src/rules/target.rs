//! Where a request goes instead: redirects, which the client follows, and rewrites, which it does not see. Gateway API's
//! HTTPRequestRedirectFilter and HTTPURLRewriteFilter. The query stays as it is.

use http::HeaderValue;
use proxy_api::v1beta1 as api;

use super::matching::{Host, plain_path};
use super::{Head, RuleError};

/// Sends the client elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    scheme: Option<&'static str>,
    hostname: Option<String>,
    port: Option<u16>,
    path: Option<PathEdit>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// What the endpoint is asked instead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Instead of the host.
    pub hostname: Option<String>,
    path: Option<PathEdit>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PathEdit {
    Full(String),
    /// Without a slash at its end.
    Prefix(String),
}

impl Redirect {
    /// As asked for.
    ///
    /// # Errors
    /// When it leads nowhere else.
    pub fn compile(redirect: &api::Redirect) -> Result<Self, RuleError> {
        let scheme = match redirect.scheme.as_str() {
            "" => None,
            "http" => Some("http"),
            "https" => Some("https"),
            _ => return Err(RuleError::Redirect("scheme must be http or https")),
        };
        let status = match redirect.status {
            0 => 302,
            status @ (301 | 302 | 303 | 307 | 308) => status as u16,
            _ => return Err(RuleError::Redirect("status must be 301, 302, 303, 307 or 308")),
        };
        let port = u16::try_from(redirect.port).map_err(|_| RuleError::Redirect("port must be at most 65535"))?;
        let (hostname, path) = (hostname(&redirect.hostname)?, PathEdit::compile(redirect.path.as_ref())?);
        if scheme.is_none() && hostname.is_none() && port == 0 && path.is_none() {
            return Err(RuleError::Redirect("nothing is changed, clients would go in circles"));
        }
        Ok(Self { scheme, hostname, port: (port != 0).then_some(port), path, status })
    }

    /// The value of `Location`; `None` where the request has no path. `prefix` is the one that matched.
    ///
    /// Relative as long as only the path changes: behind something that ends TLS the proxy does not know what the client
    /// asked for. The port follows Gateway API: the scheme's, where one is given, else the one that was asked.
    #[must_use]
    pub fn location(&self, head: &Head<'_>, prefix: &str) -> Option<HeaderValue> {
        let target = edited(self.path.as_ref(), head, prefix)?;
        let only_path = self.scheme.is_none() && self.hostname.is_none() && self.port.is_none();
        // `//host` and, to browsers, `/\host` would lead to another host.
        if only_path && !target[1..].starts_with(['/', '\\']) {
            return HeaderValue::try_from(target).ok();
        }
        let scheme = self.scheme.unwrap_or_else(|| match head.field("x-forwarded-proto").as_deref() {
            Some(b"https") => "https",
            _ => "http",
        });
        let asked = || if self.scheme.is_none() { head.port() } else { None };
        let port = self.port.or_else(asked).filter(|port| !matches!((scheme, port), ("http", 80) | ("https", 443)));
        let host = self.hostname.as_deref().unwrap_or_else(|| head.host());
        let authority = port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        HeaderValue::try_from(format!("{scheme}://{authority}{target}")).ok()
    }

    /// Whether it needs the prefix that matched.
    #[must_use]
    pub fn needs_prefix(&self) -> bool {
        matches!(self.path, Some(PathEdit::Prefix(_)))
    }
}

impl Rewrite {
    /// As asked for.
    ///
    /// # Errors
    /// When the host or path is not valid.
    pub fn compile(rewrite: &api::Rewrite) -> Result<Self, RuleError> {
        Ok(Self { hostname: hostname(&rewrite.hostname)?, path: PathEdit::compile(rewrite.path.as_ref())? })
    }

    /// Path and query for the endpoint, where they change.
    #[must_use]
    pub fn target(&self, head: &Head<'_>, prefix: &str) -> Option<String> {
        self.path.as_ref().and_then(|path| edited(Some(path), head, prefix))
    }

    /// Whether it needs the prefix that matched.
    #[must_use]
    pub fn needs_prefix(&self) -> bool {
        matches!(self.path, Some(PathEdit::Prefix(_)))
    }
}

impl PathEdit {
    fn compile(edit: Option<&api::PathEdit>) -> Result<Option<Self>, RuleError> {
        use api::path_edit::Kind;
        Ok(match edit.and_then(|edit| edit.kind.as_ref()) {
            None => None,
            Some(Kind::Full(path)) => Some(Self::Full(plain_path(path)?.to_owned())),
            Some(Kind::Prefix(prefix)) if prefix.is_empty() => Some(Self::Prefix(String::new())),
            Some(Kind::Prefix(prefix)) => Some(Self::Prefix(plain_path(prefix)?.trim_end_matches('/').to_owned())),
        })
    }
}

/// Path and query after the edit; `None` for `*`, which is no path.
fn edited(edit: Option<&PathEdit>, head: &Head<'_>, prefix: &str) -> Option<String> {
    let path = head.path.starts_with('/').then_some(head.path)?;
    let mut target = match edit {
        None => path.to_owned(),
        Some(PathEdit::Full(full)) => full.clone(),
        Some(PathEdit::Prefix(replacement)) => match path.strip_prefix(prefix) {
            Some("") if replacement.is_empty() => "/".to_owned(),
            Some(rest) => format!("{replacement}{rest}"),
            None => path.to_owned(),
        },
    };
    if let Some(query) = head.query {
        target.push('?');
        target.push_str(query);
    }
    Some(target)
}

fn hostname(hostname: &str) -> Result<Option<String>, RuleError> {
    match Host::compile(hostname)? {
        Host::Any => Ok(None),
        Host::Exact(host) => Ok(Some(host)),
        Host::Suffix(_) => Err(RuleError::Hostname(hostname.to_owned())),
    }
}
