//! What the worker says about its work: the mail log, the metrics and the spans, all from one place.
//!
//! Every attempt is one span `journal.deliver`, child of the transaction's trace. Addresses go to the mail log only.

use std::net::SocketAddr;
use std::time::Duration;

use tdc_core::maillog::MailEvent;
use tdc_core::outcome::Outcome;
use tdc_queue::{Claimed, End, Expired, Stats, Sweep};
use tdc_telemetry::{MailLog, set_parent};
use tracing::{Span, field};

use crate::conclude::Step;
use crate::metrics::{OfClass, OfIntake, OfState, WorkerMetrics};

/// The three outlets.
pub(crate) struct Account {
    mail_log: MailLog,
    metrics: WorkerMetrics,
}

/// One attempt that ended.
pub(crate) struct Attempt<'a> {
    pub(crate) entry: &'a Claimed,
    /// The connection; 0: there was none.
    pub(crate) dcid: u64,
    pub(crate) outcome: &'a Outcome,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Account {
    pub(crate) fn new(mail_log: MailLog, metrics: WorkerMetrics) -> Self {
        Self { mail_log, metrics }
    }

    /// The span of one attempt.
    pub(crate) fn span(&self, entry: &Claimed) -> Span {
        let span = tracing::info_span!(
            "journal.deliver",
            otel.kind = "client",
            otel.status_code = field::Empty,
            intake = %entry.claim.key.intake,
            delivery_id = %entry.claim.key.id,
            mid = entry.meta.mid,
            attempt = entry.attempts + 1,
            in_doubt = entry.in_doubt,
            bytes = field::Empty,
            dcid = field::Empty,
            outcome = field::Empty,
            end = field::Empty,
        );
        if !entry.meta.traceparent.is_empty() {
            set_parent(&span, &entry.meta.traceparent, &entry.meta.tracestate);
        }
        span
    }

    /// The size of the copy that the current span's attempt sends.
    pub(crate) fn bytes(&self, size: u64) {
        Span::current().record("bytes", size);
    }

    pub(crate) fn connected(&self, dcid: u64, local: SocketAddr, peer: SocketAddr) {
        self.mail_log
            .emit(&MailEvent::IntakeConnected { dcid, local, peer });
    }

    pub(crate) fn secured(&self, dcid: u64, protocol: String, cipher: String) {
        self.mail_log.emit(&MailEvent::IntakeTls {
            dcid,
            protocol,
            cipher,
        });
    }

    /// A copy begins to leave.
    pub(crate) fn begins(&self, mid: u64, dcid: u64) {
        self.mail_log.emit(&MailEvent::DeliveryStarted { mid, dcid });
    }

    pub(crate) fn closed(&self, dcid: u64) {
        self.mail_log.emit(&MailEvent::IntakeClosed { dcid });
    }

    /// A connection is ready for a message.
    pub(crate) fn connection_ready(&self, intake: &str) {
        self.opened(intake, "ready");
    }

    /// A connection did not become ready.
    pub(crate) fn connection_failed(&self, intake: &str, dcid: u64, peer: SocketAddr, outcome: &Outcome) {
        self.opened(intake, outcome.class().as_str());
        self.mail_log.emit(&MailEvent::IntakeConnectionError {
            dcid,
            peer: peer.to_string(),
            details: outcome.to_string(),
        });
    }

    fn opened(&self, intake: &str, class: &'static str) {
        let intake = intake.to_owned();
        self.metrics
            .opened
            .get_or_create(&OfClass { intake, class })
            .inc();
    }

    /// An attempt ended, and that follows from it.
    pub(crate) fn attempt(&self, attempt: &Attempt<'_>, step: &Step, span: &Span) {
        let intake = || attempt.entry.claim.key.intake.to_string();
        let class = attempt.outcome.class().as_str();
        self.metrics
            .attempts
            .get_or_create(&OfClass {
                intake: intake(),
                class,
            })
            .inc();
        span.record("outcome", class);
        span.record("dcid", attempt.dcid);
        let good = matches!(attempt.outcome, Outcome::Delivered(_));
        span.record("otel.status_code", if good { "OK" } else { "ERROR" });
        let end = match step {
            Step::Retry(..) => "retry",
            Step::End(End::Delivered) => "delivered",
            Step::End(End::HardBounced { class, .. }) => class,
            Step::End(End::PossibleDelivery { .. }) => "possible_delivery",
            Step::End(End::Expired) => "expired",
        };
        span.record("end", end);
        if matches!(step, Step::End(_)) {
            self.metrics
                .deliveries
                .get_or_create(&OfClass {
                    intake: intake(),
                    class: end,
                })
                .inc();
        }
        if good {
            let delay = (attempt.entry.age + attempt.took).as_secs_f64();
            self.metrics
                .delay
                .get_or_create(&OfIntake { intake: intake() })
                .observe(delay);
        }
        let _entered = span.enter();
        self.log(attempt, step);
    }

    fn log(&self, attempt: &Attempt<'_>, step: &Step) {
        let Attempt {
            entry, dcid, outcome, ..
        } = *attempt;
        let mid = entry.meta.mid;
        let delivery_id = entry.claim.key.id.to_string();
        if let Outcome::Tls { detail, .. } = outcome {
            let reason = detail.clone();
            self.mail_log
                .emit(&MailEvent::IntakeTlsFailed { mid, dcid, reason });
        }
        let (status, text) = outcome.status();
        // A reply stands there as the intake gave it; what else happened in our words.
        let (code, detail) = match outcome {
            Outcome::Replied { code, text, .. } => (*code, text.clone()),
            other => (0, other.to_string()),
        };
        self.mail_log.emit(&match step {
            Step::Retry(..) => MailEvent::SoftBounced {
                mid,
                dcid,
                code,
                status,
                text,
                detail,
            },
            Step::End(End::Delivered) => {
                let reply = match outcome {
                    Outcome::Delivered(reply) => reply.clone(),
                    _ => detail,
                };
                MailEvent::Delivered {
                    mid,
                    dcid,
                    delivery_id,
                    reply,
                }
            }
            Step::End(End::HardBounced { .. }) => MailEvent::HardBounced {
                mid,
                dcid,
                code,
                status,
                text,
                detail,
            },
            Step::End(End::Expired) => MailEvent::Expired {
                mid,
                dcid,
                delivery_id,
                detail,
            },
            Step::End(End::PossibleDelivery { .. }) => MailEvent::PossibleDelivery {
                mid,
                dcid,
                delivery_id,
            },
        });
    }

    /// Another worker has an entry that was ours.
    pub(crate) fn lost_claim(&self, intake: &str) {
        let intake = intake.to_owned();
        self.metrics.lost_claims.get_or_create(&OfIntake { intake }).inc();
    }

    /// A delivery was given up by the watchdog.
    pub(crate) fn stuck(&self, intake: &str) {
        let intake = intake.to_owned();
        self.metrics.stuck.get_or_create(&OfIntake { intake }).inc();
    }

    /// Connections of an intake: how many this process has, how many all workers together should have and have leased.
    pub(crate) fn connections(&self, intake: &str, count: u32, target: u32, leased: u32) {
        let intake = OfIntake {
            intake: intake.to_owned(),
        };
        let gauges = [
            (&self.metrics.connections, count),
            (&self.metrics.target, target),
            (&self.metrics.leased, leased),
        ];
        for (gauge, value) in gauges {
            gauge.get_or_create(&intake).set(i64::from(value));
        }
    }

    /// The state of an intake's queue.
    pub(crate) fn queue(&self, intake: &str, stats: &Stats) {
        let states = [
            ("ready", stats.ready),
            ("in_flight", stats.in_flight),
            ("retrying", stats.retrying),
            ("prepared", stats.prepared),
        ];
        for (state, count) in states {
            let of = OfState {
                intake: intake.to_owned(),
                state,
            };
            self.metrics
                .entries
                .get_or_create(&of)
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let of = OfIntake {
            intake: intake.to_owned(),
        };
        self.metrics
            .oldest
            .get_or_create(&of)
            .set(stats.oldest.as_secs_f64());
    }

    /// Entries whose lifetime was over before anybody took them: each is told of once, by whoever ended it.
    pub(crate) fn expired(&self, ended: &[Expired]) {
        for expired in ended {
            let of = OfClass {
                intake: expired.key.intake.to_string(),
                class: "expired",
            };
            self.metrics.deliveries.get_or_create(&of).inc();
            let span = tracing::info_span!(
                "journal.expire",
                otel.status_code = "ERROR",
                intake = %expired.key.intake,
                delivery_id = %expired.key.id,
                mid = expired.mid,
                attempts = expired.attempts,
                in_doubt = expired.in_doubt,
            );
            if !expired.traceparent.is_empty() {
                set_parent(&span, &expired.traceparent, "");
            }
            let _entered = span.enter();
            let detail = match (expired.possible_delivery, expired.detail.as_str()) {
                (true, last) => format!("an attempt may have delivered it: {last}"),
                (false, "") => Outcome::Expired.to_string(),
                (false, last) => last.to_owned(),
            };
            self.mail_log.emit(&MailEvent::Expired {
                mid: expired.mid,
                dcid: 0,
                delivery_id: expired.key.id.to_string(),
                detail,
            });
        }
    }

    /// What housekeeping did.
    pub(crate) fn swept(&self, intake: &str, sweep: &Sweep) {
        let counts = [
            ("promoted", sweep.promoted),
            ("in_doubt", sweep.committed_in_doubt),
            ("expired", sweep.expired.len() as u64),
        ];
        for (class, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            let of = OfClass {
                intake: intake.to_owned(),
                class,
            };
            self.metrics.swept.get_or_create(&of).inc_by(count);
        }
    }
}
