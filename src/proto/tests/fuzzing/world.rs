//! The joined cores under a list of operations: applications, upstreams, time and accidents, as the input
//! says.
//!
//! What is checked is what must hold whatever happens: nothing reaches the wrong one, no request is executed
//! twice that was not declared harmless, an upstream never has two requests of one worker, nothing is left
//! behind, and in the end all works again.

mod check;

use core::time::Duration;
use std::collections::BTreeMap;

use crate::config::OnCancel;
use crate::proto::seam::{Target, Unreachable};
use crate::proto::testing::pair::token;
use crate::proto::testing::{Pair, Raw, Reach, Setup};

/// Operations beyond this are not looked at.
const MOST_OPERATIONS: usize = 400;
const MOST_CLIENTS: usize = 8;

/// Carries out the operations in `data`.
pub(super) fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut world = World::new(&mut input);
    for _ in 0..MOST_OPERATIONS {
        let Some(operation) = input.byte() else { break };
        world.operate(operation, &mut input);
        world.check();
    }
    world.end();
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte().unwrap_or(0)) % bound.max(1)
    }

    /// Mostly everything.
    fn amount(&mut self) -> usize {
        match self.byte().unwrap_or(255) {
            small @ 0..32 => usize::from(small),
            middle @ 32..80 => usize::from(middle - 31) * 100,
            80.. => usize::MAX,
        }
    }
}

struct World {
    pair: Pair,
    workers: usize,
    /// Whether streams of events lend their workers.
    lends: bool,
    clients: Vec<Client>,
    upstreams: Vec<Upstream>,
    requests: BTreeMap<usize, Request>,
}

struct Client {
    raw: Raw,
    to_send: Vec<u8>,
    got: Vec<u8>,
    /// The latest tag that it has got.
    last: usize,
    gone: bool,
}

struct Upstream {
    raw: Raw,
    got: Vec<u8>,
    to_send: Vec<u8>,
    /// How much of `got` was looked at.
    checked: usize,
    /// It has been sent a request that it has not answered to the end.
    busy: bool,
    gone: bool,
    closes_after: bool,
    /// It has switched to another protocol: whatever its application sends comes through.
    is_blind: bool,
    /// What it answers is a stream of events.
    is_stream: bool,
}

struct Request {
    client: usize,
    may_repeat: bool,
    arrived: usize,
}

/// Every byte of a body says whose it is.
fn filler(tag: usize, length: usize) -> Vec<u8> {
    format!("<{tag}>").into_bytes().into_iter().cycle().take(length).collect()
}

fn chunked(body: &[u8], out: &mut Vec<u8>) {
    for piece in body.chunks(1000) {
        out.extend(format!("{:x};x=y\r\n", piece.len()).into_bytes());
        out.extend(piece);
        out.extend(b"\r\n");
    }
    out.extend(b"0\r\nX-End: 1\r\n\r\n");
}

impl World {
    fn new(input: &mut Input<'_>) -> Self {
        let flags = input.below(256);
        let workers = 1 + flags % 3;
        let mut setup = Setup::default().agent(|agent| {
            agent.workers = u32::try_from(workers).unwrap_or(1);
            agent.on_cancel = if flags & 64 == 0 { OnCancel::Close } else { OnCancel::Drain };
            agent.extra_upgrades = u32::from(flags & 4 != 0);
            agent.extra_streams = u32::from(flags & 128 != 0);
            agent.health_path = (flags & 8 != 0).then(|| "/health".to_owned());
        });
        if flags & 16 != 0 {
            setup = setup.with_agent(token(2), "b");
        }
        setup.grain = [usize::MAX, 1, 700, 17][input.below(4)];
        setup.room = [256 * 1024, 3000, 100, 20][input.below(4)];
        setup.splices = flags & 32 != 0;
        setup.hub.queue_depth = 4 + input.below(4);
        setup.hub.concurrent = 1 + input.below(5);
        let workers = setup.agents.iter().map(|(_, agent)| agent.workers as usize).sum();
        let mut pair = setup.start();
        pair.settle();
        let mut world = Self {
            pair,
            workers,
            lends: flags & 128 != 0,
            clients: Vec::new(),
            upstreams: Vec::new(),
            requests: BTreeMap::new(),
        };
        world.attend_upstreams();
        world
    }

    fn operate(&mut self, operation: u8, input: &mut Input<'_>) {
        match operation % 32 {
            0..=2 if self.clients.iter().filter(|client| !client.gone).count() < MOST_CLIENTS => {
                let raw = self.pair.client();
                self.clients.push(Client { raw, to_send: Vec::new(), got: Vec::new(), last: 0, gone: false });
            }
            0..=5 => self.ask(input),
            6..=11 => {
                let sends = |client: &Client| !client.to_send.is_empty();
                let Some(at) = self.live_client(input, sends) else { return };
                let amount = input.amount();
                if let Some(client) = self.clients.get_mut(at) {
                    let n = amount.min(client.to_send.len());
                    let bytes: Vec<u8> = client.to_send.drain(..n).collect();
                    self.pair.send(client.raw, bytes);
                }
            }
            12..=16 => self.answer(input),
            17..=22 => {
                let Some(at) = self.live_upstream(input, |upstream| !upstream.to_send.is_empty()) else {
                    return;
                };
                let amount = input.amount();
                self.send_from_upstream(at, amount);
            }
            23 => {
                let Some(at) = self.live_client(input, |_| true) else { return };
                let how = [Pair::finish, Pair::close, Pair::reset][input.below(3)];
                self.clients[at].gone = true;
                how(&mut self.pair, self.clients[at].raw);
            }
            24 => {
                let Some(at) = self.live_upstream(input, |_| true) else { return };
                let how = [Pair::finish, Pair::close, Pair::reset][input.below(3)];
                self.upstreams[at].gone = true;
                how(&mut self.pair, self.upstreams[at].raw);
            }
            25..=27 => {
                let millis = [1, 150, 500, 1_000, 3_000, 5_100, 15_000, 61_000][input.below(8)];
                self.pair.advance(Duration::from_millis(millis));
            }
            28 => {
                let amount = input.amount();
                if let Some(at) = self.live_client(input, |_| true) {
                    self.pair.reads_only(self.clients[at].raw, amount);
                }
            }
            29 => {
                let amount = input.amount();
                if let Some(at) = self.live_upstream(input, |_| true) {
                    self.pair.reads_only(self.upstreams[at].raw, amount);
                }
            }
            30 => self.repair(),
            _ => self.accident(input),
        }
        self.attend_upstreams();
    }

    /// The length of a body. Bytes that trickle take their time, so there are fewer of them then.
    fn size(&self, input: &mut Input<'_>) -> usize {
        let trickles = self.pair.wires.grain < 100 || self.pair.wires.room < 1000;
        let (large, larger) = if trickles { (500, 17_000) } else { (20_000, 70_000) };
        [0, 5, 5, 300, 300, large, large, larger][input.below(8)]
    }

    fn live_client(&self, input: &mut Input<'_>, is_meant: impl Fn(&Client) -> bool) -> Option<usize> {
        let all = self.clients.iter().enumerate();
        let live: Vec<_> = all.filter(|(_, client)| !client.gone && is_meant(client)).collect();
        live.get(input.below(live.len())).map(|(at, _)| *at)
    }

    fn live_upstream(&self, input: &mut Input<'_>, is_meant: impl Fn(&Upstream) -> bool) -> Option<usize> {
        let all = self.upstreams.iter().enumerate();
        let live: Vec<_> = all
            .filter(|(_, upstream)| {
                !upstream.gone && self.pair.ended(upstream.raw).is_none() && is_meant(upstream)
            })
            .collect();
        live.get(input.below(live.len())).map(|(at, _)| *at)
    }

    /// A client gets one more request to send.
    fn ask(&mut self, input: &mut Input<'_>) {
        let Some(index) = self.live_client(input, |_| true) else { return };
        let tag = self.requests.len();
        let kind = input.below(14);
        let size = self.size(input);
        let extra = [
            "",
            "Slime-Block: 0\r\n",
            "Slime-Block: 1\r\n",
            "Slime-Max-Wait: 1\r\n",
            "Idempotency-Key: k\r\n",
            "Expect: 100-continue\r\n",
            "Connection: close\r\n",
            "Slime-Scope: none\r\n",
        ][input.below(8)];
        let Some(client) = self.clients.get_mut(index) else { return };
        let (method, version) = match kind {
            0..=3 => ("GET", "1.1"),
            4 => ("HEAD", "1.1"),
            5 => ("GET", "1.0"),
            6 | 7 => ("PUT", "1.1"),
            _ => ("POST", "1.1"),
        };
        let out = &mut client.to_send;
        out.extend(format!("{method} /{tag} HTTP/{version}\r\nHost: app.test\r\n{extra}").into_bytes());
        match kind {
            3 => out.extend(b"Connection: Upgrade\r\nUpgrade: x\r\n\r\n"),
            0..=5 => out.extend(b"\r\n"),
            6 | 8 | 9 | 10 => {
                out.extend(format!("Content-Length: {size}\r\n\r\n").into_bytes());
                out.extend(filler(tag, size));
            }
            _ => {
                out.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                chunked(&filler(tag, size), out);
            }
        }
        let may_repeat = method != "POST" || extra.starts_with("Idem");
        self.requests.insert(tag, Request { client: index, may_repeat, arrived: 0 });
        // As a rule all of it comes at once.
        if input.below(4) > 0 {
            let bytes = core::mem::take(out);
            self.pair.send(client.raw, bytes);
        }
    }

    /// An upstream that has got a request makes up its mind.
    fn answer(&mut self, input: &mut Input<'_>) {
        let early = input.below(8) == 0;
        let waits = |upstream: &Upstream| {
            upstream.busy && upstream.to_send.is_empty() && (early || upstream.has_it_all())
        };
        let Some(at) = self.live_upstream(input, waits) else { return };
        let kind = input.below(10);
        let size = self.size(input);
        let Some(upstream) = self.upstreams.get_mut(at) else { return };
        let Some(tag) = upstream.tag() else { return };
        let body = filler(tag, size);
        let out = &mut upstream.to_send;
        if kind.is_multiple_of(3) {
            out.extend(format!("HTTP/1.1 103 Early Hints\r\nX-Tag: <{tag}>\r\n\r\n").into_bytes());
        }
        let head = format!("HTTP/1.1 200 OK\r\nX-Tag: <{tag}>\r\n");
        out.extend(head.as_bytes());
        let is_head = upstream.got.starts_with(b"HEAD");
        upstream.is_stream = kind == 5 && upstream.got.starts_with(b"GET ");
        let upgrades = upstream.got.windows(9).any(|part| part == b"Upgrade: ");
        match kind {
            _ if upgrades && kind % 2 == 1 => {
                let at = out.len() - head.len();
                out.truncate(at);
                let switch =
                    format!("HTTP/1.1 101 x\r\nX-Tag: <{tag}>\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
                out.extend(switch.into_bytes());
                upstream.is_blind = true;
                out.extend(&body);
            }
            0..=3 => {
                out.extend(format!("Content-Length: {size}\r\n\r\n").into_bytes());
                if !is_head {
                    out.extend(&body);
                }
            }
            4..=6 => {
                if upstream.is_stream {
                    out.extend(b"Content-Type: text/event-stream\r\n");
                }
                out.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                if !is_head {
                    chunked(&body, out);
                }
            }
            7 | 8 => {
                out.extend(b"\r\n");
                out.extend(&body);
                upstream.closes_after = true;
            }
            _ => out.extend(b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n"),
        }
        if input.below(2) > 0 {
            self.send_from_upstream(at, usize::MAX);
        }
    }

    fn send_from_upstream(&mut self, at: usize, amount: usize) {
        let Some(upstream) = self.upstreams.get_mut(at).filter(|upstream| !upstream.gone) else { return };
        let n = amount.min(upstream.to_send.len());
        if n == 0 {
            return;
        }
        let bytes: Vec<u8> = upstream.to_send.drain(..n).collect();
        let is_last = upstream.to_send.is_empty();
        // Who answers early reads no more.
        upstream.gone = is_last && !upstream.is_blind && (upstream.closes_after || !upstream.has_it_all());
        if is_last {
            // What follows on this connection is another request.
            upstream.busy = false;
            upstream.is_stream = false;
            upstream.got.clear();
            upstream.checked = 0;
        }
        let (raw, gone) = (upstream.raw, upstream.gone);
        self.pair.send(raw, bytes);
        if gone {
            self.pair.close(raw);
        }
    }

    fn accident(&mut self, input: &mut Input<'_>) {
        match input.below(12) {
            0 => self.pair.kill_hub(),
            1 => self.pair.to_upstream = Reach::Fails(Unreachable::Refused),
            2 => self.pair.to_upstream = Reach::Silent,
            3 => self.pair.kill_agent(0),
            _ => {}
        }
    }

    fn repair(&mut self) {
        self.pair.to_upstream = Reach::Raw;
        if self.pair.to_hub != Reach::Hub {
            self.pair.start_hub();
        }
    }

    /// Takes connections that came, and what came on them.
    fn attend_upstreams(&mut self) {
        while self.pair.arrivals() > self.pair.arrivals_of(Target::Hub) {
            let raw = self.pair.upstream();
            self.upstreams.push(Upstream {
                raw,
                got: Vec::new(),
                checked: 0,
                to_send: Vec::new(),
                busy: false,
                gone: false,
                closes_after: false,
                is_blind: false,
                is_stream: false,
            });
        }
        for at in 0..self.upstreams.len() {
            let upstream = &mut self.upstreams[at];
            let had = upstream.tag();
            upstream.got.extend(self.pair.got_bytes(upstream.raw));
            if upstream.got.starts_with(b"GET /health ") && upstream.got.ends_with(b"\r\n\r\n") {
                upstream.got.clear();
                if !upstream.gone {
                    self.pair.send(upstream.raw, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                }
            } else if let Some(tag) = upstream.tag().filter(|_| had.is_none()) {
                upstream.busy = true;
                let request = self.requests.get_mut(&tag).expect("nobody sent this");
                request.arrived += 1;
            }
        }
    }
}

impl Upstream {
    /// Which request it has got, once its head is complete.
    fn tag(&self) -> Option<usize> {
        let end = self.got.windows(4).position(|part| part == b"\r\n\r\n")?;
        let head = core::str::from_utf8(self.got.get(..end)?).ok()?;
        let (_, target) = head.lines().next()?.strip_suffix(" HTTP/1.1")?.split_once(" /")?;
        target.parse().ok()
    }
}

impl Upstream {
    fn has_it_all(&self) -> bool {
        let Some(end) = self.got.windows(4).position(|part| part == b"\r\n\r\n") else { return false };
        let (head, body) = self.got.split_at(end + 4);
        let head = String::from_utf8_lossy(head);
        if head.contains("\r\nTransfer-Encoding: ") {
            return body.ends_with(b"0\r\nX-End: 1\r\n\r\n");
        }
        let length = head.split("\r\nContent-Length: ").nth(1).and_then(|rest| rest.split('\r').next());
        body.len() >= length.and_then(|length| length.parse().ok()).unwrap_or(0)
    }
}
