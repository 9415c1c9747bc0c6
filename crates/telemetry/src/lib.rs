//! What an operator sees of a process, and how a process is told to stop.
//!
//! What always holds here: telemetry never slows mail and never stops it. Every way out of the process is bounded and
//! drops what does not fit: lines of the log when nobody reads standard output, spans when the collector is away or
//! slow. What was dropped is counted ([`Guard::observe`]) and, for lines, said in the log itself. No address and no
//! subject leaves through metrics or spans; only the mail log, whose purpose it is, carries addresses.
//!
//! | module | holds |
//! |---|---|
//! | `init` | [`init`], [`Guard`]: the log and the traces of one process |
//! | `output` | standard output, written by a thread of its own |
//! | `format` | the three forms of a log line |
//! | `otlp` | the span exporter, its environment variables and its counts |
//! | `propagation` | W3C trace context in and out of a process |
//! | `mail_log` | [`MailLog`]: the writer of mail-log events |
//! | `metrics` | [`Metrics`], [`Scope`]: the registry and its names |
//! | `process` | memory, processor time and descriptors of this process |
//! | `health` | [`serve`]: `/livez`, `/readyz`, `/metrics` |
//! | `shutdown` | [`Shutdown`], [`Trigger`], [`signals`] |

mod format;
mod health;
mod init;
mod mail_log;
mod metrics;
mod otlp;
mod output;
mod process;
mod propagation;
mod shutdown;

pub use format::{LogFormat, UnknownLogFormat};
pub use health::{Check, HealthState, serve};
pub use init::{Config, Guard, InitError, init};
pub use mail_log::MailLog;
pub use metrics::{Buckets, Counters, Gauges, Histograms, Labels, Metrics, SECONDS, Scope};
pub use otlp::OtlpError;
pub use output::{Output, OutputStats};
pub use prometheus_client;
pub use propagation::{current_traceparent, extract, inject, set_parent};
pub use shutdown::{Shutdown, Trigger, signals};
