//! The real proxy in-process, small endpoints, a fake operator, and a client that sees raw bytes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use dataplane::exposition::page::Format;
use dataplane::process::{Proxy, Settings};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proxy_api::v1beta1 as api;
use routing::Table;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A port that nobody else gets while this value lives: bound, never listening, shared with the proxy's own sockets.
pub struct Reserved {
    _socket: Socket,
    pub port: u16,
}

pub fn reserve() -> Reserved {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket_ipv4().unwrap().port();
    Reserved { _socket: socket, port }
}

/// A proxy with one route on one port.
pub struct Bed {
    pub proxy: Proxy,
    pub port: u16,
    pub table: Table,
    route: api::Route,
    _reserved: Reserved,
}

pub fn start() -> Proxy {
    let address = Some("127.0.0.1".parse().unwrap());
    let settings = Settings { workers: 2, address, max_connections: 100, possible_connections: 1_000, seed: 1 };
    Proxy::start(&settings).unwrap()
}

impl Bed {
    /// Runs `change` over a route of weight 0 without endpoints.
    pub async fn new(change: impl FnOnce(&mut api::Route)) -> Self {
        let (proxy, reserved) = (start(), reserve());
        let mut route = mk_route(reserved.port);
        change(&mut route);
        let (port, table) = (reserved.port, Table::new(1));
        let mut bed = Self { proxy, port, table, route: route.clone(), _reserved: reserved };
        bed.apply(&route).await;
        bed
    }

    pub async fn apply(&mut self, route: &api::Route) {
        self.table = self.table.upsert(route).unwrap();
        assert_eq!(self.proxy.apply(self.table.clone()).await.len(), 0);
    }

    /// Runs `change` over the route that is in force.
    pub async fn change(&mut self, change: impl FnOnce(&mut api::Route)) {
        change(&mut self.route);
        self.route.counter += 1;
        self.apply(&self.route.clone()).await;
    }

    pub async fn connect(&self) -> Client {
        Client::connect(self.port).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.connect().await.get(path).await
    }

    /// Once nothing is under way: a worker counts a request after the client has its answer.
    pub fn counters(&self, arm: api::Arm) -> api::ArmCounters {
        let start = std::time::Instant::now();
        while self.in_flight() > 0 && start.elapsed() < Duration::from_secs(20) {
            std::thread::yield_now();
        }
        let all = self.proxy.shared().registry.arm_counters();
        all.into_iter().find(|counters| counters.arm() == arm).unwrap_or_default()
    }

    /// Requests begun and not over, right now. Not by the counters that are sent: reading those is telling them.
    pub fn in_flight(&self) -> u64 {
        self.proxy.shared().registry.snapshot().iter().map(|(_, series)| series.totals().in_flight).sum()
    }

    /// What the admin port answers.
    pub async fn admin(&self, path: &str) -> serde_json::Value {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(dataplane::admin::serve(listener, self.proxy.shared()));
        let answer = Client::connect(port).await.get(path).await;
        task.abort();
        assert_eq!(answer.status, 200);
        serde_json::from_str(&answer.body).unwrap()
    }

    pub fn metrics(&self) -> String {
        self.series(Format::Text)
    }

    pub fn series(&self, format: Format) -> String {
        dataplane::exposition::render(&self.proxy.shared().registry, &self.proxy.shared().table(), format)
    }
}

pub fn mk_route(port: u16) -> api::Route {
    api::Route {
        uid: "uid".into(),
        counter: 1,
        namespace: "shop".into(),
        service: "web".into(),
        canary: "web".into(),
        stable_revision: "old".into(),
        canary_revision: "new".into(),
        listeners: vec![api::Listener { port: port.into(), service_port: 80, split: true, ..Default::default() }],
        ..Default::default()
    }
}

pub fn endpoint(address: SocketAddr) -> api::Endpoint {
    api::Endpoint { address: address.ip().to_string(), port: address.port().into(), ..Default::default() }
}

pub fn stable(route: &mut api::Route, address: SocketAddr) {
    route.listeners[0].stable.push(endpoint(address));
}

pub fn canary(route: &mut api::Route, address: SocketAddr) {
    route.listeners[0].canary.push(endpoint(address));
}

/// An HTTP/1.1 endpoint that answers by `answer`; counts its connections.
pub struct Origin {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Origin {
    pub async fn new<F, A>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
        A: Future<Output = Response<Full<Bytes>>> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, SeqCst);
                let answer = answer.clone();
                let service = service_fn(move |request| {
                    let answer = answer.clone();
                    async move { Ok::<_, Infallible>(answer(request).await) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, connections, task }
    }

    /// Answers everything with `body`.
    pub async fn text(body: &'static str) -> Self {
        Self::new(move |_| async move { Response::new(Full::from(body)) }).await
    }
}

/// An endpoint that does by hand what HTTP servers do not do.
pub async fn raw_origin<F, A>(serve: F) -> SocketAddr
where
    F: Fn(usize, TcpStream) -> A + Send + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(number, stream));
        }
    });
    address
}

/// `name=value` of a `Set-Cookie` for as many seconds.
pub fn set_cookie(set: &str, seconds: u64) -> String {
    let (pair, attributes) = set.split_once("; ").unwrap();
    assert_eq!(attributes, format!("Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax"));
    pair.to_owned()
}

/// An address where nothing listens, nor ever will: bound until the test process ends.
pub async fn dead() -> SocketAddr {
    SocketAddr::new("127.0.0.1".parse().unwrap(), Box::leak(Box::new(reserve())).port)
}

/// Reads one head, up to its empty line; `None` if the peer closed before its first byte.
pub async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) if head.is_empty() => return None,
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&head)),
        }
    }
    Some(String::from_utf8(head).unwrap())
}

/// A client's connection.
pub struct Client(pub TcpStream);

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Client {
    pub async fn connect(port: u16) -> Self {
        Self(TcpStream::connect(("127.0.0.1", port)).await.unwrap())
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n")).await
    }

    pub async fn send(&mut self, request: &str) -> Answer {
        self.0.write_all(request.as_bytes()).await.unwrap();
        self.answer().await.expect("an answer before the end of the connection")
    }

    /// The next answer, body by Content-Length or chunked; `None` at the end of the connection.
    pub async fn answer(&mut self) -> Option<Answer> {
        within(async {
            let head = read_head(&mut self.0).await?;
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            let mut answer = Answer { status, head, body: String::new() };
            let mut body = Vec::new();
            if answer.header("transfer-encoding").is_some() {
                self.read_chunks(&mut body).await;
            } else {
                let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
                body.resize(length, 0);
                self.0.read_exact(&mut body).await.unwrap();
            }
            answer.body = String::from_utf8_lossy(&body).into_owned();
            Some(answer)
        })
        .await
    }

    async fn read_chunks(&mut self, body: &mut Vec<u8>) {
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                line.push(self.0.read_u8().await.unwrap());
            }
            let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
            let start = body.len();
            body.resize(start + size, 0);
            self.0.read_exact(&mut body[start..]).await.unwrap();
            let mut end = [0; 2];
            self.0.read_exact(&mut end).await.unwrap();
            if size == 0 {
                return;
            }
        }
    }

    /// Whether the proxy has closed the connection, once it has said all it has to say.
    pub async fn closed(&mut self) -> bool {
        let mut byte = [0];
        within(async { matches!(self.0.read(&mut byte).await, Ok(0) | Err(_)) }).await
    }
}

/// Fails the test instead of hanging it.
pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("should take less than 20 s")
}

/// Waits until `ready` holds.
pub async fn eventually(what: &str, ready: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if ready() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("did not come true: {what}");
}
