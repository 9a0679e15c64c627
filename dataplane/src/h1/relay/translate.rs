//! A request whose endpoints speak HTTP/2: read and answered here, in HTTP/1, and served by `proxy` as every request of HTTP/2 is.
//! Head and body are judged as strictly as those that are relayed. A WebSocket's handshake is served likewise; once it is accepted,
//! bytes go both ways as the bodies of its stream.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::{Body as _, Frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::attempt::alongside;
use super::{Connection, LINGER_BYTES, Next};
use crate::body::{BodyError, Incoming, ResponseBody};
use crate::error::ProxyError;
use crate::forward::Client;
use crate::h1::pipe::{Feed, Untaken, pipe};
use crate::h1::request::{self, Facts, Framing as Coming, Reject};
use crate::h1::response::Framing;
use crate::h1::upload::Upload;
use crate::h1::{answer, chunked, text};
use crate::interim::Interims;
use crate::proxy;
use crate::record::cut;
use crate::upgrade::Handshake;
use crate::watch::Watch;
use crate::worker::Phase;

/// Bytes that are collected before they are sent, while there are more at hand.
const PIECE: usize = 64 * 1024;
/// Bytes of one read of a socket that is open.
const SOCKET_ROOM: usize = 16 * 1024;

impl Connection<'_> {
    /// Has the request served whose head is the first `length` bytes of the buffer.
    pub(super) async fn translate(&mut self, length: usize) -> Result<Next, Reject> {
        let (facts, request) = self.request(length)?;
        self.buffer.advance(length);
        self.watch.busy();
        self.answered.set(false);
        let handshake = request.extensions().get::<Handshake>().is_some();
        // What a socket says once it is open has no length.
        let (feed, body) = pipe(if handshake { Coming::Chunked } else { facts.framing });
        let request = request.map(|()| Incoming::Piped(body));
        let (client, interims) = (Client::new(self.source), Interims::of(&request));
        let mut upload = Upload::new(facts.framing, None);
        let uploaded = Cell::new(upload.done());
        let (worker, slot, answered) = (self.worker, self.slot, &self.answered);
        let (mut from, to) = self.stream.split();
        let mut answering = Answering { to, watch: self.watch, out: std::mem::take(&mut self.scratch), facts };
        let served = {
            let mut respond = pin!(Some(async {
                let handled = pin!(proxy::handle(worker, slot, &client, request, &interims));
                let response = answering.hear(handled, &interims).await?;
                answered.set(true);
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    return answering.switch(response).await.map(Passed::Switched);
                }
                if handshake {
                    feed.end(None);
                }
                let close = !facts.keep_alive || worker.current_phase() >= Phase::Draining;
                answering.pass(response, close).await
            }));
            let pump = pin!(upload.feed(&mut from, &mut self.buffer, &feed, self.watch));
            let served =
                alongside(pump, respond.as_mut().as_pin_mut().expect("it is dropped after this"), &uploaded).await;
            if let Some(flag) = served.as_ref().err().and_then(|error| error.flag()) {
                cut(flag, || respond.set(None));
            }
            served
        };
        self.scratch = answering.out;
        let goes_on = upload.exceeds(LINGER_BYTES);
        let next = match served {
            Ok(Passed::Whole { keep: true }) if uploaded.get() => Next::Request,
            Ok(Passed::Whole { .. }) => Next::Linger,
            Ok(Passed::Switched(body)) => self.socket(feed, body).await,
            Err(error) if self.answered.get() || error == ProxyError::ClientGone => Next::Close,
            Err(error) => self.refuse(error.status(), &error.to_string()).await,
        };
        Ok(if goes_on { next.in_a_moment() } else { next })
    }

    /// After a 101: what the client says goes into `feed`, and `body` to the client, until both have ended or one breaks off.
    async fn socket(&mut self, feed: Feed, body: ResponseBody) -> Next {
        let (from, to) = self.stream.split();
        // What has broken off is told to the other side by what is dropped.
        let _ = tokio::try_join!(say(from, &mut self.buffer, feed), hear(to, body, self.watch));
        Next::Close
    }

    /// The head as `proxy` takes it.
    fn request(&self, length: usize) -> Result<(Facts, Request<()>), Reject> {
        let mut room = request::room();
        let most = self.worker.registry().limits().headers();
        let head = request::parse(&self.buffer[..length], &mut room[..most])?;
        let mut request = translated(&head).ok_or(request::UNREADABLE)?;
        if head.facts.websocket
            && let Some(handshake) = Handshake::of(request.headers())
        {
            request.extensions_mut().insert(handshake);
        }
        Ok((head.facts, request))
    }
}

/// Passes on what a client says over its socket, of which `buffer` has the start.
async fn say(mut from: ReadHalf<'_>, buffer: &mut BytesMut, feed: Feed) -> Result<(), Untaken> {
    loop {
        feed.give(buffer.split().freeze()).await?;
        buffer.reserve(SOCKET_ROOM);
        match from.read_buf(buffer).await {
            Ok(0) => {
                feed.end(None);
                return Ok(());
            }
            Ok(_) => {}
            Err(_) => return Err(Untaken),
        }
    }
}

/// Passes on what an endpoint says over its stream.
async fn hear(mut to: WriteHalf<'_>, mut body: ResponseBody, watch: &Watch) -> Result<(), Untaken> {
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let data = frame.map_err(|_| Untaken)?.into_data().unwrap_or_default();
        write_of(&mut body, &mut to, watch, &data).await.map_err(|_| Untaken)?;
    }
    to.shutdown().await.map_err(|_| Untaken)
}

/// Sends `bytes`, which were taken of `body`, for as long as that is not overdue; the request goes on meanwhile.
async fn write_of(
    body: &mut ResponseBody,
    to: &mut WriteHalf<'_>,
    watch: &Watch,
    mut bytes: &[u8],
) -> Result<(), ProxyError> {
    while !bytes.is_empty() {
        watch.takes();
        let mut write = pin!(to.write(bytes));
        let written = poll_fn(|context| match write.as_mut().poll(context) {
            Poll::Ready(written) => Poll::Ready(written.map_err(|_| ProxyError::ClientGone)),
            Poll::Pending => body.poll_waiting(context).map(|_| Err(ProxyError::Timeout)),
        });
        let count = written.await?;
        watch.took(count);
        body.moves();
        bytes = &bytes[count..];
    }
    watch.written();
    Ok(())
}

/// The same head in `http`'s types, its framing in our own words.
fn translated(head: &request::Head<'_, '_>) -> Option<Request<()>> {
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(head.method.as_bytes()).ok()?;
    *request.uri_mut() = Uri::try_from(head.target).ok()?;
    *request.version_mut() = if head.facts.http10 { Version::HTTP_10 } else { Version::HTTP_11 };
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_bytes(head.authority).ok()?);
    for field in head.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        match name {
            header::HOST | header::TRANSFER_ENCODING | header::EXPECT => {}
            header::CONTENT_LENGTH => {
                headers.insert(name, text::content_length(field.value)?.into());
            }
            name => drop(headers.append(name, HeaderValue::from_bytes(field.value).ok()?)),
        }
    }
    if head.facts.expects_continue {
        headers.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
    }
    Some(request)
}

/// An answer that was passed on.
enum Passed {
    /// To its end.
    Whole {
        /// Another request may follow.
        keep: bool,
    },
    /// The connection goes on as a byte stream, of which this is to be sent.
    Switched(ResponseBody),
}

/// An answer on its way to the client.
struct Answering<'a> {
    to: WriteHalf<'a>,
    watch: &'a Watch,
    /// What is sent next.
    out: Vec<u8>,
    facts: Facts,
}

impl Answering<'_> {
    /// Awaits the answer, and passes on what comes before it.
    async fn hear(
        &mut self,
        mut handled: Pin<&mut impl Future<Output = Response<ResponseBody>>>,
        interims: &Interims,
    ) -> Result<Response<ResponseBody>, ProxyError> {
        let mut answer = None;
        loop {
            let interim = poll_fn(|context| {
                if answer.is_none()
                    && let Poll::Ready(response) = handled.as_mut().poll(context)
                {
                    answer = Some(response);
                }
                let interim = interims.next();
                if interim.is_some() || answer.is_some() { Poll::Ready(interim) } else { Poll::Pending }
            });
            match (interim.await, answer.take()) {
                (Some(interim), waiting) => {
                    answer = waiting;
                    self.out.clear();
                    self.head(interim.status(), interim.headers());
                    self.out.extend_from_slice(b"\r\n");
                    self.send().await?;
                }
                (None, Some(response)) => return Ok(response),
                (None, None) => {}
            }
        }
    }

    /// Passes the head of a 101 on.
    async fn switch(&mut self, response: Response<ResponseBody>) -> Result<ResponseBody, ProxyError> {
        self.out.clear();
        self.head(response.status(), response.headers());
        self.out.extend_from_slice(b"\r\n");
        self.send().await?;
        Ok(response.into_body())
    }

    /// Passes an answer on to its end.
    async fn pass(&mut self, response: Response<ResponseBody>, close: bool) -> Result<Passed, ProxyError> {
        let (mut parts, mut body) = response.into_parts();
        let framing = framing(&self.facts, parts.status, &mut parts.headers, &body);
        let keep = !close && framing != Framing::Close;
        self.out.clear();
        self.head(parts.status, &parts.headers);
        if framing == Framing::Chunked {
            self.out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        match (keep, self.facts.http10) {
            (false, _) => self.out.extend_from_slice(b"connection: close\r\n"),
            (true, true) => self.out.extend_from_slice(b"connection: keep-alive\r\n"),
            (true, false) => {}
        }
        self.out.extend_from_slice(b"\r\n");
        if framing != Framing::None {
            self.body(&mut body, framing).await?;
        }
        self.send_of(&mut body).await?;
        Ok(Passed::Whole { keep })
    }

    /// All of a body; its last bytes are left to be sent.
    async fn body(&mut self, body: &mut ResponseBody, mut framing: Framing) -> Result<(), ProxyError> {
        while let Some(frame) = self.frame(body).await? {
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    self.end(framing, &trailers);
                    return Ok(());
                }
            };
            match &mut framing {
                Framing::Length(left) => *left = left.checked_sub(data.len() as u64).ok_or(ProxyError::BadAnswer)?,
                Framing::Chunked | Framing::Close | Framing::None => {}
            }
            if framing == Framing::Chunked {
                chunked::write_chunk(&mut self.out, &data);
            } else {
                self.out.extend_from_slice(&data);
            }
            if self.out.len() >= PIECE {
                self.send_of(body).await?;
            }
        }
        if matches!(framing, Framing::Length(1..)) {
            return Err(ProxyError::Reset);
        }
        self.end(framing, &HeaderMap::new());
        Ok(())
    }

    /// The next frame; what was collected is sent while there is none.
    async fn frame(&mut self, body: &mut ResponseBody) -> Result<Option<Frame<Bytes>>, ProxyError> {
        loop {
            if body.is_end_stream() {
                return Ok(None);
            }
            let waits = !self.out.is_empty();
            let polled = poll_fn(|context| match Pin::new(&mut *body).poll_frame(context) {
                Poll::Pending if waits => Poll::Ready(None),
                polled => polled.map(Some),
            });
            match polled.await {
                None => self.send_of(body).await?,
                Some(frame) => return frame.transpose().map_err(|_: BodyError| ProxyError::Reset),
            }
        }
    }

    fn end(&mut self, framing: Framing, trailers: &HeaderMap) {
        if framing == Framing::Chunked {
            chunked::write_end_of(&mut self.out, trailers);
        }
    }

    fn head(&mut self, status: StatusCode, headers: &HeaderMap) {
        answer::status_line(&mut self.out, status);
        for (name, value) in headers {
            text::field(&mut self.out, name.as_str().as_bytes(), value.as_bytes());
        }
    }

    /// Sends what was collected of `body`, for as long as that is not overdue; the request goes on meanwhile.
    async fn send_of(&mut self, body: &mut ResponseBody) -> Result<(), ProxyError> {
        let sent = write_of(body, &mut self.to, self.watch, &self.out).await;
        self.out.clear();
        sent
    }

    async fn send(&mut self) -> Result<(), ProxyError> {
        let sent = answer::write(&mut self.to, self.watch, &self.out).await;
        self.out.clear();
        sent.map_err(|_| ProxyError::ClientGone)
    }
}

/// How the client knows the end of the body; `headers` say so.
fn framing(facts: &Facts, status: StatusCode, headers: &mut HeaderMap, body: &ResponseBody) -> Framing {
    if status == StatusCode::NO_CONTENT {
        // RFC 9110 §8.6
        headers.remove(header::CONTENT_LENGTH);
    }
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Framing::None;
    }
    let said = headers.get(header::CONTENT_LENGTH).and_then(|length| text::content_length(length.as_bytes()));
    // What an endpoint answers to HEAD has no body; its length is what another request would get, and only it knows that.
    let known = match body {
        ResponseBody::Endpoint(_) if facts.head_method => None,
        body if body.is_end_stream() => Some(0),
        body => body.size_hint().exact(),
    };
    if let (None, Some(length)) = (said, known) {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    match said.or(known) {
        _ if facts.head_method => Framing::None,
        Some(length) => Framing::Length(length),
        None if facts.http10 => Framing::Close,
        None => Framing::Chunked,
    }
}
