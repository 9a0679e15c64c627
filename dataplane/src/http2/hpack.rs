//! HPACK (RFC 7541). [`decode`] reads field blocks with a dynamic table of fields that were parsed once; [`encode`] writes
//! them without one, as HAProxy does: within a cluster a few hundred bytes cost less than looking each field up, and a
//! connection holds no table for what it sends. Pure.

pub mod decode;
pub mod encode;
pub mod field;
mod huffman;
mod table;
