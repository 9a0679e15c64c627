//! Why a call has no answer, and what the client's errors mean: whom, what and whether it may pass, never a path or a body.

use std::{error::Error as StdError, io, net::IpAddr, time::Duration};

use super::CONNECT_TIMEOUT;
use super::resolver::{RefusedAddress, Unresolved};

/// Why there is no answer. `place` is `host:port`, never a path.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The client could not be set up; terminal.
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
    /// The address is not one that can be called; a person has to change it.
    #[error("the address is not usable: {problem}")]
    Address {
        /// What is wrong with it, and what was expected.
        problem: &'static str,
    },
    /// The name leads to an address that the policy refuses; a person has to change it.
    #[error("{place} leads to {address}, an address that Sluice does not call")]
    Refused {
        /// Whom.
        place: String,
        /// The first refused address.
        address: IpAddr,
    },
    /// No connection; a retry may help.
    #[error("no connection to {place}: {cause}")]
    Connect {
        /// Whom.
        place: String,
        /// Class of the failure.
        cause: String,
        /// For the log.
        #[source]
        source: reqwest::Error,
    },
    /// No complete answer in time; a retry may help.
    #[error("no answer from {place} within {} s", after.as_secs_f64())]
    Deadline {
        /// Whom.
        place: String,
        /// The deadline.
        after: Duration,
    },
    /// The answer is longer than allowed.
    #[error("the answer of {place} is longer than {limit_bytes} bytes")]
    TooLarge {
        /// Whom.
        place: String,
        /// The cap.
        limit_bytes: usize,
    },
    /// The server wants to send us elsewhere.
    #[error("{place} answers with a redirect (status {status}), which Sluice does not follow")]
    Redirect {
        /// Whom.
        place: String,
        /// HTTP status code.
        status: u16,
    },
    /// The connection broke in mid-exchange, or what came was not HTTP; a retry may help.
    #[error("the exchange with {place} broke off")]
    Exchange {
        /// Whom.
        place: String,
        /// For the log.
        #[source]
        source: reqwest::Error,
    },
}

impl OutboundError {
    /// Whether the same call may succeed later without anyone changing anything.
    #[must_use]
    pub const fn passing(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Deadline { .. } | Self::Exchange { .. } => true,
            Self::Client(_)
            | Self::Address { .. }
            | Self::Refused { .. }
            | Self::TooLarge { .. }
            | Self::Redirect { .. } => false,
        }
    }
}

/// What an error of the client means, without the URL that it may hold.
pub(super) fn classify(error: reqwest::Error, place: &str) -> OutboundError {
    let place = place.to_owned();
    let source = error.without_url();
    if let Some(RefusedAddress(address)) = cause(&source) {
        return OutboundError::Refused { place, address: *address };
    }
    if !source.is_connect() {
        return OutboundError::Exchange { place, source };
    }
    let cause = if source.is_timeout() {
        format!("not established within {} s", CONNECT_TIMEOUT.as_secs())
    } else if cause::<Unresolved>(&source).is_some() {
        "the name cannot be resolved".to_owned()
    } else if let Some(error) = cause::<rustls::Error>(&source) {
        tls_class(error).to_owned()
    } else {
        cause::<io::Error>(&source).map_or_else(|| "refused".to_owned(), |error| error.kind().to_string())
    };
    OutboundError::Connect { place, cause, source }
}

fn tls_class(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(_) => "its certificate is not trusted",
        _ => "TLS cannot be established",
    }
}

/// The first error of type `T` in the chain; `io::Error` may hide one inside.
fn cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut link = Some(error);
    while let Some(error) = link {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| cause(inner)) {
            return Some(found);
        }
        link = error.source();
    }
    None
}
