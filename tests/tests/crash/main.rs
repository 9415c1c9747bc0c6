//! Real workers that die: at every step of a delivery, and in the middle of many. What they had in hand is delivered
//! by others, and nothing is delivered twice but what an intake had, or may have had.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends with a panic, and says what it counted"
)]

mod cluster;
mod deaths;
mod intake;
mod rig;
