//! What follows from an attempt for its entry: a pure decision on top of [`tdc_core::outcome::next`].
//!
//! Two things are added to the table of outcomes. A retry that could not start within the entry's lifetime is an
//! end. And an entry that an earlier attempt may have delivered never ends as a plain bounce or expiry: whoever reads
//! the counters must see that the intake may have it.

use std::time::Duration;

use tdc_core::outcome::{Class, Next, Outcome, next};
use tdc_core::policy::Retry;
use tdc_queue::{End, RetryReason};

/// An attempt that has less than this left is not worth to be started.
const SHORTEST_ATTEMPT: Duration = Duration::from_secs(1);

/// What is to be done with the entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Put it back for that long.
    Retry(Duration, RetryReason),
    /// It is over.
    End(End),
}

/// What is known of the entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct History {
    /// Attempts before this one.
    pub(crate) attempts: u32,
    /// One of them may have delivered it.
    pub(crate) possible_delivery: bool,
    /// What is left of its lifetime.
    pub(crate) left: Duration,
}

/// Decides; `delay` is how long a retry should wait.
pub(crate) fn conclude(outcome: &Outcome, history: History, retry: &Retry, delay: Duration) -> Step {
    let detail = || outcome.to_string();
    match next(outcome, history.attempts, retry) {
        Next::Delivered => Step::End(End::Delivered),
        Next::Retry => match history.left.checked_sub(SHORTEST_ATTEMPT) {
            Some(latest) if !latest.is_zero() => Step::Retry(delay.min(latest), reason(outcome)),
            _ => Step::End(over(outcome, history)),
        },
        Next::HardBounce if history.possible_delivery => {
            Step::End(End::PossibleDelivery { detail: detail() })
        }
        Next::HardBounce => Step::End(End::HardBounced {
            class: class(outcome),
            detail: detail(),
        }),
        Next::PossibleDelivery => Step::End(End::PossibleDelivery { detail: detail() }),
        Next::Expired => Step::End(over(outcome, history)),
    }
}

fn reason(outcome: &Outcome) -> RetryReason {
    match outcome {
        Outcome::NoAnswer(_) => RetryReason::NoAnswer(outcome.to_string()),
        _ => RetryReason::SoftBounce(outcome.to_string()),
    }
}

/// The end of an entry that has no time left.
fn over(outcome: &Outcome, history: History) -> End {
    if history.possible_delivery || matches!(outcome, Outcome::NoAnswer(_)) {
        return End::PossibleDelivery {
            detail: outcome.to_string(),
        };
    }
    End::Expired
}

/// The class in the dead letters, a closed set.
fn class(outcome: &Outcome) -> &'static str {
    match outcome.class() {
        Class::Permanent if matches!(outcome, Outcome::Replied { .. }) => "5xx",
        Class::Dns => "dns",
        Class::Tls => "tls",
        Class::Network | Class::NoAnswer => "network",
        Class::Permanent | Class::Transient | Class::Expired | Class::Delivered => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::{History, Step, conclude};
    use std::time::Duration;
    use tdc_core::outcome::{Need, Outcome, Stage};
    use tdc_core::policy::Retry;
    use tdc_queue::{End, RetryReason};

    fn show(step: &Step) -> String {
        match step {
            Step::Retry(delay, RetryReason::SoftBounce(_)) => format!("soft {}", delay.as_secs_f32()),
            Step::Retry(delay, RetryReason::NoAnswer(_)) => format!("no answer {}", delay.as_secs_f32()),
            Step::End(End::Delivered) => "delivered".into(),
            Step::End(End::HardBounced { class, .. }) => format!("hard {class}"),
            Step::End(End::PossibleDelivery { .. }) => "possible".into(),
            Step::End(End::Expired) => "expired".into(),
        }
    }

    #[test]
    fn every_end() {
        let replied = |code| Outcome::Replied {
            stage: Stage::Rcpt,
            code,
            text: "no".into(),
        };
        let network = || Outcome::Network {
            stage: Stage::Connect,
            detail: "refused".into(),
        };
        let tls = || Outcome::Tls {
            stage: Stage::Handshake,
            detail: "unknown issuer".into(),
        };
        let unanswered = || Outcome::NoAnswer("closed".into());
        let cases = [
            (
                Outcome::Delivered("ok".into()),
                0,
                false,
                100,
                "delivered",
                "good",
            ),
            (
                Outcome::Delivered("ok".into()),
                1,
                true,
                100,
                "delivered",
                "whatever came before",
            ),
            (replied(550), 0, false, 100, "hard 5xx", "5xx: at once"),
            (replied(451), 0, false, 100, "soft 2", "4xx: again"),
            (replied(451), 0, false, 2, "soft 1", "but never past the end"),
            (
                replied(451),
                0,
                false,
                1,
                "expired",
                "no time for another attempt",
            ),
            (replied(451), 1, false, 100, "hard other", "4xx twice"),
            (
                replied(550),
                1,
                true,
                100,
                "possible",
                "the first attempt may have arrived",
            ),
            (network(), 0, false, 100, "soft 2", "network: again"),
            (network(), 1, false, 100, "hard network", "network twice"),
            (
                network(),
                1,
                true,
                100,
                "possible",
                "the first attempt may have arrived",
            ),
            (tls(), 0, false, 100, "hard tls", "TLS: at once"),
            (
                Outcome::DnsSoft("ServFail".into()),
                0,
                false,
                100,
                "soft 2",
                "SERVFAIL: again",
            ),
            (
                Outcome::DnsSoft("ServFail".into()),
                1,
                false,
                100,
                "hard dns",
                "SERVFAIL twice",
            ),
            (
                Outcome::DnsHard("NXDomain".into()),
                0,
                false,
                100,
                "hard dns",
                "NXDOMAIN: at once",
            ),
            (Outcome::NullMx, 0, false, 100, "hard dns", "null MX: at once"),
            (
                Outcome::Unsuitable {
                    need: Need::EightBit,
                    detail: "8BITMIME".into(),
                },
                0,
                false,
                100,
                "hard other",
                "cannot be sent",
            ),
            (
                unanswered(),
                0,
                false,
                100,
                "no answer 2",
                "no answer to the dot: again",
            ),
            (unanswered(), 1, true, 100, "possible", "twice"),
            (unanswered(), 0, false, 0, "possible", "no answer and no time"),
            (Outcome::Expired, 0, false, 0, "expired", "lifetime over"),
            (
                Outcome::Expired,
                1,
                true,
                0,
                "possible",
                "lifetime over, the first may have arrived",
            ),
        ];
        let retry = Retry {
            transient: 1,
            network: 1,
            tls: 0,
        };
        for (outcome, attempts, possible_delivery, left, expected, why) in cases {
            let history = History {
                attempts,
                possible_delivery,
                left: Duration::from_secs(left),
            };
            let step = conclude(&outcome, history, &retry, Duration::from_secs(2));
            assert_eq!(show(&step), expected, "{why}");
        }
    }
}
