//! What hub and agents promise of single connections: who lets go of which, and when; and what may be said on
//! it.

use super::{Attempt, Model, Outcome, Record, Rules, flight_end, reached};
use crate::history::Moment;
use crate::model::promises::sent;
use crate::plan::Framing;
use crate::world::{Micros, SECOND, World};

/// How long an agent that has heard of the end of a handshake may keep its connection: the length of a turn.
const AT_ONCE: Micros = 2 * SECOND;
/// And one that has heard of the end of an upstream connection, of which it has read everything: others may
/// have to take that first.
const SOON: Micros = 120 * SECOND;
/// How long an upstream connection lasts between two requests, if it does: five seconds for the next one, and
/// five for its end.
const KEPT: Micros = 20 * SECOND;
/// By when everybody has noticed that a connection is silent: within about a minute.
const NOTICED: Micros = 120 * SECOND;

impl Model {
    pub(super) fn check_connections(&mut self, world: &World, rules: &Rules<'_>, hub: usize) {
        self.check_refusals(world, rules, hub);
        self.check_accepted(world, hub);
        self.check_suspects(world, rules);
        self.check_kept(world, rules);
        for end in 0..world.ends.len() {
            if rules.is_agent(world.ends[end].process) {
                self.check_heard(world, hub, end);
            }
            if rules.is_agent(world.ends[end].process) || world.ends[end].process == hub {
                self.check_silent(world, end);
            }
        }
    }

    /// An agent that refuses a request has sent nothing of it to its upstream: the request may go to another
    /// one.
    fn check_refusals(&mut self, world: &World, rules: &Rules<'_>, hub: usize) {
        for (number, answer) in world.answers.iter().enumerate().filter(|(_, it)| it.is_refusal) {
            let agent = world.ends[answer.end].process;
            let is_given = |at: Moment| at < answer.at;
            let given = world.sightings.iter().rev().find_map(|it| {
                let is_here = it.end == answer.end ^ 1 && world.ends[it.end].process == hub;
                Some((it.exchange, sent(world, it).filter(|at| is_here && is_given(*at))?))
            });
            let Some((exchange, given)) = given.filter(|_| rules.is_agent(agent)) else { continue };
            // On an idle tunnel it refuses what comes.
            let is_answered = |it: &crate::history::Answer| it.end == answer.end && it.at > given;
            if world.answers[..number].iter().any(is_answered) {
                continue;
            }
            let Some(record) = self.records.get(exchange) else { continue };
            let has_begun =
                record.attempts.iter().filter(|it| world.ends[it.end ^ 1].process == agent).any(|it| {
                    let begun = reached(&world.ends[it.end ^ 1].history.written, it.begins + 1);
                    begun.is_some_and(|begun| (given..answer.at).contains(&begun))
                });
            if has_begun {
                self.violate(exchange, "refused by an agent whose upstream had seen it");
            }
        }
    }

    /// Whoever had left before the hub took the connection is given nothing.
    fn check_accepted(&mut self, world: &World, hub: usize) {
        for sighting in world.sightings.iter().filter(|it| world.ends[it.end].process == hub) {
            let client = self.records.get(sighting.exchange).filter(|it| !it.is_tls).and_then(|it| it.client);
            let Some(history) = client.map(|client| &world.ends[client ^ 1].history) else { continue };
            if history.accepted.is_some_and(|accepted| history.fin_arrived.is_some_and(|fin| fin < accepted))
            {
                self.violate(sighting.exchange, "sent on though its client had left before it was accepted");
            }
        }
    }

    /// An upstream that had said nothing when a request was cancelled is asked for its health before it is
    /// given the next one. Where there is one worker it is plain which one that is.
    fn check_suspects(&mut self, world: &World, rules: &Rules<'_>) {
        let place = |it: &Attempt| (world.ends[it.end ^ 1].process, world.ends[it.end].process);
        let begun = |it: &Attempt| reached(&world.ends[it.end ^ 1].history.written, it.begins + 1);
        let mut wrong = Vec::new();
        let all = || {
            (0..).zip(&self.records).flat_map(|(number, it)| it.attempts.iter().map(move |it| (number, it)))
        };
        for (_, attempt) in all() {
            let agent = &world.ends[attempt.end ^ 1];
            let is_meant = rules.agent(world, attempt).is_some_and(|(_, config)| {
                let is_single = config.workers == 1 && config.extras() == 0 && config.light_paths.is_empty();
                is_single && config.health_path.is_some()
            });
            let (Some(began), Some(closed)) = (begun(attempt), agent.history.closed) else { continue };
            let is_unanswered = !agent.history.read.iter().any(|(_, at)| *at > began);
            let is_cancelled = is_unanswered && agent.history.told_end.is_none() && !agent.history.killed;
            if !is_meant || !is_cancelled || agent.silent_since.is_some() {
                continue;
            }
            let at_place = |(_, it): &(usize, &Attempt)| place(it) == place(attempt);
            let next = all().filter(at_place).filter_map(|(number, it)| Some((begun(it)?, number)));
            let Some((at, next)) = next.filter(|(at, _)| *at > closed).min() else { continue };
            let mut probes = self.probes.iter().filter(|it| place(it) == place(attempt)).filter_map(begun);
            if !probes.any(|probe| (closed..at).contains(&probe)) {
                wrong.push(next);
            }
        }
        for exchange in wrong {
            self.violate(
                exchange,
                "given to an upstream that said nothing of a request before, and was not asked",
            );
        }
    }

    /// An upstream connection is not kept for long between two requests: some servers serve nobody else
    /// meanwhile.
    fn check_kept(&mut self, world: &World, rules: &Rules<'_>) {
        for exchange in 0..self.records.len() {
            let (record, plan) = (&self.records[exchange], &self.exchanges[exchange]);
            let is_slow = plan.read_pace.is_some_and(|pace| pace.every > SECOND);
            // Whatever else ends an exchange may leave the agent with an answer that nobody takes.
            if plan.request == Framing::Upgrade || is_slow || record.outcome != Some(Outcome::Complete) {
                continue;
            }
            let ends = record.attempts.iter().filter(|it| rules.is_agent(world.ends[it.end ^ 1].process));
            let mut longest = 0;
            for attempt in ends.filter(|it| it.request_ends.is_some() && it.response_ends.is_some()) {
                let agent = &world.ends[attempt.end ^ 1];
                let Some(over) = flight_end(&agent.history, attempt) else { continue };
                let written = agent.history.written.iter().map(|(_, at)| *at).find(|at| *at > over);
                let until = [written, agent.history.closed, agent.history.told_end];
                let until = until.into_iter().flatten().map(|at| at.at).min().unwrap_or(world.clock);
                // The connection is in use until its response has been passed on.
                let since = over.at.max(record.taken(world, until));
                if agent.silent_since.is_none() && !world.was_stopped(agent.process, since, until) {
                    longest = longest.max(until.saturating_sub(since));
                }
            }
            if longest > KEPT {
                self.violate(exchange, format!("its upstream connection was kept idle for {longest} us"));
            }
        }
    }

    /// An agent that has been told of the end of a connection lets go of it.
    fn check_heard(&mut self, world: &World, hub: usize, number: usize) {
        let end = &world.ends[number];
        let Some(told) = end.history.told_end.filter(|_| !end.history.killed) else { return };
        let (read, last) = end.history.read.last().map_or((0, told.at), |(total, at)| (*total, at.at));
        let is_of_hub = world.ends[number ^ 1].process == hub;
        let is_upgraded = self.exchanges.iter().zip(&self.records).any(|(plan, record)| {
            plan.request == Framing::Upgrade && record.attempts.iter().any(|it| it.end ^ 1 == number)
        });
        let limit = match (is_of_hub, read) {
            (true, 0) => AT_ONCE,
            (false, read) if read >= end.history.arrived && !is_upgraded => SOON,
            (true | false, _) => return,
        };
        let kept_until = end.history.closed.map_or(world.clock, |closed| closed.at);
        // What was read before the end is passed on first.
        let of_this = |it: &&Record| it.attempts.iter().any(|it| it.end ^ 1 == number);
        let taken = self.records.iter().filter(of_this).map(|it| it.taken(world, kept_until)).max();
        let since = told.at.max(last).max(taken.unwrap_or(0));
        // A hub that is stopped takes nothing of what an upstream said before its end.
        let stopped =
            world.stopped_for(end.process, since, kept_until) + world.stopped_for(hub, since, kept_until);
        if kept_until > since + limit + stopped {
            let whose = &world.hosts[world.ends[number ^ 1].process].name;
            let line = format!(
                "an agent kept a connection to {whose} from {since} to {kept_until}, though it had ended"
            );
            self.violations.push(line);
        }
    }

    /// Each side notices within about a minute that a connection is silent.
    fn check_silent(&mut self, world: &World, number: usize) {
        let end = &world.ends[number];
        let Some(since) = end.silent_since.filter(|_| !end.history.killed && end.connected) else { return };
        let kept_until = end.history.closed.map_or(world.clock, |closed| closed.at);
        // Of a side that had said its last there is nothing to notice: what it said is passed on.
        let had_ended = end.history.told_end.is_some_and(|told| told.at < since);
        let is_late = kept_until > since + NOTICED && !world.was_stopped(end.process, since, kept_until);
        if is_late && !had_ended {
            let of = |end: usize| &world.hosts[world.ends[end].process].name;
            let (who, whom) = (of(number), of(number ^ 1));
            self.violations.push(format!(
                "{who} kept a connection to {whom} that was silent from {since} to {kept_until}"
            ));
        }
    }
}
