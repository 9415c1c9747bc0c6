//! Whether each intake can be reached: probed again and again, at once when it changes.
//!
//! What always holds: a probe sends no mail; one intake is probed by one task, a slow one holds up nobody; a single
//! failure of an intake that answered before is looked at again before it is told.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tdc_api::Reason;
use tdc_core::outcome::{Outcome, Stage};
use tdc_core::policy::{Intake, PolicyTable};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};

/// Probes under way at the same time.
const AT_ONCE: usize = 8;
/// The pause before an intake that does not answer is probed again, and before a first failure is believed.
const AGAIN: Duration = Duration::from_secs(20);
const DOUBT: Duration = Duration::from_secs(5);

/// What a probe gives: the intake is ready for a message, or how the attempt ended.
pub type Probed = Pin<Box<dyn Future<Output = Result<(), Outcome>> + Send>>;
/// Opens a session with an intake's server, up to the point where a message could be sent, and ends it.
pub type Probe = Arc<dyn Fn(Arc<Intake>) -> Probed + Send + Sync>;

/// What was found out about an intake.
type Finding = Result<(), (Reason, String)>;

/// The intakes under observation. The probes end when it is dropped.
pub(crate) struct Probes {
    probe: Probe,
    every: Duration,
    permits: Arc<Semaphore>,
    tasks: JoinSet<()>,
    running: HashMap<Arc<str>, (Arc<Intake>, AbortHandle)>,
    shared: Arc<Shared>,
}

struct Shared {
    /// By uid.
    findings: Mutex<HashMap<Arc<str>, Finding>>,
    changed: watch::Sender<u64>,
}

impl Shared {
    fn findings(&self) -> MutexGuard<'_, HashMap<Arc<str>, Finding>> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Probes {
    pub(crate) fn new(probe: Probe, every: Duration) -> Self {
        Self {
            probe,
            every,
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            shared: Arc::new(Shared {
                findings: Mutex::default(),
                changed: watch::channel(0).0,
            }),
        }
    }

    /// Changes with every finding.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// Probes these intakes from now on, and no others.
    pub(crate) fn follow(&mut self, table: &PolicyTable) {
        while self.tasks.try_join_next().is_some() {}
        let wanted: HashMap<&Arc<str>, &Intake> = table
            .intakes
            .iter()
            .map(|intake| (&intake.object.uid, intake))
            .collect();
        self.running.retain(|uid, (intake, task)| {
            let same = wanted
                .get(uid)
                .is_some_and(|wanted| reached_alike(wanted, intake));
            if !same {
                task.abort();
                self.shared.findings().remove(uid);
            }
            same
        });
        for (uid, intake) in wanted {
            if !self.running.contains_key(uid) {
                let intake = Arc::new(intake.clone());
                let task = observe(
                    self.probe.clone(),
                    intake.clone(),
                    self.every,
                    self.permits.clone(),
                    self.shared.clone(),
                );
                self.running.insert(uid.clone(), (intake, self.tasks.spawn(task)));
            }
        }
    }

    /// What is known of the intake with that uid.
    pub(crate) fn finding(&self, uid: &str) -> Option<Finding> {
        self.shared.findings().get(uid).cloned()
    }
}

/// Whether a probe of the one says what a probe of the other would say.
fn reached_alike(a: &Intake, b: &Intake) -> bool {
    (&a.address, &a.route, &a.tls) == (&b.address, &b.route, &b.tls)
}

async fn observe(
    probe: Probe,
    intake: Arc<Intake>,
    every: Duration,
    permits: Arc<Semaphore>,
    shared: Arc<Shared>,
) {
    let uid = intake.object.uid.clone();
    let mut failed = false;
    loop {
        let result = {
            let _permit = permits.acquire().await;
            probe(intake.clone()).await
        };
        let found = result.map_err(|outcome| explain(&outcome));
        let well = found.is_ok();
        let before = shared.findings().get(&uid).cloned();
        if !well && !failed && before == Some(Ok(())) {
            failed = true;
            tokio::time::sleep(DOUBT.min(every)).await;
            continue;
        }
        failed = !well;
        if before.as_ref() != Some(&found) {
            match &found {
                Ok(()) => tracing::info!(intake = %intake.name, "The intake can be reached."),
                Err((reason, why)) => {
                    tracing::warn!(intake = %intake.name, %reason, why, "The intake cannot be reached.");
                }
            }
            shared.findings().insert(uid.clone(), found);
            shared.changed.send_modify(|n| *n += 1);
        }
        let pause = if well { every } else { AGAIN.min(every) };
        tokio::time::sleep(pause.mul_f64(0.9 + fastrand::f64() / 5.0)).await;
    }
}

/// The reason, and what a person is told.
fn explain(outcome: &Outcome) -> (Reason, String) {
    match outcome {
        Outcome::Replied { stage, code, text } => (
            Reason::Refused,
            format!("The intake's server replied {code} {text} ({}).", stage.as_str()),
        ),
        Outcome::Tls { stage, detail } => (
            Reason::TlsFailed,
            format!("TLS is not as spec.tls asks ({}): {detail}.", stage.as_str()),
        ),
        Outcome::Network {
            stage: Stage::Connect,
            detail,
        } => (Reason::ConnectFailed, format!("No connection: {detail}.")),
        Outcome::Network { stage, detail } => (
            Reason::ConnectFailed,
            format!("The connection broke ({}): {detail}.", stage.as_str()),
        ),
        Outcome::DnsSoft(why) | Outcome::DnsHard(why) => (Reason::NotResolved, format!("{why}.")),
        Outcome::NullMx => (
            Reason::NotResolved,
            "The domain takes no mail (null MX, RFC 7505).".to_owned(),
        ),
        Outcome::Unsuitable { detail, .. } => (Reason::Refused, format!("{detail}.")),
        Outcome::Expired | Outcome::NoAnswer(_) | Outcome::Delivered(_) => {
            (Reason::ConnectFailed, "No answer in time.".to_owned())
        }
    }
}
