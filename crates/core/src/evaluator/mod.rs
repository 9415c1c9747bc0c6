//! The decision for one envelope.
//!
//! For each recipient the policies are tried from the top, and the first that matches takes it. Recipients are then
//! grouped by intake: one copy for each (message, intake), listing only its own recipients. The function is pure:
//! the same snapshot and envelope give the same decision in every process. [`index`] makes it fast.

mod index;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use thiserror::Error;

use crate::envelope::Envelope;
use crate::headers::Headers;
use crate::policy::{HeaderRule, Journaling, PolicyTable, SnapshotVersion};
use index::Index;

/// Memory that one compiled header rule may take, in bytes: a pattern that needs more is refused.
pub const MAX_REGEX_SIZE: usize = 256 * 1024;

/// One version of the table, ready to decide.
#[derive(Debug)]
pub struct Snapshot {
    /// Which version.
    pub version: SnapshotVersion,
    /// What it was made from.
    pub table: PolicyTable,
    index: Index,
    rules: Vec<Regex>,
}

/// The table cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the pattern of the not-clean header {name} cannot be used: {reason}")]
pub struct CompileError {
    /// The rule's header.
    pub name: Arc<str>,
    /// What the regular expression's compiler says.
    pub reason: String,
}

/// What is due for one envelope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// One for each recipient of the envelope, in order.
    pub recipients: Vec<RecipientVerdict>,
    /// One for each intake, in the order of their first recipients.
    pub copies: Vec<CopyPlan>,
}

/// What became of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientVerdict {
    /// The policy that took it; `None`: the last row of the table.
    pub policy: Option<Arc<str>>,
    /// The row of that policy that matched; `None`: the policy has no rows.
    pub row: Option<usize>,
    /// Where its mail is journaled to.
    pub journaling: Journaling,
}

/// One copy to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyPlan {
    /// The intake's name.
    pub intake: Arc<str>,
    /// The policies that ask for it; empty when only the last row of the table does.
    pub policies: Vec<Arc<str>>,
    /// The recipients that it lists, as places in the envelope; each mailbox once.
    pub recipients: Vec<usize>,
}

impl Decision {
    /// The recipients whose copy is due and cannot be made, and why.
    pub fn unresolved(&self) -> impl Iterator<Item = (usize, &Arc<str>)> {
        self.recipients
            .iter()
            .enumerate()
            .filter_map(|(at, verdict)| match &verdict.journaling {
                Journaling::Unresolved(why) => Some((at, why)),
                Journaling::Disabled | Journaling::Intake(_) => None,
            })
    }
}

/// Compiles the expression of a not-clean header rule, bounded in size.
///
/// # Errors
/// What is wrong with it.
pub fn compile_rule(rule: &HeaderRule) -> Result<Regex, CompileError> {
    RegexBuilder::new(&rule.pattern)
        .size_limit(MAX_REGEX_SIZE)
        .dfa_size_limit(MAX_REGEX_SIZE)
        .build()
        .map_err(|error| CompileError {
            name: rule.name.clone(),
            reason: error.to_string(),
        })
}

impl Snapshot {
    /// Compiles a table.
    ///
    /// # Errors
    /// When an expression of a header rule cannot be compiled.
    pub fn new(version: SnapshotVersion, table: PolicyTable) -> Result<Self, CompileError> {
        let rules = table
            .connector
            .not_clean_headers
            .iter()
            .map(compile_rule)
            .collect::<Result<_, _>>()?;
        let index = Index::new(&table.policies);
        Ok(Self {
            version,
            table,
            index,
            rules,
        })
    }

    /// Decides which copies are due.
    pub fn evaluate(&self, envelope: &Envelope) -> Decision {
        let mut query = self.index.query(envelope);
        let mut decision = Decision::default();
        for (at, recipient) in envelope.recipients.iter().enumerate() {
            let verdict = if self.table.connector.enabled {
                self.verdict(query.first_match(recipient))
            } else {
                RecipientVerdict {
                    policy: None,
                    row: None,
                    journaling: Journaling::Disabled,
                }
            };
            if let Journaling::Intake(intake) = &verdict.journaling {
                decision.add(intake, verdict.policy.as_ref(), at, envelope);
            }
            decision.recipients.push(verdict);
        }
        decision
    }

    /// The first header rule that says that a message is not clean.
    pub fn not_clean(&self, headers: &Headers) -> Option<&HeaderRule> {
        let rules = self.table.connector.not_clean_headers.iter().zip(&self.rules);
        rules.into_iter().find_map(|(rule, regex)| {
            headers
                .values(&rule.name)
                .any(|value| regex.is_match(&value))
                .then_some(rule)
        })
    }

    fn verdict(&self, matched: Option<(usize, Option<usize>)>) -> RecipientVerdict {
        let (policy, row, journaling) = match matched {
            Some((policy, row)) => {
                let policy = &self.table.policies[policy];
                (Some(policy.object.name.clone()), row, &policy.journaling)
            }
            None => (None, None, &self.table.connector.default_journaling),
        };
        let journaling = match journaling {
            Journaling::Intake(name) if self.table.intake(name).is_none() => {
                Journaling::Unresolved(format!("there is no intake {name}").into())
            }
            other => other.clone(),
        };
        RecipientVerdict {
            policy,
            row,
            journaling,
        }
    }
}

impl Decision {
    fn add(&mut self, intake: &Arc<str>, policy: Option<&Arc<str>>, at: usize, envelope: &Envelope) {
        let found = self.copies.iter().position(|copy| copy.intake == *intake);
        let copy = match found {
            Some(found) => &mut self.copies[found],
            None => {
                let plan = CopyPlan {
                    intake: intake.clone(),
                    policies: Vec::new(),
                    recipients: Vec::with_capacity(1),
                };
                self.copies.push(plan);
                let last = self.copies.len() - 1;
                &mut self.copies[last]
            }
        };
        if let Some(policy) = policy
            && !copy.policies.contains(policy)
        {
            copy.policies.push(policy.clone());
        }
        let listed = |other: &usize| envelope.recipients[*other] == envelope.recipients[at];
        // Two recipients are compared only while the list is short; a client may name a mailbox twice, not always.
        if copy.recipients.len() > MAX_DUPLICATE_SCAN || !copy.recipients.iter().any(listed) {
            copy.recipients.push(at);
        }
    }
}

/// Recipients of one copy among which a repeated mailbox is still looked for.
const MAX_DUPLICATE_SCAN: usize = 1000;
