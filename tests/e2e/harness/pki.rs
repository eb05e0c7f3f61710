//! Certificates for the tests: an authority, and what it signs or does not sign.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

/// Whether this build of the tests runs hub and upstream with TLS.
pub fn is_tls() -> bool {
    env!("CARGO_CRATE_NAME") == "e2e_tls"
}

/// `https://` or `http://`, as this build has it, and what follows.
pub fn url(rest: impl std::fmt::Display) -> String {
    format!("{}://{rest}", if is_tls() { "https" } else { "http" })
}

/// An authority with its own directory of files.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
    name: String,
}

/// A certificate and its key, as files.
#[derive(Clone)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// The authority that the tests trust.
pub fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::new("authority"))
}

/// What hubs and upstreams of the tests show: good for 127.0.0.1, ::1 and localhost.
pub fn identity() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| authority().sign("host", |_| {}))
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("{name} of the tests"));
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let folder = folder();
        fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), folder, name: name.to_owned() }
    }

    /// The file of its certificate.
    pub fn file(&self) -> PathBuf {
        self.folder.join(format!("{}.pem", self.name))
    }

    /// Signs a certificate for this machine, after `change` has made something else of it.
    pub fn sign(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        self.sign_key(name, &KeyPair::generate().unwrap(), change)
    }

    /// An authority below this one: its certificate, and one for this machine that it signed.
    pub fn below(&self, name: &str) -> (PathBuf, Identity) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        let below =
            Self { issuer: Issuer::new(params, key), folder: self.folder.clone(), name: name.to_owned() };
        fs::write(below.file(), pem).unwrap();
        let identity = below.sign("host", |_| {});
        (below.file(), identity)
    }

    pub fn sign_key(
        &self,
        name: &str,
        key: &KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let mut params = local_params();
        change(&mut params);
        let certificate = params.signed_by(key, &self.issuer).unwrap();
        write(&self.folder, &format!("{}-{name}", self.name), &certificate.pem(), key)
    }
}

/// A certificate that its own key signed.
pub fn self_signed(name: &str) -> Identity {
    let key = KeyPair::generate().unwrap();
    let certificate = local_params().self_signed(&key).unwrap();
    write(&folder(), name, &certificate.pem(), &key)
}

/// A certificate of an authority that its own key signed, for a name that is not this machine's, as `openssl
/// req -x509` makes it.
pub fn self_signed_ca(name: &str) -> Identity {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "a server");
    let certificate = params.self_signed(&key).unwrap();
    write(&folder(), name, &certificate.pem(), &key)
}

/// A file of the tests' own.
pub fn file(name: &str, content: &str) -> PathBuf {
    let file = folder().join(name);
    fs::write(&file, content).unwrap();
    file
}

/// A client that trusts the authority of the tests, and speaks these versions.
pub fn client_config(versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority().file()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(versions).unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// A server that shows this.
pub fn server_config(
    identity: &Identity,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(&identity.certificate).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(versions).unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

fn local_params() -> CertificateParams {
    let names = ["localhost", "127.0.0.1", "::1"].map(String::from);
    CertificateParams::new(names).unwrap()
}

fn write(folder: &Path, name: &str, pem: &str, key: &KeyPair) -> Identity {
    let identity =
        Identity { certificate: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) };
    fs::write(&identity.certificate, pem).unwrap();
    fs::write(&identity.key, key.serialize_pem()).unwrap();
    identity
}

/// A folder of this process. Those of processes that are gone are removed.
pub fn folder() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("certificates");
        fs::create_dir_all(&all).unwrap();
        for entry in fs::read_dir(&all).unwrap().flatten() {
            if !Path::new("/proc").join(entry.file_name()).exists() {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let folder = all.join(std::process::id().to_string());
        fs::create_dir_all(&folder).unwrap();
        folder
    };
    FOLDER.get_or_init(make).clone()
}
