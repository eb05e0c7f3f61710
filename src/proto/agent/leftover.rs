//! What is left of an exchange that is over for one side. It is read to its end, and dropped.

use alloc::boxed::Box;

use log::Level;

use super::Agent;
use super::worker::{Closed, Idle, Job, Link};
use crate::config::AgentConfig;
use crate::proto::deadline::Limit;
use crate::proto::exchange::{Messages, Turn};
use crate::proto::http1::body::Progress;
use crate::proto::http1::start_line::Version;
use crate::proto::http1::storage::Storage;
use crate::proto::seam::{Command, Shown, Step};
use crate::proto::tables::key::{UpstreamKey, WorkerKey};
use crate::proto::tables::timer::{Mono, Now};

/// A response that nobody waits for any more.
pub(super) struct Finishing {
    pub(super) upstream: UpstreamKey,
    messages: Messages,
    /// The next byte of it must come by then.
    until: Mono,
    /// The log says then that the worker is not free, once.
    told_at: Limit,
}

/// The rest of a request whose response is complete. The hub may send the next request right behind it, so
/// the tunnel is not closed.
pub(super) struct Discarding {
    messages: Messages,
    /// By then the hub must have closed the tunnel, or have sent the rest of the request.
    pub(super) until: Mono,
}

impl Agent {
    /// An answer went out through the tunnel. Once the request has been read to its end, the tunnel takes the
    /// next one.
    pub(super) fn discard_rest(&mut self, key: WorkerKey, now: Now) {
        let until = now.mono.after_coarse(self.config.limits.stall);
        let Some(worker) = self.workers.get_mut(key) else { return };
        let Some((tunnel, _)) = worker.serving_mut() else { return };
        let Some(Job::Serving(serving)) = worker.turn_to(Job::Idle(Idle::after_response(now.mono))) else {
            return;
        };
        if serving.messages.request.is_done() {
            self.spare_servings.keep(serving);
            self.rest_on_tunnel(key, tunnel, now);
            return;
        }
        let messages = serving.messages;
        worker.turn_to(Job::Discarding(Box::new(Discarding { messages, until })));
        self.connections.tell(Command::Resume(tunnel.into()));
        self.workers.rearm(key);
    }

    /// Drops what comes of a request whose response is complete.
    pub(super) fn discard(&mut self, key: WorkerKey, mut shown: Shown<'_>, now: Now) -> Step {
        let Some(worker) = self.workers.get_mut(key) else { return Step::Wait };
        let Link::Open { tunnel, job: Job::Discarding(discarding) } = worker.link_mut() else {
            return Step::Wait;
        };
        let (tunnel, messages) = (*tunnel, &mut discarding.messages);
        let begin = shown.out.len();
        let progress = messages.advance_request(shown.all());
        shown.out.truncate(begin);
        let is_done = messages.request.is_done();
        let step = match progress {
            Ok(Progress::Pass(n) | Progress::Skip(n)) => Step::Skip(n),
            Ok(Progress::NeedMore | Progress::Done) => Step::Wait,
            Ok(Progress::Truncated) | Err(_) => {
                self.connections.drop_tunnel(tunnel);
                self.next(key, now);
                return Step::Wait;
            }
        };
        if is_done {
            self.rest_on_tunnel(key, tunnel, now);
        }
        step
    }

    /// Drops what comes of a response that nobody waits for any more.
    pub(super) fn read_to_end(&mut self, key: WorkerKey, mut shown: Shown<'_>, now: Now) -> Step {
        let until = now.mono.after_coarse(self.config.drain_timeout);
        let Some(worker) = self.workers.get_mut(key) else { return Step::Wait };
        let Some(finishing) = worker.finishing_mut() else { return Step::Wait };
        if !shown.input.is_empty() {
            finishing.until = until;
        }
        let begin = shown.out.len();
        let step = finishing.drop_response(shown.all(), now);
        shown.out.truncate(begin);
        let is_over = match step {
            Some(Step::Wait) => shown.end.is_some() || finishing.messages.response_is_done(),
            Some(Step::Pass(_) | Step::Skip(_)) => false,
            Some(Step::Fail) | None => true,
        };
        if is_over {
            let upstream = finishing.upstream;
            self.connections.drop_upstream(upstream);
            self.finished(key, now);
        }
        step.unwrap_or(Step::Wait)
    }

    /// A deadline has passed of a response that nobody waits for.
    pub(super) fn check_finishing(&mut self, key: WorkerKey, now: Now) {
        let name = self.describe(key);
        let limit = self.config.drain_timeout;
        let Some(worker) = self.workers.get_mut(key) else { return };
        let index = worker.upstream();
        let Some(finishing) = worker.finishing_mut() else { return };
        if finishing.until <= now.mono {
            let upstream = finishing.upstream;
            let line = format_args!(
                "{name}: its upstream said nothing for {} s of an answer that nobody waits for any more; the answer is given up",
                limit.as_secs()
            );
            self.notices.say(Level::Warn, ("given up", index.into()), now.mono, line);
            self.connections.drop_upstream(upstream);
            worker.end_finishing();
            self.suspect(index, now);
            self.finished(key, now);
        } else if finishing.told_at.has_passed(now) {
            finishing.told_at = Limit::NONE;
            let line = format_args!(
                "{name} is not free: its application has left, and the upstream's answer is read to its end (--on-cancel drain)"
            );
            self.notices.say(Level::Warn, ("finishing", index.into()), now.mono, line);
        }
    }

    /// The answer that nobody waited for is over, and its connection is gone. The worker is free.
    pub(super) fn finished(&mut self, key: WorkerKey, now: Now) {
        let Some(worker) = self.workers.get_mut(key) else { return };
        worker.end_finishing();
        if matches!(worker.link(), Link::Closed(Closed::Finishing)) {
            self.next(key, now);
        } else {
            self.check_readiness(key, now);
        }
    }
}

impl Finishing {
    pub(super) fn new(upstream: UpstreamKey, messages: Messages, config: &AgentConfig, now: Mono) -> Self {
        let until = now.after_coarse(config.drain_timeout);
        Self { upstream, messages, until, told_at: Limit::at(now.after_coarse(config.limits.stall)) }
    }

    pub(super) fn deadline(&self) -> Mono {
        self.until.min(self.told_at.deadline())
    }

    /// Drops what comes of the response. `None` if the response has no end that could be waited for.
    fn drop_response(&mut self, shown: Shown<'_>, now: Now) -> Option<Step> {
        if !self.messages.is_answered() {
            let mut storage = Storage::new();
            let Some(head) = self.messages.find_head(shown.input, &mut storage).ok()? else {
                return Some(Step::Wait);
            };
            return match self.messages.on_head(&head, head.framing.onward(Version::Http11), now.mono).ok()? {
                Turn::Interim | Turn::Final => Some(Step::Skip(head.length)),
                Turn::Upgraded => None,
            };
        }
        match self.messages.advance_response(shown).ok()? {
            Progress::Pass(n) | Progress::Skip(n) => Some(Step::Skip(n)),
            Progress::NeedMore | Progress::Done => Some(Step::Wait),
            Progress::Truncated => None,
        }
    }
}
