//! A hand-written client, so that the servers are not only tested with the protocol code they are made of, and a
//! guard that runs a server in the background.

// Each test file uses its part of this.
#![allow(dead_code, unreachable_pub)]

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tdc_simulate::{Report, ReportHandle, Server, SimulateConfig, bind};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// No step of a test takes as long; a test that hangs ends here.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A server in the background.
pub struct Running {
    pub addr: SocketAddr,
    pub ca: String,
    pub counts: ReportHandle,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Report>,
}

impl Running {
    pub async fn start(config: impl Into<SimulateConfig>) -> Self {
        Self::run(bind(config).await.unwrap())
    }

    pub fn run(server: Server) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (addr, counts) = (server.local_addr(), server.report());
        let ca = server.ca_pem().unwrap_or_default().to_owned();
        let task = tokio::spawn(async move {
            let stopped = async { stopped.await.unwrap_or_default() };
            server.run(stopped).await.unwrap()
        });
        Self {
            addr,
            ca,
            counts,
            stop,
            task,
        }
    }

    /// Begins the shutdown; the second half is a handle to wait for the last report.
    pub fn begin_stop(self) -> JoinHandle<Report> {
        self.stop.send(()).unwrap();
        self.task
    }

    pub async fn stop(self) -> Report {
        timeout(PATIENCE, self.begin_stop()).await.unwrap().unwrap()
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

/// A client that says exactly what it is told.
pub struct Client {
    stream: Pin<Box<dyn Duplex>>,
    input: Vec<u8>,
}

impl Client {
    /// Connects, and takes the greeting.
    pub async fn connect(addr: SocketAddr) -> Self {
        let (client, greeting) = Self::connect_raw(addr).await;
        assert!(greeting.starts_with("220 "), "{greeting}");
        client
    }

    /// Connects; the first reply may be any.
    pub async fn connect_raw(addr: SocketAddr) -> (Self, String) {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self {
            stream: Box::pin(stream),
            input: Vec::new(),
        };
        let greeting = client.reply().await;
        (client, greeting)
    }

    pub async fn send(&mut self, octets: &[u8]) {
        timeout(PATIENCE, async {
            self.stream.write_all(octets).await.unwrap();
            self.stream.flush().await.unwrap();
        })
        .await
        .unwrap();
    }

    /// One read's worth of whatever the server says; empty: it closed.
    pub async fn read_once(&mut self) -> String {
        let mut input = vec![0; 64 * 1024];
        let n = timeout(PATIENCE, self.stream.read(&mut input))
            .await
            .unwrap()
            .unwrap_or(0);
        String::from_utf8_lossy(&input[..n]).into_owned()
    }

    /// The next reply, lines joined by `|`; empty: the server closed.
    pub async fn reply(&mut self) -> String {
        let mut lines = Vec::new();
        loop {
            while let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.input.drain(..end + 2).collect();
                let line = String::from_utf8_lossy(&line[..end]).into_owned();
                let more = line.as_bytes().get(3) == Some(&b'-');
                lines.push(line);
                if !more {
                    return lines.join("|");
                }
            }
            let mut input = vec![0; 16 * 1024];
            let n = timeout(PATIENCE, self.stream.read(&mut input))
                .await
                .unwrap()
                .unwrap_or(0);
            if n == 0 {
                return lines.join("|");
            }
            self.input.extend_from_slice(&input[..n]);
        }
    }

    /// The reply to a line, or why there is none but a close in order.
    pub async fn try_say(&mut self, line: &str) -> io::Result<String> {
        // Into a connection that is closed already: the reply, or its lack, is what counts.
        let _ = self.stream.write_all(format!("{line}\r\n").as_bytes()).await;
        let _ = self.stream.flush().await;
        let mut lines = Vec::new();
        loop {
            while let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.input.drain(..end + 2).collect();
                let line = String::from_utf8_lossy(&line[..end]).into_owned();
                let more = line.as_bytes().get(3) == Some(&b'-');
                lines.push(line);
                if !more {
                    return Ok(lines.join("|"));
                }
            }
            let mut input = vec![0; 16 * 1024];
            let n = timeout(PATIENCE, self.stream.read(&mut input)).await.unwrap()?;
            if n == 0 {
                return Ok(lines.join("|"));
            }
            self.input.extend_from_slice(&input[..n]);
        }
    }

    pub async fn say(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes()).await;
        self.reply().await
    }

    /// Says each line and wants a reply that begins as told.
    pub async fn talk(&mut self, lines: &[(&str, &str)]) {
        for (line, want) in lines {
            let got = self.say(line).await;
            assert!(got.starts_with(want), "{line}: wanted {want}, got {got}");
        }
    }

    /// EHLO, MAIL, RCPTs, DATA up to 354; then the message, stuffed; the reply to its end.
    pub async fn message(&mut self, from: &str, to: &[&str], message: &[u8]) -> String {
        self.talk(&[(&format!("MAIL FROM:<{from}>"), "250")]).await;
        for to in to {
            self.talk(&[(&format!("RCPT TO:<{to}>"), "250")]).await;
        }
        self.talk(&[("DATA", "354")]).await;
        self.send(&stuffed(message)).await;
        self.reply().await
    }

    /// STARTTLS up to the end of the handshake, trusting one CA.
    pub async fn starttls(mut self, ca: &str, name: &str, tls12: bool) -> io::Result<Self> {
        self.talk(&[("STARTTLS", "220")]).await;
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap())
            .unwrap();
        let versions: &[_] = if tls12 {
            &[&rustls::version::TLS12]
        } else {
            &[&rustls::version::TLS13]
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let stream = timeout(PATIENCE, connector.connect(name, self.stream))
            .await
            .unwrap()?;
        Ok(Self {
            stream: Box::pin(stream),
            input: Vec::new(),
        })
    }
}

/// A message as DATA sends it (RFC 5321 section 4.5.2), with its end.
pub fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 16);
    let mut at_line_start = true;
    for byte in message {
        if at_line_start && *byte == b'.' {
            out.push(b'.');
        }
        at_line_start = *byte == b'\n';
        out.push(*byte);
    }
    if !message.is_empty() && !message.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}

/// The names in a folder, hidden ones too, sorted.
pub fn names(dir: &std::path::Path) -> Vec<String> {
    let name =
        |entry: io::Result<std::fs::DirEntry>| entry.unwrap().file_name().to_string_lossy().into_owned();
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(name).collect();
    names.sort();
    names
}

/// Lines of text up to about this many octets, none of them alike.
pub fn large(octets: usize) -> Vec<u8> {
    let mut message = b"Subject: large\r\n\r\n".to_vec();
    for n in 0.. {
        if message.len() >= octets {
            break;
        }
        let dots = &"...."[..n % 4];
        message.extend_from_slice(
            format!("{dots}line {n} of a message that is large enough to need a file\r\n").as_bytes(),
        );
    }
    message
}
