//! A worker's link to the hub: dialling, the handshake, the idle tunnel, withdrawing, and when to try again.

use core::time::Duration;

use log::{Level, debug};

use super::{Agent, Random, Tunnel, TunnelOf, WorkerState};
use crate::config::{AgentConfig, Upstream};
use crate::proto::http1::head::{HeadScan, RequestHead, ResponseHead, Storage};
use crate::proto::key::{Key, TableKey, TunnelKey, WorkerKey};
use crate::proto::seam::{Command, End, Step, Target};
use crate::proto::timer::{Armed, Mono, Now, TimerTable};
use crate::proto::tunnel::{
    Ask, CloseReason, Hello, PONG, TOKEN_EXPIRED, TOKEN_REVOKED, Welcome, write_refusal,
};

/// The first window of the back-off.
const SHORTEST: u64 = 200;
/// The window stays here while the outage is young.
const PATIENT: u64 = 2_000;
/// The last window.
const LONGEST: u64 = 30_000;
/// An outage is young for this long.
const YOUNG: Duration = Duration::from_secs(15);
/// A tunnel that lived this long was a success, though it carried nothing.
const SETTLED: Duration = Duration::from_secs(2);
/// Signs of life that the hub may owe, and what a loaded machine takes.
const SILENCE: f64 = 4.5;

/// What is said about a 401 that is not the hub's.
const LOCKED: &str =
    "a reverse proxy before it answered 401; name a user and a password, as --hub http://user:password@host";

/// What is said about a redirection.
const MOVED: &str = "what answers there points to another address; should --hub begin with https://?";

/// When to dial again: full jitter over a window that doubles (Brooker, "Exponential backoff and jitter", 2015).
#[derive(Default)]
pub(super) struct Backoff {
    /// The first failure since the last success.
    since: Option<Mono>,
    /// In milliseconds; 0 before the first failure.
    window: u64,
    /// How often the hub is expected to be heard of, once it has said so.
    pub(super) pace: Duration,
}

impl Backoff {
    pub(super) fn succeed(&mut self) {
        self.since = None;
        self.window = 0;
    }

    /// By when the hub must be heard of on an idle tunnel.
    pub(super) fn heard_by(&self, now: Mono) -> Mono {
        now.after_coarse(self.pace.mul_f64(SILENCE))
    }

    fn fail(&mut self, random: &mut Random, now: Mono) -> Mono {
        let since = *self.since.get_or_insert(now);
        let most = if now.since(since) < YOUNG { PATIENT } else { LONGEST };
        self.window = (self.window * 2).clamp(SHORTEST, most);
        Mono(now.0 + random.below(self.window))
    }

    /// For those who are not wanted: the slowest rate, never less than half of it.
    fn fail_slowly(&mut self, random: &mut Random, now: Mono) -> Mono {
        self.since.get_or_insert(now);
        self.window = LONGEST;
        Mono(now.0 + LONGEST / 2 + random.below(LONGEST / 2))
    }
}

impl Agent {
    pub(super) fn expire_worker(&mut self, key: Key, at: Mono, now: Now) {
        let Some(key) = WorkerKey::from_key(key) else { return };
        let Some(worker) = self.workers.get_mut(key) else { return };
        if !TimerTable::disarm(&mut worker.armed, at) {
            return;
        }
        match &worker.state {
            WorkerState::Resting { until } if *until <= now.mono => self.dial(key, now),
            WorkerState::Dialling { tunnel, until }
            | WorkerState::Passing { tunnel, until, .. }
            | WorkerState::Joining { tunnel, until, .. }
                if *until <= now.mono =>
            {
                let tunnel = *tunnel;
                self.drop_tunnel(tunnel);
                self.tunnel_lost(key, "the hub did not answer in time", now);
            }
            WorkerState::Joined { tunnel, heard_by, .. } if *heard_by <= now.mono => {
                let tunnel = *tunnel;
                self.drop_tunnel(tunnel);
                self.tunnel_lost(key, "the hub gave no sign of life", now);
            }
            WorkerState::Leaving { tunnel, until } if *until <= now.mono => {
                let tunnel = *tunnel;
                self.drop_tunnel(tunnel);
                self.left(key, now);
            }
            WorkerState::Discarding(discarding) if discarding.until <= now.mono => {
                let tunnel = discarding.tunnel;
                self.drop_tunnel(tunnel);
                self.next(key, now);
            }
            WorkerState::Serving(_) => self.check_serving(key, now),
            WorkerState::Discarding(_) => {}
            WorkerState::Resting { .. }
            | WorkerState::Dialling { .. }
            | WorkerState::Passing { .. }
            | WorkerState::Joining { .. }
            | WorkerState::Joined { .. }
            | WorkerState::Leaving { .. }
            | WorkerState::Finishing(_)
            | WorkerState::Spare
            | WorkerState::Stopped => {}
        }
        self.arm_worker(key);
    }

    /// Dials the hub, unless the process is ending.
    pub(super) fn dial(&mut self, key: WorkerKey, now: Now) {
        if self.draining.is_some() {
            self.stop(key);
            return;
        }
        let limit = self.config.limits.connect;
        let of = TunnelOf::Worker(key);
        let tunnel =
            self.tunnels.insert(Tunnel { armed: Armed::default(), send_by: Mono::NEVER, left: false, of });
        let Some(worker) = self.workers.get_mut(key) else { return };
        let Some(tunnel) = tunnel else { return };
        worker.state = WorkerState::Dialling { tunnel, until: now.mono.after(limit) };
        self.commands.push(Command::Dial { key: tunnel.into(), target: Target::Hub });
        self.arm_worker(key);
    }

    pub(super) fn tunnel_connected(&mut self, tunnel: TunnelKey) {
        let Some(key) = self.worker_of(tunnel) else { return };
        let Some(worker) = self.workers.get_mut(key) else { return };
        let until = match &worker.state {
            WorkerState::Dialling { until, .. } => {
                if let Some(proxy) = &self.config.proxy {
                    let until = *until;
                    self.commands.push(Command::Send { key: tunnel.into(), bytes: proxy.request() });
                    worker.state = WorkerState::Passing { tunnel, until, scan: HeadScan::default() };
                    return;
                }
                *until
            }
            // The proxy has connected, and TLS stands.
            WorkerState::Passing { until, .. } => *until,
            WorkerState::Resting { .. }
            | WorkerState::Joining { .. }
            | WorkerState::Joined { .. }
            | WorkerState::Serving(_)
            | WorkerState::Leaving { .. }
            | WorkerState::Finishing(_)
            | WorkerState::Discarding(_)
            | WorkerState::Spare
            | WorkerState::Stopped => return,
        };
        let trouble = self.health.get(usize::from(worker.upstream)).and_then(|health| health.trouble());
        let agent_id =
            self.config.upstreams.get(usize::from(worker.upstream)).map_or("", |upstream| &upstream.agent_id);
        let hello = Hello { token: &self.config.token, agent_id, worker: worker.number, withdrawn: trouble };
        let mut bytes = Vec::new();
        hello.write(
            &self.config.hub_authority,
            &self.config.hub_path,
            self.config.hub_authorization.as_deref(),
            &mut bytes,
        );
        self.commands.push(Command::Send { key: tunnel.into(), bytes });
        worker.state =
            WorkerState::Joining { tunnel, until, scan: HeadScan::default(), ready: trouble.is_none() };
    }

    pub(super) fn wants_tunnel_input(&self, tunnel: TunnelKey) -> bool {
        let Some(worker) = self.worker_of(tunnel).and_then(|key| self.workers.get(key)) else { return false };
        match &worker.state {
            WorkerState::Passing { .. }
            | WorkerState::Joining { .. }
            | WorkerState::Joined { .. }
            | WorkerState::Leaving { .. } => true,
            WorkerState::Serving(serving) => serving.wants_request(),
            WorkerState::Discarding(_) => true,
            WorkerState::Resting { .. }
            | WorkerState::Dialling { .. }
            | WorkerState::Finishing(_)
            | WorkerState::Spare
            | WorkerState::Stopped => false,
        }
    }

    pub(super) fn handle_tunnel_input(
        &mut self,
        tunnel: TunnelKey,
        input: &[u8],
        end: Option<End>,
        out: &mut Vec<u8>,
        now: Now,
    ) -> Step {
        let Some(key) = self.worker_of(tunnel) else { return Step::Wait };
        let Some(worker) = self.workers.get(key) else { return Step::Wait };
        match &worker.state {
            WorkerState::Passing { .. } => self.read_passage(key, tunnel, input, end, now),
            WorkerState::Joining { .. } => self.read_welcome(key, tunnel, input, end, now),
            WorkerState::Joined { .. } => self.read_ask(key, tunnel, input, end, out, now),
            WorkerState::Serving(_) => self.read_request(key, input, end, out, now),
            WorkerState::Discarding(_) => self.discard(key, input, end, out, now),
            WorkerState::Leaving { .. } if end.is_some() => {
                self.drop_tunnel(tunnel);
                self.left(key, now);
                Step::Wait
            }
            // The worker has withdrawn: nothing is started any more, and the hub takes it for refused.
            WorkerState::Leaving { .. } if !input.is_empty() => Step::Skip(input.len()),
            WorkerState::Leaving { .. }
            | WorkerState::Resting { .. }
            | WorkerState::Dialling { .. }
            | WorkerState::Finishing(_)
            | WorkerState::Spare
            | WorkerState::Stopped => Step::Wait,
        }
    }

    /// What the proxy answers to CONNECT (RFC 9110 section 9.3.6).
    fn read_passage(
        &mut self,
        key: WorkerKey,
        tunnel: TunnelKey,
        input: &[u8],
        end: Option<End>,
        now: Now,
    ) -> Step {
        let Some(worker) = self.workers.get_mut(key) else { return Step::Wait };
        let WorkerState::Passing { scan, .. } = &mut worker.state else { return Step::Wait };
        let (status, length) = match scan.advance(input) {
            Ok(Some(length)) => {
                let mut storage = Storage::new();
                let head = ResponseHead::parse(input.get(..length).unwrap_or(input), &mut storage, true);
                (head.map_or(0, |head| head.status), length)
            }
            Ok(None) if end.is_none() => return Step::Wait,
            Ok(None) | Err(_) => (0, 0),
        };
        match status {
            200..300 => {
                if self.config.proxy.as_ref().is_some_and(|proxy| proxy.then_tls) {
                    self.commands.push(Command::Secure { key: tunnel.into(), target: Target::Hub });
                } else {
                    self.tunnel_connected(tunnel);
                }
                Step::Skip(length)
            }
            _ => {
                self.drop_tunnel(tunnel);
                match status {
                    0 => self.tunnel_lost(key, "what answers there is not an HTTP proxy", now),
                    407 => self.tunnel_lost(key, "it wants a user and a password, or others", now),
                    _ => {
                        self.tunnel_lost(key, &format!("it cannot or will not connect: status {status}"), now)
                    }
                }
                Step::Wait
            }
        }
    }

    fn read_welcome(
        &mut self,
        key: WorkerKey,
        tunnel: TunnelKey,
        input: &[u8],
        end: Option<End>,
        now: Now,
    ) -> Step {
        let Some(worker) = self.workers.get_mut(key) else { return Step::Wait };
        let WorkerState::Joining { scan, ready, .. } = &mut worker.state else { return Step::Wait };
        let ready = *ready;
        let (welcome, status, length) = match scan.advance(input) {
            Ok(Some(length)) => {
                let mut storage = Storage::new();
                match ResponseHead::parse(input.get(..length).unwrap_or(input), &mut storage, false) {
                    Ok(head) => (Welcome::parse(&head), head.status, length),
                    Err(_) => (Welcome::Other, 0, length),
                }
            }
            Ok(None) if end.is_none() => return Step::Wait,
            Ok(None) if input.is_empty() => {
                self.drop_tunnel(tunnel);
                self.tunnel_lost(key, "the connection was closed without an answer", now);
                return Step::Wait;
            }
            Ok(None) | Err(_) => (Welcome::Other, 0, 0),
        };
        let why = detail(input.get(length..).unwrap_or_default());
        match welcome {
            Welcome::Joined(pace) => {
                self.accepted = true;
                worker.backoff.pace = pace;
                let heard_by = worker.backoff.heard_by(now.mono);
                worker.state = WorkerState::Joined {
                    tunnel,
                    heard_by,
                    since: now.mono,
                    scan: HeadScan::on_tunnel(),
                    ready,
                };
                self.note_joined(key, now);
                self.arm_worker(key);
                self.check_readiness(key, now);
                Step::Skip(length)
            }
            Welcome::Unauthorized if !self.accepted => {
                let hub = self.config.hub_authority.clone();
                let line = format_args!("the hub at {hub} rejects the token: {}", why.unwrap_or(NOT_WANTED));
                // All workers may hear of it in one turn.
                self.notices.say(Level::Error, ("fatal", 0), now.mono, line);
                self.drop_tunnel(tunnel);
                self.stop(key);
                self.commands.push(Command::Exit(1));
                Step::Wait
            }
            Welcome::Unauthorized => {
                let why = why.unwrap_or(NOT_WANTED);
                let line =
                    format_args!("the hub rejects the token, which is shown to it again and again: {why}");
                self.notices.say(Level::Warn, ("rejected", 0), now.mono, line);
                self.drop_tunnel(tunnel);
                self.rest_slowly(key, now);
                Step::Wait
            }
            Welcome::NoRoom => {
                let why = why.unwrap_or("there is no room for it, or no hub behind what answers there");
                let line = format_args!("the hub does not take {} ({status}): {why}", self.describe(key));
                self.notices.say(Level::Warn, ("no room", 0), now.mono, line);
                self.drop_tunnel(tunnel);
                self.rest(key, false, now);
                Step::Wait
            }
            Welcome::Other => {
                self.drop_tunnel(tunnel);
                match status {
                    0 => self.tunnel_lost(key, "what answers there is not a slime hub", now),
                    401 => self.tunnel_lost(key, LOCKED, now),
                    301 | 302 | 307 | 308 => self.tunnel_lost(key, MOVED, now),
                    _ => {
                        let why = format!(
                            "what answers there is not a slime hub, or not on this path: status {status}"
                        );
                        self.tunnel_lost(key, &why, now);
                    }
                }
                Step::Wait
            }
        }
    }

    /// A request head on an idle tunnel: the hub's own, or an application's.
    fn read_ask(
        &mut self,
        key: WorkerKey,
        tunnel: TunnelKey,
        input: &[u8],
        end: Option<End>,
        out: &mut Vec<u8>,
        now: Now,
    ) -> Step {
        let Some(worker) = self.workers.get_mut(key) else { return Step::Wait };
        let silent_until = worker.backoff.heard_by(now.mono);
        let WorkerState::Joined { scan, heard_by, .. } = &mut worker.state else { return Step::Wait };
        let length = match scan.advance(input) {
            Ok(Some(length)) => length,
            Ok(None) => {
                if end.is_some() {
                    self.drop_tunnel(tunnel);
                    self.tunnel_lost(key, "the hub closed the connection", now);
                }
                return Step::Wait;
            }
            Err(violation) => {
                self.drop_tunnel(tunnel);
                self.tunnel_lost(key, violation.detail, now);
                return Step::Wait;
            }
        };
        *scan = scan.anew();
        *heard_by = silent_until;
        let mut storage = Storage::on_tunnel();
        let head = match RequestHead::parse(input.get(..length).unwrap_or(input), &mut storage) {
            Ok(head) => head,
            Err(violation) => {
                self.drop_tunnel(tunnel);
                self.tunnel_lost(key, violation.detail, now);
                return Step::Wait;
            }
        };
        match Ask::of(&head) {
            Ask::Ping => self.commands.push(Command::Send { key: tunnel.into(), bytes: PONG.to_vec() }),
            Ask::Close(reason) => {
                self.drop_tunnel(tunnel);
                self.dismissed(key, reason, now);
            }
            // The application left before its request was looked at: nothing would tell of it again.
            Ask::Serve if end.is_some() || self.tunnels.get(tunnel).is_none_or(|tunnel| tunnel.left) => {
                debug!("{} {}: the application left", head.method.as_str(), head.path());
                self.drop_tunnel(tunnel);
                self.next(key, now);
            }
            Ask::Serve => self.serve(key, tunnel, &head, out, now),
        }
        Step::Skip(length)
    }

    pub(super) fn tunnel_hung_up(&mut self, tunnel: TunnelKey, now: Now) {
        if let Some(tunnel) = self.tunnels.get_mut(tunnel) {
            tunnel.left = true;
        }
        let Some(key) = self.worker_of(tunnel) else { return };
        let Some(worker) = self.workers.get(key) else { return };
        // Elsewhere the end of the input tells; while a request is served, the input may not be wanted.
        if let WorkerState::Serving(serving) = &worker.state
            && !serving.messages.is_upgraded()
        {
            self.drop_tunnel(tunnel);
            self.tunnel_lost(key, "the hub closed the connection", now);
        }
    }

    /// A tunnel is gone, and out of the tables. What was served on it is cancelled.
    pub(super) fn tunnel_lost(&mut self, key: WorkerKey, why: &str, now: Now) {
        let Some(worker) = self.workers.get(key) else { return };
        match &worker.state {
            WorkerState::Serving(_) => self.cancel(key, now),
            WorkerState::Discarding(_) => self.next(key, now),
            WorkerState::Joined { since, .. } => {
                let settled = now.mono.since(*since) >= SETTLED;
                self.note_apart(
                    key,
                    Level::Warn,
                    "lost",
                    format_args!("lost the hub: {why}; dialling again"),
                    now,
                );
                self.rest(key, settled, now);
            }
            WorkerState::Dialling { .. } | WorkerState::Passing { .. } | WorkerState::Joining { .. } => {
                let hub = self.config.hub_authority.clone();
                let by = self
                    .config
                    .proxy
                    .as_ref()
                    .map_or(String::new(), |proxy| format!(" by the proxy {}", proxy.name));
                let line = format_args!("cannot join the hub at {hub}{by}: {why}; trying on");
                self.notices.say(Level::Warn, ("unreachable", 0), now.mono, line);
                if let Some(joined) = self.told_joined.get_mut(usize::from(worker.upstream)) {
                    *joined = false;
                }
                self.rest(key, false, now);
            }
            WorkerState::Leaving { .. } => self.left(key, now),
            WorkerState::Resting { .. }
            | WorkerState::Finishing(_)
            | WorkerState::Spare
            | WorkerState::Stopped => {}
        }
    }

    /// The hub closed an idle tunnel, with a reason.
    fn dismissed(&mut self, key: WorkerKey, reason: CloseReason, now: Now) {
        let (level, what) = match reason {
            CloseReason::Replaced => (
                Level::Warn,
                "another agent with this id took the place of a worker: give each its own --agent-id, or none",
            ),
            CloseReason::Expired => (Level::Warn, TOKEN_EXPIRED),
            CloseReason::Revoked => (Level::Warn, TOKEN_REVOKED),
            CloseReason::Draining => (Level::Info, "the hub is ending; dialling until one is there again"),
        };
        self.note_apart(key, level, reason.as_str(), format_args!("{what}"), now);
        match reason {
            CloseReason::Replaced | CloseReason::Expired | CloseReason::Revoked => self.rest_slowly(key, now),
            CloseReason::Draining => self.rest(key, true, now),
        }
    }

    /// Waits for the next attempt, longer after each failure.
    fn rest(&mut self, key: WorkerKey, was_success: bool, now: Now) {
        if self.draining.is_some() {
            self.stop(key);
            return;
        }
        let Some(worker) = self.workers.get_mut(key) else { return };
        if was_success {
            worker.backoff.succeed();
        }
        let until = worker.backoff.fail(&mut self.random, now.mono);
        worker.state = WorkerState::Resting { until };
        self.arm_worker(key);
    }

    fn rest_slowly(&mut self, key: WorkerKey, now: Now) {
        let Some(worker) = self.workers.get_mut(key) else { return };
        let until = worker.backoff.fail_slowly(&mut self.random, now.mono);
        worker.state = WorkerState::Resting { until };
        if self.draining.is_some() {
            self.stop(key);
        }
        self.arm_worker(key);
    }

    /// A tunnel that carried a request ended: the next one is dialled at once.
    pub(super) fn redial(&mut self, key: WorkerKey, now: Now) {
        if let Some(worker) = self.workers.get_mut(key) {
            worker.backoff.succeed();
        }
        self.dial(key, now);
    }

    /// The upstream's state changed: idle tunnels go, and come back saying so.
    pub(super) fn join_anew(&mut self, upstream: u16, why: &str, now: Now) {
        let of_it: Vec<WorkerKey> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.upstream == upstream)
            .map(|(key, _)| key)
            .collect();
        for key in of_it {
            let Some(worker) = self.workers.get(key) else { continue };
            match &worker.state {
                WorkerState::Resting { until: Mono::NEVER } => self.dial(key, now),
                WorkerState::Joined { ready: true, .. } => self.withdraw(key, why, now),
                WorkerState::Joined { ready: false, tunnel, .. } => {
                    let tunnel = *tunnel;
                    self.drop_tunnel(tunnel);
                    self.redial(key, now);
                }
                // These look at the upstream's health when they are through.
                WorkerState::Resting { .. }
                | WorkerState::Dialling { .. }
                | WorkerState::Passing { .. }
                | WorkerState::Joining { .. }
                | WorkerState::Serving(_)
                | WorkerState::Leaving { .. }
                | WorkerState::Finishing(_)
                | WorkerState::Discarding(_)
                | WorkerState::Spare
                | WorkerState::Stopped => {}
            }
        }
    }

    /// A worker has come to rest on its tunnel. If what it told the hub of its upstream is no longer true, it joins anew.
    pub(super) fn check_readiness(&mut self, key: WorkerKey, now: Now) {
        let Some(worker) = self.workers.get(key) else { return };
        let trouble = self.health_of(worker.upstream).and_then(|health| health.trouble());
        let WorkerState::Joined { ready, tunnel, .. } = worker.state else { return };
        if self.draining.is_some() {
            self.withdraw(key, "draining", now);
        } else if ready && let Some(why) = trouble {
            self.withdraw(key, why, now);
        } else if !ready && trouble.is_none() {
            self.drop_tunnel(tunnel);
            self.redial(key, now);
        }
    }

    /// Takes a worker out of the hub's pool, without a race: it starts nothing more, and the hub closes the tunnel.
    pub(super) fn withdraw(&mut self, key: WorkerKey, why: &str, now: Now) {
        let limit = self.config.limits.linger;
        let Some(worker) = self.workers.get_mut(key) else { return };
        match worker.state {
            WorkerState::Joined { tunnel, ready: true, .. } => {
                worker.state = WorkerState::Leaving { tunnel, until: now.mono.after(limit) };
                self.commands.push(Command::Send { key: tunnel.into(), bytes: write_refusal(why, true) });
                self.arm_worker(key);
            }
            WorkerState::Joined { tunnel, .. }
            | WorkerState::Joining { tunnel, .. }
            | WorkerState::Passing { tunnel, .. }
            | WorkerState::Dialling { tunnel, .. } => {
                self.drop_tunnel(tunnel);
                self.stop(key);
            }
            WorkerState::Resting { .. } | WorkerState::Spare => self.stop(key),
            // These end when they are through: they ask whether the process is ending before they dial.
            WorkerState::Serving(_)
            | WorkerState::Leaving { .. }
            | WorkerState::Finishing(_)
            | WorkerState::Discarding(_)
            | WorkerState::Stopped => {}
        }
    }

    fn left(&mut self, key: WorkerKey, now: Now) {
        self.redial(key, now);
    }

    /// A worker does nothing more.
    pub(super) fn stop(&mut self, key: WorkerKey) {
        let Some(worker) = self.workers.get_mut(key) else { return };
        worker.state = WorkerState::Stopped;
        if let Some(kept) = worker.kept.take() {
            self.drop_upstream(kept.connection);
        }
    }

    /// A worker has joined. The log hears of the first one of its agent.
    fn note_joined(&mut self, key: WorkerKey, now: Now) {
        debug!("{} joined the hub", self.describe(key));
        let Some(index) = self.workers.get(key).map(|worker| worker.upstream) else { return };
        let Some(told) = self.told_joined.get_mut(usize::from(index)) else { return };
        if core::mem::replace(told, true) {
            return;
        }
        let AgentConfig { hub_authority, upstreams, workers, .. } = &self.config;
        let Some(Upstream { agent_id, authority, .. }) = upstreams.get(usize::from(index)) else { return };
        let plural = if *workers == 1 { "worker" } else { "workers" };
        let line = format_args!(
            "joined the hub at {hub_authority} as {agent_id}: {workers} {plural} for upstream {authority}"
        );
        self.notices.say(Level::Info, ("joined", index.into()), now.mono, line);
    }

    /// A worker has lost its tunnel. The log hears of the first one of its agent.
    fn note_apart(
        &mut self,
        key: WorkerKey,
        level: Level,
        kind: &'static str,
        line: core::fmt::Arguments<'_>,
        now: Now,
    ) {
        let worker = self.describe(key);
        let Some(index) = self.workers.get(key).map(|worker| worker.upstream) else { return };
        let Some(told) = self.told_joined.get_mut(usize::from(index)) else { return };
        if core::mem::replace(told, false) {
            self.notices.say(level, (kind, index.into()), now.mono, format_args!("{worker}: {line}"));
        } else {
            debug!("{worker}: {line}");
        }
    }

    /// A worker in words, for the log.
    fn describe(&self, key: WorkerKey) -> String {
        let Some(worker) = self.workers.get(key) else { return String::new() };
        format!("worker {} of upstream {}", worker.number, self.authority(worker.upstream))
    }
}

const NOT_WANTED: &str = "it is not one of this hub's, has expired or was revoked";

/// What the hub says in words: the `detail` of its problem document (RFC 9457), if that came along with the head. None of ours has an
/// escaped character.
fn detail(body: &[u8]) -> Option<&str> {
    const LONGEST: usize = 300;
    let body = core::str::from_utf8(body).ok()?;
    let (_, text) = body.split_once("\"detail\":\"")?;
    text.split('"').next().filter(|detail| (1..=LONGEST).contains(&detail.len()) && !detail.contains('\\'))
}
