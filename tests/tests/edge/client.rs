//! An SMTP client that says exactly what it is told to say, in the pieces in which it is told to.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tdc_tests::process::PATIENCE;

pub(crate) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

pub(crate) struct Client {
    stream: Box<dyn Stream>,
    pub(crate) tcp: TcpStream,
    input: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    pub(crate) fn over(tcp: TcpStream) -> Self {
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.set_nodelay(true).unwrap();
        Self {
            stream: Box::new(tcp.try_clone().unwrap()),
            tcp,
            input: Vec::new(),
        }
    }

    /// Shakes hands; gives the server's certificate.
    pub(crate) fn start_tls(&mut self, config: &Arc<ClientConfig>) -> io::Result<Vec<u8>> {
        let name = ServerName::try_from("edge.example").unwrap();
        let mut session = ClientConnection::new(config.clone(), name).unwrap();
        let mut tcp = self.tcp.try_clone().unwrap();
        while session.is_handshaking() {
            session.complete_io(&mut tcp)?;
        }
        let certificate = session.peer_certificates().unwrap()[0].to_vec();
        self.stream = Box::new(StreamOwned::new(session, tcp));
        Ok(certificate)
    }

    pub(crate) fn send(&mut self, octets: impl AsRef<[u8]>) {
        // The server may have closed already; what it said can still be read.
        let _ = self.stream.write_all(octets.as_ref());
        let _ = self.stream.flush();
    }

    /// One reply in full; `None` when the connection is at its end.
    pub(crate) fn reply(&mut self) -> Option<String> {
        let mut from = 0;
        loop {
            while let Some(length) = self.input[from..].iter().position(|octet| *octet == b'\n') {
                let line = &self.input[from..from + length + 1];
                let last = line.get(3) != Some(&b'-');
                from += length + 1;
                if last {
                    let reply: Vec<u8> = self.input.drain(..from).collect();
                    return Some(String::from_utf8(reply).unwrap());
                }
            }
            let mut read = [0; 4096];
            match self.stream.read(&mut read) {
                Ok(0) => return None,
                Ok(count) => self.input.extend_from_slice(&read[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("no reply within {PATIENCE:?}")
                }
                Err(_) => return None,
            }
        }
    }

    /// The code of the next reply; 0 when the connection is at its end.
    pub(crate) fn code(&mut self) -> u16 {
        self.reply().map_or(0, |reply| reply[..3].parse().unwrap())
    }

    pub(crate) fn says(&mut self, command: &str) -> u16 {
        self.send(format!("{command}\r\n"));
        self.code()
    }

    /// The full reply to a command.
    pub(crate) fn asks(&mut self, command: &str) -> String {
        self.send(format!("{command}\r\n"));
        self.reply().unwrap_or_default()
    }

    /// True when nothing but the end comes.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.reply().is_none()
    }

    /// MAIL, RCPT and DATA, up to 354.
    pub(crate) fn begin(&mut self) {
        assert_eq!(self.says("MAIL FROM:<a@x.example>"), 250);
        assert_eq!(self.says("RCPT TO:<b@y.example>"), 250);
        assert_eq!(self.says("DATA"), 354);
    }

    /// A whole small message; the code of its end.
    pub(crate) fn message(&mut self) -> u16 {
        self.begin();
        self.send("Subject: a\r\n\r\nhello\r\n.\r\n");
        self.code()
    }
}
