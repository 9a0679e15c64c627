//! What both halves of the request path do with a decision of `routing::rules`. Decides nothing.

use std::time::Duration;

use http::header::HeaderValue;
use http::{Request, StatusCode, header};
use routing::Route;
use routing::rules::{Answer, Decision, Head};

/// A request as rules see it; the authority is the one that is forwarded.
#[must_use]
pub fn view<B>(request: &Request<B>) -> Head<'_> {
    let host = || request.headers().get(header::HOST).map(HeaderValue::to_str);
    let authority = match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => host().and_then(Result::ok).unwrap_or_default(),
    };
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
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

/// The status of an answer of the proxy's own.
#[must_use]
pub fn status(answer: &Answer) -> StatusCode {
    StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
