//! What the upstream sends: its response, on its way to the hub.

use alloc::borrow::ToOwned;

use log::Level;

use super::endings::Failure;
use super::sending::Sending;
use super::{Agent, Kept, Said, Upstream, UpstreamOf, WorkerState};
use crate::config::Limits;
use crate::proto::error::Violation;
use crate::proto::exchange::Turn;
use crate::proto::http1::body::Progress;
use crate::proto::http1::head::HeadScan;
use crate::proto::http1::rewrite::{FromUpstream, last_response_to_hub, response_to_hub};
use crate::proto::http1::start_line::Version;
use crate::proto::http1::storage::Storage;
use crate::proto::seam::{Command, Shown, Step};
use crate::proto::tables::key::{TunnelKey, UpstreamKey, WorkerKey};
use crate::proto::tables::timer::{Mono, Now};

impl Agent {
    pub(super) fn wants_upstream_input(&self, upstream: UpstreamKey) -> bool {
        let worker = match self.upstreams.get(upstream).map(|upstream| upstream.of) {
            Some(UpstreamOf::Worker(worker)) => self.workers.get(worker),
            Some(UpstreamOf::Probe(_)) => return true,
            Some(UpstreamOf::Nobody { .. }) | None => return false,
        };
        let Some(worker) = worker else { return false };
        match &worker.state {
            WorkerState::Serving(serving) if serving.connection() == Some(upstream) => {
                serving.messages.wants_response()
            }
            WorkerState::Finishing(finishing) if finishing.upstream == upstream => true,
            // A kept connection is read to notice its end.
            WorkerState::Serving(_)
            | WorkerState::Finishing(_)
            | WorkerState::Discarding(_)
            | WorkerState::Resting { .. }
            | WorkerState::Dialling { .. }
            | WorkerState::Passing { .. }
            | WorkerState::Joining { .. }
            | WorkerState::Joined { .. }
            | WorkerState::Leaving { .. }
            | WorkerState::Spare
            | WorkerState::Stopped => true,
        }
    }

    /// What an upstream sent.
    pub(super) fn read_upstream(
        &mut self,
        key: WorkerKey,
        upstream: UpstreamKey,
        mut shown: Shown<'_>,
        now: Now,
    ) -> Step {
        let stalled_by = now.mono.after_coarse(self.config.limits.stall);
        let Some(worker) = self.workers.get_mut(key) else { return Step::Wait };
        if worker.kept.is_some_and(|kept| kept.connection == upstream) {
            if shown.is_news() {
                // Its end, or a response to no request (RFC 9112 section 9.3).
                worker.kept = None;
                self.drop_upstream(upstream);
            }
            return Step::Wait;
        }
        match &mut worker.state {
            WorkerState::Serving(serving) if !serving.messages.is_answered() => {
                self.read_response_head(key, upstream, shown, now)
            }
            WorkerState::Serving(serving) => {
                match serving.messages.advance_response(shown.all()) {
                    Ok(Progress::Pass(n)) => {
                        serving.note_progress(stalled_by);
                        return Step::Pass(n);
                    }
                    Ok(Progress::Skip(n)) => return Step::Skip(n),
                    Ok(Progress::NeedMore) => {}
                    Ok(Progress::Done) if serving.messages.is_upgraded() => {
                        serving.rest_by = stalled_by;
                        let tunnel = serving.tunnel;
                        self.commands.push(Command::Finish(tunnel.into()));
                        self.arm_worker(key);
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
            WorkerState::Finishing(finishing) => {
                let begin = shown.out.len();
                if !shown.input.is_empty() {
                    finishing.note_progress(now.mono.after_coarse(self.config.drain_timeout));
                }
                let step = finishing.drop_response(shown.all(), now);
                shown.out.truncate(begin);
                let is_over = match step {
                    Some(Step::Wait) => shown.end.is_some() || finishing.messages.response_is_done(),
                    Some(Step::Pass(_) | Step::Skip(_)) => false,
                    Some(Step::Fail) | None => true,
                };
                if is_over {
                    self.drop_upstream(upstream);
                    self.next(key, now);
                }
                step.unwrap_or(Step::Wait)
            }
            WorkerState::Resting { .. }
            | WorkerState::Dialling { .. }
            | WorkerState::Passing { .. }
            | WorkerState::Joining { .. }
            | WorkerState::Joined { .. }
            | WorkerState::Leaving { .. }
            | WorkerState::Discarding(_)
            | WorkerState::Spare
            | WorkerState::Stopped => Step::Wait,
        }
    }

    fn read_response_head(
        &mut self,
        key: WorkerKey,
        upstream: UpstreamKey,
        shown: Shown<'_>,
        now: Now,
    ) -> Step {
        let Shown { input, end, out } = shown;
        let Limits { head: head_limit, stall, .. } = self.config.limits;
        let Some(worker) = self.workers.get_mut(key) else { return Step::Wait };
        let at = self.config.upstreams.get(usize::from(worker.upstream)).map(|upstream| upstream.at());
        let is_light = worker.is_light;
        let WorkerState::Serving(serving) = &mut worker.state else { return Step::Wait };
        let mut storage = Storage::new();
        let found = serving.messages.find_head(input, &mut storage);
        let mut lends = false;
        if let Ok(Some(head)) = &found
            && self.config.extra_streams > 0
            && !is_light
            && serving.begins_stream(head)
        {
            let is_switch = head.status == 101;
            if let Err(failure) = self.may_lend(key, is_switch, now) {
                self.note_not_lent(key, failure, now);
                if is_switch {
                    // The upstream has left HTTP: FIN would be the regular end of what the application says
                    // there.
                    self.break_upstream(Some(upstream), true);
                }
                self.fail(key, failure, now);
                return Step::Wait;
            }
            lends = !is_switch;
        }
        let Some(worker) = self.workers.get_mut(key) else { return Step::Wait };
        let WorkerState::Serving(serving) = &mut worker.state else { return Step::Wait };
        let judged = found.and_then(|head| {
            let Some(head) = head else { return Ok(None) };
            let framing = head.framing.onward(Version::Http11);
            let turn = serving.messages.on_head(&head, framing, now.mono)?;
            Ok(Some((head, framing, turn)))
        });
        let (head, framing, turn) = match judged {
            Ok(Some(judged)) => judged,
            Ok(None) => {
                if !input.is_empty() && serving.rest_by == Mono::NEVER {
                    serving.rest_by = now.mono.after_coarse(head_limit);
                    self.arm_worker(key);
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
            // Another worker takes the next request. This one is not free when the stream is over.
            last_response_to_hub(&head, framing, from.as_ref(), out);
        } else {
            response_to_hub(&head, framing, from.as_ref(), out);
        }
        let tunnel = serving.tunnel;
        serving.rest_by = Mono::NEVER;
        self.commands.push(Command::DropHeld(tunnel.into()));
        match turn {
            Turn::Interim => {}
            // Whoever answers is not busy with something else.
            Turn::Final => {
                if let Some(upstream_entry) = self.upstreams.get_mut(upstream)
                    && upstream_entry.sending.waits()
                {
                    upstream_entry.sending.expect_reading(now.mono, stall);
                    self.arm_upstream(upstream);
                }
                if lends {
                    self.lend_worker(key, now);
                }
            }
            Turn::Upgraded => {
                self.commands.push(Command::Resume(tunnel.into()));
                self.lend_worker(key, now);
                if let Some(draining) = &mut self.draining {
                    let until = now.mono.after(self.config.upgrade_drain);
                    draining.upgraded_until = draining.upgraded_until.min(until);
                }
            }
        }
        Step::Skip(head.length)
    }

    /// The response of an upstream is not HTTP, or its end is in doubt: its operator hears what is wrong with
    /// it.
    fn note_unread(&mut self, key: WorkerKey, violation: Violation, now: Now) {
        let Some(index) = self.workers.get(key).map(|worker| worker.upstream) else { return };
        let authority = self.authority(index).to_owned();
        let detail = violation.detail;
        let line = format_args!("a response of upstream {authority} was refused: {detail}");
        self.notices.say(Level::Warn, (detail, index.into()), now.mono, line);
    }

    /// The response is complete.
    fn complete(&mut self, key: WorkerKey, upstream_is_clean: bool, now: Now) {
        let Some(serving) = self.serving(key) else { return };
        let tunnel = serving.tunnel;
        let connection = serving.connection();
        let reusable = serving.messages.responder_is_reusable() && upstream_is_clean && !serving.is_private;
        // Bytes of the request that wait for the upstream will never be sent to it; what followed would be
        // taken for them.
        let upstream = connection.and_then(|connection| self.upstreams.get_mut(connection));
        let reusable = reusable && upstream.is_some_and(Upstream::is_reusable);
        let is_lent = self.serving(key).is_some_and(|serving| serving.is_lent());
        self.commands.push(Command::Unpair(tunnel.into()));
        self.commands.push(Command::DropHeld(tunnel.into()));
        if let Some(connection) = connection {
            if reusable && let Some(worker) = self.workers.get_mut(key) {
                worker.kept = Some(Kept { connection, last_used: now.mono });
            } else {
                self.drop_upstream(connection);
            }
        }
        if is_lent {
            self.retire_tunnel(tunnel, now);
            self.next(key, now);
        } else {
            self.discard_rest(key, now);
        }
    }

    /// The tunnel takes the next request.
    pub(super) fn rest_on_tunnel(&mut self, key: WorkerKey, tunnel: TunnelKey, now: Now) {
        let Some(worker) = self.workers.get_mut(key) else { return };
        worker.backoff.succeed();
        worker.state = WorkerState::Joined {
            tunnel,
            // As long as the application takes what is under way to it, the tunnel is not idle to the hub,
            // and silent. TCP keep-alive watches until the hub is heard of again.
            heard_by: Mono::NEVER,
            since: now.mono,
            scan: HeadScan::on_tunnel(),
            said: Said::Ready,
        };
        self.commands.push(Command::Resume(tunnel.into()));
        self.arm_worker(key);
        self.check_readiness(key, now);
    }
}

impl Upstream {
    /// Whether all of a request was taken. The next one begins anew.
    fn is_reusable(&mut self) -> bool {
        let all_sent = !self.sending.waits();
        self.sending = if all_sent { Sending::Nothing } else { self.sending };
        all_sent
    }
}
