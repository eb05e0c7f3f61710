//! The scripts against a relay of bytes: what they check is true of it, and what it does wrong on purpose is
//! noticed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::client::Client;
use crate::for_each_seed;
use crate::model::{Model, Outcome, Rules};
use crate::plan::{Fault, How, Mood, draw_sessions};
use crate::relay::{Flaw, Relay};
use crate::rng::Rng;
use crate::scheduler::Simulation;
use crate::theme::Theme;
use crate::upstream::{PORT, Upstream};
use crate::world::{SECOND, Weather};

const RELAY_PORT: u16 = 80;

/// What came of a run.
#[derive(Debug, PartialEq, Eq)]
struct Report {
    violations: Vec<String>,
    outcomes: Vec<Option<Outcome>>,
    trace: u64,
}

/// Applications, a relay, upstreams.
fn run(seed: u64, mood: Mood, flaw: Flaw, workers: Option<usize>) -> Report {
    let mut rng = Rng::new(seed, "scenario");
    let weather = Weather::draw(&mut rng);
    let weather = if mood == Mood::Calm { weather.harmless() } else { weather };
    let most = if weather.narrow { 3000 } else { 100_000 };
    let mut simulation = Simulation::new(seed, weather);

    let (mut exchanges, mut sessions) = (Vec::new(), Vec::new());
    for _ in 0..rng.length(1, 5) {
        let first = exchanges.len();
        let (more, these) =
            draw_sessions(first..first + rng.length(1, 5), mood, Theme::Anything, most, &mut rng, |_| {});
        exchanges.extend(more);
        sessions.push(these);
    }
    // Nothing between could tell an upstream's silent close from a lost request.
    let idle = 100_000 * SECOND;
    // The relay passes on whatever it gets.
    for exchange in exchanges.iter_mut().filter(|it| matches!(it.fault, Some(Fault::Garbage))) {
        exchange.fault = Some(Fault::CutResponse(150, How::Reset));
    }
    let model = Model::new(mood, exchanges);

    let upstreams: Vec<_> = (0..rng.length(1, 3)).map(|_| simulation.net("upstream")).collect();
    let relay = simulation.net("relay");
    let addresses = upstreams.iter().map(|net| net.address(PORT)).collect();
    for net in upstreams {
        let outages = if mood == Mood::Stormy && rng.chance(200) {
            let from = simulation.now() + rng.within(0, 10 * SECOND);
            vec![(from, from + rng.within(1, 20 * SECOND))]
        } else {
            Vec::new()
        };
        let rng = Rng::new(rng.next(), "upstream");
        simulation.start(net.process, Upstream::new(net, &model, None, idle, outages, rng));
    }
    let (hub, address) = (relay.process, relay.address(RELAY_PORT));
    simulation.start(hub, Relay::new(relay, RELAY_PORT, addresses, flaw));
    let mut clients = Vec::new();
    for sessions in sessions {
        let net = simulation.net("client");
        clients.push(net.process);
        let rng = Rng::new(rng.next(), "client");
        simulation.start(net.process, Client::new(net, &model, address, None, sessions, rng));
    }

    if mood == Mood::Stormy && rng.chance(300) {
        let at = simulation.now() + rng.within(0, 20 * SECOND);
        simulation.run_until(at, |_| false);
        simulation.freeze(hub, rng.within(0, 100 * SECOND));
    }
    let end = simulation.now() + 100_000 * SECOND;
    let done = |it: &Simulation| clients.iter().all(|client| it.exit_code(*client).is_some());
    if !simulation.run_until(end, done) {
        model.borrow_mut().violations.push("the clients never came to an end".into());
    }
    // Whatever the weather did to a connection, the kernels give it up at last.
    let end = simulation.now() + 2000 * SECOND;
    simulation.run_until(end, |_| false);
    let world = simulation.world.borrow();
    let mut model = model.borrow_mut();
    model.check_end(&world, &Rules { workers, ..Rules::default() });
    if !world.peers(hub).is_empty() {
        model.violations.push(format!("connections left: to {:?}", world.peers(hub)));
    }
    if !model.violations.is_empty() {
        model.describe();
    }
    let outcomes = model.records.iter().map(|record| record.outcome).collect();
    Report { violations: std::mem::take(&mut model.violations), outcomes, trace: world.trace() }
}

fn check(seed: u64, mood: Mood) {
    let report = run(seed, mood, Flaw::None, None);
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
}

#[test]
fn in_calm_weather_everything_succeeds() {
    for_each_seed(60, |seed| check(seed, Mood::Calm));
}

#[test]
fn in_a_storm_nothing_is_wrong() {
    for_each_seed(100, |seed| check(seed, Mood::Stormy));
}

#[test]
fn a_seed_gives_the_same_trace_twice() {
    for seed in 0..8 {
        assert_eq!(run(seed, Mood::Stormy, Flaw::None, None), run(seed, Mood::Stormy, Flaw::None, None));
    }
}

#[test]
fn storms_bring_all_outcomes() {
    let reports: Vec<_> = (0..40).map(|seed| run(seed, Mood::Stormy, Flaw::None, None)).collect();
    let outcomes: Vec<_> =
        reports.iter().flat_map(|report| report.outcomes.iter().flatten().copied()).collect();
    for wanted in [Outcome::Complete, Outcome::Cut, Outcome::Nothing, Outcome::Left, Outcome::Dropped] {
        let count = outcomes.iter().filter(|outcome| **outcome == wanted).count();
        assert!(count >= 5, "{wanted:?}: {count} of {}", outcomes.len());
    }
}

/// Whether any of some seeds notices a flaw.
fn is_noticed(flaw: Flaw, mood: Mood, workers: Option<usize>) -> bool {
    (0..40).any(|seed| {
        catch_unwind(AssertUnwindSafe(|| run(seed, mood, flaw, workers)))
            .map_or(true, |report| !report.violations.is_empty())
    })
}

#[test]
fn flaws_are_noticed() {
    for flaw in [Flaw::Misdeliver, Flaw::Lose, Flaw::MissEnd, Flaw::Spin] {
        assert!(is_noticed(flaw, Mood::Calm, None), "{flaw:?}");
    }
    assert!(is_noticed(Flaw::CutCleanly, Mood::Stormy, None));
    assert!(is_noticed(Flaw::None, Mood::Calm, Some(1)), "a relay lets two requests in at once");
}
