//! What this worker may have of an intake's connections, and what it has to tell about them.
//!
//! Connections are counted for the cluster: the queue knows what all workers have, and decides ([`tdc_queue::LeaseRequest`]).
//! This is the worker's side of it: feedback that was not yet told, the newest answer, and how long it holds. When the
//! queue does not answer, nothing new is opened, and what is open ends once the lease has lapsed: from then on the
//! others count without it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tdc_core::policy::Connections;
use tdc_queue::{LEASE_FOR, LeaseGrant, LeaseRequest};
use tokio::time::Instant;

/// One intake's lease.
#[derive(Debug, Default)]
pub(crate) struct Lease(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    feedback: Feedback,
    /// Connections beyond this end after their message.
    limit: u32,
    /// From then on it does not hold any more; `None`: there is none.
    until: Option<Instant>,
}

/// Since the last call that was answered.
#[derive(Debug, Default)]
struct Feedback {
    delivered: u32,
    refused: u32,
    /// Sum of the delivered ones' service times.
    busy: Duration,
    reachable: Option<bool>,
    error: Option<String>,
}

impl Lease {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy was delivered in that time.
    pub(crate) fn delivered(&self, took: Duration) {
        let feedback = &mut self.state().feedback;
        feedback.delivered = feedback.delivered.saturating_add(1);
        feedback.busy += took;
    }

    /// A connection is ready.
    pub(crate) fn established(&self) {
        self.state().feedback.reachable = Some(true);
    }

    /// The intake would not have a connection, or another one.
    pub(crate) fn refused(&self, error: String, reachable: bool, overloaded: bool) {
        let feedback = &mut self.state().feedback;
        feedback.refused = feedback.refused.saturating_add(u32::from(overloaded));
        feedback.reachable = reachable.then_some(true).or(Some(false));
        feedback.error = Some(error);
    }

    /// What to ask the queue, with `open` connections of which `wanted` would be welcome. Takes the feedback.
    pub(crate) fn request(&self, limits: &Connections, open: u32, wanted: u32) -> LeaseRequest {
        let feedback = std::mem::take(&mut self.state().feedback);
        LeaseRequest {
            min: limits.min,
            max: limits.max,
            open,
            wanted,
            delivered: feedback.delivered,
            refused: feedback.refused,
            service: feedback.busy.checked_div(feedback.delivered),
            reachable: feedback.reachable,
            last_error: feedback.error,
        }
    }

    /// The queue's answer to a request of that moment.
    pub(crate) fn granted(&self, request: &LeaseRequest, grant: &LeaseGrant, asked: Instant) {
        let mut state = self.state();
        state.limit = keep(request, grant);
        let nothing = request.open == 0 && request.wanted == 0;
        state.until = (!nothing).then(|| asked + LEASE_FOR);
    }

    /// The queue did not answer: what was to be told is told with the next call.
    pub(crate) fn unanswered(&self, request: LeaseRequest) {
        let feedback = &mut self.state().feedback;
        let busy = request.service.unwrap_or_default() * request.delivered;
        feedback.delivered = feedback.delivered.saturating_add(request.delivered);
        feedback.refused = feedback.refused.saturating_add(request.refused);
        feedback.busy += busy;
        feedback.reachable = feedback.reachable.or(request.reachable);
        feedback.error = feedback.error.take().or(request.last_error);
    }

    /// Connections beyond this end after their message: none may stay when the lease has lapsed.
    pub(crate) fn limit(&self) -> u32 {
        let state = self.state();
        match state.until {
            Some(until) if Instant::now() < until => state.limit,
            _ => 0,
        }
    }

    /// The queue counts something for this worker, or may do so.
    pub(crate) fn is_held(&self) -> bool {
        self.state().until.is_some()
    }
}

/// How many of its connections a worker keeps. With fewer entries than connections none is given up for that: those
/// that find no work end by being idle, which lets the next entries have them without another handshake.
fn keep(request: &LeaseRequest, grant: &LeaseGrant) -> u32 {
    if grant.waiting < u64::from(grant.total) {
        return request.max;
    }
    grant.connections.min(request.max)
}

/// How many connections to open at once, with `open` there already: a quarter more, at least `min`, so that a burst of
/// entries does not become a burst of connections.
pub(crate) fn step(open: u32, limits: &Connections) -> u32 {
    (open / 4).max(limits.min).max(1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tdc_core::policy::Connections;
    use tdc_queue::{LEASE_FOR, LeaseGrant};
    use tokio::time::{Instant, advance};

    use super::{Lease, step};

    const LIMITS: Connections = Connections {
        min: 3,
        max: 50,
        messages_per_connection: 10,
    };

    fn grant(connections: u32, total: u32, waiting: u64) -> LeaseGrant {
        LeaseGrant {
            connections,
            target: total,
            total,
            waiting,
        }
    }

    #[test]
    fn steps() {
        let cases = [
            (0, 3, "the minimum at once"),
            (4, 3, "then in steps"),
            (20, 5, "of a quarter"),
        ];
        for (open, expected, why) in cases {
            assert_eq!(step(open, &LIMITS), expected, "{why}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept() {
        let lease = Lease::default();
        assert_eq!(
            (lease.limit(), lease.is_held()),
            (0, false),
            "nothing was granted"
        );
        let cases = [
            (grant(4, 10, 100), 4, "a share"),
            (grant(0, 10, 100), 0, "others have it all"),
            (
                grant(2, 10, 9),
                50,
                "fewer entries than connections: idleness ends them",
            ),
            (grant(60, 60, 100), 50, "never more than the maximum"),
        ];
        for (grant, limit, why) in cases {
            let request = lease.request(&LIMITS, 5, 8);
            lease.granted(&request, &grant, Instant::now());
            assert_eq!((lease.limit(), lease.is_held()), (limit, true), "{why}");
        }
        advance(LEASE_FOR - Duration::from_millis(10)).await;
        assert_eq!(
            lease.limit(),
            50,
            "the queue does not answer: what is open may stay"
        );
        advance(Duration::from_millis(20)).await;
        assert_eq!(lease.limit(), 0, "but not longer than the others count with it");
        assert!(lease.is_held(), "the queue may still hear that nothing is left");
        let request = lease.request(&LIMITS, 0, 0);
        lease.granted(&request, &grant(0, 0, 0), Instant::now());
        assert!(!lease.is_held());
    }

    #[test]
    fn feedback_is_told_once_and_not_lost() {
        let lease = Lease::default();
        lease.delivered(Duration::from_millis(100));
        lease.delivered(Duration::from_millis(300));
        lease.refused("421".into(), false, true);
        let request = lease.request(&LIMITS, 1, 2);
        assert_eq!((request.delivered, request.refused), (2, 1));
        assert_eq!(request.service, Some(Duration::from_millis(200)));
        assert_eq!(
            (request.reachable, request.last_error.as_deref()),
            (Some(false), Some("421"))
        );
        assert_eq!(lease.request(&LIMITS, 1, 2).delivered, 0, "told");
        lease.unanswered(request);
        lease.delivered(Duration::from_millis(50));
        lease.established();
        let request = lease.request(&LIMITS, 1, 2);
        assert_eq!((request.delivered, request.refused), (3, 1), "told again");
        assert_eq!(request.service, Some(Duration::from_millis(150)));
        assert_eq!(
            (request.reachable, request.last_error.as_deref()),
            (Some(true), Some("421")),
            "the newest state, the newest error"
        );
    }
}
