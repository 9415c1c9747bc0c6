//! Policies and their rows.

use tdc_core::pattern::Pattern;
use tdc_core::policy as core;

use super::{ConvertError, error, journaling, object, unknown};
use crate::v1;

fn texts(patterns: &[Pattern]) -> Vec<String> {
    patterns.iter().map(ToString::to_string).collect()
}

fn patterns(texts: &[String], field: &str) -> Result<Vec<Pattern>, ConvertError> {
    texts
        .iter()
        .map(|text| Pattern::parse(text).map_err(|e| error(field, e.to_string())))
        .collect()
}

impl From<&core::Policy> for v1::Policy {
    fn from(policy: &core::Policy) -> Self {
        let row = |row: &core::Row| v1::Row {
            senders: row.senders.as_ref().map(|condition| v1::SenderCondition {
                any_of: texts(&condition.any_of),
                none_of: texts(&condition.none_of),
            }),
            recipients: row.recipients.as_ref().map(|condition| v1::RecipientCondition {
                any_of: texts(&condition.any_of),
                all_of: texts(&condition.all_of),
                none_of: texts(&condition.none_of),
            }),
            combine: match row.combine {
                core::Combine::All => v1::Combine::All.into(),
                core::Combine::Any => v1::Combine::Any.into(),
            },
            left_out: row.left_out,
        };
        Self {
            object: Some((&policy.object).into()),
            order: policy.order,
            rows: policy.rows.iter().map(row).collect(),
            journaling: Some((&policy.journaling).into()),
        }
    }
}

pub(super) fn read(policy: v1::Policy) -> Result<core::Policy, ConvertError> {
    Ok(core::Policy {
        object: object(policy.object),
        order: policy.order,
        rows: policy.rows.into_iter().map(row).collect::<Result<_, _>>()?,
        journaling: journaling(policy.journaling, "policies.journaling")?,
    })
}

fn row(row: v1::Row) -> Result<core::Row, ConvertError> {
    let combine = match row.combine() {
        v1::Combine::All => core::Combine::All,
        v1::Combine::Any => core::Combine::Any,
        v1::Combine::Unspecified => return Err(unknown("policies.rows.combine", row.combine)),
    };
    let senders = |condition: v1::SenderCondition| {
        Ok(core::SenderCondition {
            any_of: patterns(&condition.any_of, "policies.rows.senders.any_of")?,
            none_of: patterns(&condition.none_of, "policies.rows.senders.none_of")?,
        })
    };
    let recipients = |condition: v1::RecipientCondition| {
        Ok(core::RecipientCondition {
            any_of: patterns(&condition.any_of, "policies.rows.recipients.any_of")?,
            all_of: patterns(&condition.all_of, "policies.rows.recipients.all_of")?,
            none_of: patterns(&condition.none_of, "policies.rows.recipients.none_of")?,
        })
    };
    Ok(core::Row {
        senders: row.senders.map(senders).transpose()?,
        recipients: row.recipients.map(recipients).transpose()?,
        combine,
        left_out: row.left_out,
    })
}
