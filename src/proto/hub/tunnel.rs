//! The tunnel's side: responses, signs of life, and the end of a tunnel.

use alloc::string::String;
use alloc::vec::Vec;

use log::{Level, debug};

use super::dispatch::sign_limit;
use super::ending::TunnelEnd;
use super::exchanges::Active;
use super::pool::{AgentSlot, Member, News};
use super::tunnels::Leave;
use super::{Awaited, Direction, Gate, Hub, Owes, Refusal, Standing, Tunnel, TunnelState};
use crate::proto::deadline::Limit;
use crate::proto::error::Violation;
use crate::proto::exchange::Turn;
use crate::proto::http1::body::Progress;
use crate::proto::http1::cors::Sharing;
use crate::proto::http1::framing::Framing;
use crate::proto::http1::head::ResponseHead;
use crate::proto::http1::rewrite::{Timing, ToClient, response_to_client};
use crate::proto::http1::start_line::Version;
use crate::proto::http1::storage::Storage;
use crate::proto::seam::{Close, Command, Shown, Step};
use crate::proto::tables::key::{ExchangeKey, Key, TableKey, TunnelKey};
use crate::proto::tables::timer::{Mono, Now};
use crate::proto::tunnel::{CloseReason, IN_BETWEEN, Note, PING, Trouble, write_farewell};

/// Signs of life that an agent may owe before it is held dead.
const MOST_UNANSWERED: u8 = 3;

impl Hub {
    pub(super) fn wants_tunnel_input(&self, key: TunnelKey) -> bool {
        match self.tunnels.get(key).map(|tunnel| &tunnel.state) {
            Some(TunnelState::Free { .. }) => true,
            Some(TunnelState::Busy { exchange, .. }) => {
                self.exchanges.get(*exchange).is_some_and(|exchange| exchange.messages.wants_response())
            }
            Some(TunnelState::Ending { .. }) | None => false,
        }
    }

    pub(super) fn handle_tunnel_input(&mut self, key: TunnelKey, shown: Shown<'_>, now: Now) -> Step {
        match self.tunnels.get(key).map(|tunnel| &tunnel.state) {
            Some(TunnelState::Free { .. }) => self.read_note(key, shown, now),
            Some(TunnelState::Busy { exchange, .. }) => self.read_response(key, *exchange, shown, now),
            Some(TunnelState::Ending { .. }) | None => Step::Wait,
        }
    }

    pub(super) fn opaque_of_tunnel(&self, key: TunnelKey) -> u64 {
        let Some(Tunnel { state: TunnelState::Busy { exchange, .. }, .. }) = self.tunnels.get(key) else {
            return 0;
        };
        self.exchanges.get(*exchange).map_or(0, |exchange| exchange.messages.opaque_response())
    }

    pub(super) fn pass_from_tunnel(
        &mut self,
        key: TunnelKey,
        n: u64,
        before: &mut Vec<u8>,
        now: Now,
    ) -> &'static [u8] {
        self.note_progress(key, now);
        let Some(Tunnel { state: TunnelState::Busy { exchange, .. }, .. }) = self.tunnels.get(key) else {
            return b"";
        };
        let Some(exchange) = self.exchanges.get_mut(*exchange) else { return b"" };
        exchange.note_progress(now.mono.after_coarse(self.config.limits.stall));
        exchange.messages.pass_response(n, before)
    }

    pub(super) fn expire_tunnel(&mut self, key: Key, at: Mono, now: Now) {
        let Some(key) = TunnelKey::from_key(key) else { return };
        if !self.tunnels.disarm(key, at) {
            return;
        }
        let Some(tunnel) = self.tunnels.get(key) else { return };
        if tunnel.sending.has_passed(now) {
            self.end_lost_tunnel(key, TunnelEnd::StoppedReading, now);
            return;
        }
        let limits = &self.config.limits;
        match tunnel.state {
            TunnelState::Free { member, ping_at, unanswered, standing, .. } if ping_at <= now.mono => {
                if unanswered >= MOST_UNANSWERED || matches!(standing, Standing::Speaking) {
                    self.end_lost_tunnel(key, TunnelEnd::StoppedResponding, now);
                    return;
                }
                if self.tunnels.pool().is_expired(member.agent, now.unix) {
                    self.expire_agent(member.agent, now);
                    return;
                }
                self.tunnels.ask(key, now.mono.after_coarse(limits.heartbeat));
                self.commands.push(Command::Send { key: key.into(), bytes: PING.to_vec() });
            }
            TunnelState::Busy { owes, exchange, .. } if owes.is_overdue(now) => {
                // While its client takes what came before, nothing is read that could be a sign. (Answered,
                // it was replaced.)
                let client =
                    self.exchanges.get(exchange).and_then(|exchange| self.clients.get(exchange.client));
                if client.is_some_and(|client| client.sending.is_sending()) {
                    self.tunnels.put_off(key, now.mono.after(limits.linger));
                } else {
                    self.end_lost_tunnel(key, TunnelEnd::StoppedResponding, now);
                    return;
                }
            }
            // What it is still being sent counts as long as it takes any of it.
            TunnelState::Ending { until } if until <= now.mono && tunnel.sending.is_sending() => {
                self.tunnels.put_off(key, now.mono.after(limits.linger));
            }
            TunnelState::Ending { until } if until <= now.mono => {
                self.drop_tunnel(key, TunnelEnd::NotClosed, now);
                return;
            }
            TunnelState::Free { .. } | TunnelState::Busy { .. } | TunnelState::Ending { .. } => {}
        }
        self.arm_tunnel(key);
    }

    /// The token of an agent has expired: it gets nothing more, and those who wait for it need not. What it
    /// is serving goes on.
    pub(super) fn expire_agent(&mut self, agent: AgentSlot, now: Now) {
        self.tunnels.spend(agent, now.mono);
        let keys = self.tunnels_that(
            |tunnel| matches!(tunnel.state, TunnelState::Free { member, .. } if member.agent == agent),
        );
        self.end_tunnels(&keys, CloseReason::Expired, now);
        self.review(now);
    }

    pub(super) fn tunnels_that(&self, is_meant: impl Fn(&Tunnel) -> bool) -> Vec<TunnelKey> {
        self.tunnels.iter().filter(|(_, tunnel)| is_meant(tunnel)).map(|(key, _)| key).collect()
    }

    /// A tunnel that has its name takes the next exchange.
    pub(super) fn free_tunnel(&mut self, key: TunnelKey, now: Now) {
        let ping_at = now.mono.after_coarse(self.config.limits.heartbeat);
        if !self.tunnels.free(key, ping_at, now.mono, &mut self.timers) {
            self.drop_tunnel(key, TunnelEnd::Closed, now);
        }
    }

    pub(super) fn bid_farewell(&mut self, key: TunnelKey, reason: CloseReason, now: Now) {
        self.commands.push(Command::Send { key: key.into(), bytes: write_farewell(reason) });
        self.retire_tunnel(key, TunnelEnd::Farewell(reason), now);
    }

    /// The tunnel of this name that is in the middle of a response, though it was replaced, or is about to
    /// be. Such a response is seen through as long as any of it still moves: the agent may have sent all of
    /// it, and the client be slow.
    pub(super) fn seen_through(&self, member: Member) -> Option<TunnelKey> {
        if !self.tunnels.pool().has_replaced(member.agent) {
            return None;
        }
        let mut tunnels = self.tunnels.iter();
        tunnels
            .find(|(_, tunnel)| tunnel.member() == Some(member) && self.is_answered(tunnel))
            .map(|(key, _)| key)
    }

    /// Whether a response has begun on this tunnel.
    pub(super) fn is_answered(&self, tunnel: &Tunnel) -> bool {
        match tunnel.state {
            TunnelState::Busy { exchange, .. } => {
                self.exchanges.get(exchange).is_some_and(|exchange| exchange.messages.is_answered())
            }
            TunnelState::Free { .. } | TunnelState::Ending { .. } => false,
        }
    }

    /// Bytes of a response came. Of a replaced tunnel that is all that is asked for.
    fn note_progress(&mut self, key: TunnelKey, now: Now) {
        self.tunnels.note_progress(key, now.mono.after(self.config.limits.linger));
    }

    /// Lets a tunnel have what is on its way to it, then FIN. It carries nothing more.
    pub(super) fn retire_tunnel(&mut self, key: TunnelKey, why: TunnelEnd<'_>, now: Now) {
        if self.tunnels.get(key).is_none() {
            return;
        }
        let until = now.mono.after(self.config.limits.linger);
        let leave = self.tunnels.end(key, why, until, now.mono, &mut self.timers);
        self.note_leave(key, leave, now);
        self.commands.push(Command::Close(key.into(), Close::Linger));
    }

    /// Closes a tunnel at once. If an exchange was on it, the caller has taken care of that.
    pub(super) fn drop_tunnel(&mut self, key: TunnelKey, why: TunnelEnd<'_>, now: Now) {
        if self.forget_tunnel(key, why, now).is_some() {
            self.commands.push(Command::Close(key.into(), Close::Now));
        }
    }

    /// All free tunnels are told that the hub ends.
    pub(super) fn bid_farewell_to_all(&mut self, now: Now) {
        let keys = self.tunnels_that(|_| true);
        self.end_tunnels(&keys, CloseReason::Draining, now);
    }

    pub(super) fn forget_tunnel(&mut self, key: TunnelKey, why: TunnelEnd<'_>, now: Now) -> Option<Tunnel> {
        let (tunnel, leave) = self.tunnels.remove(key, why, now.mono)?;
        self.note_leave(key, leave, now);
        Some(tunnel)
    }

    /// A tunnel has left its agent, which is gone if it does not come back soon. The tunnel that replaced it,
    /// and waits for it, may begin.
    fn note_leave(&mut self, key: TunnelKey, leave: Option<Leave>, now: Now) {
        let Some(Leave { successor }) = leave else { return };
        self.look_again_at(self.tunnels.pool().grace_from(now.mono));
        if let Some(successor) = successor.filter(|it| self.tunnels.end_wait_behind(*it, key)) {
            self.free_tunnel(successor, now);
        }
    }

    /// The log hears of an agent that it takes work, or why it takes none, if that is new.
    pub(super) fn note_standing(&mut self, agent: AgentSlot, trouble: Option<Trouble<'_>>, now: Now) {
        let news = self.tunnels.note_standing(agent, trouble, now.mono);
        // It may have said that it will not be ready before long.
        self.look_again_at(self.tunnels.pool().grace_from(now.mono));
        let Some(news) = news else { return };
        let trouble = trouble.map(|trouble| trouble.reason);
        let what = match news {
            News::Joined => "joined",
            News::Withdrew => "withdrew",
            News::Returned => "takes work again",
        };
        let why = match (news, trouble) {
            (_, None) => String::new(),
            (News::Joined, Some(why)) => format!(", but takes no work: {}", why.escape_default()),
            (News::Withdrew | News::Returned, Some(why)) => format!(": {}", why.escape_default()),
        };
        let serial = self.tunnels.pool().serial(agent).map_or(0, |serial| serial.0);
        let name = self.tunnels.pool().describe(agent);
        // What was held back of it is no longer so.
        let before = ["joined", "withdrew", "takes work again", "left"].map(|what| (what, serial));
        self.notices.end(&before);
        self.notices.say(Level::Info, (what, serial), now.mono, format_args!("agent {name} {what}{why}"));
    }

    /// What an agent says on a tunnel without an exchange: a sign of life, or that it withdraws.
    fn read_note(&mut self, key: TunnelKey, shown: Shown<'_>, now: Now) -> Step {
        let Shown { input, end, .. } = shown;
        let Some(tunnel) = self.tunnels.get(key) else { return Step::Wait };
        let TunnelState::Free { member, unanswered, .. } = tunnel.state else { return Step::Wait };
        // Nothing but the answer to a sign of life, or a withdrawal, may come.
        if !input.iter().zip(STATUS_LINE).all(|(byte, expected)| byte == expected) {
            self.drop_tunnel(key, TunnelEnd::Unexpected, now);
            return Step::Wait;
        }
        let Some(scan) = self.tunnels.scan_mut(key) else { return Step::Wait };
        let mut storage = Storage::on_tunnel();
        let head = match ResponseHead::find(scan, input, &mut storage, false) {
            Ok(Some(head)) => head,
            Ok(None) => {
                if end.is_some() {
                    self.drop_tunnel(key, TunnelEnd::Closed, now);
                } else if !input.is_empty() {
                    self.tunnels.note_speech(key);
                }
                return Step::Wait;
            }
            Err(violation) => {
                self.drop_tunnel(key, TunnelEnd::Malformed(violation), now);
                return Step::Wait;
            }
        };
        *scan = scan.anew();
        // Any 204 is an answer: an agent need not be ours.
        let note = if head.status == 204 { Note::Alive } else { Note::of(&head) };
        match note {
            Note::Alive if unanswered > 0 => {
                if self.tunnels.note_answer(key, input.len() > head.length) {
                    self.free_tunnel(key, now);
                    self.is_dispatch_due = true;
                }
                Step::Skip(head.length)
            }
            Note::Refused(trouble) => {
                self.note_standing(member.agent, Some(trouble), now);
                self.drop_tunnel(key, TunnelEnd::Withdrew(trouble), now);
                Step::Wait
            }
            Note::Alive | Note::Failed | Note::None => {
                self.drop_tunnel(key, TunnelEnd::Unasked, now);
                Step::Wait
            }
        }
    }

    fn read_response(
        &mut self,
        key: TunnelKey,
        exchange_key: ExchangeKey,
        mut shown: Shown<'_>,
        now: Now,
    ) -> Step {
        let Some(exchange) = self.exchanges.get_mut(exchange_key) else { return Step::Wait };
        if !exchange.messages.is_answered() {
            return self.read_response_head(key, exchange_key, shown, now);
        }
        if !shown.input.is_empty() {
            // A request that is quiet does not stand still while its response comes.
            exchange.note_progress(now.mono.after_coarse(self.config.limits.stall));
        }
        self.note_progress(key, now);
        let Some(exchange) = self.exchanges.get_mut(exchange_key) else { return Step::Wait };
        match exchange.messages.advance_response(shown.all()) {
            Ok(Progress::Pass(n)) => Step::Pass(n),
            Ok(Progress::Skip(n)) => Step::Skip(n),
            Ok(Progress::NeedMore) => Step::Wait,
            Ok(Progress::Done) => {
                if exchange.messages.is_upgraded() {
                    self.end_direction(exchange_key, Direction::Outbound, now);
                } else {
                    self.complete(exchange_key, !shown.is_news(), now);
                }
                Step::Wait
            }
            Ok(Progress::Truncated) => {
                self.fail(exchange_key, Refusal::CutOff, now);
                Step::Wait
            }
            Err(violation) => {
                self.fail(exchange_key, violation.in_response().into(), now);
                Step::Wait
            }
        }
    }

    fn read_response_head(
        &mut self,
        key: TunnelKey,
        exchange_key: ExchangeKey,
        shown: Shown<'_>,
        now: Now,
    ) -> Step {
        let Shown { input, end, out } = shown;
        let Some(exchange) = self.exchanges.get_mut(exchange_key) else { return Step::Wait };
        let Some(Active { since, gate, awaited, response, keep }) = exchange.phase.active_mut() else {
            return Step::Wait;
        };
        let Some(tunnel) = self.tunnels.get(key) else { return Step::Wait };
        let TunnelState::Busy { member: Member { agent, .. }, .. } = tunnel.state else {
            return Step::Wait;
        };
        let mut storage = Storage::on_tunnel();
        let head = match exchange.messages.find_head(input, &mut storage) {
            Ok(Some(head)) => head,
            Ok(None) => {
                return if end.is_some() { Step::Fail } else { Step::Wait };
            }
            Err(violation) => {
                self.fail(exchange_key, violation.into(), now);
                return Step::Wait;
            }
        };
        let client = exchange.client;
        match Note::of(&head) {
            Note::Alive if head.status == 102 => {
                let by = now.mono.after_coarse(sign_limit(self.config.limits.heartbeat));
                self.tunnels.set_owes(key, Owes::Sign { by });
                // It takes nothing because its upstream is busy with something else and has not begun to
                // read.
                if let Some(sending) = self.tunnels.sending_mut(key) {
                    sending.put_off(self.config.limits.stall * IN_BETWEEN, now);
                }
                exchange.messages.await_another_head();
                return Step::Skip(head.length);
            }
            Note::Refused(trouble) => {
                self.drop_tunnel(key, TunnelEnd::Refused(trouble), now);
                self.refused(exchange_key, agent, now);
                return Step::Wait;
            }
            Note::Failed => exchange.is_agents_own = true,
            Note::Alive | Note::None => {}
        }
        if head.status == 100 && *gate == Gate::AwaitsConnect {
            *gate = Gate::Open;
            if !exchange.messages.request.is_done() {
                *awaited = Awaited::Request { by: now.mono.after_coarse(self.config.limits.stall) };
            }
            exchange.messages.await_another_head();
            self.commands.push(Command::SendHeld(client.into()));
            self.commands.push(Command::Resume(client.into()));
            self.await_response(exchange_key, now);
            self.arm_exchange(exchange_key);
            return Step::Skip(head.length);
        }
        if head.status == 101 && *gate == Gate::AwaitsConnect {
            self.fail(exchange_key, SWITCHED_EARLY.into(), now);
            return Step::Wait;
        }
        let facts = &exchange.messages.facts;
        let framing = head.framing.onward(facts.version);
        if head.framing == Framing::UntilClose && head.status >= 200 {
            self.fail(exchange_key, Refusal::Unframed, now);
            return Step::Wait;
        }
        let (version, persistent) = (facts.version, facts.persistent && framing != Framing::UntilClose);
        // RFC 9110 section 10.1.1: a client whose expectation was not met will not send the body, and must
        // not take its connection, which is in the middle of a request then, for one that carries another.
        let unmet = head.status >= 200 && matches!(awaited, Awaited::Continue { .. });
        let persistent = persistent && self.draining.is_none() && !unmet;
        let turn = match exchange.messages.on_head(&head, framing, now.mono) {
            Ok(turn) => turn,
            Err(violation) => {
                self.fail(exchange_key, violation.into(), now);
                return Step::Wait;
            }
        };
        // HTTP/1.0 knows no interim responses (RFC 9110 section 15.2).
        if turn != Turn::Interim || version == Version::Http11 {
            let agent_id = self.tunnels.pool().agent_id(agent);
            let name = &self.config.name;
            let origins = self.config.cors.as_ref();
            let sharing = origins.map(|origins| Sharing { origins, grant: exchange.grant });
            let timing = Timing {
                queue: since.0.saturating_sub(exchange.waits_since.0),
                head: now.mono.0.saturating_sub(since.0),
            };
            let id = exchange.id.as_str();
            let how = ToClient { name, agent_id, version, framing, persistent, sharing, id, timing };
            response_to_client(&head, &how, out);
        }
        let may_be_repeated = turn == Turn::Interim && version == Version::Http10;
        match turn {
            Turn::Interim => {
                if head.status == 100 && !exchange.messages.request.is_done() {
                    *awaited = Awaited::Request { by: now.mono.after_coarse(self.config.limits.stall) };
                    self.arm_exchange(exchange_key);
                }
            }
            Turn::Final | Turn::Upgraded => {
                *keep = persistent;
                if let Some(tally) = &mut self.tally {
                    tally.note_head(head.status, now.mono.millis_since(since));
                }
                *response = Limit::NONE;
                self.tunnels.set_owes(key, Owes::Nothing);
                if unmet {
                    *awaited = Awaited::Unmet;
                }
                if turn == Turn::Upgraded {
                    *awaited = Awaited::Nobody;
                    self.commands.push(Command::Resume(client.into()));
                    if let Some(draining) = &mut self.draining {
                        draining.limit_upgraded(self.config.upgrade_drain, now);
                    }
                }
                if let Some(label) = &exchange.label {
                    debug!("{label}: {} from {}", head.status, self.tunnels.pool().describe(agent));
                }
            }
        }
        if !may_be_repeated {
            self.let_go(exchange_key);
        }
        Step::Skip(head.length)
    }
}

/// RFC 9110 section 7.8: a server switches once it has all of the request.
const SWITCHED_EARLY: Violation =
    Violation::new(502, "the upstream switched to another protocol before it had the request");
/// What every response begins with (RFC 9112 section 4).
const STATUS_LINE: &[u8] = b"HTTP/1.1 ";
