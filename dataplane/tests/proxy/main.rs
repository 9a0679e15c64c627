//! The real proxy in-process, over real sockets. One binary, so that it links once.
#![allow(unreachable_pub, reason = "the modules of a test binary share one harness")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail their test")]

mod affinity;
mod balance;
mod common;
mod configuration;
mod connects;
mod frames;
mod grpc;
mod held;
mod hostile;
mod http2;
mod interim;
mod life;
mod limits;
mod mirror;
mod openmetrics;
mod outlier;
mod plain;
mod pods;
mod pool;
mod refused;
mod requests;
mod retries;
mod rules;
mod sight;
mod stalls;
mod strict;
mod translated;
mod zones;
