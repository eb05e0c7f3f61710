//! What a client makes of the responses that come.

use super::*;

impl Client {
    pub(super) fn read(&mut self) -> Next {
        let now = self.now();
        let Some(connection) = &mut self.connection else { return Next::Wait };
        let plan = self.model.borrow().exchanges[connection.asked[connection.current].exchange].clone();
        if connection.next_read > now {
            let at = connection.next_read;
            self.wake_at(at);
            return Next::Wait;
        }
        let mut buffer = vec![0; plan.read_pace.map_or(16_384, |pace| pace.bytes - connection.taken)];
        match connection.wire.read(&mut self.net, &mut buffer) {
            // The other side of an upgraded connection is complete, this one is not yet.
            Ok(0) if connection.is_raw() && !connection.has_ended() => {
                let is_news = connection.other_ended.is_none();
                if is_news {
                    self.model.borrow_mut().check_fin(plan.id, Way::Outbound, now);
                }
                let at = *connection.other_ended.get_or_insert(now) + plan.last_pause;
                if at > now {
                    self.wake_at(at);
                }
                if is_news { Next::Go } else { Next::Wait }
            }
            Ok(0) => Next::Over(self.end(!self.connection.as_ref().is_some_and(|it| it.failed))),
            Ok(n) => {
                connection.received += n;
                connection.taken += n;
                if let Some(Pace { bytes, every }) = plan.read_pace
                    && connection.taken >= bytes
                {
                    (connection.taken, connection.next_read) = (0, now + every);
                }
                connection.reader.feed(&buffer[..n]);
                self.parse()
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Next::Wait,
            Err(_) => Next::Over(self.end(false)),
        }
    }

    /// The stream has ended: what this means for the exchange that was being answered.
    fn end(&self, clean: bool) -> Outcome {
        match &self.connection {
            Some(it) if it.half_closed => Outcome::Left,
            Some(it) => match &it.head {
                Some(head) if clean && it.reader.end_completes() => outcome_of(head),
                Some(_) => Outcome::Cut,
                // A response that came before its request was complete may end the connection without having
                // told.
                None if it.current > 0 && self.plan(it.asked[it.current - 1].exchange).early.is_some() => {
                    Outcome::Dropped
                }
                None => Outcome::Nothing,
            },
            None => Outcome::Nothing,
        }
    }

    fn parse(&mut self) -> Next {
        loop {
            let Some(connection) = &mut self.connection else { return Next::Wait };
            let exchange = connection.asked[connection.current].exchange;
            let plan = self.model.borrow().exchanges[exchange].clone();
            match connection.reader.next() {
                Ok(None) => return Next::Go,
                Ok(Some(Part::Head(head))) => self.head(&plan, head),
                Ok(Some(Part::Data(bytes))) => {
                    if connection.head.as_ref().is_some_and(|head| head.exchange().is_some()) {
                        self.model.borrow_mut().check_bytes(
                            exchange,
                            Way::Outbound,
                            connection.length,
                            &bytes,
                        );
                    }
                    connection.length += bytes.len();
                }
                Ok(Some(Part::End(trailers))) => {
                    if let Some(next) = self.complete(&plan, &trailers) {
                        return next;
                    }
                }
                Err(error) => {
                    self.model.borrow_mut().violate(exchange, error);
                    return Next::Over(Outcome::Cut);
                }
            }
        }
    }

    fn head(&mut self, plan: &Exchange, head: Head) {
        let Some(connection) = &mut self.connection else { return };
        let mut model = self.model.borrow_mut();
        if head.exchange().is_some_and(|answers| answers != plan.id) {
            model.violate(plan.id, format!("got the response of {:?}", head.exchange()));
        }
        match head.status() {
            100 => connection.may_continue = true,
            103 => connection.interims += 1,
            101 => {
                if plan.status != 101 {
                    model.violate(plan.id, "upgraded unasked");
                }
                connection.out.extend(body(plan.id, Way::Inbound, plan.request_length));
                connection.asked[connection.current].ends = connection.out.len();
                model.records[plan.id].sent = false;
                connection.head = Some(head);
            }
            // What an upstream makes up is its own.
            102..=199 if matches!(plan.fault, Some(Fault::Garbage)) => {}
            102..=199 => model.violate(plan.id, format!("a {} reached the client", head.status())),
            status => {
                if head.exchange().is_some() && status != plan.status {
                    model.violate(plan.id, format!("{status} in place of {}", plan.status));
                }
                connection.head = Some(head);
            }
        }
    }

    /// A response is complete: on to the next one, unless the connection is over.
    fn complete(&mut self, plan: &Exchange, trailers: &[(String, String)]) -> Option<Next> {
        let (now, pause) = (self.now(), self.rng.pick(&[0, 0, MILLI, SECOND, 20 * SECOND]));
        let session = self.sessions.front()?;
        let pipelined = session.pipelined;
        let connection = self.connection.as_mut()?;
        let head = connection.head.take()?;
        let outcome = if connection.half_closed { Outcome::Left } else { outcome_of(&head) };
        {
            let mut model = self.model.borrow_mut();
            if head.exchange().is_some() && !plan.http10 && connection.interims != plan.interims {
                model.violate(
                    plan.id,
                    format!("{} interim responses, not {}", connection.interims, plan.interims),
                );
            }
            let chunked = head.field("transfer-encoding").is_some() && plan.response == Framing::Chunked;
            let expected = chunked && plan.trailers && plan.method != "HEAD" && head.exchange().is_some();
            let got =
                trailers.iter().any(|(name, value)| name == "x-trailer" && *value == plan.id.to_string());
            if got != expected {
                model.violate(plan.id, format!("trailers {trailers:?}"));
            }
            model.conclude(plan.id, outcome, connection.length);
        }
        let close = head.has_option("connection", "close") || plan.http10 || connection.half_closed;
        let unsent = connection.sent < connection.asked[connection.current].ends;
        if connection.current + 1 == session.exchanges.len() || close || unsent {
            return Some(Next::Over(Outcome::Dropped));
        }
        connection.current += 1;
        (connection.length, connection.received, connection.interims) = (0, connection.reader.rest(), 0);
        connection.may_continue = false;
        if pipelined {
            connection.begin(&self.model, now);
            None
        } else {
            connection.next_ask = now + pause;
            self.wake_at(now + pause);
            Some(Next::Wait)
        }
    }
}

fn outcome_of(head: &Head) -> Outcome {
    if head.exchange().is_some() { Outcome::Complete } else { Outcome::Own(head.status()) }
}
