//! The local cluster, load, demo and user stories of Sluice.

pub mod cluster;
pub mod images;
