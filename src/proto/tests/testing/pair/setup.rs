//! What a pair begins with.

use core::time::Duration;
use std::sync::OnceLock;

use super::super::driver::Driver;
use super::super::wires::Wires;
use super::{Pair, Reach};
use crate::config::{AgentConfig, HubConfig, Limits, OnCancel, Upstream};
use crate::proto::admin::Subject as _;
use crate::proto::agent::Agent;
use crate::proto::http1::url::Scheme;
use crate::proto::hub::Hub;
use crate::proto::info::Info;
use crate::proto::tables::timer::{Mono, Now};
use crate::proto::trust::agent_token::{AgentToken, TokenId, TokenKey};

/// When the tests begin, in seconds since 1970.
pub(crate) const UNIX: u64 = 1_800_000_000;

/// What a pair is made of.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) hub: HubConfig,
    pub(crate) agents: Vec<(AgentToken, AgentConfig)>,
    /// The most bytes that one read gives.
    pub(crate) grain: usize,
    /// The most bytes that are under way in one direction.
    pub(crate) room: usize,
    /// Whether what the core need not see goes by without being shown.
    pub(crate) splices: bool,
}

/// The key that all tokens are sealed with; deriving it is slow on purpose.
pub(crate) fn token_key() -> &'static TokenKey {
    static KEY: OnceLock<TokenKey> = OnceLock::new();
    KEY.get_or_init(|| TokenKey::derive("secret"))
}

/// A token without limits.
pub(crate) fn token(id: u8) -> AgentToken {
    AgentToken {
        id: TokenId::new([id; 8]),
        name: format!("token-{id}"),
        issued: UNIX,
        expires: None,
        scopes: Vec::new(),
        scope_paths: Vec::new(),
        max_workers: None,
    }
}

/// The text of a token.
pub(crate) fn sealed(token: &AgentToken) -> String {
    token.seal(token_key(), [7; 12]).unwrap()
}

/// A hub that somebody can ask.
pub(super) fn counting(config: HubConfig, seed: u64, now: Now) -> Hub {
    let mut hub = Hub::new(config, token_key().clone(), seed, now);
    hub.begin_to_count();
    hub
}

impl Default for Setup {
    /// A hub past its startup grace, and one agent with one upstream and one worker.
    fn default() -> Self {
        let hub = HubConfig { startup_grace: Duration::ZERO, ..HubConfig::default() };
        Self { hub, agents: Vec::new(), grain: usize::MAX, room: 256 * 1024, splices: false }
            .with_agent(token(1), "a")
    }
}

impl Setup {
    /// No agent at all.
    pub(crate) fn hub_only() -> Self {
        Self { agents: Vec::new(), ..Self::default() }
    }

    /// One more agent, with one upstream and one worker.
    pub(crate) fn with_agent(mut self, token: AgentToken, agent_id: &str) -> Self {
        let config = AgentConfig {
            token: sealed(&token),
            hub_name: "hub.test:80".to_owned(),
            hub_authority: "hub.test".to_owned(),
            hub_path: String::new(),
            hub_authorization: None,
            websocket: false,
            proxy: None,
            upstreams: vec![Upstream {
                agent_id: agent_id.to_owned(),
                scheme: Scheme::Http,
                name: "up.test:80".to_owned(),
                authority: "up.test".to_owned(),
                base_path: String::new(),
                authorization: None,
                info: Info::default(),
            }],
            workers: 1,
            extra_upgrades: 0,
            extra_streams: 0,
            light_paths: Vec::new(),
            preserve_host: false,
            upstream_fields: Vec::new(),
            on_cancel: OnCancel::Close,
            health_path: None,
            drain_timeout: Duration::from_secs(600),
            upgrade_drain: Duration::from_secs(5),
            limits: Limits::default(),
        };
        self.agents.push((token, config));
        self
    }

    pub(crate) fn hub(mut self, change: impl FnOnce(&mut HubConfig)) -> Self {
        change(&mut self.hub);
        self
    }

    pub(crate) fn agent(mut self, change: impl FnOnce(&mut AgentConfig)) -> Self {
        change(&mut self.agents.last_mut().unwrap().1);
        self
    }

    /// A pair that has just begun: nothing has been said yet.
    pub(crate) fn start(self) -> Pair {
        let now = Now { mono: Mono(1_000_000), unix: UNIX };
        let agents = self.agents.iter().enumerate();
        Pair {
            now,
            wires: Wires::new(self.grain, self.room, self.splices),
            hub: Driver::new(counting(self.hub.clone(), 1, now)),
            agents: agents
                .map(|(seed, (_, config))| Driver::new(Agent::new(config.clone(), seed as u64, now)))
                .collect(),
            raws: Vec::new(),
            setup: self,
            to_hub: Reach::Hub,
            to_upstream: Reach::Raw,
            arrivals: Vec::new(),
            dials: Vec::new(),
        }
    }

    /// A pair whose agents have joined.
    pub(crate) fn joined(self) -> Pair {
        let mut pair = self.start();
        pair.settle();
        // The connections were probes.
        pair.arrivals.clear();
        pair
    }
}
