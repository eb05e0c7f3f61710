//! What the agents of a process tell of themselves to the admin side.

use alloc::string::String;
use alloc::vec::Vec;

use super::Agent;
use super::worker::{Closed, Job, Link, Said, Worker};
use crate::proto::admin::action::{Action, Done, NotDone};
use crate::proto::admin::attention::{Attention, Severity};
use crate::proto::admin::metrics::{AgentMetric, Metric, RoleName, Samples};
use crate::proto::admin::status::{Json, Place, Telling};
use crate::proto::admin::{NotReady, Subject};
use crate::proto::tables::timer::Now;

/// The states of a tunnel.
const TUNNEL_STATES: [&str; 3] = ["joined", "dialling", "waiting"];
/// The states of a worker.
const WORKER_STATES: [&str; 5] = ["idle", "busy", "withdrawn", "paused", "finishing"];

impl Subject for Agent {
    fn role(&self) -> RoleName {
        RoleName::Agent
    }

    fn begin_to_count(&mut self) {}

    fn check_ready(&self, _agents: Option<usize>) -> Result<(), NotReady> {
        if self.process.is_draining() {
            return Err(NotReady::Draining);
        }
        // What somebody has done on purpose comes first: its tunnels come and go by it.
        if self.upstreams.indices().all(|index| self.upstreams.is_paused(index)) {
            return Err(NotReady::Paused);
        }
        if !self.counted().any(|worker| tunnel_state(worker) == Some(0)) {
            return Err(NotReady::NoHub);
        }
        let mut well = self.upstreams.indices().filter(|it| self.upstreams.illness(*it).is_none()).peekable();
        if well.peek().is_none() {
            return Err(NotReady::NoUpstream);
        }
        if well.all(|index| self.upstreams.is_paused(index)) { Err(NotReady::Paused) } else { Ok(()) }
    }

    fn write_samples(
        &self,
        metric: Metric,
        _after: Option<&str>,
        samples: &mut Samples<'_>,
        _now: Now,
    ) -> Option<String> {
        let Metric::Agent(metric) = metric else { return None };
        match metric {
            AgentMetric::Tunnels => {
                for (index, state) in TUNNEL_STATES.into_iter().enumerate() {
                    let count = self.counted().filter(|it| tunnel_state(it) == Some(index)).count();
                    samples.add(&[&self.config.hub_name, state], count as u64);
                }
            }
            AgentMetric::UpstreamUp => {
                for (index, upstream) in self.upstreams.indices().zip(&self.config.upstreams) {
                    let is_well = self.upstreams.illness(index).is_none();
                    samples.add(&[&upstream.name], u64::from(is_well));
                }
            }
            AgentMetric::Workers => {
                for (index, upstream) in self.upstreams.indices().zip(&self.config.upstreams) {
                    let mut counts = [0; WORKER_STATES.len()];
                    let states = self
                        .counted()
                        .filter(|it| it.upstream() == index)
                        .filter_map(|it| self.worker_state(it));
                    for state in states {
                        if let Some(count) = counts.get_mut(state) {
                            *count += 1;
                        }
                    }
                    for (state, count) in WORKER_STATES.into_iter().zip(counts) {
                        samples.add(&[&upstream.name, state], count);
                    }
                }
            }
        }
        None
    }

    fn attention(&self) -> Vec<Attention> {
        let mut all = Vec::new();
        for (index, upstream) in self.upstreams.indices().zip(&self.config.upstreams) {
            if self.upstreams.is_paused(index) {
                let text = format!("{} is paused.", upstream.name);
                all.push(Attention::new("paused", Severity::Warn, text).about(upstream.agent_id.as_str()));
            } else if let Some(trouble) = self.upstreams.trouble(index) {
                let text = format!("{} gets no work: {}.", upstream.name, trouble.reason);
                all.push(
                    Attention::new("agent_withdrawn", Severity::Warn, text).about(upstream.agent_id.as_str()),
                );
            }
        }
        all
    }

    fn write_status(&self, at: &mut Place, json: &mut Json<'_>, telling: &Telling) -> bool {
        if at.section == 0 {
            self.tell_hubs(json);
            at.end_section();
        }
        if at.section == 1 {
            if at.rows == 0 {
                json.key("upstreams").open('[');
            }
            for index in self.upstreams.indices().skip(at.rows) {
                if at.rows >= telling.most_rows() {
                    break;
                }
                self.tell_upstream(index, json);
                at.rows += 1;
                if json.is_full() {
                    return false;
                }
            }
            json.close(']');
            at.end_section();
        }
        true
    }

    fn act(&mut self, action: &Action<'_>, now: Now) -> Result<Done, NotDone> {
        match action {
            Action::Agent { id, pause } => {
                // As the status tells it, and not otherwise.
                let index = self.upstreams.indices().find(|index| format!("{index}") == *id);
                let changed = index.and_then(|index| self.pause_upstream(index, *pause, now));
                changed.map(Done::Changed).ok_or(NotDone::Unknown("no upstream has this index"))
            }
            Action::Name { .. } => Err(NotDone::Unknown("this is an agent: names are the hub's")),
            Action::Queue { .. } => Err(NotDone::Unknown("this is an agent: the queue is the hub's")),
            Action::Cancel { .. } => {
                Err(NotDone::Unknown("this is an agent, which knows no ids of requests: cancel at the hub"))
            }
        }
    }
}

impl Agent {
    fn tell_hubs(&self, json: &mut Json<'_>) {
        json.unknown(&["running", "totals"]);
        let count = |state| self.counted().filter(|it| tunnel_state(it) == Some(state)).count();
        let (joined, dialling, waiting) = (count(0), count(1), count(2));
        let state = match (joined, dialling) {
            (1.., _) => "joined",
            (0, 1..) => "dialling",
            (0, 0) => "waiting",
        };
        json.key("hubs").open('[');
        json.open('{');
        json.key("address").text(&self.config.hub_name);
        json.key("tls").null();
        json.key("state").text(state);
        json.unknown(&["reason", "since_at", "retry_at", "rtt_ms"]);
        json.key("tunnels").number(joined);
        json.key("tunnels_max").number(joined + dialling + waiting);
        json.close('}');
        json.close(']');
    }

    fn tell_upstream(&self, index: u16, json: &mut Json<'_>) {
        let Some(upstream) = self.config.upstreams.get(usize::from(index)) else { return };
        let trouble = self.upstreams.illness(index);
        let is_paused = self.upstreams.is_paused(index);
        json.open('{');
        json.key("index").number(index);
        json.key("address").text(&upstream.name);
        json.key("agent_id").text(&upstream.agent_id);
        json.key("state").text(match trouble {
            _ if self.process.is_draining() => "draining",
            _ if is_paused => "paused",
            Some(_) => "unwell",
            None => "well",
        });
        match trouble {
            Some(trouble) => json.key("reason").text(trouble.reason),
            None => json.key("reason").null(),
        }
        json.unknown(&["since_at", "checked_at"]);
        let workers = || self.counted().filter(|worker| worker.upstream() == index);
        json.key("workers").open('{');
        json.key("total").number(workers().filter_map(|it| self.worker_state(it)).count());
        for (state, name) in WORKER_STATES.into_iter().enumerate() {
            json.key(name).number(workers().filter(|it| self.worker_state(it) == Some(state)).count());
        }
        json.close('}');
        json.key("models").null();
        json.key("models_total").number(0_u64);
        json.key("requests").open('{');
        json.unknown(&["complete", "failed", "cancelled", "refused"]);
        json.close('}');
        json.unknown(&["busy_ms", "last_request_at"]);
        json.close('}');
    }

    /// Those that are workers to others than this agent, too.
    fn counted(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter().map(|(_, worker)| worker).filter(|worker| !worker.is_light())
    }
}

impl Agent {
    /// Which of [`WORKER_STATES`] a worker is in, if it is one to the hub or at its upstream.
    fn worker_state(&self, worker: &Worker) -> Option<usize> {
        if worker.finishing().is_some() {
            return Some(4);
        }
        match worker.job()? {
            Job::Serving(_) | Job::Discarding(_) => Some(1),
            Job::Idle(_) | Job::Leaving { .. } if self.upstreams.is_paused(worker.upstream()) => Some(3),
            Job::Idle(idle) if idle.said == Said::Ready => Some(0),
            Job::Idle(_) | Job::Leaving { .. } => Some(2),
        }
    }
}

/// Which of [`TUNNEL_STATES`] the link of a worker is in, if it should have one.
fn tunnel_state(worker: &Worker) -> Option<usize> {
    match worker.link() {
        Link::Open { .. } => Some(0),
        Link::Opening(_) => Some(1),
        Link::Closed(Closed::Starting | Closed::Resting { .. }) => Some(2),
        Link::Closed(Closed::Finishing | Closed::Spare | Closed::Stopped) => None,
    }
}
