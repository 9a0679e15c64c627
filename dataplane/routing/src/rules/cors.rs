//! Who may read answers from a page of another origin (Fetch §3.2; Gateway API's HTTPCORSFilter). Where a rule says so,
//! the proxy says all of it: preflights are answered here, and what endpoints say of `Access-Control` is dropped, so that
//! two policies never mix.

use http::{HeaderName, HeaderValue, header};
use proxy_api::v1beta1 as api;

use super::{Head, RuleError};

/// Entries of each list; Gateway API's limit.
const MAX_ENTRIES: usize = 64;

/// A rule's policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    origins: Vec<Origin>,
    credentials: bool,
    methods: List,
    headers: List,
    expose: List,
    max_age: HeaderValue,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Any,
    Exact(String),
    /// Before and after the `*`.
    Around(String, String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum List {
    /// Nothing is said.
    Empty,
    Any,
    Named(HeaderValue),
}

/// Fields of an answer.
pub type Granted = Vec<(HeaderName, HeaderValue)>;

/// Whether a policy, and not an endpoint, writes the field `name`.
#[must_use]
pub fn owns(name: &str) -> bool {
    const PREFIX: &str = "access-control-";
    name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

impl Cors {
    /// As asked for.
    ///
    /// # Errors
    /// When an origin, method or header is not valid.
    pub fn compile(cors: &api::Cors) -> Result<Self, RuleError> {
        let lists = [&cors.allow_origins, &cors.allow_methods, &cors.allow_headers, &cors.expose_headers];
        if lists.iter().any(|list| list.len() > MAX_ENTRIES) {
            return Err(RuleError::TooMany("entries in a list of cors", MAX_ENTRIES));
        }
        Ok(Self {
            origins: cors.allow_origins.iter().map(|origin| Origin::compile(origin)).collect::<Result<_, _>>()?,
            credentials: cors.allow_credentials,
            methods: List::compile(&cors.allow_methods)?,
            headers: List::compile(&cors.allow_headers)?,
            expose: List::compile(&cors.expose_headers)?,
            max_age: HeaderValue::from(cors.max_age_seconds),
        })
    }

    /// What the answer to a request says, a preflight's less what only that one is asked.
    #[must_use]
    pub fn grant(&self, head: &Head<'_>) -> Granted {
        let mut fields = self.origin(head);
        if let Some(expose) = self.expose.value(None, self.credentials).filter(|_| !fields.is_empty()) {
            fields.push((header::ACCESS_CONTROL_EXPOSE_HEADERS, expose));
        }
        self.vary(&mut fields, "origin");
        fields
    }

    /// What the answer to a preflight says; nothing is allowed to an origin that is not.
    #[must_use]
    pub fn preflight(&self, head: &Head<'_>) -> Granted {
        let mut fields = self.origin(head);
        if !fields.is_empty() {
            let asked = |name: HeaderName| head.field(name.as_str()).and_then(|v| HeaderValue::from_bytes(&v).ok());
            let method = asked(header::ACCESS_CONTROL_REQUEST_METHOD);
            let headers = asked(header::ACCESS_CONTROL_REQUEST_HEADERS);
            let methods = self.methods.value(Some(method), self.credentials);
            fields.extend(methods.map(|value| (header::ACCESS_CONTROL_ALLOW_METHODS, value)));
            let headers = self.headers.value(Some(headers), self.credentials);
            fields.extend(headers.map(|value| (header::ACCESS_CONTROL_ALLOW_HEADERS, value)));
            fields.push((header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone()));
        }
        self.vary(&mut fields, "origin, access-control-request-method, access-control-request-headers");
        fields
    }

    fn origin(&self, head: &Head<'_>) -> Granted {
        let Some(origin) = head.field("origin") else { return Vec::new() };
        if !self.origins.iter().any(|allowed| allowed.holds(&origin)) {
            return Vec::new();
        }
        // With credentials a `*` means nothing to browsers.
        let value =
            if self.for_all() { Some(HeaderValue::from_static("*")) } else { HeaderValue::from_bytes(&origin).ok() };
        let mut fields: Granted = value.map(|value| (header::ACCESS_CONTROL_ALLOW_ORIGIN, value)).into_iter().collect();
        if self.credentials && !fields.is_empty() {
            fields.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        }
        fields
    }

    /// Whether every origin gets the same answer.
    fn for_all(&self) -> bool {
        self.origins.contains(&Origin::Any) && !self.credentials
    }

    /// What caches must tell apart (Fetch §3.2.5).
    fn vary(&self, fields: &mut Granted, on: &'static str) {
        if !self.for_all() {
            fields.push((header::VARY, HeaderValue::from_static(on)));
        }
    }
}

impl Origin {
    fn compile(origin: &str) -> Result<Self, RuleError> {
        if origin == "*" {
            return Ok(Self::Any);
        }
        let invalid = || RuleError::Origin(origin.to_owned());
        let (scheme, rest) = origin.split_once("://").ok_or_else(invalid)?;
        let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.:[]*".contains(&byte);
        if !matches!(scheme, "http" | "https") || rest.is_empty() || !rest.bytes().all(valid) {
            return Err(invalid());
        }
        match origin.split_once('*') {
            None => Ok(Self::Exact(origin.to_owned())),
            Some((before, after))
                if before.ends_with("://")
                    && !after.contains('*')
                    && matches!(after.as_bytes().first(), None | Some(b'.' | b':')) =>
            {
                Ok(Self::Around(before.to_owned(), after.to_owned()))
            }
            Some(_) => Err(invalid()),
        }
    }

    fn holds(&self, origin: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(wanted) => origin == wanted.as_bytes(),
            Self::Around(before, after) => {
                let middle = origin.strip_prefix(before.as_bytes()).and_then(|o| o.strip_suffix(after.as_bytes()));
                let host = |byte: &u8| byte.is_ascii_alphanumeric() || b"-.".contains(byte);
                middle.is_some_and(|middle| !middle.is_empty() && middle.iter().all(host))
            }
        }
    }
}

impl List {
    fn compile(entries: &[String]) -> Result<Self, RuleError> {
        if entries.is_empty() {
            return Ok(Self::Empty);
        }
        if entries.iter().any(|entry| entry == "*") {
            return Ok(Self::Any);
        }
        // Methods are tokens as names of header fields are (RFC 9110 §5.6.2).
        match entries.iter().find(|entry| HeaderName::try_from(entry.as_str()).is_err()) {
            Some(entry) => Err(RuleError::Name(entry.clone())),
            None => HeaderValue::try_from(entries.join(", ")).map(Self::Named).map_err(|_| RuleError::NoValue),
        }
    }

    /// `asked` is what the preflight asks for; none for what is not asked.
    fn value(&self, asked: Option<Option<HeaderValue>>, credentials: bool) -> Option<HeaderValue> {
        match (self, asked) {
            (Self::Empty, _) => None,
            (Self::Named(value), _) => Some(value.clone()),
            (Self::Any, Some(asked)) => asked,
            (Self::Any, None) => (!credentials).then(|| HeaderValue::from_static("*")),
        }
    }
}
