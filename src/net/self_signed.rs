//! A certificate of the hub's own making: made once, kept in a folder, known to agents by its pin.

use std::io;
use std::path::Path;

use super::run::TlsFiles;
use super::tls::{Pin, certificates};

/// The files in this folder. What is not there is made: a key, and a certificate for it and these names that
/// has no end, because a machine that boots without a clock must not find it expired, and agents look at its
/// pin only. A key that is there is used, and nothing that is there is ever overwritten.
///
/// # Errors
/// The folder or the files cannot be made, a certificate has no key beside it, or this build of slime cannot
/// make certificates.
pub fn keep(folder: &Path, names: Vec<String>) -> io::Result<TlsFiles> {
    let files = TlsFiles { certificate: folder.join("cert.pem"), key: folder.join("key.pem"), is_own: true };
    let failed = |error: io::Error| {
        io::Error::other(format!("cannot make a certificate in {}: {error}", folder.display()))
    };
    let has_key = is_there(&files.key).map_err(failed)?;
    if is_there(&files.certificate).map_err(failed)? {
        if has_key {
            return Ok(files);
        }
        return Err(failed(io::Error::other(
            "there is a cert.pem, but no key.pem; put its key there, or move cert.pem away",
        )));
    }
    make(folder, &files, has_key, names).map_err(failed)?;
    let what = if has_key { "a certificate for the key that is" } else { "a key and a certificate" };
    log::info!("made {what} in {}", folder.display());
    Ok(files)
}

/// The pin of the certificate in this folder. There is none before a hub has made it.
///
/// # Errors
/// The certificate cannot be read.
pub fn pin(folder: &Path) -> Result<Option<Pin>, String> {
    let certificate = folder.join("cert.pem");
    match is_there(&certificate) {
        Ok(false) => Ok(None),
        Ok(true) => certificates(&certificate).map(|all| all.first().map(|own| Pin::of(own))),
        Err(error) => Err(format!("cannot read {}: {error}", certificate.display())),
    }
}

/// Whether there is anything of this name, if only a link that leads nowhere.
fn is_there(file: &Path) -> io::Result<bool> {
    match std::fs::symlink_metadata(file) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(feature = "self-signed")]
fn make(folder: &Path, files: &TlsFiles, has_key: bool, names: Vec<String>) -> io::Result<()> {
    use rcgen::{CertificateParams, DnType, KeyPair};

    let key = if has_key {
        let unusable = |error: &dyn core::fmt::Display| {
            io::Error::other(format!(
                "its key.pem cannot be used: {error}; move it away to have a new one made"
            ))
        };
        let text = std::fs::read_to_string(&files.key).map_err(|error| unusable(&error))?;
        KeyPair::from_pem(&text).map_err(|error| unusable(&error))?
    } else {
        KeyPair::generate().map_err(io::Error::other)?
    };
    let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
    params.distinguished_name.push(DnType::CommonName, "slime hub");
    let certificate = params.self_signed(&key).map_err(io::Error::other)?;
    std::fs::create_dir_all(folder)?;
    // The certificate comes last: with it the pair is complete.
    if !has_key {
        write(&files.key, &key.serialize_pem(), 0o600)?;
    }
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
fn make(_: &Path, _: &TlsFiles, _: bool, _: Vec<String>) -> io::Result<()> {
    Err(io::Error::other(
        "this build of slime was made without the feature self-signed; use --tls-cert and --tls-key",
    ))
}
