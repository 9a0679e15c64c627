//! Names to addresses, each looked at before it is dialled.

use std::{io, net::IpAddr, sync::Arc};

use reqwest::dns;

use super::Policy;

/// Looks names up and hands on only addresses that were checked, so that no second lookup can swap them.
pub(super) struct Resolver {
    pub(super) policy: Arc<Policy>,
}

#[derive(Debug, thiserror::Error)]
#[error("the address {0} is refused by policy")]
pub(super) struct RefusedAddress(pub(super) IpAddr);

#[derive(Debug, thiserror::Error)]
#[error("the name cannot be resolved")]
pub(super) struct Unresolved(#[source] io::Error);

impl dns::Resolve for Resolver {
    fn resolve(&self, name: dns::Name) -> dns::Resolving {
        let policy = Arc::clone(&self.policy);
        Box::pin(async move {
            let addresses: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(Unresolved)?.collect();
            // One refused address refuses them all: a name that leads to both is not an honest one.
            if let Some(refused) = addresses.iter().find(|address| !policy.permits(address.ip())) {
                return Err(RefusedAddress(refused.ip()).into());
            }
            Ok(Box::new(addresses.into_iter()) as dns::Addrs)
        })
    }
}
