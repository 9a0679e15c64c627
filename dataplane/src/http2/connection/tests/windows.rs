//! How much may come ahead: streams that stall, and those that get on.

use super::super::super::flow::{self, FIRST, GROWTH};
use super::*;

const STREAMS: u32 = 50;

/// A client and a server as the proxy has them.
fn pair() -> (Connection, Connection) {
    let window = flow::window(STREAMS);
    let config = Config { stream_window: FIRST, growth: GROWTH, window, streams: STREAMS, ..CONFIG };
    let (mut client, mut server) = (Connection::new(Role::Client, config), Connection::new(Role::Server, config));
    exchange(&mut client, &mut server, 20_000);
    (client, server)
}

fn upload(client: &mut Connection, server: &mut Connection) -> u32 {
    let stream = client.open(&Request::post("http://web/").body(()).unwrap(), false);
    exchange(client, server, 20_000);
    assert_eq!(server.accept().unwrap().stream, stream);
    stream
}

/// Sends on `stream` until nothing more may be sent; the server takes pieces while more than `waiting` of them wait, up to
/// `taken` bytes. Returns how much was sent.
fn fill(client: &mut Connection, server: &mut Connection, stream: u32, waiting: usize, taken: usize) -> usize {
    let (most, mut rest, mut left) = (4_000_000, Bytes::from(vec![7; 4_000_000]), taken);
    loop {
        let before = rest.len();
        assert!(client.poll_send(stream, &mut noop(), &mut rest, true).is_pending());
        exchange(client, server, 20_000);
        let held = |rest: &Bytes, left: usize| most - rest.len() - (taken - left);
        while left > 0 && held(&rest, left) > waiting * 16_384 {
            let Poll::Ready(Some(Ok(frame))) = server.poll_frame(stream, &noop()) else { break };
            left = left.saturating_sub(frame.data_ref().unwrap().len());
        }
        exchange(client, server, 20_000);
        if rest.len() == before {
            return most - rest.len();
        }
    }
}

#[test]
fn a_window_grows_for_who_keeps_up_and_less_for_who_lags_behind() {
    let taken = 1024 * 1024;
    let (mut client, mut server) = pair();
    let stream = upload(&mut client, &mut server);
    assert_eq!(fill(&mut client, &mut server, stream, 0, taken), taken + 16 * FIRST as usize);
    let (mut client, mut server) = pair();
    let stream = upload(&mut client, &mut server);
    let ahead = fill(&mut client, &mut server, stream, 1, taken) - taken;
    // Less what was taken and is not worth a frame.
    let most = 4 * FIRST as usize;
    assert!((most / 2..=most).contains(&ahead), "{ahead}");
}

#[test]
fn all_streams_but_one_may_stall_and_that_one_goes_through() {
    let (mut client, mut server) = pair();
    let mut ahead = 0;
    for number in 1..STREAMS {
        let stream = upload(&mut client, &mut server);
        // Some have got on before, as far as there was growth.
        let taken = if number % 2 == 0 { 512 * 1024 } else { 0 };
        ahead += fill(&mut client, &mut server, stream, 0, taken) - taken;
    }
    let (first, growth) = (FIRST as usize * (STREAMS as usize - 1), GROWTH as usize);
    assert!((first + growth / 2..=first + growth).contains(&ahead), "{ahead}");
    let stream = upload(&mut client, &mut server);
    let body = vec![7; 4_000_000];
    assert!(pass(&mut client, &mut server, stream, &body, 20_000) == body);
    // What is forgotten gives its growth back.
    for stream in (1..stream + 2).step_by(2) {
        client.reset(stream, Reason::CANCEL);
        server.reset(stream, Reason::CANCEL);
        for half in [Half::Reading, Half::Writing] {
            client.release(stream, half);
            server.release(stream, half);
        }
    }
    exchange(&mut client, &mut server, 20_000);
    let stream = upload(&mut client, &mut server);
    let taken = 1024 * 1024;
    assert_eq!(fill(&mut client, &mut server, stream, 0, taken), taken + 16 * FIRST as usize);
}
