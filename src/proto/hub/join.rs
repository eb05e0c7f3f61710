//! The handshake, as the hub sees it.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use log::{Level, debug, info};

use super::answers::Manner;
use super::ending::TunnelEnd;
use super::pool::{Joining, Member};
use super::{Client, Hub, Refusal, Tunnel, TunnelState};
use crate::proto::notice::Count;
use crate::proto::seam::Command;
use crate::proto::tables::key::{ClientKey, TunnelKey};
use crate::proto::tables::timer::Now;
use crate::proto::trust::agent_token::AgentToken;
use crate::proto::trust::revocation::Revocations;
use crate::proto::tunnel::{CloseReason, Hello, Light, write_farewell, write_welcome};
use crate::proto::websocket::Side;

impl Hub {
    /// A client turns out to be an agent: it becomes a tunnel, or is told why not.
    pub(super) fn join(&mut self, key: ClientKey, hello: &Hello<'_>, now: Now) {
        let token = AgentToken::open(hello.token, &self.token_key).ok();
        let Err(refusal) = self.try_join(key, hello, token.as_ref(), now) else { return };
        if let Some(Client { peer, .. }) = self.clients.get(key) {
            let token =
                token.map_or_else(String::new, |token| format!(", token {} ({})", token.name, token.id));
            let line = format_args!("refused an agent at {peer}{token}: {}", refusal.detail());
            self.notices.say(Level::Warn, (refusal.detail(), 0), now.mono, line);
        }
        self.refuse(key, refusal, Manner::default(), true, now);
    }

    /// Other tokens are taken back from now on: their tunnels are closed.
    pub fn set_revocations(&mut self, revocations: Revocations, now: Now) {
        self.revocations = revocations;
        let agents = self.tunnels.revoke(&self.revocations, now.mono);
        let is_meant = |tunnel: &Tunnel| tunnel.member().is_some_and(|it| agents.contains(&it.agent));
        let keys = self.tunnels_that(is_meant);
        let mut closed: BTreeMap<String, usize> = BTreeMap::new();
        for member in keys.iter().filter_map(|key| self.tunnels.get(*key).and_then(Tunnel::member)) {
            *closed.entry(self.tunnels.pool().describe(member.agent)).or_default() += 1;
        }
        self.end_tunnels(&keys, CloseReason::Revoked, now);
        for (agent, tunnels) in closed {
            info!("agent {agent} was revoked: closing {}", Count(tunnels, "tunnel"));
        }
        self.review(now);
    }

    fn try_join(
        &mut self,
        key: ClientKey,
        hello: &Hello<'_>,
        token: Option<&AgentToken>,
        now: Now,
    ) -> Result<(), Refusal> {
        let token = token.ok_or(Refusal::BadToken)?;
        if token.expired(now.unix) {
            return Err(Refusal::ExpiredToken);
        }
        if self.revocations.covers(token) {
            return Err(Refusal::RevokedToken);
        }
        let Some(client) = self.clients.get(key) else { return Ok(()) };
        let left = client.left;
        let joining = Joining {
            token: token.id,
            token_name: &token.name,
            issued: token.issued,
            expires: token.expires,
            agent_id: hello.agent_id,
            worker: hello.worker,
            scopes: &token.scopes,
            scope_paths: &token.scope_paths,
            light: match &hello.light {
                Light::Only(paths) => paths,
                Light::None | Light::Asked => &[],
            },
            max_workers: token.max_workers,
            info: &hello.info,
        };
        if self.tunnels.len() >= self.config.max_tunnels {
            // The one whose place it takes makes room at once, unless a request is on it.
            let is_free = |key: &TunnelKey| {
                self.tunnels.get(*key).is_some_and(|it| matches!(it.state, TunnelState::Free { .. }))
            };
            let old = self.tunnels.pool().find(&joining).filter(is_free).ok_or(Refusal::TunnelsFull)?;
            self.commands
                .push(Command::Send { key: old.into(), bytes: write_farewell(CloseReason::Replaced) });
            self.drop_tunnel(old, TunnelEnd::Farewell(CloseReason::Replaced), now);
        }
        let ping_at = now.mono.after_coarse(self.config.limits.heartbeat);
        let (tunnel, joined) = self.tunnels.join(&joining, left, ping_at, now.mono, &mut self.timers)?;
        let first = self.seen_through(Member { agent: joined.agent, worker: hello.worker });
        self.clients.remove(key);
        self.commands.push(Command::Rekey { from: key.into(), to: tunnel.into() });
        let mut bytes = Vec::new();
        write_welcome(self.config.limits.heartbeat, &hello.light, hello.websocket, &mut bytes);
        self.commands.push(Command::Send { key: tunnel.into(), bytes });
        if hello.websocket.is_some() {
            self.commands.push(Command::Frame { key: tunnel.into(), side: Side::Asked });
        }
        debug!("agent {} worker {} joined", self.tunnels.pool().describe(joined.agent), hello.worker);
        self.note_standing(joined.agent, hello.withdrawn, now);
        if token.expires.is_some() {
            self.look_again_at(self.tunnels.pool().next_sweep(now));
        }
        match (hello.withdrawn, first) {
            (None, None) => self.free_tunnel(tunnel, now),
            (None, Some(first)) => self.tunnels.wait_behind(tunnel, first, now.mono),
            (Some(_), _) => {}
        }
        if let Some(old) = joined.replaced {
            let serial = self.tunnels.pool().serial(joined.agent).map_or(0, |serial| serial.0);
            let name = self.tunnels.pool().describe(joined.agent);
            let line = format_args!(
                "agent {name} worker {}: a new tunnel replaced the old one; if this repeats, two agents run with the same --agent-id",
                hello.worker
            );
            self.notices.say(Level::Info, ("replaced", serial), now.mono, line);
            self.replace_tunnel(old, now);
        }
        if joined.splits_classes {
            self.reclassify();
        }
        self.is_dispatch_due = true;
        Ok(())
    }
}
