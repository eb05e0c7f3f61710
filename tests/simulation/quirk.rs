//! What a run has beside its theme and its weather: what machines, networks and their owners do now and then,
//! each by its own chance. They are drawn apart from everything else, so that a run without any is as it was
//! before there were any.
//!
//! `SLIME_QUIRKS=Twins,Stops` gives every run these and no others.

use crate::plan::{Exchange, Fault, Framing, How, Mood, Pace, When};
use crate::rng::Rng;
use crate::world::{MILLI, SECOND};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quirk {
    /// Processes run late, so that what happened meanwhile is one event: a connection, what came on it, its
    /// end.
    Dozing,
    /// A poll tells of a few events at most and leaves the others to the next one.
    SmallBatches,
    /// Processes are stopped for a while, and the poll that they are in is interrupted when they go on.
    Stops,
    /// The hub is stopped for a moment, again and again, in which applications come and leave, and workers
    /// become free.
    Nods,
    /// Names have several addresses, not all of which are of use, and are looked up slowly.
    Names,
    /// Two processes are one agent.
    Twins,
    /// Agents are replaced by new processes of the same name while they serve, or by ones with another token.
    Rolls,
    /// Applications stop in the middle of a request and stay.
    Halts,
    /// Upstreams say nothing for ever, or nothing of `100 Continue`.
    Mutes,
    /// Upstreams say nothing, again and again, and are given up by those who asked, while others wait.
    Hangs,
    /// Kept upstream connections break in the middle of a head.
    Breaks,
    /// Upstreams answer connections before a request has come on them.
    TurnsAway,
    /// Upstreams are killed by requests.
    Crashes,
    /// Upstreams begin to read late.
    Deaf,
    /// Applications take very little at a time, and seldom.
    Trickles,
    /// Upstreams think for longer than anybody's time limit for bytes.
    Thinks,
    /// Upstreams are started anew, and are back before their agents are forgotten.
    Restarts,
    /// Agents end as they should, and are started anew.
    Drains,
    /// All agents go while requests wait.
    Exodus,
    /// Agents come late, and all applications that the hub takes wait for them.
    Waiters,
    /// Applications leave while their uploads wait, and their FIN cannot arrive before the hub has read on.
    Deserters,
    /// Agents join by WebSocket handshakes.
    Frames,
    /// Some responses are streams of events, and lend their workers.
    Streams,
    /// Some requests are small questions, which are served beside the workers.
    Questions,
    /// Upstreams end when they get a request on a connection that they kept.
    Collapses,
    /// Agents are told to end in the middle of a handshake, when a request has just been given to them.
    Untimely,
    /// What stands before the hub ends connections in the middle of a handshake.
    Fronts,
    /// In each phase of an exchange a process is stopped, or a connection goes silent.
    Freezes,
    /// Upstreams answer, and are not ready yet.
    Loads,
}

/// How many of a thousand runs have each of them, in calm weather and in a storm.
const CHANCES: [(Quirk, u64, u64); 29] = [
    (Quirk::Dozing, 150, 150),
    (Quirk::SmallBatches, 150, 150),
    (Quirk::Stops, 100, 60),
    (Quirk::Nods, 0, 60),
    (Quirk::Names, 150, 150),
    (Quirk::Twins, 0, 60),
    (Quirk::Rolls, 0, 80),
    (Quirk::Halts, 0, 60),
    (Quirk::Mutes, 0, 60),
    (Quirk::Hangs, 40, 60),
    (Quirk::Breaks, 80, 60),
    (Quirk::TurnsAway, 0, 100),
    (Quirk::Crashes, 0, 40),
    (Quirk::Deaf, 60, 40),
    (Quirk::Trickles, 80, 0),
    (Quirk::Thinks, 80, 40),
    (Quirk::Restarts, 60, 0),
    (Quirk::Drains, 80, 0),
    (Quirk::Exodus, 0, 60),
    (Quirk::Waiters, 40, 0),
    (Quirk::Deserters, 0, 80),
    (Quirk::Frames, 100, 100),
    (Quirk::Streams, 100, 60),
    (Quirk::Questions, 100, 60),
    (Quirk::Collapses, 0, 60),
    (Quirk::Untimely, 80, 0),
    (Quirk::Fronts, 80, 60),
    (Quirk::Freezes, 0, 80),
    (Quirk::Loads, 80, 60),
];

/// Those of one run.
#[derive(Clone, Debug)]
pub(crate) struct Quirks(Vec<Quirk>);

impl Quirks {
    pub(crate) fn draw(seed: u64, mood: Mood) -> Self {
        if let Ok(names) = std::env::var("SLIME_QUIRKS") {
            let is_named = |quirk: &Quirk| names.split(',').any(|name| name == format!("{quirk:?}"));
            return Self(CHANCES.iter().map(|(quirk, ..)| *quirk).filter(is_named).collect());
        }
        let mut rng = Rng::new(seed, "quirks");
        let mut drawn = |calm, stormy| rng.chance(if mood == Mood::Calm { calm } else { stormy });
        let chosen = CHANCES.iter().filter(|(_, calm, stormy)| drawn(*calm, *stormy));
        let mut chosen: Vec<Quirk> = chosen.map(|(quirk, ..)| *quirk).collect();
        if chosen.contains(&Quirk::Waiters) {
            // They ask on one connection after the other, of which the hub takes no more than it has waiters.
            chosen.retain(|quirk| !matches!(quirk, Quirk::Hangs | Quirk::Untimely));
        }
        Self(chosen)
    }

    /// Makes of an exchange what this run is about.
    pub(crate) fn change(&self, mood: Mood, it: &mut Exchange, rng: &mut Rng) {
        let is_whole = it.fault.is_none() && it.leave.is_none();
        // Whoever sends nothing after an upgrade is not late.
        let may_halt = self.has(Quirk::Halts) && mood == Mood::Stormy && !it.is_upgrade();
        if may_halt && rng.chance(300) {
            (it.fault, it.leave, it.early) = (None, None, None);
            it.halt = Some(rng.length(0, it.request_length + 300));
            if it.request_length > 0 && rng.chance(500) {
                (it.expect, it.says_continue) = (!it.http10, false);
            }
        }
        if self.has(Quirk::Mutes) && mood == Mood::Stormy && is_whole && rng.chance(300) {
            if it.expect && rng.chance(500) {
                it.says_continue = false;
            } else {
                it.fault = Some(Fault::Mute);
                it.leave = Some((When::Passed(rng.within(SECOND, 100 * SECOND)), How::Close));
            }
        }
        // A body that comes while it is passed on cannot be sent again.
        let may_repeat = it.may_repeat() && it.request == Framing::None && it.interims == 0;
        if self.has(Quirk::Breaks) && is_whole && may_repeat && rng.chance(500) {
            // Less than any head has.
            it.fault = Some(Fault::BreakKept(rng.length(0, 30)));
            (it.close, it.think) = (None, it.think.min(SECOND));
        }
        if self.has(Quirk::Crashes) && mood == Mood::Stormy {
            if rng.chance(300) {
                it.make_plain();
                (it.fault, it.leave) = (Some(Fault::Crash), None);
            }
            (it.scope, it.field) = (None, "");
        }
        if self.has(Quirk::Collapses) && mood == Mood::Stormy {
            if rng.chance(800) {
                it.make_plain();
                (it.fault, it.leave, it.halt) = (rng.chance(400).then_some(Fault::CrashKept), None, None);
            }
            (it.scope, it.field) = (None, "");
        }
        if self.has(Quirk::Untimely) {
            it.think = rng.pick(&[SECOND, 5 * SECOND]);
        }
        let has_body = !matches!(it.response, Framing::None | Framing::Upgrade) && it.method != "HEAD";
        if self.has(Quirk::Trickles) && is_whole && has_body && rng.chance(300) {
            // Less than goes through pipes, and more than all windows and buffers on the way have room for.
            it.response_length = rng.length(40_000, 70_000);
            // As much as makes room that a sender hears of, and so little that what the hub holds lasts for
            // minutes.
            it.read_pace = Some(Pace { bytes: rng.length(3000, 6000), every: 50 * SECOND });
        }
        if self.has(Quirk::TurnsAway) && rng.chance(700) {
            (it.fault, it.leave, it.halt) = (None, None, None);
        }
        if self.has(Quirk::Hangs) {
            it.make_plain();
            let hangs = rng.chance(400);
            it.fault = hangs.then_some(Fault::Mute);
            it.leave = hangs.then(|| (When::Passed(rng.within(SECOND, 10 * SECOND)), How::Close));
            it.halt = None;
        }
        if self.has(Quirk::Nods) && mood == Mood::Stormy {
            it.make_plain();
            (it.fault, it.halt, it.think) = (None, None, rng.pick(&[100 * MILLI, SECOND, 3 * SECOND]));
            it.leave = rng.chance(600).then(|| {
                let how = rng.pick(&[How::Fin, How::Close, How::Close]);
                (When::Passed(rng.within(MILLI, 8 * SECOND)), how)
            });
        }
        if self.has(Quirk::Deserters) && mood == Mood::Stormy {
            if rng.chance(600) {
                it.make_upload(rng.pick(&["PUT", "POST"]), rng.length(1000, 150_000), rng);
                it.fault = None;
                it.leave = Some((When::Passed(rng.within(SECOND, 20 * SECOND)), How::Close));
            }
            it.think = rng.pick(&[0, 5 * SECOND, 40 * SECOND]);
        }
        if self.has(Quirk::Streams) && it.method == "GET" && it.status == 200 {
            it.is_stream = rng.chance(500);
        }
        if self.has(Quirk::Thinks) && rng.chance(500) {
            it.think = rng.pick(&[70 * SECOND, 150 * SECOND]);
        }
    }

    pub(crate) fn has(&self, quirk: Quirk) -> bool {
        self.0.contains(&quirk)
    }
}
