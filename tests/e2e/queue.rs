//! Who gets a worker, when, and who waits for how long.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::framing::assert_own;
use crate::harness::{
    Hub, RawUpstream, Rig, Wire, alone, join, reply, respond, shared_token, wait_agents, wait_until,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
}

/// The middle of several measurements: one that the machine disturbed does not decide.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// A tenth took no longer: what something costs, whatever else the machine did meanwhile.
fn cost(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 10]
}

#[test]
fn two_hundred_in_a_row_are_never_refused() {
    let rig = Rig::serve_with(&["--startup-grace", "0"], &[], async |_| reply(200, "ok"));
    let mut client = rig.hub.client_sending(get("/", "Slime-Block: 1\r\n"));
    assert_eq!(client.response().status(), 200);
    for round in 0..200 {
        let mut client = rig.hub.client_sending(get(&format!("/{round}"), "Connection: close\r\n"));
        assert_eq!(client.response().status(), 200, "request {round}");
    }
    assert_eq!((rig.upstream.requests(), rig.upstream.peak()), (201, 1));
}

#[test]
fn forty_at_once_are_served_in_order_of_arrival() {
    let _alone = alone();
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&order);
    let rig = Rig::serve(move |request: crate::harness::Request| {
        seen.lock().unwrap().push(request.uri().path().to_owned());
        async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            reply(200, "done")
        }
    });
    wait_ready(&rig.hub);
    order.lock().unwrap().clear();
    let start = Instant::now();
    let mut clients: Vec<Wire> = Vec::new();
    for round in 0..40 {
        clients.push(rig.hub.client_sending(get(&format!("/{round}"), "")));
    }
    for client in &mut clients {
        assert_eq!(client.response().status(), 200);
    }
    let took = start.elapsed();
    let expected: Vec<String> = (0..40).map(|round| format!("/{round}")).collect();
    assert_eq!(*order.lock().unwrap(), expected);
    assert_eq!(rig.upstream.peak(), 1);
    assert!(took < Duration::from_millis(2300), "{took:?}");
}

fn wait_ready(hub: &Hub) {
    let mut client = hub.client_sending(get("/ready", "Slime-Block: 1\r\n"));
    assert_eq!(client.response().status(), 200);
}

#[test]
fn a_waiter_is_served_as_soon_as_a_worker_is_free() {
    let _alone = alone();
    let hub = Hub::start(&[]);
    let token = shared_token();
    let mut tunnel = join(&hub, token, "a", 0);
    let mut freed = Vec::new();
    let mut first = hub.client_sending(get("/", ""));
    tunnel.request();
    for _ in 0..25 {
        let second = hub.client_sending(get("/", ""));
        hub.settle();
        let start = Instant::now();
        tunnel.send(OK);
        tunnel.request();
        freed.push(start.elapsed());
        assert_eq!(first.response().text(), "ok");
        first = second;
    }
    assert!(median(freed.clone()) < Duration::from_millis(10), "{freed:?}");
    drop((first, tunnel));

    let mut joined = Vec::new();
    for round in 0..25 {
        let mut waiting = hub.client_sending(get("/", "Slime-Block: 1\r\n"));
        hub.settle();
        let start = Instant::now();
        let mut tunnel = join(&hub, token, &format!("b{round}"), 0);
        tunnel.request();
        joined.push(start.elapsed());
        tunnel.send(OK);
        assert_eq!(waiting.response().text(), "ok");
    }
    assert!(median(joined.clone()) < Duration::from_millis(20), "{joined:?}");
}

#[test]
fn without_a_matching_agent_only_those_wait_who_say_so() {
    let hub = Hub::start(&["--startup-grace", "0"]);
    for fields in ["", "Slime-Block: 0\r\n", "Slime-Max-Wait: 5\r\n", "Slime-Scope: nobody\r\n"] {
        let start = Instant::now();
        let mut client = hub.client_sending(get("/", fields));
        assert_own(&client.response(), 503);
        assert!(start.elapsed() < Duration::from_secs(2), "{fields:?}: {:?}", start.elapsed());
    }
    let start = Instant::now();
    let mut client = hub.client_sending(get("/", "Slime-Block: 1\r\nSlime-Max-Wait: 1\r\n"));
    assert_own(&client.response(), 503);
    assert!((900..4000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());

    let mut patient = hub.client_sending(get("/patient", "Slime-Block: 1\r\n"));
    hub.settle();
    assert!(patient.is_silent());
    let mut tunnel = join(&hub, shared_token(), "a", 0);
    assert_eq!(respond(&mut tunnel), "/patient");
    assert_eq!(patient.response().text(), "/patient");
}

#[test]
fn busy_agents_are_waited_for_as_long_as_each_request_says() {
    let hub = Hub::start(&["--queue-timeout", "2"]);
    let mut tunnel = join(&hub, shared_token(), "a", 0);
    let mut busy = hub.client_sending(get("/busy", ""));
    tunnel.request();
    let start = Instant::now();
    let mut never = hub.client_sending(get("/", "Slime-Block: 0\r\n"));
    assert_own(&never.response(), 503);
    assert!(start.elapsed() < Duration::from_millis(900));
    let mut short = hub.client_sending(get("/", "Slime-Max-Wait: 1\r\n"));
    let mut ordinary = hub.client_sending(get("/", ""));
    let mut patient = hub.client_sending(get("/patient", "Slime-Block: 1\r\n"));
    assert_own(&short.response(), 503);
    assert!((900..1900).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    assert_own(&ordinary.response(), 503);
    assert!((1900..5000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    assert!(patient.is_silent());
    tunnel.send(OK);
    assert_eq!(busy.response().text(), "ok");
    assert_eq!(respond(&mut tunnel), "/patient");
    assert_eq!(patient.response().text(), "/patient");
}

#[test]
fn the_queue_has_a_depth() {
    let hub = Hub::start(&["--queue-depth", "3"]);
    let mut tunnel = join(&hub, shared_token(), "a", 0);
    let mut clients = vec![hub.client_sending(get("/0", ""))];
    assert_eq!(tunnel.request().head.target(), "/0");
    for round in 1..4 {
        clients.push(hub.client_sending(get(&format!("/{round}"), "")));
    }
    hub.settle();
    assert_own(&hub.client_sending(get("/4", "")).response(), 503);
    assert_own(&hub.client_sending(get("/4", "Slime-Block: 1\r\n")).response(), 503);
    // One that leaves makes room.
    drop(clients.remove(2));
    let mut late = None;
    wait_until("there is room", crate::harness::DEADLINE, || {
        let mut client = hub.client_sending(get("/late", ""));
        hub.settle();
        let silent = client.is_silent();
        late = Some(client);
        silent
    });
    clients.push(late.unwrap());
    tunnel.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n/0");
    for expected in ["/1", "/3", "/late"] {
        assert_eq!(respond(&mut tunnel), expected);
    }
    for (client, expected) in clients.iter_mut().zip(["/0", "/1", "/3", "/late"]) {
        assert_eq!(client.response().text(), expected);
    }
}

#[test]
fn no_more_are_active_than_allowed() {
    let hub = Hub::start(&["--concurrent", "1"]);
    let token = shared_token();
    let mut tunnels = [join(&hub, token, "a", 0), join(&hub, token, "b", 0)];
    let mut clients: Vec<Wire> = (0..3).map(|n| hub.client_sending(get(&format!("/{n}"), ""))).collect();
    hub.settle();
    // The one that was idle for longer has it; the other one nothing.
    for (n, client) in clients.iter_mut().enumerate() {
        assert!(tunnels[(n + 1) % 2].is_silent());
        assert_eq!(respond(&mut tunnels[n % 2]), format!("/{n}"));
        assert_eq!(client.response().text(), format!("/{n}"));
    }
}

#[test]
fn scopes_choose_the_agent() {
    let hub = Hub::start(&["--startup-grace", "0"]);
    let mut small = join(&hub, &hub.token(&["--name", "s", "--scopes", "small,any"]), "s", 0);
    let mut large = join(&hub, &hub.token(&["--name", "l", "--scopes", "large,any"]), "l", 0);
    for (scope, target) in [("small", "/1"), ("large", "/2"), ("small", "/3"), ("large", "/4")] {
        let mut client = hub.client_sending(get(target, &format!("Slime-Scope: {scope}\r\n")));
        let tunnel = if scope == "small" { &mut small } else { &mut large };
        assert_eq!(respond(tunnel), target);
        let response = client.response();
        assert_eq!(response.head.field("slime-agent-id"), Some(&scope[..1]));
    }
    let mut client = hub.client_sending(get("/", "Slime-Scope: huge\r\n"));
    assert_own(&client.response(), 503);
    // Whoever fits takes it; who does not ask gets anyone.
    for fields in ["Slime-Scope: any\r\n", ""] {
        let mut clients = [hub.client_sending(get("/a", fields)), hub.client_sending(get("/b", fields))];
        assert_eq!((respond(&mut small), respond(&mut large)), ("/a".to_owned(), "/b".to_owned()));
        assert_eq!(clients.each_mut().map(|client| client.response().status()), [200, 200]);
    }
    // One who waits for the large agent does not hold up those who can be served now.
    let mut busy = hub.client_sending(get("/busy", "Slime-Scope: large\r\n"));
    large.request();
    let mut waiting = hub.client_sending(get("/waiting", "Slime-Scope: large\r\n"));
    hub.settle();
    for round in 0..20 {
        let mut client = hub.client_sending(get(&format!("/{round}"), ""));
        assert_eq!(respond(&mut small), format!("/{round}"));
        assert_eq!(client.response().status(), 200);
    }
    large.send(OK);
    assert_eq!(busy.response().text(), "ok");
    assert_eq!(respond(&mut large), "/waiting");
    assert_eq!(waiting.response().text(), "/waiting");
}

#[test]
fn scope_paths_bind_the_agent() {
    let hub = Hub::start(&["--startup-grace", "0"]);
    let mut bound = join(&hub, &hub.token(&["--name", "n", "--scope-paths", "/v1,/api/chat"]), "a", 0);
    for target in ["/v1", "/v1/", "/v1/models?x=/../", "/v1?x", "/api/chat", "/api/chat/x"] {
        let mut client = hub.client_sending(get(target, ""));
        assert_eq!(respond(&mut bound), target);
        assert_eq!(client.response().status(), 200);
    }
    for target in ["/", "/v10", "/v", "/V1", "/api", "/api/chatter", "/x/v1"] {
        let mut client = hub.client_sending(get(target, ""));
        assert_own(&client.response(), 503);
    }
    // Paths that an upstream may read differently match nothing, and the answer says so.
    for target in [
        "/v1/../admin",
        "/v1/./x",
        "/v1//x",
        "//v1",
        "/v1/%2e%2e/admin",
        "/v1/%2Fadmin",
        "/v1\\..\\admin",
        "/v1/%5cadmin",
        "/v1/%00",
        "/%761/x",
        "/v1/;x",
        "/v1/x;y=z",
    ] {
        let mut client = hub.client_sending(get(target, ""));
        let response = client.response();
        let status = response.status();
        assert!(status == 503 || (status == 400 && target.contains('\\')), "{target}: {status}");
        assert!(response.text().contains("path"), "{target}: {}", response.text());
    }
    assert!(bound.is_silent());
    // An agent without scope paths takes them as they are.
    let mut free = join(&hub, shared_token(), "b", 0);
    let mut client = hub.client_sending(get("/v1/../admin", ""));
    assert_eq!(respond(&mut free), "/v1/../admin");
    assert_eq!(client.response().status(), 200);
}

#[test]
fn an_agent_that_was_just_lost_counts_as_connected() {
    let hub = Hub::start(&["--startup-grace", "0"]);
    let token = shared_token();
    let mut tunnel = join(&hub, token, "a", 0);
    let mut client = hub.client_sending(get("/", ""));
    respond(&mut tunnel);
    client.response();
    drop(tunnel);
    let mut waiting = hub.client_sending(get("/waiting", ""));
    hub.settle();
    assert!(waiting.is_silent(), "it was refused at once");
    let mut tunnel = join(&hub, token, "a", 0);
    assert_eq!(respond(&mut tunnel), "/waiting");
    assert_eq!(waiting.response().status(), 200);
    // Only for five seconds.
    drop(tunnel);
    let lost = Instant::now();
    wait_until("the agent is forgotten", Duration::from_secs(9), || {
        let mut client = hub.client_sending(get("/", "Slime-Max-Wait: 1\r\n"));
        let start = Instant::now();
        assert_own(&client.response(), 503);
        start.elapsed() < Duration::from_millis(500)
    });
    assert!(lost.elapsed() > Duration::from_secs(4), "forgotten after {:?}", lost.elapsed());
}

#[test]
fn a_hub_that_has_just_started_expects_its_agents() {
    let hub = Hub::start(&["--startup-grace", "30"]);
    let mut early = hub.client_sending(get("/early", "Slime-Scope: gpu\r\n"));
    hub.settle();
    assert!(early.is_silent());
    let mut tunnel = join(&hub, &hub.token(&["--name", "n", "--scopes", "gpu"]), "a", 0);
    assert_eq!(respond(&mut tunnel), "/early");
    assert_eq!(early.response().status(), 200);
}

#[test]
fn waiters_for_a_scope_that_nobody_has_disturb_nobody() {
    let hub = Hub::start(&["--startup-grace", "0", "--queue-depth", "8"]);
    let mut tunnel = join(&hub, shared_token(), "a", 0);
    let ghost = get("/ghost", "Slime-Scope: ghost\r\nSlime-Block: 1\r\n");
    let ghosts = [hub.client_sending(&ghost), hub.client_sending(&ghost)];
    hub.settle();
    // They may fill a quarter of the queue.
    assert_own(&hub.client_sending(&ghost).response(), 503);
    let mut clients: Vec<Wire> = (0..7).map(|n| hub.client_sending(get(&format!("/{n}"), ""))).collect();
    hub.settle();
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(respond(&mut tunnel), format!("/{n}"));
        assert_eq!(client.response().text(), format!("/{n}"));
    }
    for mut ghost in ghosts {
        assert!(ghost.is_silent());
    }
}

#[test]
fn a_hand_off_costs_the_same_with_a_thousand_waiters() {
    let _alone = alone();
    let hub = Hub::start(&["--queue-depth", "8000", "--startup-grace", "0"]);
    let token = shared_token();
    let mut tunnel = join(&hub, token, "a", 0);
    let mut client = hub.client();
    let mut measure = |tunnel: &mut Wire| {
        let mut times = Vec::new();
        for _ in 0..200 {
            let start = Instant::now();
            client.send(get("/", ""));
            respond(tunnel);
            assert_eq!(client.response().status(), 200);
            times.push(start.elapsed());
        }
        cost(times)
    };
    let alone = measure(&mut tunnel);
    let ghosts: Vec<Wire> =
        (0..1000).map(|_| hub.client_sending(get("/", "Slime-Scope: ghost\r\nSlime-Block: 1\r\n"))).collect();
    hub.settle();
    let crowded = measure(&mut tunnel);
    assert!(
        crowded < alone * 2 + Duration::from_micros(300),
        "{alone:?} alone, {crowded:?} with a thousand waiters"
    );
    drop(ghosts);

    // A thousand that are served one after the other: no later one costs more than an early one.
    let mut busy = hub.client_sending(get("/", ""));
    tunnel.request();
    let mut waiting: Vec<Wire> = (0..1000).map(|n| hub.client_sending(get(&format!("/{n}"), ""))).collect();
    hub.settle();
    tunnel.send(OK);
    assert_eq!(busy.response().text(), "ok");
    let mut times = Vec::new();
    for (n, client) in waiting.iter_mut().enumerate() {
        let start = Instant::now();
        assert_eq!(respond(&mut tunnel), format!("/{n}"));
        assert_eq!(client.response().text(), format!("/{n}"));
        times.push(start.elapsed());
    }
    let (many, few) = (cost(times[..200].to_vec()), cost(times[800..].to_vec()));
    assert!(many < few * 2 + Duration::from_micros(300), "{many:?} with many waiting, {few:?} with few");
}

#[test]
fn several_workers_and_several_upstreams_work_in_parallel() {
    let upstreams = [RawUpstream::new(), RawUpstream::new(), RawUpstream::new()];
    let urls = upstreams.each_ref().map(RawUpstream::url).join(",");
    let hub = Hub::start(&[]);
    let _agent = hub.agent(&urls, &["--num-worker", "2", "--agent-id", "box"]);
    let mut clients: Vec<Wire> = (0..8).map(|n| hub.client_sending(get(&format!("/{n}"), ""))).collect();
    let mut at: Vec<Wire> = Vec::new();
    for upstream in &upstreams {
        at.push(upstream.accept());
        at.push(upstream.accept());
    }
    for wire in &mut at {
        wire.request_head();
    }
    hub.settle();
    for upstream in &upstreams {
        assert!(upstream.try_accept(Duration::ZERO).is_none(), "a third request at one upstream");
    }
    for wire in &mut at {
        wire.send(OK);
    }
    // The two that waited go to whoever was free first, on connections that are kept.
    let mut served = 0;
    wait_until("the last two are served", crate::harness::DEADLINE, || {
        for wire in &mut at {
            if wire.has_bytes() {
                respond(wire);
                served += 1;
            }
        }
        served == 2
    });
    let mut ids: Vec<String> = clients
        .iter_mut()
        .map(|client| client.response().head.field("slime-agent-id").unwrap().to_owned())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids, ["box-1", "box-2", "box-3"]);
}

#[test]
fn agents_share_the_load_evenly() {
    let upstream = crate::harness::Server::start(async |_| reply(200, "ok"));
    let hub = Hub::start(&[]);
    let ids = ["a", "b", "c", "d"];
    let _agents = ids.map(|id| hub.agent(&upstream.url(), &["--agent-id", id]));
    wait_agents(&hub, &ids);
    let mut counts = [0; 4];
    let mut client = hub.client();
    for _ in 0..200 {
        client.send(get("/", ""));
        let id = client.response().head.field("slime-agent-id").unwrap().to_owned();
        counts[ids.iter().position(|other| *other == id).unwrap()] += 1;
    }
    assert!(counts.iter().all(|count| (49..=51).contains(count)), "{counts:?}");
}
