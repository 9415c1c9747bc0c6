//! A queue that does not answer for a while, and what the mail log says.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod rig;

use std::io::{self, Write};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rig::pki::Authority;
use rig::server::{Act, At, Options, Server, at};
use rig::{ORIGINAL, Rig, config, eventually, intake};
use tdc_core::policy::TlsMode;
use tdc_queue::{
    ClaimRef, Claims, End, EntryKey, JournalQueue, LeaseGrant, LeaseRequest, LeaseStatus, MemoryOptions,
    MemoryQueue, NewEntry, QueueError, RetryReason, Series, Stats, Sweep,
};
use tdc_telemetry::{LogFormat, MailLog, Output};

const LIFETIME: Duration = Duration::from_secs(60);

/// Answers the first calls of some kinds with "not available".
struct Flaky {
    inner: MemoryQueue,
    claims: AtomicU32,
    completes: AtomicU32,
    retries: AtomicU32,
    heartbeats: AtomicU32,
}

impl Flaky {
    fn new(claims: u32, completes: u32, retries: u32) -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryQueue::new(MemoryOptions::default()),
            claims: claims.into(),
            completes: completes.into(),
            retries: retries.into(),
            heartbeats: 0.into(),
        })
    }
}

fn fails(left: &AtomicU32) -> Result<(), QueueError> {
    let less = |count: u32| count.checked_sub(1);
    match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) {
        Ok(_) => Err(QueueError::Unavailable("for a test".into())),
        Err(_) => Ok(()),
    }
}

#[async_trait]
impl JournalQueue for Flaky {
    async fn write_chunk(&self, entry: &EntryKey, index: u32, chunk: Bytes) -> Result<(), QueueError> {
        self.inner.write_chunk(entry, index, chunk).await
    }
    async fn prepare(&self, entry: NewEntry, first_index: u32, rest: Vec<Bytes>) -> Result<(), QueueError> {
        self.inner.prepare(entry, first_index, rest).await
    }
    async fn commit(&self, entries: &[EntryKey]) -> Result<(), QueueError> {
        self.inner.commit(entries).await
    }
    async fn abort(&self, entries: &[EntryKey]) -> Result<(), QueueError> {
        self.inner.abort(entries).await
    }
    async fn claim(&self, intake: &str, consumer: &str, max: usize) -> Result<Claims, QueueError> {
        fails(&self.claims)?;
        self.inner.claim(intake, consumer, max).await
    }
    async fn heartbeat(&self, consumer: &str, claimed: &[ClaimRef]) -> Result<(), QueueError> {
        self.heartbeats.fetch_add(1, Ordering::SeqCst);
        self.inner.heartbeat(consumer, claimed).await
    }
    async fn complete(&self, consumer: &str, claimed: &ClaimRef, end: End) -> Result<bool, QueueError> {
        fails(&self.completes)?;
        self.inner.complete(consumer, claimed, end).await
    }
    async fn retry(
        &self,
        consumer: &str,
        claimed: &ClaimRef,
        delay: Duration,
        why: RetryReason,
    ) -> Result<bool, QueueError> {
        fails(&self.retries)?;
        self.inner.retry(consumer, claimed, delay, why).await
    }
    async fn release(&self, consumer: &str, claimed: &[ClaimRef]) -> Result<(), QueueError> {
        self.inner.release(consumer, claimed).await
    }
    async fn sweep(&self, intake: &str) -> Result<Sweep, QueueError> {
        self.inner.sweep(intake).await
    }
    async fn stats(&self, intake: &str) -> Result<Stats, QueueError> {
        self.inner.stats(intake).await
    }
    async fn lease(
        &self,
        intake: &str,
        consumer: &str,
        request: &LeaseRequest,
    ) -> Result<LeaseGrant, QueueError> {
        self.inner.lease(intake, consumer, request).await
    }
    async fn leases(&self, intake: &str) -> Result<LeaseStatus, QueueError> {
        self.inner.leases(intake).await
    }
    async fn backlog(&self, intakes: &[&str]) -> Result<Vec<u64>, QueueError> {
        self.inner.backlog(intakes).await
    }
    async fn intakes(&self) -> Result<Vec<String>, QueueError> {
        self.inner.intakes().await
    }
    async fn wait(&self, at_most: Duration) {
        self.inner.wait(at_most).await;
    }
    async fn reserve_ids(&self, series: Series, count: u64) -> Result<u64, QueueError> {
        self.inner.reserve_ids(series, count).await
    }
    async fn check(&self) -> Result<(), QueueError> {
        self.inner.check().await
    }
}

#[tokio::test]
async fn a_queue_that_is_away_for_a_moment_costs_no_duplicate() {
    let deferred = || vec![at(At::Rcpt, Act::Say("451 4.3.0 later"))];
    let cases = [
        (Flaky::new(3, 0, 0), Vec::new(), 0, "claims fail"),
        (
            Flaky::new(0, 4, 0),
            Vec::new(),
            0,
            "the end of a delivered entry is not taken at once",
        ),
        (Flaky::new(0, 0, 3), deferred(), 1, "a retry is not taken at once"),
    ];
    for (queue, scripts, soft_bounced, why) in cases {
        let server = Server::start(Options {
            scripts,
            ..Options::default()
        })
        .await;
        let rig = Rig::on(queue, config(), intake(server.address)).await;
        rig.put(ORIGINAL, LIFETIME).await;
        let stats = rig.ended(1).await;
        assert_eq!((stats.delivered, stats.soft_bounced), (1, soft_bounced), "{why}");
        assert_eq!(server.seen.messages.lock().unwrap().len(), 1, "sent once: {why}");
        rig.stop().await;
    }
}

#[tokio::test]
async fn a_slow_transaction_keeps_its_claim() {
    let answer_after = tdc_queue::HEARTBEAT_EVERY + Duration::from_millis(500);
    let server = Server::start(Options {
        answer_after,
        ..Options::default()
    })
    .await;
    let queue = Flaky::new(0, 0, 0);
    let rig = Rig::on(queue.clone(), config(), intake(server.address)).await;
    rig.put(ORIGINAL, LIFETIME).await;
    assert_eq!(rig.ended(1).await.delivered, 1);
    assert!(queue.heartbeats.load(Ordering::SeqCst) >= 1);
    rig.stop().await;
}

/// A buffer that a test may read.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines()
            .filter_map(|line| line.split_once(": ").map(|(_, text)| text.to_owned()))
            .collect()
    }
}

#[tokio::test]
async fn the_mail_log_tells_the_way_of_a_copy() {
    let authority = Authority::new();
    let tls = || Some(authority.acceptor(&["127.0.0.1"], &rustls::version::TLS13));
    let say = |text| vec![at(At::Rcpt, Act::Say(text))];
    let secured = "DCID 1 TLS success protocol TLSv1.3 cipher TLS13_AES_256_GCM_SHA384";
    let cases = [
        (
            tls(),
            Vec::new(),
            vec![
                "TDC: New SMTP DCID 1 interface 127.0.0.1 address 127.0.0.1 port ",
                secured,
                "TDC: MID 7 successfully delivered for scanning with Cisco Secure Email Threat Defense.",
                "DCID 1 close",
            ],
        ),
        (
            tls(),
            say("550 5.1.1 nobody"),
            vec![secured, "Bounced: DCID 1 MID 7 to RID 0", "DCID 1 close"],
        ),
        (
            tls(),
            say("451 4.3.0 later"),
            vec![
                "Delayed: DCID 1 MID 7 to RID 0",
                "DCID 1 close",
                "TDC: New SMTP DCID 2 ",
                "TDC: MID 7 successfully delivered",
                "DCID 2 close",
            ],
        ),
        (
            tls(),
            vec![at(At::Dot, Act::Close); 2],
            vec!["Delayed: DCID 1 MID 7", "Possible Delivery: DCID: 2 MID 7 to [0]"],
        ),
        (
            None,
            Vec::new(),
            vec![
                "TDC: Connection Error: DCID 1 domain: the.tdc.queue IP: 127.0.0.1 port: ",
                "DCID 1 close",
                "TDC: MID 7 delivery failed to Cisco Secure Email Threat Defense:TLS Error.",
                "Bounced: DCID 1 MID 7 to RID 0",
            ],
        ),
    ];
    for (tls, scripts, expected) in cases {
        let log = Shared::default();
        let output = Output::start(log.clone(), |_| String::new()).unwrap();
        let server = Server::start(Options {
            tls,
            scripts,
            ..Options::default()
        })
        .await;
        let mut intake = intake(server.address);
        intake.tls.mode = TlsMode::Verify;
        intake.tls.ca_bundle = authority.pem.as_str().into();
        let queue = Arc::new(MemoryQueue::new(MemoryOptions::default()));
        let rig = Rig::logging(queue, config(), intake, MailLog::new(LogFormat::Asyncos, output)).await;
        let meta = tdc_queue::EntryMeta {
            mid: 7,
            ..Default::default()
        };
        rig.put_with(meta, ORIGINAL, LIFETIME).await;
        rig.ended(1).await;
        rig.stop().await;
        // In order, others between them.
        let all = |lines: Vec<String>| {
            let mut lines = lines.into_iter();
            expected
                .iter()
                .all(|start| lines.any(|line| line.starts_with(start)))
        };
        let found = log.clone();
        eventually(&format!("{expected:#?}"), || all(found.lines())).await;
    }
}
