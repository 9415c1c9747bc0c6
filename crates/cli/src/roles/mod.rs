//! The roles: each maps its flags to a library's plain configuration, and runs it.

pub(crate) mod edge;
pub(crate) mod ingress;
pub(crate) mod operator;
pub(crate) mod policy;
pub(crate) mod standalone;
pub(crate) mod worker;
