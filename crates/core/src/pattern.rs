//! The four address patterns of a policy row, and how they compare.
//!
//! | written | takes |
//! |---|---|
//! | `user@example.com` | that address |
//! | `user@` | that local part in any domain |
//! | `@example.com` | every address of that domain, not of its sub-domains |
//! | `@.example.com` | every address of its sub-domains, not of the domain itself |
//!
//! Comparison ignores case; domains are compared in A-label form (RFC 5890). A pattern keeps only the compared form.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::address::{Mailbox, domain_key};

/// The longest pattern: a local part of 64 octets, `@`, a domain of 255 (RFC 5321 section 4.5.3.1).
pub const MAX_PATTERN: usize = 320;

/// A pattern in its compared form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// `user@example.com`; the whole address in compared form.
    Exact(Arc<str>),
    /// `user@`; the local part.
    LocalPart(Arc<str>),
    /// `@example.com`; the domain.
    Domain(Arc<str>),
    /// `@.example.com`; the parent domain, without the leading dot.
    SubDomains(Arc<str>),
}

/// The text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PatternError {
    /// Nothing, or only `@`.
    #[error("is empty; write user@example.com, user@, @example.com or @.example.com")]
    Empty,
    /// Longer than [`MAX_PATTERN`].
    #[error("is longer than {MAX_PATTERN} characters")]
    TooLong,
    /// No `@`.
    #[error("has no @; write user@example.com, user@, @example.com or @.example.com")]
    NoAt,
    /// White space, a control character or an angle bracket.
    #[error("holds white space, a control character or one of < > , ;; write the bare address")]
    BadCharacter,
    /// A `*`.
    #[error(
        "holds a *; there are no wildcards: write @example.com for a domain, @.example.com for its sub-domains, user@ for a local part"
    )]
    Wildcard,
    /// The part after `@` cannot be a domain.
    #[error("has no valid domain after the @")]
    BadDomain,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When the text has none of the four forms, or a domain that has no A-label form.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() || text == "@" {
            return Err(PatternError::Empty);
        }
        if text.len() > MAX_PATTERN {
            return Err(PatternError::TooLong);
        }
        if text
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | ',' | ';'))
        {
            return Err(PatternError::BadCharacter);
        }
        if text.contains('*') {
            return Err(PatternError::Wildcard);
        }
        if !text.contains('@') {
            return Err(PatternError::NoAt);
        }
        let mailbox = Mailbox::new(text);
        let local = mailbox.local_key();
        match (local.as_ref(), mailbox.domain()) {
            (local, "") => Ok(Self::LocalPart(local.into())),
            ("", domain) => match domain.strip_prefix('.') {
                Some(parent) => Ok(Self::SubDomains(valid_domain(parent)?)),
                None => Ok(Self::Domain(valid_domain(domain)?)),
            },
            (local, domain) => Ok(Self::Exact(format!("{local}@{}", valid_domain(domain)?).into())),
        }
    }

    /// Whether an address is one of those that the pattern takes.
    pub fn matches(&self, mailbox: &Mailbox) -> bool {
        match self {
            Self::Exact(address) => match address.rsplit_once('@') {
                Some((local, domain)) => mailbox.local_key() == local && mailbox.domain_key() == domain,
                None => false,
            },
            Self::LocalPart(local) => mailbox.local_key() == **local,
            Self::Domain(domain) => mailbox.domain_key() == **domain,
            Self::SubDomains(parent) => mailbox
                .domain_key()
                .strip_suffix(&**parent)
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        }
    }
}

fn valid_domain(domain: &str) -> Result<Arc<str>, PatternError> {
    let key = domain_key(domain);
    let literal = key.starts_with('[') && key.ends_with(']');
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if key.len() > 255 || !(literal || key.split('.').all(label)) {
        return Err(PatternError::BadDomain);
    }
    Ok(key.into())
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(address) => f.write_str(address),
            Self::LocalPart(local) => write!(f, "{local}@"),
            Self::Domain(domain) => write!(f, "@{domain}"),
            Self::SubDomains(parent) => write!(f, "@.{parent}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Pattern, PatternError};
    use crate::Mailbox;

    #[test]
    fn takes_the_right_addresses() {
        let cases = [
            ("user@example.com", "user@example.com", true, "itself"),
            (
                "User@Example.COM",
                "uSER@eXAMPLE.com",
                true,
                "case does not count",
            ),
            (
                "user@example.com",
                "other@example.com",
                false,
                "another local part",
            ),
            (
                "user@example.com",
                "user@sub.example.com",
                false,
                "a sub-domain is another domain",
            ),
            ("user@", "user@any.example", true, "any domain"),
            ("user@", "user", true, "no domain at all"),
            ("user@", "superuser@any.example", false, "the whole local part"),
            ("@example.com", "a@example.com", true, "the domain"),
            (
                "@example.com",
                "a@example.com.",
                true,
                "a trailing dot names the same domain",
            ),
            ("@example.com", "a@sub.example.com", false, "not its sub-domains"),
            ("@.example.com", "a@sub.example.com", true, "a sub-domain"),
            ("@.example.com", "a@deep.sub.example.com", true, "at any depth"),
            ("@.example.com", "a@example.com", false, "not the domain itself"),
            ("@.example.com", "a@notexample.com", false, "whole labels only"),
            (
                "@bücher.example",
                "a@xn--bcher-kva.example",
                true,
                "U-label and A-label are one",
            ),
            (
                "@xn--bcher-kva.example",
                "a@BÜCHER.example",
                true,
                "the other way round",
            ),
            (
                "\"a@b\"@example.com",
                "\"a@b\"@example.com",
                true,
                "a quoted local part may hold an @",
            ),
            ("@[192.0.2.1]", "a@[192.0.2.1]", true, "an address literal"),
        ];
        for (pattern, address, expected, why) in cases {
            let pattern = Pattern::parse(pattern).unwrap();
            assert_eq!(
                pattern.matches(&Mailbox::new(address)),
                expected,
                "{pattern} {address}: {why}"
            );
            assert_eq!(
                Pattern::parse(&pattern.to_string()),
                Ok(pattern),
                "what is shown can be read again"
            );
        }
    }

    #[test]
    fn refuses_what_is_no_pattern() {
        let cases = [
            ("", PatternError::Empty),
            ("@", PatternError::Empty),
            ("example.com", PatternError::NoAt),
            ("a b@example.com", PatternError::BadCharacter),
            ("<a@example.com>", PatternError::BadCharacter),
            ("a@exa mple.com", PatternError::BadCharacter),
            ("@..example.com", PatternError::BadDomain),
            ("@example..com", PatternError::BadDomain),
            ("@*.example.com", PatternError::Wildcard),
            ("*@example.com", PatternError::Wildcard),
            ("a@-_.example/", PatternError::BadDomain),
        ];
        for (text, error) in cases {
            assert_eq!(Pattern::parse(text), Err(error), "{text}");
        }
        assert_eq!(
            Pattern::parse(&format!("{}@x", "a".repeat(400))),
            Err(PatternError::TooLong)
        );
    }
}
