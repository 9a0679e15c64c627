//! WebSocket handshakes that became a byte stream: both ends are spliced until one closes.

use http::{Request, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::task::spawn_local;

use crate::body::{Incoming, ResponseBody};
use crate::record::Record;
use crate::splice;
use crate::upstream::Lease;

/// The client's side of a handshake that the endpoint may accept.
#[derive(Debug)]
pub struct Switching(OnUpgrade);

/// Whether the client asks to switch protocols; to be called before the request is taken apart.
pub fn requested(request: &mut Request<Incoming>) -> Option<Switching> {
    request.headers().contains_key(http::header::UPGRADE).then(|| Switching(hyper::upgrade::on(request)))
}

impl Switching {
    /// Hands the endpoint's 101 to the client and splices what follows. The record ends with the handshake: how long
    /// people keep a socket open is not a latency.
    #[must_use]
    pub fn complete(
        self,
        mut response: Response<Incoming>,
        mut record: Record,
        lease: Lease,
    ) -> Response<ResponseBody> {
        let endpoint = hyper::upgrade::on(&mut response);
        record.complete();
        spawn_local(async move {
            // Held so that the endpoint counts as loaded for as long as the socket is open.
            let _lease = lease;
            if let (Ok(client), Ok(endpoint)) = (self.0.await, endpoint.await) {
                splice::both(&mut TokioIo::new(client), &mut TokioIo::new(endpoint)).await;
            }
        });
        response.map(|_| ResponseBody::Own(None))
    }
}
