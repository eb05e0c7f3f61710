//! After a run, when all is quiet: links go silent, or an agent freezes, and both sides notice within three
//! signs of life.

use super::{Cluster, HUB_PORT};
use crate::client::Client;
use crate::model::{Outcome, Record};
use crate::plan::{Exchange, Mood, Session};
use crate::quirk::Quirk;
use crate::rng::Rng;
use crate::world::{Micros, SECOND};

impl Cluster {
    /// One or the other, by chance.
    pub(super) fn fall_silent(&mut self) {
        if self.rng.chance(500) || self.quirks.has(Quirk::Twins) {
            self.silence_links()
        } else {
            self.freeze_an_agent()
        }
        let time = 100 * SECOND;
        self.simulation.run_until(self.simulation.now() + time, |_| false);
    }

    fn heartbeat(&self) -> Micros {
        u64::try_from(self.setting.hub.limits.heartbeat.as_micros()).unwrap()
    }

    fn violate(&self, what: String) {
        self.model.borrow_mut().violations.push(what);
    }

    /// Nothing arrives any more on some of the idle tunnels.
    fn silence_links(&mut self) {
        let mut silent = Vec::new();
        for (place, agent) in &self.agents {
            let mut world = self.simulation.world.borrow_mut();
            let ends = world.hosts[self.hub_net.process].ends.clone();
            let of_agent = ends.into_iter().filter(|end| world.ends[end ^ 1].process == place.net.process);
            let of_agent: Vec<usize> = of_agent.collect();
            // Others are refused, or on their way.
            let are_tunnels = of_agent.len() == agent.borrow().core().census().idle;
            for end in of_agent.into_iter().filter(|_| are_tunnels) {
                // Where a few signs of life fill the window, the farewell behind them is waited for.
                if world.ends[end ^ 1].capacity >= 1000 && self.rng.chance(600) {
                    world.silence(end);
                    silent.push(end);
                }
            }
        }
        // Deadlines are rounded up to half a second.
        let (began, heartbeat, rounding) = (self.simulation.now(), self.heartbeat(), SECOND / 2);
        let of_agent = began + heartbeat * 9 / 2 + rounding + SECOND;
        // One that was replaced meanwhile is not in use any more, but lingers.
        let linger = u64::try_from(self.setting.hub.limits.linger.as_micros()).unwrap();
        let of_hub = began + 4 * (heartbeat + rounding) + SECOND + linger;
        for (at, side, whose) in [(of_agent, 1, "an agent"), (of_hub, 0, "the hub")] {
            self.simulation.run_until(at, |_| false);
            let world = self.simulation.world.borrow();
            let kept = silent.iter().filter(|end| !world.ends[**end ^ side].closed).count();
            if kept > 0 {
                self.violate(format!("{whose} keeps {kept} tunnels that have been silent for too long"));
            }
        }
    }

    /// An agent stops. It gets no work as soon as it owes a sign of life; another one serves.
    fn freeze_an_agent(&mut self) {
        let frozen = self.rng.length(0, self.agents.len() - 1);
        let heartbeat = self.heartbeat();
        self.simulation.freeze(self.agents[frozen].0.net.process, 6 * heartbeat);
        self.simulation.run_until(self.simulation.now() + heartbeat + 2 * SECOND, |_| false);
        let id = self.model.borrow().exchanges.len();
        let exchange = Exchange::plain(id, self.setting.hub.app_password.is_some());
        let is_served = self.agents.iter().enumerate().any(|(number, (place, agent))| {
            number != frozen
                && self.simulation.exit_code(place.net.process).is_none()
                // Not on what takes small questions alone.
                && agent.borrow().core().census().idle > self.setting.light_tunnels(place.number)
                && self.setting.permits(place.number, &exchange)
        });
        if !is_served {
            return;
        }
        {
            let mut model = self.model.borrow_mut();
            model.exchanges.push(exchange);
            model.records.push(Record::default());
        }
        let net = self.simulation.net("client-last");
        let process = net.process;
        let session = Session { pause: 0, exchanges: vec![id], pipelined: false };
        let (to, rng) = (self.hub_net.address(HUB_PORT), Rng::new(self.rng.next(), "client"));
        self.simulation.start(process, Client::new(net, &self.model, to, None, vec![session], rng));
        let end = self.simulation.now() + 5 * SECOND;
        self.simulation.run_until(end, |it| it.exit_code(process).is_some());
        let outcome = self.model.borrow().records[id].outcome;
        // An upstream that gives up a handshake before it is over is its agent's trouble, and that one was
        // free.
        if !matches!(outcome, Some(Outcome::Complete | Outcome::Own(502))) {
            self.violate(format!("{outcome:?} while an agent is frozen and another one is free"));
        }
    }
}

impl Exchange {
    /// The plainest there is.
    fn plain(id: usize, with_password: bool) -> Self {
        let mut it = Self::draw(id, Mood::Calm, 0, &mut Rng::new(0, "plain"));
        it.password = with_password.then_some(crate::setting::PASSWORD);
        it.make_plain();
        it
    }
}
