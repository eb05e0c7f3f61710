//! What an upstream answers, and when.

use super::*;

impl Upstream {
    /// Whether it is time to answer, or to do what the plan does wrong.
    pub(super) fn decide(&mut self, connection: &mut Connection) -> bool {
        let now = self.now();
        let Some(serving) = &mut connection.serving else { return false };
        let Some(plan) = &serving.plan else {
            if serving.request_complete && !serving.decided {
                serving.decided = true;
                let status = if now < self.loads_until { "503 Loading" } else { "200 OK" };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok");
                serving.answer.extend_from_slice(answer.as_bytes());
                return true;
            }
            return false;
        };
        match plan.fault {
            Some(Fault::Mute) => {
                connection.over |= connection.ended;
                return false;
            }
            Some(fault @ (Fault::Crash | Fault::CrashKept))
                if matches!(fault, Fault::Crash) || connection.served > 0 =>
            {
                let until = now + self.rng.within(5 * SECOND, 60 * SECOND);
                self.outages.push((now, until));
                self.wake_at(now);
                connection.over = true;
                return false;
            }
            Some(Fault::DropRequest(after, how)) if serving.received >= after => {
                self.drop_connection(connection, how);
                return false;
            }
            Some(Fault::Silence) => {
                let until = *serving.answer_at.get_or_insert(now + SILENCE);
                connection.over |= connection.ended || until <= now;
                self.wake_at(until);
                return false;
            }
            Some(
                Fault::DropRequest(..)
                | Fault::CutResponse(..)
                | Fault::Garbage
                | Fault::BreakKept(_)
                | Fault::Crash
                | Fault::CrashKept,
            )
            | None => {}
        }
        let early = plan.early.is_some_and(|bytes| serving.received >= bytes);
        let ready = serving.request_complete || early || serving.is_upgrade();
        if serving.decided || !ready {
            return false;
        }
        let at = *serving.answer_at.get_or_insert(now + plan.think);
        if at > now {
            self.wake_at(at);
            return false;
        }
        serving.decided = true;
        serving.answer.extend(plan.response_bytes(serving.http10, &mut self.rng));
        true
    }

    pub(super) fn write(&mut self, connection: &mut Connection) -> bool {
        let Some(serving) = connection.serving.as_mut().filter(|it| !it.answer.is_empty()) else {
            return false;
        };
        if connection.over {
            return false;
        }
        let cut = match serving.plan.as_ref().and_then(|plan| plan.fault) {
            Some(Fault::CutResponse(at, how)) if serving.decided && at < serving.answer.len() => {
                Some((at, how))
            }
            Some(Fault::BreakKept(at)) if connection.served > 0 && at < serving.answer.len() => {
                Some((at, How::Close))
            }
            _ => None,
        };
        let limit = cut.map_or(serving.answer.len(), |(at, _)| at.max(serving.sent));
        if serving.sent < limit {
            let bytes = &serving.answer[serving.sent..limit];
            match connection.wire.write(&mut self.net, bytes) {
                Ok(n) => {
                    serving.sent += n;
                    connection.written += n as u64;
                    return true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => {
                    connection.over = true;
                    return false;
                }
            }
        }
        match connection.wire.flush(&mut self.net) {
            Ok(true) => {}
            Ok(false) => return false,
            Err(_) => {
                connection.over = true;
                return false;
            }
        }
        match cut {
            Some((_, how)) => {
                self.drop_connection(connection, how);
                false
            }
            None => serving.decided && self.answered(connection),
        }
    }

    /// The response is written: on to the next request, or to the end of this one.
    pub(super) fn answered(&mut self, connection: &mut Connection) -> bool {
        let now = self.now();
        let Some(serving) = &mut connection.serving else { return false };
        let waits = |plan: &&Exchange| plan.last == Last::Upstream && plan.fault.is_none();
        if let Some(plan) = serving.plan.as_ref().filter(waits) {
            let at = serving.request_ended + plan.last_pause;
            if !serving.request_complete {
                return false;
            }
            if at > now {
                self.wake_at(at);
                return false;
            }
        }
        let first = !std::mem::replace(&mut serving.answered, true);
        let mut close = false;
        if serving.plan.is_none() && first {
            self.model.borrow_mut().probes[serving.attempt].response_ends =
                Some(connection.wire.sent_to(connection.written));
        }
        if let Some(plan) = &serving.plan {
            let until_close =
                plan.response_framing(serving.http10) == Framing::UntilClose && plan.method != "HEAD";
            close = until_close || plan.close.is_some() || matches!(plan.fault, Some(Fault::Garbage));
            if first {
                let mut model = self.model.borrow_mut();
                model.records[plan.id].attempts[serving.attempt].response_ends =
                    Some(connection.wire.sent_to(connection.written));
                if serving.is_upgrade() || until_close {
                    model.records[plan.id].fins[Way::Outbound as usize] = Some(now);
                    let _ = connection.wire.finish(&mut self.net);
                }
            }
            if !serving.request_complete && plan.early_close {
                connection.over = true;
                return false;
            }
            close |= serving.is_upgrade();
        }
        if !serving.request_complete {
            return first;
        }
        connection.serving = None;
        connection.served += 1;
        connection.idle_since = self.now();
        if close {
            let _ = connection.wire.finish(&mut self.net);
            connection.lingers_until = Some(self.now() + 300 * SECOND);
        }
        true
    }
}
