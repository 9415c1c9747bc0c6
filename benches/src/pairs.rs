//! What a message costs in time when nothing else is going on: straight to the mailbox server and through ingress, in
//! turn, so that whatever else the machine does falls on both alike.
//!
//! One client with two open connections; MAIL, RCPT and DATA leave in one write. The time runs from the first octet of
//! MAIL to the reply to the final dot. Every message through ingress is decided by the policy service and journaled.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::fail::{Fail, Outcome};
use crate::report::{Table, number};
use crate::run::Stage;
use crate::template::{Stamp, Template, micros};

/// Messages of each kind before the count begins.
const WARM_UP: u64 = 100;
/// A server that is silent for this long has failed.
const SILENCE: Duration = Duration::from_secs(60);

/// An open connection to a server.
struct Client {
    stream: TcpStream,
    replies: BufReader<TcpStream>,
}

impl Client {
    fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
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
    fn send(&mut self, wire: &mut [u8], number: u64) -> io::Result<Duration> {
        let micros = micros();
        Template::stamp(wire, Stamp { number, micros });
        let begun = Instant::now();
        self.stream
            .write_all(b"MAIL FROM:<ann@partner.example>\r\nRCPT TO:<bob@d0.example>\r\nDATA\r\n")?;
        for code in ["250", "250", "354"] {
            self.expect(code)?;
        }
        self.stream.write_all(wire)?;
        self.expect("250")?;
        Ok(begun.elapsed())
    }
}

/// The times of `count` messages of each kind: straight, through, and the difference of each pair.
pub(crate) struct Times {
    straight: Vec<Duration>,
    through: Vec<Duration>,
    added: Vec<Duration>,
}

/// Runs a stage for it. The sinks have exactly what was sent, or it fails.
pub(crate) fn measure(run: &crate::run::Run, base: &Path, count: u64) -> Outcome<Times> {
    let dir = tempfile::tempdir_in(base).map_err(Fail::of("cannot make a folder for the run"))?;
    let mut stage = Stage::start(run, dir.path())?;
    let mut wire = Template::new(run.size).wire().to_vec();
    wire.extend_from_slice(b".\r\n");
    let failed = || Fail::of("a message was not taken");
    let mut straight = Client::connect(stage.mailbox_port()).map_err(failed())?;
    let mut through = Client::connect(stage.port()).map_err(failed())?;
    let mut times = Times {
        straight: Vec::new(),
        through: Vec::new(),
        added: Vec::new(),
    };
    for number in 0..WARM_UP + count {
        // Even numbers go straight, odd ones through.
        let one = straight.send(&mut wire, 2 * number).map_err(failed())?;
        let other = through.send(&mut wire, 2 * number + 1).map_err(failed())?;
        if number >= WARM_UP {
            times.straight.push(one);
            times.through.push(other);
            times.added.push(other.saturating_sub(one));
        }
    }
    stage.verify(2 * (WARM_UP + count), WARM_UP + count)?;
    Ok(times)
}

/// The table of one or more such runs.
pub(crate) fn table(runs: Vec<(&'static str, Times)>) -> String {
    let mut table = Table::new(&["milliseconds", "median", "90 %", "99 %", "most"]);
    for (name, times) in runs {
        let kinds = [
            ("straight to the mailbox server", times.straight),
            ("through ingress, journaled", times.through),
            ("added, message by message", times.added),
        ];
        for (kind, mut times) in kinds {
            times.sort_unstable();
            let at = |share: f64| {
                let place = (times.len().saturating_sub(1) as f64 * share).round() as usize;
                times.get(place).map_or(0.0, |time| time.as_secs_f64() * 1e3)
            };
            table.row([
                format!("{name}: {kind}"),
                number(at(0.5)),
                number(at(0.9)),
                number(at(0.99)),
                number(at(1.0)),
            ]);
        }
    }
    table.text()
}
