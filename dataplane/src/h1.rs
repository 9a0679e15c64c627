//! HTTP/1.1 to HTTP/1.1, the common case, on a codec of our own: strict about framing, one task per client connection,
//! heads copied range by range instead of built up as maps.
//!
//! [`request`], [`response`] and [`chunked`] read and write bytes and do no I/O; [`relay`] moves them between sockets, with
//! [`upload`] for a request's body and [`answer`] for what comes back; a body for an endpoint of another version goes through a [`pipe`], and
//! [`client`] asks endpoints for clients of another version. What two parsers could read differently is refused, and what is passed on is
//! written anew (RFC 9112 §11).

pub mod answer;
pub mod chunked;
pub mod client;
pub mod intake;
pub mod pipe;
pub mod relay;
pub mod request;
pub mod response;
pub mod text;
pub mod upload;
