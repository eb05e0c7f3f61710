//! A request on its way from the tunnel to the upstream.
//!
//! ```text
//!   Gathering -> (Waiting) -> Dialling -> Paired -> done
//!        \------------------------------->/  |
//!                 kept connection            +-> Dialling, once, if a kept connection turned out to be dead
//! ```

use alloc::vec::Vec;
use core::time::Duration;

use log::debug;

use super::connections::UpstreamUser;
use super::endings::{Failure, describe};
use super::serving::{Due, Leg, Serving};
use super::worker::{Job, Worker};
use super::{Agent, NO_KEY_LEFT};
use crate::config;
use crate::proto::error::Violation;
use crate::proto::exchange::{Facts, Messages};
use crate::proto::http1::body::Progress;
use crate::proto::http1::framing::Framing;
use crate::proto::http1::head::{HeadScan, RequestHead};
use crate::proto::http1::path;
use crate::proto::http1::reply::{self, CONTINUE, Reply};
use crate::proto::http1::rewrite::{ToUpstream, request_to_upstream};
use crate::proto::seam::{Closed, Command, HELD_BODY, Shown, Step};
use crate::proto::tables::key::{UpstreamKey, WorkerKey};
use crate::proto::tables::timer::Now;
use crate::proto::tunnel::{Trouble, expects_connect};

/// A kept connection whose last use is longer ago may be dead without our knowing, and gets no request that
/// could not be sent again.
const FRESH_CONNECTION_AGE: Duration = Duration::from_secs(1);

const OUT_OF_BASE: Violation = Violation::new(
    400,
    "the upstream is served below a base path only, and this path (dot or empty segments, encoded slashes, ...) may lead out of it",
);
const TRACED: Violation =
    Violation::new(405, "the agent adds credentials for this upstream, and a TRACE would show them");
/// The methods that are allowed: those of RFC 9110 section 9.3 without TRACE and CONNECT, and PATCH (RFC
/// 5789).
const ALLOWED: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// How much of a body that comes with its head is taken in before the request has a connection: as much as
/// the hub holds of it. The shell's buffer has room for the head beside it.
const MAX_GATHERED_BYTES: usize = HELD_BODY;

/// The answer to a request that must not reach the upstream.
fn answer_here(
    head: &RequestHead<'_, '_>,
    upstream: &config::Upstream,
    has_credentials: bool,
) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let refusal = if head.max_forwards() == Some(0) {
        reply::write_last(head, None, head.framing != Framing::None, &mut bytes);
        return Some(bytes);
    } else if !upstream.base_path.is_empty() && path::is_ambiguous(head.path()) {
        OUT_OF_BASE
    } else if has_credentials && head.method.is_trace() {
        TRACED
    } else {
        return None;
    };
    let reply = Reply {
        error: Some("http_request_denied"),
        allow: (refusal.status == 405).then_some(ALLOWED),
        close: head.framing != Framing::None,
        head_only: head.method.is_head(),
        ..Reply::new(refusal.status, refusal.detail)
    };
    reply::write(&reply, &mut bytes);
    Some(bytes)
}

impl Agent {
    /// A request of an application came through the tunnel.
    pub(super) fn serve(&mut self, key: WorkerKey, head: &RequestHead<'_, '_>, out: &mut Vec<u8>, now: Now) {
        let Some(worker) = self.workers.get_mut(key) else { return };
        let Some(upstream) = self.config.upstreams.get(usize::from(worker.upstream())) else { return };
        let expects_connect = expects_connect(head);
        let how = ToUpstream {
            at: upstream.at(),
            preserve_host: self.config.preserve_host,
            authorization: upstream.authorization.as_deref(),
            fields: &self.config.upstream_fields,
            keep_expect: head.expect_continue && !expects_connect,
        };
        let has_credentials = upstream.authorization.is_some() || !self.config.upstream_fields.is_empty();
        let answer = answer_here(head, upstream, has_credentials);
        if answer.is_none() {
            request_to_upstream(head, &how, out);
        }
        debug!("{} {} to {}", head.method.as_str(), head.path(), upstream.authority);
        let mut origin = self.spare_servings.take_origin();
        if !self.config.preserve_host {
            head.write_origin(&mut origin);
        }
        let serving = self.spare_servings.place(Serving {
            origin,
            messages: Messages::new(Facts::of(head), head.framing, HeadScan::of_upstream()),
            leg: Leg::Gathering(0),
            expects_connect,
            is_private: head.binds_connection,
            whole: true,
            is_get: head.method.as_str() == "GET",
            lent_since: None,
            heartbeat_at: now.mono.after_coarse(worker.backoff.pace()),
            due: Due::Nothing,
        });
        worker.turn_to(Job::Serving(serving));
        match answer {
            Some(bytes) => self.answer(key, bytes, now),
            None => self.workers.rearm(key),
        }
    }

    /// What came through the tunnel after the head.
    pub(super) fn read_request(&mut self, key: WorkerKey, mut shown: Shown<'_>, now: Now) -> Step {
        let stalled_by = now.mono.after_coarse(self.config.limits.stall);
        let Some((tunnel, serving)) = self.workers.get_mut(key).and_then(Worker::serving_mut) else {
            return Step::Wait;
        };
        let (gathers, room) = match serving.leg {
            Leg::Gathering(gathered) => (true, MAX_GATHERED_BYTES.saturating_sub(gathered)),
            Leg::Waiting | Leg::Dialling { .. } | Leg::Paired { .. } => (false, usize::MAX),
        };
        if !serving.wants_request() {
            return Step::Wait;
        }
        let step = match serving.messages.advance_request(shown.first(room)) {
            Ok(Progress::Pass(n)) => {
                serving.take_in(n);
                serving.note_progress(stalled_by);
                Step::Pass(n)
            }
            Ok(Progress::Skip(n)) => {
                serving.take_in(n);
                Step::Skip(n)
            }
            Ok(Progress::NeedMore) => Step::Wait,
            Ok(Progress::Done) => {
                if serving.messages.is_upgraded() {
                    serving.due = Due::Byte(stalled_by);
                    if let Some(other) = serving.connection() {
                        self.connections.tell(Command::Finish(other.into()));
                    }
                    self.workers.rearm(key);
                    self.check_upgrade_over(key, now);
                }
                Step::Wait
            }
            Ok(Progress::Truncated) | Err(_) => {
                // An upload that was cut short must not look complete to the upstream: it loses its
                // connection.
                self.connections.drop_tunnel(tunnel);
                self.cancel(key, now);
                return Step::Wait;
            }
        };
        if gathers && step == Step::Wait {
            self.choose(key, now);
        }
        step
    }

    /// Finds a connection for the request: a kept one, if that can be trusted, or a new one.
    pub(super) fn choose(&mut self, key: WorkerKey, now: Now) {
        let Some(worker) = self.workers.get(key) else { return };
        let index = worker.upstream();
        let is_occupied = !worker.is_light() && self.is_occupied(index);
        let Some((_, serving)) = self.workers.get_mut(key).and_then(Worker::serving_mut) else { return };
        if is_occupied {
            serving.leg = Leg::Waiting;
            return;
        }
        let Some((kept, last_used)) = self.connections.take_kept(key) else {
            self.dial_upstream(key, false, now);
            return;
        };
        let is_fresh = now.mono.since(last_used) < FRESH_CONNECTION_AGE;
        if !serving.is_private && (is_fresh || serving.is_repeatable()) {
            self.pair(key, kept, true, now);
        } else {
            self.connections.drop_upstream(kept);
            self.dial_upstream(key, false, now);
        }
    }

    /// The workers whose requests wait until a probe of this upstream is over.
    pub(super) fn waiting_for_probe(&self, index: u16) -> Vec<WorkerKey> {
        let waits = |serving: &Serving| matches!(serving.leg, Leg::Waiting);
        self.workers
            .iter()
            .filter(|(_, worker)| worker.upstream() == index && worker.serving().is_some_and(waits))
            .map(|(key, _)| key)
            .collect()
    }

    fn dial_upstream(&mut self, key: WorkerKey, seen: bool, now: Now) {
        let until = now.mono.after(self.config.limits.connect);
        let Some(worker) = self.workers.get_mut(key) else { return };
        let index = worker.upstream();
        let Some((_, serving)) = worker.serving_mut() else { return };
        let Some(upstream) = self.connections.dial_upstream(index, UpstreamUser::Worker(key)) else {
            self.not_reached(key, seen, NO_KEY_LEFT, now);
            return;
        };
        serving.leg = Leg::Dialling { upstream, until, seen };
        self.workers.rearm(key);
    }

    pub(super) fn upstream_connected(&mut self, key: WorkerKey, upstream: UpstreamKey, now: Now) {
        let serving = self.workers.get(key).and_then(Worker::serving);
        if serving.is_some_and(|serving| matches!(serving.leg, Leg::Dialling { .. })) {
            self.pair(key, upstream, false, now);
        }
    }

    /// An upstream has ended a connection. Nothing of the request was sent on a connection that never stood.
    /// On any other, what the upstream sent before counts, and the end of the input tells.
    pub(super) fn upstream_hung_up(&mut self, key: WorkerKey, upstream: UpstreamKey, now: Now) {
        let Some(serving) = self.workers.get(key).and_then(Worker::serving) else { return };
        if let Leg::Dialling { seen, .. } = serving.leg {
            self.connections.drop_upstream(upstream);
            self.not_reached(key, seen, Trouble::new("it ends connections at once"), now);
        }
    }

    fn pair(&mut self, key: WorkerKey, upstream: UpstreamKey, reused: bool, now: Now) {
        let Some((tunnel, serving)) = self.workers.get_mut(key).and_then(Worker::serving_mut) else { return };
        serving.leg = Leg::Paired { upstream, reused };
        serving.heartbeat_at = serving.heartbeat_at.max(now.mono);
        if core::mem::take(&mut serving.expects_connect) {
            self.connections.send(tunnel, CONTINUE.to_vec());
        }
        let pair = Command::Pair { requester: tunnel.into(), responder: upstream.into(), upto: None };
        self.connections.tell(pair);
        self.connections.tell(Command::Resume(tunnel.into()));
    }

    /// The connection of a request to its upstream could not be made, or broke.
    pub(super) fn upstream_lost(&mut self, key: WorkerKey, reason: Closed, now: Now) {
        let Some(worker) = self.workers.get_mut(key) else { return };
        if worker.finishing().is_some() {
            self.finished(key, now);
            return;
        }
        let Some((tunnel, serving)) = worker.serving_mut() else { return };
        match serving.leg {
            Leg::Dialling { seen, .. } => self.not_reached(key, seen, Trouble::new(describe(reason)), now),
            // The connection died after its last use. The upstream has not seen this request, or may see it
            // twice.
            Leg::Paired { reused: true, .. }
                if !serving.messages.is_answered()
                    && !serving.messages.has_interim()
                    && (!reason.written && serving.whole || serving.is_repeatable()) =>
            {
                // A head that began on the old connection is no part of the one to come.
                serving.messages.await_another_head();
                serving.due = Due::Nothing;
                self.connections.tell(Command::Unpair(tunnel.into()));
                self.dial_upstream(key, reason.written, now);
            }
            Leg::Paired { .. } if serving.messages.is_answered() => self.cut(key, Failure::BrokeOff, now),
            Leg::Paired { .. } => self.fail(key, Failure::Broke, now),
            Leg::Gathering(_) | Leg::Waiting => {}
        }
    }
}
