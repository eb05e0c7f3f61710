//! What TLS needs beside the protocol itself: certificates, keys, and whom to trust.
//!
//! rustls with ring; TLS 1.2 and 1.3; ALPN `http/1.1`. Certificates are always verified: against the roots of Mozilla that are built in,
//! against an authority that is named, or against a fingerprint. Errors here are whole sentences for the operator.

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
    CertificateError, ClientConfig, DigitallySignedStruct, Error, InvalidMessage, OtherError, RootCertStore,
    ServerConfig, SignatureScheme,
};

/// The one protocol that is spoken over TLS (RFC 7301).
const ALPN: &[u8] = b"http/1.1";
/// What clients offer that speak only this (`curl --http1.0`). A hub serves them; HTTP/1.1 is chosen where both are offered.
const ALPN_OLD: &[u8] = b"http/1.0";

/// Whom an agent trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// The authorities that browsers trust.
    #[default]
    WebRoots,
    /// The authorities in this PEM file, and no others.
    Authority(std::path::PathBuf),
    /// The one certificate with this fingerprint.
    Pin(Pin),
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

    /// Reads `sha256:` and 64 hex digits, with or without colons between them.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: Vec<u8> = text.strip_prefix("sha256:")?.bytes().filter(|byte| *byte != b':').collect();
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

/// What a hub offers: the certificate chain and the key in these PEM files. The pin of its certificate comes along.
///
/// # Errors
/// A file cannot be read or holds nothing of the kind, the key is not the certificate's, or the certificate is not valid at present
/// (`unix`, in seconds since 1970).
pub fn server_config(certificate: &Path, key: &Path, unix: u64) -> Result<(Arc<ServerConfig>, Pin), String> {
    let chain = certificates(certificate)?;
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| {
        if let pem::Error::NoItemsFound = error {
            return format!("there is no private key in {}", key.display());
        }
        format!("cannot read a private key from {}: {error}", key.display())
    })?;
    let leaf =
        chain.first().ok_or_else(|| format!("there is no certificate in {}", certificate.display()))?;
    check_validity(leaf, unix)
        .map_err(|why| format!("the certificate in {} {why}", certificate.display()))?;
    let pin = Pin::of(leaf);
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
            format!("cannot use the certificate in {}: {error}", certificate.display())
        })?;
    config.alpn_protocols = vec![ALPN.to_vec(), ALPN_OLD.to_vec()];
    // An agent that dials again, or an application without keep-alive, spares both sides the costly part of a handshake.
    config.ticketer = provider::Ticketer::new()
        .map_err(|error| format!("cannot make keys for session tickets: {error}"))?;
    config.send_tls13_tickets = 1;
    Ok((Arc::new(config), pin))
}

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
            for certificate in certificates(file)? {
                roots
                    .add(certificate)
                    .map_err(|error| format!("cannot trust a certificate in {}: {error}", file.display()))?;
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        // Not a way around verification: exactly one certificate is accepted, and its key must have signed the handshake.
        Trust::Pin(pin) => {
            let verifier = PinVerifier { pin: *pin, provider: crypto() };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// A failure in words for the operator.
pub(super) fn explain(error: &Error) -> String {
    if let Error::InvalidMessage(InvalidMessage::InvalidContentType) = error {
        return "it does not speak TLS".to_owned();
    }
    let Error::InvalidCertificate(certificate) = error else { return error.to_string() };
    if let CertificateError::Other(other) = certificate {
        return other.to_string();
    }
    // What rustls does not say: what to do about it.
    let hint = if *certificate == CertificateError::UnknownIssuer {
        "; --hub-ca, --hub-pin or --upstream-ca name whom to trust"
    } else if matches!(
        certificate,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }
    ) {
        "; is the clock of this machine set?"
    } else {
        ""
    };
    format!("{error}{hint}")
}

fn crypto() -> Arc<CryptoProvider> {
    Arc::new(provider::default_provider())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unreadable = |error: pem::Error| format!("cannot read certificates from {}: {error}", file.display());
    let all: Vec<_> = CertificateDer::pem_file_iter(file)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    if all.is_empty() {
        return Err(format!("there is no certificate in {}", file.display()));
    }
    Ok(all)
}

/// Looks at the dates of a certificate, by verifying it as its own authority: dates come before everything else.
fn check_validity(leaf: &CertificateDer<'_>, unix: u64) -> Result<(), &'static str> {
    let mut roots = RootCertStore::empty();
    if roots.add(leaf.clone().into_owned()).is_err() {
        return Err("cannot be read");
    }
    let Ok(verifier) = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), crypto()).build() else {
        return Ok(());
    };
    let Ok(name) = ServerName::try_from("slime.invalid") else { return Ok(()) };
    match verifier.verify_server_cert(
        leaf,
        &[],
        &name,
        &[],
        UnixTime::since_unix_epoch(Duration::from_secs(unix)),
    ) {
        Err(Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => Err("has expired"),
        Err(Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        )) => Err("is not valid yet (or the clock of this machine is wrong)"),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Accepts one certificate.
#[derive(Debug)]
struct PinVerifier {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if Pin::of(end_entity) == self.pin {
            return Ok(ServerCertVerified::assertion());
        }
        let other =
            format!("its certificate has another pin than that of --hub-pin: {}", Pin::of(end_entity));
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(io::Error::other(other))))))
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
