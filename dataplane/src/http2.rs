//! HTTP/2 (RFC 9113) with a codec of our own, on both sides: one task per stream, in which the endpoint's half is awaited
//! too, and one per connection, which alone reads and writes. From the wire up: [`frame`] and [`hpack`], [`head`] (fields to
//! heads), [`flow`], [`held`] (of all connections), [`pieces`] and [`stream`], [`connection`] (the state of all of it, without sockets), [`link`] (what tasks hold of
//! it) and [`driver`] (the socket). Above that, [`server`] accepts, [`client`] sends to endpoints, [`body`] passes bodies on
//! with their flow control. Which request goes where is decided in `proxy`, as for every request.

pub mod body;
pub mod client;
pub mod connection;
pub mod driver;
pub mod flow;
pub mod frame;
pub mod head;
pub mod held;
pub mod hpack;
pub mod link;
pub mod pieces;
mod resets;
pub mod server;
pub mod stream;
