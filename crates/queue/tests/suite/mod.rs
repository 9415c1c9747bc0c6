//! The scenarios. Each starts the queue it is told to, with the limits it needs.

pub(crate) mod arrival;
pub(crate) mod claims;
pub(crate) mod dead;
pub(crate) mod ends;
pub(crate) mod leases;
