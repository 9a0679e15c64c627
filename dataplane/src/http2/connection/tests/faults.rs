//! What the other end does wrong, and does again and again.

use super::super::super::frame::MAX_WINDOW;
use super::*;

#[test]
fn what_was_not_opened_is_not_reset() {
    for (payload, reason) in [(&[0; 4][..], Reason::FRAME_SIZE_ERROR), (&[0, 0, 0, 7, 0], Reason::PROTOCOL_ERROR)] {
        let mut server = server();
        server.receive(&frame(kind::PRIORITY, 0, 7, payload));
        assert_eq!(ended(&mut server), Some(reason));
    }
    let mut server = server();
    server.receive(&frame(kind::PRIORITY, 0, 7, &[0, 0, 0, 3, 0]));
    assert!(said(&mut server).is_empty() && !server.ending(), "what is in order may come before the stream");
}

#[test]
fn an_answer_that_has_no_body_has_none() {
    let head = Request::head("http://web/").body(()).unwrap();
    let get = Request::get("http://web/").body(()).unwrap();
    // :status 200, 204 and 304, with a length of 3.
    for (request, status) in [(&head, 0x88), (&get, 0x89), (&get, 0x8b)] {
        let block = [&[status][..], &[0x0f, 13, 1, b'3']].concat();
        let mut client = Connection::new(Role::Client, CONFIG);
        let (good, bad) = (client.open(request, true), client.open(request, true));
        said_after_preface(&mut client);
        client.receive(&frame(kind::HEADERS, 4, good, &block));
        client.receive(&frame(kind::DATA, 1, good, b""));
        assert!(matches!(client.poll_frame(good, &noop()), Poll::Ready(None)));
        client.receive(&frame(kind::HEADERS, 4, bad, &block));
        client.receive(&frame(kind::DATA, 1, bad, b"abc"));
        assert_eq!(resets(&mut client), [(bad, Reason::PROTOCOL_ERROR)], "status {status:x}");
    }
}

fn said_after_preface(client: &mut Connection) {
    client.out.drain(..frame::PREFACE.len());
    said(client);
}

#[test]
fn who_is_in_order_mostly_may_have_a_fault_now_and_then() {
    let mut server = server();
    for round in 0..20 * CONFIG.faults {
        let (bad, good) = (4 * round + 1, 4 * round + 3);
        server.receive(&frame(kind::HEADERS, 5, bad, &[]));
        assert!(!server.ending(), "after {round} rounds");
        server.receive(&opening(good, 1));
        assert_eq!(server.accept().unwrap().stream, good);
        server.respond(good, &Response::new(()), true).unwrap();
        server.release(good, Half::Reading);
        server.release(good, Half::Writing);
        said(&mut server);
    }
    assert_eq!(server.seen.malformed, 20 * CONFIG.faults);
}

#[test]
fn what_nobody_serves_is_told_apart() {
    let overflow = |stream: u32| frame(kind::WINDOW_UPDATE, 0, stream, &MAX_WINDOW.to_be_bytes());
    // Nobody has looked at it.
    let mut server = server();
    server.receive(&[opening(1, 0), overflow(1)].concat());
    assert_eq!((server.seen.malformed, server.accepted.len(), server.streams.len()), (1, 0, 0));
    // Somebody has, and hears of it.
    server.receive(&opening(3, 0));
    server.accept().unwrap();
    server.receive(&overflow(3));
    assert_eq!(server.seen.malformed, 1);
    assert!(matches!(server.poll_reset(3, &noop()), Poll::Ready(Error::Fault(Reason::FLOW_CONTROL_ERROR))));
    // Somebody was done with it.
    server.receive(&opening(5, 0));
    server.accept().unwrap();
    server.respond(5, &Response::new(()), true).unwrap();
    server.release(5, Half::Writing);
    server.receive(&overflow(5));
    assert_eq!((server.seen.malformed, server.seen.violated), (2, None));
    server.receive(&frame(kind::PING, 0, 9, &[0; 8]));
    assert_eq!(server.seen.violated, Some(Reason::PROTOCOL_ERROR));
}

#[test]
fn windows_that_shrink_below_nothing_hold_until_they_are_above_it() {
    let mut server = server();
    server.receive(&opening(1, 1));
    server.receive(&frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 100]));
    server.respond(1, &Response::new(()), false).unwrap();
    let mut data = Bytes::from(vec![0; 150]);
    assert!(server.poll_send(1, &mut noop(), &mut data, true).is_pending());
    assert_eq!(data.len(), 50);
    // Down by 90: the window of the stream is at 90 less than nothing.
    server.receive(&frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 10]));
    server.receive(&frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 90]));
    assert!(server.poll_send(1, &mut noop(), &mut data, true).is_pending());
    assert_eq!(data.len(), 50);
    server.receive(&frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 50]));
    assert!(server.poll_send(1, &mut noop(), &mut data, true).is_ready());
    // No data needs no window.
    server.receive(&opening(3, 1));
    server.receive(&frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
    server.respond(3, &Response::new(()), false).unwrap();
    assert!(server.poll_send(3, &mut noop(), &mut Bytes::new(), true).is_ready());
}

#[test]
fn fewer_streams_than_are_open_let_none_begin_until_they_end() {
    let mut client = Connection::new(Role::Client, CONFIG);
    client.senders = 1;
    let request = Request::get("http://web/").body(()).unwrap();
    let streams: Vec<u32> = (0..3).map(|_| client.open(&request, true)).collect();
    client.receive(&frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]));
    for stream in streams {
        assert_eq!(client.may_open(&noop()), Some(Opens::Full));
        client.receive(&frame(kind::HEADERS, 5, stream, &[0x88]));
    }
    assert_eq!(client.may_open(&noop()), Some(Opens::Now));
}

#[test]
fn who_is_heard_is_there_although_its_pong_is_late() {
    let mut server = server();
    server.receive(&frame(kind::SETTINGS, 0, 0, &[]));
    server.ping();
    assert!(!server.heard, "what came before says nothing");
    server.receive(&frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]));
    assert!(server.heard);
}
