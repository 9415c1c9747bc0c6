//! What the demonstration runs on: both simulators, and the connector between them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tdc_api::{Compiled, ConfigWatcher};
use tdc_core::policy::{PolicyTable, Route};
use tdc_delivery::{WorkerConfig, WorkerMetrics};
use tdc_ingress::IngressMetrics;
use tdc_ingress::evaluate::Evaluation;
use tdc_policy::{Feed, PolicyMetrics};
use tdc_proto::watch::Contact;
use tdc_queue::IdSource;
use tdc_simulate::{Common, IntakeConfig, MailboxConfig, TlsSource};
use tdc_telemetry::{MailLog, Metrics, Trigger};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::args::EdgeArgs;
use crate::error::CliError;
use crate::process;
use crate::roles::edge;
use crate::roles::standalone::POLL;
use crate::say;

/// Everything that runs.
pub(super) struct Stage {
    pub(super) ingress: SocketAddr,
    mailbox: SocketAddr,
    intake: SocketAddr,
    dir: tempfile::TempDir,
    table: watch::Receiver<Arc<Compiled>>,
    stop: Vec<Trigger>,
    tasks: Vec<JoinHandle<()>>,
    _files: ConfigWatcher,
}

impl Stage {
    pub(super) async fn build(config: &Path) -> Result<Self, CliError> {
        let dir = tempfile::Builder::new().prefix("tdc-demo-").tempdir();
        let dir = dir.map_err(|error| CliError::new("cannot make a folder for what arrives", error))?;
        let (mut stop, mut tasks) = (Vec::new(), Vec::new());
        let (mailbox, intake) = simulators(dir.path(), &mut stop, &mut tasks).await?;
        let ca = std::fs::read_to_string(dir.path().join("tls/ca.pem"))
            .map_err(|error| CliError::new("the simulator's CA", error))?;
        let files = ConfigWatcher::start(config, POLL).await.map_err(|errors| {
            CliError::new(format!("--config {}", config.display()), format!("\n{errors}"))
        })?;
        let table = redirected(&files, intake, ca.into());
        let metrics = Metrics::new("demo");
        let feed = Feed::new("demo", PolicyMetrics::new(&metrics));
        let snapshots = feed.follow(table.clone(), |compiled| Some(compiled));
        let queue = process::memory();
        let ids = Arc::new(IdSource::start(queue.clone()).await);
        let deps = tdc_ingress::Deps {
            queue: queue.clone(),
            evaluation: Evaluation::local(snapshots.clone(), Contact::always(), Duration::MAX),
            ids: ids.clone(),
            mail_log: MailLog::disabled(),
            metrics: IngressMetrics::new(&metrics),
        };
        let ingress = edge::bind(&edge_args(mailbox)?, "tdc.localhost", deps).await?;
        let address = edge::address(&ingress)?;
        let (trigger, shutdown) = Trigger::new();
        stop.push(trigger);
        tasks.push(tokio::spawn(ingress.run(shutdown)));
        let (trigger, shutdown) = Trigger::new();
        stop.push(trigger);
        let metrics = WorkerMetrics::register(&metrics);
        let deps = tdc_delivery::Deps {
            queue,
            snapshots,
            mail_log: MailLog::disabled(),
            metrics,
            ids,
        };
        let worker = WorkerConfig::new("demo", "tdc.localhost");
        tasks.push(tokio::spawn(tdc_delivery::run(worker, deps, shutdown)));
        Ok(Self {
            ingress: address,
            mailbox,
            intake,
            dir,
            table,
            stop,
            tasks,
            _files: files,
        })
    }

    pub(super) fn mailbox_dir(&self) -> PathBuf {
        self.dir.path().join("mailbox")
    }

    pub(super) fn intake_dir(&self) -> PathBuf {
        self.dir.path().join("intake")
    }

    pub(super) fn mailbox_count(&self) -> Result<usize, CliError> {
        count(&self.mailbox_dir())
    }

    pub(super) fn intake_count(&self) -> Result<usize, CliError> {
        count(&self.intake_dir())
    }

    /// The address of the intake of that name.
    pub(super) fn intake_address(&self, name: &str) -> String {
        self.table
            .borrow()
            .table
            .intake(name)
            .map(|intake| intake.address.to_string())
            .unwrap_or_default()
    }

    /// Says what can be tried while it runs.
    pub(super) fn explain(&self, config: &Path) {
        let port = self.ingress.port();
        let tdc = std::env::args().next().unwrap_or_else(|| "tdc".to_owned());
        say(format_args!(
            "\nStill running. Send mail to 127.0.0.1:{port}; the mailbox server is {}, the intake {}.",
            self.mailbox, self.intake
        ));
        say("Try, in another terminal:");
        say(format_args!(
            "  swaks --server 127.0.0.1:{port} --from a@partner.example --to ann@company.example --header 'Subject: hi'"
        ));
        say(format_args!(
            "  swaks --server 127.0.0.1:{port} --from a@partner.example --to cfo@finance.company.example,intern@finance.company.example"
        ));
        say(format_args!(
            "  ls {} {}",
            self.mailbox_dir().display(),
            self.intake_dir().display()
        ));
        say(format_args!(
            "  {tdc} policy test --config {} --from a@partner.example --to cfo@finance.company.example",
            config.display()
        ));
        say(format_args!(
            "Change a file in {}: it is taken up within two seconds. Stop with Ctrl-C.",
            config.display()
        ));
    }

    pub(super) async fn wait_for_signal(&self) -> Result<(), CliError> {
        let (_, shutdown) =
            tdc_telemetry::signals().map_err(|error| CliError::new("cannot take signals", error))?;
        shutdown.started().await;
        Ok(())
    }

    /// Stops everything; gives the folder of what arrived, which stays only when asked for.
    pub(super) async fn end(self, keep: bool) -> PathBuf {
        // The worker and the edge first, then the ends that they talk to.
        for (trigger, task) in self.stop.into_iter().zip(self.tasks).rev() {
            trigger.start();
            let _ = task.await;
        }
        if keep {
            self.dir.keep()
        } else {
            self.dir.path().to_owned()
        }
    }
}

async fn simulators(
    dir: &Path,
    stop: &mut Vec<Trigger>,
    tasks: &mut Vec<JoinHandle<()>>,
) -> Result<(SocketAddr, SocketAddr), CliError> {
    let common = |name: &str| Common {
        hostname: format!("{name}.localhost"),
        store: Some(dir.join(name)),
        ..Common::default()
    };
    let failed = |error: tdc_simulate::SimulateError| CliError::text(error.to_string());
    let mailbox = MailboxConfig {
        common: common("mailbox"),
        ..MailboxConfig::default()
    };
    let tls = TlsSource {
        dir: Some(dir.join("tls")),
        names: Vec::new(),
    };
    let intake = IntakeConfig {
        common: common("intake"),
        tls,
        ..IntakeConfig::default()
    };
    let mailbox = tdc_simulate::bind(mailbox).await.map_err(failed)?;
    let intake = tdc_simulate::bind(intake).await.map_err(failed)?;
    let addresses = (mailbox.local_addr(), intake.local_addr());
    for server in [mailbox, intake] {
        let (trigger, shutdown) = Trigger::new();
        stop.push(trigger);
        tasks.push(tokio::spawn(async move {
            let _ = server.run(async move { shutdown.started().await }).await;
        }));
    }
    Ok(addresses)
}

/// The table of the files, with every intake at the simulator and its CA trusted.
fn redirected(files: &ConfigWatcher, intake: SocketAddr, ca: Arc<str>) -> watch::Receiver<Arc<Compiled>> {
    let redirect = move |table: &mut PolicyTable| {
        for target in &mut table.intakes {
            target.route = Some(Route {
                host: "127.0.0.1".into(),
                port: intake.port(),
            });
            target.tls.server_name = Some("localhost".into());
            target.tls.ca_bundle = ca.clone();
        }
    };
    let mut source = files.subscribe();
    let mut first = source.borrow_and_update().compiled.clone();
    redirect(&mut first.table);
    let (sender, receiver) = watch::channel(Arc::new(first));
    tokio::spawn(async move {
        while source.changed().await.is_ok() {
            let mut compiled = source.borrow_and_update().compiled.clone();
            redirect(&mut compiled.table);
            sender.send_replace(Arc::new(compiled));
        }
    });
    receiver
}

fn edge_args(mailbox: SocketAddr) -> Result<EdgeArgs, CliError> {
    let next_hop = mailbox.to_string();
    EdgeArgs::from_flags([
        "--listen",
        "127.0.0.1:0",
        "--next-hop",
        &next_hop,
        "--grace",
        "5s",
    ])
}

fn count(dir: &Path) -> Result<usize, CliError> {
    let entries = std::fs::read_dir(dir).map_err(|error| CliError::new(dir.display(), error))?;
    // A message gets its name after its record has one, so it is whole when its name is there.
    let is_message =
        |name: &std::ffi::OsStr| Path::new(name).extension().is_some_and(|ending| ending == "eml");
    Ok(entries
        .filter_map(Result::ok)
        .filter(|entry| is_message(&entry.file_name()))
        .count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_counts_once_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut seen = Vec::new();
        for name in [".1.eml.part", ".1.json.part", "1.json", "1.eml"] {
            std::fs::write(dir.path().join(name), b"").unwrap();
            seen.push(count(dir.path()).unwrap());
        }
        assert_eq!(
            seen,
            [0, 0, 0, 1],
            "in the order in which a simulator writes them"
        );
    }
}
