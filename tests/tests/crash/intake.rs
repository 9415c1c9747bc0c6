//! An intake in this process, so that a test knows exactly what it had answered when a worker died.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// How it behaves. Odds are parts of a hundred.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manners {
    /// 451 to RCPT.
    pub(crate) defers: u32,
    /// Closes before the message is whole.
    pub(crate) breaks: u32,
    /// Takes the message, and closes without an answer.
    pub(crate) vanishes: u32,
    /// The longest time before it answers a message.
    pub(crate) thinks: Duration,
    /// The time before it answers a message, at least.
    pub(crate) works: Duration,
}

/// One message that was whole.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    /// Its delivery id.
    pub(crate) id: String,
    /// Who brought it, by EHLO.
    pub(crate) from: String,
    pub(crate) at: Instant,
    /// 250 was written.
    pub(crate) answered: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) arrivals: Mutex<Vec<Arrival>>,
    pub(crate) open: AtomicU32,
    pub(crate) most_open: AtomicU32,
}

pub(crate) struct Intake {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Intake {
    pub(crate) async fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let watched = seen.clone();
        let task = tokio::spawn(async move {
            let mut sessions = tokio::task::JoinSet::new();
            let mut number = 0_u32;
            while let Ok((stream, _)) = listener.accept().await {
                while sessions.try_join_next().is_some() {}
                number += 1;
                let session = Session {
                    manners: manners.clone(),
                    seen: watched.clone(),
                    // Both ways to send a message are to be interrupted.
                    chunking: number.is_multiple_of(2),
                    from: String::new(),
                };
                sessions.spawn(session.serve(stream));
            }
        });
        Self { address, seen, task }
    }

    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.seen.arrivals.lock().unwrap().clone()
    }
}

struct Session {
    manners: Manners,
    seen: Arc<Seen>,
    chunking: bool,
    from: String,
}

/// The connection is over.
struct Over;

impl From<std::io::Error> for Over {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

type Wire = BufReader<TcpStream>;

fn happens(odds: u32) -> bool {
    fastrand::u32(0..100) < odds
}

/// Counts a connection as long as it lives.
struct Open(Arc<Seen>);

impl Open {
    fn new(seen: &Arc<Seen>) -> Self {
        let open = seen.open.fetch_add(1, Ordering::SeqCst) + 1;
        seen.most_open.fetch_max(open, Ordering::SeqCst);
        Self(seen.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Session {
    async fn serve(mut self, stream: TcpStream) {
        let open = Open::new(&self.seen);
        let _ = stream.set_nodelay(true);
        let _ = self.talk(BufReader::new(stream), open).await;
    }

    async fn talk(&mut self, mut wire: Wire, open: Open) -> Result<(), Over> {
        wire.write_all(b"220 intake\r\n").await?;
        loop {
            let line = read_line(&mut wire).await?;
            let verb = line.split([' ', ':']).next().unwrap_or_default();
            let reply: &[u8] = match verb {
                "EHLO" => {
                    self.from = line[5..].to_owned();
                    if self.chunking {
                        b"250-intake\r\n250-CHUNKING\r\n250 PIPELINING\r\n"
                    } else {
                        b"250-intake\r\n250-8BITMIME\r\n250 PIPELINING\r\n"
                    }
                }
                "RCPT" if happens(self.manners.defers) => b"451 4.3.0 later\r\n",
                "MAIL" | "RCPT" | "RSET" => b"250 2.0.0 ok\r\n",
                "DATA" => {
                    wire.write_all(b"354 go on\r\n").await?;
                    let message = read_data(&mut wire, self.manners.breaks).await?;
                    if message.is_empty() {
                        // The dot of a client whose recipient was refused.
                        b"554 5.5.1 no recipient\r\n"
                    } else {
                        self.take(&mut wire, &message).await?;
                        continue;
                    }
                }
                "BDAT" => {
                    let size = line
                        .split(' ')
                        .nth(1)
                        .and_then(|size| size.parse().ok())
                        .ok_or(Over)?;
                    let mut message = vec![0; size];
                    let half = if happens(self.manners.breaks) {
                        size / 2
                    } else {
                        size
                    };
                    wire.read_exact(&mut message[..half]).await?;
                    if half < size {
                        return Err(Over);
                    }
                    self.take(&mut wire, &message).await?;
                    continue;
                }
                "QUIT" => {
                    // Who has the answer may open another at once.
                    drop(open);
                    wire.write_all(b"221 2.0.0 bye\r\n").await?;
                    return Ok(());
                }
                _ => b"500 5.5.1 what?\r\n",
            };
            wire.write_all(reply).await?;
        }
    }

    async fn take(&mut self, wire: &mut Wire, message: &[u8]) -> Result<(), Over> {
        let text = String::from_utf8_lossy(message);
        let id = text
            .lines()
            .find_map(|line| line.strip_prefix("X-TDC-Delivery-Id: "))
            .ok_or(Over)?;
        let place = {
            let mut arrivals = self.seen.arrivals.lock().unwrap();
            arrivals.push(Arrival {
                id: id.trim().to_owned(),
                from: self.from.clone(),
                at: Instant::now(),
                answered: false,
            });
            arrivals.len() - 1
        };
        tokio::time::sleep(self.manners.works + self.manners.thinks.mul_f64(fastrand::f64())).await;
        if happens(self.manners.vanishes) {
            return Err(Over);
        }
        // Before it is written: what the worker may have read by the time it dies.
        self.seen.arrivals.lock().unwrap()[place].answered = true;
        wire.write_all(b"250 2.0.0 taken\r\n").await?;
        Ok(())
    }
}

async fn read_line(wire: &mut Wire) -> Result<String, Over> {
    let mut line = String::new();
    if wire.read_line(&mut line).await? == 0 {
        return Err(Over);
    }
    Ok(line.trim_end().to_owned())
}

async fn read_data(wire: &mut Wire, breaks: u32) -> Result<Vec<u8>, Over> {
    let mut message = Vec::new();
    let breaks = happens(breaks);
    loop {
        let before = message.len();
        if wire.read_until(b'\n', &mut message).await? == 0 || (breaks && before > 0) {
            return Err(Over);
        }
        if &message[before..] == b".\r\n" {
            message.truncate(before);
            return Ok(message);
        }
    }
}
