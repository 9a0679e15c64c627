//! What runs in pods of the demo and the stories: the application that is released, the load on it, and a stand-in for
//! Slack. A crate of its own so that its image does not compile the harness; it knows neither Kubernetes nor the harness.

pub mod app;
pub mod load;
pub mod server;
pub mod slack;
