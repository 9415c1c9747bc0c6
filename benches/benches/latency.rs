//! What a message costs in time: straight to the next hop, and through ingress, in turn, in one run.
//!
//! `make bench` (or `cargo bench -p tdc-benches --bench latency`). Real processes: Redis, policy service, ingress,
//! worker, a mailbox server and an intake. One client with two open connections sends a message of 10 KB straight to
//! the mailbox server, then the same through ingress, and so on: whatever else the machine does falls on both alike.
//! The time of a message runs from the first octet of MAIL to the reply to its final dot; MAIL, RCPT and DATA go out
//! in one batch. Every message through ingress is accepted, decided by the policy service, and journaled; Redis writes
//! its log to disk before it answers (`always`), or each second (`everysec`).
//!
//! `TDC_LATENCY_MESSAGES` (1000) says how many there are of each kind.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tdc_tests::stage::{Options, Stage};

/// Octets of a message.
const SIZE: usize = 10 * 1024;
/// Messages of each kind before the count begins.
const WARM_UP: usize = 100;

/// An open connection to a server.
struct Client {
    stream: TcpStream,
    replies: BufReader<TcpStream>,
}

impl Client {
    fn connect(server: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let replies = BufReader::new(stream.try_clone()?);
        let mut client = Self { stream, replies };
        client.expect("220")?;
        client.stream.write_all(b"EHLO bench.example\r\n")?;
        client.expect("250")?;
        Ok(client)
    }

    fn expect(&mut self, code: &str) -> io::Result<()> {
        loop {
            let mut line = String::new();
            self.replies.read_line(&mut line)?;
            if !line.starts_with(code) {
                return Err(io::Error::other(format!("expected {code}, got {line:?}")));
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(());
            }
        }
    }

    /// Sends one message; how long it took.
    fn send(&mut self, wire: &[u8]) -> io::Result<Duration> {
        let begun = Instant::now();
        self.stream
            .write_all(b"MAIL FROM:<a@bench.example>\r\nRCPT TO:<ann@company.example>\r\nDATA\r\n")?;
        for code in ["250", "250", "354"] {
            self.expect(code)?;
        }
        self.stream.write_all(wire)?;
        self.expect("250")?;
        Ok(begun.elapsed())
    }
}

fn wire() -> Vec<u8> {
    let mut wire = b"Message-ID: <1@bench.example>\r\nSubject: ten kilobytes\r\n\r\n".to_vec();
    let line = b"TWFueSBoYW5kcyBtYWtlIGxpZ2h0IHdvcmsuTWFueSBoYW5kcyBtYWtlIGxpZ2h0IHdvcmsuTWFueSBo\r\n";
    while wire.len() + line.len() <= SIZE {
        wire.extend_from_slice(line);
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

/// Of sorted times, the one below which that share lies.
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let at = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[at]
}

fn line(name: &str, mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let millis = |share| percentile(&times, share).as_secs_f64() * 1e3;
    format!(
        "{name:<28} {:>8.2} {:>8.2} {:>8.2} {:>8.2}",
        millis(0.5),
        millis(0.9),
        millis(0.99),
        millis(1.0)
    )
}

fn measure(appendfsync: &'static str, count: usize) -> io::Result<()> {
    let stage = Stage::build(Options {
        appendfsync,
        ..Options::default()
    });
    let wire = wire();
    let mut straight = Client::connect(stage.next_hop)?;
    let mut through = Client::connect(stage.smtp)?;
    let (mut a, mut b, mut added) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..WARM_UP + count {
        let (one, other) = (straight.send(&wire)?, through.send(&wire)?);
        if number >= WARM_UP {
            a.push(one);
            b.push(other);
            added.push(other.saturating_sub(one));
        }
    }
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "\nappendfsync {appendfsync}, {count} messages of {SIZE} octets each way, milliseconds"
    )?;
    writeln!(
        out,
        "{:<28} {:>8} {:>8} {:>8} {:>8}",
        "", "median", "90 %", "99 %", "most"
    )?;
    writeln!(out, "{}", line("straight to the next hop", a))?;
    writeln!(out, "{}", line("through ingress, journaled", b))?;
    writeln!(out, "{}", line("added, message by message", added))?;
    let copies = stage.intake(WARM_UP + count).len();
    writeln!(out, "{copies} copies at the intake")
}

fn main() -> io::Result<()> {
    // `cargo test --benches` only asks whether it runs.
    if std::env::args().any(|argument| argument == "--test") {
        return Ok(());
    }
    let count = std::env::var("TDC_LATENCY_MESSAGES").ok();
    let count = count.and_then(|count| count.parse().ok()).unwrap_or(1000);
    measure("everysec", count)?;
    measure("always", count)
}
