//! One case: an intake with a script, a worker, one copy or two, and what became of them.

use std::sync::LazyLock;
use std::time::Duration;

use tdc_core::policy::TlsMode;
use tdc_queue::Stats;
use tdc_simulate::config::{all_extensions, set_keyword};
use tdc_simulate::{Common, IntakeConfig, Script, TlsSource};
use tempfile::TempDir;

use crate::LIFETIME;
use crate::rig::{ORIGINAL, Rig, config, intake};

/// How long a step may take where the script lets it take forever: enough for a machine that is busy.
const IMPATIENT: Duration = Duration::from_secs(3);
/// Octets that do not fit into the socket buffers of both ends.
const LARGE: usize = 24_000_000;

/// How a copy ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Delivered,
    /// With the class of the queue's counter.
    Hard(&'static str),
    Possible,
    Expired,
}

/// What becomes of the copies of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fate {
    pub(crate) end: End,
    /// Attempts that were repeated, all copies together.
    pub(crate) soft: u64,
    /// Connections that the intake saw: a retry has one of its own.
    pub(crate) connections: u64,
    /// Copies that the intake took.
    pub(crate) copies: u64,
}

/// How a message goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Command by command.
    Plain,
    /// The envelope in one write (RFC 2920), DATA.
    Pipelined,
    /// The same with BDAT (RFC 3030).
    Chunked,
}

/// One cell of the table.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) script: String,
    pub(crate) fate: Fate,
    pub(crate) why: String,
    pub(crate) way: Way,
    pub(crate) large: bool,
    pub(crate) messages: u64,
    pub(crate) lifetime: Duration,
    /// The usual time limits, although the intake stalls.
    pub(crate) patient: bool,
}

impl Case {
    pub(crate) fn new(script: String, fate: Fate, why: &str) -> Self {
        Self {
            script,
            fate,
            why: why.to_owned(),
            way: Way::Chunked,
            large: false,
            messages: 1,
            lifetime: LIFETIME,
            patient: false,
        }
    }

    /// The script lets a step take forever.
    fn stalls(&self) -> bool {
        self.script.contains("stall") || self.script.contains("half") && !self.script.contains("then: close")
    }
}

/// What the queue says: one end for all copies.
fn end(stats: &Stats, messages: u64) -> Option<End> {
    let hard = &stats.hard;
    let all = [
        (stats.delivered, End::Delivered),
        (stats.possible_delivery, End::Possible),
        (stats.expired, End::Expired),
        (hard.reply, End::Hard("5xx")),
        (hard.dns, End::Hard("dns")),
        (hard.tls, End::Hard("tls")),
        (hard.network, End::Hard("network")),
        (hard.other, End::Hard("other")),
    ];
    all.into_iter()
        .find(|(count, _)| *count == messages)
        .map(|(_, end)| end)
}

/// One certificate for all cases: making one takes longer than most of them.
static TLS: LazyLock<TempDir> = LazyLock::new(|| {
    let dir = TempDir::new().unwrap();
    let source = TlsSource {
        dir: Some(dir.path().to_owned()),
        names: Vec::new(),
    };
    source.load().unwrap();
    dir
});

/// Runs a case; what went wrong.
pub(crate) async fn run(case: Case) -> Result<(), String> {
    let mut extensions = all_extensions();
    set_keyword(&mut extensions, "PIPELINING", case.way != Way::Plain).unwrap();
    set_keyword(&mut extensions, "CHUNKING", case.way == Way::Chunked).unwrap();
    let server = tdc_simulate::bind(IntakeConfig {
        common: Common {
            script: Some(Script::parse("case", &case.script).unwrap()),
            grace: Duration::from_secs(1),
            ..Common::default()
        },
        extensions,
        tls: TlsSource {
            dir: Some(TLS.path().to_owned()),
            names: Vec::new(),
        },
        ..IntakeConfig::default()
    })
    .await
    .unwrap();
    let mut intake = intake(server.local_addr());
    intake.tls.mode = TlsMode::Verify;
    intake.tls.ca_bundle = server.ca_pem().unwrap().into();
    intake.connections.max = 1;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(server.run(async move { stopped.await.unwrap_or_default() }));

    let mut config = config();
    if case.stalls() && !case.patient {
        let timeouts = &mut config.timeouts;
        timeouts.greeting = IMPATIENT;
        timeouts.handshake = IMPATIENT;
        timeouts.command = IMPATIENT;
        timeouts.write = IMPATIENT;
        timeouts.final_dot = IMPATIENT;
        timeouts.quit = IMPATIENT;
    }
    let rig = Rig::start(config, intake).await;
    let large = [ORIGINAL, &b"0123456789\r\n".repeat(LARGE / 12)].concat();
    for _ in 0..case.messages {
        rig.put(if case.large { &large } else { ORIGINAL }, case.lifetime)
            .await;
    }
    let stats = rig.ended(case.messages).await;
    let metrics = rig.metrics.encode();
    rig.stop().await;
    // Only now: a second copy that should not be would have come by the end of the worker.
    let _ = stop.send(());
    let report = server.await.unwrap().unwrap();
    let script = report.script.unwrap();

    let found = (
        end(&stats, case.messages),
        stats.soft_bounced,
        attempts(&metrics),
        report.connections,
        report.messages,
        script.repeated,
        report.copies.unwrap().malformed,
    );
    let fate = case.fate;
    let attempts = fate.soft + case.messages;
    let wanted = (
        Some(fate.end),
        fate.soft,
        attempts,
        fate.connections,
        fate.copies,
        0,
        0,
    );
    if found == wanted {
        return Ok(());
    }
    Err(format!(
        "{} ({:?}): {}\n   wanted {wanted:?}\n    found {found:?} (end, soft, attempts, connections, copies, repeated, malformed)",
        case.script, case.way, case.why
    ))
}

/// Attempts of all classes.
fn attempts(metrics: &str) -> u64 {
    metrics
        .lines()
        .filter(|line| line.starts_with("tdc_worker_attempts_total{"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}
