//! The global settings.

use std::time::Duration;

use tdc_core::policy as core;

use super::{ConvertError, journaling, object, unknown};
use crate::v1;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<&core::Connector> for v1::Connector {
    fn from(connector: &core::Connector) -> Self {
        let failure_policy = match connector.failure_policy {
            core::FailurePolicy::Fail => v1::FailurePolicy::Fail,
            core::FailurePolicy::Ignore => v1::FailurePolicy::Ignore,
        };
        let dead_letter_mode = match connector.dead_letter.mode {
            core::DeadLetterMode::Drop => v1::DeadLetterMode::Drop,
            core::DeadLetterMode::Retain => v1::DeadLetterMode::Retain,
        };
        let rule = |rule: &core::HeaderRule| v1::HeaderRule {
            name: rule.name.to_string(),
            pattern: rule.pattern.to_string(),
        };
        Self {
            object: Some((&connector.object).into()),
            enabled: connector.enabled,
            default_journaling: Some((&connector.default_journaling).into()),
            failure_policy: failure_policy.into(),
            queue_lifetime_ms: millis(connector.queue_lifetime),
            dead_letter_mode: dead_letter_mode.into(),
            dead_letter_retention_ms: millis(connector.dead_letter.retention),
            sender_ip_header: connector.sender_ip_header.to_string(),
            not_clean_headers: connector.not_clean_headers.iter().map(rule).collect(),
        }
    }
}

pub(super) fn read(connector: v1::Connector) -> Result<core::Connector, ConvertError> {
    let failure_policy = match connector.failure_policy() {
        v1::FailurePolicy::Fail => core::FailurePolicy::Fail,
        v1::FailurePolicy::Ignore => core::FailurePolicy::Ignore,
        v1::FailurePolicy::Unspecified => {
            return Err(unknown("connector.failure_policy", connector.failure_policy));
        }
    };
    let mode = match connector.dead_letter_mode() {
        v1::DeadLetterMode::Drop => core::DeadLetterMode::Drop,
        v1::DeadLetterMode::Retain => core::DeadLetterMode::Retain,
        v1::DeadLetterMode::Unspecified => {
            return Err(unknown("connector.dead_letter_mode", connector.dead_letter_mode));
        }
    };
    let rule = |rule: v1::HeaderRule| core::HeaderRule {
        name: rule.name.into(),
        pattern: rule.pattern.into(),
    };
    Ok(core::Connector {
        object: object(connector.object),
        enabled: connector.enabled,
        default_journaling: journaling(connector.default_journaling, "connector.default_journaling")?,
        failure_policy,
        queue_lifetime: Duration::from_millis(connector.queue_lifetime_ms),
        dead_letter: core::DeadLetter {
            mode,
            retention: Duration::from_millis(connector.dead_letter_retention_ms),
        },
        sender_ip_header: connector.sender_ip_header.into(),
        not_clean_headers: connector.not_clean_headers.into_iter().map(rule).collect(),
    })
}
