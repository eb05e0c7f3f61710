//! The admin side of hub and agent, as balancers and scrapers use it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{DEADLINE, Hub, Message, Proc, RawUpstream, Rig, Wire, command, join, wait_until};

const ADMIN: [&str; 2] = ["--admin", "127.0.0.1:0"];

/// Where a process says that it can be asked.
#[track_caller]
fn admin_of(process: &Proc) -> SocketAddr {
    let line = process.wait_line("status page at http://");
    line.rsplit("http://").next().unwrap().trim_end_matches('/').parse().unwrap()
}

#[track_caller]
fn ask(admin: SocketAddr, path: &str, fields: &str) -> Message {
    let mut client = Wire::connect_plain(admin);
    client.send(format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\n{fields}\r\n"));
    client.response()
}

/// The text of the answer. None if there was none.
fn try_ask(admin: SocketAddr, path: &str) -> Option<String> {
    let mut client = TcpStream::connect(admin).ok()?;
    client.set_read_timeout(Some(DEADLINE)).ok()?;
    client.write_all(format!("GET {path} HTTP/1.0\r\nHost: {admin}\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    client.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, text)| text.to_owned())
}

fn ready(admin: SocketAddr, query: &str) -> (u16, String) {
    let answer = ask(admin, &format!("/readyz{query}"), "");
    (answer.status(), answer.text())
}

fn has_sample(admin: SocketAddr, sample: &str) -> bool {
    ask(admin, "/metrics", "").text().lines().any(|line| line == sample)
}

#[test]
fn hub_and_agent_say_how_they_are() {
    let upstream = RawUpstream::new();
    let hub = Hub::start(&ADMIN);
    let of_hub = admin_of(&hub);
    assert_eq!(ask(of_hub, "/healthz", "").text(), "ok\n");
    assert_eq!(ready(of_hub, ""), (200, "ready\n".into()));
    assert_eq!(ready(of_hub, "?agents=1"), (503, "not ready: 0 of 1 agents take work\n".into()));
    let token = hub.token(&["--name", "gpu-1"]);
    let flags = [&ADMIN[..], &["--num-worker", "2", "--light-paths", "/v1/models"]].concat();
    let agent = hub.agent_with(&token, &upstream.address().to_string(), &flags);
    let of_agent = admin_of(&agent);
    wait_until("both are ready", DEADLINE, || {
        ready(of_hub, "?agents=1").0 == 200 && ready(of_agent, "").0 == 200
    });
    wait_until("both workers are there", DEADLINE, || {
        has_sample(of_hub, "slime_hub_workers{agent=\"gpu-1\",state=\"idle\"} 2")
    });
    assert!(has_sample(of_hub, "slime_hub_agents{agent=\"gpu-1\"} 1"));
    assert!(has_sample(of_hub, "slime_hub_limit{limit=\"concurrent\"} 1024"));
    let address = upstream.address();
    assert!(has_sample(of_agent, &format!("slime_agent_upstream_up{{upstream=\"{address}\"}} 1")));
    assert!(has_sample(of_agent, &format!("slime_agent_workers{{upstream=\"{address}\",state=\"idle\"}} 2")));

    let told = ask(of_hub, "/api/status", "").text();
    let front = format!(
        "\"listeners\":[{{\"address\":\"{0}\",\"tls\":false}}],\"join_command\":\"slime agent --hub {0} ",
        hub.address()
    );
    assert!(told.contains(&front), "{told}");
    assert!(told.contains("\"text\":\"listening on ") && !told.contains("DEBUG"), "{told}");
    assert!(has_sample(of_agent, "slime_log_lines_dropped_total{log=\"log\"} 0"));

    let mut client = hub.client_sending("GET /job HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut served = upstream.accept();
    served.request();
    assert!(has_sample(of_hub, "slime_hub_workers{agent=\"gpu-1\",state=\"busy\"} 1"));
    assert!(has_sample(of_hub, "slime_hub_limit_used{limit=\"concurrent\"} 1"));
    assert!(has_sample(of_agent, &format!("slime_agent_workers{{upstream=\"{address}\",state=\"busy\"}} 1")));
    served.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(client.response().text(), "ok");
    // The port of applications tells nothing of it.
    assert_ne!(
        hub.client_sending("GET /healthz HTTP/1.1\r\nHost: h\r\nSlime-Block: 0\r\nSlime-Scope: no\r\n\r\n")
            .response()
            .status(),
        200
    );
    drop(hub);
    wait_until("the agent is not ready without a hub", DEADLINE, || {
        ready(of_agent, "") == (503, "not ready: no hub is joined\n".into())
    });
}

#[test]
fn agents_say_what_they_are() {
    let upstream = RawUpstream::new();
    let hub = Hub::start(&ADMIN);
    let of_hub = admin_of(&hub);
    let address = upstream.address();
    let token = hub.token(&["--name", "gpu-1"]);
    let flags = ["--agent-id", "new", "--note", "2nd shelf = <left>; \u{fc}ber"];
    let mut agent = hub.agent_with(&token, &format!("http://me:secret@{address}/v1"), &flags);
    // One that says nothing, as those of 0.1.0.
    let _old = join(&hub, &token, "old", 0);
    let status = || ask(of_hub, "/api/status", "").text();
    let unknown = "{\"version\":null,\"host\":null,\"arch\":null,\"upstream\":null,\"note\":null,\
                   \"cpus\":null,\"memory_bytes\":null}";
    let upstream = format!("\"upstream\":\"{address}\"");
    let note = "\"note\":\"2nd shelf = \\u003cleft\\u003e; \u{fc}ber\"";
    wait_until("both are told of", DEADLINE, || {
        let status = status();
        status.contains(note) && status.contains(&format!("\"info\":{unknown}"))
    });
    let told = status();
    let version = format!("\"info\":{{\"version\":\"{}\",\"host\":\"", env!("CARGO_PKG_VERSION"));
    let arch = format!("\"arch\":\"{}\",{upstream},{note},\"cpus\":", std::env::consts::ARCH);
    assert!(told.contains(&version) && told.contains(&arch), "{told}");
    assert!(!told.contains("\"cpus\":0") && !told.contains("secret"), "{told}");
    let memory = told.split("\"memory_bytes\":").find_map(|rest| rest.split('}').next()?.parse::<u64>().ok());
    assert!(memory.is_some_and(|bytes| bytes > 1 << 20), "{told}");
    // What it said last holds.
    agent.kill();
    let flags = ["--agent-id", "new", "--note", "cellar"];
    let _agent = hub.agent_with(&token, &address.to_string(), &flags);
    wait_until("it is told anew", DEADLINE, || {
        let status = status();
        status.contains("\"note\":\"cellar\"") && !status.contains(note)
    });
}

#[test]
fn a_hub_serves_on_while_it_says_that_it_ends() {
    let mut rig = Rig::raw_with(&[&ADMIN[..], &["--drain-delay", "3s"]].concat(), &[]);
    let admin = admin_of(&rig.hub);
    let begin = Instant::now();
    rig.hub.signal(Signal::TERM);
    wait_until("it says so", DEADLINE, || ready(admin, "") == (503, "not ready: draining\n".into()));
    let (request, _) =
        rig.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    drop(request);
    assert!(begin.elapsed() < Duration::from_secs(3), "the machine is too slow for this test");
    assert_eq!(rig.hub.wait_exit().code(), Some(0));
    assert!(begin.elapsed() >= Duration::from_secs(3), "{:?}", begin.elapsed());

    // A second signal does not wait for it.
    let mut hub = Hub::start(&[&ADMIN[..], &["--drain-delay", "1h"]].concat());
    hub.signal(Signal::TERM);
    hub.wait_line("ending in 3600 s");
    hub.signal(Signal::TERM);
    assert_eq!(hub.wait_exit().code(), Some(0));
}

#[test]
fn a_unix_socket_is_its_owners() {
    let folder = std::env::temp_dir().join(format!("slime-admin-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("admin.sock");
    let flag = format!("unix:{}", path.display());
    let get = |target: &str| {
        let mut stream = UnixStream::connect(&path).unwrap();
        write!(stream, "GET {target} HTTP/1.1\r\nHost: anything\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let mut hub = Hub::start(&["--admin", &flag, "--admin-password", "p"]);
    hub.wait_line(&format!("status page at {flag}"));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(get("/healthz").ends_with("\r\n\r\nok\n"));
    assert!(get("/metrics").contains("\nslime_ready 1\n"));
    // One that is in use is not taken away.
    let mut second = command(&["hub", "run", "--port", "0", "--admin", &flag]);
    let second = second.env("SLIME_SECRET", "a secret of the tests").output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(second.status.code() == Some(1) && said.contains("another process listens there"), "{said}");
    // One that was left behind is.
    hub.kill();
    assert!(path.exists());
    let hub = Hub::start(&["--admin", &flag]);
    hub.wait_line(&format!("status page at {flag}"));
    assert!(get("/readyz").ends_with("ready\n"));
    drop(hub);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_password_is_asked_for_where_there_is_one() {
    let hub = Hub::start(&[&ADMIN[..], &["--admin-view-password", "of-who-looks"]].concat());
    let admin = admin_of(&hub);
    assert_eq!(ask(admin, "/readyz", "").status(), 200);
    assert_eq!(ask(admin, "/metrics", "").status(), 401);
    assert_eq!(ask(admin, "/metrics", "Authorization: Bearer of-who-looks\r\n").status(), 200);
    assert!(!hub.output().contains("of-who-looks\""));
    for flags in [["--admin", "0.0.0.0:0"], ["--admin", "[::]:0"]] {
        let mut open = command(&[&["hub", "run", "--port", "0"], &flags[..]].concat());
        let open = open.env("SLIME_SECRET", "a secret of the tests").output().unwrap();
        let said = String::from_utf8_lossy(&open.stderr).into_owned();
        assert!(open.status.code() == Some(2) && said.contains("a password is needed"), "{said}");
    }
}

/// What `slime ready` says, and its exit code.
fn say_ready(arguments: &[&str], admin: Option<&str>) -> (i32, String, String) {
    let mut asks = command(&[&["ready"], arguments].concat());
    if let Some(admin) = admin {
        asks.env("SLIME_ADMIN", admin);
    }
    let output = asks.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_command_says_whether_hub_and_agent_are_ready() {
    let upstream = RawUpstream::new();
    let folder = std::env::temp_dir().join(format!("slime-ready-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let socket = format!("unix:{}", folder.join("admin.sock").display());
    let hub = Hub::start(&["--admin", &format!("127.0.0.1:0,{socket}")]);
    let of_hub = admin_of(&hub).to_string();
    for admin in [of_hub.as_str(), &socket, &format!("{socket},8081")] {
        assert_eq!(say_ready(&["--admin", admin], None), (0, "ready\n".into(), String::new()));
        assert_eq!(say_ready(&[], Some(admin)), (0, "ready\n".into(), String::new()));
    }
    assert_eq!(say_ready(&["--live", "--admin", &of_hub], None).1, "ok\n");
    let none = (1, "not ready: 0 of 1 agents take work\n".to_owned(), String::new());
    assert_eq!(say_ready(&["--agents", "1", "--admin", &of_hub], None), none);
    let begin = Instant::now();
    assert_eq!(say_ready(&["--agents=1", "--wait=600ms", "--admin", &of_hub], None), none);
    assert!(begin.elapsed() >= Duration::from_millis(600), "{:?}", begin.elapsed());

    let waits = std::thread::spawn({
        let of_hub = of_hub.clone();
        move || say_ready(&["--agents", "1", "--wait", "60", "--admin", &of_hub], None)
    });
    let token = hub.token(&[]);
    let agent = hub.agent_with(&token, &upstream.address().to_string(), &ADMIN);
    assert_eq!(waits.join().unwrap().1, "ready\n");
    let of_agent = admin_of(&agent).to_string();
    assert_eq!(say_ready(&["--wait", "60", "--admin", &of_agent], None).0, 0);
    drop((hub, agent));

    let (code, out, err) = say_ready(&["--admin", &socket], None);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.starts_with(&format!("slime: {socket} cannot be asked: ")), "{err}");
    // One that takes the question and says nothing, and one that is no slime.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (code, _, err) = say_ready(&["--admin", &silent.local_addr().unwrap().to_string()], None);
    assert!(code == 1 && err.contains("no answer within 3 s"), "{err}");
    let (code, _, err) = say_ready(&["--admin", &upstream.address().to_string(), "--live"], None);
    assert!(code == 1 && err.contains("cannot be asked"), "{err}");
    std::fs::remove_dir_all(folder).unwrap();
}

/// As many as are served at a time ask for more than they have had, and take all of it: a balancer's check
/// comes through.
#[test]
fn greedy_readers_keep_nobody_out() {
    let hub = Hub::start(&ADMIN);
    let admin = admin_of(&hub);
    let many = format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\n\r\n").repeat(200);
    std::thread::scope(|scope| {
        let (served, is_served) = std::sync::mpsc::channel();
        let mut greedy: Vec<TcpStream> = Vec::new();
        for _ in 0..16 {
            let client = TcpStream::connect(admin).unwrap();
            let (mut asks, mut takes) = (client.try_clone().unwrap(), client.try_clone().unwrap());
            let many = &many;
            scope.spawn(move || while asks.write_all(many.as_bytes()).is_ok() {});
            let served = served.clone();
            scope.spawn(move || {
                while takes.read(&mut [0; 64 * 1024]).is_ok_and(|n| n > 0) {
                    let _ = served.send(());
                }
            });
            greedy.push(client);
        }
        for _ in 0..1000 {
            is_served.recv_timeout(DEADLINE).unwrap();
        }
        let answers: Vec<_> = (0..50).map(|_| try_ask(admin, "/healthz")).collect();
        for client in greedy {
            let _ = client.shutdown(std::net::Shutdown::Both);
        }
        assert_eq!(answers, vec![Some("ok\n".to_owned()); 50]);
    });
}

/// Forty that ask for much and take nothing, and as many that say nothing, keep nobody out.
#[test]
fn slow_readers_keep_nobody_out() {
    let hub = Hub::start(&ADMIN);
    let admin = admin_of(&hub);
    let before = hub.fds();
    let many = format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\n\r\n").repeat(500);
    let mut slow: Vec<Wire> = Vec::new();
    for index in 0..80 {
        let mut client = Wire::connect_plain(admin);
        if index % 2 == 0 {
            let _ = client.try_send(&many);
        }
        slow.push(client);
    }
    for _ in 0..20 {
        let begin = Instant::now();
        assert_eq!(ask(admin, "/healthz", "").text(), "ok\n");
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    }
    assert!(hub.fds() <= before + 17, "{} descriptors, {before} before", hub.fds());
}

/// Status and text of the answer to an action.
#[track_caller]
fn act(admin: SocketAddr, path: &str, fields: &str) -> (u16, String) {
    let mut client = Wire::connect_plain(admin);
    client.send(format!(
        "POST {path} HTTP/1.1\r\nHost: {admin}\r\nContent-Type: application/json\r\n{fields}\r\n"
    ));
    let answer = client.response();
    (answer.status(), answer.text())
}

const CHANGED: &str = "{\"ok\":true,\"changed\":true}\n";

fn status(admin: SocketAddr) -> String {
    ask(admin, "/api/status", "").text()
}

/// The first id of a request in a list of the status.
fn first_id(status: &str, list: &str) -> String {
    let list = status.split_once(&format!("\"{list}\":[{{\"id\":\"")).unwrap().1;
    list.split('"').next().unwrap().to_owned()
}

#[test]
fn an_operator_pauses_and_cancels() {
    let upstream = RawUpstream::new();
    let hub = Hub::start(&[&ADMIN[..], &["--agent-grace", "1s", "--startup-grace", "0"]].concat());
    let of_hub = admin_of(&hub);
    let token = hub.token(&["--name", "gpu-1"]);
    let agent = hub.agent_with(&token, &upstream.address().to_string(), &ADMIN);
    let of_agent = admin_of(&agent);
    wait_until("it is ready", DEADLINE, || ready(of_hub, "?agents=1").0 == 200);

    // Wherever it is paused, by whatever: requests are refused, and it says so.
    let status_of_hub = status(of_hub);
    let id = first_id(&status_of_hub, "agents");
    let ways = [
        (of_hub, format!("/api/agents/{}", id.replace(':', "%3A"))),
        (of_hub, "/api/names/gpu-1".to_owned()),
        (of_agent, "/api/agents/0".to_owned()),
    ];
    for (admin, path) in ways {
        let (pause, resume) = (format!("{path}/pause"), format!("{path}/resume"));
        assert_eq!(act(admin, &pause, ""), (200, CHANGED.into()));
        assert_eq!(act(admin, &pause, "").1, "{\"ok\":true,\"changed\":false}\n");
        assert_eq!(act(admin, &pause, "Origin: http://evil.example\r\n").0, 403);
        assert!(status(admin).contains("\"state\":\"paused\""), "{}", status(admin));
        wait_until("it takes no work", DEADLINE, || ready(of_hub, "?agents=1").0 == 503);
        let mut client = hub.client_sending("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(client.response().status(), 503);
        assert_eq!(act(admin, &resume, ""), (200, CHANGED.into()));
        wait_until("it takes work", DEADLINE, || ready(of_hub, "?agents=1").0 == 200);
    }
    assert_eq!(ready(of_agent, ""), (200, "ready\n".into()));
    act(of_agent, "/api/agents/0/pause", "");
    assert_eq!(ready(of_agent, ""), (503, "not ready: paused\n".into()));
    act(of_agent, "/api/agents/0/resume", "");
    wait_until("it takes work", DEADLINE, || ready(of_hub, "?agents=1").0 == 200);

    assert_eq!(act(of_hub, "/api/queue/pause", ""), (200, CHANGED.into()));
    assert!(has_sample(of_hub, "slime_hub_queue_paused 1"));
    let mut waits = hub.client_sending("GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut runs = hub.client_sending("GET /b HTTP/1.1\r\nHost: h\r\n\r\n");
    wait_until("both wait", DEADLINE, || status(of_hub).contains("\"waiting_total\":2"));
    let told = status(of_hub);
    assert!(told.contains("\"reason\":\"queue_paused\""), "{told}");
    assert!(told.contains("\"text\":\"The queue is paused; 2 requests wait.\""), "{told}");
    let cancel = format!("/api/exchanges/{}/cancel", first_id(&told, "waiting"));
    assert_eq!(act(of_hub, &cancel, "").1, "{\"ok\":true,\"was\":\"waiting\"}\n");
    assert_eq!(act(of_hub, &cancel, "").0, 404);
    assert_eq!(waits.response().status(), 503);
    assert_eq!(act(of_hub, "/api/queue/resume", ""), (200, CHANGED.into()));
    let mut served = upstream.accept();
    served.request();
    let cancel = format!("/api/exchanges/{}/cancel", first_id(&status(of_hub), "running"));
    assert_eq!(act(of_hub, &cancel, "").1, "{\"ok\":true,\"was\":\"running\"}\n");
    assert_eq!(runs.response().status(), 503);
    served.wait_end();
    assert!(has_sample(of_hub, "slime_hub_actions_total{action=\"cancel\"} 2"));
    hub.wait_line("the queue resumed, by an operator");
}
