//! What holds of the hub's tables between two turns, whatever happened before. For tests, which ask after
//! every turn.

use alloc::string::String;
use alloc::vec::Vec;

use super::hold::Share;
use super::{Awaited, Client, ClientState, Exchange, Gate, Hub, Phase, Standing, Tunnel, TunnelState};
use crate::proto::exchange::Response;
use crate::proto::tables::timer::Mono;

/// Bytes by which a trailer section may become longer when it is written anew: a space for each field.
const MOST_ADDED: usize = 100;

impl Hub {
    /// What is wrong with the tables, if anything is: a count that is not what it counts, a reference that is
    /// not returned, a deadline that nobody will look at, more than a cap allows, or a request that waits
    /// though a worker could serve it.
    pub fn audit(&self) -> Option<String> {
        let faults = [
            (self.are_counts_wrong(), "a count is wrong"),
            (self.are_pairs_broken(), "an exchange and its client or tunnel are not one another's"),
            (self.is_anyone_unknown(), "the agents and their tunnels are not one another's"),
            (self.is_pool_wrong(), "the pool holds what takes no work, or not what does"),
            (self.is_anyone_astray(), "an agent has a request that it may not serve"),
            (self.is_anyone_unarmed(), "a deadline has no wake-up"),
            (self.waits_for_ever(), "something waits without a limit that the table of states does not name"),
            (self.has_left_and_waits(), "a request waits whose client has left"),
            (self.is_beyond_a_cap(), "there is more than a cap allows"),
            (self.is_budget_wrong(), "what is held of requests is not what the budget says"),
            (
                self.is_anyone_forgotten(),
                "a request waits for agents that are gone, and nobody looks at it again",
            ),
            (self.has_overlooked(), "a request waits, though a worker that could serve it is free"),
        ];
        let fault = faults.into_iter().find(|(is_there, _)| *is_there);
        fault.map(|(_, what)| format!("at the hub, {what}: {:?}", self.census()))
    }

    fn phases(&self, is_meant: fn(&Phase) -> bool) -> usize {
        self.exchanges.iter().filter(|(_, exchange)| is_meant(&exchange.phase)).count()
    }

    fn are_counts_wrong(&self) -> bool {
        let clients = |is_meant: fn(&ClientState) -> bool| {
            self.clients.iter().filter(|(_, client)| is_meant(&client.state)).count()
        };
        self.clients.tails() != self.clients.iter().filter(|(_, client)| client.takes_tail()).count()
            || self.exchanges.active() != self.phases(|it| matches!(it, Phase::Active { .. }))
            || self.exchanges.gathering() != self.phases(|it| matches!(it, Phase::Gathering { .. }))
            || self.exchanges.queue().len() != self.phases(|it| matches!(it, Phase::Queued { .. }))
            || self.phases(|it| matches!(it, Phase::Between)) > 0
            || self.exchanges.queue().waiters().any(|(_, waiter)| {
                let exchange = self.exchanges.get(waiter.exchange);
                exchange.is_none_or(|it| it.need.refused.is_empty() == waiter.was_refused)
            })
            || self.clients.idle() != clients(|it| matches!(it, ClientState::Waiting { .. }))
            || self.clients.ending() != clients(|it| matches!(it, ClientState::Ending { .. }))
    }

    fn are_pairs_broken(&self) -> bool {
        let has_both = |(key, exchange): (_, &Exchange)| {
            let has_client = self
                .clients
                .get(exchange.client)
                .is_some_and(|it| matches!(it.state, ClientState::Exchange(its) if its == key));
            let has_tunnel = match *exchange.phase {
                Phase::Active { tunnel, .. } => self.tunnels.get(tunnel).is_some_and(
                    |it| matches!(it.state, TunnelState::Busy { exchange: its, .. } if its == key),
                ),
                Phase::Between | Phase::Gathering { .. } | Phase::Queued { .. } => true,
            };
            has_client && has_tunnel
        };
        let serving = self.clients.iter().filter(|(_, it)| matches!(it.state, ClientState::Exchange(_)));
        let busy = self.tunnels.iter().filter(|(_, it)| matches!(it.state, TunnelState::Busy { .. }));
        !self.exchanges.iter().all(has_both)
            || serving.count() != self.exchanges.len()
            || busy.count() != self.exchanges.active()
    }

    /// Whether a tunnel is not known to its agent, a worker has two requests, or an agent counts other
    /// tunnels as ready than those that are.
    fn is_anyone_unknown(&self) -> bool {
        let members = self
            .tunnels
            .iter()
            .filter_map(|(key, tunnel)| tunnel.member().map(|member| (key, member, tunnel.is_ready())));
        let is_unnamed =
            |key, tunnel: &Tunnel| tunnel.member().is_some_and(|it| !self.tunnels.pool().holds(it, key));
        let is_free = |tunnel: &Tunnel| matches!(tunnel.state, TunnelState::Free { .. });
        let is_astray = |tunnel: &Tunnel| match tunnel.state {
            TunnelState::Free { standing: Standing::Behind(first), .. } => {
                !self.tunnels.get(first).is_some_and(|it| is_unnamed(first, it) && !is_free(it))
            }
            TunnelState::Free { .. } | TunnelState::Busy { .. } | TunnelState::Ending { .. } => false,
        };
        let mut busy: Vec<(usize, u32)> = self
            .tunnels
            .iter()
            .filter(|(_, tunnel)| matches!(tunnel.state, TunnelState::Busy { .. }))
            .filter_map(|(_, tunnel)| tunnel.member().map(|it| (it.agent.index(), it.worker)))
            .collect();
        busy.sort_unstable();
        // A worker has one request at a time, whichever of its tunnels brings it.
        let has_two = busy.windows(2).any(|pair| pair.first() == pair.last());
        has_two
            || !self.tunnels.pool().is_made_of(members)
            || self.tunnels.iter().any(|(key, it)| is_astray(it) || is_free(it) && is_unnamed(key, it))
    }

    /// Whether it is not so that a tunnel is pooled if and only if it is ready and owes no heartbeat.
    fn is_pool_wrong(&self) -> bool {
        let mut pooled = 0;
        let mut is_wrong = false;
        for (_, tunnel) in self.tunnels.iter() {
            if let TunnelState::Free { standing, unanswered, .. } = tunnel.state {
                pooled += usize::from(matches!(standing, Standing::Pooled(_)));
                is_wrong |= match standing {
                    Standing::Pooled(_) => unanswered > 0,
                    Standing::Asked => unanswered == 0,
                    Standing::Speaking => unanswered > 0,
                    Standing::Behind(_) | Standing::Withdrawn => false,
                };
            }
        }
        is_wrong
            || !self.tunnels.pool().follows_pauses()
            || pooled != self.tunnels.pool().idle()
            || self.tunnels.asked() != self.tunnels.pool().pending()
    }

    /// Whether a tunnel carries what neither its token nor its light paths cover.
    fn is_anyone_astray(&self) -> bool {
        self.tunnels.iter().any(|(_, tunnel)| match tunnel.state {
            TunnelState::Busy { member, exchange, .. } => {
                let exchange = self.exchanges.get(exchange);
                exchange.is_some_and(|it| !self.tunnels.pool().may_serve(member.agent, &it.need))
            }
            TunnelState::Free { .. } | TunnelState::Ending { .. } => false,
        })
    }

    fn is_anyone_unarmed(&self) -> bool {
        !self.clients.iter().all(|(_, it)| it.armed.covers(it.deadline()))
            || !self.tunnels.iter().all(|(_, it)| it.armed.covers(it.deadline()))
            || !self.exchanges.iter().all(|(_, it)| it.armed.covers(it.deadline()))
    }

    /// Whether something waits without a limit, though the table of the module's page has one for it.
    fn waits_for_ever(&self) -> bool {
        let client = |client: &Client| {
            matches!(client.state, ClientState::Exchange(_)) || client.deadline() != Mono::NEVER
        };
        let tunnel = |tunnel: &Tunnel| match tunnel.state {
            // Once it has answered, there is no limit but that of its exchange.
            TunnelState::Busy { exchange, .. } => {
                let is_answered = |it: &Exchange| it.messages.is_answered();
                self.exchanges.get(exchange).is_some_and(is_answered) || tunnel.deadline() != Mono::NEVER
            }
            TunnelState::Free { .. } | TunnelState::Ending { .. } => tunnel.deadline() != Mono::NEVER,
        };
        !self.clients.iter().all(|(_, it)| client(it))
            || !self.tunnels.iter().all(|(_, it)| tunnel(it))
            || !self.exchanges.iter().all(|(_, it)| self.has_limit(it))
    }

    fn has_limit(&self, exchange: &Exchange) -> bool {
        let messages = &exchange.messages;
        let is_limited = |awaited: Awaited| awaited.deadline() != Mono::NEVER;
        match *exchange.phase {
            Phase::Between => false,
            Phase::Gathering { .. } => true,
            Phase::Queued { until, .. } => {
                let is_patient =
                    exchange.patience.block == Some(true) && exchange.patience.max_wait.is_none();
                until.is_set() || is_patient
            }
            Phase::Active { gate, awaited, .. } => match messages.response {
                // The client waits for a tunnel that gives signs of life, and the hub for the rest of the
                // request.
                Response::Head { .. } => {
                    messages.request.is_done() || gate == Gate::AwaitsConnect || is_limited(awaited)
                }
                // A request of which no more is expected is none that is awaited.
                Response::Body { .. } => {
                    messages.request.is_done()
                        || gate == Gate::AwaitsConnect
                        || matches!(awaited, Awaited::Unmet)
                        || is_limited(awaited)
                }
                Response::Upgraded { inbound_ended, outbound_ended } => {
                    inbound_ended == outbound_ended || matches!(awaited, Awaited::OtherSide { .. })
                }
            },
        }
    }

    fn has_left_and_waits(&self) -> bool {
        let has_left = |exchange: &Exchange| self.clients.get(exchange.client).is_some_and(|it| it.left);
        let waits = |exchange: &Exchange| !matches!(*exchange.phase, Phase::Active { .. });
        self.exchanges.iter().any(|(_, it)| waits(it) && has_left(it))
    }

    fn is_beyond_a_cap(&self) -> bool {
        // Who comes back from a tunnel keeps the place that it had, however full the queue has become.
        let has_returned = |exchange: &Exchange| {
            matches!(*exchange.phase, Phase::Queued { .. }) && (exchange.lost > 0 || exchange.returns > 0)
        };
        let returned = self.exchanges.iter().filter(|(_, it)| has_returned(it)).count();
        self.exchanges.active() > self.config.concurrent
            || self.exchanges.queue().len() > self.config.queue_depth + returned
            || self.exchanges.gathering() > self.config.max_gathering()
            || self.exchanges.len() > self.config.max_clients
            || self.clients.len() > self.config.max_clients + self.config.newcomers()
            || self.tunnels.len() > self.config.max_tunnels
    }

    /// Whether an exchange has a share of the budget that is not counted or that it has no use for, or waits
    /// for one though it may not.
    fn is_budget_wrong(&self) -> bool {
        let shares = self.exchanges.iter().map(|(_, it)| &it.held.share);
        let starved = self.exchanges.iter().filter(|(_, it)| it.held.share.is_starved());
        let is_stuck = |exchange: &Exchange| match *exchange.phase {
            Phase::Between => true,
            // It awaits more than may be held of it.
            Phase::Gathering { .. } => !exchange.wants_request(),
            Phase::Queued { .. } => {
                exchange.held.share.is_starved()
                    && (exchange.wants_request() || exchange.messages.request.is_done())
            }
            Phase::Active { .. } => exchange.held.share.is_starved(),
        };
        let has_more = |exchange: &Exchange| {
            matches!(*exchange.phase, Phase::Gathering { .. } | Phase::Queued { .. })
                && exchange.held.whole
                && exchange.held.body > (exchange.held.share.room() + MOST_ADDED) as u64
        };
        self.budget.is_wrong()
            || self.budget.taken() != shares.map(Share::blocks).sum::<usize>()
            || self.budget.starved() != starved.count()
            || self.exchanges.iter().any(|(_, it)| is_stuck(it) || has_more(it))
    }

    /// Whether a request that should not waits for agents of which none is here, and that is not looked at
    /// again.
    fn is_anyone_forgotten(&self) -> bool {
        let waits_in_vain = |class, exchange: &Exchange| {
            exchange.patience.block.is_none()
                && !self.tunnels.pool().is_connected(class, &exchange.need.refused, Mono::NEVER)
        };
        let mut waiters = self.exchanges.queue().waiters();
        self.sweep_at == Mono::NEVER
            && waiters.any(|(class, waiter)| {
                self.exchanges.get(waiter.exchange).is_some_and(|it| waits_in_vain(class, it))
            })
    }

    /// Whether a request waits although there are a worker that could serve it and a permit.
    fn has_overlooked(&self) -> bool {
        self.gives_out()
            && self.exchanges.queue().waiters().any(|(_, waiter)| {
                let exchange = self.exchanges.get(waiter.exchange);
                exchange.is_some_and(|it| self.tunnels.pool().could_serve(&it.need))
            })
    }
}
