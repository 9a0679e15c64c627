//! Endpoints that fail one request after the other: left out within their arm, and back in after their time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use proxy_api::v1beta1 as api;

use crate::common::{Bed, Origin, canary, dead, http2_client, speaks, stable, within};

/// Longer than any test: who is ejected stays out.
const LONG_MS: u64 = 3_600_000;

fn outliers(route: &mut api::Route, change: impl FnOnce(&mut api::OutlierDetection)) {
    let mut outliers = api::OutlierDetection { base_ejection_time_ms: LONG_MS, ..Default::default() };
    change(&mut outliers);
    route.traffic_policy = Some(api::TrafficPolicy { outlier_detection: Some(outliers), ..Default::default() });
}

/// A stable arm of `endpoints` that leaves out what fails.
async fn among<const N: usize>(endpoints: [SocketAddr; N], change: impl FnOnce(&mut api::OutlierDetection)) -> Bed {
    Bed::new(|route| {
        endpoints.into_iter().for_each(|endpoint| stable(route, endpoint));
        outliers(route, change);
    })
    .await
}

/// An endpoint whose status can be changed, and which counts what it is asked.
struct Pod {
    origin: Origin,
    status: Arc<AtomicU16>,
    asked: Arc<AtomicUsize>,
}

impl Pod {
    async fn new(status: u16) -> Self {
        let (status, asked) = (Arc::new(AtomicU16::new(status)), Arc::new(AtomicUsize::new(0)));
        let (now, count) = (Arc::clone(&status), Arc::clone(&asked));
        let origin = Origin::new(move |_| {
            count.fetch_add(1, SeqCst);
            let status = now.load(SeqCst);
            async move { Response::builder().status(status).body(Full::from("pod")).unwrap() }
        })
        .await;
        Self { origin, status, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

/// One request after the other is done with before the next, so that its answer counts; how many failed.
async fn ask(bed: &Bed, requests: usize) -> usize {
    let mut client = bed.connect().await;
    let mut failed = 0;
    for _ in 0..requests {
        failed += usize::from(client.get("/").await.status >= 500);
        bed.counters(api::Arm::Stable);
    }
    failed
}

/// For what comes true by chance: an endpoint that was slow once on a busy machine is rarely asked for a minute.
async fn patiently(what: impl Future<Output = ()>) {
    tokio::time::timeout(Duration::from_secs(120), what).await.expect("should take less than two minutes");
}

fn line(bed: &Bed, name: &str, arm: &str) -> Option<u64> {
    let metrics = bed.metrics();
    let line = metrics
        .lines()
        .find(|line| line.starts_with(&format!("{name}{{")) && line.contains(&format!("arm=\"{arm}\"")))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test]
async fn a_pod_that_answers_500_five_times_is_left_out_and_the_others_serve() {
    let (bad, good, more) = (Pod::new(500).await, Pod::new(200).await, Pod::new(200).await);
    let bed = among([&bad, &good, &more].map(|pod| pod.origin.address), |_| {}).await;
    patiently(async {
        while bad.asked() < 5 {
            ask(&bed, 1).await;
        }
    })
    .await;
    let before = good.asked() + more.asked();
    assert_eq!(ask(&bed, 50).await, 0);
    assert_eq!((bad.asked(), good.asked() + more.asked()), (5, before + 50));
    assert_eq!(line(&bed, "sluice_proxy_outlier_ejections_total", "stable"), Some(1));
    assert_eq!(line(&bed, "sluice_proxy_outlier_ejected_endpoints", "stable"), Some(1));
    assert_eq!(bed.counters(api::Arm::Stable).errors, 5, "what was counted stays counted");
}

#[tokio::test]
async fn a_success_in_between_begins_the_count_anew() {
    let (pod, other) = (Pod::new(500).await, Pod::new(200).await);
    let change = |outliers: &mut api::OutlierDetection| outliers.consecutive_5xx_errors = Some(3);
    let bed = among([&pod, &other].map(|pod| pod.origin.address), change).await;
    let mut seen = 0;
    patiently(async {
        while pod.asked() < 30 {
            ask(&bed, 1).await;
            if pod.asked() > seen {
                seen = pod.asked();
                pod.status.store(if seen % 3 == 2 { 200 } else { 500 }, SeqCst);
            }
        }
    })
    .await;
    assert_eq!(line(&bed, "sluice_proxy_outlier_ejections_total", "stable"), Some(0));
}

#[tokio::test]
async fn it_is_back_when_its_time_is_over() {
    let (pod, good) = (Pod::new(500).await, Pod::new(200).await);
    let change = |outliers: &mut api::OutlierDetection| {
        (outliers.consecutive_5xx_errors, outliers.base_ejection_time_ms) = (Some(1), 200);
    };
    let bed = among([&pod, &good].map(|pod| pod.origin.address), change).await;
    patiently(async {
        while pod.asked() == 0 {
            ask(&bed, 1).await;
        }
        pod.status.store(200, SeqCst);
        while pod.asked() < 2 {
            assert_eq!(ask(&bed, 1).await, 0);
        }
    })
    .await;
    assert_eq!(line(&bed, "sluice_proxy_outlier_ejections_total", "stable"), Some(1));
    assert_eq!(line(&bed, "sluice_proxy_outlier_ejected_endpoints", "stable"), Some(0));
}

#[tokio::test]
async fn the_share_is_kept_whatever_fails() {
    let pods = [Pod::new(500).await, Pod::new(502).await, Pod::new(503).await, Pod::new(504).await];
    let change = |outliers: &mut api::OutlierDetection| outliers.consecutive_5xx_errors = Some(1);
    let bed = among(pods.each_ref().map(|pod| pod.origin.address), change).await;
    patiently(async {
        while line(&bed, "sluice_proxy_outlier_ejected_endpoints", "stable") != Some(2) {
            ask(&bed, 1).await;
        }
    })
    .await;
    let before = pods.each_ref().map(Pod::asked);
    assert_eq!(ask(&bed, 50).await, 50);
    let left_out = pods.iter().zip(before).filter(|(pod, before)| pod.asked() == *before).count();
    assert!(left_out >= 2, "half of four are left out");
    assert_eq!(line(&bed, "sluice_proxy_outlier_ejected_endpoints", "stable"), Some(2));
}

#[tokio::test]
async fn a_canary_that_fails_altogether_keeps_its_requests_and_its_failures() {
    let (old, one, two) = (Pod::new(200).await, Pod::new(500).await, Pod::new(500).await);
    let bed = Bed::new(|route| {
        stable(route, old.origin.address);
        for pod in [&one, &two] {
            canary(route, pod.origin.address);
        }
        route.weight = 50;
        outliers(route, |outliers| outliers.max_ejection_percent = Some(100));
    })
    .await;
    patiently(async {
        while line(&bed, "sluice_proxy_outlier_ejected_endpoints", "canary") != Some(1) {
            assert_eq!(ask(&bed, 2).await, 1);
        }
    })
    .await;
    assert_eq!(ask(&bed, 50).await, 25, "no request changes its arm because pods are left out");
    let counters = bed.counters(api::Arm::Canary);
    let asked = one.asked() + two.asked();
    assert_eq!((counters.started, counters.errors, counters.no_endpoint), (asked as u64, asked as u64, 0));
    assert_eq!(line(&bed, "sluice_proxy_outlier_ejected_endpoints", "canary"), Some(1), "the last one stays");
    assert_eq!(old.asked(), asked);
}

#[tokio::test]
async fn a_pod_that_is_left_out_is_asked_before_there_is_no_answer() {
    let (bad, gone) = (Pod::new(500).await, Origin::text("other").await);
    let mut bed = among([bad.origin.address, gone.address], |_| {}).await;
    patiently(async {
        while bad.asked() < 5 {
            ask(&bed, 1).await;
        }
    })
    .await;
    bad.status.store(200, SeqCst);
    let mut route = crate::common::mk_route(bed.port);
    stable(&mut route, bad.origin.address);
    stable(&mut route, dead().await);
    outliers(&mut route, |_| {});
    bed.apply(&route).await;
    assert_eq!(line(&bed, "sluice_proxy_outlier_ejected_endpoints", "stable"), Some(1), "a change brings nobody back");
    assert_eq!(ask(&bed, 10).await, 0);
    assert_eq!(bad.asked(), 15);
}

#[tokio::test]
async fn a_pod_that_takes_no_connection_is_left_out() {
    let good = Pod::new(200).await;
    let bad = dead().await;
    let change = |outliers: &mut api::OutlierDetection| {
        (outliers.consecutive_5xx_errors, outliers.consecutive_gateway_errors) = (Some(0), Some(1));
    };
    let bed = among([bad, good.origin.address], change).await;
    patiently(async {
        while line(&bed, "sluice_proxy_outlier_ejections_total", "stable") == Some(0) {
            assert_eq!(ask(&bed, 1).await, 0, "another one is asked at once");
        }
    })
    .await;
    let clusters = bed.admin("/clusters").await;
    let seen = |address: String| {
        let endpoints = clusters["ports"][0]["stable"].as_array().unwrap();
        endpoints.iter().find(|endpoint| endpoint["address"] == address.as_str()).unwrap()
    };
    let ejected = seen(bad.to_string())["ejectedForMs"].as_u64().unwrap();
    assert!((1..=LONG_MS).contains(&ejected), "{ejected}");
    assert_eq!(seen(bad.to_string())["ejections"], 1);
    assert!(seen(good.origin.address.to_string())["ejectedForMs"].is_null());
}

#[tokio::test]
async fn http2_endpoints_are_looked_at_likewise() {
    let (bad, good) = (Pod::new(503).await, Pod::new(200).await);
    let bed = Bed::new(|route| {
        for pod in [&bad, &good] {
            stable(route, pod.origin.address);
        }
        speaks(route, api::Protocol::Http);
        outliers(route, |_| {});
    })
    .await;
    let mut client = http2_client::<Full<Bytes>>(bed.port).await;
    let mut ask = async || {
        let request = Request::get(format!("http://127.0.0.1:{}/", bed.port)).version(Version::HTTP_2);
        let answer = within(client.send_request(request.body(Full::default()).unwrap())).await.unwrap();
        let status = answer.status().as_u16();
        within(answer.into_body().collect()).await.unwrap();
        bed.counters(api::Arm::Stable);
        status
    };
    patiently(async {
        while bad.asked() < 5 {
            ask().await;
        }
    })
    .await;
    for _ in 0..50 {
        assert_eq!(ask().await, 200);
    }
    assert_eq!(bad.asked(), 5);
}
