//! What is known of the upstreams, and how many requests each has.
//!
//! An agent joins once it knows whether its upstream can be reached. While the upstream cannot be, the agent
//! is at the hub, withdrawn, and makes a probe every second, so that it takes requests again within two
//! seconds of its upstream. What a probe is stands in `probe`.
//!
//! A probe takes the place of a request at the upstream: it waits until one is free, and a request that would
//! be one too many waits for the probe. Connections that are kept between two requests are closed before a
//! probe, because some servers serve only one connection at a time.

use alloc::borrow::ToOwned;
use alloc::vec::Vec;
use core::time::Duration;

use log::Level;

use super::connections::UpstreamUser;
use super::worker::Job;
use super::{Agent, NO_KEY_LEFT};
use crate::proto::deadline::Limit;
use crate::proto::http1::head::HeadScan;
use crate::proto::tables::key::UpstreamKey;
use crate::proto::tables::timer::{Mono, Now};
use crate::proto::tunnel::Trouble;

/// The pause between probes of an upstream that is down.
const PROBE_PAUSE: Duration = Duration::from_secs(1);
/// The pause between probes of a healthy upstream, with `--health-path`.
const CHECK_PAUSE: Duration = Duration::from_secs(15);

/// What is known of the upstreams, by the index of each.
pub(super) struct Upstreams(Vec<Upstream>);

/// What is known of one upstream, and of its workers at the hub.
struct Upstream {
    verdict: Verdict,
    probe: Probe,
    /// How many of its workers have joined, according to the log.
    told_joined: usize,
    /// Until then the hub is taken to have no room for one more worker.
    full_until: Mono,
    /// An operator wants it to get nothing.
    is_paused: bool,
}

/// Why an upstream gets nothing that an operator has paused.
const PAUSED: Trouble<'_> = Trouble::new("paused");

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Unknown,
    Up,
    Down(Trouble<'static>),
}

/// The probe of an upstream that is under way, or the next one.
pub(super) enum Probe {
    /// The next one begins then, if there is one.
    Due(Limit),
    /// One is under way.
    Running { connection: UpstreamKey, until: Mono, scan: HeadScan },
}

impl Upstream {
    fn deadline(&self) -> Mono {
        match self.probe {
            Probe::Due(at) => at.deadline(),
            Probe::Running { until, .. } => until,
        }
    }
}

impl Upstreams {
    pub(super) fn unknown(count: usize, now: Mono) -> Self {
        let unknown = || Upstream {
            verdict: Verdict::Unknown,
            probe: Probe::Due(Limit::at(now)),
            told_joined: 0,
            full_until: Mono::default(),
            is_paused: false,
        };
        Self(core::iter::repeat_with(unknown).take(count).collect())
    }

    /// The indices of all.
    pub(super) fn indices(&self) -> core::ops::Range<u16> {
        0..u16::try_from(self.0.len()).unwrap_or(u16::MAX)
    }

    /// When the next probe begins, or the one that is under way ends.
    pub(super) fn next_timeout(&self) -> Option<Mono> {
        self.0.iter().map(Upstream::deadline).min()
    }

    /// Whether a probe of this one is under way, or will be made.
    pub(super) fn is_looked_at(&self, index: u16) -> bool {
        self.get(index).is_some_and(|it| Limit::at(it.deadline()).is_set())
    }

    /// Why an upstream gets no requests, if it gets none.
    pub(super) fn trouble(&self, index: u16) -> Option<Trouble<'static>> {
        self.illness(index).or_else(|| self.is_paused(index).then_some(PAUSED))
    }

    /// Whether an operator wants an upstream to get no requests.
    pub(super) fn is_paused(&self, index: u16) -> bool {
        self.get(index).is_some_and(|it| it.is_paused)
    }

    /// Why an upstream can take no requests, if it can take none.
    pub(super) fn illness(&self, index: u16) -> Option<Trouble<'static>> {
        match self.get(index)?.verdict {
            Verdict::Unknown => Some(Trouble::new("starting")),
            Verdict::Up => None,
            Verdict::Down(why) => Some(why),
        }
    }

    /// Whether a probe is under way.
    pub(super) fn is_probed(&self, index: u16) -> bool {
        self.get(index).is_some_and(|it| matches!(it.probe, Probe::Running { .. }))
    }

    pub(super) fn probe(&mut self, index: u16) -> Option<&mut Probe> {
        Some(&mut self.get_mut(index)?.probe)
    }

    /// The log says from now on that so many workers have joined. Returns how many it said before.
    pub(super) fn tell_joined(&mut self, index: u16, joined: usize) -> usize {
        self.get_mut(index).map_or(0, |it| core::mem::replace(&mut it.told_joined, joined))
    }

    pub(super) fn told_joined(&self, index: u16) -> usize {
        self.get(index).map_or(0, |it| it.told_joined)
    }

    /// The hub has said that it has no room.
    pub(super) fn note_full(&mut self, index: u16, until: Mono) {
        if let Some(it) = self.get_mut(index) {
            it.full_until = until;
        }
    }

    /// Whether the hub is taken to have no room for one more worker.
    pub(super) fn is_full(&self, index: u16, now: Mono) -> bool {
        self.get(index).is_some_and(|it| now < it.full_until)
    }

    fn is_up(&self, index: u16) -> bool {
        self.get(index).is_some_and(|it| it.verdict == Verdict::Up)
    }

    fn get(&self, index: u16) -> Option<&Upstream> {
        self.0.get(usize::from(index))
    }

    fn get_mut(&mut self, index: u16) -> Option<&mut Upstream> {
        self.0.get_mut(usize::from(index))
    }
}

impl Agent {
    /// Begins a probe, or puts it off if there is no place for it at the upstream.
    pub(super) fn begin_probe(&mut self, index: u16, now: Now) {
        let is_up = self.upstreams.is_up(index);
        let has_place = self.at_upstream(index) < self.config.workers;
        if is_up && self.process.is_draining() || !has_place {
            let at = now.mono.after_coarse(if is_up { CHECK_PAUSE } else { PROBE_PAUSE });
            self.set_probe(index, Probe::Due(Limit::at(at)));
            return;
        }
        for (worker, _) in self.workers.iter().filter(|(_, it)| it.upstream() == index) {
            self.connections.drop_kept(worker);
        }
        let Some(connection) = self.connections.dial_upstream(index, UpstreamUser::Probe(index)) else {
            self.end_probe(index, now);
            self.upstream_is_down(index, NO_KEY_LEFT, now);
            return;
        };
        let until = now.mono.after(self.config.limits.connect);
        self.set_probe(index, Probe::Running { connection, until, scan: HeadScan::of_upstream() });
    }

    /// How many of the places for requests at an upstream are taken. Lent workers take the extra places
    /// first.
    pub(super) fn at_upstream(&self, index: u16) -> u32 {
        let (mut requests, mut lent) = (0_u32, 0_u32);
        for (_, worker) in self.workers.iter().filter(|(_, it)| it.upstream() == index && !it.is_light()) {
            if let Some(Job::Serving(serving)) = worker.job() {
                if serving.is_lent() {
                    lent += 1;
                } else {
                    requests += u32::from(serving.connection().is_some());
                }
            }
            requests += u32::from(worker.finishing().is_some());
        }
        requests + lent.saturating_sub(self.config.extras())
    }

    /// Whether a probe has the last place at the upstream: another request would be one too many.
    pub(super) fn is_occupied(&self, index: u16) -> bool {
        self.upstreams.is_probed(index) && self.at_upstream(index) + 1 >= self.config.workers
    }

    /// A request was cancelled before any byte of its answer: a probe finds out whether the upstream hangs,
    /// before the next request.
    pub(super) fn suspect(&mut self, index: u16, now: Now) {
        if self.upstreams.is_up(index) && !self.upstreams.is_probed(index) {
            self.begin_probe(index, now);
        }
    }

    /// A request showed that the upstream cannot be reached, or a probe did.
    pub(super) fn upstream_is_down(&mut self, index: u16, why: Trouble<'static>, now: Now) {
        let Some(upstream) = self.upstreams.get_mut(index) else { return };
        if let Probe::Due(at) = &mut upstream.probe {
            at.bring_forward(now.mono.after(PROBE_PAUSE));
        }
        match core::mem::replace(&mut upstream.verdict, Verdict::Down(why)) {
            Verdict::Down(before) if before.is_loading == why.is_loading => return,
            // The log has said that the upstream cannot be used, but the hub must hear whether it is worth
            // waiting for.
            Verdict::Down(_) => {}
            Verdict::Unknown | Verdict::Up => {
                let name = self.name_of(index).to_owned();
                let reason = why.reason;
                let line =
                    format_args!("upstream {name} cannot be used: {reason}; trying again every second");
                self.notices.change(Level::Warn, &[], line);
            }
        }
        self.join_anew(index, now);
    }

    /// A probe showed that the upstream can be used.
    pub(super) fn upstream_is_up(&mut self, index: u16, now: Now) {
        let next = match self.config.health_path {
            Some(_) => Limit::at(now.mono.after_coarse(CHECK_PAUSE)),
            None => Limit::NONE,
        };
        let Some(upstream) = self.upstreams.get_mut(index) else { return };
        upstream.probe = Probe::Due(next);
        match core::mem::replace(&mut upstream.verdict, Verdict::Up) {
            Verdict::Up => return,
            Verdict::Unknown => {}
            Verdict::Down(_) => {
                let name = self.name_of(index).to_owned();
                let line = format_args!("upstream {name} can be used again");
                self.notices.change(Level::Info, &[], line);
            }
        }
        self.join_anew(index, now);
    }

    /// An operator pauses an upstream, or resumes it. Whether that changed anything; `None` if there is no
    /// such upstream.
    pub(super) fn pause_upstream(&mut self, index: u16, pause: bool, now: Now) -> Option<bool> {
        let upstream = self.upstreams.get_mut(index)?;
        if core::mem::replace(&mut upstream.is_paused, pause) == pause {
            return Some(false);
        }
        let name = self.name_of(index).to_owned();
        let what = if pause { "paused" } else { "resumed" };
        self.notices.change(Level::Info, &[], format_args!("upstream {name} {what}, by an operator"));
        if !self.process.is_draining() {
            self.join_anew(index, now);
        }
        Some(true)
    }

    /// A probe has failed. The next one is made after a pause.
    pub(super) fn end_probe(&mut self, index: u16, now: Now) {
        self.set_probe(index, Probe::Due(Limit::at(now.mono.after(PROBE_PAUSE))));
    }

    fn set_probe(&mut self, index: u16, probe: Probe) {
        if let Some(upstream) = self.upstreams.get_mut(index) {
            upstream.probe = probe;
        }
    }

    /// What an upstream is called in the log.
    pub(super) fn name_of(&self, index: u16) -> &str {
        self.config.upstreams.get(usize::from(index)).map_or("", |upstream| &upstream.name)
    }
}
