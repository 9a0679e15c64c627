//! Answers in the proxy's own words, and by a rule.

use http::StatusCode;
use routing::rules::Answer;

use crate::h1::text;

/// Appends the first line of a head.
pub fn status_line(out: &mut Vec<u8>, status: StatusCode) {
    out.extend_from_slice(b"HTTP/1.1 ");
    text::number(out, status.as_u16().into());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends an answer in the proxy's own words.
pub fn own(out: &mut Vec<u8>, status: StatusCode, text: &str, close: bool, head_method: bool) {
    status_line(out, status);
    out.extend_from_slice(b"content-type: text/plain; charset=utf-8\r\ncontent-length: ");
    text::number(out, text.len() as u64 + 1);
    out.extend_from_slice(if close { b"\r\nconnection: close\r\n\r\n" } else { b"\r\n\r\n" });
    if !head_method {
        out.extend_from_slice(text.as_bytes());
        out.push(b'\n');
    }
}

/// Appends the answer that a rule asks for.
pub fn by_rule(out: &mut Vec<u8>, own_answer: &Answer, close: bool, head_method: bool) {
    let status = StatusCode::from_u16(own_answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status == StatusCode::NO_CONTENT {
        out.extend_from_slice(b"HTTP/1.1 204 No Content\r\n");
        fields(out, own_answer);
        out.extend_from_slice(if close { b"connection: close\r\n\r\n" } else { b"\r\n" });
        return;
    }
    // The body last: the fields go before the empty line.
    own(out, status, own_answer.action.text(), close, true);
    out.truncate(out.len() - 2);
    fields(out, own_answer);
    out.extend_from_slice(b"\r\n");
    if !head_method {
        out.extend_from_slice(own_answer.action.text().as_bytes());
        out.push(b'\n');
    }
}

fn fields(out: &mut Vec<u8>, own_answer: &Answer) {
    for (name, value) in &own_answer.fields {
        text::field(out, name.as_str().as_bytes(), value.as_bytes());
    }
}
