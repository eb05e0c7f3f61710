//! What the hub tells of itself in `/api/status`: cursors over its tables.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::Hub;
use super::exchanges::{Exchange, Phase};
use super::pool::{Known, ProfileId};
use super::report::WORKER_STATES;
use crate::proto::admin::attention::{Attention, Severity};
use crate::proto::admin::status::{Json, Place, Telling};
use crate::proto::exchange::Response;
use crate::proto::info::Info;
use crate::proto::tables::key::{ExchangeKey, TunnelKey};
use crate::proto::tables::timer::Mono;

/// Workers by state, as [`WORKER_STATES`] has them.
type Counts = [u64; WORKER_STATES.len()];

const IDLE: usize = 0;
const BUSY: usize = 1;
const SILENT: usize = 2;
const WITHDRAWN: usize = 3;

/// What is known of the connected agents that serve a class.
#[derive(Clone, Copy, Default)]
struct Serving {
    agents: u64,
    /// Those of them that are paused.
    paused: u64,
    workers: Counts,
}

/// How many agents in trouble are named one by one.
const MOST_NAMED: usize = 20;
/// The longest path that is told, in bytes.
const PATH: usize = 256;

impl Hub {
    /// As [`Subject::write_status`](crate::proto::admin::Subject::write_status).
    pub(super) fn tell_status(&self, at: &mut Place, json: &mut Json<'_>, telling: &Telling) -> bool {
        loop {
            let is_whole = match at.section {
                0 => {
                    self.tell_figures(json, telling);
                    true
                }
                1 => self.tell_names(at, json, telling),
                2 => self.tell_agents(at, json, telling),
                3 => self.tell_exchanges(at, json, telling, "running"),
                4 => self.tell_exchanges(at, json, telling, "waiting"),
                _ => return true,
            };
            if !is_whole {
                return false;
            }
            at.end_section();
            if json.is_full() {
                return false;
            }
        }
    }

    fn tell_figures(&self, json: &mut Json<'_>, telling: &Telling) {
        let known: Vec<Known<'_>> = self.tunnels.pool().known().collect();
        let connected = known.iter().filter(|agent| !agent.workers.is_empty());
        let mut workers = Counts::default();
        let mut agents = 0;
        for agent in connected {
            agents += 1;
            for (sum, count) in workers.iter_mut().zip(self.count_workers(agent.workers)) {
                *sum += count;
            }
        }
        let ready = self.tunnels.pool().ready_agents();
        let waiting = self.exchanges.queue().len();
        tell_pause(json, "queue_paused", self.operator.queue_paused(), telling);
        json.key("load").open('{');
        json.key("clients").number(self.clients.len());
        json.key("tunnels").number(self.tunnels.len());
        json.key("agents").number(agents);
        json.key("agents_ready").number(ready);
        json.key("workers").number(workers.iter().sum::<u64>());
        for (state, count) in WORKER_STATES.into_iter().zip(workers) {
            json.key(&format!("workers_{state}")).number(count);
        }
        json.key("running").number(self.exchanges.active());
        json.key("finishing").number(self.clients.tails());
        json.key("waiting").number(waiting);
        json.key("gathering").number(self.exchanges.gathering());
        let waits = self.exchanges.iter().filter(|(_, it)| matches!(*it.phase, Phase::Queued { .. }));
        let oldest = waits.map(|(_, exchange)| exchange.waits_since).min();
        json.key("oldest_waiting_at").maybe(oldest.map(|at| telling.calendar.at(at)));
        json.close('}');
        json.unknown(&["last_minute", "totals", "apps", "models"]);
        json.key("limits").open('[');
        for (name, max, used) in self.limits() {
            json.open('{');
            json.key("name").text(name);
            json.key("flag").text(format!("--{}", name.replace('_', "-")));
            json.key("used").number(used);
            json.key("max").number(max);
            json.unknown(&["peak", "hits", "last_hit_at"]);
            json.close('}');
        }
        json.close(']');
    }

    /// As [`Subject::attention`](crate::proto::admin::Subject::attention).
    pub(super) fn find_attention(&self) -> Vec<Attention> {
        let mut all = self.pauses(MOST_NAMED);
        let waiting = self.exchanges.queue().len();
        if waiting > 0 && self.tunnels.pool().ready_agents() == 0 {
            all.push(Attention::new("no_agent", Severity::Bad, "No agent takes work."));
        }
        for (name, max, used) in self.limits() {
            if used >= max {
                let text = format!("--{} is reached: {used} of {max}.", name.replace('_', "-"));
                all.push(Attention::new("limit_full", Severity::Bad, text).about(name));
            }
        }
        let withdrawn = |agent: &Known<'_>| !agent.workers.is_empty() && !agent.trouble.is_empty();
        let mut withdrawn = self.tunnels.pool().known().filter(withdrawn);
        for agent in withdrawn.by_ref().take(MOST_NAMED) {
            let text = format!("{} takes no work: {}.", agent.name, agent.trouble);
            let id = format!("{}:{}", agent.token, agent.id);
            all.push(Attention::new("agent_withdrawn", Severity::Warn, text).about(id));
        }
        let more = withdrawn.count();
        if more > 0 {
            let text = format!("{more} more agents take no work.");
            all.push(Attention::new("agent_withdrawn", Severity::Warn, text));
        }
        if self.draining.is_some() {
            let text =
                format!("The hub is ending: {} requests run, {waiting} wait.", self.exchanges.active());
            all.push(Attention::new("draining", Severity::Warn, text));
        }
        all
    }

    fn tell_names(&self, at: &mut Place, json: &mut Json<'_>, telling: &Telling) -> bool {
        let mut names: BTreeMap<&str, u64> = BTreeMap::new();
        for agent in self.tunnels.pool().known() {
            *names.entry(agent.name).or_default() += u64::from(!agent.workers.is_empty());
        }
        let paused: BTreeMap<&str, Mono> = self.tunnels.pool().paused_names().collect();
        for name in paused.keys() {
            names.entry(name).or_default();
        }
        if at.rows == 0 {
            json.key("names").open('[');
        }
        for (name, agents) in names {
            if at.rows > 0 && name <= at.name.as_str() {
                continue;
            }
            if at.rows >= telling.most_rows() {
                break;
            }
            json.open('{');
            json.key("name").text(name);
            json.key("agents").number(agents);
            json.unknown(&["agents_max", "last_seen_at"]);
            tell_pause(json, "paused", paused.get(name).copied(), telling);
            json.close('}');
            (at.rows, at.name) = (at.rows + 1, String::from(name));
            if json.is_full() {
                return false;
            }
        }
        json.close(']');
        true
    }

    fn tell_agents(&self, at: &mut Place, json: &mut Json<'_>, telling: &Telling) -> bool {
        // Those that are gone come last; blanks and controls are in no name.
        let order = |agent: &Known<'_>| {
            let Known { name, id, token, .. } = agent;
            format!("{}\0{name}\0{id}\0{token}", u8::from(agent.workers.is_empty()))
        };
        let mut agents: Vec<_> = self.tunnels.pool().known().map(|agent| (order(&agent), agent)).collect();
        agents.sort_by(|(one, _), (other, _)| one.cmp(other));
        if at.rows == 0 {
            json.key("agents_total").number(agents.len());
            json.key("agents").open('[');
        }
        for (order, agent) in agents {
            if at.rows > 0 && order <= at.name {
                continue;
            }
            if at.rows >= telling.most_rows() {
                break;
            }
            self.tell_agent(&agent, json, telling);
            (at.rows, at.name) = (at.rows + 1, order);
            if json.is_full() {
                return false;
            }
        }
        json.close(']');
        true
    }

    fn tell_agent(&self, agent: &Known<'_>, json: &mut Json<'_>, telling: &Telling) {
        let counts = self.count_workers(agent.workers);
        let total: u64 = counts.iter().sum();
        let (state, reason) = if agent.workers.is_empty() {
            ("gone", agent.why_gone)
        } else if agent.paused.is_some() {
            ("paused", "")
        } else if counts[WITHDRAWN] == total {
            ("withdrawn", agent.trouble)
        } else if counts[IDLE] == 0 && counts[SILENT] > 0 {
            ("silent", "")
        } else if counts[IDLE] == 0 {
            ("busy", "")
        } else {
            ("idle", "")
        };
        json.open('{');
        json.key("id").text(format_args!("{}:{}", agent.token, agent.id));
        json.key("name").text(agent.name);
        json.key("agent_id").text(agent.id);
        json.key("token_id").text(agent.token);
        json.key("state").text(state);
        json.key("reason").text_or_null(reason);
        json.key("idle_reason").text_or_null(match state {
            "idle" if self.exchanges.queue().is_empty() => "nothing_waits",
            "idle" if self.operator.queue_paused().is_some() => "queue_paused",
            "idle" if !self.has_permit() => "concurrent",
            _ => "",
        });
        json.unknown(&["since_at", "joined_at", "left_at"]);
        match agent.paused {
            Some(paused) => {
                json.key("paused").open('{');
                json.key("since_at").number(telling.calendar.at(paused.since));
                json.key("by").text(if paused.by_name { "name" } else { "agent" });
                json.close('}');
            }
            None => json.key("paused").null(),
        }
        json.unknown(&["address", "tls", "rtt_ms"]);
        json.key("workers").open('{');
        json.key("total").number(total);
        for (state, count) in WORKER_STATES.into_iter().zip(counts) {
            json.key(state).number(count);
        }
        json.close('}');
        json.texts("scopes", agent.scopes);
        json.texts("paths", agent.paths);
        json.key("models").null();
        json.key("models_total").number(0_u64);
        json.key("requests").open('{');
        json.unknown(&["complete", "failed", "cancelled", "refused", "lost"]);
        json.close('}');
        json.unknown(&["busy_ms", "last_request_at"]);
        json.key("token_expires_at").maybe(agent.expires.map(|at| at.saturating_mul(1000)));
        json.key("info").open('{');
        let Info { version, host, arch, upstream, note, cpus, memory_bytes } = agent.info;
        let texts =
            [("version", version), ("host", host), ("arch", arch), ("upstream", upstream), ("note", note)];
        for (name, value) in texts {
            json.key(name).text_or_null(value);
        }
        json.key("cpus").maybe(*cpus);
        json.key("memory_bytes").maybe(*memory_bytes);
        json.close('}');
        json.close('}');
    }

    /// Exchanges that run, or those that wait.
    fn tell_exchanges(&self, at: &mut Place, json: &mut Json<'_>, telling: &Telling, name: &str) -> bool {
        let is_running = name == "running";
        let place = |exchange: &Exchange| match *exchange.phase {
            Phase::Active { since, .. } => is_running.then_some(since.0),
            Phase::Gathering { .. } | Phase::Queued { .. } | Phase::Between => {
                (!is_running).then_some(exchange.arrival.0)
            }
        };
        let mut rows: Vec<((u64, u64), ExchangeKey)> = self
            .exchanges
            .iter()
            .filter_map(|(key, exchange)| Some(((place(exchange)?, exchange.arrival.0), key)))
            .collect();
        rows.sort();
        if at.rows == 0 {
            json.key(&format!("{name}_total")).number(rows.len());
            json.key(name).open('[');
        }
        let mut known = BTreeMap::new();
        for (number, key) in rows {
            if at.rows > 0 && number <= at.number {
                continue;
            }
            if at.rows >= telling.most_rows() {
                break;
            }
            let Some(exchange) = self.exchanges.get(key) else { continue };
            self.tell_exchange(exchange, json, telling, &mut known);
            (at.rows, at.number) = (at.rows + 1, number);
            if json.is_full() {
                return false;
            }
        }
        json.close(']');
        true
    }

    /// `known` has what is known of the agents that serve a class, once it was counted.
    fn tell_exchange(
        &self,
        exchange: &Exchange,
        json: &mut Json<'_>,
        telling: &Telling,
        known: &mut BTreeMap<usize, Serving>,
    ) {
        let time = |at: Mono| (at != Mono::NEVER).then(|| telling.calendar.at(at));
        json.open('{');
        json.key("id").text(format_args!("{:08x}-{}", telling.instance, exchange.arrival.0));
        json.key("request_id").text(exchange.id.as_str());
        json.key("app").text_or_null(if self.keys.is_empty() { "none" } else { "" });
        match self.clients.get(exchange.client) {
            Some(client) => json.key("client").text(client.peer),
            None => json.key("client").null(),
        }
        json.key("method").null();
        json.key("path").text_or_null(&shortened(&exchange.need.path));
        json.key("model").null();
        json.key("scope").text_or_null(&exchange.need.scope);
        json.key("arrived_at").maybe(time(exchange.began));
        if let Phase::Active { tunnel, since, .. } = *exchange.phase {
            let state = match exchange.messages.response {
                Response::Head { .. } => "sent",
                Response::Body { .. } => "answering",
                Response::Upgraded { .. } => "upgraded",
            };
            json.key("state").text(state);
            let member = self.tunnels.get(tunnel).and_then(|tunnel| tunnel.member());
            match member.and_then(|member| Some((member, self.tunnels.pool().known_one(member.agent)?))) {
                Some((member, agent)) => {
                    json.key("agent").text(format_args!("{}:{}", agent.token, agent.id));
                    json.key("agent_name").text(agent.name);
                    json.key("worker").number(member.worker);
                }
                None => json.unknown(&["agent", "agent_name", "worker"]),
            }
            json.key("started_at").maybe(time(since));
            json.unknown(&["head_at", "status", "in_bytes", "out_bytes"]);
            json.key("tries").number(1 + u64::from(exchange.lost) + u64::from(exchange.returns));
        } else {
            json.key("urgency").number(3_u64);
            json.key("position").null();
            let (until, class) = match *exchange.phase {
                Phase::Queued { place, until } => (until.deadline(), Some(place.class())),
                Phase::Gathering { until, .. } => (until, None),
                Phase::Between | Phase::Active { .. } => (Mono::NEVER, None),
            };
            json.key("until_at").maybe(time(until));
            json.key("expected_at").null();
            let Serving { agents, paused, workers: counts } = class.map_or(Serving::default(), |class| {
                *known
                    .entry(class.index())
                    .or_insert_with(|| self.count_serving(self.tunnels.pool().serving(class)))
            });
            let (reason, detail) = if class.is_none() {
                ("body", "its body has not come yet")
            } else if self.operator.queue_paused().is_some() {
                ("queue_paused", "the queue is paused")
            } else if agents == 0 {
                ("no_agent", "no connected agent could serve it")
            } else if paused == agents {
                ("paused", "all agents that could serve it are paused")
            } else if counts[IDLE] + counts[BUSY] + counts[SILENT] == 0 {
                ("withdrawn", "all agents that could serve it take no work")
            } else if exchange.need.refused.len() as u64 >= agents {
                ("refused", "all connected agents have refused it")
            } else if !self.has_permit() {
                ("concurrent", "--concurrent is reached")
            } else if counts[SILENT] > 0 {
                ("silent", "an idle worker owes a sign of life")
            } else {
                ("busy", "all workers that could serve it are busy")
            };
            json.key("reason").text(reason);
            json.key("detail").text(detail);
            json.key("agents").number(agents);
            json.key("workers").number(counts.iter().sum::<u64>());
        }
        json.close('}');
    }

    fn count_workers(&self, workers: &[(u32, TunnelKey)]) -> Counts {
        let mut counts = Counts::default();
        for (_, tunnel) in workers {
            if let Some(count) = self.worker_state(*tunnel).and_then(|state| counts.get_mut(state)) {
                *count += 1;
            }
        }
        counts
    }

    /// The connected agents of these profiles, and their workers.
    fn count_serving(&self, profiles: &[ProfileId]) -> Serving {
        let mut known = Serving::default();
        let serving = self.tunnels.pool().known().filter(|agent| profiles.contains(&agent.profile));
        for agent in serving.filter(|agent| !agent.workers.is_empty()) {
            known.agents += 1;
            known.paused += u64::from(agent.paused.is_some());
            for (sum, count) in known.workers.iter_mut().zip(self.count_workers(agent.workers)) {
                *sum += count;
            }
        }
        known
    }
}

/// A member that says since when something is paused.
fn tell_pause(json: &mut Json<'_>, name: &str, since: Option<Mono>, telling: &Telling) {
    match since {
        Some(since) => {
            json.key(name).open('{');
            json.key("since_at").number(telling.calendar.at(since));
            json.close('}');
        }
        None => json.key(name).null(),
    }
}

/// A path as it is told: its beginning, if it is long.
fn shortened(path: &str) -> String {
    if path.len() <= PATH {
        return String::from(path);
    }
    let mut end = PATH;
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", path.get(..end).unwrap_or_default())
}
