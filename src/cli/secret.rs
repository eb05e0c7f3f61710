//! Secrets: where they come from, and what is said about it.

use std::fs::File;
use std::io::{self, Read as _};

use ring::rand::{SecureRandom as _, SystemRandom};

use super::Failure;
use super::normalise::Normalised;
use crate::proto::trust::agent_token::AgentToken;

/// The longest file of secrets or variables, in bytes, so that a wrong file name does not fill the memory.
const MAX_FILE: u64 = 64 * 1024;
/// What some editors put at the beginning of a file.
pub(super) const BYTE_ORDER_MARK: char = '\u{feff}';
/// A hub's secret of fewer bytes is a weak one.
const SHORT: usize = 16;

/// The secret that a flag or a file holds, without the white space around it; `None` if there is neither.
///
/// `flag` is the flag that holds it, as `--secret`; `--secret-file` is the one that names a file.
pub(super) fn read(
    value: Option<String>,
    file: Option<String>,
    flag: &str,
    given: &Normalised,
) -> Result<Option<String>, Failure> {
    // A value that is wrong is a wrong call; a file that is wrong is found only when it is read.
    let is_value = value.is_some();
    let wrong = |line| if is_value { Failure::Usage(line) } else { Failure::Runtime(line) };
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
    let secret = secret.trim_start_matches(BYTE_ORDER_MARK).trim();
    if secret.is_empty() {
        return Err(wrong(format!("{origin} is empty")));
    }
    if secret.contains(char::is_control) {
        return Err(wrong(format!("{origin} must be one line of text")));
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

/// What is to be said of a hub's secret that is not a good one.
pub(super) fn weakness(secret: &str) -> Option<&'static str> {
    if AgentToken::is_one(secret) {
        Some(
            "the hub's secret is an agent token, which other machines know; make a secret with \
             `head -c 32 /dev/urandom | base64 > FILE`",
        )
    } else if secret.len() < SHORT {
        Some(
            "the hub's secret has fewer than 16 bytes, so it can be guessed from any of its tokens; make one with \
             `head -c 32 /dev/urandom | base64 > FILE`",
        )
    } else {
        None
    }
}

/// The token of an agent, which must be given. What is no token is not sent to anybody: it may be the hub's
/// secret.
pub(super) fn read_token(
    value: Option<String>,
    file: Option<String>,
    given: &Normalised,
) -> Result<String, Failure> {
    let flag = if value.is_some() { "--token" } else { "--token-file" };
    let token = read(value, file, "--token", given)?.ok_or_else(|| {
        Failure::Usage(
            "the token is missing: use --token-file FILE or the variable SLIME_TOKEN; \
             `slime hub register`, on the machine of the hub, makes one"
                .into(),
        )
    })?;
    match AgentToken::check_form(&token) {
        Ok(()) => Ok(token),
        Err(error) => Err(given.wrong(flag)(error)),
    }
}

/// What the file of this name holds.
pub(super) fn read_file(path: &str) -> io::Result<String> {
    File::open(path).and_then(read_all)
}

/// A text of at most [`MAX_FILE`] bytes, without a byte order mark. Windows writes UTF-16 with one (`>` of
/// PowerShell).
pub(super) fn read_all(source: impl io::Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    source.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("it has more than {MAX_FILE} bytes")));
    }
    let wide = |from: fn([u8; 2]) -> u16| {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let units: Vec<u16> = pairs.iter().skip(1).map(|pair| from(*pair)).collect();
        String::from_utf16(&units).ok().filter(|_| rest.is_empty())
    };
    match bytes.get(..2) {
        Some([0xff, 0xfe]) => wide(u16::from_le_bytes),
        Some([0xfe, 0xff]) => wide(u16::from_be_bytes),
        Some(_) | None => {
            String::from_utf8(bytes).ok().map(|text| match text.strip_prefix(BYTE_ORDER_MARK) {
                Some(rest) => rest.to_owned(),
                None => text,
            })
        }
    }
    .ok_or_else(|| io::Error::other("it is not UTF-8"))
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
