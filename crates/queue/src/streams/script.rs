//! The Lua scripts, and calls of them.
//!
//! Every call passes the same keys and the same first arguments (see `lua/common.lua`), so that a script cannot be
//! called with a lane it does not know.

use std::sync::LazyLock;

use redis::{Cmd, ToRedisArgs};

use super::options::{RedisOptions, millis};

/// A script and its name in Redis.
pub(super) struct Script {
    /// Its text.
    pub(super) code: &'static str,
    /// Its SHA-1, as `EVALSHA` wants it.
    hash: String,
}

impl Script {
    fn new(code: &'static str) -> Self {
        Self {
            code,
            hash: redis::Script::new(code).get_hash().to_owned(),
        }
    }
}

/// Puts the flags and the shared head before a script. `allow-oom`: a full Redis must still be able to end entries.
macro_rules! script {
    ($flags:literal, $file:literal) => {
        LazyLock::new(|| {
            Script::new(concat!(
                "#!lua",
                $flags,
                "\n",
                include_str!("../../lua/common.lua"),
                include_str!(concat!("../../lua/", $file))
            ))
        })
    };
}

pub(super) static PREPARE: LazyLock<Script> = script!("", "prepare.lua");
pub(super) static COMMIT: LazyLock<Script> = script!(" flags=allow-oom", "commit.lua");
pub(super) static ABORT: LazyLock<Script> = script!(" flags=allow-oom", "abort.lua");
pub(super) static CLAIM: LazyLock<Script> = script!(" flags=allow-oom", "claim.lua");
pub(super) static HEARTBEAT: LazyLock<Script> = script!(" flags=allow-oom", "heartbeat.lua");
pub(super) static COMPLETE: LazyLock<Script> = script!(" flags=allow-oom", "complete.lua");
pub(super) static RETRY: LazyLock<Script> = script!(" flags=allow-oom", "retry.lua");
pub(super) static RELEASE: LazyLock<Script> = script!(" flags=allow-oom", "release.lua");
pub(super) static SWEEP: LazyLock<Script> = script!(" flags=allow-oom", "sweep.lua");
pub(super) static LEASE: LazyLock<Script> = script!(" flags=allow-oom", "lease.lua");
pub(super) static REPLAY: LazyLock<Script> = script!(" flags=allow-oom", "replay.lua");
pub(super) static PURGE: LazyLock<Script> = script!(" flags=allow-oom", "purge.lua");
pub(super) static CONSUMERS: LazyLock<Script> = script!(" flags=allow-oom", "consumers.lua");
pub(super) static FORGET: LazyLock<Script> = script!(" flags=allow-oom", "forget.lua");
pub(super) static STATS: LazyLock<Script> = script!(" flags=no-writes", "stats.lua");

/// All of them, to load into a Redis that has none.
pub(super) static ALL: [&LazyLock<Script>; 15] = [
    &PREPARE, &COMMIT, &ABORT, &CLAIM, &HEARTBEAT, &COMPLETE, &RETRY, &RELEASE, &SWEEP, &LEASE, &REPLAY,
    &PURGE, &CONSUMERS, &FORGET, &STATS,
];

/// The key of a part of an intake's lane. The braces make it one hash slot.
pub(super) fn key(intake: &str, part: &str) -> String {
    format!("tdc:{{{intake}}}:{part}")
}

/// The key of an entry's body.
pub(super) fn body(intake: &str, id: &str) -> String {
    format!("tdc:{{{intake}}}:body:{id}")
}

/// Starts a call; the script's own arguments follow with [`Cmd::arg`].
pub(super) fn call(script: &Script, intake: &str, options: &RedisOptions) -> Cmd {
    let mut cmd = redis::cmd("EVALSHA");
    cmd.arg(&script.hash).arg(8);
    for part in [
        "ready", "retry", "prepared", "expiry", "counters", "dead", "body:", "lease",
    ] {
        cmd.arg(key(intake, part));
    }
    cmd.arg(options.dead_letters).arg(millis(options.grace));
    cmd
}

/// A call with one more argument for each item.
pub(super) fn call_each<T: ToRedisArgs>(
    script: &Script,
    intake: &str,
    options: &RedisOptions,
    items: impl IntoIterator<Item = T>,
) -> Cmd {
    let mut cmd = call(script, intake, options);
    for item in items {
        cmd.arg(item);
    }
    cmd
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_say_what_they_do() {
        for (text, name) in [
            (include_str!("../../lua/prepare.lua"), "prepare"),
            (include_str!("../../lua/commit.lua"), "commit"),
            (include_str!("../../lua/abort.lua"), "abort"),
            (include_str!("../../lua/claim.lua"), "claim"),
            (include_str!("../../lua/heartbeat.lua"), "heartbeat"),
            (include_str!("../../lua/complete.lua"), "complete"),
            (include_str!("../../lua/retry.lua"), "retry"),
            (include_str!("../../lua/release.lua"), "release"),
            (include_str!("../../lua/sweep.lua"), "sweep"),
            (include_str!("../../lua/lease.lua"), "lease"),
            (include_str!("../../lua/replay.lua"), "replay"),
            (include_str!("../../lua/purge.lua"), "purge"),
            (include_str!("../../lua/consumers.lua"), "consumers"),
            (include_str!("../../lua/forget.lua"), "forget"),
            (include_str!("../../lua/stats.lua"), "stats"),
        ] {
            assert!(
                text.starts_with(&format!("-- {name}: ")),
                "{name}: what it is for"
            );
            for part in ["\n-- ARGV ", "\n-- Returns ", "\n-- Keeps true: "] {
                assert!(text.contains(part), "{name}: the header lacks {part:?}");
            }
        }
    }

    #[test]
    fn keys_share_a_slot() {
        assert_eq!(key("etd-eu", "ready"), "tdc:{etd-eu}:ready");
        assert_eq!(body("etd-eu", "01J"), "tdc:{etd-eu}:body:01J");
    }
}
