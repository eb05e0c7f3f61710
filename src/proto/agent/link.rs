//! A worker's link to the hub: dialling, the handshake, the idle tunnel, withdrawing, and when to try again.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use log::{Level, debug};

use super::endings::LinkEnd;
use super::health::Health;
use super::{Agent, DRAINING, Said, Tunnel, TunnelOf, WorkerState};
use crate::config::Limits;
use crate::proto::http1::head::RequestHead;
use crate::proto::http1::storage::Storage;
use crate::proto::light;
use crate::proto::seam::{Command, Shown, Step};
use crate::proto::tables::key::{Key, TableKey, TunnelKey, WorkerKey};
use crate::proto::tables::timer::{Mono, Now, TimerTable};
use crate::proto::tunnel::{
    Ask, CloseReason, IN_BETWEEN, PONG, TOKEN_EXPIRED, TOKEN_REVOKED, Trouble, write_refusal,
};

/// Workers that dial within a millisecond when all of an upstream's are to. If they all did in one moment,
/// the hub would have to keep a place for each before the first of them has said a word.
const AT_ONCE: usize = 16;
/// A tunnel that lived this long was a success, though it carried nothing.
const SETTLED: Duration = Duration::from_secs(2);

impl Agent {
    pub(super) fn expire_worker(&mut self, key: Key, at: Mono, now: Now) {
        let Some(key) = WorkerKey::from_key(key) else { return };
        let Some(worker) = self.workers.get_mut(key) else { return };
        if !TimerTable::disarm(&mut worker.armed, at) {
            return;
        }
        if let Some(kept) = worker.kept.take_if(|kept| kept.until() <= now.mono) {
            self.drop_upstream(kept.connection);
        }
        let Some(worker) = self.workers.get(key) else { return };
        match &worker.state {
            WorkerState::Resting { until } if *until <= now.mono => self.dial(key, now),
            WorkerState::Dialling { tunnel, until, .. }
            | WorkerState::Passing { tunnel, until, .. }
            | WorkerState::Joining { tunnel, until, .. }
                if *until <= now.mono =>
            {
                let tunnel = *tunnel;
                self.drop_tunnel(tunnel);
                self.tunnel_lost(key, LinkEnd::NotInTime, now);
            }
            WorkerState::Joined { tunnel, heard_by, .. } if *heard_by <= now.mono => {
                let tunnel = *tunnel;
                self.drop_tunnel(tunnel);
                self.tunnel_lost(key, LinkEnd::Silent, now);
            }
            WorkerState::Leaving { tunnel, until, served } if *until <= now.mono => {
                let (tunnel, served) = (*tunnel, *served);
                if served {
                    self.note_short();
                }
                self.drop_tunnel(tunnel);
                self.left(key, now);
            }
            WorkerState::Discarding(discarding) if discarding.until <= now.mono => {
                // The end of the response may still be on its way.
                let tunnel = discarding.tunnel;
                self.retire_tunnel(tunnel, now);
                self.next(key, now);
            }
            WorkerState::Serving(_) => self.check_serving(key, now),
            WorkerState::Finishing(_) => self.check_finishing(key, now),
            WorkerState::Discarding(_) => {}
            WorkerState::Resting { .. }
            | WorkerState::Dialling { .. }
            | WorkerState::Passing { .. }
            | WorkerState::Joining { .. }
            | WorkerState::Joined { .. }
            | WorkerState::Leaving { .. }
            | WorkerState::Spare
            | WorkerState::Stopped => {}
        }
        self.arm_worker(key);
    }

    pub(super) fn wants_tunnel_input(&self, tunnel: TunnelKey) -> bool {
        let Some(worker) = self.worker_of(tunnel).and_then(|key| self.workers.get(key)) else { return false };
        match &worker.state {
            WorkerState::Passing { .. }
            | WorkerState::Joining { .. }
            | WorkerState::Joined { .. }
            | WorkerState::Leaving { .. } => true,
            WorkerState::Serving(serving) => serving.wants_request(),
            WorkerState::Discarding(_) => true,
            WorkerState::Resting { .. }
            | WorkerState::Dialling { .. }
            | WorkerState::Finishing(_)
            | WorkerState::Spare
            | WorkerState::Stopped => false,
        }
    }

    pub(super) fn handle_tunnel_input(&mut self, tunnel: TunnelKey, shown: Shown<'_>, now: Now) -> Step {
        let Some(key) = self.worker_of(tunnel) else { return Step::Wait };
        let Some(worker) = self.workers.get(key) else { return Step::Wait };
        match &worker.state {
            WorkerState::Passing { .. } => self.read_passage(key, tunnel, shown, now),
            WorkerState::Joining { .. } => self.read_welcome(key, tunnel, shown, now),
            WorkerState::Joined { .. } => self.read_ask(key, tunnel, shown, now),
            WorkerState::Serving(_) => self.read_request(key, shown, now),
            WorkerState::Discarding(_) => self.discard(key, shown, now),
            WorkerState::Leaving { .. } if shown.end.is_some() => {
                self.drop_tunnel(tunnel);
                self.left(key, now);
                Step::Wait
            }
            // The worker has withdrawn: nothing is started any more, and the hub takes it for refused.
            WorkerState::Leaving { .. } if !shown.input.is_empty() => Step::Skip(shown.input.len()),
            WorkerState::Leaving { .. }
            | WorkerState::Resting { .. }
            | WorkerState::Dialling { .. }
            | WorkerState::Finishing(_)
            | WorkerState::Spare
            | WorkerState::Stopped => Step::Wait,
        }
    }

    /// A request head on an idle tunnel: the hub's own, or an application's.
    fn read_ask(&mut self, key: WorkerKey, tunnel: TunnelKey, shown: Shown<'_>, now: Now) -> Step {
        let Shown { input, end, out } = shown;
        let head_limit = self.config.limits.head;
        let Some(worker) = self.workers.get_mut(key) else { return Step::Wait };
        let silent_until = worker.backoff.heard_by(now.mono);
        let is_light = worker.is_light;
        let WorkerState::Joined { scan, heard_by, .. } = &mut worker.state else { return Step::Wait };
        let mut storage = Storage::on_tunnel();
        let head = match RequestHead::find(scan, input, &mut storage) {
            Ok(Some(head)) => head,
            Ok(None) => {
                if end.is_some() {
                    self.drop_tunnel(tunnel);
                    self.tunnel_lost(key, LinkEnd::Closed, now);
                } else if !input.is_empty() {
                    *heard_by = (*heard_by).min(now.mono.after_coarse(head_limit));
                    self.arm_worker(key);
                }
                return Step::Wait;
            }
            Err(violation) => {
                self.drop_tunnel(tunnel);
                self.tunnel_lost(key, LinkEnd::Unread(violation), now);
                return Step::Wait;
            }
        };
        *scan = scan.anew();
        *heard_by = silent_until;
        match Ask::of(&head) {
            Ask::Ping => {
                self.commands.push(Command::Send { key: tunnel.into(), bytes: PONG.to_vec() });
                self.arm_worker(key);
            }
            Ask::Close(reason) => {
                self.drop_tunnel(tunnel);
                self.dismissed(key, reason, now);
            }
            // The application left before its request was looked at: nothing would tell of it again.
            Ask::Serve if end.is_some() || self.has_left(tunnel) => {
                debug!("{} {}: the application left", head.method.as_str(), head.path());
                self.drop_tunnel(tunnel);
                self.next(key, now);
            }
            // A hub that gives such a tunnel a job has it wrong. It gets the job back, and the worker that it
            // counted on is none.
            Ask::Serve if is_light && !light::cover(&self.config.light_paths, head.path()) => {
                let refusal = write_refusal(Trouble::new("this tunnel is for light paths"), true);
                self.commands.push(Command::Send { key: tunnel.into(), bytes: refusal });
                self.retire_tunnel(tunnel, now);
                self.rest(key, false, now);
            }
            Ask::Serve => self.serve(key, tunnel, &head, out, now),
        }
        Step::Skip(head.length)
    }

    pub(super) fn tunnel_hung_up(&mut self, tunnel: TunnelKey, now: Now) {
        let Some(Tunnel { of: TunnelOf::Worker { key, left }, .. }) = self.tunnels.get_mut(tunnel) else {
            return;
        };
        *left = true;
        let key = *key;
        let Some(worker) = self.workers.get(key) else { return };
        // Elsewhere the end of the input tells; while a request is served, the input may not be wanted.
        if let WorkerState::Serving(serving) = &worker.state
            && !serving.messages.is_upgraded()
        {
            self.drop_tunnel(tunnel);
            self.tunnel_lost(key, LinkEnd::Closed, now);
        }
    }

    /// A tunnel is gone, and out of the tables. What was served on it is cancelled.
    pub(super) fn tunnel_lost(&mut self, key: WorkerKey, why: LinkEnd<'_>, now: Now) {
        let Some(worker) = self.workers.get(key) else { return };
        match &worker.state {
            WorkerState::Serving(_) => self.cancel(key, now),
            WorkerState::Discarding(_) => self.next(key, now),
            WorkerState::Joined { since, .. } => {
                let settled = now.mono.since(*since) >= SETTLED;
                self.note_apart(key, Level::Warn, format_args!("lost the hub: {why}; reconnecting"));
                self.rest(key, settled, now);
            }
            WorkerState::Dialling { .. } | WorkerState::Passing { .. } | WorkerState::Joining { .. } => {
                self.cannot_join(key, why, now);
            }
            WorkerState::Leaving { .. } => self.left(key, now),
            WorkerState::Resting { .. }
            | WorkerState::Finishing(_)
            | WorkerState::Spare
            | WorkerState::Stopped => {}
        }
    }

    /// The hub closed an idle tunnel, with a reason.
    fn dismissed(&mut self, key: WorkerKey, reason: CloseReason, now: Now) {
        let (level, what) = match reason {
            CloseReason::Replaced => (
                Level::Warn,
                "another agent with the same id took over a worker; give each agent its own --agent-id, or none",
            ),
            CloseReason::Expired => (Level::Warn, TOKEN_EXPIRED),
            CloseReason::Revoked => (Level::Warn, TOKEN_REVOKED),
            CloseReason::Draining => (Level::Info, "the hub is shutting down; reconnecting until it is back"),
        };
        self.note_apart(key, level, format_args!("{what}"));
        match reason {
            CloseReason::Replaced | CloseReason::Expired | CloseReason::Revoked => self.rest_slowly(key, now),
            CloseReason::Draining => self.rest(key, true, now),
        }
    }

    /// Waits for the next attempt, longer after each failure.
    pub(super) fn rest(&mut self, key: WorkerKey, was_success: bool, now: Now) {
        if self.draining.is_some() {
            self.stop(key);
            return;
        }
        let Some(worker) = self.workers.get_mut(key) else { return };
        if was_success {
            worker.backoff.succeed();
        }
        let until = worker.backoff.fail(&mut self.random, now.mono);
        worker.state = WorkerState::Resting { until };
        self.arm_worker(key);
    }

    pub(super) fn rest_slowly(&mut self, key: WorkerKey, now: Now) {
        let Some(worker) = self.workers.get_mut(key) else { return };
        let until = worker.backoff.fail_slowly(&mut self.random, now.mono);
        worker.state = WorkerState::Resting { until };
        if self.draining.is_some() {
            self.stop(key);
        }
        self.arm_worker(key);
    }

    /// A tunnel that carried a request ended: the next one is dialled at once.
    pub(super) fn redial(&mut self, key: WorkerKey, now: Now) {
        if let Some(worker) = self.workers.get_mut(key) {
            worker.backoff.succeed();
        }
        self.dial(key, now);
    }

    /// The upstream's state changed: idle tunnels go, and come back saying so.
    pub(super) fn join_anew(&mut self, upstream: u16, now: Now) {
        let trouble = self.health_of(upstream).and_then(Health::trouble);
        let of_it: Vec<WorkerKey> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.upstream == upstream)
            .map(|(key, _)| key)
            .collect();
        let mut begun = 0;
        for key in of_it {
            let Some(worker) = self.workers.get(key) else { continue };
            match &worker.state {
                WorkerState::Resting { until: Mono::NEVER } => {
                    self.dial_in_turn(key, begun, now);
                    begun += 1;
                }
                WorkerState::Joined { said: Said::Ready, .. } => {
                    if let Some(trouble) = trouble {
                        self.withdraw(key, trouble, now);
                    }
                }
                WorkerState::Joined { said: Said::Loading | Said::Down, tunnel, .. } => {
                    let tunnel = *tunnel;
                    self.drop_tunnel(tunnel);
                    self.dial_in_turn(key, begun, now);
                    begun += 1;
                }
                // These look at the upstream's health when they are through.
                WorkerState::Resting { .. }
                | WorkerState::Dialling { .. }
                | WorkerState::Passing { .. }
                | WorkerState::Joining { .. }
                | WorkerState::Serving(_)
                | WorkerState::Leaving { .. }
                | WorkerState::Finishing(_)
                | WorkerState::Discarding(_)
                | WorkerState::Spare
                | WorkerState::Stopped => {}
            }
        }
    }

    /// Dials as one of many: so many have done so before.
    fn dial_in_turn(&mut self, key: WorkerKey, before: usize, now: Now) {
        let Some(worker) = self.workers.get_mut(key) else { return };
        worker.backoff.succeed();
        if before < AT_ONCE {
            self.dial(key, now);
            return;
        }
        let delay = Duration::from_millis(u64::try_from(before / AT_ONCE).unwrap_or(0));
        worker.state = WorkerState::Resting { until: now.mono.after(delay) };
        self.arm_worker(key);
    }

    /// A worker has come to rest on its tunnel. If what it told the hub of its upstream is no longer true, it
    /// joins anew.
    pub(super) fn check_readiness(&mut self, key: WorkerKey, now: Now) {
        let Some(worker) = self.workers.get(key) else { return };
        let trouble = self.health_of(worker.upstream).and_then(Health::trouble);
        let WorkerState::Joined { said, tunnel, .. } = worker.state else { return };
        if self.draining.is_some() {
            self.withdraw(key, DRAINING, now);
        } else if said != Said::of(trouble) {
            match (said, trouble) {
                (Said::Ready, Some(trouble)) => self.withdraw(key, trouble, now),
                (Said::Ready | Said::Loading | Said::Down, _) => {
                    self.drop_tunnel(tunnel);
                    self.redial(key, now);
                }
            }
        }
    }

    /// Takes a worker out of the hub's pool, without a race: it starts nothing more, and the hub closes the
    /// tunnel.
    pub(super) fn withdraw(&mut self, key: WorkerKey, why: Trouble<'_>, now: Now) {
        let Limits { linger, stall, .. } = self.config.limits;
        let Some(worker) = self.workers.get_mut(key) else { return };
        match worker.state {
            WorkerState::Joined { tunnel, said: Said::Ready, heard_by, .. } => {
                // The hub has not been heard of since a response: it closes when the application has taken
                // all of that.
                let served = heard_by == Mono::NEVER;
                let limit = if served { stall * IN_BETWEEN } else { linger };
                worker.state = WorkerState::Leaving { tunnel, until: now.mono.after(limit), served };
                self.commands.push(Command::Send { key: tunnel.into(), bytes: write_refusal(why, true) });
                self.arm_worker(key);
            }
            // The hub may have taken it in and sent a request already: it withdraws as soon as it has joined.
            WorkerState::Joining { said: Said::Ready, .. } => {}
            WorkerState::Joined { tunnel, .. }
            | WorkerState::Joining { tunnel, .. }
            | WorkerState::Passing { tunnel, .. }
            | WorkerState::Dialling { tunnel, .. } => {
                self.drop_tunnel(tunnel);
                self.stop(key);
            }
            WorkerState::Resting { .. } | WorkerState::Spare => self.stop(key),
            // These end when they are through: they ask whether the process is ending before they dial.
            WorkerState::Serving(_)
            | WorkerState::Leaving { .. }
            | WorkerState::Finishing(_)
            | WorkerState::Discarding(_)
            | WorkerState::Stopped => {}
        }
    }

    /// Whether the hub has closed its direction of a tunnel.
    fn has_left(&self, tunnel: TunnelKey) -> bool {
        self.tunnels.get(tunnel).is_none_or(|tunnel| matches!(tunnel.of, TunnelOf::Worker { left: true, .. }))
    }

    fn left(&mut self, key: WorkerKey, now: Now) {
        self.redial(key, now);
    }

    /// A worker does nothing more.
    pub(super) fn stop(&mut self, key: WorkerKey) {
        let Some(worker) = self.workers.get_mut(key) else { return };
        worker.state = WorkerState::Stopped;
        if let Some(kept) = worker.kept.take() {
            self.drop_upstream(kept.connection);
        }
    }

    /// A worker in words, for the log.
    pub(super) fn describe(&self, key: WorkerKey) -> String {
        let Some(worker) = self.workers.get(key) else { return String::new() };
        format!("worker {} of upstream {}", worker.number, self.authority(worker.upstream))
    }
}
