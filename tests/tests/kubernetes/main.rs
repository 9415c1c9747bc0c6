//! The resources, the policy service and the operator on a real API server.
//!
//! Needs etcd, kube-apiserver and kubectl: KUBEBUILDER_ASSETS names their folder. Without them every test says loudly
//! that it was skipped; with TDC_REQUIRE_APISERVER set it fails instead.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test ends with a panic, shows the logs of its processes, and has no runtime to block"
)]

mod away;
mod everywhere;
mod mail;
mod namespace;
mod operator;
mod policy;
mod proxy;
mod replicas;
mod roles;
mod scale;
mod schema;
mod server;
