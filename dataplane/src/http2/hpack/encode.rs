//! Writes field blocks: indices of the static table where a field or its name has one, everything else as it is, without a
//! dynamic table and without Huffman codes.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

/// Says that no dynamic table is used, whatever the other end allows (RFC 7541 §6.3); before the first field of a connection.
pub const NO_TABLE: u8 = 0x20;

const AUTHORITY: usize = 1;
const METHOD: usize = 2;
const PATH: usize = 4;
const SCHEME: usize = 6;
const STATUS: usize = 8;
/// Forms of a field: said before, literal, literal and never to be indexed (RFC 7541 §6).
const INDEXED: u8 = 0x80;
const LITERAL: u8 = 0;
const NEVER: u8 = 0x10;

/// Appends `:method`, `:scheme`, `:authority` if there is one, and `:path`.
pub fn request(out: &mut Vec<u8>, method: &Method, scheme: &str, authority: Option<&str>, path: &str) {
    match *method {
        Method::GET => out.push(INDEXED | 2),
        Method::POST => out.push(INDEXED | 3),
        _ => literal(out, METHOD, method.as_str().as_bytes()),
    }
    match scheme {
        "http" => out.push(INDEXED | 6),
        _ => literal(out, SCHEME, scheme.as_bytes()),
    }
    if let Some(authority) = authority {
        literal(out, AUTHORITY, authority.as_bytes());
    }
    match path {
        "/" => out.push(INDEXED | 4),
        _ => literal(out, PATH, path.as_bytes()),
    }
}

/// Appends `:protocol` (RFC 8441 §4).
pub fn protocol(out: &mut Vec<u8>, protocol: &HeaderValue) {
    out.push(LITERAL);
    string(out, b":protocol");
    string(out, protocol.as_bytes());
}

/// Appends `:status`.
pub fn status(out: &mut Vec<u8>, status: StatusCode) {
    match status.as_u16() {
        200 => out.push(INDEXED | 8),
        204 => out.push(INDEXED | 9),
        206 => out.push(INDEXED | 10),
        304 => out.push(INDEXED | 11),
        400 => out.push(INDEXED | 12),
        404 => out.push(INDEXED | 13),
        500 => out.push(INDEXED | 14),
        _ => literal(out, STATUS, status.as_str().as_bytes()),
    }
}

/// Appends `fields`.
pub fn fields(out: &mut Vec<u8>, fields: &HeaderMap) {
    for (name, value) in fields {
        field(out, name, value);
    }
}

fn field(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    let form = if value.is_sensitive() { NEVER } else { LITERAL };
    let name = name.as_str().as_bytes();
    match static_name(name) {
        Some(index) => integer(out, form, 4, index),
        None => {
            out.push(form);
            string(out, name);
        }
    }
    string(out, value.as_bytes());
}

fn literal(out: &mut Vec<u8>, name: usize, value: &[u8]) {
    integer(out, LITERAL, 4, name);
    string(out, value);
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    integer(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

/// An integer with a prefix of so many bits, below `form` (RFC 7541 §5.1).
fn integer(out: &mut Vec<u8>, form: u8, prefix: u32, mut value: usize) {
    let most = (1_usize << prefix) - 1;
    if value < most {
        out.push(form | value as u8);
        return;
    }
    out.push(form | most as u8);
    value -= most;
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Its index in the static table (RFC 7541 Appendix A); of names that are common, so that most are found, or not, by their
/// length.
fn static_name(name: &[u8]) -> Option<usize> {
    Some(match name {
        b"age" => 21,
        b"via" => 60,
        b"date" => 33,
        b"etag" => 34,
        b"vary" => 59,
        b"range" => 50,
        b"accept" => 19,
        b"cookie" => 32,
        b"expect" => 35,
        b"server" => 54,
        b"expires" => 36,
        b"referer" => 51,
        b"location" => 46,
        b"set-cookie" => 55,
        b"user-agent" => 58,
        b"content-type" => 31,
        b"accept-ranges" => 18,
        b"authorization" => 23,
        b"cache-control" => 24,
        b"content-range" => 30,
        b"if-none-match" => 41,
        b"last-modified" => 44,
        b"content-length" => 28,
        b"accept-encoding" => 16,
        b"accept-language" => 17,
        b"content-encoding" => 26,
        b"if-modified-since" => 40,
        b"content-disposition" => 25,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::hpack::decode::Decoder;
    use crate::http2::hpack::field::Field;

    #[test]
    fn what_is_written_is_read_again() {
        let mut out = vec![NO_TABLE];
        request(&mut out, &Method::PUT, "http", Some("web"), "/a?b");
        status(&mut out, StatusCode::IM_A_TEAPOT);
        let mut all = HeaderMap::new();
        for index in 15..=61 {
            let name = Decoder::default();
            let mut block = vec![0x0f, index - 15, 1, b'x'];
            let mut decoder = name;
            decoder
                .decode(&block, |field, _| {
                    if let Field::Header(name, _) = field {
                        all.insert(name.clone(), HeaderValue::from_static("value"));
                    }
                })
                .unwrap();
            block.clear();
        }
        all.insert("x-long", HeaderValue::from_bytes(&[b'y'; 300]).unwrap());
        let mut secret = HeaderValue::from_static("secret");
        secret.set_sensitive(true);
        all.insert("authorization", secret);
        fields(&mut out, &all);
        let (mut read, mut pseudo) = (HeaderMap::new(), Vec::new());
        let take = |field: &Field, _| match field {
            Field::Header(name, value) => drop(read.append(name.clone(), value.clone())),
            field => pseudo.push(format!("{field:?}")),
        };
        Decoder::default().decode(&out, take).unwrap();
        assert_eq!(read, all);
        assert!(read["authorization"].is_sensitive() && !read["x-long"].is_sensitive());
        assert_eq!(pseudo, ["Method(PUT)", "Scheme(\"http\")", "Authority(web)", "Path(/a?b)", "Status(418)"]);
    }
}
