//! Turning new messages away while there is no room, and taking them again by itself.
//!
//! Two things can run out: the memory for messages on their way ([`Memory`]), and the queue. Memory is refused at the
//! moment it is asked for, at MAIL; the queue is asked every [`LOOK_EVERY`] whether it has room, and while it has none,
//! a message whose copy is due is refused before its body, at DATA. Mail that nothing asks to journal goes on, and so
//! does all mail when `failurePolicy` is Ignore. A queue that does not answer is not a full one: that is
//! `failurePolicy`'s affair alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tdc_core::Envelope;
use tdc_core::policy::FailurePolicy;
use tdc_queue::QueueError;
use tdc_smtp::Reply;
use tdc_telemetry::Shutdown;

use crate::listener::Shared;
use crate::memory::{Memory, Reservation};
use crate::metrics::IngressMetrics;

/// How often it is looked whether there is room again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Memory counts as free again below this part of the limit (in tenths), so that the log does not flap.
const FREE_BELOW: u64 = 9;

/// What is short now.
#[derive(Debug, Default)]
pub(crate) struct Shedding {
    memory: AtomicBool,
    queue: AtomicBool,
}

/// The reply meanwhile.
pub(crate) fn no_room() -> Reply {
    Reply::new(452, "4.3.1 Error: insufficient system resources, try again later")
}

impl Shedding {
    /// Whether a message to this envelope must be turned away because its copy would find no room.
    pub(crate) async fn refuses(&self, shared: &Shared, envelope: &Envelope) -> bool {
        if !self.queue.load(Ordering::Relaxed) {
            return false;
        }
        // Only now, under pressure, is the question worth a call of its own.
        let evaluated = shared.deps.evaluation.evaluate(envelope.clone()).await;
        let due = evaluated.is_ok_and(|evaluated| {
            !evaluated.decision.copies.is_empty()
                && evaluated.snapshot.table.connector.failure_policy == FailurePolicy::Fail
        });
        if due {
            shared.deps.metrics.shed("queue");
        }
        due
    }

    /// Room for a message, unless it must be turned away.
    pub(crate) fn admit(&self, shared: &Shared, octets: u64) -> Option<Reservation> {
        let room = shared.memory.reserve(octets);
        if room.is_none() {
            self.memory_is_short(&shared.memory, &shared.deps.metrics);
        }
        room
    }

    /// A message was refused memory.
    pub(crate) fn memory_is_short(&self, memory: &Memory, metrics: &IngressMetrics) {
        metrics.shed("memory");
        if !self.memory.swap(true, Ordering::Relaxed) {
            metrics.shedding("memory", true);
            tracing::warn!(
                held = memory.used(),
                limit = memory.limit(),
                "Messages on their way hold all the memory they may (--memory-budget); new ones get 452 until some \
                 are done."
            );
        }
    }

    fn look_at_memory(&self, memory: &Memory, metrics: &IngressMetrics) {
        metrics.memory(memory.used());
        let free = memory.used() < memory.limit() / 10 * FREE_BELOW;
        if free && self.memory.swap(false, Ordering::Relaxed) {
            metrics.shedding("memory", false);
            tracing::info!(held = memory.used(), "There is memory for new messages again.");
        }
    }

    fn queue_says(&self, answer: &Result<(), QueueError>, metrics: &IngressMetrics) {
        match answer {
            Err(QueueError::Full(reason)) => {
                if !self.queue.swap(true, Ordering::Relaxed) {
                    metrics.shedding("queue", true);
                    tracing::warn!(
                        reason,
                        "The queue has no room; messages whose copy is due get 452 until it has."
                    );
                }
            }
            Ok(()) => {
                if self.queue.swap(false, Ordering::Relaxed) {
                    metrics.shedding("queue", false);
                    tracing::info!("The queue has room for new messages again.");
                }
            }
            // Not known: what was known holds.
            Err(_) => {}
        }
    }
}

/// Looks at memory and queue until the shutdown.
pub(crate) async fn watch(shared: Arc<Shared>, shutdown: Shutdown) {
    let (shedding, metrics) = (&shared.shedding, &shared.deps.metrics);
    for cause in ["memory", "queue"] {
        metrics.shedding(cause, false);
    }
    loop {
        shedding.look_at_memory(&shared.memory, metrics);
        shedding.queue_says(&shared.deps.queue.check().await, metrics);
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shutdown.started() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use tdc_telemetry::Metrics;

    use super::*;

    fn shown(metrics: &Metrics, line: &str) -> bool {
        metrics.encode().lines().any(|known| known == line)
    }

    #[test]
    fn pressure_comes_and_goes() {
        let registry = Metrics::new("test");
        let metrics = IngressMetrics::new(&registry);
        let shedding = Shedding::default();
        let memory = Memory::new(1000);
        let held = memory.reserve(950).unwrap();
        shedding.memory_is_short(&memory, &metrics);
        shedding.look_at_memory(&memory, &metrics);
        assert!(shown(&registry, "tdc_ingress_shedding{cause=\"memory\"} 1"));
        assert!(shown(&registry, "tdc_ingress_memory_held_bytes 950"));
        assert!(shown(
            &registry,
            "tdc_ingress_messages_shed_total{cause=\"memory\"} 1"
        ));
        drop(held);
        shedding.look_at_memory(&memory, &metrics);
        assert!(shown(&registry, "tdc_ingress_shedding{cause=\"memory\"} 0"));

        let steps = [
            (Err(QueueError::Full("no memory".into())), 1, "full"),
            (
                Err(QueueError::Unavailable("gone".into())),
                1,
                "not known: still full",
            ),
            (Ok(()), 0, "room again"),
            (Err(QueueError::Unavailable("gone".into())), 0, "down is not full"),
        ];
        for (answer, value, why) in steps {
            shedding.queue_says(&answer, &metrics);
            let on = shedding.queue.load(Ordering::Relaxed);
            assert_eq!(i32::from(on), value, "{why}");
        }
    }
}
