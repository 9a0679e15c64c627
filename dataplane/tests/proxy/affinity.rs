//! Sticky sessions and A/B audiences, over both versions of HTTP.

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Empty};
use proxy_api::v1beta1 as api;

use crate::common::{Answer, Bed, Client, Origin, canary, http2_client, mk_route, set_cookie, speaks, stable, within};

struct Both {
    bed: Bed,
    route: api::Route,
    _origins: [Origin; 2],
}

impl Both {
    async fn new(affinity: api::Affinity, protocol: api::Protocol) -> Self {
        let origins = [Origin::text("old").await, Origin::text("new").await];
        let mut route = mk_route(0);
        stable(&mut route, origins[0].address);
        canary(&mut route, origins[1].address);
        (route.weight, route.affinity) = (10, Some(affinity));
        speaks(&mut route, protocol);
        let bed = Bed::new(|given| {
            route.listeners[0].port = given.listeners[0].port;
            *given = route.clone();
        })
        .await;
        Self { bed, route, _origins: origins }
    }

    async fn weight(&mut self, weight: u32) {
        self.route.weight = weight;
        self.route.counter += 1;
        self.bed.apply(&self.route).await;
    }
}

fn by_cookie() -> api::Affinity {
    api::Affinity { cookie: "sid".into(), max_age_seconds: 3_600, header: String::new() }
}

async fn ask(client: &mut Client, field: &str) -> Answer {
    client.send(&format!("GET / HTTP/1.1\r\nHost: web\r\n{field}\r\n")).await
}

fn cookie(set: &str) -> String {
    set_cookie(set, 3_600)
}

#[tokio::test]
async fn who_saw_the_canary_keeps_it_while_the_weight_rises_and_nobody_does_after_a_rollback() {
    let mut both = Both::new(by_cookie(), api::Protocol::Unspecified).await;
    let mut client = both.bed.connect().await;
    let mut jars = Vec::new();
    for _ in 0..200 {
        let answer = ask(&mut client, "").await;
        jars.push((cookie(answer.header("set-cookie").unwrap()), answer.body));
    }
    let first = jars.iter().filter(|(_, body)| body == "new").count();
    assert!((19..=21).contains(&first), "new clients are split exactly: {first} of 200");
    for weight in [10, 40, 90, 100] {
        both.weight(weight).await;
        for (jar, saw) in &mut jars {
            let answer = ask(&mut client, &format!("Cookie: a=b; {jar}\r\n")).await;
            assert_eq!(answer.header("set-cookie"), None, "a client is told once");
            assert!(weight > 10 || answer.body == *saw, "at the same weight everybody stays");
            assert!(saw != "new" || answer.body == "new", "{jar} left the canary at {weight}");
            *saw = answer.body;
        }
    }
    both.weight(0).await;
    for (jar, _) in &jars {
        let answer = ask(&mut client, &format!("Cookie: {jar}\r\n")).await;
        assert_eq!((answer.body.as_str(), answer.header("set-cookie")), ("old", None));
    }
}

#[tokio::test]
async fn a_cookie_that_is_not_ours_is_no_cookie() {
    let both = Both::new(by_cookie(), api::Protocol::Unspecified).await;
    let mut client = both.bed.connect().await;
    let mut canaries = 0;
    for request in 0..100 {
        let forged = ["sid=", "sid=0", "sid=00000000.00", "sid=zzzzzzzz.00"][request % 4];
        let answer = ask(&mut client, &format!("Cookie: {forged}\r\n")).await;
        cookie(answer.header("set-cookie").unwrap());
        canaries += usize::from(answer.body == "new");
    }
    assert!((9..=11).contains(&canaries), "{canaries} of 100");
}

#[tokio::test]
async fn a_header_pins_a_user_without_a_cookie() {
    let affinity = api::Affinity { header: "x-user".into(), ..Default::default() };
    let mut both = Both::new(affinity, api::Protocol::Unspecified).await;
    let mut client = both.bed.connect().await;
    both.weight(50).await;
    let mut saw = Vec::new();
    for round in 0..3 {
        for user in 0..40 {
            let answer = ask(&mut client, &format!("X-User: {user}\r\n")).await;
            assert_eq!(answer.header("set-cookie"), None);
            if round == 0 {
                saw.push(answer.body);
            } else {
                assert_eq!(answer.body, saw[user]);
            }
        }
    }
    assert!(saw.contains(&"old".to_owned()) && saw.contains(&"new".to_owned()));
}

#[tokio::test]
async fn an_http2_client_is_told_and_stays_too() {
    let both = Both::new(by_cookie(), api::Protocol::Http).await;
    let mut sender = http2_client(both.bed.port).await;
    let mut ask = async |jar: Option<&str>| {
        let mut request = Request::get("http://web/").version(Version::HTTP_2);
        // One cookie per field is what HTTP/2 clients may send.
        for pair in jar.into_iter().chain(["a=b"]) {
            request = request.header("cookie", pair);
        }
        let answer = within(sender.send_request(request.body(Empty::<Bytes>::new()).unwrap())).await.unwrap();
        let told = answer.headers().get("set-cookie").map(|value| cookie(value.to_str().unwrap()));
        (told, answer.into_body().collect().await.unwrap().to_bytes())
    };
    let mut canaries = 0;
    for _ in 0..50 {
        let (told, saw) = ask(None).await;
        canaries += usize::from(saw == "new");
        let jar = told.unwrap();
        assert_eq!(ask(Some(&jar)).await, (None, saw));
    }
    assert!((4..=6).contains(&canaries), "{canaries} of 50");
}

/// Two matches, by a header and by a cookie.
fn audience() -> Vec<api::Match> {
    let text = |kind| Some(api::TextMatch { kind: Some(kind) });
    let one = |name: &str, kind| api::Match {
        headers: vec![api::NamedMatch { name: name.into(), value: text(kind) }],
        ..Default::default()
    };
    use api::text_match::Kind::{Exact, Regex};
    vec![one("x-beta", Exact("yes".into())), one("cookie", Regex("(.*; )?group=b(;.*)?".into()))]
}

#[tokio::test]
async fn at_full_weight_the_audience_sees_the_canary_and_nobody_else_does() {
    let mut both = Both::new(by_cookie(), api::Protocol::Unspecified).await;
    both.route.audience = audience();
    both.weight(100).await;
    let mut client = both.bed.connect().await;
    for _ in 0..20 {
        for (field, saw) in [
            ("X-Beta: yes\r\n", "new"),
            ("Cookie: a=b; group=b\r\n", "new"),
            ("X-Beta: no\r\n", "old"),
            ("Cookie: group=c\r\n", "old"),
            ("", "old"),
        ] {
            let answer = ask(&mut client, field).await;
            assert_eq!((answer.body.as_str(), answer.header("set-cookie")), (saw, None), "{field}");
        }
    }
    assert_eq!(both.bed.counters(api::Arm::Canary).started, 40);
    both.route.audience.clear();
    both.weight(100).await;
    assert_eq!(ask(&mut client, "").await.body, "new");
}

#[tokio::test]
async fn the_weight_splits_the_audience_exactly_whoever_else_comes() {
    let mut both = Both::new(by_cookie(), api::Protocol::Unspecified).await;
    (both.route.audience, both.route.affinity) = (audience(), None);
    both.weight(20).await;
    let mut client = both.bed.connect().await;
    let mut canaries = 0;
    for _ in 0..100 {
        assert_eq!(ask(&mut client, "").await.body, "old");
        canaries += usize::from(ask(&mut client, "X-Beta: yes\r\n").await.body == "new");
    }
    assert!((19..=21).contains(&canaries), "{canaries} of 100");
}

#[tokio::test]
async fn an_audience_is_told_by_its_http2_headers_too() {
    let mut both = Both::new(by_cookie(), api::Protocol::Http).await;
    both.route.audience = audience();
    both.weight(100).await;
    let mut sender = http2_client::<Empty<Bytes>>(both.bed.port).await;
    for (name, value, saw) in [("x-beta", "yes", "new"), ("x-beta", "no", "old"), ("cookie", "group=b", "new")] {
        let request = Request::get("http://web/").version(Version::HTTP_2).header(name, value);
        let answer = within(sender.send_request(request.body(Empty::new()).unwrap())).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), saw, "{name}: {value}");
    }
}
