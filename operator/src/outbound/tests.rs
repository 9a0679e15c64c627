use super::{
    fault::{Fault, FaultServer},
    *,
};

const LIMITS: Limits = Limits { deadline: Duration::from_millis(500), answer_bytes: 1024 };

fn mk_outbound(policy: Policy) -> Outbound {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Outbound::new(policy).unwrap()
}

fn local() -> Policy {
    Policy { loopback: true, ..Policy::default() }
}

async fn post(policy: Policy, url: &str) -> Result<Answer, OutboundError> {
    mk_outbound(policy).post(&parse_address(url).unwrap(), "text/plain", b"x".to_vec(), LIMITS).await
}

async fn against(fault: Fault) -> Result<Answer, OutboundError> {
    let server = FaultServer::start([fault]).await;
    post(local(), &server.url()).await
}

#[tokio::test]
async fn an_answer_comes_whole_whatever_its_status() {
    let answer = against(Fault::Answer { status: 503, headers: "retry-after: 9999\r\n", body: b"down".to_vec() }).await;
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (503, b"down".as_slice()));
    assert_eq!(answer.retry_after, Some(RETRY_AFTER_MAX), "a server cannot park us for hours");
}

#[tokio::test]
async fn a_long_answer_is_refused_with_and_without_a_declared_length() {
    let declared = against(Fault::Answer { status: 200, headers: "", body: vec![b' '; 1025] }).await;
    assert!(matches!(declared, Err(OutboundError::TooLarge { limit_bytes: 1024, .. })), "{declared:?}");
    let endless = against(Fault::Endless { bytes: 1 << 20 }).await;
    assert!(matches!(endless, Err(OutboundError::TooLarge { limit_bytes: 1024, .. })), "{endless:?}");
    let fits = against(Fault::Answer { status: 200, headers: "", body: vec![b' '; 1024] }).await;
    assert_eq!(fits.unwrap().body.len(), 1024);
}

#[tokio::test]
async fn the_deadline_covers_a_hang_and_a_dripping_body() {
    for fault in [Fault::Hang, Fault::Drip] {
        let result = against(fault.clone()).await;
        assert!(matches!(result, Err(OutboundError::Deadline { .. })), "{fault:?}: {result:?}");
        assert!(result.is_err_and(|error| error.passing()));
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = FaultServer::start([Fault::json(200, "{}")]).await;
    let location = Box::leak(format!("location: {}/\r\n", elsewhere.url()).into_boxed_str());
    let result = against(Fault::Answer { status: 307, headers: location, body: Vec::new() }).await;
    assert!(matches!(result, Err(OutboundError::Redirect { status: 307, .. })), "{result:?}");
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn a_broken_exchange_is_told_from_a_refused_connection() {
    for fault in [Fault::Close, Fault::Raw(b"SSH-2.0-OpenSSH\r\n".to_vec())] {
        let result = against(fault.clone()).await;
        assert!(matches!(result, Err(OutboundError::Exchange { .. })), "{fault:?}: {result:?}");
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = post(local(), &format!("http://{free}/secret/path")).await.unwrap_err();
    assert_eq!(error.to_string(), format!("no connection to {free}: connection refused"));
    assert!(error.passing());
}

#[tokio::test]
async fn refused_addresses_are_refused_literally_and_by_name() {
    let server = FaultServer::start([Fault::json(200, "{}")]).await;
    let port = server.address.port();
    for url in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://0x7f000001:{port}/"),
        format!("http://localhost:{port}/"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
    ] {
        let result = post(Policy::default(), &url).await;
        assert!(matches!(result, Err(OutboundError::Refused { .. })), "{url}: {result:?}");
        assert!(!result.unwrap_err().passing());
    }
    assert!(server.requests().is_empty());
    let by_name = post(local(), &format!("http://localhost:{port}/")).await;
    assert_eq!(by_name.unwrap().status, 200, "the same name is called where loopback is allowed");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_says_so() {
    let error = post(local(), "http://nowhere.invalid/hook").await.unwrap_err();
    assert_eq!(error.to_string(), "no connection to nowhere.invalid:80: the name cannot be resolved");
}

#[tokio::test]
async fn errors_never_show_the_path_or_the_body() {
    let server =
        FaultServer::start([Fault::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\ntop-secret".to_vec())]).await;
    let error = post(local(), &format!("{}/services/T0/B0/tokentoken", server.url())).await.unwrap_err();
    let mut chain = format!("{error} {error:?}");
    let mut link = std::error::Error::source(&error);
    while let Some(source) = link {
        chain.push_str(&format!(" {source} {source:?}"));
        link = source.source();
    }
    assert!(!chain.contains("tokentoken") && !chain.contains("top-secret"), "{chain}");
}

#[test]
fn addresses_that_are_not_plain_http_urls_are_refused_with_what_was_expected() {
    for (text, expected) in [
        ("prometheus:9090", "begins with http:// or https://"),
        ("not a url", "such as http://prometheus.monitoring:9090"),
        ("file:///etc/passwd", "begins with http:// or https://"),
        ("http://user:pass@prometheus", "without user name and password"),
        ("http://", "such as http://"),
    ] {
        let error = parse_address(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
