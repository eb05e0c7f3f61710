//! Whether an upstream can be reached, and how that is found out.
//!
//! An agent joins only once it knows. While its upstream cannot be reached it stays visible at the hub,
//! withdrawn, and tries a connection every second, so that it is back within two seconds of its upstream.
//! Without `--health-path` a connection is all that is asked for; with it, a response below 500. A healthy
//! upstream is probed with `--health-path`, and when a request was cancelled before any byte of its answer,
//! since it may hang.
//!
//! A probe takes the place of a request at the upstream: it waits until there is one to take, and a request
//! that would be one too many waits for it. Connections that are kept between two requests are closed before
//! it, because some servers serve only one connection at a time.

use alloc::borrow::ToOwned;
use core::time::Duration;

use log::Level;

use super::sending::Sending;
use super::{Agent, Upstream, UpstreamOf, WorkerState};
use crate::config::SetField;
use crate::proto::http1::head::{HeadScan, ResponseHead};
use crate::proto::http1::storage::Storage;
use crate::proto::seam::{Command, Shown, Step, Target};
use crate::proto::tables::key::UpstreamKey;
use crate::proto::tables::timer::{Armed, Mono, Now};
use crate::proto::tunnel::Trouble;

/// From one look at an upstream that is down to the next.
const PROBE_PAUSE: Duration = Duration::from_secs(1);
/// From one look at a healthy upstream to the next, with `--health-path`.
const CHECK_PAUSE: Duration = Duration::from_secs(15);

/// What is known of an upstream.
pub(super) struct Health {
    verdict: Verdict,
    probe: Probe,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Unknown,
    Up,
    Down(Trouble<'static>),
}

enum Probe {
    /// The next one begins then.
    Due(Mono),
    /// One is under way.
    Running { connection: UpstreamKey, until: Mono, scan: HeadScan },
}

impl Health {
    pub(super) fn unknown(now: Mono) -> Self {
        Self { verdict: Verdict::Unknown, probe: Probe::Due(now) }
    }

    pub(super) fn deadline(&self) -> Mono {
        match self.probe {
            Probe::Due(at) => at,
            Probe::Running { until, .. } => until,
        }
    }

    /// Why the upstream takes no requests, if it takes none.
    pub(super) fn trouble(&self) -> Option<Trouble<'static>> {
        match self.verdict {
            Verdict::Unknown => Some(Trouble::new("starting")),
            Verdict::Up => None,
            Verdict::Down(why) => Some(why),
        }
    }

    /// Whether a probe is under way.
    pub(super) fn is_probed(&self) -> bool {
        matches!(self.probe, Probe::Running { .. })
    }
}

impl Agent {
    pub(super) fn health_of(&self, upstream: u16) -> Option<&Health> {
        self.health.get(usize::from(upstream))
    }

    /// Begins the probes that are due, and ends those that take too long.
    pub(super) fn check_health(&mut self, now: Now) {
        for index in 0..u16::try_from(self.health.len()).unwrap_or(u16::MAX) {
            let Some(health) = self.health.get(usize::from(index)) else { continue };
            match health.probe {
                Probe::Due(at) if at <= now.mono => self.begin_probe(index, now),
                Probe::Running { connection, until, .. } if until <= now.mono => {
                    self.drop_upstream(connection);
                    self.probe_failed(index, Trouble::new("it does not answer"), now);
                }
                Probe::Due(_) | Probe::Running { .. } => {}
            }
        }
    }

    fn begin_probe(&mut self, index: u16, now: Now) {
        let up = self.health_of(index).is_some_and(|health| health.verdict == Verdict::Up);
        if up && self.draining.is_some() || self.at_upstream(index) >= self.config.workers {
            let pause = if up { CHECK_PAUSE } else { PROBE_PAUSE };
            self.set_probe(index, Probe::Due(now.mono.after_coarse(pause)));
            return;
        }
        self.drop_kept(index);
        let of = UpstreamOf::Probe(index);
        let Some(key) =
            self.upstreams.insert(Upstream { armed: Armed::default(), sending: Sending::Nothing, of })
        else {
            return;
        };
        let until = now.mono.after(self.config.limits.connect);
        self.set_probe(index, Probe::Running { connection: key, until, scan: HeadScan::of_upstream() });
        self.commands.push(Command::Dial { key: key.into(), target: Target::Upstream(index) });
    }

    /// How many of the places for requests at an upstream are taken. Who has lent a worker has a place of its
    /// own first.
    pub(super) fn at_upstream(&self, index: u16) -> u32 {
        let (mut requests, mut lent) = (0_u32, 0_u32);
        for (_, worker) in self.workers.iter().filter(|(_, it)| it.upstream == index && !it.is_light) {
            match &worker.state {
                WorkerState::Serving(serving) if serving.is_lent() => lent += 1,
                WorkerState::Serving(serving) => requests += u32::from(serving.connection().is_some()),
                WorkerState::Finishing(_) => requests += 1,
                WorkerState::Resting { .. }
                | WorkerState::Dialling { .. }
                | WorkerState::Passing { .. }
                | WorkerState::Joining { .. }
                | WorkerState::Joined { .. }
                | WorkerState::Leaving { .. }
                | WorkerState::Discarding(_)
                | WorkerState::Spare
                | WorkerState::Stopped => {}
            }
        }
        requests + lent.saturating_sub(self.config.extras())
    }

    /// Whether a probe has the last place at the upstream: another request would be one too many.
    pub(super) fn is_occupied(&self, index: u16) -> bool {
        self.health_of(index).is_some_and(Health::is_probed)
            && self.at_upstream(index) + 1 >= self.config.workers
    }

    /// A request was cancelled before any byte of its answer: a probe finds out whether the upstream hangs,
    /// before the next request.
    pub(super) fn suspect(&mut self, index: u16, now: Now) {
        let Some(health) = self.health.get(usize::from(index)) else { return };
        if health.verdict == Verdict::Up && !health.is_probed() {
            self.begin_probe(index, now);
        }
    }

    /// The lookup of its name is over, and connecting has until then.
    pub(super) fn probe_connects(&mut self, index: u16, by: Mono) {
        if let Some(Health { probe: Probe::Running { until, .. }, .. }) =
            self.health.get_mut(usize::from(index))
        {
            *until = by;
        }
    }

    pub(super) fn probe_connected(&mut self, index: u16, now: Now) {
        let Some(Health { probe: Probe::Running { connection, .. }, .. }) =
            self.health.get(usize::from(index))
        else {
            return;
        };
        let connection = *connection;
        match (&self.config.health_path, self.config.upstreams.get(usize::from(index))) {
            (Some(path), Some(upstream)) => {
                let mut request = format!(
                    "GET {}{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n",
                    upstream.base_path, upstream.authority
                );
                if let Some(authorization) = &upstream.authorization {
                    request.push_str(&format!("Authorization: {authorization}\r\n"));
                }
                for SetField { name, value } in &self.config.upstream_fields {
                    request.push_str(&format!("{name}: {value}\r\n"));
                }
                request.push_str("\r\n");
                self.commands.push(Command::Send { key: connection.into(), bytes: request.into_bytes() });
            }
            _ => {
                self.drop_upstream(connection);
                self.upstream_is_up(index, now);
            }
        }
    }

    pub(super) fn read_probe(&mut self, index: u16, shown: Shown<'_>, now: Now) -> Step {
        let Shown { input, end, .. } = shown;
        let Some(Health { probe: Probe::Running { connection, scan, .. }, .. }) =
            self.health.get_mut(usize::from(index))
        else {
            return Step::Wait;
        };
        let connection = *connection;
        let status = match ResponseHead::find(scan, input, &mut Storage::new(), false) {
            Ok(None) if end.is_none() => return Step::Wait,
            // What it says so far is no answer (RFC 9110 section 15.2).
            Ok(Some(head)) if head.is_interim() => {
                *scan = scan.anew();
                return Step::Skip(head.length);
            }
            Ok(Some(head)) => head.status,
            Ok(None) | Err(_) => 0,
        };
        self.drop_upstream(connection);
        if (100..500).contains(&status) {
            self.upstream_is_up(index, now);
        } else {
            self.probe_failed(index, ill(status), now);
        }
        Step::Wait
    }

    pub(super) fn probe_failed(&mut self, index: u16, why: Trouble<'static>, now: Now) {
        self.set_probe(index, Probe::Due(now.mono.after(PROBE_PAUSE)));
        self.upstream_is_down(index, why, now);
        self.refuse_after_probe(index, why, now);
    }

    /// A request showed that the upstream cannot be reached, or a probe did.
    pub(super) fn upstream_is_down(&mut self, index: u16, why: Trouble<'static>, now: Now) {
        let Some(health) = self.health.get_mut(usize::from(index)) else { return };
        let before = health.verdict;
        health.verdict = Verdict::Down(why);
        if let Probe::Due(at) = &mut health.probe {
            *at = (*at).min(now.mono.after(PROBE_PAUSE));
        }
        match before {
            Verdict::Down(before) if before.is_loading == why.is_loading => return,
            // The log has it that the upstream cannot be used, but the hub has to hear whether it is worth
            // waiting for.
            Verdict::Down(_) => {}
            Verdict::Unknown | Verdict::Up => {
                let authority = self.authority(index).to_owned();
                let reason = why.reason;
                let line =
                    format_args!("upstream {authority} cannot be used: {reason}; trying again every second");
                self.notices.change(Level::Warn, &[], line);
            }
        }
        self.join_anew(index, now);
    }

    fn upstream_is_up(&mut self, index: u16, now: Now) {
        let pause =
            if self.config.health_path.is_some() { now.mono.after_coarse(CHECK_PAUSE) } else { Mono::NEVER };
        self.set_probe(index, Probe::Due(pause));
        let Some(health) = self.health.get_mut(usize::from(index)) else { return };
        let before = health.verdict;
        health.verdict = Verdict::Up;
        match before {
            Verdict::Up => {}
            Verdict::Unknown => self.join_anew(index, now),
            Verdict::Down(_) => {
                let authority = self.authority(index).to_owned();
                let line = format_args!("upstream {authority} can be used again");
                self.notices.change(Level::Info, &[], line);
                self.join_anew(index, now);
            }
        }
        self.resume_after_probe(index, now);
    }

    fn set_probe(&mut self, index: u16, probe: Probe) {
        if let Some(health) = self.health.get_mut(usize::from(index)) {
            health.probe = probe;
        }
    }

    pub(super) fn authority(&self, index: u16) -> &str {
        self.config.upstreams.get(usize::from(index)).map_or("", |upstream| &upstream.name)
    }
}

/// What the health path answered. An upstream that answers in HTTP is not ready yet; nothing is known of any
/// other one.
fn ill(status: u16) -> Trouble<'static> {
    macro_rules! answered {
        ($($status:literal)*) => {
            match status {
                0 => "its health path does not answer in HTTP",
                $($status => concat!("its health path answered ", $status),)*
                _ => "its health path answered with a status above 500",
            }
        };
    }
    let reason = answered!(
        500 501 502 503 504 505 506 507 508 509 510 511 520 521 522 523 524 525 526 527 529 530 598 599
    );
    Trouble { reason, is_loading: status >= 500 }
}
