//! The gRPC contract between the roles, and the two pieces of client code that ingress and worker share.
//!
//! [`v1`] is generated from `proto/tdc/policy/v1/policy.proto`. [`convert`] translates between it and the vocabulary
//! of `tdc-core`: nothing outside this crate handles generated types for longer than a call. [`channel`] balances
//! over all replicas of the policy service; [`tls`] is how both sides prove who they are; [`watch`] keeps the last good
//! snapshot through every outage.

pub mod channel;
pub mod convert;
pub mod tls;
pub mod watch;

/// The generated code.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("tdc.policy.v1");

    /// The compiled descriptors, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));
}

/// The largest gRPC message, in bytes. tonic's own limit of 4 MiB would cut off a table of a few thousand policies;
/// 10,000 policies with 100 patterns each take about 25 MB.
pub const MAX_MESSAGE: usize = 128 * 1024 * 1024;

/// The largest number of envelopes in one `Evaluate` call.
pub const MAX_BATCH: usize = 1000;
