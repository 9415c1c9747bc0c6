//! The copies of a message: which are due, making them durable, committing them or taking them back.
//!
//! What always holds: a copy that is due is either prepared, or the message is refused, or `failurePolicy` is Ignore
//! and the copy that is not made is counted and logged.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use tdc_core::evaluator::{CopyPlan, Decision};
use tdc_core::headers::DELIVERY_ID;
use tdc_core::maillog::MailEvent;
use tdc_core::policy::{DeadLetterMode, FailurePolicy};
use tdc_queue::{EntryKey, EntryMeta, QueueError};
use tdc_smtp::{BodyType, Reply};
use tracing::Instrument as _;

use super::Transaction;
use crate::copies::{CopyError, Lifetimes, within};
use crate::evaluate::{Evaluated, Undecided};
use crate::metrics::Skip;

/// A reply, and the outcome that is counted.
pub(super) type Refusal = (Reply, &'static str);

/// What was found out about the copies before the final dot.
pub(super) enum Journal {
    /// These are prepared (perhaps none).
    Prepared(Vec<EntryKey>),
    /// The message must not go on.
    Refuse(Refusal),
}

impl From<Option<Refusal>> for Journal {
    fn from(refusal: Option<Refusal>) -> Self {
        refusal.map_or_else(|| Self::Prepared(Vec::new()), Self::Refuse)
    }
}

/// Why copies cannot be made, each reason once: about as many as there are intakes that cannot be used.
fn unresolved(decision: &Decision) -> BTreeSet<&str> {
    decision.unresolved().map(|(_, why)| &**why).collect()
}

impl Transaction {
    /// Waits for the decision, and tells the copies.
    pub(super) async fn decide(&mut self) {
        let Some(body) = &mut self.body else { return };
        let Some(evaluation) = body.evaluation.take() else {
            return;
        };
        body.evaluated = evaluation.await.unwrap_or_else(|_| Err(Undecided::default()));
        let headers = body
            .headers
            .get_or_insert_with(|| std::mem::take(&mut body.scanner).finish());
        let Ok(evaluated) = &body.evaluated else {
            body.copies.forget();
            return;
        };
        self.shared.deps.metrics.evaluated(evaluated.source);
        let decision = &evaluated.decision;
        let due = decision.copies.len() + unresolved(decision).len();
        let skip = if due == 0 {
            None
        } else if headers.count(DELIVERY_ID) > 0 {
            Some((Skip::Loop, "it is a copy that was made here".to_owned()))
        } else {
            let rule = evaluated.snapshot.not_clean(headers);
            rule.map(|rule| (Skip::NotClean, format!("not clean by its header {}", rule.name)))
        };
        if let Some((skip, reason)) = skip {
            body.copies.forget();
            body.skipped = true;
            self.shared.deps.metrics.skipped(skip, due as u64);
            self.log(&MailEvent::NotJournaled {
                mid: self.mid,
                reason,
            });
            return;
        }
        body.copies
            .decide(decision.copies.iter().map(|copy| copy.intake.clone()));
    }

    /// Makes every copy durable that is due, or says what becomes of a message whose copy cannot be.
    pub(super) async fn journal(&mut self) -> Journal {
        self.decide().await;
        self.log_matches();
        let Some(body) = &self.body else {
            return Journal::Prepared(Vec::new());
        };
        if body.skipped {
            return Journal::Prepared(Vec::new());
        }
        let evaluated = match body.evaluated.clone() {
            Ok(evaluated) => evaluated,
            Err(undecided) => {
                let policy = undecided.failure_policy;
                let policy = policy.unwrap_or(self.shared.config.failure_policy);
                let why = "there is no policy snapshot that is fresh enough";
                return self.without_copy(policy, Skip::NoPolicy, why).into();
            }
        };
        let failure_policy = evaluated.snapshot.table.connector.failure_policy;
        for why in unresolved(&evaluated.decision) {
            if let Some(refusal) = self.without_copy(failure_policy, Skip::Unresolved, why) {
                return Some(refusal).into();
            }
        }
        self.prepare(&evaluated).await
    }

    async fn prepare(&mut self, evaluated: &Evaluated) -> Journal {
        let connector = &evaluated.snapshot.table.connector;
        let copies = evaluated.decision.copies.iter();
        let metas: Vec<EntryMeta> = copies.map(|copy| self.meta(copy, evaluated)).collect();
        if metas.is_empty() {
            return Journal::Prepared(Vec::new());
        }
        let lifetimes = Lifetimes {
            lifetime: connector.queue_lifetime,
            in_doubt_after: self.shared.config.in_doubt_after,
            retain: (connector.dead_letter.mode == DeadLetterMode::Retain)
                .then_some(connector.dead_letter.retention),
        };
        let Some(body) = &mut self.body else {
            return Journal::Prepared(Vec::new());
        };
        let span = tracing::info_span!("queue.prepare", otel.kind = "producer", copies = metas.len());
        let (mut prepared, mut failed) = (Vec::new(), Vec::new());
        for (key, result) in body.copies.prepare(metas, &lifetimes).instrument(span).await {
            let Err(error) = result else {
                prepared.push(key);
                continue;
            };
            tracing::warn!(mid = self.mid, intake = %key.intake, %error, "A copy cannot be queued.");
            let skip = match error {
                CopyError::Slow(_) => Skip::QueueTimeout,
                CopyError::Queue(QueueError::Full(_)) => Skip::QueueFull,
                CopyError::Queue(_) => Skip::QueueUnavailable,
            };
            let why = format!("its copy for {} cannot be queued: {error}", key.intake);
            if let Some(refusal) = self.without_copy(connector.failure_policy, skip, &why) {
                return Some(refusal).into();
            }
            failed.push(key);
        }
        // A step whose answer was lost may be done: without this its entry would be delivered as in doubt.
        self.forget(&failed).await;
        self.log_enqueued(&prepared, evaluated);
        Journal::Prepared(prepared)
    }

    /// What becomes of a message whose copy cannot be made: a refusal, or nothing, and the skipped copy is told of.
    fn without_copy(&self, policy: FailurePolicy, skip: Skip, why: &str) -> Option<Refusal> {
        match policy {
            FailurePolicy::Fail => {
                tracing::warn!(
                    mid = self.mid,
                    reason = why,
                    "A message is refused because its copy cannot be made."
                );
                let text = "4.3.0 Error: the message cannot be processed now, try again later";
                Some((Reply::new(451, text), "journal_failed"))
            }
            FailurePolicy::Ignore => {
                self.shared.deps.metrics.skipped(skip, 1);
                self.log(&MailEvent::NotJournaled {
                    mid: self.mid,
                    reason: why.to_owned(),
                });
                None
            }
        }
    }

    pub(super) async fn commit(&self, keys: &[EntryKey]) {
        if keys.is_empty() {
            return;
        }
        let span = tracing::info_span!("queue.commit", otel.kind = "producer", copies = keys.len());
        let commit = within(
            self.shared.config.queue_timeout,
            self.shared.deps.queue.commit(keys),
        );
        match commit.instrument(span).await {
            Ok(()) => self.shared.deps.metrics.queued(keys.len() as u64),
            Err(error) => {
                // The message is accepted, and its entries are durable: the sweeper commits them, marked in doubt.
                self.shared.deps.metrics.in_doubt(keys.len() as u64);
                tracing::warn!(%error, mid = self.mid, "A copy could not be committed; it will be delivered as in doubt.");
            }
        }
    }

    /// Takes entries back. If that fails, chunks expire by themselves, and a prepared entry is delivered in doubt.
    pub(super) async fn forget(&self, keys: &[EntryKey]) {
        if !keys.is_empty()
            && let Err(error) = within(
                self.shared.config.queue_timeout,
                self.shared.deps.queue.abort(keys),
            )
            .await
        {
            tracing::warn!(%error, mid = self.mid, "A copy could not be taken back; it may be delivered as in doubt.");
        }
    }

    fn meta(&self, copy: &CopyPlan, evaluated: &Evaluated) -> EntryMeta {
        let (traceparent, tracestate) = tdc_telemetry::current_traceparent();
        EntryMeta {
            mid: self.mid,
            sender: self.mail.address.clone(),
            recipients: copy
                .recipients
                .iter()
                .map(|at| self.envelope.recipients[*at].to_string())
                .collect(),
            policies: copy.policies.iter().map(ToString::to_string).collect(),
            message_id: self.message_id(),
            client_ip: self.client.sender_ip().to_string(),
            eight_bit: self.mail.body == Some(BodyType::EightBitMime),
            smtputf8: self.mail.smtputf8,
            sender_ip_header: evaluated.snapshot.table.connector.sender_ip_header.to_string(),
            traceparent,
            tracestate,
            received_ms: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |now| now.as_millis() as u64),
        }
    }

    pub(super) fn message_id(&self) -> String {
        let headers = self.body.as_ref().and_then(|body| body.headers.as_ref());
        let id = headers
            .and_then(|headers| headers.first("Message-ID"))
            .unwrap_or_default();
        id.chars().take(998).collect()
    }
}
