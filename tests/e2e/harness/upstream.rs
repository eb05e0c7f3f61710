//! An upstream that is played by the test itself, byte by byte.
//!
//! Connections that end without a byte, as agents make them to see whether their upstream is there, are not
//! shown.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{DEADLINE, Socket, Wire, pki};

/// Accepts connections and hands them to the test.
pub struct RawUpstream {
    address: SocketAddr,
    incoming: Mutex<Receiver<Wire>>,
    accepted: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl RawUpstream {
    pub fn new() -> Self {
        Self::on("127.0.0.1:0".parse().unwrap())
    }

    pub fn on(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, incoming) = channel();
        let accepted = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (count, stopped) = (Arc::clone(&accepted), Arc::clone(&stop));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (sender, count) = (sender.clone(), Arc::clone(&count));
                std::thread::spawn(move || {
                    if !matches!(stream.peek(&mut [0]), Ok(1)) {
                        return;
                    }
                    // With TLS all of them have a handshake.
                    let Ok(socket) = Socket::accept(stream) else { return };
                    if socket.wait_byte() {
                        count.fetch_add(1, Ordering::SeqCst);
                        let _ = sender.send(Wire::over(socket));
                    }
                });
            }
        });
        Self { address, incoming: Mutex::new(incoming), accepted, stop }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        pki::url(self.address)
    }

    /// The next connection on which something has arrived.
    #[track_caller]
    pub fn accept(&self) -> Wire {
        let wire = self.incoming.lock().unwrap().recv_timeout(DEADLINE);
        wire.unwrap_or_else(|_| panic!("nobody connected to the upstream within {DEADLINE:?}"))
    }

    /// The next connection, if one comes within this time.
    pub fn try_accept(&self, within: Duration) -> Option<Wire> {
        self.incoming.lock().unwrap().recv_timeout(within).ok()
    }

    /// How many connections there were on which something arrived.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for RawUpstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = std::net::TcpStream::connect(self.address);
    }
}
