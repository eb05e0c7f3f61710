//! The status page of hub and agent, as it lies in the binary.
//!
//! One document, style and script inside, for browsers of the last three years. Its sources stand beside this
//! file, and `build.rs` among them presses them into one. All facts it shows come from `api/status` and
//! `api/events`, whose addresses it has relative to its own, so that it works below any prefix.
//!
//! It never makes markup from text: [`CSP`] forbids that, and lets nothing run but this script.

/// The document, compressed: it is to be sent as it is, with `Content-Encoding: gzip` (RFC 9110 section
/// 8.4.1.3) and `Content-Type: text/html; charset=utf-8`.
pub const PAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/page.html.gz"));

/// Its `ETag`, strong and with its quotes (RFC 9110 section 8.8.3): other bytes have another one.
pub const ETAG: &str = include_str!(concat!(env!("OUT_DIR"), "/etag.txt"));

/// Its `Content-Security-Policy`: the hashes of its own script and style, and nothing else. A page that is
/// sent without it works as well, but is not safe.
pub const CSP: &str = include_str!(concat!(env!("OUT_DIR"), "/csp.txt"));

#[cfg(test)]
mod tests {
    use std::io::Read;

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use ring::digest::{SHA256, digest};

    use super::*;

    /// Routers have little flash.
    const LARGEST: usize = 15 * 1024;

    fn document() -> String {
        let mut document = String::new();
        flate2::read::GzDecoder::new(PAGE).read_to_string(&mut document).unwrap();
        document
    }

    /// What stands in the only element `name` of the document.
    fn element<'a>(document: &'a str, name: &str) -> &'a str {
        let start = format!("<{name}>");
        let mut parts = document.split(start.as_str());
        let (before, after) = (parts.next().unwrap(), parts.next().unwrap());
        assert!(
            parts.next().is_none() && !before.contains(&format!("<{name} ")),
            "{name} is not the only one"
        );
        after.split(&format!("</{name}>")).next().unwrap()
    }

    #[test]
    fn it_is_small() {
        assert!(PAGE.len() <= LARGEST, "{} bytes", PAGE.len());
    }

    #[test]
    fn its_policy_is_that_of_its_bytes() {
        let document = document();
        for (name, source) in [("script", "script-src"), ("style", "style-src")] {
            let hash = STANDARD.encode(digest(&SHA256, element(&document, name).as_bytes()));
            assert!(CSP.contains(&format!("; {source} 'sha256-{hash}'; ")), "{name}: {hash} is not in {CSP}");
        }
        assert!(CSP.starts_with("default-src 'none'; "));
        assert!(CSP.ends_with("; require-trusted-types-for 'script'; trusted-types 'none'"));
        assert!(CSP.bytes().all(|byte| matches!(byte, b' '..=b'~')), "it is a field of HTTP");
    }

    #[test]
    fn it_asks_for_nothing_from_elsewhere() {
        let document = document();
        // Names of namespaces, and what is shown as an address of applications.
        for (at, _) in document.match_indices("://") {
            let rest = &document[at + 3..];
            assert!(rest.starts_with("www.w3.org/2000/svg") || rest.starts_with('\''), "{}", &rest[..20]);
        }
        for attribute in [" src=", " href=\"/", "@import", " style="] {
            assert!(!document.contains(attribute), "{attribute}");
        }
    }

    #[test]
    fn its_tag_has_quotes() {
        let tag = ETAG.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap();
        assert!(tag.len() == 16 && tag.bytes().all(|byte| byte.is_ascii_hexdigit()), "{ETAG}");
    }
}
