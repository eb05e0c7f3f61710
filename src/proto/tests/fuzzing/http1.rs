//! Messages: what is accepted must be read by the next hop as it was judged here, however it was cut into
//! pieces.

use core::net::{IpAddr, Ipv4Addr};

use crate::proto::error::Violation;
use crate::proto::http1::body::{Progress, Transfer};
use crate::proto::http1::credentials::{Credential, Credentials};
use crate::proto::http1::framing::Framing;
use crate::proto::http1::head::{HeadScan, RequestHead, ResponseHead};
use crate::proto::http1::path;
use crate::proto::http1::reading::Reading;
use crate::proto::http1::rewrite::{
    ExpectForward, FromUpstream, Timing, ToAgent, ToClient, ToUpstream, request_to_agent,
    request_to_upstream, response_to_client, response_to_hub,
};
use crate::proto::http1::start_line::Version;
use crate::proto::http1::storage::Storage;
use crate::proto::http1::url::{At, Scheme};
use crate::proto::seam::End;
use crate::proto::testing::every_split;

/// Inputs up to this size are cut at every place, larger ones only byte by byte.
const CUT_EVERYWHERE: usize = 300;

pub(super) fn request_head(data: &[u8]) {
    let (mut storage, mut room) = (Storage::new(), Storage::new());
    let searched = find_head(data).map(|length| RequestHead::parse(&data[..length], &mut storage));
    let found = RequestHead::find(&mut HeadScan::default(), data, &mut room);
    let Some(head) = same(searched, found) else { return };
    assert!(head.framing != Framing::UntilClose);
    if path::is_reserved(head.path()) {
        return;
    }
    for (expect, trusted, drops) in [
        (ExpectForward::Drop, false, true),
        (ExpectForward::EndToEnd, true, false),
        (ExpectForward::Connect, false, false),
    ] {
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let mut spent = Credentials::NONE;
        if drops {
            spent.insert(Credential::Authorization);
        }
        let how = ToAgent {
            name: "slime",
            client,
            secure: false,
            trusted,
            spent,
            hides_origin: drops,
            expect,
            id: "0123456789abcdef",
        };
        let mut to_agent = Vec::new();
        request_to_agent(&head, &how, &mut to_agent);
        assert_eq!(
            HeadScan::on_tunnel().advance(&to_agent),
            Ok(Some(to_agent.len())),
            "the agent would not take it"
        );
        let mut storage = Storage::on_tunnel();
        let at_agent = RequestHead::parse(&to_agent, &mut storage).expect("the agent would refuse it");
        assert_eq!(at_agent.framing, head.framing);
        assert_eq!(at_agent.method, head.method);
        assert_eq!(at_agent.target, head.path_and_query());
        assert_eq!(at_agent.path(), head.path());
        assert_eq!(at_agent.version, Version::Http11);
        // Only ours are left of what is ours alone.
        let ours = at_agent.fields.iter().filter(|field| starts_with_slime(field.name));
        assert!(ours.clone().all(|field| field.name == "Slime-Expect") && ours.count() <= 1);
        let how = ToUpstream {
            at: At {
                scheme: Scheme::Http,
                authority: "up.test",
                base_path: if expect == ExpectForward::Drop { "" } else { "/base" },
            },
            preserve_host: trusted,
            authorization: trusted.then_some("Basic eA=="),
            fields: &[],
            keep_expect: expect == ExpectForward::EndToEnd,
        };
        let mut to_upstream = Vec::new();
        request_to_upstream(&at_agent, &how, &mut to_upstream);
        let mut storage = Storage::on_tunnel();
        let at_upstream =
            RequestHead::parse(&to_upstream, &mut storage).expect("the upstream would refuse it");
        assert_eq!((at_upstream.framing, at_upstream.method), (head.framing, head.method));
        assert!(!at_upstream.fields.iter().any(|field| starts_with_slime(field.name)));
    }
}

pub(super) fn response_head(data: &[u8]) {
    lenient_response_head(data);
    let length = find_head(data);
    for to_head in [false, true] {
        let (mut storage, mut room) = (Storage::new(), Storage::new());
        let searched = length.map(|length| ResponseHead::parse(&data[..length], &mut storage, to_head));
        let found = ResponseHead::find(&mut HeadScan::default(), data, &mut room, to_head);
        let Some(head) = same(searched, found) else { continue };
        let onward = head.framing.onward(Version::Http11);
        let mut to_hub = Vec::new();
        let at = At { scheme: Scheme::Http, authority: "up.test", base_path: "" };
        let origin = "https://app.test";
        response_to_hub(&head, onward, Some(&FromUpstream { at, origin }), &mut to_hub);
        let mut storage = Storage::on_tunnel();
        assert_eq!(
            HeadScan::on_tunnel().advance(&to_hub),
            Ok(Some(to_hub.len())),
            "the hub would not take it"
        );
        let at_hub = ResponseHead::parse(&to_hub, &mut storage, to_head).expect("the hub would refuse it");
        assert_eq!((at_hub.framing, at_hub.status), (onward, head.status));
        assert!(!at_hub.fields.iter().any(|field| starts_with_slime(field.name)));
        for version in [Version::Http10, Version::Http11] {
            let framing = onward.onward(version);
            let how = ToClient {
                name: "slime",
                agent_id: "a",
                version,
                framing,
                persistent: true,
                sharing: None,
                id: "0123456789abcdef",
                timing: Timing::default(),
            };
            let mut to_client = Vec::new();
            response_to_client(&at_hub, &how, &mut to_client);
            let mut storage = Storage::on_tunnel();
            let at_client =
                ResponseHead::parse(&to_client, &mut storage, to_head).expect("no client would take it");
            assert_eq!((at_client.framing, at_client.status), (framing, head.status));
            assert!(!(framing == Framing::UntilClose && at_client.persistent));
        }
    }
}

/// What is understood of an upstream's head is the same in pieces as in one, is what a strict reading makes
/// of it if there is one, and goes on in a form that has only one.
fn lenient_response_head(data: &[u8]) {
    for to_head in [false, true] {
        let found = |scan: &mut HeadScan, data: &[u8]| {
            ResponseHead::find(scan, data, &mut Storage::new(), to_head)
                .map(|head| head.map(|head| format!("{head:?}")))
                .map_err(|violation| violation.status)
        };
        let whole = found(&mut HeadScan::of_upstream(), data);
        let mut scan = HeadScan::of_upstream();
        let mut in_pieces = (1..=data.len()).map(|length| found(&mut scan, &data[..length]));
        assert_eq!(in_pieces.find(|found| *found != Ok(None)).unwrap_or(Ok(None)), whole);
        let strict = found(&mut HeadScan::default(), data);
        assert!(!matches!(strict, Ok(Some(_))) || strict == whole);

        let mut storage = Storage::new();
        let mut scan = HeadScan::of_upstream();
        let Ok(Some(head)) = ResponseHead::find(&mut scan, data, &mut storage, to_head) else { continue };
        let onward = head.framing.onward(Version::Http11);
        let mut to_hub = Vec::new();
        let at = At { scheme: Scheme::Http, authority: "up.test", base_path: "" };
        let origin = "https://app.test";
        response_to_hub(&head, onward, Some(&FromUpstream { at, origin }), &mut to_hub);
        assert_eq!(
            HeadScan::on_tunnel().advance(&to_hub),
            Ok(Some(to_hub.len())),
            "the hub would not take it"
        );
        let mut storage = Storage::on_tunnel();
        let at_hub = ResponseHead::parse(&to_hub, &mut storage, to_head).expect("the hub would refuse it");
        assert_eq!((at_hub.framing, at_hub.status), (onward, head.status));
    }
}

/// The head, if there is one; it does not matter whether its end was searched for first.
fn same<T: core::fmt::Debug>(
    searched: Option<Result<T, Violation>>,
    found: Result<Option<T>, Violation>,
) -> Option<T> {
    match (searched, found) {
        (Some(Ok(searched)), Ok(Some(found))) => {
            assert_eq!(format!("{searched:?}"), format!("{found:?}"));
            Some(found)
        }
        (Some(Err(searched)), Err(found)) => {
            assert_eq!(searched.status, found.status);
            None
        }
        // Incomplete, or refused by the search.
        (None, Ok(None) | Err(_)) => None,
        (searched, found) => panic!("searched: {searched:?}, found: {found:?}"),
    }
}

/// What became of a body.
#[derive(Clone, Debug, PartialEq)]
struct Passed {
    out: Vec<u8>,
    end: Result<Progress, Violation>,
    consumed: usize,
}

pub(super) fn chunked(data: &[u8]) {
    let [strict, lenient] = [Reading::Strict, Reading::Lenient].map(|reading| {
        let whole =
            divided(data, |pieces| pass_read(reading, Framing::Chunked, Framing::Chunked, pieces, None));
        let plain =
            divided(data, |pieces| pass_read(reading, Framing::Chunked, Framing::UntilClose, pieces, None));
        check_chunks(&whole, &plain);
        (whole, plain)
    });
    // A lenient reading only understands more.
    if strict.0.end.is_ok() {
        assert_eq!(strict, lenient);
    }
    // The other way round, whatever it is.
    let encoded = divided(data, |pieces| {
        let encoded = pass(Framing::UntilClose, Framing::Chunked, pieces, Some(End::Clean));
        assert_eq!(encoded.end, Ok(Progress::Done));
        let decoded = pass(Framing::Chunked, Framing::UntilClose, &[&encoded.out], None);
        (decoded.out, decoded.end)
    });
    assert_eq!((encoded.0.as_slice(), encoded.1), (data, Ok(Progress::Done)));
    let cut = pass(Framing::UntilClose, Framing::Chunked, &[data], Some(End::Cut));
    assert_eq!(cut.end, Ok(Progress::Truncated));
}

/// What goes on of a chunked body is in the one form that has one reading, and carries the same data.
fn check_chunks(whole: &Passed, plain: &Passed) {
    if plain.end == Ok(Progress::Done) {
        assert_eq!(whole.end, Ok(Progress::Done));
        let again = pass(Framing::Chunked, Framing::Chunked, &[&whole.out], None);
        assert_eq!(
            (&again.out, again.end, again.consumed),
            (&whole.out, Ok(Progress::Done), whole.out.len())
        );
        let same = pass(Framing::Chunked, Framing::UntilClose, &[&whole.out], None);
        assert_eq!(same.out, plain.out);
    }
}

fn pass(from: Framing, to: Framing, pieces: &[&[u8]], end: Option<End>) -> Passed {
    pass_read(Reading::Strict, from, to, pieces, end)
}

fn pass_read(reading: Reading, from: Framing, to: Framing, pieces: &[&[u8]], end: Option<End>) -> Passed {
    let mut transfer = Transfer::read(from, to, reading);
    let (mut input, mut out, mut consumed) = (Vec::new(), Vec::new(), 0);
    for (index, piece) in pieces.iter().enumerate() {
        input.extend_from_slice(piece);
        let end = end.filter(|_| index + 1 == pieces.len());
        loop {
            match transfer.advance(&input, end, &mut out) {
                Ok(Progress::Pass(n)) => {
                    assert!(n > 0);
                    consumed += n;
                    out.extend(input.drain(..n));
                }
                Ok(Progress::Skip(n)) => {
                    assert!(n > 0);
                    consumed += n;
                    input.drain(..n);
                }
                Ok(Progress::NeedMore) if index + 1 < pieces.len() => break,
                // How far a body was read that is no body does not matter.
                last => return Passed { consumed: if last.is_ok() { consumed } else { 0 }, out, end: last },
            }
        }
    }
    Passed { out, end: Ok(Progress::NeedMore), consumed }
}

fn divided<T: core::fmt::Debug + PartialEq>(data: &[u8], mut run: impl FnMut(&[&[u8]]) -> T) -> T {
    if data.len() <= CUT_EVERYWHERE {
        return every_split(data, b"", run);
    }
    let whole = run(&[data]);
    let single: Vec<&[u8]> = data.chunks(1).collect();
    assert_eq!(run(&single), whole);
    whole
}

/// The length of the head at the beginning; found in pieces as in one.
fn find_head(data: &[u8]) -> Option<usize> {
    let mut scan = HeadScan::default();
    let whole = scan.advance(data);
    let mut scan = HeadScan::default();
    let mut found = Ok(None);
    for length in 1..=data.len() {
        found = scan.advance(&data[..length]);
        if found != Ok(None) {
            break;
        }
    }
    assert_eq!(whole.map_err(|violation| violation.status), found.map_err(|violation| violation.status));
    found.ok().flatten()
}

fn starts_with_slime(name: &str) -> bool {
    name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("slime-"))
}
