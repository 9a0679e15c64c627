//! The Sluice operator: everything that talks to Kubernetes.
//!
//! It may not decide (crate `rollout` does) and may not carry traffic. One reconcile reads (`observe`), asks
//! `rollout::step`, writes the journal (`apply`), then makes the world match it.

pub mod admin;
pub mod alerts;
pub mod api;
pub mod args;
pub mod authority;
pub mod controller;
pub mod identity;
pub mod lease;
pub mod measure;
pub mod outbound;
pub mod pool;
pub mod publish;
pub mod routes;
pub mod services;
pub mod table;
pub mod telemetry;
