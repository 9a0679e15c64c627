//! What of a head crosses a proxy (RFC 9110 §7.6), in both directions.

use std::net::IpAddr;

use http::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::Scheme;
use http::{Extensions, Method, Uri, Version};

use crate::error::ProxyError;
use crate::http2::head::Protocol;

/// Meant for the next hop only, whether `Connection` names them or not.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Not dropped although `Connection` names them: without them the message means something else, or comes from elsewhere.
const PROTECTED: [HeaderName; 6] =
    [header::HOST, header::CONTENT_LENGTH, header::AUTHORIZATION, header::COOKIE, FORWARDED_FOR, FORWARDED_PROTO];

/// A client, in the form that endpoints are told.
#[derive(Clone, Debug)]
pub struct Client {
    address: IpAddr,
    value: HeaderValue,
}

impl Client {
    /// At this address.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let value = HeaderValue::try_from(address.to_string()).expect("an address is printable ASCII");
        Self { address, value }
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

/// Makes the client's head fit for an endpoint: origin form, `Host`, hop-by-hop fields gone, the client's address added.
///
/// # Errors
/// When the head must not be passed on.
pub fn request(parts: &mut Parts, client: &Client, to: Version) -> Result<(), ProxyError> {
    if parts.method == Method::CONNECT && !connects(&parts.extensions) {
        return Err(ProxyError::BadRequest);
    }
    if parts.version == Version::HTTP_2 {
        strip_http2(&mut parts.headers);
    } else {
        let trailers = accepts_trailers(&parts.headers);
        strip(&mut parts.headers);
        parts.headers.remove(header::TE);
        if trailers {
            parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }
    if to == Version::HTTP_11 {
        join_cookies(&mut parts.headers);
    }
    authority(parts, to)?;
    parts.version = to;
    match parts.headers.entry(FORWARDED_FOR) {
        Entry::Vacant(none) => drop(none.insert(client.value.clone())),
        Entry::Occupied(mut before) => {
            // Every line: those before us append to the last one, or add one.
            let all: Vec<_> = before.iter().chain([&client.value]).map(HeaderValue::as_bytes).collect();
            let all = HeaderValue::from_bytes(&all.join(&b", "[..]));
            before.insert(all.unwrap_or_else(|_| client.value.clone()));
        }
    }
    parts.headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    Ok(())
}

/// Whether a request is a WebSocket's handshake over HTTP/2 (RFC 8441); no other protocol is passed on.
#[must_use]
pub fn connects(extensions: &Extensions) -> bool {
    extensions.get().is_some_and(|Protocol(protocol)| protocol == "websocket")
}

/// Makes an endpoint's head fit for the client.
pub fn response(headers: &mut HeaderMap, from: Version) {
    if from == Version::HTTP_2 { strip_http2(headers) } else { strip(headers) }
}

fn accepts_trailers(headers: &HeaderMap) -> bool {
    tokens(headers, &header::TE).any(|token| token.eq_ignore_ascii_case("trailers"))
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// What is left to be removed of a head that came over HTTP/2, which refuses the fields of HTTP/1's connections, and any `TE`
/// but `trailers` (RFC 9113 §8.2.2).
fn strip_http2(headers: &mut HeaderMap) {
    headers.remove(header::PROXY_AUTHENTICATE);
    headers.remove(header::PROXY_AUTHORIZATION);
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> =
        tokens(headers, &header::CONNECTION).filter_map(|token| HeaderName::try_from(token).ok()).collect();
    for name in named.iter().filter(|name| !PROTECTED.contains(name)) {
        headers.remove(name);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    headers.remove(PROXY_CONNECTION);
}

/// HTTP/2 may send one cookie per field; HTTP/1.1 has them in one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(header::COOKIE).into_iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// Origin form and `Host` for HTTP/1.1, absolute form (from which `:authority` is taken) for HTTP/2. The authority of
/// the request line wins over `Host` (RFC 9112 §3.2.2).
fn authority(parts: &mut Parts, to: Version) -> Result<(), ProxyError> {
    let mut hosts = parts.headers.get_all(header::HOST).into_iter();
    let host = hosts.next().cloned();
    if hosts.next().is_some() {
        return Err(ProxyError::BadRequest);
    }
    if to == Version::HTTP_2 && parts.uri.scheme() == Some(&Scheme::HTTP) && parts.uri.authority().is_some() {
        // As HTTP/2 has it.
        parts.headers.remove(header::HOST);
        return Ok(());
    }
    let authority = match parts.uri.authority() {
        Some(authority) => HeaderValue::try_from(authority.as_str()).map_err(|_| ProxyError::BadRequest)?,
        None => host.ok_or(ProxyError::BadRequest)?,
    };
    let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    if to == Version::HTTP_2 {
        parts.headers.remove(header::HOST);
        let uri = Uri::builder().scheme("http").authority(authority.as_bytes()).path_and_query(path);
        parts.uri = uri.build().map_err(|_| ProxyError::BadRequest)?;
    } else {
        parts.headers.insert(header::HOST, authority);
        parts.uri = Uri::from(path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn mk(headers: &[(&str, &str)]) -> Parts {
        let mut builder = Request::builder().uri("/a?b").version(Version::HTTP_11);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn forwarded(headers: &[(&str, &str)]) -> Parts {
        let mut parts = mk(headers);
        request(&mut parts, &Client::new("10.1.2.3".parse().unwrap()), Version::HTTP_11).unwrap();
        parts
    }

    #[test]
    fn fields_of_the_hop_do_not_cross_and_the_rest_does() {
        let parts = forwarded(&[
            ("host", "web"),
            ("connection", "close, x-mine, content-length, authorization"),
            ("x-mine", "1"),
            ("x-yours", "2"),
            ("content-length", "3"),
            ("authorization", "secret"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip, trailers"),
            ("upgrade", "h2c"),
            ("proxy-connection", "x"),
        ]);
        let mut names: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["authorization", "content-length", "host", "te", "x-forwarded-for", "x-forwarded-proto", "x-yours"]
        );
        assert_eq!(parts.headers["te"], "trailers");
    }

    #[test]
    fn the_clients_address_is_added_to_those_before_it() {
        assert_eq!(forwarded(&[("host", "web")]).headers["x-forwarded-for"], "10.1.2.3");
        let parts = forwarded(&[("host", "web"), ("x-forwarded-for", "1.1.1.1")]);
        assert_eq!(parts.headers["x-forwarded-for"], "1.1.1.1, 10.1.2.3");
        // HAProxy adds a line of its own; a client cannot have it left out.
        let lines = [("host", "web"), ("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2")];
        let parts = forwarded(&[&lines[..], &[("connection", "x-forwarded-for, x-forwarded-proto")]].concat());
        assert_eq!(parts.headers["x-forwarded-for"], "1.1.1.1, 2.2.2.2, 10.1.2.3");
        assert_eq!(parts.headers.get_all("x-forwarded-for").iter().count(), 1);
    }

    #[test]
    fn the_authority_is_one_and_known() {
        let refused = |headers: &[(&str, &str)]| {
            let mut parts = mk(headers);
            request(&mut parts, &Client::new("10.1.2.3".parse().unwrap()), Version::HTTP_11).is_err()
        };
        assert!(refused(&[]));
        assert!(refused(&[("host", "a"), ("host", "b")]));
        let mut parts = mk(&[("host", "other")]);
        parts.uri = "http://web/x".parse().unwrap();
        request(&mut parts, &Client::new("10.1.2.3".parse().unwrap()), Version::HTTP_11).unwrap();
        assert_eq!((parts.headers["host"].as_bytes(), parts.uri.to_string().as_str()), (&b"web"[..], "/x"));
    }
}
