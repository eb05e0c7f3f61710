//! The admin side, byte by byte.

use core::net::IpAddr;

use super::attention::Severity;
use super::machine::{Listening, LogLine, Usage};
use super::metrics::{HubMetric, Row};
use super::*;
use crate::proto::seam::End;
use crate::proto::testing::split::every_split;

/// A process that is ready for as many agents as it has, and tells of so many names.
#[derive(Default)]
struct Process {
    agents: usize,
    names: usize,
    /// What was done to it.
    acts: Vec<String>,
}

impl Subject for Process {
    fn role(&self) -> RoleName {
        RoleName::Hub
    }

    fn begin_to_count(&mut self) {}

    fn check_ready(&self, agents: Option<usize>) -> Result<(), NotReady> {
        match agents {
            Some(asked) if asked > self.agents => Err(NotReady::Agents { ready: self.agents, asked }),
            Some(_) | None => Ok(()),
        }
    }

    fn write_samples(
        &self,
        metric: Metric,
        after: Option<&str>,
        samples: &mut Samples<'_>,
        _now: Now,
    ) -> Option<String> {
        if metric != Metric::Hub(HubMetric::Agents) {
            return None;
        }
        for name in (0..self.names).map(|name| format!("agent-{name:05}")) {
            if after.is_some_and(|after| *name <= *after) {
                continue;
            }
            samples.add(&[&name], 1);
            if samples.is_full() {
                return Some(name);
            }
        }
        None
    }

    fn attention(&self) -> Vec<Attention> {
        vec![Attention::new("draining", Severity::Warn, "The hub is ending.").about(HOSTILE)]
    }

    fn write_status(&self, at: &mut Place, json: &mut Json<'_>, telling: &Telling) -> bool {
        if at.rows == 0 {
            json.key("names").open('[');
        }
        for name in at.rows..self.names.min(telling.most_rows()) {
            json.text(format_args!("{HOSTILE}{name:05}"));
            at.rows += 1;
            if json.is_full() {
                return false;
            }
        }
        json.close(']');
        true
    }

    fn act(&mut self, action: &Action<'_>, _now: Now) -> Result<Done, NotDone> {
        self.acts.push(format!("{action:?}"));
        match action {
            Action::Agent { id: "gone", .. } => Err(NotDone::Unknown("it is gone")),
            Action::Name { name: "one-too-many", .. } => Err(NotDone::Full("there are too many")),
            Action::Agent { pause, .. } | Action::Name { pause, .. } | Action::Queue { pause } => {
                Ok(Done::Changed(*pause))
            }
            Action::Cancel { number } => Ok(Done::Cancelled { ran: *number > 1 }),
        }
    }
}

mod machine;

/// A name that would like to be something else.
const HOSTILE: &str = "</script>\"\\\n\u{202e}\u{0}";

const LOOPBACK: Caller = Caller::Network(IpAddr::V4(core::net::Ipv4Addr::LOCALHOST));

fn at(seconds: u64) -> Now {
    Now { mono: Mono(seconds * 1000), unix: 1_800_000_000 + seconds }
}

fn guarded() -> AdminConfig {
    AdminConfig { password: Some("right".into()), view_password: Some("view".into()), ..Default::default() }
}

/// The admin side, and a shell for it.
struct Bench {
    admin: Admin,
    process: Process,
    now: Now,
    input: Vec<u8>,
    sent: Vec<u8>,
    closed: Option<Close>,
    /// It takes nothing of what is sent.
    is_stuck: bool,
}

impl Bench {
    fn new(config: &AdminConfig) -> Self {
        Self {
            admin: Admin::new(config, at(0)),
            process: Process::default(),
            now: at(0),
            input: Vec::new(),
            sent: Vec::new(),
            closed: None,
            is_stuck: false,
        }
    }

    fn accept(&mut self, caller: Caller) -> Key {
        let mut commands = Vec::new();
        let key = self.admin.handle_accepted(caller, self.now, &mut commands).unwrap();
        self.obey(commands);
        key
    }

    fn obey(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Send { key, bytes } => {
                    assert!(bytes.len() <= SLICE_BYTES + 1024, "a slice of {} bytes", bytes.len());
                    self.sent.extend(bytes);
                    if self.is_stuck {
                        self.admin.handle_send_progress(key, true, self.now, &mut Vec::new());
                    }
                }
                Command::Close(_, how) => self.closed = Some(how),
                Command::Resume(_) => {}
                Command::Dial { .. }
                | Command::Secure { .. }
                | Command::Frame { .. }
                | Command::Pair { .. }
                | Command::SendHeld(_)
                | Command::DropHeld(_)
                | Command::Unpair(_)
                | Command::Finish(_)
                | Command::Rekey { .. }
                | Command::Exit(_) => panic!("{command:?}"),
            }
        }
    }

    fn give(&mut self, key: Key, bytes: &[u8], end: Option<End>) {
        self.input.extend(bytes);
        loop {
            let input = core::mem::take(&mut self.input);
            let mut commands = Vec::new();
            let shown = Shown { input: &input, end, out: &mut Vec::new() };
            let step = self.admin.handle_input(key, &shown, &mut self.process, self.now, &mut commands);
            self.obey(commands);
            match step {
                Step::Skip(n) => self.input = input[n..].to_vec(),
                Step::Wait => {
                    self.input = input;
                    break;
                }
                Step::Fail | Step::Pass(_) => panic!("{step:?}"),
            }
            self.turn();
            if self.input.is_empty() && end.is_none() {
                break;
            }
        }
    }

    /// Turns, until nothing is to be done.
    fn turn(&mut self) {
        while self.admin.next_timeout().is_some_and(|at| at <= self.now.mono) {
            let mut commands = Vec::new();
            self.admin.handle_timeout(self.now, &mut commands);
            self.admin.handle_batch_end(&self.process, self.now, &mut commands);
            self.obey(commands);
        }
    }

    fn wait(&mut self, seconds: u64) {
        self.now = at(self.now.mono.0 / 1000 + seconds);
        self.turn();
    }

    fn text(&self) -> String {
        String::from_utf8(self.sent.clone()).unwrap()
    }

    /// Status of the last answer.
    fn ask(&mut self, caller: Caller, request: &str) -> u16 {
        self.sent.clear();
        self.input.clear();
        let key = self.accept(caller);
        self.give(key, request.as_bytes(), None);
        self.admin.handle_closed(key);
        self.admin.handle_batch_end(&self.process, self.now, &mut Vec::new());
        self.text().split(' ').nth(1).unwrap().parse().unwrap()
    }
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:8081\r\n{fields}\r\n")
}

/// What comes back for these bytes, however they are divided.
fn answered(config: &AdminConfig, request: &str) -> String {
    every_split(request.as_bytes(), b"", |pieces| {
        let mut bench = Bench::new(config);
        let key = bench.accept(LOOPBACK);
        for piece in pieces {
            bench.give(key, piece, None);
        }
        bench.text()
    })
}

#[test]
fn health_and_readiness() {
    let answer = answered(&AdminConfig::default(), &get("/healthz", ""));
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain"), "{answer}");
    assert!(answer.ends_with("Content-Length: 3\r\n\r\nok\n"), "{answer}");
    for field in [
        "X-Content-Type-Options: nosniff",
        "X-Frame-Options: DENY",
        "Referrer-Policy: no-referrer",
        "Cross-Origin-Opener-Policy: same-origin",
        "Cross-Origin-Resource-Policy: same-origin",
        "Cache-Control: no-store",
    ] {
        assert!(answer.contains(&format!("\r\n{field}\r\n")), "{field}");
    }
    let mut bench = Bench::new(&guarded());
    let ready = |bench: &mut Bench, query: &str| {
        let status = bench.ask(LOOPBACK, &get(&format!("/readyz{query}"), ""));
        (status, bench.text().lines().last().unwrap().to_owned())
    };
    assert_eq!(ready(&mut bench, ""), (200, "ready".into()));
    assert_eq!(ready(&mut bench, "?agents=0"), (200, "ready".into()));
    assert_eq!(ready(&mut bench, "?a=b&agents=2"), (503, "not ready: 0 of 2 agents take work".into()));
    for query in ["?agents=x", "?agents=", "?agents=-1", "?agents=99999999999999999999"] {
        assert_eq!(ready(&mut bench, query).0, 400, "{query}");
    }
    bench.process.agents = 2;
    assert_eq!(ready(&mut bench, "?agents=2").0, 200);
    bench.admin.note_draining();
    assert_eq!(ready(&mut bench, "?agents=2"), (503, "not ready: draining".into()));
    assert_eq!(bench.ask(LOOPBACK, &get("/healthz", "")), 200);
}

#[test]
fn what_is_asked_for() {
    let mut bench = Bench::new(&AdminConfig::default());
    let mut status = |request: &str| bench.ask(LOOPBACK, request);
    assert_eq!(status(&get("/", "")), 404);
    assert_eq!(status(&get("/metrics/", "")), 404);
    assert_eq!(status(&get("/metrics", "").replace("GET", "OPTIONS")), 405);
    assert_eq!(status(&get("/healthz", "").replace("GET", "DELETE")), 405);
    assert_eq!(status("GET http://127.0.0.1/metrics HTTP/1.1\r\nHost: h\r\n\r\n"), 200);
    assert_eq!(status("GET /healthz HTTP/1.0\r\n\r\n"), 200);
    assert_eq!(status("\x16\x03\x01"), 400);
    assert_eq!(status("GET /healthz HTTP/1.1\r\n\r\n"), 400, "no Host");
    assert_eq!(status(&get("/healthz", "Content-Length: 1025\r\n")), 413);
    assert_eq!(status(&get("/healthz", "Transfer-Encoding: chunked\r\n")), 413);
    assert_eq!(status(&get("/healthz", &format!("X: {}\r\n", "x".repeat(8192)))), 431);
    assert_eq!(status(&get(&format!("/{}", "x".repeat(9000)), "")), 431);
    assert_eq!(status(&get("/healthz", &format!("X: {}\r\n", "x".repeat(8000)))), 200);
    assert!(
        bench.ask(LOOPBACK, &get("/x", "").replace("GET", "HEAD")) == 404
            && bench.text().ends_with("\r\n\r\n")
    );
    bench.ask(LOOPBACK, &get("/x", ""));
    let text = bench.text();
    assert!(text.contains("\r\nContent-Type: application/problem+json\r\n"), "{text}");
    assert!(text.contains("\r\n\r\n{\"title\":\"Not Found\",\"status\":404,\"detail\":\""), "{text}");
}

#[test]
fn one_connection_may_ask_again() {
    let two = [get("/healthz", "Content-Length: 3\r\n"), "abc".into(), get("/readyz", "")].concat();
    let answer = answered(&AdminConfig::default(), &two);
    assert_eq!(answer.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{answer}");
    assert!(answer.ends_with("ready\n") && !answer.contains("Connection"), "{answer}");
    let answer = answered(&AdminConfig::default(), &get("/healthz", "Connection: close\r\n"));
    assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    let answer = answered(&AdminConfig::default(), "GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(answer.contains("\r\nConnection: keep-alive\r\n"), "{answer}");
    let mut bench = Bench::new(&AdminConfig::default());
    let key = bench.accept(LOOPBACK);
    let held_back = get("/healthz", "Content-Length: 3\r\nExpect: 100-continue\r\n");
    bench.give(key, held_back.as_bytes(), None);
    assert_eq!(bench.text(), "HTTP/1.1 100 Continue\r\n\r\n");
    bench.give(key, b"abc", None);
    assert_eq!(bench.text().matches("HTTP/1.1 ").count(), 2);
}

#[test]
fn who_may_on_loopback() {
    let mut bench = Bench::new(&AdminConfig::default());
    let mut status = |host: &str, fields: &str| {
        bench.ask(LOOPBACK, &format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"))
    };
    for host in ["127.0.0.1", "127.0.0.1:8081", "[::1]:8081", "localhost", "LocalHost:1", "192.0.2.1"] {
        assert_eq!(status(host, ""), 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "localhost."] {
        assert_eq!(status(host, ""), 403, "{host}");
    }
    for name in ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via"]
    {
        assert_eq!(status("localhost", &format!("{name}: x\r\n")), 403, "{name}");
    }
    assert_eq!(status("localhost:1", "Origin: http://localhost:1\r\n"), 200);
    for origin in ["http://evil.example", "http://localhost", "null", "http://localhost:1.evil.example", ""] {
        assert_eq!(status("localhost:1", &format!("Origin: {origin}\r\n")), 403, "{origin}");
    }
    let evil = "GET /metrics HTTP/1.1\r\nHost: evil.example\r\nVia: x\r\nOrigin: http://e\r\n\r\n";
    assert_eq!(bench.ask(Caller::Unix, evil), 403);
    assert_eq!(bench.ask(Caller::Unix, &evil.replace("http://e\r", "http://evil.example\r")), 200);
    assert_eq!(bench.ask(LOOPBACK, &evil.replace("/metrics", "/readyz")), 200);
    bench.ask(Caller::Unix, &get("/metrics", ""));
    let text = bench.text();
    for (reason, count) in [("password", 0), ("throttled", 0), ("host", 4), ("origin", 6), ("proxied", 6)] {
        let line = format!("\nslime_admin_refusals_total{{reason=\"{reason}\"}} {count}\n");
        assert!(text.contains(&line), "{line}{text}");
    }
}

#[test]
fn who_may_with_a_password() {
    let mut bench = Bench::new(&guarded());
    let mut status = |fields: &str| bench.ask(LOOPBACK, &get("/metrics", fields));
    assert_eq!(status(""), 401);
    // any:right, :view, any:wrong, and one without a user.
    assert_eq!(status("Authorization: Basic YW55OnJpZ2h0\r\n"), 200);
    assert_eq!(status("Authorization: basic OnZpZXc=\r\nX-Forwarded-For: x\r\n"), 200);
    assert_eq!(status("Authorization: Bearer right\r\n"), 200);
    for wrong in ["Basic YW55Ondyb25n", "Basic cmlnaHQ=", "Basic !", "Bearer ", "Bearer righ", "Digest right"]
    {
        assert_eq!(status(&format!("Authorization: {wrong}\r\n")), 401, "{wrong}");
    }
    assert_eq!(status("Authorization: Bearer right\r\nOrigin: http://evil.example\r\n"), 403);
    assert_eq!(status("Authorization: Bearer right\r\nOrigin: https://127.0.0.1:8081\r\n"), 200);
    bench.ask(LOOPBACK, &get("/metrics", ""));
    let challenge = "\r\nWWW-Authenticate: Basic realm=\"slime admin\", charset=\"UTF-8\"\r\n";
    assert!(bench.text().contains(challenge));
}

#[test]
fn guessing_is_slow() {
    let mut bench = Bench::new(&guarded());
    let right = get("/metrics", "Authorization: Bearer right\r\n");
    let wrong = get("/metrics", "Authorization: Bearer wrong\r\n");
    for _ in 0..100 {
        assert_eq!(bench.ask(LOOPBACK, &get("/metrics", "")), 401, "nothing was guessed");
    }
    for _ in 0..10 {
        assert_eq!(bench.ask(LOOPBACK, &wrong), 401);
    }
    assert_eq!(bench.ask(LOOPBACK, &wrong), 429);
    assert!(bench.text().contains("\r\nRetry-After: 10\r\n"));
    assert_eq!(bench.ask(LOOPBACK, &right), 429);
    let other = |address: &str| Caller::Network(address.parse().unwrap());
    assert_eq!(bench.ask(other("192.0.2.1"), &right), 200);
    assert_eq!(bench.ask(LOOPBACK, &get("/healthz", "")), 200);
    bench.wait(10);
    assert_eq!(bench.ask(LOOPBACK, &wrong), 401, "one in ten seconds is looked at");
    assert_eq!(bench.ask(LOOPBACK, &right), 429);
    bench.wait(10);
    assert_eq!(bench.ask(LOOPBACK, &right), 200);
    bench.wait(60);
    assert_eq!(bench.ask(LOOPBACK, &wrong), 401);
    // Whoever has one address of a network has all.
    for last in 0..10 {
        assert_eq!(bench.ask(other(&format!("2001:db8::{last}")), &wrong), 401);
    }
    assert_eq!(bench.ask(other("2001:db8::a:b"), &right), 429);
    assert_eq!(bench.ask(other("2001:db8:0:1::1"), &right), 200);
}

#[test]
fn metrics_come_in_slices() {
    let config = AdminConfig::default();
    let mut bench = Bench::new(&config);
    bench.process.names = 10_000;
    let key = bench.accept(LOOPBACK);
    bench.give(key, get("/metrics", "").as_bytes(), None);
    let text = bench.text();
    let (head, mut rest) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
    assert!(head.ends_with("Transfer-Encoding: chunked"), "{head}");
    let mut body = String::new();
    while let Some((length, after)) = rest.split_once("\r\n") {
        let (chunk, after) = after.split_at(usize::from_str_radix(length, 16).unwrap());
        body.push_str(chunk);
        rest = after.strip_prefix("\r\n").unwrap();
        if chunk.is_empty() {
            break;
        }
    }
    assert_eq!(rest, "", "the last chunk is the end");
    let names: Vec<_> = body.lines().filter(|line| line.starts_with("slime_hub_agents{")).collect();
    assert_eq!(names.len(), 10_000);
    assert!(names.is_sorted() && names[0] == "slime_hub_agents{agent=\"agent-00000\"} 1");
    assert_eq!(body.matches("# TYPE slime_hub_agents gauge\n").count(), 1);
    assert!(body.starts_with("# HELP slime_build_info Always 1.\n# TYPE slime_build_info gauge\nslime_build_info{role=\"hub\",version=\""));
    assert!(body.contains("\nslime_ready 1\n") && body.contains("\nslime_draining 0\n"));
    assert!(body.contains("\nprocess_start_time_seconds 1800000000\n"));
    // The connection is good for another one.
    bench.sent.clear();
    bench.give(key, get("/metrics", "").replace("GET", "HEAD").as_bytes(), None);
    assert!(bench.text().ends_with("Transfer-Encoding: chunked\r\n\r\n"), "{}", bench.text());

    let mut old = Bench::new(&config);
    let key = old.accept(LOOPBACK);
    old.give(key, b"GET /metrics HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n", None);
    assert!(old.text().contains("Connection: close\r\n\r\n# HELP slime_build_info"), "{}", old.text());
    assert_eq!(old.closed, Some(Close::Linger));
}

#[test]
fn nobody_is_waited_for_without_a_limit() {
    let mut bench = Bench::new(&AdminConfig::default());
    let key = bench.accept(LOOPBACK);
    bench.wait(74);
    assert_eq!(bench.closed, None);
    bench.give(key, b"GET", None);
    bench.wait(4);
    assert_eq!((bench.text().as_str(), bench.closed), ("", None));
    bench.wait(1);
    assert!(bench.text().starts_with("HTTP/1.1 408 Request Timeout\r\n"));
    assert_eq!(bench.closed.take(), Some(Close::Linger));
    bench.wait(5);
    assert_eq!(bench.closed.take(), Some(Close::Now));
    bench.accept(LOOPBACK);
    bench.wait(75);
    assert_eq!(bench.closed.take(), Some(Close::Now));

    bench.input.clear();
    bench.sent.clear();
    bench.is_stuck = true;
    bench.process.names = 100_000;
    let key = bench.accept(LOOPBACK);
    bench.give(key, get("/metrics", "").as_bytes(), None);
    let sent = bench.sent.len();
    bench.wait(9);
    assert_eq!((bench.sent.len(), bench.closed), (sent, None), "one slice, and no more of it");
    bench.wait(1);
    assert_eq!(bench.closed, Some(Close::Reset));
    assert_eq!(bench.admin.next_timeout(), None);
    let key = bench.accept(LOOPBACK);
    bench.give(key, b"", Some(End::Clean));
    assert_eq!(bench.closed, Some(Close::Now));
}

#[test]
fn nobody_keeps_others_out() {
    let mut bench = Bench::new(&AdminConfig::default());
    bench.is_stuck = true;
    bench.process.names = 100_000;
    for index in 0..100 {
        let key = bench.accept(LOOPBACK);
        bench.input.clear();
        let request = if index % 2 == 0 { "GET".to_owned() } else { get("/metrics", "") };
        bench.give(key, request.as_bytes(), None);
        assert!(bench.admin.connections.len() <= MAX_CONNECTIONS);
    }
    bench.is_stuck = false;
    assert_eq!(bench.ask(LOOPBACK, &get("/healthz", "")), 200);
}

/// Documents are sent on all connections, and their clients take them: the greediest makes room.
#[test]
fn who_asks_without_end_keeps_nobody_out() {
    let mut bench = Bench::new(&AdminConfig::default());
    let ask = |bench: &mut Bench, key| {
        let (input, mut commands) = (get("/metrics", ""), Vec::new());
        let shown = Shown { input: input.as_bytes(), end: None, out: &mut Vec::new() };
        let step = bench.admin.handle_input(key, &shown, &mut bench.process, bench.now, &mut commands);
        assert!(matches!(step, Step::Skip(_)), "{step:?}");
    };
    let mut keys: Vec<Key> = (0..MAX_CONNECTIONS).map(|_| bench.accept(LOOPBACK)).collect();
    let greedy = keys.remove(3);
    ask(&mut bench, greedy);
    bench.turn();
    for key in [&[greedy], &keys[..]].concat() {
        ask(&mut bench, key);
    }
    let newcomer = bench.accept(LOOPBACK);
    assert!(!bench.admin.wants_input(greedy) && bench.admin.wants_input(newcomer));
    bench.admin.handle_closed(newcomer);
    bench.admin.handle_batch_end(&bench.process, bench.now, &mut Vec::new());
    assert_eq!(bench.admin.connections.len(), MAX_CONNECTIONS - 1, "only the greedy one is gone");
}

#[test]
fn no_password_in_plain_text_where_tls_is_spoken() {
    let mut bench = Bench::new(&guarded());
    let key = bench.accept(LOOPBACK);
    bench.admin.handle_insecure(key);
    bench.give(key, get("/metrics", "Authorization: Bearer right\r\n").as_bytes(), None);
    assert!(bench.text().starts_with("HTTP/1.1 400 "), "{}", bench.text());
}

#[test]
fn labels_are_escaped() {
    let mut text = String::new();
    Samples::new(Metric::Hub(HubMetric::Agents), &mut text, 1, true).add(&["a\"b\\c\nd"], 1);
    Samples::new(Metric::Hub(HubMetric::OldestWait), &mut text, 1, true).add_millis(&[], 1005);
    assert_eq!(text, "slime_hub_agents{agent=\"a\\\"b\\\\c\\nd\"} 1\nslime_hub_oldest_wait_seconds 1.005\n");
}

#[test]
fn names_of_metrics_are_as_promlint_wants_them() {
    for metric in METRICS {
        let Row { name, kind, help, .. } = metric.row();
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
        assert!(help.ends_with('.') && !help.contains(['\\', '\n']), "{name}");
        assert!(METRICS.iter().filter(|other| other.row().name == name).count() == 1, "{name}");
        let manual = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/manual/operating.md"));
        let labels: Vec<_> = metric.row().labels.iter().map(|label| format!("`{label}`")).collect();
        let row = format!("| `{name}` | {kind} | {} | {help} |", labels.join(", "));
        assert!(manual.contains(&row), "the manual has not {row}");
    }
}

fn with_page() -> AdminConfig {
    let page = Page { gzip: b"pressed", etag: "\"1f\"", csp: "default-src 'none'" };
    AdminConfig { page: Some(page), ..AdminConfig::default() }
}

#[test]
fn the_page_is_handed_out_as_it_is_and_only_once() {
    let config = with_page();
    let answer = answered(&config, &get("/", "Accept-Encoding: br, gzip\r\n"));
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"), "{answer}");
    for field in [
        "Content-Encoding: gzip",
        "ETag: \"1f\"",
        "Cache-Control: no-cache",
        "Content-Security-Policy: default-src 'none'",
        "X-Content-Type-Options: nosniff",
    ] {
        assert!(answer.contains(&format!("\r\n{field}\r\n")), "{field}: {answer}");
    }
    assert!(!answer.contains("no-store"), "{answer}");
    assert!(answer.ends_with("Content-Length: 7\r\n\r\npressed"), "{answer}");
    let head = answered(&config, &get("/", "").replace("GET", "HEAD"));
    assert!(head.ends_with("Content-Length: 7\r\n\r\n"), "{head}");

    for known in ["\"1f\"", "W/\"1f\"", "\"1e\", \"1f\"", "*"] {
        let answer = answered(&config, &get("/", &format!("If-None-Match: {known}\r\n")));
        assert!(answer.starts_with("HTTP/1.1 304 Not Modified\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n") && !answer.contains("Content-Length"), "{answer}");
    }
    let mut bench = Bench::new(&config);
    let mut status = |request: &str| bench.ask(LOOPBACK, request);
    assert_eq!(status(&get("/", "If-None-Match: \"1e\"\r\n")), 200);
    for refused in ["identity", "gzip;q=0", "br", "gzip; q=0.000, *", ""] {
        assert_eq!(status(&get("/", &format!("Accept-Encoding: {refused}\r\n"))), 406, "{refused}");
    }
    for taken in ["*", "GZIP", "x-gzip", "gzip;q=0.001", "br;q=1, gzip;q=0.5"] {
        assert_eq!(status(&get("/", &format!("Accept-Encoding: {taken}\r\n"))), 200, "{taken}");
    }
    assert_eq!(status(&get("/", "").replace("GET", "POST")), 405);
}

/// The body of an answer that came in chunks.
fn joined(answer: &str) -> String {
    let (_, mut rest) = answer.split_once("\r\n\r\n").unwrap();
    let mut body = String::new();
    loop {
        let (length, after) = rest.split_once("\r\n").unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        body.push_str(&after[..length]);
        rest = after[length..].strip_prefix("\r\n").unwrap();
        if length == 0 {
            return body;
        }
    }
}

/// What follows the JSON value (RFC 8259) that a text begins with.
pub(crate) fn after_json(text: &str) -> Option<&str> {
    let rest = match text.chars().next()? {
        '{' | '[' => {
            let (is_object, end) = (text.starts_with('{'), if text.starts_with('{') { '}' } else { ']' });
            let mut rest = &text[1..];
            if let Some(rest) = rest.strip_prefix(end) {
                return Some(rest);
            }
            loop {
                if is_object {
                    assert!(rest.starts_with('"'), "no name: {rest:.40}");
                    rest = after_json(rest)?.strip_prefix(':')?;
                }
                rest = after_json(rest)?;
                match rest.strip_prefix(',') {
                    Some(next) => rest = next,
                    None => return rest.strip_prefix(end),
                }
            }
        }
        '"' => {
            let mut escaped = false;
            let end = text[1..].find(|c: char| {
                assert!(c >= ' ', "a control");
                let is_end = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                is_end
            })?;
            &text[end + 2..]
        }
        _ => ["null", "true", "false"]
            .into_iter()
            .find_map(|word| text.strip_prefix(word))
            .or_else(|| Some(text.trim_start_matches(|c: char| c.is_ascii_digit())))?,
    };
    (rest.len() < text.len()).then_some(rest)
}

#[test]
fn the_status_is_json_row_by_row_with_a_cap() {
    let mut bench = Bench::new(&AdminConfig { instance: 0xab, pid: Some(7), ..AdminConfig::default() });
    for (names, path, told) in [
        (0, "/api/status", 0),
        (999, "/api/status", 999),
        (3000, "/api/status", 1000),
        (3000, "/api/status?all=1", 3000),
    ] {
        bench.process.names = names;
        assert_eq!(bench.ask(LOOPBACK, &get(path, "")), 200);
        let answer = bench.text();
        assert!(answer.contains("\r\nContent-Type: application/json\r\n"), "{answer:.500}");
        let body = joined(&answer);
        assert_eq!(after_json(&body), Some(""), "{body:.500}");
        // Once more for what somebody should look at.
        assert_eq!(body.matches("/script").count(), told + 1, "{path} of {names}");
        assert!(!body.contains(['<', '\u{202e}', '\n']), "{body:.500}");
        for member in [
            "{\"api\":1,\"role\":\"hub\",",
            "\"instance\":\"000000ab\",\"pid\":7,\"host\":null,\"started_at\":1800000000000,",
            "\"state\":\"running\",\"ready\":true,\"ready_reason\":null,\"access\":\"all\",",
        ] {
            assert!(body.contains(member), "{member}: {body:.500}");
        }
    }
    assert_eq!(bench.ask(LOOPBACK, &get("/api/status", "").replace("GET", "POST")), 405);
}

#[test]
fn a_time_is_told_alike_until_the_clock_is_set() {
    let at = |mono, unix| Now { mono: Mono(mono), unix };
    let mut calendar = Calendar::new(at(500, 1_800_000_000));
    for (mono, unix) in [(1400, 1_800_000_001), (99_600, 1_800_000_099), (100_400, 1_800_000_099)] {
        calendar.follow(at(mono, unix));
        assert_eq!(calendar.at(Mono(600)), 1_800_000_000_100);
    }
    calendar.follow(at(200_000, 1_900_000_000));
    assert_eq!(calendar.at(Mono(200_000)), 1_900_000_000_000);
    assert_eq!(calendar.at(Mono(0)), 1_899_999_800_000);
}

fn post(path: &str, fields: &str) -> String {
    get(path, &format!("Content-Type: application/json\r\n{fields}")).replace("GET", "POST")
}

#[test]
fn what_can_be_done() {
    let mut bench = Bench::new(&AdminConfig { instance: 0xab, ..Default::default() });
    let mut body = |request: &str| {
        let status = bench.ask(LOOPBACK, request);
        (status, bench.text().split_once("\r\n\r\n").unwrap().1.to_owned())
    };
    let (yes, no) = ("{\"ok\":true,\"changed\":true}\n", "{\"ok\":true,\"changed\":false}\n");
    for (path, done) in [
        ("/api/agents/0123:a%2Fb/pause", yes),
        ("/api/agents/0123%3Aa%2fb/resume", no),
        ("/api/names/gpu-%C3%A4/pause", yes),
        ("/api/names/pause/resume", no),
        ("/api/queue/pause", yes),
        ("/api/queue/resume?x=1", no),
        ("/api/exchanges/000000ab-1/cancel", "{\"ok\":true,\"was\":\"waiting\"}\n"),
        ("/api/exchanges/000000ab-2/cancel", "{\"ok\":true,\"was\":\"running\"}\n"),
    ] {
        assert_eq!(body(&post(path, "")), (200, done.into()), "{path}");
    }
    assert_eq!(body(&(post("/api/queue/pause", "Content-Length: 3\r\n") + "[1]")), (200, yes.into()));
    for (path, status) in [
        ("/api/agents/gone/pause", 404),
        ("/api/names/one-too-many/pause", 503),
        ("/api/agents/x/stop", 404),
        ("/api/agents//pause", 400),
        ("/api/agents/x/y/pause", 404),
        ("/api/names/%FF/pause", 400),
        ("/api/names/%4/pause", 400),
        ("/api/queue", 404),
        ("/api/queue/x/pause", 404),
        ("/api/exchanges/000000ac-1/cancel", 404),
        ("/api/exchanges/000000ab-01/cancel", 404),
        ("/api/exchanges/000000ab-+1/cancel", 404),
        ("/api/exchanges/1/cancel", 404),
        ("/metrics", 405),
    ] {
        assert_eq!(body(&post(path, "")).0, status, "{path}");
    }
    assert_eq!(body(&post("/api/queue/pause", "Content-Length: 1025\r\n")).0, 413);
    assert_eq!(
        bench.process.acts,
        [
            "Agent { id: \"0123:a/b\", pause: true }",
            "Agent { id: \"0123:a/b\", pause: false }",
            "Name { name: \"gpu-\u{e4}\", pause: true }",
            "Name { name: \"pause\", pause: false }",
            "Queue { pause: true }",
            "Queue { pause: false }",
            "Cancel { number: 1 }",
            "Cancel { number: 2 }",
            "Queue { pause: true }",
            "Agent { id: \"gone\", pause: true }",
            "Name { name: \"one-too-many\", pause: true }",
        ]
    );
}

#[test]
fn who_may_act() {
    let mut bench = Bench::new(&AdminConfig::default());
    let path = "/api/queue/pause";
    let own = "Origin: http://127.0.0.1:8081\r\n";
    let foreign = "Origin: http://evil.example\r\n";
    for caller in [LOOPBACK, Caller::Unix] {
        assert_eq!(bench.ask(caller, &post(path, "")), 200);
        assert_eq!(bench.ask(caller, &post(path, own)), 200);
        assert_eq!(bench.ask(caller, &post(path, foreign)), 403);
        for typed in ["", "Content-Type: text/plain\r\n", "Content-Type: application/jsonp\r\n"] {
            assert_eq!(bench.ask(caller, &get(path, typed).replace("GET", "POST")), 415, "{typed}");
        }
        let typed = "Content-Type: Application/JSON ; charset=utf-8\r\n";
        assert_eq!(bench.ask(caller, &get(path, typed).replace("GET", "POST")), 200);
        for method in ["GET", "HEAD", "PUT", "OPTIONS"] {
            assert_eq!(bench.ask(caller, &post(path, "").replace("POST", method)), 405);
            assert!(bench.text().contains("\r\nAllow: POST\r\n"), "{}", bench.text());
        }
        assert_eq!(bench.ask(caller, &get("/metrics", "").replace("GET", "POST")), 405);
        assert!(bench.text().contains("\r\nAllow: GET, HEAD\r\n"), "{}", bench.text());
    }
    assert_eq!(bench.ask(LOOPBACK, &post(path, "X-Forwarded-For: x\r\n")), 403);
    assert_eq!(bench.ask(LOOPBACK, &post(path, "").replace("127.0.0.1:8081", "evil.example")), 403);
    assert_eq!(bench.process.acts.len(), 6);

    let access = |bench: &mut Bench, caller: Caller, fields: &str| {
        bench.ask(caller, &get("/api/status", fields));
        let text = bench.text();
        text.split("\"access\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
    };
    assert_eq!(access(&mut bench, LOOPBACK, ""), "all");
    let (right, view) = ("Authorization: Bearer right\r\n", "Authorization: Bearer view\r\n");
    let mut bench = Bench::new(&guarded());
    assert_eq!(bench.ask(LOOPBACK, &post(path, "")), 401);
    assert_eq!(bench.ask(LOOPBACK, &post(path, view)), 403);
    assert_eq!(bench.ask(LOOPBACK, &post(path, &[right, foreign].concat())), 403);
    assert_eq!(bench.ask(LOOPBACK, &post(path, &[right, "Via: x\r\n"].concat())), 200);
    assert_eq!(access(&mut bench, LOOPBACK, right), "all");
    assert_eq!(access(&mut bench, LOOPBACK, view), "view");
    assert_eq!(access(&mut bench, Caller::Unix, ""), "all");
    assert_eq!(bench.process.acts.len(), 1);
    // Who has a view password and no other lets nobody act.
    let mut bench = Bench::new(&AdminConfig { view_password: Some("view".into()), ..Default::default() });
    assert_eq!(bench.ask(LOOPBACK, &post(path, view)), 403);
}
