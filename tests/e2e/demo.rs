//! `slime demo`: what a newcomer sees first.

use std::net::{SocketAddr, TcpListener};

use rustix::process::Signal;

use crate::harness::{DEADLINE, Proc, Server, Wire, command, reply, wait_until};

/// Starts it and finds its address in the curl line that it prints.
fn start(flags: &[&str]) -> (Proc, SocketAddr) {
    let mut arguments = vec!["demo"];
    arguments.extend(flags);
    let demo = Proc::spawn("demo", command(&arguments));
    let line = demo.wait_line("curl ");
    let url = line.split("http://").nth(1).unwrap_or_else(|| panic!("no URL in {line:?}"));
    let end = url.find(|c: char| !(c.is_ascii_alphanumeric() || ".:[]-".contains(c))).unwrap_or(url.len());
    let address = url[..end].replace("localhost", "127.0.0.1");
    (demo, address.parse().unwrap_or_else(|_| panic!("no address in {line:?}")))
}

fn gone(pid: u32) -> bool {
    !std::fs::exists(format!("/proc/{pid}")).unwrap()
}

#[test]
fn the_demo_shows_a_request_and_leaves_nothing_behind() {
    for to_all in [false, true] {
        let (mut demo, address) = start(&["--port", "0"]);
        assert!(demo.output().contains("slime hub run") && demo.output().contains("slime agent run"));
        assert!(!demo.output().contains("is ignored"), "{}", demo.output());
        let mut client = Wire::connect(address);
        client.send(
            "POST /echo HTTP/1.1\r\nHost: h\r\nSlime-Block: 1\r\nContent-Length: 17\r\n\r\nhello from a test",
        );
        let response = client.response();
        assert_eq!(response.status(), 200);
        assert!(response.text().contains("hello from a test"), "{}", response.text());
        demo.wait_line("/echo");
        // The address of the page stands alone on its line.
        let line = demo.wait_line("  http://");
        let page =
            line.strip_prefix("  http://").expect("the line begins with it").trim_end_matches('/').to_owned();
        let mut browser = Wire::connect_plain(page.parse().unwrap());
        browser.send(format!("GET /readyz?agents=1 HTTP/1.1\r\nHost: {page}\r\n\r\n"));
        assert_eq!(browser.response().text(), "ready\n");
        browser.send(format!("GET / HTTP/1.1\r\nHost: {page}\r\n\r\n"));
        assert_eq!(browser.response().status(), 200);
        let children = demo.children();
        assert!(children.len() >= 2, "hub and agent are processes of their own: {children:?}");
        // A terminal sends it to all of them, `kill` to the one that is named.
        if to_all {
            demo.signal_group(Signal::INT)
        } else {
            demo.signal(Signal::INT)
        }
        let status = demo.wait_exit();
        assert!(status.success(), "{status}\n{}", demo.output());
        wait_until("no child is left", DEADLINE, || children.iter().all(|child| gone(*child)));
        drop(client);
        TcpListener::bind(address).expect("the port is free again");
    }
}

#[test]
fn the_demo_serves_an_upstream_of_ones_own() {
    let upstream = Server::start(async |request| reply(200, format!("own {}", request.uri().path())));
    let (mut demo, address) = start(&["--port", "0", "--upstream", &upstream.url()]);
    let mut client = Wire::connect(address);
    client.send("GET /x HTTP/1.1\r\nHost: h\r\nSlime-Block: 1\r\n\r\n");
    assert_eq!(client.response().text(), "own /x");
    let children = demo.children();
    demo.signal(Signal::TERM);
    demo.wait_exit();
    wait_until("no child is left", DEADLINE, || children.iter().all(|child| gone(*child)));
}

/// Whatever ends it, its children do not go on without it.
#[test]
fn the_demo_takes_its_children_along() {
    let (mut demo, _) = start(&["--port", "0"]);
    let children = demo.children();
    assert!(children.len() >= 2);
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(children[0].cast_signed()).unwrap(),
        Signal::KILL,
    )
    .unwrap();
    let status = demo.wait_exit();
    assert!(!status.success(), "a part of it died: {status}");
    demo.wait_line("ended by itself (signal: 9 (SIGKILL)), so the demo ends");
    wait_until("no child is left", DEADLINE, || children.iter().all(|child| gone(*child)));
}

#[test]
fn the_demo_says_what_it_waits_for() {
    // By this test, or by somebody else.
    let _taken = TcpListener::bind("127.0.0.1:8080");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut demo = Proc::spawn("demo", command(&["demo", "--upstream", &nobody.to_string()]));
    demo.wait_line("Port 8080 is in use, so the hub uses port ");
    demo.wait_line("cannot be used: nothing is listening there");
    demo.wait_line("Still waiting for an answer. The lines of the agent say what is missing.");
    demo.signal(Signal::INT);
    assert!(demo.wait_exit().success(), "{}", demo.output());
}
