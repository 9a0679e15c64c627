//! What is counted by pod, and of which ports.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use proxy_api::v1beta1 as api;

use crate::common::{Bed, Client, Origin, dead, endpoint, http2_client, reserve, speaks, within};

fn pod(route: &mut api::Route, address: std::net::SocketAddr, name: &str) {
    route.listeners[0].stable.push(api::Endpoint { pod: name.into(), ..endpoint(address) });
}

async fn origin(status: u16) -> Origin {
    let answer = move |_| async move {
        let mut response = Response::new(Full::from("x"));
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
        response
    };
    Origin::new(answer).await
}

fn told(counters: &api::ArmCounters) -> Vec<(&str, u64, u64)> {
    counters.pods.iter().map(|pod| (pod.pod.as_str(), pod.completed, pod.errors)).collect()
}

#[tokio::test]
async fn each_stable_pod_answers_for_its_own_requests() {
    let (good, bad) = (origin(200).await, origin(500).await);
    let mut kept = None;
    let mut bed = Bed::new(|route| {
        pod(route, good.address, "good");
        kept = Some(route.clone());
    })
    .await;
    // One pod after the other: which of two gets a request is chance.
    for _ in 0..3 {
        assert_eq!(bed.get("/").await.status, 200);
    }
    let mut route = kept.unwrap();
    route.listeners[0].stable.clear();
    pod(&mut route, bad.address, "bad");
    bed.apply(&route).await;
    let mut client = bed.connect().await;
    assert_eq!(client.get("/").await.status, 500);
    let counters = bed.counters(api::Arm::Stable);
    assert_eq!(told(&counters), [("bad", 1, 1), ("good", 3, 0)], "a pod that left is told once more");
    assert!(counters.pods.iter().all(|pod| pod.latency_count.iter().sum::<u64>() == pod.completed));
    assert_eq!(told(&bed.counters(api::Arm::Stable)), [("bad", 1, 1)]);
}

#[tokio::test]
async fn http2_counts_by_pod_too() {
    let good = origin(200).await;
    let bed = Bed::new(|route| {
        speaks(route, api::Protocol::Http);
        pod(route, good.address, "good");
    })
    .await;
    let mut sender = http2_client(bed.port).await;
    let request = Request::get("http://web/").body(Full::<Bytes>::default()).unwrap();
    let answer = within(sender.send_request(request)).await.unwrap();
    drop(within(http_body_util::BodyExt::collect(answer.into_body())).await.unwrap());
    assert_eq!(told(&bed.counters(api::Arm::Stable)), [("good", 1, 0)]);
}

#[tokio::test]
async fn the_canarys_failure_is_no_stable_pods() {
    let good = origin(200).await;
    let nobody = dead().await;
    let bed = Bed::new(|route| {
        route.weight = 100;
        pod(route, good.address, "good");
        route.listeners[0].canary.push(endpoint(nobody));
    })
    .await;
    assert_eq!(bed.get("/").await.status, 200, "stable answers instead");
    assert_eq!(bed.counters(api::Arm::Canary).errors, 1);
    assert_eq!(bed.counters(api::Arm::Stable).started, 0);
}

#[tokio::test]
async fn a_port_that_is_not_split_counts_for_no_arm() {
    let (good, further) = (origin(200).await, reserve());
    let bed = Bed::new(|route| {
        pod(route, good.address, "good");
        let port = api::Listener { port: further.port.into(), split: false, ..route.listeners[0].clone() };
        route.listeners.push(port);
    })
    .await;
    assert_eq!(Client::connect(further.port).await.get("/").await.status, 200);
    assert_eq!(bed.counters(api::Arm::Stable).started, 0);
    assert_eq!(bed.get("/").await.status, 200);
    assert_eq!(bed.counters(api::Arm::Stable).started, 1);
}
