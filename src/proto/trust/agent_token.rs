//! Agent tokens: what a hub lets an agent do, sealed so that only a hub with the same secret can make or read
//! one.
//!
//! A token proves itself; the hub keeps no database of them. As text it is `slime1_` followed by base64url
//! (without padding) of a nonce and a sealed payload. This module owns the text, the payload and the rules of
//! the names in it. It reads no clock and draws no random number: key, nonce and time are arguments. Which
//! tokens are revoked it does not know.
//!
//! The seal is ChaCha20-Poly1305: in software it is fast and takes the same time whatever the key, on the
//! routers and small boards without AES instructions as well; nothing about a token needs AES. The nonce is
//! random. With 96 bits, two tokens of one secret share one with a chance of 2^-33 after four billion of
//! them.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroU32;
use core::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::pbkdf2;

/// The longest token text, in bytes: half of what common reverse proxies accept as one field line (8 KiB).
pub const MAX_TEXT: usize = 4096;
/// The longest name of a token, and the longest scope, in bytes: they are read by people, in logs.
pub const MAX_NAME: usize = 64;
/// The longest scope path in bytes: its length is one byte of the payload.
pub const MAX_PATH: usize = 255;
/// The most scopes, and the most scope paths, of a token: both are compared with every request.
pub const MAX_ENTRIES: usize = 32;

/// The beginning of every token of this version. It is sealed together with the payload.
const PREFIX: &str = "slime1_";
/// The layout of the payload, its first byte.
const PAYLOAD_VERSION: u8 = 1;
/// Names the purpose of the key. It is not secret; it is the same everywhere, so that a secret is all that a
/// hub needs.
const SALT: &[u8] = b"slime agent token key 1";
/// Makes guessing a weak secret from a leaked token costly, and the start of a hub on a small router only
/// slow.
const ROUNDS: NonZeroU32 = NonZeroU32::new(100_000).unwrap();

/// The key that seals and opens agent tokens.
#[derive(Clone)]
pub struct TokenKey(LessSafeKey);

impl TokenKey {
    /// Derives the key from a hub's secret. Slow on purpose: called once, at the start.
    pub fn derive(secret: &str) -> Self {
        let mut bytes = [0; 32];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, SALT, secret.as_bytes(), &mut bytes);
        #[expect(
            clippy::expect_used,
            reason = "the only failure is a wrong length, and the length is in the type"
        )]
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).expect("32 bytes are a ChaCha20-Poly1305 key");
        Self(LessSafeKey::new(key))
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

/// What tells one token from all others of a hub, by which it can be revoked. Written as 16 hexadecimal
/// digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId([u8; 8]);

impl TokenId {
    /// An id of random bytes.
    pub const fn new(random: [u8; 8]) -> Self {
        Self(random)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TokenId {
    type Err = NotATokenId;

    fn from_str(text: &str) -> Result<Self, NotATokenId> {
        let plain = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = plain.then(|| u64::from_str_radix(text, 16).ok()).flatten().ok_or(NotATokenId)?;
        Ok(Self(number.to_be_bytes()))
    }
}

/// A text is not 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotATokenId;

impl fmt::Display for NotATokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the id of an agent token is 16 hexadecimal digits")
    }
}

impl core::error::Error for NotATokenId {}

/// What a token says. The text it was opened from is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentToken {
    /// Tells it from all other tokens.
    pub id: TokenId,
    /// For people, and for revoking: see [`check_name`].
    pub name: String,
    /// When it was made, in seconds since 1970. Revoking looks at it; it is never compared with the clock,
    /// because a router may have made the token, or may read it, before it knew the time.
    pub issued: u64,
    /// When it ends, in seconds since 1970; never, if `None`.
    pub expires: Option<u64>,
    /// What requests may ask for: see [`check_scope`].
    pub scopes: Vec<String>,
    /// The only paths, with all below them, that its agents serve; all paths, if empty. See
    /// [`check_scope_path`].
    pub scope_paths: Vec<String>,
    /// The most workers, counted over all agents with this token; no limit of its own, if `None`.
    pub max_workers: Option<u32>,
}

impl AgentToken {
    /// The token as text. The nonce must be random, and fresh for each call with the same key.
    pub fn seal(&self, key: &TokenKey, nonce: [u8; NONCE_LEN]) -> Result<String, ClaimError> {
        self.check()?;
        let mut payload = self.encode();
        let tag = key
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(PREFIX), &mut payload)
            .map_err(|_| ClaimError::TooLong)?; // The AEAD's own limit is 256 GiB.
        let sealed = [&nonce[..], &payload, tag.as_ref()].concat();
        let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(sealed));
        if text.len() > MAX_TEXT { Err(ClaimError::TooLong) } else { Ok(text) }
    }

    /// Reads a token, if it was sealed with this key and nothing of it was changed since. Whether it has
    /// expired is another question: [`AgentToken::expired`].
    pub fn open(text: &str, key: &TokenKey) -> Result<Self, TokenError> {
        if text.len() > MAX_TEXT {
            return Err(TokenError::Malformed);
        }
        let Some(encoded) = text.strip_prefix(PREFIX) else {
            return Err(if is_other_version(text) {
                TokenError::UnknownVersion
            } else {
                TokenError::Malformed
            });
        };
        // This engine takes canonical text only: no padding, no bits left over.
        let mut sealed = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| TokenError::Malformed)?;
        let (nonce, sealed) = sealed.split_first_chunk_mut().ok_or(TokenError::Malformed)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let payload =
            key.0.open_in_place(nonce, Aad::from(PREFIX), sealed).map_err(|_| TokenError::NotOurs)?;
        Self::decode(payload)
    }

    /// Whether this text is meant as a token, of whichever version, whole or not.
    pub fn is_one(text: &str) -> bool {
        text.starts_with(PREFIX) || is_other_version(text)
    }

    /// Whether the text has the form of a token, which can be told without the key.
    ///
    /// # Errors
    /// It is no token at all, or not a whole one. A token of another version passes: only its hub can say
    /// more of it.
    pub fn check_form(text: &str) -> Result<(), TokenError> {
        let Some(encoded) = text.strip_prefix(PREFIX) else {
            return if is_other_version(text) { Ok(()) } else { Err(TokenError::NoToken) };
        };
        let sealed = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| TokenError::Malformed)?;
        let is_whole = text.len() <= MAX_TEXT && sealed.len() > NONCE_LEN + CHACHA20_POLY1305.tag_len();
        if is_whole { Ok(()) } else { Err(TokenError::Malformed) }
    }

    /// Whether the token is past its end at this time, in seconds since 1970.
    pub fn expired(&self, unix: u64) -> bool {
        self.expires.is_some_and(|end| unix >= end)
    }

    fn check(&self) -> Result<(), ClaimError> {
        check_name(&self.name)?;
        if self.scopes.len() > MAX_ENTRIES || self.scope_paths.len() > MAX_ENTRIES {
            return Err(ClaimError::TooMany);
        }
        self.scopes.iter().try_for_each(|scope| check_scope(scope))?;
        self.scope_paths.iter().try_for_each(|path| check_scope_path(path))?;
        if self.max_workers == Some(0) { Err(ClaimError::NoWorkers) } else { Ok(()) }
    }

    /// The payload: version, id, issued, then each optional number as 0, or as 1 and the number, then each
    /// text after its length, each list after its count. Numbers are big-endian, lengths and counts one byte.
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![PAYLOAD_VERSION];
        out.extend_from_slice(&self.id.0);
        out.extend_from_slice(&self.issued.to_be_bytes());
        put_optional(&mut out, self.expires.map(u64::to_be_bytes));
        put_optional(&mut out, self.max_workers.map(u32::to_be_bytes));
        put_text(&mut out, &self.name);
        put_list(&mut out, &self.scopes);
        put_list(&mut out, &self.scope_paths);
        out
    }

    fn decode(payload: &[u8]) -> Result<Self, TokenError> {
        let (&version, rest) = payload.split_first().ok_or(TokenError::Malformed)?;
        if version != PAYLOAD_VERSION {
            return Err(TokenError::UnknownVersion);
        }
        let claims = Reader(rest).claims().ok_or(TokenError::Malformed)?;
        claims.check().map_err(|_| TokenError::Malformed)?;
        Ok(claims)
    }
}

/// The name of a token: 1 to [`MAX_NAME`] letters, digits, `.`, `_`, `-`; not one that could be taken for a
/// [`TokenId`].
pub fn check_name(name: &str) -> Result<(), ClaimError> {
    let fits = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_name_byte);
    if fits && name.parse::<TokenId>().is_err() { Ok(()) } else { Err(ClaimError::Name) }
}

/// A scope: 1 to [`MAX_NAME`] letters, digits and `._-:/@+`, which the names of models are made of.
pub fn check_scope(scope: &str) -> Result<(), ClaimError> {
    let fits = (1..=MAX_NAME).contains(&scope.len())
        && scope.bytes().all(|byte| is_name_byte(byte) || matches!(byte, b':' | b'/' | b'@' | b'+'));
    if fits { Ok(()) } else { Err(ClaimError::Scope) }
}

/// A scope path: `/`, or segments that each begin with `/`, at most [`MAX_PATH`] bytes, written so that no
/// upstream can read it in another way: no empty or dot segment, no query, no `;`, nothing encoded that needs
/// no encoding.
pub fn check_scope_path(path: &str) -> Result<(), ClaimError> {
    let fits = path.len() <= MAX_PATH
        && path
            .strip_prefix('/')
            .is_some_and(|rest| rest.is_empty() || rest.split('/').all(is_plain_segment));
    if fits { Ok(()) } else { Err(ClaimError::ScopePath) }
}

/// Why a token cannot be made. The text says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimError {
    /// See [`check_name`].
    Name,
    /// The token may have no worker at all.
    NoWorkers,
    /// See [`check_scope`].
    Scope,
    /// See [`check_scope_path`].
    ScopePath,
    /// The text would be longer than [`MAX_TEXT`].
    TooLong,
    /// More than [`MAX_ENTRIES`] scopes or scope paths.
    TooMany,
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => write!(
                f,
                "a token's name is 1 to {MAX_NAME} letters, digits, '.', '_' or '-', and not 16 hexadecimal digits \
                 (those would be an id)"
            ),
            Self::NoWorkers => f.write_str("a token must allow at least one worker"),
            Self::Scope => write!(f, "a scope is 1 to {MAX_NAME} letters, digits or characters of ._-:/@+"),
            Self::ScopePath => write!(
                f,
                "a scope path begins with '/', has at most {MAX_PATH} bytes, and no empty segment, '.' or '..' segment, \
                 query, ';', space or needless percent-encoding"
            ),
            Self::TooLong => {
                write!(
                    f,
                    "the token would be longer than {MAX_TEXT} bytes: give it fewer or shorter scopes and paths"
                )
            }
            Self::TooMany => {
                write!(f, "a token has at most {MAX_ENTRIES} scopes and {MAX_ENTRIES} scope paths")
            }
        }
    }
}

impl core::error::Error for ClaimError {}

/// Why a text is not taken as a token. The text of the error says what to do, and nothing of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// It does not look like a token.
    NoToken,
    /// It is not a whole token.
    Malformed,
    /// It was sealed with another secret, or was changed.
    NotOurs,
    /// It was made by another version of slime.
    UnknownVersion,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoToken => {
                "this is no agent token; is it the hub's secret? `slime hub register`, on the machine of the hub, makes a token"
            }
            Self::Malformed => {
                "this is not a complete agent token: copy the whole line that `slime hub register` printed"
            }
            Self::NotOurs => {
                "the agent token was made with another secret, or was altered: make one with `slime hub register` and \
                 the secret that the hub runs with"
            }
            Self::UnknownVersion => {
                "the agent token was made by another version of slime: make one with `slime hub register` of the \
                 version that the hub runs"
            }
        })
    }
}

impl core::error::Error for TokenError {}

/// Whether a text begins like a token, with another number for the version.
fn is_other_version(text: &str) -> bool {
    text.strip_prefix("slime")
        .and_then(|rest| rest.split_once('_'))
        .is_some_and(|(version, _)| !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// RFC 3986 section 3.3: pchar, without what upstreams are known to read in two ways.
fn is_plain_segment(segment: &str) -> bool {
    let mut rest = segment.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = match (byte, after) {
            (b'%', &[high, low, ref after @ ..]) if is_encoded_for_cause(high, low) => after,
            (b'%', _) => return false,
            _ if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte) => after,
            _ => return false,
        };
    }
    !matches!(segment, "" | "." | "..")
}

/// Whether these two digits, in the canonical upper case, stand for a byte that must be encoded and is not a
/// separator or a control character to anybody: in effect spaces, quotes, and letters beyond ASCII.
fn is_encoded_for_cause(high: u8, low: u8) -> bool {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    let Some((high, low)) = digit(high).zip(digit(low)) else { return false };
    matches!(high << 4 | low, b' ' | b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{'..=b'}' | 0x80..)
}

fn put_optional<const N: usize>(out: &mut Vec<u8>, number: Option<[u8; N]>) {
    out.push(u8::from(number.is_some()));
    out.extend(number.into_iter().flatten());
}

/// The length fits a byte: [`AgentToken::check`] came first.
fn put_text(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(text.as_bytes());
}

fn put_list(out: &mut Vec<u8>, list: &[String]) {
    out.push(u8::try_from(list.len()).unwrap_or(u8::MAX));
    for text in list {
        put_text(out, text);
    }
}

/// What is left of a payload.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn claims(mut self) -> Option<AgentToken> {
        let id = TokenId(self.array()?);
        let issued = u64::from_be_bytes(self.array()?);
        let expires = self.optional()?.map(u64::from_be_bytes);
        let max_workers = self.optional()?.map(u32::from_be_bytes);
        let name = self.text()?;
        let scopes = self.list()?;
        let scope_paths = self.list()?;
        self.0.is_empty().then_some(AgentToken {
            id,
            name,
            issued,
            expires,
            scopes,
            scope_paths,
            max_workers,
        })
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn optional<const N: usize>(&mut self) -> Option<Option<[u8; N]>> {
        match self.byte()? {
            0 => Some(None),
            1 => self.array().map(Some),
            _ => None,
        }
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::from(self.byte()?);
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        core::str::from_utf8(text).ok().map(String::from)
    }

    fn list(&mut self) -> Option<Vec<String>> {
        let count = usize::from(self.byte()?);
        (count <= MAX_ENTRIES).then_some(())?;
        (0..count).map(|_| self.text()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: [u8; 12] = *b"twelve bytes";

    /// Derived once: it is slow on purpose.
    fn key() -> &'static TokenKey {
        static KEY: std::sync::OnceLock<TokenKey> = std::sync::OnceLock::new();
        KEY.get_or_init(|| TokenKey::derive("open sesame"))
    }

    fn full() -> AgentToken {
        AgentToken {
            id: TokenId::new([1, 2, 3, 4, 0xab, 0xcd, 0xef, 0]),
            name: "gpu-box_1.lab".into(),
            issued: 1_700_000_000,
            expires: Some(1_700_003_600),
            scopes: vec!["gpu".into(), "meta-llama/Llama-3.1:8b".into()],
            scope_paths: vec!["/".into(), "/v1/chat".into(), "/caf%C3%A9/a+b".into()],
            max_workers: Some(4),
        }
    }

    fn smallest() -> AgentToken {
        let (expires, max_workers) = (None, None);
        AgentToken {
            name: "x".into(),
            issued: 0,
            expires,
            scopes: vec![],
            scope_paths: vec![],
            max_workers,
            ..full()
        }
    }

    /// Seals any payload at all, as a hub with the secret but other ideas would.
    fn seal_payload(mut payload: Vec<u8>) -> String {
        let nonce = Nonce::assume_unique_for_key(NONCE);
        key().0.seal_in_place_append_tag(nonce, Aad::from(PREFIX), &mut payload).unwrap();
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode([&NONCE[..], &payload].concat()))
    }

    #[test]
    fn what_was_sealed_is_opened() {
        for token in [full(), smallest()] {
            let text = token.seal(key(), NONCE).unwrap();
            assert!(text.starts_with("slime1_"));
            assert_eq!(AgentToken::open(&text, key()), Ok(token));
        }
    }

    #[test]
    fn the_text_is_stable() {
        // Tokens outlive versions: this one must open for ever.
        let text = "slime1_dHdlbHZlIGJ5dGVzGc4cCEol8vadsevgg8bwFM-m5uUgZSkVMJmQJEUkCWvH39QFMQ4t";
        assert_eq!(smallest().seal(key(), NONCE).as_deref(), Ok(text));
        assert_eq!(AgentToken::open(text, key()), Ok(smallest()));
    }

    #[test]
    fn another_secret_does_not_open_it() {
        let text = full().seal(key(), NONCE).unwrap();
        let other = TokenKey::derive("open sesamf");
        assert_eq!(AgentToken::open(&text, &other), Err(TokenError::NotOurs));
    }

    #[test]
    fn no_changed_byte_passes() {
        let text = full().seal(key(), NONCE).unwrap();
        for at in 0..text.len() {
            for flip in [1, 2, 0x20, 0x40] {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= flip;
                let changed = String::from_utf8(bytes).unwrap();
                assert!(AgentToken::open(&changed, key()).is_err(), "byte {at} with {flip:#x}");
            }
        }
    }

    #[test]
    fn no_other_length_passes() {
        let text = full().seal(key(), NONCE).unwrap();
        for end in 0..text.len() {
            assert!(AgentToken::open(&text[..end], key()).is_err(), "first {end}");
        }
        for tail in ["A", "AA", "AAAA", "=", "==", "\n", " ", "\0", "."] {
            assert!(AgentToken::open(&format!("{text}{tail}"), key()).is_err(), "{tail:?} after it");
        }
        assert!(AgentToken::open(&format!(" {text}"), key()).is_err());
        assert_eq!(AgentToken::open(&"slime1_".repeat(MAX_TEXT), key()), Err(TokenError::Malformed));
    }

    #[test]
    fn base64_has_one_spelling() {
        // A length that leaves bits over, which a lenient decoder ignores.
        let token = AgentToken { name: "xy".into(), ..smallest() };
        let text = token.seal(key(), NONCE).unwrap();
        assert_ne!((text.len() - PREFIX.len()) % 4, 0);
        let last = *text.as_bytes().last().unwrap();
        let same_bits = (b'0'..=b'z').filter(|&other| other != last && other.is_ascii_alphanumeric());
        for other in same_bits {
            let changed = format!("{}{}", &text[..text.len() - 1], char::from(other));
            assert!(AgentToken::open(&changed, key()).is_err());
        }
        let standard = text.replace('-', "+").replace('_', "/").replacen("slime1/", "slime1_", 1);
        assert!(standard == text || AgentToken::open(&standard, key()).is_err());
    }

    #[test]
    fn what_is_not_a_token_is_told_apart() {
        for text in [
            "",
            "slime",
            "slime1",
            "slime1_",
            "slime_abc",
            "slimex_abc",
            "abc",
            "Slime1_abc",
            "slime1_\u{e4}",
        ] {
            assert_eq!(AgentToken::open(text, key()), Err(TokenError::Malformed), "{text}");
        }
        assert_eq!(AgentToken::open("slime2_abc", key()), Err(TokenError::UnknownVersion));
        let mut payload = full().encode();
        payload[0] = 2;
        assert_eq!(AgentToken::open(&seal_payload(payload), key()), Err(TokenError::UnknownVersion));
    }

    #[test]
    fn no_error_shows_the_token() {
        for error in [TokenError::Malformed, TokenError::NotOurs, TokenError::UnknownVersion] {
            assert!(error.to_string().contains("slime hub register"), "{error}");
        }
        assert_eq!(format!("{:?}", key()), "TokenKey(..)");
    }

    #[test]
    fn a_sealed_payload_is_still_checked() {
        let good = full().encode();
        assert_eq!(AgentToken::open(&seal_payload(good.clone()), key()), Ok(full()));
        for end in 0..good.len() {
            let verdict = AgentToken::open(&seal_payload(good[..end].to_vec()), key());
            assert_eq!(verdict, Err(TokenError::Malformed), "first {end} bytes");
        }
        let longer = [&good[..], &[0]].concat();
        assert_eq!(AgentToken::open(&seal_payload(longer), key()), Err(TokenError::Malformed));
        let broken_rule = AgentToken { name: "two words".into(), ..full() };
        assert_eq!(AgentToken::open(&seal_payload(broken_rule.encode()), key()), Err(TokenError::Malformed));
        let many = AgentToken { scopes: vec!["s".into(); MAX_ENTRIES + 1], ..full() };
        assert_eq!(AgentToken::open(&seal_payload(many.encode()), key()), Err(TokenError::Malformed));
        let mut no_boolean = smallest().encode();
        no_boolean[17] = 2;
        assert_eq!(AgentToken::open(&seal_payload(no_boolean), key()), Err(TokenError::Malformed));
        let mut not_utf8 = smallest().encode();
        let at = not_utf8.len() - 3;
        not_utf8[at] = 0xff;
        assert_eq!(AgentToken::open(&seal_payload(not_utf8), key()), Err(TokenError::Malformed));
    }

    #[test]
    fn expiry_is_the_first_second_after_the_end() {
        let token = full();
        assert!(!token.expired(1_700_003_599));
        assert!(token.expired(1_700_003_600));
        assert!(!token.expired(0), "a clock before the issue is no reason");
        assert!(!smallest().expired(u64::MAX));
    }

    #[test]
    fn limits() {
        let seal = |token: AgentToken| token.seal(key(), NONCE);
        let name = |n| AgentToken { name: "n".repeat(n), ..smallest() };
        assert!(seal(name(MAX_NAME)).is_ok());
        assert_eq!(seal(name(MAX_NAME + 1)), Err(ClaimError::Name));
        assert_eq!(seal(name(0)), Err(ClaimError::Name));
        let scopes = |n| AgentToken { scopes: vec!["s".repeat(MAX_NAME); n], ..smallest() };
        assert!(seal(scopes(MAX_ENTRIES)).is_ok());
        assert_eq!(seal(scopes(MAX_ENTRIES + 1)), Err(ClaimError::TooMany));
        let path = |n| AgentToken { scope_paths: vec![format!("/{}", "p".repeat(n - 1))], ..smallest() };
        assert!(seal(path(MAX_PATH)).is_ok());
        assert_eq!(seal(path(MAX_PATH + 1)), Err(ClaimError::ScopePath));
        let paths = |n| AgentToken { scope_paths: vec!["/p".into(); n], ..smallest() };
        assert!(seal(paths(MAX_ENTRIES)).is_ok());
        assert_eq!(seal(paths(MAX_ENTRIES + 1)), Err(ClaimError::TooMany));
        let long =
            AgentToken { scope_paths: vec![format!("/{}", "p".repeat(200)); MAX_ENTRIES], ..smallest() };
        assert_eq!(seal(long), Err(ClaimError::TooLong));
        assert_eq!(seal(AgentToken { max_workers: Some(0), ..full() }), Err(ClaimError::NoWorkers));
    }

    #[test]
    fn names() {
        for name in ["a", "gpu-1", "A_b.C", "0123456789abcde", "0123456789abcdefg"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "two words", "a,b", "a/b", "é", "a\n", "0123456789abcdef", "0123456789ABCDEF"] {
            assert_eq!(check_name(name), Err(ClaimError::Name), "{name}");
        }
        for scope in ["gpu", "llama3.1:70b", "org/model", "a@b", "c++"] {
            assert_eq!(check_scope(scope), Ok(()), "{scope}");
        }
        for scope in ["", "a b", "a,b", "a;b", "\"", "ü", "a\r\nb"] {
            assert_eq!(check_scope(scope), Err(ClaimError::Scope), "{scope}");
        }
    }

    #[test]
    fn scope_paths_have_one_reading() {
        for path in
            ["/", "/v1", "/v1/chat", "/~u/a.b/..c", "/a%20b", "/%C3%BC", "/a,b=c:d@e", "/...", "/.well-known"]
        {
            assert_eq!(check_scope_path(path), Ok(()), "{path}");
        }
        for path in [
            "", "v1", "*", "//", "/v1/", "//v1", "/v1//x", "/.", "/..", "/v1/../x", "/v1?x", "/v1#x",
            "/v1;x", "/a b", "/a\\b", "/%", "/%4", "/%zz", "/%2e", "/%2E", "/%2F", "/%2f", "/%5C", "/%00",
            "/%41", "/%7e", "/%c3%bc", "/%3B", "/%0A", "/%25", "/ü", "/a\n", "/\"",
        ] {
            assert_eq!(check_scope_path(path), Err(ClaimError::ScopePath), "{path}");
        }
    }

    #[test]
    fn ids() {
        let id = full().id;
        assert_eq!(id.to_string(), "01020304abcdef00");
        assert_eq!("01020304ABCDEF00".parse(), Ok(id));
        for text in ["", "1", "+1020304abcdef00", "01020304abcdef001", "01020304abcdef0g"] {
            assert_eq!(text.parse::<TokenId>(), Err(NotATokenId), "{text}");
        }
    }
}
