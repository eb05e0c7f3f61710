//! Raw messages and their verdicts: every file of `tests/vectors/`, in every division of the bytes, through
//! the public API.
//!
//! The format of the files is explained at the top of `requests.txt`. Each head that goes on is read again by
//! httparse alone and compared with what the rules allow of the head that came, and goes through the second
//! hop, too.

// A vector that cannot be read is a broken test.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use core::net::{IpAddr, Ipv4Addr};

use slime::proto::error::Violation;
use slime::proto::http1::body::{Progress, Transfer};
use slime::proto::http1::credentials::Credentials;
use slime::proto::http1::framing::Framing;
use slime::proto::http1::head::{HeadScan, RequestHead, ResponseHead};
use slime::proto::http1::reading::Reading;
use slime::proto::http1::rewrite::{
    ExpectForward, Timing, ToAgent, ToClient, ToUpstream, request_to_agent, request_to_upstream,
    response_to_client, response_to_hub,
};
use slime::proto::http1::start_line::Version;
use slime::proto::http1::storage::Storage;
use slime::proto::http1::url::{At, Scheme};

#[path = "vectors/read.rs"]
mod read;
#[path = "../src/proto/tests/testing/split.rs"]
mod testing;

use read::{Direction, Sender, Vector};

#[test]
fn every_vector_gets_its_verdict() {
    let vectors = read::all();
    assert!(vectors.len() >= 120, "{} vectors", vectors.len());
    let failures: Vec<String> = vectors.iter().filter_map(|vector| vector.check().err()).collect();
    assert!(failures.is_empty(), "{} of {} fail:\n{}", failures.len(), vectors.len(), failures.join("\n"));
}

#[test]
fn names_are_unique() {
    let mut names: Vec<String> =
        read::all().iter().map(|it| format!("{:?} {:?} {}", it.direction, it.from, it.name)).collect();
    names.sort();
    let before = names.len();
    names.dedup();
    assert_eq!(names.len(), before);
}

/// What is accepted where it is read strictly is accepted of upstreams, too, and comes to the same.
#[test]
fn what_can_be_read_strictly_is_read_leniently_the_same() {
    let is_response = |vector: &Vector| matches!(vector.direction, Direction::Response { .. });
    let strict: Vec<Vector> =
        read::all().into_iter().filter(|it| is_response(it) && it.from == Sender::Usual).collect();
    let mut accepted = 0;
    for mut vector in strict {
        let outcome = vector.run(&[&vector.raw]);
        vector.from = Sender::Upstream;
        let again = vector.run(&[&vector.raw]);
        if !outcome.head.is_empty() && !outcome.verdict.ends_with(|c: char| c.is_ascii_digit()) {
            accepted += 1;
            assert_eq!((again.verdict, again.body), (outcome.verdict, outcome.body), "{}", vector.name);
        }
    }
    assert!(accepted >= 35, "{accepted}");
}

/// The published classes of attacks on framing, and by what the vectors of each are known.
#[test]
fn every_attack_class_has_its_vectors() {
    let names: Vec<String> = read::all().into_iter().map(|vector| vector.name).collect();
    for (class, at_least, parts) in [
        ("Content-Length beside Transfer-Encoding", 5, &["CL.TE", "TE.CL"] as &[&str]),
        ("two transfer codings", 4, &["TE.TE"]),
        ("two lengths", 5, &["CL.CL", "CL list"]),
        ("a body that the upstream overlooks", 2, &["CL.0"]),
        ("a length that the front overlooks", 3, &["0.CL"]),
        ("chunked where none is expected", 2, &["TE.0"]),
        ("obfuscated codings", 30, &["Transfer-Encoding: "]),
        ("obfuscated lengths", 20, &["Content-Length: "]),
        ("chunk sizes", 20, &["size", "digit", "0x", "zeros", "Unicode", "overflow"]),
        ("chunk extensions and chunk ends", 8, &["extension", ".TERM", "TERM.", "SPILL", "after data"]),
        ("bare line ends", 10, &["bare LF", "bare CR"]),
        ("obsolete folding", 6, &["fold"]),
        ("header injection", 5, &["header injection"]),
        ("absolute-form and Host", 6, &["absolute-form"]),
        ("a Host that is read in two ways", 20, &["Host: "]),
        ("fields that Connection nominates", 8, &["Connection nominates"]),
        ("response splitting", 4, &["response splitting"]),
        ("smuggling through an upgrade", 3, &["through an upgrade", "h2c"]),
        ("bytes before a response", 3, &["before the response", "an empty line first"]),
        ("bytes beyond a message", 3, &["bytes after", "a second response behind"]),
        ("trailers that frame or control", 2, &["trailers that frame"]),
        ("bare line ends in trailers", 2, &["TRAILER.LF", "CR in a trailer"]),
    ] {
        let found = names.iter().filter(|name| parts.iter().any(|part| name.contains(part))).count();
        assert!(found >= at_least, "{class}: {found} vectors, and there should be {at_least}");
    }
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    verdict: String,
    /// The head as it went on, empty if it did not.
    head: Vec<u8>,
    /// The body as it went on; data only, if it was close-delimited, as its division into chunks is that of
    /// the input.
    body: Vec<u8>,
    left: Vec<u8>,
}

impl Vector {
    fn check(&self) -> Result<(), String> {
        let at_end = self.end.is_some() || self.verdict.ends_with("more") || self.verdict == "more";
        let trailing: &[u8] = if at_end { b"" } else { b"GET /trailing HTTP/1.1\r\nHost: b\r\n\r\n" };
        // Limits are long; every split of them would be a long test.
        let outcome = if self.raw.len() > 2000 {
            let bytes: Vec<&[u8]> = self.raw.chunks(1).collect();
            let whole = self.run(&[&self.raw]);
            assert_eq!(self.run(&bytes), whole, "{}", self.name);
            whole
        } else {
            testing::every_split(&self.raw, trailing, |pieces| self.run(pieces))
        };
        if outcome.verdict != self.verdict {
            return Err(format!(
                "{}: the verdict is {:?}, not {:?}",
                self.name, outcome.verdict, self.verdict
            ));
        }
        if let Some(forwarded) = &self.forwarded {
            let sent = [outcome.head.as_slice(), &outcome.body].concat();
            if sent != *forwarded {
                return Err(format!(
                    "{}: goes on as\n  {}\nnot\n  {}",
                    self.name,
                    sent.escape_ascii(),
                    forwarded.escape_ascii()
                ));
            }
        }
        if outcome.left != self.left {
            return Err(format!("{}: left is {:?}", self.name, outcome.left.escape_ascii().to_string()));
        }
        if !outcome.head.is_empty() {
            self.check_forwarded(&outcome.head)?;
        }
        Ok(())
    }

    fn run(&self, pieces: &[&[u8]]) -> Outcome {
        let (mut input, mut outcome) = (
            Vec::new(),
            Outcome { verdict: "more".to_owned(), head: Vec::new(), body: Vec::new(), left: Vec::new() },
        );
        let reading = if self.from == Sender::Upstream { Reading::Lenient } else { Reading::Strict };
        let mut scan = match reading {
            Reading::Strict => HeadScan::default(),
            Reading::Lenient => HeadScan::of_upstream(),
        };
        let mut body: Option<(String, Transfer)> = None;
        let mut framing_onward = Framing::None;
        for (index, piece) in pieces.iter().enumerate() {
            input.extend_from_slice(piece);
            let end = self.end.filter(|_| index + 1 == pieces.len());
            if body.is_none() {
                match self.read_head(&mut scan, &mut input, &mut outcome.head) {
                    Ok(None) => continue,
                    Ok(Some((framing, description))) => {
                        framing_onward = framing.onward(Version::Http11);
                        body = Some((description, Transfer::read(framing, framing_onward, reading)));
                    }
                    Err(violation) => {
                        outcome.verdict = violation.status.to_string();
                        return outcome;
                    }
                }
            }
            let Some((description, transfer)) = &mut body else { continue };
            let word = loop {
                let mut out = Vec::new();
                let progress = transfer.advance(&input, end, &mut out);
                outcome.body.append(&mut out);
                match progress {
                    Ok(Progress::Pass(n)) => outcome.body.extend(input.drain(..n)),
                    Ok(Progress::Skip(n)) => drop(input.drain(..n)),
                    Ok(Progress::NeedMore) => break "more".to_owned(),
                    Ok(Progress::Done) => break "done".to_owned(),
                    Ok(Progress::Truncated) => break "truncated".to_owned(),
                    Err(violation) => break violation.status.to_string(),
                }
            };
            outcome.verdict = format!("{description}, {word}");
            if word.parse::<u16>().is_ok() {
                input.clear();
                break;
            }
        }
        if outcome.verdict.starts_with("until-close") && framing_onward == Framing::Chunked {
            outcome.body = decoded(&outcome.body);
        }
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        input.truncate(input.len().saturating_sub(total - self.raw.len()));
        if outcome.verdict.ends_with("done") {
            outcome.left = input;
        }
        outcome
    }

    /// Reads the head and writes it anew, if it is complete. Says how the body is framed.
    fn read_head(
        &self,
        scan: &mut HeadScan,
        input: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Option<(Framing, String)>, Violation> {
        if self.direction == Direction::Request {
            let n = scan.leading_crlf(input);
            input.drain(..n);
        }
        let mut storage = Storage::new();
        let (framing, n) = match self.direction {
            Direction::Request => {
                let Some(head) = RequestHead::find(scan, input, &mut storage)? else { return Ok(None) };
                let trusted = self.from == Sender::TrustedProxy;
                request_to_agent(&head, &ToAgent { trusted, ..HOW_TO_AGENT }, out);
                (head.framing, head.length)
            }
            Direction::Response { to_head } => {
                let Some(head) = ResponseHead::find(scan, input, &mut storage, to_head)? else {
                    return Ok(None);
                };
                if self.from == Sender::Upstream {
                    response_to_hub(&head, head.framing.onward(Version::Http11), None, out);
                } else {
                    response_to_client(&head, &how_to_client(head.framing), out);
                }
                (head.framing, head.length)
            }
        };
        input.drain(..n);
        let description = match framing {
            Framing::None => "none".to_owned(),
            Framing::Length(length) => format!("length {length}"),
            Framing::Chunked => "chunked".to_owned(),
            Framing::UntilClose => "until-close".to_owned(),
        };
        Ok(Some((framing, description)))
    }
    /// Reads the head that went on with httparse alone: nothing of it may be open to doubt, and every field
    /// that came and may go on is there, in order. Then sends it on through the second hop.
    fn check_forwarded(&self, head: &[u8]) -> Result<(), String> {
        let fail = |what: &str| {
            let text = head.escape_ascii().to_string();
            Err(format!("{}: {what}: {}", self.name, text.get(..500).unwrap_or(&text)))
        };
        let start = if self.raw.starts_with(b"\r\n") { 2 } else { 0 };
        // httparse alone does not read all that comes of an upstream: its vectors say what is to go on.
        let (came, came_start) = if self.from == Sender::Upstream {
            read_plainly(head, self.direction)
        } else {
            read_plainly(&self.raw[start..], self.direction)
        };
        let (went, went_start) = read_plainly(head, self.direction);
        let nominated: Vec<String> = values(&came, "connection")
            .flat_map(|value| {
                String::from_utf8_lossy(value)
                    .split(',')
                    .map(|name| name.trim().to_lowercase())
                    .collect::<Vec<_>>()
            })
            .collect();
        let kept: Vec<&Plain> = came
            .iter()
            .filter(|(name, _)| {
                !is_ours(name, self.direction) && (name == "via" || !nominated.contains(name))
            })
            .collect();
        let sent: Vec<&Plain> = went
            .iter()
            .filter(|(name, value)| {
                let says_ours = match name.as_str() {
                    "via" => value.ends_with(b" slime"),
                    "server-timing" => value == OUR_TIMING,
                    _ => false,
                };
                !(is_ours(name, self.direction) || says_ours)
            })
            .collect();
        if kept != sent {
            return fail("the fields differ");
        }
        let lines = head.iter().filter(|byte| **byte == b'\n').count();
        if head.iter().filter(|byte| **byte == b'\r').count() != lines
            || lines != went.len() + 2
            || !head.ends_with(b"\r\n\r\n")
        {
            return fail("the line ends differ");
        }
        let framing_fields =
            values(&went, "content-length").count() + values(&went, "transfer-encoding").count();
        if framing_fields > 1
            || went.iter().any(|(name, _)| name.starts_with("slime-") && name != "slime-agent-id")
        {
            return fail("a field too many");
        }
        let mut storage = Storage::on_tunnel();
        let mut scan = HeadScan::on_tunnel();
        if scan.advance(head) != Ok(Some(head.len())) {
            return fail("it is not one head");
        }
        let mut next = Vec::new();
        let framings = match self.direction {
            Direction::Request => {
                if came_start[0] != went_start[0] || values(&went, "host").count() != 1 {
                    return fail("method or Host");
                }
                let Ok(again) = RequestHead::parse(head, &mut storage) else {
                    return fail("refused by the next hop");
                };
                let base_path = if again.target.len() > 8000 { "" } else { "/base" };
                let at = At { base_path, ..HOW_TO_UPSTREAM.at };
                request_to_upstream(&again, &ToUpstream { at, ..HOW_TO_UPSTREAM }, &mut next);
                let mut storage = Storage::on_tunnel();
                let Ok(last) = RequestHead::parse(&next, &mut storage) else {
                    return fail("refused at last");
                };
                let target =
                    if again.target == "*" { "*".to_owned() } else { format!("{base_path}{}", again.target) };
                if last.target != target || last.authority() != "up.example" || last.upgrade != again.upgrade
                {
                    return fail("the second hop changes it");
                }
                (again.framing, last.framing)
            }
            Direction::Response { to_head } => {
                let Ok(again) = ResponseHead::parse(head, &mut storage, to_head) else {
                    return fail("refused by the next hop");
                };
                response_to_hub(&again, again.framing.onward(Version::Http11), None, &mut next);
                let mut storage = Storage::on_tunnel();
                let Ok(last) = ResponseHead::parse(&next, &mut storage, to_head) else {
                    return fail("refused at last");
                };
                if (last.status, last.reason, last.upgrade) != (again.status, again.reason, again.upgrade) {
                    return fail("the second hop changes it");
                }
                (again.framing, last.framing)
            }
        };
        let expected = match self.verdict.split(',').next() {
            Some("until-close") => "chunked",
            Some(framing) => framing,
            None => "",
        };
        for framing in [framings.0, framings.1] {
            let description = match framing {
                Framing::None => "none".to_owned(),
                Framing::Length(length) => format!("length {length}"),
                Framing::Chunked => "chunked".to_owned(),
                Framing::UntilClose => "until-close".to_owned(),
            };
            if description != expected {
                return fail("the framing changes");
            }
        }
        Ok(())
    }
}

/// [`how_to_client`] as the field says it.
const OUR_TIMING: &[u8] = b"queue;dur=12, head;dur=3400";

const HOW_TO_AGENT: ToAgent<'_> = ToAgent {
    name: "slime",
    client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
    secure: false,
    trusted: false,
    spent: Credentials::NONE,
    hides_origin: false,
    expect: ExpectForward::Drop,
    id: "r-1",
};

const HOW_TO_UPSTREAM: ToUpstream<'_> = ToUpstream {
    at: At { scheme: Scheme::Http, authority: "up.example", base_path: "" },
    preserve_host: false,
    authorization: None,
    fields: &[],
    keep_expect: false,
};

fn how_to_client(framing: Framing) -> ToClient<'static> {
    ToClient {
        name: "slime",
        agent_id: "gpu-1",
        version: Version::Http11,
        framing: framing.onward(Version::Http11),
        persistent: true,
        sharing: None,
        id: "r-1",
        timing: Timing { queue: 12, head: 3400 },
    }
}

/// A field as httparse alone reads it, its name in lower case.
type Plain = (String, Vec<u8>);

fn read_plainly(head: &[u8], direction: Direction) -> (Vec<Plain>, [String; 2]) {
    let mut fields = [httparse::EMPTY_HEADER; 200];
    let (fields, start) = match direction {
        Direction::Request => {
            let mut request = httparse::Request::new(&mut fields);
            assert!(request.parse(head).unwrap().is_complete());
            (request.headers.to_vec(), [request.method.unwrap().to_owned(), request.path.unwrap().to_owned()])
        }
        Direction::Response { .. } => {
            let mut response = httparse::Response::new(&mut fields);
            assert!(response.parse(head).unwrap().is_complete());
            (response.headers.to_vec(), [response.code.unwrap().to_string(), String::new()])
        }
    };
    (fields.iter().map(|field| (field.name.to_lowercase(), field.value.to_vec())).collect(), start)
}

fn values<'a>(fields: &'a [Plain], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    fields.iter().filter(move |field| field.0 == name).map(|field| field.1.as_slice())
}

/// Whether a field never goes on as it came, said independently of the library.
fn is_ours(name: &str, direction: Direction) -> bool {
    let hop = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "x-request-id",
    ];
    let request = [
        "host",
        "expect",
        "forwarded",
        "proxy",
        "x-real-ip",
        "x-rewrite-url",
        "x-client-ip",
        "x-cluster-client-ip",
        "cf-connecting-ip",
        "true-client-ip",
        "max-forwards",
        "proxy-status",
    ];
    // As a CGI variable, it is the same.
    let twin: String = name.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    let is_ours = |name: &str, list: &[&str]| list.contains(&name);
    is_ours(name, &hop)
        || name.starts_with("slime-")
        || direction == Direction::Request
            && (is_ours(&twin, &hop)
                || is_ours(&twin, &request)
                || ["slime-", "x-forwarded-", "x-original-"].iter().any(|prefix| twin.starts_with(prefix)))
}

fn decoded(chunks: &[u8]) -> Vec<u8> {
    let mut transfer = Transfer::new(Framing::Chunked, Framing::UntilClose);
    let (mut rest, mut data) = (chunks, Vec::new());
    while let Ok(Progress::Pass(n) | Progress::Skip(n)) = {
        let progress = transfer.advance(rest, None, &mut Vec::new());
        if let Ok(Progress::Pass(n)) = progress {
            data.extend_from_slice(&rest[..n]);
        }
        progress
    } {
        rest = &rest[n..];
    }
    data
}
