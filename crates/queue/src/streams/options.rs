//! What can be set on the Redis queue.

use std::time::Duration;

use crate::{ABANDONED_AFTER, DEAD_FOR};

/// Settings of a [`crate::RedisQueue`]. All processes that share a queue should use the same.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// A claim without a heartbeat for this long passes to another consumer.
    pub takeover: Duration,
    /// How often, at most, claims and sweeps of an intake look for abandoned entries (each look reads all claims).
    pub scan_every: Duration,
    /// How long a body may outlive its entry's lifetime when nobody is left to end it.
    pub grace: Duration,
    /// How long an unfinished body stays after its last chunk.
    pub write_ttl: Duration,
    /// About how many dead letters stay for each intake.
    pub dead_letters: u64,
    /// How long a dead letter stays whose body is not retained.
    pub dead_for: Duration,
    /// Bytes of bodies that one claim returns at most; a single larger body is still returned.
    pub claim_bytes: u64,
    /// A consumer that holds nothing and was not seen for this long is forgotten: pods' names never come again.
    pub consumer_idle: Duration,
    /// The longest wait for the answer to a step, reconnecting included.
    pub command_timeout: Duration,
    /// The same for a step that moves bodies.
    pub body_timeout: Duration,
    /// PEM certificates to trust for `rediss://`, instead of the system's.
    pub ca_bundle: Option<Vec<u8>>,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            takeover: ABANDONED_AFTER,
            scan_every: Duration::from_secs(1),
            grace: Duration::from_secs(60),
            write_ttl: Duration::from_secs(15 * 60),
            dead_letters: 10_000,
            dead_for: DEAD_FOR,
            claim_bytes: 4 * 1024 * 1024,
            consumer_idle: Duration::from_secs(3600),
            command_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(30),
            ca_bundle: None,
        }
    }
}

/// A duration as whole milliseconds, as Redis takes them.
pub(super) fn millis(duration: Duration) -> u64 {
    // 35,000 years: sums of several stay exact in Lua's doubles.
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .min(1 << 50)
}
