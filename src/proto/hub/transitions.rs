//! Every transition in which two of client, tunnel and exchange change together: a tunnel is handed to an
//! exchange, an exchange ends and leaves its client and its tunnel behind, a tunnel is lost under an
//! exchange.
//!
//! Two more stand where they are judged: a request becomes an exchange in `client`, and a client becomes a
//! tunnel in `join`.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use log::{Level, debug, log_enabled};

use super::dispatch::sign_limit;
use super::ending::{Outcome, TunnelEnd};
use super::exchanges::Active;
use super::pool::{AgentSlot, REFUSAL_PAUSE};
use super::tally::{App, By, Over, Retry};
use super::{
    Awaited, Direction, Exchange, Expectation, Gate, Hub, Owes, Phase, Refusal, Standing, Tunnel, TunnelState,
};
use crate::proto::deadline::Limit;
use crate::proto::exchange::{Messages, Response};
use crate::proto::http1::head::HeadScan;
use crate::proto::http1::start_line::Version;
use crate::proto::seam::{Close, Command};
use crate::proto::tables::key::{ExchangeKey, Key, TunnelKey};
use crate::proto::tables::timer::Now;
use crate::proto::tunnel::CloseReason;

/// How long a client waits for the 100 of an upstream. Then the hub says it, since the upstream may be one
/// that never does.
const EXPECT_WAIT: Duration = Duration::from_secs(5);
/// Under one request two tunnels may be lost; a third one would look like the request's doing.
const MAX_LOST: u8 = 2;
/// Returns of one request that count for nothing. Each agent that cannot reach its upstream adds one, and
/// each tunnel that breaks before it took anything; beyond this many they count as lost tunnels, so that no
/// request is on the move for ever.
const MAX_RETURNS: u8 = 100;

impl Hub {
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
        self.tunnels.take(tunnel_key, key, Owes::Sign { by }, &mut self.timers);
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
        self.exchanges.activate(key, tunnel_key, (gate, awaited), now.mono, &mut self.timers);
        self.stop_holding(key);
        self.await_response(key, now);
        true
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
        self.is_dispatch_due = true;
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
                self.count(|tally| tally.note_response(By::Hub, refusal.status()));
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
        self.is_dispatch_due = true;
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
        let code = refusal.end(exchange.stage()).code();
        let id = &exchange.id;
        let line = format_args!(
            "a request{agent} failed with {status} ({code}): {detail}{gap}{troubles}; X-Request-Id {id}"
        );
        self.notices.say(Level::Warn, (detail, 0), now.mono, line);
    }

    /// The client is gone, or is given up; its exchange goes too.
    pub(super) fn abandon(&mut self, key: ExchangeKey, outcome: Outcome, now: Now) {
        let Some(exchange) = self.take(key, outcome, now) else { return };
        if let Phase::Active { tunnel, .. } = *exchange.phase {
            // Cancelling is closing: the agent closes its upstream connection at once.
            self.cut_tunnel(tunnel, exchange.messages.may_be_upgraded(), outcome, now);
        }
        self.exchanges.recycle(exchange);
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
            self.is_dispatch_due = true;
        }
    }

    /// Takes an exchange out of the tables, with its permit, its place and its held bytes. Its client is
    /// still in it, and the caller gives it another state, or drops it.
    fn take(&mut self, key: ExchangeKey, outcome: Outcome, now: Now) -> Option<Exchange> {
        let mut exchange = self.exchanges.remove(key)?;
        if let Some(tally) = &mut self.tally {
            let app = if self.keys.is_empty() { App::None } else { App::Password };
            tally.note_over(&Over::of(&exchange, outcome, app, now.mono));
        }
        self.give_back(&mut exchange.held.share);
        self.commands.push(Command::DropHeld(exchange.client.into()));
        if let Some(label) = &exchange.label {
            let took = now.mono.millis_since(exchange.began);
            // The phase is still the one in which it ended.
            let code = exchange.end(outcome).code();
            debug!("{label}: {code} after {took} ms: {outcome}");
        }
        Some(exchange)
    }

    /// The exchange on a tunnel is over, and its connection is fit for another one.
    pub(super) fn release_tunnel(&mut self, key: TunnelKey, now: Now) {
        let Some(member) = self.tunnels.get(key).and_then(Tunnel::member) else { return };
        if !self.tunnels.pool().holds(member, key) {
            self.bid_farewell(key, CloseReason::Replaced, now);
        } else if self.tunnels.pool().is_expired(member.agent, now.unix) {
            self.bid_farewell(key, CloseReason::Expired, now);
            self.expire_agent(member.agent, now);
        } else {
            self.free_tunnel(key, now);
        }
    }

    /// Another tunnel has taken the name of this one: its agent has done with it, or has lost it.
    pub(super) fn replace_tunnel(&mut self, key: TunnelKey, now: Now) {
        let is_seen_through = self.tunnels.get(key).is_some_and(|tunnel| self.is_answered(tunnel));
        self.tunnels.lose_name(key, now.mono);
        if is_seen_through {
            self.tunnels.set_owes(key, Owes::Bytes { by: now.mono.after(self.config.limits.linger) });
            self.arm_tunnel(key);
        } else {
            self.end_tunnels(&[key], CloseReason::Replaced, now);
        }
    }

    /// Ends tunnels: with a farewell those that are free, at once those that are busy. The exchange of one
    /// goes elsewhere, if it may, but not to another one of these: all of them are out of the pool by then.
    pub(super) fn end_tunnels(&mut self, keys: &[TunnelKey], reason: CloseReason, now: Now) {
        let mut lost = Vec::new();
        for &key in keys {
            match self.tunnels.get(key).map(|tunnel| &tunnel.state) {
                Some(TunnelState::Free { .. }) => self.bid_farewell(key, reason, now),
                Some(TunnelState::Busy { exchange, .. }) => {
                    lost.push(*exchange);
                    self.drop_tunnel(key, TunnelEnd::Farewell(reason), now);
                }
                Some(TunnelState::Ending { .. }) | None => {}
            }
        }
        self.retry_or_fail(&lost, true, now);
    }

    /// Closes the tunnel under an exchange that is given up. The agent sees that it is: in one that was
    /// upgraded, at its end at least, a FIN would be the end of one direction, or no news at all.
    pub(super) fn cut_tunnel(&mut self, key: TunnelKey, is_upgraded: bool, outcome: Outcome, now: Now) {
        let how = if is_upgraded { Close::Reset } else { Close::Now };
        if self.forget_tunnel(key, TunnelEnd::GivenUp(outcome), now).is_some() {
            self.commands.push(Command::Close(key.into(), how));
        }
    }

    /// A tunnel broke. Its exchange goes elsewhere, if it may.
    pub(super) fn tunnel_lost(&mut self, key: TunnelKey, written: bool, why: TunnelEnd<'_>, now: Now) {
        if let Some(Tunnel { state: TunnelState::Busy { exchange, .. }, .. }) =
            self.forget_tunnel(key, why, now)
        {
            self.retry_or_fail(&[exchange], written, now);
        }
    }

    /// As [`Hub::tunnel_lost`], by our decision.
    pub(super) fn end_lost_tunnel(&mut self, key: TunnelKey, why: TunnelEnd<'_>, now: Now) {
        self.commands.push(Command::Close(key.into(), Close::Now));
        self.tunnel_lost(key, true, why, now);
    }

    /// The tunnels under these exchanges are gone (and out of all tables). Each gets another one, if that is
    /// permitted.
    pub(super) fn retry_or_fail(&mut self, lost: &[ExchangeKey], written: bool, now: Now) {
        let mut again = Vec::new();
        let mut failed = Vec::new();
        for &key in lost {
            let Some(exchange) = self.exchanges.get_mut(key) else { continue };
            if let Phase::Active { since, .. } = *exchange.phase {
                // It did not wait while it was served.
                exchange.waits_since = exchange.waits_since.after(now.mono.since(since));
            }
            exchange.returns = exchange.returns.saturating_add(u8::from(!written));
            let counts = written || exchange.returns > MAX_RETURNS;
            let harmless = !counts || exchange.messages.facts.idempotent && exchange.lost < MAX_LOST;
            if harmless && exchange.may_be_sent_again() {
                exchange.lost = exchange.lost.saturating_add(u8::from(counts));
                again.push((key, if written { Retry::Lost } else { Retry::Unsent }));
            } else {
                failed.push(key);
            }
        }
        self.send_again(&again, now);
        for key in failed {
            self.fail(key, Refusal::Lost, now);
        }
    }

    /// An agent refused an exchange: its upstream has seen nothing of it.
    pub(super) fn refused(&mut self, key: ExchangeKey, agent: AgentSlot, now: Now) {
        let refused = self.tunnels.refuse(agent, now.mono);
        self.look_again_at(now.mono.after_coarse(REFUSAL_PAUSE));
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if let Some(refused) = refused {
            exchange.need.note_refusal(refused);
        }
        exchange.returns = exchange.returns.saturating_add(1);
        let is_one_too_many = exchange.returns > MAX_RETURNS;
        if !exchange.may_be_sent_again() {
            self.fail(key, Refusal::AllRefused, now);
        } else if is_one_too_many {
            self.retry_or_fail(&[key], true, now);
        } else {
            self.send_again(&[(key, Retry::Refused)], now);
        }
    }

    /// Exchanges that had a tunnel wait for another one, each in the place that it had. All of them do before
    /// any is served, and those who came before them go first.
    fn send_again(&mut self, keys: &[(ExchangeKey, Retry)], now: Now) {
        for &(key, why) in keys {
            let Some(exchange) = self.exchanges.get_mut(key) else { continue };
            debug!("{key:?} goes to another tunnel");
            exchange.messages.response = Response::awaited(HeadScan::on_tunnel());
            if let Phase::Active { awaited, since, .. } = *exchange.phase {
                if let Awaited::Continue { .. } = awaited {
                    exchange.held.expectation = Expectation::OfClient;
                }
                if let Some(tally) = &mut self.tally {
                    tally.note_retry(why, now.mono.millis_since(since));
                }
            }
            self.commands.push(Command::Unpair(exchange.client.into()));
            let class = self.tunnels.class_of(&exchange.need);
            self.exchanges.enter_queue(key, class, Limit::NONE, &mut self.timers);
        }
        self.dispatch(now);
        for &(key, _) in keys {
            let Some(exchange) = self.exchanges.get(key) else { continue };
            let Phase::Queued { .. } = *exchange.phase else { continue };
            let class = self.tunnels.class_of(&exchange.need);
            match self.wait_until(exchange, class, now) {
                Ok(last) => {
                    self.exchanges.limit_wait(key, last, &mut self.timers);
                    if self.makes_room(key) {
                        // Its body was not wanted just now.
                        self.commands
                            .extend(self.exchanges.get(key).map(|it| Command::Resume(it.client.into())));
                    }
                }
                Err(refusal) => self.fail(key, refusal, now),
            }
        }
    }
}

/// Whether the end of the connection is the end of the response.
pub(super) fn delimited_by_close(exchange: &Exchange) -> bool {
    exchange.messages.facts.version == Version::Http10
        && matches!(*exchange.phase, Phase::Active { keep: false, .. })
}

impl Exchange {
    /// Whether all that was sent of the request is still held, and nothing of a response has come.
    fn may_be_sent_again(&self) -> bool {
        self.held.whole && !self.messages.is_answered() && !self.messages.has_interim()
    }
}
