//! Whole connections, and the words of the handshake.

use core::num::NonZeroUsize;

use crate::proto::info::Info;
use crate::proto::testing::pair::{token, token_key};
use crate::proto::testing::{Ended, Pair, Raw, Reach, Setup};
use crate::proto::trust::agent_token::{AgentToken, TokenId};
use crate::proto::tunnel::{Hello, Light, write_welcome};

const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
/// More than this is cut in two places only.
const BYTE_BY_BYTE: usize = 4096;

/// What came of the bytes of one application.
#[derive(Debug, PartialEq)]
struct Came {
    to_upstreams: Vec<String>,
    to_client: String,
    ended: Option<Ended>,
}

pub(super) fn framing_split(data: &[u8]) {
    let whole = sent_in(data, usize::MAX);
    let pieces = if data.len() > BYTE_BY_BYTE { data.len() / 2 } else { 1 };
    let split = sent_in(data, pieces);
    assert_eq!((&split.to_client, split.ended), (&whole.to_client, whole.ended));
    for (one, other) in split.to_upstreams.iter().zip(&whole.to_upstreams) {
        // How much of a request went on before it turned out to be none may differ.
        let is_prefix = one.starts_with(other.as_str()) || other.starts_with(one.as_str());
        assert!(one == other || is_prefix && whole.ended.is_some(), "{one} or {other}");
    }
}

/// Sends `data` in pieces of this size to a hub with a worker, whose upstream answers everything.
fn sent_in(data: &[u8], piece: usize) -> Came {
    let mut pair = Setup { grain: piece, ..Setup::default() }.joined();
    let client = pair.client();
    let size = NonZeroUsize::new(piece).map_or(1, NonZeroUsize::get);
    for piece in data.chunks(size) {
        pair.send(client, piece);
    }
    let mut upstreams: Vec<Raw> = Vec::new();
    let mut came = Came { to_upstreams: Vec::new(), to_client: String::new(), ended: None };
    loop {
        while pair.arrivals() > 0 {
            upstreams.push(pair.upstream());
            came.to_upstreams.push(String::new());
        }
        let mut any = false;
        for (upstream, all) in upstreams.iter().zip(&mut came.to_upstreams) {
            let got = pair.got_bytes(*upstream);
            if !got.is_empty() {
                any = true;
                all.push_str(&got.escape_ascii().to_string());
                pair.send(*upstream, ANSWER);
            }
        }
        if !any {
            break;
        }
    }
    came.to_client = pair.got_bytes(client).escape_ascii().to_string();
    came.ended = pair.ended(client);
    pair.assert_quiet(1);
    came
}

pub(super) fn agent_token(data: &[u8]) {
    if let Ok(text) = core::str::from_utf8(data) {
        assert!(AgentToken::open(text, token_key()).is_err(), "a token was forged");
    }
    let mut words =
        data.split(|byte| *byte == b' ' || *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    let number = |word: Option<String>| {
        word.map(|word| word.bytes().fold(0, |all, byte| all * 31 % 0xffff_fff1 + u64::from(byte)))
    };
    let token = AgentToken {
        id: TokenId::new([data.first().copied().unwrap_or(0); 8]),
        name: words.next().unwrap_or_default(),
        issued: number(words.next()).unwrap_or(0),
        expires: number(words.next()),
        max_workers: number(words.next()).and_then(|number| u32::try_from(number).ok()),
        scopes: words.by_ref().take(data.len() % 7).collect(),
        scope_paths: words.collect(),
    };
    if let Ok(text) = token.seal(token_key(), [1; 12]) {
        assert_eq!(AgentToken::open(&text, token_key()).ok(), Some(token));
        // Not one bit may be changed.
        let mut forged = text.into_bytes();
        let at = data.len() % forged.len();
        forged[at] ^= 1;
        let forged = String::from_utf8_lossy(&forged);
        assert!(AgentToken::open(&forged, token_key()).is_err(), "a token was changed");
    }
}

pub(super) fn handshake(data: &[u8]) {
    // To a hub that knows a good token's text.
    let text = crate::proto::testing::pair::sealed(&token(1));
    let hello = String::from_utf8_lossy(data).replace("TOKEN", &text);
    let mut pair = Setup::hub_only().start();
    let raw = pair.client();
    pair.send(raw, hello.as_bytes());
    pair.send(raw, data);
    pair.assert_quiet(0);
    // To one that speaks in frames.
    let mut pair = Setup::hub_only().start();
    let raw = pair.client();
    let mut hello = Vec::new();
    let websocket = Some("dGhlIHNhbXBsZSBub25jZQ==");
    Hello {
        token: &text,
        agent_id: "a",
        worker: 0,
        withdrawn: None,
        websocket,
        light: Light::None,
        info: Info::default(),
    }
    .write("hub.test", "", None, &mut hello);
    pair.send(raw, &hello);
    pair.send(raw, data);
    pair.assert_quiet(0);
    // As the answer to an agent, and as what comes on a tunnel.
    let mut welcome = Vec::new();
    write_welcome(core::time::Duration::from_secs(15), &Light::None, None, &mut welcome);
    for begin in [&[][..], &welcome] {
        let mut pair: Pair = Setup::default().start();
        pair.to_hub = Reach::Raw;
        pair.settle();
        pair.upstream();
        let hub = pair.raw_hub();
        pair.send(hub, begin);
        pair.send(hub, data);
        pair.close(hub);
        pair.advance(core::time::Duration::from_secs(40));
        assert!(pair.agents[0].exit.is_some() || pair.hub_dials() > 1, "it does not come back");
    }
}
