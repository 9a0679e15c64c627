//! How the operator speaks: one subscriber for logs, one way to print an error with its causes.
//!
//! Nothing here decides what is logged; the filter is `RUST_LOG`, `info` where it is not set.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line, for collectors.
    Json,
    /// For people.
    Text,
}

/// The format was neither `json` nor `text`.
#[derive(Debug, thiserror::Error)]
#[error("log format {0:?} is not one of json, text")]
pub struct UnknownFormat(String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            other => Err(UnknownFormat(other.to_owned())),
        }
    }
}

/// Installs the process's subscriber; events go to standard error.
///
/// # Panics
/// When called a second time in one process.
pub fn init(format: Format) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        Format::Json => builder.json().flatten_event(true).init(),
        Format::Text => builder.init(),
    }
}

/// Prints an error and everything that caused it, joined by `: `.
///
/// `%error` alone loses the causes, and a `dyn Error` field loses them in JSON; `error = %Chain(&error)` keeps them in
/// both formats.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(formatter, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot apply weight 25 to route web")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("connection refused")]
    struct Inner;

    #[test]
    fn chain_names_every_cause_once() {
        assert_eq!(Chain(&Outer(Inner)).to_string(), "cannot apply weight 25 to route web: connection refused");
        assert_eq!(Chain(&Inner).to_string(), "connection refused");
    }

    #[test]
    fn an_unknown_format_is_refused_by_name() {
        assert_eq!("json".parse::<Format>().ok(), Some(Format::Json));
        assert_eq!("text".parse::<Format>().ok(), Some(Format::Text));
        let refused = "yaml".parse::<Format>().expect_err("yaml is no format");
        assert_eq!(refused.to_string(), "log format \"yaml\" is not one of json, text");
    }
}
