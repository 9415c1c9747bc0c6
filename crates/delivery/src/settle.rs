//! Brings what became of an entry into the queue.
//!
//! A delivery that the queue does not hear of is repeated by the worker that takes the entry over. So this tries for
//! as long as that helps: the steps may be repeated, and meanwhile the heartbeat keeps the claim.

use std::time::Duration;

use tdc_failpoint::hit;
use tdc_queue::{ClaimRef, Claimed, QueueError};
use tokio::time::{Instant, sleep};

use crate::conclude::Step;
use crate::link::Budget;
use crate::stock::Taken;
use crate::worker::Worker;

/// The first wait after a failure; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How long at least, also when the entry's lifetime is over.
const AT_LEAST: Duration = Duration::from_secs(10);

/// Ends the entry, or puts it back.
pub(crate) async fn settle(worker: &Worker, entry: &Claimed, step: Step, budget: Budget) {
    let until = Instant::now() + budget.left().max(AT_LEAST);
    let id = &entry.claim.key.id;
    let mut wait = FIRST_WAIT;
    loop {
        match tell(worker, &entry.claim, step.clone()).await {
            Ok(true) => return,
            Ok(false) | Err(QueueError::Unknown(_)) => {
                worker.account.lost_claim(&entry.claim.key.intake);
                tracing::warn!(mid = entry.meta.mid, %id, "another worker has taken the entry over; its end counts there");
                return;
            }
            Err(error) => {
                if Instant::now() + wait >= until {
                    tracing::error!(
                        mid = entry.meta.mid, %id, %error, ?step,
                        "the queue did not take the end of an attempt; the entry will be tried again by another worker"
                    );
                    return;
                }
                tracing::warn!(mid = entry.meta.mid, %id, %error, "the queue did not take the end of an attempt yet");
            }
        }
        tokio::select! {
            () = sleep(wait) => {}
            () = worker.over() => {
                tracing::error!(mid = entry.meta.mid, %id, ?step, "the worker stops before the queue took the end of an attempt");
                return;
            }
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

async fn tell(worker: &Worker, claim: &ClaimRef, step: Step) -> Result<bool, QueueError> {
    let consumer = &worker.config.consumer;
    match step {
        Step::End(end) => {
            hit("delivery.before_complete");
            let done = worker.queue.complete(consumer, claim, end).await;
            hit("delivery.after_complete");
            done
        }
        Step::Retry(delay, reason) => {
            hit("delivery.before_retry");
            let done = worker.queue.retry(consumer, claim, delay, reason).await;
            hit("delivery.after_retry");
            done
        }
    }
}

/// Gives entries back unharmed. When the queue does not answer, their claims lapse by themselves.
pub(crate) async fn release(worker: &Worker, taken: impl IntoIterator<Item = Taken>) {
    let taken: Vec<Taken> = taken.into_iter().collect();
    let claims: Vec<ClaimRef> = taken.iter().map(|taken| taken.entry.claim.clone()).collect();
    if claims.is_empty() {
        return;
    }
    hit("delivery.before_release");
    if let Err(error) = worker.queue.release(&worker.config.consumer, &claims).await {
        tracing::warn!(entries = claims.len(), %error, "entries could not be given back; their claims lapse");
    }
    hit("delivery.after_release");
}
