//! Processes that stop, and connections that go silent, in each phase of an exchange.

use super::Cluster;
use crate::model::{Model, Record};
use crate::plan::{Exchange, Framing};
use crate::scheduler::Simulation;
use crate::world::{SECOND, World};

/// What a connection of an agent is in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A handshake with the hub.
    Handshake,
    /// Nothing: it is a tunnel that no request has come on.
    Idle,
    /// Waiting for the head of a response.
    Head,
    /// A response.
    Body,
    /// An upgraded exchange.
    Upgraded,
}

const PHASES: [Phase; 5] = [Phase::Handshake, Phase::Idle, Phase::Head, Phase::Body, Phase::Upgraded];

impl Phase {
    /// The end of a connection of one of these agents that is in this phase: to the hub, or to an upstream.
    fn find(self, world: &World, model: &Model, hub: usize, agents: &[usize]) -> Option<usize> {
        let mut ends = agents.iter().flat_map(|agent| &world.hosts[*agent].ends).copied();
        ends.find(|end| {
            let (here, there) = (&world.ends[*end].history, &world.ends[*end ^ 1]);
            if there.process == hub {
                return match self {
                    Self::Handshake => !here.written.is_empty() && here.read.is_empty(),
                    Self::Idle => {
                        !here.read.is_empty() && world.sightings.iter().all(|it| it.end != *end ^ 1)
                    }
                    Self::Head | Self::Body | Self::Upgraded => false,
                };
            }
            let is_on = |it: &(&Exchange, &Record)| it.1.attempts.last().is_some_and(|it| it.end == *end ^ 1);
            let Some((plan, record)) = model.exchanges.iter().zip(&model.records).find(is_on) else {
                return false;
            };
            let is_over = record.attempts.last().is_some_and(|it| it.response_ends.is_some());
            match self {
                Self::Head => here.read.is_empty(),
                Self::Body => !here.read.is_empty() && !is_over && plan.request != Framing::Upgrade,
                Self::Upgraded => !here.read.is_empty() && plan.request == Framing::Upgrade,
                Self::Handshake | Self::Idle => false,
            }
        })
    }
}

impl Cluster {
    /// Waits until an agent connects to an upstream, and stops it for a moment: what comes meanwhile is one
    /// event.
    pub(super) fn stop_while_dialling(&mut self) {
        let agents: Vec<usize> = self.agents.iter().map(|(place, _)| place.net.process).collect();
        let hub = self.hub_net.process;
        let mut found = None;
        let is_found = |it: &Simulation| {
            let world = it.world.borrow();
            found = agents.iter().copied().find(|agent| {
                world.hosts[*agent].ends.iter().any(|end| {
                    // Its SYN has arrived, and it has not heard of that.
                    let there = world.ends[*end ^ 1].process;
                    !world.ends[*end].connected && there != *agent && there != hub
                })
            });
            found.is_some()
        };
        self.simulation.run_until(self.simulation.now() + 10 * SECOND, is_found);
        let Some(agent) = found else { return };
        let time = self.odd.within(SECOND / 2, 2 * SECOND);
        self.simulation.freeze(agent, time);
        self.simulation.run_until(self.simulation.now() + time, |_| false);
    }

    /// Waits for a connection that is in some phase. Then one of those who have to do with it stops, or it
    /// goes silent.
    pub(super) fn freeze_in_a_phase(&mut self) {
        let phase = self.odd.pick(&PHASES);
        let hub = self.hub_net.process;
        let agents: Vec<usize> = self.agents.iter().map(|(place, _)| place.net.process).collect();
        let mut found = None;
        let is_found = |it: &Simulation| {
            found = phase.find(&it.world.borrow(), &self.model.borrow(), hub, &agents);
            found.is_some()
        };
        self.simulation.run_until(self.simulation.now() + 60 * SECOND, is_found);
        let Some(end) = found else { return };
        self.model.borrow_mut().is_honest = false;
        if self.odd.chance(400) {
            self.simulation.world.borrow_mut().silence(end);
            return;
        }
        let (agent, other) = {
            let world = self.simulation.world.borrow();
            (world.ends[end].process, world.ends[end ^ 1].process)
        };
        let process = self.odd.pick(&[agent, other, hub]);
        let time = self.odd.pick(&[20, 100, 400]) * SECOND;
        self.simulation.freeze(process, time);
    }
}
