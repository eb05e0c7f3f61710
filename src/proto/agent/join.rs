//! How a link is opened: the connection, the proxy on the way, and the handshake.

use alloc::string::String;
use alloc::vec::Vec;

use log::{Level, debug};

use super::Agent;
use super::endings::LinkEnd;
use super::link::{Attempt, LIGHT_ONLY};
use super::worker::{Closed, Idle, Link, Said, Stage, Worker};
use crate::config::{AgentConfig, Upstream};
use crate::proto::http1::head::{HeadScan, ResponseHead};
use crate::proto::http1::storage::Storage;
use crate::proto::notice::Count;
use crate::proto::seam::{Command, Shown, Step, Target};
use crate::proto::tables::key::{TunnelKey, WorkerKey};
use crate::proto::tables::timer::Now;
use crate::proto::tunnel::{Hello, Light, Welcome};
use crate::proto::websocket::{Nonce, Side};

const NOT_WANTED: &str = "it is not one of this hub's, has expired or was revoked";

impl Agent {
    /// The connection to the hub stands, or to the proxy on the way, or through it.
    pub(super) fn tunnel_connected(&mut self, tunnel: TunnelKey) {
        let Some(key) = self.connections.worker_of(tunnel) else { return };
        let Some(worker) = self.workers.get_mut(key) else { return };
        let Some(opening) = worker.opening_mut() else { return };
        match (&opening.stage, &self.config.proxy) {
            (Stage::Dialling, Some(proxy)) => {
                self.connections.send(tunnel, proxy.request());
                opening.stage = Stage::Passing(HeadScan::of_upstream());
            }
            // Without a proxy, or through one that has connected; and TLS stands.
            (Stage::Dialling | Stage::Passing(_), _) => self.say_hello(key),
            (Stage::Joining { .. }, _) => {}
        }
    }

    /// Begins the handshake.
    fn say_hello(&mut self, key: WorkerKey) {
        let Some(worker) = self.workers.get(key) else { return };
        let trouble = self.trouble_of(worker);
        let Some(worker) = self.workers.get_mut(key) else { return };
        let (index, number, is_light) = (worker.upstream(), worker.number(), worker.is_light());
        let Some(opening) = worker.opening_mut() else { return };
        let Some(Upstream { agent_id, info, .. }) = self.config.upstreams.get(usize::from(index)) else {
            return;
        };
        let websocket = opening.nonce.map(Nonce::key);
        let light = match self.config.light_paths.as_slice() {
            [] => Light::None,
            paths if is_light => Light::Only(paths.to_vec()),
            _ => Light::Asked,
        };
        let hello = Hello {
            token: &self.config.token,
            agent_id,
            worker: number,
            withdrawn: trouble,
            websocket: websocket.as_deref(),
            light,
            info: info.clone(),
        };
        let mut bytes = Vec::new();
        hello.write(
            &self.config.hub_authority,
            &self.config.hub_path,
            self.config.hub_authorization.as_deref(),
            &mut bytes,
        );
        self.connections.send(opening.tunnel, bytes);
        opening.stage = Stage::Joining { scan: HeadScan::default(), said: Said::of(trouble) };
    }

    /// Reads what arrives on a link that is being opened.
    pub(super) fn read_opening(&mut self, key: WorkerKey, shown: Shown<'_>, now: Now) -> Step {
        let Some(opening) = self.workers.get_mut(key).and_then(Worker::opening_mut) else {
            return Step::Wait;
        };
        match opening.stage {
            Stage::Dialling => Step::Wait,
            Stage::Passing(_) => self.read_passage(key, shown, now),
            Stage::Joining { .. } => self.read_welcome(key, shown, now),
        }
    }

    /// Reads the proxy's answer to CONNECT (RFC 9110 section 9.3.6).
    fn read_passage(&mut self, key: WorkerKey, shown: Shown<'_>, now: Now) -> Step {
        let Shown { input, end, .. } = shown;
        let Some(opening) = self.workers.get_mut(key).and_then(Worker::opening_mut) else {
            return Step::Wait;
        };
        let tunnel = opening.tunnel;
        let Stage::Passing(scan) = &mut opening.stage else { return Step::Wait };
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
                    self.connections.tell(Command::Secure { key: tunnel.into(), target: Target::Hub });
                } else {
                    self.tunnel_connected(tunnel);
                }
                Step::Skip(length)
            }
            _ => {
                self.connections.drop_tunnel(tunnel);
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

    /// Reads the hub's answer to the handshake.
    fn read_welcome(&mut self, key: WorkerKey, shown: Shown<'_>, now: Now) -> Step {
        let Shown { input, end, .. } = shown;
        let Some(worker) = self.workers.get_mut(key) else { return Step::Wait };
        let is_light = worker.is_light();
        let Some(opening) = worker.opening_mut() else { return Step::Wait };
        let (tunnel, nonce) = (opening.tunnel, opening.nonce);
        let Stage::Joining { scan, said } = &mut opening.stage else { return Step::Wait };
        let said = *said;
        let (welcome, status, length) = match ResponseHead::find(scan, input, &mut Storage::new(), false) {
            Ok(Some(head)) => (Welcome::parse(&head, nonce), head.status, head.length),
            Ok(None) if end.is_none() => return Step::Wait,
            Ok(None) if input.is_empty() => {
                self.connections.drop_tunnel(tunnel);
                self.cannot_join(key, LinkEnd::Unanswered, now);
                return Step::Wait;
            }
            Ok(None) | Err(_) => (Welcome::Other, 0, 0),
        };
        let why = detail(input.get(length..).unwrap_or_default());
        match welcome {
            Welcome::Joined { pace, knows_light } => {
                self.hub.has_accepted = true;
                worker.backoff.set_pace(pace);
                let heard_by = worker.backoff.heard_by(now.mono);
                worker.join(Idle::joined(said, heard_by, now.mono));
                if nonce.is_some() {
                    // This comes first: everything that is sent from now on goes in frames.
                    let side = Side::Asking(self.random.next());
                    self.connections.tell(Command::Frame { key: tunnel.into(), side });
                    self.note_websocket(now);
                }
                self.note_joined(key);
                self.workers.rearm(key);
                self.check_readiness(key, now);
                self.note_light(key, is_light, knows_light, now);
                Step::Skip(length)
            }
            Welcome::Unauthorized if !self.hub.has_accepted => {
                let hub = self.config.hub_name.clone();
                let line = format_args!("the hub at {hub} rejects the token: {}", why.unwrap_or(NOT_WANTED));
                // All workers may be told so in one turn, and one line is enough.
                self.notices.say(Level::Error, ("fatal", 0), now.mono, line);
                self.connections.drop_tunnel(tunnel);
                self.stop(key);
                self.connections.tell(Command::Exit(1));
                Step::Wait
            }
            Welcome::Unauthorized => {
                let why = why.unwrap_or(NOT_WANTED);
                let line = format_args!("the hub still rejects the token; retrying ({why})");
                self.notices.say(Level::Warn, ("rejected", 0), now.mono, line);
                self.connections.drop_tunnel(tunnel);
                self.rest(key, Attempt::Unwanted, now);
                Step::Wait
            }
            Welcome::NoRoom if status == 403 && why.is_none() => {
                self.connections.drop_tunnel(tunnel);
                self.cannot_join(key, LinkEnd::Forbidden, now);
                Step::Wait
            }
            Welcome::NoRoom => {
                let why = why.unwrap_or("it has no room, or there is no hub behind this address");
                let line = format_args!("the hub did not accept {} ({status}): {why}", self.describe(key));
                self.notices.say(Level::Warn, ("no room", 0), now.mono, line);
                self.connections.drop_tunnel(tunnel);
                let index = self.workers.get(key).map_or(0, Worker::upstream);
                self.rest(key, Attempt::Failed, now);
                if !is_light {
                    self.note_joined_partly(index);
                    self.note_full(index, now);
                }
                Step::Wait
            }
            Welcome::Other => {
                self.connections.drop_tunnel(tunnel);
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

    /// The hub cannot be reached, or has not accepted the handshake. If a reverse proxy that passes only
    /// WebSocket upgrades may have refused it, a WebSocket handshake follows at once. If that fails too, the
    /// next attempt is one of our own again: a hub that was away for a while is no reason for frames.
    pub(super) fn cannot_join(&mut self, key: WorkerKey, why: LinkEnd<'_>, now: Now) {
        let Some(worker) = self.workers.get(key) else { return };
        let Link::Opening(opening) = worker.link() else { return };
        let (nonce, is_asked) = (opening.nonce, matches!(opening.stage, Stage::Joining { .. }));
        let tries_websocket = nonce.is_none() && is_asked && why.may_be_in_front();
        let AgentConfig { hub_name, proxy, .. } = &self.config;
        let by = proxy.as_ref().map_or(String::new(), |proxy| format!(" through the proxy {}", proxy.name));
        let (kind, how) =
            if is_asked && nonce.is_some() { (1, " by a WebSocket handshake") } else { (0, "") };
        let then = if tries_websocket { "retrying by WebSocket" } else { "retrying" };
        let line = format_args!("cannot join the hub at {hub_name}{by}{how}: {why}; {then}");
        self.notices.say(Level::Warn, ("unreachable", kind), now.mono, line);
        if !worker.is_light() {
            self.upstreams.tell_joined(worker.upstream(), 0);
        }
        if tries_websocket {
            self.dial_for(key, true, now);
            return;
        }
        if nonce.is_some() {
            self.hub.passes_websocket_only = false;
        }
        self.rest(key, Attempt::Failed, now);
    }

    /// A WebSocket handshake has succeeded. The log says so if nobody asked for one.
    fn note_websocket(&mut self, now: Now) {
        if self.config.websocket || core::mem::replace(&mut self.hub.passes_websocket_only, true) {
            return;
        }
        let hub = self.config.hub_name.clone();
        let line = format_args!(
            "what is before the hub at {hub} passes WebSockets only: tunnels go in frames of WebSocket; this costs more than \
             a tunnel by Upgrade: slime/1"
        );
        self.notices.say(Level::Info, ("websocket", 0), now.mono, line);
    }

    /// The hub has said whether it knows light paths. A hub that does not would send any request through a
    /// light tunnel.
    fn note_light(&mut self, key: WorkerKey, is_light: bool, knows_light: bool, now: Now) {
        if self.config.light_paths.is_empty() {
            return;
        }
        self.hub.knows_light = knows_light;
        if is_light && !knows_light {
            self.withdraw(key, LIGHT_ONLY, now);
        } else if knows_light {
            let waits =
                |worker: &Worker| worker.is_light() && matches!(worker.link(), Link::Closed(Closed::Spare));
            let waiting: Vec<WorkerKey> =
                self.workers.iter().filter(|(_, worker)| waits(worker)).map(|(key, _)| key).collect();
            for key in waiting {
                self.dial(key, now);
            }
        }
    }

    /// A worker has joined. The log says so once all workers of its agent have.
    pub(super) fn note_joined(&mut self, key: WorkerKey) {
        debug!("{} joined the hub", self.describe(key));
        let worker = self.workers.get(key).filter(|worker| !worker.is_light());
        let Some(index) = worker.map(Worker::upstream) else { return };
        let (joined, all) = (self.joined(index), self.config.workers as usize);
        if joined >= all {
            self.tell_joined(index, all);
        }
    }

    /// The hub takes no more workers. The log says how many of the agent have joined, unless it has said so
    /// already.
    fn note_joined_partly(&mut self, index: u16) {
        let joined = self.joined(index);
        if joined > 0 && self.upstreams.told_joined(index) == 0 {
            self.tell_joined(index, joined);
        }
    }

    fn tell_joined(&mut self, index: u16, joined: usize) {
        if self.upstreams.tell_joined(index, joined) == joined {
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
            |worker: &Worker| worker.upstream() == index && !worker.is_light() && worker.is_at_hub();
        self.workers.iter().filter(|(_, worker)| is_there(worker)).count()
    }

    /// A worker has lost its tunnel. The log says so of the first one of its agent.
    pub(super) fn note_apart(&mut self, key: WorkerKey, level: Level, line: core::fmt::Arguments<'_>) {
        let name = self.describe(key);
        let Some(worker) = self.workers.get(key) else { return };
        if !worker.is_light() && self.upstreams.tell_joined(worker.upstream(), 0) > 0 {
            self.notices.change(level, &[], format_args!("{name}: {line}"));
        } else {
            debug!("{name}: {line}");
        }
    }
}

/// The hub's explanation: the `detail` of its problem document (RFC 9457), if that came along with the head.
/// None of our own has an escaped character.
fn detail(body: &[u8]) -> Option<&str> {
    const MAX_DETAIL_BYTES: usize = 300;
    let body = core::str::from_utf8(body).ok()?;
    let (_, text) = body.split_once("\"detail\":\"")?;
    text.split('"')
        .next()
        .filter(|detail| (1..=MAX_DETAIL_BYTES).contains(&detail.len()) && !detail.contains('\\'))
}
