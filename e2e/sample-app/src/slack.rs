//! Stands in for Slack: takes what is posted to an incoming webhook, and can hang or refuse.
//!
//! `POST` to any path is a message; `GET /messages` returns all of them as a JSON array.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::server::{self, Server};

/// Messages kept; older ones are forgotten.
const KEPT: usize = 1_000;

/// How a message is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// As Slack does: `200 ok`.
    #[default]
    Take,
    /// With this status; the message is recorded all the same.
    Refuse(StatusCode),
    /// Never; the message is recorded all the same.
    Hang,
}

/// A message as it arrived.
#[derive(Clone, Debug)]
pub struct Message {
    /// When it had arrived completely.
    pub received: Instant,
    /// The path it was posted to; stories tell their messages apart by it.
    pub path: String,
    /// The JSON; a string where it was none.
    pub body: Value,
}

impl Message {
    /// As [`text`].
    #[must_use]
    pub fn text(&self) -> String {
        text(&self.body)
    }
}

#[derive(Debug, Default)]
struct State {
    messages: Mutex<Vec<Message>>,
    behaviour: Mutex<Behaviour>,
}

/// The running stand-in.
#[derive(Debug)]
pub struct Receiver {
    state: Arc<State>,
    server: Server,
}

impl Receiver {
    /// Starts it.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn serve(listener: TcpListener) -> Result<Self> {
        let state = Arc::new(State::default());
        let shared = state.clone();
        let server = Server::start(listener, move |request| handle(shared.clone(), request))?;
        Ok(Self { state, server })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Changes how the next messages are answered.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.state.behaviour.lock().unwrap_or_else(PoisonError::into_inner) = behaviour;
    }

    /// What has arrived so far, oldest first.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        self.state.messages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn handle(state: Arc<State>, request: Request<Bytes>) -> Response<Full<Bytes>> {
    if request.method() == Method::GET {
        let messages = state.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let bodies: Vec<&Value> = messages.iter().map(|message| &message.body).collect();
        return server::json(StatusCode::OK, serde_json::to_vec(&bodies).unwrap_or_default());
    }
    let body = serde_json::from_slice(request.body())
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(request.body()).into_owned()));
    {
        let mut messages = state.messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages.push(Message { received: Instant::now(), path: request.uri().path().to_owned(), body });
        if messages.len() > KEPT {
            messages.remove(0);
        }
    }
    let behaviour = *state.behaviour.lock().unwrap_or_else(PoisonError::into_inner);
    match behaviour {
        Behaviour::Take => server::typed(StatusCode::OK, "text/plain", "ok"),
        Behaviour::Refuse(status) => server::typed(status, "text/plain", "no"),
        Behaviour::Hang => std::future::pending().await,
    }
}

/// Every text in the body of a message, one a line, as a reader would see it.
#[must_use]
pub fn text(body: &Value) -> String {
    let mut lines = Vec::new();
    collect(body, &mut lines);
    lines.join("\n")
}

/// Slack shows `text`, `title`, `pretext` and `value`, wherever they stand; a level's own texts come before inner ones.
fn collect(value: &Value, lines: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let own = |key: &str| map.get(key).and_then(Value::as_str).map(str::to_owned);
            lines.extend(["pretext", "text"].into_iter().filter_map(own));
            // A field: its title and its value stand in one line.
            let field: Vec<String> = ["title", "value"].into_iter().filter_map(own).collect();
            lines.extend((!field.is_empty()).then(|| field.join(": ")));
            map.values().filter(|inner| !inner.is_string()).for_each(|inner| collect(inner, lines));
        }
        Value::Array(list) => list.iter().for_each(|inner| collect(inner, lines)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_is_recorded_with_its_path_even_when_it_is_refused() {
        let receiver = Receiver::serve(TcpListener::bind("127.0.0.1:0").await.unwrap()).unwrap();
        receiver.behave(Behaviour::Refuse(StatusCode::TOO_MANY_REQUESTS));
        let body =
            Bytes::from(r#"{"attachments":[{"title":"web.shop","fields":[{"title":"Reason","value":"5 % errors"}]}]}"#);
        let request = Request::post("/services/a").body(body).unwrap();
        assert_eq!(handle(receiver.state.clone(), request).await.status(), 429);
        let message = receiver.messages().pop().unwrap();
        assert_eq!(message.path, "/services/a");
        for part in ["web.shop", "Reason", "5 % errors"] {
            assert!(message.text().contains(part), "{}", message.text());
        }
    }
}
