//! An HTTP proxy that knows CONNECT and nothing else.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::Head;

/// Connects wherever it is asked to, and keeps what it was asked.
pub struct ConnectProxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Head>>>,
}

impl ConnectProxy {
    /// One that answers with this; it connects if that is a success.
    pub fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&asked);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let all = Arc::clone(&all);
                std::thread::spawn(move || serve(near, answer, &all));
            }
        });
        Self { address, asked }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The heads of the requests so far.
    pub fn asked(&self) -> Vec<Head> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(mut near: TcpStream, answer: &str, asked: &Mutex<Vec<Head>>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        near.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = Head::parse(head);
    let target = head.target().to_owned();
    asked.lock().unwrap().push(head);
    let is_success = answer.contains(" 2");
    let far = if is_success { Some(TcpStream::connect(target).ok()?) } else { None };
    near.write_all(answer.as_bytes()).ok()?;
    let far = far?;
    let (near_too, far_too) = (near.try_clone().unwrap(), far.try_clone().unwrap());
    std::thread::spawn(move || pass(near_too, far_too));
    pass(far, near);
    Some(())
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
