//! An agent that reaches its hub through an HTTP proxy.

use crate::harness::{
    Agent, ConnectProxy, DEADLINE, Hub, Proc, Server, command, pki, reply, secure_agent, shared_token,
    wait_until,
};

const OK: &str = "HTTP/1.1 200 Connection established\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn the_hub_is_reached_and_the_upstream_is_not_asked_for() {
    let hub = Hub::start(&[]);
    let upstream = Server::start(async |_| reply(200, "ok"));
    for (answer, user) in [
        (OK, "us%65r:p%40ss@"),
        ("HTTP/1.0 200 OK\r\nVia: 1.0 x\r\n\r\n", ""),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\nContent-Length: 5\nTransfer-Encoding: gzip\n\n", ""),
    ] {
        let proxy = ConnectProxy::start(answer);
        let flag = format!("http://{user}{}", proxy.address());
        let agent = hub.agent(&upstream.url(), &["--proxy", &flag, "--num-worker", "2"]);
        agent.wait_line("joined the hub");
        assert_eq!(hub.client_sending(GET).response().text(), "ok");
        wait_until("both workers came by", DEADLINE, || proxy.asked().len() == 2);
        for head in proxy.asked() {
            assert_eq!(head.start, format!("CONNECT {} HTTP/1.1", hub.address()));
            assert_eq!(head.field("host"), Some(hub.address().to_string().as_str()));
            // user:p@ss
            let expected = (!user.is_empty()).then_some("Basic dXNlcjpwQHNz");
            assert_eq!(head.field("proxy-authorization"), expected);
        }
    }
}

#[test]
fn a_proxy_that_does_not_connect_is_said() {
    let hub = Hub::start(&[]);
    for (answer, reason) in [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n",
            "the proxy wants a valid user and password",
        ),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", "the proxy did not connect: status 403"),
        ("220 smtp ready\r\n\r\n", "the proxy does not answer in HTTP"),
        ("", "the proxy does not answer in HTTP"),
    ] {
        let proxy = ConnectProxy::start(answer);
        let address = proxy.address().to_string();
        let agent = hub.agent("http://127.0.0.1:9", &["--proxy", &address]);
        let line = agent.wait_line("cannot join the hub");
        assert!(line.contains(reason) && line.contains(&format!("through the proxy {address}")), "{line}");
    }
}

#[test]
fn the_environment_names_a_proxy_for_https_only() {
    let hub = Hub::start(&[]);
    let upstream = Server::start(async |_| reply(200, "ok"));
    let url = hub.url();
    let join = |environment: &[(&str, &str)]| {
        let mut start = command(&["agent", "--hub", &url, "--upstream", &upstream.url()]);
        secure_agent(&mut start, &url, &upstream.url(), &[]);
        start.env("SLIME_TOKEN", shared_token()).envs(environment.iter().copied());
        let agent = Proc::spawn("agent", start);
        agent.wait_line("joined the hub");
    };
    let proxy = ConnectProxy::start(OK);
    let named = format!("http://{}", proxy.address());
    join(&[("HTTPS_PROXY", &named)]);
    assert_eq!(proxy.asked().len(), usize::from(pki::is_tls()));
    join(&[("HTTPS_PROXY", &named), ("NO_PROXY", "localhost,127.0.0.0/8")]);
    assert_eq!(proxy.asked().len(), usize::from(pki::is_tls()));
    join(&[("SLIME_PROXY", &named), ("NO_PROXY", "*")]);
    assert_eq!(proxy.asked().len(), usize::from(pki::is_tls()) + 1);
    let agent = Agent::start(&url, shared_token(), &upstream.url(), &["--proxy", "none"]);
    agent.wait_line("joined the hub");
}
