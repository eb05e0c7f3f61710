//! What is left of an exchange that is over for one side: it is read to its end, and dropped.

use alloc::boxed::Box;

use log::Level;

use super::{Agent, WorkerState};
use crate::config::AgentConfig;
use crate::proto::exchange::{Messages, Turn};
use crate::proto::http1::body::Progress;
use crate::proto::http1::start_line::Version;
use crate::proto::http1::storage::Storage;
use crate::proto::seam::{Command, Shown, Step};
use crate::proto::tables::key::{TunnelKey, UpstreamKey, WorkerKey};
use crate::proto::tables::timer::{Mono, Now};

/// A response that nobody waits for any more.
pub(super) struct Finishing {
    pub(super) upstream: UpstreamKey,
    pub(super) messages: Messages,
    /// The next byte of it, by then.
    until: Mono,
    /// The log hears of it then.
    told_at: Mono,
}

/// The rest of a request whose response is complete. The hub may send the next request right behind it, so
/// the tunnel is not closed.
pub(super) struct Discarding {
    pub(super) tunnel: TunnelKey,
    messages: Messages,
    /// The hub, which closes the tunnel unless it has sent all of the request already, has this long.
    pub(super) until: Mono,
}

impl Agent {
    /// An answer went out through the tunnel. Once the request has been read to its end, the tunnel takes the
    /// next one.
    pub(super) fn discard_rest(&mut self, key: WorkerKey, now: Now) {
        let until = now.mono.after_coarse(self.config.limits.stall);
        let Some(worker) = self.workers.get_mut(key) else { return };
        let WorkerState::Serving(serving) = core::mem::replace(&mut worker.state, WorkerState::Stopped)
        else {
            return;
        };
        let tunnel = serving.tunnel;
        if serving.messages.request.is_done() {
            self.spare_servings.keep(serving);
            self.rest_on_tunnel(key, tunnel, now);
            return;
        }
        let messages = serving.messages;
        worker.state = WorkerState::Discarding(Box::new(Discarding { tunnel, messages, until }));
        self.commands.push(Command::Resume(tunnel.into()));
        self.arm_worker(key);
    }

    /// Drops what comes of a request whose response is complete.
    pub(super) fn discard(&mut self, key: WorkerKey, mut shown: Shown<'_>, now: Now) -> Step {
        let Some(worker) = self.workers.get_mut(key) else { return Step::Wait };
        let WorkerState::Discarding(discarding) = &mut worker.state else { return Step::Wait };
        let Discarding { tunnel, messages, .. } = &mut **discarding;
        let tunnel = *tunnel;
        let begin = shown.out.len();
        let progress = messages.advance_request(shown.all());
        shown.out.truncate(begin);
        let is_done = messages.request.is_done();
        let step = match progress {
            Ok(Progress::Pass(n) | Progress::Skip(n)) => Step::Skip(n),
            Ok(Progress::NeedMore | Progress::Done) => Step::Wait,
            Ok(Progress::Truncated) | Err(_) => {
                self.drop_tunnel(tunnel);
                self.next(key, now);
                return Step::Wait;
            }
        };
        if is_done {
            self.rest_on_tunnel(key, tunnel, now);
        }
        step
    }
}

impl Agent {
    /// Time has come for something while a response is read that nobody waits for.
    pub(super) fn check_finishing(&mut self, key: WorkerKey, now: Now) {
        let name = self.describe(key);
        let limit = self.config.drain_timeout;
        let Some(worker) = self.workers.get_mut(key) else { return };
        let index = worker.upstream;
        let WorkerState::Finishing(finishing) = &mut worker.state else { return };
        if finishing.until <= now.mono {
            let upstream = finishing.upstream;
            let line = format_args!(
                "{name}: its upstream said nothing for {} s of an answer that nobody waits for any more; the answer is given up",
                limit.as_secs()
            );
            self.notices.say(Level::Warn, ("given up", index.into()), now.mono, line);
            worker.state = WorkerState::Stopped;
            self.drop_upstream(upstream);
            self.suspect(index, now);
            self.next(key, now);
        } else if finishing.told_at <= now.mono {
            finishing.told_at = Mono::NEVER;
            let line = format_args!(
                "{name} is not free: its application has left, and the upstream's answer is read to its end (--on-cancel drain)"
            );
            self.notices.say(Level::Warn, ("finishing", index.into()), now.mono, line);
        }
    }
}

impl Finishing {
    pub(super) fn new(upstream: UpstreamKey, messages: Messages, config: &AgentConfig, now: Mono) -> Self {
        let until = now.after_coarse(config.drain_timeout);
        Self { upstream, messages, until, told_at: now.after_coarse(config.limits.stall) }
    }

    pub(super) fn deadline(&self) -> Mono {
        self.until.min(self.told_at)
    }

    /// Something came of it.
    pub(super) fn note_progress(&mut self, until: Mono) {
        self.until = until;
    }

    /// Takes in what comes and drops it. `None` if it has no end that could be waited for.
    pub(super) fn drop_response(&mut self, shown: Shown<'_>, now: Now) -> Option<Step> {
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
