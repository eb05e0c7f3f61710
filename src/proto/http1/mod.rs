//! HTTP/1.1 messages as bytes (RFC 9112): heads read, judged and written anew; bodies followed, but never
//! held.
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
pub mod cors;
pub mod credentials;
mod facts;
pub mod fields;
pub mod framing;
pub mod head;
pub mod limits;
pub mod path;
mod put;
pub mod reading;
pub mod reply;
pub mod request_id;
pub mod rewrite;
mod scan;
pub mod start_line;
pub mod storage;
mod target;
pub mod url;
