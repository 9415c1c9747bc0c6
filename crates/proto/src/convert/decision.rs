//! Envelopes and decisions: what `Evaluate` carries.

use std::sync::Arc;

use tdc_core::evaluator::{CopyPlan, Decision, RecipientVerdict};
use tdc_core::{Envelope, Mailbox, ReversePath};

use super::{ConvertError, error, journaling};
use crate::v1;

impl From<&Envelope> for v1::Envelope {
    fn from(envelope: &Envelope) -> Self {
        Self {
            sender: envelope.sender.as_str().to_owned(),
            recipients: envelope
                .recipients
                .iter()
                .map(|r| r.as_str().to_owned())
                .collect(),
        }
    }
}

impl From<v1::Envelope> for Envelope {
    fn from(envelope: v1::Envelope) -> Self {
        Self {
            sender: ReversePath::new(&envelope.sender),
            recipients: envelope.recipients.into_iter().map(Mailbox::new).collect(),
        }
    }
}

impl From<&Decision> for v1::Decision {
    fn from(decision: &Decision) -> Self {
        let recipient = |verdict: &RecipientVerdict| v1::RecipientVerdict {
            policy: verdict.policy.as_ref().map(|name| name.to_string()),
            row: verdict.row.map(|row| row as u32),
            journaling: Some((&verdict.journaling).into()),
        };
        let copy = |plan: &CopyPlan| v1::CopyPlan {
            intake: plan.intake.to_string(),
            policies: plan.policies.iter().map(|name| name.to_string()).collect(),
            recipients: plan.recipients.iter().map(|at| *at as u32).collect(),
        };
        Self {
            recipients: decision.recipients.iter().map(recipient).collect(),
            copies: decision.copies.iter().map(copy).collect(),
        }
    }
}

impl TryFrom<v1::Decision> for Decision {
    type Error = ConvertError;

    fn try_from(decision: v1::Decision) -> Result<Self, ConvertError> {
        let count = decision.recipients.len();
        let recipient = |verdict: v1::RecipientVerdict| {
            Ok(RecipientVerdict {
                policy: verdict.policy.map(Arc::from),
                row: verdict.row.map(|row| row as usize),
                journaling: journaling(verdict.journaling, "recipients.journaling")?,
            })
        };
        let copy = |plan: v1::CopyPlan| {
            if plan.recipients.iter().any(|at| *at as usize >= count) {
                return Err(error(
                    "copies.recipients",
                    "names a recipient that is not in the envelope",
                ));
            }
            Ok(CopyPlan {
                intake: plan.intake.into(),
                policies: plan.policies.into_iter().map(Arc::from).collect(),
                recipients: plan.recipients.into_iter().map(|at| at as usize).collect(),
            })
        };
        Ok(Self {
            recipients: decision
                .recipients
                .into_iter()
                .map(recipient)
                .collect::<Result<_, _>>()?,
            copies: decision.copies.into_iter().map(copy).collect::<Result<_, _>>()?,
        })
    }
}
