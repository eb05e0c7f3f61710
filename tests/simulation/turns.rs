//! The real hub, and an agent, turn by turn: what one turn does, and what it leaves for the next one.

use std::cell::RefCell;
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use slime::config::HubConfig;
use slime::net::Net;
use slime::net::shell::{Endpoint, Entrance, LISTENER_TOKENS, Shell, Targets};
use slime::proto::agent::Agent;
use slime::proto::hub::Hub;
use slime::proto::info::Info;
use slime::proto::seam::{Command, Core};
use slime::proto::tables::timer::{Mono, Now};
use slime::proto::trust::agent_token::TokenKey;
use slime::proto::tunnel::{Hello, Light};

use crate::calls::{SimNet, Socket};
use crate::cluster::tls;
use crate::memory::TLS as PROMISED;
use crate::setting::{plain_config, plain_token, token_key};
use crate::wire::Wire;
use crate::world::{MILLI, SECOND, Weather, World};

const PORT: u16 = 80;
const TLS_PORT: u16 = 443;
/// The hub answers it by itself, and the connection goes on.
const REFUSED: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";

/// What an agent says to join.
fn hello() -> Vec<u8> {
    let token = plain_token(1).seal(token_key(), [7; 12]).unwrap();
    let mut hello = Vec::new();
    Hello {
        token: &token,
        agent_id: "a",
        worker: 0,
        withdrawn: None,
        websocket: None,
        light: Light::None,
        info: Info::default(),
    }
    .write("hub", "", None, &mut hello);
    hello
}

/// A hub that knows no agent, and its clients, which are one process.
struct Bench {
    world: Rc<RefCell<World>>,
    hub: Shell<Hub, SimNet>,
    clients: SimNet,
}

impl Bench {
    fn new(weather: Weather) -> Self {
        let weather = Weather { wide: true, ..weather };
        let world = Rc::new(RefCell::new(World::new(1, weather)));
        let (net, clients) = (SimNet::new(&world, "hub"), SimNet::new(&world, "clients"));
        let listener = net.listen(net.address(PORT), LISTENER_TOKENS);
        let config = HubConfig { startup_grace: Duration::ZERO, ..HubConfig::default() };
        let core = Hub::new(config, TokenKey::clone(token_key()), 1, world.borrow().now());
        let mut hub = Shell::new(core, net, Targets::default());
        hub.add_listener(listener, Entrance::Plain);
        Self { world, hub, clients }
    }

    /// Where the hub takes clients that speak TLS.
    fn listen_for_tls(&mut self) -> std::net::SocketAddr {
        let net = SimNet { world: Rc::clone(&self.world), process: 0 };
        let listener = net.listen(net.address(TLS_PORT), LISTENER_TOKENS + 1);
        self.hub.add_listener(listener, Entrance::Tls);
        self.hub.offer_tls(Arc::clone(&tls().0));
        net.address(TLS_PORT)
    }

    /// Clients that the hub has accepted.
    fn clients(&mut self, count: usize) -> Vec<Socket> {
        let address = std::net::SocketAddr::new([10, 0, 0, 1].into(), PORT);
        let clients = (0..count).map(|_| self.clients.connect(address).unwrap()).collect();
        self.pass(SECOND);
        self.turns(40);
        clients
    }

    /// An agent that has said hello, and that the hub has not accepted yet.
    fn agent(&mut self) -> Socket {
        let address = std::net::SocketAddr::new([10, 0, 0, 1].into(), PORT);
        let mut agent = self.clients.connect(address).unwrap();
        self.pass(SECOND);
        self.send(&mut agent, &hello());
        agent
    }

    fn send(&mut self, socket: &mut Socket, bytes: &[u8]) {
        let mut left = bytes;
        while !left.is_empty() {
            match self.clients.write(socket, &[IoSlice::new(left)]) {
                Ok(n) => left = &left[n..],
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Lets time pass in which nobody runs.
    fn pass(&self, time: u64) {
        let now = self.world.borrow().clock;
        self.world.borrow_mut().advance_to(now + time);
    }

    fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.world.borrow_mut().begin_turn(0);
            assert_eq!(self.hub.turn().unwrap(), None);
        }
    }

    /// How many answers have come since the last time, and how many of them are 408.
    fn answers(&mut self, socket: &mut Socket) -> (usize, usize) {
        self.pass(SECOND / 2);
        self.take_answers(socket)
    }

    /// As [`Bench::answers`], of those that have arrived.
    fn take_answers(&mut self, socket: &mut Socket) -> (usize, usize) {
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 100_000];
        while let Ok(n @ 1..) = self.clients.read(socket, &mut buffer) {
            bytes.extend_from_slice(&buffer[..n]);
        }
        let text = String::from_utf8(bytes).unwrap();
        let count = |status| text.matches(&format!("HTTP/1.1 {status}")).count();
        (count(503) + count(408), count(408))
    }
}

#[test]
fn a_client_that_pipelines_gets_a_few_answers_in_each_turn() {
    let mut bench = Bench::new(Weather::default());
    let mut client = bench.clients(1).remove(0);
    bench.send(&mut client, &REFUSED.repeat(500));
    bench.pass(SECOND);
    let mut sum = 0;
    for _ in 0..100 {
        bench.turns(1);
        let (answers, _) = bench.answers(&mut client);
        assert!(answers <= 16, "{answers} answers in one turn");
        sum += answers;
    }
    assert_eq!(sum, 500);
}

/// Clients whose head was there in time, at a hub that had no processor for a minute.
fn assert_nobody_is_late(weather: Weather, while_stopped: Weather) {
    let mut bench = Bench::new(weather.clone());
    let mut clients = bench.clients(40);
    for client in &mut clients {
        bench.send(client, &REFUSED[..5]);
    }
    bench.pass(SECOND);
    bench.turns(100);
    for client in &mut clients {
        bench.send(client, &REFUSED[5..]);
    }
    bench.pass(60 * SECOND);
    bench.world.borrow_mut().weather = while_stopped;
    bench.turns(1);
    bench.world.borrow_mut().weather = weather;
    bench.turns(100);
    for client in &mut clients {
        assert_eq!(bench.answers(client), (1, 0), "a head that was there is late");
    }
}

#[test]
fn nothing_expires_before_what_has_arrived_was_read() {
    assert_nobody_is_late(Weather::default(), Weather::default());
}

#[test]
fn nothing_expires_in_a_poll_that_was_interrupted() {
    assert_nobody_is_late(Weather::default(), Weather { interrupted: 1000, ..Weather::default() });
}

#[test]
fn nothing_expires_while_batches_are_full() {
    let full = Weather { spurious: 1000, ..Weather::default() };
    assert_nobody_is_late(full.clone(), full);
}

#[test]
fn deadlines_pass_though_batches_are_always_full() {
    let full = Weather { spurious: 1000, ..Weather::default() };
    let mut bench = Bench::new(full);
    let mut clients = bench.clients(40);
    let mut slow = bench.clients(1).remove(0);
    bench.send(&mut slow, &REFUSED[..5]);
    bench.pass(SECOND);
    bench.turns(100);
    let mut late = 0;
    for _ in 0..60 {
        for client in &mut clients {
            bench.send(client, REFUSED);
        }
        bench.pass(SECOND);
        bench.turns(3);
        for client in &mut clients {
            bench.take_answers(client);
        }
        late += bench.answers(&mut slow).1;
    }
    assert_eq!(late, 1);
}

/// The end of a request that waits lies in the same batch of events as the response before it.
#[test]
fn who_left_is_not_served_by_what_became_free_in_the_same_turn() {
    let mut bench = Bench::new(Weather::default());
    let mut sockets = bench.clients(3).into_iter();
    let (mut left, mut busy, mut agent) =
        (sockets.next().unwrap(), sockets.next().unwrap(), sockets.next().unwrap());
    let hello = hello();
    for (socket, bytes) in [
        (&mut agent, hello.as_slice()),
        (&mut busy, b"GET /busy HTTP/1.1\r\nHost: h\r\n\r\n"),
        (&mut left, b"GET /left HTTP/1.1\r\nHost: h\r\n\r\n"),
    ] {
        bench.send(socket, bytes);
        bench.pass(SECOND);
        bench.turns(40);
    }
    let census = bench.hub.core().census();
    assert_eq!((census.active, census.queued), (1, 1));
    bench.clients.shutdown(&mut left).unwrap();
    bench.send(&mut agent, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    bench.pass(SECOND);
    bench.turns(40);
    bench.pass(SECOND);
    let mut buffer = vec![0; 100_000];
    let mut seen = Vec::new();
    while let Ok(n @ 1..) = bench.clients.read(&mut agent, &mut buffer) {
        seen.extend_from_slice(&buffer[..n]);
    }
    let seen = String::from_utf8(seen).unwrap();
    assert!(seen.contains("GET /busy ") && !seen.contains("/left"), "{seen}");
    let census = bench.hub.core().census();
    assert_eq!((census.active, census.queued, census.tunnels), (0, 0, 1));
}

/// An agent that gave up while the hub had no time for it: its connection stands in the backlog, with the
/// handshake and its end.
#[test]
fn who_left_before_it_was_accepted_is_given_nothing() {
    let mut bench = Bench::new(Weather::default());
    let mut client = bench.clients(1).remove(0);
    let request = b"POST /x HTTP/1.1\r\nHost: h\r\nSlime-Block: 1\r\nContent-Length: 2\r\n\r\nhi";
    bench.send(&mut client, request);
    bench.pass(SECOND);
    bench.turns(40);
    let mut agent = bench.agent();
    bench.clients.shutdown(&mut agent).unwrap();
    bench.pass(SECOND);
    bench.turns(40);
    bench.pass(SECOND);
    let mut buffer = vec![0; 100_000];
    assert!(bench.clients.read(&mut client, &mut buffer).is_err(), "the request did not go on waiting");
    let census = bench.hub.core().census();
    assert_eq!((census.active, census.queued, census.tunnels), (0, 1, 0));
}

/// A hub that had no processor for a minute: the agent that a request waited for stands in the backlog when
/// its time is up.
#[test]
fn nothing_expires_before_who_stands_in_the_backlog_was_heard() {
    let mut bench = Bench::new(Weather::default());
    let mut client = bench.clients(1).remove(0);
    bench.send(&mut client, b"GET /x HTTP/1.1\r\nHost: h\r\nSlime-Block: 1\r\nSlime-Max-Wait: 30\r\n\r\n");
    bench.pass(SECOND);
    bench.turns(40);
    let _agent = bench.agent();
    bench.pass(60 * SECOND);
    // SIGCONT ends the poll that SIGSTOP found.
    bench.world.borrow_mut().hosts[0].interrupted = true;
    bench.turns(40);
    let census = bench.hub.core().census();
    assert_eq!((census.active, census.queued, census.tunnels), (1, 0, 1));
}

/// A client that sends much more than a head, and takes nothing of what TLS has to say first: nothing of it
/// is looked at before it does.
#[test]
fn what_tls_reads_ahead_is_as_little_as_is_promised() {
    let mut bench = Bench::new(Weather::default());
    let address = bench.listen_for_tls();
    let mut client = Wire::client(bench.clients.connect(address).unwrap(), Some(&tls().1));
    bench.pass(SECOND);
    bench.turns(40);
    assert!(client.flush(&mut bench.clients).unwrap());
    bench.pass(SECOND);
    bench.turns(40);
    bench.pass(SECOND);
    // The second record has room for its beginning only.
    bench.world.borrow_mut().ends[client.socket.end ^ 1].capacity = 30_000;
    // This makes the end of the handshake, behind which the requests come.
    assert!(client.read(&mut bench.clients, &mut [0; 100]).is_err());
    let requests = REFUSED.repeat(50_000 / REFUSED.len());
    let mut left = requests.as_slice();
    while let Ok(n @ 1..) = client.write(&mut bench.clients, left) {
        left = &left[n..];
    }
    assert!(!client.has_sent_all());
    bench.pass(SECOND);
    bench.world.borrow_mut().ends[client.socket.end].capacity = 1;
    for _ in 0..40 {
        bench.turns(1);
        assert_eq!(PROMISED.exceeded(bench.hub.buffer_bytes(), bench.hub.core().census()), None);
    }
    assert_eq!(bench.hub.core().census().clients, 1);
}

/// A client that has vanished, though it has not taken its answer.
#[test]
fn who_has_vanished_is_noticed_within_about_a_minute() {
    let mut bench = Bench::new(Weather::default());
    let mut client = bench.clients(1).remove(0);
    bench.send(&mut client, REFUSED);
    bench.pass(SECOND);
    bench.world.borrow_mut().silence(client.end);
    bench.turns(1);
    assert_eq!(bench.hub.census().0, 1);
    for _ in 0..50 {
        bench.pass(SECOND);
        bench.turns(1);
    }
    assert_eq!(bench.hub.census().0, 0);
}

fn upstream_endpoint() -> Endpoint {
    Endpoint { host: "upstream.example".into(), port: PORT }
}

#[test]
fn an_address_that_swallows_packets_does_not_hold_up_the_next_one() {
    let world = Rc::new(RefCell::new(World::new(1, Weather::default())));
    let (net, mut upstream) = (SimNet::new(&world, "agent"), SimNet::new(&world, "upstream"));
    let address = upstream.address(PORT);
    let nowhere = [10, 0, 255, 1].into();
    world.borrow_mut().names.insert("upstream.example".into(), vec![nowhere, nowhere, address.ip()]);
    let mut listener = upstream.listen(address, 0);
    let endpoints = vec![upstream_endpoint()];
    let core = Agent::new(plain_config(0, 1, &endpoints), 1, world.borrow().now());
    let mut agent = Shell::new(core, net, Targets { hub: None, upstreams: endpoints });
    for _ in 0..40 {
        world.borrow_mut().begin_turn(0);
        assert_eq!(agent.turn().unwrap(), None);
        let now = world.borrow().clock;
        world.borrow_mut().advance_to(now + 50 * MILLI);
    }
    assert!(upstream.accept(&mut listener).is_ok(), "the third address was not tried within two seconds");
}

#[test]
fn the_limit_of_connecting_begins_when_the_name_was_looked_up() {
    let at = |seconds: u64| Now { mono: Mono(seconds * 1000), unix: 0 };
    let mut agent = Agent::new(plain_config(0, 1, &[upstream_endpoint()]), 1, at(0));
    agent.handle_timeout(at(0));
    let key_of = |command| if let Command::Dial { key, .. } = command { Some(key) } else { None };
    let dialled = agent.commands().drain(..).find_map(key_of);
    agent.handle_resolved(dialled.unwrap(), at(4));
    let mut given_up = |seconds| {
        agent.handle_timeout(at(seconds));
        agent.commands().drain(..).any(|command| matches!(command, Command::Close(..)))
    };
    assert!(!given_up(8));
    assert!(given_up(10));
}
