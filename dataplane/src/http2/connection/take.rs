//! What is taken of a stream: heads, bodies piece by piece, trailers. What is taken opens the windows again.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::Frame;

use super::super::frame;
use super::super::stream::{Error, Half};
use super::Connection;

impl Connection {
    /// The head of the answer, after those that come before it (1xx).
    pub fn poll_head(&mut self, number: u32, context: &Context<'_>) -> Poll<Result<Response<()>, Error>> {
        let Some(stream) = self.streams.get_mut(&number) else { return Poll::Ready(Err(Error::Closed)) };
        if let Some(head) = stream.interims.pop_front().or_else(|| stream.head.take()) {
            return Poll::Ready(Ok(head));
        }
        if let Some(error) = stream.error {
            return Poll::Ready(Err(error));
        }
        stream.wait(Half::Reading, context);
        Poll::Pending
    }

    /// A piece of what came of a body, or its trailers; its window is given back. Who asks has passed the last one on, which
    /// counts as held until then.
    pub fn poll_frame(&mut self, number: u32, context: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(stream) = self.streams.get_mut(&number) else { return Poll::Ready(None) };
        let passed = std::mem::take(&mut stream.lent);
        let data = stream.data.pop();
        if let Some(data) = &data {
            (stream.lent, stream.moved) = (data.len(), self.share.account().seconds());
        }
        if passed > 0 {
            self.passed_on(passed);
        }
        if let Some(data) = data {
            self.give_back_stream(number, data.len());
            return Poll::Ready(Some(Ok(Frame::data(data.into()))));
        }
        let Some(stream) = self.streams.get_mut(&number) else { return Poll::Ready(None) };
        if let Some(trailers) = stream.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        if stream.received {
            return Poll::Ready(None);
        }
        if let Some(error) = stream.error {
            return Poll::Ready(Some(Err(error)));
        }
        stream.wait(Half::Reading, context);
        Poll::Pending
    }

    /// Some of what was taken last was passed on: who takes slowly takes.
    pub fn moves(&mut self, number: u32) {
        let now = self.share.account().seconds();
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.moved = now;
        }
    }

    /// What was taken last counts no longer: it is kept elsewhere.
    pub fn keeps(&mut self, number: u32) {
        if let Some(stream) = self.streams.get_mut(&number) {
            let kept = std::mem::take(&mut stream.lent);
            self.passed_on(kept);
        }
    }

    /// Whether all of a body was taken.
    #[must_use]
    pub fn drained(&self, number: u32) -> bool {
        self.streams.get(&number).is_none_or(|stream| stream.drained())
    }

    pub(super) fn give_back_stream(&mut self, number: u32, bytes: usize) {
        let pressed = self.pressed();
        let Some(stream) = self.streams.get_mut(&number) else { return };
        if stream.received || stream.error.is_some() {
            return;
        }
        let bytes = u32::try_from(bytes).expect("no more is held than a window");
        let keeps_up = stream.data.is_empty();
        let more = if pressed { 0 } else { stream.window.grow(&mut self.growth, keeps_up, stream.length) };
        let by = stream.window.take(bytes).unwrap_or(0) + more;
        if by > 0 {
            frame::window_update(&mut self.out, number, by);
            self.wake_driver();
        }
    }
}
