//! A client's connection, counted while it is open.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use routing::Limit;

use super::Registry;
use crate::limits::PortConnections;

/// Counts an open connection of one worker for as long as it lives.
#[derive(Debug)]
pub struct OpenConnection {
    registry: Arc<Registry>,
    worker: usize,
    port: Arc<PortConnections>,
}

impl OpenConnection {
    /// One more to `port` on `worker`; `None`, and counted as refused, if there are too many.
    #[must_use]
    pub fn admit(registry: &Arc<Registry>, worker: usize, port: &Arc<PortConnections>) -> Option<Self> {
        let limits = &registry.limits;
        let room = if registry.open_connections() < limits.connections() {
            limits.enter(port)
        } else {
            limits.reach(Limit::Connections);
            false
        };
        if !room {
            registry.refused.fetch_add(1, Relaxed);
            return None;
        }
        registry.connections[worker].fetch_add(1, Relaxed);
        Some(Self { registry: Arc::clone(registry), worker, port: Arc::clone(port) })
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.registry.connections[self.worker].fetch_sub(1, Relaxed);
        self.port.leave();
    }
}
