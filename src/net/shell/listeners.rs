//! Where connections come in: the listeners, what each is for, and whether anybody waits there.

use crate::proto::tables::timer::Mono;

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// Applications and agents, by plain TCP.
    Plain,
    /// Applications and agents, by TLS.
    Tls,
    /// Clients of the admin side, by plain TCP.
    Admin,
    /// Clients of the admin side, by TLS.
    AdminTls,
    /// Clients of the admin side, by a unix socket.
    AdminUnix,
}

impl Entrance {
    /// Whether TLS is spoken there.
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::AdminTls)
    }
}

/// The listeners of a shell.
pub(super) struct Listeners<L> {
    all: Vec<ListenerState<L>>,
    /// Accepting failed for want of descriptors or memory; it is tried again then.
    paused_until: Option<Mono>,
}

struct ListenerState<L> {
    listener: L,
    entrance: Entrance,
    readable: bool,
}

impl<L> Listeners<L> {
    pub(super) const fn new() -> Self {
        Self { all: Vec::new(), paused_until: None }
    }

    /// Adds a listener. Connections may have come before the first poll.
    pub(super) fn add(&mut self, listener: L, entrance: Entrance) {
        self.all.push(ListenerState { listener, entrance, readable: true });
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// An edge said that a connection waits.
    pub(super) fn note_readable(&mut self, index: usize) {
        if let Some(state) = self.all.get_mut(index) {
            state.readable = true;
        }
    }

    /// No connection waits there any more.
    pub(super) fn note_empty(&mut self, index: usize) {
        if let Some(state) = self.all.get_mut(index) {
            state.readable = false;
        }
    }

    /// Nothing is accepted until then.
    pub(super) fn pause(&mut self, until: Mono) {
        self.paused_until = Some(until);
    }

    /// When the pause ends, if there is one.
    pub(super) fn paused_until(&self) -> Option<Mono> {
        self.paused_until
    }

    /// Ends the pause if it is over.
    pub(super) fn handle_timeout(&mut self, now: Mono) {
        self.paused_until = self.paused_until.filter(|at| *at > now);
    }

    /// Whether connections may wait, and none is held back.
    pub(super) fn may_accept(&self) -> bool {
        self.paused_until.is_none() && self.all.iter().any(|state| state.readable)
    }

    /// A listener where connections may wait.
    pub(super) fn waiting(&mut self, index: usize) -> Option<&mut L> {
        self.all.get_mut(index).filter(|state| state.readable).map(|state| &mut state.listener)
    }

    /// What a listener is for.
    pub(super) fn entrance(&self, index: usize) -> Option<Entrance> {
        self.all.get(index).map(|state| state.entrance)
    }
}
