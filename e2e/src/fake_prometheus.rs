//! A metric server that answers what it is told to, right or wrong.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use bytes::Bytes;
use http::StatusCode;
use tokio::net::TcpListener;

use crate::server::{self, Server};

/// An answer to every query.
#[derive(Clone, Debug)]
pub enum Answer {
    /// One series with this value, as text: `99.5`, `NaN`, `+Inf`.
    Value(&'static str),
    /// No series.
    Nothing,
    /// Two series.
    Several,
    /// A result of type `string`.
    Text,
    /// A web page.
    Html,
    /// One series whose label has so many bytes.
    Large(usize),
    /// An error of the server, with status 500.
    Error,
    /// No answer at all.
    Hang,
}

/// The running server.
#[derive(Debug)]
pub struct FakePrometheus {
    answer: Arc<Mutex<Answer>>,
    server: Server,
}

impl FakePrometheus {
    /// Starts it.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn serve(listener: TcpListener, answer: Answer) -> Result<Self> {
        let answer = Arc::new(Mutex::new(answer));
        let shared = answer.clone();
        let server = Server::start(listener, move |_| {
            let answer = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
            async move {
                match answer {
                    Answer::Html => server::typed(StatusCode::OK, "text/html", "<html><body>Sign in</body></html>"),
                    Answer::Error => server::json(StatusCode::INTERNAL_SERVER_ERROR, body(&answer)),
                    Answer::Hang => std::future::pending().await,
                    Answer::Value(_) | Answer::Nothing | Answer::Several | Answer::Text | Answer::Large(_) => {
                        server::json(StatusCode::OK, body(&answer))
                    }
                }
            }
        })?;
        Ok(Self { answer, server })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Changes the answer.
    pub fn answer(&self, answer: Answer) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }
}

fn body(answer: &Answer) -> Bytes {
    let vector =
        |series: &str| format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{series}]}}}}"#);
    // Dated now: the operator refuses an old answer, whatever else it holds.
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
    let series = |label: &str, value: &str| format!(r#"{{"metric":{{"pod":"{label}"}},"value":[{now},"{value}"]}}"#);
    let text = match answer {
        Answer::Value(value) => vector(&series("a", value)),
        Answer::Nothing => vector(""),
        Answer::Several => vector(&format!("{},{}", series("a", "1"), series("b", "2"))),
        Answer::Text => {
            format!(r#"{{"status":"success","data":{{"resultType":"string","result":[{now},"fine"]}}}}"#)
        }
        Answer::Large(bytes) => vector(&series(&"x".repeat(*bytes), "100")),
        Answer::Error => r#"{"status":"error","errorType":"internal","error":"out of memory"}"#.to_owned(),
        Answer::Html | Answer::Hang => String::new(),
    };
    Bytes::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_body_with_data_is_json() {
        let answers =
            [Answer::Value("NaN"), Answer::Nothing, Answer::Several, Answer::Text, Answer::Large(5), Answer::Error];
        for answer in answers {
            assert!(serde_json::from_slice::<serde_json::Value>(&body(&answer)).is_ok(), "{answer:?}");
        }
        assert!(body(&Answer::Large(5 << 20)).len() > 5 << 20);
    }
}
