//! The scenarios. Each starts the queue it is told to, with the limits it needs.

pub mod arrival;
pub mod claims;
pub mod ends;
