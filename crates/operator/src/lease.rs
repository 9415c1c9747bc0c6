//! One of several operators writes: the one that holds the Lease (`coordination.k8s.io/v1`).
//!
//! What always holds: a holder that cannot renew gives up before anyone else may take over ([`RENEW_WITHIN`] is
//! shorter than [`DURATION`]), and never goes on without it. Whether somebody else's lease is over is judged by the
//! time for which it did not change here, never by comparing the clocks of two machines. A holder that stops gives
//! the lease back, so that the next one need not wait.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease as Record, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use thiserror::Error;

/// The lease's name; the chart's rules allow this one only.
pub const LEASE: &str = "tdc-operator";
/// How long a lease holds without a renewal.
const DURATION: Duration = Duration::from_secs(15);
/// How often the holder renews it, and the others look.
const EVERY: Duration = Duration::from_secs(3);
/// Without a renewal for this long the holder gives up.
const RENEW_WITHIN: Duration = Duration::from_secs(10);
/// How long one call may take.
const CALL_WITHIN: Duration = Duration::from_secs(5);

/// The lease was lost.
#[derive(Debug, Error)]
pub enum Lost {
    /// Somebody else has it.
    #[error("{0} holds the lease {LEASE} now")]
    Taken(String),
    /// The API server did not let us renew it in time.
    #[error("the lease {LEASE} could not be renewed for {RENEW_WITHIN:?}: {0}")]
    NotRenewed(String),
}

/// What one look at the lease gave.
enum Look {
    Ours,
    Theirs(String),
}

/// A candidate for the lease.
pub(crate) struct Lease {
    api: Api<Record>,
    identity: String,
    /// The record as it was seen last, and since when it is unchanged.
    seen: Option<(String, Instant)>,
}

impl Lease {
    pub(crate) fn new(client: Client, namespace: &str, identity: impl Into<String>) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            identity: identity.into(),
            seen: None,
        }
    }

    /// Waits until the lease is ours.
    pub(crate) async fn acquire(&mut self) {
        let mut told = String::new();
        loop {
            match self.look().await {
                Ok(Look::Ours) => {
                    tracing::info!(
                        lease = LEASE,
                        identity = self.identity,
                        "Holding the lease: this operator writes."
                    );
                    return;
                }
                Ok(Look::Theirs(holder)) => {
                    if told != holder {
                        tracing::info!(
                            lease = LEASE,
                            holder,
                            "Another operator holds the lease; standing by."
                        );
                        told = holder;
                    }
                }
                Err(error) => tracing::warn!(
                    lease = LEASE,
                    error,
                    "The lease cannot be asked for; trying again."
                ),
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Renews the lease for as long as possible; returns when it is lost.
    pub(crate) async fn hold(&mut self) -> Lost {
        let mut renewed = Instant::now();
        let mut why = String::new();
        loop {
            tokio::time::sleep(EVERY).await;
            match self.look().await {
                Ok(Look::Ours) => renewed = Instant::now(),
                Ok(Look::Theirs(holder)) => return Lost::Taken(holder),
                Err(error) => why = error,
            }
            if renewed.elapsed() >= RENEW_WITHIN - EVERY {
                return Lost::NotRenewed(why);
            }
        }
    }

    /// Gives the lease back.
    pub(crate) async fn release(&mut self) {
        let give = async {
            let mut record = self.api.get(LEASE).await?;
            let spec = record.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(&self.identity) {
                spec.holder_identity = Some(String::new());
                self.api.replace(LEASE, &PostParams::default(), &record).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match tokio::time::timeout(CALL_WITHIN, give).await {
            Ok(Ok(())) => tracing::info!(lease = LEASE, "Gave the lease back."),
            Ok(Err(error)) => {
                tracing::warn!(lease = LEASE, %error, "The lease could not be given back; it lapses.");
            }
            Err(_) => tracing::warn!(lease = LEASE, "The lease could not be given back; it lapses."),
        }
    }

    async fn look(&mut self) -> Result<Look, String> {
        match tokio::time::timeout(CALL_WITHIN, self.take_or_renew()).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {CALL_WITHIN:?}")),
        }
    }

    async fn take_or_renew(&mut self) -> Result<Look, kube::Error> {
        let Some(mut record) = self.api.get_opt(LEASE).await? else {
            let record = Record {
                metadata: ObjectMeta {
                    name: Some(LEASE.into()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.renewed(LeaseSpec::default())),
            };
            return self.write(self.api.create(&PostParams::default(), &record).await);
        };
        let spec = record.spec.take().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        if holder != self.identity && !holder.is_empty() && !self.lapsed(&record) {
            return Ok(Look::Theirs(holder));
        }
        record.spec = Some(self.renewed(spec));
        self.write(self.api.replace(LEASE, &PostParams::default(), &record).await)
    }

    /// A conflict means that somebody else was faster: who, the next look says.
    fn write(&self, result: Result<Record, kube::Error>) -> Result<Look, kube::Error> {
        match result {
            Ok(_) => Ok(Look::Ours),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                Ok(Look::Theirs("another operator".into()))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the record has not changed for its whole duration.
    fn lapsed(&mut self, record: &Record) -> bool {
        let version = record.metadata.resource_version.clone().unwrap_or_default();
        match &self.seen {
            Some((seen, since)) if *seen == version => since.elapsed() >= DURATION,
            _ => {
                self.seen = Some((version, Instant::now()));
                false
            }
        }
    }

    fn renewed(&self, before: LeaseSpec) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let ours = before.holder_identity.as_deref() == Some(&self.identity);
        let transitions = before.lease_transitions.unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: if ours {
                before.acquire_time
            } else {
                Some(now.clone())
            },
            renew_time: Some(now),
            lease_transitions: Some(if ours { transitions } else { transitions + 1 }),
            ..before
        }
    }
}
