//! A client that knows of each message what it was told: accepted, refused, or nothing.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Messages on one connection, at most.
const MESSAGES: u32 = 20;
/// Longer than anything that a living server does here.
const SILENCE: Duration = Duration::from_secs(60);
/// What the next hop refuses at the end of the message.
pub(crate) const REFUSED: &str = "refused@company.example";

/// What the clients know.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Ids of messages that got 250.
    pub(crate) accepted: Mutex<Vec<u64>>,
    /// Ids of messages that got another reply.
    pub(crate) refused: Mutex<Vec<u64>>,
    /// Messages whose reply never came.
    pub(crate) unknown: AtomicU64,
    next: AtomicU64,
    stop: AtomicBool,
}

/// Clients that send until they are stopped.
pub(crate) struct Load {
    pub(crate) ledger: Arc<Ledger>,
    clients: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    /// `clients` connections to each of the servers.
    pub(crate) fn start(servers: &[SocketAddr], clients: usize) -> Self {
        let ledger = Arc::new(Ledger::default());
        let clients = servers
            .iter()
            .cycle()
            .take(servers.len() * clients)
            .map(|server| {
                let (server, ledger) = (*server, ledger.clone());
                std::thread::spawn(move || {
                    while !ledger.stop.load(Ordering::Relaxed) {
                        // Whatever broke: the server is dead, and will be there again.
                        let _ = session(server, &ledger);
                        std::thread::sleep(Duration::from_millis(5));
                    }
                })
            })
            .collect();
        Self { ledger, clients }
    }

    pub(crate) fn stop(self) -> Arc<Ledger> {
        self.ledger.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().unwrap();
        }
        self.ledger
    }
}

/// The body of message `id`; some are larger than one chunk of the queue.
fn body(id: u64) -> Vec<u8> {
    let mut body = format!("Message-ID: <{id}@kill.example>\r\nSubject: {id}\r\n\r\n").into_bytes();
    let lines = match id % 50 {
        0 => 20_000,
        1..10 => 2_000,
        _ => 20,
    };
    for line in 0..lines {
        body.extend_from_slice(
            format!("{id} line {line}: what is sent must arrive, once it was accepted\r\n").as_bytes(),
        );
    }
    body
}

fn session(server: SocketAddr, ledger: &Ledger) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    stream.set_nodelay(true)?;
    let mut replies = BufReader::new(stream.try_clone()?);
    expect(&mut replies, "220")?;
    stream.write_all(b"EHLO kill.example\r\n")?;
    expect(&mut replies, "250")?;
    for _ in 0..fastrand::u32(1..=MESSAGES) {
        if ledger.stop.load(Ordering::Relaxed) {
            break;
        }
        message(&mut stream, &mut replies, ledger)?;
    }
    stream.write_all(b"QUIT\r\n")
}

fn message(
    stream: &mut TcpStream,
    replies: &mut BufReader<TcpStream>,
    ledger: &Ledger,
) -> std::io::Result<()> {
    let id = ledger.next.fetch_add(1, Ordering::Relaxed);
    let recipient = if id % 10 == 7 {
        REFUSED
    } else {
        "ann@company.example"
    };
    let envelope = format!("MAIL FROM:<{id}@kill.example>\r\nRCPT TO:<{recipient}>\r\n");
    if id.is_multiple_of(3) {
        // One batch, as most servers send.
        stream.write_all(format!("{envelope}DATA\r\n").as_bytes())?;
        for code in ["250", "250", "354"] {
            expect(replies, code)?;
        }
    } else {
        for (line, code) in envelope
            .split_inclusive('\n')
            .chain(["DATA\r\n"])
            .zip(["250", "250", "354"])
        {
            stream.write_all(line.as_bytes())?;
            expect(replies, code)?;
        }
    }
    let mut wire = body(id);
    wire.extend_from_slice(b".\r\n");
    let reply = stream.write_all(&wire).and_then(|()| reply(replies));
    match reply {
        Ok(reply) if reply.starts_with("250") => ledger.accepted.lock().unwrap().push(id),
        Ok(_) => ledger.refused.lock().unwrap().push(id),
        Err(error) => {
            ledger.unknown.fetch_add(1, Ordering::Relaxed);
            return Err(error);
        }
    }
    Ok(())
}

/// One reply; its last line.
fn reply(replies: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    loop {
        let mut line = String::new();
        if replies.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok(line);
        }
    }
}

fn expect(replies: &mut BufReader<TcpStream>, code: &str) -> std::io::Result<()> {
    if reply(replies)?.starts_with(code) {
        Ok(())
    } else {
        Err(std::io::ErrorKind::Other.into())
    }
}
