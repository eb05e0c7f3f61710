//! slime: one address for many machines behind NAT.

#[cfg(feature = "net")]
pub mod cli;
pub mod config;
#[cfg(feature = "net")]
pub mod logging;
#[cfg(feature = "net")]
pub mod net;
pub mod proto;
