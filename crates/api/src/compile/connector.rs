//! The global settings: which object counts, and what it says.

use std::sync::Arc;
use std::time::Duration;

use tdc_core::evaluator::compile_rule;
use tdc_core::policy::{self, Journaling};

use super::{IntakeStates, Judgement, Problem, Verdict, by_age, object_ref, sorted};
use crate::connector::{
    DeadLetterMode, DefaultJournaling, FailurePolicy, HeaderRule, ThreatDefenseConnector,
    ThreatDefenseConnectorSpec,
};
use crate::objects::Kind;
use crate::status::Reason;
use crate::syntax;

/// What `Global` means: the intake to use, or why there is none. `None`: no default intake is named.
pub(super) type DefaultIntake = Option<Result<Arc<str>, Problem>>;

/// The settings of the oldest connector, or the defaults; the others are told which one counts.
pub(super) fn compile(
    objects: &[Arc<ThreatDefenseConnector>],
    intakes: &IntakeStates,
    verdicts: &mut Vec<Verdict>,
) -> (policy::Connector, DefaultIntake) {
    let objects = sorted(objects, by_age);
    let Some((winner, losers)) = objects.split_first() else {
        return (policy::Connector::default(), None);
    };
    for loser in losers {
        verdicts.push(conflicted(winner, loser));
    }

    let default_intake =
        (winner.spec.default_intake.as_deref()).map(|name| intakes.resolve("spec.defaultIntake", name));
    let mut problems = Vec::new();
    let mut connector = settings(&winner.spec, &mut problems);
    connector.object = object_ref(*winner);
    let accepted = Judgement::bad(
        &problems,
        "These parts are left out, or have their defaults, until repaired.",
    )
    .unwrap_or_else(|| Judgement::good(Reason::Accepted, "Its settings are in use."));

    let reference = match (winner.spec.default_journaling, &default_intake) {
        (_, Some(Err(problem))) => Some(problem.clone()),
        (DefaultJournaling::Global, None) => Some(not_set("spec.defaultJournaling")),
        (_, Some(Ok(_))) | (DefaultJournaling::Disabled, None) => None,
    };
    connector.default_journaling = match winner.spec.default_journaling {
        DefaultJournaling::Disabled => Journaling::Disabled,
        DefaultJournaling::Global => journaling(default_intake.clone()),
    };
    let resolved = Judgement::bad(
        reference.as_slice(),
        "Mail with journaling mode Global follows failurePolicy.",
    )
    .unwrap_or_else(|| Judgement::good(Reason::ResolvedRefs, "Every reference resolves."));
    problems.extend(reference);
    verdicts.push(Verdict::new(
        Kind::ThreatDefenseConnector,
        *winner,
        accepted,
        resolved,
        problems,
    ));
    (connector, default_intake)
}

/// What a `Global` policy does.
pub(super) fn journaling(default_intake: DefaultIntake) -> Journaling {
    match default_intake {
        Some(Ok(name)) => Journaling::Intake(name),
        Some(Err(problem)) => Journaling::Unresolved(problem.message.into()),
        None => Journaling::Unresolved(not_set("").message.into()),
    }
}

/// Mode Global without a default intake, at `field`.
pub(super) fn not_set(field: &str) -> Problem {
    let message =
        "mode Global, and no ThreatDefenseConnector names a defaultIntake; set one, or use another mode";
    Problem::new(field, Reason::DefaultIntakeNotSet, message)
}

fn conflicted(winner: &ThreatDefenseConnector, loser: &ThreatDefenseConnector) -> Verdict {
    let name = winner.metadata.name.as_deref().unwrap_or_default();
    let message = format!("ThreatDefenseConnector {name} is older and counts; one a namespace does");
    let problems = vec![Problem::new("metadata.name", Reason::Conflicted, message)];
    let accepted = Judgement::bad(&problems, "Its settings are not in use; delete one of the two.");
    let accepted = accepted.unwrap_or_else(|| Judgement::good(Reason::Accepted, ""));
    let resolved = Judgement::good(Reason::ResolvedRefs, "Its references are not looked at.");
    Verdict::new(Kind::ThreatDefenseConnector, loser, accepted, resolved, problems)
}

fn settings(spec: &ThreatDefenseConnectorSpec, problems: &mut Vec<Problem>) -> policy::Connector {
    let ThreatDefenseConnectorSpec {
        enabled,
        default_intake: _,
        default_journaling: _,
        failure_policy,
        queue_lifetime,
        dead_letter,
        sender_ip_header,
        clean,
    } = spec;
    let defaults = policy::Connector::default();
    let mut duration = |field: &str, text: &str, most: Duration, otherwise: Duration| {
        bounded_duration(field, text, most).unwrap_or_else(|problem| {
            problems.push(problem);
            otherwise
        })
    };
    let queue_lifetime = duration(
        "spec.queueLifetime",
        queue_lifetime,
        MAX_QUEUE_LIFETIME,
        defaults.queue_lifetime,
    );
    let retention = duration(
        "spec.deadLetter.retention",
        &dead_letter.retention,
        MAX_RETENTION,
        defaults.dead_letter.retention,
    );
    let sender_ip_header = if syntax::is_header_name(sender_ip_header) {
        sender_ip_header.as_str().into()
    } else {
        problems.push(bad_header_name("spec.senderIpHeader", sender_ip_header));
        defaults.sender_ip_header
    };
    policy::Connector {
        object: policy::ObjectRef::default(),
        enabled: *enabled,
        default_journaling: Journaling::Disabled,
        failure_policy: match failure_policy {
            FailurePolicy::Fail => policy::FailurePolicy::Fail,
            FailurePolicy::Ignore => policy::FailurePolicy::Ignore,
        },
        queue_lifetime,
        dead_letter: policy::DeadLetter {
            mode: match dead_letter.mode {
                DeadLetterMode::Drop => policy::DeadLetterMode::Drop,
                DeadLetterMode::Retain => policy::DeadLetterMode::Retain,
            },
            retention,
        },
        sender_ip_header,
        not_clean_headers: header_rules(&clean.not_clean_headers, problems),
    }
}

/// The bounds that the rules of the schema state too.
const MIN_DURATION: Duration = Duration::from_secs(1);
const MAX_QUEUE_LIFETIME: Duration = Duration::from_secs(24 * 3600);
const MAX_RETENTION: Duration = Duration::from_secs(720 * 3600);

fn bounded_duration(field: &str, text: &str, most: Duration) -> Result<Duration, Problem> {
    let bad = |message: String| Problem::new(field, Reason::InvalidValue, message);
    match syntax::parse_duration(text) {
        None => Err(bad(format!(
            "{text:?} {}",
            syntax::explain(syntax::DURATION).unwrap_or_default()
        ))),
        Some(read) if (MIN_DURATION..=most).contains(&read) => Ok(read),
        Some(_) => Err(bad(format!(
            "{text:?} is out of bounds; write 1s to {}h",
            most.as_secs() / 3600
        ))),
    }
}

fn header_rules(rules: &[HeaderRule], problems: &mut Vec<Problem>) -> Vec<policy::HeaderRule> {
    let mut good = Vec::with_capacity(rules.len());
    for (at, rule) in rules.iter().enumerate() {
        let field = format!("spec.clean.notCleanHeaders[{at}]");
        if !syntax::is_header_name(&rule.name) {
            problems.push(bad_header_name(&format!("{field}.name"), &rule.name));
            continue;
        }
        let rule = policy::HeaderRule {
            name: rule.name.as_str().into(),
            pattern: rule.pattern.as_str().into(),
        };
        match compile_rule(&rule) {
            Ok(_) => good.push(rule),
            Err(error) => {
                let message = format!(
                    "is not a regular expression that can be used: {}",
                    one_line(&error.reason)
                );
                problems.push(Problem::new(
                    format!("{field}.pattern"),
                    Reason::InvalidPattern,
                    message,
                ));
            }
        }
    }
    good
}

fn bad_header_name(field: &str, name: &str) -> Problem {
    let why = syntax::explain(syntax::HEADER_NAME).unwrap_or_default();
    Problem::new(field, Reason::InvalidValue, format!("{name:?} {why}"))
}

/// The regex compiler draws a picture over several lines; its last line says what is wrong.
fn one_line(reason: &str) -> &str {
    let last = reason.trim_end().lines().next_back().unwrap_or(reason);
    last.trim().trim_start_matches("error: ")
}
