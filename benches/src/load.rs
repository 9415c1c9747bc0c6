//! The generator: for what `smtp-source` cannot do (PIPELINING, TLS, a fixed rate, latencies with their tails).
//!
//! With a rate, each message has a time when it is due, and its latency counts from then: a server that stalls makes
//! all messages late that were due meanwhile, and not only those that a blocked generator had begun. A thread says when:
//! the runtime's timers go by milliseconds, and would send what is due within one as a burst.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use clap::Args;
use hdrhistogram::Histogram;
use memchr::memchr;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;

use crate::fail::{Fail, Outcome};
use crate::template::{Stamp, Template, micros};

/// Octets of the message that are copied together with the numbers; the rest is shared.
const HEAD: usize = 64 * 1024;
/// The longest latency that is told apart: 10 minutes in microseconds.
const SLOWEST: u64 = 600_000_000;
/// The pause of a connection after a failure.
const AGAIN: Duration = Duration::from_millis(20);

#[derive(Clone, Debug, Args)]
pub(crate) struct LoadArgs {
    /// The server
    #[arg(long)]
    to: SocketAddr,
    /// Connections at a time
    #[arg(long, default_value_t = 40)]
    connections: usize,
    /// Messages in all
    #[arg(long)]
    messages: u64,
    /// The number of the first one
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Octets of each
    #[arg(long)]
    size: usize,
    /// Messages on one connection; 0: as many as there are
    #[arg(long, default_value_t = 0)]
    per_connection: u64,
    /// Commands in one write
    #[arg(long)]
    pipelining: bool,
    /// STARTTLS, trusting ca.pem in this folder
    #[arg(long)]
    tls_dir: Option<std::path::PathBuf>,
    /// Messages a second; 0: as many as the server takes
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Recipients are spread over that many domains: bob@d0.example, bob@d1.example …
    #[arg(long, default_value_t = 1)]
    domains: u64,
    /// A refused message is sent again
    #[arg(long)]
    retry: bool,
}

/// What was sent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sent {
    pub(crate) accepted: u64,
    /// What else happened, and how often: a reply, or an error of the connection.
    pub(crate) failed: BTreeMap<String, u64>,
    pub(crate) seconds: f64,
    /// From the time when a message was due until its 250: microseconds.
    pub(crate) median: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

struct Load {
    args: LoadArgs,
    template: Template,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    next: Cell<u64>,
    start: Instant,
    /// With a rate: a permit for each message that is due.
    due: Arc<Semaphore>,
    sent: RefCell<(Sent, Histogram<u64>)>,
}

/// Sends everything; the report.
pub(crate) async fn run(args: LoadArgs) -> Outcome<Sent> {
    let tls = args.tls_dir.as_deref().map(trust).transpose()?;
    let histogram = Histogram::new_with_bounds(1, SLOWEST, 3).map_err(Fail::of("cannot count latencies"))?;
    let load = Rc::new(Load {
        template: Template::new(args.size),
        tls,
        next: Cell::new(0),
        start: Instant::now(),
        due: Arc::new(Semaphore::new(0)),
        sent: RefCell::new((Sent::default(), histogram)),
        args,
    });
    if load.args.rate > 0.0 {
        pace(&load);
    }
    let workers: Vec<_> = (0..load.args.connections)
        .map(|_| tokio::task::spawn_local(worker(load.clone())))
        .collect();
    for worker in workers {
        worker.await.map_err(Fail::of("a connection's task ended"))?;
    }
    let (sent, histogram) = &*load.sent.borrow();
    Ok(Sent {
        seconds: load.start.elapsed().as_secs_f64(),
        median: histogram.value_at_quantile(0.5),
        p90: histogram.value_at_quantile(0.9),
        p99: histogram.value_at_quantile(0.99),
        p999: histogram.value_at_quantile(0.999),
        max: histogram.max(),
        ..sent.clone()
    })
}

/// When that message is due.
fn due(start: Instant, number: u64, rate: f64) -> Instant {
    start + Duration::from_secs_f64(number as f64 / rate)
}

/// Gives a permit for each message when it is due, and at the end one to each connection.
fn pace(load: &Load) {
    let (start, permits) = (load.start, load.due.clone());
    let (messages, rate, connections) = (load.args.messages, load.args.rate, load.args.connections);
    std::thread::spawn(move || {
        for number in 0..messages {
            std::thread::sleep(due(start, number, rate).saturating_duration_since(Instant::now()));
            permits.add_permits(1);
        }
        permits.add_permits(connections);
    });
}

fn trust(dir: &std::path::Path) -> Outcome<(Arc<ClientConfig>, ServerName<'static>)> {
    let path = dir.join("ca.pem");
    let certificate =
        CertificateDer::from_pem_file(&path).map_err(Fail::of(format!("cannot read {}", path.display())))?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).map_err(Fail::of("cannot use ca.pem"))?;
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").map_err(Fail::of("cannot use the name"))?;
    Ok((Arc::new(config), name))
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

struct Connection {
    stream: Box<dyn Stream>,
    input: BytesMut,
    messages: u64,
}

async fn worker(load: Rc<Load>) {
    let mut connection = None;
    let wire = load.template.wire();
    let mut head = wire[..wire.len().min(HEAD)].to_vec();
    loop {
        if load.args.rate > 0.0
            && let Ok(permit) = load.due.acquire().await
        {
            permit.forget();
        }
        let number = load.next.get();
        if number >= load.args.messages {
            break;
        }
        load.next.set(number + 1);
        let mut due_at = Instant::now();
        let mut stamp = micros();
        if load.args.rate > 0.0 {
            due_at = due(load.start, number, load.args.rate);
            stamp = (stamp as i64 + signed_micros(due_at)) as u64;
        }
        Template::stamp(
            &mut head,
            Stamp {
                number: load.args.first + number,
                micros: stamp,
            },
        );
        while !attempt(&load, &mut connection, &head, number, due_at).await && load.args.retry {
            sleep(AGAIN).await;
        }
    }
    if let Some(mut connection) = connection {
        let _ = connection.command("QUIT\r\n").await;
    }
}

/// From now to then, negative when it is over.
fn signed_micros(then: Instant) -> i64 {
    let now = Instant::now();
    let (ahead, behind) = (then.checked_duration_since(now), now.checked_duration_since(then));
    ahead.map_or(0, |d| d.as_micros() as i64) - behind.map_or(0, |d| d.as_micros() as i64)
}

/// One message; false when it was not accepted.
async fn attempt(
    load: &Load,
    connection: &mut Option<Connection>,
    head: &[u8],
    number: u64,
    due: Instant,
) -> bool {
    let result = transact(load, connection, head, number).await;
    let mut sent = load.sent.borrow_mut();
    match result {
        Ok(reply) if reply.starts_with('2') => {
            sent.0.accepted += 1;
            sent.1
                .saturating_record((due.elapsed().as_micros() as u64).clamp(1, SLOWEST));
            true
        }
        Ok(reply) => {
            *sent.0.failed.entry(reply).or_default() += 1;
            *connection = None;
            false
        }
        Err(error) => {
            *sent.0.failed.entry(error.to_string()).or_default() += 1;
            *connection = None;
            false
        }
    }
}

/// Brings a message to its end; the reply that ended it.
async fn transact(
    load: &Load,
    kept: &mut Option<Connection>,
    head: &[u8],
    number: u64,
) -> io::Result<String> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => Connection::open(load).await?,
    };
    let domain = number % load.args.domains;
    let commands = [
        "MAIL FROM:<ann@partner.example>\r\n".to_owned(),
        format!("RCPT TO:<bob@d{domain}.example>\r\n"),
        "DATA\r\n".to_owned(),
    ];
    if load.args.pipelining {
        connection.stream.write_all(commands.concat().as_bytes()).await?;
        connection.stream.flush().await?;
    }
    for command in &commands {
        let reply = if load.args.pipelining {
            connection.reply().await?
        } else {
            connection.command(command).await?
        };
        if !matches!(reply.as_bytes()[0], b'2' | b'3') {
            return Ok(reply);
        }
    }
    let rest = &load.template.wire()[head.len()..];
    if rest.is_empty() {
        let mut all = BytesMut::with_capacity(head.len() + 3);
        all.extend_from_slice(head);
        all.extend_from_slice(b".\r\n");
        connection.stream.write_all(&all).await?;
    } else {
        connection.stream.write_all(head).await?;
        connection.stream.write_all(rest).await?;
        connection.stream.write_all(b".\r\n").await?;
    }
    connection.stream.flush().await?;
    let reply = connection.reply().await?;
    connection.messages += 1;
    if load.args.per_connection > 0 && connection.messages >= load.args.per_connection {
        connection.command("QUIT\r\n").await?;
    } else {
        *kept = Some(connection);
    }
    Ok(reply)
}

impl Connection {
    async fn open(load: &Load) -> io::Result<Self> {
        let stream = TcpStream::connect(load.args.to).await?;
        stream.set_nodelay(true)?;
        let Some((config, name)) = load.tls.clone() else {
            return Self::greet(stream).await;
        };
        let mut input = BytesMut::new();
        let mut plain = stream;
        expect(&read_reply(&mut plain, &mut input).await?)?;
        for command in ["EHLO bench.example\r\n", "STARTTLS\r\n"] {
            plain.write_all(command.as_bytes()).await?;
            expect(&read_reply(&mut plain, &mut input).await?)?;
        }
        let stream = TlsConnector::from(config).connect(name, plain).await?;
        let mut connection = Self::new(stream);
        expect(&connection.command("EHLO bench.example\r\n").await?)?;
        Ok(connection)
    }

    async fn greet(stream: TcpStream) -> io::Result<Self> {
        let mut connection = Self::new(stream);
        expect(&connection.reply().await?)?;
        expect(&connection.command("EHLO bench.example\r\n").await?)?;
        Ok(connection)
    }

    fn new(stream: impl Stream + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            input: BytesMut::new(),
            messages: 0,
        }
    }

    async fn command(&mut self, command: &str) -> io::Result<String> {
        self.stream.write_all(command.as_bytes()).await?;
        self.stream.flush().await?;
        self.reply().await
    }

    async fn reply(&mut self) -> io::Result<String> {
        read_reply(&mut self.stream, &mut self.input).await
    }
}

fn expect(reply: &str) -> io::Result<()> {
    if reply.starts_with('2') {
        Ok(())
    } else {
        Err(io::Error::other(reply.to_owned()))
    }
}

/// The last line of the next reply.
async fn read_reply(stream: &mut (impl AsyncRead + Unpin), input: &mut BytesMut) -> io::Result<String> {
    loop {
        while let Some(end) = memchr(b'\n', input) {
            let line = input.split_to(end + 1);
            if line.get(3) != Some(&b'-') {
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
        }
        input.reserve(4096);
        if stream.read_buf(input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
