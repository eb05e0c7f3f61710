//! Exchanges that do not come to their regular end, and how they end instead.

use alloc::vec::Vec;

use log::debug;

use super::Agent;
use super::endings::Failure;
use super::leftover::Finishing;
use super::serving::{Due, Leg, Serving};
use super::worker::{Closed, Job};
use crate::config::OnCancel;
use crate::proto::http1::reply::{self, Reply};
use crate::proto::seam::{Close, Command};
use crate::proto::tables::key::{UpstreamKey, WorkerKey};
use crate::proto::tables::timer::Now;
use crate::proto::tunnel::{Trouble, WORKING, write_refusal};

impl Agent {
    /// A deadline of a request that is served has passed.
    pub(super) fn check_serving(&mut self, key: WorkerKey, now: Now) {
        let Some(worker) = self.workers.get_mut(key) else { return };
        let pace = worker.backoff.pace();
        let Some((tunnel, serving)) = worker.serving_mut() else { return };
        if let Leg::Dialling { upstream, until, seen } = serving.leg
            && until <= now.mono
        {
            self.connections.drop_upstream(upstream);
            self.not_reached(key, seen, Trouble::new("it does not answer"), now);
            return;
        }
        let is_sending = self.connections.is_sending(tunnel);
        let connection = serving.connection();
        match &mut serving.due {
            Due::Head(by) if *by <= now.mono => {
                self.fail(key, Failure::SlowHead, now);
                return;
            }
            Due::Byte(by) if *by <= now.mono => {
                // A peer that does not read has its own deadline.
                if !is_sending && !connection.is_some_and(|it| self.connections.upstream_waits(it)) {
                    self.cut(key, Failure::StoodStill, now);
                    return;
                }
                *by = now.mono.after_coarse(self.config.limits.stall);
            }
            Due::Nothing | Due::Head(_) | Due::Byte(_) => {}
        }
        if serving.heartbeat_at <= now.mono {
            serving.heartbeat_at = now.mono.after_coarse(pace);
            if !is_sending && !serving.messages.is_answered() {
                self.connections.send(tunnel, WORKING.to_vec());
            }
        }
    }

    /// The upstream takes nothing, and its connection is closed.
    pub(super) fn upstream_stalled(&mut self, key: WorkerKey, now: Now) {
        let Some((_, serving)) = self.serving(key) else { return };
        if serving.messages.is_answered() {
            self.cut(key, Failure::Stalled, now);
        } else {
            self.fail(key, Failure::Stalled, now);
        }
    }

    /// The application has left, or the hub: the upstream is told by closing, or its answer is read to the
    /// end.
    pub(super) fn cancel(&mut self, key: WorkerKey, now: Now) {
        let Some(worker) = self.workers.get_mut(key) else { return };
        let Some(serving) = worker.take_serving(now.mono) else { return };
        match (self.config.on_cancel, &serving.leg) {
            // What is held goes with the tunnel. An upstream that has not taken all of the request would wait
            // for the rest.
            (OnCancel::Drain, Leg::Paired { upstream, .. })
                if serving.messages.request.is_done()
                    && self.connections.has_taken_all(*upstream)
                    && !serving.messages.may_be_upgraded()
                    && !serving.is_lent() =>
            {
                let upstream = *upstream;
                worker.close(Closed::Finishing);
                worker.finish(Finishing::new(upstream, serving.messages, &self.config, now.mono));
                self.connections.tell(Command::Resume(upstream.into()));
                self.workers.rearm(key);
                self.stay_at_hub(key, now);
            }
            (OnCancel::Close | OnCancel::Drain, _) => {
                let index = worker.upstream();
                let may_hang = !worker.is_light()
                    && (self.config.health_path.is_some() && serving.is_unanswered()
                        || serving.may_lead_nowhere());
                let (upstream, is_fed) = (serving.connection(), serving.is_fed());
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
    pub(super) fn not_reached(&mut self, key: WorkerKey, seen: bool, why: Trouble<'static>, now: Now) {
        if seen {
            self.note_down(key, why, now);
            self.fail(key, Failure::Broke, now);
        } else {
            self.refuse(key, why, now);
        }
    }

    /// Nothing was sent to the upstream: the hub may send the request elsewhere. The worker withdraws.
    ///
    /// It joins anew once the hub has closed the tunnel: a handshake that overtook the refusal would replace
    /// the tunnel, and the request on it would be lost to the hub.
    pub(super) fn refuse(&mut self, key: WorkerKey, why: Trouble<'static>, now: Now) {
        let Some((tunnel, _)) = self.serving(key) else { return };
        self.connections.tell(Command::DropHeld(tunnel.into()));
        self.connections.send(tunnel, write_refusal(why, true));
        self.note_down(key, why, now);
        let until = now.mono.after(self.config.limits.linger);
        let Some(worker) = self.workers.get_mut(key) else { return };
        if let Some(Job::Serving(serving)) = worker.turn_to(Job::Leaving { until, served: false }) {
            self.spare_servings.keep(serving);
        }
        self.connections.tell(Command::Resume(tunnel.into()));
        self.workers.rearm(key);
    }

    /// A worker has found its upstream unusable. What is asked beside a job, for light paths, says nothing
    /// about an upstream that may be busy with the job.
    fn note_down(&mut self, key: WorkerKey, why: Trouble<'static>, now: Now) {
        if let Some(worker) = self.workers.get(key).filter(|worker| !worker.is_light()) {
            self.upstream_is_down(worker.upstream(), why, now);
        }
    }

    /// No response head has gone out: the application gets an answer of ours.
    pub(super) fn fail(&mut self, key: WorkerKey, failure: Failure, now: Now) {
        let Some((_, serving)) = self.serving(key) else { return };
        let mut bytes = Vec::new();
        let is_limit = failure.is_limit();
        let reply = Reply {
            error: Some(if is_limit { "connection_limit_reached" } else { "http_protocol_error" }),
            retry_after: is_limit.then_some(1),
            is_agents_own: true,
            close: !serving.messages.request.is_done(),
            head_only: serving.messages.facts.head_only,
            ..Reply::new(failure.status(), failure.text())
        };
        reply::write(&reply, &mut bytes);
        self.answer(key, bytes, now);
    }

    /// The application gets an answer of ours, and what is left of its request is dropped.
    pub(super) fn answer(&mut self, key: WorkerKey, bytes: Vec<u8>, now: Now) {
        let Some((tunnel, serving)) = self.serving(key) else { return };
        let connection = serving.connection();
        self.connections.tell(Command::Unpair(tunnel.into()));
        self.connections.tell(Command::DropHeld(tunnel.into()));
        self.connections.send(tunnel, bytes);
        if let Some(connection) = connection {
            self.connections.drop_upstream(connection);
        }
        self.discard_rest(key, now);
    }

    /// A response head has gone out: the hub must see that what follows is missing.
    pub(super) fn cut(&mut self, key: WorkerKey, failure: Failure, now: Now) {
        let Some((tunnel, serving)) = self.serving(key) else { return };
        debug!("{}", failure.text());
        // In an upgraded exchange a FIN would be the end of this direction. One that has ended needs no more
        // than that.
        let is_open = serving.messages.is_upgraded() && serving.messages.wants_response();
        let (upstream, is_fed) = (serving.connection(), serving.is_fed());
        self.break_upstream(upstream, is_fed);
        self.connections.end_tunnel(tunnel, if is_open { Close::Reset } else { Close::Now });
        self.next(key, now);
    }

    /// Closes the upstream connection of a request that is given up. In an upgraded one a FIN would be the
    /// end of a direction that has not ended.
    pub(super) fn break_upstream(&mut self, upstream: Option<UpstreamKey>, is_fed: bool) {
        if let Some(upstream) = upstream {
            self.connections.end_upstream(upstream, if is_fed { Close::Reset } else { Close::Now });
        }
    }

    /// One side of an upgraded connection has ended. Once both have, the exchange is over.
    pub(super) fn check_upgrade_over(&mut self, key: WorkerKey, now: Now) {
        let Some((tunnel, serving)) = self.serving(key) else { return };
        if !serving.messages.response_is_done() {
            return;
        }
        let connection = serving.connection();
        self.connections.tell(Command::Unpair(tunnel.into()));
        if let Some(connection) = connection {
            self.connections.retire_upstream(connection, now);
        }
        self.connections.retire_tunnel(tunnel, now);
        self.next(key, now);
    }

    /// Ends upgraded connections: a process that ends would close each with FIN, which is the regular end of
    /// a direction.
    pub(super) fn reset_upgraded(&mut self, now: Now) {
        let is_upgraded = |serving: &Serving| serving.messages.is_upgraded();
        let workers = self.workers.iter();
        let upgraded: Vec<WorkerKey> =
            workers.filter(|(_, it)| it.serving().is_some_and(is_upgraded)).map(|(key, _)| key).collect();
        for key in upgraded {
            self.cut(key, Failure::AgentEnds, now);
        }
    }
}
