//! Why rules cannot be taken into force.

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
