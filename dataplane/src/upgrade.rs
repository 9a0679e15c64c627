//! WebSockets between versions of HTTP: a handshake is GET with `Upgrade` and is answered 101 in HTTP/1.1 (RFC 6455 §4), an
//! extended CONNECT that is answered 200 in HTTP/2 (RFC 8441 §5). Here one becomes the other; what follows is in [`tunnel`].
//!
//! [`tunnel`]: crate::tunnel

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Extensions, Method, Response, StatusCode};
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

use crate::body::Incoming;
use crate::error::ProxyError;
use crate::forward;
use crate::http2::head::Protocol;
use crate::tunnel::Tunnel;
use crate::upstream::Version;

/// What makes an answer that of one who knows WebSockets (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// Of a handshake over HTTP/1.1: the `Sec-WebSocket-Accept` that its client waits for. Among the request's extensions.
#[derive(Clone, Debug)]
pub struct Handshake(HeaderValue);

impl Handshake {
    /// Of a head that asks to switch to WebSocket; `None` if it has no key, and is none.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        headers.get(header::SEC_WEBSOCKET_KEY).map(|key| Self(accept(key.as_bytes())))
    }

    /// An endpoint has accepted it over HTTP/2: `response` becomes what the client waits for.
    pub fn accepted(self, response: &mut Response<Incoming>) {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, WEBSOCKET);
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.0);
    }
}

/// Whether a request is the handshake of a WebSocket, over either version; no other protocol is passed on.
#[must_use]
pub fn asked(extensions: &Extensions) -> bool {
    forward::connects(extensions) || extensions.get::<Handshake>().is_some()
}

/// The `Sec-WebSocket-Accept` that an endpoint has to answer with.
#[derive(Debug)]
pub struct Accept(HeaderValue);

/// Makes a handshake one of the version that the endpoint speaks. For HTTP/1.1 its body is none: it is to be held back until the
/// endpoint has accepted.
pub fn translate(parts: &mut Parts, to: Version, random: impl FnMut() -> u64) -> Option<Accept> {
    match to {
        Version::Http1 if forward::connects(&parts.extensions) => {
            let key = key(random);
            parts.method = Method::GET;
            parts.extensions.remove::<Protocol>();
            for (name, value) in [
                (header::CONNECTION, HeaderValue::from_static("upgrade")),
                (header::UPGRADE, WEBSOCKET),
                (header::SEC_WEBSOCKET_KEY, key.clone()),
            ] {
                parts.headers.insert(name, value);
            }
            parts.headers.entry(header::SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
            // It has none, whatever it says.
            parts.headers.remove(header::CONTENT_LENGTH);
            Some(Accept(accept(key.as_bytes())))
        }
        Version::Http2 if parts.extensions.remove::<Handshake>().is_some() => {
            parts.method = Method::CONNECT;
            parts.extensions.insert(Protocol(WEBSOCKET));
            parts.headers.remove(header::SEC_WEBSOCKET_KEY);
            None
        }
        Version::Http1 | Version::Http2 => None,
    }
}

impl Accept {
    /// What the client gets of an endpoint's answer: a 101 opens the socket, over which `said` goes, and nothing else may look as
    /// if it did.
    ///
    /// # Errors
    /// When the endpoint accepts something else than it was asked for.
    pub fn answered(self, response: Response<Incoming>, said: Incoming) -> Result<Response<Incoming>, ProxyError> {
        if response.status().is_success() {
            return Err(ProxyError::BadAnswer);
        }
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let headers = response.headers();
        let is = |name, wanted: &[u8]| {
            headers.get(name).is_some_and(|value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(wanted))
        };
        let accepts = headers.get(header::SEC_WEBSOCKET_ACCEPT) == Some(&self.0);
        if !accepts || !is(header::UPGRADE, b"websocket") {
            return Err(ProxyError::BadAnswer);
        }
        let (mut parts, body) = response.into_parts();
        let Incoming::Http1(reply) = body else { return Err(ProxyError::BadAnswer) };
        let (endpoint, ahead) = reply.socket().ok_or(ProxyError::BadAnswer)?;
        parts.status = StatusCode::OK;
        for name in [header::SEC_WEBSOCKET_ACCEPT, header::CONTENT_LENGTH] {
            parts.headers.remove(name);
        }
        Ok(Response::from_parts(parts, Incoming::Tunnel(Box::new(Tunnel::new(endpoint, ahead, said)))))
    }
}

/// What a handshake is asked with: 16 random bytes (RFC 6455 §4.1), which are no secret.
fn key(mut random: impl FnMut() -> u64) -> HeaderValue {
    let bytes = [random().to_ne_bytes(), random().to_ne_bytes()].concat();
    HeaderValue::try_from(STANDARD.encode(bytes)).expect("base64 is printable ASCII")
}

/// What a handshake with `key` is accepted with (RFC 6455 §4.2.2).
#[must_use]
pub fn accept(key: &[u8]) -> HeaderValue {
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key);
    digest.update(GUID);
    HeaderValue::try_from(STANDARD.encode(digest.finish())).expect("base64 is printable ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_accepted_as_in_the_rfc() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let mut numbers = 0..;
        assert_eq!(key(|| numbers.next().unwrap_or_default()).len(), 24);
    }
}
