//! One type for both cores, so that the shell is compiled once for the two of them: it takes 30 KB less of a
//! router; and beside the core the admin side of the process.
//!
//! It decides nothing but to whom an event belongs.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use log::info;

use crate::config::AdminConfig;
use crate::proto::admin::machine::Certificate;
use crate::proto::admin::{Admin, Subject as _};
use crate::proto::agent::Agent;
use crate::proto::hub::Hub;
use crate::proto::seam::{Caller, Closed, Command, Core, Shown, Step};
use crate::proto::tables::key::{Key, Kind};
use crate::proto::tables::timer::{Mono, Now};

/// A process.
pub struct Node {
    role: Role,
    /// Beside the core; most processes have nothing there, and pay for one look at it.
    side: Option<Box<Side>>,
}

/// What a process has beside its core.
#[derive(Default)]
struct Side {
    admin: Option<Admin>,
    /// How long after the first signal everything goes on as before, though the admin side says that the
    /// process is ending.
    drain_delay: Duration,
    /// The core is told to end then, if that was put off.
    drain: Option<Mono>,
}

/// What a process is.
#[expect(clippy::large_enum_variant, reason = "a process has one")]
pub enum Role {
    /// The end that applications and agents connect to.
    Hub(Hub),
    /// The end beside the upstreams.
    Agent(Agent),
}

macro_rules! either {
    ($role:expr, $core:ident => $do:expr) => {
        match $role {
            Role::Hub($core) => $do,
            Role::Agent($core) => $do,
        }
    };
}

impl Node {
    /// A process without an admin side, which begins to end at the first signal.
    pub fn new(role: Role) -> Self {
        Self { role, side: None }
    }

    /// Gives it an admin side.
    #[must_use]
    pub fn with_admin(mut self, config: &AdminConfig, now: Now) -> Self {
        self.side.get_or_insert_default().admin = Some(Admin::new(config, now));
        either!(&mut self.role, core => core.begin_to_count());
        self
    }

    /// It begins to end so long after the first signal, or at the second one.
    #[must_use]
    pub fn draining_after(mut self, drain_delay: Duration) -> Self {
        if !drain_delay.is_zero() {
            self.side.get_or_insert_default().drain_delay = drain_delay;
        }
        self
    }

    /// Whoever connects by TLS is shown this from now on.
    pub fn set_certificate(&mut self, certificate: Certificate) {
        self.ask(|admin, _, _| admin.set_certificate(certificate));
    }

    /// The core.
    pub fn role_mut(&mut self) -> &mut Role {
        &mut self.role
    }
}

/// What concerns the admin side, apart from what happens with each request.
impl Node {
    /// The admin side, the core, and the core's commands, which the admin side adds its own to.
    fn ask<R>(&mut self, ask: impl FnOnce(&mut Admin, &mut Role, &mut Vec<Command>) -> R) -> Option<R> {
        let admin = self.side.as_mut()?.admin.as_mut()?;
        let mut commands = Vec::new();
        let done = ask(admin, &mut self.role, &mut commands);
        either!(&mut self.role, core => core.commands().append(&mut commands));
        Some(done)
    }

    #[cold]
    fn admin_input(&mut self, key: Key, shown: &Shown<'_>, now: Now) -> Step {
        self.ask(|admin, role, commands| {
            either!(role, core => admin.handle_input(key, shown, core, now, commands))
        })
        .unwrap_or(Step::Wait)
    }

    #[cold]
    fn admin_wants_input(&self, key: Key) -> bool {
        let admin = self.side.as_ref().and_then(|side| side.admin.as_ref());
        admin.is_some_and(|admin| admin.wants_input(key))
    }

    #[cold]
    fn side_timeout(&mut self, now: Now) {
        self.ask(|admin, _, commands| admin.handle_timeout(now, commands));
        let drain = self.side.as_mut().and_then(|side| side.drain.take_if(|at| *at <= now.mono));
        if drain.is_some() {
            either!(&mut self.role, core => core.handle_drain(now));
        }
    }

    #[cold]
    fn side_batch_end(&mut self, now: Now) {
        self.ask(|admin, role, commands| {
            either!(role, core => admin.handle_batch_end(core, now, commands));
        });
    }
}

impl Core for Node {
    fn handle_accepted(&mut self, peer: SocketAddr, is_tls: bool, now: Now) -> Option<Key> {
        either!(&mut self.role, core => core.handle_accepted(peer, is_tls, now))
    }

    fn handle_admin_accepted(&mut self, caller: Caller, now: Now) -> Option<Key> {
        self.ask(|admin, _, commands| admin.handle_accepted(caller, now, commands)).flatten()
    }

    fn handle_insecure(&mut self, key: Key) {
        if key.kind() == Kind::Admin {
            self.ask(|admin, _, _| admin.handle_insecure(key));
            return;
        }
        either!(&mut self.role, core => core.handle_insecure(key));
    }

    fn handle_exhausted(&mut self, now: Now) -> bool {
        either!(&mut self.role, core => core.handle_exhausted(now))
    }

    fn handle_resolved(&mut self, key: Key, now: Now) {
        either!(&mut self.role, core => core.handle_resolved(key, now));
    }

    fn handle_connected(&mut self, key: Key, now: Now) {
        either!(&mut self.role, core => core.handle_connected(key, now));
    }

    #[inline]
    fn handle_input(&mut self, key: Key, shown: Shown<'_>, now: Now) -> Step {
        if key.kind() == Kind::Admin {
            return self.admin_input(key, &shown, now);
        }
        either!(&mut self.role, core => core.handle_input(key, shown, now))
    }

    #[inline]
    fn wants_input(&self, key: Key) -> bool {
        if key.kind() == Kind::Admin {
            return self.admin_wants_input(key);
        }
        either!(&self.role, core => core.wants_input(key))
    }

    #[inline]
    fn opaque(&self, key: Key) -> u64 {
        either!(&self.role, core => core.opaque(key))
    }

    fn handle_opaque(&mut self, key: Key, n: u64, before: &mut Vec<u8>, now: Now) -> &'static [u8] {
        either!(&mut self.role, core => core.handle_opaque(key, n, before, now))
    }

    fn handle_hangup(&mut self, key: Key, now: Now) {
        either!(&mut self.role, core => core.handle_hangup(key, now));
    }

    fn handle_send_progress(&mut self, key: Key, waiting: bool, now: Now) {
        if key.kind() == Kind::Admin {
            self.ask(|admin, _, commands| admin.handle_send_progress(key, waiting, now, commands));
            return;
        }
        either!(&mut self.role, core => core.handle_send_progress(key, waiting, now));
    }

    fn handle_closed(&mut self, key: Key, reason: Closed, now: Now) {
        if key.kind() == Kind::Admin {
            self.ask(|admin, _, _| admin.handle_closed(key));
            return;
        }
        either!(&mut self.role, core => core.handle_closed(key, reason, now));
    }

    fn handle_timeout(&mut self, now: Now) {
        if self.side.is_some() {
            self.side_timeout(now);
        }
        either!(&mut self.role, core => core.handle_timeout(now));
    }

    #[inline]
    fn next_timeout(&self) -> Option<Mono> {
        let own = either!(&self.role, core => core.next_timeout());
        match &self.side {
            None => own,
            Some(side) => {
                let admin = side.admin.as_ref().and_then(Admin::next_timeout);
                [own, side.drain, admin].into_iter().flatten().min()
            }
        }
    }

    fn handle_drain(&mut self, now: Now) {
        if let Some(side) = &mut self.side {
            if let Some(admin) = &mut side.admin {
                admin.note_draining();
            }
            let delay = core::mem::take(&mut side.drain_delay);
            if !delay.is_zero() {
                info!("ending in {} s; until then requests are taken as before", delay.as_secs_f32());
                side.drain = Some(now.mono.after(delay));
                return;
            }
            // A second signal does not wait for the end of the delay.
            side.drain = None;
        }
        either!(&mut self.role, core => core.handle_drain(now));
    }

    #[inline]
    fn handle_batch_end(&mut self, now: Now) {
        either!(&mut self.role, core => core.handle_batch_end(now));
        if self.side.is_some() {
            self.side_batch_end(now);
        }
    }

    #[inline]
    fn commands(&mut self) -> &mut Vec<Command> {
        either!(&mut self.role, core => core.commands())
    }
}
