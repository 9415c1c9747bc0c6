//! The vocabulary of Threat Defense Connector, and every decision that needs no I/O.
//!
//! What always holds here: no clock, no socket, no runtime, no global state. A function of this crate gives the same
//! answer for the same arguments in ingress, in the policy service, in a worker and in `tdc policy test`; that is
//! what makes a decision explainable after the fact. Time, where it matters, is an argument.
//!
//! | module | holds |
//! |---|---|
//! | [`address`] | mailboxes and the reverse-path of an SMTP envelope |
//! | [`envelope`] | what the evaluator looks at |
//! | [`policy`] | the policy table as plain data: what a snapshot carries |
//! | [`pattern`] | the four address patterns and how they compare |
//! | [`evaluator`] | the compiled table, and the decision for one envelope |
//! | [`headers`] | the one pass over a message's header section |
//! | [`journal`] | the formats in which a copy travels |
//! | [`outcome`] | how an attempt may end, and what follows from it |
//! | [`maillog`] | mail-log events and their two renderings |

pub mod address;
pub mod envelope;
pub mod evaluator;
pub mod headers;
pub mod journal;
pub mod maillog;
pub mod outcome;
pub mod pattern;
pub mod policy;

pub use address::{Mailbox, ReversePath};
pub use envelope::Envelope;
