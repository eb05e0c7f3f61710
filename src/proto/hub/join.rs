//! The handshake, as the hub sees it.

use log::{info, warn};

use super::{Hub, Refusal, Standing, Tunnel, TunnelState};
use crate::proto::agent_token::AgentToken;
use crate::proto::http1::head::HeadScan;
use crate::proto::key::ClientKey;
use crate::proto::pool::{AgentSlot, Joining};
use crate::proto::revocation::Revocations;
use crate::proto::seam::Command;
use crate::proto::timer::{Armed, Mono, Now};
use crate::proto::tunnel::{CloseReason, Hello, write_welcome};

const TUNNELS_FULL: Refusal = Refusal::new(
    503,
    "connection_limit_reached",
    "the hub has all the tunnels that it takes; see --max-tunnels",
);
const TOKEN_BAD: &str = "the agent token is not one of this hub's; print one with 'slime hub register'";
const TOKEN_EXPIRED: &str = "the agent token has expired; print a new one with 'slime hub register'";
const TOKEN_REVOKED: &str = "the agent token was revoked; print a new one with 'slime hub register'";
const WORKERS_FULL: &str = "the agent token has all the workers that it allows, over all its agents";

impl Hub {
    /// A client turns out to be an agent: it becomes a tunnel, or is told why not.
    pub(super) fn join(&mut self, key: ClientKey, hello: &Hello<'_>, now: Now) {
        if let Err(refusal) = self.try_join(key, hello, now) {
            let peer = self.clients.get(key).map(|client| client.peer);
            warn!(
                "refused an agent at {}: {}",
                peer.map_or_else(String::new, |peer| peer.to_string()),
                refusal.detail
            );
            self.refuse(key, refusal, false, true, now);
        }
    }

    /// Other tokens are taken back from now on: their tunnels are closed.
    pub fn set_revocations(&mut self, revocations: Revocations, now: Now) {
        self.revocations = revocations;
        let all: Vec<_> = self.tunnels.iter().map(|(key, tunnel)| (key, tunnel.agent)).collect();
        for (key, agent) in all {
            if self.pool.is_revoked(agent, &self.revocations) {
                self.end_tunnel(key, CloseReason::Revoked, now);
            }
        }
    }

    fn try_join(&mut self, key: ClientKey, hello: &Hello<'_>, now: Now) -> Result<(), Refusal> {
        let refusal = |status, detail| Refusal { status, detail, error: None };
        let token = AgentToken::open(hello.token, &self.token_key).map_err(|_| refusal(401, TOKEN_BAD))?;
        if token.expired(now.unix) {
            return Err(refusal(401, TOKEN_EXPIRED));
        }
        if self.revocations.covers(&token) {
            return Err(refusal(401, TOKEN_REVOKED));
        }
        let Some(client) = self.clients.get(key) else { return Ok(()) };
        let (left, send_by) = (client.left, client.send_by);
        let joining = Joining {
            token: token.id,
            token_name: &token.name,
            issued: token.issued,
            agent_id: hello.agent_id,
            worker: hello.worker,
            scopes: &token.scopes,
            scope_paths: &token.scope_paths,
            max_workers: token.max_workers,
        };
        if self.tunnels.len() >= self.config.max_tunnels && !self.pool.has(&joining) {
            return Err(TUNNELS_FULL);
        }
        let tunnel = self.tunnels.insert(Tunnel {
            // Replaced below, before anybody looks.
            agent: AgentSlot::default(),
            worker: hello.worker,
            expires: token.expires,
            armed: Armed::default(),
            left,
            send_by,
            state: TunnelState::Ending { until: Mono::NEVER },
        });
        let tunnel = tunnel.ok_or(TUNNELS_FULL)?;
        let Some(joined) = self.pool.join(&joining, tunnel) else {
            self.tunnels.remove(tunnel);
            return Err(refusal(403, WORKERS_FULL));
        };
        if let Some(entry) = self.tunnels.get_mut(tunnel) {
            entry.agent = joined.agent;
        }
        if let Some(old) = joined.replaced {
            self.replace_tunnel(old, now);
        }
        self.leave_idle(key);
        self.clients.remove(key);
        self.commands.push(Command::Rekey { from: key.into(), to: tunnel.into() });
        let mut bytes = Vec::new();
        write_welcome(self.config.limits.heartbeat, &mut bytes);
        self.commands.push(Command::Send { key: tunnel.into(), bytes });
        let name = self.pool.describe(joined.agent);
        match hello.withdrawn {
            None => {
                info!("agent {name} worker {} joined", hello.worker);
                self.pool.set_ready(joined.agent, true, now.mono);
                self.free_tunnel(tunnel, now);
            }
            Some(reason) => {
                info!(
                    "agent {name} worker {} joined, but takes no work: {}",
                    hello.worker,
                    reason.escape_default()
                );
                if let Some(entry) = self.tunnels.get_mut(tunnel) {
                    entry.state = TunnelState::Free {
                        standing: Standing::Withdrawn,
                        unanswered: 0,
                        ping_at: now.mono.after_coarse(self.config.limits.heartbeat),
                        scan: HeadScan::on_tunnel(),
                    };
                }
                self.arm_tunnel(tunnel);
            }
        }
        if joined.new_profile {
            self.reclassify(now);
        } else {
            self.dispatch(now);
        }
        Ok(())
    }
}
