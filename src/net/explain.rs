//! Why TLS failed, in sentences for an operator: what is wrong, and what to do next. No name of an alert or
//! an error of rustls, which only its authors know.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "the enums of rustls are open, and most of their variants have no sentence of their own"
)]

use core::fmt::{self, Write as _};

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

use super::tls::Pin;
use super::tls_stream::{HandshakeFailure, TlsPeer};
use crate::proto::seam::Target;
use crate::proto::tables::timer::CLOCK_IS_SET;
use crate::proto::utc::Utc;

/// A certificate that is not the one that was pinned.
#[derive(Debug)]
pub(super) struct WrongPin(pub(super) Pin);

impl fmt::Display for WrongPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its certificate's pin is {}", self.0)
    }
}

impl core::error::Error for WrongPin {}

/// Why a hub cannot use its own certificate. "It" is the certificate.
pub(super) fn own_certificate(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) if other.to_string() == OLD_VERSION => {
            format!("it is of {ONLY_VERSION_3}")
        }
        Error::InvalidCertificate(CertificateError::BadEncoding) => {
            "it is damaged; write the file anew".to_owned()
        }
        other => in_words(&other.to_string()),
    }
}

/// webpki's name for a certificate of an older version of X.509.
const OLD_VERSION: &str = "UnsupportedCertVersion";
const ONLY_VERSION_3: &str = "X.509 version 1 or 2, which TLS libraries no longer accept; issue one of version 3, as `openssl req -x509` does";

/// The flags that say whom to trust.
struct Flags {
    address: &'static str,
    ca: &'static str,
    pin: &'static str,
}

const HUB: Flags = Flags { address: "--hub", ca: "--hub-ca", pin: "--hub-pin" };
const UPSTREAM: Flags = Flags { address: "--upstream", ca: "--upstream-ca", pin: "--upstream-pin" };

/// Why a handshake failed, in words for the operator.
pub(super) fn explain_handshake(failure: &HandshakeFailure<'_>, peer: TlsPeer) -> String {
    match failure {
        HandshakeFailure::Unfinished => "the other side did not finish the handshake".to_owned(),
        HandshakeFailure::Error(error) => explain(error, peer),
    }
}

/// A failure in words for the operator. "It" is the other side.
fn explain(error: &Error, peer: TlsPeer) -> String {
    let flags = match peer {
        TlsPeer::Client(_) => None,
        TlsPeer::Target(Target::Hub) => Some(&HUB),
        TlsPeer::Target(Target::Upstream(_)) => Some(&UPSTREAM),
    };
    match (error, flags) {
        (Error::InvalidCertificate(error), Some(flags)) => certificate(error, flags),
        // Nobody is asked for a certificate by a hub.
        (Error::InvalidCertificate(_), None) => "its certificate cannot be verified".to_owned(),
        (Error::AlertReceived(alert), None) => refused_by_client(*alert),
        (Error::AlertReceived(alert), Some(flags)) => refused_by_server(*alert, flags),
        (Error::PeerIncompatible(error), _) => incompatible(error, flags.is_none()),
        (Error::InvalidMessage(InvalidMessage::InvalidContentType), None) => {
            "it does not speak TLS".to_owned()
        }
        (Error::InvalidMessage(InvalidMessage::InvalidContentType), Some(flags)) => {
            format!("it does not speak TLS; should {} begin with http://?", flags.address)
        }
        (
            Error::InvalidMessage(
                InvalidMessage::CertificatePayloadTooLarge | InvalidMessage::HandshakePayloadTooLarge,
            ),
            Some(_),
        ) => {
            "its certificates take more than 64 KB; remove those from its file that are not needed".to_owned()
        }
        (Error::NoCertificatesPresented, _) => "it shows no certificate; give it one".to_owned(),
        (Error::NoApplicationProtocol, None) => {
            "it wants another protocol than HTTP/1.1; switch that off there (ALPN)".to_owned()
        }
        (Error::NoApplicationProtocol, Some(_)) => {
            "it does not speak HTTP/1.1; switch that on there (ALPN)".to_owned()
        }
        (Error::FailedToGetCurrentTime, _) => "this machine does not know the time; set its clock".to_owned(),
        (Error::FailedToGetRandomBytes, _) => "the system has no random numbers".to_owned(),
        // What is left are messages that no good peer sends. What exactly was wrong is for bug reports.
        (other, _) => format!(
            "it sends what is not valid TLS ({}); look for a defect there, or for something that changes what passes",
            in_words(&other.to_string())
        ),
    }
}

/// What is wrong with the certificate of a server.
fn certificate(error: &CertificateError, flags: &Flags) -> String {
    let Flags { address, ca, pin } = flags;
    match error {
        CertificateError::UnknownIssuer => format!(
            "its certificate was issued by nobody that this agent trusts; give the issuer's certificate, or the server's own, with \
             {ca}, or the server's fingerprint with {pin}"
        ),
        CertificateError::Expired => {
            "its certificate has expired; renew it, or set the clock of this machine".to_owned()
        }
        CertificateError::NotValidYet => {
            "its certificate is not valid yet; is the clock of this machine set?".to_owned()
        }
        CertificateError::ExpiredContext { time, not_after } => format!(
            "its certificate expired at {}, and the clock of this machine says {}; renew it, or set the clock",
            Utc(not_after.as_secs()),
            Utc(time.as_secs())
        ),
        CertificateError::NotValidYetContext { time, not_before } => {
            let (now, from) = (time.as_secs(), Utc(not_before.as_secs()));
            let clock = if now < CLOCK_IS_SET { "is not set" } else { "may be wrong" };
            format!(
                "its certificate is valid from {from} on, and the clock of this machine, which says {}, {clock}; set it, or use \
                 {pin}, which looks at no dates",
                Utc(now)
            )
        }
        CertificateError::NotValidForName => {
            format!("its certificate is for another name; use a name from it in {address}, or {pin}")
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<&str> = presented.iter().map(|name| bare_name(name)).collect();
            let names = if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") };
            format!(
                "its certificate is not valid for {}, but for {names}; use a name from it in {address}, or {pin}",
                expected.to_str()
            )
        }
        CertificateError::BadSignature => format!(
            "the signature of its certificate is wrong; another issuer of the same name may be in the file of {ca}"
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => format!(
            "its certificate is not meant for servers (extended key usage); issue one for serverAuth, or use {pin}"
        ),
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => format!(
            "its certificate is signed in a way that is not accepted (SHA-1, or a short key); issue a new one, or use {pin}"
        ),
        CertificateError::UnhandledCriticalExtension => format!(
            "its certificate has a critical extension that is not understood; issue one without it, or use {pin}"
        ),
        CertificateError::BadEncoding => {
            "its certificate cannot be read; X.509 version 3 is needed, so issue a new one".to_owned()
        }
        CertificateError::Other(other) => match other.0.downcast_ref::<WrongPin>() {
            Some(wrong) => format!("{wrong}, not the one given with {pin}"),
            None => unusual(&other.to_string(), flags),
        },
        other => unusual(&other.to_string(), flags),
    }
}

/// What the path of a certificate broke, by the names that webpki has for it.
fn unusual(name: &str, Flags { ca, pin, .. }: &Flags) -> String {
    match name {
        "CaUsedAsEndEntity" => format!(
            "its certificate is one of a CA (CA:TRUE); give the same certificate with {ca}, or its fingerprint with {pin}"
        ),
        // A pin does not help: the key in it is not read either.
        OLD_VERSION => format!("its certificate is of {ONLY_VERSION_3}"),
        "EndEntityUsedAsCa" => format!(
            "the certificate that issued its certificate is not one of a CA; issue a new one, or use {pin}"
        ),
        "NameConstraintViolation" => {
            format!("its issuer may not issue certificates for this name; use another issuer, or {pin}")
        }
        "PathLenConstraintViolated" | "MaximumPathDepthExceeded" => {
            format!(
                "there are more issuers above its certificate than are allowed; use another chain, or {pin}"
            )
        }
        other => format!("its certificate cannot be verified ({}); use {pin}", in_words(other)),
    }
}

/// A client, which may be an agent or an application, refused the hub.
fn refused_by_client(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA
        | AlertDescription::CertificateUnknown
        | AlertDescription::BadCertificate
        | AlertDescription::NoCertificate
        | AlertDescription::UnsupportedCertificate => {
            "it does not trust the certificate of this hub; an agent needs --hub-ca or --hub-pin, another client the certificate's \
             issuer"
                .to_owned()
        }
        AlertDescription::CertificateExpired => {
            "it holds the certificate of this hub for expired; renew it, or set the clock there".to_owned()
        }
        other => refused(other),
    }
}

/// A server refused this agent.
fn refused_by_server(alert: AlertDescription, Flags { address, .. }: &Flags) -> String {
    match alert {
        AlertDescription::UnrecognisedName => {
            format!(
                "it does not know the name that it was asked for; {address} must have a name that it serves"
            )
        }
        AlertDescription::CertificateRequired
        | AlertDescription::NoCertificate
        | AlertDescription::BadCertificate => {
            "it wants a certificate of its clients, and an agent has none; switch that off there".to_owned()
        }
        other => refused(other),
    }
}

/// The other side ended the handshake, whichever it is.
fn refused(alert: AlertDescription) -> String {
    let what = match alert {
        AlertDescription::ProtocolVersion => {
            "it refuses TLS 1.2 and 1.3, which are spoken here; update it, or allow one of them there"
        }
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
            "it has no cipher, group or kind of key in common with this side; allow newer ones there"
        }
        AlertDescription::NoApplicationProtocol => "it does not accept HTTP/1.1; switch that on there (ALPN)",
        AlertDescription::CloseNotify | AlertDescription::UserCanceled => {
            "it ended the handshake before it was complete; its own log may say why"
        }
        AlertDescription::AccessDenied => "it denies access; its own log may say why",
        AlertDescription::InternalError => "it failed by an error of its own; its own log may say more",
        AlertDescription::DecryptError
        | AlertDescription::BadRecordMac
        | AlertDescription::DecodeError
        | AlertDescription::DecryptionFailed
        | AlertDescription::IllegalParameter
        | AlertDescription::UnexpectedMessage
        | AlertDescription::RecordOverflow => {
            "it could not read what it was sent; look for something on the way that changes what passes"
        }
        other => {
            let mut text = "it refused the handshake".to_owned();
            // Writing to a string does not fail.
            let _ = write!(text, " (alert {}); its own log may say why", u8::from(other));
            return text;
        }
    };
    what.to_owned()
}

fn incompatible(error: &PeerIncompatible, is_client: bool) -> String {
    match error {
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled => {
            let verb = if is_client { "offers" } else { "speaks" };
            format!("it {verb} neither TLS 1.2 nor 1.3; update it, or allow one of them there")
        }
        _ => "it has no cipher, group or kind of key in common with this side; allow newer ones there"
            .to_owned(),
    }
}

/// `DnsName("hub")` is `hub`, and `IpAddress(10.0.0.1)` is `10.0.0.1`.
fn bare_name(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner.trim_end_matches(')'));
    inner.trim_matches('"')
}

/// A name of several words in one, as programs have them, in words: `UnknownIssuer` is `unknown issuer`.
fn in_words(name: &str) -> String {
    let mut words = String::new();
    let mut after_lower = false;
    for character in name.chars() {
        if after_lower && character.is_ascii_uppercase() {
            words.push(' ');
            words.push(character.to_ascii_lowercase());
        } else {
            words.push(character);
        }
        after_lower = character.is_ascii_lowercase();
    }
    words
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;
    use std::sync::Arc;

    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{OtherError, PeerMisbehaved};

    use super::*;

    const SIDES: [TlsPeer; 3] = [
        TlsPeer::Target(Target::Hub),
        TlsPeer::Target(Target::Upstream(0)),
        TlsPeer::Client(IpAddr::V4(core::net::Ipv4Addr::LOCALHOST)),
    ];

    /// No name that only a programmer knows.
    #[track_caller]
    fn is_plain(text: &str) {
        let is_name = |word: &str| {
            word.as_bytes()
                .windows(2)
                .any(|pair| pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase())
        };
        let odd: Vec<&str> =
            text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| is_name(word)).collect();
        assert!(odd.is_empty() || odd == ["serverAuth"], "{text}");
    }

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(core::time::Duration::from_secs(seconds))
    }

    #[test]
    fn no_alert_and_no_error_is_shown_by_its_name() {
        for with in SIDES {
            for alert in 0..=255 {
                let text = explain(&Error::AlertReceived(AlertDescription::from(alert)), with);
                is_plain(&text);
                assert!(text.starts_with("it ") && text.contains("; "), "what to do: {text}");
            }
            for error in [
                Error::NoCertificatesPresented,
                Error::DecryptError,
                Error::PeerSentOversizedRecord,
                Error::NoApplicationProtocol,
                Error::FailedToGetCurrentTime,
                Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedCipherSuite),
                Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion),
                Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge),
                Error::InvalidMessage(InvalidMessage::InvalidContentType),
                Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
                Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered),
            ] {
                is_plain(&explain(&error, with));
            }
        }
    }

    #[test]
    fn certificates_that_are_not_good() {
        let other =
            |name: &'static str| CertificateError::Other(OtherError(Arc::new(std::io::Error::other(name))));
        let names = CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("hub.example").unwrap(),
            presented: vec!["DnsName(\"elsewhere.example\")".into(), "IpAddress(10.0.0.1)".into()],
        };
        for (error, says) in [
            (CertificateError::UnknownIssuer, "was issued by nobody that this agent trusts; give"),
            (other("CaUsedAsEndEntity"), "is one of a CA (CA:TRUE); give the same certificate with --hub-ca"),
            (
                other(OLD_VERSION),
                "is of X.509 version 1 or 2, which TLS libraries no longer accept; issue one of version 3",
            ),
            (names, "is not valid for hub.example, but for elsewhere.example, 10.0.0.1; use a name"),
            (
                CertificateError::ExpiredContext { time: at(1_700_000_001), not_after: at(1_700_000_000) },
                "expired at 2023-11-14T22:13:20Z, and the clock of this machine says 2023-11-14T22:13:21Z",
            ),
            (
                CertificateError::NotValidYetContext { time: at(5), not_before: at(1_700_000_000) },
                "which says 1970-01-01T00:00:05Z, is not set; set it, or use --hub-pin",
            ),
            (
                CertificateError::NotValidYetContext {
                    time: at(1_750_000_000),
                    not_before: at(1_760_000_000),
                },
                "may be wrong; set it",
            ),
            (
                CertificateError::BadSignature,
                "another issuer of the same name may be in the file of --hub-ca",
            ),
            (CertificateError::InvalidPurpose, "is not meant for servers"),
            (CertificateError::BadEncoding, "X.509 version 3 is needed"),
            (other("NameConstraintViolation"), "may not issue certificates for this name"),
            (other("SomethingQuiteNew"), "cannot be verified (Something quite new); use --hub-pin"),
            (
                CertificateError::Other(OtherError(Arc::new(WrongPin(Pin::of(b""))))),
                "its certificate's pin is sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855, not the one given \
                 with --hub-pin",
            ),
        ] {
            let text = explain(&Error::InvalidCertificate(error.clone()), SIDES[0]);
            assert!(text.contains(says), "{text}");
            is_plain(&text);
            let of_upstream = explain(&Error::InvalidCertificate(error), SIDES[1]);
            assert!(!of_upstream.contains("--hub"), "{of_upstream}");
            is_plain(&of_upstream);
        }
    }
}
