//! Limits of the connections to the endpoints: never exceeded, waits bounded, and what is too much answered 503.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proxy_api::v1beta1 as api;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};

use crate::common::{Bed, Client, Origin, eventually, http2_client, raw_origin, speaks, stable, within};
use crate::{frames, hostile};

/// Longer than any test: who waits is not turned away.
const LONG_MS: u64 = 3_600_000;

fn pool(route: &mut api::Route, wait_ms: u64, pool: api::ConnectionPool) {
    route.http = Some(api::HttpPolicy { connect_timeout_ms: wait_ms, ..Default::default() });
    route.traffic_policy = Some(api::TrafficPolicy { connection_pool: Some(pool), ..Default::default() });
}

/// An endpoint that answers as many requests as it is let, and knows how many it had at a time.
struct Gated {
    origin: Origin,
    let_go: Arc<Semaphore>,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Gated {
    async fn new() -> Self {
        let (let_go, now, most) =
            (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (gate, count, peak) = (Arc::clone(&let_go), Arc::clone(&now), Arc::clone(&most));
        let origin = Origin::new(move |_| {
            let gate = Arc::clone(&gate);
            peak.fetch_max(count.fetch_add(1, SeqCst) + 1, SeqCst);
            let count = Arc::clone(&count);
            async move {
                gate.acquire().await.unwrap().forget();
                count.fetch_sub(1, SeqCst);
                Response::new(Full::from("ok"))
            }
        })
        .await;
        Self { origin, let_go, now, most }
    }
}

/// Clients that have sent a request each and wait for the answer.
async fn asking(bed: &Bed, number: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..number {
        let mut client = bed.connect().await;
        client.0.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await.unwrap();
        clients.push(client);
    }
    clients
}

fn flagged(bed: &Bed) -> u64 {
    bed.counters(api::Arm::Stable);
    let metrics = bed.metrics();
    let line = metrics.lines().find(|line| line.contains(r#"flag="UO""#));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

/// Sum of a series over what has all of `labels`.
fn value(bed: &Bed, name: &str, labels: &[&str]) -> u64 {
    let metrics = bed.metrics();
    let of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| labels.iter().all(|label| rest.contains(label)));
    metrics.lines().filter(of).map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Limit, use and overflows of the stable arm.
fn standing(bed: &Bed, limit: &str) -> (u64, u64, u64) {
    let limit = format!("limit=\"{limit}\"");
    let of = |name| value(bed, &format!("sluice_proxy_pool_{name}{{"), &[limit.as_str(), "arm=\"stable\""]);
    (of("limit"), of("used"), of("overflows_total"))
}

/// Active and idle ones to the stable arm's endpoints.
fn connections(bed: &Bed) -> (u64, u64) {
    let of = |state| value(bed, "sluice_proxy_upstream_connections{", &["arm=\"stable\"", state]);
    (of("state=\"active\""), of("state=\"idle\""))
}

#[tokio::test]
async fn connections_to_endpoints_are_seen_active_and_idle() {
    let pod = Gated::new().await;
    let bed = Bed::new(|route| {
        stable(route, pod.origin.address);
        speaks(route, api::Protocol::Http);
        pool(route, LONG_MS, api::ConnectionPool { idle_timeout_ms: LONG_MS, ..Default::default() });
    })
    .await;
    let mut clients = asking(&bed, 3).await;
    let client = http2_client(bed.port).await;
    let ask = || {
        let (mut client, request) = (client.clone(), request(bed.port));
        tokio::spawn(async move { client.send_request(request).await.unwrap().into_body().collect().await })
    };
    let streams = [ask(), ask()];
    eventually("five are at the endpoint", || pod.now.load(SeqCst) == 5).await;
    eventually("and seen", || connections(&bed) == (5, 0)).await;
    assert_eq!(value(&bed, "sluice_proxy_requests_in_flight{", &["arm=\"stable\""]), 5);
    pod.let_go.add_permits(5);
    for client in &mut clients {
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
    for stream in streams {
        within(stream).await.unwrap().unwrap();
    }
    eventually("all are idle", || connections(&bed) == (0, 5)).await;
    assert!(!bed.metrics().contains("sluice_proxy_pool_used{"), "nothing is limited");
}

#[tokio::test]
async fn connections_over_http2_are_seen_too() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, let_go) = (listener.local_addr().unwrap(), Arc::new(Semaphore::new(0)));
    let gate = Arc::clone(&let_go);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let gate = Arc::clone(&gate);
            let service = hyper::service::service_fn(move |_| {
                let gate = Arc::clone(&gate);
                async move {
                    gate.acquire().await.unwrap().forget();
                    Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from("ok")))
                }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    let bed = Bed::to(address, api::Protocol::H2c).await;
    let mut client = http2_client(bed.port).await;
    let asked = request(bed.port);
    let answer = tokio::spawn(async move { client.send_request(asked).await.unwrap().into_body().collect().await });
    eventually("it is active", || connections(&bed) == (1, 0)).await;
    let_go.add_permits(1);
    within(answer).await.unwrap().unwrap();
    eventually("it is idle", || connections(&bed) == (0, 1)).await;
}

#[tokio::test]
async fn there_are_never_more_connections_than_allowed_and_everybody_is_served() {
    let pod = Gated::new().await;
    let bed = Bed::new(|route| {
        stable(route, pod.origin.address);
        pool(route, LONG_MS, api::ConnectionPool { max_connections: 3, ..Default::default() });
    })
    .await;
    let mut clients = asking(&bed, 20).await;
    eventually("three are at the endpoint", || pod.now.load(SeqCst) == 3).await;
    eventually("all are begun", || bed.in_flight() == 20).await;
    pod.let_go.add_permits(20);
    for client in &mut clients {
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
    assert_eq!(pod.most.load(SeqCst), 3);
    assert_eq!(flagged(&bed), 0);
}

#[tokio::test]
async fn idle_connections_make_room_for_another_endpoint() {
    let (one, two) = (Origin::text("one").await, Origin::text("two").await);
    let bed = Bed::new(|route| {
        stable(route, one.address);
        stable(route, two.address);
        pool(
            route,
            LONG_MS,
            api::ConnectionPool { max_connections: 1, idle_timeout_ms: LONG_MS, ..Default::default() },
        );
    })
    .await;
    // Of either worker and for either endpoint: the only connection is idle somewhere when the next one is asked for.
    for _ in 0..40 {
        assert_eq!(bed.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn a_full_queue_and_a_wait_that_is_over_are_answered_503() {
    let pod = Gated::new().await;
    let mut bed = Bed::new(|route| {
        stable(route, pod.origin.address);
        let limits = api::ConnectionPool { max_connections: 1, max_pending_requests: 1, ..Default::default() };
        pool(route, LONG_MS, limits);
    })
    .await;
    let mut served = asking(&bed, 1).await;
    eventually("one is at the endpoint", || pod.now.load(SeqCst) == 1).await;
    let mut crowd = asking(&bed, 5).await;
    let begun =
        || bed.proxy.shared().registry.snapshot().iter().map(|(_, series)| series.totals().started).sum::<u64>();
    eventually("all but one who waits are turned away", || begun() == 6 && bed.in_flight() == 2).await;
    assert_eq!(standing(&bed, "max_connections"), (1, 1, 0));
    assert_eq!(standing(&bed, "max_pending_requests"), (1, 1, 4));
    pod.let_go.add_permits(2);
    served.append(&mut crowd);
    let mut statuses = Vec::new();
    for client in &mut served {
        statuses.push(client.answer().await.unwrap().status);
    }
    statuses.sort_unstable();
    assert_eq!((statuses, flagged(&bed)), (vec![200, 200, 503, 503, 503, 503], 4));

    let mut route = crate::common::mk_route(bed.port);
    stable(&mut route, pod.origin.address);
    pool(&mut route, 50, api::ConnectionPool { max_connections: 1, ..Default::default() });
    bed.apply(&route).await;
    let mut first = asking(&bed, 1).await;
    eventually("it is at the endpoint", || pod.now.load(SeqCst) == 1).await;
    let late = bed.get("/").await;
    assert_eq!((late.status, late.body.as_str()), (503, "too many requests are under way\n"));
    pod.let_go.add_permits(1);
    assert_eq!(first[0].answer().await.unwrap().status, 200);
    assert_eq!(flagged(&bed), 5);
    assert_eq!(standing(&bed, "max_connections").2, 1, "nobody let go of one in time");
    assert_eq!(standing(&bed, "max_pending_requests"), (1024, 0, 4));
}

fn request(port: u16) -> Request<Full<Bytes>> {
    let request = Request::get(format!("http://127.0.0.1:{port}/")).version(Version::HTTP_2);
    request.body(Full::default()).unwrap()
}

#[tokio::test]
async fn the_limits_hold_for_http2_clients_too() {
    let pod = Gated::new().await;
    let bed = Bed::new(|route| {
        stable(route, pod.origin.address);
        speaks(route, api::Protocol::Http);
        pool(route, LONG_MS, api::ConnectionPool { max_connections: 2, max_requests: 6, ..Default::default() });
    })
    .await;
    let client = http2_client(bed.port).await;
    let ask = |_| {
        let mut client = client.clone();
        let request = request(bed.port);
        tokio::spawn(async move {
            let answer = client.send_request(request).await.unwrap();
            let status = answer.status();
            answer.into_body().collect().await.unwrap();
            status
        })
    };
    let under_way: Vec<_> = (0..6).map(ask).collect();
    eventually("two are at the endpoint", || pod.now.load(SeqCst) == 2).await;
    eventually("all are begun", || bed.in_flight() == 6).await;
    assert_eq!(within(ask(7)).await.unwrap(), StatusCode::SERVICE_UNAVAILABLE, "a seventh request");
    assert_eq!(standing(&bed, "max_requests"), (6, 6, 1));
    assert_eq!(standing(&bed, "max_connections"), (2, 2, 0));
    assert_eq!(standing(&bed, "max_pending_requests"), (1024, 4, 0));
    pod.let_go.add_permits(7);
    for answer in under_way {
        assert_eq!(within(answer).await.unwrap(), StatusCode::OK);
    }
    assert_eq!((pod.most.load(SeqCst), flagged(&bed)), (2, 1));
    eventually("none is under way", || standing(&bed, "max_requests") == (6, 0, 1)).await;
    assert_eq!(within(ask(8)).await.unwrap(), StatusCode::OK, "there is room again");
}

#[tokio::test]
async fn a_request_too_many_is_answered_503_at_once() {
    let pod = Gated::new().await;
    let bed = Bed::new(|route| {
        stable(route, pod.origin.address);
        pool(route, LONG_MS, api::ConnectionPool { max_requests: 2, ..Default::default() });
    })
    .await;
    let mut clients = asking(&bed, 2).await;
    eventually("two are at the endpoint", || pod.now.load(SeqCst) == 2).await;
    assert_eq!(bed.get("/").await.status, 503);
    pod.let_go.add_permits(3);
    for client in &mut clients {
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
    assert_eq!(flagged(&bed), 1);
    assert_eq!(bed.get("/").await.status, 200);
}

#[tokio::test]
async fn a_connection_ends_after_its_share_of_requests() {
    let pod = Origin::text("ok").await;
    let bed = Bed::new(|route| {
        stable(route, pod.address);
        pool(route, 0, api::ConnectionPool { max_requests_per_connection: 3, ..Default::default() });
    })
    .await;
    let mut client = bed.connect().await;
    for _ in 0..9 {
        assert_eq!(client.get("/").await.status, 200);
        bed.counters(api::Arm::Stable);
    }
    assert_eq!(pod.connections.load(SeqCst), 3);
}

#[tokio::test]
async fn a_tcp_connection_too_many_is_closed() {
    let echo = raw_origin(|_, mut stream| async move {
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    })
    .await;
    let bed = Bed::new(|route| {
        stable(route, echo);
        speaks(route, api::Protocol::Tcp);
        pool(route, 50, api::ConnectionPool { max_connections: 1, ..Default::default() });
    })
    .await;
    let mut first = bed.connect().await.0;
    first.write_all(b"x").await.unwrap();
    assert_eq!(within(first.read_u8()).await.unwrap(), b'x');
    assert!(bed.connect().await.closed().await);
    assert_eq!(flagged(&bed), 1);
    assert_eq!(standing(&bed, "max_connections"), (1, 1, 1));
    eventually("the spliced one is seen", || connections(&bed) == (1, 0)).await;
    drop(first);
    within(async {
        loop {
            let mut next = bed.connect().await.0;
            let _ = next.write_all(b"y").await;
            if matches!(next.read_u8().await, Ok(b'y')) {
                return;
            }
        }
    })
    .await;
}

/// An endpoint over HTTP/2 that says on each connection that it takes `most` streams at a time, and gives each to the receiver.
/// It resets those that are too many.
async fn taking(
    most: u32,
) -> (SocketAddr, mpsc::UnboundedReceiver<(Request<h2::RecvStream>, SendResponse<Bytes>)>, Arc<AtomicUsize>) {
    let (streams, received) = mpsc::unbounded_channel();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let address = raw_origin(move |_, stream| {
        let (streams, count) = (streams.clone(), Arc::clone(&count));
        async move {
            count.fetch_add(1, SeqCst);
            let mut connection =
                h2::server::Builder::new().max_concurrent_streams(most).handshake(stream).await.unwrap();
            while let Some(Ok(stream)) = connection.accept().await {
                let _ = streams.send(stream);
            }
        }
    })
    .await;
    (address, received, connections)
}

#[tokio::test]
async fn an_endpoint_that_takes_few_streams_gets_more_connections() {
    const MOST: u32 = 2;
    const CALLS: usize = 7;
    let (address, mut streams, connections) = taking(MOST).await;
    let bed = Bed::new(|route| {
        stable(route, address);
        route.http = Some(api::HttpPolicy { connect_timeout_ms: 60_000, ..Default::default() });
    })
    .await;
    let mut client = frames::connect(&bed).await;
    // At first nobody knows what it takes, and then it is known.
    for round in 0..2 {
        let mut answers = Vec::new();
        for _ in 0..CALLS {
            client = within(client.ready()).await.unwrap();
            answers.push(client.send_request(frames::post(), true).unwrap().0);
        }
        let mut held = Vec::new();
        while held.len() < CALLS {
            held.push(within(streams.recv()).await.unwrap());
        }
        for (_, mut respond) in held {
            respond.send_response(Response::new(()), true).unwrap();
        }
        for answer in answers {
            assert_eq!(within(answer).await.unwrap().status(), 200);
        }
        let most = if round == 0 { CALLS } else { 2 * CALLS.div_ceil(MOST as usize) };
        assert!(connections.load(SeqCst) <= most, "{connections:?} in round {round}");
    }
    assert_eq!(bed.counters(api::Arm::Stable).succeeded, 2 * CALLS as u64);
}

#[tokio::test]
async fn an_endpoint_that_takes_no_stream_is_one_that_cannot_be_reached() {
    let (address, _streams, connections) = taking(0).await;
    let bed = Bed::new(|route| {
        stable(route, address);
        route.http = Some(api::HttpPolicy { connect_timeout_ms: 100, ..Default::default() });
    })
    .await;
    let mut client = frames::connect(&bed).await;
    // The first one finds out.
    for call in 0..10 {
        let (answer, _) = client.send_request(frames::post(), true).unwrap();
        let status = within(answer).await.unwrap().status().as_u16();
        assert!(status == 503 || call == 0 && status == 502, "{status} of call {call}");
    }
    assert!(connections.load(SeqCst) <= 2, "{connections:?}: one for each worker");
    assert!(bed.metrics().contains("flag=\"UF\""));
}

#[tokio::test]
async fn who_refuses_every_stream_does_not_get_a_connection_for_each() {
    const CALLS: usize = 300;
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let address = raw_origin(move |_, mut stream| {
        let count = Arc::clone(&count);
        async move {
            count.fetch_add(1, SeqCst);
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).await.unwrap();
            stream.write_all(hostile::SETTINGS).await.unwrap();
            while let Ok((kind, _, asked, _)) = hostile::next(&mut stream).await {
                if kind == 1 {
                    let _ = stream.write_all(&hostile::frame(3, 0, asked, &[0, 0, 0, 7])).await;
                }
            }
        }
    })
    .await;
    let bed = Bed::new(|route| stable(route, address)).await;
    let mut client = frames::connect(&bed).await;
    for _ in 0..CALLS {
        let get = Request::get("http://web/").body(()).unwrap();
        let (answer, _) = client.send_request(get, true).unwrap();
        assert_eq!(within(answer).await.unwrap().status(), 502);
    }
    assert!(connections.load(SeqCst) < CALLS / 2, "{connections:?}");
}
