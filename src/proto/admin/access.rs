//! Who may ask what. A unix socket has the rights of its file; on loopback without a password a page that
//! somebody's browser has open must not be able to ask; everywhere else a password is needed.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use super::answer::Answer;
use super::metrics::Samples;
use super::request::Asked;
use crate::config::AdminConfig;
use crate::proto::seam::Caller;
use crate::proto::tables::timer::{Mono, Now};
use crate::proto::trust::password::SecretDigest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Wrong passwords of one source within a minute, until it is slowed.
const FREE_ATTEMPTS: u32 = 10;
/// How long wrong passwords are remembered.
const MEMORY: Duration = Duration::from_secs(60);
/// From one attempt to the next of a source that is slowed.
const PAUSE: Duration = Duration::from_secs(10);
/// The most sources that are remembered. Beyond it the one goes whose last wrong password is the oldest.
const MAX_SOURCES: usize = 256;

/// Why a request was refused before anybody looked at what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The password is missing or wrong.
    Password,
    /// There were too many wrong ones.
    Throttled,
    /// It names a host that we are not.
    Host,
    /// A page of another origin sent it.
    Origin,
    /// It came through a proxy.
    Proxied,
}

/// All reasons with their names, in the order of the type.
const REFUSED: [(Refused, &str); 5] = [
    (Refused::Password, "password"),
    (Refused::Throttled, "throttled"),
    (Refused::Host, "host"),
    (Refused::Origin, "origin"),
    (Refused::Proxied, "proxied"),
];

impl Refused {
    fn answer(self) -> Answer {
        match self {
            Self::Password => Answer::refusal(401, "the admin password is missing or wrong"),
            Self::Throttled => Answer::refusal(429, "too many wrong passwords; try again in 10 seconds"),
            Self::Host => Answer::refusal(
                403,
                "without a password Host must be an address or localhost; set one with --admin-password-file",
            ),
            Self::Origin => Answer::refusal(403, "a page of another origin may not ask this"),
            Self::Proxied => Answer::refusal(
                403,
                "this came through a proxy, which needs a password; set one with --admin-password-file",
            ),
        }
    }
}

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Look, and act.
    All,
    /// Look.
    View,
}

/// Who may, and who was refused.
pub(super) struct Gatekeeper {
    passwords: Vec<(SecretDigest, Access)>,
    sources: Vec<Source>,
    refused: [u64; REFUSED.len()],
}

/// Where wrong passwords came from.
struct Source {
    /// An address of IPv4, or a network of IPv6: whoever has one address of it has all.
    address: IpAddr,
    wrong: u32,
    /// Forgotten then.
    until: Mono,
    /// The next attempt is looked at then.
    next: Mono,
}

impl Gatekeeper {
    pub(super) fn new(config: &AdminConfig) -> Self {
        let passwords = [(&config.password, Access::All), (&config.view_password, Access::View)];
        let passwords = passwords
            .into_iter()
            .filter_map(|(password, access)| Some((SecretDigest::of(password.as_ref()?.as_bytes()), access)));
        let passwords = passwords.collect();
        Self { passwords, sources: Vec::new(), refused: [0; REFUSED.len()] }
    }

    /// What whoever asks this may do; the answer, if he may not even ask.
    pub(super) fn check(&mut self, caller: Caller, asked: &Asked<'_>, now: Now) -> Result<Access, Answer> {
        if asked.is_probe() {
            return Ok(Access::View);
        }
        let checked = match caller {
            // A proxy may lead browsers to a unix socket.
            Caller::Unix | Caller::Network(_) if is_of_another_origin(asked) => Err(Refused::Origin),
            Caller::Unix => Ok(Access::All),
            Caller::Network(_) if self.passwords.is_empty() => {
                if asked.is_forwarded {
                    Err(Refused::Proxied)
                } else if is_literal(asked.authority) {
                    Ok(Access::All)
                } else {
                    Err(Refused::Host)
                }
            }
            Caller::Network(address) => self.check_password(address, asked.authorization, now),
        };
        checked.map_err(|refused| {
            let known = REFUSED.iter().position(|(other, _)| *other == refused);
            if let Some(count) = known.and_then(|index| self.refused.get_mut(index)) {
                *count += 1;
            }
            refused.answer()
        })
    }

    fn check_password(
        &mut self,
        address: IpAddr,
        authorization: Option<&[u8]>,
        now: Now,
    ) -> Result<Access, Refused> {
        let network = network(address);
        self.sources.retain(|source| source.until > now.mono);
        // Who shows nothing has guessed nothing: browsers ask first.
        let Some(shown) = authorization else { return Err(Refused::Password) };
        let known = self.sources.iter().position(|source| source.address == network);
        if let Some(source) = known.and_then(|index| self.sources.get_mut(index))
            && source.wrong >= FREE_ATTEMPTS
        {
            if now.mono < source.next {
                return Err(Refused::Throttled);
            }
            source.next = now.mono.after(PAUSE);
        }
        let shown = password(shown).map(|shown| SecretDigest::of(&shown));
        let is_shown = |password: &SecretDigest| shown.is_some_and(|shown| password.is_same(&shown));
        let mut right = self.passwords.iter().filter(|(password, _)| is_shown(password));
        if let Some((_, access)) = right.next() {
            return Ok(*access);
        }
        self.note_wrong(known, network, now);
        Err(Refused::Password)
    }

    fn note_wrong(&mut self, known: Option<usize>, address: IpAddr, now: Now) {
        let until = now.mono.after(MEMORY);
        if let Some(source) = known.and_then(|index| self.sources.get_mut(index)) {
            source.wrong = source.wrong.saturating_add(1);
            source.until = until;
            if source.wrong == FREE_ATTEMPTS {
                source.next = now.mono.after(PAUSE);
            }
            return;
        }
        if self.sources.len() >= MAX_SOURCES {
            let oldest = self.sources.iter().enumerate().min_by_key(|(_, source)| source.until);
            if let Some(oldest) = oldest.map(|(index, _)| index) {
                self.sources.swap_remove(oldest);
            }
        }
        self.sources.push(Source { address, wrong: 1, until, next: now.mono });
    }

    pub(super) fn write_refusals(&self, samples: &mut Samples<'_>) {
        for ((_, name), count) in REFUSED.iter().zip(self.refused) {
            samples.add(&[name], count);
        }
    }
}

/// Who shares a limit.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

/// The password of an `Authorization`: that of any user, or a bearer's (RFC 7617, RFC 6750).
fn password(authorization: &[u8]) -> Option<Vec<u8>> {
    let (scheme, shown) = authorization.split_at_checked(authorization.iter().position(|it| *it == b' ')?)?;
    let shown = shown.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"Bearer") {
        return Some(shown.to_vec());
    }
    if !scheme.eq_ignore_ascii_case(b"Basic") {
        return None;
    }
    let decoded = STANDARD.decode(shown).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    decoded.get(colon + 1..).map(<[u8]>::to_vec)
}

/// Whether a page sent it that is not one of ours.
fn is_of_another_origin(asked: &Asked<'_>) -> bool {
    asked.origin.is_some_and(|origin| {
        // A proxy before us may speak TLS.
        let host = [&b"http://"[..], b"https://"].into_iter().find_map(|scheme| {
            let (begin, host) = origin.split_at_checked(scheme.len())?;
            begin.eq_ignore_ascii_case(scheme).then_some(host)
        });
        !host.is_some_and(|host| host.eq_ignore_ascii_case(asked.authority.as_bytes()))
    })
}

/// Whether the host is an address or localhost. Any other name may be one that somebody has just made lead
/// here, so that pages of his have our origin.
fn is_literal(authority: &str) -> bool {
    if let Some((address, _)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let host = authority.split_once(':').map_or(authority, |(host, _)| host);
    host.eq_ignore_ascii_case("localhost") || host.parse::<Ipv4Addr>().is_ok()
}
