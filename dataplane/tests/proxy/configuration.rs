//! The config stream: a fake operator over real gRPC, several replicas, restarts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dataplane::config::{Operator, Updates, client};
use dataplane::process::Proxy;
use dataplane::stream::proxy_config_server::{ProxyConfig, ProxyConfigServer};
use proxy_api::v1beta1 as api;
use proxy_api::v1beta1::from_operator::Message as Said;
use proxy_api::v1beta1::from_proxy::Message as Up;
use routing::Table;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::common::{Client, Origin, Reserved, eventually, mk_route, reserve, stable, start, within};

/// Where to say something to the newest stream.
type Down = Arc<Mutex<Option<mpsc::Sender<Result<api::FromOperator, Status>>>>>;

/// One operator replica: what proxies say arrives in `said`, what it says goes to the newest stream.
struct Replica {
    address: SocketAddr,
    said: mpsc::Receiver<Up>,
    down: Down,
    authorization: Arc<Mutex<Option<String>>>,
    task: tokio::task::JoinHandle<()>,
}

struct Service {
    said: mpsc::Sender<Up>,
    down: Down,
    authorization: Arc<Mutex<Option<String>>>,
}

#[tonic::async_trait]
impl ProxyConfig for Service {
    type ConnectStream = ReceiverStream<Result<api::FromOperator, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<api::FromProxy>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let authorization = request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        *self.authorization.lock().unwrap() = authorization;
        let (sender, receiver) = mpsc::channel(16);
        *self.down.lock().unwrap() = Some(sender);
        let (mut incoming, said) = (request.into_inner(), self.said.clone());
        tokio::spawn(async move {
            while let Some(Ok(message)) = incoming.next().await {
                let message = message.message.unwrap();
                if !matches!(message, Up::Counters(_)) || said.capacity() > 8 {
                    let _ = said.send(message).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

impl Replica {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, said) = mpsc::channel(1024);
        let (down, authorization) = (Arc::default(), Arc::default());
        let service = Service { said: sender, down: Arc::clone(&down), authorization: Arc::clone(&authorization) };
        let server = tonic::transport::Server::builder().add_service(ProxyConfigServer::new(service));
        let task = tokio::spawn(async move {
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        Self { address, said, down, authorization, task }
    }

    async fn hello(&mut self) -> api::Hello {
        loop {
            if let Up::Hello(hello) = within(self.said.recv()).await.unwrap() {
                return hello;
            }
        }
    }

    async fn say(&self, message: Said) {
        let sender = self.down.lock().unwrap().clone().unwrap();
        sender.send(Ok(api::FromOperator { message: Some(message) })).await.unwrap();
    }

    async fn snapshot(&self, routes: Vec<api::Route>) {
        self.say(Said::Snapshot(api::Snapshot { routes, limits: None })).await;
    }

    async fn ack(&mut self) -> api::Ack {
        loop {
            if let Up::Ack(ack) = within(self.said.recv()).await.unwrap() {
                return ack;
            }
        }
    }

    async fn counters(&mut self) -> api::Counters {
        loop {
            if let Up::Counters(counters) = within(self.said.recv()).await.unwrap() {
                return counters;
            }
        }
    }

    /// As SIGKILL does it: streams end without a word.
    fn kill(self) {
        self.task.abort();
        self.down.lock().unwrap().take();
    }
}

/// A proxy that follows the given replicas.
struct Following {
    proxy: Arc<Proxy>,
    task: tokio::task::JoinHandle<()>,
    _reserved: Reserved,
    port: u16,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Following {
    async fn new(replicas: &[&Replica], state_dir: Option<PathBuf>) -> Self {
        let (proxy, reserved) = (Arc::new(start()), reserve());
        let operator = Arc::new(Operator {
            target: String::new(),
            ca: None,
            token: None,
            pod: "proxy-0".into(),
            namespace: "shop".into(),
            incarnation: 7,
            registry: Arc::clone(&proxy.shared().registry),
        });
        let mut updates = Updates::new(state_dir, Table::new(1));
        updates.restore(&proxy).await;
        let (events, mut received) = mpsc::channel(64);
        for replica in replicas {
            tokio::spawn(client::follow(Arc::clone(&operator), replica.address, events.clone()));
        }
        let served = Arc::clone(&proxy);
        let task = tokio::spawn(async move {
            while let Some(event) = received.recv().await {
                updates.take(vec![event], &served).await;
            }
        });
        Self { proxy, task, port: reserved.port, _reserved: reserved }
    }

    fn weight(&self) -> Option<u8> {
        self.proxy.shared().table().routes().values().next().map(|route| route.weight)
    }

    fn mk(&self, counter: u64, weight: u32) -> api::Route {
        api::Route { counter, weight, ..mk_route(self.port) }
    }
}

#[tokio::test]
async fn a_proxy_introduces_itself_applies_acknowledges_and_counts() {
    let origin = Origin::text("old").await;
    let mut replica = Replica::start().await;
    let following = Following::new(&[&replica], None).await;
    let hello = replica.hello().await;
    assert_eq!((hello.pod.as_str(), hello.namespace.as_str(), hello.incarnation), ("proxy-0", "shop", 7));
    assert!(!following.proxy.shared().ready(), "not ready before the first full state");

    let mut route = following.mk(1, 0);
    stable(&mut route, origin.address);
    replica.snapshot(vec![route.clone()]).await;
    assert_eq!(replica.ack().await, api::Ack { uid: "uid".into(), counter: 1, error: String::new() });
    assert!(following.proxy.shared().ready());
    // Acknowledged means in force: the very next request is served by it.
    assert_eq!(Client::connect(following.port).await.get("/").await.body, "old");

    let counters = loop {
        let counters = replica.counters().await;
        if counters.arms.iter().any(|arm| arm.succeeded == 1) {
            break counters;
        }
    };
    assert_eq!((counters.incarnation, counters.arms[0].uid.as_str()), (7, "uid"));

    route.weight = 101;
    route.counter = 2;
    replica.say(Said::Upsert(route)).await;
    assert_eq!(replica.ack().await.error, "weight is 101, must be at most 100");
    assert_eq!(Client::connect(following.port).await.get("/").await.body, "old", "what was in force stays");

    replica.say(Said::Remove(api::Removal { uid: "uid".into() })).await;
    eventually("the route is gone", || following.weight().is_none()).await;
}

#[tokio::test]
async fn an_older_counter_is_refused_and_said_so() {
    let mut replica = Replica::start().await;
    let following = Following::new(&[&replica], None).await;
    replica.hello().await;
    replica.snapshot(vec![following.mk(5, 25)]).await;
    assert_eq!(replica.ack().await.error, "");
    replica.say(Said::Upsert(following.mk(4, 50))).await;
    assert_eq!(replica.ack().await.error, "counter 4 is older than 5, which is in force");
    assert_eq!(following.weight(), Some(25));
}

#[tokio::test]
async fn limits_come_into_force_in_order_and_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let replica = &mut Replica::start().await;
    let following = Following::new(&[replica], Some(directory.path().into())).await;
    let limits = |generation, max_streams| {
        Said::Limits(api::Limits { pool: "p".into(), generation, max_streams, ..Default::default() })
    };
    let streams = |following: &Following| following.proxy.shared().registry.limits().now().streams;
    replica.hello().await;
    replica.snapshot(vec![following.mk(1, 0)]).await;
    replica.ack().await;
    replica.say(limits(2, 20)).await;
    replica.say(limits(1, 10)).await;
    // Acknowledged after all that was said before it.
    replica.say(Said::Upsert(following.mk(2, 0))).await;
    replica.ack().await;
    assert_eq!(streams(&following), 20, "an older generation does not count");
    let shared = following.proxy.shared();
    let now = shared.registry.limits().now();
    assert_eq!((now.connections, now.headers), (100, 100), "what is not said is the process's own");
    replica.say(limits(3, 20_000)).await;
    replica.say(Said::Upsert(following.mk(3, 0))).await;
    replica.ack().await;
    assert_eq!(streams(&following), 20, "what cannot be in force changes nothing");
    // It is written down after it is acknowledged, before anything later is taken.
    replica.say(Said::Upsert(following.mk(4, 0))).await;
    replica.ack().await;
    let restarted = Following::new(&[], Some(directory.path().into())).await;
    assert_eq!(streams(&restarted), 20);
}

#[tokio::test]
async fn a_killed_replica_changes_nothing_and_the_other_goes_on() {
    let (mut one, mut two) = (Replica::start().await, Replica::start().await);
    let following = Following::new(&[&one, &two], None).await;
    one.hello().await;
    two.hello().await;
    one.snapshot(vec![following.mk(5, 25)]).await;
    one.ack().await;
    // A fresh replica with nothing must not remove what another one has.
    two.snapshot(vec![]).await;
    two.say(Said::Upsert(following.mk(4, 10))).await;
    assert_eq!(two.ack().await.error, "counter 4 is older than 5, which is in force");
    one.kill();
    two.say(Said::Upsert(following.mk(6, 50))).await;
    assert_eq!(two.ack().await, api::Ack { uid: "uid".into(), counter: 6, error: String::new() });
    assert_eq!(following.weight(), Some(50));
    two.kill();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(following.weight(), Some(50), "with no replica everything stays");
}

#[tokio::test]
async fn a_restarted_proxy_serves_from_disk_before_any_operator_answers() {
    let (origin, directory) = (Origin::text("old").await, tempfile::tempdir().unwrap());
    let mut replica = Replica::start().await;
    let first = Following::new(&[&replica], Some(directory.path().into())).await;
    replica.hello().await;
    let second = Following::new(&[], None).await;
    assert!(!second.proxy.shared().ready(), "a proxy with nothing is not ready");
    let mut route = second.mk(9, 0);
    stable(&mut route, origin.address);
    replica.snapshot(vec![route]).await;
    replica.ack().await;
    // It is written after it is acknowledged.
    let written = directory.path().join("snapshot");
    eventually("the configuration is on disk", || written.exists()).await;
    let port = second.port;
    drop((first, second));
    // It ends in tasks of its own, and would share the port with the one that comes.
    eventually("the first one has let go of the port", || std::net::TcpStream::connect(("127.0.0.1", port)).is_err())
        .await;

    let restarted = Following::new(&[], Some(directory.path().into())).await;
    assert!(restarted.proxy.shared().ready());
    assert!(restarted.proxy.shared().table().ports().contains_key(&port));
    assert_eq!(Client::connect(port).await.get("/").await.body, "old");
}

#[tokio::test]
async fn the_token_is_read_anew_for_each_connection() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "first\n").unwrap();
    let mut replica = Replica::start().await;
    let proxy = start();
    let operator = Arc::new(Operator {
        target: String::new(),
        ca: None,
        token: Some(token.clone()),
        pod: String::new(),
        namespace: String::new(),
        incarnation: 1,
        registry: Arc::clone(&proxy.shared().registry),
    });
    let (events, _received) = mpsc::channel(64);
    tokio::spawn(client::follow(operator, replica.address, events));
    replica.hello().await;
    assert_eq!(replica.authorization.lock().unwrap().as_deref(), Some("Bearer first"));
    std::fs::write(&token, "second").unwrap();
    replica.down.lock().unwrap().take();
    replica.hello().await;
    assert_eq!(replica.authorization.lock().unwrap().as_deref(), Some("Bearer second"));
}
