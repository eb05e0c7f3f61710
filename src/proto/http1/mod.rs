//! HTTP/1.1 messages as bytes (RFC 9112): heads read, judged and written anew; bodies followed, but never held.
//!
//! ```text
//! bytes --RequestHead/ResponseHead (HeadScan, where a head comes in pieces)--> fields, each classified once
//!                                         |                            |
//!                                      framing: how the body ends   rewrite: the head that goes on
//!                                         |
//!                                      body::Transfer: how many bytes pass, what is replaced
//! ```
//!
//! It knows one message at a time: nothing of exchanges, tunnels or connections.

pub mod body;
mod chunked;
pub mod fields;
pub mod framing;
pub mod head;
pub mod path;
mod put;
pub mod reading;
pub mod reply;
pub mod rewrite;
mod scan;
mod target;
pub mod url;
