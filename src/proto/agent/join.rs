//! How a tunnel comes to be: dialling, the proxy on the way, and the handshake.

use alloc::string::String;
use alloc::vec::Vec;

use log::{Level, debug};

use super::endings::LinkEnd;
use super::serve::{Leg, Serving};
use super::{Agent, Said, Tunnel, TunnelOf, UpstreamOf, WorkerState};
use crate::config::{AgentConfig, Upstream};
use crate::proto::http1::head::{HeadScan, ResponseHead};
use crate::proto::http1::storage::Storage;
use crate::proto::notice::Count;
use crate::proto::seam::{Command, Shown, Step, Target};
use crate::proto::tables::key::{Key, TableKey, TunnelKey, UpstreamKey, WorkerKey};
use crate::proto::tables::timer::{Armed, Mono, Now};
use crate::proto::tunnel::{Hello, Light, Trouble, Welcome};
use crate::proto::websocket::{Nonce, Side};

const NOT_WANTED: &str = "it is not one of this hub's, has expired or was revoked";

impl Agent {
    /// Dials the hub, unless the process is ending.
    pub(super) fn dial(&mut self, key: WorkerKey, now: Now) {
        self.dial_for(key, self.config.websocket || self.websocket, now);
    }

    /// As [`Agent::dial`], for this kind of handshake.
    fn dial_for(&mut self, key: WorkerKey, websocket: bool, now: Now) {
        if self.draining.is_some() {
            self.stop(key);
            return;
        }
        if !self.hub_knows_light
            && let Some(worker) = self.workers.get_mut(key).filter(|worker| worker.is_light)
        {
            worker.state = WorkerState::Spare;
            return;
        }
        let limit = self.config.limits.connect;
        let of = TunnelOf::Worker { key, left: false };
        let tunnel = self.tunnels.insert(Tunnel { armed: Armed::default(), send_by: Mono::NEVER, of });
        let Some(worker) = self.workers.get_mut(key) else { return };
        let Some(tunnel) = tunnel else { return };
        let nonce = websocket.then(|| Nonce::new(&mut self.random));
        worker.state = WorkerState::Dialling { tunnel, until: now.mono.after(limit), nonce };
        self.commands.push(Command::Dial { key: tunnel.into(), target: Target::Hub });
        self.arm_worker(key);
    }

    /// The lookup of a name is over: connecting has a limit of its own, which it begins now.
    pub(super) fn begin_to_connect(&mut self, key: Key, now: Now) {
        let by = now.mono.after(self.config.limits.connect);
        if let Some(tunnel) = TunnelKey::from_key(key)
            && let Some(worker) = self.worker_of(tunnel).and_then(|key| self.workers.get_mut(key))
            && let WorkerState::Dialling { until, .. } = &mut worker.state
        {
            *until = by;
        }
        match UpstreamKey::from_key(key).and_then(|key| Some(self.upstreams.get(key)?.of)) {
            Some(UpstreamOf::Worker(worker)) => {
                if let Some(Serving { leg: Leg::Dialling { until, .. }, .. }) = self.serving(worker) {
                    *until = by;
                }
            }
            Some(UpstreamOf::Probe(index)) => self.probe_connects(index, by),
            Some(UpstreamOf::Nobody { .. }) | None => {}
        }
    }

    pub(super) fn tunnel_connected(&mut self, tunnel: TunnelKey) {
        let Some(key) = self.worker_of(tunnel) else { return };
        let Some(worker) = self.workers.get_mut(key) else { return };
        let (until, nonce) = match &worker.state {
            WorkerState::Dialling { until, nonce, .. } => {
                let (until, nonce) = (*until, *nonce);
                if let Some(proxy) = &self.config.proxy {
                    self.commands.push(Command::Send { key: tunnel.into(), bytes: proxy.request() });
                    let scan = HeadScan::of_upstream();
                    worker.state = WorkerState::Passing { tunnel, until, nonce, scan };
                    return;
                }
                (until, nonce)
            }
            // The proxy has connected, and TLS stands.
            WorkerState::Passing { until, nonce, .. } => (*until, *nonce),
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
        let websocket = nonce.map(Nonce::key);
        let light = match self.config.light_paths.as_slice() {
            [] => Light::None,
            paths if worker.is_light => Light::Only(paths.to_vec()),
            _ => Light::Asked,
        };
        let hello = Hello {
            token: &self.config.token,
            agent_id,
            worker: worker.number,
            withdrawn: trouble,
            websocket: websocket.as_deref(),
            light,
        };
        let mut bytes = Vec::new();
        hello.write(
            &self.config.hub_authority,
            &self.config.hub_path,
            self.config.hub_authorization.as_deref(),
            &mut bytes,
        );
        self.commands.push(Command::Send { key: tunnel.into(), bytes });
        worker.state =
            WorkerState::Joining { tunnel, until, nonce, scan: HeadScan::default(), said: Said::of(trouble) };
    }

    /// What the proxy answers to CONNECT (RFC 9110 section 9.3.6).
    pub(super) fn read_passage(
        &mut self,
        key: WorkerKey,
        tunnel: TunnelKey,
        shown: Shown<'_>,
        now: Now,
    ) -> Step {
        let Shown { input, end, .. } = shown;
        let Some(worker) = self.workers.get_mut(key) else { return Step::Wait };
        let WorkerState::Passing { scan, .. } = &mut worker.state else { return Step::Wait };
        let (status, length) = match ResponseHead::find_status(scan, input) {
            Ok(Some(found)) => found,
            Ok(None) if end.is_none() => return Step::Wait,
            Ok(None) | Err(_) => (0, 0),
        };
        match status {
            // An interim response: the answer follows. There is no protocol to switch to.
            100 | 102..200 => {
                *scan = scan.anew();
                Step::Skip(length)
            }
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
                let why = match status {
                    0 => LinkEnd::ProxyIsNone,
                    407 => LinkEnd::ProxyIsLocked,
                    _ => LinkEnd::ProxyRefused(status),
                };
                self.cannot_join(key, why, now);
                Step::Wait
            }
        }
    }

    pub(super) fn read_welcome(
        &mut self,
        key: WorkerKey,
        tunnel: TunnelKey,
        shown: Shown<'_>,
        now: Now,
    ) -> Step {
        let Shown { input, end, .. } = shown;
        let Some(worker) = self.workers.get_mut(key) else { return Step::Wait };
        let WorkerState::Joining { scan, nonce, said, .. } = &mut worker.state else { return Step::Wait };
        let (nonce, said) = (*nonce, *said);
        let (welcome, status, length) = match ResponseHead::find(scan, input, &mut Storage::new(), false) {
            Ok(Some(head)) => (Welcome::parse(&head, nonce), head.status, head.length),
            Ok(None) if end.is_none() => return Step::Wait,
            Ok(None) if input.is_empty() => {
                self.drop_tunnel(tunnel);
                self.cannot_join(key, LinkEnd::Unanswered, now);
                return Step::Wait;
            }
            Ok(None) | Err(_) => (Welcome::Other, 0, 0),
        };
        let why = detail(input.get(length..).unwrap_or_default());
        match welcome {
            Welcome::Joined { pace, knows_light } => {
                self.accepted = true;
                worker.backoff.set_pace(pace);
                let heard_by = worker.backoff.heard_by(now.mono);
                worker.state = WorkerState::Joined {
                    tunnel,
                    heard_by,
                    since: now.mono,
                    scan: HeadScan::on_tunnel(),
                    said,
                };
                let is_light = worker.is_light;
                if nonce.is_some() {
                    // Before anything is sent on it: what is sent from now on goes in frames.
                    let side = Side::Asking(self.random.next());
                    self.commands.push(Command::Frame { key: tunnel.into(), side });
                    self.note_websocket(now);
                }
                self.note_joined(key);
                self.arm_worker(key);
                self.check_readiness(key, now);
                self.note_light(key, is_light, knows_light, now);
                Step::Skip(length)
            }
            Welcome::Unauthorized if !self.accepted => {
                let hub = self.config.hub_name.clone();
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
                let line = format_args!("the hub still rejects the token; retrying ({why})");
                self.notices.say(Level::Warn, ("rejected", 0), now.mono, line);
                self.drop_tunnel(tunnel);
                self.rest_slowly(key, now);
                Step::Wait
            }
            Welcome::NoRoom if status == 403 && why.is_none() => {
                self.drop_tunnel(tunnel);
                self.cannot_join(key, LinkEnd::Forbidden, now);
                Step::Wait
            }
            Welcome::NoRoom => {
                let why = why.unwrap_or("it has no room, or there is no hub behind this address");
                let line = format_args!("the hub did not accept {} ({status}): {why}", self.describe(key));
                self.notices.say(Level::Warn, ("no room", 0), now.mono, line);
                self.drop_tunnel(tunnel);
                let index = self.workers.get(key).map(|worker| worker.upstream);
                self.rest(key, false, now);
                if let Some(index) = index.filter(|_| !self.is_light(key)) {
                    self.note_joined_partly(index);
                    self.note_full(index, now);
                }
                Step::Wait
            }
            Welcome::Other => {
                self.drop_tunnel(tunnel);
                let why = match status {
                    0 => LinkEnd::NoHub,
                    401 => LinkEnd::Locked,
                    301 | 302 | 307 | 308 => LinkEnd::Moved,
                    400 => why.map_or(LinkEnd::Misunderstood, LinkEnd::Malformed),
                    426 | 501 | 502 => LinkEnd::UpgradeUnknown(status),
                    _ => LinkEnd::Status(status),
                };
                self.cannot_join(key, why, now);
                Step::Wait
            }
        }
    }

    /// The hub cannot be dialled, or there is no consent to the handshake. After one that a reverse proxy may
    /// have refused, which passes no upgrade but WebSocket's, one of WebSocket follows at once: so nobody
    /// goes on in frames because of a hub that was away for a while.
    pub(super) fn cannot_join(&mut self, key: WorkerKey, why: LinkEnd<'_>, now: Now) {
        let Some(worker) = self.workers.get(key) else { return };
        let (nonce, is_asked) = match worker.state {
            WorkerState::Dialling { nonce, .. } | WorkerState::Passing { nonce, .. } => (nonce, false),
            WorkerState::Joining { nonce, .. } => (nonce, true),
            WorkerState::Resting { .. }
            | WorkerState::Joined { .. }
            | WorkerState::Serving(_)
            | WorkerState::Leaving { .. }
            | WorkerState::Finishing(_)
            | WorkerState::Discarding(_)
            | WorkerState::Spare
            | WorkerState::Stopped => return,
        };
        let tries_websocket = nonce.is_none() && is_asked && why.may_be_in_front();
        let AgentConfig { hub_name, proxy, .. } = &self.config;
        let by = proxy.as_ref().map_or(String::new(), |proxy| format!(" through the proxy {}", proxy.name));
        let (kind, how) =
            if is_asked && nonce.is_some() { (1, " by a WebSocket handshake") } else { (0, "") };
        let then = if tries_websocket { "retrying by WebSocket" } else { "retrying" };
        let line = format_args!("cannot join the hub at {hub_name}{by}{how}: {why}; {then}");
        self.notices.say(Level::Warn, ("unreachable", kind), now.mono, line);
        if !worker.is_light
            && let Some(joined) = self.told_joined.get_mut(usize::from(worker.upstream))
        {
            *joined = 0;
        }
        if tries_websocket {
            self.dial_for(key, true, now);
            return;
        }
        if nonce.is_some() {
            self.websocket = false;
        }
        self.rest(key, false, now);
    }

    /// A handshake of WebSocket came through. The log hears of it if nobody asked for one.
    fn note_websocket(&mut self, now: Now) {
        if self.config.websocket || core::mem::replace(&mut self.websocket, true) {
            return;
        }
        let hub = self.config.hub_name.clone();
        let line = format_args!(
            "what is before the hub at {hub} passes WebSockets only: tunnels go in frames of WebSocket; this costs more than \
             a tunnel by Upgrade: slime/1"
        );
        self.notices.say(Level::Info, ("websocket", 0), now.mono, line);
    }

    /// The hub has said whether it knows light paths. One that does not would give such a tunnel any request.
    fn note_light(&mut self, key: WorkerKey, is_light: bool, knows_light: bool, now: Now) {
        if self.config.light_paths.is_empty() {
            return;
        }
        self.hub_knows_light = knows_light;
        if is_light && !knows_light {
            self.withdraw(key, Trouble::new("this tunnel is for light paths"), now);
        } else if knows_light {
            let waits =
                |worker: &super::Worker| worker.is_light && matches!(worker.state, WorkerState::Spare);
            let waiting: Vec<WorkerKey> =
                self.workers.iter().filter(|(_, worker)| waits(worker)).map(|(key, _)| key).collect();
            for key in waiting {
                self.dial(key, now);
            }
        }
    }

    /// Whether this one takes requests for light paths alone.
    pub(super) fn is_light(&self, key: WorkerKey) -> bool {
        self.workers.get(key).is_some_and(|worker| worker.is_light)
    }

    /// A worker has joined. The log hears of it when all of its agent have.
    pub(super) fn note_joined(&mut self, key: WorkerKey) {
        debug!("{} joined the hub", self.describe(key));
        let worker = self.workers.get(key).filter(|worker| !worker.is_light);
        let Some(index) = worker.map(|worker| worker.upstream) else { return };
        let (joined, all) = (self.joined(index), self.config.workers as usize);
        if joined >= all {
            self.tell_joined(index, all);
        }
    }

    /// The hub takes no more workers. The log hears with how many the agent has joined, if it has not heard
    /// of that.
    fn note_joined_partly(&mut self, index: u16) {
        let joined = self.joined(index);
        if joined > 0 && self.told_joined.get(usize::from(index)) == Some(&0) {
            self.tell_joined(index, joined);
        }
    }

    fn tell_joined(&mut self, index: u16, joined: usize) {
        let Some(told) = self.told_joined.get_mut(usize::from(index)) else { return };
        if core::mem::replace(told, joined) == joined {
            return;
        }
        let AgentConfig { hub_name, upstreams, workers, .. } = &self.config;
        let Some(Upstream { agent_id, name, .. }) = upstreams.get(usize::from(index)) else { return };
        let of = if joined < *workers as usize { format!("{joined} of ") } else { String::new() };
        let workers = Count(*workers as usize, "worker");
        let line =
            format_args!("joined the hub at {hub_name} as {agent_id}: {of}{workers} for upstream {name}");
        let ends = [("unreachable", 0), ("unreachable", 1), ("rejected", 0)];
        self.notices.change(Level::Info, &ends, line);
    }

    /// How many workers of this upstream are at the hub, busy ones included.
    fn joined(&self, index: u16) -> usize {
        let is_there =
            |worker: &super::Worker| worker.upstream == index && !worker.is_light && worker.is_at_hub();
        self.workers.iter().filter(|(_, worker)| is_there(worker)).count()
    }

    /// A worker has lost its tunnel. The log hears of the first one of its agent.
    pub(super) fn note_apart(&mut self, key: WorkerKey, level: Level, line: core::fmt::Arguments<'_>) {
        let worker = self.describe(key);
        let Some(index) = self.workers.get(key).map(|worker| worker.upstream) else { return };
        let is_light = self.is_light(key);
        let Some(told) = self.told_joined.get_mut(usize::from(index)) else { return };
        if !is_light && core::mem::replace(told, 0) > 0 {
            self.notices.change(level, &[], format_args!("{worker}: {line}"));
        } else {
            debug!("{worker}: {line}");
        }
    }
}

impl super::Worker {
    /// Whether it has joined the hub, be it busy or not.
    pub(super) fn is_at_hub(&self) -> bool {
        match &self.state {
            WorkerState::Joined { .. }
            | WorkerState::Serving(_)
            | WorkerState::Leaving { .. }
            | WorkerState::Finishing(_)
            | WorkerState::Discarding(_) => true,
            WorkerState::Resting { .. }
            | WorkerState::Dialling { .. }
            | WorkerState::Passing { .. }
            | WorkerState::Joining { .. }
            | WorkerState::Spare
            | WorkerState::Stopped => false,
        }
    }
}

/// What the hub says in words: the `detail` of its problem document (RFC 9457), if that came along with the
/// head. None of ours has an escaped character.
fn detail(body: &[u8]) -> Option<&str> {
    const LONGEST: usize = 300;
    let body = core::str::from_utf8(body).ok()?;
    let (_, text) = body.split_once("\"detail\":\"")?;
    text.split('"').next().filter(|detail| (1..=LONGEST).contains(&detail.len()) && !detail.contains('\\'))
}
