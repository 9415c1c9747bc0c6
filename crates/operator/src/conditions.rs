//! From what is known of an object to its conditions (Kubernetes API conventions, "Typical status properties").

use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use tdc_api::{ACCEPTED, Judgement, ObjectStatus, PROGRAMMED, REACHABLE, RESOLVED_REFS, Reason, Verdict};

use crate::rollout::Standing;

/// How long an acknowledgement may be missing before `Programmed` of the same generation goes away again: a policy
/// replica or an ingress that restarts must not have every object written twice.
pub const SETTLE: Duration = Duration::from_secs(30);

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody knows.
    Unknown,
}

impl State {
    /// As it stands in the condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// A condition that an object must show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its type.
    pub type_: &'static str,
    /// Whether it holds.
    pub state: State,
    /// Why, in one word.
    pub reason: Reason,
    /// Why, for a person. Nothing in it changes by itself: each change is a write.
    pub message: String,
}

impl Wanted {
    fn judged(type_: &'static str, judgement: &Judgement) -> Self {
        Self {
            type_,
            state: if judgement.status {
                State::True
            } else {
                State::False
            },
            reason: judgement.reason,
            message: judgement.message.clone(),
        }
    }

    /// `Accepted`, as the verdict says.
    pub fn accepted(verdict: &Verdict) -> Self {
        Self::judged(ACCEPTED, &verdict.accepted)
    }

    /// `ResolvedRefs`, as the verdict says.
    pub fn resolved_refs(verdict: &Verdict) -> Self {
        Self::judged(RESOLVED_REFS, &verdict.resolved_refs)
    }

    /// `Programmed`: in use everywhere, exactly as it is written.
    pub fn programmed(verdict: &Verdict, standing: &Standing) -> Self {
        let (state, reason, message) = match standing {
            _ if !verdict.is_good() => (
                State::False,
                Reason::NotInUse,
                "It is not in use as it is written; see Accepted and ResolvedRefs.".to_owned(),
            ),
            Standing::Everywhere => (
                State::True,
                Reason::Programmed,
                "Every policy replica, ingress and worker acts on it.".to_owned(),
            ),
            Standing::Waiting(whom) => (State::False, Reason::Pending, whom.clone()),
            Standing::Rejected(why) => (State::False, Reason::Rejected, why.clone()),
            Standing::Unknown(why) => (State::Unknown, Reason::PolicyUnavailable, why.clone()),
        };
        Self {
            type_: PROGRAMMED,
            state,
            reason,
            message,
        }
    }

    /// `Reachable`, as the last probe says; `None`: there was none.
    pub fn reachable(verdict: &Verdict, probed: Option<Result<(), (Reason, String)>>) -> Self {
        let (state, reason, message) = match probed {
            _ if !verdict.accepted.status => (
                State::Unknown,
                Reason::NotProbed,
                "It is not accepted, and so not probed.".to_owned(),
            ),
            None => (
                State::Unknown,
                Reason::NotProbed,
                "The first probe is under way.".to_owned(),
            ),
            Some(Ok(())) => (
                State::True,
                Reason::Reachable,
                "The intake's server answers, and its TLS is as asked.".to_owned(),
            ),
            Some(Err((reason, message))) => (State::False, reason, message),
        };
        Self {
            type_: REACHABLE,
            state,
            reason,
            message,
        }
    }

    /// `Programmed` that was true for this generation stays so for a while when an acknowledgement goes missing.
    /// `lacking` remembers since when one is. Returns when to look again.
    pub fn settle(
        &mut self,
        current: &ObjectStatus,
        generation: i64,
        lacking: &mut Option<Instant>,
        now: Instant,
    ) -> Option<Instant> {
        let passing = matches!(self.reason, Reason::Pending | Reason::PolicyUnavailable);
        let before = current.conditions.iter().find(|known| known.type_ == PROGRAMMED);
        let held =
            before.filter(|known| known.status == "True" && known.observed_generation == Some(generation));
        let (true, Some(before)) = (passing, held) else {
            *lacking = None;
            return None;
        };
        let until = *lacking.get_or_insert(now) + SETTLE;
        if now >= until {
            return None;
        }
        self.state = State::True;
        self.reason = Reason::Programmed;
        self.message.clone_from(&before.message);
        Some(until)
    }
}

/// The status that an object must show; `None` when `current` shows it already. Conditions of other types are dropped:
/// the status has one writer.
pub fn desired_status(
    wanted: &[Wanted],
    generation: i64,
    current: &ObjectStatus,
    now: &Time,
) -> Option<ObjectStatus> {
    let condition = |wanted: &Wanted| {
        let known = current
            .conditions
            .iter()
            .find(|known| known.type_ == wanted.type_);
        let moved = known.filter(|known| known.status == wanted.state.as_str());
        Condition {
            type_: wanted.type_.to_owned(),
            status: wanted.state.as_str().to_owned(),
            reason: wanted.reason.as_str().to_owned(),
            message: wanted.message.clone(),
            observed_generation: Some(generation),
            last_transition_time: moved
                .map_or_else(|| now.clone(), |known| known.last_transition_time.clone()),
        }
    };
    let desired = ObjectStatus {
        observed_generation: Some(generation),
        conditions: wanted.iter().map(condition).collect(),
    };
    let mut shown = current.clone();
    // The API server keeps the order of a map-like list as it was first written.
    let place = |condition: &Condition| wanted.iter().position(|wanted| wanted.type_ == condition.type_);
    shown.conditions.sort_by_key(place);
    (desired != shown).then_some(desired)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tdc_api::Kind;

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

    fn wanted(good: bool, generation: i64, standing: &Standing) -> Vec<Wanted> {
        let verdict = verdict(good, generation);
        vec![
            Wanted::accepted(&verdict),
            Wanted::resolved_refs(&verdict),
            Wanted::programmed(&verdict, standing),
        ]
    }

    fn at(seconds: i64) -> Time {
        serde_json::from_value(serde_json::json!(format!("2026-11-23T10:00:{seconds:02}Z"))).unwrap()
    }

    #[test]
    fn status_moves_only_when_something_changed() {
        let everywhere = Standing::Everywhere;
        let good = |generation| wanted(true, generation, &everywhere);
        let first = desired_status(&good(1), 1, &ObjectStatus::default(), &at(1)).unwrap();
        assert_eq!(first.conditions.len(), 3, "set on first sight");
        assert_eq!(
            desired_status(&good(1), 1, &first, &at(2)),
            None,
            "nothing to write"
        );
        let mut shuffled = first.clone();
        shuffled.conditions.reverse();
        assert_eq!(
            desired_status(&good(1), 1, &shuffled, &at(2)),
            None,
            "the order says nothing"
        );

        let second = desired_status(&good(2), 2, &first, &at(3)).unwrap();
        assert_eq!(second.observed_generation, Some(2));
        assert_eq!(
            second.conditions[0].last_transition_time,
            at(1),
            "the status is the same"
        );

        let third = desired_status(&wanted(false, 2, &everywhere), 2, &second, &at(4)).unwrap();
        let shown: Vec<_> = third
            .conditions
            .iter()
            .map(|c| (&*c.type_, &*c.status, &*c.reason, c.last_transition_time.clone()))
            .collect();
        assert_eq!(
            shown,
            [
                ("Accepted", "True", "Accepted", at(1)),
                ("ResolvedRefs", "False", "IntakeNotFound", at(4)),
                ("Programmed", "False", "NotInUse", at(4)),
            ]
        );
    }

    #[test]
    fn programmed_outlives_a_restart_but_not_a_new_generation() {
        let now = Instant::now();
        let current = desired_status(
            &wanted(true, 1, &Standing::Everywhere),
            1,
            &ObjectStatus::default(),
            &at(1),
        );
        let current = current.unwrap();
        let waiting = Standing::Waiting("Waiting for ingress i.".into());
        let mut lacking = None;
        let mut settle = |standing: &Standing, generation, now| {
            let mut programmed = Wanted::programmed(&verdict(true, generation), standing);
            let again = programmed.settle(&current, generation, &mut lacking, now);
            (programmed.state, programmed.reason, again)
        };
        assert_eq!(
            settle(&waiting, 1, now),
            (State::True, Reason::Programmed, Some(now + SETTLE)),
            "an acknowledgement went missing"
        );
        assert_eq!(settle(&waiting, 1, now + SETTLE).0, State::False, "for too long");
        assert_eq!(settle(&Standing::Everywhere, 1, now + SETTLE).0, State::True);
        let unknown = Standing::Unknown("away".into());
        assert_eq!(settle(&unknown, 1, now + SETTLE).0, State::True, "counted anew");
        assert_eq!(settle(&waiting, 2, now).0, State::False, "never acknowledged");
        let rejected = Standing::Rejected("no".into());
        assert_eq!(settle(&rejected, 1, now).0, State::False, "that is no restart");
    }

    #[test]
    fn reachable_says_what_the_probe_said() {
        let refused = Err((Reason::ConnectFailed, "refused".to_owned()));
        let mut bad = verdict(true, 1);
        bad.accepted.status = false;
        for (verdict, probed, state, reason, why) in [
            (
                verdict(true, 1),
                None,
                State::Unknown,
                Reason::NotProbed,
                "none yet",
            ),
            (
                verdict(true, 1),
                Some(Ok(())),
                State::True,
                Reason::Reachable,
                "it answered",
            ),
            (
                verdict(true, 1),
                Some(refused),
                State::False,
                Reason::ConnectFailed,
                "it did not",
            ),
            (
                bad,
                Some(Ok(())),
                State::Unknown,
                Reason::NotProbed,
                "an older probe says nothing",
            ),
        ] {
            let found = Wanted::reachable(&verdict, probed);
            assert_eq!((found.state, found.reason), (state, reason), "{why}");
        }
    }
}
