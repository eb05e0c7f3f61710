//! What TLS needs beside the protocol itself: certificates, keys, and whom to trust.
//!
//! rustls with ring; TLS 1.2 and 1.3; ALPN `http/1.1`. Certificates are always verified: against the roots of
//! Mozilla that are built in, against an authority that is named, or against a fingerprint. Errors here are
//! whole sentences for the operator.

use core::time::Duration;
use std::io;
use std::path::Path;
use std::sync::Arc;

use ring::digest;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring as provider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, ServerConfig,
    SignatureScheme,
};

use super::explain::{WrongPin, own_certificate};
use crate::proto::admin::machine::Certificate;

/// The one protocol that is spoken over TLS (RFC 7301).
const ALPN: &[u8] = b"http/1.1";
/// What clients offer that speak only this (`curl --http1.0`). A hub serves them; HTTP/1.1 is chosen where
/// both are offered.
const ALPN_OLD: &[u8] = b"http/1.0";

/// The longest chain that is shown, in bytes: a message of a handshake has at most 64 KB, and other messages
/// go along with it.
const MAX_CHAIN_BYTES: usize = 60_000;

/// Whom an agent trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// The authorities that browsers trust.
    #[default]
    WebRoots,
    /// The authorities in this PEM file, and no others; and servers whose own certificate stands in it, byte
    /// for byte, whether it is one of an authority or not: `openssl req -x509` makes such.
    Authority(std::path::PathBuf),
    /// The certificates with these fingerprints.
    Pins(Vec<Pin>),
}

/// The SHA-256 of a certificate in DER, as `openssl x509 -fingerprint -sha256` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin of a certificate.
    pub fn of(certificate: &[u8]) -> Self {
        let mut pin = [0; 32];
        let sum = digest::digest(&digest::SHA256, certificate);
        pin.iter_mut().zip(sum.as_ref()).for_each(|(to, from)| *to = *from);
        Self(pin)
    }

    /// Reads `sha256:` and 64 hex digits, with or without colons between them, or what openssl prints.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: Vec<u8> = text
            .strip_prefix("sha256:")
            .or(text.strip_prefix("sha256 Fingerprint="))?
            .bytes()
            .filter(|byte| *byte != b':')
            .collect();
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let mut pin = [0; 32];
        if digits.len() != 2 * pin.len() {
            return None;
        }
        for (byte, pair) in pin.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] = pair else { return None };
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Some(Self(pin))
    }
}

impl core::fmt::Display for Pin {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a hub offers: the certificate chain and the key in these PEM files. The pin of its certificate comes
/// along.
///
/// # Errors
/// A file cannot be read or holds nothing of the kind, the key is not the certificate's, or the certificate
/// is not valid at present (`unix`, in seconds since 1970).
pub fn server_config(certificate: &Path, key: &Path, unix: u64) -> Result<Offer, String> {
    let chain = certificates(certificate)?;
    let key_der = private_key(key)?;
    let leaf =
        chain.first().ok_or_else(|| format!("there is no certificate in {}", certificate.display()))?;
    if chain.iter().map(|certificate| certificate.len()).sum::<usize>() > MAX_CHAIN_BYTES {
        return Err(format!(
            "the certificates in {} take more than 60 KB, which is more than clients read; remove those that are not needed",
            certificate.display()
        ));
    }
    check_validity(leaf, unix)
        .map_err(|why| format!("the certificate in {} {why}", certificate.display()))?;
    let leaf = leaf.clone();
    let pin = Pin::of(&leaf);
    let mut config = ServerConfig::builder_with_provider(crypto())
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key_der))
        .map_err(|error| {
            if let Error::InconsistentKeys(_) = error {
                return format!(
                    "the key in {} does not belong to the certificate in {}",
                    key.display(),
                    certificate.display()
                );
            }
            format!("cannot use the certificate in {}: {}", certificate.display(), own_certificate(&error))
        })?;
    config.alpn_protocols = vec![ALPN.to_vec(), ALPN_OLD.to_vec()];
    // An agent that dials again, or an application without keep-alive, spares both sides the costly part of a
    // handshake.
    config.ticketer = provider::Ticketer::new()
        .map_err(|error| format!("cannot make keys for session tickets: {error}"))?;
    config.send_tls13_tickets = 1;
    Ok(Offer { config: Arc::new(config), pin, expires: expiry(&leaf) })
}

/// What a hub offers to those who connect by TLS.
#[derive(Clone, Debug)]
pub struct Offer {
    /// What rustls needs for it.
    pub config: Arc<ServerConfig>,
    /// The pin of the certificate.
    pub pin: Pin,
    /// When the certificate ends, in seconds since 1970, if it does.
    pub expires: Option<u64>,
}

impl Offer {
    /// What people are told of it.
    pub fn certificate(&self) -> Certificate {
        Certificate { pin: self.pin.to_string(), expires: self.expires }
    }
}

/// 9999-12-31T23:59:59Z.
const END_OF_YEARS: u64 = 253_402_300_799;

/// What an agent offers, and whom it trusts.
///
/// # Errors
/// The authority's file cannot be read or holds no certificate.
pub fn client_config(trust: &Trust) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(crypto())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = match trust {
        Trust::WebRoots => {
            let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        Trust::Authority(file) => {
            let mut roots = RootCertStore::empty();
            let own = certificates(file)?;
            for certificate in &own {
                roots
                    .add(certificate.clone())
                    .map_err(|error| format!("cannot trust a certificate in {}: {error}", file.display()))?;
            }
            let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), crypto());
            let authorities = authorities.build().map_err(|error| error.to_string())?;
            let pins = own.iter().map(|certificate| Pin::of(certificate)).collect();
            let verifier = PinVerifier { pins, else_by: Some(authorities), provider: crypto() };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
        }
        Trust::Pins(pins) => {
            let verifier = PinVerifier { pins: pins.clone(), else_by: None, provider: crypto() };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

fn crypto() -> Arc<CryptoProvider> {
    Arc::new(provider::default_provider())
}

/// The certificates in a file, one at least.
pub(super) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unreadable =
        |error: &dyn core::fmt::Display| format!("cannot read certificates from {}: {error}", file.display());
    let text = read_pem(file).map_err(|error| unreadable(&error))?;
    let all: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| unreadable(&in_words(&error)))?;
    if all.is_empty() {
        return Err(format!("there is no certificate in {}; {PEM_BEGINS}", file.display()));
    }
    Ok(all)
}

/// The private key in a file.
#[allow(clippy::wildcard_enum_match_arm, reason = "the enum is open")]
fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let name = file.display();
    let text = read_pem(file).map_err(|error| format!("cannot read a private key from {name}: {error}"))?;
    // PKCS#8, and what OpenSSL wrote before that (RFC 1421 section 4.6.1.1).
    let has = |words: &[u8]| text.windows(words.len()).any(|window| window == words);
    if has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") {
        return Err(format!(
            "the private key in {name} is encrypted; write it without a password: openssl pkey -in {name} -out NEW"
        ));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => format!("there is no private key in {name}; {PEM_BEGINS}"),
        other => format!("cannot read a private key from {name}: {}", in_words(&other)),
    })
}

/// What a file of the other kind of encoding lacks.
const PEM_BEGINS: &str = "PEM is needed, which begins with -----BEGIN";

/// What is in the file, without what some editors put at its beginning.
fn read_pem(file: &Path) -> io::Result<Vec<u8>> {
    const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
    let text = std::fs::read(file)?;
    Ok(text.strip_prefix(BYTE_ORDER_MARK).map(<[u8]>::to_vec).unwrap_or(text))
}

/// What is wrong with a file in PEM.
#[allow(clippy::wildcard_enum_match_arm, reason = "the enum is open")]
fn in_words(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "it is cut off: an END line is missing".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is not well-formed".to_owned(),
        pem::Error::Base64Decode(_) => "what stands between BEGIN and END is damaged".to_owned(),
        other => other.to_string(),
    }
}

/// Looks at the dates of a certificate.
fn check_validity(leaf: &CertificateDer<'_>, unix: u64) -> Result<(), &'static str> {
    match verify_at(leaf, unix)? {
        Some(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => Err("has expired"),
        Some(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            Err("is not valid yet (or the clock of this machine is wrong)")
        }
        Some(_) | None => Ok(()),
    }
}

/// When a certificate ends, in seconds since 1970. `None` if it says that it does not (RFC 5280 section
/// 4.1.2.5), which is what a time after all of its years shows.
fn expiry(leaf: &CertificateDer<'_>) -> Option<u64> {
    let Ok(Some(CertificateError::ExpiredContext { not_after, .. })) = verify_at(leaf, END_OF_YEARS + 1)
    else {
        return None;
    };
    Some(not_after.as_secs()).filter(|end| *end < END_OF_YEARS)
}

/// What is wrong with a certificate at a time, if anything is. It is verified as its own authority: dates
/// come before everything else.
fn verify_at(leaf: &CertificateDer<'_>, unix: u64) -> Result<Option<CertificateError>, &'static str> {
    let mut roots = RootCertStore::empty();
    if roots.add(leaf.clone().into_owned()).is_err() {
        return Err("cannot be read");
    }
    let Ok(verifier) = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), crypto()).build() else {
        return Ok(None);
    };
    let Ok(name) = ServerName::try_from("slime.invalid") else { return Ok(None) };
    let time = UnixTime::since_unix_epoch(Duration::from_secs(unix));
    Ok(match verifier.verify_server_cert(leaf, &[], &name, &[], time) {
        Err(Error::InvalidCertificate(error)) => Some(error),
        Ok(_) | Err(_) => None,
    })
}

/// Accepts certain certificates, and what others accept. That is no way around verification: the key of the
/// certificate must have signed the handshake. Name and dates of a pinned one are not looked at, so that it
/// holds for any address and on machines without a clock.
#[derive(Debug)]
struct PinVerifier {
    pins: Vec<Pin>,
    else_by: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pin = Pin::of(end_entity);
        if self.pins.contains(&pin) {
            return Ok(ServerCertVerified::assertion());
        }
        match &self.else_by {
            Some(verifier) => {
                verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => {
                let wrong = OtherError(Arc::new(WrongPin(pin)));
                Err(Error::InvalidCertificate(CertificateError::Other(wrong)))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_known() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = date_time_ymd(2033, 5, 18);
        let certificate = params.self_signed(&key).unwrap();
        assert_eq!(expiry(certificate.der()), Some(1_999_987_200));
        assert_eq!(check_validity(certificate.der(), 1_999_987_200), Ok(()));
        assert_eq!(check_validity(certificate.der(), 1_999_987_201), Err("has expired"));
        params.not_after = date_time_ymd(9999, 12, 31) + Duration::from_secs(86_399);
        assert_eq!(expiry(params.self_signed(&key).unwrap().der()), None);
    }
}
