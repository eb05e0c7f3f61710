//! The client's side: request heads, admission, request bodies, and leaving.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use log::{Level, debug, log_enabled};

use super::admission::{Caller, Rules, Terms, Verdict, judge};
use super::answers::Manner;
use super::ending::Outcome;
use super::exchanges::Spare;
use super::hold::Share;
use super::pool::Need;
use super::{Client, ClientState, Exchange, Held, Hub, Refusal};
use crate::proto::ends::Stage;
use crate::proto::exchange::{Facts, Messages};
use crate::proto::http1::cors::{self, Sharing};
use crate::proto::http1::head::{HeadScan, RequestHead};
use crate::proto::http1::path;
use crate::proto::http1::reply::{self, CONTINUE, Form, Reply};
use crate::proto::http1::request_id::RequestId;
use crate::proto::http1::rewrite::request_to_agent;
use crate::proto::http1::storage::Storage;
use crate::proto::seam::{Close, Command, Shown, Step};
use crate::proto::tables::key::{ClientKey, Key, TableKey};
use crate::proto::tables::timer::{Armed, Mono, Now};

/// The port that `https://` means without another one (RFC 9110 section 4.2.2).
const HTTPS_PORT: u16 = 443;

impl Hub {
    pub(super) fn wants_client_input(&self, key: ClientKey) -> bool {
        let Some(client) = self.clients.get(key) else { return false };
        match client.state {
            // Not before it has taken its last response: answers would pile up here.
            ClientState::Waiting { .. } => !client.sending.is_sending(),
            ClientState::Ending { .. } => false,
            ClientState::Exchange(exchange) => {
                let Some(exchange) = self.exchanges.get(exchange) else { return false };
                exchange.wants_request()
            }
        }
    }

    pub(super) fn handle_client_input(&mut self, key: ClientKey, shown: Shown<'_>, now: Now) -> Step {
        let Some(client) = self.clients.get(key) else { return Step::Wait };
        match client.state {
            ClientState::Waiting { .. } => self.read_head(key, shown, now),
            ClientState::Exchange(exchange) => self.read_body(exchange, shown, now),
            ClientState::Ending { .. } => Step::Wait,
        }
    }

    /// FIN or a reset during an exchange is leaving; before one it is noticed when the input ends.
    pub(super) fn handle_client_hangup(&mut self, key: ClientKey, now: Now) {
        self.clients.note_left(key);
        let Some(client) = self.clients.get(key) else { return };
        if let ClientState::Exchange(exchange) = client.state {
            let upgraded =
                self.exchanges.get(exchange).is_some_and(|exchange| exchange.messages.is_upgraded());
            if !upgraded {
                self.drop_client(key, Close::Now, now);
            }
        }
    }

    pub(super) fn expire_client(&mut self, key: Key, at: Mono, now: Now) {
        let Some(key) = ClientKey::from_key(key) else { return };
        if !self.clients.disarm(key, at) {
            return;
        }
        let Some(client) = self.clients.get(key) else { return };
        if client.sending.has_passed(now) {
            debug!("{key:?} takes nothing of its response; closing");
            self.give_up_client(key, Close::Reset, Outcome::StoodStill, now);
            return;
        }
        let sends = client.sending.is_sending();
        let limits = &self.config.limits;
        match &client.state {
            // Its last response is still being sent: until that is done, it is neither idle nor late to
            // close.
            ClientState::Waiting { until, scan, .. } if *until <= now.mono && sends && !scan.is_begun() => {
                self.clients.put_off(key, now.mono.after_coarse(limits.idle));
            }
            ClientState::Ending { until, .. } if *until <= now.mono && sends => {
                self.clients.put_off(key, now.mono.after(limits.linger));
            }
            ClientState::Waiting { until, scan, .. } if *until <= now.mono => {
                if scan.is_begun() {
                    self.count(|tally| tally.note_refused(Refusal::HeadLate));
                    let id = RequestId::of_unread(self.random.next());
                    self.refuse(key, Refusal::HeadLate, Manner::unread(&id, false), true, now);
                } else {
                    self.drop_client(key, Close::Now, now);
                }
            }
            // Not by a reset: it would take back what the kernel has yet to send.
            ClientState::Ending { until, .. } if *until <= now.mono => self.drop_client(key, Close::Now, now),
            ClientState::Waiting { .. } | ClientState::Ending { .. } | ClientState::Exchange(_) => {}
        }
        self.arm_client(key);
    }

    /// Makes the client wait for its next request head.
    pub(super) fn await_head(&mut self, key: ClientKey, limit: Duration, now: Now) {
        self.clients.await_head(key, now.mono.after_coarse(limit), &mut self.timers);
    }

    /// Answers a client that is in no exchange with an error of the hub's own. With `close` nothing more is
    /// read from it.
    pub(super) fn refuse(
        &mut self,
        key: ClientKey,
        refusal: Refusal,
        manner: Manner<'_>,
        close: bool,
        now: Now,
    ) {
        self.clients.note_answer(key);
        let mut bytes = Vec::new();
        let close = close || self.draining.is_some();
        let Manner { form, grant, head_only, id } = manner;
        let sharing = self.config.cors.as_ref().map(|origins| Sharing { origins, grant });
        let reply = Reply { close, head_only, sharing, id, date: now.date(), ..refusal.reply(form) };
        reply::write(&reply, &mut bytes);
        self.commands.push(Command::Send { key: key.into(), bytes });
        if close {
            self.end_client(key, now);
        }
    }

    /// Tells a browser whether a page may send a request. The request itself follows on the same connection.
    fn answer_preflight(&mut self, key: ClientKey, head: &RequestHead<'_, '_>, now: Now) {
        let close = !head.persistent || !self.has_place(now);
        let mut bytes = Vec::new();
        let id = self.call(head);
        cors::answer_preflight(head, self.config.cors.as_ref(), &id, close, &mut bytes);
        self.clients.note_answer(key);
        self.commands.push(Command::Send { key: key.into(), bytes });
        if close {
            self.end_client(key, now);
        } else {
            self.await_head(key, self.config.limits.idle, now);
        }
    }

    /// Answers a request that may have no more recipients (RFC 9110 section 7.6.2).
    fn answer_last(&mut self, key: ClientKey, head: &RequestHead<'_, '_>, now: Now) {
        let mut bytes = Vec::new();
        let id = self.call(head);
        reply::write_last(head, Some(id.as_str()), true, &mut bytes);
        self.commands.push(Command::Send { key: key.into(), bytes });
        self.end_client(key, now);
    }

    /// Sends a client that spoke without TLS to the port where it is spoken. Agents too: a token is not for
    /// everybody's eyes.
    fn redirect(
        &mut self,
        key: ClientKey,
        head: &RequestHead<'_, '_>,
        port: u16,
        now: Now,
    ) -> Result<(), Refusal> {
        let authority = head.authority();
        // The colons of an IPv6 address stand in brackets.
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => host,
            Some(_) | None => authority,
        };
        let path = head.path_and_query();
        if host.is_empty() || path == "*" {
            return Err(Refusal::HttpsElsewhere);
        }
        let port = if port == HTTPS_PORT { String::new() } else { format!(":{port}") };
        let location = format!("https://{host}{port}{path}");
        let detail = "this hub speaks HTTPS on another port, which Location names";
        let id = self.call(head);
        let reply = Reply {
            location: Some(&location),
            head_only: head.method.is_head(),
            id: Some(id.as_str()),
            ..Reply::new(308, detail)
        };
        let mut bytes = Vec::new();
        reply::write(&reply, &mut bytes);
        self.commands.push(Command::Send { key: key.into(), bytes });
        self.end_client(key, now);
        Ok(())
    }

    /// Lets the client have what is on its way to it, then FIN, and reads no more requests.
    pub(super) fn end_client(&mut self, key: ClientKey, now: Now) {
        if self.clients.get(key).is_none() {
            return;
        }
        self.clients.end(key, now.mono.after(self.config.limits.linger), &mut self.timers);
        self.commands.push(Command::Close(key.into(), Close::Linger));
    }

    /// Closes the client, and ends its exchange if it is in one.
    pub(super) fn drop_client(&mut self, key: ClientKey, how: Close, now: Now) {
        self.give_up_client(key, how, Outcome::ClientLeft, now);
    }

    /// As [`Hub::drop_client`], where it is not the client that has left.
    pub(super) fn give_up_client(&mut self, key: ClientKey, how: Close, outcome: Outcome, now: Now) {
        if self.forget_client(key, outcome, now) {
            self.commands.push(Command::Close(key.into(), how));
        }
    }

    /// Forgets the client, and ends its exchange like this. False if it was gone already.
    pub(super) fn forget_client(&mut self, key: ClientKey, outcome: Outcome, now: Now) -> bool {
        let Some(client) = self.clients.remove(key) else { return false };
        if let ClientState::Exchange(exchange) = client.state {
            self.abandon(exchange, outcome, now);
        } else if client.takes_tail() {
            self.is_dispatch_due = true;
        }
        true
    }

    fn read_head(&mut self, key: ClientKey, shown: Shown<'_>, now: Now) -> Step {
        let Shown { input, end, out } = shown;
        let Some(scan) = self.clients.scan_mut(key) else { return Step::Wait };
        let skip = scan.leading_crlf(input);
        if skip > 0 {
            return Step::Skip(skip);
        }
        let begun = scan.is_begun();
        let mut storage = Storage::new();
        match RequestHead::find(scan, input, &mut storage) {
            Ok(Some(head)) => {
                if end.is_some() || self.clients.get(key).is_some_and(|client| client.left) {
                    // A client that has left wants no answer, and a worker is too dear for one.
                    self.drop_client(key, Close::Now, now);
                } else if let Err(refusal) = self.begin(key, &head, out, now) {
                    self.count(|tally| tally.note_refused(refusal));
                    let id = self.call(&head);
                    self.note_refusal(key, refusal, &id, now);
                    let manner = Manner::of(&head, &id, self.config.cors.as_ref());
                    self.refuse(key, refusal, manner, true, now);
                }
                Step::Skip(head.length)
            }
            Ok(None) => {
                if end.is_some() {
                    // Nothing is lost: between two requests, or in a head that will never be complete.
                    let how = if input.is_empty() { Close::Linger } else { Close::Now };
                    match how {
                        Close::Linger => self.end_client(key, now),
                        Close::Now | Close::Reset => self.drop_client(key, how, now),
                    }
                } else if !begun && !input.is_empty() {
                    self.clients.put_off(key, now.mono.after_coarse(self.config.limits.head));
                    self.arm_client(key);
                }
                Step::Wait
            }
            Err(violation) => {
                let id = RequestId::of_unread(self.random.next());
                let refusal = Refusal::from(violation);
                self.count(|tally| tally.note_refused(refusal));
                self.refuse(key, refusal, Manner::unread(&id, is_head(input)), true, now);
                Step::Wait
            }
        }
    }

    /// A request head is complete: everything that can be said of it is said here, once.
    fn begin(
        &mut self,
        key: ClientKey,
        head: &RequestHead<'_, '_>,
        out: &mut Vec<u8>,
        now: Now,
    ) -> Result<(), Refusal> {
        let Some(client) = self.clients.get(key) else { return Ok(()) };
        let rules = Rules { config: &self.config, keys: &self.keys, is_draining: self.draining.is_some() };
        match judge(head, Caller::of(client), &rules)? {
            // An agent is no request, and one that is served ends later.
            Verdict::Join(hello) => self.join(key, &hello, now),
            Verdict::Serve(terms) => self.serve(key, head, &terms, out, now)?,
            Verdict::Redirect(port) => {
                self.redirect(key, head, port, now)?;
                self.count(|tally| tally.note_answered(308));
            }
            Verdict::Preflight => {
                self.answer_preflight(key, head, now);
                self.count(|tally| tally.note_answered(204));
            }
            Verdict::AnswerLast => {
                self.answer_last(key, head, now);
                self.count(|tally| tally.note_answered(200));
            }
        }
        Ok(())
    }

    /// Makes an exchange of a request.
    fn serve(
        &mut self,
        key: ClientKey,
        head: &RequestHead<'_, '_>,
        terms: &Terms,
        out: &mut Vec<u8>,
        now: Now,
    ) -> Result<(), Refusal> {
        if !self.has_place(now) {
            return Err(Refusal::ClientsFull);
        }
        let Some(client) = self.clients.get(key) else { return Ok(()) };
        let start = out.len();
        let Spare { mut need, mut id } = self.exchanges.spare();
        need.fill(head);
        id.set(head, || self.random.next());
        request_to_agent(head, &terms.forwarding(&self.config, &id), out);
        let label = log_enabled!(Level::Debug).then(|| {
            format!("{} {} for {}, {id}", head.method.as_str(), head.path(), client.peer).into_boxed_str()
        });
        let held = Held {
            head: out.len() - start,
            body: 0,
            share: Share::default(),
            whole: true,
            expectation: terms.expectation,
        };
        let exchange = self.exchanges.insert_with(|arrival, phase| Exchange {
            client: key,
            messages: Messages::new(Facts::of(head), head.framing, HeadScan::on_tunnel()),
            need,
            id,
            arrival,
            patience: terms.patience,
            held,
            lost: 0,
            returns: 0,
            is_agents_own: false,
            armed: Armed::default(),
            phase,
            form: Form::of(head),
            grant: terms.grant,
            label,
            began: now.mono,
            waits_since: now.mono,
            gathered: 0,
        });
        let exchange = exchange.ok_or(Refusal::HubFull)?;
        self.clients.enter_exchange(key, exchange, &mut self.timers);
        if !terms.gathers {
            self.admit(exchange, now);
            return Ok(());
        }
        if terms.says_continue {
            self.commands.push(Command::Send { key: key.into(), bytes: CONTINUE.to_vec() });
        }
        self.gather(exchange, now);
        Ok(())
    }

    /// Who is kept out, and for want of what, is for the operator to know; what a client does wrong is not.
    /// What a request is called that gets no further than here.
    fn call(&mut self, head: &RequestHead<'_, '_>) -> RequestId {
        RequestId::of(head, || self.random.next())
    }

    fn note_refusal(&mut self, key: ClientKey, refusal: Refusal, id: &RequestId, now: Now) {
        // These say so themselves, once for all whom they keep out.
        if matches!(refusal, Refusal::Draining | Refusal::ClientsFull) {
            return;
        }
        let (status @ (401 | 503 | 508), detail) = (refusal.status(), refusal.detail()) else { return };
        let code = refusal.end(Stage::Head).code();
        if let Some(Client { peer, .. }) = self.clients.get(key) {
            let line = format_args!(
                "refused a request of {peer} with {status} ({code}): {detail}; X-Request-Id {id}"
            );
            self.notices.say(Level::Warn, (detail, 0), now.mono, line);
        }
    }
}

impl Need {
    fn fill(&mut self, head: &RequestHead<'_, '_>) {
        if let Some(scope) =
            head.fields.first("Slime-Scope").and_then(|scope| core::str::from_utf8(scope).ok())
        {
            self.scope.push_str(scope);
        }
        if !path::is_ambiguous(head.path()) {
            self.path.push_str(head.path());
        }
    }

    pub(super) fn clear(&mut self) {
        self.scope.clear();
        self.path.clear();
        self.refused.clear();
        // A request with a huge path must not keep its memory.
        self.scope.shrink_to(256);
        self.path.shrink_to(256);
    }
}

/// Whether a request head, parsed or not, is that of a HEAD request, whose response has no body (RFC 9110
/// section 9.3.2).
fn is_head(bytes: &[u8]) -> bool {
    bytes.starts_with(b"HEAD ")
}
