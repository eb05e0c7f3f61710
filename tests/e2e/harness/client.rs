//! Clients that are not ours.

use std::net::SocketAddr;

use hyper::body::{Body, Bytes};
use hyper_util::rt::TokioIo;

use super::DEADLINE;
use super::server::body_of;

/// ureq that shows every response as it is.
pub fn ureq_agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_global(Some(DEADLINE))
        .allow_non_standard_methods(true)
        .proxy(None)
        .build()
        .into()
}

/// One exchange by hyper, on a connection of its own.
#[track_caller]
pub fn hyper_exchange<B>(address: SocketAddr, request: hyper::Request<B>) -> hyper::Response<Bytes>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tasks = tokio::task::LocalSet::new();
    let exchange = tasks.run_until(async move {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::task::spawn_local(async move {
            let _ = connection.with_upgrades().await;
        });
        let response = sender.send_request(request).await.expect("a response");
        let (head, body) = response.into_parts();
        let body = body_of(body).await.expect("a complete body");
        hyper::Response::from_parts(head, body)
    });
    runtime.block_on(async { tokio::time::timeout(DEADLINE, exchange).await }).expect("an answer in time")
}

/// The body as text.
pub fn text(response: &hyper::Response<Bytes>) -> String {
    String::from_utf8_lossy(response.body()).into_owned()
}
