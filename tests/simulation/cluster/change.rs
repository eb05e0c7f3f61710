//! What happens to processes by their owners' doing: agents are replaced by others of the same name, or by
//! ones whose token says something else; processes are stopped and go on; agents end, and come late.

use std::time::Duration;

use slime::config::OnCancel;
use slime::net::Event;
use slime::net::shell::Endpoint;

use super::{AgentPlace, Cluster, HUB_PORT, HUB_TLS_PORT, start_agent};
use crate::calls::SimNet;
use crate::model::Record;
use crate::plan::{Mood, PATIENT};
use crate::quirk::{Quirk, Quirks};
use crate::rng::Rng;
use crate::scheduler::Simulation;
use crate::setting::{AgentSetting, Setting};
use crate::world::{Delivery, MILLI, Micros, SECOND, Weather};

/// The exchanges that are small questions, where some are.
const QUESTIONS: [usize; 9] = [0, 2, 3, 5, 8, 11, 13, 20, 30];

impl Quirks {
    pub(super) fn change_weather(&self, mood: Mood, weather: &mut Weather, rng: &mut Rng) {
        // Where every byte is waited for, all would last for ever.
        if self.has(Quirk::Dozing) && !weather.narrow {
            weather.dozing = rng.pick(&[50, 200]);
        }
        if self.has(Quirk::Stops) && mood == Mood::Calm {
            // A head of which the window took a part, when its sender was stopped, is late for its receiver.
            (weather.wide, weather.narrow) = (true, false);
        }
        if self.has(Quirk::TurnsAway) {
            weather.turns_away = 500;
            // An agent that runs late finds connection, answer and end in one event.
            weather.dozing = if weather.narrow { weather.dozing } else { 200 };
        }
        if self.has(Quirk::Fronts) {
            weather.fronts = 300;
        }
        if self.has(Quirk::Deaf) {
            // Kernels take what they have room for at once: what is taken later was read.
            (weather.deaf, weather.short, weather.block) = (300, 0, 0);
        }
        if self.has(Quirk::Deserters) {
            (weather.windows, weather.wide, weather.narrow) = (true, true, false);
        }
        if self.has(Quirk::Restarts) {
            // A refusal that has no room cannot be seen.
            weather.narrow = false;
        }
        if self.has(Quirk::Trickles) {
            (weather.wide, weather.narrow, weather.largest) = (false, false, Some(8000));
        }
        if self.has(Quirk::SmallBatches) {
            weather.batch = Some(rng.pick(&[1, 2, 5]));
        }
        if self.has(Quirk::Names) {
            let longest = if mood == Mood::Calm { SECOND } else { 20 * SECOND };
            weather.slow_names = rng.pick(&[0, 100 * MILLI, longest]);
        }
    }

    pub(super) fn change_setting(&self, mood: Mood, setting: &mut Setting, rng: &mut Rng) {
        if self.has(Quirk::Stops) {
            // No agent joins a hub that is stopped.
            setting.hub.startup_grace = Duration::from_secs(300);
        }
        if self.has(Quirk::Deaf) {
            // Probes would find that the upstream does not answer.
            setting.agents.iter_mut().for_each(|it| it.config.health_path = None);
        }
        if self.has(Quirk::Frames) {
            setting.agents.iter_mut().for_each(|it| it.config.websocket = true);
        }
        if self.has(Quirk::Streams) {
            // In calm weather nothing is refused: there are fewer exchanges in a run. More would make each
            // turn slow to audit.
            let extra = if mood == Mood::Calm { 60 } else { rng.pick(&[1, 1, 2, 5]) };
            setting.agents.iter_mut().for_each(|it| it.config.extra_streams = extra);
        }
        if self.has(Quirk::Questions) {
            let paths: Vec<String> = QUESTIONS.iter().map(|exchange| format!("/e/{exchange}")).collect();
            setting.agents.iter_mut().for_each(|it| it.config.light_paths = paths.clone());
        }
        if self.has(Quirk::Fronts) {
            // Agents try WebSocket then.
            setting.is_framed = true;
        }
        if self.has(Quirk::Loads) {
            setting.agents.iter_mut().for_each(|it| it.config.health_path = Some("/health".to_owned()));
        }
        if self.has(Quirk::Untimely) {
            // All can serve everything, and there is always somebody who waits.
            setting.hub.concurrent = 1024;
            let scopes = setting.agents[0].token.scopes.clone();
            for agent in &mut setting.agents {
                (agent.config.workers, agent.is_tls) = (1, false);
                (agent.token.scopes, agent.token.scope_paths) = (scopes.clone(), Vec::new());
                agent.seal();
            }
        }
        if self.has(Quirk::Trickles) {
            setting.hub.queue_timeout = Duration::from_secs(20_000);
        }
        if self.has(Quirk::Restarts) {
            // What agents refuse is to be seen.
            setting.agents.iter_mut().for_each(|it| (it.config.websocket, it.is_tls) = (false, false));
        }
        if self.has(Quirk::Hangs) {
            // Whoever leaves makes a probe due.
            for AgentSetting { config, .. } in &mut setting.agents {
                (config.workers, config.extra_upgrades, config.extra_streams) = (1, 0, 0);
                (config.on_cancel, config.health_path) = (OnCancel::Close, Some("/health".to_owned()));
                config.light_paths.clear();
            }
        }
        if self.has(Quirk::Nods) {
            // There is always somebody who waits.
            setting.agents.iter_mut().for_each(|it| (it.config.workers, it.is_tls) = (1, false));
        }
        if self.has(Quirk::Deserters) || self.has(Quirk::Collapses) {
            setting.agents.iter_mut().for_each(|it| it.config.workers = 1);
        }
        if self.has(Quirk::Drains) || self.has(Quirk::Trickles) || self.has(Quirk::Untimely) {
            setting.hub.drain_timeout = Duration::from_secs(20_000);
            for agent in &mut setting.agents {
                agent.config.drain_timeout = Duration::from_secs(20_000);
                agent.config.upgrade_drain = Duration::from_secs(20_000);
            }
        }
        if self.has(Quirk::Twins) || self.has(Quirk::Rolls) {
            let most = rng.pick(&[None, Some(1), Some(1), Some(2)]);
            for agent in setting.agents.iter_mut().filter(|_| most.is_some()) {
                agent.token.max_workers = most;
                agent.seal();
            }
        }
    }
}

/// When an upstream is started anew, from now on: it is back while its agents are still taken for connected.
pub(super) fn draw_restarts(now: Micros, rng: &mut Rng) -> Vec<(Micros, Micros)> {
    let begins =
        (0..rng.within(1, 3)).map(|number| now + number * 30 * SECOND + rng.within(SECOND, 25 * SECOND));
    let begins: Vec<Micros> = begins.collect();
    begins.into_iter().map(|begins| (begins, begins + rng.within(MILLI, 1500 * MILLI))).collect()
}

impl Simulation {
    /// Gives a host a name that some other addresses have, too. There nobody listens, or nobody is.
    pub(super) fn give_name(&self, name: &str, net: &SimNet, rng: &mut Rng) {
        let mut addresses = vec![net.address(0).ip()];
        if rng.chance(700) {
            addresses.push(self.net("nobody").address(0).ip());
        }
        if rng.chance(300) {
            // What is sent there is lost.
            addresses.push([10, 9, 9, 9].into());
        }
        self.world.borrow_mut().names.insert(name.to_owned(), addresses);
    }
}

impl AgentPlace {
    /// A place for one more process of the same name.
    pub(super) fn twin(&self, simulation: &Simulation) -> Self {
        Self {
            net: simulation.net(&format!("agent{}-again", self.number)),
            number: self.number,
            targets: self.targets.clone(),
            upstreams_tls: self.upstreams_tls.clone(),
        }
    }
}

impl Cluster {
    /// What the quirks of this run do to processes while there is something to do.
    pub(super) fn change(&mut self) {
        if self.quirks.has(Quirk::Rolls) {
            self.model.borrow_mut().is_honest = false;
            for _ in 0..self.odd.length(1, 3) {
                self.wait_at_most(10 * SECOND);
                self.roll();
            }
        }
        if self.quirks.has(Quirk::Drains) && self.agents.len() > 1 {
            for _ in 0..self.odd.length(1, 3) {
                self.wait_at_most(20 * SECOND);
                self.drain_and_restart();
            }
        }
        if self.quirks.has(Quirk::Untimely) && self.agents.len() > 1 {
            for _ in 0..5 {
                self.drain_in_a_handshake();
            }
        }
        if self.quirks.has(Quirk::TurnsAway) {
            for _ in 0..10 {
                self.stop_while_dialling();
            }
        }
        if self.quirks.has(Quirk::Freezes) {
            for _ in 0..self.odd.length(1, 3) {
                self.wait_at_most(5 * SECOND);
                self.freeze_in_a_phase();
            }
        }
        if self.quirks.has(Quirk::Exodus) {
            self.wait_at_most(20 * SECOND);
            self.leave_alone();
        }
        if self.quirks.has(Quirk::Nods) {
            for _ in 0..8 {
                self.wait_at_most(SECOND);
                let time = self.odd.within(SECOND, 6 * SECOND);
                self.simulation.freeze(self.hub_net.process, time);
                self.simulation.run_until(self.simulation.now() + time, |_| false);
            }
        }
        if self.quirks.has(Quirk::Stops) {
            for _ in 0..self.odd.length(1, 3) {
                self.wait_at_most(20 * SECOND);
                self.stop();
            }
        }
    }

    fn wait_at_most(&mut self, time: Micros) {
        let until = self.simulation.now() + self.odd.within(0, time);
        self.simulation.run_until(until, |_| false);
    }

    /// An agent ends as it should, though not the one that serves everything, and is started anew. Nothing is
    /// lost.
    fn drain_and_restart(&mut self) {
        let index = self.odd.length(1, self.agents.len() - 1);
        self.drain_agent(index);
        self.restart(index);
    }

    /// An agent is told to end when the hub has given it a request behind its answer to the handshake, and
    /// none of that was read.
    fn drain_in_a_handshake(&mut self) {
        let (hub, first) = (self.hub_net.process, self.agents[0].0.net.process);
        let mut met = None;
        let is_met = |it: &Simulation| {
            let world = it.world.borrow();
            let last = world.sightings.last().filter(|last| world.ends[last.end].process == hub);
            met = last.map(|last| &world.ends[last.end ^ 1]).and_then(|agent| {
                let is_joining = agent.history.read.is_empty() && agent.history.closed.is_none();
                (is_joining && agent.process != first).then_some(agent.process)
            });
            met.is_some()
        };
        self.simulation.run_until(self.simulation.now() + 30 * SECOND, is_met);
        let index = self.agents.iter().position(|(place, _)| Some(place.net.process) == met);
        let index = index.unwrap_or_else(|| self.odd.length(1, self.agents.len() - 1));
        self.drain_agent(index);
        self.restart(index);
    }

    fn drain_agent(&mut self, index: usize) {
        let process = self.agents[index].0.net.process;
        let now = self.simulation.now();
        let told = Delivery::Told(process, Event::Terminate);
        self.simulation.world.borrow_mut().deliver_at(now, told);
        let ended = |it: &Simulation| it.exit_code(process).is_some();
        self.simulation.run_until(now + 20_000 * SECOND, ended);
        let exit = self.simulation.exit_code(process);
        if exit != Some(0) && self.mood == Mood::Calm {
            let line = format!("an agent ended its drain with {exit:?}");
            self.model.borrow_mut().violations.push(line);
        }
        self.simulation.kill(process);
    }

    /// All agents go, and nobody waits for them for long. Then they come back.
    fn leave_alone(&mut self) {
        self.model.borrow_mut().is_honest = false;
        let is_revoked = self.odd.chance(400);
        if is_revoked {
            let names: Vec<_> = self.setting.agents.iter().map(|it| it.token.name.clone()).collect();
            self.revoke(names.join("\n"));
        } else {
            for index in 0..self.agents.len() {
                self.simulation.kill(self.agents[index].0.net.process);
            }
        }
        // While the hub takes every agent for connected, all may wait for any; while it is stopped it tells
        // nobody anything.
        let grace = u64::try_from(self.setting.hub.startup_grace.as_micros()).unwrap_or(0);
        let thaw = self.simulation.frozen_until(self.hub_net.process);
        let known = (self.hub_began + grace).max(thaw).max(self.simulation.now());
        self.simulation.run_until(known + 20 * SECOND, |_| false);
        let waiting = self.hub.borrow().core().census().queued;
        let patient = {
            let model = self.model.borrow();
            let waits = model.exchanges.iter().zip(&model.records);
            let has_come = |record: &Record| record.head_ends > 0 && record.outcome.is_none();
            waits.filter(|(it, record)| it.field == PATIENT && has_come(record)).count()
        };
        // Links that have gone silent are taken for agents for longer, and these may belong to others.
        let is_clear = {
            let world = self.simulation.world.borrow();
            world.weather.blackhole + world.weather.ambush == 0
                && !self.hostile_agents
                && self.retired.is_empty()
        };
        if waiting > patient && is_clear {
            let line =
                format!("{waiting} requests, {patient} of them patient, wait for agents that are gone");
            self.model.borrow_mut().violations.push(line);
        }
        if is_revoked {
            self.revoke(String::new());
        } else {
            for index in 0..self.agents.len() {
                self.restart(index);
            }
        }
    }

    /// Another process takes the place of an agent, which ends then, if it does not go on for a while.
    fn roll(&mut self) {
        let index = self.odd.length(0, self.agents.len() - 1);
        let mut place = self.agents[index].0.twin(&self.simulation);
        if self.odd.chance(300) {
            place.number = self.setting.change_token(place.number, &mut self.odd);
            let is_tls = self.setting.agents[place.number].is_tls;
            let port = if is_tls { HUB_TLS_PORT } else { HUB_PORT };
            place.targets.hub = place.targets.hub.take().map(|hub| Endpoint { port, ..hub });
        }
        let seed = self.odd.next();
        let shell = start_agent(&mut self.simulation, &place, &self.setting, &self.model, seed);
        self.agents_ever.push((place.net.process, place.number));
        let (old, _) = std::mem::replace(&mut self.agents[index], (place, shell));
        let old = old.net.process;
        self.wait_at_most(if self.odd.clone().chance(500) { 20 * SECOND } else { SECOND });
        if self.odd.chance(300) {
            self.simulation.kill(old);
        } else {
            let told = Delivery::Told(old, Event::Terminate);
            let now = self.simulation.now();
            self.simulation.world.borrow_mut().deliver_at(now, told);
            self.retired.push(old);
        }
    }

    /// A process is stopped, and goes on later. In calm weather not for so long that anybody may give it up.
    fn stop(&mut self) {
        let heartbeat = u64::try_from(self.setting.hub.limits.heartbeat.as_micros()).unwrap_or(0);
        let is_calm = self.mood == Mood::Calm;
        let (process, longest) = if self.odd.chance(500) {
            (self.hub_net.process, heartbeat * 5 / 2)
        } else {
            let index = self.odd.length(0, self.agents.len() - 1);
            (self.agents[index].0.net.process, heartbeat * 9 / 5)
        };
        let longest = if is_calm { longest } else { 200 * SECOND };
        let time = self.odd.within(longest / 2, longest);
        self.simulation.freeze(process, time);
        self.model.borrow_mut().is_honest &= is_calm;
        if is_calm {
            let until = self.simulation.now() + time + 2 * heartbeat;
            self.simulation.run_until(until, |_| false);
        }
    }
}
