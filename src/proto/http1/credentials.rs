//! Where a request may show a key of the hub, and which fields end there because they were meant for it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::fields::Field;
use super::head::RequestHead;

/// The longest key, in bytes. What is longer is wrong without being looked at.
pub const MAX_KEY: usize = 256;
/// The longest user name and key of Basic credentials that are decoded, in base64.
const MAX_BASIC: usize = 1024;

/// A field that may show a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// `Authorization`: a bearer token, or the password of Basic credentials.
    Authorization,
    /// `x-api-key`, as Anthropic's clients send it.
    XApiKey,
    /// `api-key`, as Azure's clients send it.
    ApiKey,
    /// `x-goog-api-key`, as Google's clients send it.
    XGoogApiKey,
    /// `Slime-App-Password`, which goes no further in any case.
    SlimeAppPassword,
}

impl Credential {
    /// The field with this name, if it is one.
    pub fn of(name: &str) -> Option<Self> {
        let is = |usual: &str| name.eq_ignore_ascii_case(usual);
        match name.len() {
            7 if is("api-key") => Some(Self::ApiKey),
            9 if is("x-api-key") => Some(Self::XApiKey),
            13 if is("Authorization") => Some(Self::Authorization),
            14 if is("x-goog-api-key") => Some(Self::XGoogApiKey),
            18 if is("Slime-App-Password") => Some(Self::SlimeAppPassword),
            _ => None,
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of such fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credentials(u8);

impl Credentials {
    /// No field.
    pub const NONE: Self = Self(0);

    /// Adds a field. False if it was there.
    pub fn insert(&mut self, credential: Credential) -> bool {
        let before = self.0;
        self.0 |= credential.bit();
        self.0 != before
    }

    /// Whether a field with this name belongs to the set.
    pub fn has(self, name: &str) -> bool {
        self != Self::NONE && Credential::of(name).is_some_and(|it| self.0 & it.bit() != 0)
    }
}

/// How a key was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// By a program, or by a script that has the key.
    Explicitly,
    /// As a password, which a browser adds to every request of its own accord.
    Ambiently,
}

/// Calls `see` for each field that may show a key, with what may be one: nothing, where the field holds
/// something else.
pub fn candidates<E>(
    head: &RequestHead<'_, '_>,
    mut see: impl FnMut(Credential, Option<&[u8]>, Shown) -> Result<(), E>,
) -> Result<(), E> {
    for &Field { name, value } in head.fields.iter() {
        let Some(credential) = Credential::of(name) else { continue };
        let mut room = [0; MAX_BASIC];
        if credential != Credential::Authorization {
            see(credential, Some(value), Shown::Explicitly)?;
        } else if let Some(token) = of_scheme(value, b"Bearer ") {
            see(credential, Some(token), Shown::Explicitly)?;
        } else {
            let password = of_scheme(value, b"Basic ").and_then(|basic| password(basic, &mut room));
            see(credential, password, Shown::Ambiently)?;
        }
    }
    Ok(())
}

/// What follows a scheme (RFC 9110 section 11.4).
fn of_scheme<'b>(value: &'b [u8], scheme: &[u8]) -> Option<&'b [u8]> {
    let (start, rest) = value.split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then(|| rest.trim_ascii_start())
}

/// The password of Basic credentials (RFC 7617 section 2): what follows the first colon.
fn password<'r>(basic: &[u8], room: &'r mut [u8; MAX_BASIC]) -> Option<&'r [u8]> {
    if basic.len() > MAX_BASIC {
        return None;
    }
    let length = STANDARD.decode_slice(basic, room).ok()?;
    let decoded = room.get(..length)?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    decoded.get(colon + 1..)
}

#[cfg(test)]
mod tests {
    use super::super::storage::Storage;
    use super::*;

    fn seen(fields: &str) -> Vec<(Credential, Option<String>, Shown)> {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let mut storage = Storage::new();
        let head = RequestHead::parse(head.as_bytes(), &mut storage).unwrap();
        let mut all = Vec::new();
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
        candidates::<()>(&head, |field, value, shown| {
            all.push((field, value.map(text), shown));
            Ok(())
        })
        .unwrap();
        all
    }

    #[test]
    fn every_place_is_looked_at() {
        use Credential::{ApiKey, Authorization, SlimeAppPassword, XApiKey, XGoogApiKey};
        use Shown::{Ambiently, Explicitly};
        for (field, credential, value, shown) in [
            ("Authorization: Bearer k", Authorization, Some("k"), Explicitly),
            ("authorization: bEARER  k", Authorization, Some("k"), Explicitly),
            ("Authorization: Basic dTpr", Authorization, Some("k"), Ambiently),
            ("Authorization: basic OnA6cQ==", Authorization, Some("p:q"), Ambiently),
            ("Authorization: Basic dQ==", Authorization, None, Ambiently),
            ("Authorization: Basic ?", Authorization, None, Ambiently),
            ("Authorization: Digest x", Authorization, None, Ambiently),
            ("Authorization:", Authorization, None, Ambiently),
            ("X-API-Key: k", XApiKey, Some("k"), Explicitly),
            ("Api-Key: k", ApiKey, Some("k"), Explicitly),
            ("x-goog-api-key: k", XGoogApiKey, Some("k"), Explicitly),
            ("slime-app-password: k", SlimeAppPassword, Some("k"), Explicitly),
        ] {
            let expected = vec![(credential, value.map(str::to_owned), shown)];
            assert_eq!(seen(&format!("{field}\r\n")), expected, "{field}");
        }
        assert_eq!(seen("X_Api_Key: k\r\nCookie: k\r\n"), []);
    }

    #[test]
    fn long_basic_credentials_are_not_decoded() {
        let basic =
            |length: usize| format!("Authorization: Basic {}\r\n", STANDARD.encode("a:".repeat(length)));
        assert!(seen(&basic(384))[0].1.is_some() && seen(&basic(385))[0].1.is_none());
    }

    #[test]
    fn a_set_knows_its_fields() {
        let mut set = Credentials::NONE;
        assert!(!set.has("x-api-key"));
        assert!(set.insert(Credential::XApiKey) && !set.insert(Credential::XApiKey));
        assert!(set.has("X-Api-Key") && !set.has("api-key") && !set.has("Authorization"));
    }
}
