//! How agents join: tokens, refusals, names, and the conversation on the tunnel as another implementation
//! would lead it.

use std::io::Write as _;
use std::process::Command;

use crate::framing::assert_own;
use crate::harness::{
    Agent, Cut, DEADLINE, Hub, Proc, RawUpstream, Rig, WELCOME, Wire, command, hello, join, pki, register,
    reply, secure_agent, secure_hub, shared_token, wait_until,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn any_implementation_can_be_an_agent() {
    let hub = Hub::start(&[]);
    let mut tunnel = join(&hub, shared_token(), "mine", 0);
    let mut client = hub.client();
    for round in 0..3 {
        client.send(format!("POST /{round} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi"));
        let request = tunnel.request();
        assert_eq!((request.head.target(), request.text().as_str()), (format!("/{round}").as_str(), "hi"));
        assert_eq!(request.head.field("host"), Some("h"));
        tunnel.send(OK);
        let response = client.response();
        assert_eq!(response.text(), "ok");
        assert_eq!(response.head.field("slime-agent-id"), Some("mine"));
    }
    // A byte that nobody asked for ends an idle tunnel.
    let start = std::time::Instant::now();
    tunnel.send("x");
    tunnel.wait_end();
    assert!(start.elapsed() < std::time::Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn the_path_of_the_handshake_may_have_a_prefix() {
    let hub = Hub::start(&[]);
    let token = shared_token();
    let mut wire = hub.client_sending(hello(token, "a", 0).replace("GET /", "GET /some/where/"));
    assert_eq!(wire.head().status(), 101);
    // The agent asks for it there.
    let upstream = RawUpstream::new();
    let hub_played = RawUpstream::new();
    let _agent = Agent::start(&format!("{}/some/where", hub_played.url()), token, &upstream.url(), &[]);
    let mut at = hub_played.accept();
    let head = at.request_head();
    assert_eq!(head.start, "GET /some/where/.slime/tunnel HTTP/1.1");
    assert_eq!(head.field("host"), Some(hub_played.address().to_string().as_str()));
    assert_eq!(head.field("upgrade"), Some("slime/1"));
    assert_eq!(head.field("slime-agent-token"), Some(token));
    assert_eq!(head.field("slime-worker"), Some("0"));
    assert_eq!(head.field("slime-ready"), Some("?1"));
}

#[test]
fn an_agent_serves_a_hub_that_is_played_by_the_test() {
    let upstream = RawUpstream::new();
    let hub = RawUpstream::new();
    let _agent = Agent::start(
        &hub.url(),
        shared_token(),
        &upstream.url(),
        &["--num-worker", "2", "--agent-id", "named"],
    );
    let mut tunnels = Vec::new();
    let mut workers = Vec::new();
    for _ in 0..2 {
        let mut tunnel = hub.accept();
        let head = tunnel.request_head();
        assert_eq!(head.field("slime-agent-id"), Some("named"));
        workers.push(head.field("slime-worker").unwrap().to_owned());
        tunnel.send(WELCOME);
        tunnels.push(tunnel);
    }
    workers.sort();
    assert_eq!(workers, ["0", "1"]);
    // A heartbeat.
    tunnels[0].send("OPTIONS * HTTP/1.1\r\nHost: h\r\nSlime-Heartbeat: ?1\r\n\r\n");
    assert_eq!(tunnels[0].response().status(), 204);
    // Both workers at once.
    for tunnel in &mut tunnels {
        tunnel.send("GET /x HTTP/1.1\r\nHost: app.example\r\n\r\n");
    }
    let mut at = [upstream.accept(), upstream.accept()];
    for at in &mut at {
        assert_eq!(at.request().head.target(), "/x");
        at.send(OK);
    }
    for tunnel in &mut tunnels {
        assert_eq!(tunnel.response().text(), "ok");
    }
    // A closed tunnel is dialled again, by the worker that lost it.
    drop(tunnels.remove(0));
    let mut again = hub.accept();
    assert!(again.request_head().has("slime-worker"));
}

#[test]
fn bad_tokens_are_401_with_the_reason() {
    let hub = Hub::start(&[]);
    let good = hub.token(&["--name", "n"]);
    let mut flipped = good.clone().into_bytes();
    let last = flipped.len() - 10;
    flipped[last] = if flipped[last] == b'A' { b'B' } else { b'A' };
    for token in [
        String::from_utf8(flipped).unwrap(),
        register("another secret", &["--name", "n"]),
        "slime1_".to_owned(),
        "x".to_owned(),
        good[..good.len() - 4].to_owned(),
    ] {
        let mut wire = hub.client_sending(hello(&token, "a", 0));
        let response = wire.response();
        assert_own(&response, 401);
        assert!(!response.text().contains(&token[..]) || token.len() < 3);
    }
    let without = hello(&good, "a", 0).replace("Slime-Agent-Token", "X-Token");
    assert_own(&hub.client_sending(without).response(), 401);
    join(&hub, &good, "a", 0);
}

#[test]
fn odd_handshakes_are_refused() {
    let hub = Hub::start(&[]);
    let token = shared_token();
    let good = hello(token, "a", 0);
    for (odd, status) in [
        (good.replace("GET", "POST"), 404),
        (good.replace("Upgrade: slime/1", "Upgrade: websocket"), 404),
        (good.replace("Agent-Id: a", "Agent-Id: a b"), 400),
        (good.replace("Agent-Id: a", &format!("Agent-Id: {}", "a".repeat(65))), 400),
        (good.replace("Worker: 0", "Worker: x"), 400),
    ] {
        let mut wire = hub.client_sending(&odd);
        assert_own(&wire.response(), status);
    }
}

#[test]
fn workers_beyond_the_limit_of_the_token_are_403() {
    let hub = Hub::start(&[]);
    let token = hub.token(&["--name", "n", "--max-workers", "2"]);
    let first = join(&hub, &token, "a", 0);
    let _second = join(&hub, &token, "b", 0);
    assert_own(&hub.client_sending(hello(&token, "a", 1)).response(), 403);
    drop(first);
    wait_until("a place is free", DEADLINE, || {
        hub.client_sending(hello(&token, "a", 1)).head().status() == 101
    });
}

#[test]
fn tunnels_beyond_the_limit_are_503() {
    let hub = Hub::start(&["--max-tunnels", "1"]);
    let token = shared_token();
    let _first = join(&hub, token, "a", 0);
    assert_own(&hub.client_sending(hello(token, "b", 0)).response(), 503);
    // One of the same name takes its place.
    join(&hub, token, "a", 0);
}

#[test]
fn a_tunnel_of_the_same_name_replaces_the_old_one() {
    let hub = Hub::start(&[]);
    let token = shared_token();
    let mut old = join(&hub, token, "a", 0);
    let mut new = join(&hub, token, "a", 0);
    let goodbye = old.request_head();
    assert_eq!(goodbye.start, "OPTIONS * HTTP/1.1");
    assert_eq!(goodbye.field("slime-close"), Some("replaced"));
    old.wait_end();
    // The running exchange of a replaced one is aborted first.
    let mut client = hub.client_sending("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx");
    new.request();
    let mut newest = join(&hub, token, "a", 0);
    assert_own(&client.response(), 502);
    new.wait_end();
    let mut client = hub.client_sending(GET);
    newest.request();
    newest.send(OK);
    assert_eq!(client.response().text(), "ok");
    // Another id, or another token, is somebody else: all three take work at once.
    let other = join(&hub, token, "b", 0);
    let stranger = join(&hub, &hub.token(&["--name", "n"]), "a", 0);
    let clients: Vec<Wire> = (0..3).map(|_| hub.client_sending(GET)).collect();
    for mut tunnel in [newest, other, stranger] {
        tunnel.request();
        tunnel.send(OK);
    }
    for mut client in clients {
        assert_eq!(client.response().text(), "ok");
    }
}

#[test]
fn a_wrong_token_ends_the_agent_with_a_clear_message() {
    let hub = Hub::start(&[]);
    let token = register("another secret", &["--name", "n"]);
    let mut agent = hub.agent_with(&token, "http://127.0.0.1:9", &[]);
    let status = agent.wait_exit();
    assert!(status.code().is_some_and(|code| code > 0), "{status}");
    let output = agent.output();
    assert!(output.contains("token"), "{output}");
    assert!(!output.contains(&token), "the token is in the log");
}

#[test]
fn secrets_come_from_flags_environment_and_files() {
    let directory = std::env::temp_dir().join(format!("slime-secrets-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("secret");
    std::fs::File::create(&file).unwrap().write_all(b"the secret\n").unwrap();
    let file = file.to_str().unwrap();
    let output = |mut command: Command| command.output().unwrap();
    let by_flag = output(command(&["hub", "register", "--secret", "the secret", "--name", "n"]));
    let by_file = output(command(&["hub", "register", "--secret-file", file, "--name", "n"]));
    let by_short_form = register("the secret", &["--name", "n"]);
    assert!(by_flag.status.success() && by_file.status.success());
    let warning = String::from_utf8_lossy(&by_flag.stderr).into_owned();
    assert!(warning.contains("--secret-file") && !warning.contains("the secret"), "{warning}");

    // `slime hub` and `slime agent` without `run` are the same commands.
    let mut start = command(&["hub", "--host", "127.0.0.1", "--port", "0", "--startup-grace", "60"]);
    start.args(["--secret-file", file]);
    secure_hub(&mut start);
    let hub = Proc::spawn("hub", start);
    let line = hub.wait_line("listening on ");
    let address = line.split("listening on ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let upstream = crate::harness::Server::start(async |_| reply(200, "ok"));
    for token in [by_flag.stdout, by_file.stdout, by_short_form.into_bytes()] {
        let token = String::from_utf8(token).unwrap();
        let url = pki::url(&address);
        let mut start =
            command(&["agent", "--token", token.trim_end(), "--hub", &url, "--upstream", &upstream.url()]);
        secure_agent(&mut start, &url, &upstream.url(), &[]);
        let agent = Proc::spawn("agent", start);
        let mut client = Wire::connect(address.parse().unwrap());
        client.send("GET / HTTP/1.1\r\nHost: h\r\nSlime-Block: 1\r\n\r\n");
        assert_eq!(client.response().text(), "ok");
        assert!(!hub.output().contains(token.trim_end()) && !agent.output().contains(token.trim_end()));
    }
    assert!(!hub.output().contains("the secret"));
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn wrong_command_lines_end_with_a_message() {
    for arguments in [
        &["hub", "run", "--port", "0"][..],
        &["hub", "run", "--secret", "s", "--port", "70000"],
        &["hub", "run", "--secret", "s", "--nonsense"],
        &["hub", "register", "--name", "n"],
        &["agent", "run", "--hub", "127.0.0.1:1", "--upstream", "http://127.0.0.1:1"],
        &["agent", "run", "--token", "t", "--hub", "127.0.0.1:1", "--upstream", "ftp://127.0.0.1:1"],
        &[
            "agent",
            "run",
            "--token",
            "t",
            "--hub",
            "127.0.0.1:1",
            "--upstream",
            "http://127.0.0.1:1",
            "--agent-id",
            "a b",
        ],
        &["nonsense"],
    ] {
        let output = command(arguments).output().unwrap();
        assert!(output.status.code().is_some_and(|code| code > 0), "{arguments:?}: {}", output.status);
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{arguments:?}");
    }
}

#[test]
fn a_port_that_is_taken_is_said() {
    let hub = Hub::start(&[]);
    let port = hub.address().port().to_string();
    let mut second = Proc::spawn(
        "second",
        command(&["hub", "run", "--secret", "s", "--host", "127.0.0.1", "--port", &port]),
    );
    let status = second.wait_exit();
    assert!(status.code().is_some_and(|code| code > 0), "{status}");
    assert!(second.output().contains(&port), "{}", second.output());
}

/// Nothing an application says reaches the hub's own paths or becomes a tunnel.
#[test]
fn own_paths_are_never_forwarded() {
    let rig = Rig::raw();
    for target in [
        "/.slime/",
        "/.slime",
        "/.slime/tunnel",
        "/a/.slime/b",
        "/%2Eslime/x",
        "/.%73lime/x",
        "/.slime%2Fx",
        "http://h/.slime/x",
    ] {
        let mut client = rig.hub.client_sending(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let status = client.response().status();
        assert!(status == 404, "{target}: {status}");
    }
    let (request, _) = rig.exchange("GET /x.slime/.slimey?/.slime/ HTTP/1.1\r\nHost: h\r\n\r\n", OK);
    assert_eq!(request.head.target(), "/x.slime/.slimey?/.slime/");
    assert_eq!(rig.upstream.accepted(), 1);
    let mut client = rig.hub.client_sending("CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n");
    assert_own(&client.response(), 501);
    assert_eq!(client.wait_end(), Cut::Eof);
}
