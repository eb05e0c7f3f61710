//! What the tests of the core share.
//!
//! [`Pair`] is the real hub and real agents, joined by in-memory connections and a virtual clock.
//! Applications and upstreams are [`Raw`] ends whose bytes the test writes and reads; so is the other half of
//! slime where a test is about one half only.

// A test that cannot go on is a failed test; and which parts of this a build needs depends on what it is for.
#![allow(clippy::expect_used, clippy::unwrap_used)]
#![cfg_attr(not(test), allow(dead_code))]

pub(crate) mod driver;
pub(crate) mod pair;
pub(crate) mod scenario;
pub(crate) mod split;
pub(crate) mod wires;

pub(crate) use pair::{Pair, Raw, Reach, Setup};
pub(crate) use split::every_split;
pub(crate) use wires::Ended;
