//! What both halves of the request path do with a decision of `routing::rules`, and what the half with `http`'s types does
//! with it. Decides nothing.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Request, Response, StatusCode, Uri};
use routing::Route;
use routing::rules::{Answer, Decision, Head};

use crate::body::ResponseBody;
use crate::error::ProxyError;
use crate::proxy;
use crate::sight::Detail;

/// What rate limits count time from; every worker's.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since a moment that is the same for all workers.
#[must_use]
pub fn now() -> u64 {
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// A request as rules see it; the authority is the one that is forwarded.
#[must_use]
pub fn view<B>(request: &Request<B>) -> Head<'_> {
    let host = || request.headers().get(header::HOST).map(HeaderValue::to_str);
    let authority = match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => host().and_then(Result::ok).unwrap_or_default(),
    };
    let target = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    Head::new(request.method().as_str(), authority, target, request.headers())
}

/// Waits if the request is delayed on purpose; then the answer that it gets from the proxy itself, if any.
pub async fn own_answer(decision: Option<&Decision>) -> Option<&Answer> {
    let decision = decision?;
    if let Some(delay) = decision.delay {
        tokio::time::sleep(delay).await;
    }
    decision.answer.as_ref()
}

/// Longest time that the request may take at the endpoints.
#[must_use]
pub fn request_timeout(route: &Route, decision: Option<&Decision>) -> Option<Duration> {
    match decision {
        None => route.request_timeout,
        Some(decision) => decision.rule.request_timeout.over(route.request_timeout),
    }
}

/// The answer that a rule asks for, which is told of if that is wanted.
#[must_use]
pub fn answer(own: &Answer, detail: Option<Box<Detail>>) -> Response<ResponseBody> {
    let status = StatusCode::from_u16(own.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = proxy::answer(status, own.action.text());
    if status == StatusCode::NO_CONTENT {
        response.headers_mut().remove(header::CONTENT_TYPE);
        *response.body_mut() = ResponseBody::Own(None::<Bytes>);
    }
    for (name, value) in &own.fields {
        response.headers_mut().append(name, value.clone());
    }
    if let (Some(detail), ResponseBody::Own(body)) = (detail, response.body()) {
        detail.answered_by_rule(own.status, own.action.flag(), body.as_ref().map_or(0, Bytes::len));
    }
    response
}

/// Changes a head that is fit for an endpoint otherwise.
///
/// # Errors
/// When the rewritten target is none.
pub fn edit_request(parts: &mut Parts, decision: &Decision) -> Result<(), ProxyError> {
    if decision.target.is_some() || decision.hostname().is_some() {
        rewrite(parts, decision).ok_or(ProxyError::BadRequest)?;
    }
    let edits = &decision.rule.request_headers;
    for name in edits.gone() {
        parts.headers.remove(name);
    }
    append(&mut parts.headers, edits.written());
    Ok(())
}

/// Changes an endpoint's head that is fit for the client otherwise.
pub fn edit_response(headers: &mut HeaderMap, decision: &Decision) {
    let gone: Vec<HeaderName> = headers.keys().filter(|name| decision.drops(name.as_str())).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
    append(headers, decision.written());
}

fn append<'f>(headers: &mut HeaderMap, fields: impl Iterator<Item = (&'f HeaderName, &'f HeaderValue)>) {
    for (name, value) in fields {
        headers.append(name, value.clone());
    }
}

/// The authority is in the target for HTTP/2, in `Host` for HTTP/1.1.
fn rewrite(parts: &mut Parts, decision: &Decision) -> Option<()> {
    let mut uri = parts.uri.clone().into_parts();
    if let Some(target) = &decision.target {
        uri.path_and_query = Some(PathAndQuery::try_from(target.as_str()).ok()?);
    }
    if let Some(host) = decision.hostname() {
        match &mut uri.authority {
            Some(authority) => *authority = Authority::try_from(host).ok()?,
            None => drop(parts.headers.insert(header::HOST, HeaderValue::try_from(host).ok()?)),
        }
    }
    parts.uri = Uri::from_parts(uri).ok()?;
    Some(())
}
