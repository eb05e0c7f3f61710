//! How the hub and the agents of a run are set up: caps, times, and what the tokens permit.

use std::sync::OnceLock;
use std::time::Duration;

use slime::config::{AgentConfig, DEFAULT_HOLD, HubConfig, Limits, OnCancel, Upstream};
use slime::net::shell::Endpoint;
use slime::proto::http1::url::Scheme;
use slime::proto::info::Info;
use slime::proto::light::TUNNELS;
use slime::proto::seam::HELD_BLOCK;
use slime::proto::trust::agent_token::{AgentToken, TokenId, TokenKey};

use crate::plan::{Exchange, How, Mood, PATIENT, When};
use crate::rng::Rng;
use crate::world::{Micros, SECOND};

/// The hub's name in the simulated network.
pub(crate) const HUB_NAME: &str = "hub.example";
/// The app password, where there is one.
pub(crate) const PASSWORD: &str = "open sesame";
/// Scopes that tokens and requests may name; the last one stands in no token.
const SCOPES: [&str; 3] = ["a", "b", "nobody"];
/// Seconds since 1970 when a run begins.
const BEGIN: u64 = 1_700_000_000;

/// A run's setting.
pub(crate) struct Setting {
    pub(crate) hub: HubConfig,
    pub(crate) agents: Vec<AgentSetting>,
    /// Whether anybody speaks TLS to the hub.
    pub(crate) hub_has_tls: bool,
    /// Whether agents may join by WebSocket handshakes that nobody told them to make.
    pub(crate) is_framed: bool,
}

/// How one agent is set up.
pub(crate) struct AgentSetting {
    pub(crate) token: AgentToken,
    pub(crate) config: AgentConfig,
    /// Whether it reaches the hub by TLS.
    pub(crate) is_tls: bool,
}

impl AgentSetting {
    /// To be called when the token was changed.
    pub(crate) fn seal(&mut self) {
        self.config.token = self.token.seal(token_key(), [7; 12]).unwrap();
    }
}

impl Setting {
    /// A third of all runs is as users run slime who set nothing. The others are cramped in one way or
    /// another; in calm weather in none that lets a request fail, and the first agent serves everything.
    pub(crate) fn draw(mood: Mood, agents: usize, upstreams: &[Endpoint], rng: &mut Rng) -> Self {
        let workers = u32::try_from(rng.within(1, 3)).unwrap();
        let plain = rng.chance(333);
        let stormy = mood == Mood::Stormy;
        let mut hub = HubConfig::default();
        // In calm weather nothing is cut off, upgraded connections at an end neither.
        let upgrade_drain = if stormy { hub.upgrade_drain } else { hub.drain_timeout };
        hub.upgrade_drain = upgrade_drain;
        if !plain {
            hub.concurrent = rng.pick(&[1024, 1024, 1, 2, 5]);
            hub.app_password = rng.chance(300).then(|| PASSWORD.to_owned());
            hub.limits.heartbeat = Duration::from_secs(rng.pick(&[15, 15, 3]));
            // As long as it takes for all of them to be served by one worker.
            hub.queue_timeout = Duration::from_secs(3600);
            if stormy {
                hub.queue_depth = rng.pick(&[1024, 1024, 1, 3]);
                hub.hold = rng.pick(&[HELD_BLOCK as u64, 0, DEFAULT_HOLD, 3 * HELD_BLOCK as u64]);
                hub.queue_timeout = Duration::from_secs(rng.pick(&[600, 5, 40]));
                hub.max_clients = rng.pick(&[16_384, 16_384, 2, 4]);
                hub.max_tunnels = rng.pick(&[4096, 4096, 2, 6]);
                hub.max_body = rng.pick(&[None, None, Some(500)]);
                hub.limits.response = rng.pick(&[None, None, Some(Duration::from_secs(20))]);
                hub.drain_timeout = Duration::from_secs(rng.pick(&[600, 1]));
            }
        }
        let agents: Vec<AgentSetting> = (0..agents)
            .map(|number| {
                let mut token = plain_token(number);
                let mut config = plain_config(number, workers, upstreams);
                config.upgrade_drain = upgrade_drain;
                if !plain {
                    config.extra_upgrades = rng.pick(&[0, 0, 1, 2]);
                    config.on_cancel = rng.pick(&[OnCancel::Close, OnCancel::Close, OnCancel::Drain]);
                    config.health_path = rng.pick(&[None, None, Some("/health")]).map(str::to_owned);
                    token.scopes = vec!["a".to_owned(), "b".to_owned()];
                    if number > 0 || stormy {
                        token.scopes.truncate(rng.length(0, 2));
                        token.scope_paths = rng
                            .pick(&[None, None, Some("/e"), Some("/other")])
                            .map(str::to_owned)
                            .into_iter()
                            .collect();
                    }
                    if stormy {
                        token.max_workers = rng.pick(&[None, None, Some(1), Some(4)]);
                        token.expires =
                            rng.pick(&[None, None, None, Some(BEGIN + rng.clone().within(1, 200))]);
                    }
                }
                config.token = token.seal(token_key(), [7; 12]).unwrap();
                AgentSetting { token, config, is_tls: !plain && rng.chance(400) }
            })
            .collect();
        let hub_has_tls = agents.iter().any(|agent| agent.is_tls);
        Self { hub, agents, hub_has_tls, is_framed: false }
    }

    /// Gives the exchanges what they need here, and what some of them ask for.
    pub(crate) fn adapt(&self, mood: Mood, exchanges: &mut [Exchange], rng: &mut Rng) {
        for exchange in exchanges {
            exchange.password = self.hub.app_password.is_some().then_some(PASSWORD);
            let known = if mood == Mood::Stormy { SCOPES.len() } else { self.agents[0].token.scopes.len() };
            if exchange.field == PATIENT {
                // It may wait for an agent that never comes.
                exchange.leave = Some((When::Passed(rng.within(SECOND, 3000 * SECOND)), How::Close));
            }
            if known > 0 && rng.chance(300) {
                exchange.scope = Some(rng.pick(&SCOPES[..known]));
            }
        }
    }

    /// Gives an agent another token, which permits something else. The number of its setting from then on.
    pub(crate) fn change_token(&mut self, agent: usize, rng: &mut Rng) -> usize {
        let number = self.agents.len();
        let AgentSetting { config, token, is_tls } = &self.agents[agent];
        let mut new = AgentSetting { token: plain_token(number), config: config.clone(), is_tls: *is_tls };
        new.token.max_workers = token.max_workers;
        let scopes = rng.length(0, 2);
        new.token.scopes = SCOPES[..scopes].iter().map(|scope| (*scope).to_owned()).collect();
        new.seal();
        self.agents.push(new);
        number
    }

    /// Whether requests of this kind may go to this agent.
    pub(crate) fn permits(&self, agent: usize, exchange: &Exchange) -> bool {
        let token = &self.agents[agent].token;
        exchange.scope.is_none_or(|scope| token.scopes.iter().any(|own| own == scope))
            && (token.scope_paths.is_empty() || token.scope_paths.iter().any(|path| path == "/e"))
    }

    /// How many tunnels for light paths alone an agent may have.
    pub(crate) fn light_tunnels(&self, agent: usize) -> usize {
        let config = &self.agents[agent].config;
        config.light_tunnels() as usize * config.upstreams.len()
    }

    /// How many tunnels an agent has when all is quiet.
    pub(crate) fn tunnels(&self, agent: usize, now: Micros) -> usize {
        let AgentSetting { token, config, .. } = &self.agents[agent];
        if token.expired(BEGIN + now / SECOND) {
            return 0;
        }
        let upstreams = config.upstreams.len();
        let (workers, light) = (config.workers as usize * upstreams, self.light_tunnels(agent));
        let most = token.max_workers.map_or(usize::MAX / 8, |most| most as usize);
        workers.min(most) + light.min(most * TUNNELS as usize)
    }
}

/// Deriving it is slow on purpose; its value does not matter.
pub(crate) fn token_key() -> &'static TokenKey {
    static KEY: OnceLock<TokenKey> = OnceLock::new();
    KEY.get_or_init(|| TokenKey::derive("secret"))
}

/// A token of this agent that permits everything.
pub(crate) fn plain_token(number: usize) -> AgentToken {
    AgentToken {
        id: TokenId::new([u8::try_from(number).unwrap(); 8]),
        name: format!("simulated{number}"),
        issued: 0,
        expires: None,
        scopes: Vec::new(),
        scope_paths: Vec::new(),
        max_workers: None,
    }
}

pub(crate) fn plain_config(number: usize, workers: u32, upstreams: &[Endpoint]) -> AgentConfig {
    let upstream = |index| Upstream {
        agent_id: format!("agent{number}-{index}"),
        scheme: Scheme::Http,
        name: "upstream.example:80".into(),
        authority: "upstream.example".into(),
        base_path: String::new(),
        authorization: None,
        info: Info { note: format!("agent {number}"), ..Info::default() },
    };
    AgentConfig {
        token: String::new(),
        hub_name: HUB_NAME.into(),
        hub_authority: HUB_NAME.into(),
        hub_path: String::new(),
        hub_authorization: None,
        websocket: false,
        proxy: None,
        upstreams: (0..upstreams.len()).map(upstream).collect(),
        workers,
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
    }
}
