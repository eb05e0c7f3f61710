//! What holds of the agent's tables between two turns, whatever happened before. Tests ask after every turn.

use alloc::string::String;
use alloc::vec::Vec;

use super::Agent;
use super::worker::{Closed, Job, Link, Said, Worker};
use crate::proto::deadline::Limit;
use crate::proto::tables::timed::Timed;

impl Agent {
    /// What is wrong with the tables, if anything is: a connection that nobody knows of any more, or a worker
    /// whose connection is not its own.
    pub fn audit(&self) -> Option<String> {
        let mut known: Vec<_> =
            self.workers.iter().filter_map(|(key, worker)| Some((key, worker.tunnel()?))).collect();
        let mut had: Vec<_> = self.connections.tunnels_of_workers().collect();
        known.sort_unstable();
        had.sort_unstable();
        if known != had {
            return Some(format!("an agent has lost sight of a tunnel: {:?}", self.census()));
        }
        let mut known: Vec<_> = self
            .workers
            .iter()
            .flat_map(|(key, worker)| {
                let of_request = worker.serving().and_then(|serving| serving.connection());
                let of_answer = worker.finishing().map(|finishing| finishing.upstream);
                of_request.into_iter().chain(of_answer).map(move |upstream| (key, upstream))
            })
            .collect();
        let mut had: Vec<_> = self.connections.upstreams_of_workers().collect();
        known.sort_unstable();
        had.sort_unstable();
        if known != had || self.connections.has_lost_kept() {
            return Some(format!("an agent has lost sight of an upstream connection: {:?}", self.census()));
        }
        let places = |index: u16| self.at_upstream(index) + u32::from(self.upstreams.is_probed(index));
        if let Some(index) = self.upstreams.indices().find(|index| places(*index) > self.config.workers) {
            return Some(format!("requests and probes at upstream {index} are more than its workers"));
        }
        if let Some((key, _)) = self.workers.iter().find(|(_, worker)| !self.is_true_to_hub(worker)) {
            return Some(format!("{} has told the hub what is no longer so", self.describe(key)));
        }
        if let Some((key, _)) = self.workers.iter().find(|(_, worker)| !self.is_limited(worker)) {
            return Some(format!("{} waits without a limit: {:?}", self.describe(key), self.census()));
        }
        let is_any_unarmed = self.connections.is_any_unarmed() || self.workers.is_any_unarmed();
        is_any_unarmed.then(|| format!("a deadline of an agent has no wake-up: {:?}", self.census()))
    }

    /// Whether the hub was told by an idle worker what is known about its upstream.
    fn is_true_to_hub(&self, worker: &Worker) -> bool {
        worker.idle().is_none_or(|idle| idle.said == Said::of(self.trouble_of(worker)))
    }

    /// Whether something ends a worker's state: a deadline, or whatever the table in the documentation of the
    /// module names instead, which must be there then.
    fn is_limited(&self, worker: &Worker) -> bool {
        if Limit::at(worker.deadline()).is_set() {
            return true;
        }
        match worker.link() {
            // It begins once its upstream's first probe is over.
            Link::Closed(Closed::Starting) => self.upstreams.is_looked_at(worker.upstream()),
            Link::Closed(Closed::Spare) => true,
            Link::Closed(Closed::Stopped) => self.process.is_draining() || !self.hub.has_accepted,
            // The kernel watches the connection until the hub is heard of again.
            Link::Open { job: Job::Idle(_), .. } => true,
            // The head has come; a body has the limits of what is sent, and the kernel watches both
            // connections.
            Link::Open { job: Job::Serving(serving), .. } => {
                serving.messages.is_answered() && serving.connection().is_some()
            }
            Link::Closed(Closed::Resting { .. } | Closed::Finishing)
            | Link::Opening(_)
            | Link::Open { job: Job::Discarding(_) | Job::Leaving { .. }, .. } => false,
        }
    }
}
