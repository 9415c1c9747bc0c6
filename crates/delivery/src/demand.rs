//! How many connections an intake should have now: a pure decision.
//!
//! While copies wait there are at least `connections.min` connections, but no more than there are copies; more when
//! the backlog would take longer than [`DRAIN`] to deliver; never more than `connections.max`. A ceiling under that
//! learns what the intake bears: each refusal takes it to one less than there are connections (1/N of them), each
//! good delivery raises it by 1/N, so that it grows by one for every round of good deliveries (the window of
//! Postfix's scheduler).

use std::time::Duration;

use tdc_core::policy::Connections;

/// A backlog should be gone within this time: well below the 120 s that a copy lives.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);
/// Weight of the newest service time in the smoothed one.
const SMOOTHING: f64 = 0.2;
/// Before anything was measured: a transaction of a few round trips.
const FIRST_GUESS: f64 = 0.1;

/// The state of the decision for one intake.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    /// Smoothed time for one copy, seconds.
    service: f64,
    /// What the intake is believed to bear; at least 1. Infinite until it refuses for the first time.
    ceiling: f64,
}

impl Default for Demand {
    fn default() -> Self {
        Self {
            service: FIRST_GUESS,
            ceiling: f64::INFINITY,
        }
    }
}

impl Demand {
    /// How many connections there should be, with `waiting` copies that are ready or being delivered here.
    pub(crate) fn target(&self, waiting: u64, limits: &Connections) -> u32 {
        if waiting == 0 {
            return 0;
        }
        let waiting = waiting as f64;
        let floor = f64::from(limits.min.max(1)).min(waiting);
        let backlog = (waiting * self.service / DRAIN.as_secs_f64()).ceil().min(waiting);
        let most = f64::from(limits.max.max(1)).min(self.ceiling.floor());
        // Between 1 and `max`, so that the conversion is exact.
        floor.max(backlog).min(most).max(1.0) as u32
    }

    /// How many of them to open in this round, with `open` there already: a quarter more, at least `min`, so that a
    /// burst does not become a burst of connections.
    pub(crate) fn growth(target: u32, open: u32, limits: &Connections) -> u32 {
        let step = (open / 4).max(limits.min).max(1);
        target.saturating_sub(open).min(step)
    }

    /// A copy was delivered in that time.
    pub(crate) fn delivered(&mut self, took: Duration, limits: &Connections) {
        self.service += SMOOTHING * (took.as_secs_f64() - self.service);
        self.ceiling += 1.0 / self.ceiling;
        if self.ceiling >= f64::from(limits.max) {
            self.ceiling = f64::INFINITY;
        }
    }

    /// The intake refused a connection, or ended one to be left alone, with `open` connections at that time.
    pub(crate) fn refused(&mut self, open: u32) {
        let less = f64::from(open.saturating_sub(1));
        self.ceiling = self.ceiling.min(less).max(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::Demand;
    use proptest::prelude::*;
    use std::time::Duration;
    use tdc_core::policy::Connections;

    const LIMITS: Connections = Connections {
        min: 3,
        max: 50,
        messages_per_connection: 10,
    };

    fn serving(seconds: f64) -> Demand {
        Demand {
            service: seconds,
            ..Demand::default()
        }
    }

    #[test]
    fn targets() {
        let cases = [
            (0, 0.1, 0, "nothing waits: no connection"),
            (1, 0.1, 1, "no more connections than copies"),
            (2, 0.1, 2, "no more connections than copies"),
            (3, 0.1, 3, "the minimum"),
            (
                100,
                0.1,
                3,
                "100 copies of 0.1 s: one connection drains them in 10 s",
            ),
            (301, 0.1, 4, "301 copies of 0.1 s: four are needed"),
            (100, 1.0, 10, "100 copies of 1 s"),
            (20, 60.0, 20, "never more than copies, however slow"),
            (1_000_000, 1.0, 50, "never more than the maximum"),
        ];
        for (waiting, seconds, target, why) in cases {
            assert_eq!(serving(seconds).target(waiting, &LIMITS), target, "{why}");
        }
        let tight = Connections {
            min: 3,
            max: 2,
            messages_per_connection: 1,
        };
        assert_eq!(serving(1.0).target(100, &tight), 2, "the maximum wins");
    }

    #[test]
    fn growth_in_a_round() {
        let cases = [
            (0, 0, 0, "nothing"),
            (3, 0, 3, "the minimum at once"),
            (50, 0, 3, "then in steps"),
            (50, 20, 5, "of a quarter"),
            (50, 49, 1, "to the target"),
            (10, 20, 0, "no growth above it"),
        ];
        for (target, open, growth, why) in cases {
            assert_eq!(Demand::growth(target, open, &LIMITS), growth, "{why}");
        }
    }

    #[test]
    fn an_intake_that_bears_five_connections_gets_about_five() {
        let mut demand = serving(10.0);
        for _ in 0..1000 {
            let target = demand.target(1000, &LIMITS);
            if target > 5 {
                demand.refused(target);
            } else {
                demand.delivered(Duration::from_secs(10), &LIMITS);
            }
        }
        let target = demand.target(1000, &LIMITS);
        assert!((4..=6).contains(&target), "{target}");
    }

    #[test]
    fn refusals_shrink_to_one_and_deliveries_grow_again() {
        let mut demand = serving(10.0);
        for open in (0..=50).rev() {
            demand.refused(open);
        }
        assert_eq!(demand.target(1000, &LIMITS), 1);
        for _ in 0..50 * 51 / 2 {
            demand.delivered(Duration::from_secs(10), &LIMITS);
        }
        assert_eq!(demand.target(1000, &LIMITS), 50);
    }

    proptest! {
        #[test]
        fn always_between_one_and_the_maximum(
            steps in prop::collection::vec((any::<bool>(), 0_u32..100, 0_u64..100_000), 0..200),
            waiting in 1_u64..u64::MAX,
        ) {
            let mut demand = Demand::default();
            for (good, open, millis) in steps {
                if good {
                    demand.delivered(Duration::from_millis(millis), &LIMITS);
                } else {
                    demand.refused(open);
                }
                let target = demand.target(waiting, &LIMITS);
                prop_assert!((1..=50).contains(&target));
                prop_assert!(u64::from(target) <= waiting);
            }
        }
    }
}
