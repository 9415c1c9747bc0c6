//! Brings what became of an entry into the queue.
//!
//! A delivery that the queue does not hear of is repeated by the worker that takes the entry over. So this tries for
//! as long as that helps: the steps may be repeated, and meanwhile the heartbeat keeps the claim.
//!
//! The ends of deliveries are noted beside the next ones ([`Unsettled`]), those of all connections together at every
//! [`PACE`]: a call to the queue for each would cost more than all else that is done for a copy. What always holds: of
//! one connection at most [`MOST`] are not noted yet; when this process dies, those are delivered again.

use std::collections::VecDeque;
use std::time::Duration;

use tdc_failpoint::hit;
use tdc_queue::{ClaimRef, End, QueueError};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::conclude::Step;
use crate::link::Budget;
use crate::stock::Taken;
use crate::worker::Worker;

/// Between two moments at which ends of deliveries are noted.
const PACE: Duration = Duration::from_millis(2);
/// Deliveries of one connection whose ends may be on their way to the queue.
const MOST: usize = 8;

/// The first wait after a failure; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How long at least, also when the entry's lifetime is over.
const AT_LEAST: Duration = Duration::from_secs(10);

/// What of an entry is needed to settle it: its body is not.
pub(crate) struct Ended {
    pub(crate) claim: ClaimRef,
    pub(crate) mid: u64,
}

/// The deliveries of one connection whose ends are being noted. They go on when this is dropped.
#[derive(Default)]
pub(crate) struct Unsettled(VecDeque<JoinHandle<()>>);

impl Unsettled {
    /// Adds one. See [`Self::room`].
    pub(crate) fn push(&mut self, settling: impl Future<Output = ()> + Send + 'static) {
        self.0.push_back(tokio::spawn(settling));
    }

    /// Waits until one more may be added.
    pub(crate) async fn room(&mut self) {
        while self.0.front().is_some_and(JoinHandle::is_finished) {
            self.0.pop_front();
        }
        while self.0.len() >= MOST
            && let Some(oldest) = self.0.front_mut()
        {
            // One that panicked is done as well: its claim lapses.
            let _ = oldest.await;
            self.0.pop_front();
        }
    }

    /// Waits for all of them.
    pub(crate) async fn all(&mut self) {
        while let Some(oldest) = self.0.front_mut() {
            let _ = oldest.await;
            self.0.pop_front();
        }
    }
}

/// Ends the entry, or puts it back.
pub(crate) async fn settle(worker: &Worker, entry: &Ended, step: Step, budget: Budget) {
    let until = Instant::now() + budget.left().max(AT_LEAST);
    let (id, mid) = (&entry.claim.key.id, entry.mid);
    let mut wait = FIRST_WAIT;
    if matches!(step, Step::End(End::Delivered)) {
        sleep_until(next_beat(worker.started)).await;
    }
    loop {
        match tell(worker, &entry.claim, step.clone()).await {
            Ok(true) => return,
            Ok(false) | Err(QueueError::Unknown(_)) => {
                worker.account.lost_claim(&entry.claim.key.intake);
                tracing::warn!(mid, %id, "another worker has taken the entry over; its end counts there");
                return;
            }
            Err(error) => {
                if Instant::now() + wait >= until {
                    tracing::error!(
                        mid, %id, %error, ?step,
                        "the queue did not take the end of an attempt; the entry will be tried again by another worker"
                    );
                    return;
                }
                tracing::warn!(mid, %id, %error, "the queue did not take the end of an attempt yet");
            }
        }
        tokio::select! {
            () = sleep(wait) => {}
            () = worker.over() => {
                tracing::error!(mid, %id, ?step, "the worker stops before the queue took the end of an attempt");
                return;
            }
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// The same moment for all who ask within one [`PACE`].
fn next_beat(started: Instant) -> Instant {
    let (elapsed, pace) = (started.elapsed().as_nanos(), PACE.as_nanos());
    let beat = (elapsed / pace + 1) * pace;
    // Nanoseconds of 500 years.
    started + Duration::from_nanos(u64::try_from(beat).unwrap_or(u64::MAX))
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
