//! The doorbell: wakes those who wait for work.
//!
//! A ring is a hint and may be lost between processes, so nobody waits longer than [`POLL`]. Within a process none is
//! lost to who waits alone: when it has rung since the last wait, the next one is let through, for the look at the queue
//! in between may have been older. Where several wait, that holds for [`RECENT`].

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

/// The longest wait: the safety net under rings that were lost on their way.
const POLL: Duration = Duration::from_secs(1);
/// A ring this young may be younger than the waiter's last look at the queue.
const RECENT: Duration = Duration::from_millis(50);
/// How long a waiter who comes just after a ring sleeps all the same, so that it does not spin.
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
pub(crate) struct Doorbell {
    notify: Notify,
    last: Mutex<Option<Instant>>,
    /// It has rung since somebody waited last.
    missed: AtomicBool,
    /// Somebody has waited: who only puts entries in never does, and need not hear of each.
    wanted: watch::Sender<bool>,
}

impl Doorbell {
    /// Wakes everybody who waits.
    pub(crate) fn ring(&self) {
        *self.last() = Some(Instant::now());
        self.missed.store(true, Ordering::Release);
        self.notify.notify_waiters();
    }

    /// Returns once somebody waits for a ring, or has done so.
    pub(crate) async fn wanted(&self) {
        // The sender lives as long as this.
        let _ = self.wanted.subscribe().wait_for(|wanted| *wanted).await;
    }

    /// Returns at the next ring, or after `at_most` or [`POLL`], whichever comes first.
    pub(crate) async fn wait(&self, at_most: Duration) {
        let ring = self.notify.notified();
        self.wanted
            .send_if_modified(|wanted| !std::mem::replace(wanted, true));
        let limit = at_most.min(POLL);
        let recent = self.last().is_some_and(|last| last.elapsed() < RECENT);
        if recent || self.missed.load(Ordering::Acquire) {
            sleep(limit.min(PAUSE)).await;
        } else {
            // Elapsed is as good an answer as a ring.
            let _ = timeout(limit, ring).await;
        }
        // Before the caller looks: what rings from now on may be younger than that.
        self.missed.store(false, Ordering::Release);
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        // A panic while it is held leaves an Instant that is old or new; both are fine.
        self.last
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits() {
        let bell = Arc::new(Doorbell::default());
        let began = Instant::now();
        bell.wait(Duration::from_millis(300)).await;
        assert_eq!(began.elapsed().as_millis(), 300, "no ring: as long as was asked");

        let began = Instant::now();
        bell.wait(Duration::from_secs(9)).await;
        assert_eq!(began.elapsed(), POLL, "no ring: never longer than the safety net");

        let ringer = Arc::clone(&bell);
        let began = Instant::now();
        tokio::spawn(async move {
            sleep(Duration::from_millis(100)).await;
            ringer.ring();
        });
        bell.wait(Duration::from_secs(1)).await;
        assert_eq!(began.elapsed().as_millis(), 100, "a ring ends the wait");

        let began = Instant::now();
        bell.wait(Duration::from_secs(1)).await;
        assert!(
            began.elapsed() <= PAUSE + Duration::from_millis(1),
            "a ring just before the wait is not lost"
        );

        bell.ring();
        sleep(RECENT * 2).await;
        let began = Instant::now();
        bell.wait(Duration::from_secs(1)).await;
        assert!(
            began.elapsed() <= PAUSE + Duration::from_millis(1),
            "nor is one since the last wait, however long that was ago"
        );
        let began = Instant::now();
        bell.wait(Duration::from_secs(1)).await;
        assert_eq!(began.elapsed(), POLL, "but only one wait is let through for it");
    }
}
