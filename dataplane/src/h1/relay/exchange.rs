//! One request and its answer: parsed, given to an arm, recorded, and ended, whether an endpoint answers or the proxy.

use std::pin::pin;
use std::rc::Rc;

use bytes::Buf;
use routing::balance::{Balance, Keyed};
use routing::rules::{Answer, Decision};
use routing::{Arm, Choice};

use super::attempt::Served;
use super::{Connection, LINGER_BYTES, Next};
use crate::error::ProxyError;
use crate::h1::answer;
use crate::h1::request::{self, Facts, Framing, Reject};
use crate::h1::text::field;
use crate::h1::upload::Upload;
use crate::mirror::{self, Copy};
use crate::record::Record;
use crate::retries::Retries;
use crate::rules;
use crate::sight::{Asked, Detail};
use crate::upstream::Version;
use crate::view::PortView;

/// Bodies up to this size are sent together with their head, and again on another connection if need be.
const REPLAY: u64 = 64 * 1024;
/// Bytes that a head may grow by without moving: what is said of the client.
const MORE: usize = 128;

/// A request whose head was read.
pub(super) struct Opened {
    facts: Facts,
    view: Rc<PortView>,
    decision: Option<Decision>,
    arm: Arm,
    key: Option<u64>,
    detail: Option<Box<Detail>>,
}

impl Connection<'_> {
    /// Parses the head, leaves in `out` what the endpoint gets of it, and picks the arm.
    pub(super) fn open(&mut self, length: usize) -> Result<Opened, Reject> {
        let mut room = request::room();
        let most = self.worker.registry().limits().headers();
        let head = request::parse(&self.buffer[..length], &mut room[..most])?;
        let (facts, view) = (head.facts, self.slot.current());
        let known = view.port.route.rules.as_ref();
        let decision = known.and_then(|known| known.decide(&head.view(), self.worker.random(), rules::now));
        self.out.clear();
        self.out.reserve(length + MORE);
        head.write(&self.client, decision.as_ref(), &mut self.out);
        let answered = decision.as_ref().is_some_and(Decision::answers);
        let Choice { arm, told } = if answered {
            // No arm's: it must not move the split.
            Choice { arm: Arm::Stable, told: None }
        } else {
            let fields = head.headers.iter().map(|header| (header.name, header.value));
            view.port.choose(fields, || head.view(), self.worker.random())
        };
        self.added.clear();
        if let (Some(bucket), Some(affinity)) = (told, &view.port.route.affinity) {
            self.added.extend_from_slice(b"set-cookie: ");
            affinity.write_cookie(bucket, &mut self.added);
            self.added.extend_from_slice(b"\r\n");
        }
        let fields = head.headers.iter().map(|header| (header.name, header.value));
        let Keyed { key, told } = view.port.key(fields, self.source, || self.worker.random());
        if let (Some(told), Some(hash)) = (told, view.port.route.balance.as_deref().and_then(Balance::hash_key)) {
            self.added.extend_from_slice(b"set-cookie: ");
            hash.write_cookie(told, &mut self.added);
            self.added.extend_from_slice(b"\r\n");
        }
        for (name, value) in decision.iter().flat_map(Decision::written) {
            field(&mut self.added, name.as_str().as_bytes(), value.as_bytes());
        }
        let detail = self.worker.registry().sight().and_then(|sight| {
            let asked = Asked { method: head.method, target: head.target, protocol: "HTTP/1.1" };
            let fields = head.headers.iter().map(|header| (header.name, header.value));
            let random = || self.worker.random();
            let arm = (!answered).then_some(arm);
            sight.look(asked, || self.client.clone(), (&view.port, arm), fields, random)
        });
        if let Some(detail) = &detail {
            detail.mark_head(&mut self.out);
        }
        self.buffer.advance(length);
        Ok(Opened { facts, view, decision, arm, key, detail })
    }

    /// Has a request served, and answers it in any case.
    pub(super) async fn exchange(&mut self, Opened { mut facts, view, decision, arm, key, detail }: Opened) -> Next {
        if let Framing::Length(length) = facts.framing
            && length <= REPLAY
            && length <= self.buffer.len() as u64
        {
            let body = self.buffer.split_to(length as usize);
            self.out.extend_from_slice(&body);
            facts.framing = Framing::None;
        }
        self.watch.busy();
        self.answered.set(false);
        if let Some(answer) = rules::own_answer(decision.as_ref()).await {
            return self.answer_itself(answer, facts, detail).await;
        }
        let route = &view.port.route;
        let mut record = Record::begin(&view.arm(arm).cell, route.counter);
        record.carry(detail);
        self.watch.taken();
        let deadline = rules::request_timeout(route, decision.as_ref())
            .map(|limit| tokio::time::Instant::from_std(record.begun() + limit));
        if arm == Arm::Stable && view.mirrored.is_some() && !facts.websocket {
            self.begin_copy(&view, facts);
        }
        let retries =
            route.retry.as_ref().map(|policy| Retries::begin(policy, self.worker, facts.idempotent, deadline));
        let mut upload = Upload::new(facts.framing, retries.as_ref());
        let served = {
            // Pinned here, and so held once, not in each of the futures below.
            let served = pin!(self.forward(&view, (arm, key), decision.as_ref(), facts, &mut upload, &mut record));
            match deadline {
                None => served.await,
                Some(deadline) => tokio::time::timeout_at(deadline, served).await.unwrap_or(Err(ProxyError::Timeout)),
            }
        };
        if let Some(copy) = self.copy.take() {
            copy.send();
        }
        record.sent(self.watch.taken());
        let goes_on = upload.exceeds(LINGER_BYTES);
        let next = match served {
            Ok(Served { switched: Some((endpoint, rest)), .. }) => {
                // Ends with the handshake: how long people keep a socket open is not a latency.
                record.complete();
                drop((record, view));
                self.tunnel(endpoint, &rest).await;
                Next::Close
            }
            Ok(Served { keep, .. }) => {
                record.complete();
                if keep { Next::Request } else { Next::Linger }
            }
            Err(error) => self.fail(error, facts, record).await,
        };
        if goes_on { next.in_a_moment() } else { next }
    }

    /// Sends a copy of the request in `out` to the canary, if the route says so, or begins one if its body is coming still.
    fn begin_copy(&mut self, view: &PortView, facts: Facts) {
        let method = self.out.split(|byte| *byte == b' ').next().unwrap_or_default();
        let method = std::str::from_utf8(method).unwrap_or_default();
        let mut start = 0;
        let copy = Copy::begin(self.worker, view, Version::Http1, method, || {
            let (parts, length) = mirror::head(&self.out)?;
            start = length;
            Some(parts)
        });
        let Some(mut copy) = copy else { return };
        if facts.framing == Framing::None {
            copy.piece(&self.out[start..]);
            copy.complete();
            copy.send();
        } else {
            self.copy = Some(Box::new(copy));
        }
    }

    /// Answers in the proxy's own words, if it is not too late for that.
    async fn fail(&mut self, error: ProxyError, facts: Facts, mut record: Record) -> Next {
        if error == ProxyError::ClientGone {
            return Next::Close;
        }
        let status = error.status();
        if let Some(flag) = error.flag() {
            record.flag(flag);
        }
        if self.answered.get() {
            // The client sees that the answer is incomplete by the end of the connection.
            record.broken();
            return Next::Close;
        }
        record.own_status(status.as_u16());
        if status.is_server_error() {
            record.broken()
        } else {
            record.complete()
        }
        drop(record);
        let keep = self.may_keep(facts);
        self.out.clear();
        answer::own(&mut self.out, status, &error.to_string(), !keep, facts.head_method);
        self.say(keep).await
    }

    /// Answers instead of an endpoint, because a rule says so.
    async fn answer_itself(&mut self, own: &Answer, facts: Facts, detail: Option<Box<Detail>>) -> Next {
        let keep = self.may_keep(facts);
        self.out.clear();
        answer::by_rule(&mut self.out, own, !keep, facts.head_method);
        if let Some(detail) = detail {
            detail.answered_by_rule(own.status, own.action.flag(), self.out.len());
        }
        self.say(keep).await
    }
}
