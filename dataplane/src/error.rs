//! Why the proxy answers itself, and the one place where that becomes a status.

use std::error::Error;

use http::StatusCode;
use routing::Flag;

/// A request that no endpoint answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Neither arm has an endpoint that can be reached.
    #[error("no endpoint can be reached")]
    NoEndpoint,
    /// The arm's limits of connections or requests are reached.
    #[error("too many requests are under way")]
    Overflow,
    /// The endpoint closed or reset the connection before its answer.
    #[error("endpoint closed the connection before it answered")]
    Reset,
    /// The endpoint's answer is not HTTP.
    #[error("endpoint sent an invalid answer")]
    BadAnswer,
    /// The route's request timeout is over.
    #[error("request timed out")]
    Timeout,
    /// The client's request broke off.
    #[error("client closed the connection within its request")]
    ClientGone,
    /// The client's request came too slowly.
    #[error("request body took too long")]
    TooSlow,
    /// The client asks for what a proxy must not pass on.
    #[error("request is not valid")]
    BadRequest,
    /// The endpoint takes no extended CONNECT (RFC 8441).
    #[error("endpoint does not take WebSockets over HTTP/2")]
    NotSpoken,
}

/// The `T` that is behind `error`, if there is one among it and its causes.
#[must_use]
pub fn behind<T: Error + Copy + 'static>(error: &(dyn Error + 'static)) -> Option<T> {
    std::iter::successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref().copied())
}

impl ProxyError {
    /// The status that the client gets.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::NoEndpoint | Self::Overflow => StatusCode::SERVICE_UNAVAILABLE,
            Self::Reset | Self::BadAnswer => StatusCode::BAD_GATEWAY,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::ClientGone | Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::NotSpoken => StatusCode::NOT_IMPLEMENTED,
        }
    }

    /// The reason as a response flag; `None` where a more exact one is set when it happens.
    #[must_use]
    pub fn flag(self) -> Option<Flag> {
        match self {
            Self::NoEndpoint => None,
            Self::Overflow => Some(Flag::UpstreamOverflow),
            Self::Reset => Some(Flag::UpstreamConnectionTermination),
            Self::BadAnswer | Self::NotSpoken => Some(Flag::UpstreamProtocolError),
            Self::Timeout => Some(Flag::UpstreamRequestTimeout),
            Self::ClientGone => Some(Flag::DownstreamConnectionTermination),
            Self::TooSlow => Some(Flag::StreamIdleTimeout),
            Self::BadRequest => Some(Flag::DownstreamProtocolError),
        }
    }
}
