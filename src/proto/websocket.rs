//! WebSocket (RFC 6455), as far as a tunnel needs it that comes through a reverse proxy which passes no other
//! upgrade.
//!
//! What is said on the tunnel does not change: its bytes go in binary frames, wherever those begin and end. A
//! Close frame is the end of a direction, as FIN is elsewhere; pings, which come from what is between, are
//! answered. This module owns the frames and what the handshake proves; [`crate::proto::tunnel`] has the
//! words of the handshake, and the shell moves the bytes.

use alloc::string::String;
use core::num::NonZeroU64;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::proto::random::Random;
use crate::proto::seam::End;

/// The upgrade token.
pub const PROTOCOL: &str = "websocket";
/// The version of the protocol, and the only one (RFC 6455 section 4.1).
pub const VERSION: &str = "13";
/// What goes in the frames (RFC 6455 section 1.9): a tunnel. A slash may not stand in it.
pub const SUBPROTOCOL: &str = "slime.1";

/// The most that a frame adds to what it carries.
pub const OVERHEAD: usize = 14;
/// The most that a control frame carries (RFC 6455 section 5.5).
pub const CONTROL: usize = 125;

/// What is sent along to be sure that the answer is one (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The bytes of a key before they are written in base64.
const KEY: usize = 16;

/// What an agent made up for one handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce(NonZeroU64);

impl Nonce {
    /// Any one.
    pub(crate) fn new(random: &mut Random) -> Self {
        Self(NonZeroU64::new(random.next()).unwrap_or(NonZeroU64::MIN))
    }

    /// The `Sec-WebSocket-Key` of the request.
    pub fn key(self) -> String {
        let mut random = Random(self.0.get());
        let mut bytes = [0; KEY];
        for (half, word) in bytes.chunks_mut(8).zip([random.next(), random.next()]) {
            half.copy_from_slice(&word.to_ne_bytes());
        }
        STANDARD.encode(bytes)
    }
}

/// Whether this can be a `Sec-WebSocket-Key`.
pub fn is_key(text: &str) -> bool {
    STANDARD.decode(text).is_ok_and(|bytes| bytes.len() == KEY)
}

/// The `Sec-WebSocket-Accept` that answers a key (RFC 6455 section 4.2.2).
pub fn accept(key: &str) -> String {
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), GUID].concat()))
}

/// What a frame is (RFC 6455 section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message of bytes, or a part of one.
    Data,
    /// No more data follows.
    Close,
    /// A sign of life is wanted.
    Ping,
    /// A sign of life.
    Pong,
}

impl Kind {
    /// The first byte of the last, or only, frame of a message.
    const fn first_byte(self) -> u8 {
        match self {
            Self::Data => 0x82,
            Self::Close => 0x88,
            Self::Ping => 0x89,
            Self::Pong => 0x8a,
        }
    }
}

/// A Close frame's content: the regular end, and what is said to a peer that breaks the rules (RFC 6455
/// section 7.4.1).
const NORMAL: [u8; 2] = 1000_u16.to_be_bytes();
const PROTOCOL_ERROR: [u8; 2] = 1002_u16.to_be_bytes();

/// Which side of the connection one is (RFC 6455 section 5.1: who asked masks what it sends, who was asked
/// does not).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It asked. The keys are made of this. What is between must not be able to foresee them for bytes that
    /// an upstream may choose, and no upstream sees a key.
    Asking(u64),
    /// It was asked.
    Asked,
}

/// Makes frames.
pub struct Encoder {
    masks: Option<Random>,
}

impl Encoder {
    /// For the connection of which one is this side.
    pub fn new(side: Side) -> Self {
        let masks = match side {
            Side::Asking(seed) => Some(Random(seed)),
            Side::Asked => None,
        };
        Self { masks }
    }

    /// Writes one frame with the first bytes of `parts`, as many as `room` has room for beside [`OVERHEAD`].
    /// How many those were, and how many bytes the frame has.
    pub fn encode<'a>(
        &mut self,
        kind: Kind,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
        room: &mut [u8],
    ) -> (usize, usize) {
        let all: usize = parts.clone().map(<[u8]>::len).sum();
        let length = all.min(room.len().saturating_sub(OVERHEAD));
        // Any part of the word is as good as any other.
        let key = self.masks.as_mut().map(|masks| {
            let [a, b, c, d, ..] = masks.next().to_ne_bytes();
            [a, b, c, d]
        });
        let (header, header_len) = header(kind, length, key);
        let (Some(to), Some(from)) = (room.get_mut(..header_len), header.get(..header_len)) else {
            return (0, 0);
        };
        to.copy_from_slice(from);
        let payload = room.get_mut(header_len..header_len + length).unwrap_or_default();
        let mut free = &mut *payload;
        for part in parts {
            let (to, rest) = free.split_at_mut(part.len().min(free.len()));
            to.copy_from_slice(part.get(..to.len()).unwrap_or_default());
            free = rest;
        }
        if let Some(key) = key {
            mask(payload, key);
        }
        (length, header_len + length)
    }

    /// Writes the frame that ends a direction: regularly, or because the peer broke the rules.
    /// Nothing if there is no room for it.
    pub fn close(&mut self, is_broken: bool, room: &mut [u8]) -> usize {
        let code = if is_broken { PROTOCOL_ERROR } else { NORMAL };
        if room.len() < OVERHEAD + code.len() {
            return 0;
        }
        self.encode(Kind::Close, core::iter::once(&code[..]), room).1
    }
}

fn header(kind: Kind, length: usize, key: Option<[u8; 4]>) -> ([u8; OVERHEAD], usize) {
    let mut bytes = [0; OVERHEAD];
    let masked = if key.is_some() { 0x80 } else { 0 };
    let (short, extended) = match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..=125), _) => (short, 0),
        (_, Ok(_)) => (126, 2),
        _ => (127, 8),
    };
    let length = (length as u64).to_be_bytes();
    let parts = [
        &[kind.first_byte(), masked | short][..],
        length.get(length.len() - extended..).unwrap_or_default(),
        key.as_ref().map_or(&[], |key| &key[..]),
    ];
    let mut used = 0;
    for byte in parts.into_iter().flatten() {
        if let Some(to) = bytes.get_mut(used) {
            *to = *byte;
            used += 1;
        }
    }
    (bytes, used)
}

/// Masks, or unmasks (RFC 6455 section 5.3).
fn mask(bytes: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = bytes.chunks_exact_mut(8);
    for eight in &mut words {
        if let Ok(array) = <[u8; 8]>::try_from(&*eight) {
            eight.copy_from_slice(&(u64::from_ne_bytes(array) ^ word).to_ne_bytes());
        }
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(word.to_ne_bytes()) {
        *byte ^= key;
    }
}

/// What a peer does that it must not, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub &'static str);

/// Reads frames. It keeps no data: what has arrived becomes what was meant, in its place.
pub struct Decoder {
    /// Whether the peer masks.
    is_masked: bool,
    state: State,
    /// A message has begun, and its last frame has not come.
    is_within: bool,
    /// The content of a control frame, and of the last ping until it is answered.
    control: [u8; CONTROL],
    /// How much of it there is of the ping that is to be answered.
    pong: Option<u8>,
    end: Option<End>,
}

enum State {
    /// Of the next frame's header so many bytes are here.
    Header { bytes: [u8; OVERHEAD], have: u8 },
    /// Of a frame's content so many bytes are to come.
    Content { kind: Kind, key: [u8; 4], length: u64, left: u64 },
}

const BEGIN: State = State::Header { bytes: [0; OVERHEAD], have: 0 };

impl Decoder {
    /// For the connection of which one is this side.
    pub fn new(side: Side) -> Self {
        Self {
            is_masked: side == Side::Asked,
            state: BEGIN,
            is_within: false,
            control: [0; CONTROL],
            pong: None,
            end: None,
        }
    }

    /// Takes what has arrived, all of it, and leaves the data that it carries at its front. How much that is.
    ///
    /// # Errors
    /// What the peer did that it must not.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<usize, Broken> {
        let (mut from, mut to) = (0, 0);
        // After its Close frame a peer has nothing more to say (RFC 6455 section 5.5.1).
        while from < bytes.len() && self.end.is_none() {
            match &mut self.state {
                State::Header { bytes: header, have } => {
                    let (Some(place), Some(byte)) = (header.get_mut(usize::from(*have)), bytes.get(from))
                    else {
                        return Err(Broken("a frame's header is too long"));
                    };
                    *place = *byte;
                    *have += 1;
                    from += 1;
                    let have = usize::from(*have);
                    let header = *header;
                    if let Some((kind, key, length)) =
                        self.read_header(header.get(..have).unwrap_or_default())?
                    {
                        self.state = State::Content { kind, key, length, left: length };
                        self.end_frame()?;
                    }
                }
                State::Content { kind, key, length, left } => {
                    let here = bytes.len() - from;
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(here);
                    // The key's phase at this byte: the length of a frame is nowhere near 2^64.
                    let done = *length - *left;
                    let content = bytes.get_mut(from..from + n).unwrap_or_default();
                    if *key != [0; 4] {
                        let [.., phase] = done.to_be_bytes();
                        let mut key = *key;
                        key.rotate_left(usize::from(phase % 4));
                        mask(content, key);
                    }
                    if *kind == Kind::Data {
                        if from != to {
                            bytes.copy_within(from..from + n, to);
                        }
                        to += n;
                    } else if *kind != Kind::Pong {
                        let at = usize::try_from(done).unwrap_or(CONTROL);
                        if let Some(place) = self.control.get_mut(at..at + n) {
                            place.copy_from_slice(content);
                        }
                    }
                    from += n;
                    *left -= n as u64;
                    self.end_frame()?;
                }
            }
        }
        Ok(to)
    }

    /// How the peer's direction has ended, if it has.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Whether a ping waits to be answered. Of several the last one counts (RFC 6455 section 5.5.3).
    pub fn owes_pong(&self) -> bool {
        self.pong.is_some()
    }

    /// The content of the pong that is owed, which is owed no more.
    pub fn take_pong(&mut self) -> Option<&[u8]> {
        let length = self.pong.take()?;
        self.control.get(..usize::from(length))
    }

    /// Looks at as much of a header as there is. Kind, masking key and length of the frame, once it is whole.
    fn read_header(&mut self, header: &[u8]) -> Result<Option<(Kind, [u8; 4], u64)>, Broken> {
        let Some(first) = header.first() else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(Broken("a frame has reserved bits"));
        }
        let is_last = first & 0x80 != 0;
        let (kind, is_first) = match first & 0x0f {
            0 => (Kind::Data, false),
            2 => (Kind::Data, true),
            8 => (Kind::Close, true),
            9 => (Kind::Ping, true),
            10 => (Kind::Pong, true),
            1 => return Err(Broken("a frame of text came")),
            _ => return Err(Broken("a frame of an unknown kind came")),
        };
        match kind {
            Kind::Data if is_first == self.is_within => {
                return Err(Broken("a message within a message, or the rest of none"));
            }
            Kind::Close | Kind::Ping | Kind::Pong if !is_last => {
                return Err(Broken("a control frame is in parts"));
            }
            Kind::Data | Kind::Close | Kind::Ping | Kind::Pong => {}
        }
        let Some(second) = header.get(1) else { return Ok(None) };
        if (second & 0x80 != 0) != self.is_masked {
            return Err(Broken("a frame is masked that must not be, or is not that must be"));
        }
        let short = second & 0x7f;
        if kind != Kind::Data && usize::from(short) > CONTROL {
            return Err(Broken("a control frame is too long"));
        }
        let extended = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some(number) = header.get(2..2 + extended) else { return Ok(None) };
        let length = match short {
            126 | 127 => number.iter().fold(0_u64, |length, byte| length << 8 | u64::from(*byte)),
            _ => u64::from(short),
        };
        // RFC 6455 section 5.2: the shortest form, and the most significant bit is none.
        let least = match short {
            126 => 126,
            127 => 0x1_0000,
            _ => 0,
        };
        if length < least || length > i64::MAX.unsigned_abs() {
            return Err(Broken("a frame's length is not written as it must be"));
        }
        let key = if self.is_masked {
            let Some(key) = header.get(2 + extended..2 + extended + 4) else { return Ok(None) };
            <[u8; 4]>::try_from(key).unwrap_or_default()
        } else {
            [0; 4]
        };
        if kind == Kind::Data {
            self.is_within = !is_last;
        } else if kind != Kind::Pong {
            // Its content takes the place of the one before it.
            self.pong = None;
        }
        Ok(Some((kind, key, length)))
    }

    /// If the content of the frame is complete, does what it says.
    fn end_frame(&mut self) -> Result<(), Broken> {
        let State::Content { kind, length, left: 0, .. } = self.state else { return Ok(()) };
        self.state = BEGIN;
        match (kind, length) {
            (Kind::Data | Kind::Pong, _) => {}
            (Kind::Ping, length) => self.pong = u8::try_from(length).ok(),
            (Kind::Close, 1) => return Err(Broken("a close frame has half a code")),
            // What is between says other codes, or none, when it ends the connection for a reason of its own.
            (Kind::Close, length) => {
                let is_normal = length >= 2 && self.control.starts_with(&NORMAL);
                self.end = Some(if is_normal { End::Clean } else { End::Cut });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::every_split;

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// A frame as its bytes are, masked or not.
    fn frame(first: u8, key: Option<[u8; 4]>, content: &[u8]) -> Vec<u8> {
        let (mut bytes, used) = header(Kind::Data, content.len(), key);
        bytes[0] = first;
        let mut bytes = bytes[..used].to_vec();
        let begin = bytes.len();
        bytes.extend(content);
        mask(&mut bytes[begin..], key.unwrap_or_default());
        bytes
    }

    /// What came of some pieces: the data, the last ping's content, the end.
    #[derive(Clone, Debug, Default, PartialEq)]
    struct Came {
        data: Vec<u8>,
        pong: Option<Vec<u8>>,
        end: Option<End>,
        broken: Option<Broken>,
    }

    fn decode(side: Side, pieces: &[&[u8]]) -> Came {
        let mut decoder = Decoder::new(side);
        let mut came = Came::default();
        for piece in pieces {
            let mut bytes = piece.to_vec();
            match decoder.decode(&mut bytes) {
                Ok(n) => came.data.extend(&bytes[..n]),
                Err(broken) => {
                    // How much came of the piece that broke the rules does not matter.
                    return Came { broken: Some(broken), ..Came::default() };
                }
            }
        }
        came.end = decoder.end();
        came.pong = decoder.take_pong().map(<[u8]>::to_vec);
        came
    }

    fn came(data: &[u8]) -> Came {
        Came { data: data.to_vec(), ..Came::default() }
    }

    #[test]
    fn the_examples_of_the_specification() {
        // RFC 6455 section 1.3 and section 5.7, where the messages are text.
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let masked = b"\x82\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
        assert_eq!(every_split(masked, b"", |all| decode(Side::Asked, all)), came(b"Hello"));
        assert_eq!(frame(0x82, Some(KEY), b"Hello"), masked);
        let parts = b"\x02\x03\x48\x65\x6c\x80\x02\x6c\x6f";
        assert_eq!(every_split(parts, b"", |all| decode(Side::Asking(1), all)), came(b"Hello"));
        let ping = b"\x89\x05\x48\x65\x6c\x6c\x6f";
        let pong = Came { pong: Some(b"Hello".to_vec()), ..Came::default() };
        assert_eq!(every_split(ping, b"", |all| decode(Side::Asking(1), all)), pong);
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for length in [0, 1, 125, 126, 127, 300, 0xffff, 0x1_0000, 100_000] {
            let data: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
            for (from, to) in [(Side::Asking(7), Side::Asked), (Side::Asked, Side::Asking(7))] {
                let mut room = vec![0; length + OVERHEAD];
                let (one, other) = data.split_at(length / 3);
                let parts = [one, b"", other].into_iter();
                let (taken, n) = Encoder::new(from).encode(Kind::Data, parts, &mut room);
                assert_eq!(taken, length);
                assert!(n - length <= OVERHEAD);
                room.truncate(n);
                let run = |all: &[&[u8]]| decode(to, all);
                let got = if length < 1000 { every_split(&room, b"", run) } else { run(&[&room]) };
                assert_eq!(got, came(&data));
                let masked = room[1] & 0x80 != 0;
                assert_eq!(masked, to == Side::Asked);
                assert!(length < 100 || !masked || !room.windows(20).any(|part| part == &data[..20]));
            }
        }
    }

    #[test]
    fn a_frame_is_no_larger_than_its_room() {
        let mut encoder = Encoder::new(Side::Asking(3));
        let mut room = [0; 100];
        let (taken, n) = encoder.encode(Kind::Data, [&[1; 60][..], &[2; 60]].into_iter(), &mut room);
        assert_eq!(taken, 100 - OVERHEAD);
        let data = [[1; 60], [2; 60]].concat();
        assert_eq!(decode(Side::Asked, &[&room[..n]]), came(&data[..taken]));
        assert_eq!(encoder.encode(Kind::Data, [&b"x"[..]].into_iter(), &mut []), (0, 0));
        // Each frame has a key of its own.
        let mut keys = Vec::new();
        for _ in 0..100 {
            encoder.encode(Kind::Data, [&b""[..]].into_iter(), &mut room);
            keys.push(room[2..6].to_vec());
        }
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 100);
    }

    #[test]
    fn control_frames_may_stand_between_the_parts_of_a_message() {
        for key in [None, Some(KEY)] {
            let side = if key.is_some() { Side::Asked } else { Side::Asking(0) };
            let all = [
                frame(0x02, key, b"one, "),
                frame(0x89, key, b"ping"),
                frame(0x00, key, b""),
                frame(0x8a, key, b"unasked"),
                frame(0x80, key, b"two, "),
                frame(0x82, key, b"three"),
            ]
            .concat();
            let expected = Came { pong: Some(b"ping".to_vec()), ..came(b"one, two, three") };
            assert_eq!(every_split(&all, b"", |pieces| decode(side, pieces)), expected);
        }
    }

    #[test]
    fn of_several_pings_the_last_one_is_answered() {
        let all = [frame(0x89, None, b"first"), frame(0x89, None, b"")].concat();
        let expected = Came { pong: Some(Vec::new()), ..Came::default() };
        assert_eq!(every_split(&all, b"", |pieces| decode(Side::Asking(0), pieces)), expected);
    }

    #[test]
    fn a_close_frame_is_the_end_and_what_follows_counts_for_nothing() {
        let mut room = [0; 40];
        for (side, code, end) in [
            (Side::Asked, Some(false), End::Clean),
            (Side::Asked, Some(true), End::Cut),
            (Side::Asking(0), Some(false), End::Clean),
            (Side::Asking(0), None, End::Cut),
        ] {
            let other = if side == Side::Asked { Side::Asking(5) } else { Side::Asked };
            let mut encoder = Encoder::new(other);
            let (_, n) = encoder.encode(Kind::Data, [&b"last"[..]].into_iter(), &mut room);
            let mut bytes = room[..n].to_vec();
            let n = match code {
                Some(is_broken) => encoder.close(is_broken, &mut room),
                None => encoder.encode(Kind::Close, [].into_iter(), &mut room).1,
            };
            bytes.extend(&room[..n]);
            let expected = Came { end: Some(end), ..came(b"last") };
            assert_eq!(every_split(&bytes, b"\xff\xff anything", |all| decode(side, all)), expected);
        }
    }

    #[test]
    fn a_peer_that_breaks_the_rules_is_not_listened_to() {
        let (with, without) = (Some(KEY), None);
        let long = [0; CONTROL + 1];
        for (key, bytes, why) in [
            (without, frame(0x81, without, b"x"), "text"),
            (without, frame(0xc2, without, b"x"), "reserved"),
            (without, frame(0xa2, without, b"x"), "reserved"),
            (without, frame(0x92, without, b"x"), "reserved"),
            (without, frame(0x83, without, b"x"), "unknown kind"),
            (without, frame(0x8b, without, b""), "unknown kind"),
            (without, frame(0x80, without, b"x"), "rest of none"),
            (without, [frame(0x02, without, b"x"), frame(0x82, without, b"x")].concat(), "within"),
            (without, frame(0x09, without, b"x"), "in parts"),
            (without, frame(0x08, without, b""), "in parts"),
            (without, frame(0x89, without, &long), "too long"),
            (with, frame(0x8a, with, &long), "too long"),
            (without, frame(0x88, without, b"x"), "half a code"),
            (without, frame(0x82, with, b"x"), "masked"),
            (with, frame(0x82, without, b"x"), "masked"),
            (without, b"\x82\x7e\x00\x7d".to_vec(), "length"),
            (without, b"\x82\x7f\x00\x00\x00\x00\x00\x00\xff\xff".to_vec(), "length"),
            (without, b"\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00".to_vec(), "length"),
        ] {
            let side = if key.is_some() { Side::Asked } else { Side::Asking(0) };
            let broken = every_split(&bytes, b"", |all| decode(side, all)).broken;
            assert!(broken.is_some_and(|broken| broken.0.contains(why)), "{bytes:?}: {broken:?}");
        }
    }

    #[test]
    fn a_key_is_sixteen_bytes() {
        let mut random = Random(1);
        let key = Nonce::new(&mut random).key();
        assert!(is_key(&key) && key.len() == 24 && key != Nonce::new(&mut random).key());
        for wrong in ["", "x", "dGhlIHNhbXBsZSBub25j", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZQ==="]
        {
            assert!(!is_key(wrong), "{wrong}");
        }
    }
}
