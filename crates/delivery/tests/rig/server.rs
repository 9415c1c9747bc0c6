//! An intake that does what a script says, connection by connection, and remembers what it saw.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// Where a script may strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Greeting,
    Ehlo,
    StartTls,
    Handshake,
    Mail,
    Rcpt,
    Data,
    /// While the message arrives.
    Body,
    Dot,
    /// After the reply to the final dot, before the next command.
    Between,
}

/// What it does there.
#[derive(Clone, Debug)]
pub enum Act {
    Say(&'static str),
    Close,
    /// Says nothing and keeps the connection.
    Stall,
}

/// How one connection goes; the default takes everything.
#[derive(Clone, Debug, Default)]
pub struct Script(Option<(At, Act)>);

impl Script {
    /// Whether it strikes there.
    pub fn is_at(&self, at: At) -> bool {
        matches!(&self.0, Some((when, _)) if *when == at)
    }
}

/// A connection on which everything goes well.
pub fn good() -> Script {
    Script(None)
}

pub fn at(at: At, act: Act) -> Script {
    Script(Some((at, act)))
}

/// What the server saw.
#[derive(Default)]
pub struct Seen {
    pub connections: AtomicU32,
    pub open: AtomicU32,
    pub most_open: AtomicU32,
    pub quits: AtomicU32,
    pub resets: AtomicU32,
    /// (connection, message) of each message whose final dot came.
    pub messages: Mutex<Vec<(u32, Vec<u8>)>>,
    /// Every MAIL, RCPT, DATA and BDAT line.
    pub envelopes: Mutex<Vec<String>>,
    /// Connections that ran TLS.
    pub secured: AtomicU32,
    /// Of these, those that went on with an earlier session.
    pub resumed: AtomicU32,
}

/// What it offers, and how it works.
#[derive(Clone)]
pub struct Options {
    pub keywords: &'static [&'static str],
    pub tls: Option<TlsAcceptor>,
    /// Scripts of the first connections; later ones are good.
    pub scripts: Vec<Script>,
    /// Further connections get a 421.
    pub at_once: u32,
    pub answer_after: Duration,
    /// Each answer to a message takes a permit, and waits for it.
    pub permits: Option<Arc<Semaphore>>,
}

impl Default for Options {
    fn default() -> Self {
        let keywords = &["PIPELINING", "8BITMIME", "SIZE 50000000"];
        Self {
            keywords,
            tls: None,
            scripts: Vec::new(),
            at_once: u32::MAX,
            answer_after: Duration::ZERO,
            permits: None,
        }
    }
}

pub struct Server {
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn start(options: Options) -> Self {
        Self::listen("127.0.0.1:0".parse().unwrap(), options).await
    }

    pub async fn listen(address: SocketAddr, options: Options) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let watched = seen.clone();
        let task = tokio::spawn(async move {
            let mut sessions = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let number = watched.connections.fetch_add(1, Ordering::SeqCst);
                let session = Session {
                    number,
                    script: options.scripts.get(number as usize).cloned().unwrap_or_default(),
                    options: options.clone(),
                    seen: watched.clone(),
                };
                sessions.spawn(session.serve(stream));
            }
        });
        Self { address, seen, task }
    }
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

struct Session {
    number: u32,
    script: Script,
    options: Options,
    seen: Arc<Seen>,
}

/// The script ended the connection.
struct Over;

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Over
    }
}

impl Session {
    async fn serve(mut self, stream: TcpStream) {
        let open = self.seen.open.fetch_add(1, Ordering::SeqCst) + 1;
        if open <= self.options.at_once {
            self.seen.most_open.fetch_max(open, Ordering::SeqCst);
        }
        let _ = self.talk(stream, open).await;
        self.seen.open.fetch_sub(1, Ordering::SeqCst);
    }

    async fn talk(&mut self, stream: TcpStream, open: u32) -> Result<(), Over> {
        let mut wire: BufReader<Box<dyn Wire>> = BufReader::new(Box::new(stream));
        if open > self.options.at_once {
            wire.write_all(b"421 4.7.0 too many connections\r\n").await?;
            return Ok(());
        }
        self.say(&mut wire, At::Greeting, "220 intake ESMTP").await?;
        if self.options.tls.is_some() && self.plain(&mut wire).await? {
            self.act(&mut wire, At::Handshake).await?;
            let acceptor = self.options.tls.clone().unwrap();
            let stream = acceptor.accept(wire.into_inner()).await?;
            self.seen.secured.fetch_add(1, Ordering::SeqCst);
            if stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
                self.seen.resumed.fetch_add(1, Ordering::SeqCst);
            }
            wire = BufReader::new(Box::new(stream));
            self.options.tls = None;
        }
        self.commands(&mut wire).await
    }

    /// Until STARTTLS; false: the client does without.
    async fn plain(&mut self, wire: &mut BufReader<Box<dyn Wire>>) -> Result<bool, Over> {
        loop {
            let line = read_line(wire).await?;
            if line.starts_with("EHLO") {
                self.ehlo(wire).await?;
            } else if line == "STARTTLS" {
                self.say(wire, At::StartTls, "220 go").await?;
                return Ok(true);
            } else {
                wire.write_all(b"530 5.7.0 STARTTLS first\r\n").await?;
            }
        }
    }

    async fn ehlo(&mut self, wire: &mut BufReader<Box<dyn Wire>>) -> Result<(), Over> {
        let mut reply = String::from("250-intake");
        for keyword in self.options.keywords {
            reply.push_str("\r\n250-");
            reply.push_str(keyword);
        }
        if self.options.tls.is_some() {
            reply.push_str("\r\n250-STARTTLS");
        }
        reply.push_str("\r\n250 HELP");
        self.say(wire, At::Ehlo, &reply).await
    }

    async fn commands(&mut self, wire: &mut BufReader<Box<dyn Wire>>) -> Result<(), Over> {
        loop {
            let line = read_line(wire).await?;
            let verb = line.split([' ', ':']).next().unwrap_or("").to_ascii_uppercase();
            match &*verb {
                "EHLO" => self.ehlo(wire).await?,
                "MAIL" | "RCPT" => {
                    self.seen.envelopes.lock().unwrap().push(line.clone());
                    let at = if verb == "MAIL" { At::Mail } else { At::Rcpt };
                    self.say(wire, at, "250 2.1.0 ok").await?;
                }
                "DATA" => {
                    self.seen.envelopes.lock().unwrap().push(line.clone());
                    self.say(wire, At::Data, "354 go on").await?;
                    self.message(wire).await?;
                }
                "BDAT" => {
                    self.seen.envelopes.lock().unwrap().push(line.clone());
                    self.chunk(wire, &line).await?;
                }
                "RSET" => {
                    self.seen.resets.fetch_add(1, Ordering::SeqCst);
                    wire.write_all(b"250 2.0.0 ok\r\n").await?;
                }
                "QUIT" => {
                    self.seen.quits.fetch_add(1, Ordering::SeqCst);
                    wire.write_all(b"221 2.0.0 bye\r\n").await?;
                    return Ok(());
                }
                _ => wire.write_all(b"500 5.5.1 what?\r\n").await?,
            }
        }
    }

    /// One chunk that is the whole message, as the worker sends it.
    async fn chunk(&mut self, wire: &mut BufReader<Box<dyn Wire>>, line: &str) -> Result<(), Over> {
        let size: usize = line.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(line.ends_with(" LAST"), "{line}");
        let mut message = vec![0; size];
        let (first, rest) = message.split_at_mut(size / 2);
        wire.read_exact(first).await?;
        self.act(wire, At::Body).await?;
        wire.read_exact(rest).await?;
        self.taken(wire, message).await
    }

    async fn message(&mut self, wire: &mut BufReader<Box<dyn Wire>>) -> Result<(), Over> {
        if matches!(self.script.0, Some((At::Data, _))) {
            return Ok(());
        }
        let mut message = Vec::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            if wire.read_until(b'\n', &mut line).await? == 0 {
                return Err(Over);
            }
            if line == b".\r\n" {
                break;
            }
            self.act(wire, At::Body).await?;
            message.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
        self.taken(wire, message).await
    }

    async fn taken(&mut self, wire: &mut BufReader<Box<dyn Wire>>, message: Vec<u8>) -> Result<(), Over> {
        tokio::time::sleep(self.options.answer_after).await;
        if let Some(permits) = &self.options.permits {
            permits.acquire().await.unwrap().forget();
        }
        // An empty message is the dot of a client that was told to go on without a recipient.
        if !message.is_empty() {
            self.seen.messages.lock().unwrap().push((self.number, message));
        }
        self.say(wire, At::Dot, "250 2.0.0 taken").await?;
        self.act(wire, At::Between).await
    }

    /// The script's word, or the usual one.
    async fn say(&mut self, wire: &mut BufReader<Box<dyn Wire>>, at: At, usual: &str) -> Result<(), Over> {
        self.act(wire, at).await?;
        let said = match &self.script.0 {
            Some((when, Act::Say(text))) if *when == at => text,
            _ => usual,
        };
        wire.write_all(format!("{said}\r\n").as_bytes()).await?;
        Ok(wire.flush().await?)
    }

    async fn act(&mut self, wire: &mut BufReader<Box<dyn Wire>>, at: At) -> Result<(), Over> {
        match &self.script.0 {
            Some((when, Act::Close)) if *when == at => Err(Over),
            Some((when, Act::Stall)) if *when == at => {
                // Until the client goes away; what it still sends is swallowed.
                let mut rest = Vec::new();
                while wire.read_until(b'\n', &mut rest).await? > 0 {
                    rest.clear();
                }
                Err(Over)
            }
            Some((when @ (At::Between | At::Body | At::Handshake), Act::Say(text))) if *when == at => {
                wire.write_all(format!("{text}\r\n").as_bytes()).await?;
                wire.shutdown().await?;
                // What the client has sent already would turn the close into a reset, which may overtake the reply.
                if at == At::Body {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                Err(Over)
            }
            _ => Ok(()),
        }
    }
}

async fn read_line(wire: &mut BufReader<Box<dyn Wire>>) -> Result<String, Over> {
    let mut line = String::new();
    if wire.read_line(&mut line).await? == 0 {
        return Err(Over);
    }
    Ok(line.trim_end().to_owned())
}
