//! Listening sockets of one worker, and what is accepted on them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use http::StatusCode;
use routing::pool::Keepalive;
use routing::{Flag, Protocol};
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use crate::h1::answer;
use crate::sight::refused::Refused;
use crate::stats::OpenConnection;
use crate::view::Slot;
use crate::worker::Worker;
use crate::{server, splice};

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn` (4096).
const BACKLOG: i32 = 4096;
/// An empty SETTINGS, and GOAWAY with `NO_ERROR` and no stream: nothing of what the client sends is looked at, and it may
/// send all of it elsewhere (RFC 9113 §6.8).
const GO_ELSEWHERE: [u8; 26] = [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Bytes that wait to be sent in the kernel before it takes no more: without a limit they are megabytes, and it says nothing of the
/// other end until a third of them has left. What was sent and is not acknowledged does not count, so a long way costs nothing.
const UNSENT: u32 = 128 * 1024;
/// Wait after a failed accept: out of file descriptors, mostly, and that passes when connections close.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Closes its socket, after everything that was waiting on it is accepted, when dropped.
#[derive(Debug)]
pub struct Listener {
    _stop: oneshot::Sender<()>,
}

/// Opens `port`. Every worker opens its own socket; the kernel spreads connections over them.
///
/// # Errors
/// When the port cannot be bound.
pub fn open(worker: &Rc<Worker>, slot: Rc<Slot>, address: Option<IpAddr>, port: u16) -> io::Result<Listener> {
    let listener = TcpListener::from_std(bind(address, port, true)?)?;
    let (stop, stopped) = oneshot::channel();
    spawn_local(run(Rc::clone(worker), slot, listener, stopped));
    Ok(Listener { _stop: stop })
}

/// Binds `port`: on `address`, or on every address of both families where the host has IPv6.
///
/// # Errors
/// When the port cannot be bound.
pub fn bind(address: Option<IpAddr>, port: u16, shared: bool) -> io::Result<std::net::TcpListener> {
    match address {
        Some(address) => bind_to(SocketAddr::new(address, port), shared),
        None => bind_to(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), shared)
            .or_else(|_| bind_to(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), shared)),
    }
}

fn bind_to(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit all three on Linux: answers are not held back, a client whose machine is gone is noticed, and so
    // is one that takes its answer slowly.
    socket.set_tcp_nodelay(true)?;
    keep_little(&SockRef::from(&socket));
    socket.set_tcp_keepalive(&keep_alive(Keepalive::default()))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Bounds what waits in the kernel to be sent ([`UNSENT`]). Kernels that know no such bound (gVisor's) serve all the same.
pub fn keep_little(socket: &SockRef<'_>) {
    let _ = socket.set_tcp_notsent_lowat(UNSENT);
}

/// As the kernel takes it.
#[must_use]
pub fn keep_alive(Keepalive { time, interval, probes }: Keepalive) -> TcpKeepalive {
    TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(probes)
}

async fn run(worker: Rc<Worker>, slot: Rc<Slot>, listener: TcpListener, mut stopped: oneshot::Receiver<()>) {
    loop {
        tokio::select! {
            biased;
            _ = &mut stopped => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => start(&worker, &slot, stream, client),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }
    // What waits in the backlog was promised an answer: closing the socket would reset it.
    if let Ok(listener) = listener.into_std() {
        while let Ok((stream, client)) = listener.accept() {
            let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
            if let Ok(stream) = stream {
                start(&worker, &slot, stream, client);
            }
        }
    }
}

fn start(worker: &Rc<Worker>, slot: &Rc<Slot>, stream: TcpStream, client: SocketAddr) {
    let Some(open) = OpenConnection::admit(worker.registry(), worker.index(), slot.open()) else {
        refuse(worker, slot, &stream, client.ip());
        return;
    };
    let (worker, slot) = (Rc::clone(worker), Rc::clone(slot));
    spawn_local(async move {
        let _open = open;
        match slot.current().port.protocol {
            Protocol::Tcp => splice::serve(&worker, &slot, stream, client.ip()).await,
            Protocol::Detect | Protocol::Http1 | Protocol::Http2 => {
                server::serve(worker, slot, stream, client.ip().to_canonical()).await;
            }
        }
    });
}

/// One attempt to say why: a client that is one too many is not waited for.
fn refuse(worker: &Worker, slot: &Slot, stream: &TcpStream, client: IpAddr) {
    let (mut out, view) = (Vec::new(), slot.current());
    let status = match view.port.protocol {
        Protocol::Tcp => 0,
        Protocol::Http2 => {
            out.extend_from_slice(&GO_ELSEWHERE);
            0
        }
        Protocol::Detect | Protocol::Http1 => {
            answer::own(&mut out, StatusCode::SERVICE_UNAVAILABLE, "too many connections", true, false);
            StatusCode::SERVICE_UNAVAILABLE.as_u16()
        }
    };
    let flag = Some(Flag::OverloadManager);
    worker.tell(Refused { port: &view.port, client, asked: None, status, flag });
    let _ = stream.try_write(&out);
    // What has come already would turn the close into a reset, which could destroy the answer (RFC 9112 §9.6).
    let _ = stream.try_read(&mut [0; 4096]);
}
