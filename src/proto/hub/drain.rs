//! The end of a hub: new requests are refused, those that are there are served, and what is left is cut off
//! so that nobody takes it for complete.

use alloc::vec::Vec;
use core::time::Duration;

use log::warn;

use super::ending::Outcome;
use super::{Client, ClientState, Hub};
use crate::proto::deadline::Limit;
use crate::proto::exchange::Response;
use crate::proto::notice::Count;
use crate::proto::seam::{Close, Command};
use crate::proto::tables::key::{ClientKey, ExchangeKey};
use crate::proto::tables::timer::{Mono, Now};

/// The process is ending.
#[derive(Clone, Copy)]
pub(super) struct Draining {
    /// What is still served then is cut off.
    until: Mono,
    /// Upgraded connections are cut off then; none once they were, until there is another one.
    upgraded_until: Limit,
}

impl Draining {
    pub(super) fn next_timeout(&self) -> Mono {
        self.until.min(self.upgraded_until.deadline())
    }

    /// An exchange was upgraded. It has as long as those that were there before.
    pub(super) fn limit_upgraded(&mut self, limit: Duration, now: Now) {
        self.upgraded_until.bring_forward(now.mono.after(limit));
    }
}

impl Hub {
    pub(super) fn begin_drain(&mut self, now: Now) {
        self.draining = Some(Draining {
            until: now.mono.after(self.config.drain_timeout),
            upgraded_until: Limit::at(now.mono.after(self.config.upgrade_drain)),
        });
    }

    /// Ends upgraded connections whose time is over. What they held is free for those that wait.
    pub(super) fn cut_off_upgraded(&mut self, now: Now) {
        let Some(draining) = &mut self.draining else { return };
        if draining.upgraded_until.has_passed(now) {
            draining.upgraded_until = Limit::NONE;
            self.cut_off(|hub, key| hub.is_upgraded(key), now);
        }
    }

    /// A drain is over when nothing is left to be served and the last answers are out.
    pub(super) fn check_drained(&mut self, now: Now) {
        let Some(draining) = &self.draining else { return };
        let late = now.mono >= draining.until;
        if !late && !self.exchanges.is_empty() {
            return;
        }
        while self.evict(self.clients.longest_idle(), now) {}
        if late || self.clients.is_empty() {
            let left = self.exchanges.len();
            if left > 0 {
                warn!("the drain timeout is over: {} cut off", Count(left, "request"));
            }
            self.cut_off_all(now);
            self.draining = None;
            self.bid_farewell_to_all(now);
            self.notices.handle_end(now.mono);
            self.commands.push(Command::Exit(u8::from(left > 0)));
        }
    }

    /// Before the process ends: what would look complete if it ended with FIN, as it does when a process
    /// goes, ends in a reset.
    pub(super) fn cut_off_all(&mut self, now: Now) {
        self.cut_off(|hub, key| hub.is_upgraded(key) || hub.ends_by_closing(key), now);
        let is_short = |client: &Client| {
            matches!(client.state, ClientState::Ending { .. }) && client.sending.is_sending()
        };
        let short: Vec<ClientKey> =
            self.clients.iter().filter(|(_, client)| is_short(client)).map(|(key, _)| key).collect();
        for key in short {
            self.drop_client(key, Close::Reset, now);
        }
    }

    fn cut_off(&mut self, is_meant: impl Fn(&Self, ExchangeKey) -> bool, now: Now) {
        let meant: Vec<ExchangeKey> =
            self.exchanges.iter().map(|(key, _)| key).filter(|key| is_meant(self, *key)).collect();
        for key in meant {
            if let Some(client) = self.exchanges.get(key).map(|exchange| exchange.client) {
                self.give_up_client(client, Close::Reset, Outcome::CutOff, now);
            }
        }
    }

    fn is_upgraded(&self, key: ExchangeKey) -> bool {
        self.exchanges.get(key).is_some_and(|exchange| exchange.messages.is_upgraded())
    }

    fn ends_by_closing(&self, key: ExchangeKey) -> bool {
        self.exchanges.get(key).is_some_and(|exchange| {
            matches!(exchange.messages.response, Response::Body { .. })
                && super::transitions::delimited_by_close(exchange)
        })
    }
}
