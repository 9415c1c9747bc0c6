//! A way to the API server that a test can cut: refuse, drop what is open, or swallow everything.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What becomes of connections.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Way {
    /// They are passed on.
    Open,
    /// They are closed at once.
    Closed,
    /// They stay open, and nothing comes through: as with a network that loses every packet.
    Silent,
}

/// A TCP proxy on a port of this machine; its threads end with the test process.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    way: Arc<AtomicU8>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    pub(crate) fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            way: Arc::new(AtomicU8::new(Way::Open as u8)),
            open: Arc::default(),
        };
        let (way, open) = (proxy.way.clone(), proxy.open.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if way.load(Ordering::SeqCst) == Way::Closed as u8 {
                    continue;
                }
                let target = SocketAddr::from(([127, 0, 0, 1], port));
                if let Ok(server) = TcpStream::connect(target) {
                    open.lock().unwrap().push(client.try_clone().unwrap());
                    pipe(&client, &server, &way);
                    pipe(&server, &client, &way);
                }
            }
        });
        proxy
    }

    /// Cuts every open connection.
    pub(crate) fn cut(&self) -> usize {
        let open = std::mem::take(&mut *self.open.lock().unwrap());
        for connection in &open {
            let _ = connection.shutdown(Shutdown::Both);
        }
        open.len()
    }

    /// What becomes of new connections; with `Closed` the open ones are cut too.
    pub(crate) fn set(&self, way: Way) {
        self.way.store(way as u8, Ordering::SeqCst);
        if way == Way::Closed {
            self.cut();
        }
    }
}

fn pipe(from: &TcpStream, to: &TcpStream, way: &Arc<AtomicU8>) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    let way = way.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            while way.load(Ordering::SeqCst) == Way::Silent as u8 {
                std::thread::sleep(Duration::from_millis(20));
            }
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}
