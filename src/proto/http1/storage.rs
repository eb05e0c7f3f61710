//! Room for the fields of a head, on the stack.

use alloc::vec::Vec;
use core::mem::MaybeUninit;

use super::fields::{Class, Classes, Field};
use super::limits::{MAX_FIELDS, TUNNEL_FIELDS};

/// Room for the fields of one head, left as it is until they are parsed into it.
pub struct Storage<'b> {
    pub(super) first: Room<'b>,
    /// For the second attempt: what came of the first one keeps its room, to the borrow checker, even if it
    /// came to nothing.
    pub(super) second: Room<'b>,
    /// For a response that is read leniently, because it cannot be read strictly.
    pub(super) lenient: LenientRoom<'b>,
}

pub(super) struct LenientRoom<'b> {
    pub(super) fields: Vec<Field<'b>>,
    pub(super) classes: Classes,
}

pub(super) struct Room<'b> {
    pub(super) fields: [MaybeUninit<Field<'b>>; MAX_FIELDS + TUNNEL_FIELDS],
    pub(super) classes: Classes,
    pub(super) limit: usize,
}

impl Storage<'_> {
    /// Room for [`MAX_FIELDS`].
    pub const fn new() -> Self {
        Self::of(MAX_FIELDS)
    }

    /// Room for a head on a tunnel: [`TUNNEL_FIELDS`] more.
    pub const fn on_tunnel() -> Self {
        Self::of(MAX_FIELDS + TUNNEL_FIELDS)
    }

    const fn of(limit: usize) -> Self {
        let classes = [Class::EndToEnd; MAX_FIELDS + TUNNEL_FIELDS];
        let lenient = LenientRoom { fields: Vec::new(), classes };
        Self { first: Room::of(limit), second: Room::of(limit), lenient }
    }
}

impl Room<'_> {
    const fn of(limit: usize) -> Self {
        Self {
            fields: [const { MaybeUninit::uninit() }; MAX_FIELDS + TUNNEL_FIELDS],
            classes: [Class::EndToEnd; MAX_FIELDS + TUNNEL_FIELDS],
            limit,
        }
    }
}

impl Default for Storage<'_> {
    fn default() -> Self {
        Self::new()
    }
}
