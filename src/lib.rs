//! slime: one address for many machines behind NAT.

pub mod config;
#[cfg(feature = "net")]
pub mod net;
pub mod proto;
