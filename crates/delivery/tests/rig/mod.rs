//! What the worker's tests share: a scripted intake, a name server, certificates, and a worker on a memory queue.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test binary uses a part of the rig"
)]

pub mod dns;
pub mod flaky;
pub mod pki;
pub mod server;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tdc_core::address::Mailbox;
use tdc_core::evaluator::Snapshot;
use tdc_core::policy::{
    Connections, Format, Intake, IntakeTls, ObjectRef, PolicyTable, Retry, Route, SnapshotVersion, TlsMode,
    TlsVersion,
};
use tdc_delivery::{Deps, WorkerConfig, WorkerMetrics, run};
use tdc_queue::{EntryKey, EntryMeta, IdSource, JournalQueue, MemoryOptions, MemoryQueue, NewEntry, Stats};
use tdc_telemetry::{MailLog, Metrics, Shutdown, Trigger};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub const INTAKE: &str = "etd";
pub const ORIGINAL: &[u8] = b"Subject: hello\r\nMessage-ID: <1@x>\r\n\r\n.leading dot\r\nbody\r\n";

/// An intake at that address without TLS; tests change what they are about.
pub fn intake(address: SocketAddr) -> Intake {
    Intake {
        name: INTAKE.into(),
        object: ObjectRef::default(),
        address: Mailbox::new("journal@intake.example"),
        format: Format::JournalReport,
        route: Some(Route {
            host: address.ip().to_string().into(),
            port: address.port(),
        }),
        tls: IntakeTls {
            mode: TlsMode::None,
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
    }
}

/// A worker that runs, and its queue.
pub struct Rig {
    pub queue: Arc<dyn JournalQueue>,
    pub metrics: Metrics,
    pub trigger: Trigger,
    pub snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    task: JoinHandle<()>,
}

pub fn config() -> WorkerConfig {
    let mut config = WorkerConfig::new("worker-1", "tdc.test");
    config.retry_delay = (Duration::from_millis(20), Duration::from_millis(50));
    config.idle = Duration::from_millis(500);
    config.grace = Duration::from_secs(5);
    config
}

pub fn snapshot(intakes: Vec<Intake>) -> Option<Arc<Snapshot>> {
    let table = PolicyTable {
        intakes,
        ..PolicyTable::default()
    };
    Some(Arc::new(
        Snapshot::new(SnapshotVersion::default(), table).unwrap(),
    ))
}

impl Rig {
    pub async fn start(config: WorkerConfig, intake: Intake) -> Self {
        let queue: Arc<dyn JournalQueue> = Arc::new(MemoryQueue::new(MemoryOptions::default()));
        Self::on(queue, config, intake).await
    }

    pub async fn on(queue: Arc<dyn JournalQueue>, config: WorkerConfig, intake: Intake) -> Self {
        Self::logging(queue, config, intake, MailLog::disabled()).await
    }

    pub async fn logging(
        queue: Arc<dyn JournalQueue>,
        config: WorkerConfig,
        intake: Intake,
        mail_log: MailLog,
    ) -> Self {
        let (trigger, shutdown): (Trigger, Shutdown) = Trigger::new();
        let metrics = Metrics::new("worker");
        let (snapshots, receiver) = watch::channel(snapshot(vec![intake]));
        let deps = Deps {
            queue: queue.clone(),
            snapshots: receiver,
            mail_log,
            metrics: WorkerMetrics::register(&metrics),
            ids: Arc::new(IdSource::start(queue.clone()).await),
        };
        let task = tokio::spawn(run(config, deps, shutdown));
        Self {
            queue,
            metrics,
            trigger,
            snapshots,
            task,
        }
    }

    /// Puts a copy of that original into the queue.
    pub async fn put(&self, original: &[u8], lifetime: Duration) -> EntryKey {
        let meta = EntryMeta {
            sender: "a@sender.example".into(),
            recipients: vec!["b@example.com".into()],
            message_id: "<1@x>".into(),
            client_ip: "192.0.2.1".into(),
            sender_ip_header: "X-IronPort-RemoteIP".into(),
            eight_bit: !original.is_ascii(),
            ..EntryMeta::default()
        };
        self.put_with(meta, original, lifetime).await
    }

    pub async fn put_with(&self, meta: EntryMeta, original: &[u8], lifetime: Duration) -> EntryKey {
        let key = EntryKey::new(INTAKE);
        let entry = NewEntry {
            key: key.clone(),
            meta,
            size: original.len() as u64,
            lifetime,
            in_doubt_after: Duration::from_secs(60),
            retain: None,
        };
        let chunks = original
            .chunks(tdc_queue::MAX_CHUNK)
            .map(Bytes::copy_from_slice)
            .collect();
        self.queue.prepare(entry, 0, chunks).await.unwrap();
        self.queue.commit(std::slice::from_ref(&key)).await.unwrap();
        key
    }

    pub async fn stats(&self) -> Stats {
        self.queue.stats(INTAKE).await.unwrap()
    }

    /// Waits until that many entries have ended.
    pub async fn ended(&self, count: u64) -> Stats {
        let ends =
            |stats: &Stats| stats.delivered + stats.hard_bounced + stats.possible_delivery + stats.expired;
        self.until("entries to end", |stats| ends(stats) >= count).await
    }

    pub async fn until(&self, what: &str, done: impl Fn(&Stats) -> bool) -> Stats {
        for _ in 0..3000 {
            let stats = self.stats().await;
            if done(&stats) {
                return stats;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("waited too long for {what}: {:?}", self.stats().await);
    }

    /// Stops the worker and waits until it has ended.
    pub async fn stop(self) {
        self.trigger.start();
        self.task.await.unwrap();
    }
}

/// Waits for a condition outside of the queue.
pub async fn eventually(what: &str, done: impl Fn() -> bool) {
    for _ in 0..3000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited too long: {what}");
}
