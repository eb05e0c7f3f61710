//! Secrets: where they come from, and what is said about it.

use std::fs::File;
use std::io::{self, Read as _};

use ring::rand::{SecureRandom as _, SystemRandom};

use super::Failure;
use super::normalise::Normalised;

/// The longest secret or token in a file, in bytes, so that a wrong file name does not fill the memory.
const MAX_SECRET: u64 = 8192;

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
            if !given.is_from_environment(flag) {
                log::warn!(
                    "every user of this machine can read {flag} in the list of processes; use {flag}-file"
                );
            }
            (secret, given.origin(flag))
        }
        (None, Some(path)) => {
            let origin = format!("the file of {}", given.origin(&format!("{flag}-file")));
            let read = File::open(&path).and_then(read_all);
            let text =
                read.map_err(|error| Failure::Runtime(format!("cannot read {origin}, {path}: {error}")))?;
            (text, origin)
        }
        (None, None) => return Ok(None),
    };
    let secret = secret.trim();
    if secret.is_empty() {
        return Err(Failure::Usage(format!("{origin} is empty")));
    }
    if secret.contains(char::is_control) {
        return Err(Failure::Usage(format!("{origin} must be one line of text")));
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
        Failure::Usage(
            "the hub's secret is missing: use --secret-file FILE or the variable SLIME_SECRET; \
             `head -c 32 /dev/urandom | base64 > FILE` makes one"
                .into(),
        )
    })
}

/// A text of at most [`MAX_SECRET`] bytes.
pub(super) fn read_all(source: impl io::Read) -> io::Result<String> {
    let mut text = String::new();
    source.take(MAX_SECRET + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_SECRET {
        return Err(io::Error::other("it is too long for a secret"));
    }
    Ok(text)
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
