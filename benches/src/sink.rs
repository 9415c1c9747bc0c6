//! A mailbox server or an intake that counts: its own small SMTP, so that nothing of the product judges the product.
//!
//! Every message must be the benchmark's own, octet for octet; its number is kept, so that a lost one, a second one and
//! a changed one are three different counts. A line on standard input is answered with the counts as one line of JSON;
//! the line `reset` starts them again.

use std::io::{self, BufRead as _, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf as _, BytesMut};
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use memchr::{memchr, memmem};
use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use tdc_simulate::TlsSource;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::fail::{Fail, Outcome};
use crate::template::{MARK, Template, micros};

/// Octets of one read.
const READ: usize = 64 * 1024;
/// Message numbers that are told apart.
const NUMBERS: u64 = 50_000_000;
/// The longest latency that is told apart: 10 minutes in microseconds.
const SLOWEST: u64 = 600_000_000;

/// What may stand around the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Around {
    /// Nothing: it arrived as it was sent.
    Nothing,
    /// Header fields before it, as a relay adds them.
    Before,
    /// A journal report around it.
    Report,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct SinkArgs {
    /// Listens here
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Octets of the messages
    #[arg(long)]
    size: usize,
    /// What may stand around a message
    #[arg(long, value_enum, default_value = "nothing")]
    around: Around,
    /// Offers STARTTLS, with a certificate from this folder
    #[arg(long)]
    tls_dir: Option<std::path::PathBuf>,
    /// Offers CHUNKING
    #[arg(long)]
    chunking: bool,
}

/// What arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arrived {
    /// Messages with the right content, each number once.
    pub(crate) messages: u64,
    /// Further ones with a number that had come before.
    pub(crate) again: u64,
    /// Messages with other content.
    pub(crate) wrong: u64,
    /// Octets of all of them, dots undone.
    pub(crate) octets: u64,
    pub(crate) connections: u64,
    /// From the time when a message was due to be sent until it was here: microseconds.
    pub(crate) median: u64,
    pub(crate) p99: u64,
    pub(crate) max: u64,
    /// When the last one arrived, in microseconds since 1970.
    pub(crate) last: u64,
}

struct Counts {
    arrived: Arrived,
    seen: Vec<u64>,
    latency: Histogram<u64>,
}

impl Counts {
    fn new() -> Outcome<Self> {
        Ok(Self {
            arrived: Arrived::default(),
            seen: Vec::new(),
            latency: Histogram::new_with_bounds(1, SLOWEST, 3).map_err(Fail::of("cannot count latencies"))?,
        })
    }

    /// True when this number had not come before.
    fn is_new(&mut self, number: u64) -> bool {
        let (at, bit) = ((number / 64) as usize, 1 << (number % 64));
        if self.seen.len() <= at {
            self.seen.resize(at + 1024, 0);
        }
        let new = self.seen[at] & bit == 0;
        self.seen[at] |= bit;
        new
    }

    fn report(&self) -> Arrived {
        Arrived {
            median: self.latency.value_at_quantile(0.5),
            p99: self.latency.value_at_quantile(0.99),
            max: self.latency.max(),
            ..self.arrived.clone()
        }
    }
}

struct Sink {
    template: Template,
    around: Around,
    chunking: bool,
    tls: Option<Arc<ServerConfig>>,
    counts: Mutex<Counts>,
}

impl Sink {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, text: &[u8], dotted: bool) {
        let now = micros();
        let mut counts = self.counts();
        counts.arrived.last = now;
        let start = match self.around {
            Around::Nothing => Some(0),
            Around::Before | Around::Report => memmem::find(text, MARK),
        };
        let found = start.and_then(|start| {
            let (stamp, length) = self.template.check(&text[start..], dotted)?;
            let before = start == 0 || text[start - 1] == b'\n';
            let rest = &text[start + length..];
            let after = match self.around {
                Around::Nothing | Around::Before => rest.is_empty(),
                Around::Report => start > 0 && rest.starts_with(b"\r\n--") && rest.ends_with(b"--\r\n"),
            };
            (before && after && stamp.number < NUMBERS).then_some((stamp, text.len() - length))
        });
        match found {
            None => counts.arrived.wrong += 1,
            Some((stamp, more)) if counts.is_new(stamp.number) => {
                counts.arrived.messages += 1;
                counts.arrived.octets += (self.template.size() + more) as u64;
                let took = now.saturating_sub(stamp.micros).clamp(1, SLOWEST);
                counts.latency.saturating_record(took);
            }
            Some(_) => counts.arrived.again += 1,
        }
    }
}

/// Serves until standard input ends.
pub(crate) async fn run(args: SinkArgs) -> Outcome<()> {
    let tls = match &args.tls_dir {
        None => None,
        Some(dir) => {
            let source = TlsSource {
                dir: Some(dir.clone()),
                names: Vec::new(),
            };
            let files = source.load().map_err(Fail::of("cannot use --tls-dir"))?;
            Some(files.server_config().map_err(Fail::of("cannot use --tls-dir"))?)
        }
    };
    let listener = listen(args.listen).map_err(Fail::of("cannot listen"))?;
    let address = listener.local_addr().map_err(Fail::of("cannot listen"))?;
    let sink = Arc::new(Sink {
        template: Template::new(args.size),
        around: args.around,
        chunking: args.chunking,
        tls,
        counts: Mutex::new(Counts::new()?),
    });
    println!("{address}");
    let serving = sink.clone();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            serving.counts().arrived.connections += 1;
            tokio::task::spawn_local(session(serving.clone(), stream));
        }
    });
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || ended.send(answer(&sink)));
    end.await.map_err(Fail::of("nobody asks any more"))?
}

/// With room for as many connections at once as a run may open: one that finds no room is answered by nobody, and ends
/// only when the kernel gives it up.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}

/// Answers questions on standard input until it ends.
fn answer(sink: &Sink) -> Outcome<()> {
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line.map_err(Fail::of("cannot read the question"))?;
        let report = {
            let mut counts = sink.counts();
            if line == "reset" {
                *counts = Counts::new()?;
            }
            counts.report()
        };
        let text = serde_json::to_string(&report).map_err(Fail::of("cannot write the counts"))?;
        writeln!(out, "{text}").map_err(Fail::of("cannot write the counts"))?;
    }
    Ok(())
}

async fn session(sink: Arc<Sink>, mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut session = Session::new(sink.clone());
    session.out.extend_from_slice(b"220 bench ESMTP\r\n");
    // A connection that breaks counts nothing; the numbers that are missing show it.
    let Ok(true) = session.serve(&mut stream).await else {
        return;
    };
    if let Some(config) = sink.tls.clone()
        && let Ok(mut stream) = TlsAcceptor::from(config).accept(stream).await
    {
        session.secured = true;
        let _ = session.serve(&mut stream).await;
    }
}

enum State {
    Command,
    Data { scanned: usize },
    Chunk { left: usize, last: bool },
}

struct Session {
    sink: Arc<Sink>,
    state: State,
    input: BytesMut,
    out: BytesMut,
    chunks: BytesMut,
    secured: bool,
}

impl Session {
    fn new(sink: Arc<Sink>) -> Self {
        Self {
            sink,
            state: State::Command,
            input: BytesMut::new(),
            out: BytesMut::new(),
            chunks: BytesMut::new(),
            secured: false,
        }
    }

    /// Until the connection ends; true when the client asked for TLS.
    async fn serve(&mut self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<bool> {
        loop {
            let mut end = None;
            while end.is_none() {
                match self.step() {
                    Step::More => {}
                    Step::Read => break,
                    Step::Quit => end = Some(false),
                    Step::StartTls => end = Some(true),
                }
            }
            if !self.out.is_empty() {
                stream.write_all_buf(&mut self.out).await?;
                stream.flush().await?;
            }
            if let Some(end) = end {
                return Ok(end);
            }
            self.input.reserve(READ);
            if stream.read_buf(&mut self.input).await? == 0 {
                return Ok(false);
            }
        }
    }

    fn step(&mut self) -> Step {
        match self.state {
            State::Command => self.command(),
            State::Data { scanned } => self.data(scanned),
            State::Chunk { left, last } => self.chunk(left, last),
        }
    }

    fn command(&mut self) -> Step {
        let Some(end) = memchr(b'\n', &self.input) else {
            return Step::Read;
        };
        let line = self.input.split_to(end + 1);
        let text = String::from_utf8_lossy(&line);
        let mut words = text.split_whitespace();
        let verb = words.next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" => self.offer(),
            "DATA" => {
                self.state = State::Data { scanned: 0 };
                self.say("354 go on");
            }
            "BDAT" => {
                let left = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
                let last = words.next().is_some_and(|word| word.eq_ignore_ascii_case("LAST"));
                self.state = State::Chunk { left, last };
            }
            "STARTTLS" => {
                self.say("220 go on");
                return Step::StartTls;
            }
            "QUIT" => {
                self.say("221 2.0.0 bye");
                return Step::Quit;
            }
            _ => self.say("250 2.0.0 ok"),
        }
        Step::More
    }

    fn offer(&mut self) {
        let mut text = "250-bench\r\n250-PIPELINING\r\n250-SIZE 104857600\r\n250-8BITMIME\r\n".to_owned();
        if self.sink.chunking {
            text.push_str("250-CHUNKING\r\n");
        }
        if self.sink.tls.is_some() && !self.secured {
            text.push_str("250-STARTTLS\r\n");
        }
        self.out.extend_from_slice(text.as_bytes());
        self.say("250 ENHANCEDSTATUSCODES");
    }

    fn data(&mut self, scanned: usize) -> Step {
        if self.input.starts_with(b".\r\n") {
            self.sink.take(b"", true);
            self.input.advance(3);
        } else {
            let Some(end) = memmem::find(&self.input[scanned..], b"\r\n.\r\n") else {
                let scanned = self.input.len().saturating_sub(4);
                self.state = State::Data { scanned };
                return Step::Read;
            };
            let end = scanned + end + 2;
            self.sink.take(&self.input[..end], true);
            self.input.advance(end + 3);
        }
        self.state = State::Command;
        self.say("250 2.0.0 taken");
        Step::More
    }

    fn chunk(&mut self, left: usize, last: bool) -> Step {
        let part = self.input.split_to(left.min(self.input.len()));
        let left = left - part.len();
        if self.chunks.is_empty() {
            self.chunks = part;
        } else {
            self.chunks.extend_from_slice(&part);
        }
        if left > 0 {
            self.state = State::Chunk { left, last };
            return Step::Read;
        }
        if last {
            self.sink.take(&self.chunks, false);
            self.chunks = BytesMut::new();
        }
        self.state = State::Command;
        self.say("250 2.0.0 taken");
        Step::More
    }

    fn say(&mut self, line: &str) {
        self.out.extend_from_slice(line.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }
}

enum Step {
    /// Something was done; there may be more.
    More,
    /// Input is missing.
    Read,
    Quit,
    StartTls,
}
