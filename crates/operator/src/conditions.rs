//! From a verdict to conditions (Kubernetes API conventions, "Typical status properties").

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use tdc_api::{ACCEPTED, Judgement, ObjectStatus, RESOLVED_REFS, Verdict};

/// The status that an object must show after a verdict; `None` when `current` shows it already.
///
/// Conditions of other types are left as they are.
pub fn desired_status(verdict: &Verdict, current: &ObjectStatus, now: &Time) -> Option<ObjectStatus> {
    let mut desired = current.clone();
    desired.observed_generation = Some(verdict.generation);
    for (type_, judgement) in [
        (ACCEPTED, &verdict.accepted),
        (RESOLVED_REFS, &verdict.resolved_refs),
    ] {
        let condition = condition(type_, judgement, verdict.generation, now);
        match desired.conditions.iter_mut().find(|known| known.type_ == type_) {
            Some(known) => update(known, condition),
            None => desired.conditions.push(condition),
        }
    }
    (desired != *current).then_some(desired)
}

fn condition(type_: &str, judgement: &Judgement, generation: i64, now: &Time) -> Condition {
    Condition {
        type_: type_.to_owned(),
        status: if judgement.status { "True" } else { "False" }.to_owned(),
        reason: judgement.reason.as_str().to_owned(),
        message: judgement.message.clone(),
        observed_generation: Some(generation),
        last_transition_time: now.clone(),
    }
}

fn update(known: &mut Condition, mut new: Condition) {
    if known.status == new.status {
        new.last_transition_time = known.last_transition_time.clone();
    }
    *known = new;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tdc_api::{Kind, Reason};

    fn verdict(good: bool, generation: i64) -> Verdict {
        let judgement = |status, reason| Judgement {
            status,
            reason,
            message: String::new(),
        };
        Verdict {
            kind: Kind::MailPolicy,
            namespace: "default".into(),
            name: "finance".into(),
            uid: "1".into(),
            generation,
            accepted: judgement(true, Reason::Accepted),
            resolved_refs: if good {
                judgement(true, Reason::ResolvedRefs)
            } else {
                judgement(false, Reason::IntakeNotFound)
            },
            problems: Vec::new(),
        }
    }

    fn at(seconds: i64) -> Time {
        serde_json::from_value(serde_json::json!(format!("2026-11-23T10:00:{seconds:02}Z"))).unwrap()
    }

    #[test]
    fn status_moves_only_when_something_changed() {
        let first = desired_status(&verdict(true, 1), &ObjectStatus::default(), &at(1)).unwrap();
        assert_eq!(first.conditions.len(), 2, "set on first sight");
        assert_eq!(
            desired_status(&verdict(true, 1), &first, &at(2)),
            None,
            "nothing to write"
        );

        let second = desired_status(&verdict(true, 2), &first, &at(3)).unwrap();
        assert_eq!(second.observed_generation, Some(2));
        assert_eq!(
            second.conditions[0].last_transition_time,
            at(1),
            "the status is the same"
        );

        let third = desired_status(&verdict(false, 2), &second, &at(4)).unwrap();
        assert_eq!(
            third.conditions[0].last_transition_time,
            at(1),
            "Accepted did not change"
        );
        let resolved = &third.conditions[1];
        assert_eq!(
            (resolved.status.as_str(), resolved.reason.as_str()),
            ("False", "IntakeNotFound")
        );
        assert_eq!(resolved.last_transition_time, at(4), "ResolvedRefs did");
    }

    #[test]
    fn other_conditions_stay() {
        let mut current = desired_status(&verdict(true, 1), &ObjectStatus::default(), &at(1)).unwrap();
        let mut programmed = current.conditions[0].clone();
        programmed.type_ = tdc_api::PROGRAMMED.to_owned();
        current.conditions.push(programmed.clone());
        let desired = desired_status(&verdict(false, 1), &current, &at(2)).unwrap();
        assert!(desired.conditions.contains(&programmed));
    }
}
