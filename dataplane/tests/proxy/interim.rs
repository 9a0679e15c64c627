//! Interim answers (1xx) reach clients of either version from endpoints of either version.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use dataplane::interim::MAX_INTERIM;
use h2::client::ResponseFuture;
use http::{Request, Response, StatusCode};
use proxy_api::v1beta1 as api;
use tokio::io::AsyncWriteExt;

use crate::common::{Bed, raw_origin, read_head, speaks, stable, within};
use crate::frames;

/// An HTTP/1.1 endpoint that says `words` to every request, and counts them.
async fn says(words: String) -> (SocketAddr, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let address = raw_origin(move |_, mut stream| {
        let (words, count) = (words.clone(), Arc::clone(&count));
        async move {
            while read_head(&mut stream).await.is_some() {
                count.fetch_add(1, SeqCst);
                stream.write_all(words.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    (address, asked)
}

async fn http1(address: SocketAddr) -> Bed {
    Bed::to(address, api::Protocol::Http).await
}

fn get() -> Request<()> {
    Request::get("http://web/").body(()).unwrap()
}

/// What comes before an answer, and the answer.
async fn heads(mut answer: ResponseFuture) -> (Vec<Response<()>>, Result<StatusCode, h2::Error>) {
    let mut interims = Vec::new();
    while let Some(head) = within(std::future::poll_fn(|context| answer.poll_informational(context))).await {
        match head {
            Ok(head) => interims.push(head),
            Err(error) => return (interims, Err(error)),
        }
    }
    (interims, within(answer).await.map(|answer| answer.status()))
}

fn statuses(heads: &[Response<()>]) -> Vec<u16> {
    heads.iter().map(|head| head.status().as_u16()).collect()
}

/// Response flags of the stable arm, with their counts.
fn flags(bed: &Bed) -> Vec<String> {
    bed.counters(api::Arm::Stable);
    let metrics = bed.metrics();
    let lines = metrics.lines().filter(|line| line.starts_with("sluice_proxy_response_flags_total{"));
    let flags = lines.filter(|line| !line.ends_with(" 0")).map(|line| {
        let flag = line.split("flag=\"").nth(1).unwrap().split('"').next().unwrap();
        format!("{flag} {}", line.rsplit(' ').next().unwrap())
    });
    flags.collect()
}

#[tokio::test]
async fn they_pass_between_http2_and_http2() {
    let (bed, mut streams) = frames::bed().await;
    let mut client = frames::connect(&bed).await;
    let request = Request::post("http://web/").header("expect", "100-continue").body(()).unwrap();
    let (answer, mut body) = client.send_request(request, false).unwrap();
    let (request, mut respond) = within(streams.recv()).await.unwrap();
    assert_eq!(request.headers()["expect"], "100-continue");
    let hint = Response::builder().status(103).header("link", "</a.css>").header("proxy-authenticate", "x");
    respond.send_informational(hint.body(()).unwrap()).unwrap();
    respond.send_informational(Response::builder().status(100).body(()).unwrap()).unwrap();
    let mut answer = answer;
    let next = async |answer: &mut ResponseFuture| {
        let head = within(std::future::poll_fn(|context| answer.poll_informational(context))).await;
        head.unwrap().unwrap()
    };
    let hint = next(&mut answer).await;
    assert_eq!((hint.status().as_u16(), &hint.headers()["link"]), (103, &"</a.css>".parse().unwrap()));
    assert_eq!(hint.headers().len(), 1, "what is for the next hop stays there: {hint:?}");
    assert_eq!(next(&mut answer).await.status(), 100);
    // It has waited for this.
    body.send_data("hi".into(), true).unwrap();
    let mut said = request.into_body();
    assert_eq!(within(said.data()).await.unwrap().unwrap(), "hi");
    respond.send_response(Response::builder().status(201).body(()).unwrap(), true).unwrap();
    assert_eq!(within(answer).await.unwrap().status(), 201);
    assert_eq!(bed.counters(api::Arm::Stable).succeeded, 1);
}

#[tokio::test]
async fn they_pass_from_http1_to_http2() {
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
                Content-Length: 3\r\n\r\n";
    let (address, asked) = says(format!("{hint}HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")).await;
    let bed = http1(address).await;
    let mut client = frames::connect(&bed).await;
    let (interims, status) = heads(client.send_request(get(), true).unwrap().0).await;
    assert_eq!((statuses(&interims), status.unwrap().as_u16()), (vec![103], 204), "a 100 is for those who wait for it");
    assert_eq!((interims[0].headers().len(), &interims[0].headers()["link"]), (1, &"</a.css>".parse().unwrap()));
    let waits = Request::put("http://web/").header("expect", "100-continue").body(()).unwrap();
    let (answer, mut body) = client.send_request(waits, false).unwrap();
    let (interims, status) = heads(answer).await;
    assert_eq!((statuses(&interims), status.unwrap().as_u16()), (vec![103, 100], 204));
    // Its answer has come: it may have been told that it need not go on.
    let _ = body.send_data(Bytes::new(), true);
    assert_eq!(asked.load(SeqCst), 2);
}

#[tokio::test]
async fn as_many_as_may_be_pass_and_one_more_is_no_answer() {
    let hints = |count: u32| "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(count as usize);
    for (more, wanted) in [(0, 200), (1, 502)] {
        let all = hints(MAX_INTERIM + more);
        let bed = http1(says(format!("{all}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")).await.0).await;
        let (interims, status) = heads(frames::connect(&bed).await.send_request(get(), true).unwrap().0).await;
        assert_eq!(status.unwrap().as_u16(), wanted, "from HTTP/1 to HTTP/2");
        assert!(interims.len() <= MAX_INTERIM as usize && (more > 0 || interims.len() == MAX_INTERIM as usize));
        assert_eq!(flags(&bed), vec!["UPE 1"; more as usize]);

        let mut client = bed.connect().await;
        client.0.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await.unwrap();
        for _ in 0..MAX_INTERIM {
            assert_eq!(client.answer().await.unwrap().status, 103, "from HTTP/1 to HTTP/1");
        }
        assert_eq!(client.answer().await.unwrap().status, wanted);

        let (bed, mut streams) = frames::bed().await;
        let (answer, _) = frames::connect(&bed).await.send_request(get(), true).unwrap();
        let (_, mut respond) = within(streams.recv()).await.unwrap();
        for _ in 0..MAX_INTERIM + more {
            respond.send_informational(Response::builder().status(103).body(()).unwrap()).unwrap();
        }
        if more == 0 {
            respond.send_response(Response::new(()), true).unwrap();
        }
        let (interims, status) = heads(answer).await;
        assert_eq!((interims.len(), status.unwrap().as_u16()), (MAX_INTERIM as usize, wanted), "over HTTP/2");
        assert_eq!(flags(&bed), vec!["UPE 1"; more as usize]);
    }
}

#[tokio::test]
async fn an_unasked_101_is_a_bad_answer() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let bed = http1(says(switch.into()).await.0).await;
    let (interims, status) = heads(frames::connect(&bed).await.send_request(get(), true).unwrap().0).await;
    assert_eq!((interims.len(), status.unwrap().as_u16()), (0, 502));
    assert_eq!(flags(&bed), ["UPE 1"]);
}

#[tokio::test]
async fn they_pass_from_http2_to_http1() {
    let (address, mut streams) = frames::origin().await;
    let bed = Bed::to(address, api::Protocol::H2c).await;
    let mut client = bed.connect().await;
    let waits = "POST / HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    client.0.write_all(waits.as_bytes()).await.unwrap();
    let (request, mut respond) = within(streams.recv()).await.unwrap();
    assert_eq!(request.headers()["expect"], "100-continue");
    let hint = Response::builder().status(103).header("link", "</a.css>").header("proxy-authenticate", "x");
    respond.send_informational(hint.body(()).unwrap()).unwrap();
    let hint = client.answer().await.unwrap();
    assert_eq!(hint.head, "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n");
    respond.send_informational(Response::builder().status(100).body(()).unwrap()).unwrap();
    assert_eq!(client.answer().await.unwrap().status, 100);
    client.0.write_all(b"hi").await.unwrap();
    let mut said = request.into_body();
    assert_eq!(within(said.data()).await.unwrap().unwrap(), "hi");
    respond.send_response(Response::builder().status(201).body(()).unwrap(), true).unwrap();
    assert_eq!(client.answer().await.unwrap().status, 201);

    // Another request over the same connection: as many as may be, and one more.
    client.0.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await.unwrap();
    let (_, mut respond) = within(streams.recv()).await.unwrap();
    respond.send_informational(Response::builder().status(100).body(()).unwrap()).unwrap();
    for _ in 0..MAX_INTERIM {
        respond.send_informational(Response::builder().status(103).body(()).unwrap()).unwrap();
    }
    for _ in 1..MAX_INTERIM {
        assert_eq!(client.answer().await.unwrap().status, 103, "a 100 is for those who wait for it");
    }
    assert_eq!(client.answer().await.unwrap().status, 502);
    assert_eq!(flags(&bed), ["UPE 1"]);

    // HTTP/1.0 knows none.
    client.0.write_all(b"GET / HTTP/1.0\r\nHost: web\r\n\r\n").await.unwrap();
    let (_, mut respond) = within(streams.recv()).await.unwrap();
    respond.send_informational(Response::builder().status(103).body(()).unwrap()).unwrap();
    respond.send_response(Response::builder().status(204).body(()).unwrap(), true).unwrap();
    assert_eq!(client.answer().await.unwrap().status, 204);
}

/// Who has heard an interim answer of one endpoint gets no answer of another one.
#[tokio::test]
async fn after_one_nothing_is_asked_again() {
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
    let quiet = "HTTP/1.1 100 Continue\r\n\r\n";
    let failed = "HTTP/1.1 503 Sorry\r\nContent-Length: 0\r\n\r\n";
    for (words, wanted) in [(format!("{hint}{failed}"), 1), (format!("{quiet}{failed}"), 3)] {
        let (address, asked) = says(words).await;
        let bed = Bed::new(|route| {
            stable(route, address);
            speaks(route, api::Protocol::Http);
            let retries = api::Retries { attempts: 2, retry_on: "5xx".into(), ..Default::default() };
            route.http = Some(api::HttpPolicy { retries: Some(retries), ..Default::default() });
        })
        .await;
        let (interims, status) = heads(frames::connect(&bed).await.send_request(get(), true).unwrap().0).await;
        assert_eq!((interims.len(), status.unwrap().as_u16()), (usize::from(wanted == 1), 503));
        assert_eq!(asked.load(SeqCst), wanted);
    }
}

/// The endpoint closes a pooled connection after its hint: what may be sent twice is not.
#[tokio::test]
async fn after_one_nothing_is_sent_over_another_connection() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let address = raw_origin(move |_, mut stream| {
        let count = Arc::clone(&count);
        async move {
            read_head(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            read_head(&mut stream).await.unwrap();
            count.fetch_add(1, SeqCst);
            stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let bed = http1(address).await;
    let mut client = frames::connect(&bed).await;
    assert_eq!(heads(client.send_request(get(), true).unwrap().0).await.1.unwrap().as_u16(), 200);
    let (interims, status) = heads(client.send_request(get(), true).unwrap().0).await;
    assert_eq!((statuses(&interims), status.unwrap().as_u16(), asked.load(SeqCst)), (vec![103], 502, 1));
}
