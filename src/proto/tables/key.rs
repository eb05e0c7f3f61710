//! Keys of the tables that core and shell share.
//!
//! A key names one connection: its kind, its slot in the table of that kind, and the generation of that slot,
//! packed into 32 bits, because it travels through the kernel as an event token and a token has the width of
//! a pointer (32 bits on armv7). A key that outlived its connection never finds the slot's next tenant: the
//! generation differs.

use core::fmt;
use core::num::NonZeroU32;

const SLOT_BITS: u32 = 20;
const GENERATION_BITS: u32 = 9;
const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;
pub(super) const GENERATION_MASK: u16 = (1 << GENERATION_BITS) - 1;

/// The most entries that one table can hold.
pub const MAX_SLOTS: usize = 1 << SLOT_BITS;

/// What a key names. Those that have a socket come first, without a gap: looking up a connection is then one
/// comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A connection of an operator, a balancer or a scraper.
    Admin = 1,
    /// An application's connection to the hub.
    Client = 2,
    /// A connection between agent and hub, seen from either.
    Tunnel = 3,
    /// An agent's connection to its upstream.
    Upstream = 4,
    /// An exchange at the hub; it has no socket of its own.
    Exchange = 5,
    /// A worker of an agent; it has no socket of its own.
    Worker = 6,
}

impl Kind {
    /// What is at the other end, in words for the log.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Client => "a client",
            Self::Admin => "a client of the admin side",
            Self::Tunnel => "the hub",
            Self::Upstream => "the upstream",
            Self::Exchange | Self::Worker => "nobody",
        }
    }
}

/// The name of a table entry, of any kind. The shell uses it as the event token of the connection's socket.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(NonZeroU32);

impl Key {
    /// All tokens of keys are below it.
    pub const TOKENS_END: u32 = (Kind::Worker as u32 + 1) << (SLOT_BITS + GENERATION_BITS);

    pub(super) const fn new(kind: Kind, generation: u32, slot: u32) -> Self {
        // No kind is zero.
        Self::from_token(
            (kind as u32) << (SLOT_BITS + GENERATION_BITS)
                | (generation & GENERATION_MASK as u32) << SLOT_BITS
                | slot & SLOT_MASK,
        )
    }

    /// The kind of entry that this key names.
    pub const fn kind(self) -> Kind {
        match self.0.get() >> (SLOT_BITS + GENERATION_BITS) {
            1 => Kind::Admin,
            2 => Kind::Client,
            3 => Kind::Tunnel,
            4 => Kind::Upstream,
            5 => Kind::Exchange,
            _ => Kind::Worker,
        }
    }

    /// The slot in the table of this kind.
    pub const fn slot(self) -> usize {
        (self.0.get() & SLOT_MASK) as usize
    }

    pub(super) const fn generation(self) -> u32 {
        self.0.get() >> SLOT_BITS & GENERATION_MASK as u32
    }

    /// The key as an event token.
    pub const fn to_token(self) -> u32 {
        self.0.get()
    }

    /// The key that [`Key::to_token`] was called on. Tokens that no key ever had give a key that names
    /// nothing.
    pub const fn from_token(token: u32) -> Self {
        match NonZeroU32::new(token) {
            Some(token) => Self(token),
            None => Self(NonZeroU32::MAX),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}#{}.{}", self.kind(), self.slot(), self.generation())
    }
}

/// A key that is known to be of one kind.
pub trait TableKey: Copy + Into<Key> {
    /// The kind of all keys of this type.
    const KIND: Kind;
    /// Wraps a key, if it is of this kind.
    fn from_key(key: Key) -> Option<Self>;
}

macro_rules! table_key {
    ($(#[$doc:meta])* $name:ident, $kind:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Key);

        impl From<$name> for Key {
            fn from(key: $name) -> Self {
                key.0
            }
        }

        impl TableKey for $name {
            const KIND: Kind = Kind::$kind;
            fn from_key(key: Key) -> Option<Self> {
                (key.kind() == Kind::$kind).then_some(Self(key))
            }
        }
    };
}

table_key!(
    /// An application's connection to the hub.
    ClientKey, Client
);
table_key!(
    /// A tunnel, at the hub or at the agent.
    TunnelKey, Tunnel
);
table_key!(
    /// An agent's connection to its upstream.
    UpstreamKey, Upstream
);
table_key!(
    /// An exchange at the hub.
    ExchangeKey, Exchange
);
table_key!(
    /// A worker of an agent.
    WorkerKey, Worker
);
table_key!(
    /// A connection of the admin side.
    AdminKey, Admin
);
