//! Tunnels for light paths, with agents that the test plays.

use super::*;
use crate::proto::info::Info;
use crate::proto::light::TUNNELS;
use crate::proto::testing::Setup;
use crate::proto::testing::pair::sealed;
use crate::proto::testing::pair::token;
use crate::proto::testing::scenario::{GET, OK, WAS_OK};
use crate::proto::trust::agent_token::AgentToken;
use crate::proto::trust::revocation::Revocations;
use crate::proto::tunnel::{Hello, Light};

fn joins(pair: &mut Pair, token: &AgentToken, worker: u32, light: Light) -> Raw {
    let raw = pair.client();
    let mut hello = Vec::new();
    Hello {
        token: &sealed(token),
        agent_id: "a",
        worker,
        withdrawn: None,
        websocket: None,
        light,
        info: Info::default(),
    }
    .write("hub.test", "", None, &mut hello);
    pair.send(raw, hello);
    raw
}

fn only(path: &str) -> Light {
    Light::Only(vec![path.to_owned()])
}

fn get(path: &str) -> String {
    GET.replace("/x", path)
}

#[test]
fn who_asks_hears_that_light_paths_are_known() {
    for (light, knows) in [(Light::None, false), (Light::Asked, true), (only("/stop"), true)] {
        let mut pair = Setup::hub_only().start();
        let agent = joins(&mut pair, &token(1), 0, light);
        let got = pair.got(agent);
        assert!(got.starts_with("HTTP/1.1 101 "), "{got}");
        assert_eq!(got.contains("\r\nSlime-Features: light\r\n"), knows, "{got}");
    }
}

#[test]
fn a_light_tunnel_gets_what_its_paths_cover_and_no_job() {
    let mut pair = Setup::hub_only().start();
    let light = joins(&mut pair, &token(1), 5, only("/stop"));
    pair.got(light);
    let job = pair.client();
    pair.send(job, get("/job"));
    assert!(pair.got(job).contains("no agent that could serve this is connected"));
    // Its worker has the same number as one of its light tunnels, and is another.
    let worker = joins(&mut pair, &token(1), 5, Light::Asked);
    pair.got(worker);
    assert_eq!(pair.ended(light), None);
    for _ in 0..3 {
        let client = pair.client();
        pair.send(client, get("/stop/x"));
        assert!(pair.got(light).starts_with("GET /stop/x "));
        pair.send(light, OK);
        assert_eq!(pair.got(client), WAS_OK);
        pair.send(job, get("/job"));
        assert!(pair.got(worker).starts_with("GET /job "));
        pair.send(worker, OK);
        assert_eq!(pair.got(job), WAS_OK);
    }
    // It takes back what is not for it, and the worker gets that.
    let client = pair.client();
    pair.send(client, get("/stop"));
    assert!(pair.got(light).starts_with("GET /stop "));
    pair.send(light, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\nSlime-Refused: x\r\n\r\n");
    assert!(pair.got(worker).starts_with("GET /stop "));
    pair.send(worker, OK);
    assert_eq!(pair.got(client), WAS_OK);
}

#[test]
fn an_agent_that_comes_back_with_other_paths_is_kept_to_those() {
    let mut pair = Setup::hub_only().start();
    let old = joins(&mut pair, &token(1), 1, only("/old"));
    pair.got(old);
    pair.close(old);
    let new = joins(&mut pair, &token(1), 1, only("/new"));
    pair.got(new);
    let (first, second) = (pair.client(), pair.client());
    pair.send(first, get("/old"));
    assert_eq!((pair.got(first).as_str(), pair.got(new).as_str()), ("", ""));
    pair.send(second, get("/new"));
    assert!(pair.got(new).starts_with("GET /new "));
    // Who waits for the old one hears that it is gone when its grace is over.
    pair.advance(seconds(6));
    assert!(pair.got(first).starts_with("HTTP/1.1 503 "));
}

#[test]
fn a_token_has_as_many_as_its_workers_may_need() {
    let two = AgentToken { max_workers: Some(2), ..token(1) };
    let mut pair = Setup::hub_only().start();
    let mut all = Vec::new();
    for worker in 0..2 * TUNNELS + 1 {
        let agent = joins(&mut pair, &two, worker, only("/stop"));
        let status = if worker < 2 * TUNNELS { "HTTP/1.1 101 " } else { "HTTP/1.1 403 " };
        assert!(pair.got(agent).starts_with(status), "{worker}");
        all.extend((worker < 2 * TUNNELS).then_some(agent));
    }
    for worker in 0..3 {
        let agent = joins(&mut pair, &two, worker, Light::Asked);
        let status = if worker < 2 { "HTTP/1.1 101 " } else { "HTTP/1.1 403 " };
        assert!(pair.got(agent).starts_with(status), "{worker}");
    }
    pair.at_hub(|hub, now| hub.set_revocations(Revocations::parse("token-1").unwrap(), now));
    for agent in all {
        assert!(pair.got(agent).contains("Slime-Close: revoked\r\n"));
    }
}
