//! Files of fields that an agent sets in the requests to its upstreams: `Authorization: Bearer ...`, one a
//! line.

use super::Failure;
use super::normalise::Normalised;
use super::secret::read_file;
use crate::config::SetField;
use crate::proto::http1::fields::{can_be_set, is_value};

/// The most fields: each takes a place of the hundred that a head has.
const MAX_FIELDS: usize = 16;

/// The fields in the file of `--upstream-header-file`. No message shows anything of a line but its number: it
/// may hold a secret.
pub(super) fn read(path: &str, given: &Normalised) -> Result<Vec<SetField>, Failure> {
    let origin = given.origin("--upstream-header-file");
    let text = read_file(path)
        .map_err(|error| Failure::Runtime(format!("cannot read the file of {origin}, {path}: {error}")))?;
    parse(&text).map_err(|(line, what)| Failure::Runtime(format!("{path}, line {line}: {what}")))
}

/// Empty lines, and those that begin with `#`, say nothing.
fn parse(text: &str) -> Result<Vec<SetField>, (usize, &'static str)> {
    let mut fields: Vec<SetField> = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once(':') else {
            return Err((number, "this is not a field, as Authorization: Bearer ..."));
        };
        let (name, value) = (name.trim(), value.trim());
        if !can_be_set(name) {
            return Err((
                number,
                "a field of this name cannot be set: slime sets or removes it itself, or it is no name",
            ));
        }
        if value.is_empty() || !is_value(value.as_bytes()) {
            return Err((number, "the value is empty, or has a byte that is not allowed there"));
        }
        if fields.iter().any(|field| field.name.eq_ignore_ascii_case(name)) {
            return Err((number, "a field of this name is there already"));
        }
        if fields.len() == MAX_FIELDS {
            return Err((number, "these are more than 16 fields"));
        }
        fields.push(SetField { name: name.to_owned(), value: value.to_owned() });
    }
    if fields.is_empty() {
        return Err((1, "there is no field, as Authorization: Bearer ..."));
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let text = "\u{feff}# the key\r\nAuthorization: Bearer a:b \r\n\r\n X-Api-Key:k\u{e9}\n";
        let fields = parse(text).unwrap();
        let fields: Vec<_> = fields.iter().map(|it| (it.name.as_str(), it.value.as_str())).collect();
        assert_eq!(fields, [("Authorization", "Bearer a:b"), ("X-Api-Key", "k\u{e9}")]);
    }

    #[test]
    fn what_cannot_be_set() {
        for line in [
            "Host: x",
            "content-length: 5",
            "Transfer-Encoding: chunked",
            "Connection: close",
            "Keep-Alive: x",
            "TE: trailers",
            "Upgrade: x",
            "Expect: 100-continue",
            "Slime-Scope: x",
            "Slime_Scope: x",
            "Content_Length: 5",
            "X-Forwarded-For: x",
            "X-Real-IP: x",
            "Via: x",
            "Proxy: x",
            "Proxy-Authorization: x",
            "Max-Forwards: 1",
            "A B: x",
            ": x",
            "secret",
            "X:",
            "X: a\u{1}b",
        ] {
            let text = format!("X-Key: k\n\n{line}\n");
            assert_eq!(parse(&text).map_err(|(line, _)| line), Err(3), "{line}");
        }
        assert_eq!(parse("X: a\nx: b\n").map_err(|(line, _)| line), Err(2));
        assert!(parse("").is_err() && parse("# nothing\n").is_err());
    }
}
