//! What others hold a proxy to: HTTP/2, gRPC and WebSocket suites from outside, and abuse. `sluice-proxy` runs as its
//! users run it, as a process that reads a file; nothing here knows its insides.

#![allow(clippy::unwrap_used, reason = "tests")]

mod abuse;
mod grpc;
mod h2spec;
mod websocket;
