//! Who is let in: keys in all their places, browsers, and pages of other origins; and in which form each of
//! them is told of an error.

use super::seconds;
use crate::proto::http1::cors::Origins;
use crate::proto::testing::Setup;
use crate::proto::testing::scenario::OK;

const KEY: &str = "geheim";
/// Basic credentials with any user and the key.
const BASIC: &str = "Authorization: Basic dXNlcjpnZWhlaW0=\r\n";

fn locked() -> Setup {
    Setup::default().hub(|hub| hub.app_password = Some(KEY.to_owned()))
}

fn shared(setup: Setup, origins: &str) -> Setup {
    let origins = Origins::parse(origins.split(','));
    setup.hub(|hub| hub.cors = origins.clone())
}

fn request(method: &str, fields: &str) -> String {
    format!("{method} /x HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n")
}

/// What a client gets, where the hub answers by itself.
fn refused(setup: Setup, request: &str) -> String {
    let mut pair = setup.joined();
    let client = pair.client();
    pair.send(client, request);
    assert_eq!(pair.arrivals(), 0, "{request}");
    pair.got(client)
}

/// What the upstream and then the client get.
fn served(setup: Setup, request: &str, response: &str) -> (String, String) {
    let mut pair = setup.joined();
    let client = pair.client();
    pair.send(client, request);
    let upstream = pair.upstream();
    let got = pair.got(upstream);
    pair.send(upstream, response);
    (got, pair.got(client))
}

#[test]
fn a_key_is_taken_in_every_place_and_goes_no_further() {
    for field in [
        "Authorization: Bearer geheim",
        "x-api-key: geheim",
        "api-key: geheim",
        "x-goog-api-key: geheim",
        "Slime-App-Password: geheim",
        BASIC.trim_end(),
    ] {
        let (got, _) = served(locked(), &request("GET", &format!("{field}\r\nX-Other: geheim\r\n")), OK);
        let name = field.split(':').next().unwrap();
        assert!(!got.contains(&format!("{name}:")) && got.contains("X-Other: geheim\r\n"), "{got}");
        for wrong in [field.replace("geheim", "gehein"), field.replace("dXNlcjpnZWhlaW0=", "Z2VoZWltOg==")] {
            if wrong != field {
                let got = refused(locked(), &request("GET", &format!("{wrong}\r\n")));
                assert!(got.starts_with("HTTP/1.1 401 ") && got.contains("app password"), "{got}");
            }
        }
    }
}

#[test]
fn each_key_of_the_hub_ends_there_and_others_go_on() {
    let fields = "x-api-key: geheim\r\nAuthorization: Bearer upstreams\r\napi-key: geheim\r\n";
    let (got, _) = served(locked(), &request("GET", fields), OK);
    assert!(got.contains("Authorization: Bearer upstreams\r\n") && !got.contains("geheim"), "{got}");
    // A hub without keys knows of none.
    let doubled = "api-key: a\r\napi-key: b\r\nAuthorization: Bearer geheim\r\n";
    let (got, _) = served(Setup::default(), &request("GET", doubled), OK);
    assert!(got.contains(doubled), "{got}");
    let got = refused(locked(), &request("GET", "x-api-key: geheim\r\nX-API-KEY: geheim\r\n"));
    assert!(got.starts_with("HTTP/1.1 400 ") && got.contains("given twice"), "{got}");
}

#[test]
fn a_person_is_asked_for_the_password_and_a_program_is_not() {
    let basic = "\r\nWWW-Authenticate: Basic realm=\"slime\", charset=\"UTF-8\"\r\n";
    let bearer = "\r\nWWW-Authenticate: Bearer realm=\"slime\"\r\n";
    for (method, fields, challenge) in [
        ("GET", "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n", basic),
        ("HEAD", "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n", basic),
        ("GET", "Accept: text/html;q=0.9, */*\r\n", basic),
        ("GET", "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\nAccept: text/html\r\n", bearer),
        ("GET", "Sec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nAccept: text/html\r\n", bearer),
        ("POST", "Accept: text/html\r\nContent-Length: 0\r\n", bearer),
        ("GET", "Accept: */*\r\n", bearer),
        ("GET", "", bearer),
    ] {
        let got = refused(locked(), &request(method, fields));
        assert!(got.starts_with("HTTP/1.1 401 ") && got.contains(challenge), "{fields}{got}");
        let is_page = got.contains("\r\nContent-Type: text/html; charset=utf-8\r\n");
        assert_eq!(is_page, challenge == basic, "{got}");
        assert_eq!(is_page, got.contains("\r\nContent-Security-Policy: default-src 'none'\r\n"), "{got}");
    }
}

#[test]
fn a_password_that_the_browser_keeps_serves_no_other_site() {
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let cross = "Sec-Fetch-Site: cross-site\r\n";
    for (method, fields, is_served) in [
        ("GET", "Origin: https://evil.example\r\n".to_owned(), true),
        ("GET", cross.to_owned(), true),
        ("POST", "Content-Length: 0\r\nOrigin: https://app.test\r\n".to_owned(), true),
        ("POST", "Content-Length: 0\r\n".to_owned(), true),
        ("POST", "Content-Length: 0\r\nOrigin: https://evil.example\r\n".to_owned(), false),
        ("POST", "Content-Length: 0\r\nOrigin: null\r\n".to_owned(), false),
        ("POST", format!("Content-Length: 0\r\n{cross}"), false),
        ("DELETE", cross.to_owned(), false),
        ("GET", format!("{upgrade}Origin: https://evil.example\r\n"), false),
        ("GET", format!("{upgrade}Origin: http://app.test\r\n"), true),
    ] {
        let by_password = request(method, &format!("{BASIC}{fields}"));
        if is_served {
            served(locked(), &by_password, OK);
        } else {
            for setup in [locked(), shared(locked(), "*")] {
                let got = refused(setup, &by_password);
                assert!(got.starts_with("HTTP/1.1 403 ") && got.contains("another site"), "{got}");
            }
        }
        // Whoever knows the key is no browser that was made to send it.
        served(locked(), &request(method, &format!("x-api-key: geheim\r\n{fields}")), OK);
    }
    let listed = "Content-Length: 0\r\nOrigin: https://b.example\r\n";
    served(shared(locked(), "https://b.example"), &request("POST", &format!("{BASIC}{listed}")), OK);
}

#[test]
fn no_preflight_takes_a_worker_where_keys_or_origins_are_set() {
    let preflight =
        request("OPTIONS", "Origin: https://b.example\r\nAccess-Control-Request-Method: POST\r\n");
    let bare = "HTTP/1.1 204 No Content\r\n\r\n";
    assert_eq!(refused(locked(), &preflight), bare);
    for setup in [shared(Setup::default(), "https://b.example"), shared(locked(), "https://b.example")] {
        let got = refused(setup, &preflight);
        assert!(got.contains("\r\nAccess-Control-Allow-Origin: https://b.example\r\n"), "{got}");
        assert!(got.contains("\r\nAccess-Control-Allow-Methods: POST\r\n"), "{got}");
    }
    let foreign = refused(shared(locked(), "https://c.example"), &preflight);
    assert!(foreign.starts_with("HTTP/1.1 204 ") && !foreign.contains("Access-Control-Allow"), "{foreign}");
    // A hub that was told nothing does not know what it is.
    let (got, _) = served(Setup::default(), &preflight, OK);
    assert!(got.starts_with("OPTIONS /x HTTP/1.1\r\n"), "{got}");
}

#[test]
fn the_request_follows_its_preflight_on_the_same_connection() {
    let mut pair = shared(locked(), "https://b.example").joined();
    let client = pair.client();
    let origin = "Origin: https://b.example\r\n";
    pair.send(client, request("OPTIONS", &format!("{origin}Access-Control-Request-Method: GET\r\n")));
    assert!(pair.got(client).starts_with("HTTP/1.1 204 "));
    pair.send(client, request("GET", &format!("{origin}Authorization: Bearer geheim\r\n")));
    let upstream = pair.upstream();
    let got = pair.got(upstream);
    assert!(!got.contains("Origin") && !got.contains("Authorization"), "{got}");
    let theirs = OK.replace("\r\n\r\n", "\r\nAccess-Control-Allow-Origin: null\r\n\r\n");
    pair.send(upstream, theirs);
    let got = pair.got(client);
    assert!(got.contains("\r\nAccess-Control-Allow-Origin: https://b.example\r\n"), "{got}");
    assert!(got.contains("\r\nVary: Origin\r\n") && !got.contains("null"), "{got}");
    pair.assert_quiet(1);
}

#[test]
fn a_page_of_an_allowed_origin_hears_the_hubs_own_errors() {
    for (origins, origin, said) in [
        ("https://b.example", "https://b.example", "Access-Control-Allow-Origin: https://b.example\r\n"),
        ("*", "https://b.example", "Access-Control-Allow-Origin: *\r\n"),
        ("https://b.example", "https://c.example", ""),
    ] {
        let got = refused(shared(locked(), origins), &request("GET", &format!("Origin: {origin}\r\n")));
        assert!(got.starts_with("HTTP/1.1 401 ") && got.contains(said), "{got}");
        assert_eq!(got.contains("Access-Control-"), !said.is_empty(), "{got}");
        assert_eq!(got.contains("\r\nVary: Origin\r\n"), origins != "*", "{got}");
    }
    // Also where the request has waited before.
    let mut pair = shared(Setup::hub_only(), "*").start();
    let client = pair.client();
    pair.send(client, request("GET", "Origin: https://b.example\r\nSlime-Block: 0\r\n"));
    pair.advance(seconds(10));
    let got = pair.got(client);
    assert!(got.starts_with("HTTP/1.1 503 ") && got.contains("Allow-Origin: *\r\n"), "{got}");
}

#[test]
fn clients_are_told_of_errors_in_their_own_form() {
    for (head, begins) in [
        ("GET /api/tags HTTP/1.1\r\nHost: a\r\n\r\n", "\",\"error\":\"the app password"),
        ("GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n", "\",\"error\":{\"message\":\"the app password"),
        ("GET /api/tags HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n", "<p>the app password"),
    ] {
        let got = refused(locked(), head);
        assert!(got.starts_with("HTTP/1.1 401 ") && got.contains(begins), "{got}");
    }
}
