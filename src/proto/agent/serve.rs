//! One request through an agent: from the tunnel to the upstream and back.
//!
//! ```text
//!   Gathering -> (Waiting) -> Dialling -> Paired -> done
//!        \------------------------------->/  |
//!                 kept connection            +-> Dialling, once, if a kept connection turned out to be dead
//! ```

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use log::debug;

use super::sending::Sending;
use super::{Agent, Upstream, UpstreamOf, WorkerState};
use crate::config;
use crate::proto::error::Violation;
use crate::proto::exchange::{Facts, Messages};
use crate::proto::http1::body::Progress;
use crate::proto::http1::framing::Framing;
use crate::proto::http1::head::{HeadScan, RequestHead};
use crate::proto::http1::path;
use crate::proto::http1::reply::{self, Reply};
use crate::proto::http1::rewrite::{ToUpstream, request_to_upstream};
use crate::proto::seam::{Command, Shown, Step, Target};
use crate::proto::tables::key::{Key, TableKey, TunnelKey, UpstreamKey, WorkerKey};
use crate::proto::tables::timer::{Armed, Mono, Now};
use crate::proto::tunnel::{CONTINUE, Trouble, expects_connect};

/// A kept connection that was used longer ago than this may be dead without our knowing, and is not given a
/// request that could not be sent again.
const FRESH: Duration = Duration::from_secs(1);

const OUT_OF_BASE: Violation = Violation::new(
    400,
    "the upstream is served below a base path only, and this path (dot or empty segments, encoded slashes, ...) may lead out of it",
);
const TRACED: Violation =
    Violation::new(405, "the agent adds credentials for this upstream, and a TRACE would show them");
/// What is allowed instead: what RFC 9110 section 9 has beside TRACE and CONNECT, and PATCH.
const ALLOWED: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// What is taken in of a body that comes along with its head, before the request has a connection: what the
/// hub holds of it. The shell's buffer has room for the head beside it.
const GATHERED: usize = 16 * 1024;

/// A request that is being served.
pub(super) struct Serving {
    pub(super) tunnel: TunnelKey,
    pub(super) messages: Messages,
    pub(super) leg: Leg,
    /// The hub sends the body once it hears that the upstream connection stands.
    pub(super) expects_connect: bool,
    /// Whether credentials or a challenge for the whole connection were seen: it carries no other request
    /// before or after this one, which would be taken for the same user's.
    pub(super) is_private: bool,
    /// Scheme and authority by which the application knows the upstream; empty if it gets the application's
    /// `Host`.
    pub(super) origin: String,
    /// Whether nothing was sent beyond what the shell holds, so that the request can be sent again.
    pub(super) whole: bool,
    /// Whether it is a GET: its response may be a stream of events.
    pub(super) is_get: bool,
    /// Since when its worker is lent: another one takes requests in its stead, if there is one.
    pub(super) lent_since: Option<Mono>,
    /// The next sign of life for the hub, while no response head has come.
    pub(super) sign_at: Mono,
    /// The rest of a response head that has begun, or the next byte of an upgraded connection one side of
    /// which has ended, by then.
    pub(super) rest_by: Mono,
}

/// Memory of requests that were served: the next one allocates nothing.
#[derive(Default)]
#[expect(clippy::vec_box, reason = "a worker owns a box")]
pub(super) struct SpareServings(Vec<Box<Serving>>);

impl SpareServings {
    /// More than this are in one agent's hands only if it is a large one; 10 KB.
    const KEPT: usize = 64;

    pub(super) fn keep(&mut self, serving: Box<Serving>) {
        if self.0.len() < Self::KEPT {
            self.0.push(serving);
        }
    }

    /// The memory of the origin of the serving whose place is taken next.
    fn take_origin(&mut self) -> String {
        let mut origin =
            self.0.last_mut().map(|spare| core::mem::take(&mut spare.origin)).unwrap_or_default();
        origin.clear();
        // A huge authority must not keep its memory.
        origin.shrink_to(256);
        origin
    }

    fn place(&mut self, serving: Serving) -> Box<Serving> {
        match self.0.pop() {
            Some(mut spare) => {
                *spare = serving;
                spare
            }
            None => Box::new(serving),
        }
    }
}

/// The way to the upstream.
pub(super) enum Leg {
    /// What came of the body along with the head is being taken in; so many bytes so far.
    Gathering(usize),
    /// A probe has its place at the upstream.
    Waiting,
    /// A connection is being made. The upstream may have `seen` the request on a kept connection that broke
    /// under it.
    Dialling { upstream: UpstreamKey, until: Mono, seen: bool },
    /// The request is on its way. A connection that was used before may turn out to be dead.
    Paired { upstream: UpstreamKey, reused: bool },
}

impl Serving {
    pub(super) fn deadline(&self) -> Mono {
        let sign_at = if self.messages.is_answered() { Mono::NEVER } else { self.sign_at };
        match self.leg {
            Leg::Dialling { until, .. } => until.min(sign_at),
            Leg::Gathering(_) | Leg::Waiting => sign_at,
            Leg::Paired { .. } => sign_at.min(self.rest_by),
        }
    }

    pub(super) fn wants_request(&self) -> bool {
        match self.leg {
            Leg::Gathering(_) => true,
            Leg::Waiting | Leg::Dialling { .. } => false,
            Leg::Paired { .. } => self.messages.wants_request(),
        }
    }

    pub(super) fn connection(&self) -> Option<UpstreamKey> {
        match self.leg {
            Leg::Dialling { upstream, .. } | Leg::Paired { upstream, .. } => Some(upstream),
            Leg::Gathering(_) | Leg::Waiting => None,
        }
    }

    /// Whether another worker takes requests in its stead, if there is one.
    pub(super) fn is_lent(&self) -> bool {
        self.lent_since.is_some()
    }

    /// Whether the upstream has, or should have, a request of which it has said nothing yet.
    pub(super) fn is_unanswered(&self) -> bool {
        self.connection().is_some() && !self.messages.is_answered() && !self.messages.has_interim()
    }

    /// Whether it is not even known that the upstream can still be connected to: a probe without a path can
    /// find that out.
    pub(super) fn may_lead_nowhere(&self) -> bool {
        self.is_unanswered() && !matches!(self.leg, Leg::Paired { reused: false, .. })
    }

    /// Bytes of the request were consumed.
    fn take_in(&mut self, n: usize) {
        match &mut self.leg {
            Leg::Gathering(gathered) => *gathered += n,
            Leg::Waiting | Leg::Dialling { .. } | Leg::Paired { .. } => self.whole = false,
        }
    }

    pub(super) fn note_progress(&mut self, stalled_by: Mono) {
        if self.rest_by != Mono::NEVER && self.messages.is_upgraded() {
            self.rest_by = stalled_by;
        }
    }

    /// Whether all of the request is held and may be sent a second time.
    pub(super) fn is_repeatable(&self) -> bool {
        self.whole && self.messages.facts.idempotent && self.messages.request.is_done()
    }
}

impl Serving {
    pub(super) fn pass_opaque(
        &mut self,
        is_tunnel: bool,
        n: u64,
        before: &mut Vec<u8>,
        stalled_by: Mono,
    ) -> &'static [u8] {
        self.note_progress(stalled_by);
        if is_tunnel {
            self.whole = false;
            self.messages.pass_request(n, before)
        } else {
            self.messages.pass_response(n, before)
        }
    }
}

/// The answer to a request that must not reach the upstream.
fn answer_here(
    head: &RequestHead<'_, '_>,
    upstream: &config::Upstream,
    has_credentials: bool,
) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let refusal = if head.max_forwards() == Some(0) {
        reply::write_last(head, head.framing != Framing::None, &mut bytes);
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
    /// The worker that a connection belongs to.
    pub(super) fn worker_over(&self, key: Key) -> Option<WorkerKey> {
        if let Some(tunnel) = TunnelKey::from_key(key) {
            return self.worker_of(tunnel);
        }
        match self.upstreams.get(UpstreamKey::from_key(key)?)?.of {
            UpstreamOf::Worker(worker) => Some(worker),
            UpstreamOf::Probe(_) | UpstreamOf::Nobody { .. } => None,
        }
    }

    /// The request that is served over a connection once both its sides are joined; whether the connection is
    /// the tunnel.
    pub(super) fn serving_over(&self, key: Key) -> Option<(&Serving, bool)> {
        let WorkerState::Serving(serving) = &self.workers.get(self.worker_over(key)?)?.state else {
            return None;
        };
        let Leg::Paired { upstream, .. } = serving.leg else { return None };
        let is_tunnel = Key::from(serving.tunnel) == key;
        (is_tunnel || Key::from(upstream) == key).then_some((serving, is_tunnel))
    }

    pub(super) fn serving(&mut self, key: WorkerKey) -> Option<&mut Serving> {
        match &mut self.workers.get_mut(key)?.state {
            WorkerState::Serving(serving) => Some(serving),
            WorkerState::Resting { .. }
            | WorkerState::Dialling { .. }
            | WorkerState::Passing { .. }
            | WorkerState::Joining { .. }
            | WorkerState::Joined { .. }
            | WorkerState::Leaving { .. }
            | WorkerState::Finishing(_)
            | WorkerState::Discarding(_)
            | WorkerState::Spare
            | WorkerState::Stopped => None,
        }
    }

    /// A request of an application came through the tunnel.
    pub(super) fn serve(
        &mut self,
        key: WorkerKey,
        tunnel: TunnelKey,
        head: &RequestHead<'_, '_>,
        out: &mut Vec<u8>,
        now: Now,
    ) {
        let Some(worker) = self.workers.get_mut(key) else { return };
        let Some(upstream) = self.config.upstreams.get(usize::from(worker.upstream)) else { return };
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
        worker.state = WorkerState::Serving(self.spare_servings.place(Serving {
            tunnel,
            origin,
            messages: Messages::new(Facts::of(head), head.framing, HeadScan::of_upstream()),
            leg: Leg::Gathering(0),
            expects_connect,
            is_private: head.binds_connection,
            whole: true,
            is_get: head.method.as_str() == "GET",
            lent_since: None,
            sign_at: now.mono.after_coarse(worker.backoff.pace()),
            rest_by: Mono::NEVER,
        }));
        match answer {
            Some(bytes) => self.answer(key, bytes, now),
            None => self.arm_worker(key),
        }
    }

    /// What came through the tunnel after the head.
    pub(super) fn read_request(&mut self, key: WorkerKey, mut shown: Shown<'_>, now: Now) -> Step {
        let stalled_by = now.mono.after_coarse(self.config.limits.stall);
        let Some(serving) = self.serving(key) else { return Step::Wait };
        let (gathers, room) = match serving.leg {
            Leg::Gathering(gathered) => (true, GATHERED.saturating_sub(gathered)),
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
                    serving.rest_by = stalled_by;
                    let other = serving.connection();
                    self.commands.extend(other.map(|other| Command::Finish(other.into())));
                    self.arm_worker(key);
                    self.check_upgrade_over(key, now);
                }
                Step::Wait
            }
            Ok(Progress::Truncated) | Err(_) => {
                // An upload that was cut short must not look complete to the upstream: it loses its
                // connection.
                let tunnel = serving.tunnel;
                self.drop_tunnel(tunnel);
                self.cancel(key, now);
                return Step::Wait;
            }
        };
        if gathers && step == Step::Wait {
            self.choose(key, now);
        }
        step
    }

    /// Finds the request a connection: the kept one, if it can be trusted, or a new one.
    fn choose(&mut self, key: WorkerKey, now: Now) {
        let Some(index) = self.workers.get(key).map(|worker| worker.upstream) else { return };
        let is_occupied = self.is_occupied(index) && !self.is_light(key);
        let Some(worker) = self.workers.get_mut(key) else { return };
        let WorkerState::Serving(serving) = &mut worker.state else { return };
        if is_occupied {
            serving.leg = Leg::Waiting;
            return;
        }
        match worker.kept.take() {
            Some(kept) if serving.is_private => {
                self.drop_upstream(kept.connection);
                self.dial_upstream(key, false, now);
            }
            Some(kept) if serving.is_repeatable() || now.mono.since(kept.last_used) < FRESH => {
                self.pair(key, kept.connection, true, now);
            }
            Some(kept) => {
                self.drop_upstream(kept.connection);
                self.dial_upstream(key, false, now);
            }
            None => self.dial_upstream(key, false, now),
        }
    }

    /// A probe is over, and the upstream is well: requests that waited for it go on.
    pub(super) fn resume_after_probe(&mut self, index: u16, now: Now) {
        for key in self.waiting(index) {
            self.choose(key, now);
        }
    }

    /// A probe is over, and the upstream cannot be used: requests that waited for it are refused.
    pub(super) fn refuse_after_probe(&mut self, index: u16, why: Trouble<'static>, now: Now) {
        for key in self.waiting(index) {
            self.refuse(key, index, why, now);
        }
    }

    fn waiting(&self, index: u16) -> Vec<WorkerKey> {
        let waits = |state: &WorkerState| {
            let WorkerState::Serving(serving) = state else { return false };
            matches!(serving.leg, Leg::Waiting)
        };
        self.workers
            .iter()
            .filter(|(_, worker)| worker.upstream == index && waits(&worker.state))
            .map(|(key, _)| key)
            .collect()
    }

    pub(super) fn dial_upstream(&mut self, key: WorkerKey, seen: bool, now: Now) {
        let limit = self.config.limits.connect;
        let of = UpstreamOf::Worker(key);
        let upstream =
            self.upstreams.insert(Upstream { armed: Armed::default(), sending: Sending::Nothing, of });
        let Some(worker) = self.workers.get_mut(key) else { return };
        let index = worker.upstream;
        let (Some(upstream), WorkerState::Serving(serving)) = (upstream, &mut worker.state) else { return };
        serving.leg = Leg::Dialling { upstream, until: now.mono.after(limit), seen };
        self.commands.push(Command::Dial { key: upstream.into(), target: Target::Upstream(index) });
        self.arm_worker(key);
    }

    pub(super) fn upstream_connected(&mut self, key: WorkerKey, upstream: UpstreamKey, now: Now) {
        if self.serving(key).is_some_and(|serving| matches!(serving.leg, Leg::Dialling { .. })) {
            self.pair(key, upstream, false, now);
        }
    }

    fn pair(&mut self, key: WorkerKey, upstream: UpstreamKey, reused: bool, now: Now) {
        let Some(serving) = self.serving(key) else { return };
        serving.leg = Leg::Paired { upstream, reused };
        let tunnel = serving.tunnel;
        let expected = core::mem::take(&mut serving.expects_connect);
        serving.sign_at = serving.sign_at.max(now.mono);
        if expected {
            self.commands.push(Command::Send { key: tunnel.into(), bytes: CONTINUE.to_vec() });
        }
        self.commands.push(Command::Pair {
            requester: tunnel.into(),
            responder: upstream.into(),
            upto: None,
        });
        self.commands.push(Command::Resume(tunnel.into()));
    }
}
