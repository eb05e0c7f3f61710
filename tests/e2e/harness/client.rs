//! Clients that are not ours.

use std::net::SocketAddr;

use hyper::body::{Body, Bytes};
use hyper_util::rt::TokioIo;
use tokio_rustls::rustls::ALL_VERSIONS;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::server::body_of;
use super::{DEADLINE, pki};

/// ureq that shows every response as it is.
pub fn ureq_agent() -> ureq::Agent {
    let authority = std::fs::read(pki::authority().file()).unwrap();
    let authority = Certificate::from_pem(&authority).unwrap().to_owned();
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_global(Some(DEADLINE))
        .allow_non_standard_methods(true)
        .proxy(None)
        .tls_config(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&[authority])).build())
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
        let response = if pki::is_tls() {
            let connector = tokio_rustls::TlsConnector::from(pki::client_config(ALL_VERSIONS));
            send(connector.connect(address.ip().into(), stream).await.unwrap(), request).await
        } else {
            send(stream, request).await
        };
        let (head, body) = response.into_parts();
        let body = body_of(body).await.expect("a complete body");
        hyper::Response::from_parts(head, body)
    });
    runtime.block_on(async { tokio::time::timeout(DEADLINE, exchange).await }).expect("an answer in time")
}

async fn send<S, B>(stream: S, request: hyper::Request<B>) -> hyper::Response<hyper::body::Incoming>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::task::spawn_local(async move {
        let _ = connection.with_upgrades().await;
    });
    sender.send_request(request).await.expect("a response")
}

/// The body as text.
pub fn text(response: &hyper::Response<Bytes>) -> String {
    String::from_utf8_lossy(response.body()).into_owned()
}
