//! The response of the upstream, on its way to the hub.

use alloc::borrow::ToOwned;

use log::Level;

use super::Agent;
use super::endings::Failure;
use super::serving::Due;
use super::worker::Worker;
use crate::proto::error::Violation;
use crate::proto::exchange::Turn;
use crate::proto::http1::body::Progress;
use crate::proto::http1::rewrite::{FromUpstream, last_response_to_hub, response_to_hub};
use crate::proto::http1::start_line::Version;
use crate::proto::http1::storage::Storage;
use crate::proto::seam::{Command, Shown, Step};
use crate::proto::tables::key::{UpstreamKey, WorkerKey};
use crate::proto::tables::timer::Now;

impl Agent {
    /// Whether a worker reads what comes from its upstream.
    pub(super) fn wants_response(&self, key: WorkerKey) -> bool {
        let Some(worker) = self.workers.get(key) else { return false };
        worker.serving().is_none_or(|serving| serving.messages.wants_response())
    }

    /// Reads what an upstream sent to a worker.
    pub(super) fn read_upstream(
        &mut self,
        key: WorkerKey,
        upstream: UpstreamKey,
        mut shown: Shown<'_>,
        now: Now,
    ) -> Step {
        let stalled_by = now.mono.after_coarse(self.config.limits.stall);
        let Some(worker) = self.workers.get_mut(key) else { return Step::Wait };
        if worker.finishing().is_some() {
            return self.read_to_end(key, shown, now);
        }
        let Some((tunnel, serving)) = worker.serving_mut() else { return Step::Wait };
        if !serving.messages.is_answered() {
            return self.read_response_head(key, upstream, shown, now);
        }
        match serving.messages.advance_response(shown.all()) {
            Ok(Progress::Pass(n)) => {
                serving.note_progress(stalled_by);
                return Step::Pass(n);
            }
            Ok(Progress::Skip(n)) => return Step::Skip(n),
            Ok(Progress::NeedMore) => {}
            Ok(Progress::Done) if serving.messages.is_upgraded() => {
                serving.due = Due::Byte(stalled_by);
                self.connections.tell(Command::Finish(tunnel.into()));
                self.workers.rearm(key);
                self.check_upgrade_over(key, now);
            }
            Ok(Progress::Done) => self.complete(key, !shown.is_news(), now),
            Ok(Progress::Truncated) => self.cut(key, Failure::CutShort, now),
            Err(violation) => {
                self.note_unread(key, violation, now);
                self.cut(key, Failure::Unread(violation), now);
            }
        }
        Step::Wait
    }

    fn read_response_head(
        &mut self,
        key: WorkerKey,
        upstream: UpstreamKey,
        shown: Shown<'_>,
        now: Now,
    ) -> Step {
        let Shown { input, end, out } = shown;
        let Some(worker) = self.workers.get_mut(key) else { return Step::Wait };
        let at = self.config.upstreams.get(usize::from(worker.upstream())).map(|upstream| upstream.at());
        let may_lend = self.config.extra_streams > 0 && !worker.is_light();
        let Some((_, serving)) = worker.serving_mut() else { return Step::Wait };
        let mut storage = Storage::new();
        let found = serving.messages.find_head(input, &mut storage);
        let mut lends = false;
        if let Ok(Some(head)) = &found
            && may_lend
            && serving.begins_stream(head)
        {
            let is_switch = head.status == 101;
            if let Err(failure) = self.may_lend(key, is_switch, now) {
                self.note_not_lent(key, failure, now);
                if is_switch {
                    // The upstream has left HTTP, and would take FIN for the regular end of the application's
                    // direction.
                    self.break_upstream(Some(upstream), true);
                }
                self.fail(key, failure, now);
                return Step::Wait;
            }
            lends = !is_switch;
        }
        let Some((tunnel, serving)) = self.workers.get_mut(key).and_then(Worker::serving_mut) else {
            return Step::Wait;
        };
        let judged = found.and_then(|head| {
            let Some(head) = head else { return Ok(None) };
            let framing = head.framing.onward(Version::Http11);
            let turn = serving.messages.on_head(&head, framing, now.mono)?;
            Ok(Some((head, framing, turn)))
        });
        let (head, framing, turn) = match judged {
            Ok(Some(judged)) => judged,
            Ok(None) => {
                if !input.is_empty() && serving.due == Due::Nothing {
                    serving.due = Due::Head(now.mono.after_coarse(self.config.limits.head));
                    self.workers.rearm(key);
                }
                return if end.is_some() { Step::Fail } else { Step::Wait };
            }
            Err(violation) => {
                self.note_unread(key, violation, now);
                self.fail(key, Failure::Unread(violation), now);
                return Step::Wait;
            }
        };
        serving.is_private |= head.binds_connection;
        let origin = serving.origin.as_str();
        let from = at.filter(|_| !origin.is_empty()).map(|at| FromUpstream { at, origin });
        if lends {
            // Another worker takes the next request; this one is not free when the stream is over.
            last_response_to_hub(&head, framing, from.as_ref(), out);
        } else {
            response_to_hub(&head, framing, from.as_ref(), out);
        }
        serving.due = Due::Nothing;
        self.connections.tell(Command::DropHeld(tunnel.into()));
        match turn {
            Turn::Interim => {}
            Turn::Final => {
                self.connections.expect_reading(upstream, now);
                if lends {
                    self.lend_worker(key, now);
                }
            }
            Turn::Upgraded => {
                self.connections.tell(Command::Resume(tunnel.into()));
                self.lend_worker(key, now);
                self.process.note_upgraded(now.mono.after(self.config.upgrade_drain));
            }
        }
        Step::Skip(head.length)
    }

    /// Logs why the response of an upstream was refused: it is no HTTP, or its end is in doubt.
    fn note_unread(&mut self, key: WorkerKey, violation: Violation, now: Now) {
        let Some(index) = self.workers.get(key).map(Worker::upstream) else { return };
        let name = self.name_of(index).to_owned();
        let detail = violation.detail;
        let line = format_args!("a response of upstream {name} was refused: {detail}");
        self.notices.say(Level::Warn, (detail, index.into()), now.mono, line);
    }

    /// The response is complete. The worker goes on to the next request, if it may.
    fn complete(&mut self, key: WorkerKey, upstream_is_clean: bool, now: Now) {
        let Some((tunnel, serving)) = self.workers.get_mut(key).and_then(Worker::serving_mut) else { return };
        let reusable = serving.messages.responder_is_reusable() && upstream_is_clean && !serving.is_private;
        let is_lent = serving.is_lent();
        self.connections.tell(Command::Unpair(tunnel.into()));
        self.connections.tell(Command::DropHeld(tunnel.into()));
        if let Some(connection) = serving.connection()
            && !(reusable && self.connections.keep(connection, key, now))
        {
            self.connections.drop_upstream(connection);
        }
        if is_lent {
            self.connections.retire_tunnel(tunnel, now);
            self.next(key, now);
        } else {
            self.discard_rest(key, now);
        }
    }
}
