//! An ingress in this process, with a queue and a policy table of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tdc_core::Mailbox;
use tdc_core::evaluator::Snapshot;
use tdc_core::policy::{
    Connections, Connector, Format, Intake, IntakeTls, Journaling, PolicyTable, Retry, SnapshotVersion,
    TlsMode, TlsVersion,
};
use tdc_ingress::evaluate::Evaluation;
use tdc_ingress::{Deadlines, Deps, HostPort, Ingress, IngressConfig, IngressMetrics, NextHopConfig};
use tdc_proto::watch::Contact;
use tdc_queue::{IdSource, JournalQueue as _, MemoryOptions, MemoryQueue, Stats};
use tdc_telemetry::{MailLog, Metrics, Trigger};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

/// How long anything may take before a test fails: generous, since machines are shared.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The intake of all copies.
pub(crate) const INTAKE: &str = "etd";

pub(crate) struct Setup {
    pub(crate) hosts: Vec<SocketAddr>,
    pub(crate) connector: Connector,
    pub(crate) config: Box<dyn FnOnce(&mut IngressConfig) + Send>,
    pub(crate) queue: MemoryOptions,
    /// Where mail is journaled to.
    pub(crate) journaling: Journaling,
    /// There is a snapshot.
    pub(crate) snapshot: bool,
    /// How old the snapshot may be; its service is out of reach.
    pub(crate) max_staleness: Option<Duration>,
}

impl Setup {
    pub(crate) fn new(hosts: &[SocketAddr]) -> Self {
        Self {
            hosts: hosts.to_vec(),
            connector: Connector::default(),
            config: Box::new(|_| {}),
            queue: MemoryOptions::default(),
            journaling: Journaling::Intake(INTAKE.into()),
            snapshot: true,
            max_staleness: None,
        }
    }

    pub(crate) fn with(mut self, config: impl FnOnce(&mut IngressConfig) + Send + 'static) -> Self {
        self.config = Box::new(config);
        self
    }
}

pub(crate) struct Rig {
    pub(crate) address: SocketAddr,
    pub(crate) queue: Arc<MemoryQueue>,
    metrics: Metrics,
    _stop: Trigger,
    _snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Rig {
    pub(crate) async fn start(setup: Setup) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let hosts = setup
            .hosts
            .iter()
            .map(|host| host.to_string().parse::<HostPort>().unwrap());
        let mut next_hop = NextHopConfig::new(hosts.collect(), "gateway.example");
        // Faults that end by a deadline end soon; what has no fault gets the time of a busy machine.
        next_hop.deadlines = Deadlines {
            connect: Duration::from_secs(10),
            greeting: Duration::from_secs(2),
            command: Duration::from_secs(2),
            block: Duration::from_secs(2),
            dot: Duration::from_secs(2),
        };
        let mut config = IngressConfig::new("gateway.example", next_hop);
        config.queue_timeout = Duration::from_secs(1);
        (setup.config)(&mut config);
        let queue = Arc::new(MemoryQueue::new(setup.queue));
        let metrics = Metrics::new("ingress");
        let snapshot = setup
            .snapshot
            .then(|| Arc::new(snapshot(setup.connector, setup.journaling)));
        let (sender, snapshots) = watch::channel(snapshot);
        let contact = match setup.max_staleness {
            None => Contact::always(),
            // Nobody listens there.
            Some(_) => lost_contact(),
        };
        let max_staleness = setup.max_staleness.unwrap_or(Duration::MAX);
        let deps = Deps {
            queue: queue.clone(),
            evaluation: Evaluation::local(snapshots, contact, max_staleness),
            ids: Arc::new(IdSource::start(queue.clone()).await),
            mail_log: MailLog::disabled(),
            metrics: IngressMetrics::new(&metrics),
        };
        let ingress = Ingress::bind(config, deps).await.unwrap();
        let address = ingress.listeners().next().unwrap().address;
        let (stop, shutdown) = Trigger::new();
        let task = tokio::spawn(ingress.run(shutdown));
        Self {
            address,
            queue,
            metrics,
            _stop: stop,
            _snapshots: sender,
            task,
        }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// The bodies of all copies that wait.
    pub(crate) async fn claim(&self) -> Vec<Vec<u8>> {
        let claims = self.queue.claim(INTAKE, "test-1", 100).await.unwrap();
        let entries = claims.entries.iter();
        entries.map(|entry| entry.body.concat()).collect()
    }

    /// The recipients of all copies that wait.
    pub(crate) async fn recipients(&self) -> Vec<Vec<String>> {
        let claims = self.queue.claim(INTAKE, "test-1", 100).await.unwrap();
        let entries = claims.entries.into_iter();
        entries.map(|entry| entry.meta.recipients).collect()
    }

    pub(crate) async fn stats(&self) -> Stats {
        self.queue.stats(INTAKE).await.unwrap()
    }

    /// The value of a counter or gauge, with its labels as they are written.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.metrics.encode();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }
}

/// A policy service that is out of reach from the start.
fn lost_contact() -> Contact {
    let channel = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
    tdc_proto::watch::watch_snapshots(channel, tdc_proto::v1::Node::default()).1
}

fn snapshot(connector: Connector, journaling: Journaling) -> Snapshot {
    let intake = Intake {
        name: INTAKE.into(),
        object: Default::default(),
        address: Mailbox::new("etd@intake.example"),
        format: Format::JournalReport,
        route: None,
        tls: IntakeTls {
            mode: TlsMode::Verify,
            min_version: TlsVersion::V1_2,
            server_name: None,
            ca_bundle: "".into(),
        },
        connections: Connections {
            min: 3,
            max: 50,
            messages_per_connection: 10,
        },
        retry: Retry {
            transient: 1,
            network: 1,
            tls: 0,
        },
    };
    let table = PolicyTable {
        connector: Connector {
            default_journaling: journaling,
            ..connector
        },
        intakes: vec![intake],
        policies: Vec::new(),
    };
    Snapshot::new(SnapshotVersion::default(), table).unwrap()
}

/// A client that waits for each reply.
pub(crate) struct Client {
    pub(crate) stream: BufReader<TcpStream>,
}

/// Where a message stopped, and the reply there.
pub(crate) type Sent = (&'static str, String);

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self {
            stream: BufReader::new(stream),
        };
        assert!(client.reply().await.starts_with("220 "));
        client
    }

    /// The reply's lines, joined by `|`.
    pub(crate) async fn reply(&mut self) -> String {
        let mut all = Vec::new();
        loop {
            let mut line = String::new();
            let read = timeout(PATIENCE, self.stream.read_line(&mut line)).await;
            let Ok(1..) = read.expect("a reply in time") else {
                all.push("closed".to_owned());
                break;
            };
            let more = line.as_bytes().get(3) == Some(&b'-');
            all.push(line.trim_end().to_owned());
            if !more {
                break;
            }
        }
        all.join("|")
    }

    pub(crate) async fn write(&mut self, octets: &[u8]) {
        let _ = self.stream.get_mut().write_all(octets).await;
    }

    pub(crate) async fn command(&mut self, line: &str) -> String {
        self.write(format!("{line}\r\n").as_bytes()).await;
        self.reply().await
    }

    /// One message, step by step, until a step is refused.
    pub(crate) async fn send(&mut self, recipients: &[&str], message: &[u8]) -> Sent {
        let mail = self.command("MAIL FROM:<a@x.example>").await;
        if !mail.starts_with("250") {
            return ("MAIL", mail);
        }
        for recipient in recipients {
            let rcpt = self.command(&format!("RCPT TO:<{recipient}>")).await;
            if !rcpt.starts_with("250") {
                return ("RCPT", rcpt);
            }
        }
        let data = self.command("DATA").await;
        if !data.starts_with("354") {
            return ("DATA", data);
        }
        self.write(message).await;
        self.write(b".\r\n").await;
        ("DOT", self.reply().await)
    }

    /// Whether the server closes the connection.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        timeout(PATIENCE, self.stream.read_to_end(&mut rest))
            .await
            .is_ok()
    }
}
