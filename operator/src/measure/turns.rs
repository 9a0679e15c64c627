//! Turns at each server, so that a slow one holds up its own askers only.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use reqwest::Url;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::outbound;

/// Queries under way at one server; the others wait.
pub(super) const CONCURRENT_PER_SERVER: usize = 16;
/// Servers that are remembered before idle ones are forgotten.
const SERVERS_REMEMBERED: usize = 64;

/// The servers that were asked, each with its turns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    servers: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Turns {
    pub(super) async fn take(&self, server: &Url) -> Result<OwnedSemaphorePermit, AcquireError> {
        let semaphore = {
            let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
            if servers.len() >= SERVERS_REMEMBERED {
                servers.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
            }
            let new = || Arc::new(Semaphore::new(CONCURRENT_PER_SERVER));
            Arc::clone(servers.entry(outbound::place(server)).or_insert_with(new))
        };
        semaphore.acquire_owned().await
    }
}
