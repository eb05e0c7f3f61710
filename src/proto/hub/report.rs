//! What the hub tells of itself to the admin side.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::Hub;
use super::exchanges::Phase;
use super::tally::Tally;
use super::tunnels::{Standing, TunnelState};
use crate::proto::admin::action::{Action, Done, NotDone};
use crate::proto::admin::attention::Attention;
use crate::proto::admin::metrics::{HubMetric, Metric, RoleName, Samples};
use crate::proto::admin::status::{Json, Place, Telling};
use crate::proto::admin::{NotReady, Subject};
use crate::proto::tables::key::TunnelKey;
use crate::proto::tables::timer::{Mono, Now};

/// Agents whose tokens have one name, and their workers by state.
#[derive(Default)]
struct Named {
    agents: u64,
    workers: [u64; WORKER_STATES.len()],
}

/// The states of a worker.
pub(super) const WORKER_STATES: [&str; 5] = ["idle", "busy", "silent", "withdrawn", "paused"];

impl Subject for Hub {
    fn role(&self) -> RoleName {
        RoleName::Hub
    }

    fn begin_to_count(&mut self) {
        self.tally.get_or_insert_with(|| Box::new(Tally::new()));
    }

    fn check_ready(&self, agents: Option<usize>) -> Result<(), NotReady> {
        let Some(asked) = agents else { return Ok(()) };
        let ready = self.tunnels.pool().ready_agents();
        if ready < asked { Err(NotReady::Agents { ready, asked }) } else { Ok(()) }
    }

    fn write_samples(
        &self,
        metric: Metric,
        after: Option<&str>,
        samples: &mut Samples<'_>,
        now: Now,
    ) -> Option<String> {
        let Metric::Hub(metric) = metric else { return None };
        match metric {
            HubMetric::Requests
            | HubMetric::Responses
            | HubMetric::QueueWait
            | HubMetric::ResponseHead
            | HubMetric::RequestTime
            | HubMetric::Upgrades
            | HubMetric::UpstreamTime
            | HubMetric::Retries => {
                if let Some(tally) = &self.tally {
                    tally.write_samples(metric, !self.keys.is_empty(), samples);
                }
            }
            HubMetric::Finishing => samples.add(&[], self.clients.tails() as u64),
            HubMetric::OldestWait => samples.add_millis(&[], self.oldest_wait(now.mono)),
            HubMetric::QueuePaused => {
                samples.add(&[], u64::from(self.operator.queue_paused().is_some()));
            }
            HubMetric::Actions => {
                for (kind, count) in self.operator.done() {
                    samples.add(&[kind.name()], count);
                }
            }
            HubMetric::Agents | HubMetric::Workers => {
                return self.write_by_name(metric, after, samples);
            }
            HubMetric::Limit | HubMetric::LimitUsed => {
                for (name, max, used) in self.limits() {
                    samples.add(&[name], if metric == HubMetric::Limit { max } else { used });
                }
            }
        }
        None
    }

    fn attention(&self) -> Vec<Attention> {
        self.find_attention()
    }

    fn write_status(&self, at: &mut Place, json: &mut Json<'_>, telling: &Telling) -> bool {
        self.tell_status(at, json, telling)
    }

    fn act(&mut self, action: &Action<'_>, now: Now) -> Result<Done, NotDone> {
        self.carry_out(action, now)
    }
}

impl Hub {
    /// The caps that it holds: name, cap, and what is used of it.
    pub(super) fn limits(&self) -> [(&'static str, u64, u64); 4] {
        let gathering = self.exchanges.gathering();
        let each = [
            ("concurrent", self.config.concurrent, self.exchanges.active() + self.clients.tails()),
            ("queue_depth", self.config.queue_depth, self.exchanges.queue().len() + gathering),
            ("max_clients", self.config.max_clients, self.clients.len()),
            ("max_tunnels", self.config.max_tunnels, self.tunnels.len()),
        ];
        each.map(|(name, max, used)| (name, max as u64, used as u64))
    }

    /// In milliseconds; zero if nobody waits.
    fn oldest_wait(&self, now: Mono) -> u64 {
        let waits = self.exchanges.iter().filter(|(_, it)| matches!(*it.phase, Phase::Queued { .. }));
        let oldest = waits.map(|(_, exchange)| exchange.waits_since).min();
        oldest.map_or(0, |since| now.0.saturating_sub(since.0))
    }

    fn write_by_name(
        &self,
        metric: HubMetric,
        after: Option<&str>,
        samples: &mut Samples<'_>,
    ) -> Option<String> {
        let mut names: BTreeMap<&str, Named> = BTreeMap::new();
        for (name, workers) in self.tunnels.pool().connected() {
            if after.is_some_and(|after| name <= after) {
                continue;
            }
            let named = names.entry(name).or_default();
            named.agents += 1;
            for (_, tunnel) in workers {
                if let Some(count) = self.worker_state(*tunnel).and_then(|it| named.workers.get_mut(it)) {
                    *count += 1;
                }
            }
        }
        for (name, named) in names {
            if metric == HubMetric::Agents {
                samples.add(&[name], named.agents);
            } else {
                for (state, count) in WORKER_STATES.into_iter().zip(named.workers) {
                    samples.add(&[name, state], count);
                }
            }
            if samples.is_full() {
                return Some(name.to_string());
            }
        }
        None
    }

    /// Which of [`WORKER_STATES`] the worker of a tunnel is in, unless it has left.
    pub(super) fn worker_state(&self, key: TunnelKey) -> Option<usize> {
        match self.tunnels.get(key)?.state {
            TunnelState::Busy { .. } | TunnelState::Free { standing: Standing::Behind(_), .. } => Some(1),
            TunnelState::Free { member, .. } if self.tunnels.pool().is_paused(member.agent) => Some(4),
            TunnelState::Free { standing: Standing::Pooled(_), .. } => Some(0),
            TunnelState::Free { standing: Standing::Asked | Standing::Speaking, .. } => Some(2),
            TunnelState::Free { standing: Standing::Withdrawn, .. } => Some(3),
            TunnelState::Ending { .. } => None,
        }
    }
}
