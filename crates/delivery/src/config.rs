//! What a worker must be told, as plain data: the command line maps its flags to it, tests fill it by hand.
//!
//! The limits here are those of one process. What holds for one intake (connections, retries, TLS) stands in the
//! policy snapshot and may change while the worker runs.

use std::net::SocketAddr;
use std::time::Duration;

/// How one worker process runs.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Names this process at the queue. Two workers with one name would answer for each other's entries.
    pub consumer: String,
    /// The name in `EHLO`, and the domain of a copy's own `From` and `Message-ID`.
    pub helo: String,
    /// A name server to ask instead of those of `/etc/resolv.conf`.
    pub resolver: Option<SocketAddr>,
    /// The port of hosts found by MX look-up; 25, but for tests.
    pub mx_port: u16,
    /// Limits for the steps of one attempt.
    pub timeouts: Timeouts,
    /// A connection without work ends after this long.
    pub idle: Duration,
    /// The shortest and the longest wait before an attempt is repeated; the wait is chosen between them at random.
    pub retry_delay: (Duration, Duration),
    /// From the begin of the shutdown on, how long running transactions may take.
    pub grace: Duration,
    /// With bodies of so many octets in hand no further entry is taken; a single larger one is.
    pub memory: u64,
    /// Beyond an entry's lifetime, what its delivery and the note of its end may take before both are given up as
    /// stuck: more than the longest limits of the steps that follow the lifetime.
    pub stuck_after: Duration,
}

impl WorkerConfig {
    /// The defaults for a worker of that name on a host of that name.
    pub fn new(consumer: impl Into<String>, helo: impl Into<String>) -> Self {
        Self {
            consumer: consumer.into(),
            helo: helo.into(),
            resolver: None,
            mx_port: 25,
            timeouts: Timeouts::default(),
            idle: Duration::from_secs(2),
            retry_delay: (Duration::from_secs(1), Duration::from_secs(3)),
            grace: Duration::from_secs(25),
            memory: 256 * 1024 * 1024,
            stuck_after: Duration::from_secs(60),
        }
    }
}

/// How long each step may take. All of them end with the entry's lifetime at the latest.
///
/// RFC 5321 section 4.5.3.2 wants minutes for each; within a lifetime of 120 s that would leave a second attempt no
/// time. These leave it some, whatever single step hangs.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// One look-up, with its repetitions.
    pub resolve: Duration,
    /// Opening one TCP connection.
    pub connect: Duration,
    /// The greeting.
    pub greeting: Duration,
    /// The TLS handshake.
    pub handshake: Duration,
    /// The reply to a command, and to `DATA`.
    pub command: Duration,
    /// Writing one piece of the message.
    pub write: Duration,
    /// The reply to the final dot: the longest, because giving up here may mean a duplicate (RFC 1047).
    pub final_dot: Duration,
    /// The reply to `QUIT`, which nobody needs, and to `RSET`, without which the connection is not used again.
    pub quit: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            resolve: seconds(10),
            connect: seconds(10),
            greeting: seconds(30),
            handshake: seconds(20),
            command: seconds(30),
            write: seconds(30),
            final_dot: seconds(60),
            quit: seconds(2),
        }
    }
}
