//! The forms of strings in the resources: the regular expressions that stand in the schema, and what a person should
//! be told when a value does not match.
//!
//! They are the common subset of Go's RE2 (the API server) and the `regex` crate (files), so that both refuse the same
//! values. A schema that uses an expression without a text in [`explain`] fails a test.

use std::sync::LazyLock;
use std::time::Duration;

use kube::core::{Message, Rule};
use regex::Regex;

/// `metadata.name` of a referenced object (RFC 1123 sub-domain).
pub const OBJECT_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A duration as Kubernetes writes it (the subset that GEP-2257 of the Gateway API defines): `120s`, `1m30s`.
pub const DURATION: &str = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$";
/// A header's name (RFC 5322 section 3.6.8): printable ASCII without the colon.
pub const HEADER_NAME: &str = r"^[!-9;-~]+$";
/// One mailbox, ASCII before the `@`, no quoted local part.
pub const MAILBOX: &str = r"^[!#-;=?A-~]+@[^\s@<>]+$";
/// A host name or an IP address.
pub const HOST: &str = r"^[A-Za-z0-9:]([A-Za-z0-9._:-]*[A-Za-z0-9.:])?$";
/// The same, or nothing.
pub const HOST_OR_EMPTY: &str = r"^([A-Za-z0-9:]([A-Za-z0-9._:-]*[A-Za-z0-9.:])?)?$";
/// The four forms of an address pattern; `tdc_core::pattern` has the last word.
pub const PATTERN: &str =
    r#"^(("[^"\s<>,;]+"|[^\s@"<>,;]+)@([^\s@.<>,;][^\s@<>,;]*)?|@\.?[^\s@.<>,;][^\s@<>,;]*)$"#;
/// The reason of a condition (`metav1.Condition`).
pub(crate) const CONDITION_REASON: &str = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$";
/// The type of a condition (`metav1.Condition`, without the optional domain prefix).
pub(crate) const CONDITION_TYPE: &str = r"^[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?$";
/// `metadata.namespace` (RFC 1123 label).
pub(crate) const NAMESPACE: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// The rule of the schema that a value has the form of `expression`, with what a person is told. A `pattern` of the
/// schema would show the expression instead; only lists that may hold thousands must use one, because the API server
/// bounds what rules may cost.
pub(crate) fn rule(expression: &str) -> Rule {
    Rule::new(format!("self.matches(r'{expression}')")).message(explain(expression).unwrap_or_default())
}

/// The same for a duration from 1s to `most` hours.
pub(crate) fn duration_rule(most: u32) -> Rule {
    let within = format!("duration(self) >= duration('1s') && duration(self) <= duration('{most}h')");
    Rule::new(format!("self.matches(r'{DURATION}') && {within}")).message(Message::Message(format!(
        "is not a duration from 1s to {most}h; write hours, minutes, seconds or milliseconds, as in \"120s\" or \"1m30s\""
    )))
}

/// What a value must be, for a person, by the expression that it did not match.
pub fn explain(expression: &str) -> Option<&'static str> {
    Some(match expression {
        OBJECT_NAME => {
            "is not a resource name; use lower-case letters, digits, '-' and '.', as in metadata.name of the object"
        }
        DURATION => {
            "is not a duration; write hours, minutes, seconds or milliseconds, as in \"120s\" or \"1m30s\""
        }
        HEADER_NAME => "is not a header name; write printable ASCII without spaces and without the colon",
        MAILBOX => "is not a mailbox; write it as user@domain, without brackets or spaces",
        HOST | HOST_OR_EMPTY => "is not a host; write a host name or an IP address, without brackets or port",
        PATTERN => {
            "is not an address pattern; write user@example.com, user@, @example.com or @.example.com (sub-domains)"
        }
        CONDITION_REASON | CONDITION_TYPE => "is not a CamelCase word",
        NAMESPACE => "is not a namespace; use lower-case letters, digits and '-'",
        _ => return None,
    })
}

/// Whether the text has the form [`MAILBOX`].
pub fn is_mailbox(text: &str) -> bool {
    static FORM: LazyLock<Regex> = LazyLock::new(|| constant(MAILBOX));
    FORM.is_match(text)
}

/// Whether the text has the form [`HOST`].
pub fn is_host(text: &str) -> bool {
    static FORM: LazyLock<Regex> = LazyLock::new(|| constant(HOST));
    FORM.is_match(text)
}

/// Whether the text has the form [`HEADER_NAME`].
pub fn is_header_name(text: &str) -> bool {
    static FORM: LazyLock<Regex> = LazyLock::new(|| constant(HEADER_NAME));
    FORM.is_match(text)
}

fn constant(expression: &'static str) -> Regex {
    Regex::new(expression).expect("the constants of this module are valid expressions, as its tests show")
}

/// Reads a duration of the form [`DURATION`]; `None` for anything else.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > 5 {
            return None;
        }
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, millis) = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)]
            .into_iter()
            .find(|(u, _)| rest.starts_with(u))?;
        sum += Duration::from_millis(number * millis);
        rest = &rest[unit.len()..];
        if rest.is_empty() {
            return Some(sum);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        for (text, millis, why) in [
            ("120s", Some(120_000), "the usual"),
            ("1m30s", Some(90_000), "two units"),
            ("24h", Some(86_400_000), "hours"),
            ("1500ms", Some(1_500), "ms is not minutes"),
            ("1h1m1s1ms", Some(3_661_001), "all units"),
            ("", None, "empty"),
            ("120", None, "no unit"),
            ("-1s", None, "negative"),
            ("1.5h", None, "fractions are not in GEP-2257"),
            ("1d", None, "days are not a unit"),
            ("123456s", None, "more than five digits"),
            ("1s1s1s1s1s", None, "more than four parts"),
            ("1s ", None, "space"),
            ("é1s", None, "not ASCII"),
        ] {
            assert_eq!(
                parse_duration(text),
                millis.map(Duration::from_millis),
                "{text:?}: {why}"
            );
        }
    }

    #[test]
    fn address_patterns_hosts_and_mailboxes() {
        let quoted = "\"a@c\"@x.example";
        for (expression, text, matches) in [
            (PATTERN, "user@example.com", true),
            (PATTERN, "user@", true),
            (PATTERN, "@example.com", true),
            (PATTERN, "@.example.com", true),
            (PATTERN, "@bücher.example", true),
            (PATTERN, quoted, true),
            (PATTERN, "foo", false),
            (PATTERN, "@", false),
            (PATTERN, "@.", false),
            (PATTERN, "user@.example.com", false),
            (PATTERN, "user @example.com", false),
            (PATTERN, "a@b@c", false),
            (HOST, "mx.intake.example", true),
            (HOST, "mx.intake.example.", true),
            (HOST, "127.0.0.1", true),
            (HOST, "::1", true),
            (HOST, "[::1]", false),
            (HOST, "a b", false),
            (HOST, "", false),
            (HOST_OR_EMPTY, "", true),
            (MAILBOX, "b5986efe-374c@intake.example", true),
            (MAILBOX, "a@[192.0.2.1]", true),
            (MAILBOX, "a@b@c", false),
            (MAILBOX, "<a@b>", false),
            (MAILBOX, "a@b\r\nRCPT TO:<x@y>", false),
            (HEADER_NAME, "X-Spam-Flag", true),
            (HEADER_NAME, "X Spam", false),
            (HEADER_NAME, "X-Spam:", false),
        ] {
            let compiled = regex::Regex::new(expression).unwrap();
            assert_eq!(compiled.is_match(text), matches, "{text:?} against {expression}");
            assert!(explain(expression).is_some());
        }
    }

    proptest! {
        #[test]
        fn the_parser_and_the_expression_agree(text in "([0-9]{0,6}(h|m|s|ms|d)?){0,5}") {
            let compiled = regex::Regex::new(DURATION).unwrap();
            prop_assert_eq!(parse_duration(&text).is_some(), compiled.is_match(&text));
        }
    }
}
