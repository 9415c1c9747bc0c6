//! Time as a budget: how long a client may take for one command, and for the octets of a message.
//!
//! What always holds (Postfix's `smtpd_per_request_deadline`, always on): a whole command has one limit, however many
//! reads it comes in; octets of a message buy time at a rate, and never more than the limit lies ahead. So a client
//! that sends one octet now and then is gone when the limit is over, in any state.

use std::time::Duration;

/// What is left of one client's time.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: Duration,
    /// Octets of a message that buy one second.
    rate: u64,
    left: Duration,
}

impl Budget {
    /// A full budget. `rate` is in octets a second; 0: octets buy nothing.
    pub(crate) fn new(limit: Duration, rate: u64) -> Self {
        Self {
            limit,
            rate,
            left: limit,
        }
    }

    /// How long the client may take from now on.
    pub(crate) fn left(&self) -> Duration {
        self.left
    }

    /// A command was answered: the next one has the whole limit.
    pub(crate) fn renew(&mut self) {
        self.left = self.limit;
    }

    /// The client let this time pass.
    pub(crate) fn spend(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }

    /// Octets of a message arrived.
    pub(crate) fn earn(&mut self, octets: usize) {
        if let Some(millis) = (octets as u64).saturating_mul(1000).checked_div(self.rate) {
            let earned = Duration::from_millis(millis);
            self.left = self.left.saturating_add(earned).min(self.limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn octets_buy_time_and_never_more_than_the_limit() {
        // Each step: seconds of silence, then octets; what is left of 300 s at 500 octets a second.
        let cases: [(&str, &[(u64, usize)], u64); 5] = [
            ("nothing happens", &[], 300_000),
            ("silence", &[(100, 0)], 200_000),
            ("as fast as the rate", &[(10, 5000), (10, 5000)], 300_000),
            (
                "a large read buys no more than the limit",
                &[(10, 10_000_000)],
                300_000,
            ),
            ("one octet each 10 s", &[(10, 1); 30], 60),
        ];
        for (why, steps, millis) in cases {
            let mut budget = Budget::new(300 * SECOND, 500);
            for (silence, octets) in steps {
                budget.spend(Duration::from_secs(*silence));
                budget.earn(*octets);
            }
            assert_eq!(budget.left(), Duration::from_millis(millis), "{why}");
        }
    }

    #[test]
    fn a_command_has_one_limit() {
        let mut budget = Budget::new(300 * SECOND, 0);
        for _ in 0..31 {
            budget.spend(10 * SECOND);
            budget.earn(1_000_000);
        }
        assert_eq!(
            budget.left(),
            Duration::ZERO,
            "octets of a command buy nothing at rate 0"
        );
        budget.renew();
        assert_eq!(budget.left(), 300 * SECOND);
    }
}
