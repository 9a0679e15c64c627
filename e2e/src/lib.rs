//! The local cluster, load, demo and user stories of Sluice.

pub mod app;
pub mod cluster;
pub mod fake_prometheus;
pub mod images;
pub mod load;
pub mod server;
pub mod slack;
