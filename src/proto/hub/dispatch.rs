//! Waiters meet tunnels here; and what becomes of an exchange whose time is over.

use alloc::vec::Vec;
use core::time::Duration;

use super::exchanges::Active;
use super::pool::ClassId;
use super::queue::Waiter;
use super::upload::gathered_by;
use super::{Awaited, Gate, Hub, Phase, Refusal};
use crate::proto::deadline::Limit;
use crate::proto::http1::reply::CONTINUE;
use crate::proto::seam::Command;
use crate::proto::tables::key::{ExchangeKey, Key, TableKey, TunnelKey};
use crate::proto::tables::timer::{Mono, Now};

impl Hub {
    /// Looks once whether anyone waits for what has become free. Not at each event: by then all who have left
    /// are known to have, and none of them is given what another one had.
    pub(super) fn settle(&mut self, now: Now) {
        if self.is_dispatch_due {
            self.dispatch(now);
        }
    }

    /// Matches waiters and idle tunnels, in order of arrival, as long as there are both and a permit.
    pub(super) fn dispatch(&mut self, now: Now) {
        self.is_dispatch_due = false;
        while self.gives_out() && !self.exchanges.queue().is_empty() {
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
                    self.fail(key, if is_upgraded { Refusal::OtherSide } else { Refusal::BodyLate }, now);
                }
            }
            Phase::Between | Phase::Gathering { .. } | Phase::Queued { .. } | Phase::Active { .. } => {}
        }
        self.arm_exchange(key);
    }
}

/// How long a busy agent may be silent before its response head: three signs of life, and what a loaded
/// machine takes.
pub(super) fn sign_limit(heartbeat: Duration) -> Duration {
    heartbeat * 3 + heartbeat / 2
}
