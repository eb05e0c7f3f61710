//! Paths as the hub compares them. It never changes one: these are questions, and the path goes on as it was
//! sent.

/// Whether upstreams may differ on what this path names, so that a comparison with a rule proves nothing: dot
/// or empty segments, backslashes, parameters (`;`), broken percent-encoding, and encoded bytes that need
/// none or that come to mean something once decoded: unreserved characters (RFC 3986 section 6.2.2.2), dots,
/// slashes, backslashes, semicolons, percent signs (decoded twice), NUL and other control bytes.
pub fn is_ambiguous(path: &str) -> bool {
    let mut segments = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(segment) = segments.next() {
        // A slash at the very end is not an empty segment in between.
        if matches!(segment, "." | "..") || segment.is_empty() && segments.peek().is_some() {
            return true;
        }
    }
    let mut rest = path.as_bytes();
    while let [byte, tail @ ..] = rest {
        match byte {
            b'\\' | b';' => return true,
            b'%' => match decode(tail) {
                Some((decoded, tail)) if !is_suspect(decoded) => rest = tail,
                Some(_) | None => return true,
            },
            _ => rest = tail,
        }
    }
    false
}

/// Whether a rule covers a path: segment by segment, `/v1` covers `/v1` and `/v1/chat`, not `/v10`. A slash
/// at the end of a rule means nothing. Only for paths that are not ambiguous.
pub fn matches(rule: &str, path: &str) -> bool {
    let rule = rule.strip_suffix('/').unwrap_or(rule);
    path.strip_prefix(rule).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a path, decoded once, has the segment `.slime`: what is below it is between hub and agents.
pub fn is_reserved(path: &str) -> bool {
    const SEGMENT: &[u8] = b"/.slime";
    let mut found = 0;
    let mut rest = path.as_bytes();
    while let [byte, tail @ ..] = rest {
        let (byte, tail) = match byte {
            b'%' => decode(tail).unwrap_or((b'%', tail)),
            _ => (*byte, tail),
        };
        rest = tail;
        let is_slash = matches!(byte, b'/' | b'\\');
        if found == SEGMENT.len() && (is_slash || byte == b';') {
            return true;
        }
        found = match SEGMENT.get(found) {
            _ if is_slash => 1,
            Some(expected) if found > 0 && *expected == byte => found + 1,
            Some(_) | None => 0,
        };
    }
    found == SEGMENT.len()
}

/// The byte that two hexadecimal digits stand for, and what follows them.
fn decode(digits: &[u8]) -> Option<(u8, &[u8])> {
    let (&[high, low], tail) = digits.split_first_chunk::<2>()?;
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some((value(high)? << 4 | value(low)?, tail))
}

fn is_suspect(decoded: u8) -> bool {
    decoded.is_ascii_alphanumeric() || decoded.is_ascii_control() || b"-._~/\\;%".contains(&decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_cover_whole_segments() {
        for (rule, path) in [
            ("/v1", "/v1"),
            ("/v1", "/v1/"),
            ("/v1", "/v1/chat"),
            ("/v1/", "/v1"),
            ("/", "/"),
            ("/", "/x"),
            ("", "/x"),
        ] {
            assert!(matches(rule, path), "{rule} {path}");
        }
        for (rule, path) in
            [("/v1", "/v10"), ("/v1", "/"), ("/v1", "/V1"), ("/v1", "/x/v1"), ("/v1/chat", "/v1"), ("/", "*")]
        {
            assert!(!matches(rule, path), "{rule} {path}");
        }
    }

    #[test]
    fn what_upstreams_read_differently_is_ambiguous() {
        for path in [
            "/.",
            "/..",
            "/v1/../admin",
            "/v1/./x",
            "//",
            "//v1",
            "/v1//x",
            "/v1/%2e%2e/x",
            "/v1/.%2E/x",
            "/v1%2fx",
            "/v1%5Cx",
            "/v1\\x",
            "/v1%00",
            "/%761",
            "/v1;x=1",
            "/v1/..;/x",
            "/v1%3bx",
            "/v1%252e",
            "/v1%",
            "/v1%2",
            "/v1%zz",
            "/v1%0a",
            "/%7Ex",
        ] {
            assert!(is_ambiguous(path), "{path}");
        }
        for path in [
            "/",
            "/v1",
            "/v1/",
            "/v1/chat.json",
            "/...",
            "/a%20b",
            "/%C3%A9",
            "/a+b",
            "/a:b@c",
            "/.well-known/x",
            "/a%3Fb",
            "*",
        ] {
            assert!(!is_ambiguous(path), "{path}");
        }
    }

    #[test]
    fn the_reserved_segment_is_found_in_any_disguise() {
        for path in [
            "/.slime",
            "/.slime/",
            "/.slime/tunnel",
            "/prefix/.slime/tunnel",
            "/%2eslime/tunnel",
            "/.%73lime/tunnel",
            "/x%2f.slime%2Ftunnel",
            "/x\\.slime\\y",
            "/.slime;a/tunnel",
            "//.slime/x",
            "/./.slime/x",
            "/%2E%73%6c%69%6D%65",
        ] {
            assert!(is_reserved(path), "{path}");
        }
        for path in [
            "/",
            "/slime",
            "/.slimey",
            "/x.slime/y",
            "/.slim/e",
            "/%252eslime/x",
            "/.slime%",
            "/.slime%2",
            "*",
            "/a/.slim%",
        ] {
            assert!(!is_reserved(path), "{path}");
        }
    }
}
