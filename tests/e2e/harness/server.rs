//! An upstream that is not ours: hyper, with a handler from the test.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;
use tokio_rustls::rustls::ALL_VERSIONS;

use super::pki;

pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub type Request = hyper::Request<Incoming>;
pub type Reply = hyper::Response<BoxBody<Bytes, Error>>;

/// A hyper server on a thread of its own. Dropping it ends it, with all of its connections.
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    requests: AtomicUsize,
    active: AtomicUsize,
    peak: AtomicUsize,
}

impl Server {
    /// Serves on 127.0.0.1.
    pub fn start<H, F>(handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Reply> + 'static,
    {
        Self::start_on("127.0.0.1:0".parse().unwrap(), handler)
    }

    pub fn start_on<H, F>(address: SocketAddr, handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Reply> + 'static,
    {
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let tasks = tokio::task::LocalSet::new();
            runtime.block_on(tasks.run_until(async move {
                tokio::select! {
                    () = serve(listener, Arc::new(handler), shared) => {}
                    _ = stopped => {}
                }
            }));
        });
        Self { address, stop: Some(stop), thread: Some(thread), counts }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        pki::url(self.address)
    }

    /// Connections so far on which a request came.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// Requests begun so far.
    pub fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// The largest number of handlers that ever ran at once.
    pub fn peak(&self) -> usize {
        self.counts.peak.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            assert!(result.is_ok() || std::thread::panicking(), "the upstream's handler panicked");
        }
    }
}

/// Counts a running handler, also when hyper drops it because its connection is gone.
struct Running(Arc<Counts>);

impl Running {
    fn new(counts: &Arc<Counts>) -> Self {
        counts.requests.fetch_add(1, Ordering::SeqCst);
        let active = counts.active.fetch_add(1, Ordering::SeqCst) + 1;
        counts.peak.fetch_max(active, Ordering::SeqCst);
        Self(Arc::clone(counts))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve<H, F>(listener: std::net::TcpListener, handler: Arc<H>, counts: Arc<Counts>)
where
    H: Fn(Request) -> F + 'static,
    F: Future<Output = Reply> + 'static,
{
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        stream.set_nodelay(true).unwrap();
        let (handler, counts) = (Arc::clone(&handler), Arc::clone(&counts));
        let is_used = std::cell::Cell::new(false);
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| {
                if !is_used.replace(true) {
                    counts.connections.fetch_add(1, Ordering::SeqCst);
                }
                let running = Running::new(&counts);
                let future = handler(request);
                async move {
                    let reply = future.await;
                    drop(running);
                    Ok::<_, Infallible>(reply)
                }
            });
            // The end of a connection, in whatever way, is what many tests are about.
            if pki::is_tls() {
                let acceptor =
                    tokio_rustls::TlsAcceptor::from(pki::server_config(pki::identity(), ALL_VERSIONS));
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let connection = Builder::new().serve_connection(TokioIo::new(stream), service);
                let _ = connection.with_upgrades().await;
            } else {
                let connection = Builder::new().serve_connection(TokioIo::new(stream), service);
                let _ = connection.with_upgrades().await;
            }
        });
    }
}

/// A response with this body.
pub fn reply(status: u16, body: impl Into<Bytes>) -> Reply {
    hyper::Response::builder().status(status).body(full(body)).unwrap()
}

pub fn full(body: impl Into<Bytes>) -> BoxBody<Bytes, Error> {
    Full::new(body.into()).map_err(|never| match never {}).boxed()
}

pub fn empty() -> BoxBody<Bytes, Error> {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// A body that another task produces, piece by piece.
pub fn stream(pieces: tokio::sync::mpsc::Receiver<Result<Frame<Bytes>, Error>>) -> BoxBody<Bytes, Error> {
    struct Pieces(tokio::sync::mpsc::Receiver<Result<Frame<Bytes>, Error>>);
    impl Body for Pieces {
        type Data = Bytes;
        type Error = Error;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<Frame<Bytes>, Error>>> {
            self.0.poll_recv(context)
        }
    }
    Pieces(pieces).boxed()
}

/// The whole body of a message.
pub async fn body_of<B>(body: B) -> Result<Bytes, B::Error>
where
    B: Body,
{
    Ok(body.collect().await?.to_bytes())
}
