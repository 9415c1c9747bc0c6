//! One run of one system: start it between two sinks, warm it up, send, wait for the last original and the last copy,
//! check both ends, stop it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::fail::{Fail, Outcome};
use crate::load::Sent;
use crate::postfix::Postfix;
use crate::proc::{self, Usage};
use crate::scratch;
use crate::sink::{Around, Arrived};
use crate::sinks::{Kind, Shape, Sink, own};
use crate::tdc::{Setup, Tdc};

/// What stands between the generator and the sinks.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// Nothing; there are no copies.
    Wire,
    /// Postfix with its queue in this folder.
    Postfix(PathBuf),
    /// The connector.
    Tdc(Box<Setup>),
}

/// Who sends, and how.
#[derive(Clone, Debug)]
pub(crate) enum Generator {
    /// Postfix's `smtp-source`; `kept`: connections are.
    SmtpSource { sessions: usize, kept: bool },
    /// The benchmark's own, with these further flags.
    Own(Vec<String>),
}

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) what: What,
    pub(crate) generator: Generator,
    pub(crate) size: usize,
    pub(crate) messages: u64,
    /// Messages before the count begins.
    pub(crate) warm_up: u64,
    /// The intake offers STARTTLS, with a certificate from this folder.
    pub(crate) intake_tls: Option<PathBuf>,
}

/// What a run showed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// Messages a second, from the first one sent until the last original and the last copy.
    pub(crate) rate: f64,
    /// What each process cost in the run.
    pub(crate) usage: Vec<(&'static str, Usage)>,
    /// What the own generator saw.
    pub(crate) sent: Option<Sent>,
    pub(crate) originals: Arrived,
    pub(crate) copies: Arrived,
}

enum System {
    Wire,
    Postfix(Postfix),
    Tdc(Box<Tdc>),
}

impl System {
    fn port(&self, originals: u16) -> u16 {
        match self {
            Self::Wire => originals,
            Self::Postfix(postfix) => postfix.port,
            Self::Tdc(tdc) => tdc.port,
        }
    }

    fn usage(&self) -> Vec<(&'static str, Usage)> {
        match self {
            Self::Wire => Vec::new(),
            Self::Postfix(postfix) => vec![("postfix", postfix.usage())],
            Self::Tdc(tdc) => tdc.usage(),
        }
    }
}

/// A running system with its sinks.
pub(crate) struct Stage {
    originals: Sink,
    copies: Option<Sink>,
    system: System,
    sent: u64,
    run: Run,
}

impl Stage {
    /// Starts everything, in a folder of its own under `base`.
    pub(crate) fn start(run: &Run, base: &Path) -> Outcome<Self> {
        let kind = match run.generator {
            Generator::SmtpSource { .. } => Kind::SmtpSink,
            Generator::Own(_) => Kind::Counting,
        };
        let plain = Shape {
            kind,
            around: Around::Nothing,
            size: run.size,
            tls_dir: None,
        };
        let (originals, copies) = match run.what {
            What::Wire => (plain, None),
            What::Postfix(_) => {
                let relayed = Shape {
                    around: Around::Before,
                    ..plain
                };
                (relayed, Some(relayed))
            }
            What::Tdc(_) => {
                let reported = Shape {
                    around: Around::Report,
                    tls_dir: run.intake_tls.as_deref(),
                    ..plain
                };
                (plain, Some(reported))
            }
        };
        let originals = Sink::start("mailbox", originals, base)?;
        let copies = copies
            .map(|shape| Sink::start("intake", shape, base))
            .transpose()?;
        let copies_port = copies.as_ref().map_or(0, |sink| sink.port);
        let system = match &run.what {
            What::Wire => System::Wire,
            What::Postfix(dir) => {
                let _ = fs::remove_dir_all(dir);
                System::Postfix(Postfix::start(dir, originals.port, copies_port)?)
            }
            What::Tdc(setup) => {
                let tdc = Tdc::start(setup, base, originals.port, copies_port)?;
                System::Tdc(Box::new(tdc))
            }
        };
        let mut stage = Self {
            originals,
            copies,
            system,
            sent: 0,
            run: run.clone(),
        };
        if run.warm_up > 0 {
            stage.send(run.warm_up)?;
            stage.wait_for(run.warm_up)?;
        }
        Ok(stage)
    }

    /// Where mail goes in.
    pub(crate) fn port(&self) -> u16 {
        self.system.port(self.originals.port)
    }

    /// Where originals arrive.
    pub(crate) fn mailbox_port(&self) -> u16 {
        self.originals.port
    }

    /// Waits for so many originals and copies, and fails unless they are exactly that many, whole.
    pub(crate) fn verify(&mut self, originals: u64, copies: u64) -> Outcome<()> {
        self.originals.wait_for(originals)?;
        self.originals.verify(originals)?;
        if let Some(sink) = &mut self.copies {
            sink.wait_for(copies)?;
            sink.verify(copies)?;
        }
        Ok(())
    }

    /// The connector's processes.
    pub(crate) fn processes(&self) -> Vec<(&'static str, u32)> {
        match &self.system {
            System::Tdc(tdc) => tdc
                .processes()
                .map(|process| (process.name, process.id()))
                .collect(),
            System::Wire | System::Postfix(_) => Vec::new(),
        }
    }

    fn wait_for(&mut self, count: u64) -> Outcome<()> {
        self.originals.wait_for(count)?;
        match &mut self.copies {
            Some(copies) => copies.wait_for(count),
            None => Ok(()),
        }
    }

    fn usage(&self) -> Vec<(&'static str, Usage)> {
        let mut usage = self.system.usage();
        usage.push(("mailbox", self.originals.usage()));
        usage.extend(self.copies.iter().map(|copies| ("intake", copies.usage())));
        usage
    }

    /// Sends, and returns when the generator is done.
    fn send(&mut self, messages: u64) -> Outcome<Option<Sent>> {
        let port = self.system.port(self.originals.port);
        let first = self.sent;
        self.sent += messages;
        match &self.run.generator {
            Generator::SmtpSource { sessions, kept } => {
                smtp_source(port, *sessions, *kept, self.run.size, messages).map(|()| None)
            }
            Generator::Own(flags) => load(port, self.run.size, messages, first, flags).map(Some),
        }
    }

    /// The measured part. The sinks have exactly the messages that were sent, or it fails.
    pub(crate) fn measure(&mut self) -> Outcome<Sample> {
        self.originals.reset()?;
        if let Some(copies) = &mut self.copies {
            copies.reset()?;
        }
        let count = self.run.messages;
        let (before, generator_before) = (self.usage(), proc::ended_children());
        let start = Instant::now();
        let sent = self.send(count)?;
        self.wait_for(count)?;
        let seconds = start.elapsed().as_secs_f64();
        let generator = proc::ended_children().saturating_sub(generator_before);
        let mut usage = vec![(
            "generator",
            Usage {
                cpu: generator,
                memory: 0,
            },
        )];
        for ((name, before), (_, after)) in before.into_iter().zip(self.usage()) {
            let cpu = after.cpu.saturating_sub(before.cpu);
            usage.push((name, Usage { cpu, ..after }));
        }
        let originals = self.originals.verify(count)?;
        let copies = match &mut self.copies {
            Some(copies) => copies.verify(count)?,
            None => Arrived::default(),
        };
        Ok(Sample {
            rate: count as f64 / seconds,
            usage,
            sent,
            originals,
            copies,
        })
    }
}

/// A whole run in a folder that goes with it.
pub(crate) fn run(run: &Run, base: &Path) -> Outcome<Sample> {
    let dir = tempfile::tempdir_in(base).map_err(Fail::of("cannot make a folder for the run"))?;
    let sample = Stage::start(run, dir.path()).and_then(|mut stage| stage.measure());
    sample.map_err(|error| {
        let kept = scratch::keep(dir);
        Fail(format!("{error} (the logs are in {})", kept.display()))
    })
}

fn smtp_source(port: u16, sessions: usize, kept: bool, size: usize, messages: u64) -> Outcome<()> {
    let mut command = Command::new("smtp-source");
    if kept {
        command.arg("-d");
    }
    // A generator that cannot connect because the backlog overflows would end the run; Linux drops instead.
    command.args([
        "-s",
        &sessions.to_string(),
        "-m",
        &messages.to_string(),
        "-l",
        &size.to_string(),
    ]);
    command.args([
        "-f",
        "ann@partner.example",
        "-t",
        "bob@d0.example",
        "-M",
        "bench.example",
    ]);
    command.arg(format!("127.0.0.1:{port}"));
    let output = command
        .output()
        .map_err(Fail::of("cannot run smtp-source; install the package postfix"))?;
    if output.status.success() && output.stderr.is_empty() {
        return Ok(());
    }
    Err(Fail(format!(
        "smtp-source: {}",
        String::from_utf8_lossy(&output.stderr)
    )))
}

fn load(port: u16, size: usize, messages: u64, first: u64, flags: &[String]) -> Outcome<Sent> {
    let mut command = own("load")?;
    command.args(["--to", &format!("127.0.0.1:{port}"), "--size", &size.to_string()]);
    command.args(["--messages", &messages.to_string(), "--first", &first.to_string()]);
    command.args(flags).stderr(Stdio::inherit());
    let output = command.output().map_err(Fail::of("cannot start the generator"))?;
    let sent: Sent =
        serde_json::from_slice(&output.stdout).map_err(Fail::of("the generator's report cannot be read"))?;
    if sent.accepted == messages {
        return Ok(sent);
    }
    Err(Fail(format!(
        "{} of {messages} messages were accepted; what else happened: {:?}",
        sent.accepted, sent.failed
    )))
}

/// Messages that take about `seconds` at `rate`, at least `least`.
pub(crate) fn about(rate: f64, seconds: Duration, least: u64) -> u64 {
    ((rate * seconds.as_secs_f64()) as u64).max(least)
}
