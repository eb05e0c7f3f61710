//! Secrets: where they come from, and what is said about it.

use std::fs::File;
use std::io::{self, Read as _};

use ring::rand::{SecureRandom as _, SystemRandom};

use super::Failure;
use super::normalise::Normalised;

/// The longest file of secrets or variables, in bytes, so that a wrong file name does not fill the memory.
const MAX_FILE: u64 = 64 * 1024;

/// The secret that a flag or a file holds, without the white space around it; `None` if there is neither.
///
/// `flag` is the flag that holds it, as `--secret`; `--secret-file` is the one that names a file.
pub(super) fn read(
    value: Option<String>,
    file: Option<String>,
    flag: &str,
    given: &Normalised,
) -> Result<Option<String>, Failure> {
    let (secret, origin) = match (value, file) {
        (Some(secret), _) => {
            if given.is_typed(flag) {
                log::warn!(
                    "every user of this machine can read {flag} in the list of processes; use {flag}-file"
                );
            }
            (secret, given.origin(flag))
        }
        (None, Some(path)) => {
            let origin = format!("the file of {}", given.origin(&format!("{flag}-file")));
            let text = read_file(&path)
                .map_err(|error| Failure::Runtime(format!("cannot read {origin}, {path}: {error}")))?;
            (text, origin)
        }
        (None, None) => return Ok(None),
    };
    let secret = secret.trim();
    if secret.is_empty() {
        return Err(Failure::Runtime(format!("{origin} is empty")));
    }
    if secret.contains(char::is_control) {
        return Err(Failure::Runtime(format!("{origin} must be one line of text")));
    }
    Ok(Some(secret.to_owned()))
}

/// The secret of a hub, which must be given.
pub(super) fn read_hub_secret(
    value: Option<String>,
    file: Option<String>,
    given: &Normalised,
) -> Result<String, Failure> {
    read(value, file, "--secret", given)?.ok_or_else(|| {
        Failure::Runtime(
            "the hub's secret is missing: use --secret-file FILE or the variable SLIME_SECRET; \
             `head -c 32 /dev/urandom | base64 > FILE` makes one"
                .into(),
        )
    })
}

/// What the file of this name holds.
pub(super) fn read_file(path: &str) -> io::Result<String> {
    File::open(path).and_then(read_all)
}

/// A text of at most [`MAX_FILE`] bytes.
pub(super) fn read_all(source: impl io::Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    source.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("it has more than {MAX_FILE} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8"))
}

/// Random bytes from the system.
pub(super) fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(Failure::Runtime("the system has no random numbers".into())),
    }
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
