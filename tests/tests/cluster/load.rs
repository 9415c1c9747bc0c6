//! Senders that never stop, and the account of what became of their mail.
//!
//! Each attempt has a Message-ID of its own, so that a message which was tried again is two to the account: one whose
//! sender heard nothing, and one that was accepted.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::ends::{Message, Messages, intake, mailbox};
use crate::kubectl::wait_for;

/// How many send at the same time.
const SENDERS: usize = 4;
/// Between two messages of one sender.
const PAUSE: Duration = Duration::from_millis(60);
/// After a message that was not accepted.
const RETRY_PAUSE: Duration = Duration::from_millis(300);
/// Messages on one connection.
const PER_CONNECTION: usize = 8;
/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(90);

/// What a sender heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// 250 to the final dot.
    Accepted,
    /// Another reply, to any command.
    Refused,
    /// The connection broke before the final dot was sent.
    Broken,
    /// It broke behind the final dot.
    Nothing,
}

/// One attempt.
struct Attempt {
    id: String,
    heard: Heard,
    reply: String,
}

/// Senders at work.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicU64>,
    senders: Vec<JoinHandle<Vec<Attempt>>>,
}

/// What became of the mail of a load.
pub(crate) struct Account {
    accepted: usize,
    refused: usize,
    cut: usize,
    repeated: usize,
    in_doubt: usize,
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            accepted,
            refused,
            cut,
            repeated,
            in_doubt,
        } = self;
        write!(
            f,
            "{accepted} accepted, 0 lost, 0 twice; {refused} asked to try again, {cut} cut off, {in_doubt} copies \
             marked in doubt, {repeated} came again with the same delivery id"
        )
    }
}

impl Load {
    /// Begins to send; `phase` is part of every Message-ID.
    pub(crate) fn start(phase: &str) -> Self {
        let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let senders = (0..SENDERS)
            .map(|sender| {
                let (stop, accepted) = (stop.clone(), accepted.clone());
                let name = format!("{phase}-{}-{sender}", crate::kubectl::run_id());
                std::thread::spawn(move || keep_sending(&name, &stop, &accepted))
            })
            .collect();
        let load = Self {
            stop,
            accepted,
            senders,
        };
        load.flows(20);
        load
    }

    /// Waits until that many more messages are accepted.
    pub(crate) fn flows(&self, messages: u64) {
        let goal = self.accepted.load(Ordering::Relaxed) + messages;
        wait_for("mail to flow", || {
            (self.accepted.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    /// Stops, waits until every copy that is due has come, and holds every promise against what is at both ends.
    pub(crate) fn account(self) -> Account {
        self.stop.store(true, Ordering::Relaxed);
        let attempts: Vec<Attempt> = self
            .senders
            .into_iter()
            .flat_map(|sender| sender.join().unwrap())
            .collect();
        // A copy in doubt comes after its deadline; everything else within seconds.
        let mut missing = usize::MAX;
        let begun = Instant::now();
        while missing > 0 && begun.elapsed() < SILENCE * 2 {
            std::thread::sleep(Duration::from_secs(1));
            let (originals, copies) = (mailbox(), intake());
            missing = attempts
                .iter()
                .filter(|attempt| originals.contains_key(&attempt.id) && !copies.contains_key(&attempt.id))
                .count();
        }
        check(&attempts, &mailbox(), &intake())
    }
}

fn check(attempts: &[Attempt], originals: &Messages, copies: &Messages) -> Account {
    let none: Vec<Message> = Vec::new();
    let mut account = Account {
        accepted: 0,
        refused: 0,
        cut: 0,
        repeated: 0,
        in_doubt: 0,
    };
    let mut faults = Vec::new();
    for Attempt { id, heard, reply } in attempts {
        let (originals, copies) = (
            originals.get(id).unwrap_or(&none),
            copies.get(id).unwrap_or(&none),
        );
        let ids: HashSet<&str> = copies.iter().map(Message::delivery_id).collect();
        let mut demand = |holds: bool, what: &str| {
            if !holds {
                let (arrived, came) = (originals.len(), copies.len());
                faults.push(format!(
                    "{id}: {what} ({heard:?} {reply}; {arrived} originals, {came} copies)"
                ));
            }
        };
        let marked = copies.iter().all(Message::in_doubt);
        demand(ids.len() <= 1, "two copies that do not know of each other");
        demand(originals.len() <= 1, "the original came twice");
        if let (Some(original), Some(copy)) = (originals.first(), copies.first()) {
            demand(
                original.original == copy.original,
                "the copy differs from the original",
            );
        }
        match heard {
            Heard::Accepted => {
                account.accepted += 1;
                demand(originals.len() == 1, "accepted, and the original is lost");
                demand(ids.len() == 1, "accepted, and the copy is lost");
            }
            Heard::Refused | Heard::Broken => {
                account.refused += usize::from(*heard == Heard::Refused);
                account.cut += usize::from(*heard == Heard::Broken);
                demand(originals.is_empty(), "not accepted, and the original came");
                demand(marked, "not accepted, and a copy came that does not say so");
            }
            Heard::Nothing => {
                account.cut += 1;
                demand(
                    originals.is_empty() || ids.len() == 1,
                    "the original came, and the copy is lost",
                );
                demand(
                    !originals.is_empty() || marked,
                    "no original, and a copy came that does not say so",
                );
            }
        }
        account.repeated += copies.len() - ids.len();
        account.in_doubt += copies.iter().filter(|copy| copy.in_doubt()).count();
    }
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
    account
}

fn keep_sending(name: &str, stop: &AtomicBool, accepted: &AtomicU64) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut session) = Session::open() else {
            std::thread::sleep(RETRY_PAUSE);
            continue;
        };
        for _ in 0..PER_CONNECTION {
            number += 1;
            let id = format!("{name}-{number}@sender.example");
            let (heard, reply) = session.send(&id);
            attempts.push(Attempt { id, heard, reply });
            if heard == Heard::Accepted {
                accepted.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(PAUSE);
            } else {
                std::thread::sleep(RETRY_PAUSE);
                break;
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        let _ = session.command("QUIT");
    }
    attempts
}

/// A connection to the node port, greeted.
struct Session(BufReader<TcpStream>);

impl Session {
    fn open() -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", crate::installation::SMTP))?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_nodelay(true)?;
        let mut session = Self(BufReader::new(stream));
        let greeting = session.reply()?;
        let hello = session.command("EHLO sender.example")?;
        if greeting.starts_with("220") && hello.starts_with("250") {
            Ok(session)
        } else {
            Err(std::io::Error::other(greeting))
        }
    }

    fn send(&mut self, id: &str) -> (Heard, String) {
        let envelope = [
            "MAIL FROM:<load@sender.example>",
            "RCPT TO:<ann@company.example>",
            "DATA",
        ];
        for command in envelope {
            match self.command(command) {
                Ok(reply) if reply.starts_with(['2', '3']) => {}
                Ok(reply) => return (Heard::Refused, format!("{command}: {reply}")),
                Err(error) => return (Heard::Broken, format!("{command}: {error}")),
            }
        }
        let filler = "What stands here is of no importance, but it takes its place.\r\n".repeat(30);
        let message = format!(
            "From: <load@sender.example>\r\nTo: <ann@company.example>\r\nSubject: load\r\nMessage-ID: <{id}>\r\n\r\n{filler}"
        );
        if let Err(error) = self.0.get_mut().write_all(message.as_bytes()) {
            return (Heard::Broken, error.to_string());
        }
        match self.command(".") {
            Ok(reply) if reply.starts_with("250") => (Heard::Accepted, reply),
            Ok(reply) => (Heard::Refused, reply),
            Err(error) => (Heard::Nothing, error.to_string()),
        }
    }

    fn command(&mut self, command: &str) -> std::io::Result<String> {
        self.0.get_mut().write_all(format!("{command}\r\n").as_bytes())?;
        self.reply()
    }

    /// The last line of a reply.
    fn reply(&mut self) -> std::io::Result<String> {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line.trim_end().to_owned());
            }
        }
    }
}
