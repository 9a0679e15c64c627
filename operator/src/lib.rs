//! The Sluice operator: everything that talks to Kubernetes.
//!
//! It may not decide (crate `rollout` does) and may not carry traffic. One reconcile reads (`observe`), asks
//! `rollout::step`, writes the journal (`controller`), then makes the world match it (`services`, `workload`, `teardown`).

#![warn(missing_docs)]

pub mod admin;
pub mod alerts;
pub mod api;
pub mod args;
pub mod authority;
pub mod caches;
pub mod checks;
pub mod cleanup;
pub mod controller;
pub mod evidence;
pub mod feed;
pub mod identity;
pub mod lease;
pub mod measure;
pub mod observe;
pub mod outbound;
pub mod policy;
pub mod pool;
pub mod publish;
pub mod report;
pub mod routes;
pub mod rules;
pub mod run;
pub mod services;
pub mod setup;
pub mod status;
pub mod table;
pub mod teardown;
pub mod telemetry;
pub mod template;
pub mod validate;
pub mod verdict;
pub mod wakes;
pub mod workload;
pub mod zones;
