//! The words that hub and agent say to each other: the handshake, and the few messages on a tunnel that are
//! not an application's.
//!
//! All of them are ordinary HTTP/1.1 messages (DESIGN: "the tunnel is HTTP, reversed"). Fields whose name
//! begins with `Slime-` are ours on a tunnel: those of applications and upstreams are removed where they come
//! in, so that what stands here was written by the other half of slime. Where what is between passes no
//! upgrade but WebSocket's, the handshake is one of those, and the messages go in its frames
//! ([`crate::proto::websocket`]). This module owns their names and forms; when to say what is decided in
//! [`crate::proto::hub`] and [`crate::proto::agent`].

use alloc::string::String;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::time::Duration;

use crate::proto::error::Violation;
use crate::proto::http1::fields;
use crate::proto::http1::head::{RequestHead, ResponseHead};
use crate::proto::info::Info;
use crate::proto::light;
use crate::proto::websocket::{self, Nonce};

/// The upgrade token of the protocol that is spoken on a tunnel.
pub const PROTOCOL: &str = "slime/1";
/// What the target of the handshake ends with.
pub const TUNNEL_PATH: &str = "/.slime/tunnel";
/// How the hub asks for a credential (RFC 9110 section 11.6.1). A 401 with any other challenge is not the
/// hub's.
pub const CHALLENGE: &str = "Bearer realm=\"slime\"";
/// The longest agent id, in bytes: it is shown to applications in every response.
pub const MAX_AGENT_ID: usize = 64;

/// How many times longer than other connections a tunnel may take nothing of what waits for it. Who holds it
/// up is an application that takes its response slowly, or an upstream its request, and the other half of
/// slime is the one to judge those; what is under way in between may be many times what they take before
/// their own limit. A half that vanished is noticed by it, too.
pub const IN_BETWEEN: u32 = 10;

/// The name of the agent that answered, for applications.
pub const AGENT_ID: &str = "Slime-Agent-Id";
const AGENT_TOKEN: &str = "Slime-Agent-Token";
const WORKER: &str = "Slime-Worker";
const READY: &str = "Slime-Ready";
const REASON: &str = "Slime-Reason";
/// Beside the reason why an agent takes no work: its upstream answers, and is not ready yet.
const LOADING: &str = "Slime-Loading";
/// A sign of life, or in the answer to the handshake the pace of those signs.
const HEARTBEAT: &str = "Slime-Heartbeat";
const REFUSED: &str = "Slime-Refused";
/// Says that an answer is the agent's own, since its upstream gave none.
const FAILED: &str = "Slime-Failed";
const CLOSE: &str = "Slime-Close";
const EXPECT: &str = "Slime-Expect";
/// What an agent would like to make use of, and in the answer to the handshake what of that the hub knows.
const FEATURES: &str = "Slime-Features";
/// The light paths of a tunnel that takes requests for these alone.
const LIGHT: &str = "Slime-Light";
/// What an agent says of itself.
const INFO: &str = "Slime-Info";
/// The feature that agents with light paths ask for: hubs that do not know it would take their light tunnels
/// for workers.
const LIGHT_FEATURE: &str = "light";

/// The hub asks an idle tunnel for a sign of life.
pub const PING: &[u8] = b"OPTIONS * HTTP/1.1\r\nHost: slime\r\nSlime-Heartbeat: ?1\r\n\r\n";
/// The agent's answer to [`PING`].
pub const PONG: &[u8] = b"HTTP/1.1 204 No Content\r\nSlime-Heartbeat: ?1\r\n\r\n";
/// The agent is alive and waits for its upstream (RFC 2518 section 10.1).
pub const WORKING: &[u8] = b"HTTP/1.1 102 Processing\r\nSlime-Heartbeat: ?1\r\n\r\n";

/// Why a token is no longer taken, in words.
pub const TOKEN_EXPIRED: &str = "the agent token has expired; make a new one with 'slime hub register'";
/// As [`TOKEN_EXPIRED`].
pub const TOKEN_REVOKED: &str = "the agent token was revoked; make a new one with 'slime hub register'";

/// What the hub answers to a handshake of which [`Hello::is_stripped`] holds.
pub const NO_UPGRADE: &str = "the handshake came without its Upgrade field: a reverse proxy in front of this hub passes WebSockets only; \
                              have it pass Upgrade: slime/1 on (Apache: upgrade=ANY)";
/// As [`NO_UPGRADE`], to one of WebSocket.
pub const NO_UPGRADE_AT_ALL: &str = "the handshake came without its Upgrade field, though it was a WebSocket's: a reverse proxy in front of this hub passes no \
                                     upgrade; have it pass Upgrade and Connection on";

/// Why an agent takes no work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble<'a> {
    /// In the agent's words.
    pub reason: &'a str,
    /// Whether its upstream answers, and will be ready before long.
    pub is_loading: bool,
}

impl<'a> Trouble<'a> {
    /// It is not known that the upstream will be ready before long.
    pub const fn new(reason: &'a str) -> Self {
        Self { reason, is_loading: false }
    }

    /// The upstream answers, and is not ready yet.
    pub const fn loading(reason: &'a str) -> Self {
        Self { reason, is_loading: true }
    }

    /// What a head says of it, where this field holds the reason.
    fn read(reason: Option<&'a [u8]>, loading: Option<&[u8]>) -> Self {
        Self {
            reason: reason.and_then(text).unwrap_or("no reason given"),
            is_loading: loading == Some(b"?1"),
        }
    }
}

/// What a tunnel has to do with light paths ([`crate::proto::light`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Light {
    /// Nothing.
    None,
    /// It is a worker's, of an agent that has light paths and asks whether the hub knows of such.
    Asked,
    /// It takes requests for these paths and no others.
    Only(Vec<String>),
}

/// What an agent says to open a tunnel. It holds the token, so it is never printed.
pub struct Hello<'a> {
    /// The agent's token, sealed.
    pub token: &'a str,
    /// The agent's own id.
    pub agent_id: &'a str,
    /// Which of its workers this tunnel is for.
    pub worker: u32,
    /// Why it takes no work, if it takes none.
    pub withdrawn: Option<Trouble<'a>>,
    /// The `Sec-WebSocket-Key`, if the tunnel is to go in frames.
    pub websocket: Option<&'a str>,
    /// Which requests it is for.
    pub light: Light,
    /// What the agent says of itself. Those of 0.1.0 say nothing.
    pub info: Info,
}

const WEBSOCKET_KEY: &str = "Sec-WebSocket-Key";
const WEBSOCKET_VERSION: &str = "Sec-WebSocket-Version";
const WEBSOCKET_PROTOCOL: &str = "Sec-WebSocket-Protocol";
const WEBSOCKET_ACCEPT: &str = "Sec-WebSocket-Accept";

impl<'a> Hello<'a> {
    /// Writes the request of the handshake.
    pub fn write(&self, authority: &str, path: &str, authorization: Option<&str>, out: &mut Vec<u8>) {
        let ready = if self.withdrawn.is_none() { "?1" } else { "?0" };
        for part in [
            "GET ",
            path,
            TUNNEL_PATH,
            " HTTP/1.1\r\nHost: ",
            authority,
            "\r\nConnection: Upgrade\r\nUpgrade: ",
            if self.websocket.is_some() { websocket::PROTOCOL } else { PROTOCOL },
            "\r\n",
            AGENT_TOKEN,
            ": ",
            self.token,
            "\r\n",
            AGENT_ID,
            ": ",
            self.agent_id,
            "\r\n",
            WORKER,
            ": ",
            &self.worker.to_string(),
            "\r\n",
            READY,
            ": ",
            ready,
            "\r\n",
        ] {
            out.extend_from_slice(part.as_bytes());
        }
        let paths = match &self.light {
            Light::Only(paths) => Some(light::write(paths)),
            Light::None | Light::Asked => None,
        };
        let info = self.info.write();
        for (name, value) in [
            (INFO, (!info.is_empty()).then_some(info.as_str())),
            (FEATURES, (self.light != Light::None).then_some(LIGHT_FEATURE)),
            (LIGHT, paths.as_deref()),
            (REASON, self.withdrawn.map(|trouble| trouble.reason)),
            (LOADING, self.withdrawn.filter(|trouble| trouble.is_loading).map(|_| "?1")),
            ("Authorization", authorization),
            (WEBSOCKET_KEY, self.websocket),
            (WEBSOCKET_VERSION, self.websocket.map(|_| websocket::VERSION)),
            (WEBSOCKET_PROTOCOL, self.websocket.map(|_| websocket::SUBPROTOCOL)),
        ] {
            if let Some(value) = value {
                for part in [name, ": ", value, "\r\n"] {
                    out.extend_from_slice(part.as_bytes());
                }
            }
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Whether this is meant as a handshake at all.
    pub fn is_meant(head: &RequestHead<'_, '_>) -> bool {
        head.method.as_str() == "GET"
            && head.path().ends_with(TUNNEL_PATH)
            && head.upgrade.is_some_and(|protocol| {
                protocol.eq_ignore_ascii_case(PROTOCOL)
                    || protocol.eq_ignore_ascii_case(websocket::PROTOCOL) && offers_tunnel(head)
            })
    }

    /// Whether this is a handshake that lost its upgrade on the way: what is between removes the field unless
    /// it knows the protocol.
    pub fn is_stripped(head: &RequestHead<'_, '_>) -> bool {
        head.path().ends_with(TUNNEL_PATH)
            && head.upgrade.is_none()
            && head.fields.first(AGENT_TOKEN).is_some()
    }

    /// Whether a handshake of which [`Hello::is_stripped`] holds was one of WebSocket.
    pub fn is_stripped_websocket(head: &RequestHead<'_, '_>) -> bool {
        offers_tunnel(head)
    }

    /// Reads a handshake for which [`Hello::is_meant`] holds.
    ///
    /// # Errors
    /// What is missing or not as it must be.
    pub fn parse(head: &'a RequestHead<'_, 'a>) -> Result<Self, BadHello> {
        let bad = |detail| BadHello::Malformed(Violation::malformed(detail));
        let Some(token) = head.fields.first(AGENT_TOKEN).and_then(text) else {
            return Err(BadHello::NoToken);
        };
        let agent_id = head.fields.first(AGENT_ID).and_then(text).filter(|id| is_agent_id(id));
        let worker = head.fields.first(WORKER).and_then(text).and_then(number);
        let withdrawn = match head.fields.first(READY) {
            Some(b"?1") => None,
            Some(b"?0") => Some(Trouble::read(head.fields.first(REASON), head.fields.first(LOADING))),
            Some(_) | None => return Err(bad("the handshake's Slime-Ready is neither ?0 nor ?1")),
        };
        let is_plain = head.upgrade.is_some_and(|protocol| protocol.eq_ignore_ascii_case(PROTOCOL));
        let websocket = if is_plain {
            None
        } else if head.fields.first(WEBSOCKET_VERSION) != Some(websocket::VERSION.as_bytes()) {
            return Err(bad("the handshake's Sec-WebSocket-Version is not 13"));
        } else {
            let key = head.fields.first(WEBSOCKET_KEY).and_then(text).filter(|key| websocket::is_key(key));
            Some(key.ok_or(bad("the handshake's Sec-WebSocket-Key is not 16 bytes in base64"))?)
        };
        let light = match head.fields.first(LIGHT) {
            Some(list) => Light::Only(
                text(list)
                    .and_then(light::read)
                    .ok_or(bad("the handshake's Slime-Light is no list of light paths"))?,
            ),
            None if has_feature(head.fields.first(FEATURES)) => Light::Asked,
            None => Light::None,
        };
        Ok(Self {
            light,
            info: head.fields.first(INFO).map(Info::read).unwrap_or_default(),
            token,
            agent_id: agent_id
                .ok_or(bad("the handshake's Slime-Agent-Id is not 1 to 64 of A-Z a-z 0-9 . _ -"))?,
            worker: worker.ok_or(bad("the handshake's Slime-Worker is not a number"))?,
            withdrawn,
            websocket,
        })
    }
}

/// Why a handshake is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHello {
    /// It has no agent token.
    NoToken,
    /// Something else is missing, or not as it must be.
    Malformed(Violation),
}

/// Whether what a WebSocket handshake is to open is a tunnel.
fn offers_tunnel(head: &RequestHead<'_, '_>) -> bool {
    head.fields.first(WEBSOCKET_PROTOCOL) == Some(websocket::SUBPROTOCOL.as_bytes())
}

/// Whether this can be the id of an agent: `[A-Za-z0-9._-]{1,64}`.
pub fn is_agent_id(id: &str) -> bool {
    (1..=MAX_AGENT_ID).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Whether a list of features has that of light paths.
fn has_feature(list: Option<&[u8]>) -> bool {
    let mut features = list.unwrap_or_default().split(|byte| *byte == b',');
    features.any(|feature| feature.trim_ascii() == LIGHT_FEATURE.as_bytes())
}

/// Writes the hub's consent to the handshake, with the pace of its heartbeats. Who asked for it hears that
/// light paths are known; `key` is that of a WebSocket handshake.
pub fn write_welcome(heartbeat: Duration, light: &Light, key: Option<&str>, out: &mut Vec<u8>) {
    let millis = heartbeat.as_millis();
    let pace = format!("{}.{:03}", millis / 1000, millis % 1000);
    for part in [
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ",
        if key.is_some() { websocket::PROTOCOL } else { PROTOCOL },
        "\r\n",
        HEARTBEAT,
        ": ",
        &pace,
        "\r\n",
    ] {
        out.extend_from_slice(part.as_bytes());
    }
    if *light != Light::None {
        for part in [FEATURES, ": ", LIGHT_FEATURE, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    if let Some(key) = key {
        for part in [
            WEBSOCKET_ACCEPT,
            ": ",
            &websocket::accept(key),
            "\r\n",
            WEBSOCKET_PROTOCOL,
            ": ",
            websocket::SUBPROTOCOL,
            "\r\n",
        ] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// What the hub answered to the handshake.
#[derive(Debug, PartialEq, Eq)]
pub enum Welcome {
    /// The tunnel stands.
    Joined {
        /// The hub's heartbeats come at this pace.
        pace: Duration,
        /// Whether the hub knows light paths.
        knows_light: bool,
    },
    /// The hub says that the token is bad, expired or revoked.
    Unauthorized,
    /// The hub is one, but has no room for this tunnel: the token's worker limit, the hub's tunnel limit.
    NoRoom,
    /// Something that is not a hub, or a front of one that is not ready.
    Other,
}

/// The longest and shortest pace of heartbeats that an agent goes along with, so that no hub may be told
/// another one.
pub const PACE: core::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(86_400);

impl Welcome {
    /// Reads the answer to the handshake. `nonce` is that of a WebSocket handshake.
    pub fn parse(head: &ResponseHead<'_, '_>, nonce: Option<Nonce>) -> Self {
        let switches = |to: &str| head.upgrade.is_some_and(|protocol| protocol.eq_ignore_ascii_case(to));
        match head.status {
            // RFC 6455 section 4.1: an extension that was not asked for changes what the frames mean.
            101 if nonce.map_or_else(
                || switches(PROTOCOL),
                |nonce| {
                    switches(websocket::PROTOCOL)
                        && head.fields.first(WEBSOCKET_ACCEPT)
                            == Some(websocket::accept(&nonce.key()).as_bytes())
                        && head.fields.first(WEBSOCKET_PROTOCOL) == Some(websocket::SUBPROTOCOL.as_bytes())
                        && head.fields.first("Sec-WebSocket-Extensions").is_none()
                },
            ) =>
            {
                let pace =
                    head.fields.first(HEARTBEAT).and_then(fields::seconds).filter(|pace| PACE.contains(pace));
                let knows_light = has_feature(head.fields.first(FEATURES));
                pace.map_or(Self::Other, |pace| Self::Joined { pace, knows_light })
            }
            401 if head.fields.first("WWW-Authenticate") == Some(CHALLENGE.as_bytes()) => Self::Unauthorized,
            403 | 503 => Self::NoRoom,
            _ => Self::Other,
        }
    }
}

/// What a request on a tunnel is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// It is an application's.
    Serve,
    /// The hub wants a sign of life.
    Ping,
    /// The hub closes the tunnel.
    Close(CloseReason),
}

/// Why the hub closes an idle tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Another tunnel of the same name came.
    Replaced,
    /// The token expired.
    Expired,
    /// The token was revoked.
    Revoked,
    /// The hub ends.
    Draining,
}

impl CloseReason {
    const ALL: [Self; 4] = [Self::Replaced, Self::Expired, Self::Revoked, Self::Draining];

    /// The reason as the wire and the log have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replaced => "replaced",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Draining => "draining",
        }
    }
}

impl Ask {
    /// What the hub wants with this request.
    pub fn of(head: &RequestHead<'_, '_>) -> Self {
        if head.method.as_str() != "OPTIONS" || head.target != "*" {
            return Self::Serve;
        }
        if head.fields.first(HEARTBEAT).is_some() {
            return Self::Ping;
        }
        match head.fields.first(CLOSE) {
            Some(reason) => {
                let known = CloseReason::ALL.into_iter().find(|known| known.as_str().as_bytes() == reason);
                Self::Close(known.unwrap_or(CloseReason::Draining))
            }
            None => Self::Serve,
        }
    }
}

/// Whether the hub wants to hear [`CONTINUE`](crate::proto::http1::reply::CONTINUE) before it sends the body.
pub fn expects_connect(head: &RequestHead<'_, '_>) -> bool {
    head.fields.first(EXPECT) == Some(b"connect")
}

/// Writes the hub's farewell on an idle tunnel.
pub fn write_farewell(reason: CloseReason) -> Vec<u8> {
    format!("OPTIONS * HTTP/1.1\r\nHost: slime\r\nConnection: close\r\n{CLOSE}: {}\r\n\r\n", reason.as_str())
        .into_bytes()
}

/// Writes an agent's refusal: of a request of which its upstream has seen nothing, or, unasked on an idle
/// tunnel, of all that come. With `close` the tunnel takes nothing more.
pub fn write_refusal(trouble: Trouble<'_>, close: bool) -> Vec<u8> {
    let Trouble { reason, is_loading } = trouble;
    let connection = if close { "Connection: close\r\n" } else { "" };
    let mut text = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n{connection}{REFUSED}: {reason}\r\n"
    );
    if is_loading {
        text.push_str(LOADING);
        text.push_str(": ?1\r\n");
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// What a response on a tunnel means beside what it says to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note<'a> {
    /// Nothing.
    None,
    /// A sign of life: the answer to [`PING`], or [`WORKING`].
    Alive,
    /// The agent answers for its upstream, which failed.
    Failed,
    /// The agent refuses, for this reason.
    Refused(Trouble<'a>),
}

impl<'a> Note<'a> {
    /// The note in a response head.
    pub fn of(head: &ResponseHead<'_, 'a>) -> Self {
        match head.status {
            102 | 204 if head.fields.first(HEARTBEAT).is_some() => Self::Alive,
            503 => match head.fields.first(REFUSED) {
                Some(reason) => Self::Refused(Trouble::read(Some(reason), head.fields.first(LOADING))),
                None if head.fields.first(FAILED).is_some() => Self::Failed,
                None => Self::None,
            },
            400.. if head.fields.first(FAILED).is_some() => Self::Failed,
            _ => Self::None,
        }
    }
}

fn text(value: &[u8]) -> Option<&str> {
    core::str::from_utf8(value).ok().filter(|value| !value.is_empty() && value.is_ascii())
}

/// Plain digits: no sign, no white space.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}
