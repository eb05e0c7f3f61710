//! One request through an agent: from the tunnel to the upstream and back.
//!
//! ```text
//!   Gathering -> (Waiting) -> Dialling -> Paired -> done
//!        \------------------------------->/  |
//!                 kept connection            +-> Dialling, once, if a kept connection turned out to be dead
//! ```

use core::time::Duration;

use log::debug;

use super::health::describe;
use super::leftover::Finishing;
use super::{Agent, Kept, Upstream, UpstreamOf, WorkerState};
use crate::config::OnCancel;
use crate::proto::error::Violation;
use crate::proto::exchange::{Facts, Messages, Turn};
use crate::proto::http1::body::Progress;
use crate::proto::http1::head::{HeadScan, RequestHead, ResponseHead, Storage, Version};
use crate::proto::http1::reply::{self, Reply};
use crate::proto::http1::rewrite::{ToUpstream, request_to_upstream, response_to_hub};
use crate::proto::key::{Key, TableKey, TunnelKey, UpstreamKey, WorkerKey};
use crate::proto::seam::{Close, Closed, Command, End, Step, Target, Why};
use crate::proto::timer::{Armed, Mono, Now};
use crate::proto::tunnel::{CONTINUE, WORKING, expects_connect, write_refusal};

/// A kept connection that was used longer ago than this may be dead without our knowing, and is not given a request that could
/// not be sent again.
const FRESH: Duration = Duration::from_secs(1);

/// What is taken in of a body that comes along with its head, before the request has a connection: what the hub holds of it. The
/// shell's buffer has room for the head beside it.
const GATHERED: usize = 16 * 1024;

const BROKE: Violation = Violation::new(502, "the upstream closed the connection before it answered");
const STALLED: Violation = Violation::new(502, "the upstream takes nothing of the request");

/// A request that is being served.
pub(super) struct Serving {
    pub(super) tunnel: TunnelKey,
    pub(super) messages: Messages,
    leg: Leg,
    /// The hub sends the body once it hears that the upstream connection stands.
    expects_connect: bool,
    /// Whether nothing was sent beyond what the shell holds, so that the request can be sent again.
    whole: bool,
    /// The next sign of life for the hub, while no response head has come.
    sign_at: Mono,
    /// One side of an upgraded connection has ended: the next byte of the other one by then.
    other_by: Mono,
}

/// The way to the upstream.
enum Leg {
    /// What came of the body along with the head is being taken in; so many bytes so far.
    Gathering(usize),
    /// A probe occupies the worker.
    Waiting,
    /// A connection is being made.
    Dialling { upstream: UpstreamKey, until: Mono },
    /// The request is on its way. A connection that was used before may turn out to be dead.
    Paired { upstream: UpstreamKey, reused: bool },
}

impl Serving {
    pub(super) fn deadline(&self) -> Mono {
        let sign_at = if self.messages.is_answered() { Mono::NEVER } else { self.sign_at };
        match self.leg {
            Leg::Dialling { until, .. } => until.min(sign_at),
            Leg::Gathering(_) | Leg::Waiting | Leg::Paired { .. } => sign_at.min(self.other_by),
        }
    }

    pub(super) fn wants_request(&self) -> bool {
        match self.leg {
            Leg::Gathering(_) => true,
            Leg::Waiting | Leg::Dialling { .. } => false,
            Leg::Paired { .. } => self.messages.wants_request(),
        }
    }

    fn connection(&self) -> Option<UpstreamKey> {
        match self.leg {
            Leg::Dialling { upstream, .. } | Leg::Paired { upstream, .. } => Some(upstream),
            Leg::Gathering(_) | Leg::Waiting => None,
        }
    }

    /// Bytes of the request were consumed.
    fn take_in(&mut self, n: usize) {
        match &mut self.leg {
            Leg::Gathering(gathered) => *gathered += n,
            Leg::Waiting | Leg::Dialling { .. } | Leg::Paired { .. } => self.whole = false,
        }
    }

    fn note_progress(&mut self, stalled_by: Mono) {
        if self.other_by != Mono::NEVER {
            self.other_by = stalled_by;
        }
    }

    /// Whether all of the request is held and may be sent a second time.
    fn is_repeatable(&self) -> bool {
        self.whole && self.messages.facts.idempotent && self.messages.request.is_done()
    }
}

impl Serving {
    pub(super) fn pass_unseen(
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

    /// The request that is served over a connection once both its sides are joined; whether the connection is the tunnel.
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
            authority: &upstream.authority,
            preserve_host: self.config.preserve_host,
            base_path: &upstream.base_path,
            authorization: upstream.authorization.as_deref(),
            keep_expect: head.expect_continue && !expects_connect,
        };
        request_to_upstream(head, &how, out);
        debug!("{} {} to {}", head.method.as_str(), head.path(), upstream.authority);
        worker.state = WorkerState::Serving(Serving {
            tunnel,
            messages: Messages::new(Facts::of(head), head.framing, HeadScan::default()),
            leg: Leg::Gathering(0),
            expects_connect,
            whole: true,
            sign_at: now.mono.after_coarse(worker.backoff.pace),
            other_by: Mono::NEVER,
        });
        self.arm_worker(key);
    }

    /// What came through the tunnel after the head.
    pub(super) fn read_request(
        &mut self,
        key: WorkerKey,
        input: &[u8],
        end: Option<End>,
        out: &mut Vec<u8>,
        now: Now,
    ) -> Step {
        let busy = !self.commands.is_empty();
        let stalled_by = now.mono.after_coarse(self.config.limits.stall);
        let Some(serving) = self.serving(key) else { return Step::Wait };
        let (gathers, room) = match serving.leg {
            Leg::Gathering(gathered) => (true, GATHERED.saturating_sub(gathered)),
            Leg::Waiting | Leg::Dialling { .. } | Leg::Paired { .. } => (false, usize::MAX),
        };
        // Commands under way: the tunnel was paired just now, and the shell does not know yet.
        if !serving.wants_request() || !gathers && busy {
            return Step::Wait;
        }
        let shown = input.get(..room).unwrap_or(input);
        let end = end.filter(|_| shown.len() == input.len());
        let step = match serving.messages.advance_request(shown, end, out) {
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
                    serving.other_by = stalled_by;
                    let other = serving.connection();
                    self.commands.extend(other.map(|other| Command::Finish(other.into())));
                    self.arm_worker(key);
                    self.check_upgrade_over(key, now);
                }
                Step::Wait
            }
            Ok(Progress::Truncated) | Err(_) => {
                // An upload that was cut short must not look complete to the upstream: it loses its connection.
                let tunnel = serving.tunnel;
                self.drop_tunnel(tunnel);
                self.tunnel_lost(key, "the request was cut short", now);
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
        let Some(worker) = self.workers.get_mut(key) else { return };
        let WorkerState::Serving(serving) = &mut worker.state else { return };
        let occupied =
            self.health.get(usize::from(worker.upstream)).is_some_and(|health| health.occupies(key));
        if occupied {
            serving.leg = Leg::Waiting;
            return;
        }
        match worker.kept.take() {
            Some(kept) if serving.is_repeatable() || now.mono.since(kept.last_used) < FRESH => {
                self.pair(key, kept.connection, true, now);
            }
            Some(kept) => {
                self.drop_upstream(kept.connection);
                self.dial_upstream(key, now);
            }
            None => self.dial_upstream(key, now),
        }
    }

    /// A probe is over: requests that waited for it go on.
    pub(super) fn resume_after_probe(&mut self, index: u16, now: Now) {
        let waits = |state: &WorkerState| matches!(state, WorkerState::Serving(serving) if matches!(serving.leg, Leg::Waiting));
        let waiting: Vec<WorkerKey> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.upstream == index && waits(&worker.state))
            .map(|(key, _)| key)
            .collect();
        for key in waiting {
            self.choose(key, now);
        }
    }

    fn dial_upstream(&mut self, key: WorkerKey, now: Now) {
        let limit = self.config.limits.connect;
        let of = UpstreamOf::Worker(key);
        let upstream = self.upstreams.insert(Upstream { armed: Armed::default(), send_by: Mono::NEVER, of });
        let Some(worker) = self.workers.get_mut(key) else { return };
        let index = worker.upstream;
        let (Some(upstream), WorkerState::Serving(serving)) = (upstream, &mut worker.state) else { return };
        serving.leg = Leg::Dialling { upstream, until: now.mono.after(limit) };
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
        input: &[u8],
        end: Option<End>,
        out: &mut Vec<u8>,
        now: Now,
    ) -> Step {
        let stalled_by = now.mono.after_coarse(self.config.limits.stall);
        let Some(worker) = self.workers.get_mut(key) else { return Step::Wait };
        if worker.kept.is_some_and(|kept| kept.connection == upstream) {
            if !input.is_empty() || end.is_some() {
                // Its end, or a response to no request (RFC 9112 section 9.3).
                worker.kept = None;
                self.drop_upstream(upstream);
            }
            return Step::Wait;
        }
        match &mut worker.state {
            WorkerState::Serving(serving) if !serving.messages.is_answered() => {
                match serving.messages.scan_head(input).map_err(Violation::in_response) {
                    Ok(Some(length)) => {
                        self.read_response_head(key, input.get(..length).unwrap_or(input), out, now)
                    }
                    Ok(None) => {
                        if end.is_some() {
                            self.drop_upstream(upstream);
                            self.upstream_lost(
                                key,
                                upstream,
                                Closed { why: Why::Failed, written: true },
                                now,
                            );
                        }
                        Step::Wait
                    }
                    Err(violation) => {
                        self.fail(key, violation, now);
                        Step::Wait
                    }
                }
            }
            WorkerState::Serving(serving) => {
                match serving.messages.advance_response(input, end, out) {
                    Ok(Progress::Pass(n)) => {
                        serving.note_progress(stalled_by);
                        return Step::Pass(n);
                    }
                    Ok(Progress::Skip(n)) => return Step::Skip(n),
                    Ok(Progress::NeedMore) => {}
                    Ok(Progress::Done) if serving.messages.is_upgraded() => {
                        serving.other_by = stalled_by;
                        let tunnel = serving.tunnel;
                        self.commands.push(Command::Finish(tunnel.into()));
                        self.arm_worker(key);
                        self.check_upgrade_over(key, now);
                    }
                    Ok(Progress::Done) => self.complete(key, input.is_empty() && end.is_none(), now),
                    Ok(Progress::Truncated) => self.cut(key, "the upstream cut its response", now),
                    Err(violation) => self.cut(key, violation.detail, now),
                }
                Step::Wait
            }
            WorkerState::Finishing(finishing) => {
                let begin = out.len();
                let step = finishing.drop_response(input, end, out);
                out.truncate(begin);
                let is_over = match step {
                    Some(Step::Wait) => end.is_some() || finishing.messages.response_is_done(),
                    Some(Step::Pass(_) | Step::Skip(_)) => false,
                    None => true,
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

    fn read_response_head(&mut self, key: WorkerKey, bytes: &[u8], out: &mut Vec<u8>, now: Now) -> Step {
        let Some(serving) = self.serving(key) else { return Step::Wait };
        let mut storage = Storage::new();
        let judged =
            ResponseHead::parse(bytes, &mut storage, serving.messages.facts.head_only).and_then(|head| {
                let framing = head.framing.onward(Version::Http11);
                let turn = serving.messages.on_head(&head, framing)?;
                Ok((head, framing, turn))
            });
        let (head, framing, turn) = match judged {
            Ok(judged) => judged,
            Err(violation) => {
                self.fail(key, violation, now);
                return Step::Wait;
            }
        };
        response_to_hub(&head, framing, out);
        let tunnel = serving.tunnel;
        self.commands.push(Command::DropHeld(tunnel.into()));
        if turn == Turn::Upgraded {
            self.commands.push(Command::Resume(tunnel.into()));
            self.lend_worker(key, now);
        }
        Step::Skip(bytes.len())
    }

    /// The response is complete.
    fn complete(&mut self, key: WorkerKey, upstream_is_clean: bool, now: Now) {
        let Some(serving) = self.serving(key) else { return };
        let tunnel = serving.tunnel;
        let connection = serving.connection();
        let reusable = serving.messages.responder_is_reusable() && upstream_is_clean;
        // Bytes of the request that wait for the upstream will never be sent to it; what followed would be taken for them.
        let all_sent = connection
            .and_then(|connection| self.upstreams.get(connection))
            .is_some_and(|upstream| upstream.send_by == Mono::NEVER);
        let reusable = reusable && all_sent;
        self.commands.push(Command::Unpair(tunnel.into()));
        self.commands.push(Command::DropHeld(tunnel.into()));
        if let Some(connection) = connection {
            if reusable && let Some(worker) = self.workers.get_mut(key) {
                worker.kept = Some(Kept { connection, last_used: now.mono });
            } else {
                self.drop_upstream(connection);
            }
        }
        self.discard_rest(key, now);
    }

    /// The tunnel takes the next request.
    pub(super) fn rest_on_tunnel(&mut self, key: WorkerKey, tunnel: TunnelKey, now: Now) {
        let Some(worker) = self.workers.get_mut(key) else { return };
        worker.backoff.succeed();
        worker.state = WorkerState::Joined {
            tunnel,
            // As long as the application takes what is under way to it, the tunnel is not idle to the hub, and silent. TCP
            // keep-alive watches until the hub is heard of again.
            heard_by: Mono::NEVER,
            since: now.mono,
            scan: HeadScan::on_tunnel(),
            ready: true,
        };
        self.commands.push(Command::Resume(tunnel.into()));
        self.arm_worker(key);
        self.check_readiness(key, now);
    }

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
                Leg::Dialling { .. } => self.refuse(key, index, describe(reason), now),
                // Dead since it was last used: the upstream has not seen this request, or may see it twice.
                Leg::Paired { reused: true, .. }
                    if !serving.messages.is_answered()
                        && !serving.messages.has_interim()
                        && (!reason.written && serving.whole || serving.is_repeatable()) =>
                {
                    let tunnel = serving.tunnel;
                    self.commands.push(Command::Unpair(tunnel.into()));
                    self.dial_upstream(key, now);
                }
                Leg::Paired { .. } if serving.messages.is_answered() => {
                    self.cut(key, "the upstream broke its response off", now)
                }
                Leg::Paired { .. } => self.fail(key, BROKE, now),
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
            self.cut(key, STALLED.detail, now);
        } else {
            self.fail(key, STALLED, now);
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
        let (index, pace) = (worker.upstream, worker.backoff.pace);
        let WorkerState::Serving(serving) = &mut worker.state else { return };
        if let Leg::Dialling { upstream, until } = serving.leg
            && until <= now.mono
        {
            self.drop_upstream(upstream);
            self.refuse(key, index, "it does not answer", now);
            return;
        }
        // Who takes nothing of what waits for it has a deadline of its own for that.
        let tunnel_waits = self.tunnels.get(serving.tunnel).is_some_and(|it| it.send_by != Mono::NEVER);
        let connection = serving.connection().and_then(|key| self.upstreams.get(key));
        if serving.other_by <= now.mono
            && (tunnel_waits || connection.is_some_and(|it| it.send_by != Mono::NEVER))
        {
            serving.other_by = now.mono.after_coarse(self.config.limits.stall);
        }
        if serving.other_by <= now.mono {
            self.cut(key, "nothing came of the upgraded connection since one side of it ended", now);
            return;
        }
        if serving.sign_at <= now.mono {
            serving.sign_at = now.mono.after_coarse(pace);
            let tunnel = serving.tunnel;
            let has_room = self.tunnels.get(tunnel).is_some_and(|tunnel| tunnel.send_by == Mono::NEVER);
            let answered = serving.messages.is_answered();
            if has_room && !answered {
                self.commands.push(Command::Send { key: tunnel.into(), bytes: WORKING.to_vec() });
            }
        }
    }

    /// The application has left, or the hub: the upstream is told by closing, or its answer is read to the end.
    pub(super) fn cancel(&mut self, key: WorkerKey, now: Now) {
        let Some(worker) = self.workers.get_mut(key) else { return };
        let WorkerState::Serving(serving) = core::mem::replace(&mut worker.state, WorkerState::Stopped)
        else {
            return;
        };
        // What is held goes with the tunnel: an upstream that has not taken all of the request would wait for the rest.
        let has_it_all = serving.messages.request.is_done()
            && serving
                .connection()
                .and_then(|connection| self.upstreams.get(connection))
                .is_some_and(|upstream| upstream.send_by == Mono::NEVER);
        match (self.config.on_cancel, &serving.leg) {
            (OnCancel::Drain, Leg::Paired { upstream, .. })
                if has_it_all && !serving.messages.is_upgraded() =>
            {
                let upstream = *upstream;
                worker.state = WorkerState::Finishing(Finishing { upstream, messages: serving.messages });
                self.commands.push(Command::Resume(upstream.into()));
            }
            (OnCancel::Close | OnCancel::Drain, _) => {
                if let Some(connection) = serving.connection() {
                    self.drop_upstream(connection);
                }
                self.next(key, now);
            }
        }
    }

    /// Nothing was sent to the upstream: the hub may send the request elsewhere. The worker withdraws.
    fn refuse(&mut self, key: WorkerKey, index: u16, why: &'static str, now: Now) {
        let Some(serving) = self.serving(key) else { return };
        let tunnel = serving.tunnel;
        self.commands.push(Command::DropHeld(tunnel.into()));
        self.commands.push(Command::Send { key: tunnel.into(), bytes: write_refusal(why, true) });
        self.upstream_is_down(index, why, now);
        self.retire_tunnel(tunnel, now);
        self.next(key, now);
    }

    /// No response head has gone out: the application gets an answer of ours.
    fn fail(&mut self, key: WorkerKey, violation: Violation, now: Now) {
        let Some(serving) = self.serving(key) else { return };
        let tunnel = serving.tunnel;
        let connection = serving.connection();
        let mut bytes = Vec::new();
        let reply = Reply {
            error: Some("http_protocol_error"),
            close: !serving.messages.request.is_done(),
            head_only: serving.messages.facts.head_only,
            ..Reply::new(violation.status, violation.detail)
        };
        reply::write(&reply, &mut bytes);
        self.commands.push(Command::Unpair(tunnel.into()));
        self.commands.push(Command::DropHeld(tunnel.into()));
        self.commands.push(Command::Send { key: tunnel.into(), bytes });
        if let Some(connection) = connection {
            self.drop_upstream(connection);
        }
        self.discard_rest(key, now);
    }

    /// A response head has gone out: the hub must see that what follows is missing.
    fn cut(&mut self, key: WorkerKey, why: &str, now: Now) {
        let Some(serving) = self.serving(key) else { return };
        debug!("{why}");
        let tunnel = serving.tunnel;
        // In an upgraded exchange a FIN would be the end of this direction. One that has ended needs no more than that.
        let is_open = serving.messages.is_upgraded() && serving.messages.wants_response();
        if let Some(connection) = serving.connection() {
            self.drop_upstream(connection);
        }
        if is_open && self.tunnels.remove(tunnel).is_some() {
            self.commands.push(Command::Close(tunnel.into(), Close::Reset));
        }
        self.drop_tunnel(tunnel);
        self.next(key, now);
    }

    fn check_upgrade_over(&mut self, key: WorkerKey, now: Now) {
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
        self.commands.push(Command::Close(key.into(), Close::Linger));
        self.arm_upstream(key);
    }

    /// A worker is free of its tunnel: it dials the next one, unless another one stands in for it or the process is ending.
    pub(super) fn next(&mut self, key: WorkerKey, now: Now) {
        let Some(worker) = self.workers.get(key) else { return };
        if self.config.extra_upgrades == 0 {
            self.redial(key, now);
            return;
        }
        let index = worker.upstream;
        let others = self
            .workers
            .iter()
            .filter(|(other, worker)| *other != key && worker.upstream == index && worker.counts());
        let others = u32::try_from(others.count()).unwrap_or(u32::MAX);
        if others >= self.config.workers
            && let Some(worker) = self.workers.get_mut(key)
        {
            worker.state = WorkerState::Spare;
            let kept = worker.kept.take();
            if let Some(kept) = kept {
                self.drop_upstream(kept.connection);
            }
            if self.draining.is_some() {
                self.stop(key);
            }
            return;
        }
        self.redial(key, now);
    }

    /// A worker's upstream connection was upgraded: another one, if there is one to spare, takes requests in its stead.
    fn lend_worker(&mut self, key: WorkerKey, now: Now) {
        let Some(index) = self.workers.get(key).map(|worker| worker.upstream) else { return };
        let is_spare =
            |worker: &super::Worker| worker.upstream == index && matches!(worker.state, WorkerState::Spare);
        let spare = self.workers.iter().find(|(_, worker)| is_spare(worker)).map(|(key, _)| key);
        if let Some(spare) = spare {
            self.dial(spare, now);
        }
    }
}

impl super::Worker {
    /// Whether this one takes requests, now or when it is through: not if it stands aside, or its connection was upgraded.
    fn counts(&self) -> bool {
        match &self.state {
            WorkerState::Spare | WorkerState::Stopped => false,
            WorkerState::Serving(serving) => !serving.messages.is_upgraded(),
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
