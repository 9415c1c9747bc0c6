//! The counts of a server, and the file they are written to.
//!
//! What always holds: a message is counted before its sender hears 250; at an intake `messages` is the sum of
//! `journal_reports`, `raw` and `malformed`, and `duplicates` are among them. Memory is bounded: at most
//! [`MAX_ADDRESSES`] addresses and [`MAX_IDS`] delivery ids are told apart.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::inspect::{CopyRecord, Fault};
use crate::store::{Record, write_atomically};
use crate::{clock, store};

/// Recipient addresses that are counted by name; later ones share [`OTHERS`].
pub const MAX_ADDRESSES: usize = 1000;
/// The name that later addresses share.
pub const OTHERS: &str = "(others)";
/// Delivery ids that are remembered; the oldest is forgotten first.
pub const MAX_IDS: usize = 1_000_000;
/// Messages whose answers are listed one by one.
pub const MAX_ANSWERS: usize = 100_000;
/// Latencies below this many milliseconds are told apart exactly, longer ones to one part in sixteen.
const EXACT: u64 = 16;

/// The counts of one server since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// `mailbox` or `intake`.
    pub server: String,
    /// When the server started: RFC 3339, UTC.
    pub started: String,
    /// When something last changed.
    pub updated: String,
    /// Connections accepted.
    pub connections: u64,
    /// Connections that reached TLS.
    pub tls_connections: u64,
    /// TLS handshakes that failed.
    pub tls_failures: u64,
    /// Connections turned away because there were too many.
    pub connections_refused: u64,
    /// The most connections that were open at the same time.
    pub max_concurrent_connections: u64,
    /// Messages taken.
    pub messages: u64,
    /// Their octets.
    pub bytes: u64,
    /// Commands and messages that a rule, a limit or a fault of the store turned away.
    pub refused: u64,
    /// Messages taken, by recipient address as spelt.
    pub by_recipient: BTreeMap<String, u64>,
    /// At an intake: what the copies said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copies: Option<CopyCounts>,
    /// With a script: what it did, and what became of each message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<ScriptCounts>,
}

/// What a script did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptCounts {
    /// The seed of the odds; a script with `seed:` and this number does the same again.
    pub seed: u64,
    /// How often each rule struck, by its name.
    pub injected: BTreeMap<String, u64>,
    /// Messages that came to their end although the server had already answered them with 2xx: duplicates that no
    /// fault excuses.
    pub repeated: u64,
    /// Messages by `X-TDC-Delivery-Id`, else `Message-ID`; at most [`MAX_ANSWERS`].
    pub messages: BTreeMap<String, Answers>,
    /// Ends of messages that are not among them.
    pub others: u64,
}

/// What the sender of one message heard after the final dot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// 2xx was written to the connection.
    pub accepted: u64,
    /// Another reply was.
    pub refused: u64,
    /// The final dot came, and no reply (yet).
    pub unanswered: u64,
    /// It was counted and, with a store, kept.
    pub kept: u64,
    /// It came again after 2xx.
    pub repeated: u64,
}

/// What the copies said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyCounts {
    /// Sound journal reports.
    pub journal_reports: u64,
    /// Sound raw copies.
    pub raw: u64,
    /// Copies that break a rule.
    pub malformed: u64,
    /// How often each rule was broken.
    pub faults: BTreeMap<Fault, u64>,
    /// Copies whose delivery id had come before.
    pub duplicates: u64,
    /// Copies of messages that may not have been accepted.
    pub in_doubt: u64,
    /// From the making of the delivery id to the arrival; None as long as no copy told.
    pub latency: Option<Latency>,
}

/// A distribution in milliseconds; all but `count` and `max` to one part in sixteen, rounded down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// Copies that told.
    pub count: u64,
    /// Half of them took at most this long.
    pub p50_ms: u64,
    /// 95 of 100.
    pub p95_ms: u64,
    /// 99 of 100.
    pub p99_ms: u64,
    /// The longest.
    pub max_ms: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            server,
            messages,
            bytes,
            connections,
            tls_connections,
            refused,
            ..
        } = self;
        write!(
            f,
            "{server}: {messages} messages, {bytes} bytes, {refused} refused; "
        )?;
        if let Some(copies) = &self.copies {
            let CopyCounts {
                journal_reports,
                raw,
                malformed,
                duplicates,
                ..
            } = copies;
            write!(
                f,
                "{journal_reports} journal reports, {raw} raw, {malformed} malformed, {duplicates} duplicates; "
            )?;
        }
        if let Some(script) = &self.script {
            let faults: u64 = script.injected.values().sum();
            write!(f, "{faults} faults injected, {} repeated; ", script.repeated)?;
        }
        let most = self.max_concurrent_connections;
        write!(
            f,
            "{connections} connections ({tls_connections} with TLS, at most {most} at once)"
        )?;
        if let Some(latency) = self.copies.as_ref().and_then(|copies| copies.latency) {
            write!(
                f,
                "; latency {} ms median, {} ms longest",
                latency.p50_ms, latency.max_ms
            )?;
        }
        Ok(())
    }
}

/// The counts of a running server; clones share them.
#[derive(Clone, Debug)]
pub struct ReportHandle(Arc<Mutex<Counts>>);

#[derive(Debug)]
struct Counts {
    report: Report,
    open: u64,
    latencies: Histogram,
    seen: Seen,
    changes: u64,
}

impl ReportHandle {
    pub(crate) fn new(server: &str, is_intake: bool) -> Self {
        let now = clock::rfc3339(clock::unix_millis());
        let report = Report {
            server: server.to_owned(),
            started: now.clone(),
            updated: now,
            copies: is_intake.then(CopyCounts::default),
            ..Report::default()
        };
        Self(Arc::new(Mutex::new(Counts {
            report,
            open: 0,
            latencies: Histogram::default(),
            seen: Seen::default(),
            changes: 0,
        })))
    }

    /// The counts as they stand.
    #[must_use]
    pub fn snapshot(&self) -> Report {
        self.lock().report()
    }

    /// The counts, and a number that grows with each change.
    pub(crate) fn version(&self) -> u64 {
        self.lock().changes
    }

    /// Writes the counts to a file, whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> io::Result<Report> {
        let report = self.snapshot();
        write_atomically(path, &serde_json::to_vec_pretty(&report)?)?;
        Ok(report)
    }

    /// A connection is open until the guard is dropped; also its number, from 1.
    pub(crate) fn connected(&self) -> (OpenConnection, u64) {
        let mut counts = self.change();
        counts.open += 1;
        counts.report.connections += 1;
        counts.report.max_concurrent_connections = counts.report.max_concurrent_connections.max(counts.open);
        (OpenConnection(self.clone()), counts.report.connections)
    }

    pub(crate) fn connection_refused(&self) {
        self.change().report.connections_refused += 1;
    }

    pub(crate) fn tls(&self, established: bool) {
        let mut counts = self.change();
        if established {
            counts.report.tls_connections += 1;
        } else {
            counts.report.tls_failures += 1;
        }
    }

    /// A script is in force; what was counted for the one before it stays.
    pub(crate) fn script<'a>(&self, seed: u64, rules: impl Iterator<Item = &'a str>) {
        let mut counts = self.change();
        let script = counts.report.script.get_or_insert_default();
        script.seed = seed;
        for rule in rules {
            script.injected.entry(rule.to_owned()).or_default();
        }
    }

    /// A rule of the script struck.
    pub(crate) fn injected(&self, rule: &str) {
        if let Some(script) = &mut self.change().report.script {
            *script.injected.entry(rule.to_owned()).or_default() += 1;
        }
    }

    /// A message came to its end.
    pub(crate) fn dot(&self, id: &str) {
        if let Some(script) = &mut self.change().report.script {
            if script.messages.len() >= MAX_ANSWERS && !script.messages.contains_key(id) {
                script.others += 1;
                return;
            }
            let answers = script.messages.entry(id.to_owned()).or_default();
            answers.unanswered += 1;
            if answers.accepted > 0 {
                answers.repeated += 1;
                script.repeated += 1;
            }
        }
    }

    /// The answer to a message's end was written.
    pub(crate) fn answered(&self, id: &str, accepted: bool) {
        self.on_message(id, |answers| {
            answers.unanswered = answers.unanswered.saturating_sub(1);
            if accepted {
                answers.accepted += 1;
            } else {
                answers.refused += 1;
            }
        });
    }

    /// A message was kept.
    pub(crate) fn kept(&self, id: &str) {
        self.on_message(id, |answers| answers.kept += 1);
    }

    fn on_message(&self, id: &str, change: impl FnOnce(&mut Answers)) {
        let mut counts = self.change();
        let messages = counts.report.script.as_mut().map(|script| &mut script.messages);
        if let Some(answers) = messages.and_then(|messages| messages.get_mut(id)) {
            change(answers);
        }
    }

    pub(crate) fn refused(&self) {
        self.change().report.refused += 1;
    }

    /// Notes a delivery id as seen in message `number`; the number of the earlier message if it was seen before.
    pub(crate) fn seen(&self, delivery_id: &str, number: u64) -> Option<u64> {
        self.lock().seen.insert(delivery_id, number)
    }

    /// Takes back what [`Self::seen`] noted: the message could not be kept.
    pub(crate) fn unseen(&self, delivery_id: &str, number: u64) {
        self.lock().seen.remove(delivery_id, number);
    }

    /// A message was taken.
    pub(crate) fn message(&self, record: &Record) {
        let mut counts = self.change();
        let Counts {
            report, latencies, ..
        } = &mut *counts;
        report.messages += 1;
        report.bytes += record.size;
        for store::RecipientRecord { address, .. } in &record.rcpt_to {
            let full = report.by_recipient.len() >= MAX_ADDRESSES;
            let known = !full || report.by_recipient.contains_key(address);
            let name = if known { address } else { OTHERS };
            *report.by_recipient.entry(name.to_owned()).or_default() += 1;
        }
        if let (Some(copies), Some(copy)) = (&mut report.copies, &record.copy) {
            copies.add(copy);
            if let Some(latency) = copy.latency_ms {
                latencies.add(latency);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Counts are whole after each statement: a panic elsewhere does not spoil them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> MutexGuard<'_, Counts> {
        let mut counts = self.lock();
        counts.changes += 1;
        counts.report.updated = clock::rfc3339(clock::unix_millis());
        counts
    }
}

impl Counts {
    fn report(&self) -> Report {
        let mut report = self.report.clone();
        if let Some(copies) = &mut report.copies {
            copies.latency = self.latencies.latency();
        }
        report
    }
}

impl CopyCounts {
    fn add(&mut self, copy: &CopyRecord) {
        for fault in &copy.faults {
            *self.faults.entry(*fault).or_default() += 1;
        }
        match copy.format.as_deref() {
            Some("Raw") if copy.faults.is_empty() => self.raw += 1,
            Some(_) if copy.faults.is_empty() => self.journal_reports += 1,
            _ => self.malformed += 1,
        }
        self.duplicates += u64::from(copy.duplicate_of.is_some());
        self.in_doubt += u64::from(copy.in_doubt);
    }
}

/// Counts its connection as open while it lives.
#[derive(Debug)]
pub(crate) struct OpenConnection(ReportHandle);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.change().open -= 1;
    }
}

/// The delivery ids that came, as 128 bits of keyed hash each: ids are of any length, memory is not.
#[derive(Debug, Default)]
struct Seen {
    keys: [RandomState; 2],
    numbers: HashMap<[u64; 2], u64>,
    order: VecDeque<[u64; 2]>,
}

impl Seen {
    fn key(&self, id: &str) -> [u64; 2] {
        [self.keys[0].hash_one(id), self.keys[1].hash_one(id)]
    }

    fn insert(&mut self, id: &str, number: u64) -> Option<u64> {
        let key = self.key(id);
        if let Some(first) = self.numbers.get(&key) {
            return Some(*first);
        }
        if self.order.len() >= MAX_IDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.numbers.remove(&oldest);
        }
        self.numbers.insert(key, number);
        self.order.push_back(key);
        None
    }

    fn remove(&mut self, id: &str, number: u64) {
        let key = self.key(id);
        if self.numbers.get(&key) == Some(&number) {
            self.numbers.remove(&key);
            // Rare, and what is taken back is nearly always among the last.
            if let Some(at) = self.order.iter().rposition(|other| *other == key) {
                self.order.remove(at);
            }
        }
    }
}

/// Counts by milliseconds, in steps of one sixteenth.
#[derive(Debug, Default)]
struct Histogram {
    steps: BTreeMap<u64, u64>,
    count: u64,
    max: u64,
}

impl Histogram {
    fn add(&mut self, millis: u64) {
        // The four bits behind the highest are kept: 16 steps for each power of two, some 500 in all at most.
        let dropped = (millis.max(EXACT).ilog2() - EXACT.ilog2()).min(63);
        *self.steps.entry(millis >> dropped << dropped).or_default() += 1;
        self.count += 1;
        self.max = self.max.max(millis);
    }

    fn latency(&self) -> Option<Latency> {
        let at = |hundredths: u64| {
            let rank = (self.count * hundredths).div_ceil(100);
            let mut passed = 0;
            let step = self.steps.iter().find(|(_, count)| {
                passed += **count;
                passed >= rank
            });
            step.map_or(self.max, |(millis, _)| *millis)
        };
        (self.count > 0).then(|| Latency {
            count: self.count,
            p50_ms: at(50),
            p95_ms: at(95),
            p99_ms: at(99),
            max_ms: self.max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_values() {
        type MedianP99Max = Option<(u64, u64, u64)>;
        let rows: [(&[u64], MedianP99Max); 5] = [
            (&[], None),
            (&[7], Some((7, 7, 7))),
            (&[0, 1, 2, 3, 15], Some((2, 15, 15))),
            (&[1000; 3], Some((992, 992, 1000))),
            (&[1, 1, 1, 1, 86_400_000], Some((1, 83_886_080, 86_400_000))),
        ];
        for (values, want) in rows {
            let mut histogram = Histogram::default();
            values.iter().for_each(|value| histogram.add(*value));
            let got = histogram
                .latency()
                .map(|latency| (latency.p50_ms, latency.p99_ms, latency.max_ms));
            assert_eq!(got, want, "{values:?}");
        }
    }

    #[test]
    fn copies_add_up() {
        let handle = ReportHandle::new("intake", true);
        let copy = |format: Option<&str>, faults: &[Fault], duplicate_of| CopyRecord {
            format: format.map(str::to_owned),
            faults: faults.to_vec(),
            duplicate_of,
            ..CopyRecord::default()
        };
        for copy in [
            copy(Some("JournalReport"), &[], None),
            copy(Some("JournalReport"), &[], Some(1)),
            copy(Some("Raw"), &[], None),
            copy(Some("Raw"), &[Fault::SenderNotNull], None),
            copy(None, &[Fault::UnknownFormat, Fault::SenderNotNull], None),
        ] {
            handle.message(&Record {
                size: 10,
                copy: Some(copy),
                ..Record::default()
            });
        }
        let report = handle.snapshot();
        let copies = report.copies.unwrap();
        assert_eq!((report.messages, report.bytes), (5, 50));
        assert_eq!((copies.journal_reports, copies.raw, copies.malformed), (2, 1, 2));
        assert_eq!(copies.duplicates, 1);
        let faults: Vec<_> = copies.faults.into_iter().collect();
        assert_eq!(faults, [(Fault::UnknownFormat, 1), (Fault::SenderNotNull, 2)]);
    }

    #[test]
    fn ids_are_told_apart_and_forgotten_on_request() {
        let handle = ReportHandle::new("intake", true);
        assert_eq!(handle.seen("a", 1), None);
        assert_eq!(handle.seen("b", 2), None);
        assert_eq!(handle.seen("a", 3), Some(1));
        handle.unseen("a", 3);
        assert_eq!(
            handle.seen("a", 4),
            Some(1),
            "only the message that noted it takes it back"
        );
        handle.unseen("a", 1);
        assert_eq!(handle.seen("a", 5), None);
        assert_eq!(handle.seen("a", 6), Some(5));
    }

    #[test]
    fn many_addresses_share_one_count() {
        let handle = ReportHandle::new("mailbox", false);
        for n in 0..MAX_ADDRESSES + 5 {
            let rcpt = store::RecipientRecord {
                address: format!("u{n}@x"),
                params: Vec::new(),
            };
            handle.message(&Record {
                rcpt_to: vec![rcpt.clone()],
                ..Record::default()
            });
            handle.message(&Record {
                rcpt_to: vec![rcpt],
                ..Record::default()
            });
        }
        let report = handle.snapshot();
        assert_eq!(report.by_recipient.len(), MAX_ADDRESSES + 1);
        assert_eq!(report.by_recipient[OTHERS], 10);
        assert_eq!(report.by_recipient["u0@x"], 2);
        assert_eq!(report.copies, None);
    }

    #[test]
    fn open_connections_are_counted_while_their_guards_live() {
        let handle = ReportHandle::new("mailbox", false);
        let (first, _) = handle.connected();
        let (second, number) = handle.connected();
        assert_eq!(number, 2);
        drop((first, second));
        let _third = handle.connected();
        let report = handle.snapshot();
        assert_eq!((report.connections, report.max_concurrent_connections), (3, 2));
    }
}
