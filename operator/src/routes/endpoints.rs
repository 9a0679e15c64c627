//! EndpointSlices → the endpoints of an arm, in a fixed order, whichever order the slices come in.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use proxy_api::v1beta1::Endpoint;

use crate::services;

/// Kubernetes cuts a generated name's base to this length (`maxGeneratedNameLength` of apiserver's names package).
const GENERATED_BASE_MAX: usize = 58;

/// The ready endpoints of one port, in a fixed order; those that serve while they terminate if none is ready
/// (KEP-1669). `intruders` is the beginning of the names of pods to leave out.
pub(super) fn endpoints(slices: &[&EndpointSlice], port: u16, intruders: Option<&str>) -> Vec<Endpoint> {
    let candidates: Vec<_> = slices
        .iter()
        .filter(|slice| slice.address_type == "IPv4" || slice.address_type == "IPv6")
        .filter_map(|slice| Some((slice, target_port(slice, port)?)))
        .flat_map(|(slice, number)| slice.endpoints.iter().flatten().map(move |endpoint| (endpoint, number)))
        .filter(|(endpoint, _)| !intruders.is_some_and(|prefix| pod(endpoint).starts_with(prefix)))
        .collect();
    let chosen = |is: fn(&SliceEndpoint) -> bool| {
        let chosen = candidates.iter().filter(|(endpoint, _)| is(endpoint)).filter_map(|(endpoint, number)| {
            let address = endpoint.addresses.first()?.clone();
            Some((address, *number, pod(endpoint).to_owned(), endpoint.zone.clone().unwrap_or_default()))
        });
        chosen.collect::<BTreeSet<_>>()
    };
    let ready = chosen(is_ready);
    let places = if ready.is_empty() { chosen(is_serving) } else { ready };
    places.into_iter().map(|(address, port, pod, zone)| Endpoint { address, port, pod, zone }).collect()
}

/// Whether some endpoint of `slices` is ready.
#[must_use]
pub fn has_ready(slices: &[Arc<EndpointSlice>]) -> bool {
    slices.iter().flat_map(|slice| &slice.endpoints).flatten().any(is_ready)
}

/// What the names of the pods of a revision begin with; none where the name is so long that the hash was cut off, and
/// the prefix would match every pod of the Deployment.
pub(super) fn pod_prefix(deployment: &str, revision: &str) -> Option<String> {
    let prefix = format!("{deployment}-{revision}-");
    (prefix.len() <= GENERATED_BASE_MAX).then_some(prefix)
}

/// The pods' port for a port of the Service: a slice has one number for each of its ports' names.
fn target_port(slice: &EndpointSlice, port: u16) -> Option<u32> {
    let name = services::port_name(port);
    let found = slice.ports.iter().flatten().find(|found| found.name.as_deref() == Some(&name))?;
    u32::try_from(found.port?).ok()
}

fn pod(endpoint: &SliceEndpoint) -> &str {
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    target.and_then(|target| target.name.as_deref()).unwrap_or_default()
}

/// Absent means ready, says the API.
fn is_ready(endpoint: &SliceEndpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

/// Absent means as ready, says the API.
fn is_serving(endpoint: &SliceEndpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.serving).unwrap_or_else(|| is_ready(endpoint))
}
