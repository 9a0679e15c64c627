//! What people see of a request: response flags, access log, traces, limits, the admin port.

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proxy_api::v1beta1 as api;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{Bed, Origin, dead, eventually, raw_origin, read_head, stable, within};

async fn h2(port: u16) -> SendRequest<Empty<Bytes>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn call(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://web{path}")).version(Version::HTTP_2).body(Empty::new()).unwrap()
}

/// Sends one request in each of both protocols and says which flags were counted for each.
async fn flags(change: impl Fn(&mut api::Route)) -> [Vec<String>; 2] {
    let mut seen = [Vec::new(), Vec::new()];
    for (http2, seen) in [false, true].into_iter().zip(&mut seen) {
        let bed = Bed::new(&change).await;
        if http2 {
            if let Ok(answer) = within(h2(bed.port).await.send_request(call("/"))).await {
                let _ = within(answer.into_body().collect()).await;
            }
        } else {
            let mut client = bed.connect().await.0;
            client.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await.unwrap();
            let _ = within(client.read_to_end(&mut Vec::new())).await;
        }
        bed.counters(api::Arm::Stable);
        *seen = flags_of(&bed.metrics());
    }
    seen
}

/// `<arm> <flag> <count>` of each series.
fn flags_of(metrics: &str) -> Vec<String> {
    let series = metrics.lines().filter_map(|line| line.strip_prefix("sluice_proxy_response_flags_total{"));
    let label = |series: &str, name: &str| {
        let (_, rest) = series.split_once(&format!("{name}=\"")).unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    };
    series
        .map(|series| {
            let count = series.rsplit(' ').next().unwrap();
            format!("{} {} {count}", label(series, "arm"), label(series, "flag"))
        })
        .collect()
}

#[tokio::test]
async fn the_flag_says_why_no_endpoint_answered() {
    assert_eq!(flags(|_| {}).await, [["stable UH 1"], ["stable UH 1"]]);
    let gone = dead().await;
    assert_eq!(flags(|route| stable(route, gone)).await, [["stable UF 1"], ["stable UF 1"]]);
    let closes = raw_origin(|_, mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 20").await.unwrap();
        stream.shutdown().await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    assert_eq!(flags(|route| stable(route, closes)).await, [["stable UC 1"], ["stable UC 1"]]);
    let breaks_off = raw_origin(|_, mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await.unwrap();
        stream.shutdown().await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    assert_eq!(flags(|route| stable(route, breaks_off)).await, [["stable UC 1"], ["stable UC 1"]]);
    let babbles = raw_origin(|_, mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 what\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    assert_eq!(flags(|route| stable(route, babbles)).await[0], ["stable UPE 1"]);
    let silent = raw_origin(|_, mut stream| async move {
        read_head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let hurried = |route: &mut api::Route| {
        stable(route, silent);
        route.http = Some(api::HttpPolicy { request_timeout_ms: 50, ..Default::default() });
    };
    assert_eq!(flags(hurried).await, [["stable UT 1"], ["stable UT 1"]]);
}

#[tokio::test]
async fn an_arm_without_endpoint_is_flagged_although_the_other_one_answered() {
    let origin = Origin::text("stable").await;
    let bed = Bed::new(|route| {
        stable(route, origin.address);
        route.weight = 100;
    })
    .await;
    assert_eq!(bed.get("/").await.status, 200);
    bed.counters(api::Arm::Canary);
    assert_eq!(flags_of(&bed.metrics()), ["canary UH 1"]);
}

#[tokio::test]
async fn a_good_request_has_no_flag_and_a_client_that_left_has_one() {
    let (asked, mut heard) = tokio::sync::mpsc::channel(1);
    let silent = raw_origin(move |_, mut stream| {
        let asked = asked.clone();
        async move {
            read_head(&mut stream).await;
            asked.send(()).await.unwrap();
            std::future::pending::<()>().await;
        }
    })
    .await;
    let origin = Origin::text("ok").await;
    let bed = Bed::new(|route| stable(route, origin.address)).await;
    assert_eq!(bed.get("/").await.status, 200);
    bed.counters(api::Arm::Stable);
    assert_eq!(flags_of(&bed.metrics()), Vec::<String>::new());

    let bed = Bed::new(|route| stable(route, silent)).await;
    let mut client = h2(bed.port).await;
    let mut waiting = Box::pin(client.send_request(call("/")));
    tokio::select! {
        _ = &mut waiting => panic!("nobody answers"),
        heard = within(heard.recv()) => heard.unwrap(),
    }
    drop((waiting, client));
    eventually("the client's end is flagged", || flags_of(&bed.metrics()) == ["stable DC 1"]).await;
}
