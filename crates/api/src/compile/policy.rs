//! Policies: their order, whom they take, and where they journal to.

use std::sync::Arc;

use tdc_core::pattern::Pattern;
use tdc_core::policy;

use super::connector::{DefaultIntake, journaling as global, not_set};
use super::{IntakeStates, Judgement, Problem, Rank, Verdict, object_ref};
use crate::mail_policy::{Combine, Journaling, JournalingMode, MailPolicy, Recipients, Senders, UserRow};
use crate::objects::Kind;
use crate::status::Reason;

/// The policies, each with its place in the order in which they are tried.
pub(super) fn compile(
    objects: &[Arc<MailPolicy>],
    intakes: &IntakeStates,
    default_intake: &DefaultIntake,
    verdicts: &mut Vec<Verdict>,
) -> Vec<(Rank, policy::Policy)> {
    let mut policies = Vec::with_capacity(objects.len());
    for object in objects {
        let (policy, verdict) = one(object, intakes, default_intake);
        policies.extend(policy.map(|policy| (rank(object), policy)));
        verdicts.push(verdict);
    }
    policies
}

/// Ascending order; among equals the oldest first, then by name.
fn rank(object: &MailPolicy) -> Rank {
    let meta = &object.metadata;
    Rank {
        order: object.spec.order,
        created: meta.creation_timestamp.as_ref().map(|time| time.0),
        name: meta.name.clone().unwrap_or_default(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    }
}

fn one(
    object: &MailPolicy,
    intakes: &IntakeStates,
    default_intake: &DefaultIntake,
) -> (Option<policy::Policy>, Verdict) {
    let mut problems = Vec::new();
    let mut rows: Vec<policy::Row> = Vec::with_capacity(object.spec.users.len());
    for (at, user) in object.spec.users.iter().enumerate() {
        if let Some(mut row) = row(at, user, &mut problems) {
            row.left_out = u32::try_from(at - rows.len()).unwrap_or(u32::MAX);
            rows.push(row);
        }
    }
    // No rows at all would take everyone: a policy that lost all of its rows must not turn into that one.
    let lost = rows.is_empty() && !object.spec.users.is_empty();
    let consequence = if lost {
        "The policy is not in use until repaired."
    } else {
        "Until repaired it takes only whom the rest selects."
    };
    let (journaling, reference) = resolve(&object.spec.journaling, intakes, default_intake);
    let fine = match reference {
        None => "The policy is in use.",
        Some(_) => "The policy is valid; where it journals to is not there, see ResolvedRefs.",
    };
    let accepted =
        Judgement::bad(&problems, consequence).unwrap_or_else(|| Judgement::good(Reason::Accepted, fine));
    let resolved = Judgement::bad(
        reference.as_slice(),
        "The mail that the policy takes follows failurePolicy.",
    )
    .unwrap_or_else(|| Judgement::good(Reason::ResolvedRefs, "Every reference resolves."));
    problems.extend(reference);
    let policy = (!lost).then(|| policy::Policy {
        object: object_ref(object),
        order: object.spec.order,
        rows,
        journaling,
    });
    (
        policy,
        Verdict::new(Kind::MailPolicy, object, accepted, resolved, problems),
    )
}

fn resolve(
    wanted: &Journaling,
    intakes: &IntakeStates,
    default_intake: &DefaultIntake,
) -> (policy::Journaling, Option<Problem>) {
    const MODE: &str = "spec.journaling.mode";
    const INTAKE: &str = "spec.journaling.intake";
    match (wanted.mode, wanted.intake.as_deref()) {
        (JournalingMode::Disabled, _) => (policy::Journaling::Disabled, None),
        (JournalingMode::Global, _) => {
            let problem = match default_intake {
                Some(Ok(_)) => None,
                Some(Err(problem)) => {
                    let message = format!(
                        "mode Global uses the connector's defaultIntake, and {}",
                        problem.message
                    );
                    Some(Problem::new(MODE, problem.reason, message))
                }
                None => Some(not_set(MODE)),
            };
            (global(default_intake.clone()), problem)
        }
        (JournalingMode::Custom, Some(name)) => match intakes.resolve(INTAKE, name) {
            Ok(name) => (policy::Journaling::Intake(name), None),
            Err(problem) => (
                policy::Journaling::Unresolved(problem.message.as_str().into()),
                Some(problem),
            ),
        },
        (JournalingMode::Custom, None) => {
            let message = "mode Custom needs an IntakeAddress; name one, or use Global";
            let problem = Problem::new(INTAKE, Reason::IntakeNotFound, message);
            (policy::Journaling::Unresolved(message.into()), Some(problem))
        }
    }
}

/// A row, or nothing when it cannot be told whom it takes.
fn row(at: usize, user: &UserRow, problems: &mut Vec<Problem>) -> Option<policy::Row> {
    let field = format!("spec.users[{at}]");
    let UserRow {
        senders,
        recipients,
        combine,
    } = user;
    let senders = senders
        .as_ref()
        .map(|condition| sender_condition(&field, condition, problems));
    let recipients = recipients
        .as_ref()
        .map(|condition| recipient_condition(&field, condition, problems));
    if senders.is_none() && recipients.is_none() {
        let message = "a row needs senders or recipients; to take everyone, leave users out";
        problems.push(Problem::new(field, Reason::InvalidValue, message));
        return None;
    }
    Some(policy::Row {
        senders: match senders {
            Some(read) => Some(read?),
            None => None,
        },
        recipients: match recipients {
            Some(read) => Some(read?),
            None => None,
        },
        combine: match combine {
            Combine::All => policy::Combine::All,
            Combine::Any => policy::Combine::Any,
        },
        left_out: 0,
    })
}

fn sender_condition(
    row: &str,
    wanted: &Senders,
    problems: &mut Vec<Problem>,
) -> Option<policy::SenderCondition> {
    let Senders { any_of, none_of } = wanted;
    let any_of = patterns(&format!("{row}.senders.anyOf"), any_of, problems).narrowed();
    let none_of = patterns(&format!("{row}.senders.noneOf"), none_of, problems).complete();
    Some(policy::SenderCondition {
        any_of: any_of?,
        none_of: none_of?,
    })
}

fn recipient_condition(
    row: &str,
    wanted: &Recipients,
    problems: &mut Vec<Problem>,
) -> Option<policy::RecipientCondition> {
    let Recipients {
        any_of,
        all_of,
        none_of,
    } = wanted;
    let any_of = patterns(&format!("{row}.recipients.anyOf"), any_of, problems).narrowed();
    let all_of = patterns(&format!("{row}.recipients.allOf"), all_of, problems).complete();
    let none_of = patterns(&format!("{row}.recipients.noneOf"), none_of, problems).complete();
    Some(policy::RecipientCondition {
        any_of: any_of?,
        all_of: all_of?,
        none_of: none_of?,
    })
}

/// A list of patterns of which some may be unreadable.
struct Patterns {
    read: Vec<Pattern>,
    unreadable: usize,
}

impl Patterns {
    /// For `anyOf`: without the unreadable ones it takes fewer, unless nothing is left, which would take everyone.
    fn narrowed(self) -> Option<Vec<Pattern>> {
        (self.unreadable == 0 || !self.read.is_empty()).then_some(self.read)
    }

    /// For `noneOf` and `allOf`: without one of them the row would take more.
    fn complete(self) -> Option<Vec<Pattern>> {
        (self.unreadable == 0).then_some(self.read)
    }
}

fn patterns(field: &str, texts: &[String], problems: &mut Vec<Problem>) -> Patterns {
    let mut patterns = Patterns {
        read: Vec::with_capacity(texts.len()),
        unreadable: 0,
    };
    for (at, text) in texts.iter().enumerate() {
        match Pattern::parse(text) {
            Ok(pattern) => patterns.read.push(pattern),
            Err(error) => {
                patterns.unreadable += 1;
                let message = format!("{text:?} {error}");
                problems.push(Problem::new(
                    format!("{field}[{at}]"),
                    Reason::InvalidPattern,
                    message,
                ));
            }
        }
    }
    patterns
}
