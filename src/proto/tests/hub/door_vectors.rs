//! Who is let in, as `doors.txt` beside this file has it: its format is explained there.

use crate::proto::fuzzing::unescape::unescape;
use crate::proto::http1::cors::Origins;
use crate::proto::testing::Setup;
use crate::proto::testing::scenario::OK;
use crate::proto::testing::split::every_split;

const DOORS: &str = include_str!("doors.txt");

#[derive(Default)]
struct Door<'a> {
    name: &'a str,
    has_key: bool,
    origins: Option<&'a str>,
    request: Vec<u8>,
    verdict: &'a str,
    /// The kind of each line, and what it holds.
    expected: Vec<(&'a str, &'a str)>,
}

fn doors() -> Vec<Door<'static>> {
    let mut doors: Vec<Door<'static>> = Vec::new();
    for line in DOORS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (kind, text) = line.split_at(line.len().min(2));
        let kind = kind.trim();
        match (kind, doors.last_mut()) {
            ("==", _) => doors.push(Door { name: text.trim(), ..Door::default() }),
            ("@", Some(door)) if text == "key" => door.has_key = true,
            ("@", Some(door)) => door.origins = Some(text.strip_prefix("cors ").expect(line)),
            (">", Some(door)) => door.request.extend(unescape(text)),
            ("=", Some(door)) => door.verdict = text,
            ("?" | "!" | "<" | "-", Some(door)) => door.expected.push((kind, text)),
            _ => panic!("{line:?}"),
        }
    }
    doors
}

impl Door<'_> {
    /// What came to the upstream, if anything did, and what the client got.
    fn run(&self, pieces: &[&[u8]]) -> (Option<String>, String) {
        let origins = self.origins.and_then(|origins| Origins::parse(origins.split(',')));
        let setup = Setup::default().hub(|hub| {
            hub.app_password = self.has_key.then(|| "geheim".to_owned());
            hub.cors = origins;
        });
        let mut pair = setup.joined();
        let client = pair.client();
        for piece in pieces {
            pair.send(client, piece);
        }
        let at_upstream = (pair.arrivals() > 0).then(|| {
            let upstream = pair.upstream();
            let got = pair.got(upstream);
            pair.send(upstream, OK);
            got
        });
        (at_upstream, pair.got(client))
    }

    fn check(&self) -> Result<(), String> {
        let (at_upstream, response) = every_split(&self.request, b"GET /next", |pieces| self.run(pieces));
        let head = response.split("\r\n\r\n").next().unwrap_or_default();
        let status = if self.verdict == "on" { "200" } else { self.verdict };
        if !head.starts_with(&format!("HTTP/1.1 {status} "))
            || at_upstream.is_some() != (self.verdict == "on")
        {
            return Err(format!("{}: {head}", self.name));
        }
        let at_upstream = at_upstream.unwrap_or_default();
        let begins = |head: &str, name: &str| {
            head.lines().any(|line| line.to_ascii_lowercase().starts_with(&name.to_ascii_lowercase()))
        };
        for (kind, text) in &self.expected {
            let (holds, whole) = match *kind {
                "?" => (head.lines().any(|line| line == *text), head),
                "!" => (!begins(head, text), head),
                "<" => (at_upstream.lines().any(|line| line == *text), at_upstream.as_str()),
                _ => (!begins(&at_upstream, &format!("{text}:")), at_upstream.as_str()),
            };
            if !holds {
                return Err(format!("{}: {kind} {text}\n{whole}", self.name));
            }
        }
        Ok(())
    }
}

#[test]
fn every_door_opens_to_whom_it_should() {
    let doors = doors();
    assert!(doors.len() >= 100, "{} vectors", doors.len());
    let failures: Vec<String> = doors.iter().filter_map(|door| door.check().err()).collect();
    assert!(failures.is_empty(), "{} of {} fail:\n{}", failures.len(), doors.len(), failures.join("\n"));
}
