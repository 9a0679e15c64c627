//! The local cluster, load, demo and user stories of Sluice.

pub mod abuse;
pub mod cluster;
pub mod cores;
pub mod demo;
pub mod echo;
pub mod fake_prometheus;
pub mod images;
pub mod install;
pub mod kubectl;
pub mod manifests;
pub mod operator;
pub mod packages;
pub mod processes;
pub mod prometheus;
pub mod proxies;
pub mod standalone;
pub mod visitor;
pub mod watching;
pub mod webhook;
pub mod world;

pub use sample_app::{app, load, server, slack};
