//! What becomes of packets when they arrive, and of the ends that they arrive at.

use super::*;

impl World {
    pub(super) fn arrive(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Syn { end, address } => self.arrive_syn(end, address),
            Delivery::SynAck(end) => {
                let it = &mut self.ends[end];
                if !it.dead && !it.silent {
                    (it.connected, it.edge) = (true, true);
                    self.note("connected", self.ends[end].process, end, 0);
                }
            }
            Delivery::Refused(end) => self.kill(end, Errno::CONNREFUSED),
            Delivery::Bytes(end, n) => self.arrive_bytes(end, n),
            Delivery::Fin(end) => {
                let it = &mut self.ends[end];
                if it.window.is_some_and(|window| it.queue.len() > window) {
                    it.fin_waits = true;
                    self.abandon(end);
                } else if !it.dead && !it.silent {
                    (it.fin_received, it.edge) = (true, true);
                    it.history.fin_arrived.get_or_insert(self.moment);
                    self.note("fin", self.ends[end].process, end, 0);
                }
            }
            Delivery::Orphaned(end) => {
                let (clock, it) = (self.clock, &mut self.ends[end]);
                let last_room = it.history.read.last().map_or(0, |(_, at)| at.at);
                if it.fin_waits && last_room + ORPHANED > clock {
                    self.deliver_at(last_room + ORPHANED, Delivery::Orphaned(end));
                } else if it.fin_waits && !it.silent {
                    // What had no room never arrived.
                    it.queue.truncate(it.window.unwrap_or(usize::MAX));
                    it.fin_waits = false;
                    self.kill(end, Errno::CONNRESET);
                }
            }
            Delivery::Rst(end) => {
                if !self.ends[end].silent {
                    // tcp_reset(): in CLOSE_WAIT the error is another one.
                    let error = if self.ends[end].fin_received { Errno::PIPE } else { Errno::CONNRESET };
                    self.kill(end, error);
                }
            }
            Delivery::Room(end, n) => {
                if !self.ends[end].silent {
                    self.ends[end ^ 1].used -= n;
                    self.edge_if_room(end);
                }
            }
            Delivery::Unblock(end) => {
                self.ends[end].blocked = false;
                self.edge_if_room(end);
            }
            Delivery::Edge(end) => self.ends[end].edge = true,
            Delivery::GiveUp { end, last } => {
                let waits = self.ends[end ^ 1].used > 0;
                if waits && !last {
                    self.deliver_at(self.clock + RETRIES - KEEPALIVE, Delivery::GiveUp { end, last: true });
                } else {
                    self.kill(end, Errno::TIMEDOUT);
                }
            }
            Delivery::Strike { end, silence: true } => self.silence(end),
            Delivery::Strike { end, silence: false } => {
                self.kill(end, Errno::CONNRESET);
                self.kill(end ^ 1, Errno::CONNRESET);
            }
            Delivery::Parted(end) => {
                for end in [end, end ^ 1] {
                    let it = &mut self.ends[end];
                    (it.fin_received, it.edge, it.silent) = (true, true, true);
                    self.note("parted", self.ends[end].process, end, 0);
                }
            }
            Delivery::Told(process, event) => self.hosts[process].told.push(event),
        }
    }

    fn arrive_syn(&mut self, end: usize, address: SocketAddr) {
        if self.ends[end].closed || self.ends[end].dead || self.ends[end].silent {
            return;
        }
        if self.hosts.iter().all(|host| host.address != address.ip()) {
            self.deliver_at(self.clock + SYN_RETRIES, Delivery::GiveUp { end, last: true });
            return;
        }
        let open = |listener: &Listening| listener.open && listener.address == address;
        match self.listeners.iter().position(open) {
            None => self.send_in_order(end, Delivery::Refused(end)),
            Some(_) if self.rng.chance(self.weather.refuse) => {
                self.send_in_order(end, Delivery::Refused(end))
            }
            Some(listener) if self.listeners[listener].backlog.len() >= self.listeners[listener].limit => {
                // The SYN is dropped, and sent again a second later.
                self.deliver_at(self.clock + SECOND, Delivery::Syn { end, address });
            }
            Some(listener) => {
                let process = self.listeners[listener].process;
                let there = &mut self.ends[end ^ 1];
                (there.process, there.connected) = (process, true);
                self.hosts[process].ends.push(end ^ 1);
                self.listeners[listener].backlog.push_back(end ^ 1);
                self.listeners[listener].edge = true;
                self.note("syn", process, end ^ 1, 0);
                self.send_in_order(end, Delivery::SynAck(end));
            }
        }
    }

    fn arrive_bytes(&mut self, end: usize, n: usize) {
        let it = &mut self.ends[end];
        if it.dead || it.silent {
            return;
        }
        let n = n.min(it.flight.len());
        let bytes: Vec<u8> = it.flight.drain(..n).collect();
        if it.closed {
            // Nobody will read it: the answer is a reset.
            it.dead = true;
            self.send_in_order(end ^ 1, Delivery::Rst(end ^ 1));
            return;
        }
        it.queue.extend(bytes);
        it.history.arrived += n as u64;
        it.history.arrived_at = self.clock;
        it.edge = true;
        self.note("bytes", self.ends[end].process, end, n as u64);
    }

    /// The connection is over for this end.
    pub(crate) fn kill(&mut self, end: usize, error: Errno) {
        let it = &mut self.ends[end];
        if it.dead {
            return;
        }
        it.dead = true;
        it.flight.clear();
        if !it.closed {
            it.error = Some(error);
            it.edge = true;
        }
        self.note("dead", self.ends[end].process, end, error.raw_os_error().unsigned_abs().into());
    }

    /// From now on nothing that is sent on this connection arrives.
    pub(crate) fn silence(&mut self, end: usize) {
        for end in [end, end ^ 1] {
            self.ends[end].silent = true;
            let now = self.clock;
            self.ends[end].silent_since.get_or_insert(now);
            let at = self.clock + KEEPALIVE;
            self.deliver_at(at, Delivery::GiveUp { end, last: false });
        }
        self.note("silent", self.ends[end].process, end, 0);
    }

    pub(super) fn edge_if_room(&mut self, end: usize) {
        if self.ends[end].no_space && self.has_room(end) {
            self.ends[end].no_space = false;
            self.ends[end].edge = true;
        }
    }
}
