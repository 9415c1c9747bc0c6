//! Which copies are due: asked of the policy service, or decided here.
//!
//! What always holds: a decision comes from exactly one snapshot; no answer of the policy service within
//! [`DEADLINE`] never means "no copy": the last good snapshot decides then, if it is fresh enough, and if there is
//! none the caller hears so and follows `failurePolicy`. While one call is under way, what arrives waits and goes
//! out together in the next one: one call at low load, one batch at high load. Calls share a stream ([`Calls`]).

use std::sync::Arc;
use std::time::Duration;

use tdc_core::Envelope;
use tdc_core::evaluator::{Decision, Snapshot};
use tdc_core::policy::FailurePolicy;
use tdc_proto::watch::{Contact, Snapshots};
use tdc_proto::{MAX_BATCH, v1};
use tokio::sync::{mpsc, oneshot};
use tonic::transport::Channel;
use tracing::Instrument as _;

use crate::calls::{self, Calls};

/// How long the policy service may take before the local snapshot decides.
const DEADLINE: Duration = Duration::from_millis(250);
/// Envelopes that may wait for the call under way; beyond it the local snapshot decides at once.
const WAITING: usize = 4096;

/// Who decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The policy service.
    Remote,
    /// This process, by choice or because the service did not answer.
    Local,
}

impl Source {
    /// As it stands in metrics and spans.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Remote => "remote",
            Self::Local => "local",
        }
    }
}

/// A decision, and the snapshot whose settings hold for the message.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// What is due.
    pub decision: Decision,
    /// Who decided.
    pub source: Source,
    /// Lifetime, header rules and failure policy for the message.
    pub snapshot: Arc<Snapshot>,
}

/// Nothing here can decide: there is no snapshot, or it is too old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Undecided {
    /// What the last snapshot said about such mail; `None`: there never was one.
    pub failure_policy: Option<FailurePolicy>,
}

/// Decides; cheap to clone.
#[derive(Clone)]
pub struct Evaluation {
    snapshots: Snapshots,
    contact: Contact,
    max_staleness: Duration,
    remote: Option<mpsc::Sender<Question>>,
}

struct Question {
    envelope: Envelope,
    answer: oneshot::Sender<Decision>,
    span: tracing::Span,
}

impl Evaluation {
    /// Decides on the local snapshot only.
    pub fn local(snapshots: Snapshots, contact: Contact, max_staleness: Duration) -> Self {
        Self {
            snapshots,
            contact,
            max_staleness,
            remote: None,
        }
    }

    /// Asks the policy service first. Starts the task that makes the calls; it ends with the last clone.
    pub fn remote(channel: Channel, snapshots: Snapshots, contact: Contact, max_staleness: Duration) -> Self {
        let (remote, questions) = mpsc::channel(WAITING);
        tokio::spawn(ask(channel, questions));
        Self {
            snapshots,
            contact,
            max_staleness,
            remote: Some(remote),
        }
    }

    /// The snapshot that may be used now: there is one, and it is not too old.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        if self.contact.staleness() > self.max_staleness {
            return None;
        }
        self.snapshots.borrow().clone()
    }

    /// How long the policy service has been out of reach.
    pub fn staleness(&self) -> Duration {
        self.contact.staleness()
    }

    /// Decides for one envelope.
    ///
    /// # Errors
    /// [`Undecided`] says what to do with the message then.
    pub async fn evaluate(&self, envelope: Envelope) -> Result<Evaluated, Undecided> {
        let span = tracing::info_span!(
            "policy.Evaluate",
            otel.kind = "client",
            source = tracing::field::Empty,
            recipients = envelope.recipients.len(),
            copies = tracing::field::Empty
        );
        let decided = self.decide(envelope, &span).instrument(span.clone()).await;
        decided.ok_or_else(|| Undecided {
            failure_policy: self
                .snapshots
                .borrow()
                .as_ref()
                .map(|snapshot| snapshot.table.connector.failure_policy),
        })
    }

    async fn decide(&self, envelope: Envelope, span: &tracing::Span) -> Option<Evaluated> {
        let snapshot = self.snapshot();
        if let Some(remote) = self.reachable() {
            let (answer, decision) = oneshot::channel();
            let question = Question {
                envelope: envelope.clone(),
                answer,
                span: span.clone(),
            };
            if remote.try_send(question).is_ok()
                && let Ok(decision) = decision.await
            {
                // The settings come by the watch stream of the same service; without them nothing can be journaled.
                let snapshot = snapshot.or_else(|| self.snapshot())?;
                return Some(finish(decision, Source::Remote, snapshot, span));
            }
        }
        let snapshot = snapshot?;
        let decision = snapshot.evaluate(&envelope);
        Some(finish(decision, Source::Local, snapshot, span))
    }

    /// The way to the policy service, unless its stream is known to be down: then waiting would only cost time.
    fn reachable(&self) -> Option<&mpsc::Sender<Question>> {
        self.remote
            .as_ref()
            .filter(|_| self.contact.staleness().is_zero())
    }
}

fn finish(decision: Decision, source: Source, snapshot: Arc<Snapshot>, span: &tracing::Span) -> Evaluated {
    span.record("source", source.as_str());
    span.record("copies", decision.copies.len());
    Evaluated {
        decision,
        source,
        snapshot,
    }
}

async fn ask(channel: Channel, mut questions: mpsc::Receiver<Question>) {
    let mut calls = Calls::new(channel, calls::LIFE);
    let mut batch = Vec::new();
    loop {
        let received = tokio::select! {
            received = questions.recv_many(&mut batch, MAX_BATCH) => received,
            () = calls.aged() => {
                calls.close();
                continue;
            }
        };
        if received == 0 {
            return;
        }
        // Whatever else is ready to run now may have a question, too.
        tokio::task::yield_now().await;
        while batch.len() < MAX_BATCH
            && let Ok(question) = questions.try_recv()
        {
            batch.push(question);
        }
        // A batch belongs to many traces; the call is shown in that of its first envelope.
        let (traceparent, tracestate) = batch[0].span.in_scope(tdc_telemetry::current_traceparent);
        let request = || v1::EvaluateRequest {
            envelopes: batch.iter().map(|question| (&question.envelope).into()).collect(),
            traceparent: traceparent.clone(),
            tracestate: tracestate.clone(),
        };
        match tokio::time::timeout(DEADLINE, calls.ask(request)).await {
            Ok(Ok(response)) => answer(response, &mut batch),
            Ok(Err(status)) => {
                tracing::debug!(code = ?status.code(), "The policy service could not decide; deciding locally.");
            }
            Err(_) => tracing::debug!("The policy service took too long; deciding locally."),
        }
        // What is left is dropped here, which tells each waiting transaction to decide locally.
        batch.clear();
    }
}

fn answer(response: v1::EvaluateResponse, batch: &mut Vec<Question>) {
    if response.decisions.len() != batch.len() {
        tracing::error!(
            asked = batch.len(),
            answered = response.decisions.len(),
            "The policy service answered for another number of envelopes; deciding locally."
        );
        return;
    }
    for (question, decision) in batch.drain(..).zip(response.decisions) {
        match Decision::try_from(decision) {
            Ok(decision) if decision.recipients.len() == question.envelope.recipients.len() => {
                let _ = question.answer.send(decision);
            }
            Ok(_) => tracing::error!("The policy service decided for another envelope; deciding locally."),
            Err(error) => tracing::error!(%error, "A decision cannot be read; deciding locally."),
        }
    }
}
