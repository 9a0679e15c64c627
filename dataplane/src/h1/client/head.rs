//! Heads between `http`'s types and the wire. No I/O.

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;

use crate::body::RequestBody;
use crate::h1::request::{Facts, Framing};
use crate::h1::response;
use crate::h1::text::{self, field};

/// Appends a head that is fit for the endpoint, its framing in our own words; what follows from it.
pub(super) fn write(request: &Request<RequestBody>, out: &mut Vec<u8>) -> Facts {
    let (method, headers, framing) = (request.method(), request.headers(), framing(request));
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(request.uri().path_and_query().map_or("/", |target| target.as_str()).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    if let Some(host) = headers.get(header::HOST) {
        field(out, b"host", host.as_bytes());
    }
    for (name, value) in headers {
        if !matches!(*name, header::HOST | header::CONTENT_LENGTH | header::TRANSFER_ENCODING) {
            field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    match framing {
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::Length(length) => content_length(length, out),
        // An empty POST says so, or some servers wait for its body.
        Framing::None if matches!(*method, Method::POST | Method::PUT | Method::PATCH) => content_length(0, out),
        Framing::None => {}
    }
    out.extend_from_slice(b"\r\n");
    Facts {
        head_method: *method == Method::HEAD,
        idempotent: method.is_idempotent(),
        http10: false,
        framing,
        keep_alive: true,
        expects_continue: headers.contains_key(header::EXPECT),
        websocket: headers.contains_key(header::UPGRADE),
    }
}

fn content_length(length: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"content-length: ");
    text::number(out, length);
    out.extend_from_slice(b"\r\n");
}

/// How the endpoint knows the end of the body: by what its client said of it, if it has.
fn framing(request: &Request<RequestBody>) -> Framing {
    let said = request.headers().get(header::CONTENT_LENGTH);
    let said = said.and_then(|length| text::content_length(length.as_bytes()));
    match said.or_else(|| request.body().size_hint().exact()) {
        _ if request.body().is_end_stream() => Framing::None,
        Some(0) => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    }
}

/// The same head in `http`'s types, its length once; `None` if they do not take it.
pub(super) fn translated(head: &response::Head<'_, '_>) -> Option<Response<()>> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).ok()?;
    let headers = response.headers_mut();
    headers.reserve(head.headers.len());
    for field in head.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        match name {
            // RFC 9110 §8.6
            header::CONTENT_LENGTH if matches!(head.status, 100..=199 | 204) => {}
            header::CONTENT_LENGTH => {
                headers.insert(name, text::content_length(field.value)?.into());
            }
            name => drop(headers.append(name, HeaderValue::from_bytes(field.value).ok()?)),
        }
    }
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(request: http::request::Builder, body: RequestBody) -> String {
        let mut out = Vec::new();
        write(&request.body(body).unwrap(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_framing_is_in_our_own_words() {
        let get = || Request::get("/a?b").header("x-y", "1").header("host", "web");
        let post = || Request::post("/").header("host", "web");
        let body = || RequestBody::Whole(Some("hi".into()));
        let rows = [
            (get(), RequestBody::Empty, "GET /a?b HTTP/1.1\r\nhost: web\r\nx-y: 1\r\n\r\n"),
            (post(), RequestBody::Empty, "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 0\r\n\r\n"),
            (post().header("content-length", "2"), body(), "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 2\r\n\r\n"),
            (post(), body(), "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 2\r\n\r\n"),
        ];
        for (request, body, wanted) in rows {
            assert_eq!(written(request, body), wanted);
        }
    }

    #[test]
    fn an_answers_length_is_one_and_where_it_may_be() {
        let of = |head: &str| {
            let (mut room, mut out) = (response::room(), Vec::new());
            let facts = write(&Request::new(RequestBody::Empty), &mut out);
            translated(&response::parse(head.as_bytes(), &mut room, &facts).unwrap()).unwrap()
        };
        let twice = of("HTTP/1.1 200 OK\r\nContent-Length: 03\r\nContent-Length: 3\r\nA: 1\r\nA: 2\r\n\r\n");
        assert_eq!((twice.headers().len(), &twice.headers()["content-length"]), (3, &HeaderValue::from(3)));
        assert!(of("HTTP/1.1 204 No\r\nContent-Length: 3\r\n\r\n").headers().is_empty());
    }
}
