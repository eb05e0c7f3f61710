//! Waiters meet tunnels here, and exchanges end here.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use log::{Level, debug, log_enabled};

use super::ending::{Outcome, TunnelEnd};
use super::exchanges::Active;
use super::pool::ClassId;
use super::queue::Waiter;
use super::upload::gathered_by;
use super::{
    Awaited, Direction, Exchange, Expectation, Gate, Hub, Owes, Phase, Refusal, Standing, Tunnel, TunnelState,
};
use crate::proto::deadline::Limit;
use crate::proto::exchange::{Messages, Response};
use crate::proto::http1::reply::CONTINUE;
use crate::proto::http1::start_line::Version;
use crate::proto::seam::{Close, Command};
use crate::proto::tables::key::{ExchangeKey, Key, TableKey, TunnelKey};
use crate::proto::tables::timer::{Mono, Now};

/// How long a client waits for the 100 of an upstream. Then the hub says it, since the upstream may be one
/// that never does.
const EXPECT_WAIT: Duration = Duration::from_secs(5);

impl Hub {
    /// Matches waiters and idle tunnels, in order of arrival, as long as there are both and a permit.
    pub(super) fn dispatch(&mut self, now: Now) {
        self.is_dispatch_due = false;
        while self.has_permit() && !self.exchanges.queue().is_empty() {
            while let Some(class) = self.tunnels.pop_changed().or_else(|| self.exchanges.pop_changed()) {
                let first = self.first_served_of(class).map(|(waiter, _)| waiter.arrival);
                self.exchanges.note_served(class, first);
            }
            let Some((waiter, tunnel)) =
                self.exchanges.queue().first_served().and_then(|class| self.first_served_of(class))
            else {
                return;
            };
            self.activate(waiter.exchange, tunnel, now);
        }
    }

    /// The first waiter of a class for whom a tunnel is idle, and that tunnel.
    fn first_served_of(&self, class: ClassId) -> Option<(Waiter, TunnelKey)> {
        // Else every waiter would be asked about.
        self.tunnels.pool().find_idle(class, &[])?;
        self.exchanges.queue().waiters_of(class).find_map(|waiter| {
            let refused = &self.exchanges.get(waiter.exchange)?.need.refused;
            Some((waiter, self.tunnels.pool().find_idle(class, refused)?))
        })
    }

    /// Scope paths came up that no agent had before: waiters whose path they cover stand with those that the
    /// same agents serve.
    pub(super) fn reclassify(&mut self) {
        let all: Vec<(ClassId, Waiter)> = self.exchanges.queue().waiters().collect();
        for (class, waiter) in all {
            let Some(exchange) = self.exchanges.get(waiter.exchange) else { continue };
            let new = self.tunnels.class_of(&exchange.need);
            if new != class {
                self.exchanges.reclassify(waiter, new);
            }
        }
    }

    /// Gives a tunnel to an exchange. False if the tunnel turned out to be of no use; it is gone from the
    /// pool then.
    pub(super) fn activate(&mut self, key: ExchangeKey, tunnel_key: TunnelKey, now: Now) -> bool {
        let Some(tunnel) = self.tunnels.get(tunnel_key) else { return false };
        let TunnelState::Free { member, standing: Standing::Pooled(_), .. } = tunnel.state else {
            return false;
        };
        if self.tunnels.pool().is_expired(member.agent, now.unix) {
            self.expire_agent(member.agent, now);
            return false;
        }
        if tunnel.left {
            self.drop_tunnel(tunnel_key, TunnelEnd::Closed, now);
            return false;
        }
        let Some(exchange) = self.exchanges.get_mut(key) else { return false };
        let by = now.mono.after_coarse(sign_limit(self.config.limits.heartbeat));
        self.tunnels.take(tunnel_key, key, Owes::Sign { by });
        let stall = self.config.limits.stall;
        let (gate, awaited) = match exchange.held.expectation {
            Expectation::None if exchange.messages.request.is_done() => (Gate::Open, Awaited::Nobody),
            Expectation::None => (Gate::Open, Awaited::Request { by: now.mono.after_coarse(stall) }),
            Expectation::OfClient => {
                exchange.held.expectation = Expectation::None;
                (Gate::Open, Awaited::Continue { by: now.mono.after_coarse(stall.min(EXPECT_WAIT)) })
            }
            // The agent is not late as long as it gives signs of life.
            Expectation::Ours => (Gate::AwaitsConnect, Awaited::Nobody),
        };
        let requester = exchange.client.into();
        let upto = (gate == Gate::AwaitsConnect).then_some(exchange.held.head);
        self.commands.push(Command::Pair { requester, responder: tunnel_key.into(), upto });
        if gate == Gate::Open && exchange.messages.wants_request() {
            // Its body may have come while nobody wanted it.
            self.commands.push(Command::Resume(requester));
        }
        self.exchanges.activate(key, tunnel_key, (gate, awaited), now.mono);
        self.stop_holding(key);
        self.await_response(key, now);
        self.arm_exchange(key);
        self.arm_tunnel(tunnel_key);
        true
    }

    /// The request is on its way to the tunnel as far as there is any. If that is all of it, the response is
    /// awaited.
    pub(super) fn await_response(&mut self, key: ExchangeKey, now: Now) {
        let Some(limit) = self.config.limits.response else { return };
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let is_awaited = exchange.messages.request.is_done() && !exchange.messages.is_answered();
        if let Some(Active { gate: Gate::Open, response, .. }) = exchange.phase.active_mut()
            && is_awaited
        {
            *response = Limit::at(now.mono.after(limit));
            self.arm_exchange(key);
        }
    }

    pub(super) fn expire_exchange(&mut self, key: Key, at: Mono, now: Now) {
        let Some(key) = ExchangeKey::from_key(key) else { return };
        if !self.exchanges.disarm(key, at) {
            return;
        }
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        match *exchange.phase {
            Phase::Gathering { until, .. } if until <= now.mono => {
                let until = gathered_by(exchange.began, exchange.held.body, self.config.limits.body);
                self.exchanges.put_off_body(key, until);
                if until <= now.mono {
                    self.fail(key, Refusal::BodyLate, now);
                }
            }
            Phase::Queued { until, .. } if until.has_passed(now) => {
                let refusal =
                    if exchange.patience.block == Some(false) { Refusal::Busy } else { Refusal::Waited };
                self.fail(key, refusal, now);
            }
            Phase::Active { response, tunnel, .. } if response.has_passed(now) => {
                if self.tunnels.get(tunnel).is_some_and(|it| it.sending.is_sending()) {
                    // It has not even been sent the request. Its time begins when it has.
                    if let Some(Active { response, .. }) = exchange.phase.active_mut() {
                        *response = Limit::NONE;
                    }
                } else {
                    self.fail(key, Refusal::NoResponse, now);
                }
            }
            // Many upstreams know nothing of expectations, all of HTTP/1.0 among them (RFC 9110 section
            // 10.1.1).
            Phase::Active { awaited: Awaited::Continue { by }, .. } if by <= now.mono => {
                if let Some(Active { awaited, .. }) = exchange.phase.active_mut() {
                    *awaited = Awaited::Request { by: now.mono.after_coarse(self.config.limits.stall) };
                }
                let key = exchange.client.into();
                self.commands.push(Command::Send { key, bytes: CONTINUE.to_vec() });
            }
            Phase::Active { awaited, tunnel, .. } if awaited.deadline() <= now.mono => {
                let is_upgraded = matches!(awaited, Awaited::OtherSide { .. });
                let tunnel_waits = self.tunnels.get(tunnel).is_some_and(|it| it.sending.is_sending());
                let client_waits =
                    self.clients.get(exchange.client).is_some_and(|it| it.sending.is_sending());
                if tunnel_waits || is_upgraded && client_waits {
                    // A peer that takes nothing of what waits for it has its own deadline, `sending`.
                    exchange.note_progress(now.mono.after_coarse(self.config.limits.stall));
                } else {
                    self.fail(key, if is_upgraded { Refusal::Lost } else { Refusal::BodyLate }, now);
                }
            }
            Phase::Between | Phase::Gathering { .. } | Phase::Queued { .. } | Phase::Active { .. } => {}
        }
        self.arm_exchange(key);
    }

    /// The response is complete. The tunnel and the client go on, if they may.
    pub(super) fn complete(&mut self, key: ExchangeKey, tunnel_is_clean: bool, now: Now) {
        let Some(exchange) = self.take(key, Outcome::Complete, now) else { return };
        let Phase::Active { tunnel, keep, gate, .. } = *exchange.phase else { return };
        let client = exchange.client;
        self.clients.set_served(client, true);
        self.commands.push(Command::Unpair(client.into()));
        // Bytes of the request that wait for the agent will never be sent to it; what followed would be taken
        // for them.
        let all_sent =
            gate == Gate::Open && self.tunnels.get(tunnel).is_some_and(|tunnel| !tunnel.sending.is_sending());
        if exchange.messages.responder_is_reusable() && tunnel_is_clean && all_sent {
            self.release_tunnel(tunnel, now);
        } else {
            self.drop_tunnel(tunnel, TunnelEnd::Unfit, now);
        }
        if keep && exchange.messages.request.is_done() && self.draining.is_none() {
            self.await_head(client, self.config.limits.idle, now);
            self.commands.push(Command::Resume(client.into()));
        } else {
            self.end_client(client, now);
        }
        self.exchanges.recycle(exchange);
        self.dispatch(now);
    }

    /// The exchange ends without a complete response. The client is told, or can see it.
    pub(super) fn fail(&mut self, key: ExchangeKey, refusal: Refusal, now: Now) {
        let outcome = Outcome::Failed(refusal);
        let Some(exchange) = self.take(key, outcome, now) else { return };
        let client = exchange.client;
        self.note_failure(&exchange, refusal, now);
        if let Phase::Active { tunnel, .. } = *exchange.phase {
            self.commands.push(Command::Unpair(client.into()));
            self.cut_tunnel(tunnel, exchange.messages.may_be_upgraded(), outcome, now);
        }
        self.clients.set_served(client, exchange.messages.is_answered());
        match &exchange.messages.response {
            Response::Head { .. } => {
                let Messages { facts, request, .. } = &exchange.messages;
                let keep = facts.persistent && request.is_done() && self.draining.is_none();
                self.await_head(client, self.config.limits.idle, now);
                self.refuse(client, refusal, exchange.manner(), !keep, now);
                if keep {
                    self.commands.push(Command::Resume(client.into()));
                }
            }
            // A clean end would say that this was all of it (RFC 9112 section 8).
            Response::Body { .. } if delimited_by_close(&exchange) => {
                self.drop_client(client, Close::Reset, now);
            }
            Response::Upgraded { outbound_ended: false, .. } => {
                self.drop_client(client, Close::Reset, now);
            }
            // The end of this direction has been sent; what is on its way must not be taken back.
            Response::Upgraded { outbound_ended: true, .. } | Response::Body { .. } => {
                self.end_client(client, now)
            }
        }
        self.exchanges.recycle(exchange);
        self.dispatch(now);
    }

    /// What fails on our side of the hub is for its operator to know.
    fn note_failure(&mut self, exchange: &Exchange, refusal: Refusal, now: Now) {
        let (status, detail) = (refusal.status(), refusal.detail());
        if status < 500 {
            return;
        }
        let agent = match *exchange.phase {
            Phase::Active { tunnel, .. } => self.tunnels.get(tunnel).and_then(Tunnel::member),
            Phase::Between | Phase::Gathering { .. } | Phase::Queued { .. } => None,
        };
        let agent = agent
            .map_or_else(String::new, |it| format!(" of agent {}", self.tunnels.pool().describe(it.agent)));
        let names_upstreams = matches!(refusal, Refusal::Unreachable | Refusal::AllRefused);
        let troubles = if names_upstreams && log_enabled!(Level::Warn) {
            let class = self.tunnels.class_of(&exchange.need);
            self.tunnels.pool().troubles(class)
        } else {
            String::new()
        };
        let gap = if troubles.is_empty() { "" } else { ": " };
        let id = &exchange.id;
        let line =
            format_args!("a request{agent} failed with {status}: {detail}{gap}{troubles}; X-Request-Id {id}");
        self.notices.say(Level::Warn, (detail, 0), now.mono, line);
    }

    /// The client is gone; its exchange goes too.
    pub(super) fn abandon(&mut self, key: ExchangeKey, now: Now) {
        let Some(exchange) = self.take(key, Outcome::ClientLeft, now) else { return };
        if let Phase::Active { tunnel, .. } = *exchange.phase {
            // Cancelling is closing: the agent closes its upstream connection at once.
            self.cut_tunnel(tunnel, exchange.messages.may_be_upgraded(), Outcome::ClientLeft, now);
        }
        self.exchanges.recycle(exchange);
        // Not before all who left are known to have: one of them might be given what another one had.
        self.is_dispatch_due = true;
    }

    /// One side of an upgraded connection has ended: the other side is told, and when both have, all is over.
    pub(super) fn end_direction(&mut self, key: ExchangeKey, direction: Direction, now: Now) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let Phase::Active { tunnel, .. } = *exchange.phase else { return };
        let Some(Active { awaited, .. }) = exchange.phase.active_mut() else { return };
        let over = exchange.messages.response_is_done();
        *awaited = Awaited::OtherSide { by: now.mono.after_coarse(self.config.limits.stall) };
        let other: Key = match direction {
            Direction::Inbound => tunnel.into(),
            Direction::Outbound => exchange.client.into(),
        };
        self.commands.push(Command::Finish(other));
        self.arm_exchange(key);
        if over {
            let Some(exchange) = self.take(key, Outcome::UpgradeOver, now) else { return };
            self.commands.push(Command::Unpair(exchange.client.into()));
            self.retire_tunnel(tunnel, TunnelEnd::UpgradeOver, now);
            self.clients.set_served(exchange.client, true);
            self.end_client(exchange.client, now);
            self.exchanges.recycle(exchange);
            self.dispatch(now);
        }
    }

    /// Takes an exchange out of the tables, with its permit, its place and its held bytes. Its client is
    /// still in it, and the caller gives it another state, or drops it.
    fn take(&mut self, key: ExchangeKey, outcome: Outcome, now: Now) -> Option<Exchange> {
        let mut exchange = self.exchanges.remove(key)?;
        self.give_back(&mut exchange.held.share);
        self.commands.push(Command::DropHeld(exchange.client.into()));
        if let Some(label) = &exchange.label {
            debug!("{label}: {outcome} after {} ms", now.mono.since(exchange.began).as_millis());
        }
        Some(exchange)
    }
}

/// How long a busy agent may be silent before its response head: three signs of life, and what a loaded
/// machine takes.
pub(super) fn sign_limit(heartbeat: Duration) -> Duration {
    heartbeat * 3 + heartbeat / 2
}

/// Whether the end of the connection is the end of the response.
pub(super) fn delimited_by_close(exchange: &Exchange) -> bool {
    exchange.messages.facts.version == Version::Http10
        && matches!(*exchange.phase, Phase::Active { keep: false, .. })
}
