//! How an exchange ends that does not come to its regular end, and what a worker does next.

use alloc::boxed::Box;
use alloc::vec::Vec;

use log::debug;

use super::endings::{Failure, describe};
use super::leftover::Finishing;
use super::serve::{Leg, Serving};
use super::{Agent, UpstreamOf, WorkerState};
use crate::config::OnCancel;
use crate::proto::http1::reply::{self, Reply};
use crate::proto::seam::{Close, Closed, Command};
use crate::proto::tables::key::{UpstreamKey, WorkerKey};
use crate::proto::tables::timer::{Mono, Now};
use crate::proto::tunnel::{Trouble, WORKING, write_refusal};

impl Agent {
    /// The upstream could not be reached, broke, or said something that is no HTTP.
    pub(super) fn upstream_lost(&mut self, key: WorkerKey, upstream: UpstreamKey, reason: Closed, now: Now) {
        let Some(worker) = self.workers.get_mut(key) else { return };
        if worker.kept.is_some_and(|kept| kept.connection == upstream) {
            worker.kept = None;
            return;
        }
        let index = worker.upstream;
        match &mut worker.state {
            WorkerState::Finishing(_) => self.next(key, now),
            WorkerState::Serving(serving) => match serving.leg {
                Leg::Dialling { seen, .. } => self.not_reached(key, index, seen, describe(reason), now),
                // Dead since it was last used: the upstream has not seen this request, or may see it twice.
                Leg::Paired { reused: true, .. }
                    if !serving.messages.is_answered()
                        && !serving.messages.has_interim()
                        && (!reason.written && serving.whole || serving.is_repeatable()) =>
                {
                    let tunnel = serving.tunnel;
                    // What came of a head on the old connection is not a part of the one to come.
                    serving.messages.await_another_head();
                    serving.rest_by = Mono::NEVER;
                    self.commands.push(Command::Unpair(tunnel.into()));
                    self.dial_upstream(key, reason.written, now);
                }
                Leg::Paired { .. } if serving.messages.is_answered() => self.cut(key, Failure::BrokeOff, now),
                Leg::Paired { .. } => self.fail(key, Failure::Broke, now),
                Leg::Gathering(_) | Leg::Waiting => {}
            },
            WorkerState::Resting { .. }
            | WorkerState::Dialling { .. }
            | WorkerState::Passing { .. }
            | WorkerState::Joining { .. }
            | WorkerState::Joined { .. }
            | WorkerState::Leaving { .. }
            | WorkerState::Discarding(_)
            | WorkerState::Spare
            | WorkerState::Stopped => {}
        }
    }

    /// The upstream takes nothing, and its connection is closed.
    pub(super) fn upstream_stalled(&mut self, key: WorkerKey, now: Now) {
        let Some(serving) = self.serving(key) else { return };
        if serving.messages.is_answered() {
            self.cut(key, Failure::Stalled, now);
        } else {
            self.fail(key, Failure::Stalled, now);
        }
    }

    pub(super) fn upstream_hung_up(&mut self, upstream: UpstreamKey) {
        let Some(UpstreamOf::Worker(key)) = self.upstreams.get(upstream).map(|upstream| upstream.of) else {
            return;
        };
        let Some(worker) = self.workers.get_mut(key) else { return };
        // Elsewhere what it sent before counts, and the end of the input tells.
        if worker.kept.is_some_and(|kept| kept.connection == upstream) {
            worker.kept = None;
            self.drop_upstream(upstream);
        }
    }

    /// Time has come for something while a request is served.
    pub(super) fn check_serving(&mut self, key: WorkerKey, now: Now) {
        let Some(worker) = self.workers.get_mut(key) else { return };
        let (index, pace) = (worker.upstream, worker.backoff.pace());
        let WorkerState::Serving(serving) = &mut worker.state else { return };
        if let Leg::Dialling { upstream, until, seen } = serving.leg
            && until <= now.mono
        {
            self.drop_upstream(upstream);
            self.not_reached(key, index, seen, "it does not answer", now);
            return;
        }
        if serving.rest_by <= now.mono && !serving.messages.is_upgraded() {
            self.fail(key, Failure::SlowHead, now);
            return;
        }
        // Who takes nothing of what waits for it has a deadline of its own for that.
        let tunnel_waits = self.tunnels.get(serving.tunnel).is_some_and(|it| it.send_by != Mono::NEVER);
        let connection = serving.connection().and_then(|key| self.upstreams.get(key));
        if serving.rest_by <= now.mono && (tunnel_waits || connection.is_some_and(|it| it.sending.waits())) {
            serving.rest_by = now.mono.after_coarse(self.config.limits.stall);
        }
        if serving.rest_by <= now.mono {
            self.cut(key, Failure::StoodStill, now);
            return;
        }
        if serving.sign_at <= now.mono {
            serving.sign_at = now.mono.after_coarse(pace);
            let tunnel = serving.tunnel;
            let answered = serving.messages.is_answered();
            if !tunnel_waits && !answered {
                self.commands.push(Command::Send { key: tunnel.into(), bytes: WORKING.to_vec() });
            }
        }
    }

    /// The application has left, or the hub: the upstream is told by closing, or its answer is read to the
    /// end.
    pub(super) fn cancel(&mut self, key: WorkerKey, now: Now) {
        let Some(worker) = self.workers.get_mut(key) else { return };
        let WorkerState::Serving(serving) = core::mem::replace(&mut worker.state, WorkerState::Stopped)
        else {
            return;
        };
        // What is held goes with the tunnel: an upstream that has not taken all of the request would wait for
        // the rest.
        let has_it_all = serving.messages.request.is_done()
            && serving
                .connection()
                .and_then(|connection| self.upstreams.get(connection))
                .is_some_and(|upstream| !upstream.sending.waits());
        match (self.config.on_cancel, &serving.leg) {
            (OnCancel::Drain, Leg::Paired { upstream, .. })
                if has_it_all && !serving.messages.may_be_upgraded() && !serving.is_lent() =>
            {
                let upstream = *upstream;
                let finishing = Finishing::new(upstream, serving.messages, &self.config, now.mono);
                worker.state = WorkerState::Finishing(Box::new(finishing));
                self.commands.push(Command::Resume(upstream.into()));
                self.arm_worker(key);
            }
            (OnCancel::Close | OnCancel::Drain, _) => {
                let (upstream, is_fed) = upstream_of(&serving);
                let index = worker.upstream;
                let may_hang = !worker.is_light
                    && (self.config.health_path.is_some() && serving.is_unanswered()
                        || serving.may_lead_nowhere());
                self.spare_servings.keep(serving);
                self.break_upstream(upstream, is_fed);
                if may_hang {
                    self.suspect(index, now);
                }
                self.next(key, now);
            }
        }
    }

    /// No connection could be made. A refusal promises that the upstream has seen nothing of the request.
    fn not_reached(&mut self, key: WorkerKey, index: u16, seen: bool, why: &'static str, now: Now) {
        if seen {
            // Who asks small questions beside a job does not judge an upstream that may be busy with it.
            if !self.is_light(key) {
                self.upstream_is_down(index, Trouble::new(why), now);
            }
            self.fail(key, Failure::Broke, now);
        } else {
            self.refuse(key, index, Trouble::new(why), now);
        }
    }

    /// Nothing was sent to the upstream: the hub may send the request elsewhere. The worker withdraws.
    pub(super) fn refuse(&mut self, key: WorkerKey, index: u16, why: Trouble<'static>, now: Now) {
        let Some(serving) = self.serving(key) else { return };
        let tunnel = serving.tunnel;
        self.commands.push(Command::DropHeld(tunnel.into()));
        self.commands.push(Command::Send { key: tunnel.into(), bytes: write_refusal(why, true) });
        if !self.is_light(key) {
            self.upstream_is_down(index, why, now);
        }
        self.retire_tunnel(tunnel, now);
        self.next(key, now);
    }

    /// No response head has gone out: the application gets an answer of ours.
    pub(super) fn fail(&mut self, key: WorkerKey, failure: Failure, now: Now) {
        let Some(serving) = self.serving(key) else { return };
        let mut bytes = Vec::new();
        let reply = Reply {
            error: Some(if failure.is_limit() { "connection_limit_reached" } else { "http_protocol_error" }),
            retry_after: failure.is_limit().then_some(1),
            close: !serving.messages.request.is_done(),
            head_only: serving.messages.facts.head_only,
            ..Reply::new(failure.status(), failure.text())
        };
        reply::write(&reply, &mut bytes);
        self.answer(key, bytes, now);
    }

    /// The application gets an answer of ours, and what is left of its request is dropped.
    pub(super) fn answer(&mut self, key: WorkerKey, bytes: Vec<u8>, now: Now) {
        let Some(serving) = self.serving(key) else { return };
        let tunnel = serving.tunnel;
        let connection = serving.connection();
        self.commands.push(Command::Unpair(tunnel.into()));
        self.commands.push(Command::DropHeld(tunnel.into()));
        self.commands.push(Command::Send { key: tunnel.into(), bytes });
        if let Some(connection) = connection {
            self.drop_upstream(connection);
        }
        self.discard_rest(key, now);
    }

    /// A response head has gone out: the hub must see that what follows is missing.
    pub(super) fn cut(&mut self, key: WorkerKey, failure: Failure, now: Now) {
        let Some(serving) = self.serving(key) else { return };
        debug!("{}", failure.text());
        let tunnel = serving.tunnel;
        // In an upgraded exchange a FIN would be the end of this direction. One that has ended needs no more
        // than that.
        let is_open = serving.messages.is_upgraded() && serving.messages.wants_response();
        let (upstream, is_fed) = upstream_of(serving);
        self.break_upstream(upstream, is_fed);
        if is_open && self.tunnels.remove(tunnel).is_some() {
            self.commands.push(Command::Close(tunnel.into(), Close::Reset));
        }
        self.drop_tunnel(tunnel);
        self.next(key, now);
    }

    /// Closes the upstream connection of a request that is given up. In an upgraded one a FIN would be the
    /// end of a direction that has not ended.
    pub(super) fn break_upstream(&mut self, upstream: Option<UpstreamKey>, is_fed: bool) {
        let Some(upstream) = upstream else { return };
        if self.upstreams.remove(upstream).is_some() {
            let how = if is_fed { Close::Reset } else { Close::Now };
            self.commands.push(Command::Close(upstream.into(), how));
        }
    }

    pub(super) fn check_upgrade_over(&mut self, key: WorkerKey, now: Now) {
        let Some(serving) = self.serving(key) else { return };
        if !serving.messages.response_is_done() {
            return;
        }
        let tunnel = serving.tunnel;
        let connection = serving.connection();
        self.commands.push(Command::Unpair(tunnel.into()));
        if let Some(connection) = connection {
            self.retire_upstream(connection, now);
        }
        self.retire_tunnel(tunnel, now);
        self.next(key, now);
    }

    fn retire_upstream(&mut self, key: UpstreamKey, now: Now) {
        let limit = self.config.limits.linger;
        let Some(upstream) = self.upstreams.get_mut(key) else { return };
        upstream.of = UpstreamOf::Nobody { until: now.mono.after(limit) };
        upstream.sending.expect_reading(now.mono, self.config.limits.stall);
        self.commands.push(Command::Close(key.into(), Close::Linger));
        self.arm_upstream(key);
    }

    /// A worker is free of its tunnel: it dials the next one, unless another one stands in for it or the
    /// process is ending.
    pub(super) fn next(&mut self, key: WorkerKey, now: Now) {
        let Some(worker) = self.workers.get(key) else { return };
        if self.config.extras() == 0 || worker.is_light {
            self.redial(key, now);
            return;
        }
        let index = worker.upstream;
        let others: Vec<WorkerKey> = self
            .workers
            .iter()
            .filter(|(other, worker)| *other != key && worker.upstream == index && worker.counts())
            .map(|(other, _)| other)
            .collect();
        if u32::try_from(others.len()).unwrap_or(u32::MAX) < self.config.workers {
            self.redial(key, now);
            return;
        }
        // One that the hub did not take, because its token is full, would try again after half a minute only.
        // There is room now: this one takes its place.
        let mut stands_aside = key;
        for other in others {
            let Some(worker) = self.workers.get_mut(other) else { continue };
            match worker.state {
                WorkerState::Resting { .. } => stands_aside = other,
                WorkerState::Dialling { .. } | WorkerState::Passing { .. } | WorkerState::Joining { .. } => {
                    worker.backoff.succeed();
                }
                WorkerState::Joined { .. }
                | WorkerState::Serving(_)
                | WorkerState::Leaving { .. }
                | WorkerState::Finishing(_)
                | WorkerState::Discarding(_)
                | WorkerState::Spare
                | WorkerState::Stopped => {}
            }
        }
        self.stand_aside(stands_aside);
        if stands_aside != key {
            self.redial(key, now);
        }
    }

    fn stand_aside(&mut self, key: WorkerKey) {
        let Some(worker) = self.workers.get_mut(key) else { return };
        worker.state = WorkerState::Spare;
        if let Some(kept) = worker.kept.take() {
            self.drop_upstream(kept.connection);
        }
        if self.draining.is_some() {
            self.stop(key);
        }
    }
}

/// The connection that a request is on, and whether the upstream still waits there for what the application
/// sends after an upgrade.
fn upstream_of(serving: &Serving) -> (Option<UpstreamKey>, bool) {
    let messages = &serving.messages;
    (
        serving.connection(),
        messages.may_be_upgraded() && (messages.wants_request() || !messages.is_upgraded()),
    )
}

impl super::Worker {
    /// Whether this one takes requests, now or when it is through: not if it stands aside, is lent, or takes
    /// light ones alone.
    pub(super) fn counts(&self) -> bool {
        if self.is_light {
            return false;
        }
        match &self.state {
            WorkerState::Spare | WorkerState::Stopped => false,
            WorkerState::Serving(serving) => !serving.is_lent(),
            WorkerState::Resting { .. }
            | WorkerState::Dialling { .. }
            | WorkerState::Passing { .. }
            | WorkerState::Joining { .. }
            | WorkerState::Joined { .. }
            | WorkerState::Leaving { .. }
            | WorkerState::Finishing(_)
            | WorkerState::Discarding(_) => true,
        }
    }
}
