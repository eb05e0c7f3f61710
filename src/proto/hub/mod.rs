//! The hub: takes requests from clients, finds each one a tunnel, and sees both messages through.
//!
//! ```text
//!   client      Waiting -> Exchange -> Waiting ... -> Ending
//!   exchange    Gathering -> Queued -> Active -> gone
//!   tunnel      Free -> Busy -> Free ... -> Ending
//! ```
//!
//! An exchange may skip each of its phases. One that was refused or lost goes back to `Queued`.
//!
//! This module owns the tables and hands events to its parts: `client` reads requests, `waiting` admits them
//! and says how long they wait, `dispatch` matches waiters and tunnels and ends exchanges, `tunnel` reads
//! responses and keeps the links alive, `join` is the handshake. `upload` takes bodies in, and `hold` knows
//! how much of them may be kept.
//!
//! # Who has to act, and which limit ends it
//!
//! No state waits for ever, but for those that are marked: `audit` holds the tables to this after every turn
//! of the tests.
//!
//! | State | Who has to act | What ends it |
//! |---|---|---|
//! | client, waiting for its first head, or within a head | the client | `--head-timeout` (408 within a head) |
//! | client, between two requests | the client | `--idle-timeout` |
//! | client, ending | the client, by FIN | [`Limits::linger`](crate::config::Limits::linger) |
//! | client, any of these, while bytes wait for it | the client, by taking some | `--stall-timeout` |
//! | exchange, gathering | the client, by sending its body | `--body-timeout`, and a second for each kilobyte beyond 16 KiB (408) |
//! | exchange, queued | an agent | `--queue-timeout`, `Slime-Max-Wait`, the end of the last agent's grace; **none** with `Slime-Block: 1`: the client's leaving |
//! | exchange, its body waits for the agent's connection | the agent | the tunnel's signs of life |
//! | exchange, the client waits for a 100 | the upstream | five seconds: then the hub says it |
//! | exchange, its body is on its way | the client | `--stall-timeout` without a byte of request or response (408) |
//! | exchange, its body waits in the tunnel | the agent, by taking some | ten times `--stall-timeout` for the tunnel |
//! | exchange, no response head | the upstream | the tunnel's signs of life; `--response-timeout`, if set (504) |
//! | exchange, its response is on its way | the upstream | **none**: a job takes as long as it takes; the client's leaving, the tunnel's end (TCP keep-alive) |
//! | exchange, upgraded | either side | **none** until one side has ended, then `--stall-timeout` without a byte |
//! | tunnel, free | the agent, by signs of life | three times `--heartbeat` without one |
//! | tunnel, busy, no response head | the agent, by signs of life | three and a half times `--heartbeat` |
//! | tunnel, busy, replaced by another one | the agent | [`Limits::linger`](crate::config::Limits::linger) without a byte |
//! | tunnel, busy, answered | the agent | **none** of its own: that of the exchange |
//! | tunnel, ending | the agent, by FIN | [`Limits::linger`](crate::config::Limits::linger) |
//!
//! What the messages look like is known to [`super::http1`], who is connected to [`pool`], who waits to
//! [`queue`].

mod actions;
mod admission;
mod answers;
mod audit;
mod classes;
mod client;
mod clients;
mod dispatch;
mod drain;
mod ending;
mod exchanges;
mod hold;
mod join;
mod keys;
pub mod pool;
mod presence;
mod profile;
pub mod queue;
mod report;
mod status;
mod tally;
mod tournament;
mod transitions;
mod tunnel;
mod tunnels;
mod turns;
mod upload;
mod waiting;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::SocketAddr;

use log::{Level, debug, info, warn};

use self::actions::Operator;
use self::answers::Refusal;
use self::clients::{Client, ClientState, Clients, Transport};
use self::drain::Draining;
use self::ending::{Outcome, TunnelEnd};
use self::exchanges::{Awaited, Exchange, Exchanges, Expectation, Gate, Held, Phase};
use self::hold::Budget;
use self::keys::Keys;
use self::pool::{Gone, Pool};
use self::tally::Tally;
use self::tunnels::{Owes, Standing, Tunnel, TunnelState, Tunnels};
use super::deadline::SendLimit;
use super::ends::End;
use super::notice::{Count, Notices};
use super::random::Random;
use super::seam::{Close, Closed, Command, Core, Shown, Step};
use super::tables::key::{ClientKey, ExchangeKey, Key, Kind, TableKey, TunnelKey};
use super::tables::timer::{Mono, Now, TimerTable};
use super::trust::agent_token::TokenKey;
use super::trust::revocation::Revocations;
use super::tunnel::IN_BETWEEN;
use crate::config::HubConfig;

/// The hub's half of the core.
pub struct Hub {
    config: HubConfig,
    token_key: TokenKey,
    keys: Keys,
    revocations: Revocations,
    clients: Clients,
    tunnels: Tunnels,
    exchanges: Exchanges,
    timers: TimerTable,
    commands: Vec<Command>,
    /// A permit has become free, or a tunnel, and nobody has looked yet whether anyone waits for it.
    is_dispatch_due: bool,
    /// What may be held of requests that wait.
    budget: Budget,
    /// What requests are called that came without a name.
    random: Random,
    /// Until then every agent is taken for connected.
    grace_ends: Mono,
    /// When agents, and those who wait for them, are looked at next.
    sweep_at: Mono,
    draining: Option<Draining>,
    operator: Operator,
    notices: Notices,
    /// Only while somebody can ask for it.
    tally: Option<Box<Tally>>,
}

/// A way through an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// Toward the upstream.
    Inbound,
    /// Toward the client.
    Outbound,
}

impl Hub {
    /// A hub that begins now. `seed` makes the names of requests.
    pub fn new(config: HubConfig, token_key: TokenKey, seed: u64, now: Now) -> Self {
        Self {
            keys: Keys::new(config.app_password.as_deref()),
            revocations: Revocations::default(),
            grace_ends: now.mono.after(config.startup_grace),
            budget: Budget::new(config.hold),
            token_key,
            clients: Clients::new(),
            tunnels: Tunnels::new(Pool::new(config.agent_grace)),
            exchanges: Exchanges::default(),
            timers: TimerTable::default(),
            commands: Vec::new(),
            is_dispatch_due: false,
            random: Random(seed),
            // Then those are looked at who wait for agents that have not come.
            sweep_at: now.mono.after(config.startup_grace),
            config,
            draining: None,
            operator: Operator::default(),
            notices: Notices::default(),
            tally: None,
        }
    }

    /// What there is, for tests: everything but tunnels must be gone once all clients are.
    pub fn census(&self) -> Census {
        Census {
            clients: self.clients.len(),
            tunnels: self.tunnels.len(),
            exchanges: self.exchanges.len(),
            active: self.exchanges.active(),
            tails: self.clients.tails(),
            gathering: self.exchanges.gathering(),
            queued: self.exchanges.queue().len(),
            held: self.budget.taken(),
        }
    }

    /// How many requests have ended like this, if they are counted.
    pub fn ended(&self, end: End) -> u64 {
        self.tally.as_ref().map_or(0, |tally| tally.ended(end))
    }

    /// Counts, if anything is counted.
    fn count(&mut self, note: impl FnOnce(&mut Tally)) {
        if let Some(tally) = &mut self.tally {
            note(tally);
        }
    }

    /// Whether one more exchange may be given a worker. What its response leaves behind for a slow client
    /// counts, too: it is in the same memory.
    fn has_permit(&self) -> bool {
        self.exchanges.active() + self.clients.tails() < self.config.concurrent
    }

    /// Whether an exchange that can be served now gets a worker.
    fn gives_out(&self) -> bool {
        self.operator.queue_paused().is_none() && self.has_permit()
    }

    fn arm_client(&mut self, key: ClientKey) {
        self.clients.arm(key, &mut self.timers);
    }

    fn arm_tunnel(&mut self, key: TunnelKey) {
        self.tunnels.arm(key, &mut self.timers);
    }

    fn arm_exchange(&mut self, key: ExchangeKey) {
        self.exchanges.arm(key, &mut self.timers);
    }
}

/// How many of each there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Connections of applications.
    pub clients: usize,
    /// Connections of agents.
    pub tunnels: usize,
    /// Exchanges in any phase.
    pub exchanges: usize,
    /// Exchanges with a worker.
    pub active: usize,
    /// Clients that take the rest of a response whose worker is free again.
    pub tails: usize,
    /// Exchanges that await their body.
    pub gathering: usize,
    /// Exchanges that wait for a worker.
    pub queued: usize,
    /// Blocks that are taken for what is held of requests.
    pub held: usize,
}

impl Core for Hub {
    fn handle_accepted(&mut self, peer: SocketAddr, is_tls: bool, now: Now) -> Option<Key> {
        if self.clients.len() >= self.config.max_clients && !self.lets_newcomer_in(now) {
            return None;
        }
        let transport = if is_tls { Transport::Tls } else { Transport::Plain };
        let until = now.mono.after_coarse(self.config.limits.head);
        let key = self.clients.insert(peer.ip().to_canonical(), transport, until, &mut self.timers)?;
        Some(key.into())
    }

    fn handle_insecure(&mut self, key: Key) {
        if let Some(key) = ClientKey::from_key(key) {
            self.clients.note_insecure(key);
        }
    }

    fn handle_exhausted(&mut self, now: Now) -> bool {
        let line = format_args!(
            "a connection has to wait: no file descriptors or no memory left; raise `ulimit -n` or LimitNOFILE"
        );
        self.notices.say(Level::Warn, ("exhausted", 0), now.mono, line);
        self.make_room(now)
    }

    fn handle_resolved(&mut self, _key: Key, _now: Now) {}

    fn handle_connected(&mut self, _key: Key, _now: Now) {
        debug_assert!(false, "a hub dials nobody");
    }

    fn handle_input(&mut self, key: Key, shown: Shown<'_>, now: Now) -> Step {
        if let Some(key) = ClientKey::from_key(key) {
            self.handle_client_input(key, shown, now)
        } else if let Some(key) = TunnelKey::from_key(key) {
            self.handle_tunnel_input(key, shown, now)
        } else {
            Step::Wait
        }
    }

    fn wants_input(&self, key: Key) -> bool {
        if let Some(key) = ClientKey::from_key(key) {
            self.wants_client_input(key)
        } else {
            TunnelKey::from_key(key).is_some_and(|key| self.wants_tunnel_input(key))
        }
    }

    fn opaque(&self, key: Key) -> u64 {
        if let Some(key) = ClientKey::from_key(key) {
            self.opaque_of_client(key)
        } else {
            TunnelKey::from_key(key).map_or(0, |key| self.opaque_of_tunnel(key))
        }
    }

    fn handle_opaque(&mut self, key: Key, n: u64, before: &mut Vec<u8>, now: Now) -> &'static [u8] {
        if let Some(key) = ClientKey::from_key(key) {
            self.pass_from_client(key, n, before, now)
        } else {
            TunnelKey::from_key(key).map_or(b"", |key| self.pass_from_tunnel(key, n, before, now))
        }
    }

    fn handle_hangup(&mut self, key: Key, now: Now) {
        if let Some(key) = ClientKey::from_key(key) {
            self.handle_client_hangup(key, now);
        } else if let Some(key) = TunnelKey::from_key(key) {
            self.tunnels.note_left(key);
        }
    }

    fn handle_send_progress(&mut self, key: Key, waiting: bool, now: Now) {
        let stall = self.config.limits.stall;
        if let Some(key) = ClientKey::from_key(key) {
            self.clients.set_sending(key, SendLimit::of(waiting, stall, now), &mut self.timers);
            if !waiting {
                // It reads its next request now, and another exchange may have the permit.
                self.commands.push(Command::Resume(key.into()));
                self.is_dispatch_due = true;
            }
        } else if let Some(key) = TunnelKey::from_key(key)
            && let Some(sending) = self.tunnels.sending_mut(key)
        {
            *sending = SendLimit::of(waiting, stall * IN_BETWEEN, now);
            self.arm_tunnel(key);
            if let Some(Tunnel { state: TunnelState::Busy { exchange, .. }, .. }) = self.tunnels.get(key)
                && !waiting
            {
                let exchange = *exchange;
                self.note_taken(exchange, key);
                self.await_response(exchange, now);
            }
        }
    }

    fn handle_closed(&mut self, key: Key, reason: Closed, now: Now) {
        if let Some(key) = ClientKey::from_key(key) {
            self.forget_client(key, Outcome::ClientLeft, now);
        } else if let Some(key) = TunnelKey::from_key(key) {
            self.tunnel_lost(key, reason.written, TunnelEnd::Failed, now);
        }
    }

    fn handle_timeout(&mut self, now: Now) {
        // A worker that became free just now comes before the end of a wait.
        self.settle(now);
        while let Some((at, key)) = self.timers.pop_due(now.mono) {
            match key.kind() {
                Kind::Client => self.expire_client(key, at, now),
                Kind::Tunnel => self.expire_tunnel(key, at, now),
                Kind::Exchange => self.expire_exchange(key, at, now),
                Kind::Upstream | Kind::Worker | Kind::Admin => {}
            }
        }
        if now.mono >= self.sweep_at {
            let swept = self.tunnels.sweep(now);
            self.sweep_at = self.tunnels.pool().next_sweep(now);
            if now.mono < self.grace_ends {
                self.look_again_at(self.grace_ends);
            }
            for agent in swept.expired {
                self.expire_agent(agent, now);
            }
            for Gone { serial, name, why } in swept.gone {
                let line = format_args!("agent {name} left: {why}");
                self.notices.end(&["joined", "withdrew", "takes work again"].map(|what| (what, serial.0)));
                self.notices.say(Level::Info, ("left", serial.0), now.mono, line);
            }
            // Who has paused after a refusal may be asked again.
            self.dispatch(now);
            self.review(now);
        }
        self.notices.handle_timeout(now.mono);
    }

    fn next_timeout(&self) -> Option<Mono> {
        let own = self.sweep_at.min(self.notices.next_timeout());
        let own = self.draining.map_or(own, |draining| own.min(draining.next_timeout()));
        match self.timers.next() {
            Some(next) => Some(next.min(own)),
            None => (own != Mono::NEVER).then_some(own),
        }
    }

    fn handle_drain(&mut self, now: Now) {
        if self.draining.is_some() {
            warn!("second signal: {} cut off", Count(self.exchanges.len(), "request"));
            self.cut_off_all(now);
            self.draining = None;
            self.commands.push(Command::Exit(1));
            return;
        }
        info!("draining: refusing new requests; {} in progress or waiting", self.exchanges.len());
        self.begin_drain(now);
    }

    fn handle_batch_end(&mut self, now: Now) {
        self.cut_off_upgraded(now);
        self.settle(now);
        self.check_drained(now);
        let entries = self.clients.len() + self.tunnels.len() + self.exchanges.len();
        self.timers.prune(entries, |key| match key.kind() {
            Kind::Client => Some(self.clients.get(ClientKey::from_key(key)?)?.armed),
            Kind::Tunnel => Some(self.tunnels.get(TunnelKey::from_key(key)?)?.armed),
            Kind::Exchange => Some(self.exchanges.get(ExchangeKey::from_key(key)?)?.armed),
            Kind::Upstream | Kind::Worker | Kind::Admin => None,
        });
        self.clients.end_batch();
        while let Some(class) = self.exchanges.pop_emptied() {
            self.tunnels.note_empty(class);
        }
        self.tunnels.end_batch(|class| self.exchanges.queue().has_waiters(class));
        self.exchanges.end_batch();
        self.budget.end_batch();
    }

    fn commands(&mut self) -> &mut Vec<Command> {
        &mut self.commands
    }
}

impl Hub {
    /// All clients that there may be are there. Whether one more may be let in, at the cost of one that can
    /// be spared or because it may be an agent that they wait for.
    fn lets_newcomer_in(&mut self, now: Now) -> bool {
        let newcomers = self.config.newcomers();
        let is_full = self.clients.len() >= self.config.max_clients + newcomers;
        if self.clients.idle() < newcomers && !is_full {
            return true;
        }
        self.note_full(now);
        if self.clients.idle() < newcomers && self.evict(self.clients.longest_ending(), now) {
            return true;
        }
        self.make_room(now)
    }

    /// Whether one more client may begin an exchange.
    fn has_place(&mut self, now: Now) -> bool {
        let others = |hub: &Self| hub.clients.len().saturating_sub(hub.clients.idle());
        while others(self) >= self.config.max_clients {
            if !self.evict(self.clients.longest_ending(), now) {
                self.note_full(now);
                return false;
            }
        }
        true
    }

    fn note_full(&mut self, now: Now) {
        let line = format_args!(
            "there are {} client connections, the limit of --max-clients: idle ones are closed, else new ones",
            self.clients.len()
        );
        self.notices.say(Level::Warn, ("clients", 0), now.mono, line);
    }

    /// Closes the client that can be spared best: the one that has been idle the longest, else one that has
    /// its last response and is only waited for. False if all the others want something.
    fn make_room(&mut self, now: Now) -> bool {
        self.evict(self.clients.longest_idle(), now) || self.evict(self.clients.longest_ending(), now)
    }

    /// Closes a client that can be spared. False if there is none.
    fn evict(&mut self, spare: Option<ClientKey>, now: Now) -> bool {
        let Some(key) = spare else { return false };
        debug!("making room: closing {key:?}");
        self.drop_client(key, Close::Now, now);
        true
    }
}

#[cfg(test)]
#[path = "../tests/hub/mod.rs"]
mod tests;
