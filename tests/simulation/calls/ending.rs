//! How connections and listeners are closed, and how it is found out that a peer has vanished.

use super::*;

impl World {
    pub(super) fn shutdown(&mut self, end: usize) -> Result<(), Errno> {
        let it = &mut self.ends[end];
        let (process, fin_received) = (it.process, it.fin_received);
        if !it.connected || it.dead {
            return Err(Errno::NOTCONN);
        }
        let first = !std::mem::replace(&mut it.fin_sent, true);
        self.enter(process);
        self.note("shutdown", process, end, first.into());
        if first {
            self.progressed(process);
            self.send_in_order(end ^ 1, Delivery::Fin(end ^ 1));
            if fin_received {
                // The acknowledgement of the last FIN wakes up once more.
                self.send_in_order(end, Delivery::Edge(end));
            }
        }
        Ok(())
    }

    /// close(2): FIN, or RST if there is input that nobody has read.
    pub(crate) fn close(&mut self, end: usize) {
        if self.ends[end].closed {
            return;
        }
        if !self.ends[end].queue.is_empty() {
            self.abort(end);
            return;
        }
        self.forget(end, "close");
        let it = &mut self.ends[end];
        if !it.connected {
            it.dead = true;
            self.send_in_order(end ^ 1, Delivery::Rst(end ^ 1));
        } else if !it.dead && !it.fin_sent {
            it.fin_sent = true;
            self.send_in_order(end ^ 1, Delivery::Fin(end ^ 1));
        } else {
            self.abandon(end ^ 1);
        }
    }

    pub(crate) fn abort(&mut self, end: usize) {
        if self.ends[end].closed {
            return;
        }
        self.forget(end, "abort");
        if std::mem::replace(&mut self.ends[end].dead, true) {
            return;
        }
        self.ends[end].flight.clear();
        if self.rng.chance(500) {
            self.send_in_order(end ^ 1, Delivery::Rst(end ^ 1));
        } else {
            // What was still in the send buffer is lost.
            let at = self.clock + self.delay(end ^ 1);
            self.deliver_at(at, Delivery::Rst(end ^ 1));
        }
    }

    fn forget(&mut self, end: usize, how: &str) {
        let it = &mut self.ends[end];
        let process = it.process;
        it.closed = true;
        it.token = None;
        it.queue.clear();
        it.history.closed = Some(self.moment);
        self.hosts[process].ends.retain(|other| *other != end);
        self.enter(process);
        self.progressed(process);
        self.note(how, process, end, 0);
    }

    pub(crate) fn close_listener(&mut self, listener: usize) {
        self.listeners[listener].open = false;
        while let Some(end) = self.listeners[listener].backlog.pop_front() {
            self.ends[end].history.dropped = true;
            self.abort(end);
        }
    }

    /// What was sent on a connection that has been silent for half a minute is not acknowledged.
    pub(super) fn find_vanished(&mut self, process: usize) {
        self.enter(process);
        let is_gone = |end: &usize| {
            let it = &self.ends[*end];
            !it.dead
                && it.silent_since.is_some_and(|since| self.clock >= since + 30 * SECOND)
                && self.ends[*end ^ 1].used > 0
        };
        let sockets: Vec<u64> =
            self.hosts[process].ends.iter().filter(|end| is_gone(end)).map(|end| *end as u64).collect();
        if !sockets.is_empty() {
            self.progressed(process);
            self.deliver_at(self.clock + MILLI, Delivery::Told(process, Event::Vanished { sockets }));
        }
    }
}
