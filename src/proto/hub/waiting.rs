//! Who waits for a worker, how long, and what is said where none comes.

use alloc::vec::Vec;
use core::time::Duration;

use log::Level;

use super::pool::{ClassId, Refused};
use super::queue::{Arrival, Waiter};
use super::{Exchange, Hub, Refusal};
use crate::proto::deadline::Limit;
use crate::proto::tables::key::ExchangeKey;
use crate::proto::tables::timer::{Mono, Now};

/// A tunnel whose sign of life has been awaited for less than this counts as free for those who do not wait.
const ASKED_GRACE: Duration = Duration::from_secs(1);

impl Hub {
    /// An exchange has what it needs to be served: it gets a tunnel, or a place in the queue, or an answer.
    pub(super) fn admit(&mut self, key: ExchangeKey, now: Now) {
        // Those that wait already come first.
        self.settle(now);
        if !self.exchanges.end_gathering(key, now.mono, &mut self.timers) {
            return;
        }
        if !self.has_permit() {
            let line = format_args!(
                "{} requests are in progress, the limit of --concurrent: others wait even if a worker is free",
                self.exchanges.active() + self.clients.tails()
            );
            self.notices.say(Level::Warn, ("concurrent", 0), now.mono, line);
        }
        while self.gives_out() {
            let Some(exchange) = self.exchanges.get(key) else { return };
            let class = self.tunnels.class_of(&exchange.need);
            let Some(tunnel) = self.tunnels.pool().find_idle(class, &exchange.need.refused) else { break };
            if self.activate(key, tunnel, now) {
                return;
            }
        }
        let Some(exchange) = self.exchanges.get(key) else { return };
        let class = self.tunnels.class_of(&exchange.need);
        let is_connected = self.is_connected(class, &exchange.need.refused, now);
        match self.wait_until(exchange, class, now) {
            Err(refusal) => self.fail(key, refusal, now),
            Ok(until) if self.has_place_in_queue(is_connected, now) => {
                self.exchanges.enter_queue(key, class, until, &mut self.timers);
                self.makes_room(key);
            }
            Ok(_) => self.fail(key, Refusal::QueueFull, now),
        }
    }

    /// Ends the wait of all who wait for agents that are taken for connected no more, and did not say that
    /// they wait for them all the same.
    pub(super) fn review(&mut self, now: Now) {
        for (_, key, class) in self.in_vain(now) {
            if let Some(exchange) = self.exchanges.get(key)
                && exchange.patience.block.is_none()
            {
                self.fail(key, self.why_nobody(exchange, class), now);
            }
        }
    }

    /// Those who wait though no agent that could serve them is connected, in order of arrival. It costs a
    /// look at each class, at those, and at whom agents have refused, however many others wait.
    fn in_vain(&self, now: Now) -> Vec<(Arrival, ExchangeKey, ClassId)> {
        let plain = self.classes_in_vain(now).flat_map(|(class, _)| {
            let waiters = self.exchanges.queue().waiters_of(class).filter(|waiter| !waiter.was_refused);
            waiters.map(move |waiter| (class, waiter))
        });
        let all = plain.chain(self.refused_in_vain(now));
        let mut all: Vec<_> = all.map(|(class, it)| (it.arrival, it.exchange, class)).collect();
        all.sort_unstable();
        all
    }

    /// How many they are. It costs a look at each class, and at those whom agents have refused.
    fn count_in_vain(&self, now: Now) -> usize {
        let plain: usize = self.classes_in_vain(now).map(|(_, waiters)| waiters).sum();
        plain + self.refused_in_vain(now).count()
    }

    /// The classes whose agents are gone, and how many wait there whom none has refused.
    fn classes_in_vain(&self, now: Now) -> impl Iterator<Item = (ClassId, usize)> + '_ {
        self.exchanges.queue().classes().filter(move |(class, _)| !self.is_connected(*class, &[], now))
    }

    /// Waiters whom agents have refused, and for whom no other one is there.
    fn refused_in_vain(&self, now: Now) -> impl Iterator<Item = (ClassId, Waiter)> + '_ {
        self.exchanges.queue().refused().filter(move |(class, waiter)| {
            let exchange = self.exchanges.get(waiter.exchange);
            exchange.is_some_and(|it| !self.is_connected(*class, &it.need.refused, now))
        })
    }

    /// Sees to it that agents and waiters are looked at by then.
    pub(super) fn look_again_at(&mut self, at: Mono) {
        self.sweep_at = self.sweep_at.min(at);
    }

    fn is_connected(&self, class: ClassId, refused: &[Refused], now: Now) -> bool {
        now.mono < self.grace_ends || self.tunnels.pool().is_connected(class, refused, now.mono)
    }

    /// How long an exchange may wait from now on, or what is said to it at once.
    pub(super) fn wait_until(&self, exchange: &Exchange, class: ClassId, now: Now) -> Result<Limit, Refusal> {
        let is_connected = self.is_connected(class, &exchange.need.refused, now);
        let until = |longest| Limit::at(exchange.waits_since.after(longest));
        let patience = exchange.patience;
        match patience.block {
            Some(true) => Ok(patience.max_wait.map_or(Limit::NONE, until)),
            Some(false)
                if is_connected
                    && self.operator.queue_paused().is_none()
                    && self.tunnels.pool().has_heartbeat_pending(class) =>
            {
                Ok(Limit::at(now.mono.after(ASKED_GRACE)))
            }
            Some(false) if is_connected => Err(Refusal::Busy),
            None if is_connected => Ok(until(patience.max_wait.unwrap_or(self.config.queue_timeout))),
            None | Some(false) => Err(self.why_nobody(exchange, class)),
        }
    }

    /// Whether there is a place for a newcomer in the queue. Those that no connected agent can serve have a
    /// quarter of it, and give up what they have beyond that to those that one can.
    fn has_place_in_queue(&mut self, is_connected: bool, now: Now) -> bool {
        let depth = self.config.queue_depth;
        let is_full = self.exchanges.queue().len() >= depth;
        if is_connected && !is_full {
            return true;
        }
        let (in_vain, most) = (self.count_in_vain(now), (depth / 4).max(1));
        if !is_connected {
            return !is_full && in_vain < most;
        }
        if in_vain > most
            && let Some((_, last, _)) = self.in_vain(now).last()
        {
            self.fail(*last, Refusal::QueueFull, now);
            return true;
        }
        false
    }

    /// What is said where no agent that could serve this is connected.
    fn why_nobody(&self, exchange: &Exchange, class: ClassId) -> Refusal {
        if exchange.lost > 0 {
            Refusal::Lost
        } else if !exchange.need.refused.is_empty() {
            Refusal::AllRefused
        } else if self.tunnels.pool().is_barred_by_path(&exchange.need) {
            Refusal::BarredPath
        } else if self.tunnels.pool().is_all_paused(class) {
            Refusal::Paused
        } else if self.tunnels.pool().has_any(class) {
            Refusal::Unreachable
        } else {
            Refusal::NoAgent
        }
    }
}
