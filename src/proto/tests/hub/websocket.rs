//! Agents that join by a handshake of WebSocket.

use super::*;
use crate::proto::info::Info;
use crate::proto::seam::End;
use crate::proto::testing::Setup;
use crate::proto::testing::pair::{sealed, token};
use crate::proto::testing::scenario::*;
use crate::proto::tunnel::{Hello, Light};
use crate::proto::websocket::{Decoder, Encoder, Kind, OVERHEAD, Side};

/// The key of the example in RFC 6455 section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn hello() -> String {
    let token = sealed(&token(1));
    let mut bytes = Vec::new();
    Hello {
        token: &token,
        agent_id: "a",
        worker: 0,
        withdrawn: None,
        websocket: Some(KEY),
        light: Light::None,
        info: Info::default(),
    }
    .write("hub.test", "", None, &mut bytes);
    String::from_utf8(bytes).unwrap()
}

/// Frames of an agent.
fn frames(parts: &[&str]) -> Vec<u8> {
    let mut encoder = Encoder::new(Side::Asking(9));
    let mut all = Vec::new();
    for part in parts {
        let mut room = vec![0; part.len() + OVERHEAD];
        let (_, n) = encoder.encode(Kind::Data, [part.as_bytes()].into_iter(), &mut room);
        all.extend(&room[..n]);
    }
    all
}

fn unframed(mut bytes: Vec<u8>) -> (String, Option<End>) {
    let mut decoder = Decoder::new(Side::Asking(0));
    let n = decoder.decode(&mut bytes).unwrap();
    bytes.truncate(n);
    (String::from_utf8(bytes).unwrap(), decoder.end())
}

/// A hub with an agent that the test plays.
fn joined() -> (Pair, Raw) {
    let mut pair = Setup::hub_only().start();
    let agent = pair.client();
    pair.send(agent, hello());
    assert_eq!(
        pair.got(agent),
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSlime-Heartbeat: 15.000\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: slime.1\r\n\r\n"
    );
    assert_eq!(pair.hub.core.census().tunnels, 1);
    (pair, agent)
}

#[test]
fn a_request_and_its_response_go_in_frames() {
    let (mut pair, agent) = joined();
    let client = pair.client();
    pair.send(client, GET);
    let (request, end) = unframed(pair.got_bytes(agent));
    assert!(request.starts_with("GET /x HTTP/1.1\r\nHost: app.test\r\n") && end.is_none(), "{request}");
    pair.send(agent, frames(&["HTTP/1.1 200 OK\r\nContent-", "", "Length: 2\r\n\r\nh", "i"]));
    assert_eq!(pair.got(client), WAS_OK);
    // Signs of life are those of any tunnel.
    pair.advance(seconds(16));
    assert!(unframed(pair.got_bytes(agent)).0.starts_with("OPTIONS * HTTP/1.1\r\n"));
    pair.advance(seconds(60));
    assert!(pair.ended(agent).is_some());
    assert_eq!(unframed(pair.got_bytes(agent)).1, Some(End::Clean));
    pair.assert_quiet(0);
}

#[test]
fn what_breaks_the_rules_ends_the_tunnel() {
    let unmasked = b"\x82\x02hi".to_vec();
    let text = {
        let mut text = frames(&["hi"]);
        text[0] = 0x81;
        text
    };
    for bytes in [unmasked, text, b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()] {
        let (mut pair, agent) = joined();
        let client = pair.client();
        pair.send(client, GET);
        pair.send(agent, bytes);
        assert!(pair.ended(agent).is_some());
        assert_eq!(pair.hub.core.census().tunnels, 0);
        pair.assert_quiet(0);
    }
}

#[test]
fn odd_handshakes_are_refused() {
    for (from, to, status, detail) in [
        ("Version: 13", "Version: 8", 400, "Sec-WebSocket-Version is not 13"),
        (KEY, "x", 400, "Sec-WebSocket-Key is not 16 bytes"),
        ("Sec-WebSocket-Key", "X-Key", 400, "Sec-WebSocket-Key is not 16 bytes"),
        ("slime.1", "chat", 404, "belong to the hub"),
        ("Sec-WebSocket-Protocol", "X-Protocol", 404, "belong to the hub"),
        ("Upgrade: websocket", "X-Upgrade: websocket", 400, "passes no upgrade"),
        ("GET /", "GET /x/.slime/y/", 404, "belong to the hub"),
    ] {
        let mut pair = Setup::hub_only().start();
        let agent = pair.client();
        let target = "/.slime/tunnel HTTP";
        let odd = if from == "GET /" {
            hello().replace(target, "/.slime/x HTTP")
        } else {
            hello().replace(from, to)
        };
        pair.send(agent, odd);
        let got = pair.got(agent);
        assert!(got.starts_with(&format!("HTTP/1.1 {status} ")) && got.contains(detail), "{to}: {got}");
        assert_eq!(pair.hub.core.census().tunnels, 0);
    }
    // A token that is none is told so, as ever.
    let mut pair = Setup::hub_only().start();
    let agent = pair.client();
    pair.send(agent, hello().replace("slime1_", "slime1_AAAA"));
    assert!(pair.got(agent).starts_with("HTTP/1.1 401 "));
}

#[test]
fn an_application_s_own_websocket_is_none_of_an_agent() {
    let request = format!(
        "GET /chat HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Protocol: slime.1\r\n\r\n"
    );
    Setup::default().in_every_way(|setup| {
        let mut at = setup.at_upstream(&request);
        let switched =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        at.pair.send(at.upstream, format!("{switched}\u{2}raw"));
        assert!(at.pair.got(at.client).ends_with("\r\n\r\n\u{2}raw"));
        at.pair.send(at.client, "\u{1}back");
        assert_eq!(at.pair.got(at.upstream), "\u{1}back");
        at.pair.assert_quiet(1);
    });
}
