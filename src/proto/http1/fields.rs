//! Fields by what is done with them (RFC 9110 section 7.6.1): which ones go on, and which belong to one
//! connection.
//!
//! A name is classified once, when its head is parsed; the class is kept beside the field, so that forwarding
//! compares no names.

use core::ops::Deref;
use core::time::Duration;

pub use httparse::Header as Field;

use super::limits::{MAX_FIELDS, TUNNEL_FIELDS};
use crate::proto::error::Violation;

/// The class of each field.
pub(super) type Classes = [Class; MAX_FIELDS + TUNNEL_FIELDS];

/// How many fields one head may nominate by `Connection`. Each costs a look at all names; real clients
/// nominate two or three.
pub const MAX_NOMINATED: usize = 32;

/// The fields of a head, in order, each with its class.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'s, 'b> {
    all: &'s [Field<'b>],
    classes: &'s [Class],
}

impl<'s, 'b> Fields<'s, 'b> {
    /// Of the classes there are more than fields.
    pub(super) fn new(all: &'s [Field<'b>], classes: &'s Classes) -> Self {
        Self { all, classes: classes.get(..all.len()).unwrap_or_default() }
    }

    /// The value of the first field with this name.
    pub fn first(&self, name: &str) -> Option<&'b [u8]> {
        self.named(name).next()
    }

    /// The values of all fields with this name.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        self.all.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }

    /// The fields, each with its class.
    pub(super) fn classified(&self) -> impl Iterator<Item = (&'s Field<'b>, Class)> + use<'s, 'b> {
        self.all.iter().zip(self.classes.iter().copied())
    }
}

impl<'b> Deref for Fields<'_, 'b> {
    type Target = [Field<'b>];

    fn deref(&self) -> &Self::Target {
        self.all
    }
}

/// What a field is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Authorization,
    /// How a server asks for credentials.
    Challenge,
    Connection,
    ContentLength,
    /// Goes on as it is.
    EndToEnd,
    Expect,
    /// What a proxy says of the client, or of the request as it came there. Only a trusted one is believed.
    Forwarded,
    /// Belongs to the connection that it came on, and says nothing that we heed.
    HopByHop,
    Host,
    /// Where a response leads.
    Location,
    MaxForwards,
    /// Where a request comes from: `Origin`.
    Origin,
    /// As `Challenge`, between a client and the proxy next to it.
    ProxyChallenge,
    ProxyStatus,
    /// As `Origin`, with a path.
    Referer,
    /// What a request is called.
    RequestId,
    Slime,
    Te,
    TransferEncoding,
    /// Another name for a field that never goes on as it came, to a recipient that makes variables of names
    /// (RFC 3875 section 4.1.18): `Content_Length`.
    Twin,
    Upgrade,
    Via,
    XForwardedFor,
    XForwardedHost,
    XForwardedProto,
}

impl Class {
    /// The class of the field with this name, unless `Connection` nominates it.
    pub(super) fn of(name: &str) -> Self {
        // Most are spelled in the usual way, which takes a look at a few words instead of at each byte.
        let is = |usual: &str| name == usual || name.eq_ignore_ascii_case(usual);
        match name.len() {
            2 if is("TE") => Self::Te,
            3 if is("Via") => Self::Via,
            4 if is("Host") => Self::Host,
            6 if is("Expect") => Self::Expect,
            6 if is("Origin") => Self::Origin,
            7 if is("Referer") => Self::Referer,
            7 if is("Upgrade") => Self::Upgrade,
            8 if is("Location") => Self::Location,
            9 if is("Forwarded") => Self::Forwarded,
            10 if is("Connection") => Self::Connection,
            10 if is("Keep-Alive") => Self::HopByHop,
            12 if is("Max-Forwards") => Self::MaxForwards,
            12 if is("Proxy-Status") => Self::ProxyStatus,
            12 if is("X-Request-Id") => Self::RequestId,
            13 if is("Authorization") => Self::Authorization,
            14 if is("Content-Length") => Self::ContentLength,
            15 if is("X-Forwarded-For") => Self::XForwardedFor,
            16 if is("X-Forwarded-Host") => Self::XForwardedHost,
            16 if is("Proxy-Connection") => Self::HopByHop,
            16 if is("WWW-Authenticate") => Self::Challenge,
            17 if is("Transfer-Encoding") => Self::TransferEncoding,
            17 if is("X-Forwarded-Proto") => Self::XForwardedProto,
            // They are between a client and the proxy next to it, and we ask for no such credentials.
            18 if is("Proxy-Authenticate") => Self::ProxyChallenge,
            19 if is("Proxy-Authorization") => Self::HopByHop,
            _ => Self::of_less_usual(name),
        }
    }

    /// The class of a field whose exact name is not among the usual ones. Most are end-to-end, and their
    /// first letter tells.
    fn of_less_usual(name: &str) -> Self {
        let like = |usual: &str| is_like(name, usual);
        let is_forwarded = |usual: &[&str]| usual.iter().any(|usual| like(usual));
        let is_twin = is_forwarded;
        match name.as_bytes().first().map(u8::to_ascii_lowercase) {
            // It becomes HTTP_PROXY, which many programs obey ("httpoxy").
            Some(b'p') if like("Proxy") => Self::Forwarded,
            Some(b'x') if begins_like(name, "X-Forwarded-") || begins_like(name, "X-Original-") => {
                Self::Forwarded
            }
            Some(b'x')
                if is_forwarded(&["X-Real-IP", "X-Rewrite-URL", "X-Client-IP", "X-Cluster-Client-IP"]) =>
            {
                Self::Forwarded
            }
            Some(b'c') if like("CF-Connecting-IP") => Self::Forwarded,
            Some(b't') if like("True-Client-IP") => Self::Forwarded,
            Some(b's') if is_slime(name) => Self::Slime,
            Some(b's') if begins_like(name, "Slime-") => Self::Twin,
            Some(b'c') if like("Content-Length") => Self::Twin,
            Some(b'k') if like("Keep-Alive") => Self::Twin,
            Some(b'm') if like("Max-Forwards") => Self::Twin,
            Some(b't') if like("Transfer-Encoding") => Self::Twin,
            Some(b'x') if like("X-Request-Id") => Self::Twin,
            Some(b'p')
                if is_twin(&[
                    "Proxy-Authenticate",
                    "Proxy-Authorization",
                    "Proxy-Connection",
                    "Proxy-Status",
                ]) =>
            {
                Self::Twin
            }
            Some(_) | None => Self::EndToEnd,
        }
    }
}

/// Whether a name begins as `usual` does, to a recipient that makes a variable of it: in either case, and
/// with anything that is neither letter nor digit for a hyphen. CGI, WSGI and PHP have one variable for
/// `X-Forwarded-For` and `X_Forwarded_For`; some servers for `X.Forwarded.For`, too.
pub(super) fn begins_like(name: &str, usual: &str) -> bool {
    name.len() >= usual.len()
        && name.bytes().zip(usual.bytes()).all(|(byte, usual)| {
            byte.eq_ignore_ascii_case(&usual) || usual == b'-' && !byte.is_ascii_alphanumeric()
        })
}

/// Whether an agent may be told to set a field of this name: none that frames or routes the message, belongs
/// to a connection, or is what slime itself says.
pub fn can_be_set(name: &str) -> bool {
    let class = Class::of(name);
    is_token(name.as_bytes())
        && matches!(
            class,
            Class::Authorization | Class::EndToEnd | Class::Origin | Class::Referer | Class::RequestId
        )
}

/// Whether these bytes are a field value (RFC 9110 section 5.5), without white space around it.
pub fn is_value(value: &[u8]) -> bool {
    trim(value) == value && value.iter().all(|&byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..))
}

/// Whether two names are one to a recipient that makes a variable of them.
pub(super) fn is_like(name: &str, usual: &str) -> bool {
    name.len() == usual.len() && begins_like(name, usual)
}

/// Whether a field is one of ours: `Slime-*`. None of them ever passes from an application to an upstream or
/// back.
pub fn is_slime(name: &str) -> bool {
    name.get(..6).is_some_and(|prefix| prefix.eq_ignore_ascii_case("slime-"))
}

/// The members of a comma-separated list, without the white space around them; empty ones too (RFC 9110
/// section 5.6.1). For lists whose members hold no quoted strings.
pub fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim)
}

/// Whether a list has this member, in any case.
pub fn has_member(value: &[u8], member: &str) -> bool {
    members(value).any(|other| other.eq_ignore_ascii_case(member.as_bytes()))
}

/// Whether credentials, or a list of challenges, authenticate the connection and not the message: whatever
/// comes on it afterwards is taken for the same user's (RFC 4559 section 6). A comma in a quoted string only
/// makes one more member.
pub(super) fn binds_connection(value: &[u8]) -> bool {
    const SCHEMES: [&[u8]; 4] = [b"NTLM", b"Negotiate", b"Kerberos", b"CredSSP"];
    members(value).any(|member| {
        let scheme = member.split(|byte| matches!(byte, b' ' | b'\t')).next().unwrap_or_default();
        SCHEMES.iter().any(|other| scheme.eq_ignore_ascii_case(other))
    })
}

/// Whether one of the proxies in a `Via` field calls itself `name` (RFC 9110 section 7.6.3).
pub(super) fn is_received_by(value: &[u8], name: &str) -> bool {
    members(value).any(|member| {
        let mut words = member.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
        words.nth(1).is_some_and(|received_by| received_by.eq_ignore_ascii_case(name.as_bytes()))
    })
}

/// Whether a `Proxy-Status` field speaks in the name of slime (RFC 9209 section 2): the name is a token or a
/// string.
pub(super) fn speaks_as_slime(value: &[u8]) -> bool {
    members(value).any(|member| {
        let member = member.strip_prefix(b"\"").unwrap_or(member);
        let name = member.split(|byte| !is_token_byte(*byte)).next().unwrap_or_default();
        name.eq_ignore_ascii_case(b"slime")
    })
}

/// Without the optional white space at both ends: space and tab, and nothing else (RFC 9110 section 5.6.3).
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// A number of seconds in decimal digits, with a fraction or without; what is beyond milliseconds is dropped.
/// No sign, no exponent.
pub fn seconds(value: &[u8]) -> Option<Duration> {
    let mut halves = value.splitn(2, |&byte| byte == b'.');
    let (whole, fraction) = (halves.next()?, halves.next().unwrap_or_default());
    if whole.is_empty() && fraction.is_empty() || !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let append = |number: u64, byte: &u8| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    };
    let seconds = whole.iter().try_fold(0, append)?;
    let millis = fraction.iter().chain(b"000").take(3).try_fold(0, append)?;
    Duration::from_secs(seconds).checked_add(Duration::from_millis(millis))
}

/// Whether these bytes are a token (RFC 9110 section 5.6.2).
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| is_token_byte(byte))
}

/// Whether a token may hold this byte.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What the `Connection` fields of a head say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Connection {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    nominated: usize,
}

impl Connection {
    /// Takes in one field. Nominating what delimits or routes the message would have the next hop read
    /// another message than we did.
    pub(super) fn add(&mut self, value: &[u8]) -> Result<(), Violation> {
        for option in members(value) {
            match ConnectionOption::of(option) {
                ConnectionOption::Close => self.close = true,
                ConnectionOption::KeepAlive => self.keep_alive = true,
                ConnectionOption::Upgrade => self.upgrade = true,
                ConnectionOption::Known => {}
                ConnectionOption::Forbidden => {
                    return Err(Violation::malformed(
                        "Connection names a field that frames or routes the message",
                    ));
                }
                ConnectionOption::Nominated => self.nominated += 1,
            }
        }
        if self.nominated > MAX_NOMINATED {
            return Err(Violation::malformed("Connection names too many fields"));
        }
        Ok(())
    }

    /// Makes the nominated fields hop-by-hop. Fields that are never copied keep their class.
    pub(super) fn mark(&self, fields: &[Field<'_>], classes: &mut Classes) {
        if self.nominated == 0 {
            return;
        }
        for lister in 0..fields.len() {
            let (Some(field), Some(Class::Connection)) = (fields.get(lister), classes.get(lister)) else {
                continue;
            };
            for option in members(field.value)
                .filter(|option| ConnectionOption::of(option) == ConnectionOption::Nominated)
            {
                for (other, class) in fields.iter().zip(classes.iter_mut()) {
                    if *class != Class::Slime && other.name.as_bytes().eq_ignore_ascii_case(option) {
                        *class = Class::HopByHop;
                    }
                }
            }
        }
    }
}

/// A connection option (RFC 9110 section 7.6.1).
#[derive(Clone, Copy, PartialEq, Eq)]
enum ConnectionOption {
    Close,
    KeepAlive,
    Upgrade,
    /// Empty, or a field that is never nominated away: it does not go on unchanged anyway, or proxies speak
    /// in it.
    Known,
    Forbidden,
    Nominated,
}

impl ConnectionOption {
    fn of(option: &[u8]) -> Self {
        let is = |other: &str| option.eq_ignore_ascii_case(other.as_bytes());
        match option.len() {
            0 => return Self::Known,
            5 if is("close") => return Self::Close,
            7 if is("upgrade") => return Self::Upgrade,
            10 if is("keep-alive") => return Self::KeepAlive,
            _ => {}
        }
        let Ok(name) = core::str::from_utf8(option) else { return Self::Known };
        match Class::of(name) {
            Class::ContentLength | Class::Host | Class::TransferEncoding => Self::Forbidden,
            // What proxies say on the way is for all recipients: a stranger who could nominate it away would
            // speak in the stead of the trusted proxy that has set it, or hide that a request has been here
            // before.
            Class::Connection
            | Class::Expect
            | Class::Forwarded
            | Class::HopByHop
            | Class::MaxForwards
            | Class::ProxyChallenge
            | Class::ProxyStatus
            | Class::Slime
            | Class::Te
            | Class::Twin
            | Class::Upgrade
            | Class::Via
            | Class::XForwardedFor
            | Class::XForwardedHost
            | Class::XForwardedProto => Self::Known,
            Class::Authorization
            | Class::Challenge
            | Class::EndToEnd
            | Class::Location
            | Class::Origin
            | Class::Referer
            | Class::RequestId => Self::Nominated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_seconds() {
        for (text, millis) in [
            ("0", 0),
            ("15", 15_000),
            ("2.5", 2500),
            ("0.050", 50),
            (".25", 250),
            ("7.", 7000),
            ("1.9999", 1999),
            ("86400.000", 86_400_000),
            ("00000000000000000000000000001", 1000),
        ] {
            assert_eq!(seconds(text.as_bytes()), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            ".",
            "-1",
            "+1",
            "1e3",
            "inf",
            "NaN",
            "1.2.3",
            "1,5",
            " 1",
            "1 ",
            "0x1",
            "1.5s",
            "1.000x",
            "\u{661}",
            "99999999999999999999",
        ] {
            assert_eq!(seconds(text.as_bytes()), None, "{text}");
        }
    }
}
