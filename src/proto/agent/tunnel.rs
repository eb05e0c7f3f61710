//! What comes through the tunnel of a worker, and what becomes of the worker when its tunnel ends.

use core::time::Duration;

use log::{Level, debug};

use super::Agent;
use super::endings::LinkEnd;
use super::link::{Attempt, FINISHING, LIGHT_ONLY};
use super::worker::{Closed, Job, Link, Stage, Worker};
use crate::proto::deadline::Limit;
use crate::proto::http1::head::RequestHead;
use crate::proto::http1::storage::Storage;
use crate::proto::light;
use crate::proto::seam::{Shown, Step};
use crate::proto::tables::key::{TunnelKey, WorkerKey};
use crate::proto::tables::timer::Now;
use crate::proto::tunnel::{Ask, CloseReason, PONG, TOKEN_EXPIRED, TOKEN_REVOKED, write_refusal};

/// How long a tunnel must live to count as a success if it carries nothing.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
const REPLACED: &str =
    "another agent with the same id took over a worker; give each agent its own --agent-id, or none";

impl Agent {
    /// A worker is due: some deadline of its own may have passed.
    pub(super) fn expire_worker(&mut self, key: WorkerKey, now: Now) {
        let Some(worker) = self.workers.get(key) else { return };
        if worker.finishing().is_some() {
            self.check_finishing(key, now);
        }
        let Some(worker) = self.workers.get(key) else { return };
        match worker.link() {
            Link::Closed(Closed::Resting { until }) if *until <= now.mono => self.dial(key, now),
            Link::Opening(opening) if opening.until <= now.mono => {
                self.connections.drop_tunnel(opening.tunnel);
                self.tunnel_lost(key, LinkEnd::NotInTime, now);
            }
            Link::Open { job: Job::Serving(_), .. } => self.check_serving(key, now),
            Link::Open { tunnel, job: Job::Idle(idle) } if idle.heard_by.has_passed(now) => {
                self.connections.drop_tunnel(*tunnel);
                self.tunnel_lost(key, LinkEnd::Silent, now);
            }
            Link::Open { tunnel, job: Job::Leaving { until, served } } if *until <= now.mono => {
                self.connections.drop_tunnel(*tunnel);
                if *served {
                    self.process.note_short();
                }
                self.next(key, now);
            }
            Link::Open { tunnel, job: Job::Discarding(discarding) } if discarding.until <= now.mono => {
                // The end of the response may still be on its way.
                self.connections.retire_tunnel(*tunnel, now);
                self.next(key, now);
            }
            Link::Closed(_) | Link::Opening(_) | Link::Open { .. } => {}
        }
        self.workers.rearm(key);
    }

    pub(super) fn wants_tunnel_input(&self, tunnel: TunnelKey) -> bool {
        let Some(worker) = self.connections.worker_of(tunnel).and_then(|key| self.workers.get(key)) else {
            return false;
        };
        match worker.link() {
            Link::Closed(_) => false,
            Link::Opening(opening) => !matches!(opening.stage, Stage::Dialling),
            Link::Open { job: Job::Serving(serving), .. } => serving.wants_request(),
            Link::Open { .. } => true,
        }
    }

    pub(super) fn read_tunnel(&mut self, tunnel: TunnelKey, shown: Shown<'_>, now: Now) -> Step {
        let Some(key) = self.connections.worker_of(tunnel) else { return Step::Wait };
        let Some(worker) = self.workers.get(key) else { return Step::Wait };
        match worker.link() {
            Link::Open { job: Job::Serving(_), .. } => self.read_request(key, shown, now),
            Link::Open { job: Job::Idle(_), .. } => self.read_ask(key, tunnel, shown, now),
            Link::Open { job: Job::Discarding(_), .. } => self.discard(key, shown, now),
            Link::Open { job: Job::Leaving { .. }, .. } if shown.end.is_some() => {
                self.connections.drop_tunnel(tunnel);
                self.next(key, now);
                Step::Wait
            }
            // The worker has withdrawn: nothing is started any more, and the hub takes it for refused.
            Link::Open { job: Job::Leaving { .. }, .. } if !shown.input.is_empty() => {
                Step::Skip(shown.input.len())
            }
            Link::Opening(_) => self.read_opening(key, shown, now),
            Link::Open { job: Job::Leaving { .. }, .. } | Link::Closed(_) => Step::Wait,
        }
    }

    /// A request head on an idle tunnel: the hub's own, or an application's.
    fn read_ask(&mut self, key: WorkerKey, tunnel: TunnelKey, shown: Shown<'_>, now: Now) -> Step {
        let Shown { input, end, out } = shown;
        let Some(worker) = self.workers.get_mut(key) else { return Step::Wait };
        let silent_until = worker.backoff.heard_by(now.mono);
        let (is_light, is_finishing) = (worker.is_light(), worker.finishing().is_some());
        let Some(idle) = worker.idle_mut() else { return Step::Wait };
        let mut storage = Storage::on_tunnel();
        let head = match RequestHead::find(&mut idle.scan, input, &mut storage) {
            Ok(Some(head)) => head,
            Ok(None) => {
                if end.is_some() {
                    self.connections.drop_tunnel(tunnel);
                    self.tunnel_lost(key, LinkEnd::Closed, now);
                } else if !input.is_empty() {
                    idle.heard_by.bring_forward(now.mono.after_coarse(self.config.limits.head));
                    self.workers.rearm(key);
                }
                return Step::Wait;
            }
            Err(violation) => {
                self.connections.drop_tunnel(tunnel);
                self.tunnel_lost(key, LinkEnd::Unread(violation), now);
                return Step::Wait;
            }
        };
        idle.scan = idle.scan.anew();
        idle.heard_by = Limit::at(silent_until);
        match Ask::of(&head) {
            Ask::Ping => {
                self.connections.send(tunnel, PONG.to_vec());
                self.workers.rearm(key);
            }
            Ask::Close(reason) => {
                self.connections.drop_tunnel(tunnel);
                self.dismissed(key, reason, now);
            }
            // The application left before its request was looked at, and no later event will say so.
            Ask::Serve if end.is_some() || self.connections.has_left(tunnel) => {
                debug!("{} {}: the application left", head.method.as_str(), head.path());
                self.connections.drop_tunnel(tunnel);
                self.next(key, now);
            }
            // A hub that gives such a tunnel a job has it wrong. It gets the job back, and the worker that it
            // counted on is none.
            Ask::Serve
                if is_finishing || is_light && !light::cover(&self.config.light_paths, head.path()) =>
            {
                let why = if is_finishing { FINISHING } else { LIGHT_ONLY };
                self.connections.send(tunnel, write_refusal(why, true));
                self.connections.retire_tunnel(tunnel, now);
                self.rest(key, Attempt::Failed, now);
            }
            Ask::Serve => self.serve(key, &head, out, now),
        }
        Step::Skip(head.length)
    }

    pub(super) fn tunnel_hung_up(&mut self, tunnel: TunnelKey, now: Now) {
        let Some(key) = self.connections.note_left(tunnel) else { return };
        // The input may not be wanted while a request is served. Everywhere else its end tells.
        let serving = self.workers.get(key).and_then(Worker::serving);
        if serving.is_some_and(|serving| !serving.messages.is_upgraded()) {
            self.connections.drop_tunnel(tunnel);
            self.cancel(key, now);
        }
    }

    /// A tunnel is gone, and out of the tables. What was served on it is cancelled.
    pub(super) fn tunnel_lost(&mut self, key: WorkerKey, why: LinkEnd<'_>, now: Now) {
        let Some(worker) = self.workers.get(key) else { return };
        match worker.link() {
            Link::Closed(_) => {}
            Link::Opening(_) => self.cannot_join(key, why, now),
            Link::Open { job: Job::Serving(_), .. } => self.cancel(key, now),
            Link::Open { job: Job::Discarding(_) | Job::Leaving { .. }, .. } => self.next(key, now),
            Link::Open { job: Job::Idle(idle), .. } => {
                let is_settled = now.mono.since(idle.since) >= SETTLED_AFTER;
                let last = if is_settled { Attempt::Succeeded } else { Attempt::Failed };
                self.note_apart(key, Level::Warn, format_args!("lost the hub: {why}; reconnecting"));
                self.rest(key, last, now);
            }
        }
    }

    /// The hub closed an idle tunnel, with a reason.
    fn dismissed(&mut self, key: WorkerKey, reason: CloseReason, now: Now) {
        let (level, what, last) = match reason {
            CloseReason::Replaced => (Level::Warn, REPLACED, Attempt::Unwanted),
            CloseReason::Expired => (Level::Warn, TOKEN_EXPIRED, Attempt::Unwanted),
            CloseReason::Revoked => (Level::Warn, TOKEN_REVOKED, Attempt::Unwanted),
            CloseReason::Draining => {
                (Level::Info, "the hub is shutting down; reconnecting until it is back", Attempt::Succeeded)
            }
        };
        self.note_apart(key, level, format_args!("{what}"));
        self.rest(key, last, now);
    }
}
