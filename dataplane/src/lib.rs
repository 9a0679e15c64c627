//! `sluice-proxy`: the sockets of the data plane.
//!
//! Threads: one per worker, each with its own runtime, listeners (`SO_REUSEPORT`), connection pools and counters; and one
//! side thread for the config stream, the admin server and signals. On the request path workers share the compiled
//! table, which is swapped whole, and the split position of each route.
//!
//! Path of a request: [`listener`] accepts, [`server`] speaks the protocol, [`proxy`] decides (crate `routing`),
//! [`upstream`] lends a connection, [`forward`] cleans the heads, [`record`] counts when it is over, however it ends.

pub mod admin;
pub mod args;
pub mod body;
pub mod config;
pub mod error;
pub mod exemplars;
pub mod exposition;
pub mod forward;
pub mod gate;
pub mod h1;
pub mod http2;
pub mod interim;
pub mod limits;
pub mod listener;
pub mod mirror;
pub mod patience;
pub mod pods;
pub mod process;
pub mod proxy;
pub mod record;
pub mod replay;
pub mod retries;
pub mod rules;
pub mod server;
pub mod sight;
pub mod splice;
pub mod standalone;
pub mod stats;
pub mod telemetry;
pub mod tunnel;
pub mod upgrade;
pub mod upstream;
pub mod view;
pub mod watch;
pub mod worker;

/// The generated halves of the config stream.
pub mod stream {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/sluice.proxy.v1beta1.rs"));
}
