//! What must hold of a cluster: always, and once all has come to rest.

use super::*;

impl Cluster {
    /// Waits until nothing is under way.
    pub(super) fn settle(&mut self) {
        // Signs of life own blocks while they are on their way, agents that are not let in try again, and
        // what lets them in is on its way for a while. Who withdrew, because its upstream did not answer a
        // probe, is about to come back.
        let (hub, agents, setting) = (Rc::clone(&self.hub), &self.agents, &self.setting);
        let is_quiet = |it: &Simulation| {
            let running = agents.iter().filter(|(place, _)| it.exit_code(place.net.process).is_none());
            let (mut blocks, mut joined) = (hub.borrow().census().1, 0);
            for (_, agent) in running {
                blocks += agent.borrow().census().1;
                joined += agent.borrow().core().census().idle;
            }
            let census = hub.borrow().core().census();
            census.clients + blocks == 0
                && census.tunnels == joined
                && incomplete(agents, setting, it).is_empty()
        };
        let end = self.simulation.now() + 60 * SECOND;
        self.simulation.run_until(end, is_quiet);
    }

    /// All clients are gone: what is left are idle tunnels and kept upstream connections.
    pub(super) fn check_rest(&mut self) {
        let mut violations = Vec::new();
        let hub = self.hub.borrow();
        let census = hub.core().census();
        if census.clients + census.exchanges + census.active + census.gathering + census.queued > 0 {
            violations.push(format!("left at the hub: {census:?}"));
        }
        let mut tunnels = 0;
        let mut blocks = vec![("hub".to_owned(), hub.census().1)];
        for (place, agent) in &self.agents {
            // Who finds its token rejected at once does not go on.
            if self.simulation.exit_code(place.net.process).is_some() {
                continue;
            }
            let agent = agent.borrow();
            let Census { idle: joined, upstreams, serving, .. } = agent.core().census();
            tunnels += joined;
            if serving > 0 || upstreams > place.targets.upstreams.len() * (5 + TUNNELS as usize) {
                violations
                    .push(format!("left at an agent: {serving} serving, {upstreams} upstream connections"));
            }
            blocks.push((place.net.world.borrow().hosts[place.net.process].name.clone(), agent.census().1));
        }
        for (joined, expected) in incomplete(&self.agents, &self.setting, &self.simulation) {
            violations.push(format!("an agent has {joined} tunnels, not {expected}"));
        }
        let retired = self.retired.iter().filter(|process| self.simulation.exit_code(**process).is_none());
        if retired.count() > 0 {
            violations.push("an agent never ended its drain".to_owned());
        }
        if census.tunnels != tunnels {
            violations.push(format!("{} tunnels at the hub, {tunnels} at the agents", census.tunnels));
        }
        for (name, blocks) in blocks.into_iter().filter(|(_, blocks)| *blocks > 0) {
            violations.push(format!("{blocks} blocks owned by buffers of {name} though nothing happens"));
        }
        let pipes = self.simulation.world.borrow().pipes.len();
        if pipes > 0 {
            violations.push(format!("{pipes} pipes taken though nothing happens"));
        }
        self.model.borrow_mut().violations.append(&mut violations);
    }
}

/// How many tunnels agents have that should have another number of them, and that number. None, where the hub
/// has no room for all.
fn incomplete(
    agents: &[(AgentPlace, Handle<Agent>)],
    setting: &Setting,
    simulation: &Simulation,
) -> Vec<(usize, usize)> {
    // Of agents of one name, which may be several, each tunnel replaces that of another one, if both stand
    // for the same worker: one may have lent its first worker, and have another one in its stead since.
    let mut of_names: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    // Who finds its token rejected at once does not go on.
    for (place, agent) in agents.iter().filter(|(it, _)| simulation.exit_code(it.net.process).is_none()) {
        let (processes, joined) = of_names.entry(place.number).or_default();
        *processes += 1;
        *joined += agent.borrow().core().census().idle;
    }
    let expected = |number| setting.tunnels(number, simulation.now());
    let has_room = of_names.keys().map(|it| expected(*it)).sum::<usize>() <= setting.hub.max_tunnels;
    let is_wrong = |number: usize, processes, joined| {
        let config = &setting.agents[number].config;
        let stand_in = if processes > 1 { config.extras() as usize * config.upstreams.len() } else { 0 };
        has_room && !(expected(number)..=expected(number) + stand_in).contains(&joined)
    };
    let wrong =
        of_names.into_iter().filter(|(number, (processes, joined))| is_wrong(*number, *processes, *joined));
    wrong.map(|(number, (_, joined))| (joined, expected(number))).collect()
}

pub(super) fn check_hub(shell: &Shell<Hub, SimNet>, promise: &Promise) -> Option<String> {
    let census = shell.core().census();
    let (conns, blocks) = shell.census();
    // What is held of requests beyond the first block of each is counted by itself.
    check_buffers("the hub", (conns, blocks.saturating_sub(census.held)), census.clients + census.tunnels)
        .or(shell.core().audit())
        .or(promise.exceeded(shell.buffer_bytes(), census))
}

/// Connections and blocks of a process: those of its tables, and as many as these may have.
pub(super) fn check_buffers(whose: &str, (conns, blocks): (usize, usize), entries: usize) -> Option<String> {
    let is_within = conns == entries && blocks <= entries * MOST_BLOCKS;
    (!is_within)
        .then(|| format!("{whose} has {conns} connections and {blocks} blocks for {entries} of its tables"))
}
