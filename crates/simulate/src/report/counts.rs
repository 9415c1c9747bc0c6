//! The counts of a running server.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::latency::Histogram;
use super::seen::Seen;
use super::{Answers, CopyCounts, MAX_ADDRESSES, MAX_ANSWERS, OTHERS, Report};
use crate::inspect::CopyRecord;
use crate::store::{Record, write_atomically};
use crate::{clock, store};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::Fault;

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
