//! What the evaluator looks at.

use crate::address::{Mailbox, ReversePath};

/// The accepted envelope of one message: who sent it, and every recipient that the next hop took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// `MAIL FROM`.
    pub sender: ReversePath,
    /// Accepted `RCPT TO`, in the order in which they were accepted; a [`crate::evaluator::Decision`] names
    /// recipients by their place in this list.
    pub recipients: Vec<Mailbox>,
}
