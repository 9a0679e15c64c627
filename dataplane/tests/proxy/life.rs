//! From start to drained.

use std::time::Duration;

use crate::common::{Bed, Client, Origin, mk_route, raw_origin, read_head, stable, within};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn a_drain_under_load_loses_no_request() {
    let origin = Origin::text("ok").await;
    let bed = Bed::new(|route| stable(route, origin.address)).await;
    let port = bed.port;
    let clients: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn(async move {
                let mut served = 0;
                // An ordinary client: keeps its connection until told to close it, then tries a new one.
                while let Ok(stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
                    let mut client = Client(stream);
                    loop {
                        let answer = client.get("/").await;
                        assert_eq!(answer.status, 200);
                        served += 1;
                        if answer.header("connection") == Some("close") {
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
                served
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    within(bed.proxy.drain(Duration::from_millis(500), Duration::from_secs(10))).await;
    for client in clients {
        assert!(within(client).await.unwrap() > 0);
    }
}

#[tokio::test]
async fn a_request_under_way_is_finished_while_draining() {
    let (answered, wait) = tokio::sync::watch::channel(false);
    let origin = raw_origin(move |_, mut stream| {
        let mut wait = wait.clone();
        async move {
            read_head(&mut stream).await.unwrap();
            wait.wait_for(|answered| *answered).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let bed = Bed::new(|route| stable(route, origin)).await;
    let (mut client, shared) = (bed.connect().await, bed.proxy.shared());
    client.0.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await.unwrap();
    crate::common::eventually("the request is under way", || {
        shared.registry.arm_counters().iter().any(|arm| arm.in_flight == 1)
    })
    .await;
    assert!(shared.ready());
    let drained = tokio::spawn(bed.proxy.drain(Duration::ZERO, Duration::from_secs(10)));
    crate::common::eventually("not ready any more", || !shared.ready()).await;
    answered.send_replace(true);
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.body.as_str(), answer.header("connection")), ("ok", Some("close")));
    assert!(client.closed().await);
    within(drained).await.unwrap();
}

#[tokio::test]
async fn a_port_closes_when_its_route_goes_and_answers_what_had_connected() {
    let origin = Origin::text("ok").await;
    let bed = Bed::new(|route| stable(route, origin.address)).await;
    let mut client = bed.connect().await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(bed.proxy.apply(bed.table.without(&mk_route(0).uid)).await.len(), 0);
    for _ in 0..500 {
        if tokio::net::TcpStream::connect(("127.0.0.1", bed.port)).await.is_err() {
            assert_eq!(client.get("/").await.status, 200, "open connections go on");
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the port is still open");
}

#[tokio::test]
async fn a_client_that_is_one_too_many_is_told_and_the_others_go_on() {
    let origin = Origin::text("ok").await;
    let bed = Bed::new(|route| stable(route, origin.address)).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = bed.connect().await;
        assert_eq!(client.get("/").await.status, 200);
        clients.push(client);
    }
    let mut refused = bed.connect().await;
    assert_eq!(refused.answer().await.unwrap().status, 503);
    assert!(refused.closed().await);
    assert_eq!(clients[0].get("/").await.status, 200);
    assert!(bed.metrics().contains("sluice_proxy_connections_refused_total 1"));
    clients.pop();
    crate::common::eventually("one has gone", || bed.proxy.shared().registry.open_connections() < 100).await;
    assert_eq!(bed.get("/").await.status, 200);
}
