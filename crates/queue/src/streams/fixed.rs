//! What never changes of an entry, in one field: the scripts look at parts of it, and each field of its own costs Redis
//! more than all of these together.
//!
//! What always holds: the order is that of `lua/common.lua`, numbers stand alone between single spaces, and the last part
//! may be empty or hold spaces.

use std::fmt;

use crate::QueueError;

/// The field `e` of a body, and of its entry in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fixed {
    /// Of the body.
    pub(super) chunks: u32,
    /// Bytes of the body.
    pub(super) size: u64,
    /// Milliseconds.
    pub(super) lifetime: u64,
    /// Milliseconds that the body is kept after an end without delivery.
    pub(super) retention: u64,
    /// The message's number in the mail log.
    pub(super) mid: u64,
    /// How many there are.
    pub(super) recipients: u32,
    /// May be empty.
    pub(super) traceparent: String,
}

impl fmt::Display for Fixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            chunks,
            size,
            lifetime,
            retention,
            mid,
            recipients,
            traceparent,
        } = self;
        write!(
            f,
            "{chunks} {size} {lifetime} {retention} {mid} {recipients} {traceparent}"
        )
    }
}

impl Fixed {
    /// # Errors
    /// [`QueueError::Corrupt`] for what [`fmt::Display`] would not have written.
    pub(super) fn parse(text: &str) -> Result<Self, QueueError> {
        let corrupt = || QueueError::Corrupt(format!("what an entry has is {text:?}"));
        let mut parts = text.splitn(7, ' ');
        let mut number = || parts.next()?.parse::<u64>().ok();
        let small = |number: u64| u32::try_from(number).ok();
        let mut read = || {
            Some(Self {
                chunks: number().and_then(small)?,
                size: number()?,
                lifetime: number()?,
                retention: number()?,
                mid: number()?,
                recipients: number().and_then(small)?,
                traceparent: String::new(),
            })
        };
        let fixed = read().ok_or_else(corrupt)?;
        let traceparent = parts.next().ok_or_else(corrupt)?.to_owned();
        Ok(Self { traceparent, ..fixed })
    }
}

#[cfg(test)]
mod tests {
    use super::Fixed;

    #[test]
    fn is_read_as_it_was_written() {
        for traceparent in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "a b",
        ] {
            let fixed = Fixed {
                chunks: 1,
                size: u64::MAX,
                lifetime: 120_000,
                retention: 0,
                mid: 7,
                recipients: 1000,
                traceparent: traceparent.to_owned(),
            };
            assert_eq!(Fixed::parse(&fixed.to_string()).unwrap(), fixed);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "1",
            "1 2 3 4 5 6",
            "1 2 3 4 5  ",
            "x 2 3 4 5 6 ",
            "1 2 3 4 5 -6 ",
            "4294967296 2 3 4 5 6 ",
        ] {
            assert!(Fixed::parse(text).is_err(), "{text:?}");
        }
    }
}
