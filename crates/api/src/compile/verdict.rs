//! What is said about an object: the material of its conditions.

use kube::Resource;
use kube::core::ObjectMeta;

use crate::objects::Kind;
use crate::status::Reason;

/// Problems that one message names; further ones are counted.
const MAX_PROBLEMS_SHOWN: usize = 10;

/// What was found out about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its kind.
    pub kind: Kind,
    /// `metadata.namespace`; empty when the object states none.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`; empty for objects from files.
    pub uid: String,
    /// `metadata.generation`: what the verdict speaks of; 0 for objects from files.
    pub generation: i64,
    /// The condition `Accepted`.
    pub accepted: Judgement,
    /// The condition `ResolvedRefs`.
    pub resolved_refs: Judgement,
    /// Everything that is wrong, each with the field that it is about; empty when both conditions are true.
    pub problems: Vec<Problem>,
}

/// A condition's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether it holds.
    pub status: bool,
    /// Why, in one word.
    pub reason: Reason,
    /// Why, for a person.
    pub message: String,
}

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field, as `spec.users[0].senders.anyOf[1]`.
    pub field: String,
    /// What kind of trouble it is.
    pub reason: Reason,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Problem {
    pub(super) fn new(field: impl Into<String>, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason,
            message: message.into(),
        }
    }
}

impl Judgement {
    pub(super) fn good(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status: true,
            reason,
            message: message.into(),
        }
    }

    /// False because of one problem, with what follows from it.
    pub(super) fn because(problem: &Problem, consequence: &str) -> Self {
        Self {
            status: false,
            reason: problem.reason,
            message: format!("{}: {}. {consequence}", problem.field, problem.message),
        }
    }

    /// False because of `problems`, with what follows from it; `None` when there is no problem.
    pub(super) fn bad(problems: &[Problem], consequence: &str) -> Option<Self> {
        let first = problems.first()?;
        let mut message = problems
            .iter()
            .take(MAX_PROBLEMS_SHOWN)
            .map(|problem| format!("{}: {}", problem.field, problem.message))
            .collect::<Vec<_>>()
            .join(". ");
        if problems.len() > MAX_PROBLEMS_SHOWN {
            message.push_str(&format!(". And {} more", problems.len() - MAX_PROBLEMS_SHOWN));
        }
        message.push_str(". ");
        message.push_str(consequence);
        Some(Self {
            status: false,
            reason: first.reason,
            message,
        })
    }
}

impl Verdict {
    /// The verdict on `object`; `problems` are those of both judgements.
    pub(super) fn new(
        kind: Kind,
        object: &impl Resource,
        accepted: Judgement,
        resolved_refs: Judgement,
        problems: Vec<Problem>,
    ) -> Self {
        Self::of(kind, object.meta(), accepted, resolved_refs, problems)
    }

    /// The same, for an object of which only the metadata are known.
    pub(super) fn of(
        kind: Kind,
        meta: &ObjectMeta,
        accepted: Judgement,
        resolved_refs: Judgement,
        problems: Vec<Problem>,
    ) -> Self {
        Self {
            kind,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or(0),
            accepted,
            resolved_refs,
            problems,
        }
    }

    /// Whether the object is in use exactly as it is written.
    pub fn is_good(&self) -> bool {
        self.accepted.status && self.resolved_refs.status
    }
}
