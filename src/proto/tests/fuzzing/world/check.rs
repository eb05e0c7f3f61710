//! What must hold of the world, whatever has happened to it.

use core::time::Duration;

use super::{Upstream, World};
use crate::proto::testing::Ended;

impl World {
    pub(super) fn check(&mut self) {
        for (tag, request) in &self.requests {
            // Each of three tunnels may have had a kept connection that died.
            let most = if request.may_repeat { 6 } else { 1 };
            assert!(request.arrived <= most, "request {tag} was executed {} times", request.arrived);
        }
        let is_lent = |upstream: &Upstream| upstream.is_blind || self.lends && upstream.is_stream;
        let works = |upstream: &Upstream| upstream.busy && !is_lent(upstream) && !upstream.gone;
        let busy = self.upstreams.iter().filter(|upstream| works(upstream));
        let busy = busy.filter(|upstream| !self.pair.wires.hung_up(self.pair.wire(upstream.raw))).count();
        assert!(busy <= self.workers, "more requests in flight than workers");
        for (index, client) in self.clients.iter_mut().enumerate() {
            let had = client.got.len();
            client.got.extend(self.pair.got_bytes(client.raw));
            if client.got.len() == had {
                continue;
            }
            for tag in tags(&client.got) {
                let sender = self.requests.get(&tag).map(|request| request.client);
                assert_eq!(sender, Some(index), "misdelivered");
                assert!(client.last <= tag, "responses are out of order");
                client.last = tag;
            }
            // What may be the beginning of a tag stays.
            let rest = client.got.iter().rposition(|byte| *byte == b'<').unwrap_or(client.got.len());
            client.got.drain(..rest);
        }
        let client_of = |tag: usize| self.requests.get(&tag).map(|request| request.client);
        for upstream in &mut self.upstreams {
            // The body says the same as the head, or nothing.
            if let Some(own) =
                upstream.tag().filter(|_| !upstream.gone && upstream.checked < upstream.got.len())
            {
                assert!(
                    tags(&upstream.got)
                        .all(|tag| tag == own || upstream.is_blind && client_of(tag) == client_of(own)),
                    "parts of another request: {}",
                    upstream.got.get(..200).unwrap_or(&upstream.got).escape_ascii()
                );
                upstream.checked = upstream.got.len();
            }
        }
    }

    /// Everybody goes, everything can be reached, and all must be well.
    pub(super) fn end(mut self) {
        for at in 0..self.clients.len() {
            self.pair.close(self.clients[at].raw);
        }
        for upstream in core::mem::take(&mut self.upstreams) {
            self.pair.close(upstream.raw);
        }
        self.repair();
        // The slowest rate of everything, and the minute that a half-closed upgrade has.
        for _ in 0..140 {
            self.pair.advance(Duration::from_secs(1));
            self.attend_upstreams();
            for at in 0..self.upstreams.len() {
                if self.upstreams[at].busy {
                    self.pair.close(self.upstreams[at].raw);
                }
            }
        }
        let tunnels = self.pair.hub.core.census().tunnels;
        assert_eq!(tunnels, self.workers, "not all workers are back:\n{}", self.pair.describe());
        let client = self.pair.client();
        self.pair.send(client, "GET /last HTTP/1.1\r\nHost: app.test\r\n\r\n");
        self.pair.advance(Duration::from_secs(6));
        while self.pair.arrivals() > 0 {
            let raw = self.pair.upstream();
            self.pair.send(raw, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
        for upstream in &self.upstreams {
            let got = self.pair.got(upstream.raw);
            if got.starts_with("GET /last ") {
                self.pair.send(upstream.raw, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        }
        let got = self.pair.got(client);
        assert!(got.starts_with("HTTP/1.1 200 OK\r\n"), "{got}");
        assert_ne!(self.pair.ended(client), Some(Ended::Reset));
        self.pair.assert_quiet(self.workers);
    }
}

/// All tags in a stream of bytes.
fn tags(bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes.split(|byte| *byte == b'<').skip(1).filter_map(|part| {
        let end = part.iter().position(|byte| *byte == b'>')?;
        core::str::from_utf8(part.get(..end)?).ok()?.parse().ok()
    })
}
