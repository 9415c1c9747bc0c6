//! Writes statuses and events to the Kubernetes API.
//!
//! What always holds: a status is written by server-side apply, by one field manager, and only when it says something
//! new; an object that was deleted and made anew in between is not touched (the write names the uid); what was
//! written is remembered until the watch shows it, so that nothing is written twice. Nothing is ever written but
//! `status` and events.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client};
use serde_json::json;
use tdc_api::{
    API_VERSION, IntakeAddress, Kind, MailPolicy, ObjectStatus, PROGRAMMED, ThreatDefenseConnector,
};
use tdc_cluster::{Key, Known};

use crate::metrics::OperatorMetrics;

/// The field manager of every status.
pub(crate) const MANAGER: &str = "tdc-operator";
/// Writes under way at the same time: thousands of objects must not crowd out other clients of the API server.
const AT_ONCE: usize = 8;
/// How long one write may take.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// The longest note of an event, in octets (API server's limit: 1024).
const MAX_NOTE: usize = 1000;

/// A status that must be written.
pub(crate) struct Update {
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) before: ObjectStatus,
    pub(crate) after: ObjectStatus,
}

pub(crate) struct Writer {
    client: Client,
    recorder: Recorder,
    metrics: OperatorMetrics,
    /// What was written and is not seen yet, with its resource version.
    written: HashMap<Key, Written>,
}

struct Written {
    uid: String,
    version: u64,
    status: ObjectStatus,
}

impl Writer {
    pub(crate) fn new(client: Client, identity: &str, metrics: OperatorMetrics) -> Self {
        let reporter = Reporter {
            controller: MANAGER.into(),
            instance: Some(identity.into()),
        };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            metrics,
            written: HashMap::new(),
        }
    }

    /// The newest status that is known of an object: what the watch shows, or what was written after that.
    pub(crate) fn current(&mut self, key: &Key, known: &Known) -> ObjectStatus {
        if let Some(written) = self.written.get(key) {
            // Versions grow (KEP-5504); one that is no number is trusted to be newer.
            let seen = known.resource_version.parse().unwrap_or(u64::MAX);
            if written.uid == known.uid && seen < written.version {
                return written.status.clone();
            }
            self.written.remove(key);
        }
        known.status.clone()
    }

    /// Writes all of them; returns whether every write worked. What did not is computed and tried again later.
    pub(crate) async fn write(&mut self, updates: Vec<Update>) -> bool {
        let (client, recorder, metrics) = (&self.client, &self.recorder, &self.metrics);
        let results: Vec<_> = futures::stream::iter(updates)
            .map(|update| async move {
                let result = apply(client, &update).await;
                if result.is_ok() {
                    announce(recorder, &update, metrics).await;
                }
                (update, result)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let mut well = true;
        for (update, result) in results {
            match result {
                Ok(version) => {
                    self.metrics.status_writes.inc();
                    let written = Written {
                        uid: update.uid,
                        version,
                        status: update.after,
                    };
                    self.written.insert(update.key, written);
                }
                Err(error) if error.is_gone() => {
                    tracing::debug!(kind = %update.key.kind, name = update.key.name, "The object is gone.");
                }
                Err(error) => {
                    well = false;
                    self.metrics.status_failures.inc();
                    tracing::warn!(
                        kind = %update.key.kind,
                        namespace = update.key.namespace,
                        name = update.key.name,
                        error = %error.0,
                        "A status could not be written; trying again."
                    );
                }
            }
        }
        well
    }

    /// For those that only have something to say.
    pub(crate) fn herald(&self) -> Herald {
        Herald {
            recorder: self.recorder.clone(),
            metrics: self.metrics.clone(),
        }
    }
}

/// Writes events, also about an object that does not exist any more.
pub(crate) struct Herald {
    recorder: Recorder,
    metrics: OperatorMetrics,
}

impl Herald {
    pub(crate) async fn warn(&self, key: &Key, uid: &str, reason: &str, note: &str) {
        let event = event(EventType::Warning, reason, note);
        publish(&self.recorder, &event, key, uid, &self.metrics).await;
    }
}

struct WriteError(String, Option<u16>);

impl WriteError {
    /// Deleted, or deleted and made anew: the watch will say so.
    fn is_gone(&self) -> bool {
        matches!(self.1, Some(404 | 409))
    }
}

/// The resource version after it.
async fn apply(client: &Client, update: &Update) -> Result<u64, WriteError> {
    let Key {
        kind,
        namespace,
        name,
    } = &update.key;
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource(*kind));
    let body = json!({
        "apiVersion": API_VERSION,
        "kind": kind.as_str(),
        "metadata": { "name": name, "namespace": namespace, "uid": update.uid },
        "status": update.after,
    });
    let params = PatchParams::apply(MANAGER).force();
    let body = Patch::Apply(&body);
    let patching = api.patch_status(name, &params, &body);
    match tokio::time::timeout(WRITE_WITHIN, patching).await {
        Ok(Ok(object)) => {
            let version = object.metadata.resource_version.unwrap_or_default();
            Ok(version.parse().unwrap_or(0))
        }
        Ok(Err(kube::Error::Api(status))) => Err(WriteError(status.message.clone(), Some(status.code))),
        Ok(Err(error)) => Err(WriteError(error.to_string(), None)),
        Err(_) => Err(WriteError(format!("no answer within {WRITE_WITHIN:?}"), None)),
    }
}

fn resource(kind: Kind) -> ApiResource {
    match kind {
        Kind::ThreatDefenseConnector => ApiResource::erase::<ThreatDefenseConnector>(&()),
        Kind::IntakeAddress => ApiResource::erase::<IntakeAddress>(&()),
        Kind::MailPolicy => ApiResource::erase::<MailPolicy>(&()),
    }
}

/// One event for each transition that a person should hear of.
async fn announce(recorder: &Recorder, update: &Update, metrics: &OperatorMetrics) {
    for after in &update.after.conditions {
        let before = update
            .before
            .conditions
            .iter()
            .find(|before| before.type_ == after.type_);
        if let Some(type_) = worth_telling(before, after) {
            let note = format!("{}: {}", after.type_, after.message);
            let event = event(type_, &after.reason, &note);
            publish(recorder, &event, &update.key, &update.uid, metrics).await;
        }
    }
}

/// That something is in use or works again is told, and that it does not; not that it works as ever, and not that it
/// is on its way.
fn worth_telling(before: Option<&Condition>, after: &Condition) -> Option<EventType> {
    let was = before.map(|before| (&*before.status, &*before.reason));
    match (was, &*after.status, &*after.reason) {
        (_, "False", "Pending" | "NotInUse") => None,
        (Some(("False", reason)), "False", now) if reason == now => None,
        (_, "False", _) => Some(EventType::Warning),
        (Some(("True", _)), "True", _) => None,
        (None, "True", _) if after.type_ != PROGRAMMED => None,
        (_, "True", _) => Some(EventType::Normal),
        _ => None,
    }
}

fn event(type_: EventType, reason: &str, note: &str) -> Event {
    let mut note = note.to_owned();
    if note.len() > MAX_NOTE {
        let end = (0..=MAX_NOTE)
            .rev()
            .find(|at| note.is_char_boundary(*at))
            .unwrap_or(0);
        note.truncate(end);
        note.push('…');
    }
    Event {
        type_,
        reason: reason.to_owned(),
        note: Some(note),
        action: "Reconcile".into(),
        secondary: None,
    }
}

async fn publish(recorder: &Recorder, event: &Event, key: &Key, uid: &str, metrics: &OperatorMetrics) {
    let reference = ObjectReference {
        api_version: Some(API_VERSION.into()),
        kind: Some(key.kind.as_str().into()),
        namespace: Some(key.namespace.clone()),
        name: Some(key.name.clone()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    };
    match tokio::time::timeout(WRITE_WITHIN, recorder.publish(event, &reference)).await {
        Ok(Ok(())) => {
            metrics.events.inc();
        }
        Ok(Err(error)) => tracing::debug!(%error, "An event could not be written."),
        Err(_) => tracing::debug!("An event could not be written in time."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    fn condition(type_: &str, status: &str, reason: &str) -> Condition {
        Condition {
            type_: type_.into(),
            status: status.into(),
            reason: reason.into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        }
    }

    #[test]
    fn what_is_told() {
        let (normal, warning) = (Some(EventType::Normal), Some(EventType::Warning));
        for (type_, before, after, told, why) in [
            (
                "Accepted",
                None,
                ("True", "Accepted"),
                None,
                "as everybody expects",
            ),
            (
                "Accepted",
                None,
                ("False", "InvalidPattern"),
                warning,
                "wrong from the start",
            ),
            (
                "Accepted",
                Some(("True", "Accepted")),
                ("False", "Conflicted"),
                warning,
                "it became wrong",
            ),
            (
                "Accepted",
                Some(("False", "Conflicted")),
                ("True", "Accepted"),
                normal,
                "it was repaired",
            ),
            (
                "Accepted",
                Some(("True", "Accepted")),
                ("True", "Accepted"),
                None,
                "a new generation",
            ),
            ("Programmed", None, ("True", "Programmed"), normal, "it is in use"),
            ("Programmed", None, ("False", "Pending"), None, "it is on its way"),
            (
                "Programmed",
                Some(("True", "Programmed")),
                ("False", "NotInUse"),
                None,
                "Accepted says it",
            ),
            (
                "Programmed",
                Some(("False", "Pending")),
                ("False", "Rejected"),
                warning,
                "somebody cannot",
            ),
            (
                "Programmed",
                Some(("False", "Rejected")),
                ("False", "Rejected"),
                None,
                "said already",
            ),
            (
                "Reachable",
                None,
                ("Unknown", "NotProbed"),
                None,
                "nothing is known",
            ),
            (
                "Reachable",
                Some(("Unknown", "NotProbed")),
                ("False", "TlsFailed"),
                warning,
                "it does not work",
            ),
            (
                "Reachable",
                Some(("False", "TlsFailed")),
                ("False", "ConnectFailed"),
                warning,
                "another way to fail",
            ),
        ] {
            let before = before.map(|(status, reason)| condition(type_, status, reason));
            let after = condition(type_, after.0, after.1);
            assert_eq!(worth_telling(before.as_ref(), &after), told, "{type_}: {why}");
        }
    }

    #[test]
    fn notes_are_cut_between_characters() {
        let note = event(EventType::Normal, "x", &"ü".repeat(900)).note.unwrap();
        assert!(note.len() <= MAX_NOTE + '…'.len_utf8() && note.ends_with("ü…"));
    }
}
