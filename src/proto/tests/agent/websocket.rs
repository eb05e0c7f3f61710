//! Joining through what passes no upgrade but WebSocket's.

use super::*;
use crate::proto::seam::{End, Target, Unreachable};
use crate::proto::testing::scenario::*;
use crate::proto::tunnel::{Light, PING, PONG, write_refusal, write_welcome};
use crate::proto::websocket::{Decoder, Encoder, Kind, OVERHEAD, Side};

const KEY: &str = "Sec-WebSocket-Key: ";

fn framed() -> Setup {
    Setup::default().agent(|config| config.websocket = true)
}

/// The key of a handshake, which is one of WebSocket.
fn key_of(said: &str) -> String {
    let (_, rest) = said.split_once(KEY).unwrap_or_else(|| panic!("no WebSocket: {said}"));
    let key = rest.split("\r\n").next().unwrap();
    let own = format!("{KEY}{key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: slime.1\r\n\r\n");
    let plain = hello("?1").replace("Upgrade: slime/1", "Upgrade: websocket");
    assert_eq!(said, plain.strip_suffix("\r\n").unwrap().to_owned() + &own);
    key.to_owned()
}

/// The hub's consent.
fn welcome(key: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_welcome(seconds(15), &Light::None, Some(key), &mut bytes);
    bytes
}

/// A frame of the hub's.
fn frame(kind: Kind, content: &[u8]) -> Vec<u8> {
    let mut room = vec![0; content.len() + OVERHEAD];
    let (_, n) = Encoder::new(Side::Asked).encode(kind, [content].into_iter(), &mut room);
    room.truncate(n);
    room
}

/// What the agent sent in frames, and whether that is all.
fn unframed(mut bytes: Vec<u8>) -> (String, Option<End>) {
    let mut decoder = Decoder::new(Side::Asked);
    let n = decoder.decode(&mut bytes).unwrap();
    bytes.truncate(n);
    (String::from_utf8(bytes).unwrap(), decoder.end())
}

#[test]
fn a_worker_joins_and_serves_wherever_the_answer_is_split() {
    let (mut pair, hub) = dialled(framed());
    let length = welcome(&key_of(&pair.got(hub))).len();
    for at in 0..length + 80 {
        let (mut pair, hub) = dialled(framed());
        let mut all = welcome(&key_of(&pair.got(hub)));
        for part in GET.as_bytes().chunks(20) {
            all.extend(frame(Kind::Data, part));
        }
        let (one, other) = all.split_at(at.min(all.len()));
        pair.send(hub, one);
        pair.send(hub, other);
        let upstream = pair.upstream();
        assert_eq!(pair.got(upstream), "GET /x HTTP/1.1\r\nHost: up.test\r\n\r\n");
        pair.send(upstream, OK);
        assert_eq!(unframed(pair.got_bytes(hub)), (OK.to_owned(), None));
    }
}

#[test]
fn the_tunnel_has_its_own_signs_of_life_and_those_of_frames() {
    let (mut pair, hub) = dialled(framed());
    let key = key_of(&pair.got(hub));
    pair.send(hub, welcome(&key));
    pair.send(hub, frame(Kind::Ping, b"are you there"));
    let mut pong = pair.got_bytes(hub);
    assert_eq!(pong[0], 0x8a);
    assert_eq!(Decoder::new(Side::Asked).decode(&mut pong), Ok(0));
    assert_eq!(&pong[6..], b"are you there");
    pair.send(hub, frame(Kind::Data, PING));
    assert_eq!(unframed(pair.got_bytes(hub)), (String::from_utf8_lossy(PONG).into_owned(), None));
    // They are no word of the hub.
    for _ in 0..10 {
        pair.send(hub, frame(Kind::Ping, b""));
        pair.advance(seconds(7));
    }
    assert!(pair.ended(hub).is_some(), "it takes a reverse proxy's signs of life for the hub's");
}

#[test]
fn an_answer_that_does_not_fit_the_handshake_is_none() {
    let (mut pair, hub) = dialled(framed());
    let good = String::from_utf8(welcome(&key_of(&pair.got(hub)))).unwrap();
    for (from, to) in [
        ("Sec-WebSocket-Accept: ", "Sec-WebSocket-Accept: x"),
        ("Sec-WebSocket-Accept", "X-Accept"),
        ("slime.1", "chat"),
        ("Upgrade: websocket", "Upgrade: slime/1"),
        ("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"),
        ("Slime-Heartbeat", "X-Heartbeat"),
    ] {
        let (mut pair, hub) = dialled(framed());
        let key = key_of(&pair.got(hub));
        let own = String::from_utf8(welcome(&key)).unwrap();
        pair.send(hub, own.replace(from, to));
        assert!(pair.ended(hub).is_some() && pair.agents[0].core.census().idle == 0, "{from} {to}");
        // Nor is that of another handshake.
        let (mut pair, hub) = dialled(framed().with_agent(token(2), "b"));
        pair.got(hub);
        pair.send(hub, good.replace("Accept: ", "Accept: y"));
        assert!(pair.ended(hub).is_some());
    }
}

#[test]
fn what_breaks_the_rules_ends_the_tunnel() {
    for bytes in [frame(Kind::Data, b"GARBAGE\r\n\r\n"), b"\x81\x01x".to_vec(), frame(Kind::Close, &[3, 232])]
    {
        let (mut pair, hub) = dialled(framed());
        let key = key_of(&pair.got(hub));
        pair.send(hub, welcome(&key));
        assert_eq!(pair.agents[0].core.census().idle, 1);
        pair.send(hub, bytes);
        assert!(pair.ended(hub).is_some());
        assert_eq!(unframed(pair.got_bytes(hub)).1, Some(End::Clean));
    }
}

/// What a reverse proxy may say to a handshake that it does not pass on.
const SIGNS: [&str; 6] = [
    "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 400 Bad Request\r\n\r\n{\"detail\":\"the handshake came without its Upgrade field: a reverse proxy in front of this hub passes \
     WebSockets only; have it pass Upgrade: slime/1 on (Apache: upgrade=ANY)\"}",
    "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
];

#[test]
fn after_a_refusal_on_the_way_a_handshake_of_websocket_follows_at_once() {
    for sign in SIGNS.into_iter().chain(["", "RESET"]) {
        let (mut pair, hub) = dialled(Setup::default());
        let began = pair.now.mono;
        assert_eq!(pair.got(hub), hello("?1"));
        match sign {
            "" => pair.close(hub),
            "RESET" => pair.reset(hub),
            _ => pair.send(hub, sign),
        }
        assert_eq!((pair.hub_dials(), pair.now.mono), (2, began), "{sign}");
        let hub = pair.raw_hub();
        let key = key_of(&pair.got(hub));
        pair.send(hub, welcome(&key));
        assert_eq!(pair.agents[0].core.census().idle, 1);
        // It stays with that, as long as it comes through.
        pair.advance(seconds(3));
        pair.close(hub);
        pair.advance(seconds(3));
        let hub = pair.raw_hub();
        let key = key_of(&pair.got(hub));
        pair.send(hub, welcome(&key));
        assert_eq!(pair.agents[0].core.census().idle, 1);
        pair.close(hub);
        pair.advance(seconds(3));
        // Then it does not, and a plain handshake is the next.
        let hub = pair.raw_hub();
        key_of(&pair.got(hub));
        pair.send(hub, "HTTP/1.1 404 Not Found\r\n\r\n");
        pair.advance(seconds(3));
        let hub = pair.raw_hub();
        assert_eq!(pair.got(hub), hello("?1"));
        pair.send(hub, WELCOME);
        assert_eq!(pair.agents[0].core.census().idle, 1);
    }
}

#[test]
fn if_that_is_refused_too_the_agent_waits_and_begins_anew() {
    let (mut pair, mut hub) = dialled(Setup::default());
    for _ in 0..5 {
        assert_eq!(pair.got(hub), hello("?1"));
        pair.send(hub, SIGNS[5]);
        hub = pair.raw_hub();
        key_of(&pair.got(hub));
        let dials = pair.hub_dials();
        pair.send(hub, SIGNS[5]);
        assert_eq!(pair.hub_dials(), dials, "it does not wait");
        pair.advance(seconds(3));
        hub = pair.raw_hub();
    }
}

#[test]
fn other_answers_are_no_sign_of_it() {
    for answer in [
        "HTTP/1.1 404 Not Found\r\n\r\n",
        "HTTP/1.1 503 Service Unavailable\r\n\r\n",
        "HTTP/1.1 403 Forbidden\r\n\r\n{\"detail\":\"the agent token allows no more workers\"}",
        "HTTP/1.1 400 Bad Request\r\n\r\n{\"detail\":\"this port speaks HTTPS: write https:// instead of http://\"}",
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\n\r\n",
        "HTTP/1.1 301 Moved\r\n\r\n",
        "SSH-2.0-OpenSSH\r\n\r\n",
    ] {
        let (mut pair, hub) = dialled(Setup::default());
        pair.send(hub, answer);
        assert_eq!(pair.hub_dials(), 1, "{answer}");
        pair.advance(seconds(3));
        let hub = pair.raw_hub();
        assert_eq!(pair.got(hub), hello("?1"), "{answer}");
    }
}

#[test]
fn a_hub_that_is_away_changes_nothing() {
    let mut pair = Setup::default().joined();
    pair.kill_hub();
    pair.advance(seconds(60));
    for reach in [Reach::Fails(Unreachable::Refused), Reach::Fails(Unreachable::Untrusted), Reach::Silent] {
        pair.to_hub = reach;
        pair.advance(seconds(60));
    }
    pair.to_hub = Reach::Raw;
    while pair.arrivals_of(Target::Hub) == 0 {
        pair.advance(seconds(1));
    }
    let hub = pair.raw_hub();
    assert_eq!(pair.got(hub), hello("?1"));
}

#[test]
fn whoever_is_told_to_begins_with_it_and_stays_with_it() {
    let (mut pair, mut hub) = dialled(framed());
    for answer in SIGNS {
        key_of(&pair.got(hub));
        let dials = pair.hub_dials();
        pair.send(hub, answer);
        assert_eq!(pair.hub_dials(), dials, "it does not wait");
        pair.advance(seconds(3));
        hub = pair.raw_hub();
    }
}

#[test]
fn an_agent_that_ends_withdraws_in_frames() {
    let (mut pair, hub) = dialled(framed());
    let key = key_of(&pair.got(hub));
    pair.send(hub, welcome(&key));
    pair.drain_agent();
    let refusal = String::from_utf8(write_refusal(super::super::DRAINING, true)).unwrap();
    assert_eq!(unframed(pair.got_bytes(hub)), (refusal, None));
    pair.send(hub, frame(Kind::Close, &1000_u16.to_be_bytes()));
    assert_eq!(pair.agents[0].exit, Some(0));
}
