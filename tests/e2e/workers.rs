//! One worker means one request: over thousands of them, with clients that leave and agents that are killed,
//! the upstream never gets a second request before the first has ended or its connection was closed.

use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Cut, DEADLINE, Hub, Socket, Wire, pki, wait_until};

/// An upstream that watches the rule. Each request says in its target how it is to be answered.
struct Sentinel {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// The connections with a request that has not ended.
    busy: Mutex<HashMap<usize, Socket>>,
    requests: AtomicUsize,
    complete: AtomicUsize,
    /// How many requests may be in flight at once.
    workers: usize,
    faults: Mutex<Vec<String>>,
    /// How often each request came that may come only once.
    once: Mutex<HashMap<String, usize>>,
}

impl Sentinel {
    fn start(workers: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { workers, ..State::default() });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for (id, stream) in listener.incoming().flatten().enumerate() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || Socket::accept(stream).map(|socket| state.serve(id, socket)));
            }
        });
        Self { address, state }
    }

    fn url(&self) -> String {
        pki::url(self.address)
    }

    #[track_caller]
    fn assert_kept(&self) {
        let faults = self.state.faults.lock().unwrap();
        assert!(faults.is_empty(), "{} faults, the first: {}", faults.len(), faults[0]);
        let once = self.state.once.lock().unwrap();
        let twice: Vec<_> = once.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "executed more than once: {twice:?}");
    }
}

impl State {
    fn serve(&self, id: usize, stream: Socket) {
        let handle = stream.clone();
        let mut wire = Wire::over(stream);
        while let Ok(head) = wire.try_request_head() {
            let target = head.target().to_owned();
            // Only once nothing is left to be read does a look at the socket tell whether its other end is
            // gone.
            if wire.rest().1.is_some() {
                break;
            }
            self.begin(id, &handle, &target);
            if head.method() == "POST" {
                *self.once.lock().unwrap().entry(target.clone()).or_default() += 1;
            }
            let ended = Self::answer(&mut wire, &target);
            self.busy.lock().unwrap().remove(&id);
            if ended.is_err() {
                break;
            }
            self.complete.fetch_add(1, Ordering::SeqCst);
        }
        self.busy.lock().unwrap().remove(&id);
        let _ = handle.shutdown(Shutdown::Both);
    }

    /// A request has come: every other one must have ended, or its connection must be closed.
    fn begin(&self, id: usize, handle: &Socket, target: &str) {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let mut busy = self.busy.lock().unwrap();
        let open = busy.values().filter(|other| is_open(other)).count();
        if open >= self.workers {
            let fault = format!("{target} came while {open} requests were in progress");
            self.faults.lock().unwrap().push(fault);
        }
        busy.insert(id, handle.clone());
    }

    /// Answers as the target says; `Err` when the connection ended meanwhile.
    fn answer(wire: &mut Wire, target: &str) -> Result<(), Cut> {
        let mut writer = wire.writer();
        let mut send = |bytes: &[u8]| std::io::Write::write_all(&mut writer, bytes).map_err(|_| Cut::Reset);
        if target.starts_with("/slow") {
            wire.closed_after(Duration::from_millis(4))?;
        }
        if target.starts_with("/held") {
            wire.closed_after(DEADLINE)?;
        }
        if target.starts_with("/stream") {
            send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            for _ in 0..5 {
                send(b"4\r\ndata\r\n")?;
                wire.closed_after(Duration::from_micros(500))?;
            }
            return send(b"0\r\n\r\n");
        }
        let body = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len());
        send(body.as_bytes())
    }
}

/// Whether the remote side has not closed it.
fn is_open(stream: &Socket) -> bool {
    match stream.peek() {
        Ok(read) => read > 0,
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    }
}

/// What one client does, many times; seeded, so that it is the same each time.
fn client(address: SocketAddr, seed: u64, rounds: usize, lenient: bool) -> usize {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut kept: Option<Wire> = None;
    let mut served = 0;
    for round in 0..rounds {
        let mut wire = kept.take().unwrap_or_else(|| Wire::connect(address));
        let kind = ["/fast", "/slow", "/stream"][random(3) as usize];
        let target = format!("{kind}/{seed}/{round}");
        let request = if random(2) == 0 {
            format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")
        } else {
            let body = "x".repeat(random(40_000) as usize);
            format!("POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        };
        match random(5) {
            0 => {
                // Leaves at some point of it.
                let cut = random(request.len() as u64 + 1) as usize;
                let sent = wire.try_send(&request.as_bytes()[..cut]);
                let _ = wire.closed_after(Duration::from_micros(random(6_000)));
                if sent.is_ok() && random(2) == 0 { wire.reset() } else { drop(wire) }
            }
            _ => {
                if wire.try_send(&request).is_err() {
                    assert!(lenient, "the connection was closed");
                    continue;
                }
                let response = if lenient { wire.try_response() } else { Ok(wire.response()) };
                let Ok(response) = response else { continue };
                if response.status() != 200 {
                    assert!(lenient && response.status() == 502, "{:?}{}", response.head, response.text());
                    continue;
                }
                let expected = if kind == "/stream" { "data".repeat(5) } else { target };
                assert_eq!(response.text(), expected, "somebody else's answer");
                served += 1;
                kept = (random(4) > 0).then_some(wire);
            }
        }
    }
    served
}

fn clients(address: SocketAddr, count: u64, rounds: usize, lenient: bool) -> usize {
    let threads: Vec<_> = (0..count)
        .map(|seed| std::thread::spawn(move || client(address, seed + 1, rounds, lenient)))
        .collect();
    threads.into_iter().map(|thread| thread.join().expect("a client that found no fault")).sum()
}

#[test]
fn a_worker_never_has_two_requests_while_clients_come_and_go() {
    let sentinel = Sentinel::start(1);
    let hub = Hub::start(&[]);
    let agent = hub.agent(&sentinel.url(), &[]);
    assert!(client(hub.address(), 1000, 10, false) > 0);
    let (hub_fds, agent_fds) = (hub.fds(), agent.fds());
    let served = clients(hub.address(), 12, 250, false);
    sentinel.assert_kept();
    assert!(served > 2000, "{served}");
    wait_until("nothing is in progress", DEADLINE, || sentinel.state.busy.lock().unwrap().is_empty());
    hub.wait_fds(hub_fds + 1);
    agent.wait_fds(agent_fds + 1);
    crate::harness::assert_quiet(&[&hub, &agent]);
}

#[test]
fn workers_never_have_two_requests_while_agents_are_killed() {
    let sentinel = Sentinel::start(2);
    let hub = Hub::start(&[]);
    let address = hub.address();
    let working = std::thread::spawn(move || clients(address, 8, 150, true));
    let mut kills = 0;
    let mut agent = hub.agent(&sentinel.url(), &["--num-worker", "2"]);
    while !working.is_finished() {
        std::thread::sleep(Duration::from_millis(300));
        if kills % 2 == 0 {
            agent.kill();
        } else {
            // Frozen for a moment, then told to end, which may take as long as its work.
            agent.signal(Signal::STOP);
            std::thread::sleep(Duration::from_millis(50));
            agent.signal(Signal::CONT);
            agent.signal(Signal::TERM);
            agent.wait_exit();
        }
        kills += 1;
        agent = hub.agent(&sentinel.url(), &["--num-worker", "2"]);
    }
    let served = working.join().unwrap();
    sentinel.assert_kept();
    assert!(served > 500 && kills > 3, "{served} served, {kills} agents killed");
}

#[test]
fn the_sentinel_notices_a_second_request() {
    let sentinel = Sentinel::start(1);
    let request = "GET /slow HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut first = Wire::connect(sentinel.address);
    first.send(request);
    wait_until("it came", DEADLINE, || sentinel.state.requests.load(Ordering::SeqCst) == 1);
    // A connection that was closed does not count.
    drop(first);
    let mut second = Wire::connect(sentinel.address);
    second.send(request);
    assert_eq!(second.response().text(), "/slow");
    sentinel.assert_kept();
    let mut third = Wire::connect(sentinel.address);
    third.socket().handshake().unwrap();
    // One that is held goes on until its client leaves.
    second.send("GET /held HTTP/1.1\r\nHost: h\r\n\r\n");
    wait_until("it is held", DEADLINE, || sentinel.state.requests.load(Ordering::SeqCst) == 3);
    third.send(request);
    third.response();
    assert_eq!(sentinel.state.faults.lock().unwrap().len(), 1);
}
