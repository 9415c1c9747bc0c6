//! The leases as Redis holds them: the call of the script, and the hash read back.

use std::collections::HashMap;
use std::time::Duration;

use redis::Cmd;

use super::options::{RedisOptions, millis};
use super::script;
use crate::entry::bounded;
use crate::lease::{DRAIN, FIRST_GUESS, LEASE_FOR, micros};
use crate::{LeaseRequest, LeaseStatus};

/// The call of `lease.lua`.
pub(super) fn request(intake: &str, consumer: &str, request: &LeaseRequest, options: &RedisOptions) -> Cmd {
    let LeaseRequest {
        min,
        max,
        open,
        wanted,
        delivered,
        refused,
        service,
        reachable,
        last_error,
    } = request;
    let mut cmd = script::call(&script::LEASE, intake, options);
    cmd.arg(consumer).arg(min).arg(max).arg(open).arg(wanted);
    cmd.arg(delivered).arg(refused);
    match service {
        Some(time) => cmd.arg(micros(*time)),
        None => cmd.arg(""),
    };
    cmd.arg(match reachable {
        Some(true) => "1",
        Some(false) => "0",
        None => "",
    });
    cmd.arg(bounded(last_error.as_deref().unwrap_or_default()));
    cmd.arg(millis(LEASE_FOR))
        .arg(micros(DRAIN))
        .arg(micros(FIRST_GUESS));
    cmd
}

/// Reads the hash at the time (seconds, microseconds) that Redis gave with it.
pub(super) fn status(time: (u64, u64), fields: &HashMap<String, String>) -> LeaseStatus {
    let now = time.0 * 1000 + time.1 / 1000;
    let mut status = LeaseStatus {
        service: FIRST_GUESS,
        ..LeaseStatus::default()
    };
    let mut error_at = 0;
    for (name, value) in fields {
        match name.as_str() {
            "window" => status.window = value.parse().ok(),
            "service" => {
                // Never negative: it is a mean of times.
                status.service = value
                    .parse::<f64>()
                    .map_or(FIRST_GUESS, |us| Duration::from_micros(us as u64));
            }
            "down" => status.down_since_ms = value.parse().ok(),
            "active" => status.last_activity_ms = value.parse().ok(),
            "error" => status.last_error = Some((value.clone(), 0)),
            "error_at" => error_at = value.parse().unwrap_or(0),
            _ => {
                let mut numbers = value.split(' ').map(|n| n.parse::<u64>().unwrap_or(0));
                let (count, until) = (numbers.next().unwrap_or(0), numbers.nth(2).unwrap_or(0));
                if until > now && count > 0 {
                    status.total = status
                        .total
                        .saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
                    status.holders += 1;
                }
            }
        }
    }
    if let Some((_, at)) = &mut status.last_error {
        *at = error_at;
    }
    status
}
