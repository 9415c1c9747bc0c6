//! The table and a decision in words.

use std::fmt::Write as _;

use tdc_core::evaluator::{Decision, RecipientVerdict};
use tdc_core::pattern::Pattern;
use tdc_core::policy::{Combine, Journaling, Policy, PolicyTable, Row};
use tdc_core::{Envelope, Mailbox, ReversePath};

/// What becomes of each recipient and why, and which copies are due.
pub(super) fn decision(table: &PolicyTable, envelope: &Envelope, decision: &Decision) -> String {
    let mut text = String::new();
    for (recipient, verdict) in envelope.recipients.iter().zip(&decision.recipients) {
        let _ = writeln!(
            text,
            "{recipient}: {}: {}",
            taken_by(table, verdict),
            journaling(&verdict.journaling)
        );
        if let Some(why) = why(table, envelope, recipient, verdict) {
            let _ = writeln!(text, "    because {why}");
        }
    }
    if decision.copies.is_empty() {
        text.push_str("no copy is due\n");
    }
    for copy in &decision.copies {
        let listed: Vec<&str> = copy
            .recipients
            .iter()
            .map(|at| envelope.recipients[*at].as_str())
            .collect();
        let _ = writeln!(
            text,
            "copy for intake {}: lists {}",
            copy.intake,
            listed.join(", ")
        );
    }
    text.trim_end().to_owned()
}

fn taken_by(table: &PolicyTable, verdict: &RecipientVerdict) -> String {
    match (&verdict.policy, verdict.row) {
        (Some(policy), Some(place)) => {
            let number = row(table, verdict).map_or(place, |row| row.number(place));
            format!("policy {policy}, row {number}")
        }
        (Some(policy), None) => format!("policy {policy} (no rows: everyone)"),
        (None, _) if !table.connector.enabled => "no policy (the connector is disabled)".to_owned(),
        (None, _) => "no policy (defaultJournaling)".to_owned(),
    }
}

/// The row that took a recipient.
fn row<'a>(table: &'a PolicyTable, verdict: &RecipientVerdict) -> Option<&'a Row> {
    let name = verdict.policy.as_ref()?;
    let policy = table.policies.iter().find(|policy| policy.object.name == *name)?;
    policy.rows.get(verdict.row?)
}

fn why(
    table: &PolicyTable,
    envelope: &Envelope,
    recipient: &Mailbox,
    verdict: &RecipientVerdict,
) -> Option<String> {
    let row = row(table, verdict)?;
    let mut reasons = Vec::new();
    if let (Some(condition), ReversePath::Mailbox(sender)) = (&row.senders, &envelope.sender) {
        if let Some(pattern) = condition.any_of.iter().find(|pattern| pattern.matches(sender)) {
            reasons.push(format!("the sender matches {pattern}"));
        } else if condition.any_of.is_empty() && !matches(&condition.none_of, sender) {
            reasons.push(format!("the sender is none of [{}]", list(&condition.none_of)));
        }
    }
    if let Some(condition) = &row.recipients {
        match condition.any_of.iter().find(|pattern| pattern.matches(recipient)) {
            Some(pattern) => reasons.push(format!("the recipient matches {pattern}")),
            None if condition.any_of.is_empty() && !condition.none_of.is_empty() => {
                reasons.push(format!("the recipient is none of [{}]", list(&condition.none_of)));
            }
            None => {}
        }
        let addressed = |pattern: &Pattern| envelope.recipients.iter().any(|to| pattern.matches(to));
        if !condition.all_of.is_empty() && condition.all_of.iter().all(addressed) {
            reasons.push(format!(
                "the message is addressed to all of [{}]",
                list(&condition.all_of)
            ));
        }
    }
    (!reasons.is_empty()).then(|| reasons.join(", "))
}

fn matches(patterns: &[Pattern], mailbox: &Mailbox) -> bool {
    patterns.iter().any(|pattern| pattern.matches(mailbox))
}

/// The table in the order in which it is tried.
pub(super) fn table(table: &PolicyTable) -> String {
    let connector = &table.connector;
    let name = match &*connector.object.name {
        "" => "(none)",
        name => name,
    };
    let state = if connector.enabled {
        "enabled"
    } else {
        "disabled: nothing is journaled"
    };
    let mut text = format!("connector {name}: {state}\n");
    for intake in &table.intakes {
        let _ = writeln!(text, "intake {}: {}", intake.name, intake.address);
    }
    for policy in &table.policies {
        policy_lines(&mut text, policy);
    }
    let _ = write!(
        text,
        "everyone else: {}",
        journaling(&connector.default_journaling)
    );
    text
}

fn policy_lines(text: &mut String, policy: &Policy) {
    let _ = writeln!(
        text,
        "{:>6}  {}: {}",
        policy.order,
        policy.object.name,
        journaling(&policy.journaling)
    );
    if policy.rows.is_empty() {
        text.push_str("        everyone\n");
    }
    for (place, row) in policy.rows.iter().enumerate() {
        let _ = writeln!(text, "        row {}: {}", row.number(place), row_text(row));
    }
}

fn journaling(journaling: &Journaling) -> String {
    match journaling {
        Journaling::Disabled => "not journaled".to_owned(),
        Journaling::Intake(name) => format!("journaled to intake {name}"),
        Journaling::Unresolved(why) => format!("cannot be journaled: {why}"),
    }
}

fn row_text(row: &Row) -> String {
    let part = |name: &str, patterns: &[Pattern]| {
        (!patterns.is_empty()).then(|| format!("{name} [{}]", list(patterns)))
    };
    let mut parts = Vec::new();
    if let Some(senders) = &row.senders {
        parts.extend(part("sender any of", &senders.any_of));
        parts.extend(part("sender none of", &senders.none_of));
    }
    if let Some(recipients) = &row.recipients {
        parts.extend(part("recipient any of", &recipients.any_of));
        parts.extend(part("all of", &recipients.all_of));
        parts.extend(part("none of", &recipients.none_of));
    }
    let joint = if row.combine == Combine::Any {
        ", combined by any"
    } else {
        ""
    };
    format!("{}{joint}", parts.join(", "))
}

fn list(patterns: &[Pattern]) -> String {
    let texts: Vec<String> = patterns.iter().map(ToString::to_string).collect();
    texts.join(" ")
}
