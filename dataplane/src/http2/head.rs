//! Field lists as they come, and the heads that are made of them (RFC 9113 §8.1 to §8.3). What must not be passed on is
//! malformed; what is too large is not kept, and said to be. Pure.

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request, Response, StatusCode, Version};

use super::hpack::field::Field;
use crate::h1::text;

/// First room for fields: a small request's, and those that the proxy adds.
const ROOM: usize = 12;

/// A field list that must not be passed on (§8.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Of a request with `CONNECT` and a path: what its stream is to become (RFC 8441). Among the request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol(pub HeaderValue);

/// A field list while it is read.
#[derive(Debug)]
pub struct Fields {
    /// Bytes that may be kept, as §6.5.2 counts them.
    left: usize,
    too_large: bool,
    malformed: bool,
    method: Option<Method>,
    scheme: Option<Scheme>,
    authority: Option<Authority>,
    path: Option<PathAndQuery>,
    protocol: Option<HeaderValue>,
    status: Option<StatusCode>,
    headers: HeaderMap,
}

impl Fields {
    /// None yet, of `most` bytes.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            left: most,
            too_large: false,
            malformed: false,
            method: None,
            scheme: None,
            authority: None,
            path: None,
            protocol: None,
            status: None,
            headers: HeaderMap::with_capacity(ROOM),
        }
    }

    /// One more, which counts `size`.
    pub fn add(&mut self, field: &Field, size: usize) {
        let Some(left) = self.left.checked_sub(size).filter(|_| !self.too_large) else {
            self.too_large = true;
            return;
        };
        self.left = left;
        let fresh = match field {
            Field::Header(name, value) => {
                self.too_large |= self.headers.try_append(name.clone(), value.clone()).is_err();
                return;
            }
            Field::Method(method) => self.method.replace(method.clone()).is_none(),
            Field::Scheme(scheme) => self.scheme.replace(scheme.clone()).is_none(),
            Field::Authority(authority) => self.authority.replace(authority.clone()).is_none(),
            Field::Path(path) => self.path.replace(path.clone()).is_none(),
            Field::Protocol(protocol) => self.protocol.replace(protocol.clone()).is_none(),
            Field::Status(status) => self.status.replace(*status).is_none(),
            Field::Malformed => false,
        };
        // Those with a colon come once, and before the others (§8.3).
        self.malformed |= !fresh || !self.headers.is_empty();
    }

    /// Whether there were more than may be kept.
    #[must_use]
    pub fn too_large(&self) -> bool {
        self.too_large
    }

    /// The head of a request.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn request(self) -> Result<Request<()>, Malformed> {
        if self.malformed || self.status.is_some() {
            return Err(Malformed);
        }
        let method = self.method.ok_or(Malformed)?;
        let mut uri = http::uri::Parts::default();
        let connects = method == Method::CONNECT;
        if connects && self.protocol.is_none() {
            // §8.5
            if self.scheme.is_some() || self.path.is_some() {
                return Err(Malformed);
            }
            uri.authority = Some(self.authority.ok_or(Malformed)?);
        } else {
            // RFC 8441 §4
            if self.protocol.is_some() && (!connects || self.authority.is_none()) {
                return Err(Malformed);
            }
            let (scheme, path) = (self.scheme.ok_or(Malformed)?, self.path.ok_or(Malformed)?);
            // RFC 9113 §8.3.1
            if path == "*" && method != Method::OPTIONS {
                return Err(Malformed);
            }
            uri.path_and_query = Some(path);
            if let Some(authority) = self.authority {
                (uri.scheme, uri.authority) = (Some(scheme), Some(authority));
            }
        }
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from_parts(uri).map_err(|_| Malformed)?;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers;
        if let Some(protocol) = self.protocol {
            request.extensions_mut().insert(Protocol(protocol));
        }
        Ok(request)
    }

    /// The head of an answer.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn response(self) -> Result<Response<()>, Malformed> {
        if self.malformed || self.asks() {
            return Err(Malformed);
        }
        let status = self.status.ok_or(Malformed)?;
        // §8.6
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Malformed);
        }
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.version_mut() = Version::HTTP_2;
        *response.headers_mut() = self.headers;
        Ok(response)
    }

    /// What follows a body.
    ///
    /// # Errors
    /// When it is malformed: a field with a colon has no place in it (§8.1).
    pub fn trailers(self) -> Result<HeaderMap, Malformed> {
        if self.malformed || self.asks() || self.status.is_some() { Err(Malformed) } else { Ok(self.headers) }
    }

    /// Whether there is a field that only requests have.
    fn asks(&self) -> bool {
        self.method.is_some()
            || self.scheme.is_some()
            || self.authority.is_some()
            || self.path.is_some()
            || self.protocol.is_some()
    }
}

/// Length that a head says its body has.
///
/// # Errors
/// When it is not one number (RFC 9110 §8.6).
pub fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).into_iter();
    let Some(length) = lengths.next() else { return Ok(None) };
    if lengths.next().is_some() {
        return Err(Malformed);
    }
    text::content_length(length.as_bytes()).map(Some).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::hpack::field::Name;

    fn mk(fields: &[(&str, &str)]) -> Fields {
        let mut list = Fields::new(1000);
        for (name, value) in fields {
            list.add(&Field::parse(&Name::parse(name.as_bytes()), value.as_bytes()), 32);
        }
        list
    }

    const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/x"), (":authority", "web")];

    #[test]
    fn a_request_has_what_it_needs_once_and_first() {
        let request = mk(&GET).request().unwrap();
        assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::GET, "http://web/x"));
        assert_eq!(mk(&GET[..3]).request().unwrap().uri(), "/x");
        let asterisk = (":path", "*");
        assert_eq!(mk(&[(":method", "OPTIONS"), GET[1], asterisk]).request().unwrap().uri(), "*");
        let malformed: [&[(&str, &str)]; 7] = [
            &[GET[0], GET[1], asterisk],
            &GET[1..],
            &[GET[0], GET[1], GET[3]],
            &[GET[0], GET[2]],
            &[GET[0], GET[0], GET[1], GET[2]],
            &[GET[0], GET[1], ("x", "y"), GET[2]],
            &[GET[0], GET[1], GET[2], (":status", "200")],
        ];
        for fields in malformed {
            assert!(mk(fields).request().is_err(), "{fields:?}");
        }
        assert!(mk(&[(":method", "CONNECT"), (":authority", "web:80")]).request().is_ok());
        assert!(mk(&[(":method", "CONNECT"), GET[1], GET[2], GET[3]]).request().is_err());
    }

    #[test]
    fn an_extended_connect_says_all_that_a_request_does() {
        let connect = [(":method", "CONNECT"), (":protocol", "websocket"), GET[1], GET[2], GET[3]];
        let request = mk(&connect).request().unwrap();
        assert_eq!(request.uri(), "http://web/x");
        assert_eq!(request.extensions().get(), Some(&Protocol(HeaderValue::from_static("websocket"))));
        for without in [0, 2, 3, 4] {
            let fields: Vec<_> = connect.iter().enumerate().filter(|(i, _)| *i != without).map(|(_, f)| *f).collect();
            assert!(mk(&fields).request().is_err(), "{fields:?}");
        }
        assert!(mk(&[GET[0], connect[1], GET[1], GET[2], GET[3]]).request().is_err(), "not with GET");
        assert!(mk(&[(":status", "200"), connect[1]]).response().is_err());
        assert!(mk(&[connect[1]]).trailers().is_err());
    }

    #[test]
    fn answers_and_trailers_have_nothing_of_a_request() {
        assert_eq!(mk(&[(":status", "204"), ("x", "y")]).response().unwrap().status(), 204);
        assert!(mk(&[(":status", "101")]).response().is_err());
        assert!(mk(&[("x", "y")]).response().is_err());
        assert!(mk(&[(":status", "200"), GET[2]]).response().is_err());
        assert_eq!(mk(&[("x", "y"), ("x", "z")]).trailers().unwrap().len(), 2);
        assert!(mk(&[(":status", "200")]).trailers().is_err());
    }

    #[test]
    fn what_is_too_large_is_not_kept() {
        let mut list = mk(&GET);
        for _ in 0..10 {
            list.add(&Field::Header(header::AGE, http::HeaderValue::from_static("1")), 400);
        }
        assert!(list.too_large());
        assert_eq!(list.headers.len(), 2);
    }

    #[test]
    fn a_length_is_one_number() {
        let length = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_LENGTH, http::HeaderValue::from_static(value));
            }
            content_length(&headers)
        };
        assert_eq!(length(&[]), Ok(None));
        assert_eq!(length(&["018446744073709551615"]), Ok(Some(u64::MAX)));
        for values in [&["1", "1"][..], &[""], &["+1"], &["-1"], &["1,1"], &["18446744073709551616"]] {
            assert_eq!(length(values), Err(Malformed), "{values:?}");
        }
    }
}
