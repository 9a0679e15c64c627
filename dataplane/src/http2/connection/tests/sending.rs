//! What waits to be sent: for windows, for room, and for the other end to take it.

use super::*;
use crate::interim::MAX_INTERIM;

#[test]
fn bodies_wait_for_windows_and_for_room_and_are_woken() {
    let mut server = server();
    let woken = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    server.receive(&opening(1, 1));
    server.receive(&frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 10]));
    server.respond(1, &Response::new(()), false).unwrap();
    said(&mut server);
    let mut data = Bytes::from(vec![7; 100_000]);
    assert!(server.poll_send(1, &mut context, &mut data, true).is_pending());
    assert_eq!(said(&mut server).iter().map(|(head, _)| head.length).sum::<usize>(), 10);
    server.receive(&frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0x10, 0, 0]));
    assert_eq!(woken.0.load(SeqCst), 1);
    // The connection's window, and others in turn.
    let mut polls = 0;
    loop {
        let before = woken.0.load(SeqCst);
        assert!(server.poll_send(1, &mut context, &mut data, true).is_pending());
        polls += 1;
        if woken.0.load(SeqCst) == before {
            break;
        }
    }
    assert_eq!((polls, data.len()), (4, 100_000 - 65_535));
    let before = woken.0.load(SeqCst);
    server.receive(&frame(kind::WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0]));
    assert_eq!(woken.0.load(SeqCst), before + 1);
    // Room: what was sent before has not left.
    server.out = vec![0; ROOM];
    assert!(server.poll_send(1, &mut context, &mut data, true).is_pending());
    server.flushed();
    assert_eq!(woken.0.load(SeqCst), before + 2);
    while server.poll_send(1, &mut context, &mut data, true).is_pending() {}
    assert!(data.is_empty());
}

#[test]
fn what_waits_is_not_moved_as_a_body_fills_the_room() {
    let mut server = server();
    server.receive(&[opening(1, 1), frame(kind::WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0])].concat());
    server.receive(&frame(kind::WINDOW_UPDATE, 0, 1, &[0, 1, 0, 0]));
    server.flushed();
    let mut data = Bytes::from(vec![7; 100_000]);
    assert!(server.poll_send(1, &mut noop(), &mut data, true).is_pending());
    let before = server.out.as_ptr();
    while server.out.len() < ROOM {
        assert!(server.poll_send(1, &mut noop(), &mut data, true).is_pending());
    }
    assert_eq!((server.out.as_ptr(), data.len()), (before, 100_000 - ROOM));
}

#[test]
fn interim_answers_are_bounded_and_wait_for_room() {
    let mut client = Connection::new(Role::Client, CONFIG);
    let request = Request::get("http://web/").body(()).unwrap();
    let stream = client.open(&request, true);
    client.flushed();
    let hint = frame(kind::HEADERS, 4, stream, &[0x08, 3, b'1', b'0', b'3']);
    (0..MAX_INTERIM).for_each(|_| client.receive(&hint));
    assert!(resets(&mut client).is_empty());
    client.receive(&hint);
    assert_eq!(resets(&mut client), [(stream, Reason::PROTOCOL_ERROR)]);
    (0..MAX_INTERIM).for_each(|_| assert!(matches!(client.poll_head(stream, &noop()), Poll::Ready(Ok(_)))));
    assert!(matches!(client.poll_head(stream, &noop()), Poll::Ready(Err(Error::Fault(_)))));

    let mut server = server();
    server.receive(&opening(1, 1));
    let (hint, woken) = (Response::builder().status(103).body(()).unwrap(), Arc::new(Count::default()));
    let waker = Waker::from(Arc::clone(&woken));
    server.out = vec![0; ROOM];
    assert!(server.poll_inform(1, &Context::from_waker(&waker), &hint).is_pending());
    server.flushed();
    assert_eq!(woken.0.load(SeqCst), 1);
    assert!(server.poll_inform(1, &noop(), &hint).is_ready());
    assert!(server.respond(1, &Response::new(()), true).is_ok());
    assert_eq!(said(&mut server).iter().map(|(head, _)| head.flags).collect::<Vec<_>>(), [4, 5]);
}

/// A slow client takes bytes long before there is room for more of a body.
#[test]
fn what_leaves_while_bodies_wait_for_room_is_progress() {
    let mut server = server();
    server.receive(&opening(1, 1));
    server.respond(1, &Response::new(()), false).unwrap();
    let mut data = Bytes::from_static(&[7; 1000]);
    server.out = vec![0; ROOM];
    assert!(server.poll_send(1, &mut noop(), &mut data, false).is_pending());
    let before = server.held_up(1).unwrap();
    server.left(10);
    assert_eq!(server.held_up(1), Some(before + 10));
    // Nobody waits for that: answers to PING, for one, are no progress.
    server.out.truncate(ROOM - 1);
    server.left(10);
    assert_eq!(server.held_up(1), Some(before + 10));
}
