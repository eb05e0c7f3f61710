//! The body of a request, on its way from the client: held while it waits, passed on once it has a worker.

use alloc::vec::Vec;
use core::time::Duration;

use super::exchanges::Active;
use super::hold::FREE;
use super::{Awaited, Client, ClientState, Direction, Exchange, Gate, Hub, Phase, Refusal};
use crate::proto::http1::body::Progress;
use crate::proto::seam::{Close, Shown, Step};
use crate::proto::tables::key::{ClientKey, ExchangeKey};
use crate::proto::tables::timer::{Mono, Now};

/// The rate below which a body that is awaited is late, in bytes a second, once its first [`FREE`] bytes have
/// come: slower than any line that people send files over, and fast enough that nobody holds a place for long
/// by sending next to nothing.
const SLOWEST: u64 = 1024;

impl Exchange {
    /// Whether bytes of its request are wanted at present.
    pub(super) fn wants_request(&self) -> bool {
        match *self.phase {
            Phase::Between => false,
            Phase::Gathering { .. } | Phase::Queued { .. } => {
                self.room() > 0 && !self.messages.request.is_done()
            }
            Phase::Active { gate, .. } => gate == Gate::Open && self.messages.wants_request(),
        }
    }

    /// A byte went one way or the other. As long as there are any the exchange does not stand still.
    pub(super) fn note_progress(&mut self, stalled_by: Mono) {
        if let Some(Active { awaited, .. }) = self.phase.active_mut() {
            awaited.put_off(stalled_by);
        }
    }
}

/// By when the body of a request that came then must be there, or fill what is held of it. What has come buys
/// time for more.
pub(super) fn gathered_by(began: Mono, body: u64, limit: Duration) -> Mono {
    let beyond = body.saturating_sub(FREE as u64);
    began.after_coarse(limit + Duration::from_secs(beyond / SLOWEST))
}

impl Hub {
    /// An exchange waits for its body. Where too many do, the one that has for the longest goes on with what
    /// it has, or must go.
    pub(super) fn gather(&mut self, key: ExchangeKey, now: Now) {
        if self.exchanges.gathering() >= self.config.max_gathering()
            && let Some(oldest) = self.exchanges.longest_gathering()
        {
            if self.exchanges.get(oldest).is_some_and(|exchange| exchange.held.body >= FREE as u64) {
                self.admit(oldest, now);
            } else {
                self.fail(oldest, Refusal::GatheringFull, now);
            }
        }
        let until = gathered_by(now.mono, 0, self.config.limits.body);
        self.exchanges.gather(key, until, &mut self.timers);
    }

    pub(super) fn opaque_of_client(&self, key: ClientKey) -> u64 {
        let Some(Client { state: ClientState::Exchange(exchange), .. }) = self.clients.get(key) else {
            return 0;
        };
        let Some(exchange) = self.exchanges.get(*exchange) else { return 0 };
        // A limit on the body is held by looking at it.
        let is_counted = self.config.max_body.is_some() && !exchange.messages.is_upgraded();
        match *exchange.phase {
            Phase::Active { gate: Gate::Open, .. } if !is_counted => exchange.messages.opaque_request(),
            Phase::Between | Phase::Gathering { .. } | Phase::Queued { .. } | Phase::Active { .. } => 0,
        }
    }

    pub(super) fn pass_from_client(
        &mut self,
        key: ClientKey,
        n: u64,
        before: &mut Vec<u8>,
        now: Now,
    ) -> &'static [u8] {
        let Some(Client { state: ClientState::Exchange(key), .. }) = self.clients.get(key) else {
            return b"";
        };
        let key = *key;
        let Some(exchange) = self.exchanges.get_mut(key) else { return b"" };
        let after = exchange.messages.pass_request(n, before);
        self.request_passed(key, now);
        after
    }

    /// Bytes of a request, or after an upgrade of anything, went to a tunnel.
    fn request_passed(&mut self, key: ExchangeKey, now: Now) {
        self.let_go(key);
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let Some(Active { awaited, .. }) = exchange.phase.active_mut() else { return };
        let stalled_by = now.mono.after_coarse(self.config.limits.stall);
        if exchange.messages.is_upgraded() {
            exchange.note_progress(stalled_by);
            return;
        }
        if exchange.messages.request.is_done() {
            *awaited = Awaited::Nobody;
            self.await_response(key, now);
            return;
        }
        let sooner = stalled_by < awaited.deadline();
        // Also a client that did not wait for the 100 that it asked for is awaited from now on.
        *awaited = Awaited::Request { by: stalled_by };
        if sooner {
            self.arm_exchange(key);
        }
    }

    pub(super) fn read_body(&mut self, key: ExchangeKey, mut shown: Shown<'_>, now: Now) -> Step {
        let Some(exchange) = self.exchanges.get_mut(key) else { return Step::Wait };
        let is_held = match *exchange.phase {
            Phase::Between => return Step::Wait,
            Phase::Gathering { .. } | Phase::Queued { .. } => true,
            Phase::Active { gate, .. } if gate != Gate::Open => return Step::Wait,
            Phase::Active { .. } => false,
        };
        if !exchange.messages.wants_request() {
            return Step::Wait;
        }
        let room = if is_held { exchange.room() } else { usize::MAX };
        let begin = shown.out.len();
        let step = match exchange.messages.advance_request(shown.first(room)) {
            Ok(Progress::Pass(n)) => {
                exchange.held.body += n as u64;
                Step::Pass(n)
            }
            Ok(Progress::Skip(n)) => Step::Skip(n),
            Ok(Progress::NeedMore | Progress::Done) => Step::Wait,
            Ok(Progress::Truncated) => {
                let client = exchange.client;
                self.drop_client(client, Close::Now, now);
                return Step::Wait;
            }
            Err(violation) => {
                self.fail(key, violation.into(), now);
                return Step::Wait;
            }
        };
        exchange.held.body += (shown.out.len() - begin) as u64;
        if exchange.messages.is_upgraded() {
            let is_over = step == Step::Wait && !exchange.messages.wants_request();
            self.request_passed(key, now);
            if is_over {
                self.end_direction(key, Direction::Inbound, now);
            }
            return step;
        }
        if self.config.max_body.is_some_and(|most| exchange.held.body > most) {
            self.fail(key, Refusal::TooLarge, now);
            return Step::Wait;
        }
        if !is_held {
            if step != Step::Wait {
                self.request_passed(key, now);
            }
            return step;
        }
        if step != Step::Wait {
            exchange.held.expectation = exchange.held.expectation.begun();
        }
        let is_gathering = matches!(*exchange.phase, Phase::Gathering { .. });
        if !self.makes_room(key) && is_gathering {
            self.admit(key, now);
        }
        step
    }
}
