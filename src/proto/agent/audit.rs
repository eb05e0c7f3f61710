//! What holds of the agent's tables between two turns, whatever happened before. For tests, which ask after
//! every turn.

use alloc::string::String;
use alloc::vec::Vec;

use super::{Agent, Said, TunnelOf, UpstreamOf, Worker, WorkerState};
use crate::proto::tables::key::{TunnelKey, UpstreamKey};
use crate::proto::tables::timer::Mono;

impl Agent {
    /// What is wrong with the tables, if anything is: a connection that nobody knows of any more, or a worker
    /// whose connection is not its own.
    pub fn audit(&self) -> Option<String> {
        let tunnels: Vec<_> =
            self.workers.iter().filter_map(|(key, worker)| Some((key, tunnel(worker)?))).collect();
        let is_own = |(key, tunnel): &(_, _)| {
            self.tunnels
                .get(*tunnel)
                .is_some_and(|it| matches!(it.of, TunnelOf::Worker { key: of, .. } if of == *key))
        };
        let of_workers = self.tunnels.iter().filter(|(_, it)| matches!(it.of, TunnelOf::Worker { .. }));
        if !tunnels.iter().all(is_own) || tunnels.len() != of_workers.count() {
            return Some(format!("an agent has lost sight of a tunnel: {:?}", self.census()));
        }
        let upstreams: Vec<_> = self
            .workers
            .iter()
            .flat_map(|(key, worker)| upstreams(worker).into_iter().flatten().map(move |it| (key, it)))
            .collect();
        let is_own = |(key, upstream): &(_, _)| {
            self.upstreams
                .get(*upstream)
                .is_some_and(|it| matches!(it.of, UpstreamOf::Worker(of) if of == *key))
        };
        let of_workers = self.upstreams.iter().filter(|(_, it)| matches!(it.of, UpstreamOf::Worker(_)));
        if !upstreams.iter().all(is_own) || upstreams.len() != of_workers.count() {
            return Some(format!("an agent has lost sight of an upstream connection: {:?}", self.census()));
        }
        let places = |index: u16| {
            let is_probed = self.health_of(index).is_some_and(super::Health::is_probed);
            self.at_upstream(index) + u32::from(is_probed)
        };
        let count = u16::try_from(self.health.len()).unwrap_or(u16::MAX);
        if let Some(index) = (0..count).find(|index| places(*index) > self.config.workers) {
            return Some(format!("requests and probes at upstream {index} are more than its workers"));
        }
        if let Some((key, _)) = self.workers.iter().find(|(_, worker)| !self.is_true_to_hub(worker)) {
            return Some(format!("{} has told the hub what is no longer so", self.describe(key)));
        }
        if let Some((key, _)) = self.workers.iter().find(|(_, worker)| !self.is_limited(worker)) {
            return Some(format!("{} waits without a limit: {:?}", self.describe(key), self.census()));
        }
        if self.upstreams.iter().any(|(_, upstream)| !upstream.armed.covers(upstream.sending.by()))
            || self.tunnels.iter().any(|(_, tunnel)| !tunnel.armed.covers(tunnel.send_by))
        {
            return Some(format!("a connection that takes nothing has no wake-up: {:?}", self.census()));
        }
        let is_armed = self.workers.iter().all(|(_, worker)| worker.armed.covers(worker.deadline()));
        (!is_armed).then(|| format!("a deadline of an agent has no wake-up: {:?}", self.census()))
    }

    /// Whether a worker that is idle at the hub has told it of its upstream what is known.
    fn is_true_to_hub(&self, worker: &Worker) -> bool {
        let WorkerState::Joined { said, .. } = worker.state else { return true };
        said == Said::of(self.health_of(worker.upstream).and_then(super::Health::trouble))
    }

    /// Whether somebody sees to it that a worker's state ends. Either it has a deadline, or it is one of
    /// those that the table in the documentation of the module says somebody else ends, who must be there
    /// then.
    fn is_limited(&self, worker: &Worker) -> bool {
        if worker.deadline() != Mono::NEVER {
            return true;
        }
        let has = |upstream| self.upstreams.get(upstream).is_some();
        match &worker.state {
            // It begins once its upstream's first probe is over.
            WorkerState::Resting { .. } => {
                self.health_of(worker.upstream).is_some_and(|health| health.deadline() != Mono::NEVER)
            }
            // The kernel watches the connection until the hub is heard of again.
            WorkerState::Joined { tunnel, .. } => self.tunnels.get(*tunnel).is_some(),
            // The head has come; a body has the limits of what is sent, and the kernel watches both
            // connections.
            WorkerState::Serving(serving) => {
                serving.messages.is_answered() && serving.connection().is_some_and(has)
            }
            WorkerState::Spare => true,
            WorkerState::Stopped => self.draining.is_some() || !self.accepted,
            WorkerState::Dialling { .. }
            | WorkerState::Passing { .. }
            | WorkerState::Joining { .. }
            | WorkerState::Leaving { .. }
            | WorkerState::Finishing(_)
            | WorkerState::Discarding(_) => false,
        }
    }
}

/// The tunnel that a worker has.
fn tunnel(worker: &Worker) -> Option<TunnelKey> {
    match &worker.state {
        WorkerState::Dialling { tunnel, .. }
        | WorkerState::Passing { tunnel, .. }
        | WorkerState::Joining { tunnel, .. }
        | WorkerState::Joined { tunnel, .. }
        | WorkerState::Leaving { tunnel, .. } => Some(*tunnel),
        WorkerState::Serving(serving) => Some(serving.tunnel),
        WorkerState::Discarding(discarding) => Some(discarding.tunnel),
        WorkerState::Resting { .. }
        | WorkerState::Finishing(_)
        | WorkerState::Spare
        | WorkerState::Stopped => None,
    }
}

/// The upstream connections that a worker has: the one that it keeps, and the one that it is using.
fn upstreams(worker: &Worker) -> [Option<UpstreamKey>; 2] {
    let used = match &worker.state {
        WorkerState::Serving(serving) => serving.connection(),
        WorkerState::Finishing(finishing) => Some(finishing.upstream),
        WorkerState::Dialling { .. }
        | WorkerState::Passing { .. }
        | WorkerState::Joining { .. }
        | WorkerState::Joined { .. }
        | WorkerState::Leaving { .. }
        | WorkerState::Discarding(_)
        | WorkerState::Resting { .. }
        | WorkerState::Spare
        | WorkerState::Stopped => None,
    };
    [worker.kept.map(|kept| kept.connection), used]
}
