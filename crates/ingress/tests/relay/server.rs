//! A next hop that does what a script says, and remembers what it saw.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Where a script may strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Greeting,
    Ehlo,
    StartTls,
    Handshake,
    Xforward,
    Mail,
    /// The first RCPT.
    Rcpt,
    Data,
    /// At the first octets of the message.
    Body,
    Dot,
    /// A chunk that is not the last.
    Chunk,
    /// After the reply to the first message.
    Between,
}

/// What it does there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Replies so.
    Say(&'static str),
    /// Replies so and closes.
    SayAndClose(&'static str),
    Close,
    /// Closes with RST.
    Reset,
    /// Says nothing more.
    Stall,
    /// Half a reply, then nothing.
    HalfAndStall,
    /// Half a reply, then the end.
    HalfAndClose,
    /// What is no SMTP.
    Garbage,
}

/// Strikes of one connection; one without takes everything.
pub(crate) type Script = Vec<(At, Act)>;

/// What the server saw.
#[derive(Default)]
pub(crate) struct Seen {
    /// Each command line.
    pub(crate) lines: Vec<String>,
    /// Each read outside of a message.
    pub(crate) reads: Vec<String>,
    /// Messages that it accepted, as they came (dots doubled).
    pub(crate) accepted: Vec<Vec<u8>>,
    pub(crate) connections: usize,
}

pub(crate) struct Options {
    pub(crate) offers: Vec<&'static str>,
    /// Scripts of the first connections; later ones are good.
    pub(crate) scripts: Vec<Script>,
    pub(crate) tls: Option<TlsAcceptor>,
    /// Replies to RCPT by address.
    pub(crate) rcpt: Vec<(&'static str, &'static str)>,
    /// The reply to DATA when no recipient was taken.
    pub(crate) without_recipients: &'static str,
    /// Connections during which the last offer is left out, from this one on.
    pub(crate) last_offer_until: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            offers: vec!["PIPELINING", "8BITMIME", "SIZE 100000000"],
            scripts: Vec::new(),
            tls: None,
            rcpt: Vec::new(),
            without_recipients: "554 5.5.1 no valid recipients",
            last_offer_until: usize::MAX,
        }
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn start(options: Options) -> Self {
        Self::listen("127.0.0.1:0".parse().unwrap(), options).await
    }

    pub(crate) async fn listen(address: SocketAddr, options: Options) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (shared, options) = (seen.clone(), Arc::new(options));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let number = {
                    let mut seen = shared.lock().unwrap();
                    seen.connections += 1;
                    seen.connections - 1
                };
                connections.spawn(serve(stream, number, options.clone(), shared.clone()));
            }
        });
        Self { address, seen, task }
    }

    pub(crate) fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap())
    }

    pub(crate) fn accepted(&self) -> usize {
        self.seen(|seen| seen.accepted.len())
    }

    /// The command lines that begin so.
    pub(crate) fn lines(&self, verb: &str) -> Vec<String> {
        self.seen(|seen| {
            let lines = seen.lines.iter().filter(|line| line.starts_with(verb));
            lines.cloned().collect()
        })
    }
}

async fn serve(stream: TcpStream, number: usize, options: Arc<Options>, seen: Arc<Mutex<Seen>>) {
    stream.set_nodelay(true).unwrap();
    let mut connection = Connection {
        stream: Box::new(stream),
        script: options.scripts.get(number).cloned().unwrap_or_default(),
        input: Vec::new(),
        number,
        options,
        seen,
        secure: false,
    };
    // The end of a connection is no fault of a test.
    let _ = connection.run().await;
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send + std::any::Any {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + std::any::Any> Duplex for T {}

struct Connection {
    stream: Box<dyn Duplex>,
    script: Script,
    input: Vec<u8>,
    number: usize,
    options: Arc<Options>,
    seen: Arc<Mutex<Seen>>,
    secure: bool,
}

/// The connection is over.
struct Over;

impl From<std::io::Error> for Over {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

impl Connection {
    async fn run(&mut self) -> Result<(), Over> {
        self.answer(At::Greeting, "220 scripted ESMTP").await?;
        let mut recipients = 0;
        let mut message = Vec::new();
        loop {
            let line = self.line().await?;
            self.seen.lock().unwrap().lines.push(line.clone());
            let verb = line.split([' ', ':']).next().unwrap().to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => self.ehlo().await?,
                "STARTTLS" => self.starttls().await?,
                "XFORWARD" => {
                    self.answer(At::Xforward, "250 ok").await?;
                }
                "MAIL" => {
                    recipients = 0;
                    message.clear();
                    self.answer(At::Mail, "250 2.1.0 sender ok").await?;
                }
                "RCPT" => {
                    let special = self
                        .options
                        .rcpt
                        .iter()
                        .find(|(address, _)| line.contains(address));
                    let reply = special.map_or("250 2.1.5 recipient ok", |(_, reply)| reply);
                    recipients += usize::from(reply.starts_with('2'));
                    self.answer(At::Rcpt, reply).await?;
                }
                "DATA" if recipients > 0 => {
                    if self.answer(At::Data, "354 go on").await? {
                        self.body(&mut message).await?;
                        self.end(&mut message).await?;
                    }
                }
                "DATA" => {
                    let reply = self.options.without_recipients;
                    self.say(reply).await?;
                    if reply.starts_with('3') {
                        self.body(&mut message).await?;
                        self.end(&mut message).await?;
                    }
                }
                "BDAT" if recipients > 0 => self.chunk(&line, &mut message).await?,
                "RSET" | "NOOP" => self.say("250 ok").await?,
                "QUIT" => {
                    self.say("221 bye").await?;
                    return Ok(());
                }
                _ => self.say("503 not now").await?,
            }
        }
    }

    async fn ehlo(&mut self) -> Result<(), Over> {
        let mut offers = self.options.offers.clone();
        if self.number >= self.options.last_offer_until {
            offers.pop();
        }
        if self.options.tls.is_some() && !self.secure {
            offers.push("STARTTLS");
        }
        let mut lines: VecDeque<String> = offers.iter().map(|offer| format!("250-{offer}")).collect();
        lines.push_front("250-scripted".to_owned());
        let last = lines.pop_back().unwrap().replacen("250-", "250 ", 1);
        lines.push_back(last);
        let reply = lines.into_iter().collect::<Vec<_>>().join("\r\n");
        self.answer(At::Ehlo, &reply).await?;
        Ok(())
    }

    async fn starttls(&mut self) -> Result<(), Over> {
        let acceptor = self.options.tls.clone().unwrap();
        if !self.answer(At::StartTls, "220 go").await? {
            return Ok(());
        }
        if self.script.iter().any(|(at, _)| *at == At::Handshake) {
            self.stream.write_all(b"this is no TLS record at all").await?;
            return Err(Over);
        }
        let stream = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        let any: Box<dyn std::any::Any> = stream;
        let plain = any.downcast::<TcpStream>().unwrap();
        self.stream = Box::new(acceptor.accept(*plain).await?);
        self.secure = true;
        Ok(())
    }

    async fn body(&mut self, message: &mut Vec<u8>) -> Result<(), Over> {
        let mut tail: Vec<u8> = b"\r\n".to_vec();
        loop {
            if self.input.is_empty() {
                self.read().await?;
            }
            if let Some(act) = self.strike(At::Body) {
                self.act(act).await?;
            }
            // The scan is naive on purpose: the end may be split over reads.
            for at in 0..self.input.len() {
                tail.push(self.input[at]);
                if tail.ends_with(b"\r\n.\r\n") {
                    message.extend_from_slice(&self.input[..=at]);
                    message.truncate(message.len().saturating_sub(3));
                    self.input.drain(..=at);
                    return Ok(());
                }
            }
            message.append(&mut self.input);
            let keep = tail.len().saturating_sub(8);
            tail.drain(..keep);
        }
    }

    async fn chunk(&mut self, line: &str, message: &mut Vec<u8>) -> Result<(), Over> {
        let mut words = line.split(' ').skip(1);
        let size: usize = words.next().unwrap().parse().unwrap();
        let last = words.next() == Some("LAST");
        while self.input.len() < size {
            self.read().await?;
            if let Some(act) = self.strike(At::Body) {
                self.act(act).await?;
            }
        }
        message.extend(self.input.drain(..size));
        if last {
            return self.end(message).await;
        }
        self.answer(At::Chunk, "250 chunk").await?;
        Ok(())
    }

    async fn end(&mut self, message: &mut Vec<u8>) -> Result<(), Over> {
        let accepted = std::mem::take(message);
        let seen = self.seen.clone();
        if self.script.iter().any(|(at, _)| *at == At::Dot) {
            self.answer(At::Dot, "").await?;
            return Ok(());
        }
        seen.lock().unwrap().accepted.push(accepted);
        self.say("250 2.0.0 message accepted\r\n").await?;
        if let Some(act) = self.strike(At::Between) {
            self.act(act).await?;
        }
        Ok(())
    }

    /// The first strike of that place, once.
    fn strike(&mut self, at: At) -> Option<Act> {
        let found = self.script.iter().position(|(place, _)| *place == at)?;
        Some(self.script.remove(found).1)
    }

    /// Says what the script wants, or the usual. False: not the usual.
    async fn answer(&mut self, at: At, usual: &str) -> Result<bool, Over> {
        match self.strike(at) {
            None => {
                self.say(usual).await?;
                Ok(true)
            }
            Some(act) => {
                self.act(act).await?;
                Ok(false)
            }
        }
    }

    async fn act(&mut self, act: Act) -> Result<(), Over> {
        match act {
            Act::Say(reply) => self.say(reply).await,
            Act::SayAndClose(reply) => {
                self.say(reply).await?;
                // What is still unread would turn the close into a reset, which takes the reply away.
                let _ = self.stream.shutdown().await;
                let mut rest = Vec::new();
                let drain = self.stream.read_to_end(&mut rest);
                let _ = tokio::time::timeout(Duration::from_secs(20), drain).await;
                Err(Over)
            }
            Act::Close => Err(Over),
            Act::Reset => {
                let any: &dyn std::any::Any = &*self.stream;
                if let Some(stream) = any.downcast_ref::<TcpStream>() {
                    socket2::SockRef::from(stream)
                        .set_linger(Some(Duration::ZERO))
                        .unwrap();
                }
                Err(Over)
            }
            Act::Stall => std::future::pending().await,
            Act::HalfAndStall => {
                self.stream.write_all(b"250-half a rep").await?;
                std::future::pending().await
            }
            Act::HalfAndClose => {
                self.stream.write_all(b"250-half a rep").await?;
                Err(Over)
            }
            Act::Garbage => {
                self.stream.write_all(b"\x00\xff{\"json\": true}\r\n").await?;
                Ok(())
            }
        }
    }

    async fn say(&mut self, reply: &str) -> Result<(), Over> {
        let reply = reply.trim_end();
        self.stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
        self.stream.flush().await?;
        Ok(())
    }

    async fn line(&mut self) -> Result<String, Over> {
        loop {
            if let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.input[..end]).into_owned();
                self.input.drain(..end + 2);
                return Ok(line);
            }
            let before = self.input.len();
            self.read().await?;
            let read = String::from_utf8_lossy(&self.input[before..]).into_owned();
            self.seen.lock().unwrap().reads.push(read);
        }
    }

    async fn read(&mut self) -> Result<(), Over> {
        let mut buffer = vec![0_u8; 16 * 1024];
        let count = self.stream.read(&mut buffer).await?;
        if count == 0 {
            return Err(Over);
        }
        self.input.extend_from_slice(&buffer[..count]);
        Ok(())
    }
}
