//! A certificate of the hub's own making: made once, kept in a folder, known to agents by its pin.

use std::io;
use std::path::Path;

use super::run::TlsFiles;

/// The files in this folder. They are made if they are not there: a key, and a certificate for these names that has no end, because
/// a machine that boots without a clock must not find it expired, and agents look at its pin only.
///
/// # Errors
/// The folder or the files cannot be made, or this build of slime cannot make certificates.
pub fn keep(folder: &Path, names: Vec<String>) -> io::Result<TlsFiles> {
    let files = TlsFiles { certificate: folder.join("cert.pem"), key: folder.join("key.pem"), is_own: true };
    if !files.certificate.exists() || !files.key.exists() {
        make(folder, &files, names).map_err(|error| {
            io::Error::other(format!("cannot make a certificate in {}: {error}", folder.display()))
        })?;
        log::info!("made a key and a certificate in {}", folder.display());
    }
    Ok(files)
}

#[cfg(feature = "self-signed")]
fn make(folder: &Path, files: &TlsFiles, names: Vec<String>) -> io::Result<()> {
    use rcgen::{CertificateParams, DnType, KeyPair};

    let key = KeyPair::generate().map_err(io::Error::other)?;
    let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
    params.distinguished_name.push(DnType::CommonName, "slime hub");
    let certificate = params.self_signed(&key).map_err(io::Error::other)?;
    std::fs::create_dir_all(folder)?;
    // The certificate comes last: with it the pair is complete.
    write(&files.key, &key.serialize_pem(), 0o600)?;
    write(&files.certificate, &certificate.pem(), 0o644)
}

/// Writes a file that is whole or not there.
#[cfg(feature = "self-signed")]
fn write(file: &Path, content: &str, mode: u32) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let new = file.with_extension("new");
    // One that is left of a crash may have other rights.
    let _ = std::fs::remove_file(&new);
    let mut open = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    open.write_all(content.as_bytes())?;
    open.sync_all()?;
    std::fs::rename(&new, file)
}

#[cfg(not(feature = "self-signed"))]
fn make(_: &Path, _: &TlsFiles, _: Vec<String>) -> io::Result<()> {
    Err(io::Error::other(
        "this build of slime was made without the feature self-signed; give --tls-cert and --tls-key",
    ))
}
