//! The manual: what somebody who runs a hub or an agent wants to know, beyond the README.
//!
//! - [`requests`]: how long they wait, what is changed, what is sent again, streams and light paths, limits.
//! - [`flags`]: every flag and variable.
//! - [`tls`]: certificates, reverse proxies before the hub, upstreams with TLS.
//! - [`operating`]: signals, the log, machines that vanish, troubleshooting.
//! - [`comparison`]: HAProxy, nginx, frp, rathole, cloudflared, and the original slime.
//!
//! The pages are Markdown files, so that they can be read without `cargo doc`, too. A link between them has
//! its target twice: as a file at the end of its page, and as an item here, which comes first and counts in
//! `cargo doc`.

#[doc = include_str!("requests.md")]
pub mod requests {}

#[allow(rustdoc::broken_intra_doc_links, reason = "brackets in the form of an address are no link")]
#[doc = include_str!("flags.md")]
pub mod flags {}

#[doc = include_str!("tls.md")]
pub mod tls {}

/// [requests]: crate::manual::requests#how-long-a-request-waits
/// [tls]: crate::manual::tls#a-hub-behind-nginx-haproxy-or-apache
///
#[doc = include_str!("operating.md")]
pub mod operating {}

#[doc = include_str!("comparison.md")]
pub mod comparison {}
