//! Reads the files of raw messages. Their format is explained at the top of `requests.txt`.

// Not all who read them need all of it. A vector that cannot be read is a broken test.
#![allow(dead_code)]
#![allow(clippy::expect_used, clippy::unwrap_used)]

use slime::proto::seam::End;

mod unescape;

use unescape::unescape;

const FILES: [(&str, &str); 5] = [
    ("attacks.txt", include_str!("attacks.txt")),
    ("requests.txt", include_str!("requests.txt")),
    ("responses.txt", include_str!("responses.txt")),
    ("bodies.txt", include_str!("bodies.txt")),
    ("upstreams.txt", include_str!("upstreams.txt")),
];

/// A message, and what is to become of it.
pub(crate) struct Vector {
    pub(crate) name: String,
    pub(crate) direction: Direction,
    pub(crate) from: Sender,
    pub(crate) raw: Vec<u8>,
    pub(crate) end: Option<End>,
    pub(crate) verdict: String,
    pub(crate) forwarded: Option<Vec<u8>>,
    pub(crate) left: Vec<u8>,
}

/// Where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Request,
    Response { to_head: bool },
}

/// Who sends it, to whom that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// A request: anybody. A response: an agent.
    Usual,
    /// A proxy of `--trusted-proxy`.
    TrustedProxy,
    /// A response that an agent reads.
    Upstream,
}

/// All vectors of all files.
pub(crate) fn all() -> Vec<Vector> {
    FILES.iter().flat_map(|(file, text)| parse(file, text)).collect()
}

fn parse(file: &str, text: &str) -> Vec<Vector> {
    let mut vectors: Vec<Vector> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let at = format!("{file}:{}", number + 1);
        let (key, value) = line.split_at(line.len().min(2));
        match (key, vectors.last_mut()) {
            ("", _) | ("# " | "#", _) => {}
            ("==", _) => {
                let (direction, name) = value.trim().split_once(": ").expect(&at);
                let (direction, from) = match direction.split_once(" of ") {
                    None => (direction, Sender::Usual),
                    Some((direction, "a trusted proxy")) => (direction, Sender::TrustedProxy),
                    Some((direction, "an upstream")) => (direction, Sender::Upstream),
                    Some((direction, "an upstream to HEAD")) => (
                        if direction == "response" { "response to HEAD" } else { direction },
                        Sender::Upstream,
                    ),
                    Some(other) => panic!("{at}: {other:?}"),
                };
                let direction = match direction {
                    "request" => Direction::Request,
                    "response" => Direction::Response { to_head: false },
                    "response to HEAD" => Direction::Response { to_head: true },
                    other => panic!("{at}: {other}"),
                };
                vectors.push(Vector {
                    name: format!("{file}: {name}"),
                    direction,
                    from,
                    raw: Vec::new(),
                    end: None,
                    verdict: String::new(),
                    forwarded: None,
                    left: Vec::new(),
                });
            }
            ("> ", Some(vector)) => vector.raw.extend(unescape(value)),
            ("* ", Some(vector)) => {
                let (times, text) = value.split_once(' ').expect(&at);
                vector.raw.extend(unescape(text).repeat(times.parse().expect(&at)));
            }
            ("$ ", Some(vector)) => {
                vector.end = Some(match value {
                    "end" => End::Clean,
                    "cut" => End::Cut,
                    other => panic!("{at}: {other}"),
                });
            }
            ("= ", Some(vector)) => vector.verdict = value.to_owned(),
            ("< ", Some(vector)) => {
                let ours = match value.strip_prefix("OURS").map(str::trim) {
                    Some("") => {
                        let is_interim = |sent: &Vec<u8>| sent.starts_with(b"HTTP/1.1 1");
                        let timing = match vector.forwarded.as_ref().is_some_and(is_interim) {
                            true => "",
                            false => "Server-Timing: queue;dur=12, head;dur=3400\\r\\n",
                        };
                        format!(
                            "Slime-Agent-Id: gpu-1\\r\\nVia: 1.1 slime\\r\\nX-Request-Id: r-1\\r\\n{timing}"
                        )
                    }
                    Some(host) => format!(
                        "X-Forwarded-For: 192.0.2.7\\r\\nX-Forwarded-Proto: http\\r\\nX-Forwarded-Host: {host}\\r\\nVia: 1.1 slime\\r\\nX-Request-Id: r-1\\r\\n"
                    ),
                    None => value.to_owned(),
                };
                vector.forwarded.get_or_insert_default().extend(unescape(&ours));
            }
            ("+ ", Some(vector)) => vector.left.extend(unescape(value)),
            _ => panic!("{at}: {line}"),
        }
    }
    vectors
}
