//! What hub and agents promise beside getting every byte right: who is sent what, and when no more.

use slime::config::DEFAULT_HOLD;

use super::{Attempt, Model, Outcome, Record, Rules, reached};
use crate::history::{Moment, Sighting};
use crate::plan::Framing;
use crate::world::{MILLI, Micros, SECOND, World};

/// The upstreams that a request may reach: the first one, and two more if it may be repeated.
const MOST_UPSTREAMS: usize = 3;
/// Each of them on a kept connection and on a fresh one.
const MOST_ATTEMPTS: usize = 2 * MOST_UPSTREAMS;
/// What the hub reads of a request that waits, so that it hears of it when its client leaves; and if others
/// may have all that `--hold` gives.
const HELD: usize = 1 << 20;
const FREE: usize = 16 << 10;
/// The longest that a client's FIN is on its way, or that the hub notices a deadline late.
const LATE: Micros = 60 * SECOND;
/// What `Slime-Max-Wait: 5` and the coarseness of deadlines come to.
const MAX_WAIT: Micros = 7 * SECOND;
/// What an agent gives a handshake, by a clock of milliseconds.
const HANDSHAKE: Micros = 5 * SECOND;
/// Switches of rules that do not hold yet.
const REVOCATION_IS_WHOLE: bool = true;
pub(super) const PROBES_ARE_JOBS: bool = true;

impl Model {
    /// A request goes to the next upstream only so often.
    pub(super) fn check_fleet(&mut self, world: &World) {
        for exchange in 0..self.records.len() {
            let attempts = &self.records[exchange].attempts;
            let mut upstreams: Vec<_> = attempts.iter().map(|it| world.ends[it.end].process).collect();
            let count = upstreams.len();
            upstreams.sort_unstable();
            upstreams.dedup();
            if upstreams.len() > MOST_UPSTREAMS || count > MOST_ATTEMPTS {
                let upstreams = upstreams.len();
                self.violate(exchange, format!("reached {upstreams} upstreams in {count} attempts"));
            }
        }
    }

    /// Where upstreams are started anew, only what they had or were being sent may fail. Where handshakes
    /// take long, an agent may give one up whose answer is on its way, and the hub, which cannot know yet,
    /// gives that tunnel a request.
    pub(super) fn check_failed(&mut self, world: &World, rules: &Rules<'_>) {
        for (exchange, outcome) in std::mem::take(&mut self.failed) {
            let is_lost = |it: &&Sighting| world.ends[it.end ^ 1].history.dropped;
            let was_lost = self.upstreams_restart
                && (world.sightings.iter().filter(|it| it.exchange == exchange).any(|it| is_lost(&it))
                    || outcome == Outcome::Own(502) && was_dropped_early(world, rules));
            let is_unheard = outcome == Outcome::Own(502)
                && self.records[exchange].attempts.is_empty()
                && has_given_up_a_handshake(world, rules);
            // The one before it on its connection failed, and nothing can follow that.
            let client = self.records[exchange].client;
            let is_failed = |it: &Record| it.client == client && it.outcome != Some(Outcome::Complete);
            let is_behind = outcome == Outcome::Nothing
                && (client.is_none() || self.records[..exchange].iter().any(is_failed));
            let is_refused =
                outcome == Outcome::Own(503) && self.is_crowded && self.is_full(world, rules, exchange);
            let is_late = outcome == Outcome::Own(503) && self.may_wait_too_long();
            if !was_lost && !is_unheard && !is_behind && !is_refused && !is_late {
                self.violate(exchange, format!("{outcome:?} though no upstream had it when it ended"));
            }
        }
    }

    /// Whether the hub had as many clients as it may have when it read a request: also those that have their
    /// answers and are about to close.
    fn is_full(&self, world: &World, rules: &Rules<'_>, exchange: usize) -> bool {
        let record = &self.records[exchange];
        let (Some(client), Some(hub), Some(setting)) = (record.client, rules.hub, rules.setting) else {
            return false;
        };
        let arrived = reached(&world.ends[client ^ 1].history.read, record.head_ends.max(1));
        let Some(arrived) = arrived else { return false };
        let is_there = |end: usize| {
            let (it, history) = (&world.ends[end], &world.ends[end].history);
            it.process == hub
                && !rules.is_agent(world.ends[end ^ 1].process)
                && history.accepted.is_some_and(|at| at < arrived)
                && history.closed.is_none_or(|at| at > arrived)
        };
        let others = (0..world.ends.len()).filter(|end| *end != client ^ 1 && is_there(*end));
        others.count() >= setting.hub.max_clients
    }

    /// A request whose client the hub knew to have left, or must have known, was not sent.
    pub(super) fn check_left(&mut self, world: &World, rules: &Rules<'_>, hub: usize) {
        let is_roomy = rules.setting.is_none_or(|setting| setting.hub.hold >= DEFAULT_HOLD);
        let most = if is_roomy { HELD } else { FREE };
        for sighting in world.sightings.iter().filter(|it| world.ends[it.end].process == hub) {
            let Some(record) = self.records.get(sighting.exchange) else { continue };
            let (Some(client), Some(sent)) = (record.client, sent(world, sighting)) else { continue };
            let told = world.ends[client ^ 1].history.told_end;
            // What its client had sent behind it is not read before it is done.
            let is_last =
                self.records.iter().rposition(|it| it.client == Some(client)) == Some(sighting.exchange);
            let is_small = is_last && self.exchanges[sighting.exchange].request_length <= most;
            let is_seen = world.ends[client ^ 1].window.is_none() || is_small;
            let has_left = record.left_at.is_some_and(|at| at + LATE < sent.at);
            if told.is_some_and(|told| told < sent) {
                self.violate(sighting.exchange, "sent on after its client was known to have left");
            } else if has_left && is_seen && self.is_honest && !sighting.held_up && !self.is_slow {
                self.violate(sighting.exchange, "sent on long after its client had left");
            }
        }
    }

    /// An agent starts nothing for a tunnel that it knows to have ended.
    pub(super) fn check_agents_left(&mut self, world: &World, rules: &Rules<'_>, hub: usize) {
        for sighting in world.sightings.iter().filter(|it| !it.held_up) {
            let agent = world.ends[sighting.end].process;
            if !rules.agents.iter().any(|(process, _)| *process == agent) {
                continue;
            }
            let Some(started) = sent(world, sighting) else { continue };
            let given = world.sightings.iter().rfind(|it| {
                it.exchange == sighting.exchange
                    && world.ends[it.end].process == hub
                    && world.ends[it.end ^ 1].process == agent
                    && sent(world, it).is_some_and(|at| at < started)
            });
            let told = given.and_then(|it| world.ends[it.end ^ 1].history.told_end);
            if told.is_some_and(|told| told.turn < started.turn) {
                self.violate(sighting.exchange, "started by an agent that knew its tunnel to have ended");
            }
        }
    }

    /// An agent whose token was taken back is given nothing more.
    pub(super) fn check_revoked(&mut self, world: &World, rules: &Rules<'_>, hub: usize) {
        let Some(setting) = rules.setting.filter(|_| REVOCATION_IS_WHOLE) else { return };
        let of_hub = |it: &&Sighting| world.ends[it.end].process == hub && !it.held_up;
        for sighting in world.sightings.iter().filter(of_hub) {
            let agent = world.ends[sighting.end ^ 1].process;
            let number =
                rules.agents.iter().find(|(process, _)| *process == agent).map(|(_, number)| *number);
            let token = number.and_then(|number| setting.agents.get(number)).map(|agent| &agent.token.name);
            let (Some(token), Some(sent)) = (token, sent(world, sighting)) else { continue };
            let rules = self.revocations.iter().rfind(|(_, at)| *at < sent);
            if rules.is_some_and(|(rules, _)| rules.lines().any(|rule| rule == token)) {
                self.violate(sighting.exchange, "given to an agent whose token was taken back");
            }
        }
    }

    /// Nobody is served later than it was willing to wait, and no body goes on that exceeds `--max-body`.
    pub(super) fn check_limits(&mut self, world: &World, rules: &Rules<'_>, hub: usize) {
        // What goes into others cannot be seen.
        let tunnels_are_plain =
            rules.setting.is_none_or(|setting| setting.agents.iter().all(|agent| !agent.is_tls));
        let of_agents =
            |end: &usize| world.ends[*end].process == hub && rules.is_agent(world.ends[end ^ 1].process);
        let ends = (0..world.ends.len()).filter(of_agents);
        let lost: Vec<_> = ends.filter_map(|end| world.ends[end].history.closed).map(|at| at.at).collect();
        for exchange in 0..self.records.len() {
            let (record, plan) = (&self.records[exchange], &self.exchanges[exchange]);
            let most = rules.setting.and_then(|setting| setting.hub.max_body);
            let is_long = most.is_some_and(|most| plan.request_length as u64 > most);
            if is_long && record.attempts.iter().any(|it| it.request_ends.is_some()) && !plan.is_upgrade() {
                self.violate(exchange, "reached an upstream whole, though it is longer than --max-body");
                continue;
            }
            let Some(client) = record.client.filter(|_| record.head_ends > 0 && self.is_honest) else {
                continue;
            };
            let arrived = reached(&world.ends[client ^ 1].history.read, record.head_ends);
            let of_hub = |it: &&Sighting| it.exchange == exchange && world.ends[it.end].process == hub;
            // It begins to wait when the requests before it on its connection are done.
            let is_first = self.records.iter().position(|it| it.client == Some(client)) == Some(exchange);
            let waits = plan.field.starts_with("Slime-Max-Wait") && is_first && !record.is_tls;
            let Some(arrived) = arrived.filter(|_| waits && tunnels_are_plain) else { continue };
            // It does not wait while its body is awaited, nor while a tunnel has it.
            let body_ends = record.head_ends + plan.request_length as u64;
            let read = &world.ends[client ^ 1].history.read;
            let has_begun = read.iter().any(|(total, _)| *total > record.head_ends);
            // Chunks have more bytes than the body: when the last one has come is not looked for.
            let whole = match (has_begun, plan.request) {
                (false, _) => Some(arrived.at),
                (true, Framing::Length) => reached(read, body_ends).map(|at| at.at),
                (true, _) => None,
            };
            let (mut since, mut waited) = (whole.map_or(Micros::MAX, |at| at.max(arrived.at)), 0);
            for sighting in world.sightings.iter().filter(of_hub) {
                let Some(sent) = sent(world, sighting) else { continue };
                // A hub that goes on looks first at what has come meanwhile: a worker may be free.
                let stopped = world.stopped_for(hub, since, sent.at);
                // It may have been on a tunnel that was lost before any of it had gone there.
                let is_known = !sighting.held_up
                    && !lost.iter().any(|at| (since.saturating_add(1)..=sent.at).contains(at));
                waited += if is_known { sent.at.saturating_sub(since + stopped) } else { 0 };
                since = world.ends[sighting.end].history.closed.map_or(Micros::MAX, |closed| closed.at);
            }
            if waited > MAX_WAIT {
                self.violate(exchange, format!("given to an agent when it had waited for {waited} us"));
            }
        }
    }

    /// What was in flight at upstreams beside requests of scripts.
    pub(super) fn probes(&self) -> impl Iterator<Item = (usize, &Attempt)> {
        (0..).map(|number| usize::MAX - number).zip(&self.probes)
    }
}

/// Whether an upstream dropped a connection of an agent that had begun to write, of which nothing came out,
/// or less than a head.
fn was_dropped_early(world: &World, rules: &Rules<'_>) -> bool {
    world.ends.iter().enumerate().any(|(end, it)| {
        let dropped = world.ends.get(end ^ 1).is_some_and(|other| other.history.dropped);
        let is_seen = world.sightings.iter().any(|sighting| sighting.end == end);
        let has_written = it.history.begun_late || !it.history.written.is_empty();
        rules.is_agent(it.process) && dropped && has_written && !is_seen
    })
}

/// Whether an agent closed a connection to the hub when the time of its handshake was over.
fn has_given_up_a_handshake(world: &World, rules: &Rules<'_>) -> bool {
    world.ends.iter().enumerate().any(|(end, it)| {
        let is_agents = rules.agents.iter().any(|(process, _)| *process == it.process);
        let is_to_hub = rules.hub == world.ends.get(end ^ 1).map(|other| other.process);
        let took = it.history.closed.map_or(0, |closed| closed.at - it.history.began);
        is_agents && is_to_hub && (HANDSHAKE - MILLI..HANDSHAKE + SECOND).contains(&took)
    })
}

/// When the beginning of a request was written.
pub(super) fn sent(world: &World, sighting: &Sighting) -> Option<Moment> {
    reached(&world.ends[sighting.end].history.written, sighting.begins + 1)
}
