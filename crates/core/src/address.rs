//! Mailboxes as they stand in an SMTP envelope.
//!
//! The next hop decides whether an address is acceptable, not we: a [`Mailbox`] takes any text, keeps it as it was
//! spelt, and only knows where its domain begins. Comparison is on the [`Mailbox::local_key`] and
//! [`Mailbox::domain_key`] forms.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// The `<…>` content of a `MAIL FROM` or `RCPT TO` command, without the brackets (RFC 5321 section 4.1.2).
///
/// The domain starts after the last `@`, so that a quoted local part may hold one. `postmaster` without a domain is
/// legal (RFC 5321 section 4.5.1) and has an empty domain.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Mailbox {
    text: Arc<str>,
    /// Where the local part ends; equal to the length of `text` when there is no domain.
    local_end: u32,
}

impl Mailbox {
    /// Takes the text as it stands; never fails, because the next hop has the last word on what is an address.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        let text: Arc<str> = text.into();
        let local_end = text.rfind('@').unwrap_or(text.len());
        Self {
            local_end: u32::try_from(local_end).unwrap_or(u32::MAX),
            text,
        }
    }

    /// The address as the client spelt it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part before the last `@`, as spelt.
    pub fn local_part(&self) -> &str {
        &self.text[..self.local_end as usize]
    }

    /// The part after the last `@`, as spelt; empty when there is none.
    pub fn domain(&self) -> &str {
        self.text.get(self.local_end as usize + 1..).unwrap_or("")
    }

    /// The local part in the form that patterns compare: lower case.
    ///
    /// RFC 5321 lets a host treat local parts as case-sensitive; the gateway's policies do not, and neither do ours.
    pub fn local_key(&self) -> Cow<'_, str> {
        lower(self.local_part())
    }

    /// The domain in the form that patterns compare: A-label (RFC 5890), lower case, without a trailing dot.
    /// A domain that has no A-label form is compared as lower-case text.
    pub fn domain_key(&self) -> Cow<'_, str> {
        domain_key(self.domain())
    }
}

/// A domain in the form that patterns compare; see [`Mailbox::domain_key`].
pub fn domain_key(domain: &str) -> Cow<'_, str> {
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    if domain.is_ascii() {
        return lower(domain);
    }
    match idna::domain_to_ascii(domain) {
        // The ideographic full stop has become a dot only now.
        Ok(ascii) => Cow::Owned(ascii.strip_suffix('.').map(str::to_owned).unwrap_or(ascii)),
        Err(_) => Cow::Owned(domain.to_lowercase()),
    }
}

fn lower(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|b| b.is_ascii_uppercase() || !b.is_ascii()) {
        Cow::Owned(text.to_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.text)
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The reverse-path of a message: who gets its bounces (RFC 5321 section 4.1.1.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// `<>`: a bounce or another notification that must not cause a bounce itself.
    Null,
    /// An ordinary sender.
    Mailbox(Mailbox),
}

impl ReversePath {
    /// Reads the content of the brackets: empty is the null sender.
    pub fn new(text: &str) -> Self {
        if text.is_empty() {
            Self::Null
        } else {
            Self::Mailbox(Mailbox::new(text))
        }
    }

    /// The text between the brackets; empty for the null sender.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Null => "",
            Self::Mailbox(mailbox) => mailbox.as_str(),
        }
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
