//! How long heads and their parts may be.

use crate::proto::error::Violation;

/// The longest head in bytes, and the longest trailer section.
pub const HEAD_LIMIT: usize = 16 * 1024;
/// By how many bytes a head on a tunnel may exceed [`HEAD_LIMIT`]: the other end wrote it anew from one that
/// did not, with fields of its own, among them the authority once more. What one hop takes the next one has
/// to take.
pub const TUNNEL_ROOM: usize = 1024;
/// The longest request target in bytes. RFC 9112 section 3 asks for 8000 at least.
pub const TARGET_LIMIT: usize = 8 * 1024;
/// The most fields of a head or a trailer section. Browsers behind two proxies send forty.
pub const MAX_FIELDS: usize = 100;
/// How many more a head on a tunnel may have, for the same reason: the forwarding fields, `Via`, ours.
pub const TUNNEL_FIELDS: usize = 12;

/// A target is longer than [`TARGET_LIMIT`].
pub(super) const TARGET_TOO_LONG: Violation = Violation::new(414, "the request target is longer than 8 KiB");
