//! The delivery worker: brings the copies from the queue to the intakes, over SMTP and TLS.
//!
//! # Why this crate exists
//! A copy is wanted at the intake within two minutes or not at all, by a server that may refuse, stall, lie about its
//! certificate or vanish at any byte. This crate is the only one that knows how to bring it there; what an outcome
//! means is decided in `tdc-core`, where an entry waits in `tdc-queue`, how bytes look in `tdc-smtp`.
//!
//! # What always holds
//! * Every attempt ends in exactly one [`tdc_core::outcome::Outcome`], of a known stage, and every entry that was
//!   claimed is ended, put back for a retry, or given back. When this process dies, its claims lapse.
//! * Nothing waits without a limit, and no limit reaches beyond the entry's lifetime.
//! * With `tls.mode: Verify` no octet of a message leaves before the certificate is verified.
//! * After the final dot was sent, no answer means *possible delivery*, never a plain failure.
//! * Connections are as many as the backlog needs and the intake bears, for all workers together: none is opened that
//!   the queue did not grant. Idle ones are closed within seconds.
//! * What is idle costs nothing: one call in a second asks for all intakes together.
//!
//! # When something fails
//! An intake that is down is asked again at a slowing pace, its entries wait. A queue that does not answer stops
//! deliveries until it does. A snapshot that does not come leaves the last one in force.
//!
//! | room | holds |
//! |---|---|
//! | `worker` | [`run`]: lanes, heartbeat, housekeeping, shutdown |
//! | `lane`, `lease`, `slots` | one intake: how many connections now |
//! | `connection`, `stock`, `rings` | one task: claim, deliver, settle, again; and when a claim is worth a call |
//! | `dialer`, `resolve`, `tls`, `link` | from a name to a secured session |
//! | `copy`, `transaction` | the journal format, and one message over a link |
//! | `conclude`, `settle`, `claims` | what follows for the entry |
//! | [`Prober`] | whether an intake can be reached, without a message |
//! | `account`, `metrics` | mail log, metrics, spans |

mod account;
mod claims;
mod conclude;
mod config;
mod connection;
mod copy;
mod dialer;
mod lane;
mod lease;
mod link;
mod metrics;
mod probe;
mod resolve;
mod rings;
mod settle;
mod slots;
mod stock;
mod tls;
mod transaction;
mod worker;

pub use config::{Timeouts, WorkerConfig};
pub use metrics::WorkerMetrics;
pub use probe::Prober;
pub use worker::{Deps, run};
