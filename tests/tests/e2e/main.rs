//! The whole product as its users run it: separate processes, a real Redis, real SMTP clients.

mod mail;
mod outage;
mod policies;
mod stage;
mod tracing;
