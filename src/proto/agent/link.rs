//! What a worker does about its link to the hub next: dials, rests, stands aside, withdraws, or stops.
//!
//! Workers of one upstream depend on each other here: as many of them as `--num-worker` says take requests,
//! and all of them say the same about their upstream.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::worker::{Closed, Idle, Job, Link, Opening, Said, Stage, Worker};
use super::{Agent, DRAINING};
use crate::config::Limits;
use crate::proto::seam::Command;
use crate::proto::tables::key::{TunnelKey, WorkerKey};
use crate::proto::tables::timer::Now;
use crate::proto::tunnel::{IN_BETWEEN, Trouble, write_refusal};
use crate::proto::websocket::Nonce;

/// How many workers dial in one millisecond when all those of an upstream are to dial. The hub would have to
/// keep a place for each of them before the first had said a word, if all dialled at once.
const DIALS_PER_MS: usize = 16;

/// Why a tunnel for light paths takes no other request.
pub(super) const LIGHT_ONLY: Trouble<'_> = Trouble::new("this tunnel is for light paths");

/// Why a worker takes no request before it has read an answer to its end.
pub(super) const FINISHING: Trouble<'_> =
    Trouble::loading("its upstream is busy with a request whose application has left");

/// How a worker's last attempt went, as far as the pause before the next one depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// It succeeded.
    Succeeded,
    /// It failed. The next pause may be longer than the last.
    Failed,
    /// The hub does not want the worker: the next pause is the longest.
    Unwanted,
}

/// Closed links.
impl Agent {
    /// Dials the hub, unless the process is ending.
    pub(super) fn dial(&mut self, key: WorkerKey, now: Now) {
        self.dial_for(key, self.config.websocket || self.hub.passes_websocket_only, now);
    }

    /// As [`Agent::dial`], for this kind of handshake.
    pub(super) fn dial_for(&mut self, key: WorkerKey, websocket: bool, now: Now) {
        if self.process.is_draining() {
            self.stop(key);
            return;
        }
        let Some(worker) = self.workers.get_mut(key) else { return };
        if worker.is_light() && !self.hub.knows_light {
            worker.close(Closed::Spare);
            return;
        }
        let Some(tunnel) = self.connections.dial_hub(key) else {
            // The table of tunnels is full.
            self.rest(key, Attempt::Failed, now);
            return;
        };
        let nonce = websocket.then(|| Nonce::new(&mut self.random));
        let until = now.mono.after(self.config.limits.connect);
        worker.open(Opening { tunnel, until, nonce, stage: Stage::Dialling });
        self.workers.rearm(key);
    }

    /// Dials as one of many, after so many others: those beyond the first few wait some milliseconds.
    fn dial_in_turn(&mut self, key: WorkerKey, before: usize, now: Now) {
        let Some(worker) = self.workers.get_mut(key) else { return };
        worker.backoff.succeed();
        if before < DIALS_PER_MS {
            self.dial(key, now);
            return;
        }
        let delay = Duration::from_millis(u64::try_from(before / DIALS_PER_MS).unwrap_or(0));
        worker.close(Closed::Resting { until: now.mono.after(delay) });
        self.workers.rearm(key);
    }

    /// A tunnel that carried a request ended: the next one is dialled at once.
    pub(super) fn redial(&mut self, key: WorkerKey, now: Now) {
        if let Some(worker) = self.workers.get_mut(key) {
            worker.backoff.succeed();
        }
        self.dial(key, now);
    }

    /// Waits for the next attempt, longer after each failure.
    pub(super) fn rest(&mut self, key: WorkerKey, last: Attempt, now: Now) {
        if self.process.is_draining() {
            self.stop(key);
            return;
        }
        let Some(worker) = self.workers.get_mut(key) else { return };
        let until = match last {
            Attempt::Succeeded => {
                worker.backoff.succeed();
                worker.backoff.fail(&mut self.random, now.mono)
            }
            Attempt::Failed => worker.backoff.fail(&mut self.random, now.mono),
            Attempt::Unwanted => worker.backoff.fail_slowly(&mut self.random, now.mono),
        };
        worker.close(Closed::Resting { until });
        self.workers.rearm(key);
    }

    /// A worker has no tunnel any more. It dials the next one, unless another worker stands in for it or the
    /// process is ending.
    pub(super) fn next(&mut self, key: WorkerKey, now: Now) {
        let Some(worker) = self.workers.get(key) else { return };
        if self.config.extras() == 0 || worker.is_light() {
            self.redial(key, now);
            return;
        }
        let index = worker.upstream();
        let others: Vec<WorkerKey> = self
            .workers
            .iter()
            .filter(|(other, worker)| *other != key && worker.upstream() == index && worker.counts())
            .map(|(other, _)| other)
            .collect();
        if u32::try_from(others.len()).unwrap_or(u32::MAX) < self.config.workers {
            self.redial(key, now);
            return;
        }
        // A worker that the hub had no room for, because the token is full, would try again only after half a
        // minute. There is room now, so that this worker dials, and that one stands aside.
        let mut stands_aside = key;
        for other in others {
            let Some(worker) = self.workers.get_mut(other) else { continue };
            if matches!(worker.link(), Link::Closed(Closed::Resting { .. } | Closed::Starting)) {
                stands_aside = other;
            } else if matches!(worker.link(), Link::Opening(_)) {
                worker.backoff.succeed();
            }
        }
        self.stand_aside(stands_aside);
        if stands_aside != key {
            self.redial(key, now);
        }
    }

    /// A worker reads an answer to its end. If none of its agent is at the hub meanwhile, it joins and says
    /// that it will take requests before long, so that they wait for it.
    pub(super) fn stay_at_hub(&mut self, key: WorkerKey, now: Now) {
        let Some(worker) = self.workers.get(key).filter(|worker| !worker.is_light()) else { return };
        let index = worker.upstream();
        let is_there = |worker: &Worker| {
            worker.upstream() == index && !worker.is_light() && matches!(worker.link(), Link::Open { .. })
        };
        if !self.workers.iter().any(|(_, worker)| is_there(worker)) {
            self.dial(key, now);
        }
    }

    fn stand_aside(&mut self, key: WorkerKey) {
        if self.process.is_draining() {
            self.stop(key);
        } else {
            self.close_for_good(key, Closed::Spare);
        }
    }

    /// A worker does nothing more.
    pub(super) fn stop(&mut self, key: WorkerKey) {
        self.close_for_good(key, Closed::Stopped);
    }

    /// A worker takes no more requests. It needs no kept connection.
    fn close_for_good(&mut self, key: WorkerKey, waits_for: Closed) {
        let Some(worker) = self.workers.get_mut(key) else { return };
        worker.close(waits_for);
        self.connections.drop_kept(key);
    }
}

/// Idle links.
impl Agent {
    /// Why a worker takes no requests, if it takes none.
    pub(super) fn trouble_of(&self, worker: &Worker) -> Option<Trouble<'static>> {
        self.upstreams.trouble(worker.upstream()).or(worker.finishing().map(|_| FINISHING))
    }

    /// The upstream's state changed: idle tunnels go, and come back saying so.
    pub(super) fn join_anew(&mut self, upstream: u16, now: Now) {
        let of_it: Vec<WorkerKey> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.upstream() == upstream)
            .map(|(key, _)| key)
            .collect();
        let mut begun = 0;
        for key in of_it {
            let Some(worker) = self.workers.get(key) else { continue };
            match (worker.link(), self.trouble_of(worker)) {
                (Link::Closed(Closed::Starting), _) => {}
                (Link::Open { job: Job::Idle(Idle { said: Said::Ready, .. }), .. }, Some(trouble)) => {
                    self.withdraw(key, trouble, now);
                    continue;
                }
                (Link::Open { tunnel, job: Job::Idle(idle) }, trouble) if idle.said != Said::of(trouble) => {
                    self.connections.drop_tunnel(*tunnel);
                }
                // These look at the upstream's health when they are done.
                (Link::Closed(_) | Link::Opening(_) | Link::Open { .. }, _) => continue,
            }
            self.dial_in_turn(key, begun, now);
            begun += 1;
        }
    }

    /// The tunnel takes the next request.
    pub(super) fn rest_on_tunnel(&mut self, key: WorkerKey, tunnel: TunnelKey, now: Now) {
        let Some(worker) = self.workers.get_mut(key) else { return };
        worker.backoff.succeed();
        worker.turn_to(Job::Idle(Idle::after_response(now.mono)));
        self.connections.tell(Command::Resume(tunnel.into()));
        self.check_readiness(key, now);
    }

    /// A worker is idle on its tunnel again. It joins anew if what it told the hub about its upstream is no
    /// longer true.
    pub(super) fn check_readiness(&mut self, key: WorkerKey, now: Now) {
        let Some(worker) = self.workers.get(key) else { return };
        let Link::Open { tunnel, job: Job::Idle(idle) } = worker.link() else { return };
        if self.process.is_draining() {
            self.withdraw(key, DRAINING, now);
            return;
        }
        match (idle.said, self.trouble_of(worker)) {
            (said, trouble) if said == Said::of(trouble) => {}
            (Said::Ready, Some(trouble)) => self.withdraw(key, trouble, now),
            (Said::Ready | Said::Loading | Said::Down, _) => {
                self.connections.drop_tunnel(*tunnel);
                self.redial(key, now);
            }
        }
    }

    /// Takes a worker out of the hub's pool, without a race: it starts nothing more, and the hub closes the
    /// tunnel.
    pub(super) fn withdraw(&mut self, key: WorkerKey, why: Trouble<'_>, now: Now) {
        let Limits { linger, stall, .. } = self.config.limits;
        let Some(worker) = self.workers.get_mut(key) else { return };
        match worker.link() {
            Link::Open { tunnel, job: Job::Idle(Idle { said: Said::Ready, heard_by, .. }) } => {
                // The hub has not been heard of since a response: it closes when the application has taken
                // all of that.
                let served = !heard_by.is_set();
                let limit = if served { stall * IN_BETWEEN } else { linger };
                self.connections.send(*tunnel, write_refusal(why, true));
                worker.turn_to(Job::Leaving { until: now.mono.after(limit), served });
                self.workers.rearm(key);
            }
            // The hub may have taken the worker in and sent a request already. The worker withdraws as soon
            // as it has joined.
            Link::Opening(Opening { stage: Stage::Joining { said: Said::Ready, .. }, .. }) => {}
            Link::Open { tunnel, job: Job::Idle(_) } | Link::Opening(Opening { tunnel, .. }) => {
                self.connections.drop_tunnel(*tunnel);
                self.stop(key);
            }
            Link::Closed(Closed::Starting | Closed::Resting { .. } | Closed::Spare) => self.stop(key),
            // These end when they are done: they ask whether the process is ending before they dial.
            Link::Open { .. } | Link::Closed(Closed::Finishing | Closed::Stopped) => {}
        }
    }

    /// A worker in words, for the log.
    pub(super) fn describe(&self, key: WorkerKey) -> String {
        let Some(worker) = self.workers.get(key) else { return String::new() };
        format!("worker {} of upstream {}", worker.number(), self.name_of(worker.upstream()))
    }
}
