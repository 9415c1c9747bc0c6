//! The two ends of a run: where originals and copies arrive, and whether they are all there.
//!
//! `smtp-sink` counts messages, and the octets it has read say whether they were whole. The benchmark's own sink knows
//! every octet (see `sink.rs`).

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::fail::{Fail, Outcome};
use crate::proc::{self, Proc, Usage};
use crate::sink::{Around, Arrived};

/// What may stand around a message on the wire, for `smtp-sink`, which cannot tell: commands, trace fields, the report
/// that wraps a copy, and leading dots.
const ENVELOPE: u64 = 4096;
/// How often an arrival is looked for.
const LOOK: Duration = Duration::from_millis(5);
/// How long a sink may stand still before the run has failed.
const STILL: Duration = Duration::from_secs(60);
/// How long nothing more may arrive after the last message was counted.
const QUIET: Duration = Duration::from_millis(100);

/// Which sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Postfix's.
    SmtpSink,
    /// The benchmark's own.
    Counting,
}

/// A running sink.
pub(crate) struct Sink {
    process: Proc,
    pipes: Option<(ChildStdin, BufReader<ChildStdout>)>,
    pub(crate) port: u16,
    size: usize,
    /// What had come before the run began.
    before: (u64, u64),
}

/// How a sink is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape<'a> {
    pub(crate) kind: Kind,
    pub(crate) around: Around,
    pub(crate) size: usize,
    pub(crate) tls_dir: Option<&'a Path>,
}

impl Sink {
    pub(crate) fn start(name: &'static str, shape: Shape<'_>, dir: &Path) -> Outcome<Self> {
        match shape.kind {
            Kind::SmtpSink => Self::smtp_sink(name, shape.size, dir),
            Kind::Counting => Self::counting(name, shape),
        }
    }

    fn smtp_sink(name: &'static str, size: usize, dir: &Path) -> Outcome<Self> {
        let port = proc::free_port()?;
        let mut command = Command::new("smtp-sink");
        // It will not run as root, and must be told who to be.
        command.args([
            "-u",
            "nobody",
            "-c",
            "-m",
            "2000",
            &format!("127.0.0.1:{port}"),
            "1024",
        ]);
        let process = Proc::start(name, &mut command, dir)?;
        proc::wait_for_port(port, STILL)?;
        Ok(Self {
            process,
            pipes: None,
            port,
            size,
            before: (0, 0),
        })
    }

    fn counting(name: &'static str, shape: Shape<'_>) -> Outcome<Self> {
        let around = match shape.around {
            Around::Nothing => "nothing",
            Around::Before => "before",
            Around::Report => "report",
        };
        let mut command = own("sink")?;
        command.args(["--size", &shape.size.to_string(), "--around", around]);
        if let Some(dir) = shape.tls_dir {
            command.arg("--tls-dir").arg(dir);
        }
        if shape.around == Around::Report {
            command.arg("--chunking");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(Fail::of("cannot start the sink"))?;
        let (stdin, mut stdout) = pipes(&mut child)?;
        let process = Proc::from_child(name, child);
        let address = line(&mut stdout)?;
        let port = address
            .rsplit_once(':')
            .and_then(|(_, port)| port.trim().parse().ok());
        Ok(Self {
            process,
            pipes: Some((stdin, stdout)),
            port: port.ok_or_else(|| Fail(format!("{name} said \"{address}\" for an address")))?,
            size: shape.size,
            before: (0, 0),
        })
    }

    /// What came since the last [`Self::reset`].
    pub(crate) fn arrived(&mut self) -> Outcome<Arrived> {
        match &mut self.pipes {
            Some(pipes) => ask(pipes, "report"),
            None => {
                let (messages, octets) = self.counted();
                Ok(Arrived {
                    messages: messages - self.before.0,
                    octets: octets - self.before.1,
                    ..Arrived::default()
                })
            }
        }
    }

    /// Begins to count anew.
    pub(crate) fn reset(&mut self) -> Outcome<()> {
        if let Some(pipes) = &mut self.pipes {
            ask(pipes, "reset")?;
        } else {
            self.before = self.counted();
        }
        Ok(())
    }

    /// Messages and octets since `smtp-sink` started; it rewrites one line of its output with each.
    fn counted(&self) -> (u64, u64) {
        let log = fs::read(&self.process.log).unwrap_or_default();
        let end = String::from_utf8_lossy(&log[log.len().saturating_sub(200)..]).into_owned();
        // The last update may still be half written.
        let update = end
            .rsplit('\r')
            .find(|text| text.ends_with(['\n', ' ']) || text.contains("mesg="));
        let messages = update
            .and_then(|text| text.split_once("mesg="))
            .map(|(_, digits)| {
                digits
                    .chars()
                    .take_while(char::is_ascii_digit)
                    .collect::<String>()
            });
        let messages = messages.and_then(|digits| digits.parse().ok()).unwrap_or(0);
        (messages, proc::octets_read(self.process.id()).unwrap_or(0))
    }

    /// Waits for `count` messages.
    pub(crate) fn wait_for(&mut self, count: u64) -> Outcome<()> {
        let (mut known, mut since) = (0, Instant::now());
        loop {
            let arrived = self.arrived()?.messages;
            if arrived >= count {
                return Ok(());
            }
            if arrived > known {
                (known, since) = (arrived, Instant::now());
            }
            if since.elapsed() > STILL {
                let name = self.process.name;
                return Err(Fail(format!(
                    "{name} has {arrived} of {count} messages, and none came for {STILL:?}"
                )));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Fails unless exactly `count` whole messages arrived. `again` allows for copies that may come twice.
    pub(crate) fn verify(&mut self, count: u64) -> Outcome<Arrived> {
        std::thread::sleep(QUIET);
        let arrived = self.arrived()?;
        let (least, most) = (count * self.size as u64, count * (self.size as u64 + ENVELOPE));
        let name = self.process.name;
        if arrived.messages != count || arrived.again > 0 || arrived.wrong > 0 {
            return Err(Fail(format!("{name} should have {count} messages: {arrived:?}")));
        }
        // Connections that were open before the count began may have been read from meanwhile; that is within ENVELOPE.
        if !(least..=most).contains(&arrived.octets) {
            return Err(Fail(format!(
                "{name} has {} octets of {count} messages; {least} to {most} would be right",
                arrived.octets
            )));
        }
        Ok(arrived)
    }

    pub(crate) fn usage(&self) -> Usage {
        self.process.usage()
    }
}

/// This program, as another of its commands.
pub(crate) fn own(command: &str) -> Outcome<Command> {
    let program = std::env::current_exe().map_err(Fail::of("cannot find this program"))?;
    let mut own = Command::new(program);
    own.arg(command);
    Ok(own)
}

fn pipes(child: &mut Child) -> Outcome<(ChildStdin, BufReader<ChildStdout>)> {
    let missing = || Fail("a pipe of the sink is missing".into());
    let stdin = child.stdin.take().ok_or_else(missing)?;
    let stdout = child.stdout.take().ok_or_else(missing)?;
    Ok((stdin, BufReader::new(stdout)))
}

fn line(from: &mut BufReader<ChildStdout>) -> Outcome<String> {
    let mut line = String::new();
    from.read_line(&mut line).map_err(Fail::of("the sink is gone"))?;
    Ok(line)
}

fn ask(pipes: &mut (ChildStdin, BufReader<ChildStdout>), question: &str) -> Outcome<Arrived> {
    writeln!(pipes.0, "{question}").map_err(Fail::of("the sink is gone"))?;
    let answer = line(&mut pipes.1)?;
    serde_json::from_str(&answer).map_err(Fail::of("the sink's counts cannot be read"))
}
