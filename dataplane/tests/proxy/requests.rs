//! What happens to one request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::common::{Bed, Client, Origin, canary, dead, mk_route, raw_origin, read_head, stable, within};
use proxy_api::v1beta1 as api;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn one_thousand_requests_at_weight_10_are_split_900_to_100() {
    let (old, new) = (Origin::text("old").await, Origin::text("new").await);
    let bed = Bed::new(|route| {
        stable(route, old.address);
        canary(route, new.address);
        route.weight = 10;
    })
    .await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(bed.connect().await);
    }
    let mut to_canary = 0;
    for request in 0..1_000 {
        let answer = clients[request % 10].get("/").await;
        assert_eq!(answer.status, 200);
        to_canary += usize::from(answer.body == "new");
    }
    assert!((99..=101).contains(&to_canary), "{to_canary} of 1000 went to the canary");
    let counters = bed.counters(api::Arm::Canary);
    assert_eq!(counters.started, to_canary as u64);
    assert_eq!((counters.succeeded, counters.errors, counters.in_flight), (counters.started, 0, 0));
    assert_eq!((counters.revision.as_str(), counters.counter), ("new", 1));
    assert_eq!(counters.latency_count.iter().sum::<u64>(), counters.started);
    let line = format!(
        r#"sluice_proxy_requests_total{{canary_namespace="shop",canary="web",service="web",arm="canary",revision="new",code="200"}} {to_canary}"#
    );
    assert!(bed.metrics().contains(&line), "{}", bed.metrics());
    assert!(new.connections.load(SeqCst) <= 10, "connections to endpoints are reused");
}

#[tokio::test]
async fn a_canary_without_endpoint_is_served_by_stable_and_counted_against_the_canary() {
    let old = Origin::text("old").await;
    let bed = Bed::new(|route| {
        stable(route, old.address);
        route.weight = 100;
    })
    .await;
    let answer = bed.get("/").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "old"));
    let counters = bed.counters(api::Arm::Canary);
    assert_eq!((counters.started, counters.errors, counters.no_endpoint, counters.succeeded), (1, 1, 1, 0));
    assert!(bed.metrics().contains(r#"arm="canary",revision="new",code="503"} 1"#));
    assert_eq!(bed.counters(api::Arm::Stable).started, 0);
}

#[tokio::test]
async fn a_canary_that_refuses_connections_is_served_by_stable() {
    let (old, new) = (Origin::text("old").await, dead().await);
    let bed = Bed::new(|route| {
        stable(route, old.address);
        canary(route, new);
        route.weight = 100;
    })
    .await;
    let answer = bed.connect().await.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\n\r\nhi").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "old"));
    assert_eq!(bed.counters(api::Arm::Canary).no_endpoint, 1);
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_costs_no_request() {
    let (old, gone) = (Origin::text("old").await, dead().await);
    let bed = Bed::new(|route| {
        stable(route, gone);
        stable(route, old.address);
    })
    .await;
    for _ in 0..20 {
        assert_eq!(bed.get("/").await.status, 200);
    }
    assert_eq!(bed.counters(api::Arm::Stable).errors, 0);
}

#[tokio::test]
async fn no_endpoint_at_all_is_a_503() {
    let bed = Bed::new(|_| {}).await;
    let answer = bed.get("/").await;
    assert_eq!((answer.status, answer.body.as_str()), (503, "no endpoint can be reached\n"));
    assert_eq!(bed.counters(api::Arm::Stable).no_endpoint, 1);
}

#[tokio::test]
async fn a_pooled_connection_that_the_endpoint_closed_costs_no_request() {
    // Answers one request per connection, promises to keep it open, and closes it when the next request comes.
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let address = raw_origin(move |_, mut stream| {
        let served = Arc::clone(&count);
        async move {
            read_head(&mut stream).await.unwrap();
            served.fetch_add(1, SeqCst);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            read_head(&mut stream).await;
        }
    })
    .await;
    let bed = Bed::new(|route| stable(route, address)).await;
    let mut client = bed.connect().await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(served.load(SeqCst), 10);
    assert_eq!(bed.counters(api::Arm::Stable).errors, 0);
}

#[tokio::test]
async fn a_post_that_may_have_been_served_is_not_sent_twice() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let address = raw_origin(move |_, mut stream| {
        let seen = Arc::clone(&count);
        async move {
            while read_head(&mut stream).await.is_some() {
                let mut body = [0; 2];
                stream.read_exact(&mut body).await.unwrap();
                if seen.fetch_add(1, SeqCst) > 0 {
                    return;
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            }
        }
    })
    .await;
    let bed = Bed::new(|route| stable(route, address)).await;
    let mut client = bed.connect().await;
    let post = "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\n\r\nhi";
    assert_eq!(client.send(post).await.status, 200);
    assert_eq!(client.send(post).await.status, 502);
    assert_eq!(seen.load(SeqCst), 2);
}

#[tokio::test]
async fn a_request_over_its_time_is_a_504_and_a_failure() {
    let address = raw_origin(|_, mut stream| async move {
        read_head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let bed = Bed::new(|route| {
        stable(route, address);
        route.http = Some(api::HttpPolicy { request_timeout_ms: 50, connect_timeout_ms: 0, ..Default::default() });
    })
    .await;
    assert_eq!(bed.get("/").await.status, 504);
    let counters = bed.counters(api::Arm::Stable);
    assert_eq!((counters.started, counters.errors), (1, 1));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_a_failure_of_its_arm() {
    let address = raw_origin(|_, mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await.unwrap();
    })
    .await;
    let bed = Bed::new(|route| stable(route, address)).await;
    let mut client = bed.connect().await;
    client.0.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = within(client.0.read_to_end(&mut answer)).await;
    assert!(String::from_utf8_lossy(&answer).ends_with("half"));
    crate::common::eventually("the failure is counted", || bed.counters(api::Arm::Stable).errors == 1).await;
    assert!(bed.metrics().contains(r#"code="502"} 1"#));
}

#[tokio::test]
async fn a_client_that_goes_away_says_nothing_against_the_arm() {
    let address = raw_origin(|_, mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await.unwrap();
        while stream.write_all(&[b'x'; 1000]).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let bed = Bed::new(|route| stable(route, address)).await;
    let mut client = bed.connect().await;
    client.0.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await.unwrap();
    read_head(&mut client.0).await.unwrap();
    drop(client);
    crate::common::eventually("the end is counted", || bed.in_flight() == 0).await;
    let counters = bed.counters(api::Arm::Stable);
    assert_eq!((counters.client_errors + counters.succeeded, counters.errors), (1, 0));
}

#[tokio::test]
async fn bodies_pass_both_ways_by_length_and_in_chunks() {
    let echo = Origin::new(|request| async move {
        let length = request.headers().contains_key("content-length");
        let body = http_body_util::BodyExt::collect(request.into_body()).await.unwrap().to_bytes();
        http::Response::builder().header("had-length", length.to_string()).body(body.into()).unwrap()
    })
    .await;
    let bed = Bed::new(|route| stable(route, echo.address)).await;
    let mut client = bed.connect().await;
    let answer = client.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!((answer.body.as_str(), answer.header("had-length")), ("hello", Some("true")));
    let chunked = "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
    let answer = client.send(chunked).await;
    assert_eq!((answer.body.as_str(), answer.header("had-length")), ("hello", Some("false")));
}

#[tokio::test]
async fn a_websocket_passes_both_ways_after_the_101() {
    let address = raw_origin(|_, mut stream| async move {
        let head = read_head(&mut stream).await.unwrap().to_lowercase();
        assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
        let accept = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello";
        stream.write_all(accept.as_bytes()).await.unwrap();
        let mut said = [0; 4];
        stream.read_exact(&mut said).await.unwrap();
        stream.write_all(&said).await.unwrap();
    })
    .await;
    let bed = Bed::new(|route| stable(route, address)).await;
    let mut client = bed.connect().await;
    let handshake = "GET /ws HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let answer = client.send(handshake).await;
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
    client.0.write_all(b"ping").await.unwrap();
    let mut said = String::new();
    within(client.0.read_to_string(&mut said)).await.unwrap();
    assert_eq!(said, "helloping");
}

#[tokio::test]
async fn a_tcp_port_is_spliced_to_stable() {
    let address = raw_origin(|_, mut stream| async move {
        stream.write_all(b"server speaks first;").await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        stream.write_all(said.to_uppercase().as_bytes()).await.unwrap();
    })
    .await;
    let bed = Bed::new(|route| {
        stable(route, address);
        route.listeners[0].split = false;
        route.weight = 100;
    })
    .await;
    let mut client = bed.connect().await;
    client.0.write_all(b"half-closed").await.unwrap();
    client.0.shutdown().await.unwrap();
    let mut said = String::new();
    within(client.0.read_to_string(&mut said)).await.unwrap();
    assert_eq!(said, "server speaks first;HALF-CLOSED");
}

#[tokio::test]
async fn one_thousand_changes_of_weight_lose_no_request_and_keep_the_share() {
    let (old, new) = (Origin::text("old").await, Origin::text("new").await);
    let mut route = mk_route(0);
    stable(&mut route, old.address);
    canary(&mut route, new.address);
    let mut bed = Bed::new(|r| {
        route.listeners[0].port = r.listeners[0].port;
        *r = route.clone();
    })
    .await;
    let mut client = bed.connect().await;
    let (mut owed, mut got) = (0, 0);
    for change in 0..1_000_u64 {
        route.counter += 1;
        route.weight = (change * 37 % 101) as u32;
        bed.apply(&route).await;
        let answer = client.get("/").await;
        assert_eq!(answer.status, 200);
        owed += route.weight;
        got += u32::from(answer.body == "new");
    }
    assert!((owed / 100).abs_diff(got) <= 2, "{got} of {owed} / 100");
}

#[tokio::test]
async fn two_requests_in_one_packet_are_answered_in_order() {
    let echo = Origin::new(|request| async move {
        if request.uri().path() == "/slow" {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        http::Response::new(request.uri().path().to_owned().into())
    })
    .await;
    let bed = Bed::new(|route| stable(route, echo.address)).await;
    let mut client: Client = bed.connect().await;
    let both = "GET /slow HTTP/1.1\r\nHost: web\r\n\r\nGET /fast HTTP/1.1\r\nHost: web\r\n\r\n";
    assert_eq!(client.send(both).await.body, "/slow");
    assert_eq!(client.answer().await.unwrap().body, "/fast");
}
