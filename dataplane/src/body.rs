//! Bodies as they pass through: frames are handed on as they come, with flow control, and the last one ends the record.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use routing::Flag;
use tokio::time::Sleep;

use crate::error::behind;
use crate::h1::client::reply::Reply;
use crate::h1::pipe::Pipe;
use crate::http2::body::{Receiving, faulted};
use crate::http2::stream::Error;
use crate::limits::PATIENCE;
use crate::mirror::Copy;
use crate::patience::UploadFault;
use crate::record::{Record, cut};
use crate::replay::Replay;
use crate::tunnel::Tunnel;
use crate::upstream::Lease;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Failure of either side while a body was under way.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// What one side sends, as it comes.
#[derive(Debug)]
pub enum Incoming {
    /// Over HTTP/1.
    Http1(Box<Reply>),
    /// Over HTTP/1, read by the task of its connection.
    Piped(Pipe),
    /// Over HTTP/2.
    Http2(Receiving),
    /// Of a WebSocket over HTTP/1.
    Tunnel(Box<Tunnel>),
}

/// What is sent to an endpoint.
#[derive(Debug)]
pub enum RequestBody {
    /// None.
    Empty,
    /// The client's, as it comes.
    Client(Incoming),
    /// The client's, as it comes, and copied.
    Copied(Incoming, Option<Box<Copy>>),
    /// All of it.
    Whole(Option<Bytes>),
    /// The client's, which may be sent again.
    Replay(Replay),
}

/// What is sent to a client.
#[derive(Debug)]
pub enum ResponseBody {
    /// The proxy's own words, or none.
    Own(Option<Bytes>),
    /// An endpoint's answer.
    Endpoint(Box<Passing>),
}

/// An endpoint's answer on its way, with everything that ends when it does.
#[derive(Debug)]
pub struct Passing {
    incoming: Incoming,
    record: Option<Record>,
    lease: Option<Lease>,
    deadline: Option<Pin<Box<Sleep>>>,
    /// All of it has come; what was taken last may wait for the client yet.
    whole: bool,
}

impl Passing {
    /// Passes `incoming` on until `deadline`; `lease` is given up at the end.
    #[must_use]
    pub fn new(incoming: Incoming, record: Option<Record>, lease: Lease, deadline: Option<Pin<Box<Sleep>>>) -> Self {
        let mut passing = Self { incoming, record, lease: Some(lease), deadline, whole: false };
        if passing.incoming.is_end_stream() {
            passing.finish();
            passing.complete();
        }
        passing
    }

    /// The endpoint is done; the record ends when the client has it all.
    fn finish(&mut self) {
        self.whole = true;
        self.lease = None;
    }

    fn complete(&mut self) {
        if let Some(mut record) = self.record.take() {
            record.complete();
        }
    }

    /// Ends the record for what the client did, or did not do.
    fn blame_client(&mut self, fault: UploadFault) {
        match fault {
            UploadFault::Slow => cut(Flag::StreamIdleTimeout, || drop(self.record.take())),
            UploadFault::Broken => drop(self.record.take()),
        }
        self.lease = None;
    }

    /// Ends the record for `error`.
    fn fail(&mut self, error: &BodyError) {
        match UploadFault::behind(&**error) {
            Some(fault) => self.blame_client(fault),
            None if behind(&**error) == Some(Error::Held) => self.make_room(),
            None if faulted(&**error) => self.break_off(Flag::UpstreamProtocolError),
            None => self.break_off(Flag::UpstreamConnectionTermination),
        }
    }

    /// Ends the record because the client, or the endpoint, left too much in the proxy.
    fn make_room(&mut self) {
        cut(Flag::OverloadManager, || drop(self.record.take()));
        self.lease = None;
    }

    /// What is left of the request is sent; ready when that cannot be, or the answer takes longer than the route allows.
    fn poll_waiting(&mut self, context: &mut Context<'_>) -> Poll<BodyError> {
        if let Err(error) = self.incoming.send(context) {
            self.fail(&error);
            return Poll::Ready(error);
        }
        self.poll_overdue(context)
    }

    /// Ready when the answer takes longer than the route allows.
    fn poll_overdue(&mut self, context: &mut Context<'_>) -> Poll<BodyError> {
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        ready!(deadline.as_mut().poll(context));
        self.break_off(Flag::UpstreamRequestTimeout);
        Poll::Ready("request timed out within its answer".into())
    }

    fn break_off(&mut self, flag: Flag) {
        if let Some(mut record) = self.record.take() {
            record.flag(flag);
            record.broken();
        }
        self.lease = None;
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.incoming).poll_frame(context) {
            Poll::Pending => self.poll_overdue(context).map(|error| Some(Err(error))),
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(data), Some(record)) = (frame.data_ref(), &mut self.record) {
                    record.sent(data.len() as u64);
                }
                if let Some(trailers) = frame.trailers_ref()
                    && let Some(record) = &mut self.record
                    && let Some(status) = grpc_status(trailers)
                {
                    record.grpc_status(status);
                }
                if self.incoming.is_end_stream() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.fail(&error);
                Poll::Ready(Some(Err(error)))
            }
        }
    }
}

impl Drop for Passing {
    /// Who sends an answer lets go of it when all of it is sent; who cannot says so before.
    fn drop(&mut self) {
        if self.whole {
            self.complete();
        }
    }
}

impl ResponseBody {
    /// To be asked while what was taken of it waits for the client: what is left of the request goes on, as it would without
    /// that. Ready when that breaks off, or the answer takes longer than its route allows.
    pub fn poll_waiting(&mut self, context: &mut Context<'_>) -> Poll<BodyError> {
        match self {
            Self::Own(_) => Poll::Pending,
            Self::Endpoint(passing) => passing.poll_waiting(context),
        }
    }

    /// The client took some of what was taken of it last.
    pub fn moves(&self) {
        if let Self::Endpoint(passing) = self {
            passing.incoming.moves();
        }
    }

    /// The client takes too long over it; `hurried`: others need the room.
    pub fn untaken(&mut self, hurried: bool) {
        match (self, hurried) {
            (Self::Own(_), _) => {}
            (Self::Endpoint(passing), true) => passing.make_room(),
            (Self::Endpoint(passing), false) => passing.blame_client(UploadFault::Slow),
        }
    }
}

/// `grpc-status` of a head or of trailers.
#[must_use]
pub fn grpc_status(headers: &http::HeaderMap) -> Option<u16> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(&mut **body).poll_frame(context),
            Self::Piped(body) => Pin::new(body).poll_frame(context),
            Self::Http2(body) => Pin::new(body).poll_frame(context),
            Self::Tunnel(tunnel) => tunnel.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Piped(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
            Self::Tunnel(tunnel) => tunnel.ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Piped(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
            Self::Tunnel(_) => SizeHint::default(),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Endpoint(passing) => passing.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Endpoint(passing) => passing.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Endpoint(passing) => passing.incoming.size_hint(),
        }
    }
}

impl Incoming {
    /// Some of what was taken of it last was passed on.
    fn moves(&self) {
        if let Self::Http2(body) = self {
            body.moves();
        }
    }

    /// What was taken of it last is kept, where it does not count as held.
    pub fn keeps(&self) {
        if let Self::Http2(body) = self {
            body.keeps();
        }
    }

    /// Sends what can be sent of the request that this answers, if not all of it was.
    fn send(&mut self, context: &mut Context<'_>) -> Result<(), BodyError> {
        match self {
            Self::Http1(body) => Ok(body.send(context)?),
            Self::Http2(body) => Ok(body.send(context)?),
            Self::Tunnel(tunnel) => {
                tunnel.send(context);
                Ok(())
            }
            Self::Piped(_) => Ok(()),
        }
    }

    /// How long is waited for more of it, where that is limited.
    #[must_use]
    pub fn patience(&self) -> Duration {
        match self {
            Self::Http1(_) | Self::Piped(_) | Self::Tunnel(_) => PATIENCE,
            Self::Http2(body) => body.patience(),
        }
    }
}

impl RequestBody {
    /// How long is waited for more of it, where that is limited.
    #[must_use]
    pub fn patience(&self) -> Duration {
        match self {
            Self::Empty | Self::Whole(_) => PATIENCE,
            Self::Client(incoming) | Self::Copied(incoming, _) => incoming.patience(),
            Self::Replay(replay) => replay.patience(),
        }
    }

    /// The client's `body`, of which `copy` is made, if it is.
    #[must_use]
    pub fn of(body: Incoming, copy: Option<Copy>) -> Self {
        match (body.is_end_stream(), copy) {
            (false, None) => Self::Client(body),
            (false, Some(copy)) => Self::Copied(body, Some(Box::new(copy))),
            (true, copy) => {
                if let Some(mut copy) = copy {
                    copy.complete();
                    copy.send();
                }
                Self::Empty
            }
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Client(incoming) => Pin::new(incoming).poll_frame(context),
            Self::Copied(incoming, copy) => {
                let frame = ready!(Pin::new(&mut *incoming).poll_frame(context));
                if let (Some(copy), Some(Ok(frame))) = (copy.as_mut(), &frame)
                    && let Some(data) = frame.data_ref()
                {
                    copy.piece(data);
                }
                // Who knows the length does not ask for what comes after the last byte.
                let over = incoming.is_end_stream() || incoming.size_hint().exact() == Some(0);
                if (frame.is_none() || over)
                    && let Some(mut copy) = copy.take()
                {
                    copy.complete();
                    copy.send();
                }
                Poll::Ready(frame)
            }
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Replay(replay) => replay.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Client(incoming) | Self::Copied(incoming, _) => incoming.is_end_stream(),
            Self::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Replay(replay) => replay.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Client(incoming) | Self::Copied(incoming, _) => incoming.size_hint(),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Replay(replay) => replay.size_hint(),
        }
    }
}
